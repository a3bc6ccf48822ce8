/* Pieces that the lowering files share. */
#ifndef NIBBLE_RUNTIME_LOWER_PARTS_H
#define NIBBLE_RUNTIME_LOWER_PARTS_H

#include "runtime/lower.h"

/* NBK_U8, NBK_S8 or NBK_S32. */
uint8_t nbi_element_type(const nbi_qparam *q);
/* The site's range cut by the layer's fused clamp. */
void nbi_clamp_range(const nbi_layer *l, const nbi_qparam *y, int32_t *lo, int32_t *hi);
nb_status nbi_lower_conv(nb_ctx *ctx, const nbi_qnet *net, int index, const nbi_qparam *site,
                         const nbi_frozen_conv *conv, bool pack, nbi_arena *arena, nbi_step *step);
/* Element-wise function of one tensor as a table of 256 per channel (one if they are equal). */
nb_status nbi_lower_unary(nb_ctx *ctx, const nbi_qnet *net, int index, const nbi_qparam *site,
                          nbi_arena *arena, nbi_step *step);

#endif
