/* Uniform policies only: every variable at the same rank of its options. Variables may differ in
 * the number of options, so rank is read in two ways: equal index (cut at the last option) and
 * equal relative index. From the most expensive downward, as that order finds good ones first. */
#include "search/trials.h"

#include <string.h>

static nb_status try_policy(nbi_trials *t, const uint8_t *policy) {
    double excess, score;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
    return excess > 0 ? NB_OK : nbi_trials_score(t, policy, &score);
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    uint8_t *policy = NULL;
    int levels = 1;
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st != NB_OK) goto done;
    for (size_t v = 0; v < t.n; v++)
        if (t.problem->n_options[v] > levels) levels = t.problem->n_options[v];
    for (int k = levels - 1; k >= 0; k--) {
        for (size_t v = 0; v < t.n; v++) {
            int last = t.problem->n_options[v] - 1;
            policy[v] = (uint8_t)(k < last ? k : last);
        }
        NB_TRYG(try_policy(&t, policy));
        for (size_t v = 0; v < t.n && levels > 1; v++) {
            int last = t.problem->n_options[v] - 1;
            policy[v] = (uint8_t)((2 * k * last + levels - 1) / (2 * (levels - 1)));
        }
        NB_TRYG(try_policy(&t, policy));
        if (t.have_unscored && !nbi_trials_open(&t)) break;
    }
    st = nbi_trials_finish(&t);
done:
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_uniform = {
    .name = "uniform",
    .help = "the same rank of options everywhere: what a search has to beat",
    .run = run,
};
