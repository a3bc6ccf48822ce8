/* Pieces that the QDQ export's files share. */
#ifndef NIBBLE_ONNX_EXPORT_QDQ_PARTS_H
#define NIBBLE_ONNX_EXPORT_QDQ_PARTS_H

#include "onnx/export_qdq.h"

/* The work of one export. `g` starts as a copy of the source whose nodes are taken out, so a tensor
 * of the source has the same index in both, and added names never collide with the source's. */
typedef struct nbi_qdq {
    nb_ctx *ctx;
    const nbi_frozen *frozen;
    const nbi_qnet *net;
    const nbi_graph *source;
    nbi_graph *g;
    nbi_node **old; /* the source's nodes, copied into g's arena, not (yet) in g */
    int opset, containers;
    int *tensor;    /* by edge: its float tensor in g; −1 before nbi_qdq_real for added edges */
    int *code;      /* by edge: its uint8 tensor, −1 where the edge is float */
    bool *has_real; /* by edge: tensor[e] is produced */
    int *edge_of;   /* by tensor of the source, −1 */
    int *shared;    /* small constants, each value once */
    int n_shared, cap_shared;
    int names;
} nbi_qdq;

/* Unsigned codes are stored as they are, signed ones 128 higher: ONNX Runtime's int8 kernels want
 * one type on both sides, and uint8 after ReLU with zero point 0 (see docs/quantization.md). */
static inline int nbi_qdq_offset(const nbi_qparam *p) {
    return p->dtype == NB_DTYPE_S8 ? 128 : 0;
}
static inline bool nbi_qdq_is_code(const nbi_qparam *p) {
    return p->dtype == NB_DTYPE_U8 || p->dtype == NB_DTYPE_S8;
}
const nbi_qparam *nbi_qdq_param(const nbi_qdq *q, int edge);

/* A constant; one that exists already is used again. */
nb_status nbi_qdq_const(nbi_qdq *q, nb_dtype dtype, int rank, const int64_t *dim, const void *data,
                        int *out);
nb_status nbi_qdq_scalar(nbi_qdq *q, nb_dtype dtype, const void *data, int *out);
nb_status nbi_qdq_ints(nbi_qdq *q, int n, const int64_t *values, int *out);
/* A node with one output, made here (out_tensor −1) or given. name NULL: nbi_qdq_name_nodes makes a
 * short one up. */
nb_status nbi_qdq_node(nbi_qdq *q, const char *name, const char *op_type, int n_in, const int *in,
                       int out_tensor, nbi_node **out_node, int *out);
/* When all nodes are there: every name once. */
nb_status nbi_qdq_name_nodes(nbi_qdq *q);

/* The float tensor of an edge (DequantizeLinear of its codes is added on first use). */
nb_status nbi_qdq_real(nbi_qdq *q, int edge, int *out);
/* What moves of values work on: the codes, or the float tensor where there are none. */
nb_status nbi_qdq_moved(nbi_qdq *q, int edge, int *out);
/* `tensor` holds what nbi_qdq_moved gives for the layer's output. */
void nbi_qdq_set_moved(nbi_qdq *q, int edge, int tensor);
/* Where a move writes: −1 (codes: any new tensor) or the edge's own float tensor. */
int nbi_qdq_moved_out(const nbi_qdq *q, int edge);
/* The layer's float result before its clamp and quantization: −1 (any) or the edge's own tensor. */
int nbi_qdq_value_out(const nbi_qdq *q, const nbi_layer *l);
/* Clamps and quantizes `value` into the layer's output edge. */
nb_status nbi_qdq_finish(nbi_qdq *q, const nbi_layer *l, int value);
/* Quantizes `value` to the edge's grid, cut to lo..hi (levels). */
nb_status nbi_qdq_quantize(nbi_qdq *q, int edge, int value, int lo, int hi);

nb_status nbi_qdq_conv(nbi_qdq *q, int layer);
/* Average pools. */
nb_status nbi_qdq_pool(nbi_qdq *q, const nbi_layer *l);
/* Max pools and copies. */
nb_status nbi_qdq_move(nbi_qdq *q, const nbi_layer *l);
/* The nodes of a function or float layer, as they are. */
nb_status nbi_qdq_plain(nbi_qdq *q, const nbi_layer *l);
/* What the outputs need beyond the layers: untouched nodes and what feeds them. */
nb_status nbi_qdq_untouched(nbi_qdq *q);
/* A node of the source opset in the meaning of the target's. x: the shapes of its first two inputs, of
 * one image or of any batch; NULL: not known. */
nb_status nbi_qdq_upgrade(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]);

#endif
