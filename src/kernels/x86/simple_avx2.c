/* Element-wise operations, pooling and copies in AVX2; what does not fill a vector goes through the
 * reference, so there is one arithmetic only. */
#include "kernels/kernels.h"

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>

static inline __m256i load(const void *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}
static inline void store(void *at, __m256i v) {
    _mm256_storeu_si256((__m256i *)at, v);
}

/* 8 values → int32. */
static inline __m256i load8(const void *x, uint8_t type, size_t at) {
    const __m128i v = _mm_loadl_epi64((const __m128i *)((const uint8_t *)x + at));
    return type == NBK_U8 ? _mm256_cvtepu8_epi32(v) : _mm256_cvtepi8_epi32(v);
}

/* Two vectors of 8 clamped values → 16 bytes. */
static inline void store16(void *y, uint8_t type, size_t at, __m256i a, __m256i b) {
    const __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    const __m128i low = _mm256_castsi256_si128(v), high = _mm256_extracti128_si256(v, 1);
    const __m128i bytes = type == NBK_U8 ? _mm_packus_epi16(low, high) : _mm_packs_epi16(low, high);
    _mm_storeu_si128((__m128i *)((uint8_t *)y + at), bytes);
}

/* ---- add ----------------------------------------------------------------------------------- */

typedef struct terms {
    __m256i a, b, offset, zero, lo, hi;
    __m128i shift;
} terms;

static inline __m256i add8(const nbk_add *p, const terms *s, const void *a, const void *b,
                           size_t at) {
    __m256i v = _mm256_mullo_epi32(load8(a, p->a_type, at), s->a);
    v = _mm256_add_epi32(v, _mm256_mullo_epi32(load8(b, p->b_type, at), s->b));
    v = _mm256_sra_epi32(_mm256_add_epi32(v, s->offset), s->shift);
    v = _mm256_add_epi32(v, s->zero);
    return _mm256_min_epi32(_mm256_max_epi32(v, s->lo), s->hi);
}

static void add_run(const nbk_add *p, const void *a, const void *b, void *out) {
    /* the zero points leave the loop; modulo 2^32, as the complete sum is known to fit */
    const uint32_t offset = (UINT32_C(1) << (p->shift - 1)) -
                            (uint32_t)p->a_zero * (uint32_t)p->a_mult -
                            (uint32_t)p->b_zero * (uint32_t)p->b_mult;
    const terms s = {.a = _mm256_set1_epi32(p->a_mult),
                     .b = _mm256_set1_epi32(p->b_mult),
                     .offset = _mm256_set1_epi32((int32_t)offset),
                     .zero = _mm256_set1_epi32(p->out_zero),
                     .lo = _mm256_set1_epi32(p->out_lo),
                     .hi = _mm256_set1_epi32(p->out_hi),
                     .shift = _mm_cvtsi32_si128(p->shift)};
    const size_t n = (size_t)p->count, whole = n / 16 * 16;
    for (size_t i = 0; i < whole; i += 16)
        store16(out, p->out_type, i, add8(p, &s, a, b, i), add8(p, &s, a, b, i + 8));
    if (whole == n) return;
    nbk_add rest = *p;
    rest.count = (int32_t)(n - whole);
    nbk_add_run(&rest, (const uint8_t *)a + whole, (const uint8_t *)b + whole,
                (uint8_t *)out + whole);
}

/* ---- lut ----------------------------------------------------------------------------------- */

/* One table of 256 as 16 rows of 16: x ^ 16·row is below 16 in its row only, and 0x70, added with
 * saturation, makes everything else an index that vpshufb answers with 0. */
static void lut_run(const nbk_lut *p, const void *in, void *out) {
    if (p->channels != 1) {
        nbk_lut_run(p, in, out);
        return;
    }
    const uint8_t *x = in;
    uint8_t *y = out;
    const __m256i guard = _mm256_set1_epi8(0x70), next = _mm256_set1_epi8(16);
    const size_t n = (size_t)p->count, whole = n / 64 * 64;
    for (size_t i = 0; i < whole; i += 64) {
        const __m256i x0 = load(x + i), x1 = load(x + i + 32);
        __m256i y0 = _mm256_setzero_si256(), y1 = y0, row = y0;
        for (int r = 0; r < 16; r++) {
            const __m128i *at = (const __m128i *)(p->table + 16 * r);
            const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(at));
            const __m256i i0 = _mm256_adds_epu8(_mm256_xor_si256(x0, row), guard);
            const __m256i i1 = _mm256_adds_epu8(_mm256_xor_si256(x1, row), guard);
            y0 = _mm256_or_si256(y0, _mm256_shuffle_epi8(table, i0));
            y1 = _mm256_or_si256(y1, _mm256_shuffle_epi8(table, i1));
            row = _mm256_add_epi8(row, next);
        }
        store(y + i, y0);
        store(y + i + 32, y1);
    }
    for (size_t i = whole; i < n; i++) y[i] = p->table[x[i]];
}

/* ---- pooling ------------------------------------------------------------------------------- */

typedef struct window {
    const uint8_t *first; /* the first valid tap */
    size_t rows, columns; /* valid taps */
    size_t row_step, column_step;
} window;

/* The taps of `size` pixels inside the image: from the returned one on, *count of them. */
static int valid_taps(int start, int step, int taps, int size, size_t *count) {
    int first = 0, last = taps;
    while (first < last && start + first * step < 0) first++;
    while (last > first && start + (last - 1) * step >= size) last--;
    *count = (size_t)(last - first);
    return start + first * step;
}

static window window_at(const nbk_pool *p, const void *in, int oy, int ox) {
    window w;
    const int y = valid_taps(oy * p->sh - p->pt, p->dh, p->kh, p->in_h, &w.rows);
    const int x = valid_taps(ox * p->sw - p->pl, p->dw, p->kw, p->in_w, &w.columns);
    const size_t c = (size_t)p->c, row = (size_t)p->in_w * c;
    w.row_step = (size_t)p->dh * row;
    w.column_step = (size_t)p->dw * c;
    w.first = in; /* without a valid tap nothing is read */
    if (w.rows > 0 && w.columns > 0) w.first += (size_t)y * row + (size_t)x * c;
    return w;
}

static inline __m256i max32(const window *w, size_t c, uint8_t flip) {
    const __m256i sign = _mm256_set1_epi8((char)flip);
    __m256i best = _mm256_setzero_si256();
    for (size_t i = 0; i < w->rows; i++)
        for (size_t j = 0; j < w->columns; j++) {
            const __m256i v = load(w->first + i * w->row_step + j * w->column_step + c);
            best = _mm256_max_epu8(best, _mm256_xor_si256(v, sign));
        }
    return _mm256_xor_si256(best, sign);
}

static void maxpool_run(const nbk_pool *p, const void *in, void *out) {
    const uint8_t flip = p->type == NBK_S8 ? 0x80 : 0; /* signed order → unsigned order */
    const size_t channels = (size_t)p->c;
    uint8_t *y = out;
    for (int oy = 0; oy < p->out_h; oy++)
        for (int ox = 0; ox < p->out_w; ox++, y += channels) {
            const window w = window_at(p, in, oy, ox);
            for (size_t c = 0; c < channels; c += 32) {
                uint8_t row[32]; /* reads behind the channels stay within the slack */
                store(row, max32(&w, c, flip));
                memcpy(y + c, row, channels - c < 32 ? channels - c : 32);
            }
        }
}

static inline void sum16(const nbk_pool *p, const window *w, size_t c, int32_t *acc) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = 0; i < w->rows; i++)
        for (size_t j = 0; j < w->columns; j++) {
            const size_t at = i * w->row_step + j * w->column_step + c;
            a = _mm256_add_epi32(a, load8(w->first, p->type, at));
            b = _mm256_add_epi32(b, load8(w->first, p->type, at + 8));
        }
    store(acc, a);
    store(acc + 8, b);
}

static void avgpool_run(const nbk_pool *p, const void *in, void *out) {
    const size_t channels = (size_t)p->c;
    size_t at = 0;
    for (int oy = 0; oy < p->out_h; oy++)
        for (int ox = 0; ox < p->out_w; ox++, at += channels) {
            const window w = window_at(p, in, oy, ox);
            const int32_t valid = (int32_t)(w.rows * w.columns);
            const int32_t n = p->count_pad ? 0 : valid;
            for (size_t c = 0; c < channels; c += 16) {
                int32_t acc[16];
                sum16(p, &w, c, acc);
                for (size_t i = 0; i < 16 && c + i < channels; i++) {
                    const int32_t sum = acc[i] - valid * p->in_zero;
                    const int64_t v = nbk_rescale(sum, p->mult[n], p->shift[n]) + p->out_zero;
                    nbk_store(out, p->out_type, at + c + i, nbk_clamp(v, p->out_lo, p->out_hi));
                }
            }
        }
}

/* ---- copy ---------------------------------------------------------------------------------- */

/* Rows of neighbouring elements go through memcpy. */
static void copy_run(const nbk_copy *p, const void *in, void *out) {
    enum { LAST = NBK_COPY_RANK - 1 };
    if (p->in_stride[LAST] != 1 || p->out_stride[LAST] != 1 || p->n[LAST] < 16) {
        nbk_copy_run(p, in, out);
        return;
    }
    int32_t index[NBK_COPY_RANK] = {0}, from = p->in_offset, to = p->out_offset;
    const size_t size = p->size, bytes = (size_t)p->n[LAST] * size;
    if (p->fill_bytes > 0) memset(out, (uint8_t)p->fill_value, (size_t)p->fill_bytes);
    for (int d = 0; d < NBK_COPY_RANK; d++)
        if (p->n[d] <= 0) return;
    for (;;) {
        memcpy((uint8_t *)out + (size_t)to * size, (const uint8_t *)in + (size_t)from * size,
               bytes);
        int d = LAST - 1;
        while (d >= 0 && ++index[d] == p->n[d]) {
            from -= (p->n[d] - 1) * p->in_stride[d];
            to -= (p->n[d] - 1) * p->out_stride[d];
            index[d--] = 0;
        }
        if (d < 0) return;
        from += p->in_stride[d];
        to += p->out_stride[d];
    }
}

/* ---- moments ------------------------------------------------------------------------------- */

/* 8 channels from c on: even and odd ones apart, as vpmuldq takes them. */
static void moments8(const int32_t *acc, size_t pixels, size_t channels, int64_t *sum,
                     int64_t *square) {
    const __m256i one = _mm256_set1_epi32(1), zero = _mm256_setzero_si256();
    __m256i se = zero, so = zero, qe = zero, qo = zero;
    int64_t part[4][4];
    for (size_t i = 0; i < pixels; i++) {
        const __m256i even = _mm256_loadu_si256((const __m256i *)(acc + i * channels));
        const __m256i odd = _mm256_srli_epi64(even, 32);
        se = _mm256_add_epi64(se, _mm256_mul_epi32(even, one));
        so = _mm256_add_epi64(so, _mm256_mul_epi32(odd, one));
        qe = _mm256_add_epi64(qe, _mm256_mul_epi32(even, even));
        qo = _mm256_add_epi64(qo, _mm256_mul_epi32(odd, odd));
    }
    _mm256_storeu_si256((__m256i *)part[0], se);
    _mm256_storeu_si256((__m256i *)part[1], so);
    _mm256_storeu_si256((__m256i *)part[2], qe);
    _mm256_storeu_si256((__m256i *)part[3], qo);
    for (size_t c = 0; c < 8; c++) {
        sum[c] = part[c % 2][c / 2];
        square[c] = part[2 + c % 2][c / 2];
    }
}

static void moments_run(const int32_t *acc, size_t pixels, size_t channels, int64_t *sum,
                        int64_t *square) {
    size_t c = 0;
    for (; c + 8 <= channels; c += 8) moments8(acc + c, pixels, channels, sum + c, square + c);
    for (; c < channels; c++) {
        sum[c] = square[c] = 0;
        for (size_t i = 0; i < pixels; i++) {
            const int64_t v = acc[i * channels + c];
            sum[c] += v;
            square[c] += v * v;
        }
    }
}

/* ---- sums as int16 ------------------------------------------------------------------------- */

typedef struct halves {
    int64_t sum[16], square[16];
} halves;

/* 16 channels of a pixel; the largest size so far in *most. */
static inline __m256i halve16(const int32_t *acc, __m128i shift, __m256i *most) {
    const __m256i low = _mm256_sra_epi32(load(acc), shift);
    const __m256i high = _mm256_sra_epi32(load(acc + 8), shift);
    const __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    *most = _mm256_max_epu16(*most, _mm256_abs_epi16(v));
    return v;
}

/* Adds 8 sums of two squares, each below 2^31, to those of even and of odd lanes. */
static inline void add_squares(__m256i v, __m256i *even, __m256i *odd) {
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    *even = _mm256_add_epi64(*even, _mm256_and_si256(v, low));
    *odd = _mm256_add_epi64(*odd, _mm256_srli_epi64(v, 32));
}

/* Pairs of neighbouring pixels, so that vpmaddwd adds their values and their squares; lanes are
 * those of vpunpck: channels 0–3 and 8–11, 4–7 and 12–15. An odd pixel at the end is paired with 0.
 * The pixels are so few that int32 holds their sum. */
static bool halve_block(const int32_t *acc, size_t pixels, size_t channels, int shift,
                        int16_t *half, halves *to) {
    const __m256i one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    const __m128i by = _mm_cvtsi32_si128(shift);
    __m256i most = zero, s0 = zero, s1 = zero, e0 = zero, o0 = zero, e1 = zero, o1 = zero;
    for (size_t i = 0; i < pixels; i += 2) {
        const bool pair = i + 1 < pixels;
        const __m256i p = halve16(acc + i * channels, by, &most);
        const __m256i q = pair ? halve16(acc + (i + 1) * channels, by, &most) : zero;
        const __m256i low = _mm256_unpacklo_epi16(p, q), high = _mm256_unpackhi_epi16(p, q);
        store(half + i * channels, p);
        if (pair) store(half + (i + 1) * channels, q);
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(low, one));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(high, one));
        add_squares(_mm256_madd_epi16(low, low), &e0, &o0);
        add_squares(_mm256_madd_epi16(high, high), &e1, &o1);
    }
    int32_t sum[2][8];
    int64_t even[2][4], odd[2][4];
    store(sum[0], s0), store(sum[1], s1);
    store(even[0], e0), store(even[1], e1);
    store(odd[0], o0), store(odd[1], o1);
    for (size_t c = 0; c < 16; c++) {
        const size_t side = c / 4 % 2, lane = c / 8 * 4 + c % 4;
        to->sum[c] += sum[side][lane];
        to->square[c] += (lane % 2 ? odd : even)[side][lane / 2];
    }
    const __m256i fits = _mm256_set1_epi16(32766);
    return _mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_max_epu16(most, fits), fits)) == -1;
}

static bool halve_run(const int32_t *acc, size_t pixels, size_t channels, int shift, int16_t *half,
                      int64_t *sum, int64_t *square) {
    enum { MOST = 1 << 15 }; /* pixels at once */
    if (channels % 16) return nbi_simple_select(NBI_ISA_REF)->halve(acc, pixels, channels, shift, half, sum, square);
    for (size_t c = 0; c < channels; c += 16) {
        halves to = {{0}, {0}};
        for (size_t i = 0; i < pixels; i += MOST) {
            const size_t n = pixels - i < MOST ? pixels - i : MOST, at = i * channels + c;
            if (!halve_block(acc + at, n, channels, shift, half + at, &to)) return false;
        }
        memcpy(sum + c, to.sum, sizeof to.sum);
        memcpy(square + c, to.square, sizeof to.square);
    }
    return true;
}

static void widen_run(const int16_t *half, size_t count, int shift, int32_t *acc) {
    const __m128i by = _mm_cvtsi32_si128(shift);
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(half + i));
        store(acc + i, _mm256_sll_epi32(_mm256_cvtepi16_epi32(v), by));
    }
    for (; i < count; i++) acc[i] = half[i] * (1 << shift);
}

extern const nbi_simple_kernels nbi_simple_row_avx2;
const nbi_simple_kernels nbi_simple_row_avx2 = {
    .isa = NBI_ISA_AVX2,
    .add = add_run,
    .mul = nbk_mul_run,
    .lut = lut_run,
    .maxpool = maxpool_run,
    .avgpool = avgpool_run,
    .copy = copy_run,
    .moments = moments_run,
    .halve = halve_run,
    .widen = widen_run,
};

#endif
