/* AutoQNN's T (rule as in its authors' code, after TWN): c = 0 where |x| ≤ D = 0.7·E|x|, else
 * sign(x); x̂ = alpha·c with the least-squares alpha. */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_ternary;

/* params {alpha, D}: activations average both. */
static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    double sum[NBI_LANES] = {0}, count[NBI_LANES] = {0};
    (void)use;
    nbi_stats_of(x, n, &s);
    params[1] = nbi_positive(0.7 * s.magnitude);
    const float border = params[1];
    float v[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t m = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < m; k++) {
            float a = fabsf(x[i + k]);
            v[k] = a > border ? a : 0.0f;
        }
        nbi_lanes_add(sum, v, m);
        for (size_t k = 0; k < m; k++) v[k] = nbi_clip(nbi_amplified(v[k]), 0.0f, 1.0f);
        nbi_lanes_add(count, v, m);
    }
    double outside = nbi_lane_sum(count);
    params[0] = nbi_positive(outside > 0 ? nbi_lane_sum(sum) / outside : s.magnitude);
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    const float alpha = nbi_guarded(params[0]), border = nbi_guarded(params[1]);
    (void)use;
    float v[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) {
            float up = nbi_clip(nbi_amplified(x[i + k] - border), 0.0f, 1.0f);
            float down = nbi_clip(nbi_amplified(x[i + k] + border), -1.0f, 0.0f);
            v[k] = up + down;
        }
        for (size_t k = 0; k < count; k++) y[i + k] = alpha * v[k];
    }
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    const float border = nbi_guarded(params[1]);
    (void)use;
    for (size_t i = 0; i < n; i++)
        code[i] = x[i] > border ? 2 : x[i] < -border ? 0 : 1;
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = {nbi_guarded(params[0]), -1, 1};
    (void)use;
    nbi_steps_grid(&s, out);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits && !use->exact_bits)
        *dbits += nbi_scheme_default_dbits(&nbi_scheme_ternary, use, params, x, g, n);
    if (dx) nbi_pass_all(g, dx, n);
}

/* Averages of alpha and D over batches keep alpha > D, and so idempotence. */
const nbi_scheme nbi_scheme_ternary = {
    .name = "ternary",
    .letter = "T",
    .title = "three levels",
    .source = "AutoQNN, authors' code",
    .formula = "α·c, c = 0 where |x| ≤ 0.7·E|x|, else sign(x); α = Σ c·x/Σ|c|",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_ZERO | NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE |
             NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS,
    .min_bits = 2,
    .max_bits = 2,
    .deploy_weights = 2,
    .deploy_activations = 2,
    .n_params = nbi_params_two,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
