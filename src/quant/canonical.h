/* Float graph → canonical layers (qnet without sites). */
#ifndef NIBBLE_QUANT_CANONICAL_H
#define NIBBLE_QUANT_CANONICAL_H

#include "ir/qnet.h"
#include "ops/op.h"

/* The work of one conversion; the layer builders share it. */
typedef struct nbi_canon {
    nb_ctx *ctx;
    nbi_qnet *net;
    nbi_graph *graph;   /* = net->graph */
    int *edge_of;       /* [n_tensors] → edge, −1 */
    int *uses;          /* [n_tensors]: consumers, graph outputs included */
    int *consumer;      /* [n_tensors]: a node that reads it, −1 */
    bool *done;         /* [n_nodes]: fused into an earlier layer */
} nbi_canon;

/* Takes over `graph` (specialized: every shape known, batch 1), also on failure. */
nb_status nbi_canonicalize(nb_ctx *ctx, nbi_graph *graph, nbi_qnet **out);

/* Builders, one file per family. *built = false: this node cannot be canonical (it becomes a float
 * layer); nothing was added. */
typedef nb_status (*nbi_canon_fn)(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_conv(nbi_canon *c, int node, bool *built);   /* Conv */
nb_status nbi_canon_dense(nbi_canon *c, int node, bool *built);  /* Gemm, MatMul */
nb_status nbi_canon_binary(nbi_canon *c, int node, bool *built); /* Add, Sub, Mul, Div */
nb_status nbi_canon_unary(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_pool(nbi_canon *c, int node, bool *built);   /* pools, ReduceMean over space */
nb_status nbi_canon_reshape(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_slice(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_pad(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_concat(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_transpose(nbi_canon *c, int node, bool *built);
/* QuantizeLinear and DequantizeLinear of activations end a layer and give its edge the grid of a QDQ
 * model; a second grid of the same tensor is a requantization. */
nb_status nbi_canon_quantize(nbi_canon *c, int node, bool *built);
nb_status nbi_canon_dequantize(nbi_canon *c, int node, bool *built);
/* Does the node read the codes between them? */
bool nbi_canon_reads_codes(const nbi_canon *c, const nbi_node *node);
/* Such a node: a clamp of codes, or a move, which `move` (NULL: no builder) builds. */
nb_status nbi_canon_codes(nbi_canon *c, int node, nbi_canon_fn move, bool *built);

/* Adds the edge of a tensor. lo, hi: the values it can have. */
nb_status nbi_canon_edge(nbi_canon *c, int tensor, int producer, float lo, float hi, int *out);
/* Adds `layer` (in, node set; out made here from `tensor` with range lo, hi). */
nb_status nbi_canon_add(nbi_canon *c, nbi_layer *layer, int tensor, float lo, float hi);
/* Fuses Relu and Clip behind *tensor into layer->act_lo/hi; *tensor moves on. `node` has room. */
void nbi_canon_activation(nbi_canon *c, nbi_layer *layer, int *tensor);
/* The only consumer of a tensor that nothing else reads, else −1. */
int nbi_canon_next(const nbi_canon *c, int tensor);
/* The clamp that a node is (Relu, Clip, with constant bounds), or false. */
bool nbi_canon_clamp(const nbi_node *node, float *lo, float *hi);
bool nbi_op_is(const nbi_node *node, const char *op_type);
/* A float constant of `tensor`, or NULL. */
const float *nbi_canon_const(const nbi_canon *c, int tensor);

#define NBI_CANON_NODES 32 /* most nodes that one layer takes in */

#endif
