/* What schemes share: statistics of a group, three kinds of grid (steps, half steps, tables) and the
 * straight-through gradients. Loops are written so that compilers vectorise them; sums run in fixed
 * lanes, so a chunk's result never changes. */
#ifndef NIBBLE_SCHEMES_UTIL_H
#define NIBBLE_SCHEMES_UTIL_H

#include "schemes/range.h"
#include "schemes/schemes.h"

#define NBI_LN2   0.69314718055994530942
#define NBI_LANES 8
#define NBI_BLOCK 256 /* values of one pass over a stack buffer; a multiple of NBI_LANES */

static inline double nbi_lane_sum(const double lane[NBI_LANES]) {
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}
/* Nearest integer, ties to even, for |v| < 2^22; NaN stays. Without the rint() call that SSE2 needs. */
static inline float nbi_nearest(float v) {
    return (v + 12582912.0f) - 12582912.0f;
}
static inline float nbi_floor_small(float v) {
    float r = nbi_nearest(v);
    return r - (r > v ? 1.0f : 0.0f);
}
/* NaN stays. */
static inline float nbi_clip(float v, float lo, float hi) {
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}
/* 0, or NaN when v is: added to results that do not depend on v smoothly. */
static inline float nbi_nan_of(float v) {
    return 0.0f * nbi_clip(v, -1.0f, 1.0f);
}
static inline float nbi_guarded(float scale) {
    return scale > 1e-30f ? scale : 1e-30f; /* NaN, too */
}

typedef struct nbi_stats {
    double mean, deviation, rms; /* divisor n */
    double magnitude;            /* E|x| */
    float min, max, top;         /* top = max|x| */
} nbi_stats;
/* All 0 for n = 0. NaN spoils means, not the extremes. */
void nbi_stats_of(const float *x, size_t n, nbi_stats *out);

/* Callbacks that most rows share. */
int nbi_params_one(const nbi_scheme_use *use);
int nbi_params_two(const nbi_scheme_use *use);
double nbi_bits_per_value(const nbi_scheme_use *use); /* use->bits */
int nbi_bits_of_scale(const nbi_scheme_use *use);     /* 32 */

/* ---- steps: x̂ = scale·k, k = clip(round(x/scale), lo, hi) ------------------------------------- */

typedef struct nbi_steps {
    float scale;
    int lo, hi;
} nbi_steps;
void nbi_steps_forward(const nbi_steps *s, const float *x, float *y, size_t n);
void nbi_steps_encode(const nbi_steps *s, const float *x, uint8_t *code, size_t n);
void nbi_steps_grid(const nbi_steps *s, nbi_scheme_grid *out);
/* The range of a b-bit grid: 0 … 2^b−1, or two's complement. */
nbi_steps nbi_steps_of(float scale, int bits, bool is_unsigned);
/* Σ g·d, d = round(x/s) − x/s inside, lo or hi outside: the gradient of a learned step (LSQ). */
double nbi_steps_dscale(const nbi_steps *s, const float *x, const float *g, size_t n);

/* ---- half steps: x̂ = scale·(2k + 1 + offset), k = clip(floor(x/cell − offset/2), lo, hi) -------- */

typedef struct nbi_half {
    float scale; /* half a step */
    float cell;  /* a step; another one where thresholds and levels differ (quaternary) */
    int lo, hi, offset;
} nbi_half;
nbi_half nbi_half_of(float scale, int bits);
void nbi_half_forward(const nbi_half *h, const float *x, float *y, size_t n);
void nbi_half_encode(const nbi_half *h, const float *x, uint8_t *code, size_t n);
void nbi_half_grid(const nbi_half *h, nbi_scheme_grid *out);

/* ---- tables: the nearest of at most 256 levels ------------------------------------------------ */

/* A value halfway between two levels goes to the upper one, so sign(0) = +1 without a zero level. */
void nbi_table_forward(const nbi_scheme_grid *t, const float *x, float *y, size_t n);
void nbi_table_encode(const nbi_scheme_grid *t, const float *x, uint8_t *code, size_t n);

/* ---- gradients ------------------------------------------------------------------------------- */

/* dx = g. */
void nbi_pass_all(const float *g, float *dx, size_t n);
/* dx = g where lo ≤ x ≤ hi, else 0. */
void nbi_pass_inside(float lo, float hi, const float *x, const float *g, float *dx, size_t n);
/* Σ g over x ≤ lo and over x ≥ hi. */
void nbi_sum_outside(float lo, float hi, const float *x, const float *g, size_t n, double *below,
                     double *above);

#endif
