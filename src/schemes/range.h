/* Ranges and scales of uniform grids: from histograms of magnitudes (activations, streaming) and from
 * the values themselves (weights). Post-training quantization and the uniform schemes share them. */
#ifndef NIBBLE_SCHEMES_RANGE_H
#define NIBBLE_SCHEMES_RANGE_H

#include "ir/qnet.h"
#include "ir/scheme.h"

#include <math.h>

const char *nbi_range_name(nbi_range_method method); /* "mse"… */

/* ---- histograms: streaming, bounded memory, independent of batch borders up to bin width ------ */

/* Counts `n` values of magnitude; NB_ENUMERIC when one is not finite (names `what`). The width
 * doubles when a value falls outside, so nothing is stored twice and memory stays constant. */
nb_status nbi_hist_init(nb_ctx *ctx, nbi_arena *arena, nbi_hist *hist);
nb_status nbi_hist_add(nb_ctx *ctx, nbi_hist *hist, const char *what, const float *x, size_t n);

/* A histogram of one array, on the stack; empty when a value is not finite. */
typedef struct nbi_hist_room {
    int64_t positive[NBI_HIST_BINS], negative[NBI_HIST_BINS];
} nbi_hist_room;
void nbi_hist_of(const float *x, size_t n, nbi_hist_room *room, nbi_hist *hist);

/* Unsigned (zero = 0, 0 … 2^bits−1) or symmetric (zero = 0, −2^(bits−1) … 2^(bits−1)−1), bits 1…8;
 * *sqnr in dB. An all-zero histogram is fitted as the range −1…1. */
void nbi_fit_activation(const nbi_hist *hist, bool is_unsigned, int bits, nbi_range_method method,
                        nbi_qparam *out, double *sqnr);
/* Affine: u8 with a zero point; 0 is exactly representable. */
void nbi_fit_affine(const nbi_hist *hist, int bits, nbi_range_method method, nbi_qparam *out,
                    double *sqnr);
/* Narrow: zero = 0, ±(2^(bits−1)−1), bits 2…8. */
void nbi_fit_narrow(const nbi_hist *hist, int bits, nbi_range_method method, nbi_qparam *out,
                    double *sqnr);

/* ---- values --------------------------------------------------------------------------------- */

/* The scale of w[0], w[stride], …: least squared error on −2^(bits−1) … 2^(bits−1)−1, 100 steps up to
 * 1.2·max|w|, then alternating least squares; 1 bit: E|w| for ±1. Positive and normal. */
float nbi_fit_scale(const float *w, size_t n, size_t stride, int bits);
/* clip(round(x/scale), lo, hi) in float32, ties to even; NaN gives lo. */
static inline int nbi_level_of(float x, float scale, int lo, int hi) {
    float k = rintf(x / scale);
    if (!(k > (float)lo)) return lo;
    return k >= (float)hi ? hi : (int)k;
}
/* float32, finite, at least 1e-30, so that 1/scale is finite, too; NaN becomes 1e-30. */
float nbi_positive(double scale);

#endif
