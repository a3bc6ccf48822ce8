/* Fitting against closed forms: mean squared errors on N(0,1) and ReLU(N(0,1)) of docs/schemes.md
 * ("unit-test oracle"), hostile and degenerate tensors, packing. */
#include "unit/hand_net.h"

#include <float.h>

enum { SAMPLES = 500000 };
static float *normal; /* SAMPLES values */

/* Columns of the oracle, by bits. */
static const double twos_scale[9] = {0, 0, 1.048385, 0.601824, 0.338608, 0.188792, 0.104179,
                                     0.056887, 0.030766};
static const double twos_mse[9] = {0, 0.363380, 0.149431, 0.040638, 0.011864, 0.003526, 0.001043,
                                   3.046e-4, 8.771e-5};
static const double affine_mse[9] = {0, 0, 0.393534, 0.073914, 0.016204, 0.003895, 0.001043,
                                     3.560e-4, 1.874e-4};
static const double relu_mse[9] = {0, 0.190174, 0.046860, 0.012889, 0.003693, 0.001069, 3.086e-4,
                                   8.831e-5, 2.501e-5};

static int set_up(void **state) {
    nbi_rng rng;
    (void)state;
    nbi_rng_seed(&rng, 11, 3);
    normal = malloc(SAMPLES * sizeof *normal);
    for (int i = 0; normal && i < SAMPLES; i++) normal[i] = (float)nbi_rng_normal(&rng);
    return normal ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    free(normal);
    return 0;
}

static void assert_close(double value, double want, double relative) {
    if (!(fabs(value - want) <= relative * fabs(want)))
        fail_msg("%.9g, want %.9g within %g", value, want, relative);
}

/* Mean squared error of x on a grid, computed with the contract's formula. */
static double mse_of(const nbi_qparam *q, const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)x[i] - q->scale * (nbi_quantize(q, x[i]) - q->zero);
        sum += e * e;
    }
    return sum / (double)n;
}

/* ---- weights -------------------------------------------------------------------------------- */

static void fit(const nbi_layer *l, int bits, bool per_channel, int8_t *levels, float *scale,
                double *sqnr) {
    int step = nbk_level_step(bits), channels = l->geometry.out_c;
    assert_int_equal(nbi_fit_weights(NULL, l, bits, per_channel, levels, scale, sqnr), NB_OK);
    for (size_t i = 0; i < l->n_weights; i++) {
        assert_int_equal(levels[i] % step, 0);
        levels[i] = (int8_t)(levels[i] / step); /* codes, and the scale of code 1 */
    }
    for (int c = 0; c < channels; c++) scale[c] *= (float)step;
}

/* Tolerance of the oracle: 3 % on that many samples (the tail's noise dominates from 6 bits on). */
static void test_weights_normal(void **state) {
    (void)state;
    nbi_layer l = {.geometry = {.out_c = 1}, .weight = normal, .n_weights = SAMPLES};
    int8_t *levels = malloc(SAMPLES);
    for (int bits = 1; bits <= 8; bits++) {
        float scale;
        double sqnr, sum = 0;
        fit(&l, bits, false, levels, &scale, &sqnr);
        for (int i = 0; i < SAMPLES; i++) {
            double e = (double)normal[i] - (double)scale * levels[i];
            sum += e * e;
        }
        assert_close(sum / SAMPLES, twos_mse[bits], 0.03);
        assert_close(sqnr, -10 * log10(twos_mse[bits]), 0.02);
        /* the optimum is flat: near it MSE(s) is a parabola, so 3 % of MSE is far more of s */
        if (bits == 1) assert_close((double)scale, 0.797885, 0.003);
        else assert_close((double)scale, twos_scale[bits], 0.03);
    }
    free(levels);
}

/* Channels of different size keep their own scale; depthwise weights are interleaved. */
static void test_weights_per_channel(void **state) {
    (void)state;
    enum { CHANNELS = 4, EACH = 20000, ALL = CHANNELS * EACH };
    float *w = malloc(ALL * sizeof *w), scale[2][CHANNELS];
    int8_t *levels[2] = {malloc(ALL), malloc(ALL)};
    for (int depthwise = 0; depthwise < 2; depthwise++) {
        nbi_layer l = {.geometry = {.out_c = CHANNELS}, .depthwise = depthwise, .weight = w,
                       .n_weights = ALL};
        double sqnr;
        for (int c = 0; c < CHANNELS; c++)
            for (int i = 0; i < EACH; i++)
                w[depthwise ? i * CHANNELS + c : c * EACH + i] =
                    (float)pow(10, c) * normal[c * EACH + i];
        fit(&l, 4, true, levels[depthwise], scale[depthwise], &sqnr);
        for (int c = 0; c < CHANNELS; c++)
            assert_close((double)scale[depthwise][c], twos_scale[4] * pow(10, c), 0.05);
    }
    for (int c = 0; c < CHANNELS; c++) assert_true(scale[0][c] == scale[1][c]);
    for (int i = 0; i < ALL; i++)
        assert_int_equal(levels[1][i % EACH * CHANNELS + i / EACH], levels[0][i]);
    free(w);
    free(levels[0]);
    free(levels[1]);
}

/* Zeros, constants, denormal and huge values: scales are positive, finite; the values come back. */
static void test_weights_degenerate(void **state) {
    (void)state;
    static const float values[] = {0, 1, -1, 0.37f, -2.5e-7f, 1e-45f, -1e-40f, 3e38f, -3e38f};
    for (size_t k = 0; k < NBI_COUNT(values); k++)
        for (int bits = 1; bits <= 8; bits++)
            for (int per_channel = 0; per_channel < 2; per_channel++) {
                float w[8], scale[2];
                int8_t levels[8];
                double sqnr, v = (double)values[k];
                for (int i = 0; i < 8; i++) w[i] = values[k];
                nbi_layer l = {.geometry = {.out_c = 2}, .weight = w, .n_weights = 8};
                fit(&l, bits, per_channel, levels, scale, &sqnr);
                assert_true(scale[0] > 0 && isfinite(1 / scale[0]) && isfinite(sqnr));
                for (int i = 0; i < 8; i++) {
                    double real = (double)scale[i / 4] * levels[i];
                    /* one value: the grid can hit it (float32 scales; below 1e-30 it is zero) */
                    assert_true(fabs(real - v) <= 1e-6 * fabs(v) + 2e-30);
                }
            }
}

/* A pruned channel beside a living one, at one bit, which has no zero level. */
static void test_weights_pruned_channel(void **state) {
    (void)state;
    float w[8] = {0, 0, 0, 0, 1, -1, 1, -1}, scale[2];
    int8_t levels[8];
    double sqnr;
    nbi_layer l = {.geometry = {.out_c = 2}, .weight = w, .n_weights = 8};
    fit(&l, 1, true, levels, scale, &sqnr);
    assert_true(scale[0] < 1e-20f);
    assert_true(scale[1] == 1);
    assert_true(sqnr > 100);
}

static void test_pack(void **state) {
    (void)state;
    enum { MOST = 77 };
    nbi_rng rng;
    nbi_rng_seed(&rng, 1, 1);
    for (int bits = 1; bits <= 8; bits++)
        for (size_t n = 1; n <= MOST; n += 4) {
            int8_t levels[MOST], back[MOST];
            uint8_t packed[MOST + 1];
            size_t bytes = nbi_packed_bytes(n, bits);
            assert_int_equal(bytes, (n * (size_t)bits + 7) / 8);
            for (size_t i = 0; i < n; i++) {
                int k = (int)nbi_rng_below(&rng, 1u << bits) - (1 << (bits - 1));
                if (i < 2) k = i ? (1 << (bits - 1)) - 1 : -(1 << (bits - 1));
                levels[i] = (int8_t)((bits == 1 ? (k < 0 ? -1 : 1) : k) * nbk_level_step(bits));
            }
            packed[bytes] = 0xa5;
            nbi_pack_weights(levels, n, bits, packed);
            assert_int_equal(packed[bytes], 0xa5);
            nbk_unpack(packed, bits, nbi_level_table(bits), 0, n, back);
            assert_memory_equal(back, levels, n);
            nbk_unpack(packed, bits, nbi_level_table(bits), n / 3, n - n / 3, back);
            assert_memory_equal(back, levels + n / 3, n - n / 3);
        }
}

/* ---- activations ----------------------------------------------------------------------------- */

static void histogram(nbi_arena *arena, nbi_hist *hist, const float *x, size_t n, size_t batch) {
    assert_int_equal(nbi_hist_init(NULL, arena, hist), NB_OK);
    for (size_t i = 0; i < n; i += batch)
        assert_int_equal(nbi_hist_add(NULL, hist, "t", x + i, n - i < batch ? n - i : batch),
                         NB_OK);
}

static void test_activation_normal(void **state) {
    (void)state;
    nbi_arena arena = {0};
    nbi_hist hist;
    histogram(&arena, &hist, normal, SAMPLES, SAMPLES);
    for (int bits = 2; bits <= 8; bits++) {
        nbi_qparam q;
        double sqnr, best;
        nbi_fit_activation(&hist, false, bits, NBI_RANGE_MSE, &q, &sqnr);
        best = mse_of(&q, normal, SAMPLES);
        /* ranges go in steps of 1 % of about 5 σ, that is 2 % of the best one */
        assert_close(best, twos_mse[bits], 0.03);
        assert_close(sqnr, -10 * log10(best), 0.03); /* the histogram's own opinion */
        assert_true(q.dtype == NB_DTYPE_S8 && q.zero == 0);
        assert_int_equal(q.lo, -(1 << (bits - 1)));
        assert_int_equal(q.hi, (1 << (bits - 1)) - 1);
        nbi_fit_affine(&hist, bits, NBI_RANGE_PERCENTILE, &q, &sqnr);
        /* from 7 bits on the clipped tail is the error: the sample's quantile (± 0.009) and its
         * rounding up to a bin (0.004) move it by 3 % and 1 % */
        assert_close(mse_of(&q, normal, SAMPLES), affine_mse[bits], bits < 7 ? 0.03 : 0.08);
        nbi_fit_affine(&hist, bits, NBI_RANGE_MSE, &q, &sqnr);
        /* an affine grid holds the same 2^b levels, so it cannot be much worse */
        assert_true(mse_of(&q, normal, SAMPLES) <= 1.03 * twos_mse[bits]);
    }
    nbi_arena_free(&arena);
}

static void test_activation_relu(void **state) {
    (void)state;
    nbi_arena arena = {0};
    nbi_hist hist;
    float *x = malloc(SAMPLES * sizeof *x);
    double power = 0;
    for (int i = 0; i < SAMPLES; i++) {
        x[i] = normal[i] > 0 ? normal[i] : 0;
        power += (double)x[i] * (double)x[i];
    }
    power /= SAMPLES;
    histogram(&arena, &hist, x, SAMPLES, SAMPLES);
    assert_in_range(hist.zeros, SAMPLES / 2 - 3000, SAMPLES / 2 + 3000);
    for (int bits = 1; bits <= 8; bits++) {
        nbi_qparam q;
        double sqnr, mse[NBI_RANGE_METHODS];
        for (int m = 0; m < NBI_RANGE_METHODS; m++) {
            nbi_fit_activation(&hist, true, bits, (nbi_range_method)m, &q, &sqnr);
            mse[m] = mse_of(&q, x, SAMPLES);
            assert_true(q.dtype == NB_DTYPE_U8 && q.zero == 0 && q.lo == 0);
            assert_int_equal(q.hi, (1 << bits) - 1);
            assert_true(mse[m] >= 0.999 * mse[NBI_RANGE_MSE]); /* the best by definition */
            if (m == NBI_RANGE_MINMAX) assert_close(q.scale * q.hi, hist.max, 1e-6);
            /* P(|x| > 3.29) is 0.001 two-sided; here only the positive half has tails */
            if (m == NBI_RANGE_PERCENTILE) assert_close(q.scale * q.hi, 3.0902, 0.01);
            if (m == NBI_RANGE_KL) assert_true(q.scale * q.hi <= hist.max * 1.001);
        }
        assert_close(mse[NBI_RANGE_MSE] / power, relu_mse[bits], 0.03);
        if (bits == 4) assert_true(mse[NBI_RANGE_KL] < mse[NBI_RANGE_MINMAX]);
    }
    nbi_arena_free(&arena);
    free(x);
}

/* Zero is a code whatever the range, and values of one sign only waste nothing. */
static void test_affine_zero(void **state) {
    (void)state;
    static const float ranges[][2] = {{-1, 3}, {-0.001f, 900}, {2, 5}, {-7, -6.5f}, {0, 255},
                                      {-100, 155}};
    for (size_t k = 0; k < NBI_COUNT(ranges); k++)
        for (int bits = 2; bits <= 8; bits++)
            for (int m = 0; m < NBI_RANGE_METHODS; m++) {
                nbi_arena arena = {0};
                nbi_hist hist;
                nbi_qparam q;
                double sqnr;
                histogram(&arena, &hist, ranges[k], 2, 2);
                nbi_fit_affine(&hist, bits, (nbi_range_method)m, &q, &sqnr);
                assert_in_range(q.zero, 0, (1 << bits) - 1);
                assert_int_equal(nbi_quantize(&q, 0), q.zero);
                assert_true((float)q.scale == q.scale && q.scale > 0);
                nbi_arena_free(&arena);
                if (m != NBI_RANGE_MINMAX) continue;
                float lo = fminf(ranges[k][0], 0), hi = fmaxf(ranges[k][1], 0);
                assert_close(q.scale, (double)(hi - lo) / ((1 << bits) - 1), 1e-6);
                /* both ends lie within a step of the grid's */
                assert_true(fabs(q.scale * -q.zero - (double)lo) <= 0.51 * q.scale);
            }
}

static void test_histogram_order(void **state) {
    (void)state;
    enum { N = 5000 };
    float x[2][N];
    nbi_arena arena = {0};
    nbi_hist a, b;
    for (int i = 0; i < N; i++) /* sizes over 12 orders of magnitude, zeros between */
        x[0][i] = i % 7 ? normal[i] * (float)pow(10, i % 13 - 6) : 0;
    for (int i = 0; i < N; i++) x[1][i] = x[0][N - 1 - i];
    histogram(&arena, &a, x[0], N, N);
    for (size_t batch = 1; batch < N; batch = batch * 3 + 1)
        for (int order = 0; order < 2; order++) {
            histogram(&arena, &b, x[order], N, batch);
            assert_true(a.width == b.width && a.min == b.min && a.max == b.max);
            assert_true(a.total == N && b.total == N && a.zeros == b.zeros);
            assert_memory_equal(a.positive, b.positive, NBI_HIST_BINS * sizeof *a.positive);
            assert_memory_equal(a.negative, b.negative, NBI_HIST_BINS * sizeof *a.negative);
        }
    nbi_arena_free(&arena);
}

static void test_histogram_hostile(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    /* largest and smallest magnitudes: the bin must stay inside the array */
    static const float sizes[] = {FLT_MAX, FLT_MIN, 1e-45f, 1e-36f, 1.0f, 0x1p-117f, 0x1.fffffep0f};
    nb_ctx *ctx = nb_ctx_new();
    nbi_arena arena = {0};
    nbi_hist hist;
    for (size_t k = 0; k < NBI_COUNT(bad); k++) {
        float x[3] = {1, bad[k], 2};
        assert_int_equal(nbi_hist_init(ctx, &arena, &hist), NB_OK);
        assert_int_equal(nbi_hist_add(ctx, &hist, "layer7/relu", x, 3), NB_ENUMERIC);
        assert_non_null(strstr(nb_ctx_message(ctx), "layer7/relu"));
        assert_int_equal(hist.total, 0);
    }
    for (size_t k = 0; k < NBI_COUNT(sizes); k++) {
        float x[4] = {sizes[k], -sizes[k], 0, sizes[k] / 2};
        int64_t seen = 0;
        histogram(&arena, &hist, x, 4, 1);
        for (int i = 0; i < NBI_HIST_BINS; i++) seen += hist.positive[i] + hist.negative[i];
        assert_int_equal(seen + hist.zeros, 4);
        for (int m = 0; m < NBI_RANGE_METHODS; m++)
            for (int bits = 1; bits <= 8; bits++) {
                nbi_qparam q;
                double sqnr;
                nbi_fit_activation(&hist, false, bits, (nbi_range_method)m, &q, &sqnr);
                assert_true(q.scale > 0 && isfinite(q.scale) && isfinite(sqnr));
                nbi_fit_affine(&hist, bits, (nbi_range_method)m, &q, &sqnr);
                assert_true(q.scale > 0 && isfinite(q.scale) && isfinite(sqnr));
            }
    }
    nbi_arena_free(&arena);
    nb_ctx_free(ctx);
}

/* Nothing but zeros, and one constant: usable grids, and the constant comes back. */
static void test_activation_degenerate(void **state) {
    (void)state;
    static const float values[] = {0, 0.3f, 1, 250};
    for (size_t k = 0; k < NBI_COUNT(values); k++)
        for (int m = 0; m < NBI_RANGE_METHODS; m++)
            for (int bits = 1; bits <= 8; bits++) {
                nbi_arena arena = {0};
                nbi_hist hist;
                nbi_qparam q;
                double sqnr, v = (double)values[k];
                float x[64];
                for (int i = 0; i < 64; i++) x[i] = values[k];
                histogram(&arena, &hist, x, 64, 5);
                nbi_fit_activation(&hist, true, bits, (nbi_range_method)m, &q, &sqnr);
                double real = q.scale * nbi_quantize(&q, values[k]);
                /* half a bin (2^−11 of up to twice the value), half a step, 1 % range steps */
                assert_true(fabs(real - v) <= 0.012 * v);
                assert_int_equal(nbi_quantize(&q, 0), 0);
                nbi_arena_free(&arena);
            }
}

/* A network that divides by zero: the first tensor that is not a number is named. */
static void test_calibration_names_tensor(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 1, 2, 4, 4), y = hand_conv3(h, x, 2, 3);
    int r = hand_op(h, "Sqrt", y), z = hand_conv3(h, r, 3, 2); /* of negative numbers */
    hand_finish(h, z);
    const nbi_edge *e = &h->net->edge[h->net->input];
    h->images = 3;
    h->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    h->input = calloc(h->images * h->count, sizeof *h->input);
    h->codes = calloc(1, 1);
    for (size_t i = 0; i < h->images * h->count; i++) h->input[i] = normal[i];
    nbi_calibration c = {.fill = hand_fill, .user = h, .images = h->images};
    assert_int_equal(nbi_calibrate(h->ctx, h->g, h->net, &c), NB_ENUMERIC);
    assert_non_null(strstr(nb_ctx_message(h->ctx), h->g->tensor[r]->name));
    h->images = 0;
    c.images = 0;
    assert_int_equal(nbi_calibrate(h->ctx, h->g, h->net, &c), NB_EINVAL);
    hand_free(h);
}

/* Calibration at any thread count gives the same histograms, fits and sums. */
static void test_calibration_threads(void **state) {
    (void)state;
    nbi_qparam first[HAND_SITES][NBI_MAX_BITS + 1];
    double mean[8], deviation[8];
    for (int threads = 1; threads <= 3; threads++) {
        hand data, *h = &data;
        int x = HAND_IMAGE(h, 5, 3, 8, 8), y = hand_op(h, "Relu", hand_conv3(h, x, 3, 8));
        int z = hand_op2(h, "Add", y, hand_conv3(h, y, 8, 8));
        hand_finish(h, hand_conv3(h, z, 8, 4));
        nb_ctx_set_threads(h->ctx, threads);
        hand_calibrate(h, 70);
        const nbi_layer *l = hand_layer(h, y);
        for (int s = 0; s < h->net->n_sites; s++) {
            if (h->net->site[s].kind == NBI_SITE_WEIGHT) continue;
            if (threads == 1) memcpy(first[s], h->net->site[s].fit, sizeof first[s]);
            assert_memory_equal(first[s], h->net->site[s].fit, sizeof first[s]);
        }
        if (threads == 1) memcpy(mean, l->mean, sizeof mean);
        if (threads == 1) memcpy(deviation, l->deviation, sizeof mean);
        assert_memory_equal(mean, l->mean, sizeof mean);
        assert_memory_equal(deviation, l->deviation, sizeof mean);
        hand_free(h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_normal),
        cmocka_unit_test(test_weights_per_channel),
        cmocka_unit_test(test_weights_degenerate),
        cmocka_unit_test(test_weights_pruned_channel),
        cmocka_unit_test(test_pack),
        cmocka_unit_test(test_activation_normal),
        cmocka_unit_test(test_activation_relu),
        cmocka_unit_test(test_affine_zero),
        cmocka_unit_test(test_histogram_order),
        cmocka_unit_test(test_histogram_hostile),
        cmocka_unit_test(test_activation_degenerate),
        cmocka_unit_test(test_calibration_names_tensor),
        cmocka_unit_test(test_calibration_threads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
