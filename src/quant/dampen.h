/* Against oscillation: a weight whose best value lies between two levels jumps to and fro between
 * them at the end of training. Dampening adds λ·|w − ŵ|² to the loss for weights within their range,
 * λ rising as a half cosine from 0, which pulls each towards the level it has (Nagel et al. 2022,
 * "Overcoming oscillations in quantization-aware training", section 4.2). */
#ifndef NIBBLE_QUANT_DAMPEN_H
#define NIBBLE_QUANT_DAMPEN_H

#include "quant/qat.h"
#include "train/optimizer.h"

typedef struct nbi_dampen nbi_dampen;
/* `qat` must outlive it; lambda > 0 is the last one. Warns of layers without learned steps, which are left
 * alone. */
nb_status nbi_dampen_new(nb_ctx *ctx, const nbi_qat *qat, double lambda, nbi_dampen **out);
void nbi_dampen_free(nbi_dampen *dampen); /* NULL is allowed */
/* nbi_loop_spec.adjust: params in the order of qat->train. */
nb_status nbi_dampen_adjust(nb_ctx *ctx, void *dampen, uint64_t step, uint64_t steps, double lr,
                            nbi_param *params);

#endif
