/* DoReFa (Zhou et al., 2016; rule as in any-precision's quan_ops): weights through tanh onto a fixed
 * grid in [−1, 1], activations clipped to [0, 1]. */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_dorefa;

static int n_params(const nbi_scheme_use *use) {
    return use->weights ? 2 : 1;
}

/* Weights: {max|tanh x|, E|x|}. Activations: {1}, the fixed clip. */
static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    params[0] = 1;
    if (!use->weights) return;
    nbi_stats_of(x, n, &s);
    params[0] = nbi_positive(tanh((double)s.top));
    params[1] = nbi_positive(s.magnitude);
}

/* The grid (2k − top)/top of tanh(x)/m: round(top·(r/2 + ½)) is floor(r·top/2 + (top + 1)/2). */
static nbi_half odd(const nbi_scheme_use *use, const float *params) {
    int top = (1 << use->bits) - 1;
    if (use->bits == 1) return nbi_half_of(params[1], 1);
    return (nbi_half){1.0f / (float)top, 2.0f / (float)top, 0, top, -top - 1};
}

static nbi_steps unit(const nbi_scheme_use *use) {
    int top = (1 << use->bits) - 1;
    return (nbi_steps){1.0f / (float)top, 0, top};
}

static void squash(const nbi_scheme_use *use, const float *params, const float *x, float *t,
                   size_t n) {
    float m = nbi_guarded(params[0]);
    for (size_t i = 0; i < n; i++) t[i] = use->bits == 1 ? x[i] : tanhf(x[i]) / m;
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    if (use->weights) {
        nbi_half h = odd(use, params);
        squash(use, params, x, y, n);
        nbi_half_forward(&h, y, y, n);
    } else {
        nbi_steps s = unit(use);
        nbi_steps_forward(&s, x, y, n);
    }
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_half h = odd(use, params);
    nbi_steps s = unit(use);
    float t[NBI_BLOCK];
    if (!use->weights) nbi_steps_encode(&s, x, code, n);
    for (size_t i = 0; use->weights && i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        squash(use, params, x + i, t, count);
        nbi_half_encode(&h, t, code + i, count);
    }
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    nbi_steps s = unit(use);
    if (!use->weights) {
        nbi_steps_grid(&s, out);
        return;
    }
    nbi_half h = odd(use, params);
    nbi_half_grid(&h, out);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_dorefa, use, params, x, g, n);
    if (!dx) return;
    if (!use->weights) {
        nbi_pass_inside(0, 1, x, g, dx, n);
    } else if (use->bits == 1) {
        nbi_pass_all(g, dx, n);
    } else {
        float m = nbi_guarded(params[0]);
        for (size_t i = 0; i < n; i++) {
            float t = tanhf(x[i]);
            dx[i] = g[i] * (1 - t * t) / m;
        }
    }
}

const nbi_scheme nbi_scheme_dorefa = {
    .name = "dorefa",
    .letter = "",
    .title = "weights through tanh onto a fixed grid in [−1, 1]",
    .source = "Zhou et al. 2016; any-precision quan_ops",
    .formula = "weights 2q(tanh(x)/(2m) + ½) − 1, m = max|tanh(x)|; activations q(clip(x, 0, 1)); "
               "q(r) = round((2^b−1)·r)/(2^b−1)",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_REFIT | NBI_SCHEME_UNIFORM |
             NBI_SCHEME_FIXED_LEVELS | NBI_SCHEME_STEPS |
             NBI_SCHEME_RESCALES,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 7,
    .deploy_activations = 8,
    .n_params = n_params,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
