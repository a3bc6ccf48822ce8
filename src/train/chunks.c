/* Pieces of 16384 elements: 64 KiB of each array, which stays in the second-level cache. */
#include "train/chunks.h"

enum { PIECE = 16384 };

nb_status nbi_chunks_new(nb_ctx *ctx, const nbi_param *arrays, size_t n, nbi_chunks *out) {
    nbi_chunks c = {0};
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += (arrays[i].count + PIECE - 1) / PIECE;
    NB_TRY(nbi_alloc(ctx, total, sizeof *c.chunk, &c.chunk));
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < arrays[i].count; at += PIECE) {
            size_t end = arrays[i].count - at < PIECE ? arrays[i].count : at + PIECE;
            c.chunk[c.n++] = (nbi_chunk){i, at, end};
        }
    *out = c;
    return NB_OK;
}

void nbi_chunks_free(nbi_chunks *chunks) {
    nbi_free(chunks->chunk);
    *chunks = (nbi_chunks){0};
}
