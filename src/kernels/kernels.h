/* SIMD twins of the reference kernels. A kernel is a row; selection takes the best row that the CPU
 * has and that supports the case; the test and the benchmark walk the same list, so an untested
 * kernel cannot exist. Every row computes exactly what nbk does, bit for bit. */
#ifndef NIBBLE_KERNELS_KERNELS_H
#define NIBBLE_KERNELS_KERNELS_H

#include "base/base.h"
#include "kernels/ref/nbk.h"

typedef enum nbi_isa { NBI_ISA_REF, NBI_ISA_AVX2, NBI_ISA_AVX512VNNI } nbi_isa;
/* Best level of this CPU (OS support checked), lowered by the environment variable NB_CPU = ref |
 * avx2 | avx512vnni. */
nbi_isa nbi_cpu_isa(void);
const char *nbi_isa_name(nbi_isa isa);

/* What is known about the values of one convolution: kernels prove their intermediate sums by it. */
typedef struct nbi_conv_range {
    int32_t in_min, in_max; /* values incl. in_zero, e.g. 0..15 */
    int32_t w_min, w_max;   /* levels, e.g. −8..7 */
    int64_t acc_bound;      /* ≥ |bias + any partial sum| */
} nbi_conv_range;

/* Dense and grouped convolution, and depthwise convolution (its own list). `levels` are unpacked
 * 8-bit weights in the order of nbk_conv (resp. nbk_dwconv). p->w is not read after pack; p->bias is
 * int32, narrow ones decoded (bias_bits is not read). */
typedef struct nbi_conv_kernel {
    const char *name; /* nbi_conv_u8_s8_avx2_… */
    nbi_isa isa;
    bool depthwise;
    /* NULL: supports everything. */
    bool (*supports)(const nbk_conv *p, const nbi_conv_range *range);
    size_t (*packed_bytes)(const nbk_conv *p);
    void (*pack)(const nbk_conv *p, const int8_t *levels, void *packed);
    size_t (*scratch_bytes)(const nbk_conv *p);
    /* One image. packed and scratch are 64-byte aligned; the input may be read up to 64 bytes past
     * its end (buffers are allocated with that slack), never written. */
    void (*run)(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                void *out, void *scratch);
    /* Part 0 ≤ part < parts of it: all of them together, in any order or at once (each with a scratch
     * of its own), are a run. NULL: not divisible. */
    void (*run_part)(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                     const void *in, void *out, void *scratch, int part, int parts);
    void (*sums)(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                 int32_t *acc, void *scratch);
    /* acc → out (as nbk_conv_finish). had: the bias that acc was made with; NULL: that of p. */
    void (*finish)(const nbk_conv *p, const int32_t *acc, const int32_t *had, size_t pixels,
                   void *out);
} nbi_conv_kernel;
#define NBI_KERNEL_SLACK 64

/* All rows of this build, best first within an isa; the list ends the table. */
const nbi_conv_kernel *const *nbi_conv_kernels(size_t *n);
/* The best supported row with isa ≤ `isa`; never NULL (the reference supports everything). */
const nbi_conv_kernel *nbi_conv_select(const nbk_conv *p, const nbi_conv_range *range,
                                       bool depthwise, nbi_isa isa);

/* Element-wise and pooling: tables of functions with the reference signatures, one set per isa. The
 * input of a pool may be read up to NBI_KERNEL_SLACK bytes past its end, as for convolutions. */
typedef struct nbi_simple_kernels {
    nbi_isa isa;
    void (*add)(const nbk_add *, const void *, const void *, void *);
    void (*mul)(const nbk_mul *, const void *, const void *, void *);
    void (*lut)(const nbk_lut *, const void *, void *);
    void (*maxpool)(const nbk_pool *, const void *, void *);
    void (*avgpool)(const nbk_pool *, const void *, void *);
    void (*copy)(const nbk_copy *, const void *, void *);
    /* Σ acc and Σ acc² of every channel of acc[pixels][channels]; the caller knows that both fit. */
    void (*moments)(const int32_t *acc, size_t pixels, size_t channels, int64_t *sum,
                    int64_t *square);
    /* half = acc >> shift (all are multiples of 2^shift) and the moments of half. false: one of them
     * is beyond ±32766; the results are then unspecified. */
    bool (*halve)(const int32_t *acc, size_t pixels, size_t channels, int shift, int16_t *half,
                  int64_t *sum, int64_t *square);
    /* acc = half << shift */
    void (*widen)(const int16_t *half, size_t count, int shift, int32_t *acc);
} nbi_simple_kernels;
/* Entries that an isa does not have are filled with the reference's. */
const nbi_simple_kernels *nbi_simple_select(nbi_isa isa);

/* A real multiplier r > 0 as mult·2^−shift with mult < 2^31 and, where r allows, shift ≥ 32 (SIMD
 * needs it): relative error ≤ 2^−30. r = 0 gives mult 0, shift 32. NB_EINVAL if r ≥ 2^30 or not
 * finite or negative. */
nb_status nbi_rescale_of(nb_ctx *ctx, double r, int32_t *mult, uint8_t *shift);

#endif
