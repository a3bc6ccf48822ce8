/* Block reconstruction on the integer program: what each block reads comes from the scorer, with all
 * blocks in front of it learned. */
#ifndef NIBBLE_RUNTIME_RECONSTRUCT_H
#define NIBBLE_RUNTIME_RECONSTRUCT_H

#include "quant/blocks.h"
#include "runtime/scorer.h"

typedef struct nbi_reconstruction {
    nbi_blocks_options blocks;
    nbi_fill_fn fill;    /* the learner's images, float */
    void *fill_user;
    size_t images;       /* so many, the first of the scorer's */
    size_t scorer_images; /* all of the scorer's */
    /* Out. */
    int n_blocks, improved;
    double before, after; /* Σ of the blocks' mean squared errors */
} nbi_reconstruction;

/* `learner` has learned all layers and is the scorer's source of weights, `grid` [n_sites] its grids.
 * Both receive what is learned. Cancelled: blocks that are done stay. */
nb_status nbi_reconstruct(nb_ctx *ctx, nbi_scorer *scorer, nbi_learner *learner, nbi_qparam *grid,
                          nbi_reconstruction *job);

#endif
