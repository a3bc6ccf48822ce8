/* Depthwise convolution in AVX2: 16 channels at a time, the taps in pairs: the values of two taps
 * are interleaved and multiplied by their two weights in one vpmaddwd. Padding and widening to
 * int16 are those of the dense kernels (conv_x86.h), so no tap is a special case. */
#include "kernels/x86/conv_x86.h"

#if defined(__AVX2__)
#include <immintrin.h>

static inline __m256i load(const void *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}
static inline void store(void *at, __m256i v) {
    _mm256_storeu_si256((__m256i *)at, v);
}

/* One pair of taps: low += channels 0–3, 8–11, high += 4–7, 12–15. */
static inline void two_taps(__m256i a, __m256i b, __m256i wl, __m256i wh, __m256i *low,
                            __m256i *high) {
    *low = _mm256_add_epi32(*low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), wl));
    *high = _mm256_add_epi32(*high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), wh));
}

static inline void finish_pixel(int32_t *acc, const int32_t *bias, __m256i low, __m256i high) {
    const __m256i first = _mm256_permute2x128_si256(low, high, 0x20);
    const __m256i second = _mm256_permute2x128_si256(low, high, 0x31);
    store(acc, _mm256_add_epi32(load(bias), first));
    store(acc + 8, _mm256_add_epi32(load(bias + 8), second));
}

/* Two pixels, so that weights and offsets are loaded once for both. */
static void depthwise_tile(const nbi_tile *t) {
    const uint32_t *offset = t->offset, *end = offset + t->steps;
    for (size_t i = 0; i < t->pixels; i += 2) {
        const uint8_t *x = t->pixel[i], *y = t->pixel[i + 1], *w = t->w;
        __m256i xl = _mm256_setzero_si256(), xh = xl, yl = xl, yh = xl;
        for (const uint32_t *o = offset; o < end; o += 2, w += 64) {
            const size_t first = o[0], second = o[1];
            const __m256i wl = load(w), wh = load(w + 32);
            two_taps(load(x + first), load(x + second), wl, wh, &xl, &xh);
            two_taps(load(y + first), load(y + second), wl, wh, &yl, &yh);
        }
        finish_pixel(t->acc + i * t->stride, t->bias, xl, xh);
        finish_pixel(t->acc + (i + 1) * t->stride, t->bias, yl, yh);
    }
}

static const nbi_dense DEPTHWISE = {
    .element = 2, .group = 2, .copy = nbi_widen_avx2, .tile = depthwise_tile, .depthwise = true};

static size_t packed_bytes(const nbk_conv *p) {
    return nbi_dense_packed_bytes(&DEPTHWISE, p);
}
static void pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    nbi_dense_pack(&DEPTHWISE, p, levels, packed);
}
static size_t scratch_bytes(const nbk_conv *p) {
    return nbi_dense_scratch(&DEPTHWISE, p);
}
static void run(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                void *out, void *scratch) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, 0, 0};
    nbi_dense_run(&DEPTHWISE, p, &io);
}
static void run_part(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                     const void *in, void *out, void *scratch, int part, int parts) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, part, parts};
    nbi_dense_run(&DEPTHWISE, p, &io);
}
static void sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                 int32_t *acc, void *scratch) {
    const nbi_dense_io io = {range, packed, in, NULL, scratch, acc, 0, 0};
    nbi_dense_run(&DEPTHWISE, p, &io);
}

extern const nbi_conv_kernel nbi_dwconv_row_avx2;
const nbi_conv_kernel nbi_dwconv_row_avx2 = {
    .name = "nbi_dwconv_8_8_avx2",
    .isa = NBI_ISA_AVX2,
    .depthwise = true,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .run = run,
    .run_part = run_part,
    .sums = sums,
    .finish = nbi_finish_x86,
};

#endif
