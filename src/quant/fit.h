/* Fitting uniform quantizers: activations from histograms, weights directly. */
#ifndef NIBBLE_QUANT_FIT_H
#define NIBBLE_QUANT_FIT_H

#include "schemes/range.h"

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
