/* AutoQNN's P (levels as in its authors' code): powers of two times alpha, and one half; here the
 * nearest level instead of a rounded logarithm, and the alpha that suits it (ours). */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_pot;

/* Best for a normal distribution. At 4 bits a second optimum is almost as good, and better for some
 * tensors: weights take the better of the two. */
static const double lambda[5] = {0, 1.595769, 0.753863, 0.275877, 0.032787};
#define SECOND_LAMBDA 0.0654

/* params {sigma, 1 for the second optimum}. Levels in units of alpha/2. */
static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    double l = use->bits == 4 && params[1] > 0.5f ? SECOND_LAMBDA : lambda[use->bits];
    int half = 1 << (use->bits - 1);
    out->n = 2 * half;
    out->scale = nbi_guarded(nbi_positive((l * (double)nbi_guarded(params[0]) + 1e-7) / 2));
    for (int t = 0; t < half; t++) {
        int c = t ? 2 << t : 1;
        out->level[half + t] = (int16_t)c;
        out->level[half - 1 - t] = (int16_t)-c;
    }
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

static double error_of(const nbi_scheme_use *use, const float *params, const float *x, size_t n) {
    float y[NBI_BLOCK];
    double sum = 0;
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        double lane[NBI_LANES] = {0};
        forward(use, params, x + i, y, count);
        for (size_t k = 0; k < count; k++) {
            double e = (double)x[i + k] - (double)y[k];
            lane[k % NBI_LANES] += e * e;
        }
        sum += nbi_lane_sum(lane);
    }
    return sum;
}

/* An average over batches must not mix the two optima: activations keep the first. */
static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    nbi_stats s;
    nbi_stats_of(x, n, &s);
    params[0] = nbi_positive(s.deviation);
    params[1] = 0;
    if (!use->weights || use->bits != 4) return;
    float second[2] = {params[0], 1};
    if (error_of(use, second, x, n) < error_of(use, params, x, n)) params[1] = 1;
}

/* Q_(b+1)(x) − Q_b(x) below 4 bits (docs/schemes.md). */
static double exact_dbits(const nbi_scheme_use *use, const float *params, const float *x,
                          const float *g, size_t n) {
    nbi_scheme_use wider = *use;
    float y[NBI_BLOCK], z[NBI_BLOCK];
    double lane[NBI_LANES] = {0};
    wider.bits++;
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        forward(use, params, x + i, y, count);
        forward(&wider, params, x + i, z, count);
        for (size_t k = 0; k < count; k++)
            lane[k % NBI_LANES] += (double)g[i + k] * (double)(z[k] - y[k]);
    }
    return nbi_lane_sum(lane);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits && use->exact_bits && use->bits < 4) *dbits += exact_dbits(use, params, x, g, n);
    else if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_pot, use, params, x, g, n);
    if (dx) nbi_pass_all(g, dx, n);
}

const nbi_scheme nbi_scheme_pot = {
    .name = "pot",
    .letter = "P",
    .title = "powers of two",
    .source = "AutoQNN, authors' code; nearest level and λ ours",
    .formula = "nearest of ±(a/2)·{1, 4, 8, … 2^(2^(b−1))}, a = λ(b)·σ",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_REFIT | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE |
             NBI_SCHEME_FIXED_LEVELS,
    .min_bits = 1,
    .max_bits = 4,
    .deploy_weights = 3,
    .deploy_activations = 3,
    .n_params = nbi_params_two,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = nbi_bits_of_scale};
