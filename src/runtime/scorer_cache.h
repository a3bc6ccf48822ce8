/* Outputs of prefixes by key: buffers in a few areas of memory, least recently used out first. The
 * pages of areas are used again and again: fresh ones cost their faults and their zeros. Internal to
 * the scorer. */
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
    bool apart; /* has pages of its own: no area has room beside what is pinned */
} nbi_cached;

#define NBI_CACHE_AREAS 32

typedef struct nbi_prefix_cache {
    nbi_cached *slot;
    size_t n_slots;
    struct {
        uint8_t *data;
        size_t bytes;
    } area[NBI_CACHE_AREAS]; /* as they are needed */
    int n_areas;
    size_t bytes, budget; /* of all areas */
    uint64_t clock;
} nbi_prefix_cache;

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget);
void nbi_cache_free(nbi_prefix_cache *cache);
/* Frees all that is not pinned, and all areas if nothing is. */
void nbi_cache_clear(nbi_prefix_cache *cache);
/* Pinned buffer of a key, or NULL. */
nbi_cached *nbi_cache_get(nbi_prefix_cache *cache, uint64_t key);
/* The key counts as used now, if it is there. */
void nbi_cache_touch(nbi_prefix_cache *cache, uint64_t key);
/* A new pinned buffer with unspecified contents; evicts unpinned ones until there is room in an area. */
nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out);
/* Without its last pin it is dropped unless it is to be kept (`keep`) and lies in an area. */
void nbi_cache_unpin(nbi_cached *entry);

#endif
