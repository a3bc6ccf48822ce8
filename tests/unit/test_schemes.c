/* Schemes against the N(0,1) table and the closed forms of the specification ("unit-test oracle"), on
 * 10^6 quantiles of N(0,1) in random order: a random sample's tail alone would cost up to 5 %. */
#include "unit/scheme_cases.h"

#include "quant/fit.h"

enum { SAMPLES = 1000000 };
static float *normal, *rectified, *out;

/* The quantile p by Newton's method on Φ. */
static double quantile(double p, double x) {
    for (int i = 0; i < 50; i++) {
        double step = (0.5 * erfc(-x / sqrt(2)) - p) * sqrt(2 * 3.14159265358979) * exp(x * x / 2);
        x -= step;
        if (fabs(step) < 1e-9) break;
    }
    return x;
}

static void fill(void) {
    uint32_t *order = malloc(SAMPLES * sizeof *order);
    nbi_rng rng;
    double x = 0;
    assert_non_null(order);
    for (uint32_t i = 0; i < SAMPLES; i++) order[i] = i;
    nbi_rng_seed(&rng, 21, 5);
    nbi_rng_shuffle(&rng, order, SAMPLES);
    for (int i = 0; i < SAMPLES / 2; i++) { /* from the middle out: the last one is the guess */
        x = quantile(0.5 + (i + 0.5) / SAMPLES, x);
        normal[order[2 * i]] = (float)x;
        normal[order[2 * i + 1]] = (float)-x;
    }
    for (int i = 0; i < SAMPLES; i++) rectified[i] = normal[i] > 0 ? normal[i] : 0;
    free(order);
}

static int set_up(void **state) {
    (void)state;
    normal = malloc(SAMPLES * sizeof *normal);
    rectified = malloc(SAMPLES * sizeof *normal);
    out = malloc(SAMPLES * sizeof *normal);
    if (!normal || !rectified || !out) return -1;
    fill();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(normal);
    free(rectified);
    free(out);
    return 0;
}

static const nbi_scheme *find(const char *name) {
    const nbi_scheme *s = nbi_scheme_find(name);
    if (!s) fail_msg("no scheme '%s'", name);
    return s;
}

static void assert_near(const char *what, int bits, double value, double want, double relative) {
    if (!(fabs(value - want) <= relative * fabs(want)))
        fail_msg("%s, %d bits: %.9g, want %.9g within %g", what, bits, value, want, relative);
}

/* MSE on N(0,1) with the scheme's own fit. */
static double fitted(const char *name, nbi_scheme_use use, float *params) {
    const nbi_scheme *s = find(name);
    s->fit(&use, normal, SAMPLES, params);
    return mse_of(s, &use, params, normal, out, SAMPLES);
}

static double with(const char *name, nbi_scheme_use use, float p0, float p1) {
    const float params[2] = {p0, p1};
    return mse_of(find(name), &use, params, normal, out, SAMPLES);
}

static nbi_scheme_use weights(int bits) {
    return (nbi_scheme_use){.bits = bits, .weights = true};
}
static nbi_scheme_use activations(int bits) {
    return (nbi_scheme_use){.bits = bits};
}

static void test_table_fitted(void **state) {
    static const double clip[9] = {0,        0.363380, 0.118846, 0.037440,  0.011543,
                                   0.003495, 0.001040, 3.0433e-4, 8.7688e-5};
    static const double lloyd[9] = {0,        0.363380, 0.117482, 0.034548, 0.009501,
                                    0.002505, 6.44e-4,  1.635e-4, 4.119e-5};
    static const double pot[5] = {0, 0.363380, 0.120490, 0.042509, 0.037735};
    static const double lsq[9] = {0, 0, 0.220993, 0.071061, 0.030316, 0, 0, 0, 0.001671};
    float params[NBI_SCHEME_MAX_PARAMS];
    (void)state;
    for (int b = 1; b <= 8; b++) {
        assert_near("clip", b, fitted("clip", weights(b), params), clip[b], 0.03);
        double got = fitted("codebook", weights(b), params);
        /* the 8-bit table shifts a level by (max|L|/127)/√12; cells move with it, so that costs less */
        double table = pow((double)fabsf(params[0]) / 127, 2) / 12;
        if (got < lloyd[b] * 0.995 || got > (lloyd[b] + table) * 1.01)
            fail_msg("codebook, %d bits: %g, Lloyd-Max %g, table %g", b, got, lloyd[b], table);
        if (b <= 4) assert_near("pot", b, fitted("pot", weights(b), params), pot[b], 0.03);
        if (lsq[b] > 0) assert_near("lsq", b, fitted("lsq", weights(b), params), lsq[b], 0.03);
    }
    assert_near("binary", 1, fitted("binary", weights(1), params), 0.363380, 0.03);
    assert_near("alpha", 1, (double)params[0], 0.797885, 0.003);
    assert_near("ternary", 2, fitted("ternary", weights(2), params), 0.191625, 0.03);
    assert_near("alpha", 2, (double)params[0], 1.184161, 0.003);
    assert_near("threshold", 2, (double)params[1], 0.558519, 0.003);
    assert_near("quaternary", 2, fitted("quaternary", weights(2), params), 0.118846, 0.03);
}

/* The greedy sums have closed forms; the 8-bit table adds its rounding, a step of Σa/127. */
static void test_table_residual(void **state) {
    static const double mse[9] = {0,        0.363380, 0.130454, 0.058394, 0.032898,
                                  0.022627, 0.017644, 0.014810, 0.012885};
    static const double last[9] = {0,        0.797885, 0.482624, 0.268441, 0.159674,
                                   0.101344, 0.070592, 0.053236, 0.043876};
    float params[NBI_SCHEME_MAX_PARAMS];
    (void)state;
    for (int b = 1; b <= 8; b++) {
        double got = fitted("residual", weights(b), params), step = 0;
        for (int i = 0; i < b; i++) step += (double)params[i] / 127;
        assert_near("residual", b, got, mse[b] + step * step / 12, 0.03);
        assert_near("residual a_b", b, (double)params[b - 1], last[b], 0.01);
    }
}

static void test_table_fixed_ranges(void **state) {
    static const double zoom[9] = {0,        2.930,    0.498961, 0.120001,  0.030000,
                                   0.007500, 0.001875, 4.689e-4, 1.173e-4};
    static const double fixed[9] = {0,        0,        0.864149, 0.330419, 0.083333,
                                    0.020833, 0.005208, 0.001302, 3.255e-4};
    static const double affine[9] = {0,        0,        0.702502, 0.156730, 0.034134,
                                     0.007992, 0.001935, 4.763e-4, 1.182e-4};
    static const double tail[9] = {0,        0,        0.393534, 0.073914, 0.016204,
                                   0.003895, 0.001043, 3.560e-4, 1.874e-4};
    (void)state;
    for (int b = 1; b <= 8; b++) {
        double top = (1 << b) - 1;
        assert_near("zoom", b, with("zoom", activations(b), -4.8f, 4.8f), zoom[b], 0.03);
        if (b == 1) continue;
        assert_near("fixed", b, with("fixed", activations(b), 5, 0.8f), fixed[b], 0.03);
        /* a range symmetric about 0 has its zero point at top/2, which rounds to even and shifts the
         * grid by half a step: the table's rows are for that z */
        double z = rint(top / 2);
        assert_near("affine", b, with("affine", activations(b), (float)(9.6 / top), (float)z),
                    affine[b], 0.03);
        assert_near("affine 99.9 %", b,
                    with("affine", activations(b), (float)(2 * 3.290527 / top), (float)z), tail[b],
                    0.03);
    }
}

static void test_table_best_scales(void **state) {
    static const double twos[9][2] = {{0}, {0}, {1.048385, 0.149431}, {0.601824, 0.040638},
                                      {0.338608, 0.011864}, {0.188792, 0.003526},
                                      {0.104179, 0.001043}, {0.056887, 3.046e-4},
                                      {0.030766, 8.771e-5}};
    static const double narrow[9][2] = {{0}, {0}, {1.224006, 0.190174}, {0.650770, 0.046860},
                                        {0.353411, 0.012889}, {0.193249, 0.003693},
                                        {0.105488, 0.001069}, {0.057261, 3.086e-4},
                                        {0.030870, 8.831e-5}};
    static const double apot[6][2] = {{0}, {0}, {1.224006, 0.190174}, {2.072509, 0.047560},
                                      {2.627913, 0.012100}, {3.357734, 0.006005}};
    float params[NBI_SCHEME_MAX_PARAMS];
    (void)state;
    for (int b = 2; b <= 8; b++) {
        float s = (float)twos[b][0];
        assert_near("lsq at the best step", b, with("lsq", weights(b), s, 0), twos[b][1], 0.03);
        assert_near("uniform", b, fitted("uniform", weights(b), params), twos[b][1], 0.03);
        assert_near("uniform", b, fitted("uniform", activations(b), params), twos[b][1], 0.03);
        assert_near("symmetric", b, with("symmetric", weights(b), (float)narrow[b][0], 0),
                    narrow[b][1], 0.03);
        /* ranges in steps of 1 % of about 5 deviations */
        assert_near("symmetric fit", b, fitted("symmetric", weights(b), params), narrow[b][1], 0.05);
        if (b <= 5)
            assert_near("apot", b, with("apot", weights(b), (float)apot[b][0], 1), apot[b][1], 0.03);
    }
    /* dMSE/ds = 0 at the optimum: 2 % to either side costs the same, up to third order */
    for (int b = 2; b <= 8; b++) {
        double best = with("lsq", weights(b), (float)twos[b][0], 0);
        double less = with("lsq", weights(b), (float)(twos[b][0] * 0.98), 0);
        double more = with("lsq", weights(b), (float)(twos[b][0] * 1.02), 0);
        assert_true(less > best && more > best);
        assert_true(fabs(more - less) < 0.01 * best);
    }
}

static void test_table_rectified(void **state) {
    static const double relative[9] = {0,        0.190174, 0.046860, 0.012889, 0.003693,
                                       0.001069, 3.086e-4, 8.831e-5, 2.501e-5};
    (void)state;
    for (int b = 1; b <= 8; b++) {
        nbi_scheme_use use = {.bits = b, .is_unsigned = true};
        const nbi_scheme *s = find("unsigned"), *pact = find("pact");
        float params[1], scale;
        nbi_scheme_grid grid;
        s->fit(&use, rectified, SAMPLES, params);
        double power = (double)params[0] * (double)params[0];
        assert_near("rms", b, power, 0.5, 0.01);
        assert_near("unsigned", b, mse_of(s, &use, params, rectified, out, SAMPLES) / power,
                    relative[b], 0.03);
        s->grid(&use, params, &grid);
        if (b < 2) continue;
        scale = grid.scale * (float)((1 << b) - 1);
        if (b == 4) assert_near("alpha", b, (double)scale, 2.8987, 0.01);
        assert_near("pact", b, mse_of(pact, &use, &scale, rectified, out, SAMPLES) / power,
                    relative[b], 0.03);
    }
}

/* Signed C after ReLU: what the unsigned form is for. */
static void test_clip_rectified(void **state) {
    static const double want[9] = {0, 0, 0.301, 0.133, 0.062, 0, 0, 0, 0.0048};
    float params[1];
    (void)state;
    for (int b = 2; b <= 8; b++) {
        nbi_scheme_use use = activations(b);
        if (want[b] == 0) continue;
        find("clip")->fit(&use, rectified, SAMPLES, params);
        assert_near("clip", b, mse_of(find("clip"), &use, params, rectified, out, SAMPLES) / 0.5,
                    want[b], 0.05); /* two digits in the specification */
    }
}

static void test_dorefa(void **state) {
    static const double want[9][2] = {{0}, {0}, {0.650757, 0.485317}, {0.617080, 0.412198},
                                      {0.608425, 0.397983}, {0}, {0}, {0}, {0.605708, 0.394300}};
    const float params[2] = {1, 0.797885f};
    (void)state;
    for (int b = 2; b <= 8; b++) {
        double cross = 0, power = 0;
        nbi_scheme_use use = weights(b);
        if (want[b][0] == 0) continue;
        find("dorefa")->forward(&use, params, normal, out, SAMPLES);
        for (int i = 0; i < SAMPLES; i++) {
            cross += (double)normal[i] * (double)out[i];
            power += (double)out[i] * (double)out[i];
        }
        assert_near("dorefa E[w·x̂]", b, cross / SAMPLES, want[b][0], 0.01);
        assert_near("dorefa E[x̂²]", b, power / SAMPLES, want[b][1], 0.01);
    }
}

/* uniform is what post-training quantization does: the same scales and levels. */
static void test_uniform_is_ptq(void **state) {
    enum { CHANNELS = 4, EACH = 500, ALL = CHANNELS * EACH };
    static int8_t levels[ALL];
    const nbi_scheme *s = find("uniform");
    (void)state;
    for (int b = 1; b <= 8; b++) {
        nbi_layer l = {.geometry = {.out_c = CHANNELS}, .weight = normal, .n_weights = ALL};
        nbi_scheme_use use = weights(b);
        float scale[CHANNELS], params[1];
        double sqnr;
        assert_int_equal(nbi_fit_weights(NULL, &l, b, true, levels, scale, &sqnr), NB_OK);
        for (int c = 0; c < CHANNELS; c++) {
            uint8_t code[EACH];
            nbi_scheme_grid grid;
            s->fit(&use, normal + c * EACH, EACH, params);
            s->grid(&use, params, &grid);
            s->encode(&use, params, normal + c * EACH, code, EACH);
            assert_true(params[0] == scale[c] && grid.scale == scale[c]);
            for (int i = 0; i < EACH; i++)
                assert_int_equal(grid.level[code[i]], levels[c * EACH + i]);
        }
        for (int k = 0; k < 2 * NBI_RANGE_METHODS; k++) {
            nbi_scheme_use a = {.bits = b, .is_unsigned = k & 1};
            nbi_arena arena = {0};
            nbi_hist hist;
            nbi_qparam q;
            nbi_scheme_grid grid;
            a.range = (nbi_range_method)(k / 2);
            const float *x = k & 1 ? rectified : normal;
            assert_int_equal(nbi_hist_init(NULL, &arena, &hist), NB_OK);
            assert_int_equal(nbi_hist_add(NULL, &hist, "x", x, 10000), NB_OK);
            nbi_fit_activation(&hist, k & 1, b, a.range, &q, &sqnr);
            s->fit(&a, x, 10000, params);
            s->grid(&a, params, &grid);
            assert_true((double)grid.scale == q.scale);
            assert_int_equal(grid.level[0], q.lo);
            assert_int_equal(grid.level[grid.n - 1], q.hi);
            nbi_arena_free(&arena);
        }
    }
}

static void test_find(void **state) {
    size_t n;
    const nbi_scheme *const *s = nbi_schemes(&n);
    (void)state;
    assert_true(n >= 18);
    for (size_t i = 0; i < n; i++) {
        assert_ptr_equal(nbi_scheme_find(s[i]->name), s[i]);
        if (*s[i]->letter) assert_ptr_equal(nbi_scheme_find(s[i]->letter), s[i]);
    }
    for (const char *p = "BTQFZCPR"; *p; p++) {
        char letter[2] = {*p, 0};
        assert_non_null(nbi_scheme_find(letter));
    }
    assert_null(nbi_scheme_find(""));
    assert_null(nbi_scheme_find("nothing"));
    assert_null(nbi_scheme_find(NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_table_fitted),
        cmocka_unit_test(test_table_residual),
        cmocka_unit_test(test_table_fixed_ranges),
        cmocka_unit_test(test_table_best_scales),
        cmocka_unit_test(test_table_rectified),
        cmocka_unit_test(test_clip_rectified),
        cmocka_unit_test(test_dorefa),
        cmocka_unit_test(test_uniform_is_ptq),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
