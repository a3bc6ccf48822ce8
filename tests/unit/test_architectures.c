/* Every architecture: one float run, an ONNX file that reads back, and the number of parameters
 * that is published for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec/exec.h"
#include "hyper/arch.h"
#include "onnx/onnx.h"
#include "train/roles.h"

#include <math.h>
#include <string.h>

/* Trained values: without running statistics and bounds. */
static int64_t trained(const nbi_graph *g) {
    int64_t n = 0;
    for (int k = 0; k < g->n_nodes; k++)
        for (int i = 0; i < g->node[k]->n_in; i++) {
            nbi_role role = nbi_role_of(g, g->node[k], i);
            if (role != NBI_ROLE_NONE && role != NBI_ROLE_MEAN && role != NBI_ROLE_VARIANCE)
                n += nbi_tensor_count(g->tensor[g->node[k]->in[i]]);
        }
    return n;
}

static const struct {
    const char *name;
    nbi_arch_options o;
    int64_t parameters; /* from the source named behind it */
} published[] = {
    {"resnet8", {.width = 1}, 78042},     /* the formula: nobody publishes 6n+2 with n = 1 */
    {"resnet20", {.width = 1}, 272474},   /* pytorch-cifar-models (chenyaofo) */
    {"resnet32", {.width = 1}, 466906},   /* idem: 0.47 M */
    {"resnet44", {.width = 1}, 661338},   /* idem: 0.66 M */
    {"resnet56", {.width = 1}, 855770},   /* idem: 0.86 M */
    {"vgg_small", {.width = 1}, 4660106}, /* 4.6 M in the LQ-Nets paper's tables */
    {"dscnn", {.width = 1}, 23756},       /* MLPerf Tiny: 24,908 with 1,152 running statistics */
    {"mobilenet_v1", {.width = 1}, 3217226}, /* pytorch-cifar (kuangliu) */
    {"mobilenet_v1", {.width = 1, .classes = 1000, .rank = 3, .input = {3, 224, 224}}, 4231976},
    {"mobilenet_v2", {.width = 1, .classes = 1000, .rank = 3, .input = {3, 224, 224}}, 3504872},
    {"mobilenet_v2", {.width = 0.5, .classes = 1000, .rank = 3, .input = {3, 224, 224}}, 1968680},
    {"autoencoder", {.width = 1}, 267928}, /* MLPerf Tiny: 269,992 with 2,064 statistics */
    {"resnet18", {.width = 1}, 11689512},  /* torchvision */
    {"resnet50", {.width = 1}, 25557032},  /* torchvision */
};

static void sizes_are_as_published(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    for (size_t i = 0; i < NBI_COUNT(published); i++) {
        nbi_graph *g;
        assert_int_equal(nbi_arch_build(ctx, published[i].name, &published[i].o, &g), NB_OK);
        if (trained(g) != published[i].parameters) print_error("%s\n", published[i].name);
        assert_int_equal(trained(g), published[i].parameters);
        nbi_graph_free(g);
    }
    nb_ctx_free(ctx);
}

static void run_once(nb_ctx *ctx, const nbi_arch *row, const nbi_graph *g) {
    nbi_graph *one;
    nbi_exec *exec;
    nbi_view y;
    float *x;
    assert_int_equal(nbi_specialize_batch(ctx, g, 1, &one), NB_OK);
    assert_int_equal(nbi_exec_new(ctx, one, 0, &exec), NB_OK);
    size_t n = (size_t)nbi_tensor_count(one->tensor[one->input[0]]);
    assert_int_equal(nbi_alloc(ctx, n, sizeof *x, &x), NB_OK);
    for (size_t i = 0; i < n; i++) x[i] = sinf((float)i);
    const void *inputs[1] = {x};
    assert_int_equal(nbi_exec_run(ctx, exec, inputs), NB_OK);
    assert_int_equal(nbi_exec_value(ctx, exec, one->output[0], &y), NB_OK);
    assert_int_equal(nbi_view_count(&y), row->classes ? row->classes : row->input[0]);
    double power = 0;
    for (int64_t i = 0; i < nbi_view_count(&y); i++)
        power += (double)((float *)y.data)[i] * (double)((float *)y.data)[i];
    /* He's rule keeps the signal alive; running statistics of 1 let residual sums grow with depth */
    assert_true(power > 1e-8 && power < 1e20);
    nbi_free(x);
    nbi_exec_free(exec);
    nbi_graph_free(one);
}

static void each_runs_and_survives_a_file(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    size_t n;
    const nbi_arch *const *row = nbi_archs(&n);
    nb_ctx_set_threads(ctx, 1); /* tiny work: threads would only wait for each other */
    assert_int_equal(n, 12);
    for (size_t i = 0; i < n; i++) {
        /* ImageNet's are run at half of their width and side: the test is about the wiring */
        bool large = row[i]->input[1] == 224;
        nbi_arch_options o = nbi_arch_options_default();
        nbi_graph *g, *back;
        nbi_buf file = {0};
        if (large) o = (nbi_arch_options){.width = 0.25, .rank = 3, .input = {3, 64, 64}};
        assert_int_equal(nbi_arch_build(ctx, row[i]->name, &o, &g), NB_OK);
        assert_int_equal(nbi_onnx_serialize(ctx, g, &file), NB_OK);
        assert_int_equal(nbi_onnx_parse(ctx, file.data, file.size, &back), NB_OK);
        assert_int_equal(trained(back), trained(g));
        run_once(ctx, row[i], back);
        nbi_buf_free(&file);
        nbi_graph_free(back);
        nbi_graph_free(g);
    }
    nb_ctx_free(ctx);
}

static void weights_follow_the_seed(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *g[3];
    const uint64_t seeds[3] = {1, 1, 2};
    for (int i = 0; i < 3; i++) {
        nbi_arch_options o = {.width = 1, .seed = seeds[i]};
        assert_int_equal(nbi_arch_build(ctx, "resnet8", &o, &g[i]), NB_OK);
    }
    int w = nbi_graph_find(g[0], "layer2.0.conv1.weight");
    assert_true(w >= 0);
    const float *a = g[0]->tensor[w]->data, *b = g[1]->tensor[w]->data, *c = g[2]->tensor[w]->data;
    size_t n = (size_t)nbi_tensor_count(g[0]->tensor[w]);
    double power = 0;
    assert_memory_equal(a, b, n * sizeof *a);
    assert_memory_not_equal(a, c, n * sizeof *a);
    for (size_t i = 0; i < n; i++) power += (double)a[i] * (double)a[i];
    /* 4608 normal numbers of variance 2/(16·9): relative error of the sum √(2/4608) = 2 % */
    assert_true(fabs(power / (double)n * 72 - 1) < 0.08);
    for (int i = 0; i < 3; i++) nbi_graph_free(g[i]);
    nb_ctx_free(ctx);
}

static void impossible_wishes_are_refused(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *g = NULL;
    nbi_arch_options o = nbi_arch_options_default();
    assert_int_equal(nbi_arch_build(ctx, "resnet21", &o, &g), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "resnet20"));
    assert_int_equal(nbi_arch_build(ctx, "autoencoder", &(nbi_arch_options){.width = 1, .classes = 3}, &g),
                     NB_EINVAL);
    assert_int_equal(nbi_arch_build(ctx, "dscnn", &(nbi_arch_options){.width = 0}, &g), NB_EINVAL);
    assert_int_equal(
        nbi_arch_build(ctx, "resnet8", &(nbi_arch_options){.width = 1, .rank = 1, .input = {5}}, &g),
        NB_EINVAL);
    assert_int_equal(nbi_arch_build(ctx, "vgg_small",
                                    &(nbi_arch_options){.width = 1, .rank = 3, .input = {3, 4, 4}}, &g),
                     NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "vgg_small"));
    assert_null(g);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_as_published),
        cmocka_unit_test(each_runs_and_survives_a_file),
        cmocka_unit_test(weights_follow_the_seed),
        cmocka_unit_test(impossible_wishes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
