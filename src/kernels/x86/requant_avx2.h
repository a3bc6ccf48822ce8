/* Requantization of vectors of sums, in AVX2. Two ways, the same result:
 *
 * wide: the 64-bit products of nbk_rescale.
 * quick: z = acc·mult·2^−shift + zero in float, once a little too low and once a little too high;
 * where both round to the same byte, it is that of the exact z. The rest, few in ten thousand, is
 * left to the wide way. The proof, with e = (513 + |o|)·2^−22 and o = zero + missing·mult·2^−shift:
 *   conversion and factor are off by 2^−24 of themselves each, as are offset and result. So for
 *   |z| ≤ 512 the float result is off by less than (|z| + |o|)·2^−23·1.001 + (|o| + 1)·2^−24 +
 *   514·2^−24 < e, and low < z < high; beyond, with |o| ≤ 2^22, both are beyond the limits of a
 * byte. Rounding is monotone, and a tie of z lies strictly between the two. */
#ifndef NIBBLE_KERNELS_REQUANT_AVX2_H
#define NIBBLE_KERNELS_REQUANT_AVX2_H

#include "kernels/x86/conv_x86.h"

#include <immintrin.h>

/* The constants of 8 channels, out of reach of stores to the output. */
typedef struct rescale {
    __m256i mult, mult_odd, half_even, half_odd, shift;
} rescale;

static inline rescale rescale_of(const nbi_requant *q, int at) {
    const __m256i mult = _mm256_loadu_si256((const __m256i *)(q->mult + at));
    return (rescale){.mult = mult,
                     .mult_odd = _mm256_srli_epi64(mult, 32),
                     .half_even = _mm256_loadu_si256((const __m256i *)(q->half_even + at / 2)),
                     .half_odd = _mm256_loadu_si256((const __m256i *)(q->half_odd + at / 2)),
                     .shift = _mm256_loadu_si256((const __m256i *)(q->shift_high + at))};
}

/* The products in 64 bits, of which the upper halves shifted by shift − 32 are left. */
static inline __m256i rescale8(const rescale *r, __m256i sum) {
    __m256i even = _mm256_mul_epi32(sum, r->mult);
    __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(sum, 32), r->mult_odd);
    even = _mm256_add_epi64(even, r->half_even);
    odd = _mm256_add_epi64(odd, r->half_odd);
    const __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    return _mm256_srav_epi32(high, r->shift);
}

typedef struct limits {
    __m256i zero, lo, hi; /* int16, bytes, bytes */
} limits;

static inline limits limits_of(const nbi_requant *q) {
    return (limits){.zero = _mm256_set1_epi16((int16_t)q->zero),
                    .lo = _mm256_set1_epi8((char)q->lo),
                    .hi = _mm256_set1_epi8((char)q->hi)};
}

/* int16 → bytes, saturated. */
static inline __m256i narrow(__m256i a, __m256i b, uint8_t type) {
    return type == NBK_U8 ? _mm256_packus_epi16(a, b) : _mm256_packs_epi16(a, b);
}

/* What narrow gave of 16 channels of two pixels → 2 × 16 bytes within the limits. */
static inline __m256i limit(__m256i v, const limits *l, uint8_t type) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    v = type == NBK_U8 ? _mm256_max_epu8(v, l->lo) : _mm256_max_epi8(v, l->lo);
    v = type == NBK_U8 ? _mm256_min_epu8(v, l->hi) : _mm256_min_epi8(v, l->hi);
    return _mm256_permutevar8x32_epi32(v, order);
}

/* 16 channels of two pixels, in pairs of vectors of int16 → 2 × 16 bytes. Saturation on the way
 * cannot change the result: the limits lie within the type, and |zero| is far below 2^15. */
static inline __m256i narrow_wide(__m256i a, __m256i b, const limits *l, uint8_t type) {
    return limit(narrow(_mm256_adds_epi16(a, l->zero), _mm256_adds_epi16(b, l->zero), type), l,
                 type);
}

/* v: channels 0–7 and 8–15 of a pixel, then of the next one. */
static inline __m256i requant2_wide(const rescale r[2], const limits *l, uint8_t type,
                                    const __m256i v[4]) {
    const __m256i a = _mm256_packs_epi32(rescale8(&r[0], v[0]), rescale8(&r[1], v[1]));
    const __m256i b = _mm256_packs_epi32(rescale8(&r[0], v[2]), rescale8(&r[1], v[3]));
    return narrow_wide(a, b, l, type);
}

/* Constants of 16 channels for the quick way. */
typedef struct quick {
    __m256 scale[2], low[2], high[2];
} quick;

/* times: a power of two, by which sums are too large. */
static inline quick quick_of(const nbi_requant *q, float times) {
    const __m256 part = _mm256_set1_ps(1 / times);
    return (quick){.scale = {_mm256_mul_ps(_mm256_loadu_ps(q->scale), part),
                             _mm256_mul_ps(_mm256_loadu_ps(q->scale + 8), part)},
                   .low = {_mm256_loadu_ps(q->low), _mm256_loadu_ps(q->low + 8)},
                   .high = {_mm256_loadu_ps(q->high), _mm256_loadu_ps(q->high + 8)}};
}

static inline __m256i quick8(__m256 v, __m256 scale, __m256 offset) {
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(v, scale, offset));
}

/* As requant2_wide; bits where the result is not certain are set in *differ. */
static inline __m256i requant2_quick(const quick *k, const limits *l, uint8_t type,
                                     const __m256i v[4], __m256i *differ) {
    const __m256 a0 = _mm256_cvtepi32_ps(v[0]), a1 = _mm256_cvtepi32_ps(v[1]);
    const __m256 b0 = _mm256_cvtepi32_ps(v[2]), b1 = _mm256_cvtepi32_ps(v[3]);
    const __m256i low = narrow(
        _mm256_packs_epi32(quick8(a0, k->scale[0], k->low[0]), quick8(a1, k->scale[1], k->low[1])),
        _mm256_packs_epi32(quick8(b0, k->scale[0], k->low[0]), quick8(b1, k->scale[1], k->low[1])),
        type);
    const __m256i high = narrow(_mm256_packs_epi32(quick8(a0, k->scale[0], k->high[0]),
                                                   quick8(a1, k->scale[1], k->high[1])),
                                _mm256_packs_epi32(quick8(b0, k->scale[0], k->high[0]),
                                                   quick8(b1, k->scale[1], k->high[1])),
                                type);
    *differ = _mm256_or_si256(*differ, _mm256_xor_si256(low, high));
    return limit(low, l, type);
}

#endif
