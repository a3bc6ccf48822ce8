/* AutoQNN's B (rule as in its authors' code): alpha·sign(x), alpha = E|x|; sign(0) = +1 (ours). */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_binary;

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    (void)use;
    nbi_stats_of(x, n, &s);
    params[0] = nbi_positive(s.magnitude);
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_half h = nbi_half_of(params[0], 1);
    (void)use;
    nbi_half_forward(&h, x, y, n);
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_half h = nbi_half_of(params[0], 1);
    (void)use;
    nbi_half_encode(&h, x, code, n);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_half h = nbi_half_of(params[0], 1);
    (void)use;
    nbi_half_grid(&h, out);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits && !use->exact_bits)
        *dbits += nbi_scheme_default_dbits(&nbi_scheme_binary, use, params, x, g, n);
    if (dx) nbi_pass_all(g, dx, n);
}

const nbi_scheme nbi_scheme_binary = {
    .name = "binary",
    .letter = "B",
    .title = "two levels",
    .source = "AutoQNN, authors' code; sign(0) = +1 ours",
    .formula = "α·sign(x), α = E|x|",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS,
    .min_bits = 1,
    .max_bits = 1,
    .deploy_weights = 1,
    .deploy_activations = 1,
    .n_params = nbi_params_one,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
