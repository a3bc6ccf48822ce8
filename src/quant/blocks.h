/* Rounding learned by gradient descent, block by block: AdaRound's soft rounding of a block's weights,
 * with the error of the block's output as loss (BRECQ), and QDrop's random dropping of activation
 * quantization (docs/quantization.md, "Learned rounding"). A block lies between two tensors of which
 * each is all that passes there: a residual block, or a lone layer. */
#ifndef NIBBLE_QUANT_BLOCKS_H
#define NIBBLE_QUANT_BLOCKS_H

#include "quant/learn.h"

/* What `quantize --ptq` takes. */
#define NBI_BLOCK_BATCH 32
#define NBI_BLOCK_STEPS 300

typedef struct nbi_block {
    int in, out;     /* edges */
    int first, last; /* layers */
} nbi_block;

typedef struct nbi_blocks_options {
    const nbi_graph *source; /* float, any batch */
    const nbi_qnet *net;     /* calibrated */
    const nbi_choice *bits;  /* [n_sites] */
    int edge;                /* the last one that counts (nbi_score_edge) */
    int batch, steps;        /* images of a step; steps of a block */
    bool drop;               /* QDrop: dropping, and activation steps are learned, too */
    uint64_t seed;
} nbi_blocks_options;

typedef struct nbi_blocks nbi_blocks;
/* NB_EUNSUPPORTED: the network cannot be trained (as nbi_qat_new). */
nb_status nbi_blocks_new(nb_ctx *ctx, const nbi_blocks_options *options, nbi_blocks **out);
void nbi_blocks_free(nbi_blocks *blocks); /* NULL is allowed */
/* The blocks that have weights to learn, in order. */
int nbi_blocks_count(const nbi_blocks *blocks);
const nbi_block *nbi_blocks_get(const nbi_blocks *blocks, int i);

typedef struct nbi_block_data { /* storage order, dense */
    size_t images;
    const float *quantized; /* [images][elements of `in`] as the quantized network has it */
    const float *exact;     /* likewise, the float network */
    const float *target;    /* [images][elements of `out`] of the float network */
} nbi_block_data;
/* Learns block i, starting from `frozen` (levels of `learner`'s, as it gave them): new levels go into
 * the learner, new steps into grid[n_sites]. *before and *after: the block's relative error with the
 * rounding as it was and as it is now; where that is not less, nothing has changed. */
nb_status nbi_blocks_learn(nb_ctx *ctx, nbi_blocks *blocks, int i, const nbi_frozen *frozen,
                           const nbi_block_data *data, nbi_learner *learner, nbi_qparam *grid,
                           double *before, double *after);

#endif
