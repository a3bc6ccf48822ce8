/* nibble: automatic low-bit quantization of neural networks.
 *
 * The whole public API. Conventions:
 *   - every fallible function returns an nb_status; results come back through out-parameters, which
 *     are untouched on failure; nb_ctx_message() then holds one sentence that names the culprit;
 *   - the library never prints, exits or aborts; progress and log lines go to callbacks;
 *   - an nb_ctx may be used by one thread at a time (it owns a worker pool of its own).
 */
#ifndef NIBBLE_NIBBLE_H
#define NIBBLE_NIBBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NB_API __attribute__((visibility("default")))
#else
#define NB_API
#endif

/* Status codes; the list and the texts live in src/base/status.def. */
typedef enum nb_status {
    NB_OK = 0,
    NB_ENOMEM,       /* no memory */
    NB_EINVAL,       /* a wrong argument or option */
    NB_EFORMAT,      /* a file that is not what it should be */
    NB_EIO,          /* reading or writing failed */
    NB_EUNSUPPORTED, /* valid, but this build cannot do it */
    NB_ELIMIT,       /* a requested limit cannot be met */
    NB_ECANCELLED,   /* the caller asked to stop */
    NB_EMISMATCH,    /* a comparison asked for by the caller found a difference */
    NB_ENUMERIC      /* NaN or infinity where a number was needed */
} nb_status;

/* Short English name of a status, never NULL. */
NB_API const char *nb_status_text(nb_status status);
/* "0.1.0". */
NB_API const char *nb_version(void);

/* ---- context ------------------------------------------------------------------------------- */

typedef struct nb_ctx nb_ctx;

typedef enum nb_log_level { NB_LOG_ERROR, NB_LOG_WARNING, NB_LOG_INFO, NB_LOG_DEBUG } nb_log_level;
/* `text` is one line without newline, valid during the call. */
typedef void (*nb_log_fn)(void *user, nb_log_level level, const char *text);
/* `done` of `total` units of `what` (total 0: unknown). Called at most some times per second. */
typedef void (*nb_progress_fn)(void *user, const char *what, double done, double total);

/* NULL when there is no memory. Threads default to the number of cores, the seed to 0. */
NB_API nb_ctx *nb_ctx_new(void);
NB_API void nb_ctx_free(nb_ctx *ctx); /* NULL is allowed */
/* The message of the last failure, "" if none; valid until the next call with this context. */
NB_API const char *nb_ctx_message(const nb_ctx *ctx);
/* 0 = all cores; at most 256. */
NB_API void nb_ctx_set_threads(nb_ctx *ctx, int threads);
NB_API int nb_ctx_threads(const nb_ctx *ctx);
NB_API void nb_ctx_set_seed(nb_ctx *ctx, uint64_t seed);
NB_API uint64_t nb_ctx_seed(const nb_ctx *ctx);
NB_API void nb_ctx_set_log(nb_ctx *ctx, nb_log_fn fn, void *user);
NB_API void nb_ctx_set_progress(nb_ctx *ctx, nb_progress_fn fn, void *user);
/* Asks running work to stop at the next safe point; may be called from a signal handler or another
 * thread. Work that stops early returns NB_ECANCELLED, or NB_OK with the best result so far. */
NB_API void nb_ctx_cancel(nb_ctx *ctx);

/* ---- data types ---------------------------------------------------------------------------- */

typedef enum nb_dtype {
    NB_DTYPE_NONE = 0,
    NB_DTYPE_F32,
    NB_DTYPE_F64,
    NB_DTYPE_F16,
    NB_DTYPE_BF16,
    NB_DTYPE_S8,
    NB_DTYPE_U8,
    NB_DTYPE_S16,
    NB_DTYPE_U16,
    NB_DTYPE_S32,
    NB_DTYPE_U32,
    NB_DTYPE_S64,
    NB_DTYPE_U64,
    NB_DTYPE_BOOL,
    NB_DTYPE_S4, /* two per byte, low half first */
    NB_DTYPE_U4,
    NB_DTYPE_S2, /* four per byte, lowest bits first */
    NB_DTYPE_U2,
    NB_DTYPE_STRING /* carried through, never computed with */
} nb_dtype;

#ifdef __cplusplus
}
#endif
#endif
