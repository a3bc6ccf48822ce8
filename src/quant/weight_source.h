/* Where the integer levels of a layer's weights come from, if not from the plain fit. Who runs the
 * quantized network layer by layer (runtime/scorer) asks when the layer's inputs are there. */
#ifndef NIBBLE_QUANT_WEIGHT_SOURCE_H
#define NIBBLE_QUANT_WEIGHT_SOURCE_H

#include "ir/qnet.h"
#include "quant/gram.h"

typedef struct nbi_rounding_request {
    const nbi_qnet *net;
    int layer;                    /* a convolution */
    nbi_choice choice;            /* of its weights */
    const nbi_qparam *site;       /* [n_sites] grids of the activations */
    const uint8_t *const *value;  /* [n_edges] codes of the images so far computed, storage order, one
                                     image behind the other; NULL: not there any more */
    size_t images;                /* of `value` that learning may use: the first ones */
    nbi_grid grid;                /* levels that weights may have */
    bool keep_scale;              /* one scale for the whole tensor: not to be changed */
    /* In: the plain fit. Out: what the layer gets. */
    int8_t *levels;               /* [n_weights], the layer's order */
    float *scale;                 /* [out_c] of a level of 1 */
    double *mean, *deviation;     /* [out_c] of Σ w·x that the output-statistics correction aims at;
                                     deviation 0: the scale is right as it is */
} nbi_rounding_request;

typedef nb_status (*nbi_rounding_fn)(nb_ctx *ctx, void *user, const nbi_rounding_request *request);

/* The levels that weights of so many bits may have: the values of `table` (by code), or, where it is
 * NULL, the uniform ones, multiples of the level step. `level` holds them. */
void nbi_weight_grid(int bits, const int8_t *table, int8_t level[256], nbi_grid *out);

#endif
