/* Convolution, dense or grouped: the weights of one output channel are decoded once, then used for
 * every pixel. Taps in the padding cost nothing when in_zero is 0. Also here: the unpacking of
 * weights and the requantization of sums, which nbk_dwconv.c shares. */
#include "nbk.h"

void nbk_unpack(const uint8_t *packed, int bits, const int8_t *levels, size_t first, size_t count,
                int8_t *out) {
    const unsigned width = (unsigned)bits, half = 1u << (width - 1), mask = 2u * half - 1u;
    const size_t skip = (first & 7u) * width; /* bits, from a code that starts a byte */
    const uint8_t *next = packed + (first >> 3) * width + (skip >> 3);
    uint32_t buffer = 0;
    unsigned have = 0;
    if (count > 0 && (skip & 7u) != 0) {
        buffer = (uint32_t)*next++ >> (skip & 7u);
        have = 8u - (unsigned)(skip & 7u);
    }
    for (size_t i = 0; i < count; i++) {
        if (have < width) {
            buffer |= (uint32_t)*next++ << have;
            have += 8;
        }
        const unsigned code = buffer & mask;
        buffer >>= width;
        have -= width;
        out[i] = levels ? levels[code] : (int8_t)((int)(code ^ half) - (int)half);
    }
}

static int32_t dot_u8(const uint8_t *x, const int8_t *w, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * w[i];
    return sum;
}

static int32_t dot_s8(const int8_t *x, const int8_t *w, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * w[i];
    return sum;
}

static int32_t dot(const void *x, uint8_t type, size_t at, const int8_t *w, int n) {
    return type == NBK_U8 ? dot_u8((const uint8_t *)x + at, w, n)
                          : dot_s8((const int8_t *)x + at, w, n);
}

static int32_t weight_sum(const int8_t *w, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += w[i];
    return sum;
}

/* Σ over one kernel row that lies inside the image: input row y, columns x0, x0+dw, … */
static int32_t row_sum(const nbk_conv *p, const void *in, const int8_t *w, int group, int y,
                       int x0) {
    const int c = p->in_c / p->groups;
    int first = 0, last = p->kw; /* the taps inside the image */
    int32_t sum = 0;
    while (first < last && x0 + first * p->dw < 0) first++;
    while (last > first && x0 + (last - 1) * p->dw >= p->in_w) last--;
    if (p->in_zero != 0) {
        sum = weight_sum(w, first * c) + weight_sum(w + last * c, (p->kw - last) * c);
        sum *= p->in_zero;
    }
    if (first == last) return sum;
    const size_t row = (size_t)y * (size_t)p->in_w, in_c = (size_t)p->in_c;
    if (p->dw == 1 && p->groups == 1) /* the taps are neighbours in memory */
        return sum + dot(in, p->in_type, (row + (size_t)(x0 + first)) * (size_t)c, w + first * c,
                         (last - first) * c);
    for (int k = first; k < last; k++) {
        const size_t at = (row + (size_t)(x0 + k * p->dw)) * in_c + (size_t)(group * c);
        sum += dot(in, p->in_type, at, w + k * c, c);
    }
    return sum;
}

static int32_t pixel_sum(const nbk_conv *p, const void *in, const int8_t *w, int group, int oy,
                         int ox) {
    const int row = p->kw * (p->in_c / p->groups);
    int32_t sum = 0;
    for (int k = 0; k < p->kh; k++, w += row) {
        const int y = oy * p->sh - p->pt + k * p->dh;
        if (y >= 0 && y < p->in_h)
            sum += row_sum(p, in, w, group, y, ox * p->sw - p->pl);
        else if (p->in_zero != 0)
            sum += p->in_zero * weight_sum(w, row);
    }
    return sum;
}

static void finish_one(const nbk_conv *p, int32_t acc, int channel, size_t at, void *out) {
    const int64_t v = nbk_rescale(acc, p->mult[channel], p->shift[channel]) + p->out_zero;
    nbk_store(out, p->out_type, at, nbk_clamp(v, p->out_lo, p->out_hi));
}

static int is_plain(const nbk_conv *p) {
    return p->w_bits == 8 && p->w_levels == NULL;
}

size_t nbk_conv_scratch(const nbk_conv *p) {
    return is_plain(p) ? 0 : (size_t)p->kh * (size_t)p->kw * (size_t)(p->in_c / p->groups);
}

/* Exactly one of out and acc is given. */
static void run(const nbk_conv *p, const void *in, void *out, int32_t *acc, void *scratch) {
    const size_t k = (size_t)p->kh * (size_t)p->kw * (size_t)(p->in_c / p->groups);
    const size_t out_c = (size_t)p->out_c;
    for (int o = 0; o < p->out_c; o++) {
        const int8_t *w = (const int8_t *)p->w + (size_t)o * k;
        if (!is_plain(p)) {
            nbk_unpack(p->w, p->w_bits, p->w_levels, (size_t)o * k, k, (int8_t *)scratch);
            w = (const int8_t *)scratch;
        }
        const int group = o / (p->out_c / p->groups);
        size_t at = (size_t)o;
        for (int y = 0; y < p->out_h; y++)
            for (int x = 0; x < p->out_w; x++, at += out_c) {
                const int32_t sum = p->bias[o] + pixel_sum(p, in, w, group, y, x);
                if (acc)
                    acc[at] = sum;
                else
                    finish_one(p, sum, o, at, out);
            }
    }
}

void nbk_conv_run(const nbk_conv *p, const void *in, void *out, void *scratch) {
    run(p, in, out, NULL, scratch);
}

void nbk_conv_sums(const nbk_conv *p, const void *in, int32_t *acc, void *scratch) {
    run(p, in, NULL, acc, scratch);
}

void nbk_conv_finish(const nbk_conv *p, const int32_t *acc, size_t pixels, void *out) {
    size_t at = 0;
    for (size_t i = 0; i < pixels; i++)
        for (int o = 0; o < p->out_c; o++, at++) finish_one(p, acc[at], o, at, out);
}
