/* Groups of options that several commands share. */
#include "cli.h"

#define DATA(field) offsetof(nb_data_options, field)
const opt cli_split_options[] = {
    {"split", 0, "train|val|test", "default: test, else what there is", OPT_CHOICE, DATA(split), 0, 0},
};
const size_t cli_n_split_options = sizeof cli_split_options / sizeof cli_split_options[0];

const opt cli_data_options[] = {
    {"data", 'd', "PATH",
     "CIFAR binary or IDX folder, .npz, image folder, .csv list, or builtin:glyphs", OPT_TEXT,
     DATA(path), 0, 0},
    {"metric", 0, "top1|top5|loss|kl|mse|cosine|auc",
     "default: top1; without labels, against the float outputs, kl of classes, else mse", OPT_CHOICE,
     DATA(metric), 0, 0},
    {"limit", 0, "N", "at most so many images of a split", OPT_COUNT, DATA(limit), 1, 1e15},
    {"val", 0, "N", "validation images held out of the training split", OPT_COUNT, DATA(val), 1,
     1e15},
    {"val-seed", 0, "N", "which ones, or whatever else is divided (default: --seed)", OPT_INT,
     DATA(val_seed), 0, 1 << 30},
    {"scale", 0, "S", "bytes are multiplied by it first (default 1/255)", OPT_TEXT, DATA(scale), 0,
     0},
    {"mean", 0, "R,G,B", "then subtracted (default 0)", OPT_TEXT, DATA(mean), 0, 0},
    {"std", 0, "R,G,B", "then divided by (default 1)", OPT_TEXT, DATA(std), 0, 0},
    {"resize", 0, "N", "shorter side of picture files, in pixels", OPT_INT, DATA(resize), 1, 65536},
    {"crop", 0, "N", "then the centre, N by N pixels", OPT_INT, DATA(crop), 1, 65536},
};
const size_t cli_n_data_options = sizeof cli_data_options / sizeof cli_data_options[0];

#define CHOICE(field) offsetof(nb_quantize_options, field)
const opt cli_choice_options[] = {
    {"schemes", 0, "NAME,...", "schemes that may be chosen, or all (default uniform; see 'nibble list schemes')",
     OPT_TEXT, CHOICE(schemes), 0, 0},
    {"weight-bits", 0, "N,...", "widths offered to weights (default 2,3,4,5,6,8); pot3 names a scheme, too", OPT_TEXT,
     CHOICE(weight_bits), 0, 0},
    {"activation-bits", 0, "N,...", "widths offered to activations (default 8), likewise", OPT_TEXT,
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

#define DESCENT(field) offsetof(nb_descent_options, field)
const opt cli_descent_options[] = {
    {"optimizer", 0, "sgd|adam|adamw", "default: sgd, momentum 0.9", OPT_CHOICE, DESCENT(optimizer),
     0, 0},
    {"schedule", 0, "cosine|step|constant", "default: cosine; step: /10 at 1/2 and 3/4 of the way",
     OPT_CHOICE, DESCENT(schedule), 0, 0},
    {"warmup", 0, "EPOCHS", "in which the rate rises to --lr (default 0)", OPT_REAL,
     DESCENT(warmup), 0, 1e6},
    {"weight-decay", 0, "D", "of kernels (default 1e-4, from random weights 5e-4; adam: 0, adamw: "
     "0.01)", OPT_REAL, DESCENT(weight_decay), 0, 1},
    {"clip", 0, "NORM", "largest norm of the gradient (default: none)", OPT_REAL, DESCENT(clip),
     1e-9, 1e9},
    {"ema", 0, "DECAY", "judge and keep a moving average of the weights, e.g. 0.999", OPT_REAL,
     DESCENT(ema), 0.01, 0.999999},
    {"dampen", 0, "L", "pulls weights to their levels, against oscillation, e.g. 0.001 (default 0)",
     OPT_REAL, DESCENT(dampen), 0, 1e6},
    {"augment", 0, "LIST", "of crop, flip, cutout[=SIDE], mixup[=A], cutmix[=A]; or none",
     OPT_TEXT, DESCENT(augment), 0, 0},
};
const size_t cli_n_descent_options = sizeof cli_descent_options / sizeof cli_descent_options[0];
