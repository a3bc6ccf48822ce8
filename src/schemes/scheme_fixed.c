/* AutoQNN's F (rule as in its authors' code): fixed point, the step a power of two from max|x|. The
 * clip and the unsigned form are ours, and so is one bit: ±E|x|, rounded to a power of two. */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_fixed;

static bool is_sign(const nbi_scheme_use *use) {
    return use->bits == 1 && !use->is_unsigned;
}

/* params {M = max|x|, E|x|}; 2^(floor(log2 M) − (b − 2)), one less for unsigned. */
static nbi_steps steps(const nbi_scheme_use *use, const float *params) {
    int e;
    frexpf(nbi_positive((double)params[0]), &e); /* M in [2^(e−1), 2^e) */
    e -= use->is_unsigned ? use->bits : use->bits - 1;
    return nbi_steps_of(ldexpf(1, e), use->bits, use->is_unsigned);
}

static nbi_half sign_of(const float *params) {
    float e = rintf(log2f(nbi_positive((double)params[1])));
    return nbi_half_of(ldexpf(1, (int)nbi_clip(e, -99, 126)), 1);
}

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    (void)use;
    nbi_stats_of(x, n, &s);
    params[0] = nbi_positive((double)s.top);
    params[1] = nbi_positive(s.magnitude);
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_steps s = steps(use, params);
    nbi_half h = sign_of(params);
    if (is_sign(use)) nbi_half_forward(&h, x, y, n);
    else nbi_steps_forward(&s, x, y, n);
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_steps s = steps(use, params);
    nbi_half h = sign_of(params);
    if (is_sign(use)) nbi_half_encode(&h, x, code, n);
    else nbi_steps_encode(&s, x, code, n);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = steps(use, params);
    nbi_half h = sign_of(params);
    if (is_sign(use)) nbi_half_grid(&h, out);
    else nbi_steps_grid(&s, out);
}

/* In range ln2·(x − x̂); clipped high ln2·2^e; clipped low 0 (docs/schemes.md). */
static double exact_dbits(const nbi_steps *s, const float *x, const float *g, size_t n) {
    float y[NBI_BLOCK], low = ((float)s->lo - 0.5f) * s->scale;
    float high = ((float)s->hi + 0.5f) * s->scale;
    double lane[NBI_LANES] = {0};
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        nbi_steps_forward(s, x + i, y, count);
        for (size_t k = 0; k < count; k++) {
            float v = x[i + k];
            float d = v > high ? s->scale : v < low ? 0 : v - y[k];
            lane[k % NBI_LANES] += (double)g[i + k] * (double)d;
        }
    }
    return NBI_LN2 * nbi_lane_sum(lane);
}

/* Straight through where the unclipped code is in range: half a step beyond the ends. */
static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    nbi_steps s = steps(use, params);
    (void)n_group, (void)dparams;
    if (dbits && use->exact_bits && !is_sign(use)) *dbits += exact_dbits(&s, x, g, n);
    else if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_fixed, use, params, x, g, n);
    if (!dx) return;
    if (is_sign(use))
        nbi_pass_all(g, dx, n);
    else
        nbi_pass_inside(((float)s.lo - 0.5f) * s.scale, ((float)s.hi + 0.5f) * s.scale, x, g, dx,
                        n);
}

const nbi_scheme nbi_scheme_fixed = {
    .name = "fixed",
    .letter = "F",
    .title = "fixed point: the step is a power of two",
    .source = "AutoQNN, authors' code; clip, unsigned and 1 bit ours",
    .formula = "2^e·clip(round(x/2^e), −2^(b−1), 2^(b−1)−1), e = ⌊log2 max|x|⌋ − (b−2)",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_ZERO | NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT |
             NBI_SCHEME_MONOTONE | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 8,
    .deploy_activations = 8,
    .decay = 0.99f,
    .n_params = nbi_params_two,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
