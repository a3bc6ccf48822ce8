/* The insides of block reconstruction, for its two files. */
#ifndef NIBBLE_QUANT_BLOCK_PARTS_H
#define NIBBLE_QUANT_BLOCK_PARTS_H

#include "quant/blocks.h"
#include "quant/qat.h"

typedef struct nbi_block_site { /* where the simulation quantizes an activation site */
    int n;            /* how often */
    int x, out, step; /* tensors: before, behind, [1,1] */
} nbi_block_site;

struct nbi_blocks {
    nbi_arena arena;
    nbi_blocks_options o; /* bits: a copy, widths only */
    nbi_block_site *vertex; /* [n_sites] */
    int n_blocks;
    nbi_block *block;
};

typedef struct nbi_block_graph {
    nbi_qat *qat;
    nbi_graph *graph; /* qat's; inputs: what the block reads, what it should give */
    int in, out, loss;
    int *mask;        /* [n_sites] constants that say where to quantize; −1: everywhere */
    int *step;        /* [n_sites] constants; −1: not in this block */
} nbi_block_graph;

/* Is a layer's rounding learned? (8 bits: nothing to gain.) */
bool nbi_block_learns(const nbi_blocks *blocks, int layer);
nb_status nbi_blocks_find(nb_ctx *ctx, nbi_blocks *blocks);
/* The simulation of the whole network; sets blocks->vertex, the same every time. */
nb_status nbi_block_simulate(nb_ctx *ctx, nbi_blocks *blocks, nbi_qat **out);
/* A simulation cut to one block; out->qat is the caller's to free, also on failure. */
nb_status nbi_block_open(nb_ctx *ctx, nbi_blocks *blocks, int index, nbi_block_graph *out);

#endif
