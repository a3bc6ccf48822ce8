/* Uniform quantizers against the closed forms of a normal distribution (mean squared errors of the
 * best step), histograms, packing. */
#include "quant/fit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SAMPLES 400000
#define TOLERANCE 0.03 /* sampling noise of the tails at 6 bits and more */

static float *normals(bool relu) {
    float *x = malloc(SAMPLES * sizeof *x);
    nbi_rng rng;
    assert_non_null(x);
    nbi_rng_seed(&rng, 1, 2);
    for (size_t i = 0; i < SAMPLES; i++) {
        x[i] = (float)nbi_rng_normal(&rng);
        if (relu && x[i] < 0) x[i] = 0;
    }
    return x;
}

static nbi_layer dense(float *w, int channels) {
    nbi_layer l = {.type = NBI_LAYER_CONV, .weight = w, .n_weights = SAMPLES};
    l.geometry.out_c = (int16_t)channels;
    return l;
}

/* Best two's complement step on N(0,1): the least squared error at 2 … 8 bits. */
static void test_weights_reach_the_least_error(void **state) {
    static const double best[] = {0.363380, 0.149431, 0.040638, 0.011864,
                                  0.003526, 0.001043, 3.046e-4, 8.771e-5};
    nb_ctx *ctx = nb_ctx_new();
    float *w = normals(false), scale[1];
    int8_t *levels = malloc(SAMPLES);
    (void)state;
    nbi_layer l = dense(w, 1);
    for (int bits = 1; bits <= 8; bits++) {
        double sqnr, error = 0;
        assert_int_equal(nbi_fit_weights(ctx, &l, bits, false, levels, scale, &sqnr), NB_OK);
        for (size_t i = 0; i < SAMPLES; i++) {
            double e = (double)w[i] - (double)scale[0] * levels[i];
            error += e * e / SAMPLES;
        }
        /* a sample's tails end somewhere: it can do better than the infinite one at 8 bits */
        assert_true(error < best[bits - 1] * (1 + TOLERANCE) && error > best[bits - 1] * 0.94);
        assert_true(fabs(sqnr + 10 * log10(error)) < 0.05);
    }
    free(levels);
    free(w);
    nb_ctx_free(ctx);
}

/* Unsigned grid on ReLU(N(0,1)): relative errors MSE/E[x²] at the best step. */
static void test_unsigned_activations(void **state) {
    static const double best[] = {0.190174, 0.046860, 0.012889, 0.003693,
                                  0.001069, 3.086e-4, 8.831e-5, 2.501e-5};
    nb_ctx *ctx = nb_ctx_new();
    nbi_arena arena = {0};
    nbi_hist h;
    float *x = normals(true);
    (void)state;
    assert_int_equal(nbi_hist_init(ctx, &arena, &h), NB_OK);
    assert_int_equal(nbi_hist_add(ctx, &h, "x", x, SAMPLES), NB_OK);
    for (int bits = 1; bits <= 7; bits++) { /* at 8 the bins are an eighth of a step */
        nbi_qparam q;
        double sqnr, error = 0, power = 0;
        nbi_fit_activation(&h, true, bits, NBI_RANGE_MSE, &q, &sqnr);
        assert_int_equal(q.dtype, NB_DTYPE_U8);
        assert_int_equal(q.hi, (1 << bits) - 1);
        for (size_t i = 0; i < SAMPLES; i++) {
            double k = fmin(rint((double)x[i] / q.scale), q.hi), e = (double)x[i] - q.scale * k;
            error += e * e;
            power += (double)x[i] * (double)x[i];
        }
        assert_true(error / power < best[bits - 1] * (1 + TOLERANCE));
    }
    free(x);
    nbi_arena_free(&arena);
    nb_ctx_free(ctx);
}

static void test_ranges(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_arena arena = {0};
    nbi_hist h;
    float *x = normals(false);
    double top = 0, sqnr;
    nbi_qparam minmax, percentile, kl, affine;
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) top = fmax(top, fabs((double)x[i]));
    assert_int_equal(nbi_hist_init(ctx, &arena, &h), NB_OK);
    assert_int_equal(nbi_hist_add(ctx, &h, "x", x, SAMPLES), NB_OK);
    nbi_fit_activation(&h, false, 4, NBI_RANGE_MINMAX, &minmax, &sqnr);
    nbi_fit_activation(&h, false, 4, NBI_RANGE_PERCENTILE, &percentile, &sqnr);
    nbi_fit_activation(&h, false, 4, NBI_RANGE_KL, &kl, &sqnr);
    assert_true(fabs(minmax.scale * 7 / top - 1) < 1e-6);
    assert_true(fabs(percentile.scale * 7 - 3.29) < 0.05); /* 99.9 % of |N(0,1)| */
    assert_true(kl.scale <= minmax.scale && kl.scale > minmax.scale / 4);
    nbi_fit_affine(&h, 8, NBI_RANGE_MINMAX, &affine, &sqnr);
    assert_in_range(affine.zero, 100, 155); /* about symmetric data */
    assert_true(affine.scale * (affine.hi - affine.zero) >= h.max * 0.99);
    free(x);
    nbi_arena_free(&arena);
    nb_ctx_free(ctx);
}

/* Bins do not depend on how the values were cut into batches or in which order those came. */
static void test_histogram_streams(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_arena arena = {0};
    nbi_hist whole, parts;
    float *x = normals(false), bad[2] = {1, NAN};
    (void)state;
    assert_int_equal(nbi_hist_init(ctx, &arena, &whole), NB_OK);
    assert_int_equal(nbi_hist_init(ctx, &arena, &parts), NB_OK);
    assert_int_equal(nbi_hist_add(ctx, &whole, "x", x, SAMPLES), NB_OK);
    for (size_t end = SAMPLES; end > 0; end -= 1000)
        assert_int_equal(nbi_hist_add(ctx, &parts, "x", x + end - 1000, 1000), NB_OK);
    assert_true(whole.width == parts.width && whole.max == parts.max && whole.min == parts.min);
    assert_memory_equal(whole.positive, parts.positive, NBI_HIST_BINS * sizeof *whole.positive);
    assert_memory_equal(whole.negative, parts.negative, NBI_HIST_BINS * sizeof *whole.negative);
    assert_int_equal(nbi_hist_add(ctx, &parts, "the tensor", bad, 2), NB_ENUMERIC);
    assert_non_null(strstr(nb_ctx_message(ctx), "the tensor"));
    free(x);
    nbi_arena_free(&arena);
    nb_ctx_free(ctx);
}

static void test_degenerate(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_arena arena = {0};
    nbi_hist h;
    float zeros[64] = {0}, scale[4];
    int8_t levels[64];
    double sqnr;
    (void)state;
    assert_int_equal(nbi_hist_init(ctx, &arena, &h), NB_OK);
    assert_int_equal(nbi_hist_add(ctx, &h, "x", zeros, 64), NB_OK);
    for (int bits = 1; bits <= 8; bits++) {
        nbi_qparam q;
        nbi_fit_activation(&h, bits % 2, bits, NBI_RANGE_KL, &q, &sqnr);
        assert_true(q.scale > 0 && isfinite(q.scale));
        nbi_fit_affine(&h, bits, NBI_RANGE_MSE, &q, &sqnr);
        assert_true(q.scale > 0 && isfinite(q.scale));
        nbi_layer l = {.type = NBI_LAYER_CONV, .weight = zeros, .n_weights = 64};
        l.geometry.out_c = 4;
        assert_int_equal(nbi_fit_weights(ctx, &l, bits, true, levels, scale, &sqnr), NB_OK);
        for (int c = 0; c < 4; c++) assert_true(scale[c] > 0 && isfinite(scale[c]));
    }
    nbi_arena_free(&arena);
    nb_ctx_free(ctx);
}

static void test_pack_is_undone_by_unpack(void **state) {
    int8_t levels[101], back[101];
    uint8_t packed[128];
    nbi_rng rng;
    (void)state;
    nbi_rng_seed(&rng, 3, 3);
    for (int bits = 1; bits <= 8; bits++) {
        for (int i = 0; i < 101; i++) {
            int k = (int)nbi_rng_below(&rng, 1u << bits);
            levels[i] = (int8_t)(bits == 1 ? 1 - 2 * k : k - (1 << (bits - 1)));
        }
        nbi_pack_weights(levels, 101, bits, packed);
        nbk_unpack(packed, bits, nbi_level_table(bits), 0, 101, back);
        assert_memory_equal(levels, back, 101);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_reach_the_least_error),
        cmocka_unit_test(test_unsigned_activations),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_histogram_streams),
        cmocka_unit_test(test_degenerate),
        cmocka_unit_test(test_pack_is_undone_by_unpack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
