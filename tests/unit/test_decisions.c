/* A network with an operator that nobody knows: every decision about it is said before anything
 * runs, and what lies in front of that operator is trained; a file that fixes its batch, likewise.
 */
#include "hand_net.h"
#include "work_folder.h"

#include "onnx/onnx.h"

#include <jansson.h>
#include <nibble/nibble.h>

/* conv, BatchNormalization, Relu; conv without; an addition; three convolutions; what Foo makes of
 * it; a dense layer. */
static void network(int64_t batch, bool unknown) {
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 4, 3, 32, 32);
    h->g->tensor[x]->dim[0] = batch;
    int a = hand_conv(h, x, 3, 8, 1, (hand_window){3, 2, 1, 1});
    a = hand_op(h, "Relu", hand_bn(h, a, 8, NULL));
    int b = hand_op2(h, "Add", hand_conv3(h, a, 8, 8), a);
    b = hand_op(h, "Relu", hand_conv3(h, b, 8, 8));
    b = hand_op(h, "Relu", hand_conv3(h, b, 8, 8));
    b = hand_op(h, "Relu", hand_conv3(h, b, 8, 4));
    if (unknown) b = hand_op(h, "Foo", b);
    b = hand_op2(h, "Reshape", b, hand_list(h, 2, (const int64_t[]){batch < 0 ? 0 : batch, 1024}));
    int y = hand_gemm(h, b, 1024, 10);
    hand_outputs(h, 1, &y);
    HAND_OK(nbi_onnx_write(h->ctx, h->g, path));
    hand_free(h);
}

/* Foo in one of two branches: what lies in front of it ends in two outputs of unequal sizes. */
static void branches(void) {
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 4, 3, 32, 32);
    h->g->tensor[x]->dim[0] = -1;
    int a = hand_op(h, "Relu", hand_conv(h, x, 3, 8, 1, (hand_window){3, 2, 1, 1}));
    int b = hand_op(h, "Foo", hand_conv3(h, a, 8, 6));
    int c = hand_conv(h, a, 8, 6, 1, (hand_window){3, 2, 1, 1});
    int y[] = {b, hand_op(h, "Foo", c)};
    hand_outputs(h, 2, y);
    HAND_OK(nbi_onnx_write(h->ctx, h->g, path));
    hand_free(h);
}

static json_t *quantize(bool dry) {
    nb_quantize_options o = nb_quantize_options_default();
    nb_ctx *ctx = nb_ctx_new();
    char *text = NULL;
    o.data.path = "builtin:glyphs";
    o.data.limit = 128;
    o.calib = 32;
    o.batch = 32;
    o.finetune = 1;
    o.search = "uniform";
    o.weight_bits = o.activation_bits = "4";
    o.max_size = 1e6;
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

/* The row of a list whose `key` is `value`, or that begins so. */
static const json_t *row_of(const json_t *list, const char *key, const char *value) {
    const json_t *row;
    size_t i;
    json_array_foreach(list, i, row) if (!strncmp(json_string_value(json_object_get(row, key)),
                                                  value, strlen(value))) return row;
    fail_msg("no row with %s '%s'", key, value);
    return NULL;
}

static void says(const json_t *row, const char *key, const char *words) {
    const char *text = json_string_value(json_object_get(row, key));
    if (!text || !strstr(text, words)) fail_msg("%s: '%s', want '%s'", key, text, words);
}

static void test_decisions(void **state) {
    (void)state;
    network(-1, true);
    json_t *root = quantize(true);
    const json_t *all = json_object_get(root, "decisions"), *row;
    const json_t *layers = json_object_get(all, "layers"), *sites = json_object_get(all, "sites");
    row = row_of(layers, "layer", "Conv0");
    says(row, "kind", "convolution");
    says(row, "normalization", "of the file");
    assert_int_equal(json_array_size(json_object_get(row, "nodes")), 3);
    row = row_of(layers, "layer", "Conv3");
    says(row, "normalization", "inserted");
    assert_int_equal(json_array_size(json_object_get(row, "trained")), 3);
    says(row_of(layers, "layer", "Add4"), "kind", "addition");
    says(row_of(layers, "layer", "Conv9"), "normalization", "none"); /* the last before Foo */
    says(row_of(sites, "tensor", "x"), "why", "input");
    says(row_of(sites, "kind", "weight"), "why", "the first layer");
    row = row_of(sites, "kind", "residual");
    says(row, "why", "--residual-bits");
    assert_true(json_is_false(json_object_get(row, "free")));
    says(row_of(sites, "kind", "activation"), "why", "free");
    const json_t *left = json_object_get(all, "untouched");
    assert_int_equal(json_array_size(left), 3);
    says(row_of(left, "operator", "Foo"), "why", "does not know Foo of opset 14");
    says(row_of(left, "operator", "Reshape"), "why", "which stays as it is");
    json_decref(root);
}

static void train(int64_t batch, bool unknown) {
    network(batch, unknown);
    json_t *root = quantize(false);
    const json_t *tuned = json_object_get(root, "finetune");
    assert_int_equal(json_integer_value(json_object_get(tuned, "epochs")), 1);
    assert_int_equal(json_array_size(json_object_get(root, "untouched")), unknown ? 3 : 0);
    json_decref(root);
}

static void test_trained_to_the_cut(void **state) {
    (void)state;
    train(-1, true);
}

/* Both outputs are taught, each by its own values. */
static void test_two_cuts(void **state) {
    (void)state;
    branches();
    json_t *root = quantize(false);
    const json_t *tuned = json_object_get(root, "finetune");
    const json_t *line = json_array_get(json_object_get(tuned, "lines"), 0);
    assert_non_null(line);
    double loss = json_number_value(json_object_get(line, "loss"));
    assert_true(loss > 0 && loss < 0.05); /* values of another output would be about 1 away */
    json_decref(root);
}

static void test_fixed_batch(void **state) {
    (void)state;
    train(1, false);
    train(3, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decisions),
        cmocka_unit_test(test_trained_to_the_cut),
        cmocka_unit_test(test_two_cuts),
        cmocka_unit_test(test_fixed_batch),
    };
    return cmocka_run_group_tests_name("decisions", tests, setup, teardown);
}
