/* Differentiable quantization (Uhlich et al. 2020; docs/searches.md): every tensor learns
 * its step and its range, from which its width follows; quant/relax_ranges.c. */
#include "search/learned.h"

enum { EPOCHS, PENALTY, WIDTH_RATE, RATE };
static const nbi_option options[] = {
    [EPOCHS] = {"epochs", NBI_OPT_INT, 10, 0, 1000, NULL, "of learning"},
    [PENALTY] = {"lambda", NBI_OPT_REAL, 10, 1e-6, 1e6, NULL,
                 "weight of max(0, cost - target)^2, in average bits, in the loss"},
    [WIDTH_RATE] = {"width_rate", NBI_OPT_REAL, 0.02, 1e-6, 10, NULL,
                    "learning rate of the logarithms of steps and ranges"},
    [RATE] = {"rate", NBI_OPT_REAL, 0.01, 1e-9, 10, NULL, "learning rate of the weights"},
};

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    const double *opt = r->options;
    return nbi_search_learned(ctx, r,
                              &(nbi_learning){.method = "dq",
                                              .by = NBI_LEARN_RANGES,
                                              .width_epochs = (int)opt[EPOCHS],
                                              .penalty = opt[PENALTY],
                                              .width_rate = opt[WIDTH_RATE],
                                              .rate = opt[RATE]});
}

const nbi_search nbi_search_dq = {
    .name = "dq",
    .help = "step and range of every tensor learned by gradient; widths follow from them",
    .options = options,
    .n_options = NBI_COUNT(options),
    .learns = true,
    .run = run,
};
