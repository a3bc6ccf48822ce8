/* Dense convolution with vpdpbusd: unsigned × signed bytes, four products added to int32 in one
 * instruction, exact for all 8-bit values. Signed inputs are made unsigned by conv_drive.c. The
 * test compiles this file a second time with NBI_EMULATE, on SIMDe, so that CPUs without AVX-512
 * prove it too. */
#include "kernels/x86/conv_x86.h"

#include <string.h>

#if defined(__AVX512VNNI__) || defined(NBI_EMULATE)
#ifndef NBI_EMULATE
#include <immintrin.h>
#endif

static inline __m512i broadcast64(const uint8_t *at) {
    int32_t v;
    memcpy(&v, at, 4);
    return _mm512_set1_epi32(v);
}

static void vnni_1(const nbi_tile *t, size_t first) {
    __m512i a = _mm512_loadu_si512(t->bias);
    const uint8_t *w = t->w, *x = t->pixel[first];
    for (size_t k = 0; k < t->steps; k++, w += 64)
        a = _mm512_dpbusd_epi32(a, broadcast64(x + t->offset[k]), _mm512_loadu_si512(w));
    _mm512_storeu_si512(t->acc + first * t->stride, a);
}

/* 8 pixels: enough independent sums to hide the latency. */
static void vnni_8(const nbi_tile *t, size_t first) {
    const uint8_t *const *x = t->pixel + first, *w = t->w;
    __m512i a = _mm512_loadu_si512(t->bias);
    __m512i b = a, c = a, d = a, e = a, f = a, g = a, h = a;
    for (size_t k = 0; k < t->steps; k++, w += 64) {
        const size_t at = t->offset[k];
        const __m512i v = _mm512_loadu_si512(w);
        a = _mm512_dpbusd_epi32(a, broadcast64(x[0] + at), v);
        b = _mm512_dpbusd_epi32(b, broadcast64(x[1] + at), v);
        c = _mm512_dpbusd_epi32(c, broadcast64(x[2] + at), v);
        d = _mm512_dpbusd_epi32(d, broadcast64(x[3] + at), v);
        e = _mm512_dpbusd_epi32(e, broadcast64(x[4] + at), v);
        f = _mm512_dpbusd_epi32(f, broadcast64(x[5] + at), v);
        g = _mm512_dpbusd_epi32(g, broadcast64(x[6] + at), v);
        h = _mm512_dpbusd_epi32(h, broadcast64(x[7] + at), v);
    }
    int32_t *acc = t->acc + first * t->stride;
    const size_t next = t->stride;
    _mm512_storeu_si512(acc, a);
    _mm512_storeu_si512(acc += next, b);
    _mm512_storeu_si512(acc += next, c);
    _mm512_storeu_si512(acc += next, d);
    _mm512_storeu_si512(acc += next, e);
    _mm512_storeu_si512(acc += next, f);
    _mm512_storeu_si512(acc += next, g);
    _mm512_storeu_si512(acc += next, h);
}

static void vnni_tile(const nbi_tile *t) {
    for (size_t i = 0; i < t->pixels; i += 8) (t->pixels - i == 1 ? vnni_1 : vnni_8)(t, i);
}

static const nbi_dense VNNI = {
    .element = 1, .group = 8, .copy = nbi_copy_bytes_avx2, .tile = vnni_tile};

static size_t vnni_packed(const nbk_conv *p) {
    return nbi_dense_packed_bytes(&VNNI, p);
}
static void vnni_pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    nbi_dense_pack(&VNNI, p, levels, packed);
}
static size_t vnni_scratch(const nbk_conv *p) {
    return nbi_dense_scratch(&VNNI, p);
}
static void vnni_run(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                     const void *in, void *out, void *scratch) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, 0, 0};
    nbi_dense_run(&VNNI, p, &io);
}
static void vnni_run_part(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                          const void *in, void *out, void *scratch, int part, int parts) {
    const nbi_dense_io io = {range, packed, in, out, scratch, NULL, part, parts};
    nbi_dense_run(&VNNI, p, &io);
}
static void vnni_sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                      const void *in, int32_t *acc, void *scratch) {
    const nbi_dense_io io = {range, packed, in, NULL, scratch, acc, 0, 0};
    nbi_dense_run(&VNNI, p, &io);
}

extern const nbi_conv_kernel nbi_conv_row_avx512vnni;
const nbi_conv_kernel nbi_conv_row_avx512vnni = {
    .name = "nbi_conv_8_8_avx512vnni",
    .isa = NBI_ISA_AVX512VNNI,
    .packed_bytes = vnni_packed,
    .pack = vnni_pack,
    .scratch_bytes = vnni_scratch,
    .run = vnni_run,
    .run_part = vnni_run_part,
    .sums = vnni_sums,
    .finish = nbi_finish_x86,
};

#endif
