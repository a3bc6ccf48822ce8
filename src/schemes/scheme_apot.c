/* Additive powers of two (Li et al., ICLR 2020; tables of yhhhli/APoT_Quantization): magnitudes
 * alpha·sigma·c/D, alpha learned. Weights are not centred: an offset mu would not deploy (ours). */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_apot;

static const struct {
    int n, divisor;
    int16_t c[16];
} magnitudes[5] = {{1, 1, {0}},
                   {2, 1, {0, 1}},
                   {4, 4, {0, 1, 2, 4}},
                   {8, 10, {0, 1, 2, 3, 4, 6, 8, 10}},
                   {16, 48, {0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48}}};

/* Weights have a sign even where all are positive: 5 magnitude bits do not exist. */
static bool is_positive(const nbi_scheme_use *use) {
    return use->is_unsigned && !use->weights;
}

static int n_params(const nbi_scheme_use *use) {
    return use->weights ? 2 : 1;
}

static float sigma_of(const nbi_scheme_use *use, const float *params) {
    return use->weights ? nbi_guarded(params[1]) : 1;
}

/* Weights: {alpha, sigma}, alpha in deviations. Activations: {alpha}. */
static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    params[0] = use->weights ? 3 : 8;
    if (!use->weights) return;
    nbi_stats_of(x, n, &s);
    params[1] = nbi_positive(s.deviation);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    int bits = is_positive(use) ? use->bits : use->bits - 1, n = magnitudes[bits].n;
    float top = nbi_guarded(params[0]) * sigma_of(use, params);
    out->scale = nbi_guarded(top / (float)magnitudes[bits].divisor);
    out->n = 0;
    for (int i = n - 1; i > 0 && !is_positive(use); i--)
        out->level[out->n++] = (int16_t)-magnitudes[bits].c[i];
    for (int i = 0; i < n; i++) out->level[out->n++] = magnitudes[bits].c[i];
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_scheme_grid t;
    grid(use, params, &t);
    nbi_table_forward(&t, x, y, n);
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_scheme_grid t;
    grid(use, params, &t);
    nbi_table_encode(&t, x, code, n);
}

/* Weights pass everywhere, activations inside the range. Inside, alpha·(x/alpha + residual) leaves
 * the residual as its slope; outside, the last level. */
static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    float alpha = nbi_guarded(params[0]), top = alpha * sigma_of(use, params);
    float low = is_positive(use) ? 0 : -top, y[NBI_BLOCK];
    (void)n_group;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_apot, use, params, x, g, n);
    for (size_t i = 0; dparams && i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        double lane[NBI_LANES] = {0};
        forward(use, params, x + i, y, count);
        for (size_t k = 0; k < count; k++) {
            float c = nbi_clip(x[i + k], low, top), d = y[k] - c;
            y[k] = g[i + k] * (x[i + k] == c ? d : c);
        }
        nbi_lanes_add(lane, y, count);
        dparams[0] += nbi_lane_sum(lane) / (double)alpha;
    }
    if (dx && use->weights) nbi_pass_all(g, dx, n);
    else if (dx) nbi_pass_inside(low, top, x, g, dx, n);
}

const nbi_scheme nbi_scheme_apot = {
    .name = "apot",
    .letter = "",
    .title = "sums of powers of two, clip learned by gradient",
    .source = "Li et al. 2020; yhhhli/APoT_Quantization; mean 0 ours",
    .formula = "nearest of ±(α·σ/D)·c, c = 0 1 2 4 (D = 4), 0 1 2 3 4 6 8 10 (D = 10), … ; α learned",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_REFIT | NBI_SCHEME_LEARNED |
             NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE |
             NBI_SCHEME_FIXED_LEVELS,
    .min_bits = 2,
    .max_bits = 5,
    .max_bits_activations = 4,
    .deploy_weights = 5,
    .deploy_activations = 4,
    .n_learned = 1,
    .n_params = n_params,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
