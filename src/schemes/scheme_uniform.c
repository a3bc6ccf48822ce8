/* Uniform grids with constant scales, as post-training quantization has them: the functions of
 * range.h, so that scales and levels are the same. Straight-through inside the range. */
#include "schemes/scheme_util.h"

/* dx = g between the outermost levels. */
static void pass(const nbi_steps *s, const float *x, const float *g, float *dx, size_t n) {
    if (dx) nbi_pass_inside(s->scale * (float)s->lo, s->scale * (float)s->hi, x, g, dx, n);
}

/* ---- uniform: full range; 1-bit weights are ±E|w| -------------------------------------------- */

extern const nbi_scheme nbi_scheme_uniform;

static bool is_sign(const nbi_scheme_use *use) {
    return use->weights && !use->is_unsigned && use->bits == 1;
}

static void uniform_fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    bool direct = use->weights && !use->is_unsigned;
    if (direct && (use->range == NBI_RANGE_MSE || use->bits == 1)) {
        params[0] = nbi_fit_scale(x, n, 1, use->bits);
        return;
    }
    nbi_hist_room room;
    nbi_hist hist;
    nbi_qparam q;
    double sqnr;
    nbi_hist_of(x, n, &room, &hist);
    nbi_fit_activation(&hist, use->is_unsigned, use->bits, use->range, &q, &sqnr);
    params[0] = (float)q.scale;
}

static void uniform_forward(const nbi_scheme_use *use, const float *params, const float *x,
                            float *y, size_t n) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    nbi_half h = nbi_half_of(params[0], 1);
    if (is_sign(use)) nbi_half_forward(&h, x, y, n);
    else nbi_steps_forward(&s, x, y, n);
}

static void uniform_encode(const nbi_scheme_use *use, const float *params, const float *x,
                           uint8_t *code, size_t n) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    nbi_half h = nbi_half_of(params[0], 1);
    if (is_sign(use)) nbi_half_encode(&h, x, code, n);
    else nbi_steps_encode(&s, x, code, n);
}

static void uniform_grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    nbi_half h = nbi_half_of(params[0], 1);
    if (is_sign(use)) nbi_half_grid(&h, out);
    else nbi_steps_grid(&s, out);
}

static void uniform_backward(const nbi_scheme_use *use, const float *params, const float *x,
                             const float *g, size_t n, size_t n_group, float *dx, double *dparams,
                             double *dbits) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    (void)n_group, (void)dparams;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_uniform, use, params, x, g, n);
    if (!is_sign(use)) pass(&s, x, g, dx, n);
    else if (dx) nbi_pass_all(g, dx, n);
}

const nbi_scheme nbi_scheme_uniform = {
    .name = "uniform",
    .letter = "",
    .title = "uniform, constant scale of least squared error",
    .source = "common",
    .formula = "s·clip(round(x/s), −2^(b−1), 2^(b−1)−1), or 0 … 2^b−1; 1-bit weights E|x|·sign(x)",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE |
             NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 8,
    .deploy_activations = 8,
    .n_params = nbi_params_one,
    .fit = uniform_fit,
    .forward = uniform_forward,
    .encode = uniform_encode,
    .grid = uniform_grid,
    .backward = uniform_backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};

/* ---- symmetric: ±(2^(b−1)−1) ----------------------------------------------------------------- */

extern const nbi_scheme nbi_scheme_symmetric;

static nbi_steps narrow(const nbi_scheme_use *use, const float *params) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, false);
    s.lo = -s.hi;
    return s;
}

static void symmetric_fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_hist_room room;
    nbi_hist hist;
    nbi_qparam q;
    double sqnr;
    nbi_hist_of(x, n, &room, &hist);
    nbi_fit_narrow(&hist, use->bits, use->range, &q, &sqnr);
    params[0] = (float)q.scale;
}

static void symmetric_forward(const nbi_scheme_use *use, const float *params, const float *x,
                              float *y, size_t n) {
    nbi_steps s = narrow(use, params);
    nbi_steps_forward(&s, x, y, n);
}

static void symmetric_encode(const nbi_scheme_use *use, const float *params, const float *x,
                             uint8_t *code, size_t n) {
    nbi_steps s = narrow(use, params);
    nbi_steps_encode(&s, x, code, n);
}

static void symmetric_grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = narrow(use, params);
    nbi_steps_grid(&s, out);
}

static void symmetric_backward(const nbi_scheme_use *use, const float *params, const float *x,
                               const float *g, size_t n, size_t n_group, float *dx, double *dparams,
                               double *dbits) {
    nbi_steps s = narrow(use, params);
    (void)n_group, (void)dparams;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_symmetric, use, params, x, g, n);
    pass(&s, x, g, dx, n);
}

const nbi_scheme nbi_scheme_symmetric = {
    .name = "symmetric",
    .letter = "",
    .title = "uniform, narrow range: as many levels below 0 as above",
    .source = "common",
    .formula = "s·clip(round(x/s), ±(2^(b−1)−1))",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_ZERO | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS,
    .min_bits = 2,
    .max_bits = 8,
    .deploy_weights = 8,
    .deploy_activations = 8,
    .n_params = nbi_params_one,
    .fit = symmetric_fit,
    .forward = symmetric_forward,
    .encode = symmetric_encode,
    .grid = symmetric_grid,
    .backward = symmetric_backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};

/* ---- affine: params {scale, zero point} ------------------------------------------------------ */

extern const nbi_scheme nbi_scheme_affine;

/* k − z of the codes k = 0 … 2^b−1. */
static nbi_steps shifted(const nbi_scheme_use *use, const float *params) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, true);
    int z = nbi_level_of(params[1], 1, 0, s.hi);
    s.lo -= z;
    s.hi -= z;
    return s;
}

static void affine_fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_hist_room room;
    nbi_hist hist;
    nbi_qparam q;
    double sqnr;
    nbi_hist_of(x, n, &room, &hist);
    nbi_fit_affine(&hist, use->bits, use->range, &q, &sqnr);
    params[0] = (float)q.scale;
    params[1] = (float)q.zero;
}

static void affine_forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                           size_t n) {
    nbi_steps s = shifted(use, params);
    nbi_steps_forward(&s, x, y, n);
}

static void affine_encode(const nbi_scheme_use *use, const float *params, const float *x,
                          uint8_t *code, size_t n) {
    nbi_steps s = shifted(use, params);
    nbi_steps_encode(&s, x, code, n);
}

static void affine_grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = shifted(use, params);
    nbi_steps_grid(&s, out);
}

static void affine_backward(const nbi_scheme_use *use, const float *params, const float *x,
                            const float *g, size_t n, size_t n_group, float *dx, double *dparams,
                            double *dbits) {
    nbi_steps s = shifted(use, params);
    (void)n_group, (void)dparams;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_affine, use, params, x, g, n);
    pass(&s, x, g, dx, n);
}

static int affine_param_bits(const nbi_scheme_use *use) {
    return 32 + use->bits;
}

/* A byte holds k as a weight only where k − z does: weights deploy to 7 bits. */
const nbi_scheme nbi_scheme_affine = {
    .name = "affine",
    .letter = "",
    .title = "uniform with a zero point",
    .source = "common",
    .formula = "s·(clip(round(x/s)+z, 0, 2^b−1) − z)",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE |
             NBI_SCHEME_UNIFORM |
             NBI_SCHEME_STEPS,
    .min_bits = 2,
    .max_bits = 8,
    .deploy_weights = 7,
    .deploy_activations = 8,
    .n_params = nbi_params_two,
    .fit = affine_fit,
    .forward = affine_forward,
    .encode = affine_encode,
    .grid = affine_grid,
    .backward = affine_backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = affine_param_bits};
