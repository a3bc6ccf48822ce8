/* Options and peak memory. The peak is a maximum over steps, not a sum over variables, so methods
 * that think in sums or look for cheaper options cannot see what an option does to it. What exceeds
 * the limit whatever stands beside it is taken out before they begin. "Whatever" is three policies
 * of all other variables: the dearest (8-bit weights need no scratch), the cheapest, and the
 * leanest, where every variable takes the option that adds the least memory, summed over the steps:
 * wide weights beside narrow activations, for one. */
#include "search/netproblem.h"

#include "runtime/footprint.h"

#include <math.h>
#include <string.h>

typedef enum beside { DEAREST, CHEAPEST, LEANEST, BESIDES } beside;

typedef struct bound {
    nbi_netproblem *np;
    const nbi_problem *problem;
    uint8_t *policy[BESIDES];
    uint8_t *trial;
    nbi_choice *bits;
} bound;

/* The leanest option of every variable; of equal ones the cheapest. The sum over steps shows it
 * where the peak would hide it behind another step. */
static nb_status find_leanest(nb_ctx *ctx, const bound *b) {
    const nbi_qnet *net = nbi_netproblem_get(b->np)->net;
    const size_t vars = (size_t)b->problem->n_vars;
    memcpy(b->trial, b->policy[DEAREST], vars);
    for (size_t v = 0; v < vars; v++) {
        double least = INFINITY, sum;
        for (int o = 0; o < b->problem->n_options[v]; o++) {
            b->trial[v] = (uint8_t)o;
            nbi_netproblem_bits(b->np, b->trial, b->bits);
            NB_TRY(nbi_footprint_ram_sum(ctx, net, b->bits, &sum));
            if (sum >= least) continue;
            least = sum;
            b->policy[LEANEST][v] = (uint8_t)o;
        }
        b->trial[v] = b->policy[DEAREST][v];
    }
    return NB_OK;
}

/* fits[o]: beside one of the policies. */
static nb_status options_that_fit(nb_ctx *ctx, const bound *b, int v, bool *fits, int *n) {
    const double limit = b->problem->limit[NBI_COST_RAM];
    double ram;
    *n = 0;
    for (int o = 0; o < b->problem->n_options[v]; o++) {
        fits[o] = false;
        for (int k = 0; k < BESIDES && !fits[o]; k++) {
            memcpy(b->trial, b->policy[k], (size_t)b->problem->n_vars);
            b->trial[v] = (uint8_t)o;
            nbi_netproblem_bits(b->np, b->trial, b->bits);
            NB_TRY(nbi_netproblem_ram(ctx, b->np, b->bits, &ram));
            fits[o] = ram <= limit;
        }
        *n += fits[o];
    }
    return NB_OK;
}

static nb_status take_out(nb_ctx *ctx, const bound *b, bool (*fits)[NBI_NETPROBLEM_OPTIONS]) {
    const int vars = b->problem->n_vars;
    int out = 0, n;
    for (int v = 0; v < vars; v++) {
        NB_TRY(options_that_fit(ctx, b, v, fits[v], &n));
        if (!n) return NB_OK; /* cannot be met: the closest policy is looked for among all */
        out += b->problem->n_options[v] - n;
    }
    for (int v = 0; out && v < vars; v++) nbi_netproblem_keep(b->np, v, fits[v]);
    if (out)
        nb_log(ctx, NB_LOG_INFO,
               "max-ram: %d of the options exceed it beside the cheapest, the "
               "dearest and the leanest of all others, and are left out",
               out);
    return NB_OK;
}

nb_status nbi_netproblem_bound_ram(nb_ctx *ctx, nbi_netproblem *np) {
    const nbi_problem *p = nbi_netproblem_problem(np);
    const size_t vars = (size_t)p->n_vars, sites = (size_t)nbi_netproblem_get(np)->net->n_sites;
    bool (*fits)[NBI_NETPROBLEM_OPTIONS] = NULL;
    uint8_t *policies = NULL;
    bound b = {.np = np, .problem = p};
    nb_status st;
    if (!isfinite(p->limit[NBI_COST_RAM]) || !vars) return NB_OK;
    NB_TRYG(nbi_alloc(ctx, vars, sizeof *fits, &fits));
    NB_TRYG(nbi_alloc(ctx, vars, BESIDES + 1, &policies));
    NB_TRYG(nbi_alloc(ctx, sites + 1, sizeof *b.bits, &b.bits));
    for (int k = 0; k < BESIDES; k++) b.policy[k] = policies + (size_t)k * vars;
    b.trial = policies + BESIDES * vars;
    for (size_t v = 0; v < vars; v++) b.policy[DEAREST][v] = (uint8_t)(p->n_options[v] - 1);
    NB_TRYG(find_leanest(ctx, &b));
    st = take_out(ctx, &b, fits);
done:
    nbi_free(b.bits);
    nbi_free(policies);
    nbi_free(fits);
    return st;
}
