/* What every scheme promises, over the registry: codes → levels = fake quantization bit for bit, the
 * declared properties, guards, packing, in place and in chunks. */
#include "unit/scheme_cases.h"

#include "kernels/kernels.h"
#include "quant/fit.h"

#include <float.h>

enum { COUNT = 3001 };
static float x[COUNT], y[COUNT], z[COUNT];
static uint8_t code[COUNT];
static float params[NBI_SCHEME_MAX_PARAMS];

static void fit_normal(const nbi_scheme *s, const nbi_scheme_use *use) {
    fill_normal(x, COUNT, 7, use);
    s->fit(use, x, COUNT, params);
}

/* Behind a normal sample: zeros of both signs, ties of many grids, denormal and huge values. */
static void add_special(const nbi_scheme *s, const nbi_scheme_use *use) {
    static const float special[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-38f, -1e-38f, 3e38f, -3e38f};
    nbi_scheme_grid grid;
    size_t at = COUNT - NBI_COUNT(special);
    memcpy(&x[at], special, sizeof special);
    s->grid(use, params, &grid);
    for (int c = 0; c < grid.n && at > 600; c++) {
        x[--at] = grid.scale * (float)grid.level[c];
        if (c) x[--at] = grid.scale * 0.5f * (float)(grid.level[c] + grid.level[c - 1]);
    }
}

static void codes_are_forward(const nbi_scheme *s, const nbi_scheme_use *use) {
    nbi_scheme_grid grid;
    fit_normal(s, use);
    add_special(s, use);
    s->forward(use, params, x, y, COUNT);
    s->encode(use, params, x, code, COUNT);
    s->grid(use, params, &grid);
    if (grid.n < 2 || grid.n > 1 << use->bits) fail_msg(CASE_FORMAT "n = %d", CASE(s, use), grid.n);
    for (int c = 1; c < grid.n; c++) assert_true(grid.level[c] >= grid.level[c - 1]);
    for (int i = 0; i < COUNT; i++) {
        if (code[i] >= grid.n) fail_msg(CASE_FORMAT "code %d of %d", CASE(s, use), code[i], grid.n);
        float want = grid.scale * (float)grid.level[code[i]];
        if (memcmp(&want, &y[i], sizeof want))
            fail_msg(CASE_FORMAT "x = %.9g: forward %.9g, level %.9g", CASE(s, use), (double)x[i],
                     (double)y[i], (double)want);
    }
    /* in place, and in chunks */
    memcpy(z, x, sizeof z);
    s->forward(use, params, z, z, COUNT);
    assert_memory_equal(z, y, sizeof y);
    for (size_t i = 0; i < COUNT; i += 77)
        s->forward(use, params, x + i, z + i, COUNT - i < 77 ? COUNT - i : 77);
    assert_memory_equal(z, y, sizeof y);
}

static void test_codes(void **state) {
    (void)state;
    for_all_uses(codes_are_forward);
}

static int compare(const void *a, const void *b) {
    const float *p = a, *q = b;
    return (*p > *q) - (*p < *q);
}

static void has_properties(const nbi_scheme *s, const nbi_scheme_use *use) {
    nbi_scheme_grid grid;
    bool one = use->bits == 1, zero = false, uniform = true;
    fit_normal(s, use);
    s->grid(use, params, &grid);
    for (int c = 0; c < grid.n; c++) zero |= grid.level[c] == 0;
    for (int c = 2; c < grid.n; c++)
        uniform &= grid.level[c] - grid.level[c - 1] == grid.level[1] - grid.level[0];
    if (s->flags & NBI_SCHEME_UNIFORM) assert_true(uniform);
    if ((s->flags & NBI_SCHEME_ZERO) && !one) assert_true(zero);
    qsort(x, COUNT, sizeof *x, compare);
    s->forward(use, params, x, y, COUNT);
    for (int i = 1; (s->flags & NBI_SCHEME_MONOTONE) && i < COUNT; i++)
        if (y[i] < y[i - 1]) fail_msg(CASE_FORMAT "not monotone", CASE(s, use));
    if (s->flags & NBI_SCHEME_IDEMPOTENT) {
        s->forward(use, params, y, z, COUNT);
        for (int i = 0; i < COUNT; i++)
            if (y[i] != z[i])
                fail_msg(CASE_FORMAT "%.9g to %.9g to %.9g", CASE(s, use), (double)x[i],
                         (double)y[i], (double)z[i]);
    }
    /* 0 is exact where it is a level; without one sign(0) = +1 (zoom has no sign, a codebook none
     * to speak of, and the later signs of residual may outweigh the first) */
    x[0] = 0;
    x[1] = -0.0f;
    s->forward(use, params, x, y, 2);
    if (zero) assert_true(y[0] == 0 && y[1] == 0);
    else if (!strstr("zoom codebook", s->name) && (*s->letter != 'R' || use->bits < 3))
        assert_true(y[0] > 0 && y[1] > 0);
    /* NaN must not hide */
    x[0] = NAN;
    s->forward(use, params, x, y, 1);
    assert_true(isnan(y[0]));
    s->encode(use, params, x, code, 1);
    assert_true(code[0] < grid.n);
}

static void test_properties(void **state) {
    (void)state;
    for_all_uses(has_properties);
}

/* At the widths that it declares, levels are exact in 8 bits (with a zero point for activations), and
 * codes survive packing. */
static void deploys(const nbi_scheme *s, const nbi_scheme_use *use) {
    nbi_scheme_grid grid;
    int8_t table[256], packed_from[COUNT], levels[COUNT];
    static uint8_t packed[COUNT + 8];
    fit_normal(s, use);
    s->grid(use, params, &grid);
    int lo = grid.level[0] < 0 ? grid.level[0] : 0, hi = grid.level[grid.n - 1];
    bool inside = use->weights ? lo >= -128 && hi <= 127 : hi - lo <= 255;
    if (use->bits <= nbi_scheme_deploy_bits(s, use->weights) && !inside &&
        !(use->weights && use->is_unsigned))
        fail_msg(CASE_FORMAT "levels %d to %d are declared exact", CASE(s, use), lo, hi);
    s->encode(use, params, x, code, COUNT);
    for (int c = 0; c < 256; c++)
        table[c] = (int8_t)(use->bits == 8 ? (c < grid.n ? c - 128 : 0) : c);
    for (int i = 0; i < COUNT; i++)
        packed_from[i] = (int8_t)((use->bits == 1 ? -code[i] : code[i] > 127 ? code[i] - 256
                                                                            : code[i]) *
                                  nbk_level_step(use->bits));
    nbi_pack_weights(packed_from, COUNT, use->bits, packed);
    nbk_unpack(packed, use->bits, table, 0, COUNT, levels);
    for (int i = 0; i < COUNT; i++)
        if (levels[i] != table[code[i]])
            fail_msg(CASE_FORMAT "code %d comes back as %d", CASE(s, use), code[i], levels[i]);
    double bits = s->value_bits(use);
    assert_true(bits >= 1 && bits <= use->bits && s->param_bits(use) >= 32);
    int n = s->n_params(use);
    assert_true(n >= 1 && n <= NBI_SCHEME_MAX_PARAMS);
    assert_true(s->n_learned <= n);
    assert_true(((s->flags & NBI_SCHEME_LEARNED) != 0) == (s->n_learned != 0));
}

static void test_deploy(void **state) {
    (void)state;
    for_all_uses(deploys);
}

/* Constant, empty, tiny, huge and broken tensors: params are finite and not all zero, outputs of
 * finite values are finite. */
static void survives(const nbi_scheme *s, const nbi_scheme_use *use) {
    static const float values[] = {0,      1,     -1,    5,        1e-45f, -1e-40f, 1e-30f,
                                   1e-20f, 3e38f, 2e38f, INFINITY, NAN,    -1e-3f,  7.25f};
    int n_params = s->n_params(use);
    for (size_t v = 0; v < NBI_COUNT(values); v++)
        for (int pattern = 0; pattern < 4; pattern++) {
            size_t n = pattern == 3 ? 0 : 40;
            bool set = false;
            for (size_t i = 0; i < 40; i++)
                x[i] = pattern == 1 && i % 2 ? 0 : pattern == 2 && i ? -values[v] : values[v];
            s->fit(use, x, n, params);
            for (int i = 0; i < n_params; i++) {
                if (!isfinite(params[i]))
                    fail_msg(CASE_FORMAT "%g (pattern %d): param %d is %g", CASE(s, use),
                             (double)values[v], pattern, i, (double)params[i]);
                set |= params[i] != 0;
            }
            assert_true(set);
            for (size_t i = 0; i < 40; i++)
                if (!isfinite(x[i])) x[i] = 1;
            s->forward(use, params, x, y, 40);
            for (size_t i = 0; i < 40; i++)
                if (!isfinite(y[i]))
                    fail_msg(CASE_FORMAT "%g (pattern %d): forward gives %g", CASE(s, use),
                             (double)values[v], pattern, (double)y[i]);
        }
}

static void test_guards(void **state) {
    (void)state;
    for_all_uses(survives);
}

/* Params that training has driven astray (a step below 0, not finite) harm nothing. */
static void survives_params(const nbi_scheme *s, const nbi_scheme_use *use) {
    static const float values[] = {0, -1, -1e30f, NAN, INFINITY, 1e-40f, 3e38f};
    nbi_scheme_grid grid;
    fill_normal(x, COUNT, 3, use);
    for (size_t v = 0; v < NBI_COUNT(values); v++) {
        for (int i = 0; i < NBI_SCHEME_MAX_PARAMS; i++) params[i] = values[v];
        s->grid(use, params, &grid);
        s->encode(use, params, x, code, COUNT);
        s->forward(use, params, x, y, COUNT);
        assert_true(grid.n >= 2 && grid.n <= 256);
        for (int i = 0; i < COUNT; i++) assert_true(code[i] < grid.n);
    }
}

static void test_astray(void **state) {
    (void)state;
    for_all_uses(survives_params);
}

/* The stored a_i replay the greedy signs: fit's last residual is what forward leaves over. */
static void test_residual_replay(void **state) {
    const nbi_scheme *s = nbi_scheme_find("R");
    (void)state;
    for (int bits = 1; bits <= 8; bits++) {
        nbi_scheme_use use = {.bits = bits, .weights = true};
        nbi_scheme_grid grid;
        double left = 0, step = 0;
        fit_normal(s, &use);
        s->grid(&use, params, &grid);
        s->forward(&use, params, x, y, COUNT);
        for (int i = 0; i < COUNT; i++) {
            float o = 0, r = x[i];
            for (int k = 0; k < bits; k++) {
                float a = r >= 0 ? params[k] : -params[k];
                o += a;
                r -= a;
            }
            left += fabs((double)r);
            /* the table is within half a step of its scale */
            assert_true(fabsf(y[i] - o) <= 0.501f * grid.scale);
        }
        step = fabs(left / COUNT - (double)params[bits]);
        assert_true(step <= 1e-6 * (double)params[bits]);
        s->forward(&use, params, x, z, COUNT);
        assert_memory_equal(y, z, sizeof y);
    }
}

/* Few distinct values: a codebook with as many levels holds them exactly (up to its 8-bit table). */
static void test_codebook_exact(void **state) {
    static const float values[4] = {-2, -1, 0.5f, 4};
    const nbi_scheme *s = nbi_scheme_find("codebook");
    nbi_scheme_use use = {.bits = 2, .weights = true};
    (void)state;
    for (int i = 0; i < COUNT; i++) x[i] = values[i % 4];
    s->fit(&use, x, COUNT, params);
    for (int k = 0; k < 4; k++) assert_true(fabsf(params[k] - values[k]) < 1e-5f);
    s->forward(&use, params, x, y, COUNT);
    for (int i = 0; i < COUNT; i++) assert_true(fabsf(y[i] - x[i]) <= 0.501f * 4 / 127);
}

static void test_check(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_scheme_use use = {.bits = 9, .weights = true};
    (void)state;
    assert_non_null(ctx);
    assert_int_equal(nbi_scheme_check(ctx, "conv1", nbi_scheme_find("lsq"), &use), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "conv1: scheme 'lsq' has 1 to 8 bits"));
    use.bits = 4;
    assert_int_equal(nbi_scheme_check(ctx, "c", nbi_scheme_find("pact"), &use), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "'pact' is not for weights"));
    use = (nbi_scheme_use){.bits = 4, .is_unsigned = true};
    assert_int_equal(nbi_scheme_check(ctx, "c", nbi_scheme_find("clip"), &use), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "no form for unsigned"));
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),           cmocka_unit_test(test_properties),
        cmocka_unit_test(test_deploy),          cmocka_unit_test(test_guards),
        cmocka_unit_test(test_astray),          cmocka_unit_test(test_residual_replay),
        cmocka_unit_test(test_codebook_exact),  cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
