/* Training that begins where learned rounding has ended. */
#ifndef NIBBLE_QUANT_LEARNED_START_H
#define NIBBLE_QUANT_LEARNED_START_H

#include "quant/learn.h"
#include "quant/qat.h"

/* Weights of layers that were rounded become, of all that their quantizer rounds to the same levels,
 * those nearest to what they would be without a grid (but a little inside of the cell); steps become
 * those of the levels. Schemes that rescale weights keep them as they are. `grid` (NULL: none): activations that were learned, too; dtype NONE: not this
 * one. The normalization behind is that of other sums then: hold the gains next. */
nb_status nbi_learned_start(nb_ctx *ctx, const nbi_learner *learner, const nbi_qparam *grid,
                            nbi_qat *qat);
/* gamma of those layers such that they multiply by the network's gain under the running statistics at
 * hand: learned rounding fits the sums themselves, whatever their variance. */
void nbi_learned_gains(const nbi_learner *learner, nbi_qat *qat);

#endif
