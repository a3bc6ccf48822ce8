/* Gradients of every scheme against central differences of its smooth surrogate, not of the
 * staircase: rounding residuals and statistics are frozen. Widths as in docs/schemes.md. */
#include "unit/scheme_cases.h"

enum { COUNT = 2000 };
static float x[COUNT], y[COUNT], g[COUNT], dx[COUNT];
static float params[NBI_SCHEME_MAX_PARAMS];
static uint8_t code[COUNT];
static nbi_scheme_grid grid;

/* Is the scheme among these, separated by blanks? */
static bool is(const nbi_scheme *s, const char *names) {
    size_t n = strlen(s->name);
    for (const char *at = names; (at = strstr(at, s->name)) != NULL; at++)
        if ((at == names || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
    return false;
}

static void start(const nbi_scheme *s, const nbi_scheme_use *use) {
    fill_normal(x, COUNT, 9, use);
    /* not a rectified tensor: 0 lies on the border of many masks */
    for (int i = 0; i < COUNT; i++)
        if (use->is_unsigned) x[i] = fabsf(x[i]) + (i % 7 ? 0.01f : -0.5f);
    s->fit(use, x, COUNT, params);
    if (is(s, "apot")) params[0] = 1.5f;     /* so that some values are clipped */
    if (is(s, "pact lsqplus")) params[0] *= 0.6f;
    s->grid(use, params, &grid);
    s->forward(use, params, x, y, COUNT);
    s->encode(use, params, x, code, COUNT);
    fill_normal(g, COUNT, 10, NULL);
}

/* ---- data ------------------------------------------------------------------------------------ */

/* The range outside of which the gradient is masked, ±infinity for plain straight-through. */
static void mask_of(const nbi_scheme *s, const nbi_scheme_use *use, double *lo, double *hi) {
    double scale = (double)grid.scale;
    bool sign = use->bits == 1 && use->weights && !use->is_unsigned && is(s, "uniform lsq");
    *lo = -INFINITY;
    *hi = INFINITY;
    if (is(s, "fixed") && (use->bits > 1 || use->is_unsigned)) {
        *lo = scale * (grid.level[0] - 0.5);
        *hi = scale * (grid.level[grid.n - 1] + 0.5);
    } else if ((is(s, "uniform symmetric affine unsigned lsq lsqplus pact clip") && !sign) ||
               (is(s, "apot dorefa") && !use->weights)) {
        *lo = scale * grid.level[0];
        *hi = scale * grid.level[grid.n - 1];
    }
}

static void data_gradient(const nbi_scheme *s, const nbi_scheme_use *use) {
    double lo, hi;
    start(s, use);
    mask_of(s, use, &lo, &hi);
    s->backward(use, params, x, g, COUNT, COUNT, dx, NULL, NULL);
    for (int i = 0; i < COUNT; i++) {
        double v = (double)x[i], h = 1e-5 * (1 + fabs(v)), want;
        if (fabs(v - lo) < 2 * h || fabs(v - hi) < 2 * h) continue; /* kinks */
        if (is(s, "dorefa") && use->weights && use->bits > 1)
            want = (tanh(v + h) - tanh(v - h)) / (2 * h) / (double)params[0];
        else
            want = (fmin(fmax(v + h, lo), hi) - fmin(fmax(v - h, lo), hi)) / (2 * h);
        want *= (double)g[i];
        if (!(fabs((double)dx[i] - want) <= 1e-4 * (1 + fabs(want))))
            fail_msg(CASE_FORMAT "x = %g: dx = %g, want %g", CASE(s, use), v, (double)dx[i], want);
    }
    /* dx may be g */
    float again[COUNT];
    memcpy(again, g, sizeof g);
    s->backward(use, params, x, again, COUNT, COUNT, again, NULL, NULL);
    assert_memory_equal(again, dx, sizeof dx);
}

static void test_data(void **state) {
    (void)state;
    for_all_uses(data_gradient);
}

/* ---- own parameters -------------------------------------------------------------------------- */

static double clip(double v, double lo, double hi) {
    return fmin(fmax(v, lo), hi);
}

/* The surrogate of value i with params p; the frozen part comes from y, the grid and params. */
static double surrogate(const nbi_scheme *s, const nbi_scheme_use *use, const double *p, int i) {
    double v = (double)x[i], xq = (double)y[i], lo = grid.level[0], hi = grid.level[grid.n - 1];
    double p0 = (double)params[0];
    if (is(s, "lsq")) {
        if (use->bits == 1 && use->weights && !use->is_unsigned) return v < 0 ? -p[0] : p[0];
        return p[0] * (clip(v / p[0], lo, hi) + (xq / p0 - clip(v / p0, lo, hi)));
    }
    if (is(s, "lsqplus")) {
        /* bounds lo·s with lo = o/s + residual, or held where 0 holds lo in place */
        double o = (double)params[1], top = hi - lo;
        bool held = fabs(o / p0 - lo) > 0.5;
        double rest = held ? 0 : lo - o / p0;
        double a = held ? lo * p[0] : p[1] + rest * p[0], b = a + top * p[0];
        return clip(v, a, b) + p[0] * (xq / p0 - clip(v / p0, lo, hi));
    }
    if (is(s, "pact")) {
        double low = use->is_unsigned ? 0 : -1;
        return clip(v, low * p[0], p[0]) + (xq - clip(v, low * p0, p0));
    }
    if (is(s, "apot")) {
        double sigma = use->weights ? (double)params[1] : 1, low = lo < 0 ? -1 : 0;
        double a = p[0] * sigma, a0 = p0 * sigma;
        return a * (clip(v / a, low, 1) + (xq / a0 - clip(v / a0, low, 1)));
    }
    return p[code[i]]; /* codebook: fit leaves its levels sorted */
}

static double factor(const nbi_scheme *s, const nbi_scheme_use *use) {
    int top = use->is_unsigned || is(s, "lsqplus") ? (1 << use->bits) - 1
                                                   : (1 << (use->bits - 1)) - 1;
    return is(s, "lsq lsqplus") ? 1 / sqrt((double)COUNT * (top > 0 ? top : 1)) : 1;
}

static double sum_of(const nbi_scheme *s, const nbi_scheme_use *use, const double *p) {
    double sum = 0;
    for (int i = 0; i < COUNT; i++) sum += (double)g[i] * surrogate(s, use, p, i);
    return sum;
}

static void own_gradient(const nbi_scheme *s, const nbi_scheme_use *use) {
    double sums[NBI_SCHEME_MAX_PARAMS] = {0}, p[NBI_SCHEME_MAX_PARAMS], two[NBI_SCHEME_MAX_PARAMS];
    int n = s->n_params(use), learned = s->n_learned < 0 ? n : s->n_learned;
    if (!learned) return;
    start(s, use);
    s->backward(use, params, x, g, COUNT, COUNT, NULL, sums, NULL);
    for (int k = 0; k < n; k++) p[k] = (double)params[k];
    for (int k = 0; k < learned; k++) {
        double h = 1e-7 * (fabs(p[k]) + 1), base = p[k];
        p[k] = base + h;
        double more = sum_of(s, use, p);
        p[k] = base - h;
        double want = factor(s, use) * (more - sum_of(s, use, p)) / (2 * h);
        p[k] = base;
        if (!(fabs(sums[k] - want) <= 2e-4 * (1 + fabs(want))))
            fail_msg(CASE_FORMAT "param %d: %.9g, want %.9g", CASE(s, use), k, sums[k], want);
    }
    /* chunks of one group add up */
    memset(two, 0, sizeof two);
    s->backward(use, params, x, g, 900, COUNT, dx, two, NULL);
    s->backward(use, params, x + 900, g + 900, COUNT - 900, COUNT, dx, two, NULL);
    for (int k = 0; k < n; k++) assert_true(fabs(two[k] - sums[k]) <= 1e-6 * (1 + fabs(sums[k])));
}

static void test_own(void **state) {
    (void)state;
    for_all_uses(own_gradient);
}

/* ---- width ----------------------------------------------------------------------------------- */

/* G = dMSE/dx̂ with the default D gives dMSE/db = −2·ln2·MSE (docs/schemes.md, test 1). */
static void default_width(const nbi_scheme *s, const nbi_scheme_use *use) {
    double mse = 0, dbits = 0;
    start(s, use);
    for (int i = 0; i < COUNT; i++) {
        double e = (double)y[i] - (double)x[i];
        mse += e * e / COUNT;
        g[i] = (float)(2 * e / COUNT);
    }
    s->backward(use, params, x, g, COUNT, COUNT, NULL, NULL, &dbits);
    double want = -2 * log(2) * mse;
    if (!(fabs(dbits - want) <= 1e-6 * fabs(want))) /* g is float32 */
        fail_msg(CASE_FORMAT "dMSE/db = %.9g, want %.9g", CASE(s, use), dbits, want);
}

static void test_default_width(void **state) {
    (void)state;
    for_all_uses(default_width);
}

static double exact(const nbi_scheme *s, nbi_scheme_use use) {
    double dbits = 0;
    use.exact_bits = true;
    s->backward(&use, params, x, g, COUNT, COUNT, NULL, NULL, &dbits);
    return dbits;
}

/* F and C with a real width in the step: s(b)·(clip(x/s) + residual), bounds that move with b. */
static double smooth(double v, double xq, double s0, double s, double lo, double hi, double half,
                     double real_half) {
    if (v / s0 > hi) return s * (hi + real_half - half);
    if (v / s0 < lo) return s * (lo - (real_half - half));
    return v + s * (xq / s0 - v / s0);
}

static void exact_steps(const nbi_scheme *s, const nbi_scheme_use *use) {
    static const double r[9] = {-0.4717, -0.4717, -0.5301, -0.5586, -0.5775,
                                -0.5921, -0.6042, -0.6144, -0.6144};
    bool clip_scheme = is(s, "clip");
    if (!clip_scheme && !(is(s, "fixed") && !use->is_unsigned && use->bits > 1)) return;
    start(s, use);
    /* values beyond the ends exist: a range learned on fewer values */
    for (int i = 0; i < 10; i++) x[i] *= 3;
    s->forward(use, params, x, y, COUNT);
    double step = (double)grid.scale * (clip_scheme ? 2 : 1), half = ldexp(1, use->bits - 1);
    double slope = clip_scheme ? (use->bits == 1 ? r[1] : use->bits == 8 ? r[8]
                                  : 0.5 * (r[use->bits - 1] + r[use->bits])) : -log(2);
    double lo = clip_scheme ? -half + 0.5 : -half - 0.5, hi = -lo, want = 0, h = 1e-5;
    if (!clip_scheme) hi = half - 0.5;
    for (int i = 0; i < COUNT; i++)
        for (int k = -1; k <= 1; k += 2) {
            double v = (double)x[i], xq = (double)y[i], s1 = step * exp(slope * k * h);
            double real = half * pow(2, k * h), f;
            if (clip_scheme) f = smooth(v, xq, step, s1, lo, hi, half, real);
            else if (v / step > hi) f = s1 * (real - 1);
            else if (v / step < lo) f = -s1 * real;
            else f = v + s1 * (xq / step - v / step);
            want += (double)g[i] * f * k / (2 * h);
        }
    double got = exact(s, *use);
    if (!(fabs(got - want) <= 2e-4 * (1 + fabs(want))))
        fail_msg(CASE_FORMAT "exact width: %.9g, want %.9g", CASE(s, use), got, want);
}

static void exact_others(const nbi_scheme *s, const nbi_scheme_use *use) {
    double want = 0;
    start(s, use);
    if (is(s, "binary ternary quaternary")) {
        assert_true(exact(s, *use) == 0);
    } else if (is(s, "pot") && use->bits < 4) {
        nbi_scheme_use wider = *use;
        static float z[COUNT];
        wider.bits++;
        s->forward(&wider, params, x, z, COUNT);
        for (int i = 0; i < COUNT; i++) want += (double)g[i] * (double)(z[i] - y[i]);
        assert_true(fabs(exact(s, *use) - want) <= 1e-6 * (1 + fabs(want)));
    } else if (is(s, "residual")) {
        for (int i = 0; i < COUNT; i++)
            want += (double)g[i] * (double)params[use->bits] * (x[i] < y[i] ? -1 : 1);
        assert_true(fabs(exact(s, *use) - want) <= 1e-6 * (1 + fabs(want)));
    } else if (!is(s, "clip fixed")) { /* the default is their row, or they have none */
        for (int i = 0; i < COUNT; i++)
            want += log(2) * (double)g[i] * ((double)x[i] - (double)y[i]);
        assert_true(fabs(exact(s, *use) - want) <= 1e-6 * (1 + fabs(want)));
    }
}

static void test_exact_width(void **state) {
    (void)state;
    for_all_uses(exact_steps);
    for_all_uses(exact_others);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_own),
        cmocka_unit_test(test_default_width),
        cmocka_unit_test(test_exact_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
