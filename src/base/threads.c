/* The only user of OpenMP. Chunk borders never depend on the thread count, so sums per chunk that
 * are added in chunk order are the same at any thread count. */
#include "base/ctx.h"

#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

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
