/* A QDQ model as the integer engine runs it: the frozen quantized graph it was exported from, or,
 * for models of other tools, the one that means the same. */
#ifndef NIBBLE_QUANT_IMPORT_QDQ_H
#define NIBBLE_QUANT_IMPORT_QDQ_H

#include "ir/qnet.h"

/* Does the graph quantize activations (a QuantizeLinear of something that is not constant, and a
 * DequantizeLinear)? */
bool nbi_is_qdq(const nbi_graph *graph);

/* `qdq`: as imported (any batch); it is not changed. Both results are the caller's (free the frozen
 * graph first: it points to the net); sites keep their grid in fit[bits], too. The input's grid is
 * the model's; for pixels the caller sets input_is_image and input_table before lowering. Metadata
 * that our own files have is used: nibble.policy (exact widths where the codes leave a choice),
 * nibble.logits (the scales of int32 outputs; else 2^29 steps up to the largest sum possible).
 * Biases that are int32 at the scale of the sums are kept exactly.
 *
 * NB_EUNSUPPORTED names the first node or tensor that is not integer here (weights that are not
 * quantized, a tensor without scale between integer layers, 16-bit codes…): such models run on the
 * float engine. NB_EFORMAT: scales that make no sense. */
nb_status nbi_import_qdq(nb_ctx *ctx, const nbi_graph *qdq, nbi_qnet **out_net,
                         nbi_frozen **out_frozen);

#endif
