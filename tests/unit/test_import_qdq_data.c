/* Our QDQ files of real models, read again and lowered: the integer program that comes out gives
 * the same integers as the one that was exported, and needs the same constants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "onnx/qdq_pipeline.h"
#include "quant/import_qdq.h"

typedef struct outcome {
    int32_t *value; /* [images][count] of output 0 */
    size_t count, const_bytes;
    int n_steps;
    nbi_ptensor in, out;
} outcome;

static void run(qdq_case *c, const nbi_frozen *frozen, outcome *o) {
    nbi_program *p = NULL;
    nbi_runner *runner = NULL;
    QDQ_OK(nbi_lower(c->ctx, frozen, &p));
    QDQ_OK(nbi_runner_new(c->ctx, p, &runner));
    o->in = p->tensor[p->input];
    o->out = p->tensor[p->output[0]];
    o->count = o->out.count;
    o->const_bytes = p->const_bytes;
    o->n_steps = p->n_steps;
    o->value = calloc(c->images * o->count, sizeof *o->value);
    int32_t *list[8] = {o->value};
    QDQ_OK(nbi_runner_run(c->ctx, runner, c->images, c->codes, list));
    nbi_runner_free(runner);
    nbi_program_free(p);
}

/* Mixed widths: each free site another one. */
static void freeze_mixed(qdq_case *c, int k) {
    static const uint8_t weights[] = {4, 2, 8, 3, 1, 5}, activations[] = {8, 4, 6, 3, 8, 2};
    nbi_choice bits[512];
    assert_in_range(c->net->n_sites, 1, sizeof bits / sizeof *bits);
    for (int i = 0; i < c->net->n_sites; i++) {
        const nbi_site *s = &c->net->site[i];
        const uint8_t *offer = s->kind == NBI_SITE_WEIGHT ? weights : activations;
        bits[i] = s->fixed_bits ? (uint8_t)s->fixed_bits : offer[(i + k) % 6];
        if (s->kind == NBI_SITE_BIAS) bits[i] = (nbi_choice)(8 << (i + k) % 3);
    }
    nbi_frozen_free(c->frozen);
    c->frozen = NULL;
    QDQ_OK(nbi_scorer_freeze(c->ctx, c->scorer, bits, &c->frozen));
}

static void compare(qdq_case *c, const char *model, int containers) {
    nbi_qdq_options options = {.containers = containers};
    nbi_qnet *net = NULL;
    nbi_frozen *frozen = NULL;
    outcome a = {0}, b = {0};
    size_t bytes, differ = 0, varied = 0;
    assert_false(nbi_is_qdq(c->source));
    nbi_graph *g = qdq_round_trip(c, &options, &bytes);
    assert_true(nbi_is_qdq(g));
    QDQ_OK(nbi_import_qdq(c->ctx, g, &net, &frozen));
    nbi_graph_free(g);
    run(c, c->frozen, &a);
    run(c, frozen, &b);
    assert_int_equal(a.count, b.count);
    for (size_t i = 0; i < c->images * a.count; i++) {
        differ += a.value[i] != b.value[i];
        varied += a.value[i] != a.value[0];
    }
    assert_true(varied > c->images * a.count / 4);
    print_message("%s: %zu of %zu integers differ; steps %d, %d; constants %zu, %zu\n", model,
                  differ, c->images * a.count, a.n_steps, b.n_steps, a.const_bytes, b.const_bytes);
    assert_true(a.in.dtype == b.in.dtype && a.in.zero == b.in.zero && a.in.scale == b.in.scale);
    assert_true(a.out.dtype == b.out.dtype && a.out.zero == b.out.zero);
    assert_true(a.out.scale == b.out.scale);
    assert_int_equal(differ, 0);
    assert_int_equal(a.n_steps, b.n_steps);
    assert_int_equal(a.const_bytes, b.const_bytes);
    assert_string_equal(a.out.name, b.out.name);
    free(a.value);
    free(b.value);
    nbi_frozen_free(frozen);
    nbi_qnet_free(net);
}

static const struct {
    const char *file;
    size_t images;
    float low, high;
} models[] = {
    {"resnet20", 12, -2, 2},
    {"resnet20_torch_export", 8, -2, 2},
    {"mlperf_resnet8", 16, 0, 255},
    {"mlperf_kws_dscnn", 16, -20, 20},
    {"mlperf_vww96", 4, 0, 1},
    {"mobilenet_v1_0.25_224_imagenet", 2, -1, 1},
    {"mnist_8", 16, 0, 255},
    {"mlperf_ad01", 16, -3, 3},
    {"super_resolution_10", 1, 0, 1},
};

static void test_same_program(void **state) {
    (void)state;
    for (size_t m = 0; m < NBI_COUNT(models); m++) {
        qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
        char path[1024];
        snprintf(path, sizeof path, "%s/models/%s.onnx", NIBBLE_DATA, models[m].file);
        QDQ_OK(nbi_onnx_read(c->ctx, path, &c->source));
        qdq_prepare(c, models[m].images, models[m].low, models[m].high);
        qdq_freeze(c, 8, 8);
        compare(c, models[m].file, 0);
        for (int k = 0; k < 3; k++) {
            freeze_mixed(c, k);
            compare(c, models[m].file, k == 1 ? 2 : 0);
        }
        qdq_done(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_program)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
