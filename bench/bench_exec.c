/* Images per second of the float engine.
 *   bench_exec MODEL.onnx BATCH THREADS [reference|fast [IN.bin OUT.bin]]
 * Prints the median of repeated runs over about two seconds. With IN and OUT: raw float32 of the
 * only input, and of the first output, for comparison with a rival. */
#include "base/base.h"
#include "exec/exec.h"
#include "onnx/onnx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double clock_seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) {
    return clock_seconds(CLOCK_MONOTONIC);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int die(nb_ctx *ctx, const char *what) {
    fprintf(stderr, "%s: %s\n", what, nb_ctx_message(ctx));
    return 1;
}

static int write_output(nb_ctx *ctx, const nbi_exec *e, const nbi_graph *g, const char *path) {
    nbi_view v, c;
    if (nbi_exec_value(ctx, e, g->output[0], &v) != NB_OK) return die(ctx, "value");
    c = v;
    nbi_view_contiguous(&c);
    size_t bytes = (size_t)nbi_view_count(&v) * (size_t)nbi_dtype_bits(v.dtype) / 8;
    if (!(c.data = malloc(bytes))) return 1;
    nbi_view_copy(&c, &v);
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(c.data, 1, bytes, f);
        fclose(f);
    }
    free(c.data);
    return f ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "bench_exec MODEL BATCH THREADS [reference|fast]\n"), 2;
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *model, *g;
    nbi_exec *e;
    unsigned flags = argc > 4 && !strcmp(argv[4], "reference") ? NBI_EXEC_REFERENCE : 0;
    nb_ctx_set_threads(ctx, atoi(argv[3]));
    if (nbi_onnx_read(ctx, argv[1], &model) != NB_OK) return die(ctx, "read");
    if (nbi_specialize_batch(ctx, model, atoi(argv[2]), &g) != NB_OK) return die(ctx, "specialize");
    double t0 = now();
    if (nbi_exec_new(ctx, g, flags, &e) != NB_OK) return die(ctx, "plan");
    double plan = now() - t0;
    size_t bytes = (size_t)nbi_tensor_count(g->tensor[g->input[0]]) * 4;
    float *x = malloc(bytes);
    for (size_t i = 0; i < bytes / 4; i++) x[i] = (float)((i * 2654435761u >> 8) % 256) / 128 - 1;
    if (argc > 6) {
        FILE *f = fopen(argv[5], "rb");
        if (!f || fread(x, 1, bytes, f) != bytes) return fprintf(stderr, "short input\n"), 1;
        fclose(f);
    }
    double times[2000], begin = now(), least_cpu = 1e9;
    int n = 0;
    while (n < 2000 && (n < 3 || now() - begin < (argc > 6 ? 0 : 2.0))) {
        double t = now(), cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
        if (nbi_exec_run(ctx, e, (const void *const[]){x}) != NB_OK) return die(ctx, "run");
        times[n++] = now() - t;
        cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        least_cpu = cpu < least_cpu ? cpu : least_cpu;
        if (argc > 6) break;
    }
    qsort(times, (size_t)n, sizeof *times, compare);
    printf("%s batch %s threads %s: %d nodes, %.0f images/s (median %.3f ms, best %.3f ms, least "
           "CPU %.3f ms), plan "
           "%.0f ms, arena %zu bytes\n",
           argv[1], argv[2], argv[3], g->n_nodes, atof(argv[2]) / times[n / 2], times[n / 2] * 1e3,
           times[0] * 1e3, least_cpu * 1e3, plan * 1e3, nbi_exec_arena_bytes(e));
    int rc = argc > 6 ? write_output(ctx, e, g, argv[6]) : 0;
    free(x);
    nbi_exec_free(e);
    nbi_graph_free(g);
    nbi_graph_free(model);
    nb_ctx_free(ctx);
    return rc;
}
