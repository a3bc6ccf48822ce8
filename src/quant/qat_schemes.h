/* Training policies whose choices are not uniform: FakeQuant of a site's own scheme, and its params on
 * the way back. A layer's nbi_qat_layer.weight_scale and nbi_qat.site_params are then the params of the
 * scheme, [groups, n_params]. What is refitted to weights is fitted anew whenever the trained values are
 * read (nbi_qat_settle, nbi_qat_freeze), so that it belongs to them. */
#ifndef NIBBLE_QUANT_QAT_SCHEMES_H
#define NIBBLE_QUANT_QAT_SCHEMES_H

#include "quant/qat.h"
#include "schemes/choice.h"

typedef struct nbi_qat_quantizer {
    const char *name;
    nbi_choice choice;
    nbi_scheme_use use;
    int x, params; /* tensors */
    int axis;      /* of the groups; −1: one */
    bool training; /* what is refitted is fitted to every batch */
    bool keep;     /* … and averaged into params: activations */
} nbi_qat_quantizer;
/* Adds FakeQuant to q's graph; *out: its result. */
nb_status nbi_qat_add_quantizer(nb_ctx *ctx, nbi_qat *q, const nbi_qat_quantizer *z, int *out);
/* Which of a scheme's params get gradients: the first so many. */
int nbi_qat_learned(const nbi_scheme *scheme, const nbi_scheme_use *use);

/* The params that a layer's weights start from: fits the constant weight_scale. */
void nbi_qat_fit_weights(const nbi_qat *q, int layer);
/* How many times larger than the layer's weights its quantized ones are: 1 but for schemes that
 * rescale (DoReFa). */
double nbi_qat_magnification(const nbi_qat *q, int layer, size_t o);
/* Fits again what the scheme refits; uniform layers: nothing. */
void nbi_qat_refit(const nbi_qat *q, int layer);
/* The real value of a level of 1 of output channel o, before gain. */
float nbi_qat_weight_unit(const nbi_qat *q, int layer, size_t o);
/* Levels, scales and table of a layer that is not uniform, for conv, from `arena`. */
nb_status nbi_qat_code_weights(nb_ctx *ctx, const nbi_qat *q, int layer, nbi_arena *arena,
                               nbi_frozen_conv *conv);
/* Whether 0 is among the levels of the layer's weights. */
bool nbi_qat_has_zero(const nbi_qat *q, int layer);
/* The grid of an activation site as trained; `levels` is the caller's room, used where needed. */
void nbi_qat_site_grid(const nbi_qat *q, int site, nbi_levels *levels, nbi_qparam *out);
/* Moves and maxima of codes stay on their grid: such a layer has no quantizer. */
bool nbi_qat_moves(const nbi_qnet *net, const nbi_layer *l);
/* A requantization to the grid that its input has: nothing is left of it. */
bool nbi_qat_keeps_grid(const nbi_qat *q, const nbi_layer *l);
/* How many layers quantize to a site: several in front of a concatenation. */
int nbi_qat_quantizers(const nbi_qnet *net, int site);

#endif
