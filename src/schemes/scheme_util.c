/* Statistics, the grids that schemes share, straight-through gradients. */
#include "schemes/scheme_util.h"

#include <string.h>

void nbi_lanes_add(double lane[NBI_LANES], const float *v, size_t n) {
    size_t i = 0;
    for (; i + NBI_LANES <= n; i += NBI_LANES)
        for (size_t k = 0; k < NBI_LANES; k++) lane[k] += (double)v[i + k];
    for (; i < n; i++) lane[i % NBI_LANES] += (double)v[i];
}

void nbi_stats_of(const float *x, size_t n, nbi_stats *out) {
    double sum[NBI_LANES] = {0}, square[NBI_LANES] = {0}, magnitude[NBI_LANES] = {0};
    *out = (nbi_stats){0};
    if (!n) return;
    /* around the first value, so that a large mean does not eat the variance */
    double origin = (double)x[0];
    float lo = x[0], hi = x[0];
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - origin;
        sum[i % NBI_LANES] += d;
        square[i % NBI_LANES] += d * d;
        magnitude[i % NBI_LANES] += fabs((double)x[i]);
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    double count = (double)n, shift = nbi_lane_sum(sum) / count;
    double variance = nbi_lane_sum(square) / count - shift * shift;
    out->mean = origin + shift;
    out->deviation = sqrt(variance > 0 ? variance : 0);
    out->rms = sqrt(out->deviation * out->deviation + out->mean * out->mean);
    out->magnitude = nbi_lane_sum(magnitude) / count;
    out->min = lo;
    out->max = hi;
    out->top = hi > -lo ? hi : -lo;
}

int nbi_params_one(const nbi_scheme_use *use) {
    (void)use;
    return 1;
}

int nbi_params_two(const nbi_scheme_use *use) {
    (void)use;
    return 2;
}

double nbi_bits_per_value(const nbi_scheme_use *use) {
    return use->bits;
}

int nbi_bits_of_scale(const nbi_scheme_use *use) {
    (void)use;
    return 32;
}

/* ---- steps ----------------------------------------------------------------------------------- */

nbi_steps nbi_steps_of(float scale, int bits, bool is_unsigned) {
    nbi_steps s = {nbi_guarded(scale), 0, (1 << bits) - 1};
    if (!is_unsigned) {
        s.lo = -(1 << (bits - 1));
        s.hi = -s.lo - 1;
    }
    return s;
}

NBI_WIDE static void steps_forward(const nbi_steps *s, const float *x, float *y, size_t n) {
    const float scale = s->scale, lo = (float)s->lo, hi = (float)s->hi;
    float
        v[NBI_BLOCK]; /* y may be x: without it compilers expect an overlap and do not vectorise */
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) v[k] = nbi_nearest(nbi_clip(x[i + k] / scale, lo, hi));
        for (size_t k = 0; k < count; k++) y[i + k] = scale * v[k];
    }
}

void nbi_steps_forward(const nbi_steps *s, const float *x, float *y, size_t n) {
    steps_forward(s, x, y, n);
}

void nbi_steps_encode(const nbi_steps *s, const float *x, uint8_t *code, size_t n) {
    for (size_t i = 0; i < n; i++)
        code[i] = (uint8_t)(nbi_level_of(x[i], s->scale, s->lo, s->hi) - s->lo);
}

void nbi_steps_grid(const nbi_steps *s, nbi_scheme_grid *out) {
    out->n = s->hi - s->lo + 1;
    out->scale = s->scale;
    for (int c = 0; c < out->n; c++) out->level[c] = (int16_t)(s->lo + c);
}

NBI_WIDE static double steps_dscale(const nbi_steps *s, const float *x, const float *g, size_t n) {
    const float scale = s->scale, lo = (float)s->lo, hi = (float)s->hi;
    double lane[NBI_LANES] = {0};
    float d[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) {
            float v = x[i + k] / scale, c = nbi_clip(v, lo, hi);
            float inside = v == c ? c : 0.0f;
            d[k] = g[i + k] * (nbi_nearest(c) - inside);
        }
        nbi_lanes_add(lane, d, count);
    }
    return nbi_lane_sum(lane);
}

double nbi_steps_dscale(const nbi_steps *s, const float *x, const float *g, size_t n) {
    return steps_dscale(s, x, g, n);
}

/* ---- half steps ------------------------------------------------------------------------------ */

nbi_half nbi_half_of(float scale, int bits) {
    nbi_half h = {.scale = nbi_guarded(scale)};
    h.cell = 2 * h.scale;
    h.lo = -(1 << (bits - 1));
    h.hi = -h.lo - 1;
    return h;
}

/* One bit around 0: the sign, which x/cell could lose to underflow. */
static bool is_sign(const nbi_half *h) {
    return h->lo == -1 && h->hi == 0 && h->offset == 0;
}

void nbi_half_forward(const nbi_half *h, const float *x, float *y, size_t n) {
    const float scale = h->scale, cell = h->cell, lo = (float)h->lo, hi = (float)h->hi;
    const float middle = 0.5f * (float)(h->offset + 1), one = (float)(1 + h->offset);
    const bool sign = is_sign(h);
    float v[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        if (sign)
            for (size_t k = 0; k < count; k++)
                v[k] = nbi_clip(nbi_amplified(x[i + k]), -1.0f, 0.0f);
        else
            for (size_t k = 0; k < count; k++)
                v[k] = nbi_nearest(nbi_clip(x[i + k] / cell - middle, lo, hi));
        for (size_t k = 0; k < count; k++) y[i + k] = scale * (2.0f * v[k] + one);
    }
}

void nbi_half_encode(const nbi_half *h, const float *x, uint8_t *code, size_t n) {
    const float lo = (float)h->lo, hi = (float)h->hi, middle = 0.5f * (float)(h->offset + 1);
    for (size_t i = 0; i < n; i++) {
        float v = x[i] / h->cell - middle;
        if (is_sign(h)) v = x[i] < 0 ? -1.0f : 0.0f;
        v = !(v > lo) ? lo : v > hi ? hi : v;
        code[i] = (uint8_t)((int)nbi_nearest(v) - h->lo);
    }
}

void nbi_half_grid(const nbi_half *h, nbi_scheme_grid *out) {
    out->n = h->hi - h->lo + 1;
    out->scale = h->scale;
    for (int c = 0; c < out->n; c++) out->level[c] = (int16_t)(2 * (h->lo + c) + 1 + h->offset);
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Halfway points in units of the scale: exact, the levels being small integers. */
static void cuts_of(const nbi_scheme_grid *t, float cut[256]) {
    for (int i = 0; i + 1 < t->n; i++) cut[i] = 0.5f * (float)(t->level[i] + t->level[i + 1]);
}

/* The number of cuts that are not above v; 0 for NaN. */
static int count_cuts(const float *cut, int n, float v) {
    int at = 0;
    for (int step = 128; step > 0; step /= 2)
        if (at + step <= n && cut[at + step - 1] <= v) at += step;
    return at;
}

/* Few levels: steps are added up, which vectorises; sums of small integers are exact. */
static void forward_few(const nbi_scheme_grid *t, const float *cut, const float *x, float *y,
                        size_t n) {
    float v[NBI_BLOCK], level[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) {
            v[k] = x[i + k] / t->scale;
            level[k] = (float)t->level[0];
        }
        for (int c = 0; c + 1 < t->n; c++) {
            float border = cut[c], up = (float)(t->level[c + 1] - t->level[c]);
            for (size_t k = 0; k < count; k++) level[k] += v[k] >= border ? up : 0.0f;
        }
        for (size_t k = 0; k < count; k++) y[i + k] = t->scale * level[k] + nbi_nan_of(v[k]);
    }
}

void nbi_table_forward(const nbi_scheme_grid *t, const float *x, float *y, size_t n) {
    float cut[256];
    cuts_of(t, cut);
    if (t->n <= 16) {
        forward_few(t, cut, x, y, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float v = x[i] / t->scale;
        y[i] = t->scale * (float)t->level[count_cuts(cut, t->n - 1, v)] + nbi_nan_of(v);
    }
}

void nbi_table_encode(const nbi_scheme_grid *t, const float *x, uint8_t *code, size_t n) {
    float cut[256];
    cuts_of(t, cut);
    for (size_t i = 0; i < n; i++) code[i] = (uint8_t)count_cuts(cut, t->n - 1, x[i] / t->scale);
}

/* ---- gradients ------------------------------------------------------------------------------- */

void nbi_pass_all(const float *g, float *dx, size_t n) {
    if (dx != g) memmove(dx, g, n * sizeof *dx);
}

NBI_WIDE static void pass_inside(float lo, float hi, const float *x, const float *g, float *dx,
                                 size_t n) {
    float v[NBI_BLOCK]; /* dx may be g */
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) {
            float a = g[i + k], b = x[i + k] >= lo ? a : 0.0f; /* loads are not conditional */
            v[k] = x[i + k] <= hi ? b : 0.0f;
        }
        memcpy(dx + i, v, count * sizeof *v);
    }
}

void nbi_pass_inside(float lo, float hi, const float *x, const float *g, float *dx, size_t n) {
    pass_inside(lo, hi, x, g, dx, n);
}

void nbi_sum_outside(float lo, float hi, const float *x, const float *g, size_t n, double *below,
                     double *above) {
    double down[NBI_LANES] = {0}, up[NBI_LANES] = {0};
    float v[NBI_BLOCK];
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        for (size_t k = 0; k < count; k++) {
            float a = g[i + k]; /* loads are not conditional: the loop vectorises */
            v[k] = x[i + k] <= lo ? a : 0.0f;
        }
        nbi_lanes_add(down, v, count);
        for (size_t k = 0; k < count; k++) {
            float a = g[i + k];
            v[k] = x[i + k] >= hi ? a : 0.0f;
        }
        nbi_lanes_add(up, v, count);
    }
    *below = nbi_lane_sum(down);
    *above = nbi_lane_sum(up);
}
