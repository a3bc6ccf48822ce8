/* QDQ files of real models: written, read again and run in float arithmetic, they give what the
 * integer program gives. Both round at the same places, so nearly all values agree to float
 * precision; a level that differs by one where a value lies on a border moves a few. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "qdq_pipeline.h"

static const struct {
    const char *file;
    size_t images;
    float low, high;
} models[] = {
    {"resnet20", 16, -2, 2},
    {"mlperf_resnet8", 16, 0, 255},
    {"mlperf_kws_dscnn", 16, -20, 20},
    {"mobilenet_v1_0.25_224_imagenet", 4, -1, 1},
    {"mnist_8", 32, 0, 255},
    {"mlperf_ad01", 32, -3, 3},
    {"super_resolution_10", 1, 0, 1},
};
static const int widths[][3] = {{8, 8, 0}, {4, 8, 0}, {4, 4, 0}, {2, 8, 2}}; /* w, a, containers */

static size_t size_limit(const qdq_case *c, int containers) {
    nbi_choice bits[512] = {0};
    nbi_net_cost cost;
    for (int i = 0; i < c->net->n_sites; i++) bits[i] = (uint8_t)c->frozen->site[i].bits;
    for (int l = 0; l < c->net->n_layers; l++)
        if (c->net->layer[l].type == NBI_LAYER_CONV)
            bits[c->net->layer[l].weight_site] = (uint8_t)c->frozen->conv[l].bits;
    nbi_net_cost_of(c->net, bits, containers, &cost);
    return (size_t)(1.05 * cost.bytes_onnx) + 20 * 1024;
}

static void check_widths(qdq_case *c, const char *name, const int *width) {
    nbi_qdq_options options = {0, width[2]};
    size_t bytes;
    qdq_freeze(c, width[0], width[1]);
    nbi_graph *g = qdq_round_trip(c, &options, &bytes);
    assert_int_equal(g->opset, width[2] ? 25 : 21);
    assert_int_equal(g->tensor[g->input[0]]->dim[0],
                     c->source->tensor[c->source->input[0]]->dim[0]);
    assert_string_equal(g->tensor[g->output[0]]->name,
                        c->source->tensor[c->source->output[0]]->name);
    assert_non_null(nbi_graph_meta(g, "nibble.policy"));
    qdq_run_program(c);
    qdq_run_graph(c, g);
    qdq_agreement a = qdq_compare(c);
    print_message("%s W%dA%d: top-1 %.3f, within 1 %% %.4f, error %.2g, %zu bytes of %zu\n", name,
                  width[0], width[1], a.top1, a.close, a.error, bytes,
                  size_limit(c, width[2]));
    /* one image may change its class, where two scores are nearly equal */
    assert_true(a.top1 * (double)c->images >= (double)c->images - 1.5);
    assert_true(a.close >= 0.98);
    assert_true(a.error <= 0.05);
    assert_true(bytes <= size_limit(c, width[2]));
    nbi_graph_free(g);
}

static void test_models(void **state) {
    (void)state;
    for (size_t m = 0; m < NBI_COUNT(models); m++) {
        qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
        char path[1024];
        snprintf(path, sizeof path, "%s/models/%s.onnx", NIBBLE_DATA, models[m].file);
        QDQ_OK(nbi_onnx_read(c->ctx, path, &c->source));
        qdq_prepare(c, models[m].images, models[m].low, models[m].high);
        /* 2-bit containers: the small ones are enough */
        size_t n = NBI_COUNT(widths) - (models[m].images < 16);
        for (size_t k = 0; k < n; k++) check_widths(c, models[m].file, widths[k]);
        qdq_done(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
