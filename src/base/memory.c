/* Allocation with checked sizes, arenas, buffers; one place where an allocation can be made to
 * fail, so that tests can walk through every out-of-memory path. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#include "base/base.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE   ((size_t)2 << 20)
#define SMALL_PAGE  ((size_t)4 << 10)
#define BLOCK_BYTES ((size_t)64 * 1024)

static atomic_long fail_after;
static atomic_bool fail_on; /* after the first failed one */

void nbi_alloc_fail_after(long k) {
    atomic_store(&fail_on, false);
    atomic_store(&fail_after, k);
}

void nbi_alloc_fail_from(long k) {
    atomic_store(&fail_after, k);
    atomic_store(&fail_on, k > 0);
}

long nbi_alloc_fail_left(void) {
    return atomic_load(&fail_after);
}

/* Is this the allocation that a test makes fail? */
static bool refused(void) {
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) > 0)
        return atomic_fetch_sub(&fail_after, 1) == 1;
    return atomic_load_explicit(&fail_on, memory_order_relaxed);
}

void *nbi_malloc(size_t size) {
    return refused() ? NULL : malloc(size);
}

static void *raw_alloc(size_t bytes) {
    if (refused()) return NULL;
    if (bytes > SIZE_MAX - 63) return NULL;
    return aligned_alloc(64, (bytes + 63) & ~(size_t)63);
}

bool nbi_mul_size(size_t a, size_t b, size_t *out) {
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

nb_status nbi_alloc_plain(nb_ctx *ctx, size_t count, size_t size, void *out_pointer) {
    size_t bytes;
    if (!nbi_mul_size(count, size, &bytes))
        return nb_fail(ctx, NB_ENOMEM, "no memory for %zu items of %zu bytes", count, size);
    void *p = NULL;
    if (bytes && !(p = raw_alloc(bytes))) return nb_fail_memory(ctx, bytes);
    memcpy(out_pointer, &p, sizeof p);
    return NB_OK;
}

nb_status nbi_alloc(nb_ctx *ctx, size_t count, size_t size, void *out_pointer) {
    void *p = NULL;
    NB_TRY(nbi_alloc_plain(ctx, count, size, &p));
    if (p) memset(p, 0, count * size);
    memcpy(out_pointer, &p, sizeof p);
    return NB_OK;
}

#ifndef __SANITIZE_ADDRESS__
/* Whole pages, and whole huge ones where they waste little. */
static size_t mapped_bytes(size_t bytes) {
    const size_t huge = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    return huge - bytes <= bytes / 8 ? huge : (bytes + SMALL_PAGE - 1) / SMALL_PAGE * SMALL_PAGE;
}
#endif

/* Not from the heap, which cannot give back or join what small allocations hold apart. */
nb_status nbi_pages_new(nb_ctx *ctx, size_t bytes, void *out_pointer) {
#ifdef __SANITIZE_ADDRESS__ /* finds accesses beyond the end on the heap only */
    return nbi_alloc_plain(ctx, bytes, 1, out_pointer);
#else
    if (refused()) return nb_fail_memory(ctx, bytes);
    const size_t all = mapped_bytes(bytes);
    const size_t room = all >= HUGE_PAGE ? all + HUGE_PAGE : all; /* to be cut to whole huge pages */
    char *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nb_fail_memory(ctx, bytes);
    if (room > all) {
        const size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
        if (before) munmap(p, before);
        p += before;
        if (room - before > all) munmap(p + all, room - before - all);
        madvise(p, all, MADV_HUGEPAGE); /* a fault and a clearing for 2 MiB, not for 4 KiB */
    }
    memcpy(out_pointer, &p, sizeof p);
    return NB_OK;
#endif
}

void nbi_pages_free(void *pages, size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    (void)bytes;
    free(pages);
#else
    if (pages) munmap(pages, mapped_bytes(bytes));
#endif
}

nb_status nbi_memory_check(nb_ctx *ctx, size_t bytes) {
    /* address space, not what the heap has left: generated code is mapped */
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nb_fail_memory(ctx, bytes);
    munmap(p, bytes);
    return NB_OK;
}

nb_status nbi_grow(nb_ctx *ctx, void *pointer, size_t old_count, size_t count, size_t size) {
    void *old, *grown = NULL;
    memcpy(&old, pointer, sizeof old);
    NB_TRY(nbi_alloc(ctx, count, size, &grown));
    if (old_count) memcpy(grown, old, old_count * size);
    free(old);
    memcpy(pointer, &grown, sizeof grown);
    return NB_OK;
}

void nbi_free(void *pointer) {
    free(pointer);
}

struct nbi_arena_block {
    struct nbi_arena_block *next;
    size_t pad[7]; /* keeps the payload 64-byte aligned */
};

void *nbi_arena_alloc(nbi_arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (!nbi_mul_size(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    size_t align = bytes >= 64 ? 64 : 16;
    size_t start = (arena->used + align - 1) & ~(align - 1);
    if (!arena->head || start > arena->size || bytes > arena->size - start) {
        size_t payload = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        struct nbi_arena_block *block = raw_alloc(sizeof *block + payload);
        if (!block) return NULL;
        block->next = arena->head;
        arena->head = block;
        arena->size = payload;
        start = 0;
    }
    void *p = (char *)(arena->head + 1) + start;
    arena->used = start + bytes;
    arena->total += bytes;
    memset(p, 0, bytes);
    return p;
}

char *nbi_arena_text(nbi_arena *arena, const char *text, size_t length) {
    char *copy = nbi_arena_alloc(arena, length + 1, 1);
    if (copy && length) memcpy(copy, text, length);
    return copy;
}

char *nbi_arena_format(nbi_arena *arena, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : nbi_arena_alloc(arena, (size_t)n + 1, 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

void nbi_arena_free(nbi_arena *arena) {
    for (struct nbi_arena_block *b = arena->head; b;) {
        struct nbi_arena_block *next = b->next;
        free(b);
        b = next;
    }
    *arena = (nbi_arena){0};
}

static nb_status buf_reserve(nb_ctx *ctx, nbi_buf *buf, size_t more) {
    if (more > SIZE_MAX / 4 || buf->size > SIZE_MAX / 4) return nb_fail_memory(ctx, more);
    size_t need = buf->size + more + 1;
    if (need <= buf->capacity) return NB_OK;
    size_t capacity = buf->capacity * 2 > need ? buf->capacity * 2 : need + 256;
    NB_TRY(nbi_grow(ctx, &buf->data, buf->size, capacity, 1));
    buf->capacity = capacity;
    return NB_OK;
}

nb_status nbi_buf_append(nb_ctx *ctx, nbi_buf *buf, const void *data, size_t size) {
    NB_TRY(buf_reserve(ctx, buf, size));
    if (size) memcpy(buf->data + buf->size, data, size);
    buf->size += size;
    buf->data[buf->size] = 0;
    return NB_OK;
}

nb_status nbi_buf_printf(nb_ctx *ctx, nbi_buf *buf, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    nb_status st = n < 0 ? nb_fail(ctx, NB_EINVAL, "bad format") : buf_reserve(ctx, buf, (size_t)n);
    if (st == NB_OK) {
        vsnprintf(buf->data + buf->size, (size_t)n + 1, format, again);
        buf->size += (size_t)n;
    }
    va_end(again);
    return st;
}

void nbi_buf_free(nbi_buf *buf) {
    free(buf->data);
    *buf = (nbi_buf){0};
}
