/* AutoQNN's Q, taken as VecQ's form at two bits (ours): cells of width L = lambda(2)·sigma, and the
 * least-squares alpha for the levels ±½, ±1½ that they give. */
#include "schemes/scheme_util.h"

#define LAMBDA 0.9957f

extern const nbi_scheme nbi_scheme_quaternary;

static nbi_half halves(const float *params) {
    nbi_half h = nbi_half_of(0.5f * nbi_guarded(params[0]), 2);
    h.cell = nbi_guarded(params[1]);
    return h;
}

/* params {alpha, L} */
static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    double xv[NBI_LANES] = {0}, vv[NBI_LANES] = {0};
    float v[NBI_BLOCK];
    (void)use;
    nbi_stats_of(x, n, &s);
    params[1] = nbi_positive((double)LAMBDA * s.deviation);
    nbi_half h = {0.5f, params[1], -2, 1, 0};
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        nbi_half_forward(&h, x + i, v, count);
        for (size_t k = 0; k < count; k++) {
            xv[k % NBI_LANES] += (double)x[i + k] * (double)v[k];
            vv[k % NBI_LANES] += (double)v[k] * (double)v[k];
        }
    }
    params[0] = nbi_positive(n ? nbi_lane_sum(xv) / nbi_lane_sum(vv) : 0);
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_half h = halves(params);
    (void)use;
    nbi_half_forward(&h, x, y, n);
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_half h = halves(params);
    (void)use;
    nbi_half_encode(&h, x, code, n);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_half h = halves(params);
    (void)use;
    nbi_half_grid(&h, out);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits && !use->exact_bits)
        *dbits += nbi_scheme_default_dbits(&nbi_scheme_quaternary, use, params, x, g, n);
    if (dx) nbi_pass_all(g, dx, n);
}

/* Not idempotent on every tensor: where outliers make alpha and L differ much, a level may lie in a
 * neighbour's cell. */
const nbi_scheme nbi_scheme_quaternary = {
    .name = "quaternary",
    .letter = "Q",
    .title = "four levels without 0",
    .source = "VecQ, authors' code, at 2 bits (ours)",
    .formula = "(α/2)·(2k+1), k = clip(round(x/L − ½), −2, 1), L = 0.9957·σ; α = ⟨x,v⟩/⟨v,v⟩",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_REFIT | NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
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
