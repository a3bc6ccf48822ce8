/* Grid: every policy within the limits in turn, the last variable fastest, for spaces that are
 * small: the control of what learns in them. */
#include "search/trials.h"

enum { TRIALS };
static const nbi_option options[] = {
    [TRIALS] = {"trials", NBI_OPT_INT, 1e5, 1, 1e6, NULL, "policies to score"},
};
#define MOST 1e6 /* policies of a space */

/* The next policy; false after the last one. */
static bool advance(const nbi_problem *p, uint8_t *policy) {
    for (int v = p->n_vars - 1; v >= 0; v--) {
        if (++policy[v] < p->n_options[v]) return true;
        policy[v] = 0;
    }
    return false;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    uint8_t *policy = NULL;
    double size = 1, score, excess;
    bool more = true;
    NB_TRY(nbi_trials_new(ctx, r, (long)r->options[TRIALS], &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st != NB_OK) goto done;
    for (size_t v = 0; v < t.n; v++) size *= r->problem->n_options[v];
    if (size > MOST) {
        st = nb_fail(ctx, NB_EUNSUPPORTED, "grid: %.3g policies; at most %.0f are gone through",
                     size, MOST);
        goto done;
    }
    /* without one that fits the time does not count, a request to stop does */
    for (; more && (t.count == 0 ? !nb_cancelled(ctx) : nbi_trials_open(&t));
         more = advance(r->problem, policy)) {
        NB_TRYG(nbi_trials_cost(&t, policy, NULL, &excess));
        if (excess > 0) continue;
        NB_TRYG(nbi_trials_score(&t, policy, &score));
        if (t.count == 0) break; /* no time for the first one */
    }
    st = nbi_trials_finish(&t);
done:
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_grid = {
    .name = "grid",
    .help = "every policy in turn, for small spaces",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
