/* Fitting quantizers: activations from histograms, weights directly. */
#ifndef NIBBLE_QUANT_FIT_H
#define NIBBLE_QUANT_FIT_H

#include "schemes/choice.h"
#include "schemes/range.h"

/* ---- activations ---------------------------------------------------------------------------- */

/* Fits a site by a choice other than uniform (uniform ones are there since calibration), in the net's
 * arena; nbi_site_grid and nbi_site_sqnr then know it. Values are 2^14 quantiles of the histogram;
 * without one (before calibration) only the storage means something. A site that cannot get the scheme
 * is left alone. Again after a calibration: fits again. */
nb_status nbi_fit_site(nb_ctx *ctx, nbi_qnet *net, int site, nbi_choice choice,
                       nbi_range_method range);
/* Every activation site by what a policy gives it. */
nb_status nbi_fit_policy(nb_ctx *ctx, nbi_qnet *net, const nbi_choice *choice,
                         nbi_range_method range);

/* ---- weights ------------------------------------------------------------------------------- */

/* Symmetric, full range −2^(bits−1) … 2^(bits−1)−1 (1 bit: ±1 with scale E|w|), least squared
 * error: 100 steps up to 1.2·max|w|, then alternating least squares. Per output channel or per
 * tensor. levels[n_weights] in the layer's order, multiples of nbk_level_step(bits); scale[out_c] of
 * a level of 1. *sqnr in dB. */
nb_status nbi_fit_weights(nb_ctx *ctx, const nbi_layer *layer, int bits, bool per_channel,
                          int8_t *levels, float *scale, double *sqnr);
/* Whether a level of `bits` is 0. table[2^bits]; NULL: the uniform one. */
bool nbi_has_zero_level(int bits, const int8_t *table);
/* Output channels of gain 0 are constants: their levels become 0 where there is such a level. */
void nbi_clear_constants(const nbi_layer *layer, int bits, const int8_t *table, int8_t *levels);
/* Weights by any choice. */
typedef struct nbi_coded_weights {
    int8_t *levels; /* [n_weights], the layer's order; the caller's room, as is scale */
    float *scale;   /* [out_c], of a level of 1 */
    bool has_table; /* levels are table[code]; else those of uniform codes */
    int8_t table[256];
    double sqnr; /* dB */
} nbi_coded_weights;
/* Groups that have params of their own: output channels where the scheme allows it (channels then share
 * one table of levels), else 1. */
size_t nbi_weight_groups(const nbi_layer *layer, nbi_choice choice, bool per_channel);
/* Uniform as nbi_fit_weights; other schemes by their own fit and codes. */
nb_status nbi_fit_weight_choice(nb_ctx *ctx, const nbi_layer *layer, nbi_choice choice,
                                bool per_channel, nbi_coded_weights *out);
/* values[out_c][n_weights/out_c] in ONNX's order, params[groups][columns] → codes of the scheme (any
 * but 0): exactly fake quantization. */
nb_status nbi_encode_weights(nb_ctx *ctx, const nbi_layer *layer, nbi_choice choice, size_t groups,
                             const float *values, const float *params, size_t columns,
                             nbi_coded_weights *out);
/* Output channel of weight number i. */
static inline int nbi_weight_channel(const nbi_layer *l, size_t i) {
    return l->depthwise ? (int)(i % (size_t)l->geometry.out_c)
                        : (int)(i / (l->n_weights / (size_t)l->geometry.out_c));
}

/* ---- biases --------------------------------------------------------------------------------- */

/* A channel y = scale·Σ k·x + shift, scale ≥ 0, as integers have it: the scale in float32, large enough
 * that the shift is at most 2^30 units of the sums, a unit being x_step·*folded. Returns the shift in
 * whole units. `constant`: the sums are 0, so one unit is the shift. */
double nbi_fold_channel(double scale, double shift, double x_step, bool constant, float *folded);
/* Rounds biases, in steps of the sums and at most 2^30, to what `bits` (8, 16; else 32) bits hold:
 * codes times 2^nbi_bias_exponent(shift[c], *base), shift[c] being the channel's requantization
 * shift (nbi_rescale_of). *base is the largest one, so the finest, with which all codes fit.
 * Rounding what is rounded changes nothing. 32 bits: whole numbers; shift and base are not used. */
void nbi_fit_bias(int bits, size_t n, const uint8_t *shift, double *bias, int8_t *base);
/* As in nbk_bias. */
static inline int nbi_bias_exponent(int shift, int base) {
    int k = shift - base;
    return k < 0 ? 0 : k > 30 ? 30 : k;
}
static inline bool nbi_bias_is_narrow(int bits) {
    return bits == 8 || bits == 16;
}

/* Levels → packed codes (see nbk_unpack); out has nbi_packed_bytes() bytes. */
size_t nbi_packed_bytes(size_t count, int bits);
void nbi_pack_weights(const int8_t *levels, size_t count, int bits, uint8_t *out);
/* The same for levels that a table gives: codes are places in it (NULL: as above; 8 bits: levels). */
void nbi_pack_codes(const int8_t *levels, size_t count, int bits, const int8_t *table, uint8_t *out);
/* NULL, or the level table that codes of this width need (1 bit: {1, −1}). */
const int8_t *nbi_level_table(int bits);

#endif
