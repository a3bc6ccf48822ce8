/* Codebook (ours): Lloyd's levels, rounded to 8 bits in training too, so that the integer program
 * computes with exactly those. Lloyd runs on a histogram with the mean of each bin: its cost does
 * not depend on the number of values, and nothing is sorted. */
#include "schemes/scheme_util.h"

#include <string.h>

#define BINS   4096
#define GROUPS 64
#define ROUNDS 2000

extern const nbi_scheme nbi_scheme_codebook;

static int n_params(const nbi_scheme_use *use) {
    return 1 << use->bits;
}

typedef struct bins {
    double sum[BINS], count[BINS];
    double lo, width;
} bins;

static bool fill(bins *b, const float *x, size_t n) {
    nbi_stats s;
    nbi_stats_of(x, n, &s);
    memset(b, 0, sizeof *b);
    if (!n || !isfinite(s.mean)) return false;
    b->lo = (double)s.min;
    b->width = ((double)s.max - b->lo) / BINS;
    for (size_t i = 0; i < n; i++) {
        double at = b->width > 0 ? ((double)x[i] - b->lo) / b->width : 0;
        int k = at < BINS - 1 ? (int)at : BINS - 1;
        b->sum[k] += (double)x[i];
        b->count[k] += 1;
    }
    return true;
}

/* Levels at quantiles of the values, weighted by density^(−2/3): that is the best density of many
 * levels (Panter and Dite), from which Lloyd converges fast. Bins are not split: one that holds many
 * parts gives many equal levels, which Lloyd leaves alone. */
static void start(const bins *b, int levels, double *level) {
    double weight[GROUPS], total = 0, seen = 0;
    int next = 0;
    for (int g = 0; g < GROUPS; g++) {
        double count = 0;
        for (int k = 0; k < BINS / GROUPS; k++) count += b->count[g * (BINS / GROUPS) + k];
        weight[g] = count > 0 ? cbrt(count) / count : 0;
        total += weight[g] * count;
    }
    for (int k = 0; k < BINS; k++) {
        seen += b->count[k] * weight[k / (BINS / GROUPS)];
        while (next < levels && b->count[k] > 0 && seen >= (next + 0.5) * total / levels)
            level[next++] = b->sum[k] / b->count[k];
    }
    for (; next < levels; next++) level[next] = next ? level[next - 1] : 0;
}

/* One step of Lloyd: levels become the means of their cells. Returns the gain in Σ (x − level)²:
 * moving a level from l to the mean m of its c values saves c·(l − m)². */
static double improve(const bins *b, int levels, double *level) {
    double gain = 0;
    int k = 0;
    for (int j = 0; j < levels; j++) {
        double cut = j + 1 < levels ? 0.5 * (level[j] + level[j + 1]) : INFINITY;
        double sum = 0, count = 0;
        for (; k < BINS; k++) {
            if (!(b->count[k] > 0)) continue;
            if (b->sum[k] >= cut * b->count[k]) break;
            sum += b->sum[k];
            count += b->count[k];
        }
        if (!(count > 0)) continue;
        gain += count * (level[j] - sum / count) * (level[j] - sum / count);
        level[j] = sum / count;
    }
    return gain;
}

static double error_of(const bins *b, int levels, const double *level) {
    double error = 0;
    for (int k = 0, j = 0; k < BINS; k++) {
        if (!(b->count[k] > 0)) continue;
        double x = b->sum[k] / b->count[k];
        while (j + 1 < levels && fabs(level[j + 1] - x) <= fabs(level[j] - x)) j++;
        error += b->count[k] * (x - level[j]) * (x - level[j]);
    }
    return error;
}

static void fit(const nbi_scheme_use *use, const float *x, size_t n, float *params) {
    int levels = n_params(use);
    double level[256] = {0};
    bins b;
    if (fill(&b, x, n)) {
        start(&b, levels, level);
        for (int round = 0; round < ROUNDS; round++)
            if (improve(&b, levels, level) <= 1e-6 * error_of(&b, levels, level)) break;
    }
    for (int j = 0; j < levels; j++) params[j] = (float)level[j];
    if (params[levels - 1] == 0) params[levels - 1] = 1e-30f; /* never all zero */
}

/* Sorts the levels (training may let them cross) and rounds them: out->level[i] is that of param
 * from[i]. */
static void sorted(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out,
                   int from[256]) {
    float top = 0, key[256];
    out->n = n_params(use);
    for (int i = 0; i < out->n; i++) {
        float v = isfinite(params[i]) ? params[i] : 0;
        if (use->is_unsigned && v < 0) v = 0;
        int at = i;
        for (; at > 0 && key[at - 1] > v; at--) {
            key[at] = key[at - 1];
            from[at] = from[at - 1];
        }
        key[at] = v;
        from[at] = i;
        top = fabsf(v) > top ? fabsf(v) : top;
    }
    int most = use->is_unsigned ? 255 : 127;
    out->scale = nbi_guarded(top / (float)most);
    for (int i = 0; i < out->n; i++)
        out->level[i] = (int16_t)nbi_level_of(key[i], out->scale, -most, most);
}

static void grid(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out) {
    int from[256];
    sorted(use, params, out, from);
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

/* dL_j = Σ G over cell j. */
static void backward(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits) {
    (void)n_group;
    if (dbits) *dbits += nbi_scheme_default_dbits(&nbi_scheme_codebook, use, params, x, g, n);
    if (dparams) {
        nbi_scheme_grid t;
        int from[256];
        uint8_t code[NBI_BLOCK];
        sorted(use, params, &t, from);
        for (size_t i = 0; i < n; i += NBI_BLOCK) {
            size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
            nbi_table_encode(&t, x + i, code, count);
            for (size_t k = 0; k < count; k++) dparams[from[code[k]]] += (double)g[i + k];
        }
    }
    if (dx) nbi_pass_all(g, dx, n);
}

static int param_bits(const nbi_scheme_use *use) {
    return n_params(use) * 8 + 32;
}

const nbi_scheme nbi_scheme_codebook = {
    .name = "codebook",
    .letter = "",
    .title = "free levels, found by Lloyd's method and learned by gradient",
    .source = "Lloyd 1982; 8-bit table ours",
    .formula = "nearest of s·round(L[j]/s), s = max|L|/127, unsigned /255; L learned",
    .flags = NBI_SCHEME_WEIGHTS | NBI_SCHEME_ACTIVATIONS | NBI_SCHEME_SIGNED | NBI_SCHEME_UNSIGNED |
             NBI_SCHEME_CHANNELS | NBI_SCHEME_LEARNED | NBI_SCHEME_IDEMPOTENT | NBI_SCHEME_MONOTONE,
    .min_bits = 1,
    .max_bits = 8,
    .deploy_weights = 8,
    .deploy_activations = 8,
    .n_learned = -1,
    .n_params = n_params,
    .fit = fit,
    .forward = forward,
    .encode = encode,
    .grid = grid,
    .backward = backward,
    .value_bits = nbi_bits_per_value,
    .param_bits = param_bits};
