/* HAWQ-V2/V3 (Dong et al. 2020, Yao et al. 2021): the loss of a policy is estimated as the sum over
 * tensors of (mean curvature)·|Q(x) − x|², and the best sum under the limits is found exactly. One
 * policy is run. */
#include "search/trials.h"

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    uint8_t *policy = NULL;
    double score;
    bool ok;
    if (!r->problem->curvature)
        return nb_fail(ctx, NB_EUNSUPPORTED, "hawq: the problem offers no curvature");
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st != NB_OK) goto done;
    NB_TRYG(nbi_policy_select_by(&t, r->problem->curvature, NULL, policy, &ok));
    if (ok) NB_TRYG(nbi_trials_score(&t, policy, &score));
    st = nbi_trials_finish(&t);
done:
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_hawq = {
    .name = "hawq",
    .help = "trace of the Hessian times squared error per tensor, exact selection, one run",
    .run = run,
};
