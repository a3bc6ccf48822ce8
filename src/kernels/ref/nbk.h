/* nbk: the definition of nibble's quantized arithmetic. Freestanding C99 (stdint.h and stddef.h
 * only), no allocation, no global state. The engine runs these functions or SIMD twins proven equal
 * to them; the C generator copies these files and emits calls to them. One function family per
 * file: nbk_conv.c, nbk_conv_add.c, nbk_dwconv.c, nbk_add.c, nbk_mul.c, nbk_pool.c, nbk_lut.c,
 * nbk_copy.c.
 *
 * A tensor holds 8-bit values v (u8 or s8) in H,W,C order, one image; its real value is
 * scale·(v − zero). Scales never appear here: they are folded into integer multipliers.
 * All sizes and products are proven not to overflow int32 when a program is lowered. */
#ifndef NBK_H
#define NBK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NBK_U8 = 0, NBK_S8 = 1, NBK_S32 = 2 }; /* element types */

/* The one rounding: nearest, ties towards +infinity. 1 ≤ shift ≤ 62, |acc·mult| < 2^62. */
static inline int64_t nbk_rescale(int32_t acc, int32_t mult, int shift) {
    return ((int64_t)acc * mult + ((int64_t)1 << (shift - 1))) >> shift;
}
static inline int32_t nbk_clamp(int64_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : (int32_t)v;
}

/* One element of type `type` (NBK_S32 only for store). */
static inline int32_t nbk_load(const void *x, uint8_t type, size_t i) {
    return type == NBK_U8 ? ((const uint8_t *)x)[i] : ((const int8_t *)x)[i];
}
static inline void nbk_store(void *y, uint8_t type, size_t i, int32_t v) {
    if (type == NBK_U8)
        ((uint8_t *)y)[i] = (uint8_t)v;
    else if (type == NBK_S8)
        ((int8_t *)y)[i] = (int8_t)v;
    else
        ((int32_t *)y)[i] = v;
}

/* ---- weights ------------------------------------------------------------------------------- */

/* The level of code 1. Levels of narrow weights are multiples of more than 1, so that a bias, which
 * counts in the unit of the sums, stays fine beside them: at 2 bits sums are so coarse that a bias
 * in whole units of code 1 would cost accuracy. */
static inline int nbk_level_step(int bits) {
    return bits <= 2 ? 8 : bits == 3 ? 4 : bits == 4 ? 2 : 1;
}

/* Packed weights: codes of `bits` (1..8) as one little-endian bit stream, first code in the lowest
 * bits of byte 0, no padding between codes. A code is a two's complement number, to be multiplied by
 * the level step, or, with a level table, an index into it. Writes `count` levels from code number `first` on. */
void nbk_unpack(const uint8_t *packed, int bits, const int8_t *levels, size_t first, size_t count,
                int8_t *out);

/* ---- convolution --------------------------------------------------------------------------- */

/* y[o] = clamp(rescale(bias[o] + Σ w[o]·x, mult[o], shift[o]) + out_zero, out_lo, out_hi).
 * A padded tap has the value in_zero, so Σ runs over all taps; the term −in_zero·Σw is in bias.
 * A narrow bias (bias_bits = 8 or 16) is a table of codes without that term: then
 * bias[o] = code[o]·2^k − in_zero·Σ w[o] with k = clamp(shift[o] − bias_shift, 0, 30): the shift of
 * the requantization tells how coarse a channel's sums are, so it tells its bias's unit, too. */
typedef struct nbk_conv {
    int16_t in_h, in_w, in_c, out_h, out_w, out_c; /* out_c over all groups */
    int16_t kh, kw, sh, sw, dh, dw, pt, pl;        /* kernel, stride, dilation, pad top, pad left */
    int16_t groups;                                /* divides in_c and out_c */
    int16_t in_zero, out_zero;
    uint8_t in_type, out_type; /* NBK_U8, NBK_S8; out also NBK_S32 */
    uint8_t w_bits;
    uint8_t bias_bits; /* 8, 16; else 32 */
    int8_t bias_shift; /* narrow biases only */
    int32_t out_lo, out_hi;
    const uint8_t *w;       /* packed [out_c][kh][kw][in_c/groups] */
    const int8_t *w_levels; /* NULL or 2^w_bits levels */
    const void *bias;       /* [out_c] of int32_t; narrow: of int8_t or int16_t */
    const int32_t *mult;    /* [out_c], 0 ≤ mult */
    const uint8_t *shift;   /* [out_c], 1..62 */
} nbk_conv;
/* What the sum of channel o starts with; w[count]: its decoded weights, all of them. */
int32_t nbk_bias(const nbk_conv *p, int o, const int8_t *w, size_t count);
/* scratch: nbk_conv_scratch() bytes (one output channel's weights, decoded). A dense layer is a
 * 1×1 convolution of a 1×1 image. */
size_t nbk_conv_scratch(const nbk_conv *p);
void nbk_conv_run(const nbk_conv *p, const void *in, void *out, void *scratch);
/* The sums only: acc[out_h][out_w][out_c] = bias + Σ w·x. */
void nbk_conv_sums(const nbk_conv *p, const void *in, int32_t *acc, void *scratch);
/* The weights of output channel o, decoded: in scratch, or where they lie. */
const int8_t *nbk_conv_weights(const nbk_conv *p, int o, void *scratch);
/* Σ w·x of output pixel (y, x) of a channel of this group. */
int32_t nbk_conv_sum(const nbk_conv *p, const void *in, const int8_t *w, int group, int y, int x);

/* Depthwise (groups = in_c = out_c): the same struct and arithmetic, weights packed [kh][kw][c]. */
size_t nbk_dwconv_scratch(const nbk_conv *p);
void nbk_dwconv_run(const nbk_conv *p, const void *in, void *out, void *scratch);
void nbk_dwconv_sums(const nbk_conv *p, const void *in, int32_t *acc, void *scratch);

/* acc (from …_sums) → out, with the mult, shift and limits of p. pixels = out_h·out_w. */
void nbk_conv_finish(const nbk_conv *p, const int32_t *acc, size_t pixels, void *out);

/* ---- element-wise -------------------------------------------------------------------------- */

/* out = clamp((((a−a_zero)·a_mult + (b−b_zero)·b_mult + 2^(shift−1)) >> shift) + out_zero, …) in
 * int32; the multipliers may be negative (Sub). 1 ≤ shift ≤ 30. */
typedef struct nbk_add {
    int32_t count;
    int32_t a_mult, b_mult;
    int16_t a_zero, b_zero, out_zero;
    int16_t out_lo, out_hi;
    uint8_t a_type, b_type, out_type, shift;
} nbk_add;
static inline int32_t nbk_add_one(const nbk_add *p, int32_t a, int32_t b) {
    const int32_t half = (int32_t)1 << (p->shift - 1);
    const int32_t x = (a - p->a_zero) * p->a_mult, y = (b - p->b_zero) * p->b_mult;
    return nbk_clamp(((x + y + half) >> p->shift) + p->out_zero, p->out_lo, p->out_hi);
}
/* out may be a or b where it has elements of the same size. */
void nbk_add_run(const nbk_add *p, const void *a, const void *b, void *out);

/* A convolution, then an addition of its 8-bit output (operand a) and `other` (operand b), without
 * memory for what lies between: nbk_conv_run, then nbk_add_run, bit for bit. out may be `other`
 * where both have elements of one byte; not `in`. scratch: nbk_conv_scratch() bytes. */
void nbk_conv_add_run(const nbk_conv *p, const nbk_add *add, const void *in, const void *other,
                      void *out, void *scratch);

/* out = clamp(rescale((a−a_zero)·(b−b_zero), mult, shift) + out_zero, …). b_channels = 0: b has the
 * shape of a; else b is a vector of b_channels values, repeated for every pixel. */
typedef struct nbk_mul {
    int32_t count, b_channels;
    int32_t mult;
    int16_t a_zero, b_zero, out_zero;
    int16_t out_lo, out_hi;
    uint8_t a_type, b_type, out_type, shift;
} nbk_mul;
void nbk_mul_run(const nbk_mul *p, const void *a, const void *b, void *out);

/* out[i] = table[in[i] as a raw byte]; channels = 1: one table of 256; channels = C: table c for
 * element i with c = i mod C. Input and output are bytes of any 8-bit type. */
typedef struct nbk_lut {
    int32_t count;
    int16_t channels;
    const uint8_t *table; /* [channels][256] */
} nbk_lut;
void nbk_lut_run(const nbk_lut *p, const void *in, void *out);

/* ---- pooling ------------------------------------------------------------------------------- */

typedef struct nbk_pool {
    int16_t in_h, in_w, out_h, out_w, c;
    int16_t kh, kw, sh, sw, dh, dw, pt, pl;
    int16_t in_zero, out_zero;
    uint8_t type, out_type;  /* max: the same */
    uint8_t count_pad;       /* average: divide by kh·kw everywhere (else by the valid taps) */
    int16_t out_lo, out_hi;  /* average only */
    const int32_t *mult;     /* average: [kh·kw + 1], by the number of taps divided by; count_pad: [1] */
    const uint8_t *shift;    /* average: likewise, 1..62 */
} nbk_pool;
/* Entries of mult and shift. */
static inline size_t nbk_pool_divisors(const nbk_pool *p) {
    return p->count_pad ? 1 : (size_t)p->kh * (size_t)p->kw + 1;
}
/* Maximum over the valid taps; at least one tap of each window is valid. */
void nbk_maxpool_run(const nbk_pool *p, const void *in, void *out);
/* clamp(rescale(Σ over valid taps (v − in_zero), mult[n], shift[n]) + out_zero, out_lo, out_hi). */
void nbk_avgpool_run(const nbk_pool *p, const void *in, void *out);

/* ---- moving bytes -------------------------------------------------------------------------- */

/* Optionally fills out[0..fill_bytes) with fill_value, then for every index i0 < n[0], … copies one
 * element: out[out_offset + Σ i·out_stride] = in[in_offset + Σ i·in_stride] (in elements of `size`
 * bytes, 1 or 4; strides may be negative). Slice, Pad, Concat, Transpose are rows of these. */
#define NBK_COPY_RANK 6
typedef struct nbk_copy {
    int32_t n[NBK_COPY_RANK]; /* leading ones where the rank is smaller */
    int32_t in_stride[NBK_COPY_RANK], out_stride[NBK_COPY_RANK];
    int32_t in_offset, out_offset;
    int32_t fill_bytes; /* 0: no fill */
    int16_t fill_value;
    uint8_t size;
} nbk_copy;
void nbk_copy_run(const nbk_copy *p, const void *in, void *out);

#ifdef __cplusplus
}
#endif
#endif
