/* FracBits (Yang and Jin 2021; docs/searches.md): real-valued widths that mix the two
 * offered ones around them, learned together with the weights under |cost − target|;
 * quant/relax_fractions.c. */
#include "search/learned.h"

enum { EPOCHS, PENALTY, WIDTH_RATE, RATE };
static const nbi_option options[] = {
    [EPOCHS] = {"epochs", NBI_OPT_INT, 10, 0, 1000, NULL,
                "four fifths learn widths, the rest trains with rounded ones"},
    [PENALTY] = {"kappa", NBI_OPT_REAL, 1, 1e-6, 1e6, NULL,
                 "weight of |cost - target|, in average bits, in the loss"},
    [WIDTH_RATE] = {"width_rate", NBI_OPT_REAL, 0.02, 1e-6, 10, NULL,
                    "learning rate of the widths"},
    [RATE] = {"rate", NBI_OPT_REAL, 0.01, 1e-9, 10, NULL, "learning rate of the weights"},
};

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    const double *opt = r->options;
    return nbi_search_learned(ctx, r,
                              &(nbi_learning){.method = "fracbits",
                                              .by = NBI_LEARN_FRACTIONS,
                                              .width_epochs = (int)opt[EPOCHS],
                                              .penalty = opt[PENALTY],
                                              .width_rate = opt[WIDTH_RATE],
                                              .rate = opt[RATE]});
}

const nbi_search nbi_search_fracbits = {
    .name = "fracbits",
    .help = "widths between two offered ones mix both, learned by gradient on the network itself",
    .options = options,
    .n_options = NBI_COUNT(options),
    .learns = true,
    .run = run,
};
