/* The context: message of the last failure, log and progress callbacks, cancel flag, clock. Worker
 * threads of one context may fail, log and report progress at the same time: two flags guard the
 * message and the callbacks; both are held for microseconds, so waiting is a yield. */
#include "base/ctx.h"

#include "base/team.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *nb_status_text(nb_status status) {
    static const char *const text[] = {
#define STATUS(name, words) [name] = words,
#include "base/status.def"
#undef STATUS
    };
    return (size_t)status < NBI_COUNT(text) ? text[status] : "unknown status";
}

const char *nb_version(void) {
    return NIBBLE_VERSION;
}

nb_ctx *nb_ctx_new(void) {
    nb_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx) return NULL;
    ctx->processes_here = 1;
    ctx->threads = nbi_cores();
    ctx->start = now();
    atomic_flag_clear(&ctx->message_busy);
    atomic_flag_clear(&ctx->callback_busy);
    return ctx;
}

void nb_ctx_free(nb_ctx *ctx) {
    if (ctx && ctx->team && ctx->team->leave) ctx->team->leave(ctx->team);
    free(ctx);
}

const char *nb_ctx_message(const nb_ctx *ctx) {
    return ctx->message;
}

void nb_ctx_set_threads(nb_ctx *ctx, int threads) {
    const int own = nbi_cores() / ctx->processes_here;
    ctx->threads = threads <= 0 ? (own ? own : 1) : threads > 256 ? 256 : threads;
}

int nb_ctx_threads(const nb_ctx *ctx) {
    return ctx->threads;
}

void nb_ctx_set_seed(nb_ctx *ctx, uint64_t seed) {
    ctx->seed = seed;
}

uint64_t nb_ctx_seed(const nb_ctx *ctx) {
    return ctx->seed;
}

void nb_ctx_set_log(nb_ctx *ctx, nb_log_fn fn, void *user) {
    ctx->log = fn;
    ctx->log_user = user;
}

void nb_ctx_set_progress(nb_ctx *ctx, nb_progress_fn fn, void *user) {
    ctx->progress = fn;
    ctx->progress_user = user;
}

void nb_ctx_cancel(nb_ctx *ctx) {
    atomic_store_explicit(&ctx->cancel, true, memory_order_relaxed);
}

bool nb_cancelled(const nb_ctx *ctx) {
    return ctx->held == 0 && atomic_load_explicit(&ctx->cancel, memory_order_relaxed);
}

void nbi_cancel_hold(nb_ctx *ctx, bool held) {
    ctx->held += held ? 1 : -1;
}

void nb_ctx_clear_cancel(nb_ctx *ctx) {
    atomic_store_explicit(&ctx->cancel, false, memory_order_relaxed);
}

double nb_seconds(const nb_ctx *ctx) {
    return now() - ctx->start;
}

static void acquire(atomic_flag *busy) {
    while (atomic_flag_test_and_set_explicit(busy, memory_order_acquire)) sched_yield();
}

static void release(atomic_flag *busy) {
    atomic_flag_clear_explicit(busy, memory_order_release);
}

nb_status nb_fail(nb_ctx *ctx, nb_status status, const char *format, ...) {
    if (!ctx) return status;
    char text[sizeof ctx->message]; /* an argument may be the message so far */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    acquire(&ctx->message_busy);
    memcpy(ctx->message, text, strlen(text) + 1);
    release(&ctx->message_busy);
    return status;
}

nb_status nb_fail_memory(nb_ctx *ctx, size_t bytes) {
    return nb_fail(ctx, NB_ENOMEM, "no memory for %zu bytes", bytes);
}

nb_status nb_fail_prefix(nb_ctx *ctx, nb_status status, const char *format, ...) {
    if (!ctx) return status;
    char old[sizeof ctx->message], head[256];
    va_list args;
    va_start(args, format);
    vsnprintf(head, sizeof head, format, args);
    va_end(args);
    acquire(&ctx->message_busy);
    memcpy(old, ctx->message, sizeof old);
    /* the tail of an overlong message is cut, never its head */
    snprintf(ctx->message, sizeof ctx->message, "%s: %.*s", head,
             (int)(sizeof ctx->message - sizeof head - 3), old);
    release(&ctx->message_busy);
    return status;
}

void nb_log(nb_ctx *ctx, nb_log_level level, const char *format, ...) {
    if (!ctx || !ctx->log) return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    acquire(&ctx->callback_busy);
    ctx->log(ctx->log_user, level, text);
    release(&ctx->callback_busy);
}

nb_status nb_progress(nb_ctx *ctx, const char *what, double done, double total) {
    if (ctx->progress) {
        double t = nb_seconds(ctx);
        bool last = total > 0 && done >= total;
        acquire(&ctx->callback_busy);
        if (last || t - ctx->last_progress >= 0.1) {
            ctx->last_progress = t;
            ctx->progress(ctx->progress_user, what, done, total);
        }
        release(&ctx->callback_busy);
    }
    if (nb_cancelled(ctx)) return nb_fail(ctx, NB_ECANCELLED, "stopped on request");
    return NB_OK;
}
