/* Outputs of prefixes by key: buffers in one area of memory, least recently used out first. The area's
 * pages are used again and again: fresh ones cost their faults and their zeros, a quarter of a scoring.
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
    bool apart; /* has pages of its own: the area has no room beside what is pinned */
} nbi_cached;

typedef struct nbi_prefix_cache {
    nbi_cached *slot;
    size_t n_slots;
    uint8_t *area; /* NULL until it is needed */
    size_t area_bytes;
    uint64_t clock;
} nbi_prefix_cache;

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget);
void nbi_cache_free(nbi_prefix_cache *cache);
/* Frees all that is not pinned, and the area if nothing is. */
void nbi_cache_clear(nbi_prefix_cache *cache);
/* Pinned buffer of a key, or NULL. */
nbi_cached *nbi_cache_get(nbi_prefix_cache *cache, uint64_t key);
/* The key counts as used now, if it is there. */
void nbi_cache_touch(nbi_prefix_cache *cache, uint64_t key);
/* A new pinned buffer with unspecified contents; evicts unpinned ones until it has room in the area. */
nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out);
void nbi_cache_unpin(nbi_prefix_cache *cache, nbi_cached *entry);

#endif
