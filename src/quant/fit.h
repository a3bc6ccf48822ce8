/* Fitting uniform quantizers: activations from histograms, weights directly. */
#ifndef NIBBLE_QUANT_FIT_H
#define NIBBLE_QUANT_FIT_H

#include "ir/qnet.h"

typedef enum nbi_range_method {
    NBI_RANGE_MSE,        /* least mean squared error over 100 shrunken ranges (default) */
    NBI_RANGE_MINMAX,
    NBI_RANGE_PERCENTILE, /* 99.9 % */
    NBI_RANGE_KL,         /* least Kullback–Leibler divergence of the clipped histogram */
    NBI_RANGE_METHODS
} nbi_range_method;
const char *nbi_range_name(nbi_range_method method); /* "mse"… */

/* ---- histograms: streaming, bounded memory, independent of batch borders up to bin width ------ */

/* Counts `n` values of magnitude; NB_ENUMERIC when one is not finite (names `what`). The width
 * doubles when a value falls outside, so nothing is stored twice and memory stays constant. */
nb_status nbi_hist_init(nb_ctx *ctx, nbi_arena *arena, nbi_hist *hist);
nb_status nbi_hist_add(nb_ctx *ctx, nbi_hist *hist, const char *what, const float *x, size_t n);

/* Unsigned (zero = 0, 0 … 2^bits−1) or symmetric (zero = 0, −2^(bits−1) … 2^(bits−1)−1), bits 1…8;
 * *sqnr in dB. An all-zero histogram is fitted as the range −1…1. */
void nbi_fit_activation(const nbi_hist *hist, bool is_unsigned, int bits, nbi_range_method method,
                        nbi_qparam *out, double *sqnr);
/* Affine: u8 with a zero point; 0 is exactly representable. */
void nbi_fit_affine(const nbi_hist *hist, int bits, nbi_range_method method, nbi_qparam *out,
                    double *sqnr);

/* ---- weights ------------------------------------------------------------------------------- */

/* Symmetric, full range −2^(bits−1) … 2^(bits−1)−1 (1 bit: ±1 with scale E|w|), least squared
 * error: 100 steps up to 1.2·max|w|, then alternating least squares. Per output channel or per
 * tensor. levels[n_weights] in the layer's order, scale[out_c]. *sqnr in dB. */
nb_status nbi_fit_weights(nb_ctx *ctx, const nbi_layer *layer, int bits, bool per_channel,
                          int8_t *levels, float *scale, double *sqnr);
/* Output channel of weight number i. */
static inline int nbi_weight_channel(const nbi_layer *l, size_t i) {
    return l->depthwise ? (int)(i % (size_t)l->geometry.out_c)
                        : (int)(i / (l->n_weights / (size_t)l->geometry.out_c));
}

/* Levels → packed codes (see nbk_unpack); out has nbi_packed_bytes() bytes. */
size_t nbi_packed_bytes(size_t count, int bits);
void nbi_pack_weights(const int8_t *levels, size_t count, int bits, uint8_t *out);
/* NULL, or the level table that codes of this width need (1 bit: {1, −1}). */
const int8_t *nbi_level_table(int bits);

#endif
