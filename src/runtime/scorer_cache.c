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

#define SLOTS      1024
#define ALIGN      4096
#define LEAST_AREA ((size_t)8 << 20)

nb_status nbi_cache_init(nb_ctx *ctx, nbi_prefix_cache *cache, size_t budget) {
    *cache = (nbi_prefix_cache){.budget = budget, .n_slots = SLOTS};
    return nbi_alloc(ctx, SLOTS, sizeof *cache->slot, &cache->slot);
}

static void drop(nbi_cached *e) {
    if (e->apart)
        nbi_pages_free(e->data, e->bytes);
    else
        CLOSE(e->data, e->bytes);
    *e = (nbi_cached){0};
}

static void free_areas(nbi_prefix_cache *cache) {
    for (int i = 0; i < cache->n_areas; i++) {
        OPEN(cache->area[i].data, cache->area[i].bytes);
        nbi_pages_free(cache->area[i].data, cache->area[i].bytes);
    }
    cache->n_areas = 0;
    cache->bytes = 0;
}

void nbi_cache_clear(nbi_prefix_cache *cache) {
    bool pinned = false;
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++) {
        nbi_cached *e = &cache->slot[i];
        if (e->key && e->pins == 0) drop(e);
        pinned |= e->key != 0;
    }
    if (!pinned) free_areas(cache);
}

void nbi_cache_free(nbi_prefix_cache *cache) {
    for (size_t i = 0; cache->slot && i < cache->n_slots; i++)
        if (cache->slot[i].key) drop(&cache->slot[i]);
    free_areas(cache);
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

/* The first place in an area with so much room, or NULL. */
static uint8_t *place_in(const nbi_prefix_cache *cache, int area, size_t bytes) {
    const uintptr_t start = (uintptr_t)cache->area[area].data;
    const size_t room = cache->area[area].bytes;
    size_t at = 0;
    for (bool free = false; !free;) {
        if (bytes > room || at > room - bytes) return NULL;
        free = true;
        for (size_t i = 0; i < cache->n_slots; i++) {
            const nbi_cached *e = &cache->slot[i];
            const uintptr_t data = (uintptr_t)e->data;
            if (!e->key || e->apart || data < start || data - start >= room) continue;
            const size_t begin = (size_t)(data - start), end = begin + e->bytes;
            if (at >= end || at + bytes <= begin) continue;
            at = (end + ALIGN - 1) / ALIGN * ALIGN;
            free = false;
        }
    }
    return cache->area[area].data + at;
}

static uint8_t *find_room(const nbi_prefix_cache *cache, size_t bytes) {
    uint8_t *found = NULL;
    for (int i = 0; !found && i < cache->n_areas; i++) found = place_in(cache, i, bytes);
    return found;
}

/* One more area within the budget, if there is one, for some buffers of this size. */
static nb_status add_area(nb_ctx *ctx, nbi_prefix_cache *cache, size_t bytes) {
    const size_t left = cache->budget - cache->bytes;
    size_t size = bytes > LEAST_AREA / 4 ? 4 * (bytes + ALIGN) : LEAST_AREA;
    uint8_t *data;
    if (bytes > left || cache->n_areas == NBI_CACHE_AREAS) return NB_OK;
    if (size > left) size = left;
    NB_TRY(nbi_pages_new(ctx, size, &data));
    CLOSE(data, size);
    cache->area[cache->n_areas].data = data;
    cache->area[cache->n_areas++].bytes = size;
    cache->bytes += size;
    return NB_OK;
}

nb_status nbi_cache_put(nb_ctx *ctx, nbi_prefix_cache *cache, uint64_t key, size_t bytes,
                        bool keep, nbi_cached **out) {
    uint8_t *data = find_room(cache, bytes);
    if (!data) NB_TRY(add_area(ctx, cache, bytes));
    if (!data) data = find_room(cache, bytes);
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

void nbi_cache_unpin(nbi_cached *e) {
    if (--e->pins == 0 && (!e->keep || e->apart)) drop(e);
}
