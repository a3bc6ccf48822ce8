/* The graph: tensors and nodes in ONNX order and meaning. Built by onnx/import or by hand in tests,
 * rewritten by passes, run by exec. Everything a graph points to lives in its arena.
 *
 * Dimensions are always in ONNX order (N, C, H, W). A layout other than ONNX's is a property of a
 * run-time buffer (strides in nbi_view), never of the graph. */
#ifndef NIBBLE_IR_GRAPH_H
#define NIBBLE_IR_GRAPH_H

#include "base/base.h"

#define NBI_MAX_RANK 8
#define NBI_NO_TENSOR (-1) /* an omitted optional input or output */

typedef enum nbi_attr_type {
    NBI_ATTR_INT = 1,
    NBI_ATTR_FLOAT,
    NBI_ATTR_TEXT,
    NBI_ATTR_TENSOR,
    NBI_ATTR_INTS,
    NBI_ATTR_FLOATS,
    NBI_ATTR_TEXTS,
    NBI_ATTR_GRAPH /* never computed with: the node is treated as unknown */
} nbi_attr_type;

struct nbi_tensor;
typedef struct nbi_attr {
    const char *name;
    nbi_attr_type type;
    int64_t i;
    float f;
    const char *s; /* NUL-terminated; s_length bytes may hold NULs */
    size_t s_length;
    size_t count; /* of ints, floats or texts */
    int64_t *ints;
    float *floats;
    const char **texts;
    struct nbi_tensor *tensor;
} nbi_attr;

typedef struct nbi_tensor {
    const char *name; /* never NULL */
    nb_dtype dtype;   /* NONE = not known yet */
    int rank;         /* -1 = not known yet */
    int64_t dim[NBI_MAX_RANK];      /* -1 = not known yet */
    const char *dim_name[NBI_MAX_RANK]; /* symbolic name of an unknown dimension, or NULL */
    void *data;       /* constant: contiguous, ONNX order, packed when below 8 bits; else NULL */
    int producer;     /* node index, -1 for graph inputs and constants */
} nbi_tensor;

struct nbi_op;
typedef struct nbi_node {
    const char *name;   /* never NULL; made up ("Conv_3") when the file has none */
    const char *domain; /* "" for ai.onnx */
    const char *op_type;
    const struct nbi_op *op; /* NULL: not known to this build */
    int n_in, n_out;
    int *in, *out; /* tensor indices or NBI_NO_TENSOR */
    int n_attr;
    nbi_attr *attr;
    void *params; /* the op's own struct, filled by op->prepare */
} nbi_node;

typedef struct nbi_pair { /* model metadata */
    const char *key, *value;
} nbi_pair;

typedef struct nbi_graph {
    nbi_arena arena;
    const char *name;
    int opset;      /* of the default domain, after upgrade: what the attributes mean */
    int n_tensors, cap_tensors;
    nbi_tensor **tensor; /* stable pointers */
    int n_nodes, cap_nodes;
    nbi_node **node; /* topological order */
    int n_inputs, n_outputs; /* graph inputs without initializers */
    int *input, *output;
    int n_meta, cap_meta;
    nbi_pair *meta;
} nbi_graph;

nb_status nbi_graph_new(nb_ctx *ctx, nbi_graph **out);
void nbi_graph_free(nbi_graph *graph); /* NULL is allowed */
/* Deep copy; constants are copied too. */
nb_status nbi_graph_copy(nb_ctx *ctx, const nbi_graph *graph, nbi_graph **out);
/* Adds a tensor; `name` is copied, made unique when taken; NULL makes one up. */
nb_status nbi_graph_add_tensor(nb_ctx *ctx, nbi_graph *graph, const char *name, nb_dtype dtype,
                               int rank, const int64_t *dim, int *out_index);
/* A constant with zeroed contents in the arena; fill tensor->data. All dims known. */
nb_status nbi_graph_add_const(nb_ctx *ctx, nbi_graph *graph, const char *name, nb_dtype dtype,
                              int rank, const int64_t *dim, int *out_index);
/* Adds a node at the end; input/output arrays are copied; op is looked up by (domain, op_type) by
 * the caller (ops/op.h) and set afterwards; the producers of its outputs are set. */
nb_status nbi_graph_add_node(nb_ctx *ctx, nbi_graph *graph, const char *name, const char *domain,
                             const char *op_type, int n_in, const int *in, int n_out,
                             const int *out, nbi_node **out_node);
nb_status nbi_graph_set_inputs(nb_ctx *ctx, nbi_graph *graph, int n, const int *tensors);
nb_status nbi_graph_set_outputs(nb_ctx *ctx, nbi_graph *graph, int n, const int *tensors);
nb_status nbi_graph_set_meta(nb_ctx *ctx, nbi_graph *graph, const char *key, const char *value);
const char *nbi_graph_meta(const nbi_graph *graph, const char *key); /* NULL if absent */
/* -1 if there is none. */
int nbi_graph_find(const nbi_graph *graph, const char *tensor_name);
/* Stable topological sort; fails with NB_EFORMAT on a cycle (names a node), a tensor produced
 * twice, or an input nobody produces. Recomputes producers. */
nb_status nbi_graph_sort(nb_ctx *ctx, nbi_graph *graph);
/* Removes nodes that reach no output; keeps order. */
void nbi_graph_prune(nbi_graph *graph);
/* Every node input and graph output that reads `from` reads `to` afterwards (graph output names
 * are kept: the tensor indices change, see nbi_graph.output). */
void nbi_graph_replace_uses(nbi_graph *graph, int from, int to);
/* How many node inputs and graph outputs read tensor t. */
int nbi_graph_uses(const nbi_graph *graph, int t);

/* Elements; -1 if a dimension is unknown; false through *ok on overflow past 2^40. */
int64_t nbi_tensor_count(const nbi_tensor *t);
bool nbi_shape_known(const nbi_tensor *t);
/* "[1,16,32,32]" into a caller's buffer of at least 96 bytes; returns it. */
char *nbi_shape_text(const nbi_tensor *t, char *text, size_t size);

/* Attribute access with defaults; a wrong type counts as absent. */
const nbi_attr *nbi_node_attr(const nbi_node *node, const char *name);
int64_t nbi_attr_int(const nbi_node *node, const char *name, int64_t def);
float nbi_attr_float(const nbi_node *node, const char *name, float def);
const char *nbi_attr_text(const nbi_node *node, const char *name, const char *def);
/* Returns the count (0 = absent) and points *out at the values. */
size_t nbi_attr_ints(const nbi_node *node, const char *name, const int64_t **out);
nb_status nbi_node_set_int(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name, int64_t v);
nb_status nbi_node_set_float(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name, float v);
nb_status nbi_node_set_ints(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name, size_t n,
                            const int64_t *v);
nb_status nbi_node_set_text(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name,
                            const char *v);

/* A run-time tensor: element (i0..) is at data + (Σ i_k·stride_k)·element size. */
typedef struct nbi_view {
    nb_dtype dtype;
    int rank;
    int64_t dim[NBI_MAX_RANK];    /* ONNX order */
    int64_t stride[NBI_MAX_RANK]; /* in elements */
    void *data;
} nbi_view;
/* Row-major strides of ONNX order. */
void nbi_view_contiguous(nbi_view *v);
/* Strides of N,(spatial…),C storage for rank ≥ 3; contiguous otherwise. */
void nbi_view_channels_last(nbi_view *v);
bool nbi_view_is_contiguous(const nbi_view *v);
bool nbi_view_is_channels_last(const nbi_view *v);
int64_t nbi_view_count(const nbi_view *v);
/* Element-wise copy between equal shapes and dtypes (≥ 8 bits), any strides. */
void nbi_view_copy(const nbi_view *to, const nbi_view *from);

#endif
