/* What only training needs: values of the losses and of the training forms against PyTorch 1.13 (in
 * double), ties, extreme logits, the draw of Dropout, the same bytes at any thread count, and clear
 * errors. */
#include <stdio.h>

#include "gradient_check.h"

#define DIMS(...)                                                                                  \
    (int64_t[]) {                                                                                  \
        __VA_ARGS__                                                                                \
    }
#define VALUES(...)                                                                                \
    (const float[]) {                                                                              \
        __VA_ARGS__                                                                                \
    }

static void given(int rank, const int64_t *dim, const float *values) {
    int k = gc.n_in;
    gc_float(rank, dim, 0, 1);
    memcpy(gc.x[k], values, (size_t)nbi_tensor_count(gc.g->tensor[gc.in[k]]) * sizeof(float));
}

/* Runs both directions with gy = `gout`, keeps the outputs in `out` and the gradients in gc.gx. */
static void run(const float *gout, nbi_view *out) {
    nbi_view in[GC_MAX_IO];
    float *other[GC_MAX_IO] = {0};
    gc_prepare(other);
    size_t n = (size_t)nbi_tensor_count(gc.g->tensor[gc.node->out[0]]);
    memcpy(gc.gy[0], gout, n * sizeof *gout);
    gc_run_forward(in, out, GC_PLAIN);
    gc_run_backward(GC_PLAIN, ~0u, false, gc.gx);
    gc_free_views(in, gc.n_in);
    for (int k = 0; k < gc.n_in; k++) free(other[k]);
}

static void near(const float *got, const float *want, size_t n, double tolerance) {
    for (size_t i = 0; i < n; i++) {
        double a = (double)got[i], b = (double)want[i];
        if (!(fabs(a - b) <= tolerance * (1 + fabs(b))))
            print_message("value %zu is %.9g, want %.9g\n", i, a, b);
        assert_true(fabs(a - b) <= tolerance * (1 + fabs(b)));
    }
}

#define ROUNDING 2e-7 /* one rounding to float32 of a value in double */

/* torch.nn.functional: cross_entropy; kl_div(batchmean, log_target)·T², T = 4. */
static void test_loss_values(void **state) {
    nbi_view out[1];
    (void)state;
    gc_begin("org.nibble", "CrossEntropy", 13);
    given(2, DIMS(2, 4), VALUES(1, -2, .5f, 3, 0, .25f, -1, -.5f));
    given(2, DIMS(2, 4), VALUES(.1f, .2f, .3f, .4f, 0, 1, 0, 0));
    gc_node();
    run(VALUES(1), out);
    near(out[0].data, VALUES(1.54175031264f), 1, ROUNDING);
    near(gc.gx[0],
         VALUES(0.005276875f, -0.097247926f, -0.116472880f, 0.208443932f, 0.153447873f,
                -0.302969031f, 0.056450318f, 0.093070840f),
         8, ROUNDING);
    free(out[0].data);
    gc_end();
    gc_begin("org.nibble", "KlDivergence", 13);
    given(2, DIMS(2, 4), VALUES(1, -2, .5f, 3, 0, .25f, -1, -.5f));
    given(2, DIMS(2, 4), VALUES(.5f, 1, -1, 2, 3, 0, 0, -1));
    gc_node();
    gc_attr_float("temperature", 4);
    run(VALUES(1), out);
    near(out[0].data, VALUES(1.22487661291f), 1, ROUNDING);
    near(gc.gx[0],
         VALUES(0.031763012f, -0.294102917f, 0.119346797f, 0.142993107f, -0.328024177f,
                0.162905780f, 0.009545816f, 0.155572581f),
         8, ROUNDING);
    free(out[0].data);
    gc_end();
}

/* Logits of ±1e30 and a certain class: finite losses and gradients, 0 where nothing is to learn. */
static void test_loss_extremes(void **state) {
    nbi_view out[1];
    (void)state;
    gc_begin("org.nibble", "CrossEntropy", 13);
    given(2, DIMS(2, 3), VALUES(1e30f, -1e30f, 0, 0, -200, 300));
    given(2, DIMS(2, 3), VALUES(1, 0, 0, 0, 0, 1));
    gc_node();
    run(VALUES(1), out);
    near(out[0].data, VALUES(0), 1, 0);
    near(gc.gx[0], VALUES(0, 0, 0, 0, 0, 0), 6, 0);
    free(out[0].data);
    gc_end();
    gc_begin("org.nibble", "KlDivergence", 13);
    given(2, DIMS(2, 3), VALUES(1e30f, -1e30f, 0, 500, -200, 3));
    given(2, DIMS(2, 3), VALUES(1e30f, -1e30f, 0, 500, -200, 3));
    gc_node();
    run(VALUES(1), out);
    near(out[0].data, VALUES(0), 1, 0);
    near(gc.gx[0], VALUES(0, 0, 0, 0, 0, 0), 6, 0);
    near(gc.gx[1], VALUES(0, 0, 0, 0, 0, 0), 6, 0);
    free(out[0].data);
    gc_end();
}

static void batchnorm(int n_out) {
    gc_begin("", "BatchNormalization", 15);
    gc.n_out = n_out;
    given(2, DIMS(3, 2), VALUES(1, -2, 3, .5f, -1, 4));
    given(1, DIMS(2), VALUES(1.5f, -.5f));
    given(1, DIMS(2), VALUES(.25f, 1));
    given(1, DIMS(2), VALUES(10, 20));
    given(1, DIMS(2), VALUES(2, 4));
    gc_node();
    gc_attr_int("training_mode", 1);
    gc_attr_float("momentum", 0.75);
}

/* torch.nn.functional.batch_norm; running statistics as ONNX defines them. */
static void test_batchnorm_values(void **state) {
    nbi_view out[5];
    const double var[2] = {2.666666667, 6.055555556};
    (void)state;
    batchnorm(5);
    run(VALUES(1, 2, -1, .5f, .25f, -3), out);
    near(out[0].data,
         VALUES(0.25f, 1.575692167f, 2.087113863f, 1.067728490f, -1.587113863f, 0.356579343f), 6,
         4e-7); /* x − mean, times, plus: three roundings */
    near(out[1].data, VALUES(7.5f + 0.25f, 15 + 0.25f * 0.833333333f), 2, ROUNDING);
    near(out[2].data, VALUES(1.5f + (float)var[0] / 4, 3 + (float)var[1] / 4), 2, ROUNDING);
    near(out[3].data, VALUES(1, 0.833333333f), 2, ROUNDING);
    near(out[4].data, VALUES((float)(1 / sqrt(var[0] + 1e-5)), (float)(1 / sqrt(var[1] + 1e-5))), 2,
         ROUNDING);
    near(gc.gx[0],
         VALUES(0.842010520f, 0.045669326f, -0.421007413f, -0.078291744f, -0.421003107f,
                0.032622417f),
         6, 4e-7);
    near(gc.gx[1], VALUES(-1.530928219f, -6.231021101f), 2, 4e-7);
    near(gc.gx[2], VALUES(0.25f, -0.5f), 2, 0);
    gc_free_views(out, 5);
    gc_end();
}

/* The first of equal maxima gets everything; at most one input of a Max, too. */
static void test_ties(void **state) {
    static const char *const name[] = {"MaxPool", "GlobalMaxPool", "ReduceMax"};
    nbi_view out[1];
    (void)state;
    for (int i = 0; i < 3; i++) {
        gc_begin("", name[i], 13);
        given(4, DIMS(1, 1, 2, 2), VALUES(1, 2, 2, 2));
        gc_node();
        if (i == 0) gc_attr_ints("kernel_shape", 2, DIMS(2, 2));
        if (i == 2) gc_attr_ints("axes", 2, DIMS(2, 3));
        if (i == 2) gc.g->opset = 11;
        run(VALUES(3), out);
        near(gc.gx[0], VALUES(0, 3, 0, 0), 4, 0);
        free(out[0].data);
        gc_end();
    }
    gc_begin("", "Max", 13);
    given(1, DIMS(2), VALUES(1, 2));
    given(1, DIMS(2), VALUES(1, 3));
    gc_node();
    run(VALUES(5, 7), out);
    near(gc.gx[0], VALUES(5, 0), 2, 0);
    near(gc.gx[1], VALUES(0, 7), 2, 0);
    free(out[0].data);
    gc_end();
}

/* d(a^b)/da at a = 0 for b = 0, 1, 2; d/db = a^b·log a is 0 there. */
static void test_pow_at_zero(void **state) {
    nbi_view out[1];
    (void)state;
    gc_begin("", "Pow", 13);
    given(1, DIMS(4), VALUES(0, 0, 0, -2));
    given(1, DIMS(4), VALUES(0, 1, 2, 1));
    gc_node();
    run(VALUES(3, 3, 3, 3), out);
    near(out[0].data, VALUES(1, 0, 0, -2), 4, 0);
    near(gc.gx[0], VALUES(0, 3, 0, 3), 4, 0);
    near(gc.gx[1], VALUES(0, 0, 0), 3, 0);
    free(out[0].data);
    gc_end();
}

/* Every allocation of a backward may fail: an error, no crash, no leak. */
static void no_memory(const char *name, bool bn, int n_small) {
    float *other[GC_MAX_IO] = {0};
    nbi_view in[GC_MAX_IO], out[GC_MAX_IO], gin[GC_MAX_IO], gout[GC_MAX_IO];
    gc_begin("", name, 15);
    gc.n_out = bn ? 5 : 1;
    gc_float(4, DIMS(40, 4, 20, 20), -1, 1);
    for (int k = 0; k < n_small; k++) gc_float(bn ? 1 : 3, DIMS(4, 1, 1), 0.5, 1);
    gc_node();
    if (bn) gc_attr_int("training_mode", 1);
    gc_prepare(other);
    gc_run_forward(in, out, GC_PLAIN);
    for (int k = 0; k < gc.n_in; k++) {
        gin[k] = in[k];
        gin[k].data = gc_wanted(k) ? gc.gx[k] : NULL;
    }
    for (int o = 0; o < gc.n_out; o++) {
        gout[o] = out[o];
        gout[o].data = gc.gy[o];
    }
    nbi_grad_call call = {gc.ctx, gc.g, gc.node, in, out, gout, gin, 0};
    nb_status st = NB_ENOMEM;
    long k = 1;
    for (; st == NB_ENOMEM && k < 20; k++) {
        nbi_alloc_fail_after(k);
        st = gc.node->op->backward(&call);
        nbi_alloc_fail_after(0);
    }
    assert_int_equal(st, NB_OK);
    assert_true(k > 2); /* the first one was needed */
    gc_free_views(in, gc.n_in);
    gc_free_views(out, gc.n_out);
    for (int n = 0; n < gc.n_in; n++) free(other[n]);
    gc_end();
}

static void test_no_memory(void **state) {
    (void)state;
    no_memory("Add", false, 1);
    no_memory("Max", false, 1);
    no_memory("Softmax", false, 0);
    no_memory("ReduceMax", false, 0);
    no_memory("BatchNormalization", true, 4);
}

/* ---- Dropout ------------------------------------------------------------------------------- */

enum { DROPPED = 100000 };

static void dropout(double ratio, uint64_t seed, int threads, float *y) {
    nbi_view in[3], out[2];
    gc_begin("", "Dropout", 13);
    gc.n_out = 2;
    gc.seed = seed;
    nb_ctx_set_threads(gc.ctx, threads);
    gc_float(1, DIMS(DROPPED), 1, 2);
    *(float *)gc_const(NB_DTYPE_F32, 0, NULL) = (float)ratio;
    *(uint8_t *)gc_const(NB_DTYPE_BOOL, 0, NULL) = 1;
    gc_node();
    gc_infer();
    gc_run_forward(in, out, GC_PLAIN);
    memcpy(y, out[0].data, DROPPED * sizeof *y);
    for (int i = 0; i < DROPPED; i++) {
        assert_int_equal(((const uint8_t *)out[1].data)[i], y[i] != 0);
        float want = (float)((double)gc.x[0][i] / (1 - ratio));
        if (y[i] != 0) near(&y[i], &want, 1, ROUNDING);
    }
    gc_free_views(in, 3);
    gc_free_views(out, 2);
    gc_end();
}

static void test_dropout(void **state) {
    static float a[DROPPED], b[DROPPED];
    (void)state;
    dropout(0.25, 7, 1, a);
    dropout(0.25, 7, 3, b);
    assert_memory_equal(a, b, sizeof a);
    dropout(0.25, 8, 1, b);
    int kept = 0, both = 0;
    for (int i = 0; i < DROPPED; i++) {
        kept += a[i] != 0;
        both += a[i] != 0 && b[i] != 0;
    }
    /* Binomial: σ of the shares is sqrt(p(1−p)/n) ≤ 0.0016; five of them. */
    assert_true(fabs(kept / (double)DROPPED - 0.75) < 0.008);
    assert_true(fabs(both / (double)DROPPED - 0.75 * 0.75) < 0.008);
}

/* ---- threads ------------------------------------------------------------------------------- */

/* Large enough for many chunks: forward and backward give the same bytes with 1 and with 3 threads.
 */
static void threads(const char *domain, const char *op, int n_in, const int64_t (*dim)[4],
                    const int *rank) {
    float *first[2][GC_MAX_IO] = {{0}};
    for (int pass = 0; pass < 2; pass++) {
        nbi_view out[5];
        gc_begin(domain, op, 15);
        gc.n_out = !strcmp(op, "BatchNormalization") ? 5 : 1;
        nb_ctx_set_threads(gc.ctx, pass ? 3 : 1);
        for (int i = 0; i < n_in; i++) gc_float(rank[i], dim[i], 0.5, 2);
        gc_node();
        if (gc.n_out == 5) gc_attr_int("training_mode", 1);
        gc_infer();
        size_t n = (size_t)nbi_tensor_count(gc.g->tensor[gc.node->out[0]]);
        float *gout = calloc(n, sizeof *gout);
        for (size_t i = 0; i < n; i++) gout[i] = (float)(i % 101) - 50;
        run(gout, out);
        for (int i = 0; i < n_in; i++) {
            first[pass][i] = gc.gx[i];
            gc.gx[i] = NULL;
            if (pass && first[0][i])
                assert_memory_equal(first[0][i], first[1][i],
                                    (size_t)nbi_tensor_count(gc.g->tensor[gc.in[i]]) *
                                        sizeof(float));
        }
        gc_free_views(out, gc.n_out);
        free(gout);
        gc_end();
    }
    for (int i = 0; i < GC_MAX_IO; i++) free(first[0][i]), free(first[1][i]);
}

static void test_threads(void **state) {
    (void)state;
    const int64_t bias[2][4] = {{32, 8, 16, 16}, {8, 1, 1}}, equal[2][4] = {{7, 5, 99}, {7, 5, 99}};
    const int64_t bn[5][4] = {{32, 6, 15, 16}, {6}, {6}, {6}, {6}};
    const int64_t conv[3][4] = {{4, 8, 9, 9}, {8, 8, 3, 3}, {8}};
    threads("", "Add", 2, bias, (int[]){4, 3});
    threads("", "Div", 2, bias, (int[]){4, 3});
    threads("", "Max", 2, bias, (int[]){4, 3});
    threads("", "BatchNormalization", 5, bn, (int[]){4, 1, 1, 1, 1});
    threads("", "Conv", 3, conv, (int[]){4, 4, 1});
    threads("", "MatMul", 2, (const int64_t[2][4]){{8, 40, 30}, {30, 20}}, (int[]){3, 2});
    threads("", "Softmax", 1, bias, (int[]){4});
    threads("org.nibble", "MeanSquaredError", 2, equal, (int[]){3, 3});
}

/* ---- errors -------------------------------------------------------------------------------- */

static void fails(nb_status st, nb_status want, const char *text) {
    if (st != want || !strstr(nb_ctx_message(gc.ctx), text))
        print_message("status %d: %s\n", (int)st, nb_ctx_message(gc.ctx));
    assert_int_equal(st, want);
    assert_non_null(strstr(nb_ctx_message(gc.ctx), text));
    gc_end();
}

static nb_status backward_fails(float **gx) {
    nbi_view in[GC_MAX_IO], out[GC_MAX_IO], gout[GC_MAX_IO] = {{0}}, gin[GC_MAX_IO] = {{0}};
    gc_run_forward(in, out, GC_PLAIN);
    for (int i = 0; i < gc.n_out; i++) gout[i] = gc_shape(gc.node->out[i]);
    for (int i = 0; i < gc.n_in; i++) gin[i] = gc_shape(gc.in[i]);
    gin[0].data = gx[0];
    gout[0].dtype = NB_DTYPE_F32;
    gout[0].data = gc.x[0];
    nbi_grad_call call = {gc.ctx, gc.g, gc.node, in, out, gout, gin, 0};
    nb_status st = gc.node->op->backward(&call);
    gc_free_views(in, gc.n_in);
    gc_free_views(out, gc.n_out);
    return st;
}

static void test_errors(void **state) {
    float buffer[64], *gx[1] = {buffer};
    (void)state;
    gc_begin("org.nibble", "CrossEntropy", 13);
    gc_float(2, DIMS(2, 3), 0, 1);
    gc_float(2, DIMS(2, 4), 0, 1);
    gc_node();
    fails(nbi_node_infer(gc.ctx, gc.g, gc.node), NB_EFORMAT, "[2,4]");
    gc_begin("org.nibble", "KlDivergence", 13);
    gc_float(2, DIMS(2, 3), 0, 1);
    gc_float(2, DIMS(2, 3), 0, 1);
    gc_node();
    gc_attr_float("temperature", 0);
    fails(nbi_node_infer(gc.ctx, gc.g, gc.node), NB_EFORMAT, "temperature is 0");
    batchnorm(3);
    gc_infer();
    fails(backward_fails(gx), NB_EUNSUPPORTED, "outputs 3 and 4");
    gc_begin("", "Cast", 13);
    gc_float(2, DIMS(2, 3), 0, 1);
    gc_node();
    gc_attr_int("to", 7);
    gc_infer();
    fails(backward_fails(gx), NB_EUNSUPPORTED, "int64");
    gc_begin("", "Dropout", 13);
    gc_float(1, DIMS(6), 0, 1);
    *(float *)gc_const(NB_DTYPE_F32, 0, NULL) = 1.5f;
    *(uint8_t *)gc_const(NB_DTYPE_BOOL, 0, NULL) = 1;
    gc_node();
    gc_infer();
    nbi_view in[3], out[1];
    for (int i = 0; i < 3; i++) in[i] = gc_shape(gc.in[i]);
    in[0].data = gc.x[0];
    out[0] = gc_shape(gc.node->out[0]);
    out[0].data = buffer;
    nbi_op_call call = {gc.ctx, gc.g, gc.node, in, out, 0};
    fails(gc.node->op->forward(&call), NB_EFORMAT, "ratio is 1.5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_values),      cmocka_unit_test(test_loss_extremes),
        cmocka_unit_test(test_batchnorm_values), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_dropout),          cmocka_unit_test(test_threads),
        cmocka_unit_test(test_errors),           cmocka_unit_test(test_pow_at_zero),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
