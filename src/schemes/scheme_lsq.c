/* Learned step size (LSQ, Esser et al., ICLR 2020; rule as in LIMPQ's lsq.py), and LSQ+ (Bhalgat et
 * al., 2020) for activations, whose offset is rounded to whole steps: then it is a zero point, and
 * the grid is exact in integers. */
#include "schemes/scheme_util.h"

/* The gradient of a step is scaled by 1/√(n·Qp). */
static double gradient_scale(size_t n_group, int top) {
    return 1.0 / sqrt((double)(n_group ? n_group : 1) * (top > 0 ? top : 1));
}

/* ---- LSQ: params {s} ------------------------------------------------------------------------- */

extern const nbi_scheme nbi_scheme_lsq;

/* Weights of one bit are ±s (ours): two's complement would leave −s and 0. */
static bool is_sign(const nbi_scheme_use *use) {
    return use->weights && !use->is_unsigned && use->bits == 1;
}

static void lsq_fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_steps s = nbi_steps_of(1, use->bits, use->is_unsigned);
    nbi_stats stats;
    nbi_stats_of(x, n, &stats);
    double top = s.hi > 0 ? s.hi : 1;
    params[0] = nbi_positive(is_sign(use) ? stats.magnitude : 2 * stats.magnitude / sqrt(top));
}

static void lsq_forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                        size_t n) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    nbi_half h = nbi_half_of(params[0], 1);
    if (is_sign(use)) nbi_half_forward(&h, x, y, n);
    else nbi_steps_forward(&s, x, y, n);
}

static void lsq_encode(const nbi_scheme_use *use, const float *params, const float *x,
                       uint8_t *code, size_t n) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    nbi_half h = nbi_half_of(params[0], 1);
    if (is_sign(use)) nbi_half_encode(&h, x, code, n);
    else nbi_steps_encode(&s, x, code, n);
}

static void lsq_grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    nbi_half h = nbi_half_of(params[0], 1);
    if (is_sign(use)) nbi_half_grid(&h, out);
    else nbi_steps_grid(&s, out);
}

/* s·sign(x) is linear in s: its slope is the sign. */
static double sign_sum(const float *x, const float *g, size_t n) {
    double lane[NBI_LANES] = {0};
    for (size_t i = 0; i < n; i++) lane[i % NBI_LANES] += (double)(x[i] < 0 ? -g[i] : g[i]);
    return nbi_lane_sum(lane);
}

static void lsq_backward(const nbi_scheme_use *use, const float *params, const float *x,
                         const float *g, size_t n, size_t n_group, float *dx, double *dparams,
                         double *dbits) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, use->is_unsigned);
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_lsq, use, params, x, g, n);
    if (dparams)
        dparams[0] += gradient_scale(n_group, s.hi) *
                      (is_sign(use) ? sign_sum(x, g, n) : nbi_steps_dscale(&s, x, g, n));
    if (dx && is_sign(use)) nbi_pass_all(g, dx, n);
    else if (dx) nbi_pass_inside(s.scale * (float)s.lo, s.scale * (float)s.hi, x, g, dx, n);
}

const nbi_scheme nbi_scheme_lsq = {
    .name = "lsq",
    .letter = "",
    .title = "uniform, step learned by gradient",
    .source = "Esser et al. 2020; LIMPQ lsq.py; 1 bit ours",
    .formula = "s·round(clip(x/s, −2^(b−1), 2^(b−1)−1)), or 0 … 2^b−1; 1-bit weights s·sign(x); "
               "s learned",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_LEARNED | NBI_SCHEME_IDEMPOTENT |
             NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 8,
    .deploy_activations = 8,
    .n_learned = 1,
    .n_params = nbi_params_one,
    .fit = lsq_fit,
    .forward = lsq_forward,
    .encode = lsq_encode,
    .grid = lsq_grid,
    .backward = lsq_backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};

/* ---- LSQ+: params {s, o} --------------------------------------------------------------------- */

extern const nbi_scheme nbi_scheme_lsqplus;

/* Steps lo = round(o/s) … lo + 2^b−1, kept around 0 so that 0 is a level. */
static nbi_steps offset_steps(const nbi_scheme_use *use, const float *params) {
    nbi_steps s = nbi_steps_of(params[0], use->bits, true);
    int down = nbi_level_of(params[1], s.scale, -s.hi, 0);
    s.hi += down;
    s.lo = down;
    return s;
}

static void lsqplus_fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_hist_room room;
    nbi_hist hist;
    nbi_qparam q;
    double sqnr;
    nbi_hist_of(x, n, &room, &hist);
    nbi_fit_affine(&hist, use->bits, NBI_RANGE_MSE, &q, &sqnr);
    params[0] = (float)q.scale;
    params[1] = -(float)q.scale * (float)q.zero;
}

static void lsqplus_forward(const nbi_scheme_use *use, const float *params, const float *x,
                            float *y, size_t n) {
    nbi_steps s = offset_steps(use, params);
    nbi_steps_forward(&s, x, y, n);
}

static void lsqplus_encode(const nbi_scheme_use *use, const float *params, const float *x,
                           uint8_t *code, size_t n) {
    nbi_steps s = offset_steps(use, params);
    nbi_steps_encode(&s, x, code, n);
}

static void lsqplus_grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = offset_steps(use, params);
    nbi_steps_grid(&s, out);
}

/* Σ g over x < lo and x > hi. */
static double sum_beyond(float lo, float hi, const float *x, const float *g, size_t n) {
    double lane[NBI_LANES] = {0};
    float v[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) {
            float a = g[i + k];
            v[k] = x[i + k] == nbi_clip(x[i + k], lo, hi) ? 0.0f : a;
        }
        nbi_lanes_add(lane, v, count);
    }
    return nbi_lane_sum(lane);
}

/* Outside, x̂ = s·(bound + r) + o with the rounding residual r of o/s kept: one unit of o moves it by
 * one, and o/s·s does not depend on s. A bound that 0 holds in place moves with s alone. */
static void lsqplus_backward(const nbi_scheme_use *use, const float *params, const float *x,
                             const float *g, size_t n, size_t n_group, float *dx, double *dparams,
                             double *dbits) {
    nbi_steps s = offset_steps(use, params);
    float lo = s.scale * (float)s.lo, hi = s.scale * (float)s.hi, v = params[1] / s.scale;
    bool held = !(v <= 0.5f && v >= -(float)(s.hi - s.lo) - 0.5f);
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_lsqplus, use, params, x, g, n);
    if (dparams) {
        double outside = held ? 0 : sum_beyond(lo, hi, x, g, n);
        double scale = gradient_scale(n_group, s.hi - s.lo);
        dparams[0] += scale * (nbi_steps_dscale(&s, x, g, n) - (double)v * outside);
        dparams[1] += scale * outside;
    }
    if (dx) nbi_pass_inside(lo, hi, x, g, dx, n);
}

static int lsqplus_param_bits(const nbi_scheme_use *use) {
    return 32 + use->bits;
}

const nbi_scheme nbi_scheme_lsqplus = {
    .name = "lsqplus",
    .letter = "",
    .title = "uniform, step and offset learned by gradient",
    .source = "Bhalgat et al. 2020; offset in whole steps ours",
    .formula = "s·clip(round(x/s), z', z'+2^b−1), z' = round(o/s); s and o learned",
    .flags = NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_LEARNED | NBI_SCHEME_IDEMPOTENT |
             NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_STEPS,
    .min_bits = 2,
    .max_bits = 8,
    .deploy_activations = 8,
    .n_learned = 2,
    .n_params = nbi_params_two,
    .fit = lsqplus_fit,
    .forward = lsqplus_forward,
    .encode = lsqplus_encode,
    .grid = lsqplus_grid,
    .backward = lsqplus_backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = lsqplus_param_bits};
