/* Many arrays walked as one list of pieces of bounded size, so that small and large tensors share
 * the threads evenly and every sum is formed in an order of its own. */
#ifndef NIBBLE_TRAIN_CHUNKS_H
#define NIBBLE_TRAIN_CHUNKS_H

#include "train/optimizer.h"

typedef struct nbi_chunk {
    size_t array, begin, end;
} nbi_chunk;
typedef struct nbi_chunks {
    size_t n;
    nbi_chunk *chunk;
} nbi_chunks;
nb_status nbi_chunks_new(nb_ctx *ctx, const nbi_param *arrays, size_t n, nbi_chunks *out);
void nbi_chunks_free(nbi_chunks *chunks);

#endif
