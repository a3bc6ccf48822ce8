/* Rounding the weights of one output channel on a grid so that what it computes from given inputs
 * changes least: min over levels q of (s·q − w)ᵀ H (s·q − w), H the Gram matrix of the inputs. Knows
 * neither layers nor schemes: any rising list of levels is a grid. */
#ifndef NIBBLE_QUANT_GRAM_H
#define NIBBLE_QUANT_GRAM_H

#include "base/base.h"

typedef struct nbi_grid {
    int n;
    const int8_t *level; /* rising */
} nbi_grid;

/* H (k×k, symmetric, positive definite) with its factor in the order of rounding. */
typedef struct nbi_gram {
    size_t k;
    double *h;        /* as given (not owned) */
    uint32_t *order;  /* [k] weights by falling diagonal: those that matter most are rounded first */
    float *factor;    /* k×k: row i holds R[i][j], j ≥ i, of H = R·Rᵀ in that order */
    double *lower;    /* k×k: the Cholesky factor of the reversed order, for solving */
} nbi_gram;

/* Factors H; work is split over the context's threads, the result does not depend on their number.
 * NB_ENUMERIC when H is not positive definite. */
nb_status nbi_gram_new(nb_ctx *ctx, double *h, size_t k, nbi_gram *out);
void nbi_gram_free(nbi_gram *gram); /* a zeroed one is allowed */
/* x = H⁻¹·b, both [k]; work[k]. */
void nbi_gram_solve(const nbi_gram *gram, const double *b, double *x, double *work);

/* The index of the grid's level nearest to v; the lower one of two equally near ones. */
int nbi_grid_nearest(const nbi_grid *grid, double v);

/* Work space for one channel, one per thread. */
typedef struct nbi_rounding {
    double *shifted, *slope; /* [k] */
    double *hw;              /* [k] H·w */
    int8_t *trial;           /* [k] */
} nbi_rounding;
nb_status nbi_rounding_new(nb_ctx *ctx, size_t k, nbi_rounding *out);
void nbi_rounding_free(nbi_rounding *rounding);

/* Levels q[k] for w[k] at scale s: one weight after the other takes the level that is nearest once
 * the errors so far are made up for by those that follow (GPTQ, in Babai's form). */
void nbi_gram_round(const nbi_gram *gram, const nbi_grid *grid, const double *w, double scale,
                    int8_t *q, nbi_rounding *work);
/* Coordinate descent from q: each weight in turn takes its best level given all others, and after
 * every sweep the scale its least-squares value unless keep_scale. The error never rises. Returns
 * the error (s·q − w)ᵀH(s·q − w). */
double nbi_gram_refine(const nbi_gram *gram, const nbi_grid *grid, const double *w, int sweeps,
                       bool keep_scale, double *scale, int8_t *q, nbi_rounding *work);
double nbi_gram_error(const nbi_gram *gram, const double *w, double scale, const int8_t *q);
/* Both over some scales around *scale (quick: over two), and q as it is given, refined: what gives the
 * least error. Returns it: never more than that of the given q and scale. */
double nbi_gram_fit(const nbi_gram *gram, const nbi_grid *grid, const double *w, bool keep_scale,
                    bool quick, double *scale, int8_t *q, nbi_rounding *work);

#endif
