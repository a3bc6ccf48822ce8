/* AutoQNN's Z (rule as in its authors' code): 2^b cells between the least and the largest value, each
 * rounded to its middle. The offset is a whole number of half steps (ours), so that levels are
 * integers; where they would not fit, 0 is taken into the range (ours). */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_zoom;

static nbi_half between(double lo, double hi, int bits) {
    nbi_half h = {.scale = nbi_positive((hi - lo) / (2 << bits)), .hi = (1 << bits) - 1};
    double offset = rint(lo / (double)h.scale);
    h.cell = 2 * h.scale;
    h.offset = offset > -1e6 && offset < 1e6 ? (int)offset : 1000000;
    return h;
}

/* params {lo, hi} */
static nbi_half halves(const nbi_scheme_use *use, const float *params) {
    double lo = isfinite(params[0]) ? (double)params[0] : 0;
    double hi = isfinite(params[1]) ? (double)params[1] : 0;
    if (hi < lo) hi = lo;
    nbi_half h = between(lo, hi, use->bits);
    int least = h.offset + 1, most = h.offset + 2 * h.hi + 1;
    bool fits = use->weights ? least >= -128 && most <= 127 : least >= -255 && most <= 255;
    return fits ? h : between(fmin(lo, 0), fmax(hi, 0), use->bits);
}

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    (void)use;
    nbi_stats_of(x, n, &s);
    bool finite = isfinite(s.min) && isfinite(s.max);
    params[0] = finite ? s.min : 0;
    params[1] = finite ? s.max : 0;
    if (params[0] == 0 && params[1] == 0) params[1] = 1e-30f;
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_half h = halves(use, params);
    nbi_half_forward(&h, x, y, n);
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_half h = halves(use, params);
    nbi_half_encode(&h, x, code, n);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_half h = halves(use, params);
    nbi_half_grid(&h, out);
}

/* The default gradient of the width is exact here. */
static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_zoom, use, params, x, g, n);
    if (dx) nbi_pass_all(g, dx, n);
}

static int param_bits(const nbi_scheme_use *use) {
    (void)use;
    return 64;
}

/* Odd or even levels span 2^(b+1): a signed byte holds those around 0 to 6 bits, a byte with a zero
 * point to 7. */
const nbi_scheme nbi_scheme_zoom = {
    .name = "zoom",
    .letter = "Z",
    .title = "middles of equal cells between the extremes",
    .source = "AutoQNN, authors' code; offset in half steps ours",
    .formula = "lo + a·(k + ½), k = clip(⌊(x − lo)/a⌋, 0, 2^b−1), a = (hi − lo)/2^b, lo in half steps",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE |
             NBI_SCHEME_UNIFORM,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 6,
    .deploy_activations = 7,
    .n_params = nbi_params_two,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = param_bits};
