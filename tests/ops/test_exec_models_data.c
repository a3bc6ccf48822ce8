/* Real models: the fast path agrees with the reference, batches with single images, and the
 * exported ResNet folds to plain operators. */
#include "exec/exec.h"
#include "onnx/onnx.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static nbi_graph *load(nb_ctx *ctx, const char *name, int64_t batch) {
    char path[512];
    nbi_graph *model, *g;
    snprintf(path, sizeof path, "%s/models/%s.onnx", NIBBLE_DATA, name);
    nb_status st = nbi_onnx_read(ctx, path, &model);
    if (st == NB_OK) st = nbi_specialize_batch(ctx, model, batch, &g);
    if (st != NB_OK) print_message("%s: %s\n", name, nb_ctx_message(ctx));
    assert_int_equal(st, NB_OK);
    nbi_graph_free(model);
    return g;
}

/* The first output of a run, contiguous; *count values. */
static float *run(nb_ctx *ctx, const nbi_graph *g, unsigned flags, const float *x, size_t *count) {
    nbi_exec *e;
    nbi_view v;
    nb_status st = nbi_exec_new(ctx, g, flags, &e);
    if (st != NB_OK) print_message("%s\n", nb_ctx_message(ctx));
    assert_int_equal(st, NB_OK);
    assert_int_equal(nbi_exec_run(ctx, e, (const void *const[]){x}), NB_OK);
    assert_int_equal(nbi_exec_value(ctx, e, g->output[0], &v), NB_OK);
    nbi_view plain = v;
    nbi_view_contiguous(&plain);
    *count = (size_t)nbi_view_count(&v);
    plain.data = calloc(*count, sizeof(float));
    nbi_view_copy(&plain, &v);
    nbi_exec_free(e);
    return plain.data;
}

static float *random_input(const nbi_graph *g, size_t *count) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 11, 0);
    *count = (size_t)nbi_tensor_count(g->tensor[g->input[0]]);
    float *x = calloc(*count, sizeof *x);
    for (size_t i = 0; i < *count; i++) x[i] = 2 * nbi_rng_uniform(&rng) - 1;
    return x;
}

/* Largest difference over the largest value. */
static double distance(const float *a, const float *b, size_t n) {
    double worst = 0, scale = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]), m = fabs((double)b[i]);
        worst = d > worst || d != d ? d : worst;
        scale = m > scale ? m : scale;
    }
    return worst / scale;
}

static void test_fast_equals_reference(void **state) {
    static const char *const models[] = {"mlperf_ad01",
                                         "mlperf_kws_dscnn",
                                         "mlperf_resnet8",
                                         "mlperf_vww96",
                                         "mnist_8",
                                         "resnet20",
                                         "mobilenet_v1_0.25_224_imagenet",
                                         "resnet20_torch_export",
                                         "resnet32",
                                         "super_resolution_10"};
    nb_ctx *ctx = nb_ctx_new();
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(models); i++) {
        nbi_graph *g = load(ctx, models[i], 1);
        size_t n, m, k;
        float *x = random_input(g, &n);
        float *want = run(ctx, g, NBI_EXEC_REFERENCE, x, &m);
        const unsigned modes[2] = {0, NBI_EXEC_KEEP_ALL};
        for (int f = 0; f < 2; f++) {
            float *got = run(ctx, g, modes[f], x, &k);
            double d = distance(got, want, m);
            if (!(d < 1e-4)) print_message("%s: differs by %g\n", models[i], d);
            assert_true(k == m && d < 1e-4); /* sums in float against sums in double */
            free(got);
        }
        free(x);
        free(want);
        nbi_graph_free(g);
    }
    nb_ctx_free(ctx);
}

static void test_batch_equals_single(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *many = load(ctx, "resnet20_torch_export", 64);
    nbi_graph *one = load(ctx, "resnet20_torch_export", 1);
    size_t n, m, k;
    (void)state;
    float *x = random_input(many, &n), *all = run(ctx, many, 0, x, &m);
    for (size_t i = 0; i < 64; i += 21) {
        float *y = run(ctx, one, 0, x + i * (n / 64), &k);
        assert_int_equal(k * 64, m);
        assert_true(distance(y, all + i * k, k) < 1e-5); /* other blocking of the same sums */
        free(y);
    }
    free(x);
    free(all);
    nbi_graph_free(many);
    nbi_graph_free(one);
    nb_ctx_free(ctx);
}

/* Many runs of a small batch, by all threads and by one in turn: the same bits every time. */
static void test_threads_change_nothing(void **state) {
    static const char *const models[] = {"resnet20", "mlperf_kws_dscnn", "mlperf_vww96"};
    nb_ctx *ctx = nb_ctx_new();
    (void)state;
    nb_ctx_set_threads(ctx, 2);
    for (size_t i = 0; i < NBI_COUNT(models); i++) {
        nbi_graph *g = load(ctx, models[i], 1);
        nbi_exec *e;
        nbi_view v;
        size_t n, m;
        nb_ctx_set_threads(ctx, 1);
        float *x = random_input(g, &n), *want = run(ctx, g, 0, x, &m);
        nb_ctx_set_threads(ctx, 2);
        assert_int_equal(nbi_exec_new(ctx, g, 0, &e), NB_OK);
        for (double end = nb_seconds(ctx) + 0.3; nb_seconds(ctx) < end;) {
            assert_int_equal(nbi_exec_run(ctx, e, (const void *const[]){x}), NB_OK);
            assert_int_equal(nbi_exec_value(ctx, e, g->output[0], &v), NB_OK);
            assert_memory_equal(v.data, want, m * sizeof *want);
        }
        nbi_exec_free(e);
        free(x);
        free(want);
        nbi_graph_free(g);
    }
    nb_ctx_free(ctx);
}

static void test_export_folds(void **state) {
    static const char *const allowed[] = {
        "Conv", "Relu", "Add", "Slice", "Pad", "GlobalAveragePool", "Flatten", "Gemm"};
    nb_ctx *ctx = nb_ctx_new();
    (void)state;
    for (int batch = 1; batch <= 64; batch += 63) {
        nbi_graph *g = load(ctx, "resnet20_torch_export", batch);
        assert_int_equal(g->tensor[g->output[0]]->dim[0], batch);
        for (int i = 0; i < g->n_nodes; i++) {
            const nbi_node *node = g->node[i];
            bool found = false;
            for (size_t k = 0; k < NBI_COUNT(allowed); k++)
                found |= !strcmp(node->op_type, allowed[k]);
            if (!found) print_message("%s is left over\n", node->op_type);
            assert_true(found);
            for (int k = 1; k < node->n_in; k++)
                if (node->in[k] >= 0 && strcmp(node->op_type, "Add"))
                    assert_non_null(g->tensor[node->in[k]]->data);
        }
        nbi_graph_free(g);
    }
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export_folds),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_batch_equals_single),
        cmocka_unit_test(test_fast_equals_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
