/* AutoQNN's C (rule as in its authors' code): half-step grid scaled by the deviation, with the step of
 * least squared error for a normal distribution; lambda(1) corrected (ours). */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_clip;

static const double lambda[9] = {0, 1.595769, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308};

/* params {sigma}: holds for every width. */
static nbi_half halves(const nbi_scheme_use *use, const float *params) {
    double step = lambda[use->bits] * (double)nbi_guarded(params[0]) + 1e-7;
    return nbi_half_of(nbi_positive(step / 2), use->bits);
}

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    (void)use;
    nbi_stats_of(x, n, &s);
    params[0] = nbi_positive(s.deviation);
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

/* r = d ln(lambda)/db: the mean of the slopes to both neighbours, the one slope at the ends. */
static double slope(int bits) {
    static const double r[8] = {0, -0.4717, -0.5301, -0.5586, -0.5775, -0.5921, -0.6042, -0.6144};
    if (bits == 1) return r[1];
    return bits == 8 ? r[7] : 0.5 * (r[bits - 1] + r[bits]);
}

/* Inside (x̂ − x)·r; beyond the last level sgn(x)·alpha·(ln2·2^(b−1) + (2^(b−1) − ½)·r). */
static double exact_dbits(const nbi_scheme_use *use, const nbi_half *h, const float *x,
                          const float *g, size_t n) {
    double r = slope(use->bits), half = ldexp(1, use->bits - 1), step = 2 * (double)h->scale;
    double outside = step * (NBI_LN2 * half + (half - 0.5) * r), lane[NBI_LANES] = {0};
    float y[NBI_BLOCK], top = (float)(step * (half - 0.5));
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        nbi_half_forward(h, x + i, y, count);
        for (size_t k = 0; k < count; k++) {
            float v = x[i + k];
            double d = v > top ? outside : v < -top ? -outside : r * (double)(y[k] - v);
            lane[k % NBI_LANES] += (double)g[i + k] * d;
        }
    }
    return nbi_lane_sum(lane);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    nbi_half h = halves(use, params);
    float top = h.scale * (float)(2 * h.hi + 1);
    (void)n_group, (void)dparams;
    if (dbits && use->exact_bits) *dbits += exact_dbits(use, &h, x, g, n);
    else if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_clip, use, params, x, g, n);
    if (dx) nbi_pass_inside(-top, top, x, g, dx, n);
}

const nbi_scheme nbi_scheme_clip = {
    .name = "clip",
    .letter = "C",
    .title = "half steps, clipped for a normal distribution",
    .source = "AutoQNN, authors' code; λ(1) ours",
    .formula = "a·(k + ½), k = clip(round(x/a − ½), −2^(b−1), 2^(b−1)−1), a = λ(b)·σ",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 7,
    .deploy_activations = 7,
    .n_params = nbi_params_one,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
