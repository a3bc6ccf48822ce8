/* AutoQNN's R (rule as in its authors' code): b signs, each of what the ones before left over, with
 * a_i = E|residual|, stored before the residual changes. x̂ is the sum ±a_1 ±a_2 …, rounded to an
 * 8-bit table (ours), which a second pass with the stored a_i replays bit for bit. */
#include "schemes/scheme_util.h"

extern const nbi_scheme nbi_scheme_residual;

/* {a_1 … a_b, a_(b+1)}; the last one serves the gradient of the width only. */
static int n_params(const nbi_scheme_use *use) {
    return use->bits + 1;
}

/* r ← the residual after `steps` signs; pattern (or NULL): bit steps−1−i is set where sign i is +. */
static void replay(const float *params, int steps, const float *x, float *r, uint8_t *pattern,
                   size_t n) {
    for (size_t k = 0; k < n; k++) r[k] = x[k];
    for (size_t k = 0; pattern && k < n; k++) pattern[k] = 0;
    for (int i = 0; i < steps; i++) {
        const float a = params[i];
        if (pattern)
            for (size_t k = 0; k < n; k++)
                pattern[k] = (uint8_t)(2 * pattern[k] + (r[k] >= 0 ? 1 : 0));
        for (size_t k = 0; k < n; k++) r[k] -= r[k] >= 0 ? a : -a;
    }
}

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    float r[NBI_BLOCK];
    for (int i = 0; i < n_params(use); i++) {
        double sum = 0;
        for (size_t at = 0; at < n; at += NBI_BLOCK) {
            size_t count = n - at < NBI_BLOCK ? n - at : NBI_BLOCK;
            double lane[NBI_LANES] = {0};
            replay(params, i, x + at, r, NULL, count);
            for (size_t k = 0; k < count; k++) lane[k % NBI_LANES] += fabs((double)r[k]);
            sum += nbi_lane_sum(lane);
        }
        params[i] = nbi_positive(n ? sum / (double)n : 0);
    }
}

/* Sorts the 2^b sums; rank[pattern] is the code. */
static void sorted(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out,
                   uint8_t rank[256]) {
    float top = 0, key[256];
    int pattern[256];
    out->n = 1 << use->bits;
    for (int i = 0; i < use->bits; i++) top += fabsf(params[i]);
    out->scale = nbi_guarded(top / 127);
    for (int p = 0; p < out->n; p++) {
        float sum = 0;
        int at = p;
        for (int i = 0; i < use->bits; i++)
            sum += p >> (use->bits - 1 - i) & 1 ? params[i] : -params[i];
        for (; at > 0 && key[at - 1] > sum; at--) {
            key[at] = key[at - 1];
            pattern[at] = pattern[at - 1];
        }
        key[at] = sum;
        pattern[at] = p;
    }
    for (int c = 0; c < out->n; c++) {
        out->level[c] = (int16_t)nbi_level_of(key[c], out->scale, -127, 127);
        rank[pattern[c]] = (uint8_t)c;
    }
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    uint8_t rank[256];
    sorted(use, params, out, rank);
}

static void forward(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n) {
    nbi_scheme_grid t;
    uint8_t rank[256], pattern[NBI_BLOCK];
    float r[NBI_BLOCK];
    sorted(use, params, &t, rank);
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        replay(params, use->bits, x + i, r, pattern, count);
        for (size_t k = 0; k < count; k++)
            y[i + k] = t.scale * (float)t.level[rank[pattern[k]]] + nbi_nan_of(x[i + k]);
    }
}

static void encode(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n) {
    nbi_scheme_grid t;
    uint8_t rank[256], pattern[NBI_BLOCK];
    float r[NBI_BLOCK];
    sorted(use, params, &t, rank);
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        replay(params, use->bits, x + i, r, pattern, count);
        for (size_t k = 0; k < count; k++) code[i + k] = rank[pattern[k]];
    }
}

/* One more bit would add a_(b+1)·sign(x − x̂) (docs/schemes.md). */
static double exact_dbits(const nbi_scheme_use *use, const float *params, const float *x,
                          const float *g, size_t n) {
    float y[NBI_BLOCK];
    double lane[NBI_LANES] = {0};
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        forward(use, params, x + i, y, count);
        for (size_t k = 0; k < count; k++)
            lane[k % NBI_LANES] += (double)(x[i + k] >= y[k] ? g[i + k] : -g[i + k]);
    }
    return (double)params[use->bits] * nbi_lane_sum(lane);
}

static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group, (void)dparams;
    if (dbits && use->exact_bits) *dbits += exact_dbits(use, params, x, g, n);
    else if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_residual, use, params, x, g, n);
    if (dx) nbi_pass_all(g, dx, n);
}

static int param_bits(const nbi_scheme_use *use) {
    return 32 * use->bits;
}

const nbi_scheme nbi_scheme_residual = {
    .name = "residual",
    .letter = "R",
    .title = "signs of successive residuals",
    .source = "AutoQNN, authors' code; order of storing and 8-bit table ours",
    .formula = "Σ a[i]·sign(r[i]), r[1] = x, r[i+1] = r[i] − a[i]·sign(r[i]), a[i] = E|r[i]|; "
               "sums rounded to multiples of Σa/127",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_CHANNELS |
             NBI_SCHEME_REFIT,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 8,
    .deploy_activations = 8,
    .n_params = n_params,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = param_bits};
