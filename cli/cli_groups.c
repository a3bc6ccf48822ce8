/* Groups of options that several commands share. */
#include "cli.h"

#define DATA(field) offsetof(nb_data_options, field)
const opt cli_data_options[] = {
    {"data", 'd', "PATH",
     "CIFAR binary or IDX folder, .npz, image folder, .csv list, or builtin:glyphs", OPT_TEXT,
     DATA(path), 0, 0},
    {"metric", 0, "top1|top5|loss|kl|mse|cosine|auc",
     "default: top1; without labels kl, the divergence from the float outputs", OPT_CHOICE,
     DATA(metric), 0, 0},
    {"split", 0, "train|val|test", "the part of the data to use", OPT_CHOICE, DATA(split), 0, 0},
    {"limit", 0, "N", "at most so many images of a split", OPT_COUNT, DATA(limit), 1, 1e15},
    {"val", 0, "N", "validation images held out of the training split", OPT_COUNT, DATA(val), 1,
     1e15},
    {"scale", 0, "S", "bytes are multiplied by it first (default 1/255)", OPT_TEXT, DATA(scale), 0,
     0},
    {"mean", 0, "R,G,B", "then subtracted (default 0)", OPT_TEXT, DATA(mean), 0, 0},
    {"std", 0, "R,G,B", "then divided by (default 1)", OPT_TEXT, DATA(std), 0, 0},
    {"resize", 0, "N", "shorter side of the images, in pixels", OPT_INT, DATA(resize), 1, 65536},
    {"crop", 0, "N", "then the centre, N by N pixels", OPT_INT, DATA(crop), 1, 65536},
};
const size_t cli_n_data_options = sizeof cli_data_options / sizeof cli_data_options[0];

#define CHOICE(field) offsetof(nb_quantize_options, field)
const opt cli_choice_options[] = {
    {"schemes", 0, "NAME,...", "quantization schemes (default uniform; see 'nibble list schemes')",
     OPT_TEXT, CHOICE(schemes), 0, 0},
    {"weight-bits", 0, "N,...", "widths offered to weights (default 2,3,4,5,6,8)", OPT_TEXT,
     CHOICE(weight_bits), 0, 0},
    {"activation-bits", 0, "N,...", "widths offered to activations (default 8)", OPT_TEXT,
     CHOICE(activation_bits), 0, 0},
    {"bias-bits", 0, "N,...", "widths offered to biases, of 8, 16 and 32 (default 32)", OPT_TEXT,
     CHOICE(bias_bits), 0, 0},
    {"residual-bits", 0, "N", "width of residual streams (default 8)", OPT_INT,
     CHOICE(residual_bits), 2, 8},
    {"granularity", 0, "tensor|channel", "scales of weights: one, or one per channel (default)",
     OPT_CHOICE, CHOICE(granularity), 0, 0},
    {"first-last", 0, "8|searched", "widths of the first and the last layer (default 8)", OPT_TEXT,
     CHOICE(first_last), 0, 0},
    {"range", 0, "mse|minmax|percentile|kl", "how clipping ranges are chosen", OPT_CHOICE,
     CHOICE(range), 0, 0},
};
const size_t cli_n_choice_options = sizeof cli_choice_options / sizeof cli_choice_options[0];
