/* The trace of blocks of a Hessian from gradients alone (Hutchinson 1990, as HAWQ-V2 uses it):
 * Tr H_l = E v_l'(H v)_l, v of random signs, H v = (g(x + h·v) − g(x − h·v)) / 2h. One pair of
 * gradients gives a sample for every block. */
#ifndef NIBBLE_QUANT_HUTCHINSON_H
#define NIBBLE_QUANT_HUTCHINSON_H

#include "base/base.h"

typedef struct nbi_hutchinson_block {
    float *value; /* moved for a probe, and back: the same bits afterwards */
    size_t count;
    double size;  /* typical value: a probe moves by ±step·size */
    double trace; /* result */
    double error; /* its standard error; INFINITY before two probes */
} nbi_hutchinson_block;

typedef struct nbi_hutchinson {
    int n;
    nbi_hutchinson_block *block;
    /* Gradients of all blocks at their values: *out[i] = [count], valid until the next call.
     * `probe` is the same for both of a pair (which images are used). */
    nb_status (*gradient)(nb_ctx *ctx, void *user, long probe, const float **out);
    void *user;
    double step;      /* e.g. 0.01 */
    long least, most; /* probes */
    double tolerance; /* stops once every error is below tolerance·trace */
    double deadline;  /* nb_seconds(): stops after the next probe */
    uint64_t seed;
} nbi_hutchinson;

/* *probes: how many were made (at least one). A request to stop is NB_ECANCELLED. */
nb_status nbi_hutchinson_run(nb_ctx *ctx, const nbi_hutchinson *spec, long *probes);

#endif
