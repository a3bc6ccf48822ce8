/* Real files: every model of the data set is read and survives import -> export -> import; every
 * file of the ONNX conformance suite does the same or is refused with a message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "graph_equal.h"
#include "onnx/onnx.h"

static const struct {
    const char *file;
    int opset, nodes, inputs, outputs;
} models[] = {
    {"mlperf_ad01", 13, 28, 1, 1},    {"mlperf_kws_dscnn", 13, 22, 1, 1},
    {"mlperf_resnet8", 13, 30, 1, 1}, {"mlperf_vww96", 13, 85, 1, 1},
    {"mnist_8", 8, 12, 1, 1},         {"mobilenet_v1_0.25_224_imagenet", 13, 85, 1, 1},
    {"resnet20", 13, 73, 1, 1},       {"resnet20_torch_export", 13, 116, 1, 1},
    {"resnet32", 13, 115, 1, 1},      {"super_resolution_10", 10, 12, 1, 1},
};

/* a -> bytes -> b; a = b; b gives the same bytes. */
static void check_round_trip(nb_ctx *ctx, const nbi_graph *a, const char *path) {
    nbi_buf first = {0}, second = {0};
    nbi_graph *b = NULL;
    if (nbi_onnx_serialize(ctx, a, &first) != NB_OK)
        fail_msg("%s: serialize: %s", path, nb_ctx_message(ctx));
    if (nbi_onnx_parse(ctx, first.data, first.size, &b) != NB_OK)
        fail_msg("%s: read again: %s", path, nb_ctx_message(ctx));
    const char *d = graph_differs(a, b);
    if (d) fail_msg("%s: after a round trip: %s", path, d);
    if (nbi_onnx_serialize(ctx, b, &second) != NB_OK)
        fail_msg("%s: serialize again: %s", path, nb_ctx_message(ctx));
    if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0)
        fail_msg("%s: the second export differs", path);
    nbi_buf_free(&first);
    nbi_buf_free(&second);
    nbi_graph_free(b);
}

static void test_models(void **state) {
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(models); i++) {
        nb_ctx *ctx = nb_ctx_new();
        nbi_graph *g = NULL;
        char path[1024];
        snprintf(path, sizeof path, "%s/models/%s.onnx", NIBBLE_DATA, models[i].file);
        if (nbi_onnx_read(ctx, path, &g) != NB_OK) fail_msg("%s", nb_ctx_message(ctx));
        assert_int_equal(g->opset, models[i].opset);
        assert_int_equal(g->n_nodes, models[i].nodes);
        assert_int_equal(g->n_inputs, models[i].inputs);
        assert_int_equal(g->n_outputs, models[i].outputs);
        assert_int_equal(g->tensor[g->input[0]]->dtype, NB_DTYPE_F32);
        check_round_trip(ctx, g, path);
        nbi_graph_free(g);
        nb_ctx_free(ctx);
    }
}

static void test_conformance(void **state) {
    (void)state;
    glob_t found;
    size_t read = 0;
    assert_int_equal(glob(NIBBLE_DATA "/onnx-conformance/*/*/model.onnx", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        nb_ctx *ctx = nb_ctx_new();
        nbi_graph *g = NULL;
        nb_status st = nbi_onnx_read(ctx, found.gl_pathv[i], &g);
        if (st == NB_OK) {
            check_round_trip(ctx, g, found.gl_pathv[i]);
            read++;
        } else if (st != NB_EUNSUPPORTED || strlen(nb_ctx_message(ctx)) < 20) {
            /* the suite holds valid files only */
            fail_msg("%s: %s", nb_status_text(st), nb_ctx_message(ctx));
        }
        nbi_graph_free(g);
        nb_ctx_free(ctx);
    }
    print_message("%zu of %zu conformance models read\n", read, found.gl_pathc);
    /* Refused: float8 and other foreign types, sequences, maps and optionals (8 % of the suite). */
    assert_true(read * 10 > found.gl_pathc * 9);
    globfree(&found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_conformance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
