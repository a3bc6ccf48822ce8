/* Random search: uniform draws, repaired to the limits (specs: the control of every other method).
 * Ends early when draws bring nothing new. */
#include "search/trials.h"

enum { TRIALS };
static const nbi_option options[] = {
    [TRIALS] = {"trials", NBI_OPT_INT, 200, 1, 1e6, NULL, "policies to score"},
};

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    uint8_t *policy = NULL;
    bool ok = true;
    double score;
    NB_TRY(nbi_trials_new(ctx, r, (long)r->options[TRIALS], &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st != NB_OK) goto done;
    for (int stale = 0; stale < 200 && ok;) {
        nbi_policy_random(&t, policy);
        NB_TRYG(nbi_policy_repair(&t, policy, &ok));
        if (!nbi_trials_open(&t)) break;
        if (ok && !nbi_trials_seen(&t, policy, NULL)) {
            NB_TRYG(nbi_trials_score(&t, policy, &score));
            stale = 0;
        } else {
            stale++;
        }
    }
    st = nbi_trials_finish(&t);
done:
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_random = {
    .name = "random",
    .help = "random policies, repaired to the limits",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
