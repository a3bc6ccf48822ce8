/* One graph serves hypernetworks: a small network generates the weights of eight different target
 * graphs in one step and is trained end to end on their losses. A generated weight is a tensor with
 * a producer, nothing more; the tape knows no other kind of run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec/tape.h"
#include "ops/op.h"
#include "train/optimizer.h"

enum { TARGETS = 8, BATCH = 16, CLASSES = 4, SIZE = 8, MOST = 12, SIDE = 3, MOST_NODES = 64 };
enum { FEATURES = 8, DEPTH = 24, ROW = MOST * MOST * SIDE * SIDE, PARAMS = 6, TRIED = 5 };

#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) != NB_OK) fail_msg("%s: %s", #call, nb_ctx_message(w->ctx));                    \
    } while (0)

typedef struct world {
    nb_ctx *ctx;
    nbi_graph *g;
    nbi_rng rng;
    int x, target, rows;           /* rows: what is generated, one row per tensor */
    int param[PARAMS];             /* of the generator: all that is trained */
    int loss[TARGETS];
    int n_generated, generated[MOST_NODES];
    float features[MOST_NODES][FEATURES];
    float image[BATCH * SIZE * SIZE], label[BATCH * CLASSES], pattern[CLASSES][SIZE * SIZE];
} world;

/* ---- nodes --------------------------------------------------------------------------------- */

static int node(world *w, const char *domain, const char *type, int n_in, const int *in,
                nbi_node **made) {
    int out;
    MUST(nbi_graph_add_tensor(w->ctx, w->g, NULL, NB_DTYPE_NONE, -1, NULL, &out));
    MUST(nbi_graph_add_node(w->ctx, w->g, NULL, domain, type, n_in, in, 1, &out, made));
    return out;
}

static void finish(world *w, nbi_node *made) {
    MUST(nbi_node_prepare(w->ctx, w->g, made));
    MUST(nbi_node_infer(w->ctx, w->g, made));
    assert_non_null(made->op);
}

static int op(world *w, const char *type, int a, int b) {
    nbi_node *made;
    int out = node(w, "", type, b < 0 ? 1 : 2, (int[]){a, b}, &made);
    finish(w, made);
    return out;
}

static int constant(world *w, int rank, const int64_t *dim, double base, double spread) {
    int t;
    MUST(nbi_graph_add_const(w->ctx, w->g, NULL, NB_DTYPE_F32, rank, dim, &t));
    float *data = w->g->tensor[t]->data;
    for (int64_t i = 0; i < nbi_tensor_count(w->g->tensor[t]); i++)
        data[i] = (float)(base + spread * nbi_rng_normal(&w->rng));
    return t;
}

static int numbers(world *w, int n, const int64_t *values) {
    int t;
    MUST(nbi_graph_add_const(w->ctx, w->g, NULL, NB_DTYPE_S64, 1, (int64_t[]){n}, &t));
    memcpy(w->g->tensor[t]->data, values, (size_t)n * sizeof *values);
    return t;
}

static int slice(world *w, int x, int n, const int64_t *from, const int64_t *to) {
    const int64_t axes[4] = {0, 1, 2, 3};
    int in[4] = {x, numbers(w, n, from), numbers(w, n, to), numbers(w, n, axes)};
    nbi_node *made;
    int out = node(w, "", "Slice", 4, in, &made);
    finish(w, made);
    return out;
}

/* ---- the generator ------------------------------------------------------------------------- */

/* All rows at once: features → ReLU(· E + e) → ReLU(· A + a) → · C + c. */
static void generator(world *w) {
    const int64_t in[2] = {MOST_NODES, FEATURES};
    int x = constant(w, 2, in, 0, 0), width[4] = {FEATURES, DEPTH, DEPTH, ROW};
    memcpy(w->g->tensor[x]->data, w->features, sizeof w->features);
    for (int l = 0; l < 3; l++) {
        const int64_t dim[2] = {width[l], width[l + 1]};
        double spread = sqrt((l < 2 ? 2.0 : 1.0) / width[l]);
        w->param[2 * l] = constant(w, 2, dim, 0, spread);
        w->param[2 * l + 1] = constant(w, 1, dim + 1, 0, 0.1);
        x = op(w, "Add", op(w, "MatMul", x, w->param[2 * l]), w->param[2 * l + 1]);
        if (l < 2) x = op(w, "Relu", x, -1);
    }
    w->rows = x;
}

/* The next generated tensor: its row, cut to its shape, with the variance of He et al. */
static int generated(world *w, int rank, const int64_t *dim) {
    const int64_t full[4] = {MOST, MOST, SIDE, SIDE}, none[4] = {0};
    int64_t fan = 1, row = w->n_generated, to[4];
    memcpy(to, full, sizeof to);
    for (int i = 0; i < rank; i++) to[i] = dim[i];
    for (int i = 1; i < rank; i++) fan *= dim[i];
    int t = slice(w, w->rows, 2, (int64_t[]){row, 0}, (int64_t[]){row + 1, ROW});
    t = slice(w, op(w, "Reshape", t, numbers(w, 4, full)), 4, none, to);
    if (rank < 4) { /* the first taps of what is smaller */
        for (int i = rank; i < 4; i++) to[i] = 1;
        t = op(w, "Reshape", slice(w, t, 4, none, to), numbers(w, rank, dim));
    }
    t = op(w, "Mul", t, constant(w, 0, NULL, sqrt(2.0 / (double)fan), 0));
    assert_true(w->n_generated < MOST_NODES);
    w->generated[w->n_generated++] = t;
    return t;
}

/* ---- targets ------------------------------------------------------------------------------- */

typedef enum kind { END, CONV, DEPTHWISE, RESIDUAL, POOL, NORM } kind;
typedef struct layer {
    kind kind;
    int channels, side, stride;
} layer;

static const layer targets[TARGETS][6] = {
    {{CONV, 8, 3, 1}, {CONV, 12, 3, 2}},
    {{CONV, 6, 3, 2}, {RESIDUAL, 6, 3, 1}, {CONV, 12, 1, 1}},
    {{CONV, 8, 3, 1}, {DEPTHWISE, 8, 3, 2}, {CONV, 12, 1, 1}},
    {{CONV, 8, 3, 1}, {NORM, 8, 0, 0}, {POOL, 8, 2, 2}, {CONV, 10, 3, 1}},
    {{CONV, 12, 2, 2}, {RESIDUAL, 12, 3, 1}, {RESIDUAL, 12, 1, 1}},
    {{CONV, 4, 3, 1}, {CONV, 8, 3, 2}, {CONV, 12, 3, 2}, {NORM, 12, 0, 0}},
    {{CONV, 12, 1, 1}, {POOL, 12, 2, 2}, {DEPTHWISE, 12, 3, 1}, {RESIDUAL, 12, 3, 1}},
    {{CONV, 5, 3, 1}, {RESIDUAL, 5, 3, 1}, {NORM, 5, 0, 0}, {POOL, 5, 2, 2}, {CONV, 7, 3, 1}},
};

static int windowed(world *w, const char *type, int x, int weight, layer l, int64_t groups) {
    nbi_node *made;
    int64_t pad = type[0] == 'C' ? l.side / 2 : 0, pads[4] = {pad, pad, pad, pad};
    int out = node(w, "", type, weight < 0 ? 1 : 2, (int[]){x, weight}, &made);
    MUST(nbi_node_set_ints(w->ctx, w->g, made, "pads", 4, pads));
    MUST(nbi_node_set_ints(w->ctx, w->g, made, "strides", 2, (int64_t[]){l.stride, l.stride}));
    MUST(nbi_node_set_ints(w->ctx, w->g, made, "kernel_shape", 2, (int64_t[]){l.side, l.side}));
    if (weight >= 0) MUST(nbi_node_set_int(w->ctx, w->g, made, "group", groups));
    finish(w, made);
    return out;
}

/* Batch statistics, generated scale (2·sigmoid) and shift. */
static int normed(world *w, int x, int64_t c) {
    int in[5] = {x, 0, 0, constant(w, 1, &c, 0, 0), constant(w, 1, &c, 1, 0)}, out[5];
    nbi_node *made;
    in[1] = op(w, "Sigmoid", generated(w, 1, &c), -1);
    in[1] = op(w, "Mul", in[1], constant(w, 0, NULL, 2, 0));
    in[2] = op(w, "Tanh", generated(w, 1, &c), -1);
    for (int i = 0; i < 5; i++)
        MUST(nbi_graph_add_tensor(w->ctx, w->g, NULL, NB_DTYPE_NONE, -1, NULL, &out[i]));
    MUST(nbi_graph_add_node(w->ctx, w->g, NULL, "", "BatchNormalization", 5, in, 5, out, &made));
    MUST(nbi_node_set_int(w->ctx, w->g, made, "training_mode", 1));
    finish(w, made);
    return out[0];
}

static int built(world *w, int x, layer l) {
    int64_t c = w->g->tensor[x]->dim[1], k = l.side;
    int y;
    if (l.kind == NORM) return normed(w, x, c);
    if (l.kind == POOL) return windowed(w, "MaxPool", x, -1, l, 1);
    bool wise = l.kind == DEPTHWISE;
    y = windowed(w, "Conv", x, generated(w, 4, (int64_t[]){l.channels, wise ? 1 : c, k, k}), l,
                 wise ? c : 1);
    if (l.kind == RESIDUAL) y = op(w, "Add", x, y);
    return op(w, "Relu", y, -1);
}

static void target(world *w, int t) {
    int x = w->x, in[3];
    nbi_node *made;
    for (const layer *l = targets[t]; l->kind != END; l++) x = built(w, x, *l);
    in[0] = op(w, "Flatten", op(w, "GlobalAveragePool", x, -1), -1);
    in[1] = generated(w, 2, (int64_t[]){CLASSES, w->g->tensor[in[0]]->dim[1]});
    in[2] = generated(w, 1, (int64_t[]){CLASSES});
    x = node(w, "", "Gemm", 3, in, &made);
    MUST(nbi_node_set_int(w->ctx, w->g, made, "transB", 1));
    finish(w, made);
    w->loss[t] = node(w, "org.nibble", "CrossEntropy", 2, (int[]){x, w->target}, &made);
    finish(w, made);
}

/* ---- runs ---------------------------------------------------------------------------------- */

static void build(world *w) {
    *w = (world){.ctx = nb_ctx_new()};
    nb_ctx_set_threads(w->ctx, 1);
    nbi_rng_seed(&w->rng, 5, 1);
    MUST(nbi_graph_new(w->ctx, &w->g));
    w->g->opset = 17;
    for (int i = 0; i < MOST_NODES; i++)
        for (int f = 0; f < FEATURES; f++) w->features[i][f] = (float)nbi_rng_normal(&w->rng);
    for (int c = 0; c < CLASSES; c++)
        for (int i = 0; i < SIZE * SIZE; i++)
            w->pattern[c][i] = 2 * (float)nbi_rng_normal(&w->rng);
    int in[2];
    MUST(nbi_graph_add_tensor(w->ctx, w->g, "x", NB_DTYPE_F32, 4,
                              (int64_t[]){BATCH, 1, SIZE, SIZE}, &in[0]));
    MUST(nbi_graph_add_tensor(w->ctx, w->g, "target", NB_DTYPE_F32, 2, (int64_t[]){BATCH, CLASSES},
                              &in[1]));
    MUST(nbi_graph_set_inputs(w->ctx, w->g, 2, in));
    w->x = in[0], w->target = in[1];
    generator(w);
    for (int t = 0; t < TARGETS; t++) target(w, t);
}

static void release(world *w) {
    nbi_graph_free(w->g);
    nb_ctx_free(w->ctx);
}

static nbi_tape *tape(world *w, bool reference) {
    nbi_tape *t;
    nbi_tape_spec spec = {.n_wrt = PARAMS, .wrt = w->param, .n_losses = TARGETS, .loss = w->loss,
                          .reference = reference};
    MUST(nbi_tape_new(w->ctx, w->g, &spec, &t));
    return t;
}

static void draw(world *w) {
    memset(w->label, 0, sizeof w->label);
    for (int i = 0; i < BATCH; i++) {
        w->label[i * CLASSES + i % CLASSES] = 1;
        for (int k = 0; k < SIZE * SIZE; k++)
            w->image[i * SIZE * SIZE + k] =
                w->pattern[i % CLASSES][k] + (float)nbi_rng_normal(&w->rng);
    }
}

/* The eight losses and their sum. */
static double run(world *w, nbi_tape *t, double *each) {
    double sum = 0;
    MUST(nbi_tape_forward(w->ctx, t, (const void *const[]){w->image, w->label}, 0));
    for (int i = 0; i < TARGETS; i++) {
        nbi_view v;
        MUST(nbi_tape_value(w->ctx, t, w->loss[i], &v));
        if (each) each[i] = (double)*(float *)v.data;
        sum += (double)*(float *)v.data;
    }
    return sum;
}

/* Central difference of the sum of losses when parameter p moves along `way` by ±step. */
static double slope(world *w, nbi_tape *t, int p, const float *way, double step) {
    nbi_tensor *x = w->g->tensor[w->param[p]];
    size_t n = (size_t)nbi_tensor_count(x);
    float *data = x->data, *kept = malloc(n * sizeof *kept);
    double loss[2];
    memcpy(kept, data, n * sizeof *kept);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            data[i] = kept[i] + (float)(side ? -step : step) * way[i];
        loss[side] = run(w, t, NULL);
    }
    memcpy(data, kept, n * sizeof *kept);
    free(kept);
    return (loss[0] - loss[1]) / (2 * step);
}

/* Along the gradient, and along single elements that have the largest part in it. */
static void check_param(world *w, nbi_tape *t, int p, const float *gradient) {
    size_t n = (size_t)nbi_tensor_count(w->g->tensor[w->param[p]]);
    float *way = calloc(n, sizeof *way), *rest = calloc(n, sizeof *rest);
    double square = 0, found;
    for (size_t i = 0; i < n; i++) square += (double)gradient[i] * (double)gradient[i];
    double norm = sqrt(square);
    assert_true(norm > 0.01);
    for (size_t i = 0; i < n; i++) way[i] = (float)((double)gradient[i] / norm);
    /* sums of float32 losses near 12 over a step of 2e-3: 1e-3 of error; kinks of ReLU: 2 % */
    found = slope(w, t, p, way, 1e-3);
    if (!(fabs(found - norm) < 0.02 * norm + 2e-3))
        fail_msg("parameter %d: slope %g, gradient's length %g", p, found, norm);
    memcpy(rest, gradient, n * sizeof *rest);
    for (int k = 0; k < TRIED; k++) {
        size_t at = 0;
        for (size_t i = 1; i < n; i++)
            if (fabsf(rest[i]) > fabsf(rest[at])) at = i;
        double want = (double)rest[at];
        rest[at] = 0;
        memset(way, 0, n * sizeof *way);
        way[at] = 1;
        found = slope(w, t, p, way, 2e-3);
        if (!(fabs(found - want) < 0.03 * norm + 2e-3))
            fail_msg("parameter %d, element %zu: slope %g, gradient %g", p, at, found, want);
    }
    free(rest);
    free(way);
}

static void test_gradients(void **state) {
    (void)state;
    world *w = calloc(1, sizeof *w);
    build(w);
    draw(w);
    for (int plain = 0; plain < 2; plain++) {
        nbi_tape *t = tape(w, plain);
        float *kept[PARAMS];
        run(w, t, NULL);
        MUST(nbi_tape_backward(w->ctx, t, NULL));
        for (int p = 0; p < PARAMS; p++) {
            size_t bytes = (size_t)nbi_tensor_count(w->g->tensor[w->param[p]]) * sizeof(float);
            kept[p] = malloc(bytes);
            memcpy(kept[p], nbi_tape_gradient(t, p), bytes);
        }
        for (int p = 0; p < PARAMS; p++) check_param(w, t, p, kept[p]);
        for (int p = 0; p < PARAMS; p++) free(kept[p]);
        nbi_tape_free(t);
    }
    release(w);
    free(w);
}

/* Nothing but the generator is trained, every loss falls, and no target has weights of its own. */
static void test_training(void **state) {
    (void)state;
    world *w = calloc(1, sizeof *w);
    build(w);
    for (int i = 0; i < w->n_generated; i++) {
        const nbi_tensor *x = w->g->tensor[w->generated[i]];
        assert_null(x->data);
        assert_true(x->producer >= 0);
    }
    nbi_tape *t = tape(w, false);
    nbi_param param[PARAMS];
    for (int p = 0; p < PARAMS; p++) {
        nbi_tensor *x = w->g->tensor[w->param[p]];
        param[p] = (nbi_param){.name = x->name, .value = x->data, .lr = 1,
                               .count = (size_t)nbi_tensor_count(x)};
    }
    nbi_optimizer_options o = nbi_optimizer_options_default();
    nbi_optimizer *optimizer;
    double first[TARGETS], last[TARGETS];
    o.kind = NBI_ADAM;
    MUST(nbi_optimizer_new(w->ctx, &o, param, PARAMS, &optimizer));
    for (int step = 0; step < 120; step++) {
        draw(w);
        run(w, t, step ? last : first);
        MUST(nbi_tape_backward(w->ctx, t, NULL));
        for (int p = 0; p < PARAMS; p++) param[p].gradient = nbi_tape_gradient(t, p);
        MUST(nbi_optimizer_step(w->ctx, optimizer, 3e-3, NULL));
    }
    for (int i = 0; i < TARGETS; i++)
        if (!(last[i] < 0.5 * first[i]))
            fail_msg("target %d: loss %g, at first %g", i, last[i], first[i]);
    nbi_optimizer_free(optimizer);
    nbi_tape_free(t);
    release(w);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests_name("hypernet", tests, NULL, NULL);
}
