/* Shapes and random problems for the convolution kernels, and an independent definition of what
 * they compute (64-bit integers, every tap by its coordinates). */
#ifndef NIBBLE_TESTS_CONV_CASES_H
#define NIBBLE_TESTS_CONV_CASES_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/kernels.h"

typedef struct shape {
    int h, w, c, n, kh, kw, sh, sw, dh, dw, top, left, bottom, right, groups;
    bool depthwise;
} shape;

static const shape SHAPES[] = {
    /* ResNet: stem, body, down-sampling, shortcut, classifier */
    {10, 9, 3, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {9, 8, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {8, 8, 16, 32, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, false},
    {6, 6, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {8, 8, 16, 32, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0, 1, false},
    {1, 1, 64, 10, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, false},
    {1, 1, 1030, 17, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, false},
    /* MobileNet, DS-CNN */
    {7, 5, 40, 72, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, false},
    {20, 10, 1, 64, 10, 4, 2, 2, 1, 1, 4, 1, 5, 1, 1, false},
    {5, 5, 256, 24, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, false},
    /* odd channels, kernels, strides, dilations, lopsided padding */
    {5, 4, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, false},
    {7, 7, 5, 3, 3, 2, 1, 2, 1, 1, 0, 1, 2, 0, 1, false},
    {9, 11, 17, 19, 3, 3, 2, 1, 2, 2, 2, 2, 1, 3, 1, false},
    {6, 13, 3, 5, 1, 5, 1, 3, 1, 2, 0, 4, 0, 4, 1, false},
    {11, 6, 4, 33, 5, 1, 3, 1, 2, 1, 6, 0, 3, 0, 1, false},
    {3, 3, 2, 8, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3, 1, false},    /* a kernel larger than the image */
    {2, 2, 3, 4, 2, 2, 1, 1, 1, 1, 5, 4, 3, 4, 1, false},    /* windows wholly in the padding */
    {40, 40, 24, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false}, /* several bands */
    {30, 31, 64, 16, 3, 3, 2, 2, 2, 1, 0, 0, 0, 0, 1, false},
    {9, 9, 4, 4, 2, 2, 3, 3, 1, 1, 0, 0, 0, 0, 1, false}, /* gaps between windows */
    /* tiles of 4×4: exact, ragged, lopsided padding, several groups, a rest of channels */
    {8, 8, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false},
    {6, 10, 16, 20, 3, 3, 1, 1, 1, 1, 0, 0, 0, 0, 1, false},
    {10, 7, 48, 17, 3, 3, 1, 1, 1, 1, 2, 0, 0, 2, 1, false},
    {17, 31, 16, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false},
    /* groups */
    {6, 5, 8, 12, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4, false},
    {5, 6, 34, 40, 3, 2, 2, 1, 1, 2, 1, 1, 0, 1, 2, false},
    {4, 4, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, false},
    /* depthwise */
    {8, 8, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 16, true},
    {9, 7, 17, 17, 3, 3, 2, 2, 1, 1, 1, 0, 0, 1, 17, true},
    {25, 24, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 64, true},
    {12, 12, 5, 5, 5, 4, 1, 2, 2, 1, 4, 3, 4, 0, 5, true},
    {6, 6, 33, 33, 6, 6, 1, 1, 1, 1, 0, 0, 0, 0, 33, true},
    {5, 5, 1, 1, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 1, true},
    {7, 4, 130, 130, 1, 1, 2, 1, 1, 1, 0, 0, 0, 0, 130, true},
};

typedef enum fill { FILL_RANDOM, FILL_MAX, FILL_MIN, FILL_ENDS, FILLS } fill;

/* One convolution with all that belongs to it. */
typedef struct problem {
    nbk_conv p;
    bool depthwise;
    nbi_conv_range range;
    size_t inputs, weights, outputs, pixels;
    uint8_t *in;     /* with slack, filled with garbage */
    int8_t *levels;  /* unpacked weights */
    uint8_t *packed; /* as a bit stream */
    int8_t *table;   /* [256] levels */
    int32_t *bias, *mult;
    uint8_t *shift;
    int64_t *sums; /* by naive_sums */
} problem;

static inline int random_in(nbi_rng *rng, int lo, int hi) {
    return lo + (int)nbi_rng_below(rng, (uint32_t)(hi - lo + 1));
}

static inline int value_of(nbi_rng *rng, fill how, int lo, int hi) {
    if (how == FILL_ENDS) how = nbi_rng_below(rng, 2) ? FILL_MAX : FILL_MIN;
    return how == FILL_MAX ? hi : how == FILL_MIN ? lo : random_in(rng, lo, hi);
}

static inline void *must_alloc(size_t bytes) {
    void *memory = NULL;
    if (nbi_alloc(NULL, bytes ? bytes : 1, 1, &memory) != NB_OK) abort();
    return memory;
}

static inline int32_t input_at(const problem *q, size_t i) {
    return q->p.in_type == NBK_U8 ? q->in[i] : (int8_t)q->in[i];
}

static inline int64_t naive_sum(const problem *q, int y, int x, int o) {
    const nbk_conv *p = &q->p;
    const int c = p->in_c / p->groups, group = o / (p->out_c / p->groups);
    int64_t sum = q->bias[o];
    for (int i = 0; i < p->kh; i++)
        for (int j = 0; j < p->kw; j++)
            for (int k = 0; k < c; k++) {
                const int iy = y * p->sh - p->pt + i * p->dh, ix = x * p->sw - p->pl + j * p->dw;
                const bool inside = iy >= 0 && iy < p->in_h && ix >= 0 && ix < p->in_w;
                const int at = (iy * p->in_w + ix) * p->in_c + group * c + k;
                const int w = q->depthwise ? (i * p->kw + j) * p->out_c + o
                                           : ((o * p->kh + i) * p->kw + j) * c + k;
                sum += (int64_t)q->levels[w] * (inside ? input_at(q, (size_t)at) : p->in_zero);
            }
    return sum;
}

/* Needs the compiler's 128-bit integers: floor((acc·mult)/2^shift + ½). */
__extension__ typedef __int128 wide;
static inline int64_t naive_output(const nbk_conv *p, int64_t acc, int o) {
    const wide one = 1, twice = (wide)acc * p->mult[o] * 2 + (one << p->shift[o]);
    const wide divisor = one << (p->shift[o] + 1);
    wide v = twice / divisor;
    if (twice % divisor < 0) v--;
    v += p->out_zero;
    return (int64_t)(v < p->out_lo ? p->out_lo : v > p->out_hi ? p->out_hi : v);
}

static inline int32_t output_at(const nbk_conv *p, const void *out, size_t i) {
    if (p->out_type == NBK_S32) return ((const int32_t *)out)[i];
    return nbk_load(out, p->out_type, i);
}

static inline void set_shape(problem *q, const shape *s) {
    const int h = (s->h + s->top + s->bottom - (s->kh - 1) * s->dh - 1) / s->sh + 1;
    const int w = (s->w + s->left + s->right - (s->kw - 1) * s->dw - 1) / s->sw + 1;
    q->depthwise = s->depthwise;
    q->p = (nbk_conv){.in_h = (int16_t)s->h,
                      .in_w = (int16_t)s->w,
                      .in_c = (int16_t)s->c,
                      .out_h = (int16_t)h,
                      .out_w = (int16_t)w,
                      .out_c = (int16_t)s->n,
                      .kh = (int16_t)s->kh,
                      .kw = (int16_t)s->kw,
                      .sh = (int16_t)s->sh,
                      .sw = (int16_t)s->sw,
                      .dh = (int16_t)s->dh,
                      .dw = (int16_t)s->dw,
                      .pt = (int16_t)s->top,
                      .pl = (int16_t)s->left,
                      .groups = (int16_t)s->groups};
    q->inputs = (size_t)(s->h * s->w * s->c);
    q->weights = (size_t)(s->n * s->kh * s->kw * (s->c / s->groups));
    q->pixels = (size_t)(h * w);
    q->outputs = q->pixels * (size_t)s->n;
}

static inline void set_input(problem *q, nbi_rng *rng, fill how, int bits) {
    nbk_conv *p = &q->p;
    p->in_type = nbi_rng_below(rng, 2) ? NBK_U8 : NBK_S8;
    q->range.in_min = p->in_type == NBK_U8 ? 0 : -(1 << (bits - 1));
    q->range.in_max = q->range.in_min + (1 << bits) - 1;
    p->in_zero = 0;
    if (nbi_rng_below(rng, 3) == 0)
        p->in_zero = (int16_t)value_of(rng, how, q->range.in_min, q->range.in_max);
    q->in = must_alloc(q->inputs + NBI_KERNEL_SLACK);
    for (size_t i = 0; i < q->inputs + NBI_KERNEL_SLACK; i++)
        q->in[i] = i < q->inputs ? (uint8_t)value_of(rng, how, q->range.in_min, q->range.in_max)
                                 : (uint8_t)nbi_rng_u32(rng);
}

static inline void put_code(uint8_t *packed, int bits, size_t i, unsigned code) {
    for (int b = 0; b < bits; b++) {
        const size_t at = i * (size_t)bits + (size_t)b;
        if (code >> b & 1) packed[at / 8] |= (uint8_t)(1u << (at % 8));
    }
}

static inline void set_weights(problem *q, nbi_rng *rng, fill how, int bits) {
    const int half = 1 << (bits - 1);
    const bool table = nbi_rng_below(rng, 3) == 0;
    q->p.w_bits = (uint8_t)bits;
    q->table = must_alloc(256);
    const int step = nbk_level_step(bits);
    q->range.w_min = table ? 127 : -half * step;
    q->range.w_max = table ? -128 : (half - 1) * step;
    for (int i = 0; i < 2 * half && table; i++) {
        q->table[i] = (int8_t)(bits == 1 ? 2 * i - 1 : random_in(rng, -half, half));
        if (bits == 8) q->table[i] = (int8_t)random_in(rng, -128, 127);
        if (q->table[i] < q->range.w_min) q->range.w_min = q->table[i];
        if (q->table[i] > q->range.w_max) q->range.w_max = q->table[i];
    }
    q->levels = must_alloc(q->weights);
    q->packed = must_alloc(q->weights * (size_t)bits / 8 + 1);
    for (size_t i = 0; i < q->weights; i++) {
        const int code = value_of(rng, how, -half, half - 1);
        const unsigned raw = (unsigned)code & (unsigned)(2 * half - 1);
        put_code(q->packed, bits, i, raw);
        q->levels[i] = table ? q->table[raw] : (int8_t)(code * step);
    }
    q->p.w = q->packed;
    q->p.w_levels = table ? q->table : NULL;
}

/* mode 0: every shift ≥ 32; 1: mixed; 2: every shift < 32. */
static inline void set_output(problem *q, nbi_rng *rng, int mode) {
    nbk_conv *p = &q->p;
    const size_t n = (size_t)p->out_c;
    const double taps = (double)(q->weights / n);
    const double reach = sqrt(taps) * (q->range.in_max + 1) * (q->range.w_max + 1) + 1;
    q->bias = must_alloc(n * 4), q->mult = must_alloc(n * 4), q->shift = must_alloc(n);
    q->range.acc_bound = (int64_t)(taps * 256 * 128 + reach);
    for (size_t o = 0; o < n; o++) {
        const bool fast = mode == 0 || (mode == 1 && nbi_rng_below(rng, 8) != 0);
        const double r =
            fast ? 100 / (reach + 202) * nbi_rng_uniform(rng) : 0.5 + 30 * nbi_rng_uniform(rng);
        q->bias[o] = random_in(rng, -(int)reach, (int)reach);
        if (nbi_rescale_of(NULL, r, &q->mult[o], &q->shift[o]) != NB_OK) abort();
        if (nbi_rng_below(rng, 32) == 0) q->mult[o] = 0;
    }
    p->bias = q->bias, p->mult = q->mult, p->shift = q->shift;
    p->out_type = (uint8_t)nbi_rng_below(rng, 3);
    const int lo = p->out_type == NBK_U8 ? 0 : p->out_type == NBK_S8 ? -128 : -2000000000;
    const int hi = p->out_type == NBK_U8 ? 255 : p->out_type == NBK_S8 ? 127 : 2000000000;
    const bool narrow = p->out_type != NBK_S32 && nbi_rng_below(rng, 2);
    p->out_zero = (int16_t)(nbi_rng_below(rng, 2) ? random_in(rng, -128, 255) : 0);
    p->out_lo = narrow ? random_in(rng, lo, lo + 20) : lo;
    p->out_hi = narrow ? random_in(rng, hi - 200, hi) : hi;
}

static inline problem problem_make(const shape *s, uint64_t seed) {
    problem q = {0};
    nbi_rng rng;
    nbi_rng_seed(&rng, seed, 7);
    const fill how = (fill)(seed % FILLS);
    const int a_bits = nbi_rng_below(&rng, 2) ? 8 : random_in(&rng, 1, 8);
    set_shape(&q, s);
    set_input(&q, &rng, how, a_bits);
    set_weights(&q, &rng, nbi_rng_below(&rng, 2) ? how : FILL_RANDOM, random_in(&rng, 1, 8));
    set_output(&q, &rng, nbi_rng_below(&rng, 3) ? 0 : random_in(&rng, 1, 2));
    q.sums = must_alloc(q.outputs * sizeof *q.sums);
    size_t at = 0;
    for (int y = 0; y < q.p.out_h; y++)
        for (int x = 0; x < q.p.out_w; x++)
            for (int o = 0; o < q.p.out_c; o++) q.sums[at++] = naive_sum(&q, y, x, o);
    return q;
}

static inline void problem_free(problem *q) {
    nbi_free(q->in), nbi_free(q->levels), nbi_free(q->packed), nbi_free(q->bias);
    nbi_free(q->mult), nbi_free(q->shift), nbi_free(q->sums), nbi_free(q->table);
}

#endif
