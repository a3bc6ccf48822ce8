/* AutoQNN (docs/searches.md): schemes by differentiable search, then widths by gradient, both on
 * the network itself; what was learned is decoded, brought within the limits by the tensors' own
 * squared errors, and scored on the integer program like every other policy. */
#include "search/trials.h"

#include <math.h>

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

static nb_status search(nbi_trials *t, const double *opt, double deadline, uint8_t *policy) {
    const nbi_problem *p = t->problem;
    nbi_learning how = {.scheme_epochs = (int)opt[SCHEMES],
                        .width_epochs = (int)opt[WIDTHS],
                        .model_wise = opt[MODEL] != 0,
                        .scheme_rate = opt[SCHEME_RATE],
                        .width_rate = opt[WIDTH_RATE],
                        .rate = opt[RATE],
                        .seed = t->run->seed,
                        .deadline = deadline};
    double **error = NULL, score;
    bool ok;
    nb_status st;
    for (size_t v = 0; v < t->n; v++) policy[v] = 0;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &score));
    if (score > 0) return NB_OK; /* nothing fits: no need to learn */
    NB_TRY(p->learn(t->ctx, p->self, &how, policy));
    NB_TRY(nbi_rows_new(t->ctx, p, &error));
    NB_TRYG(p->local_error(t->ctx, p->self, error));
    NB_TRYG(nbi_policy_repair_by(t, error, policy, &ok));
    if (ok) st = nbi_trials_score(t, policy, &score);
done:
    nbi_free(error);
    return st;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    uint8_t *policy = NULL;
    if (!r->problem->learn || !r->problem->local_error)
        return nb_fail(ctx, NB_EUNSUPPORTED, "autoqnn: the problem cannot learn by gradient");
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st == NB_OK) st = search(&t, r->options, r->deadline, policy);
    if (st == NB_OK) st = nbi_trials_finish(&t);
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_autoqnn = {
    .name = "autoqnn",
    .help = "schemes, then widths, learned by gradient on the network itself",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
