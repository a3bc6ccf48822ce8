/* Policies learned by gradient: what the limits leave room for, and the options next to what was
 * learned. */
#include "search/netproblem.h"

#include <math.h>
#include <stdlib.h>

static int bits_of(nbi_choice c) {
    return c & 255;
}

/* Average widths of weights and of activations at a policy. */
static void averages(nbi_netproblem *np, const uint8_t *policy, nbi_choice *bits, double out[2]) {
    const nbi_netproblem_options *o = nbi_netproblem_get(np);
    nbi_net_cost c;
    nbi_netproblem_bits(np, policy, bits);
    nbi_net_cost_of(o->net, bits, o->containers, &c);
    out[0] = c.weights > 0 ? c.weight_bits / c.weights : 0;
    out[1] = c.activations > 0 ? c.activation_bits / c.activations : 0;
}

/* Bit operations as a width: √(bops / multiply-accumulates). */
static double root_of(const nbi_netproblem *np, double bops) {
    const nbi_qnet *net = nbi_netproblem_get(np)->net;
    double macs = 0;
    for (int i = 0; i < net->n_layers; i++)
        if (net->layer[i].type == NBI_LAYER_CONV) macs += net->layer[i].macs;
    return macs > 0 ? sqrt(bops / macs) : 0;
}

/* How much of the way from the cheapest to the dearest policy the limits allow, for weights (sizes
 * and widths) and for activations (RAM); bit operations are a target of their own, and anything else
 * limits both. Costs are taken as linear: the repair afterwards is exact. */
static nb_status targets(nb_ctx *ctx, nbi_netproblem *np, uint8_t *policy, nbi_choice *bits,
                         double target[3]) {
    const nbi_problem *p = nbi_netproblem_problem(np);
    double low[NBI_COST_COUNT], high[NBI_COST_COUNT], least[2], most[2], part[2] = {2, 2};
    for (int v = 0; v < p->n_vars; v++) policy[v] = 0;
    NB_TRY(p->cost(ctx, p->self, policy, low));
    averages(np, policy, bits, least);
    for (int v = 0; v < p->n_vars; v++) policy[v] = (uint8_t)(p->n_options[v] - 1);
    NB_TRY(p->cost(ctx, p->self, policy, high));
    averages(np, policy, bits, most);
    target[2] = 0;
    for (int c = 0; c < NBI_COST_COUNT; c++) {
        if (!(p->limit[c] < INFINITY) || high[c] <= p->limit[c]) continue;
        if (c == NBI_COST_BOPS) {
            target[2] = root_of(np, p->limit[c]);
            continue;
        }
        double share = fmax(0, (p->limit[c] - low[c]) / (high[c] - low[c]));
        bool weights = c == NBI_COST_BYTES || c == NBI_COST_BYTES_ONNX || c == NBI_COST_AVG_BITS;
        if (c != NBI_COST_RAM) part[0] = fmin(part[0], share);
        if (!weights) part[1] = fmin(part[1], share);
    }
    for (int k = 0; k < 2; k++)
        target[k] = part[k] > 1 ? 0 : least[k] + part[k] * (most[k] - least[k]);
    return NB_OK;
}

/* Distance in bits of the tensors that count; another scheme is worse than any width. */
static double distance(nbi_netproblem *np, int v, int option, const nbi_choice *wanted) {
    const nbi_qnet *net = nbi_netproblem_get(np)->net;
    const int *site;
    double sum = 0;
    int n = nbi_netproblem_sites(np, v, &site);
    for (int k = 0; k < n; k++) {
        nbi_choice c = nbi_netproblem_choice(np, v, option, k), w = wanted[site[k]];
        double apart = abs(bits_of(c) - bits_of(w)) + (c >> 8 != w >> 8 ? 16 : 0);
        sum += apart * log2(1 + (double)net->site[site[k]].count);
    }
    return sum;
}

static nb_status learn(nb_ctx *ctx, void *self, const nbi_learning *how, uint8_t *policy) {
    nbi_netproblem *np = self;
    const nbi_netproblem_options *o = nbi_netproblem_get(np);
    const nbi_problem *p = nbi_netproblem_problem(np);
    nbi_choice *choice;
    double target[3];
    nb_status st;
    NB_TRY(nbi_alloc(ctx, (size_t)o->net->n_sites + 1, sizeof *choice, &choice));
    NB_TRYG(targets(ctx, np, policy, choice, target));
    NB_TRYG(o->learn(ctx, o->user, how, target, choice)); /* the dearest policy to start from */
    for (int v = 0; v < p->n_vars; v++) {
        int best = 0;
        for (int i = 1; i < p->n_options[v]; i++)
            if (distance(np, v, i, choice) < distance(np, v, best, choice)) best = i;
        policy[v] = (uint8_t)best;
    }
done:
    nbi_free(choice);
    return st;
}

static int level(const void *self, int variable, int option) {
    const nbi_netproblem *np = self;
    const int *site;
    int n = nbi_netproblem_sites(np, variable, &site), sum = 0;
    for (int k = 0; k < n; k++) sum += bits_of(nbi_netproblem_choice(np, variable, option, k));
    return sum;
}

void nbi_netproblem_add_learning(nbi_netproblem *np) {
    nbi_netproblem_problem(np)->level = level;
    if (nbi_netproblem_get(np)->learn) nbi_netproblem_problem(np)->learn = learn;
}
