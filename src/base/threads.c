/* The only user of OpenMP. Chunk borders never depend on the thread count, so sums per chunk that
 * are added in chunk order are the same at any thread count.
 *
 * OpenMP ends the process when it cannot start a thread (a limit on memory or on processes). So
 * before a team of a new size is asked for, as many threads are started and joined by hand; their
 * stacks stay with the C library, where OpenMP's threads find them. */
#include "base/ctx.h"

#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static atomic_int proven = 1; /* so many threads could be started */

static void *wait_for_all(void *barrier) {
    pthread_mutex_lock(barrier); /* held until every thread is there */
    pthread_mutex_unlock(barrier);
    return NULL;
}

static nb_status prove_threads(nb_ctx *ctx, int threads) {
    pthread_mutex_t all = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *started = NULL;
    int n = 0, error = 0;
    if (threads <= atomic_load_explicit(&proven, memory_order_relaxed)) return NB_OK;
    NB_TRY(nbi_alloc(ctx, (size_t)threads, sizeof *started, &started));
    pthread_mutex_lock(&all);
    while (!error && n < threads - 1) {
        error = pthread_create(&started[n], NULL, wait_for_all, &all);
        n += !error;
    }
    pthread_mutex_unlock(&all);
    for (int i = 0; i < n; i++) pthread_join(started[i], NULL);
    nbi_free(started);
    if (error)
        return nb_fail(ctx, NB_ENOMEM, "cannot start %d threads: %s; fewer may do (--threads 1)",
                       threads, strerror(error));
    atomic_store_explicit(&proven, threads, memory_order_relaxed);
    return NB_OK;
}
#endif

nb_status nbi_threads_check(nb_ctx *ctx) {
#ifdef _OPENMP
    if (ctx && !omp_in_parallel()) return prove_threads(ctx, ctx->threads);
#else
    (void)ctx;
#endif
    return NB_OK;
}

int nbi_cores(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 256 ? 256 : (int)n;
}

nb_status nbi_parallel(nb_ctx *ctx, size_t n, size_t chunk, nbi_range_fn fn, void *user) {
    if (n == 0) return NB_OK;
    if (chunk == 0) chunk = 1;
    size_t chunks = (n + chunk - 1) / chunk;
    nb_status first = NB_OK;
#ifdef _OPENMP
    int threads = ctx ? ctx->threads : 1;
    if ((size_t)threads > chunks) threads = (int)chunks;
    if (threads > 1 && !omp_in_parallel()) {
        NB_TRY(prove_threads(ctx, threads));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (size_t c = 0; c < chunks; c++) {
            nb_status seen;
#pragma omp atomic read
            seen = first;
            if (seen != NB_OK) continue;
            size_t begin = c * chunk, end = begin + chunk < n ? begin + chunk : n;
            nb_status st = fn(user, begin, end, omp_get_thread_num());
            if (st != NB_OK) {
#pragma omp atomic write
                first = st;
            }
        }
        return first;
    }
#endif
    for (size_t c = 0; c < chunks && first == NB_OK; c++) {
        size_t begin = c * chunk, end = begin + chunk < n ? begin + chunk : n;
        first = fn(user, begin, end, 0);
    }
    return first;
}

void nbi_threads_apply(const nb_ctx *ctx) {
#ifdef _OPENMP
    if (ctx && !omp_in_parallel()) omp_set_num_threads(ctx->threads);
#else
    (void)ctx;
#endif
}
