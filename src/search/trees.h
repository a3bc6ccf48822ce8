/* Gradient boosted regression trees (Chen and Guestrin 2016) for squared error: what the search
 * `quantune` predicts scores with. Small tables: hundreds of rows, hundreds of columns. */
#ifndef NIBBLE_SEARCH_TREES_H
#define NIBBLE_SEARCH_TREES_H

#include "base/base.h"

typedef struct nbi_trees_options {
    int trees, depth;
    double rate;                 /* of learning */
    double lambda, alpha, gamma; /* L2, L1, least gain */
    double rows, columns;        /* part of the rows and columns that a tree sees */
    double deadline;             /* nb_seconds(): no further tree then, nor after a cancel; 0: none */
    uint64_t seed;
} nbi_trees_options;
/* 250 trees of depth 6, rate 0.1, L2 1, L1 0.01, 0.79 of the rows, 0.9 of the columns. */
nbi_trees_options nbi_trees_options_default(void);

typedef struct nbi_trees nbi_trees;
/* x: [n][width], y: [n] finite. */
nb_status nbi_trees_fit(nb_ctx *ctx, const nbi_trees_options *options, const float *x,
                        const double *y, size_t n, size_t width, nbi_trees **out);
double nbi_trees_predict(const nbi_trees *trees, const float *x);
void nbi_trees_free(nbi_trees *trees); /* NULL is allowed */

#endif
