/* Dense convolution in AVX2: two tiles and the requantization.
 *
 * wide: int16 × int16 in vpmaddwd, exact for all 8-bit values; 2 instructions per 16 MAC.
 * ubs: unsigned × signed bytes in vpmaddubsw, whose int16 sums of two products saturate, so it is
 *   used only where the range of values proves that they fit. If several such sums fit together
 *   (4-bit weights: 8 of them), they are added in int16 first, and the widening to int32
 *   becomes rare: up to twice as fast as wide.
 * Accumulators are named variables: gcc 12 spills arrays of vectors. */
#include "kernels/x86/conv_x86.h"

#include <string.h>

#if defined(__AVX2__)
#include "kernels/x86/requant_avx2.h"

static inline __m256i broadcast4(const uint8_t *at) {
    int32_t v;
    memcpy(&v, at, 4);
    return _mm256_set1_epi32(v);
}

static inline __m256i load(const void *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}
static inline void store(void *at, __m256i v) {
    _mm256_storeu_si256((__m256i *)at, v);
}

/* ---- wide ---------------------------------------------------------------------------------- */

static inline __m256i madd(__m256i sum, __m256i x, __m256i w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
}

static void wide_1(const nbi_tile *t, size_t first) {
    __m256i a0 = load(t->bias), a1 = load(t->bias + 8);
    const uint8_t *w = t->w, *x = t->pixel[first];
    for (size_t k = 0; k < t->steps; k++, w += 64) {
        const __m256i v = broadcast4(x + t->offset[k]);
        a0 = madd(a0, v, load(w));
        a1 = madd(a1, v, load(w + 32));
    }
    store(t->acc + first * t->stride, a0);
    store(t->acc + first * t->stride + 8, a1);
}

static void wide_4(const nbi_tile *t, size_t first) {
    const uint8_t *const *pixel = t->pixel + first, *w = t->w;
    const uint8_t *xa = pixel[0], *xb = pixel[1], *xc = pixel[2], *xd = pixel[3];
    __m256i a0 = load(t->bias), a1 = load(t->bias + 8);
    __m256i b0 = a0, b1 = a1, c0 = a0, c1 = a1, d0 = a0, d1 = a1;
    for (size_t k = 0; k < t->steps; k++, w += 64) {
        const size_t at = t->offset[k];
        const __m256i w0 = load(w), w1 = load(w + 32);
        __m256i x = broadcast4(xa + at);
        a0 = madd(a0, x, w0);
        a1 = madd(a1, x, w1);
        x = broadcast4(xb + at);
        b0 = madd(b0, x, w0);
        b1 = madd(b1, x, w1);
        x = broadcast4(xc + at);
        c0 = madd(c0, x, w0);
        c1 = madd(c1, x, w1);
        x = broadcast4(xd + at);
        d0 = madd(d0, x, w0);
        d1 = madd(d1, x, w1);
    }
    int32_t *acc = t->acc + first * t->stride;
    store(acc, a0), store(acc + 8, a1), acc += t->stride;
    store(acc, b0), store(acc + 8, b1), acc += t->stride;
    store(acc, c0), store(acc + 8, c1), acc += t->stride;
    store(acc, d0), store(acc + 8, d1);
}

static void wide_tile(const nbi_tile *t) {
    for (size_t i = 0; i < t->pixels; i += 4) (t->pixels - i == 1 ? wide_1 : wide_4)(t, i);
}

/* ---- ubs ----------------------------------------------------------------------------------- */

static inline __m256i madd4(__m256i sum, __m256i x, __m256i w, __m256i unit) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), unit));
}

static void ubs_1(const nbi_tile *t, size_t first) {
    const __m256i unit = _mm256_set1_epi16(t->unit);
    __m256i a0 = load(t->bias), a1 = load(t->bias + 8);
    const uint8_t *w = t->w, *x = t->pixel[first];
    for (size_t k = 0; k < t->steps; k++, w += 64) {
        const __m256i v = broadcast4(x + t->offset[k]);
        a0 = madd4(a0, v, load(w), unit);
        a1 = madd4(a1, v, load(w + 32), unit);
    }
    store(t->acc + first * t->stride, a0);
    store(t->acc + first * t->stride + 8, a1);
}

/* Every step is widened. */
static void ubs_4(const nbi_tile *t, size_t first) {
    const __m256i unit = _mm256_set1_epi16(t->unit);
    const uint8_t *const *pixel = t->pixel + first, *w = t->w;
    const uint8_t *xa = pixel[0], *xb = pixel[1], *xc = pixel[2], *xd = pixel[3];
    __m256i a0 = load(t->bias), a1 = load(t->bias + 8);
    __m256i b0 = a0, b1 = a1, c0 = a0, c1 = a1, d0 = a0, d1 = a1;
    for (size_t k = 0; k < t->steps; k++, w += 64) {
        const size_t at = t->offset[k];
        const __m256i w0 = load(w), w1 = load(w + 32);
        __m256i x = broadcast4(xa + at);
        a0 = madd4(a0, x, w0, unit);
        a1 = madd4(a1, x, w1, unit);
        x = broadcast4(xb + at);
        b0 = madd4(b0, x, w0, unit);
        b1 = madd4(b1, x, w1, unit);
        x = broadcast4(xc + at);
        c0 = madd4(c0, x, w0, unit);
        c1 = madd4(c1, x, w1, unit);
        x = broadcast4(xd + at);
        d0 = madd4(d0, x, w0, unit);
        d1 = madd4(d1, x, w1, unit);
    }
    int32_t *acc = t->acc + first * t->stride;
    store(acc, a0), store(acc + 8, a1), acc += t->stride;
    store(acc, b0), store(acc + 8, b1), acc += t->stride;
    store(acc, c0), store(acc + 8, c1), acc += t->stride;
    store(acc, d0), store(acc + 8, d1);
}

/* to = from + unit · the pairs of int16 in u and v: 16 channels of a pixel. */
static inline void widen(int32_t *to, const int32_t *from, __m256i u, __m256i v, __m256i unit) {
    store(to, _mm256_add_epi32(load(from), _mm256_madd_epi16(u, unit)));
    store(to + 8, _mm256_add_epi32(load(from + 8), _mm256_madd_epi16(v, unit)));
}

/* One pixel of a step: its 4 bytes times both vectors of weights, added to its two sums. */
#define UBS_PIXEL(x, low, high, one, other)                                  \
    "vpbroadcastd (%[" x "],%[at]), %%ymm10\n\t"                             \
    "vpmaddubsw %%ymm8, %%ymm10, %%" one "\n\t"                              \
    "vpmaddubsw %%ymm9, %%ymm10, %%" other "\n\t"                            \
    "vpaddw %%" one ", %[" low "], %[" low "]\n\t"                           \
    "vpaddw %%" other ", %[" high "], %[" high "]\n\t"

/* Steps from…to−1, summed in int16, then added to the int32 sums in memory, or to the bias. In
 * assembly: gcc reads the weights again for every pixel, and the loads then take longer than the
 * products. */
static inline void ubs_chunk(const nbi_tile *t, size_t first, size_t from, size_t to) {
    const uint8_t *const *pixel = t->pixel + first, *w = t->w + from * 64;
    const uint32_t *offset = t->offset + from, *end = t->offset + to;
    __m256i a0 = _mm256_setzero_si256(), a1 = a0;
    __m256i b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
    size_t at;
    __asm__("1:\n\t"
            "movl (%[offset]), %k[at]\n\t"
            "vmovdqu (%[w]), %%ymm8\n\t"
            "vmovdqu 32(%[w]), %%ymm9\n\t" /* clang-format off */
            UBS_PIXEL("xa", "a0", "a1", "ymm11", "ymm12")
            UBS_PIXEL("xb", "b0", "b1", "ymm13", "ymm14")
            UBS_PIXEL("xc", "c0", "c1", "ymm15", "ymm11")
            UBS_PIXEL("xd", "d0", "d1", "ymm12", "ymm13") /* clang-format on */
            "add $4, %[offset]\n\t"
            "add $64, %[w]\n\t"
            "cmp %[end], %[offset]\n\t"
            "jne 1b"
            : [a0] "+x"(a0), [a1] "+x"(a1), [b0] "+x"(b0), [b1] "+x"(b1), [c0] "+x"(c0),
              [c1] "+x"(c1), [d0] "+x"(d0), [d1] "+x"(d1), [offset] "+r"(offset), [w] "+r"(w),
              [at] "=&r"(at)
            : [end] "r"(end), [xa] "r"(pixel[0]), [xb] "r"(pixel[1]), [xc] "r"(pixel[2]),
              [xd] "r"(pixel[3])
            : "memory", "cc", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12", "ymm13", "ymm14", "ymm15");
    const __m256i unit = _mm256_set1_epi16(t->unit);
    int32_t *acc = t->acc + first * t->stride;
    const int32_t *was = from ? acc : t->bias;
    const size_t next = from ? t->stride : 0;
    widen(acc, was, a0, a1, unit);
    acc += t->stride, was += next;
    widen(acc, was, b0, b1, unit);
    acc += t->stride, was += next;
    widen(acc, was, c0, c1, unit);
    acc += t->stride, was += next;
    widen(acc, was, d0, d1, unit);
}

static void ubs_chunks(const nbi_tile *t, size_t first) {
    for (size_t k = 0; k < t->steps; k += t->chunk)
        ubs_chunk(t, first, k, t->steps - k < t->chunk ? t->steps : k + t->chunk);
}

static void ubs_tile(const nbi_tile *t) {
    for (size_t i = 0; i < t->pixels; i += 4)
        (t->pixels - i == 1 ? ubs_1 : t->chunk < 2 ? ubs_4 : ubs_chunks)(t, i);
}

/* ---- copies -------------------------------------------------------------------------------- */

void nbi_copy_bytes_avx2(void *dst, const uint8_t *src, size_t n, uint8_t type, int add) {
    const __m256i plus = _mm256_set1_epi8((char)add);
    (void)type; /* the same bits */
    for (size_t i = 0; i < n; i += 32)
        store((uint8_t *)dst + i, _mm256_add_epi8(load(src + i), plus));
}

void nbi_widen_avx2(void *dst, const uint8_t *src, size_t n, uint8_t type, int add) {
    int16_t *out = dst;
    (void)add;
    for (size_t i = 0; i < n; i += 16) {
        const __m128i v = _mm_loadu_si128((const __m128i *)(src + i));
        store(out + i, type == NBK_U8 ? _mm256_cvtepu8_epi16(v) : _mm256_cvtepi8_epi16(v));
    }
}

/* ---- requantization ------------------------------------------------------------------------ */

static void requant_slow(const nbi_requant *q, const int32_t *acc, size_t at, void *out) {
    for (int i = 0; i < q->channels; i++) {
        const int32_t sum = (int32_t)(acc[i] + q->missing[i]);
        const int64_t v = nbk_rescale(sum, q->mult[i], q->shift[i]) + q->zero;
        nbk_store(out, q->type, at + (size_t)i, nbk_clamp(v, q->lo, q->hi));
    }
}

static __m256i limit32(const nbi_requant *q, __m256i v) {
    v = _mm256_add_epi32(v, _mm256_set1_epi32(q->zero));
    v = _mm256_max_epi32(v, _mm256_set1_epi32(q->lo));
    return _mm256_min_epi32(v, _mm256_set1_epi32(q->hi));
}

/* One pixel, any number of channels, any type. */
static void requant_one(const nbi_requant *q, const int32_t *acc, size_t at, void *out) {
    const rescale first = rescale_of(q, 0), second = rescale_of(q, 8);
    const __m256i a = rescale8(&first, load(acc)), b = rescale8(&second, load(acc + 8));
    const size_t n = (size_t)q->channels;
    int32_t row[NBI_LANES];
    if (q->type == NBK_S32) {
        store(row, limit32(q, a));
        store(row + 8, limit32(q, b));
        memcpy((int32_t *)out + at, row, n * sizeof row[0]);
        return;
    }
    const limits l = limits_of(q);
    const __m256i v = _mm256_packs_epi32(a, b);
    store(row, narrow_wide(v, v, &l, q->type));
    memcpy((uint8_t *)out + at, row, n);
}

/* 16 channels of an even number of pixels as bytes: the common case. */
static inline void requant_pairs(const nbi_requant *q, const int32_t *acc, size_t acc_stride,
                                 size_t pixels, uint8_t type, uint8_t *out) {
    const rescale r[2] = {rescale_of(q, 0), rescale_of(q, 8)};
    const quick k = quick_of(q, 1);
    const limits l = limits_of(q);
    const size_t stride = q->stride;
    for (size_t i = 0; i < pixels; i += 2, acc += 2 * acc_stride, out += 2 * stride) {
        const int32_t *next = acc + acc_stride;
        const __m256i sum[4] = {load(acc), load(acc + 8), load(next), load(next + 8)};
        __m256i differ = _mm256_setzero_si256();
        __m256i v = requant2_quick(&k, &l, type, sum, &differ);
        if (!_mm256_testz_si256(differ, differ)) v = requant2_wide(r, &l, type, sum);
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(v));
        _mm_storeu_si128((__m128i *)(out + stride), _mm256_extracti128_si256(v, 1));
    }
}

void nbi_requant_avx2(const nbi_requant *q, const int32_t *acc, size_t acc_stride, size_t pixel,
                      size_t pixels, void *out) {
    const size_t at = pixel * q->stride + (size_t)q->first;
    const bool whole = q->fast && q->channels == NBI_LANES && q->type != NBK_S32;
    const size_t pairs = whole ? pixels / 2 * 2 : 0;
    if (q->type == NBK_U8)
        requant_pairs(q, acc, acc_stride, pairs, NBK_U8, (uint8_t *)out + at);
    else if (q->type == NBK_S8)
        requant_pairs(q, acc, acc_stride, pairs, NBK_S8, (uint8_t *)out + at);
    for (size_t i = pairs; i < pixels; i++)
        (q->fast ? requant_one : requant_slow)(q, acc + i * acc_stride, at + i * q->stride, out);
}

/* ---- the rows ------------------------------------------------------------------------------ */

static const nbi_dense WIDE = {.element = 2, .group = 4, .copy = nbi_widen_avx2, .tile = wide_tile};
static const nbi_dense UBS = {
    .element = 1, .chunked = true, .group = 4, .copy = nbi_copy_bytes_avx2, .tile = ubs_tile};

static size_t wide_packed(const nbk_conv *p) {
    return nbi_dense_packed_bytes(&WIDE, p);
}
static void wide_pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    nbi_dense_pack(&WIDE, p, levels, packed);
}
static size_t wide_scratch(const nbk_conv *p) {
    return nbi_dense_scratch(&WIDE, p);
}
static void wide_run(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                     const void *in, void *out, void *scratch) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, 0, 0};
    nbi_dense_run(&WIDE, p, &io);
}
static void wide_run_part(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                          const void *in, void *out, void *scratch, int part, int parts) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, part, parts};
    nbi_dense_run(&WIDE, p, &io);
}
static void wide_sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                      const void *in, int32_t *acc, void *scratch) {
    const nbi_dense_io io = {range, packed, in, NULL, scratch, acc, 0, 0};
    nbi_dense_run(&WIDE, p, &io);
}

static bool ubs_supports(const nbk_conv *p, const nbi_conv_range *range) {
    return nbi_chunk_of(range, p->in_type, 1) >= 1;
}
static size_t ubs_packed(const nbk_conv *p) {
    return nbi_dense_packed_bytes(&UBS, p);
}
static void ubs_pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    nbi_dense_pack(&UBS, p, levels, packed);
}
static size_t ubs_scratch(const nbk_conv *p) {
    return nbi_dense_scratch(&UBS, p);
}
static void ubs_run(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                    const void *in, void *out, void *scratch) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, 0, 0};
    nbi_dense_run(&UBS, p, &io);
}
static void ubs_run_part(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                         const void *in, void *out, void *scratch, int part, int parts) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, part, parts};
    nbi_dense_run(&UBS, p, &io);
}
static void ubs_sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                     const void *in, int32_t *acc, void *scratch) {
    const nbi_dense_io io = {range, packed, in, NULL, scratch, acc, 0, 0};
    nbi_dense_run(&UBS, p, &io);
}

extern const nbi_conv_kernel nbi_conv_row_avx2_wide, nbi_conv_row_avx2_ubs;
const nbi_conv_kernel nbi_conv_row_avx2_wide = {
    .name = "nbi_conv_8_8_avx2_wide",
    .isa = NBI_ISA_AVX2,
    .packed_bytes = wide_packed,
    .pack = wide_pack,
    .scratch_bytes = wide_scratch,
    .run = wide_run,
    .run_part = wide_run_part,
    .sums = wide_sums,
    .finish = nbi_finish_x86,
};
const nbi_conv_kernel nbi_conv_row_avx2_ubs = {
    .name = "nbi_conv_8_7_avx2_ubs",
    .isa = NBI_ISA_AVX2,
    .supports = ubs_supports,
    .packed_bytes = ubs_packed,
    .pack = ubs_pack,
    .scratch_bytes = ubs_scratch,
    .run = ubs_run,
    .run_part = ubs_run_part,
    .sums = ubs_sums,
    .finish = nbi_finish_x86,
};

#endif
