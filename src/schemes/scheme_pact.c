/* PACT (Choi et al., 2018; rule as in mit-han-lab/haq): a clip learned by gradient. An L2 penalty on
 * it is the optimizer's weight decay. Signed inputs: ±alpha with b−1 bits of magnitude. */
#include "schemes/scheme_util.h"

#include <float.h>

extern const nbi_scheme nbi_scheme_pact;

static nbi_steps steps(const nbi_scheme_use *use, const float *params) {
    nbi_steps s = nbi_steps_of(1, use->bits, use->is_unsigned);
    if (!use->is_unsigned) s.lo = -s.hi;
    s.scale = nbi_guarded(nbi_guarded(params[0]) / (float)s.hi);
    return s;
}

/* params {alpha}: min(6, max|x|), below 5 bits lowered to the threshold of least divergence. */
static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_hist_room room;
    nbi_hist hist;
    nbi_qparam q;
    double sqnr, alpha = 6;
    nbi_hist_of(x, n, &room, &hist);
    alpha = fmin(alpha, fmax(hist.max, -hist.min));
    if (use->bits < 5 && hist.width > 0) {
        if (use->is_unsigned)
            nbi_fit_activation(&hist, true, use->bits, NBI_RANGE_KL, &q, &sqnr);
        else
            nbi_fit_narrow(&hist, use->bits, NBI_RANGE_KL, &q, &sqnr);
        alpha = fmin(alpha, q.scale * q.hi);
    }
    params[0] = nbi_positive(alpha);
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

/* dx = G inside, borders excluded; dalpha = Σ G beyond the clip. */
static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    float alpha = nbi_guarded(params[0]), low = use->is_unsigned ? 0 : -alpha;
    (void)n_group;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_pact, use, params, x, g, n);
    if (dparams) {
        double below, above;
        nbi_sum_outside(-alpha, alpha, x, g, n, &below, &above);
        dparams[0] += use->is_unsigned ? above : above - below;
    }
    if (dx) nbi_pass_inside(nextafterf(low, FLT_MAX), nextafterf(alpha, 0), x, g, dx, n);
}

const nbi_scheme nbi_scheme_pact = {
    .name = "pact",
    .letter = "",
    .title = "uniform, clip learned by gradient",
    .source = "Choi et al. 2018; mit-han-lab/haq",
    .formula = "s·round(clip(x, 0, α)/s), s = α/(2^b−1); α learned",
    .flags = NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_LEARNED | NBI_SCHEME_IDEMPOTENT |
             NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS,
    .min_bits = 2,
    .max_bits = 8,
    .deploy_activations = 8,
    .n_learned = 1,
    .n_params = nbi_params_one,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
