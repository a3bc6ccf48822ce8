/* Outputs of prefixes by key: a list of buffers under a byte budget, least recently used out first.
 * Internal to the scorer. */
#ifndef NIBBLE_RUNTIME_SCORER_CACHE_H
#define NIBBLE_RUNTIME_SCORER_CACHE_H

#include "base/base.h"

typedef struct nbi_cached {
    uint64_t key; /* 0: free slot */
    size_t bytes;
    uint64_t used; /* clock of the last use */
    int pins;
    bool keep; /* stays after the last unpin */
    uint8_t *data;
} nbi_cached;

/* A fresh buffer of many MiB costs its page faults and its zeros: the last few are kept, as many as
 * a network's stages have sizes and a stage has tensors at once. */
#define NBI_CACHE_SPARES 12

typedef struct nbi_prefix_cache {
    nbi_cached *slot;
    size_t n_slots, bytes, budget;
    uint64_t clock;
    nbi_cached spare[NBI_CACHE_SPARES]; /* data and bytes only: of dropped entries, to be used again */
    int next_spare;
} nbi_prefix_cache;

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget);
void nbi_cache_free(nbi_prefix_cache *cache);
/* As new. Nothing may be pinned. */
void nbi_cache_reset(nbi_prefix_cache *cache);
/* Frees all that is not pinned. */
void nbi_cache_clear(nbi_prefix_cache *cache);
/* Pinned buffer of a key, or NULL. */
nbi_cached *nbi_cache_get(nbi_prefix_cache *cache, uint64_t key);
/* The key counts as used now, if it is there. */
void nbi_cache_touch(nbi_prefix_cache *cache, uint64_t key);
/* A new pinned buffer with unspecified contents; evicts unpinned ones while the budget is exceeded. */
nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out);
void nbi_cache_unpin(nbi_prefix_cache *cache, nbi_cached *entry);

#endif
