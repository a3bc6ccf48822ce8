/* See scorer_cache.h. A few hundred entries at most, so a linear scan is nothing beside one layer. */
#include "runtime/scorer_cache.h"

#define SLOTS 1024

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget) {
    *cache = (nbi_prefix_cache){.budget = budget, .n_slots = SLOTS};
    return nbi_alloc(ctx, SLOTS, sizeof *cache->slot, &cache->slot);
}

static void free_spare(nbi_prefix_cache *cache, nbi_cached *spare) {
    cache->bytes -= spare->bytes;
    nbi_pages_free(spare->data, spare->bytes);
    *spare = (nbi_cached){0};
}

/* The buffer becomes a spare, in place of the one that is the longest there. */
static void drop(nbi_prefix_cache *cache, nbi_cached *e) {
    nbi_cached *spare = &cache->spare[cache->next_spare];
    cache->next_spare = (cache->next_spare + 1) % NBI_CACHE_SPARES;
    free_spare(cache, spare);
    *spare = (nbi_cached){.bytes = e->bytes, .data = e->data};
    *e = (nbi_cached){0};
}

/* true: one of other than `bytes` was there. */
static bool free_spares(nbi_prefix_cache *cache, size_t bytes) {
    bool found = false;
    for (int i = 0; i < NBI_CACHE_SPARES; i++) {
        if (!cache->spare[i].data || cache->spare[i].bytes == bytes) continue;
        found = true;
        free_spare(cache, &cache->spare[i]);
    }
    return found;
}

/* A spare of that size, or a new one. Adds its bytes to those of the cache. */
static nb_status take_buffer(nb_ctx *ctx, nbi_prefix_cache *cache, size_t bytes, uint8_t **out) {
    for (int i = 0; i < NBI_CACHE_SPARES; i++)
        if (cache->spare[i].data && cache->spare[i].bytes == bytes) {
            *out = cache->spare[i].data;
            cache->spare[i] = (nbi_cached){0};
            return NB_OK;
        }
    NB_TRY(nbi_pages_new(ctx, bytes, out));
    cache->bytes += bytes;
    return NB_OK;
}

void nbi_cache_clear(nbi_prefix_cache *cache) {
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++)
        if (cache->slot[i].key && cache->slot[i].pins == 0) drop(cache, &cache->slot[i]);
    free_spares(cache, 0);
}

void nbi_cache_reset(nbi_prefix_cache *cache) {
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++)
        if (cache->slot[i].key) drop(cache, &cache->slot[i]);
    free_spares(cache, 0);
    cache->next_spare = 0;
}

void nbi_cache_free(nbi_prefix_cache *cache) {
    nbi_cache_reset(cache);
    nbi_free(cache->slot);
    *cache = (nbi_prefix_cache){0};
}

nbi_cached *nbi_cache_get(nbi_prefix_cache *cache, uint64_t key) {
    for (size_t i = 0; i < cache->n_slots; i++)
        if (cache->slot[i].key == key) {
            cache->slot[i].used = ++cache->clock;
            cache->slot[i].pins++;
            return &cache->slot[i];
        }
    return NULL;
}

void nbi_cache_touch(nbi_prefix_cache *cache, uint64_t key) {
    for (size_t i = 0; i < cache->n_slots; i++)
        if (cache->slot[i].key == key) cache->slot[i].used = ++cache->clock;
}

static nbi_cached *oldest(nbi_prefix_cache *cache) {
    nbi_cached *found = NULL;
    for (size_t i = 0; i < cache->n_slots; i++) {
        nbi_cached *e = &cache->slot[i];
        if (e->key && e->pins == 0 && (!found || e->used < found->used)) found = e;
    }
    return found;
}

static nbi_cached *free_slot(nbi_prefix_cache *cache) {
    for (size_t i = 0; i < cache->n_slots; i++)
        if (!cache->slot[i].key) return &cache->slot[i];
    nbi_cached *e = oldest(cache);
    if (e) drop(cache, e);
    return e;
}

static bool has_spare(const nbi_prefix_cache *cache, size_t bytes) {
    for (int i = 0; i < NBI_CACHE_SPARES; i++)
        if (cache->spare[i].data && cache->spare[i].bytes == bytes) return true;
    return false;
}

nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out) {
    while (cache->bytes + (has_spare(cache, bytes) ? 0 : bytes) > cache->budget) {
        nbi_cached *e = oldest(cache);
        if (e && e->bytes == bytes) drop(cache, e); /* its buffer is used again */
        else if (free_spares(cache, bytes)) continue; /* spares go before entries do */
        else if (e) drop(cache, e);
        else break; /* what is pinned is needed, whatever the budget */
    }
    nbi_cached *e = free_slot(cache);
    if (!e) return nb_fail(ctx, NB_ENOMEM, "too many tensors are alive at once");
    uint8_t *data;
    NB_TRY(take_buffer(ctx, cache, bytes, &data));
    *e = (nbi_cached){.key = key, .bytes = bytes, .used = ++cache->clock, .pins = 1, .keep = keep,
                      .data = data};
    *out = e;
    return NB_OK;
}

void nbi_cache_unpin(nbi_prefix_cache *cache, nbi_cached *e) {
    if (--e->pins == 0 && !e->keep) drop(cache, e);
}
