/* Models that onnxruntime.quantization makes: on the integer engine they agree with ONNX Runtime.
 * The two round at the same places, ties apart (to even there, up here). Ties are frequent in the
 * average pool, whose grid these models share between input and output: sums of 64 steps, 1 value in
 * 128 differs, and that is most of the distance printed (0.016 of 0.019 for mlperf_resnet8). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "onnx/onnx.h"
#include "quant/import_qdq.h"
#include "runtime/lower.h"
#include "runtime/run.h"

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != NB_OK) fail_msg("%s: %s", #call, nb_ctx_message(ctx));                       \
    } while (0)

static const struct {
    const char *model, *form, *activations, *weights, *channel;
} cases[] = {
    {"resnet20", "unit", "QUInt8", "QInt8", "channel"},
    {"resnet20", "unit", "QInt8", "QInt8", "tensor"},
    {"mlperf_resnet8", "raw", "QUInt8", "QInt8", "channel"},
    {"mlperf_resnet8", "raw", "QInt8", "QInt8", "channel"},
};

/* Images [n][C,H,W] as the program's input codes. */
static uint8_t *make_codes(const nbi_ptensor *in, const float *x, size_t n) {
    nbi_qparam q = {.dtype = in->dtype, .bits = 8, .scale = in->scale, .zero = in->zero,
                    .lo = in->lo, .hi = in->hi};
    size_t space = (size_t)in->h * (size_t)in->w, channels = (size_t)in->c;
    uint8_t *codes = calloc(n * in->count, 1);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < channels; c++)
            for (size_t s = 0; s < space; s++)
                codes[i * in->count + s * channels + c] =
                    (uint8_t)nbi_quantize(&q, x[i * in->count + c * space + s]);
    return codes;
}

static double agreement(nb_ctx *ctx, const nbi_program *p, const nbi_tensor *x,
                        const nbi_tensor *y, double *distance) {
    size_t n = (size_t)x->dim[0], classes = (size_t)y->dim[1], same = 0;
    const nbi_ptensor *out = &p->tensor[p->output[0]];
    nbi_runner *runner = NULL;
    uint8_t *codes = make_codes(&p->tensor[p->input], x->data, n);
    int32_t *value = calloc(n * classes, sizeof *value), *list[8] = {value};
    assert_int_equal(out->count, classes);
    OK(nbi_runner_new(ctx, p, &runner));
    OK(nbi_runner_run(ctx, runner, n, codes, list));
    double square = 0, wrong = 0;
    for (size_t i = 0; i < n; i++) {
        const float *theirs = (const float *)y->data + i * classes;
        size_t a = 0, b = 0;
        for (size_t k = 0; k < classes; k++) {
            double ours = out->scale * ((double)value[i * classes + k] - out->zero);
            square += (double)theirs[k] * (double)theirs[k];
            wrong += (ours - (double)theirs[k]) * (ours - (double)theirs[k]);
            if (value[i * classes + k] > value[i * classes + a]) a = k;
            if (theirs[k] > theirs[b]) b = k;
        }
        /* equal scores (logits of 8 bits) have no order */
        same += a == b || value[i * classes + a] == value[i * classes + b] ||
                theirs[a] == theirs[b];
    }
    *distance = sqrt(wrong / square);
    nbi_runner_free(runner);
    free(codes);
    free(value);
    return (double)same / (double)n;
}

static void check(nb_ctx *ctx, const char *folder, size_t k) {
    char command[2048], path[256];
    snprintf(command, sizeof command,
             "'%s' '%s/tests/unit/make_static_qdq.py' '%s/models/%s.onnx' "
             "'%s/cifar-10-batches-bin' '%s' %s %s %s %s >/dev/null 2>&1",
             NIBBLE_ORACLE_PYTHON, NIBBLE_SOURCE_DIR, NIBBLE_DATA, cases[k].model, NIBBLE_DATA,
             folder, cases[k].form, cases[k].activations, cases[k].weights, cases[k].channel);
    assert_int_equal(system(command), 0);
    nbi_graph *g = NULL, *arrays = NULL;
    nbi_qnet *net = NULL;
    nbi_frozen *frozen = NULL;
    nbi_program *p = NULL;
    int x, y;
    snprintf(path, sizeof path, "%s/static.onnx", folder);
    OK(nbi_onnx_read(ctx, path, &g));
    OK(nbi_graph_new(ctx, &arrays));
    snprintf(path, sizeof path, "%s/x.npy", folder);
    OK(nbi_tensor_read_npy(ctx, path, arrays, &x));
    snprintf(path, sizeof path, "%s/y.npy", folder);
    OK(nbi_tensor_read_npy(ctx, path, arrays, &y));
    assert_true(nbi_is_qdq(g));
    OK(nbi_import_qdq(ctx, g, &net, &frozen));
    OK(nbi_lower(ctx, frozen, &p));
    double distance,
        same = agreement(ctx, p, arrays->tensor[x], arrays->tensor[y], &distance);
    print_message("%s %s %s per %s: agreement %.3f, relative distance %.4f, %d steps\n",
                  cases[k].model, cases[k].activations, cases[k].weights, cases[k].channel, same,
                  distance, p->n_steps);
    assert_true(same >= 0.99);
    nbi_program_free(p);
    nbi_frozen_free(frozen);
    nbi_qnet_free(net);
    nbi_graph_free(g);
    nbi_graph_free(arrays);
}

static void test_static_models(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    char folder[] = "/tmp/nibble-qdq-XXXXXX", command[64];
    assert_non_null(mkdtemp(folder));
    for (size_t k = 0; k < NBI_COUNT(cases); k++) check(ctx, folder, k);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_static_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
