/* The additive model: loss = Σ delta[v][option], costs = base + Σ differences, solved exactly by
 * nbi_select. Peak RAM is not a sum but a maximum over steps, and bit operations are a product where
 * an activation and weights that read it are two variables, so the choice is re-checked with exact
 * costs, repaired by the cheapest lowering, then polished by single and paired changes under exact
 * costs. */
#include "search/trials.h"

#include <math.h>
#include <string.h>

#define SELECT_NODES 4000000 /* a count, not a time: the same answer everywhere */
#define POLISH_ROUNDS 64
#define PAIR_COSTS 30000 /* evaluations of the exact costs that pairs may use */

static const nbi_cost_id additive[] = {NBI_COST_BYTES, NBI_COST_BYTES_ONNX, NBI_COST_AVG_BITS,
                                       NBI_COST_BOPS, NBI_COST_LATENCY, NBI_COST_ENERGY};

nb_status nbi_rows_new(nb_ctx *ctx, const nbi_problem *problem, double ***rows) {
    size_t n = (size_t)problem->n_vars, total = 0, head;
    char *block = NULL;
    for (size_t v = 0; v < n; v++) total += (size_t)problem->n_options[v];
    head = (n * sizeof(double *) + 63) & ~(size_t)63;
    NB_TRY(nbi_alloc(ctx, head + total * sizeof(double), 1, &block));
    double **r = (double **)(void *)block, *at = (double *)(void *)(block + head);
    for (size_t v = 0; v < n; v++) {
        r[v] = at;
        at += problem->n_options[v];
    }
    *rows = r;
    return NB_OK;
}

typedef struct model {
    nbi_trials *t;
    double **delta;
    double **rows[NBI_COUNT(additive)];
    double limit[NBI_COUNT(additive)];
    int limits;
    long pair_costs;
} model;

/* The largest finite loss of a variable's options. */
static double worst_delta(const model *m, size_t v) {
    double worst = 0;
    for (int o = 0; o < m->t->problem->n_options[v]; o++)
        if (isfinite(m->delta[v][o])) worst = fmax(worst, m->delta[v][o]);
    return worst;
}

/* Costs of every option as differences from the policy of all cheapest options, shifted to a
 * minimum of 0 per variable. */
static nb_status linearise(model *m, uint8_t *policy) {
    nbi_trials *t = m->t;
    const nbi_problem *p = t->problem;
    double base[NBI_COST_COUNT], cost[NBI_COST_COUNT], excess, base_excess;
    nbi_cost_id which[NBI_COUNT(additive)];
    for (size_t i = 0; i < NBI_COUNT(additive); i++)
        if (p->limit[additive[i]] < INFINITY) {
            which[m->limits] = additive[i];
            NB_TRY(nbi_rows_new(t->ctx, p, &m->rows[m->limits]));
            m->limits++;
        }
    memset(policy, 0, t->n);
    NB_TRY(nbi_trials_cost(t, policy, base, &base_excess));
    for (int l = 0; l < m->limits; l++)
        m->limit[l] = p->limit[which[l]] - base[which[l]] + 1e-12 * fabs(p->limit[which[l]]);
    for (size_t v = 0; v < t->n; v++) {
        for (int o = 0; o < p->n_options[v]; o++) {
            policy[v] = (uint8_t)o;
            NB_TRY(nbi_trials_cost(t, policy, cost, &excess));
            for (int l = 0; l < m->limits; l++)
                m->rows[l][v][o] = cost[which[l]] - base[which[l]];
            /* too much even beside the cheapest options everywhere else */
            if (o > 0 && excess > base_excess) m->delta[v][o] = worst_delta(m, v) + 1;
        }
        policy[v] = 0;
        for (int l = 0; l < m->limits; l++) {
            double least = 0;
            for (int o = 0; o < p->n_options[v]; o++) least = fmin(least, m->rows[l][v][o]);
            for (int o = 0; o < p->n_options[v]; o++) m->rows[l][v][o] -= least;
            m->limit[l] -= least;
        }
    }
    return NB_OK;
}

static nb_status select_exactly(model *m, uint8_t *policy) {
    nbi_trials *t = m->t;
    const double *const *weight[NBI_COUNT(additive)];
    int *choice = NULL;
    nbi_select_outcome out = {0};
    for (int l = 0; l < m->limits; l++) weight[l] = (const double *const *)m->rows[l];
    nbi_select_problem s = {t->problem->n_vars, t->problem->n_options,
                            (const double *const *)m->delta, m->limits, weight, m->limit};
    NB_TRY(nbi_alloc(t->ctx, t->n, sizeof *choice, &choice));
    /* the clock is the last resort: an answer that depends on it may differ next time */
    double seconds = fmin(fmax(t->run->deadline - nb_seconds(t->ctx), 0.05), 30);
    nb_status st = nbi_select_effort(t->ctx, &s, seconds, SELECT_NODES, choice, &out);
    if (st == NB_OK || st == NB_ELIMIT)
        for (size_t v = 0; v < t->n; v++) policy[v] = (uint8_t)choice[v];
    if (st == NB_OK && out.gap > 0)
        nb_log(t->ctx, NB_LOG_INFO, "selection stopped %.2g %% above the bound", 100 * out.gap);
    nbi_free(choice);
    return st == NB_ELIMIT ? NB_OK : st;
}

/* Lowers one variable: the one with the least loss per excess removed; when no single step helps
 * (two tensors share the peak), the one with the least loss. */
static nb_status lower_best(model *m, uint8_t *policy, double *excess, bool *done) {
    nbi_trials *t = m->t;
    double best = INFINITY, least = INFINITY, e;
    int var = -1, option = 0, any = -1;
    for (size_t v = 0; v < t->n; v++) {
        uint8_t old = policy[v];
        for (int o = 0; o < old; o++) {
            double loss = m->delta[v][o] - m->delta[v][old];
            policy[v] = (uint8_t)o;
            NB_TRY(nbi_trials_cost(t, policy, NULL, &e));
            double rank = e < *excess ? loss / (*excess - e) : INFINITY;
            if (rank < best) best = rank, var = (int)v, option = o;
            if (o == old - 1 && loss < least) least = loss, any = (int)v;
        }
        policy[v] = old;
    }
    *done = var >= 0 || any >= 0;
    if (!*done) return NB_OK;
    if (var >= 0) policy[var] = (uint8_t)option;
    else policy[any]--;
    return nbi_trials_cost(t, policy, NULL, excess);
}

/* The feasible single change with the largest gain by the model. */
static nb_status polish(model *m, uint8_t *policy, bool *changed) {
    nbi_trials *t = m->t;
    double best = 0, excess;
    int var = -1, option = 0;
    for (size_t v = 0; v < t->n; v++) {
        uint8_t old = policy[v];
        for (int o = 0; o < t->problem->n_options[v]; o++) {
            double gain = m->delta[v][o] - m->delta[v][old];
            if (gain >= best) continue;
            policy[v] = (uint8_t)o;
            NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
            if (excess <= 0) best = gain, var = (int)v, option = o;
        }
        policy[v] = old;
    }
    *changed = var >= 0;
    if (*changed) policy[var] = (uint8_t)option;
    return NB_OK;
}

/* Whether v at `up` can be paid for by some u at a cheaper option, for less than the gain. */
static nb_status pay(model *m, uint8_t *policy, size_t v, double gain, bool *found) {
    nbi_trials *t = m->t;
    double excess;
    for (size_t u = 0; u < t->n; u++) {
        uint8_t old = policy[u];
        for (int o = old - 1; o >= 0 && u != v && m->pair_costs < PAIR_COSTS; o--) {
            if (gain + m->delta[u][o] - m->delta[u][old] >= -1e-12 * fabs(gain)) continue;
            policy[u] = (uint8_t)o;
            m->pair_costs++;
            NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
            *found = excess <= 0;
            if (*found) return NB_OK;
        }
        policy[u] = old;
    }
    return NB_OK;
}

/* One paired change: v improves, u pays. Only after a repair: the exact selection needs none. */
static nb_status polish_pair(model *m, uint8_t *policy, bool *changed) {
    nbi_trials *t = m->t;
    *changed = false;
    for (size_t v = 0; v < t->n; v++) {
        uint8_t old = policy[v];
        for (int o = old + 1; o < t->problem->n_options[v]; o++) {
            double gain = m->delta[v][o] - m->delta[v][old];
            if (gain >= 0) continue;
            policy[v] = (uint8_t)o;
            NB_TRY(pay(m, policy, v, gain, changed));
            if (*changed) return NB_OK;
        }
        policy[v] = old;
    }
    return NB_OK;
}

static nb_status polish_all(model *m, uint8_t *policy) {
    bool more = true;
    m->pair_costs = 0;
    for (int round = 0; more && round < POLISH_ROUNDS; round++) {
        NB_TRY(polish(m, policy, &more));
        if (!more) NB_TRY(polish_pair(m, policy, &more));
    }
    return NB_OK;
}

static double predicted(const model *m, const uint8_t *policy) {
    double sum = 0;
    for (size_t v = 0; v < m->t->n; v++) sum += m->delta[v][policy[v]];
    return sum;
}

/* Where the selection breaks a limit that is no sum: the better of two polished starts, the
 * selection lowered until it fits and the cheapest policy. */
static nb_status make_feasible(model *m, uint8_t *policy, bool *ok) {
    nbi_trials *t = m->t;
    double excess, other_excess;
    bool more = true;
    uint8_t *other = NULL;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
    *ok = excess <= 0;
    if (*ok) return NB_OK;
    while (excess > 0 && more) NB_TRY(lower_best(m, policy, &excess, &more));
    *ok = excess <= 0;
    if (*ok) NB_TRY(polish_all(m, policy));
    NB_TRY(nbi_alloc(t->ctx, t->n, 1, &other));
    nb_status st = nbi_trials_cost(t, other, NULL, &other_excess);
    if (st != NB_OK || other_excess > 0) goto done;
    NB_TRYG(polish_all(m, other));
    if (!*ok || predicted(m, other) < predicted(m, policy)) memcpy(policy, other, t->n);
    *ok = true;
done:
    nbi_free(other);
    return st;
}

nb_status nbi_policy_select(nbi_trials *t, double **delta, uint8_t *policy, bool *ok) {
    return nbi_policy_select_by(t, t->problem->sensitivity, delta, policy, ok);
}

nb_status nbi_policy_select_by(nbi_trials *t, nbi_rows_fn fill, double **delta, uint8_t *policy,
                               bool *ok) {
    const nbi_problem *p = t->problem;
    model m = {.t = t, .delta = delta};
    double **own = NULL;
    nb_status st = NB_OK;
    *ok = false;
    if (!fill) return NB_OK;
    if (!delta) {
        NB_TRY(nbi_rows_new(t->ctx, p, &own));
        m.delta = own;
    }
    st = fill(t->ctx, p->self, m.delta);
    if (st == NB_ECANCELLED) { /* any feasible policy serves */
        t->stopped = true;
        st = nbi_policy_repair(t, memset(policy, 0, t->n), ok);
        goto done;
    }
    if (st != NB_OK) goto done;
    for (size_t v = 0; v < t->n; v++)
        for (int o = 0; o < p->n_options[v]; o++) /* a broken option, but a comparable one */
            if (!isfinite(m.delta[v][o])) m.delta[v][o] = worst_delta(&m, v) + 1;
    NB_TRYG(linearise(&m, policy));
    NB_TRYG(select_exactly(&m, policy));
    NB_TRYG(make_feasible(&m, policy, ok));
done:
    for (int l = 0; l < m.limits; l++) nbi_free(m.rows[l]);
    nbi_free(own);
    return st;
}
