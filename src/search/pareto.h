/* An archive of policies of which none is beaten in the score and all chosen costs at once. */
#ifndef NIBBLE_SEARCH_PARETO_H
#define NIBBLE_SEARCH_PARETO_H

#include "search/search.h"

#define NBI_PARETO_COSTS 3

typedef struct nbi_pareto_point {
    double score;
    double cost[NBI_PARETO_COSTS];
    uint8_t *policy; /* [n_vars], the archive's */
} nbi_pareto_point;

/* Points in the order of cost[0], cost[1], cost[2], score, policy bytes: it does not depend on the
 * order in which they came. */
typedef struct nbi_pareto {
    int n_vars, n_costs; /* costs beyond n_costs are ignored (0) */
    nbi_pareto_point *points;
    size_t count, capacity;
} nbi_pareto;

/* n_vars ≥ 1, 0 ≤ n_costs ≤ NBI_PARETO_COSTS. */
nb_status nbi_pareto_init(nb_ctx *ctx, nbi_pareto *p, int n_vars, int n_costs);
void nbi_pareto_free(nbi_pareto *p);
/* Adds a copy unless a point is at least as good everywhere (of equals the lesser policy stays);
 * points that it beats leave. NaN: NB_ENUMERIC. *added may be NULL. */
nb_status nbi_pareto_add(nb_ctx *ctx, nbi_pareto *p, const uint8_t *policy, double score,
                         const double *cost, bool *added);

#endif
