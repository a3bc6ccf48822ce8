/* Depthwise convolution in AVX2: 16 channels at a time, the taps in pairs: the values of two taps
 * are interleaved as int16 and multiplied by their two weights in one vpmaddwd. The image is padded
 * as for the dense kernels (conv_x86.h), so no tap is a special case. */
#include "kernels/x86/conv_x86.h"

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>

static inline __m256i load(const void *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}
static inline void store(void *at, __m256i v) {
    _mm256_storeu_si256((__m256i *)at, v);
}

static size_t pairs_of(const nbk_conv *p) {
    return ((size_t)p->kh * (size_t)p->kw + 1) / 2;
}

static size_t blocks_of(const nbk_conv *p) {
    return ((size_t)p->out_c + NBI_LANES - 1) / NBI_LANES;
}

/* [block][pair][16 channels][2 taps] int16, channels in the order of vpunpck: 0–3, 8–11, 4–7, 12–15
 */
static size_t packed_bytes(const nbk_conv *p) {
    return blocks_of(p) * pairs_of(p) * NBI_LANES * 4;
}

static void pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    static const uint8_t place[NBI_LANES] = {0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15};
    const size_t channels = (size_t)p->out_c, taps = (size_t)p->kh * (size_t)p->kw;
    int16_t *w = packed;
    memset(packed, 0, packed_bytes(p));
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < channels; c++) {
            const size_t pair = c / NBI_LANES * pairs_of(p) + t / 2;
            w[(pair * NBI_LANES + place[c % NBI_LANES]) * 2 + t % 2] = levels[t * channels + c];
        }
}

static size_t offsets_bytes(const nbk_conv *p) {
    return (pairs_of(p) * 2 * sizeof(size_t) + 63) / 64 * 64;
}

static size_t scratch_bytes(const nbk_conv *p) {
    return offsets_bytes(p) + nbi_band_of(p, 1, false).bytes;
}

static void find_taps(const nbk_conv *p, const nbi_band *band, size_t *offset) {
    const size_t taps = (size_t)p->kh * (size_t)p->kw, kw = (size_t)p->kw;
    for (size_t t = 0; t < taps; t++)
        offset[t] = t / kw * (size_t)p->dh * band->row_bytes + t % kw * (size_t)(p->dw * p->in_c);
    if (taps % 2) offset[taps] = offset[taps - 1]; /* its weight is 0 */
}

static inline __m256i widen(const uint8_t *at, bool is_signed) {
    const __m128i v = _mm_loadu_si128((const __m128i *)at);
    return is_signed ? _mm256_cvtepi8_epi16(v) : _mm256_cvtepu8_epi16(v);
}

typedef struct taps {
    const size_t *offset;
    size_t pairs;
    const int16_t *w;
    const int32_t *bias; /* [16] */
} taps;

/* Σ of one pixel, 16 channels. */
static inline void pixel(const taps *t, const uint8_t *at, bool is_signed, int32_t *acc) {
    __m256i low = _mm256_setzero_si256(), high = low;
    for (size_t i = 0; i < t->pairs; i++) {
        const __m256i a = widen(at + t->offset[2 * i], is_signed);
        const __m256i b = widen(at + t->offset[2 * i + 1], is_signed);
        const __m256i wl = load(t->w + i * 32), wh = load(t->w + i * 32 + 16);
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), wl));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), wh));
    }
    store(acc, _mm256_add_epi32(load(t->bias), _mm256_permute2x128_si256(low, high, 0x20)));
    store(acc + 8, _mm256_add_epi32(load(t->bias + 8), _mm256_permute2x128_si256(low, high, 0x31)));
}

static void pixels_u8(const taps *t, const uint8_t *at, size_t step, size_t n, int32_t *acc) {
    for (size_t i = 0; i < n; i++) pixel(t, at + i * step, false, acc + i * NBI_LANES);
}
static void pixels_s8(const taps *t, const uint8_t *at, size_t step, size_t n, int32_t *acc) {
    for (size_t i = 0; i < n; i++) pixel(t, at + i * step, true, acc + i * NBI_LANES);
}

/* 16 channels of the band's output rows y…y+height−1. Exactly one of out and sums is given. */
static void run_block(const nbk_conv *p, const nbi_band *band, const taps *t, const uint8_t *base,
                      const nbi_requant *q, size_t pixel0, size_t height, void *out,
                      int32_t *sums) {
    enum { GROUP = 8 };
    _Alignas(64) int32_t acc[GROUP * NBI_LANES];
    const size_t step = (size_t)(p->sw * p->in_c), width = (size_t)p->out_w;
    const size_t n = (size_t)q->channels;
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x += GROUP) {
            const size_t count = width - x < GROUP ? width - x : GROUP;
            const uint8_t *at = base + y * (size_t)p->sh * band->row_bytes + x * step;
            const size_t first = pixel0 + y * width + x;
            if (p->in_type == NBK_U8)
                pixels_u8(t, at, step, count, acc);
            else
                pixels_s8(t, at, step, count, acc);
            if (!sums) {
                nbi_requant_avx2(q, acc, NBI_LANES, first, count, out);
                continue;
            }
            for (size_t i = 0; i < count; i++)
                memcpy(sums + (first + i) * q->stride + (size_t)q->first, acc + i * NBI_LANES,
                       n * sizeof acc[0]);
        }
}

static void run_all(const nbk_conv *p, const void *packed, const uint8_t *in, void *out,
                    int32_t *sums, void *scratch) {
    const nbi_band band = nbi_band_of(p, 1, true);
    size_t *offset = scratch;
    uint8_t *buffer = (uint8_t *)scratch + offsets_bytes(p);
    find_taps(p, &band, offset);
    for (int y = 0; y < p->out_h; y += band.height) {
        const int height = p->out_h - y < band.height ? p->out_h - y : band.height;
        const uint8_t *base =
            nbi_band_fill(p, &band, nbi_copy_bytes_avx2, 0, in, y, height, buffer);
        taps t = {.offset = offset, .pairs = pairs_of(p), .w = packed};
        for (int c = 0; c < p->out_c; c += NBI_LANES, t.w += t.pairs * 2 * NBI_LANES) {
            const int n = p->out_c - c < NBI_LANES ? p->out_c - c : NBI_LANES;
            int32_t bias[NBI_LANES] = {0};
            nbi_requant q;
            memcpy(bias, p->bias + c, (size_t)n * sizeof bias[0]);
            t.bias = bias;
            nbi_requant_init(&q, p, c, n);
            run_block(p, &band, &t, base + c, &q, (size_t)y * (size_t)p->out_w, (size_t)height, out,
                      sums);
        }
    }
}

static void run(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                void *out, void *scratch) {
    (void)range;
    run_all(p, packed, in, out, NULL, scratch);
}

static void sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                 int32_t *acc, void *scratch) {
    (void)range;
    run_all(p, packed, in, NULL, acc, scratch);
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
