/* A learned policy is decoded by the problem, brought within the limits, and scored like any other.
 */
#include "search/learned.h"

#include "search/trials.h"

static nb_status search(nbi_trials *t, const nbi_learning *how, uint8_t *policy) {
    const nbi_problem *p = t->problem;
    double **error = NULL, score;
    bool ok;
    nb_status st;
    for (size_t v = 0; v < t->n; v++) policy[v] = 0;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &score));
    if (score > 0) return NB_OK; /* nothing fits: no need to learn */
    NB_TRY(p->learn(t->ctx, p->self, how, policy));
    NB_TRY(nbi_rows_new(t->ctx, p, &error));
    NB_TRYG(p->local_error(t->ctx, p->self, error));
    NB_TRYG(nbi_policy_repair_by(t, error, policy, &ok));
    if (ok) st = nbi_trials_score(t, policy, &score);
done:
    nbi_free(error);
    return st;
}

nb_status nbi_search_learned(nb_ctx *ctx, const nbi_search_run *r, const nbi_learning *how) {
    nbi_learning own = *how;
    nbi_trials t;
    uint8_t *policy = NULL;
    own.seed = r->seed;
    own.deadline = r->deadline;
    if (!r->problem->learn || !r->problem->local_error)
        return nb_fail(ctx, NB_EUNSUPPORTED, "%s: the problem cannot learn by gradient",
                       how->method);
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st == NB_OK) st = search(&t, &own, policy);
    if (st == NB_OK) st = nbi_trials_finish(&t);
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}
