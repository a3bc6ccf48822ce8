/* The time from a graph to a plan that runs, for target graphs that have never been seen.
 *   bench_specialize THREADS [GRAPHS]
 * Each of the GRAPHS (default 12) is ResNet-20 with its own image size (24 … 24 + GRAPHS − 1), so that
 * every convolution in it is new to the process; then the same graphs again, when linalg has met the
 * shapes. Prints one JSON object: the median CPU milliseconds (all threads) of
 *   specialise: shapes bound and inferred, constants folded;
 *   plan: forward only;  specialise + plan: both;
 *   train: training form, specialised, and the plan of forward and backward. */
#include "base/base.h"
#include "exec/exec.h"
#include "hyper/arch.h"
#include "train/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCH = 32, MOST = 64 };
enum { SPECIALISE, PLAN, BOTH, TRAIN, STAGES };

static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void must(nb_ctx *ctx, nb_status st) {
    if (st == NB_OK) return;
    fprintf(stderr, "%s\n", nb_ctx_message(ctx));
    exit(1);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return values[n / 2];
}

static void measure(nb_ctx *ctx, const nbi_graph *model, double *ms) {
    nbi_graph *g;
    nbi_exec *e;
    double t0 = cpu(), t1;
    must(ctx, nbi_specialize_batch(ctx, model, BATCH, &g));
    t1 = cpu();
    must(ctx, nbi_exec_new(ctx, g, 0, &e));
    ms[PLAN] = cpu() - t1;
    ms[SPECIALISE] = t1 - t0;
    ms[BOTH] = ms[PLAN] + ms[SPECIALISE];
    nbi_exec_free(e);
    nbi_graph_free(g);
}

static void measure_training(nb_ctx *ctx, const nbi_graph *model, double *ms) {
    nbi_training *training;
    nbi_tape *tape;
    nbi_training_options o = {.batch = BATCH};
    int *wrt;
    double t0 = cpu();
    must(ctx, nbi_training_new(ctx, model, &o, &training));
    must(ctx, nbi_alloc(ctx, (size_t)training->n_trained, sizeof *wrt, &wrt));
    for (int i = 0; i < training->n_trained; i++) wrt[i] = training->trained[i].tensor;
    nbi_tape_spec spec = {.n_wrt = training->n_trained, .wrt = wrt, .n_losses = training->n_losses,
                          .loss = training->loss, .n_states = training->n_states,
                          .state = training->state};
    must(ctx, nbi_tape_new(ctx, training->graph, &spec, &tape));
    ms[TRAIN] = cpu() - t0;
    nbi_free(wrt);
    nbi_tape_free(tape);
    nbi_training_free(training);
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "bench_specialize THREADS [GRAPHS]\n"), 2;
    static const char *const names[STAGES] = {"specialise", "plan", "specialise + plan", "train"};
    nb_ctx *ctx = nb_ctx_new();
    int n = argc > 2 ? atoi(argv[2]) : 12;
    static double ms[2][STAGES][MOST];
    nbi_graph *model[MOST];
    if (n < 1 || n > MOST) return fprintf(stderr, "GRAPHS: 1 to %d\n", MOST), 2;
    nb_ctx_set_threads(ctx, atoi(argv[1]));
    for (int i = 0; i < n; i++) {
        nbi_arch_options o = nbi_arch_options_default();
        o.rank = 3, o.input[0] = 3, o.input[1] = o.input[2] = 24 + i;
        must(ctx, nbi_arch_build(ctx, "resnet20", &o, &model[i]));
    }
    for (int again = 0; again < 2; again++)
        for (int i = 0; i < n; i++) {
            double row[STAGES];
            measure(ctx, model[i], row);
            measure_training(ctx, model[i], row);
            for (int s = 0; s < STAGES; s++) ms[again][s][i] = row[s];
        }
    printf("{");
    for (int again = 0; again < 2; again++)
        for (int s = 0; s < STAGES; s++)
            printf("%s\"%s, %s\": %.2f", again + s ? ", " : "", names[s],
                   again ? "seen" : "new", median(ms[again][s], n));
    printf("}\n");
    for (int i = 0; i < n; i++) nbi_graph_free(model[i]);
    nb_ctx_free(ctx);
    return 0;
}
