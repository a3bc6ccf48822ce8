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

typedef struct agreement {
    double top1, close, error; /* share of images, share of values, rms error / rms value */
} agreement;

static agreement compare(const qdq_case *c) {
    agreement a = {0};
    double square = 0, wrong = 0, peak = 0;
    size_t n = c->images * c->n_out;
    for (size_t i = 0; i < n; i++) peak = fmax(peak, fabs((double)c->ours[i]));
    for (size_t i = 0; i < c->images; i++) {
        size_t best[2] = {0, 0};
        for (size_t k = 0; k < c->n_out; k++) {
            float x = c->ours[i * c->n_out + k], y = c->theirs[i * c->n_out + k];
            double d = (double)y - (double)x;
            square += (double)x * (double)x;
            wrong += d * d;
            a.close += fabs(d) <= 0.01 * peak;
            if (x > c->ours[i * c->n_out + best[0]]) best[0] = k;
            if (y > c->theirs[i * c->n_out + best[1]]) best[1] = k;
        }
        a.top1 += best[0] == best[1];
    }
    a.top1 /= (double)c->images;
    a.close /= (double)n;
    a.error = sqrt(wrong / (square + 1e-30));
    return a;
}

static const struct {
    const char *file;
    size_t images;
    float low, high;
    bool classes;
} models[] = {
    {"resnet20", 32, -2, 2, true},
    {"mlperf_resnet8", 32, 0, 255, true},
    {"mlperf_kws_dscnn", 32, -20, 20, true},
    {"mobilenet_v1_0.25_224_imagenet", 8, -1, 1, true},
    {"mnist_8", 32, 0, 255, true},
    {"mlperf_ad01", 32, -3, 3, false},
    {"super_resolution_10", 2, 0, 1, false},
};
static const int widths[][2] = {{8, 8}, {4, 8}, {4, 4}};

static void check_model(size_t m) {
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    char path[1024];
    snprintf(path, sizeof path, "%s/models/%s.onnx", NIBBLE_DATA, models[m].file);
    QDQ_OK(nbi_onnx_read(c->ctx, path, &c->source));
    qdq_prepare(c, models[m].images, models[m].low, models[m].high);
    for (size_t k = 0; k < NBI_COUNT(widths); k++) {
        size_t bytes;
        qdq_freeze(c, widths[k][0], widths[k][1]);
        nbi_graph *g = qdq_round_trip(c, NULL, &bytes);
        qdq_run_program(c);
        qdq_run_graph(c, g);
        agreement a = compare(c);
        if(getenv("DBG"))for(int z=0;z<6;z++)print_message("  %g %g\n",(double)c->ours[z],(double)c->theirs[z]);
        print_message("%s W%dA%d: top-1 %.3f, within 1 %% %.4f, relative error %.2g, %zu bytes\n",
                      models[m].file, widths[k][0], widths[k][1], a.top1, a.close, a.error, bytes);
        nbi_graph_free(g);
    }
    qdq_done(c);
}

static void test_models(void **state) {
    (void)state;
    for (size_t m = 0; m < NBI_COUNT(models); m++) check_model(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
