/* The dense convolution around its tile: packing, padding, blocking. Plain C; see conv_x86.h. */
#include "kernels/x86/conv_x86.h"

#include <string.h>

#if defined(__x86_64__)

enum { BAND_BYTES = 12 * 1024 }; /* a band and a block of weights share the 32 KiB of L1 */

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

/* ---- bands --------------------------------------------------------------------------------- */

static int band_rows(const nbk_conv *p, int height) {
    return (height - 1) * p->sh + (p->kh - 1) * p->dh + 1;
}

nbi_band nbi_band_of(const nbk_conv *p, size_t element, bool as_is) {
    nbi_band b = {.element = element, .width = (p->out_w - 1) * p->sw + (p->kw - 1) * p->dw + 1};
    b.row_bytes = (size_t)b.width * (size_t)p->in_c * element;
    b.height = p->out_h;
    b.rows = band_rows(p, b.height);
    if (as_is && p->pt == 0 && p->pl == 0 && b.rows <= p->in_h && b.width <= p->in_w) {
        b.row_bytes = (size_t)p->in_w * (size_t)p->in_c;
        return b;
    }
    while (b.height > 1 && (size_t)b.rows * b.row_bytes > BAND_BYTES) {
        b.height--;
        b.rows = band_rows(p, b.height);
    }
    b.bytes = round_up((size_t)b.rows * b.row_bytes + 2 * NBI_KERNEL_SLACK, 64);
    return b;
}

static void fill(uint8_t *dst, size_t bytes, size_t element, int value) {
    const uint64_t ones = element == 1 ? 0x0101010101010101u : 0x0001000100010001u;
    const uint64_t v = ones * (element == 1 ? (uint8_t)value : (uint16_t)value);
    size_t i = 0;
    if (element == 1 && bytes >= 256) {
        memset(dst, value, bytes);
        return;
    }
    for (; i + 8 <= bytes; i += 8) memcpy(dst + i, &v, 8); /* mostly one pixel: no call */
    for (; i < bytes; i += element) memcpy(dst + i, &v, element);
}

const uint8_t *nbi_band_fill(const nbk_conv *p, const nbi_band *b, nbi_widen_fn copy, int add,
                             const uint8_t *in, int y, int height, uint8_t *buffer) {
    if (b->bytes == 0) return in + (size_t)(y * p->sh) * b->row_bytes;
    const size_t c = (size_t)p->in_c, pixel = c * b->element;
    const int left = p->pl < b->width ? p->pl : b->width;
    const int rest = b->width - left;
    const int body = rest < p->in_w ? rest : p->in_w;
    const int zero = p->in_zero + add, rows = band_rows(p, height);
    for (int r = 0; r < rows; r++) {
        uint8_t *row = buffer + (size_t)r * b->row_bytes;
        const int iy = y * p->sh - p->pt + r;
        if (iy < 0 || iy >= p->in_h) {
            fill(row, b->row_bytes, b->element, zero);
            continue;
        }
        const uint8_t *src = in + (size_t)iy * (size_t)p->in_w * c;
        /* in this order: the copy may write a little past its end */
        fill(row, (size_t)left * pixel, b->element, zero);
        copy(row + (size_t)left * pixel, src, (size_t)body * c, p->in_type, add);
        fill(row + (size_t)(left + body) * pixel, (size_t)(rest - body) * pixel, b->element, zero);
    }
    return buffer;
}

/* ---- packing ------------------------------------------------------------------------------- */

typedef struct layout {
    size_t groups;
    size_t c, n;             /* channels of a group: in, out */
    size_t columns;          /* segments per kernel row */
    size_t segments, length; /* length: in elements */
    size_t steps, per_step;  /* steps per segment, elements per step */
    size_t blocks;           /* of 16 output channels, per group */
    size_t block_bytes;
} layout;

/* One group, one segment of one step per tap; an odd number of taps gets another one of weight 0.
 */
static layout depthwise_layout(const nbk_conv *p) {
    const size_t taps = (size_t)p->kh * (size_t)p->kw;
    layout l = {.groups = 1, .n = (size_t)p->out_c, .columns = (size_t)p->kw, .steps = 1};
    l.segments = round_up(taps, 2);
    l.blocks = (l.n + NBI_LANES - 1) / NBI_LANES;
    l.block_bytes = l.segments * 2 * NBI_LANES;
    return l;
}

static layout layout_of(const nbi_dense *d, const nbk_conv *p) {
    if (d->depthwise) return depthwise_layout(p);
    layout l = {.groups = (size_t)p->groups,
                .c = (size_t)(p->in_c / p->groups),
                .n = (size_t)(p->out_c / p->groups)};
    const bool whole_rows = p->dw == 1 && p->groups == 1;
    l.columns = whole_rows ? 1 : (size_t)p->kw;
    l.segments = (size_t)p->kh * l.columns;
    l.length = l.c * (whole_rows ? (size_t)p->kw : 1);
    l.per_step = 4 / d->element;
    l.steps = (l.length + l.per_step - 1) / l.per_step;
    l.blocks = (l.n + NBI_LANES - 1) / NBI_LANES;
    l.block_bytes = l.segments * l.steps * 4 * NBI_LANES;
    return l;
}

/* In front of the weights: Σw of every output channel, for inputs that are shifted to unsigned, and
 * the blocks. */
static size_t head_bytes(const nbk_conv *p, const layout *l) {
    return round_up((size_t)p->out_c * 4 + l->groups * l->blocks * sizeof(nbi_block), 64);
}

size_t nbi_dense_packed_bytes(const nbi_dense *d, const nbk_conv *p) {
    const layout l = layout_of(d, p);
    return head_bytes(p, &l) + l.groups * l.blocks * l.block_bytes;
}

static void pack_channel(const layout *l, const int8_t *w, size_t element, uint8_t *out) {
    for (size_t s = 0; s < l->segments; s++)
        for (size_t i = 0; i < l->length; i++) {
            const size_t step = s * l->steps + i / l->per_step;
            uint8_t *at = out + step * 4 * NBI_LANES + i % l->per_step * element;
            const int16_t v = w[s * l->length + i];
            memcpy(at, &v, element); /* little endian */
        }
}

/* Channels in the order of vpunpck: 0–3, 8–11, then 4–7, 12–15. */
static void pack_depthwise(const layout *l, size_t taps, const int8_t *levels, uint8_t *out) {
    for (size_t t = 0; t < taps; t++)
        for (size_t o = 0; o < l->n; o++) {
            const size_t lane = o % NBI_LANES;
            const size_t place = lane / 4 % 2 * 8 + lane / 8 * 4 + lane % 4;
            const int16_t v = levels[t * l->n + o];
            memcpy(out + o / NBI_LANES * l->block_bytes + (t / 2 * NBI_LANES + place) * 4 +
                       t % 2 * 2,
                   &v, 2);
        }
}

/* true if no int16 sum of `chunk` steps can overflow, whatever the bytes that the weights meet: the
 * positive weights of a pair sum up to 128 at most, and the negative ones to −128. */
static bool chunk_fits(const layout *l, const uint8_t *block, size_t chunk) {
    const size_t steps = l->segments * l->steps, pairs = 2 * NBI_LANES;
    for (size_t from = 0; from < steps; from += chunk)
        for (size_t i = 0; i < pairs; i++) {
            int up = 0, down = 0;
            for (size_t k = from; k < steps && k < from + chunk; k++)
                for (size_t e = 0; e < 2; e++) {
                    const int v = (int8_t)block[(k * pairs + i) * 2 + e];
                    if (v > 0) up += v;
                    else down -= v;
                }
            if (up > 128 || down > 128) return false;
        }
    return true;
}

/* Divides the weights by what all of them are multiples of: narrow widths have levels of 8, 4 or 2
 * (nbk_level_step), and chunks are as many times longer. */
static int divide(const layout *l, uint8_t *block) {
    int8_t *w = (int8_t *)block;
    int unit = 0;
    for (size_t i = 0; i < l->block_bytes && unit != 1; i++)
        for (int v = w[i] < 0 ? -w[i] : w[i]; v != 0;) { /* Euclid */
            const int rest = unit % v;
            unit = v;
            v = rest;
        }
    for (size_t i = 0; i < l->block_bytes && unit > 1; i++) w[i] = (int8_t)(w[i] / unit);
    return unit > 0 ? unit : 1;
}

/* The longest chunk for the actual weights, all of them about equally long; 0: not one step. Far
 * longer than what holds for any weights of the same width (nbi_chunk_of). */
static size_t safe_chunk(const layout *l, const uint8_t *block) {
    const size_t steps = l->segments * l->steps;
    for (size_t n = 1; n <= steps; n++) {
        const size_t chunk = (steps + n - 1) / n;
        if (chunk_fits(l, block, chunk)) return chunk;
        if (chunk == 1) break;
    }
    return 0;
}

void nbi_dense_pack(const nbi_dense *d, const nbk_conv *p, const int8_t *levels, void *packed) {
    const layout l = layout_of(d, p);
    const size_t k = l.segments * l.length;
    int32_t *sums = packed;
    uint8_t *w = (uint8_t *)packed + head_bytes(p, &l);
    memset(packed, 0, nbi_dense_packed_bytes(d, p));
    if (d->depthwise) {
        pack_depthwise(&l, (size_t)p->kh * (size_t)p->kw, levels, w);
        return;
    }
    for (size_t o = 0; o < (size_t)p->out_c; o++) {
        const size_t group = o / l.n, in_group = o % l.n;
        const size_t block = group * l.blocks + in_group / NBI_LANES;
        for (size_t i = 0; i < k; i++) sums[o] += levels[o * k + i];
        pack_channel(&l, levels + o * k, d->element,
                     w + block * l.block_bytes + in_group % NBI_LANES * 4);
    }
    nbi_block *block = (nbi_block *)(void *)(sums + p->out_c);
    for (size_t b = 0; d->chunked && b < l.groups * l.blocks; b++) {
        uint8_t *at = w + b * l.block_bytes;
        block[b].unit = divide(&l, at);
        block[b].chunk = (int32_t)safe_chunk(&l, at);
    }
}

/* ---- running ------------------------------------------------------------------------------- */

size_t nbi_chunk_of(const nbi_conv_range *range, uint8_t in_type, int unit) {
    const int32_t x = range->in_max - (in_type == NBK_S8 ? range->in_min : 0);
    const int32_t w = -range->w_min > range->w_max ? -range->w_min : range->w_max;
    const int64_t pair = 2 * (int64_t)x * (w / unit);
    if (x < 0 || x > 255 || range->in_min < (in_type == NBK_S8 ? -128 : 0)) return 0;
    return pair <= 0 ? INT16_MAX : (size_t)(INT16_MAX / pair);
}

/* The constants of one channel for the quick way of requant_avx2.h, which does without those that it
 * cannot serve: there low and high always differ. */
static void init_quick(nbi_requant *q, int i) {
    const uint64_t exponent = (uint64_t)(1023 - q->shift[i]) << 52;
    double unit;
    memcpy(&unit, &exponent, sizeof unit);
    const double scale = q->mult[i] * unit, offset = q->zero + (double)q->missing[i] * scale;
    const double size = offset < 0 ? -offset : offset, error = (513 + size) * 0x1p-22;
    const bool serves = scale <= 0.25 && size <= 0x1p22; /* nothing leaves int32 */
    q->scale[i] = serves ? (float)scale : 0;
    q->low[i] = serves ? (float)(offset - error) : (float)q->lo;
    q->high[i] = serves ? (float)(offset + error) : (float)q->hi;
}

void nbi_requant_init(nbi_requant *q, const nbk_conv *p, const int32_t *had, int first,
                      int channels) {
    /* every array is filled below: clearing it first took as long */
    q->lo = p->out_lo;
    q->hi = p->out_hi;
    q->zero = p->out_zero;
    q->type = p->out_type;
    q->fast = true;
    q->stride = (size_t)p->out_c;
    q->first = first;
    q->channels = channels;
    const int32_t *bias = p->bias;
    for (int i = 0; i < NBI_LANES; i++) {
        const int shift = i < channels ? p->shift[first + i] : 32;
        q->mult[i] = i < channels ? p->mult[first + i] : 0;
        q->shift[i] = shift;
        q->shift_high[i] = shift - 32;
        q->missing[i] = had && i < channels ? (int64_t)bias[first + i] - had[first + i] : 0;
        const uint64_t half = ((uint64_t)1 << (shift - 1)) +
                              (uint64_t)q->missing[i] * (uint64_t)q->mult[i]; /* modulo 2^64 */
        (i % 2 ? q->half_odd : q->half_even)[i / 2] = (int64_t)half;
        if (shift < 32) q->fast = false;
        init_quick(q, i);
    }
}

void nbi_finish_x86(const nbk_conv *p, const int32_t *acc, const int32_t *had, size_t pixels,
                    void *out) {
    const size_t stride = (size_t)p->out_c;
    for (int first = 0; first < p->out_c; first += NBI_LANES) {
        const int n = p->out_c - first < NBI_LANES ? p->out_c - first : NBI_LANES;
        nbi_requant q;
        nbi_requant_init(&q, p, had, first, n);
        if (n == NBI_LANES) {
            nbi_requant_avx2(&q, acc + first, stride, 0, pixels, out);
            continue;
        }
        for (size_t i = 0; i < pixels; i++) { /* nothing may be read behind acc */
            int32_t row[NBI_LANES] = {0};
            memcpy(row, acc + i * stride + (size_t)first, (size_t)n * sizeof row[0]);
            nbi_requant_avx2(&q, row, NBI_LANES, i, 1, out);
        }
    }
}

static size_t offset_bytes(const layout *l) {
    return round_up(l->segments * l->steps * sizeof(uint32_t), 64);
}

size_t nbi_dense_scratch(const nbi_dense *d, const nbk_conv *p) {
    const layout l = layout_of(d, p);
    return offset_bytes(&l) + nbi_band_of(p, d->element, false).bytes;
}

/* One convolution in progress. */
typedef struct job {
    const nbi_dense *d;
    const nbk_conv *p;
    const nbi_dense_io *io;
    layout l;
    nbi_band band;
    const uint8_t *base; /* of the band in work */
    int y, height;       /* its output rows */
    nbi_tile tile;
} job;

static void find_offsets(const job *j, uint32_t *offset) {
    const nbk_conv *p = j->p;
    const size_t last = (size_t)p->kh * j->l.columns - 1;
    for (size_t i = 0; i < j->l.segments; i++) {
        const size_t s = i < last ? i : last; /* behind it: weight 0 */
        const size_t start = s / j->l.columns * (size_t)p->dh * j->band.row_bytes +
                             s % j->l.columns * (size_t)(p->dw * p->in_c) * j->band.element;
        for (size_t k = 0; k < j->l.steps; k++) *offset++ = (uint32_t)(start + 4 * k);
    }
}

/* The addresses of output pixels, row by row. */
typedef struct walk {
    const uint8_t *row;
    size_t x, width, step_x, step_y;
} walk;

static void find_pixels(walk *at, nbi_tile *t, size_t count, size_t group) {
    for (size_t i = 0; i < count;) {
        const size_t rest = at->width - at->x, n = rest < count - i ? rest : count - i;
        const uint8_t *first = at->row + at->x * at->step_x;
        for (size_t k = 0; k < n; k++) t->pixel[i + k] = first + k * at->step_x;
        i += n;
        at->x += n;
        if (at->x < at->width) break;
        at->x = 0;
        at->row += at->step_y;
    }
    for (size_t i = count; i % group != 0; i++) t->pixel[i] = t->pixel[0];
    t->pixels = count;
}

/* 16 channels of the band: first…first+n−1, input from `offset` bytes behind a pixel's start. */
static void run_block(const job *j, int first, int n, size_t offset, const int32_t *bias) {
    const nbk_conv *p = j->p;
    const size_t total = (size_t)j->height * (size_t)p->out_w;
    const size_t start = (size_t)j->y * (size_t)p->out_w;
    _Alignas(64) int32_t acc[NBI_TILE_PIXELS * NBI_LANES];
    walk at = {.row = j->base + offset,
               .width = (size_t)p->out_w,
               .step_x = (size_t)(p->sw * p->in_c) * j->band.element,
               .step_y = (size_t)p->sh * j->band.row_bytes};
    nbi_requant q;
    nbi_tile t = j->tile;
    nbi_requant_init(&q, p, NULL, first, n);
    t.bias = bias;
    for (size_t done = 0; done < total; done += t.pixels) {
        find_pixels(&at, &t, total - done < NBI_TILE_PIXELS ? total - done : NBI_TILE_PIXELS,
                    j->d->group);
        const bool direct = j->io->acc && n == NBI_LANES && t.pixels % j->d->group == 0;
        t.acc = direct ? j->io->acc + (start + done) * q.stride + (size_t)first : acc;
        t.stride = direct ? q.stride : NBI_LANES;
        j->d->tile(&t);
        if (direct) continue;
        if (!j->io->acc) {
            nbi_requant_avx2(&q, acc, NBI_LANES, start + done, t.pixels, j->io->out);
            continue;
        }
        int32_t *to = j->io->acc + (start + done) * q.stride + (size_t)first;
        for (size_t i = 0; i < t.pixels; i++)
            memcpy(to + i * q.stride, acc + i * NBI_LANES, (size_t)n * sizeof acc[0]);
    }
}

static void set_chunk(job *j, const nbi_block *block) {
    const size_t by_range = nbi_chunk_of(j->io->range, j->p->in_type, block->unit);
    j->tile.unit = (int16_t)block->unit;
    j->tile.chunk = (size_t)block->chunk > by_range ? (size_t)block->chunk : by_range;
}

static void run_band(job *j, const int32_t *sums, const uint8_t *w, int add) {
    const nbk_conv *p = j->p;
    const size_t lanes = NBI_LANES;
    const int32_t *biases = p->bias;
    const nbi_block *block = (const nbi_block *)(const void *)(sums + p->out_c);
    for (size_t g = 0; g < j->l.groups; g++)
        for (size_t b = 0; b < j->l.n; b += lanes) {
            const size_t first = g * j->l.n + b;
            const size_t n = j->l.n - b < lanes ? j->l.n - b : lanes;
            const size_t channel = j->d->depthwise ? b : g * j->l.c; /* the first input */
            int32_t bias[NBI_LANES] = {0};
            for (size_t i = 0; i < n; i++) /* modulo 2^32: only the final sum is known to fit */
                bias[i] = (int32_t)((uint32_t)biases[first + i] -
                                    (uint32_t)add * (uint32_t)sums[first + i]);
            j->tile.w = w;
            if (j->d->chunked) set_chunk(j, block);
            run_block(j, (int)first, (int)n, channel * j->d->element, bias);
            w += j->l.block_bytes;
            block++;
        }
}

void nbi_dense_run(const nbi_dense *d, const nbk_conv *p, const nbi_dense_io *io) {
    /* signed bytes become unsigned ones; Σw takes the difference back */
    const int add = d->element == 1 && p->in_type == NBK_S8 ? -io->range->in_min : 0;
    job j = {.d = d, .p = p, .io = io, .l = layout_of(d, p)};
    j.band = nbi_band_of(p, d->element, d->element == 1 && add == 0 && p->in_type == NBK_U8);
    find_offsets(&j, io->scratch);
    j.tile.offset = io->scratch;
    j.tile.steps = j.l.segments * j.l.steps;
    const int32_t *sums = io->packed;
    const uint8_t *w = (const uint8_t *)io->packed + head_bytes(p, &j.l);
    uint8_t *buffer = (uint8_t *)io->scratch + offset_bytes(&j.l);
    const int end = io->parts ? p->out_h * (io->part + 1) / io->parts : p->out_h;
    for (j.y = io->parts ? p->out_h * io->part / io->parts : 0; j.y < end; j.y += j.band.height) {
        j.height = end - j.y < j.band.height ? end - j.y : j.band.height;
        j.base = nbi_band_fill(p, &j.band, d->copy, add, io->in, j.y, j.height, buffer);
        run_band(&j, sums, w, add);
    }
}

#endif
