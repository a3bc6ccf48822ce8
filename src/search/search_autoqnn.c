/* AutoQNN (docs/searches.md): schemes by differentiable search, then widths by gradient, both on
 * the network itself; what was learned is decoded, brought within the limits by the tensors' own
 * squared errors, and scored on the integer program like every other policy. */
#include "search/learned.h"

enum { SCHEMES, WIDTHS, MODEL, SCHEME_RATE, WIDTH_RATE, RATE };
static const nbi_option options[] = {
    [SCHEMES] = {"scheme_epochs", NBI_OPT_INT, 10, 0, 1000, NULL,
                 "epochs that choose schemes; 0: the first one offered"},
    [WIDTHS] = {"width_epochs", NBI_OPT_INT, 10, 0, 1000, NULL,
                "epochs that learn widths; 0: the widest that fit"},
    [MODEL] = {"scope", NBI_OPT_CHOICE, 0, 0, 1, "layer|model",
               "a scheme for every tensor, or one for all weights and one for all activations"},
    [SCHEME_RATE] = {"scheme_rate", NBI_OPT_REAL, 0.02, 0, 10, NULL,
                     "learning rate of the schemes' logits"},
    [WIDTH_RATE] = {"width_rate", NBI_OPT_REAL, 0.05, 0, 10, NULL,
                    "learning rate of widths, on gradients scaled to 1"},
    [RATE] = {"rate", NBI_OPT_REAL, 0.01, 0, 10, NULL, "learning rate of the weights"},
};

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    const double *opt = r->options;
    return nbi_search_learned(ctx, r,
                              &(nbi_learning){.method = "autoqnn",
                                              .by = NBI_LEARN_WIDTHS,
                                              .scheme_epochs = (int)opt[SCHEMES],
                                              .width_epochs = (int)opt[WIDTHS],
                                              .model_wise = opt[MODEL] != 0,
                                              .scheme_rate = opt[SCHEME_RATE],
                                              .width_rate = opt[WIDTH_RATE],
                                              .rate = opt[RATE]});
}

const nbi_search nbi_search_autoqnn = {
    .name = "autoqnn",
    .help = "schemes, then widths, learned by gradient on the network itself",
    .options = options,
    .n_options = NBI_COUNT(options),
    .learns = true,
    .run = run,
};
