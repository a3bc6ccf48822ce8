/* Unsigned uniform grid for values ≥ 0 (ours): s = u(b)·RMS(x) is the step of least squared error
 * for a rectified normal. */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_unsigned;

/* params {RMS(x)}, zeros included: holds for every width. */
static nbi_steps steps(const nbi_scheme_use *use, const float *params) {
    static const float u[9] = {0,        1.73101f, 0.92033f, 0.49980f, 0.27330f,
                               0.14918f, 0.08098f, 0.04366f, 0.02337f};
    return nbi_steps_of(u[use->bits] * params[0], use->bits, true);
}

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    (void)use;
    nbi_stats_of(x, n, &s);
    params[0] = nbi_positive(s.rms);
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_steps s = steps(use, params);
    nbi_steps_forward(&s, x, y, n);
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_steps s = steps(use, params);
    nbi_steps_encode(&s, x, code, n);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = steps(use, params);
    nbi_steps_grid(&s, out);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    nbi_steps s = steps(use, params);
    (void)n_group, (void)dparams;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_unsigned, use, params, x, g, n);
    if (dx) nbi_pass_inside(0, s.scale * (float)s.hi, x, g, dx, n);
}

const nbi_scheme nbi_scheme_unsigned = {
    .name = "unsigned",
    .letter = "",
    .title = "uniform from 0 up, for values that cannot be negative",
    .source = "ours",
    .formula = "s·clip(round(x/s), 0, 2^b−1), s = u(b)·RMS(x)",
    .flags = NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_UNSIGNED | NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO |
             NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_activations = 8,
    .n_params = nbi_params_one,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
