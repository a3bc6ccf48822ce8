/* Exact selection: one option per group, least total value, under several limits. Reduces the
 * problem (options that another one dominates, limits rounded down to the grid of their weights),
 * bounds it by its Lagrangian dual and closes the gap by branch and bound. */
#include "search/select.h"

#include <math.h>
#include <string.h>

#define MAX_LIMITS 64

static nb_status check(nb_ctx *ctx, const nbi_select_problem *p) {
    if (p->n_vars < 1 || p->n_limits < 0 || p->n_limits > MAX_LIMITS)
        return nb_fail(ctx, NB_EINVAL, "selection with %d groups and %d limits (1.., 0..%d)",
                       p->n_vars, p->n_limits, MAX_LIMITS);
    for (int v = 0; v < p->n_vars; v++) {
        if (p->n_options[v] < 1) return nb_fail(ctx, NB_EINVAL, "group %d has no option", v);
        for (int o = 0; o < p->n_options[v]; o++) {
            if (!isfinite(p->value[v][o]))
                return nb_fail(ctx, NB_ENUMERIC, "value of group %d option %d is not finite", v, o);
            for (int l = 0; l < p->n_limits; l++)
                if (!(p->weight[l][v][o] >= 0 && p->weight[l][v][o] < INFINITY))
                    return nb_fail(ctx, NB_ENUMERIC, "weight %g of limit %d, group %d, option %d",
                                   p->weight[l][v][o], l, v, o);
        }
    }
    for (int l = 0; l < p->n_limits; l++)
        if (isnan(p->limit[l])) return nb_fail(ctx, NB_ENUMERIC, "limit %d is NaN", l);
    return NB_OK;
}

static bool dominates(const nbi_select_problem *p, int v, int a, int b) {
    if (p->value[v][a] > p->value[v][b]) return false;
    bool equal = p->value[v][a] == p->value[v][b];
    for (int l = 0; l < p->n_limits; l++) {
        if (p->weight[l][v][a] > p->weight[l][v][b]) return false;
        equal = equal && p->weight[l][v][a] == p->weight[l][v][b];
    }
    return !equal || a < b; /* of equals the first stays */
}

/* Whole-numbered weights lie on a grid above the sum of the minima; a limit between two points of
 * the grid is no tighter than the lower one, and the bound gains by saying so. */
static double round_to_grid(const nbi_select_problem *p, int l) {
    double limit = p->limit[l], least_sum = 0;
    uint64_t grid = 0;
    for (int v = 0; v < p->n_vars; v++) {
        const double *w = p->weight[l][v];
        double least = w[0];
        for (int o = 0; o < p->n_options[v]; o++) {
            if (w[o] != floor(w[o]) || w[o] > 0x1p45) return limit;
            least = fmin(least, w[o]);
        }
        least_sum += least;
        for (int o = 0; o < p->n_options[v]; o++) {
            uint64_t a = (uint64_t)(w[o] - least), b = grid;
            while (b) {
                uint64_t t = a % b;
                a = b;
                b = t;
            }
            grid = a;
        }
    }
    if (!grid || limit < least_sum || !isfinite(limit) || least_sum > 0x1p50) return limit;
    return fmin(limit, least_sum + floor((limit - least_sum) / (double)grid) * (double)grid);
}

static nb_status reduce(nb_ctx *ctx, const nbi_select_problem *p, nbi_arena *arena,
                        nbi_select_core *c, double *scale) {
    size_t options = 0, limits = (size_t)p->n_limits;
    for (int v = 0; v < p->n_vars; v++) options += (size_t)p->n_options[v];
    c->n = p->n_vars;
    c->limits = p->n_limits;
    c->start = nbi_arena_alloc(arena, (size_t)c->n + 1, sizeof *c->start);
    c->original = nbi_arena_alloc(arena, options, sizeof *c->original);
    c->value = nbi_arena_alloc(arena, options, sizeof *c->value);
    c->weight = nbi_arena_alloc(arena, options * limits + 1, sizeof *c->weight);
    c->cap = nbi_arena_alloc(arena, limits + 1, sizeof *c->cap);
    if (!c->start || !c->original || !c->value || !c->weight || !c->cap)
        return nb_fail_memory(ctx, options * (limits + 2) * sizeof(double));
    for (size_t l = 0; l < limits; l++) {
        double cap = round_to_grid(p, (int)l);
        scale[l] = cap > 0 && cap < INFINITY ? cap : 1;
        c->cap[l] = fmin(cap, 1e300) / scale[l];
    }
    int count = 0;
    for (int v = 0; v < c->n; v++) {
        double least = INFINITY;
        for (int o = 0; o < p->n_options[v]; o++) least = fmin(least, p->value[v][o]);
        c->start[v] = count;
        for (int o = 0; o < p->n_options[v]; o++) {
            bool dominated = false;
            for (int k = 0; k < p->n_options[v] && !dominated; k++)
                dominated = k != o && dominates(p, v, k, o);
            if (dominated) continue;
            c->original[count] = o;
            c->value[count] = p->value[v][o] - least;
            for (size_t l = 0; l < limits; l++)
                c->weight[(size_t)count * limits + l] = p->weight[l][v][o] / scale[l];
            count++;
        }
    }
    c->start[c->n] = count;
    return NB_OK;
}

/* Limits that every choice meets say nothing and only slow the rest down. */
static int drop_slack_limits(nbi_select_core *c) {
    int kept = 0, limits = c->limits, options = c->start[c->n];
    bool keep[MAX_LIMITS];
    for (int l = 0; l < limits; l++) {
        double most = 0;
        for (int v = 0; v < c->n; v++) {
            double top = 0;
            for (int i = c->start[v]; i < c->start[v + 1]; i++)
                top = fmax(top, c->weight[i * limits + l]);
            most += top;
        }
        keep[l] = most > c->cap[l];
        if (keep[l]) c->cap[kept++] = c->cap[l];
    }
    for (int i = 0; i < options; i++)
        for (int l = 0, k = 0; l < limits; l++)
            if (keep[l]) c->weight[i * kept + k++] = c->weight[i * limits + l];
    c->limits = kept;
    return kept;
}

/* No choice was repaired into a feasible one: finds one, or the closest. */
static nb_status least_excess(nb_ctx *ctx, nbi_select_search *s, double *lambda,
                              nbi_select_best *best) {
    double until = s->until;
    s->excess = true;
    s->lambda = lambda;
    best->value = INFINITY;
    NB_TRY(nbi_select_dual_excess(ctx, s->core, lambda, &s->bound, best));
    if (best->value > NBI_SELECT_EPS && s->bound < best->value) {
        NB_TRY(nbi_select_branch(ctx, s, best));
    }
    s->excess = false;
    s->until = until;
    return NB_OK;
}

static nb_status solve(nb_ctx *ctx, nbi_select_search *s, nbi_select_best *best, bool *feasible) {
    const nbi_select_core *c = s->core;
    double lambda[MAX_LIMITS] = {0}, lambda_excess[MAX_LIMITS] = {0};
    *feasible = true;
    if (c->limits == 0) { /* the least value of each group */
        best->value = 0;
        for (int v = 0; v < c->n; v++) {
            best->choice[v] = c->start[v];
            for (int i = c->start[v]; i < c->start[v + 1]; i++)
                if (c->value[i] < c->value[best->choice[v]]) best->choice[v] = i;
        }
        s->bound = 0;
        return NB_OK;
    }
    bool negative = false;
    for (int l = 0; l < c->limits; l++) negative = negative || c->cap[l] < 0;
    if (!negative) NB_TRY(nbi_select_dual(ctx, c, INFINITY, lambda, &s->bound, best));
    double bound = s->bound;
    if (best->value == INFINITY) {
        NB_TRY(least_excess(ctx, s, lambda_excess, best));
        if (best->value > NBI_SELECT_EPS) {
            *feasible = false;
            return NB_OK;
        }
        s->stopped = false;
        best->value = 0;
        for (int v = 0; v < c->n; v++) best->value += c->value[best->choice[v]];
    }
    s->lambda = lambda;
    s->bound = bound;
    return nbi_select_branch(ctx, s, best);
}

nb_status nbi_select_effort(nb_ctx *ctx, const nbi_select_problem *p, double seconds,
                            long max_nodes, int *choice, nbi_select_outcome *out) {
    NB_TRY(check(ctx, p));
    nbi_arena arena = {0};
    nbi_select_core core;
    nbi_select_best best = {NULL, INFINITY};
    nbi_select_search s = {.core = &core, .max_nodes = max_nodes, .bound = -INFINITY};
    double scale[MAX_LIMITS];
    bool feasible = true;
    s.until = seconds > 0 ? nb_seconds(ctx) + seconds : INFINITY;
    nb_status st = reduce(ctx, p, &arena, &core, scale);
    if (st != NB_OK) goto done;
    drop_slack_limits(&core);
    best.choice = nbi_arena_alloc(&arena, (size_t)core.n, sizeof *best.choice);
    if (!best.choice) {
        st = nb_fail_memory(ctx, (size_t)core.n * sizeof *best.choice);
        goto done;
    }
    NB_TRYG(solve(ctx, &s, &best, &feasible));
    out->value = 0;
    out->nodes = s.nodes;
    for (int v = 0; v < core.n; v++) {
        choice[v] = core.original[best.choice[v]];
        out->value += p->value[v][choice[v]];
    }
    /* bounds are of values shifted to a minimum of 0 per group */
    double open = s.stopped ? fmax(0, best.value - s.bound) : 0;
    out->gap = open > 0 ? open / fmax(fabs(out->value), 1e-300) : 0;
    if (!feasible)
        st = nb_fail(ctx, NB_ELIMIT, "no choice meets the limits; the closest exceeds one by %.3g %%",
                     100 * best.value);
done:
    nbi_arena_free(&arena);
    return st;
}

nb_status nbi_select(nb_ctx *ctx, const nbi_select_problem *p, double seconds, int *choice,
                     double *value, double *gap) {
    nbi_select_outcome out = {0};
    nb_status st = nbi_select_effort(ctx, p, seconds, 0, choice, &out);
    if (st == NB_OK || st == NB_ELIMIT) {
        *value = out.value;
        *gap = out.gap;
    }
    return st;
}
