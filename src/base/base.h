/* The base room: context, errors, memory, files, random numbers, threads. Knows nothing about
 * networks. Every other room may include it. */
#ifndef NIBBLE_BASE_H
#define NIBBLE_BASE_H

#include <nibble/nibble.h>

#if defined(__GNUC__)
#define NBI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define NBI_PRINTF(f, a)
#endif
/* Before a static function whose loops gain by wider vectors: compiled for AVX2, too, and chosen
 * when the program is loaded. Results are the same, because nothing is contracted or reordered. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&        \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NBI_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define NBI_WIDE
#endif
#define NBI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- errors -------------------------------------------------------------------------------- */

/* Records the message and returns `status`: return nb_fail(ctx, NB_EFORMAT, "node '%s': …", …).
 * ctx may be NULL (no message is kept). Worker threads of a context may fail at the same time: the
 * message is one of theirs, whole. */
nb_status nb_fail(nb_ctx *ctx, nb_status status, const char *format, ...) NBI_PRINTF(3, 4);
/* nb_fail for a failed allocation of `bytes`. */
nb_status nb_fail_memory(nb_ctx *ctx, size_t bytes);
/* Puts "text: " before the message of an error that is being forwarded; returns `status`. */
nb_status nb_fail_prefix(nb_ctx *ctx, nb_status status, const char *format, ...) NBI_PRINTF(3, 4);
void nb_log(nb_ctx *ctx, nb_log_level level, const char *format, ...) NBI_PRINTF(3, 4);
/* Reports progress (rate-limited); returns NB_ECANCELLED after nb_ctx_cancel(). */
nb_status nb_progress(nb_ctx *ctx, const char *what, double done, double total);
bool nb_cancelled(const nb_ctx *ctx);
/* While held, requests to stop wait: what comes next ends what would be lost otherwise. Calls nest. */
void nbi_cancel_hold(nb_ctx *ctx, bool held);
/* Monotonic seconds since the context was made. */
double nb_seconds(const nb_ctx *ctx);

/* Forwards a failure. */
#define NB_TRY(expr)                                                                               \
    do {                                                                                           \
        nb_status nb_try_status_ = (expr);                                                         \
        if (nb_try_status_ != NB_OK) return nb_try_status_;                                        \
    } while (0)
/* Forwards a failure through the function's `done:` label; needs a local `nb_status st`. */
#define NB_TRYG(expr)                                                                              \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st != NB_OK) goto done;                                                                \
    } while (0)

/* ---- memory -------------------------------------------------------------------------------- */

/* 64-byte aligned, zeroed; count*size is checked. *out is NULL for 0 bytes. Free with nbi_free. */
nb_status nbi_alloc(nb_ctx *ctx, size_t count, size_t size, void *out_pointer);
/* The same with unspecified contents: no page of it is touched. */
nb_status nbi_alloc_plain(nb_ctx *ctx, size_t count, size_t size, void *out_pointer);
/* Whole pages with unspecified contents, > 0 bytes: for large buffers that come and go in many sizes,
 * which would tear a heap to pieces. Free with nbi_pages_free and the same number of bytes. */
nb_status nbi_pages_new(nb_ctx *ctx, size_t bytes, void *out_pointer);
void nbi_pages_free(void *pages, size_t bytes); /* NULL is allowed */
/* Grows *pointer (from nbi_alloc or NULL) to hold `count` items, keeping the first `old_count`. */
nb_status nbi_grow(nb_ctx *ctx, void *pointer, size_t old_count, size_t count, size_t size);
/* malloc that nbi_alloc_fail_after reaches: for libraries that take an allocator. */
void *nbi_malloc(size_t size);
void nbi_free(void *pointer); /* NULL is allowed */
/* NB_ENOMEM unless `bytes` of address space could be had now: before calls of libraries that crash without memory. */
nb_status nbi_memory_check(nb_ctx *ctx, size_t bytes);
/* true and *out = a*b, or false on overflow. */
bool nbi_mul_size(size_t a, size_t b, size_t *out);
/* Makes the k-th allocation from now fail (k = 1 is the next one; 0 = never). Tests only. */
void nbi_alloc_fail_after(long k);
/* Likewise, and all that follow fail, too. */
void nbi_alloc_fail_from(long k);
/* How many allocations are left before that; 0 when it has failed or was never asked for. */
long nbi_alloc_fail_left(void);

/* A bump allocator; everything is freed at once. Zero-initialised is a valid empty arena. */
typedef struct nbi_arena {
    struct nbi_arena_block *head;
    size_t used, size; /* of the head block */
    size_t total;      /* bytes handed out */
} nbi_arena;
/* Zeroed, 64-byte aligned for sizes ≥ 64, else 16. NULL when there is no memory. */
void *nbi_arena_alloc(nbi_arena *arena, size_t count, size_t size);
/* A copy of `length` bytes plus a NUL. NULL when there is no memory. */
char *nbi_arena_text(nbi_arena *arena, const char *text, size_t length);
char *nbi_arena_format(nbi_arena *arena, const char *format, ...) NBI_PRINTF(2, 3);
void nbi_arena_free(nbi_arena *arena);

/* A growing byte buffer; zero-initialised is empty. `data` always ends in a NUL past `size`. */
typedef struct nbi_buf {
    char *data;
    size_t size, capacity;
} nbi_buf;
nb_status nbi_buf_append(nb_ctx *ctx, nbi_buf *buf, const void *data, size_t size);
nb_status nbi_buf_printf(nb_ctx *ctx, nbi_buf *buf, const char *format, ...) NBI_PRINTF(3, 4);
void nbi_buf_free(nbi_buf *buf);

/* ---- files --------------------------------------------------------------------------------- */

/* Reads a whole regular file of at most `max_bytes`. Free *out_data with nbi_free. */
nb_status nbi_file_read(nb_ctx *ctx, const char *path, size_t max_bytes, void **out_data,
                        size_t *out_size);
/* Writes path.tmp, syncs, renames: the old content or the new one, never half. */
nb_status nbi_file_write(nb_ctx *ctx, const char *path, const void *data, size_t size);
/* mkdir -p; NB_OK when it exists. */
nb_status nbi_make_folder(nb_ctx *ctx, const char *path);
bool nbi_file_exists(const char *path);
bool nbi_is_folder(const char *path);
/* Both exist and are one, by whatever names or links. */
bool nbi_same_file(const char *a, const char *b);
/* The names in a folder, sorted bytewise, without those that start with '.'; they live in the
 * arena. At most NBI_FOLDER_MAX names. */
enum { NBI_FOLDER_MAX = 1 << 24 };
nb_status nbi_folder_list(nb_ctx *ctx, const char *path, nbi_arena *arena, const char ***out_names,
                          size_t *out_n);

/* A regular file, open for reading at any offset from any thread. */
typedef struct nbi_file {
    int fd;
    uint64_t size; /* bytes when it was opened */
    char *path;    /* owned */
} nbi_file;
nb_status nbi_file_open(nb_ctx *ctx, const char *path, nbi_file *out);
/* Exactly `size` bytes from `offset`, or NB_EIO. */
nb_status nbi_file_read_at(nb_ctx *ctx, const nbi_file *file, uint64_t offset, void *out,
                           size_t size);
void nbi_file_close(nbi_file *file); /* a zeroed one is allowed */

/* ---- random numbers ------------------------------------------------------------------------ */

/* PCG32 (O'Neill 2014): small, seeded, the same on every machine. */
typedef struct nbi_rng {
    uint64_t state, inc;
} nbi_rng;
void nbi_rng_seed(nbi_rng *rng, uint64_t seed, uint64_t stream);
uint32_t nbi_rng_u32(nbi_rng *rng);
/* Uniform in 0..n-1 without bias; n ≥ 1. */
uint32_t nbi_rng_below(nbi_rng *rng, uint32_t n);
/* Uniform in [0, 1), 24 bits. */
float nbi_rng_uniform(nbi_rng *rng);
/* Standard normal (Box–Muller). */
double nbi_rng_normal(nbi_rng *rng);
/* Fisher–Yates. */
void nbi_rng_shuffle(nbi_rng *rng, uint32_t *items, size_t n);
/* 64-bit FNV-1a; start with NBI_HASH_START. */
#define NBI_HASH_START 14695981039346656037ull
uint64_t nbi_hash(uint64_t hash, const void *data, size_t size);

/* ---- threads ------------------------------------------------------------------------------- */

/* fn(user, begin, end, worker) on disjoint chunks that cover 0..n-1; chunk borders depend on n and
 * `chunk` only, never on the thread count, so results may be summed per chunk deterministically.
 * worker is 0..threads-1. The first failure is returned, other chunks may or may not have run.
 * Nested calls run on the calling thread. */
typedef nb_status (*nbi_range_fn)(void *user, size_t begin, size_t end, int worker);
nb_status nbi_parallel(nb_ctx *ctx, size_t n, size_t chunk, nbi_range_fn fn, void *user);

/* NB_ENOMEM when the context's threads cannot be started: OpenMP would end the process. nbi_parallel
 * checks for itself; for libraries that start threads of their own. */
nb_status nbi_threads_check(nb_ctx *ctx);
/* Makes libraries that start threads of their own (oneDNN) use this context's number of threads in
 * calls from this thread. */
void nbi_threads_apply(const nb_ctx *ctx);

/* ---- options ------------------------------------------------------------------------------- */

/* A table row of a scheme, search or reader: parsing, bounds errors, help and docs come from it. */
typedef struct nbi_option {
    const char *name;
    enum { NBI_OPT_INT, NBI_OPT_REAL, NBI_OPT_BOOL, NBI_OPT_CHOICE, NBI_OPT_TEXT } type;
    double def, min, max;
    const char *choices; /* "a|b|c" for NBI_OPT_CHOICE: the value is the index */
    const char *help;
} nbi_option;
/* The value of a text option (whose number says nothing) in "key=value,…": an arena's copy, or NULL
 * where it is not given or there is no memory. */
const char *nbi_options_text(nbi_arena *arena, const char *text, const char *name);
/* true where "key=value,…" has the key (text may be NULL). */
bool nbi_options_given(const char *text, const char *name);
/* Parses "key=value,key=value" over a table into values[i] (defaults first). text NULL or "" = all
 * defaults. The error names the key, the value and the bounds. `owner` names whose options. */
nb_status nbi_options_parse(nb_ctx *ctx, const char *owner, const nbi_option *table, size_t n,
                            const char *text, double *values);

/* ---- data types ---------------------------------------------------------------------------- */

/* "float32" …; never NULL. */
const char *nbi_dtype_name(nb_dtype dtype);
/* Bits per element: 32, 8, 4, 2…; 0 for NONE and STRING. BOOL is 8. */
int nbi_dtype_bits(nb_dtype dtype);
/* Bytes of `count` elements, packed (ceil). */
size_t nbi_dtype_bytes(nb_dtype dtype, size_t count);

#endif
