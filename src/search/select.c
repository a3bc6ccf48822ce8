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
                        nbi_select_core *c, double *plain_cap) {
    size_t options = 0, limits = (size_t)p->n_limits;
    double scale[MAX_LIMITS];
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
        double limit = p->limit[l];
        scale[l] = limit > 0 && limit < INFINITY ? limit : 1;
        c->cap[l] = fmin(round_to_grid(p, (int)l), 1e300) / scale[l];
        plain_cap[l] = fmin(limit, 1e300) / scale[l];
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
static void drop_slack_limits(nbi_select_core *c, double *plain_cap) {
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
        if (!keep[l]) continue;
        plain_cap[kept] = plain_cap[l];
        c->cap[kept++] = c->cap[l];
    }
    for (int i = 0; i < options; i++)
        for (int l = 0, k = 0; l < limits; l++)
            if (keep[l]) c->weight[i * kept + k++] = c->weight[i * limits + l];
    c->limits = kept;
}

/* ---- the tree over large groups ---------------------------------------------------------------- */

/* A node whose branch and bound does not end within SPLIT_NODES is split by the options of its
 * coarsest group: each child gets multipliers of its own, without which one group that outweighs
 * the others would spoil every bound. */
#define SPLIT_NODES 60000

typedef struct tree {
    nb_ctx *ctx;
    nbi_select_search *s; /* totals */
    nbi_select_best *best; /* choices are the caller's option indices */
} tree;

/* The group whose options within the gap differ most in weight; -1: all groups are decided. */
static int coarsest(const nbi_select_core *c, const double *lambda, double gap, double *reduced) {
    int at = -1;
    double most = -1;
    for (int v = 0; v < c->n; v++) {
        double least = INFINITY, low = INFINITY, high = -INFINITY;
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            reduced[i] = c->value[i];
            for (int l = 0; l < c->limits; l++)
                reduced[i] += lambda[l] * c->weight[i * c->limits + l];
            least = fmin(least, reduced[i]);
        }
        int inside = 0;
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            reduced[i] -= least;
            if (reduced[i] > gap) continue;
            inside++;
            low = fmin(low, c->value[i]);
            high = fmax(high, c->value[i]);
        }
        if (inside > 1 && high - low > most) {
            most = high - low;
            at = v;
        }
    }
    return at;
}

/* The problem with group v fixed to option `keep`. */
static nb_status fix_group(const tree *t, const nbi_select_core *c, int v, int keep,
                           nbi_arena *arena, nbi_select_core *out) {
    size_t options = (size_t)c->start[c->n], limits = (size_t)c->limits;
    *out = *c;
    out->start = nbi_arena_alloc(arena, (size_t)c->n + 1, sizeof *out->start);
    out->original = nbi_arena_alloc(arena, options, sizeof *out->original);
    out->value = nbi_arena_alloc(arena, options, sizeof *out->value);
    out->weight = nbi_arena_alloc(arena, options * limits, sizeof *out->weight);
    if (!out->start || !out->original || !out->value || !out->weight)
        return nb_fail_memory(t->ctx, options * (limits + 2) * sizeof(double));
    int count = 0;
    for (int g = 0; g < c->n; g++) {
        out->start[g] = count;
        for (int i = c->start[g]; i < c->start[g + 1]; i++) {
            if (g == v && i != keep) continue;
            out->original[count] = c->original[i];
            out->value[count] = c->value[i];
            memcpy(out->weight + (size_t)count * limits, c->weight + (size_t)i * limits,
                   limits * sizeof *out->weight);
            count++;
        }
    }
    out->start[c->n] = count;
    return NB_OK;
}

static void take(tree *t, const nbi_select_core *c, const nbi_select_best *local) {
    if (local->value >= t->best->value) return;
    t->best->value = local->value;
    for (int v = 0; v < c->n; v++) t->best->choice[v] = c->original[local->choice[v]];
}

static nb_status close_gap(tree *t, const nbi_select_core *c, double *proven);

/* Children in the order of reduced cost; those beyond the gap are excluded by the bound. */
static nb_status split(tree *t, const nbi_select_core *c, int v, double bound,
                       const double *reduced) {
    nb_status st = NB_OK;
    double last = -1;
    int last_option = -1;
    while (st == NB_OK && !t->s->stopped) {
        int next = -1;
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            bool later = reduced[i] > last || (reduced[i] == last && i > last_option);
            if (later && (next < 0 || reduced[i] < reduced[next])) next = i;
        }
        if (next < 0 || bound + reduced[next] >= t->best->value) break;
        last = reduced[next];
        last_option = next;
        nbi_arena arena = {0};
        nbi_select_core child;
        st = fix_group(t, c, v, next, &arena, &child);
        if (st == NB_OK) st = close_gap(t, &child, NULL);
        nbi_arena_free(&arena);
    }
    return st;
}

/* Improves t->best to the optimum of `c`, or until stopped. *proven (may be NULL): lower bound. */
static nb_status close_gap(tree *t, const nbi_select_core *c, double *proven) {
    double lambda[MAX_LIMITS] = {0}, *reduced, bound;
    nbi_arena arena = {0};
    nbi_select_best local = {nbi_arena_alloc(&arena, (size_t)c->n, sizeof(int)), t->best->value};
    nb_status st = NB_OK;
    reduced = nbi_arena_alloc(&arena, (size_t)c->start[c->n], sizeof *reduced);
    if (!local.choice || !reduced) {
        st = nb_fail_memory(t->ctx, (size_t)c->start[c->n] * sizeof *reduced);
        goto done;
    }
    NB_TRYG(nbi_select_dual(t->ctx, c, INFINITY, lambda, &bound, &local));
    take(t, c, &local);
    if (proven) *proven = bound;
    if (t->best->value == INFINITY && proven) goto done; /* the caller looks for a first choice */
    nbi_select_search s = *t->s;
    s.core = c;
    s.lambda = lambda;
    s.bound = bound;
    s.max_nodes = t->s->nodes + SPLIT_NODES;
    if (t->s->max_nodes && t->s->max_nodes < s.max_nodes) s.max_nodes = t->s->max_nodes;
    NB_TRYG(nbi_select_branch(t->ctx, &s, &local));
    take(t, c, &local);
    t->s->nodes = s.nodes;
    if (proven) *proven = s.bound;
    if (!s.stopped) goto done;
    if ((t->s->max_nodes && s.nodes >= t->s->max_nodes) || nb_cancelled(t->ctx) ||
        nb_seconds(t->ctx) >= t->s->until) {
        t->s->stopped = true;
        goto done;
    }
    int v = coarsest(c, lambda, t->best->value - bound, reduced);
    if (v >= 0) st = split(t, c, v, bound, reduced);
done:
    nbi_arena_free(&arena);
    return st;
}

/* No single changes led to a feasible choice: finds one, or the one with the least excess over the
 * limits as the caller gave them. */
static nb_status first_choice(tree *t, nbi_select_core *c, double *plain_cap, bool *feasible) {
    double lambda[MAX_LIMITS] = {0}, *cap = c->cap;
    nbi_arena arena = {0};
    nbi_select_best local = {nbi_arena_alloc(&arena, (size_t)c->n, sizeof(int)), INFINITY};
    nbi_select_search *s = t->s;
    nb_status st = NB_OK;
    if (!local.choice) {
        st = nb_fail_memory(t->ctx, (size_t)c->n * sizeof(int));
        goto done;
    }
    c->cap = plain_cap;
    s->core = c;
    s->excess = true;
    s->lambda = lambda;
    NB_TRYG(nbi_select_dual_excess(t->ctx, c, lambda, &s->bound, &local));
    if (local.value > NBI_SELECT_EPS && s->bound < local.value)
        NB_TRYG(nbi_select_branch(t->ctx, s, &local));
    *feasible = local.value <= NBI_SELECT_EPS;
    t->best->value = local.value;
    for (int v = 0; v < c->n; v++) t->best->choice[v] = c->original[local.choice[v]];
    if (*feasible) {
        s->stopped = false;
        t->best->value = 0;
        for (int v = 0; v < c->n; v++) t->best->value += c->value[local.choice[v]];
    }
done:
    c->cap = cap;
    s->excess = false;
    nbi_arena_free(&arena);
    return st;
}

static nb_status solve(tree *t, nbi_select_core *c, double *plain_cap, bool *feasible) {
    bool negative = false;
    for (int l = 0; l < c->limits; l++) negative = negative || c->cap[l] < 0;
    *feasible = true;
    if (!negative) NB_TRY(close_gap(t, c, &t->s->bound));
    if (t->best->value < INFINITY) return NB_OK;
    NB_TRY(first_choice(t, c, plain_cap, feasible));
    return *feasible ? close_gap(t, c, &t->s->bound) : NB_OK;
}

nb_status nbi_select_effort(nb_ctx *ctx, const nbi_select_problem *p, double seconds,
                            long max_nodes, int *choice, nbi_select_outcome *out) {
    NB_TRY(check(ctx, p));
    nbi_arena arena = {0};
    nbi_select_core core;
    nbi_select_best best = {NULL, INFINITY};
    nbi_select_search s = {.core = &core, .max_nodes = max_nodes, .bound = -INFINITY};
    double plain_cap[MAX_LIMITS] = {0}; /* limits before rounding: what an excess is measured by */
    tree t = {ctx, &s, &best};
    bool feasible = true;
    s.until = seconds > 0 ? nb_seconds(ctx) + seconds : INFINITY;
    nb_status st = reduce(ctx, p, &arena, &core, plain_cap);
    if (st != NB_OK) goto done;
    drop_slack_limits(&core, plain_cap);
    best.choice = nbi_arena_alloc(&arena, (size_t)core.n, sizeof *best.choice);
    if (!best.choice) {
        st = nb_fail_memory(ctx, (size_t)core.n * sizeof *best.choice);
        goto done;
    }
    NB_TRYG(solve(&t, &core, plain_cap, &feasible));
    out->value = 0;
    out->nodes = s.nodes;
    for (int v = 0; v < core.n; v++) {
        choice[v] = best.choice[v];
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
