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

static inline void depthwise_1(const nbi_tile *t, const uint8_t *x, int32_t *acc) {
    __m256i low = _mm256_setzero_si256(), high = low;
    const uint8_t *w = t->w;
    for (size_t k = 0; k < t->steps; k += 2, w += 64) {
        const __m256i a = load(x + t->offset[k]), b = load(x + t->offset[k + 1]);
        const __m256i wl = load(w), wh = load(w + 32);
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), wl));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), wh));
    }
    const __m256i first = _mm256_permute2x128_si256(low, high, 0x20);
    const __m256i second = _mm256_permute2x128_si256(low, high, 0x31);
    store(acc, _mm256_add_epi32(load(t->bias), first));
    store(acc + 8, _mm256_add_epi32(load(t->bias + 8), second));
}

static void depthwise_tile(const nbi_tile *t) {
    for (size_t i = 0; i < t->pixels; i++) depthwise_1(t, t->pixel[i], t->acc + i * NBI_LANES);
}

static const nbi_dense DEPTHWISE = {
    .element = 2, .group = 1, .copy = nbi_widen_avx2, .tile = depthwise_tile, .depthwise = true};

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
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL};
    nbi_dense_run(&DEPTHWISE, p, &io);
}
static void sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                 int32_t *acc, void *scratch) {
    const nbi_dense_io io = {range, packed, in, NULL, scratch, acc};
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
    .sums = sums,
    .finish = nbi_finish_x86,
};

#endif
