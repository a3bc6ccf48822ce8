/* See scorer_cache.h. A few hundred entries at most, so a linear scan is nothing beside one layer. */
#include "runtime/scorer_cache.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define CLOSE(data, bytes) ASAN_POISON_MEMORY_REGION(data, bytes)
#define OPEN(data, bytes)  ASAN_UNPOISON_MEMORY_REGION(data, bytes)
#else
#define CLOSE(data, bytes) ((void)0)
#define OPEN(data, bytes)  ((void)0)
#endif

#define SLOTS 1024
#define ALIGN 4096

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget) {
    *cache = (nbi_prefix_cache){.area_bytes = budget, .n_slots = SLOTS};
    return nbi_alloc(ctx, SLOTS, sizeof *cache->slot, &cache->slot);
}

static void drop(nbi_cached *e) {
    if (e->apart)
        nbi_pages_free(e->data, e->bytes);
    else
        CLOSE(e->data, e->bytes);
    *e = (nbi_cached){0};
}

static void free_area(nbi_prefix_cache *cache) {
    if (cache->area) OPEN(cache->area, cache->area_bytes);
    nbi_pages_free(cache->area, cache->area_bytes);
    cache->area = NULL;
}

void nbi_cache_clear(nbi_prefix_cache *cache) {
    bool pinned = false;
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++) {
        nbi_cached *e = &cache->slot[i];
        if (e->key && e->pins == 0) drop(e);
        pinned |= e->key != 0;
    }
    if (!pinned) free_area(cache);
}

void nbi_cache_free(nbi_prefix_cache *cache) {
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++)
        if (cache->slot[i].key) drop(&cache->slot[i]);
    free_area(cache);
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
    if (e) drop(e);
    return e;
}

/* The first place in the area with so much room, or NULL. */
static uint8_t *find_room(const nbi_prefix_cache *cache, size_t bytes) {
    size_t at = 0;
    for (bool free = false; !free;) {
        if (bytes > cache->area_bytes || at > cache->area_bytes - bytes) return NULL;
        free = true;
        for (size_t i = 0; i < cache->n_slots; i++) {
            const nbi_cached *e = &cache->slot[i];
            if (!e->key || e->apart) continue;
            const size_t begin = (size_t)(e->data - cache->area), end = begin + e->bytes;
            if (at >= end || at + bytes <= begin) continue;
            at = (end + ALIGN - 1) / ALIGN * ALIGN;
            free = false;
        }
    }
    return cache->area + at;
}

static nb_status map_area(nb_ctx *ctx, nbi_prefix_cache *cache) {
    if (cache->area || !cache->area_bytes) return NB_OK;
    NB_TRY(nbi_pages_new(ctx, cache->area_bytes, &cache->area));
    CLOSE(cache->area, cache->area_bytes);
    return NB_OK;
}

nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out) {
    NB_TRY(map_area(ctx, cache));
    uint8_t *data = find_room(cache, bytes);
    for (nbi_cached *old; !data && (old = oldest(cache)); data = find_room(cache, bytes)) drop(old);
    const bool apart = !data; /* what is pinned is needed, whatever the budget */
    nbi_cached *e = free_slot(cache);
    if (!e) return nb_fail(ctx, NB_ENOMEM, "too many tensors are alive at once");
    if (apart)
        NB_TRY(nbi_pages_new(ctx, bytes, &data));
    else
        OPEN(data, bytes);
    *e = (nbi_cached){.key = key, .bytes = bytes, .used = ++cache->clock, .pins = 1, .keep = keep,
                      .data = data, .apart = apart};
    *out = e;
    return NB_OK;
}

void nbi_cache_unpin(nbi_prefix_cache *cache, nbi_cached *e) {
    (void)cache;
    if (--e->pins == 0 && (!e->keep || e->apart)) drop(e);
}
