/* Convolution, dense or grouped: the weights of one output channel are decoded once, then used for
 * every pixel. Taps in the padding cost nothing when in_zero is 0. Also here: the unpacking of
 * weights and biases and the requantization of sums, which nbk_dwconv.c and nbk_conv_add.c share. */
#include "nbk.h"

void nbk_unpack(const uint8_t *packed, int bits, const int8_t *levels, size_t first, size_t count,
                int8_t *out) {
    const unsigned width = (unsigned)bits, half = 1u << (width - 1), mask = 2u * half - 1u;
    const int step = nbk_level_step(bits);
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
        out[i] = levels ? levels[code] : (int8_t)(((int)(code ^ half) - (int)half) * step);
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

int32_t nbk_bias(const nbk_conv *p, int o, const int8_t *w, size_t count) {
    int k = p->shift[o] - p->bias_shift;
    int32_t code;
    if (p->bias_bits == 8)
        code = ((const int8_t *)p->bias)[o];
    else if (p->bias_bits == 16)
        code = ((const int16_t *)p->bias)[o];
    else
        return ((const int32_t *)p->bias)[o];
    k = k < 0 ? 0 : k > 30 ? 30 : k;
    code *= (int32_t)1 << k;
    return p->in_zero != 0 ? code - p->in_zero * weight_sum(w, (int)count) : code;
}

/* Where one output pixel looks: its column in the input (may be negative) and the taps of a kernel
 * row that lie inside the image, first ≤ k < last. */
typedef struct span {
    int x, first, last, group;
} span;

static span span_at(const nbk_conv *p, int ox, int group) {
    span s;
    s.x = ox * p->sw - p->pl;
    s.first = 0;
    s.last = p->kw;
    s.group = group;
    while (s.first < s.last && s.x + s.first * p->dw < 0) s.first++;
    while (s.last > s.first && s.x + (s.last - 1) * p->dw >= p->in_w) s.last--;
    return s;
}

/* Σ over one kernel row in input row y. */
static int32_t row_sum(const nbk_conv *p, const void *in, const int8_t *w, const span *s, int y) {
    const int c = p->in_c / p->groups;
    int32_t sum = 0;
    if (p->in_zero != 0) {
        sum = weight_sum(w, s->first * c) + weight_sum(w + s->last * c, (p->kw - s->last) * c);
        sum *= p->in_zero;
    }
    if (s->first == s->last) return sum;
    size_t at = (size_t)y * (size_t)p->in_w + (size_t)(s->x + s->first * p->dw);
    const size_t in_c = (size_t)p->in_c;
    at = at * in_c + (size_t)(s->group * c);
    if (p->dw == 1 && p->groups == 1) /* the taps are neighbours in memory */
        return sum + dot(in, p->in_type, at, w + s->first * c, (s->last - s->first) * c);
    for (int k = s->first; k < s->last; k++, at += (size_t)(p->dw * p->in_c))
        sum += dot(in, p->in_type, at, w + k * c, c);
    return sum;
}

static int32_t pixel_sum(const nbk_conv *p, const void *in, const int8_t *w, const span *s,
                         int oy) {
    const int row = p->kw * (p->in_c / p->groups);
    int y = oy * p->sh - p->pt;
    int32_t sum = 0;
    for (int k = 0; k < p->kh; k++, w += row, y += p->dh) {
        if (y >= 0 && y < p->in_h)
            sum += row_sum(p, in, w, s, y);
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

/* Weights of one output channel. */
static size_t taps(const nbk_conv *p) {
    return (size_t)p->kh * (size_t)p->kw * (size_t)(p->in_c / p->groups);
}

size_t nbk_conv_scratch(const nbk_conv *p) {
    return is_plain(p) ? 0 : taps(p);
}

const int8_t *nbk_conv_weights(const nbk_conv *p, int o, void *scratch) {
    const size_t k = taps(p), first = (size_t)o * k;
    if (is_plain(p)) return (const int8_t *)p->w + first;
    nbk_unpack(p->w, p->w_bits, p->w_levels, first, k, (int8_t *)scratch);
    return (const int8_t *)scratch;
}

int32_t nbk_conv_sum(const nbk_conv *p, const void *in, const int8_t *w, int group, int y, int x) {
    const span s = span_at(p, x, group);
    return pixel_sum(p, in, w, &s, y);
}

/* Exactly one of out and acc is given. */
static void run(const nbk_conv *p, const void *in, void *out, int32_t *acc, void *scratch) {
    const size_t k = taps(p), out_c = (size_t)p->out_c;
    for (int o = 0; o < p->out_c; o++) {
        const int8_t *w = nbk_conv_weights(p, o, scratch);
        const int group = o / (p->out_c / p->groups);
        const int32_t bias = nbk_bias(p, o, w, k);
        size_t at = (size_t)o;
        for (int y = 0; y < p->out_h; y++)
            for (int x = 0; x < p->out_w; x++, at += out_c) {
                const int32_t sum = bias + nbk_conv_sum(p, in, w, group, y, x);
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
