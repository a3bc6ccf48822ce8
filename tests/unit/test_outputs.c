/* Networks with several outputs: policies are judged by the model's first one, and the C gives out all,
 * or what float operators make them of. */
#include "hand_net.h"
#include "work_folder.h"

#include "onnx/onnx.h"

#include <jansson.h>
#include <nibble/nibble.h>

/* ---- which one is the first ------------------------------------------------------------------ */

static void test_order(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 1, 3, 6, 6), early = hand_conv3(h, x, 3, 4);
    int mid = hand_conv3(h, hand_op(h, "Relu", early), 4, 4);
    int y = hand_conv3(h, mid, 4, 2);
    hand_outputs(h, 3, (const int[]){y, early, mid});
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(h->net->n_outputs, 3);
    assert_int_equal(h->net->output[0], hand_edge(h, y));
    assert_int_equal(h->net->output[1], hand_edge(h, early));
    assert_int_equal(h->net->output[2], hand_edge(h, mid));
    assert_int_equal(nbi_score_edge(h->net), hand_edge(h, y));
    hand_free(h);
}

/* What an untouched node reads stands where the output is that it leads to. */
static void test_order_untouched(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 2, 3, 6, 6), early = hand_conv3(h, x, 3, 4);
    int last = hand_conv3(h, hand_op(h, "Relu", early), 4, 4);
    int y = hand_op(h, "Foo", hand_op(h, "Foo", last));
    hand_outputs(h, 2, (const int[]){y, early});
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(h->net->n_outputs, 2);
    assert_int_equal(h->net->output[0], hand_edge(h, last));
    assert_int_equal(h->net->output[1], hand_edge(h, early));
    hand_free(h);
}

/* ---- whole runs ------------------------------------------------------------------------------ */

static json_t *quantize(hand *h, const char *emit, bool dry) {
    nb_quantize_options o = nb_quantize_options_default();
    nb_ctx *ctx = nb_ctx_new();
    char *text = NULL;
    HAND_OK(nbi_onnx_write(h->ctx, h->g, path));
    o.data.path = "builtin:glyphs";
    o.data.limit = 64;
    o.calib = 32;
    o.search = "uniform";
    o.weight_bits = o.activation_bits = "8";
    o.ptq = "none";
    o.max_drop = -1;
    o.emit = emit;
    o.dry_run = dry;
    o.output = dry ? NULL : output;
    nb_ctx_set_threads(ctx, 1);
    if (nb_quantize(ctx, path, &o, &text) != NB_OK) fail_msg("%s", nb_ctx_message(ctx));
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    nb_free(text);
    nb_ctx_free(ctx);
    return root;
}

static double number(const json_t *root, const char *part, const char *key) {
    return json_number_value(json_object_get(json_object_get(root, part), key));
}

/* conv, ReLU, pooled: 8 values, in which heads begin. */
static int pooled(hand *h) {
    int x = HAND_IMAGE(h, 3, 3, 32, 32);
    int a = hand_op(h, "Relu", hand_conv(h, x, 3, 8, 1, (hand_window){3, 2, 1, 1}));
    return hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", a));
}

/* A constant is no output of the integer program: the next output is judged on both sides. */
static void test_constant_first(void **state) {
    (void)state;
    hand data, *h = &data;
    int y = hand_gemm(h, pooled(h), 8, 10);
    hand_outputs(h, 2, (const int[]){hand_random(h, 2, (const int64_t[]){1, 3}, 0, 1), y});
    json_t *root = quantize(h, NULL, false);
    assert_true(number(root, "quantized", "cosine") > 0.99);
    hand_free(h);
    json_decref(root);
}

/* The C gives out what the Softmax reads, beyond the step at which the engine needs it no more. */
static void test_two_softmax_heads(void **state) {
    (void)state;
    hand data, *h = &data;
    char command[256];
    int p = pooled(h), y = hand_op(h, "Softmax", hand_gemm(h, p, 8, 10));
    int b = hand_op(h, "Relu", hand_gemm(h, p, 8, 16));
    hand_outputs(h, 2, (const int[]){y, hand_op(h, "Softmax", hand_gemm(h, b, 16, 4))});
    json_decref(quantize(h, "c", false));
    hand_free(h);
    snprintf(command, sizeof command, "cd %s/c && cc -std=c99 -o t *.c && ./t > log", output);
    assert_int_equal(system(command), 0);
}

/* What a float operator at the end reads lives to the end of the C, and so in what is foretold. */
static void test_ram_of_the_tail(void **state) {
    (void)state;
    hand data, *h = &data;
    int a = hand_op(h, "Relu", hand_conv3(h, HAND_IMAGE(h, 4, 3, 32, 32), 3, 8)), b = a;
    int most = hand_op(h, "ReduceMax", a);
    hand_ints(h, "axes", 2, (int64_t[]){2, 3});
    for (int i = 0; i < 3; i++) b = hand_op(h, "Relu", hand_conv3(h, b, 8, 8));
    int y = hand_gemm(h, hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", b)), 8, 10);
    hand_outputs(h, 2, (const int[]){y, most});
    json_t *root = quantize(h, "c", false), *dry = quantize(h, NULL, true);
    const json_t *q = json_object_get(root, "quantized");
    const json_t *row = json_array_get(json_object_get(dry, "uniform"), 0);
    const json_int_t ram = json_integer_value(json_object_get(q, "peak_ram"));
    assert_true(ram >= 3 * 8 * 1024);
    assert_true(number(q, "c", "arena_bytes") == (double)ram);
    assert_int_equal(json_integer_value(json_object_get(row, "peak_ram")), ram);
    json_decref(root);
    json_decref(dry);
    hand_free(h);
}

/* Said before anything is done, not when everything is. */
static void test_no_c(void **state) {
    (void)state;
    hand data, *h = &data;
    nb_quantize_options o = nb_quantize_options_default();
    char none[96];
    int soft = hand_op(h, "Softmax", pooled(h)), y = hand_gemm(h, soft, 8, 10);
    hand_outputs(h, 1, &y);
    HAND_OK(nbi_onnx_write(h->ctx, h->g, path));
    snprintf(none, sizeof none, "%s/none", folder);
    o.data.path = "builtin:glyphs";
    o.emit = "c";
    o.output = none;
    assert_int_equal(nb_quantize(h->ctx, path, &o, NULL), NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "is computed in float"));
    assert_int_equal(access(none, F_OK), -1);
    hand_free(h);
}

/* Calibration runs batches: what is one row of values for any number of images is no output of theirs. */
static void test_rows_of_a_batch(void **state) {
    (void)state;
    static const char *const ops[] = {"Flatten", "Softmax", "ReduceMean"};
    for (size_t i = 0; i < NBI_COUNT(ops); i++) {
        hand data, *h = &data;
        nb_quantize_options o = nb_quantize_options_default();
        int p = pooled(h), y = hand_gemm(h, p, 8, 10), z = hand_op(h, ops[i], y);
        nbi_node *node = h->g->node[h->g->tensor[z]->producer];
        if (i < 2) HAND_OK(nbi_node_set_int(h->ctx, h->g, node, "axis", 0));
        else hand_ints(h, "axes", 1, (int64_t[]){0});
        hand_outputs(h, 1, &z);
        h->g->tensor[h->g->input[0]]->dim[0] = -1;
        HAND_OK(nbi_onnx_write(h->ctx, h->g, path));
        o.dry_run = true;
        assert_int_equal(nb_quantize(h->ctx, path, &o, NULL), NB_EUNSUPPORTED);
        assert_non_null(strstr(nb_ctx_message(h->ctx), ops[i]));
        assert_non_null(strstr(nb_ctx_message(h->ctx), "image by image"));
        hand_free(h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_order_untouched),
        cmocka_unit_test(test_constant_first),
        cmocka_unit_test(test_two_softmax_heads),
        cmocka_unit_test(test_ram_of_the_tail),
        cmocka_unit_test(test_no_c),
        cmocka_unit_test(test_rows_of_a_batch),
    };
    return cmocka_run_group_tests_name("outputs", tests, setup, teardown);
}
