/* Inside of nbi_select: the reduced problem that the dual and the branch and bound share. */
#ifndef NIBBLE_SEARCH_SELECT_H
#define NIBBLE_SEARCH_SELECT_H

#include "search/search.h"

/* Options that no other option of their group dominates; weights divided by a scale per limit (the
 * limit itself where it is positive), values shifted to a minimum of 0 per group. */
typedef struct nbi_select_core {
    int n, limits;
    int *start;     /* [n+1] options of group v: start[v] … start[v+1]-1 */
    int *original;  /* [options] index in the caller's group */
    double *value;  /* [options] */
    double *weight; /* [options][limits] */
    double *cap;    /* [limits] */
} nbi_select_core;

/* The best complete choice so far (option per group, an index into the core's options). */
typedef struct nbi_select_best {
    int *choice;    /* [n] */
    double value;   /* INFINITY: none */
} nbi_select_best;

/* Slack that rounding of sums may use up, on scaled weights. */
#define NBI_SELECT_EPS 1e-11

/* Maximises the Lagrangian bound min Σ value + λ·(Σ weight - cap) over λ ≥ 0 and offers every
 * choice met on the way, repaired, to `best` (may be NULL); stops once the bound reaches
 * `ceiling`. *bound is a valid lower bound in every case. Needs cap ≥ 0. */
nb_status nbi_select_dual(nb_ctx *ctx, const nbi_select_core *core, double ceiling, double *lambda,
                          double *bound, nbi_select_best *best);
/* The same for the least largest excess: λ sums to 1, values do not count. */
nb_status nbi_select_dual_excess(nb_ctx *ctx, const nbi_select_core *core, double *lambda,
                                 double *bound, nbi_select_best *best);

typedef struct nbi_select_search {
    const nbi_select_core *core;
    const double *lambda; /* [limits] */
    double bound;         /* at lambda; raised to what has been proven */
    bool excess;          /* minimise the largest excess instead of the value; stops at ≤ 0 */
    double until;         /* nb_seconds() */
    long max_nodes;       /* 0: none */
    long nodes;
    bool stopped;         /* out of time or nodes, or cancelled */
} nbi_select_search;
/* Depth-first branch and bound from the incumbent in `best`, which it improves. */
nb_status nbi_select_branch(nb_ctx *ctx, nbi_select_search *search, nbi_select_best *best);

#endif
