/* The frozen quantized graph as a QDQ ONNX model: codes between QuantizeLinear and DequantizeLinear,
 * integer weights and biases, the affine of every convolution in its weight scales and bias.
 *
 *   frozen + source ──nbi_export_qdq──► graph ──nbi_onnx_write──► model.onnx
 */
#ifndef NIBBLE_ONNX_EXPORT_QDQ_H
#define NIBBLE_ONNX_EXPORT_QDQ_H

#include "ir/qnet.h"

typedef struct nbi_qdq_options {
    int opset;      /* ≥ 21; 25 for 2-bit containers; 0: 21, or 25 when they are wanted */
    int containers; /* 0: weights in int8 and int4; 2: in int2 as well (as nbi_net_cost_of) */
} nbi_qdq_options;

/* `source`: the float graph as imported (any batch), from which frozen->net was made. Its symbolic
 * dimensions, inputs, outputs, metadata and the nodes that the net leaves untouched are kept. The
 * result is independent of both; free it with nbi_graph_free. NB_EUNSUPPORTED names a node that has
 * no form in the wanted opset. `options` NULL: all 0. */
nb_status nbi_export_qdq(nb_ctx *ctx, const nbi_frozen *frozen, const nbi_graph *source,
                         const nbi_qdq_options *options, nbi_graph **out);

#endif
