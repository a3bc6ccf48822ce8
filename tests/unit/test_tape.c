/* Tapes: gradients of whole small networks, against plain C and against finite differences. */
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

#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) != NB_OK) fail_msg("%s: %s", #call, nb_ctx_message(n->ctx));                    \
    } while (0)

typedef struct net {
    nb_ctx *ctx;
    nbi_graph *g;
    nbi_rng rng;
    int x, target, loss, n_wrt, n_states;
    int wrt[64];
    nbi_tape_state state[16];
    float *input[2];
} net;

static int constant(net *n, int rank, const int64_t *dim, float base, float spread, bool train) {
    int t;
    MUST(nbi_graph_add_const(n->ctx, n->g, NULL, NB_DTYPE_F32, rank, dim, &t));
    float *data = n->g->tensor[t]->data;
    for (int64_t i = 0; i < nbi_tensor_count(n->g->tensor[t]); i++)
        data[i] = base + spread * (float)nbi_rng_normal(&n->rng);
    if (train) n->wrt[n->n_wrt++] = t;
    return t;
}

static nbi_node *node(net *n, const char *domain, const char *type, int n_in, const int *in,
                      int n_out, int *out) {
    nbi_node *made;
    for (int i = 0; i < n_out; i++)
        MUST(nbi_graph_add_tensor(n->ctx, n->g, NULL, NB_DTYPE_NONE, -1, NULL, &out[i]));
    MUST(nbi_graph_add_node(n->ctx, n->g, NULL, domain, type, n_in, in, n_out, out, &made));
    return made;
}

static void finish(net *n, nbi_node *made) {
    MUST(nbi_node_prepare(n->ctx, n->g, made));
    MUST(nbi_node_infer(n->ctx, n->g, made));
    assert_non_null(made->op);
}

static int simple(net *n, const char *type, int a, int b) {
    int out, in[2] = {a, b};
    finish(n, node(n, "", type, b < 0 ? 1 : 2, in, 1, &out));
    return out;
}

static int conv(net *n, int x, int64_t c, int64_t m, int64_t stride, int64_t group, bool bias) {
    int in[3] = {x, constant(n, 4, (int64_t[]){m, c / group, 3, 3}, 0, 0.3f, true), -1}, out;
    if (bias) in[2] = constant(n, 1, (int64_t[]){m}, 0, 0.1f, true);
    nbi_node *made = node(n, "", "Conv", bias ? 3 : 2, in, 1, &out);
    MUST(nbi_node_set_ints(n->ctx, n->g, made, "pads", 4, (int64_t[]){1, 1, 1, 1}));
    MUST(nbi_node_set_ints(n->ctx, n->g, made, "strides", 2, (int64_t[]){stride, stride}));
    MUST(nbi_node_set_int(n->ctx, n->g, made, "group", group));
    finish(n, made);
    return out;
}

static int batchnorm(net *n, int x, int64_t c) {
    int in[5] = {x, constant(n, 1, &c, 1, 0.2f, true), constant(n, 1, &c, 0, 0.2f, true),
                 constant(n, 1, &c, 0, 0, false), constant(n, 1, &c, 1, 0, false)};
    int out[5];
    nbi_node *made = node(n, "", "BatchNormalization", 5, in, 5, out);
    MUST(nbi_node_set_int(n->ctx, n->g, made, "training_mode", 1));
    finish(n, made);
    n->state[n->n_states++] = (nbi_tape_state){out[1], in[3]};
    n->state[n->n_states++] = (nbi_tape_state){out[2], in[4]};
    return out[0];
}

static void inputs(net *n, int64_t batch, int64_t c, int64_t size, int64_t classes) {
    int in[2];
    MUST(nbi_graph_add_tensor(n->ctx, n->g, "x", NB_DTYPE_F32, 4,
                              (int64_t[]){batch, c, size, size}, &in[0]));
    MUST(nbi_graph_add_tensor(n->ctx, n->g, "target", NB_DTYPE_F32, 2, (int64_t[]){batch, classes},
                              &in[1]));
    MUST(nbi_graph_set_inputs(n->ctx, n->g, 2, in));
    n->x = in[0];
    n->target = in[1];
    size_t count = (size_t)(batch * c * size * size);
    n->input[0] = calloc(count, sizeof(float));
    n->input[1] = calloc((size_t)(batch * classes), sizeof(float));
    for (size_t i = 0; i < count; i++) n->input[0][i] = (float)nbi_rng_normal(&n->rng);
    for (int64_t i = 0; i < batch; i++) n->input[1][i * classes + i % classes] = 1;
}

static int block(net *n, int x, int64_t c, int64_t m, int64_t stride) {
    int y = simple(n, "Relu", batchnorm(n, conv(n, x, c, m, stride, 1, false), m), -1);
    y = batchnorm(n, conv(n, y, m, m, 1, 1, false), m);
    int skip = stride == 1 && c == m ? x : conv(n, x, c, m, stride, 1, true);
    return simple(n, "Relu", simple(n, "Add", y, skip), -1);
}

static void residual(net *n) {
    *n = (net){.ctx = nb_ctx_new()};
    nbi_rng_seed(&n->rng, 3, 1);
    MUST(nbi_graph_new(n->ctx, &n->g));
    n->g->opset = 17;
    inputs(n, 4, 3, 8, 5);
    int y = simple(n, "Relu", batchnorm(n, conv(n, n->x, 3, 8, 1, 1, false), 8), -1);
    y = block(n, block(n, y, 8, 8, 1), 8, 16, 2);
    y = simple(n, "Relu", conv(n, y, 16, 16, 1, 16, true), -1); /* depthwise */
    y = simple(n, "Flatten", simple(n, "GlobalAveragePool", y, -1), -1);
    int in[3] = {y, constant(n, 2, (int64_t[]){5, 16}, 0, 0.3f, true),
                 constant(n, 1, (int64_t[]){5}, 0, 0.1f, true)};
    nbi_node *made = node(n, "", "Gemm", 3, in, 1, &y);
    MUST(nbi_node_set_int(n->ctx, n->g, made, "transB", 1));
    finish(n, made);
    int ce[2] = {y, n->target};
    finish(n, node(n, "org.nibble", "CrossEntropy", 2, ce, 1, &n->loss));
}

static void release(net *n) {
    nbi_graph_free(n->g);
    nb_ctx_free(n->ctx);
    free(n->input[0]);
    free(n->input[1]);
}

static nbi_tape *tape(net *n, bool reference, bool input_too) {
    nbi_tape *t;
    int wrt[65];
    memcpy(wrt, n->wrt, sizeof n->wrt);
    wrt[n->n_wrt] = n->x;
    nbi_tape_spec spec = {.n_wrt = n->n_wrt + input_too,
                          .wrt = wrt,
                          .n_losses = 1,
                          .loss = &n->loss,
                          .n_states = n->n_states,
                          .state = n->state,
                          .reference = reference};
    MUST(nbi_tape_new(n->ctx, n->g, &spec, &t));
    return t;
}

static double run(net *n, nbi_tape *t, bool backward) {
    nbi_view v;
    MUST(nbi_tape_forward(n->ctx, t, (const void *const *)n->input, 0));
    MUST(nbi_tape_value(n->ctx, t, n->loss, &v));
    double loss = (double)*(float *)v.data;
    if (backward) MUST(nbi_tape_backward(n->ctx, t, NULL));
    return loss;
}

/* Float sums in another order: 1e-4 of the largest gradient of the tensor. */
static void close_arrays(const float *a, const float *b, int64_t count, const char *name) {
    float largest = 0, worst = 0;
    for (int64_t i = 0; i < count; i++) {
        largest = fmaxf(largest, fabsf(b[i]));
        worst = fmaxf(worst, fabsf(a[i] - b[i]));
    }
    if (!(worst <= 1e-4f * largest + 1e-6f))
        fail_msg("'%s': differs by %g, largest %g", name, (double)worst, (double)largest);
}

static void test_fast_equals_plain(void **state) {
    (void)state;
    net m, *n = &m;
    residual(n);
    nbi_tape *fast = tape(n, false, true), *plain = tape(n, true, true);
    double a = run(n, fast, true), b = run(n, plain, true);
    assert_true(fabs(a - b) < 1e-5);
    for (int i = 0; i <= n->n_wrt; i++) {
        const nbi_tensor *w = n->g->tensor[i < n->n_wrt ? n->wrt[i] : n->x];
        close_arrays(nbi_tape_gradient(fast, i), nbi_tape_gradient(plain, i), nbi_tensor_count(w),
                     w->name);
    }
    nbi_tape_free(fast);
    nbi_tape_free(plain);
    release(n);
}

/* Along the gradient itself the loss rises by its squared length. */
static void test_direction(void **state) {
    (void)state;
    net m, *n = &m;
    residual(n);
    nbi_tape *t = tape(n, false, false);
    run(n, t, true);
    double square = 0, step;
    float *kept[64];
    for (int i = 0; i < n->n_wrt; i++) {
        int64_t count = nbi_tensor_count(n->g->tensor[n->wrt[i]]);
        kept[i] = malloc((size_t)count * sizeof(float));
        memcpy(kept[i], nbi_tape_gradient(t, i), (size_t)count * sizeof(float));
        for (int64_t k = 0; k < count; k++) square += (double)kept[i][k] * (double)kept[i][k];
    }
    double loss[2];
    step = 5e-4 / sqrt(square);
    for (int side = 0; side < 2; side++) {
        float by = (float)(side ? -2 * step : step);
        for (int i = 0; i < n->n_wrt; i++) {
            nbi_tensor *w = n->g->tensor[n->wrt[i]];
            for (int64_t k = 0; k < nbi_tensor_count(w); k++)
                ((float *)w->data)[k] += by * kept[i][k];
        }
        loss[side] = run(n, t, false);
    }
    double slope = (loss[0] - loss[1]) / (2 * step);
    /* Second differences of the ReLU kinks and float32 losses: 2 %. */
    if (!(fabs(slope - square) < 0.02 * square)) fail_msg("%g, want %g", slope, square);
    for (int i = 0; i < n->n_wrt; i++) free(kept[i]);
    nbi_tape_free(t);
    release(n);
}

static void test_state_and_repeat(void **state) {
    (void)state;
    net m, *n = &m;
    residual(n);
    nbi_tape *t = tape(n, false, false);
    int mean = n->state[0].to;
    double first = run(n, t, true);
    float g = nbi_tape_gradient(t, 0)[3], before = *(float *)n->g->tensor[mean]->data;
    assert_true(before == 0);
    nbi_tape_advance(t);
    assert_true(*(float *)n->g->tensor[mean]->data != 0);
    assert_true(run(n, t, true) == first); /* training uses the batch's statistics */
    assert_true(nbi_tape_gradient(t, 0)[3] == g);
    assert_null(nbi_tape_not_finite(t));
    assert_int_equal(nbi_tape_backward(n->ctx, t, NULL), NB_EINVAL);
    nbi_tape_free(t);
    release(n);
}

static void test_weights_of_losses(void **state) {
    (void)state;
    net m, *n = &m;
    residual(n);
    nbi_tape *t = tape(n, false, false);
    run(n, t, true);
    float g = nbi_tape_gradient(t, 2)[1], half = 0.5f;
    run(n, t, false);
    MUST(nbi_tape_backward(n->ctx, t, &half));
    assert_true(fabsf(nbi_tape_gradient(t, 2)[1] - g / 2) <= 1e-6f * fabsf(g));
    nbi_tape_free(t);
    release(n);
}

static void begin(net *n, int64_t c, int64_t size) {
    *n = (net){.ctx = nb_ctx_new()};
    nbi_rng_seed(&n->rng, 4, 1);
    MUST(nbi_graph_new(n->ctx, &n->g));
    n->g->opset = 17;
    inputs(n, 4, c, size, 5);
}

static int dense(net *n, int x, int64_t k, int64_t m, float spread) {
    int in[3] = {x, constant(n, 2, (int64_t[]){k, m}, 0, spread, true),
                 constant(n, 1, &m, 0, 0.1f, true)}, out;
    finish(n, node(n, "", "Gemm", 3, in, 1, &out));
    return out;
}

static void loss_of(net *n, int y) {
    int in[2] = {y, n->target};
    finish(n, node(n, "org.nibble", "CrossEntropy", 2, in, 1, &n->loss));
}

static void compare(net *n) {
    nbi_tape *fast = tape(n, false, true), *plain = tape(n, true, true);
    for (int round = 0; round < 2; round++) {
        double a = run(n, fast, true), b = run(n, plain, true);
        assert_true(fabs(a - b) < 1e-5 * (1 + fabs(b)));
        for (int i = 0; i <= n->n_wrt; i++) {
            const nbi_tensor *w = n->g->tensor[i < n->n_wrt ? n->wrt[i] : n->x];
            close_arrays(nbi_tape_gradient(fast, i), nbi_tape_gradient(plain, i),
                         nbi_tensor_count(w), w->name);
        }
        for (int i = 0; i < n->g->n_outputs; i++) {
            nbi_view v, w;
            MUST(nbi_tape_value(n->ctx, fast, n->g->output[i], &v));
            MUST(nbi_tape_value(n->ctx, plain, n->g->output[i], &w));
            close_arrays(v.data, w.data, nbi_view_count(&v), "output");
        }
        nbi_tape_advance(fast);
    }
    nbi_tape_free(fast);
    nbi_tape_free(plain);
}

/* Values that one node reads twice, weights of two layers, a reshaped value with two readers, and
 * statistics that a node reads while their chain is not at its end. */
static void test_tangled(void **state) {
    (void)state;
    net m, *n = &m;
    begin(n, 3, 6);
    int y = batchnorm(n, conv(n, n->x, 3, 8, 1, 1, true), 8);
    int mean = n->state[n->n_states - 2].from, seen = simple(n, "Mul", mean, mean);
    int r = simple(n, "Relu", simple(n, "Relu", y, -1), -1);
    int d = simple(n, "Mul", r, r);
    d = simple(n, "Add", simple(n, "Sub", simple(n, "Add", d, d), r), r);
    int once = conv(n, d, 8, 8, 1, 1, false), in[3] = {once, -1, -1}, twice;
    in[1] = n->wrt[n->n_wrt - 1];
    nbi_node *made = node(n, "", "Conv", 2, in, 1, &twice);
    MUST(nbi_node_set_ints(n->ctx, n->g, made, "pads", 4, (int64_t[]){1, 1, 1, 1}));
    finish(n, made);
    y = simple(n, "Relu", simple(n, "Add", batchnorm(n, twice, 8), once), -1);
    int f = simple(n, "Flatten", y, -1), g = simple(n, "Add", f, f);
    g = simple(n, "Sigmoid", simple(n, "Sub", g, f), -1);
    loss_of(n, dense(n, simple(n, "Add", g, f), 288, 5, 0.05f));
    MUST(nbi_graph_set_outputs(n->ctx, n->g, 1, &seen));
    compare(n);
    release(n);
}

/* Rank 2, at the limits of a tile. */
static void test_wide(void **state) {
    static const int64_t widths[] = {1, 1023, 1025, 2048, 2049, 5000};
    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        net m, *n = &m;
        begin(n, 3, 2);
        int x = simple(n, "Flatten", n->x, -1), skip = dense(n, x, 12, widths[i], 0.3f);
        int y = batchnorm(n, dense(n, x, 12, widths[i], 0.3f), widths[i]);
        y = simple(n, "Relu", simple(n, "Add", y, skip), -1);
        loss_of(n, dense(n, y, widths[i], 5, 0.05f));
        compare(n);
        release(n);
    }
}

/* More inputs than a mask has bits. */
static void test_many_inputs(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        net m, *n = &m;
        int in[40], y;
        begin(n, 3, 2);
        in[0] = simple(n, "Flatten", n->x, -1);
        for (int i = 1; i < 40; i++) in[i] = constant(n, 1, (int64_t[]){12}, 0, 1, true);
        finish(n, node(n, "", kind ? "Max" : "Min", 40, in, 1, &y));
        loss_of(n, dense(n, y, 12, 5, 0.3f));
        compare(n);
        release(n);
    }
}

/* Values at the bounds themselves: chains and plain C have one definition. */
static void test_clip_at_bounds(void **state) {
    (void)state;
    net m, *n = &m;
    begin(n, 3, 4);
    float *x = n->input[0];
    for (int i = 0; i < 4 * 3 * 16; i++) x[i] = (float)(i % 3);
    int w = constant(n, 4, (int64_t[]){8, 3, 1, 1}, 0, 0, true), in[3] = {n->x, w, -1}, y;
    for (int i = 0; i < 24; i++) ((float *)n->g->tensor[w]->data)[i] = i % 4 == 0 ? 1 : 0;
    finish(n, node(n, "", "Conv", 2, in, 1, &y)); /* sums of 0, 1, 2 */
    in[0] = y;
    in[1] = constant(n, 0, NULL, 0, 0, false);
    in[2] = constant(n, 0, NULL, 2, 0, false);
    finish(n, node(n, "", "Clip", 3, in, 1, &y));
    loss_of(n, dense(n, simple(n, "Flatten", y, -1), 128, 5, 0.3f));
    compare(n);
    release(n);
}

static int pool(net *n, const char *type, int x, int64_t kernel, int64_t stride, int64_t pad) {
    int out;
    nbi_node *made = node(n, "", type, 1, &x, 1, &out);
    MUST(nbi_node_set_ints(n->ctx, n->g, made, "kernel_shape", 2, (int64_t[]){kernel, kernel}));
    MUST(nbi_node_set_ints(n->ctx, n->g, made, "strides", 2, (int64_t[]){stride, stride}));
    MUST(nbi_node_set_ints(n->ctx, n->g, made, "pads", 4, (int64_t[]){pad, pad, pad, pad}));
    finish(n, made);
    return out;
}

/* Pools behind convolutions, whose values have their channels last; ties between zeros; windows that
 * overlap, reach beyond the edge, and more channels than are taken at once. */
static void test_pools(void **state) {
    (void)state;
    static const int64_t channels[] = {3, 8, 260};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        net m, *n = &m;
        int64_t c = channels[i];
        begin(n, 3, 9);
        int y = simple(n, "Relu", conv(n, n->x, 3, c, 1, 1, true), -1);
        y = conv(n, pool(n, "MaxPool", y, 3, 2, 1), c, c, 1, c, true);
        y = conv(n, pool(n, "AveragePool", y, 2, 1, 0), c, 8, 1, 1, true);
        y = pool(n, "MaxPool", y, 2, 2, 0);
        loss_of(n, dense(n, simple(n, "Flatten", y, -1), 32, 5, 0.05f));
        compare(n);
        release(n);
    }
}

/* A value that is not a number reaches the loss through Relu, Clip and FakeQuant, one by one as in
 * chains: who watches the loss learns of it. */
static void test_not_a_number(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++)
        for (int plain = 0; plain < 2; plain++) {
            net m, *n = &m;
            begin(n, 3, 6);
            int y = conv(n, n->x, 3, 8, 1, 1, false), scalar[3] = {-1, -1, -1}, out = y;
            if (kind == 0) y = simple(n, "Relu", y, -1);
            if (kind == 1) {
                scalar[0] = y;
                scalar[1] = constant(n, 0, NULL, 0, 0, false);
                scalar[2] = constant(n, 0, NULL, 6, 0, false);
                finish(n, node(n, "", "Clip", 3, scalar, 1, &out));
            }
            if (kind == 2) {
                scalar[0] = y;
                scalar[1] = constant(n, 2, (int64_t[]){1, 1}, 0.1f, 0, true);
                nbi_node *made = node(n, "org.nibble", "FakeQuant", 2, scalar, 1, &out);
                MUST(nbi_node_set_text(n->ctx, n->g, made, "scheme", "lsq"));
                MUST(nbi_node_set_text(n->ctx, n->g, made, "role", "activations"));
                MUST(nbi_node_set_int(n->ctx, n->g, made, "bits", 4));
                MUST(nbi_node_set_int(n->ctx, n->g, made, "axis", -1));
                finish(n, made);
            }
            y = simple(n, "Flatten", kind ? out : y, -1);
            loss_of(n, dense(n, y, 288, 5, 0.05f));
            nbi_tape *t = tape(n, plain, false);
            n->input[0][7] = NAN;
            assert_true(isnan(run(n, t, false)));
            nbi_tape_free(t);
            release(n);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast_equals_plain),
        cmocka_unit_test(test_direction),
        cmocka_unit_test(test_state_and_repeat),
        cmocka_unit_test(test_weights_of_losses),
        cmocka_unit_test(test_tangled),
        cmocka_unit_test(test_many_inputs), cmocka_unit_test(test_clip_at_bounds),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_pools),
        cmocka_unit_test(test_not_a_number),
    };
    return cmocka_run_group_tests_name("tape", tests, NULL, NULL);
}
