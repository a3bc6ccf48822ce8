/* See scorer_cache.h. A few hundred entries at most, so a linear scan is nothing beside one layer. */
#include "runtime/scorer_cache.h"

#define SLOTS 1024

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget) {
    *cache = (nbi_prefix_cache){.budget = budget, .n_slots = SLOTS};
    return nbi_alloc(ctx, SLOTS, sizeof *cache->slot, &cache->slot);
}

static void drop(nbi_prefix_cache *cache, nbi_cached *e) {
    cache->bytes -= e->bytes;
    nbi_free(e->data);
    *e = (nbi_cached){0};
}

void nbi_cache_free(nbi_prefix_cache *cache) {
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++)
        if (cache->slot[i].key) drop(cache, &cache->slot[i]);
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

nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out) {
    while (cache->bytes + bytes > cache->budget) {
        nbi_cached *e = oldest(cache);
        if (!e) break; /* what is pinned is needed, whatever the budget */
        drop(cache, e);
    }
    nbi_cached *e = free_slot(cache);
    if (!e) return nb_fail(ctx, NB_ENOMEM, "too many tensors are alive at once");
    uint8_t *data;
    NB_TRY(nbi_alloc(ctx, bytes, 1, &data));
    *e = (nbi_cached){.key = key, .bytes = bytes, .used = ++cache->clock, .pins = 1, .keep = keep,
                      .data = data};
    cache->bytes += bytes;
    *out = e;
    return NB_OK;
}

void nbi_cache_unpin(nbi_prefix_cache *cache, nbi_cached *e) {
    if (--e->pins == 0 && !e->keep) drop(cache, e);
}
