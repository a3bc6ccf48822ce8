/* The archive is a sorted array: a few hundred points at most, so plain passes are fast enough,
 * and the order on disk is the order in memory. */
#include "search/pareto.h"

#include <math.h>
#include <string.h>

nb_status nbi_pareto_init(nb_ctx *ctx, nbi_pareto *p, int n_vars, int n_costs) {
    if (n_vars < 1 || n_costs < 0 || n_costs > NBI_PARETO_COSTS)
        return nb_fail(ctx, NB_EINVAL, "Pareto set of %d variables and %d costs (1.., 0..%d)",
                       n_vars, n_costs, NBI_PARETO_COSTS);
    *p = (nbi_pareto){.n_vars = n_vars, .n_costs = n_costs};
    return NB_OK;
}

void nbi_pareto_free(nbi_pareto *p) {
    for (size_t i = 0; i < p->count; i++) nbi_free(p->points[i].policy);
    nbi_free(p->points);
    p->points = NULL;
    p->count = p->capacity = 0;
}

static int compare(const nbi_pareto *p, const nbi_pareto_point *a, const nbi_pareto_point *b) {
    for (int c = 0; c < p->n_costs; c++)
        if (a->cost[c] != b->cost[c]) return a->cost[c] < b->cost[c] ? -1 : 1;
    if (a->score != b->score) return a->score < b->score ? -1 : 1;
    return memcmp(a->policy, b->policy, (size_t)p->n_vars);
}

static bool covers(const nbi_pareto *p, const nbi_pareto_point *a, const nbi_pareto_point *b) {
    if (a->score > b->score) return false;
    for (int c = 0; c < p->n_costs; c++)
        if (a->cost[c] > b->cost[c]) return false;
    return true;
}

nb_status nbi_pareto_add(nb_ctx *ctx, nbi_pareto *p, const uint8_t *policy, double score,
                         const double *cost, bool *added) {
    nbi_pareto_point point = {.score = score};
    size_t n = (size_t)p->n_vars, kept = 0, at = 0;
    bool bad = isnan(score);
    for (int c = 0; c < p->n_costs; c++) {
        point.cost[c] = cost[c];
        bad = bad || isnan(cost[c]);
    }
    if (bad) return nb_fail(ctx, NB_ENUMERIC, "a score or cost for the Pareto set is NaN");
    NB_TRY(nbi_alloc(ctx, n, 1, &point.policy));
    memcpy(point.policy, policy, n);
    bool useless = false;
    for (size_t i = 0; i < p->count && !useless; i++)
        useless = covers(p, &p->points[i], &point) &&
                  !(covers(p, &point, &p->points[i]) && compare(p, &point, &p->points[i]) < 0);
    nb_status st = NB_OK;
    if (!useless && p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 32;
        st = nbi_grow(ctx, &p->points, p->count, capacity, sizeof *p->points);
        if (st == NB_OK) p->capacity = capacity;
    }
    if (useless || st != NB_OK) {
        nbi_free(point.policy);
        if (added && st == NB_OK) *added = false;
        return st;
    }
    for (size_t i = 0; i < p->count; i++) {
        if (covers(p, &point, &p->points[i])) nbi_free(p->points[i].policy);
        else p->points[kept++] = p->points[i];
    }
    while (at < kept && compare(p, &p->points[at], &point) < 0) at++;
    memmove(p->points + at + 1, p->points + at, (kept - at) * sizeof *p->points);
    p->points[at] = point;
    p->count = kept + 1;
    if (added) *added = true;
    return NB_OK;
}
