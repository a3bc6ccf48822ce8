/* The registry: which instruction set this CPU has, which row computes a convolution, and the rows
 * of the reference itself. Selection is by table order; see kernels.def. */
#include "kernels/kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* ---- the CPU ------------------------------------------------------------------------------- */

static const char *const ISA_NAMES[] = {
    [NBI_ISA_REF] = "ref", [NBI_ISA_AVX2] = "avx2", [NBI_ISA_AVX512VNNI] = "avx512vnni"};

const char *nbi_isa_name(nbi_isa isa) {
    return ISA_NAMES[isa];
}

#if defined(__x86_64__)
/* XCR0: which register states the operating system saves. Needs OSXSAVE. */
static unsigned saved_states(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static nbi_isa hardware_isa(void) {
    const unsigned osxsave = 1u << 27, fma = 1u << 12;                 /* leaf 1, ecx */
    const unsigned avx2 = 1u << 5;                                     /* leaf 7, ebx … */
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    const unsigned vnni = 1u << 11;                                    /* leaf 7, ecx */
    const unsigned ymm_state = 0x6, zmm_state = 0xe6;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (osxsave | fma)) != (osxsave | fma))
        return NBI_ISA_REF;
    const unsigned states = saved_states();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return NBI_ISA_REF;
    if (!(b & avx2) || (states & ymm_state) != ymm_state) return NBI_ISA_REF;
    if ((b & avx512) != avx512 || !(c & vnni) || (states & zmm_state) != zmm_state)
        return NBI_ISA_AVX2;
    return NBI_ISA_AVX512VNNI;
}
#else
static nbi_isa hardware_isa(void) {
    return NBI_ISA_REF;
}
#endif

nbi_isa nbi_cpu_isa(void) {
    /* cpuid traps in virtual machines: ask once (every thread would find the same answer) */
    static atomic_int known = -1;
    int found = atomic_load_explicit(&known, memory_order_relaxed);
    if (found < 0) {
        found = (int)hardware_isa();
        atomic_store_explicit(&known, found, memory_order_relaxed);
    }
    const nbi_isa best = (nbi_isa)found;
    const char *wanted = getenv("NB_CPU");
    for (size_t i = 0; wanted && i < NBI_COUNT(ISA_NAMES); i++)
        if (!strcmp(wanted, ISA_NAMES[i]) && (nbi_isa)i < best) return (nbi_isa)i;
    return best;
}

/* ---- the rows of the reference ------------------------------------------------------------- */

/* Packed weights are the plain levels. */
static nbk_conv with_levels(const nbk_conv *p, const void *packed) {
    nbk_conv q = *p;
    q.w = packed;
    q.w_bits = 8;
    q.w_levels = NULL;
    q.bias_bits = 32;
    return q;
}

static size_t ref_packed_bytes(const nbk_conv *p) {
    return (size_t)p->out_c * (size_t)p->kh * (size_t)p->kw * (size_t)(p->in_c / p->groups);
}

static void ref_pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    memcpy(packed, levels, ref_packed_bytes(p));
}

static size_t ref_conv_scratch(const nbk_conv *p) {
    const nbk_conv q = with_levels(p, NULL);
    return nbk_conv_scratch(&q);
}

static void ref_conv_run(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                         const void *in, void *out, void *scratch) {
    (void)range;
    const nbk_conv q = with_levels(p, packed);
    nbk_conv_run(&q, in, out, scratch);
}

static void ref_conv_sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                          const void *in, int32_t *acc, void *scratch) {
    (void)range;
    const nbk_conv q = with_levels(p, packed);
    nbk_conv_sums(&q, in, acc, scratch);
}

static void ref_finish(const nbk_conv *p, const int32_t *acc, const int32_t *had, size_t pixels,
                       void *out) {
    const size_t channels = (size_t)p->out_c;
    if (!had) {
        nbk_conv_finish(p, acc, pixels, out);
        return;
    }
    const int32_t *bias = p->bias;
    for (size_t i = 0; i < pixels * channels; i++) {
        const size_t c = i % channels;
        const int64_t v = (int64_t)acc[i] + bias[c] - had[c];
        const int64_t y = nbk_rescale((int32_t)v, p->mult[c], p->shift[c]) + p->out_zero;
        nbk_store(out, p->out_type, i, nbk_clamp(y, p->out_lo, p->out_hi));
    }
}

static void ref_dwconv_run(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                           const void *in, void *out, void *scratch) {
    (void)range;
    const nbk_conv q = with_levels(p, packed);
    nbk_dwconv_run(&q, in, out, scratch);
}

static void ref_dwconv_sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                            const void *in, int32_t *acc, void *scratch) {
    (void)range;
    const nbk_conv q = with_levels(p, packed);
    nbk_dwconv_sums(&q, in, acc, scratch);
}

static const nbi_conv_kernel nbi_conv_row_ref = {
    .name = "nbi_conv_8_8_ref",
    .isa = NBI_ISA_REF,
    .packed_bytes = ref_packed_bytes,
    .pack = ref_pack,
    .scratch_bytes = ref_conv_scratch,
    .run = ref_conv_run,
    .sums = ref_conv_sums,
    .finish = ref_finish,
};

static const nbi_conv_kernel nbi_dwconv_row_ref = {
    .name = "nbi_dwconv_8_8_ref",
    .isa = NBI_ISA_REF,
    .depthwise = true,
    .packed_bytes = ref_packed_bytes,
    .pack = ref_pack,
    .scratch_bytes = nbk_dwconv_scratch,
    .run = ref_dwconv_run,
    .sums = ref_dwconv_sums,
    .finish = ref_finish,
};

/* ---- selection ----------------------------------------------------------------------------- */

#if defined(__x86_64__)
extern const nbi_conv_kernel nbi_conv_row_avx512vnni, nbi_conv_row_avx2_wino,
    nbi_conv_row_avx2_ubs, nbi_conv_row_avx2_wide,
    nbi_dwconv_row_avx2;
extern const nbi_simple_kernels nbi_simple_row_avx2;
#endif

#define NBI_CONV_ROW(symbol) &symbol,
static const nbi_conv_kernel *const CONV_ROWS[] = {
#include "kernels/kernels.def"
};
#undef NBI_CONV_ROW

const nbi_conv_kernel *const *nbi_conv_kernels(size_t *n) {
    *n = NBI_COUNT(CONV_ROWS);
    return CONV_ROWS;
}

const nbi_conv_kernel *nbi_conv_select(const nbk_conv *p, const nbi_conv_range *range,
                                       bool depthwise, nbi_isa isa) {
    const nbi_conv_kernel *best = NULL;
    for (size_t i = 0; i < NBI_COUNT(CONV_ROWS); i++) {
        const nbi_conv_kernel *row = CONV_ROWS[i];
        if (row->depthwise != depthwise || row->isa > isa) continue;
        if (row->supports && !row->supports(p, range)) continue;
        if (!best || row->isa > best->isa) best = row;
    }
    return best;
}

static void ref_moments(const int32_t *acc, size_t pixels, size_t channels, int64_t *sum,
                        int64_t *square) {
    memset(sum, 0, channels * sizeof *sum);
    memset(square, 0, channels * sizeof *square);
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < channels; c++) {
            const int64_t v = acc[i * channels + c];
            sum[c] += v;
            square[c] += v * v;
        }
}

static bool ref_halve(const int32_t *acc, size_t pixels, size_t channels, int shift, int16_t *half,
                      int64_t *sum, int64_t *square) {
    memset(sum, 0, channels * sizeof *sum);
    memset(square, 0, channels * sizeof *square);
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < channels; c++) {
            const int32_t v = acc[i * channels + c] >> shift;
            if (v < -32766 || v > 32766) return false;
            half[i * channels + c] = (int16_t)v;
            sum[c] += v;
            square[c] += (int64_t)v * v;
        }
    return true;
}

static void ref_widen(const int16_t *half, size_t count, int shift, int32_t *acc) {
    for (size_t i = 0; i < count; i++) acc[i] = half[i] * (1 << shift);
}

static const nbi_simple_kernels SIMPLE_REF = {
    .isa = NBI_ISA_REF,
    .add = nbk_add_run,
    .mul = nbk_mul_run,
    .lut = nbk_lut_run,
    .maxpool = nbk_maxpool_run,
    .avgpool = nbk_avgpool_run,
    .copy = nbk_copy_run,
    .moments = ref_moments,
    .halve = ref_halve,
    .widen = ref_widen,
};

const nbi_simple_kernels *nbi_simple_select(nbi_isa isa) {
#if defined(__x86_64__)
    if (isa >= NBI_ISA_AVX2) return &nbi_simple_row_avx2;
#else
    (void)isa;
#endif
    return &SIMPLE_REF;
}

/* ---- multipliers --------------------------------------------------------------------------- */

nb_status nbi_rescale_of(nb_ctx *ctx, double r, int32_t *mult, uint8_t *shift) {
    if (!isfinite(r) || r < 0 || r >= 1073741824.0)
        return nb_fail(ctx, NB_EINVAL, "rescale: multiplier %g is outside 0..2^30", r);
    if (r == 0) {
        *mult = 0;
        *shift = 32;
        return NB_OK;
    }
    int exponent;
    frexp(r, &exponent); /* r = f·2^exponent, ½ ≤ f < 1 */
    int s = 31 - exponent;
    if (s > 62) s = 62; /* r < 2^−31: mult below 2^30; products with any int32 round to 0 or 1 */
    double m = nearbyint(ldexp(r, s));
    if (m >= 2147483648.0) { /* f rounded up to 1 */
        m = s > 1 ? 1073741824.0 : 2147483647.0;
        s = s > 1 ? s - 1 : 1;
    }
    *mult = (int32_t)m;
    *shift = (uint8_t)s;
    return NB_OK;
}
