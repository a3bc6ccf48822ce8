/* Training speed and memory: whole steps (forward, backward, SGD with momentum) on one fixed batch of
 * drawn numbers, as bench/rival_train_torch.py does it.
 *   bench_train MODEL.onnx BATCH THREADS float|WxA SECONDS
 * MODEL.onnx is a float network, or the name of a standard architecture, NAME or NAME:WIDTH; WxA, such
 * as 4x4, has learned steps in the loop. Prints JSON: the median step's images per second and
 * processor seconds, the planned bytes and the process's peak of memory. */
#include "exec/exec.h"
#include "exec/tape.h"
#include "hyper/arch.h"
#include "onnx/onnx.h"
#include "quant/calibrate.h"
#include "quant/generate.h"
#include "quant/qat.h"
#include "train/optimizer.h"
#include "train/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define CALIBRATION 16
#define MAX_STEPS   4096
#define WARM        3

typedef struct bench {
    nb_ctx *ctx;
    nbi_graph *model;
    nbi_training *training;
    nbi_qnet *net;
    nbi_qat *qat;
    nbi_graph *graph; /* of training or qat */
    nbi_tape *tape;
    nbi_optimizer *optimizer;
    nbi_param *param;
    int n, *wrt, loss;
    nbi_tape_state *state;
    int n_states;
    float *input[3];
    nbi_rng rng;
    int64_t batch;
} bench;

static double clock_seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, compare);
    return x[n / 2];
}

static nb_status load(bench *b, const char *text) {
    char name[256];
    nbi_arch_options o = nbi_arch_options_default();
    snprintf(name, sizeof name, "%s", text);
    char *colon = strchr(name, ':');
    if (colon) *colon = 0;
    if (!nbi_arch_find(name)) return nbi_onnx_read(b->ctx, text, &b->model);
    if (colon) o.width = strtod(colon + 1, NULL);
    return nbi_arch_build(b->ctx, name, &o, &b->model);
}

static nb_status fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out) {
    const bench *b = user;
    const nbi_tensor *x = b->net->graph->tensor[b->net->graph->input[0]];
    nbi_rng rng;
    (void)ctx;
    nbi_rng_seed(&rng, first, 3);
    for (size_t i = 0; i < n * (size_t)nbi_tensor_count(x); i++) out[i] = (float)nbi_rng_normal(&rng);
    return NB_OK;
}

static nb_status make_float(bench *b) {
    nbi_training_options o = {.batch = b->batch};
    NB_TRY(nbi_training_new(b->ctx, b->model, &o, &b->training));
    nbi_training *t = b->training;
    NB_TRY(nbi_alloc(b->ctx, (size_t)t->n_trained, sizeof *b->wrt, &b->wrt));
    for (int i = 0; i < t->n_trained; i++) b->wrt[i] = t->trained[i].tensor;
    b->n = t->n_trained;
    b->graph = t->graph;
    b->loss = t->loss[0];
    b->state = t->state;
    b->n_states = t->n_states;
    return NB_OK;
}

static nb_status make_qat(bench *b, int weights, int activations) {
    nbi_graph *one;
    nbi_choice *bits;
    nbi_qag_options qag = {NBI_FIRST_LAST_8, 8};
    NB_TRY(nbi_specialize_batch(b->ctx, b->model, 1, &one));
    NB_TRY(nbi_generate(b->ctx, one, &qag, &b->net));
    int edge = nbi_score_edge(b->net);
    nbi_calibration c = {.fill = fill, .user = b, .images = CALIBRATION, .score_edge = edge};
    NB_TRY(nbi_calibrate(b->ctx, b->model, b->net, &c));
    NB_TRY(nbi_alloc(b->ctx, (size_t)b->net->n_sites, sizeof *bits, &bits));
    for (int i = 0; i < b->net->n_sites; i++) {
        const nbi_site *s = &b->net->site[i];
        int free_bits = s->kind == NBI_SITE_WEIGHT ? weights : activations;
        if (s->kind == NBI_SITE_BIAS) free_bits = 32;
        bits[i] = (nbi_choice)(s->fixed_bits ? s->fixed_bits : free_bits);
    }
    nbi_qat_options o = {.batch = b->batch, .per_channel = true, .classes = b->net->edge[edge].c};
    nb_status st = nbi_qat_new(b->ctx, b->model, b->net, bits, edge, &o, &b->qat);
    nbi_free(bits);
    NB_TRY(st);
    NB_TRY(nbi_alloc(b->ctx, (size_t)b->qat->n_train, sizeof *b->wrt, &b->wrt));
    memcpy(b->wrt, b->qat->train, (size_t)b->qat->n_train * sizeof *b->wrt);
    b->n = b->qat->n_train;
    b->graph = b->qat->graph;
    b->loss = b->qat->label_loss;
    b->state = b->qat->state;
    b->n_states = b->qat->n_states;
    return NB_OK;
}

static nb_status prepare(bench *b) {
    nbi_tape_spec spec = {.n_wrt = b->n, .wrt = b->wrt, .n_losses = 1, .loss = &b->loss,
                          .n_states = b->n_states, .state = b->state};
    nbi_optimizer_options o = nbi_optimizer_options_default();
    for (int i = 0; i < b->graph->n_inputs && i < 3; i++) {
        const nbi_tensor *x = b->graph->tensor[b->graph->input[i]];
        int64_t count = nbi_tensor_count(x), classes = x->rank == 2 ? x->dim[1] : 1;
        NB_TRY(nbi_alloc(b->ctx, (size_t)count, sizeof(float), &b->input[i]));
        for (int64_t k = 0; i == 0 && k < count; k++)
            b->input[i][k] = (float)nbi_rng_normal(&b->rng);
        for (int64_t k = 0; i > 0 && k < b->batch; k++) b->input[i][k * classes + k % classes] = 1;
    }
    NB_TRY(nbi_tape_new(b->ctx, b->graph, &spec, &b->tape));
    NB_TRY(nbi_alloc(b->ctx, (size_t)b->n, sizeof *b->param, &b->param));
    for (int i = 0; i < b->n; i++) {
        const nbi_tensor *t = b->graph->tensor[b->wrt[i]];
        b->param[i] = (nbi_param){.name = t->name, .value = t->data, .lr = 1, .decay = 1e-4f,
                                  .count = (size_t)nbi_tensor_count(t)};
    }
    return nbi_optimizer_new(b->ctx, &o, b->param, (size_t)b->n, &b->optimizer);
}

static nb_status step(bench *b, uint64_t seed) {
    NB_TRY(nbi_tape_forward(b->ctx, b->tape, (const void *const *)b->input, seed));
    NB_TRY(nbi_tape_backward(b->ctx, b->tape, NULL));
    for (int i = 0; i < b->n; i++) b->param[i].gradient = nbi_tape_gradient(b->tape, i);
    NB_TRY(nbi_optimizer_step(b->ctx, b->optimizer, 0.001, NULL));
    nbi_tape_advance(b->tape);
    return NB_OK;
}

static nb_status run(bench *b, const char *kind, double seconds) {
    static double wall[MAX_STEPS], cpu[MAX_STEPS];
    int weights = 4, activations = 4, n = 0;
    struct rusage usage;
    if (!strcmp(kind, "float")) NB_TRY(make_float(b));
    else if (sscanf(kind, "%dx%d", &weights, &activations) == 2)
        NB_TRY(make_qat(b, weights, activations));
    else
        return nb_fail(b->ctx, NB_EINVAL, "'%s' is neither float nor WxA", kind);
    NB_TRY(prepare(b));
    for (double end = clock_seconds(CLOCK_MONOTONIC) + seconds;
         n < MAX_STEPS && (n < 8 || clock_seconds(CLOCK_MONOTONIC) < end); n++) {
        wall[n] = clock_seconds(CLOCK_MONOTONIC);
        cpu[n] = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
        NB_TRY(step(b, (uint64_t)n));
        wall[n] = clock_seconds(CLOCK_MONOTONIC) - wall[n];
        cpu[n] = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu[n];
    }
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"images_per_second\": %.1f, \"cpu_seconds_per_step\": %.4f, \"planned_mb\": %.1f, "
           "\"peak_memory_mb\": %.1f}\n",
           (double)b->batch / median(wall + WARM, n - WARM), median(cpu + WARM, n - WARM),
           (double)nbi_tape_bytes(b->tape) / (1 << 20), (double)usage.ru_maxrss / 1024);
    return NB_OK;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "bench_train MODEL.onnx|ARCH[:WIDTH] BATCH THREADS float|WxA SECONDS\n");
        return 2;
    }
    bench b = {.ctx = nb_ctx_new(), .batch = atoi(argv[2])};
    nbi_rng_seed(&b.rng, 1, 1);
    nb_ctx_set_threads(b.ctx, atoi(argv[3]));
    nb_status st = load(&b, argv[1]);
    if (st == NB_OK) st = run(&b, argv[4], atof(argv[5]));
    if (st != NB_OK) fprintf(stderr, "%s\n", nb_ctx_message(b.ctx));
    nbi_optimizer_free(b.optimizer);
    nbi_tape_free(b.tape);
    nbi_qat_free(b.qat);
    nbi_qnet_free(b.net);
    nbi_training_free(b.training);
    nbi_graph_free(b.model);
    for (int i = 0; i < 3; i++) nbi_free(b.input[i]);
    nbi_free(b.param);
    nbi_free(b.wrt);
    nb_ctx_free(b.ctx);
    return st == NB_OK ? 0 : 1;
}
