/* One row per operator. Adding an operator: one file src/ops/op_<name>.c with a const struct, one
 * line in ops.def. A NULL callback means "not supported" and is reported, never crashed on. */
#ifndef NIBBLE_OPS_OP_H
#define NIBBLE_OPS_OP_H

#include "ir/graph.h"

/* Everything forward() needs: views of the inputs (data NULL for an omitted optional input) and of
 * the outputs (shape, dtype and strides set by the caller, data allocated). */
typedef struct nbi_op_call {
    nb_ctx *ctx;
    const nbi_graph *graph;
    const nbi_node *node;
    const nbi_view *in;
    nbi_view *out;
    uint64_t seed; /* of random operators; another one in every training step, else 0 */
} nbi_op_call;

/* Everything backward() needs. in and out as forward() saw them; data is NULL for inputs outside
 * keep_in and outputs outside keep_out (shape and dtype are there). gout[i].data NULL: no gradient
 * flows into that output. gin[i].data NULL: the gradient of that input is not wanted; else backward
 * writes (never adds to) all of it. Strides of gin[i] and gout[i] are arbitrary for operators with
 * NBI_OP_STRIDED, else contiguous. Gradients are float32. Sums run over fixed chunks, so that the
 * result does not depend on the number of threads. */
typedef struct nbi_grad_call {
    nb_ctx *ctx;
    const nbi_graph *graph;
    const nbi_node *node;
    const nbi_view *in, *out, *gout;
    nbi_view *gin;
    uint64_t seed; /* as forward() had it */
} nbi_grad_call;

typedef struct nbi_cost {
    double macs;       /* multiply-accumulates of one run */
    double parameters; /* trained values read */
} nbi_cost;

enum {
    /* forward() accepts any strides on every input and output. Without it, exec passes contiguous
     * ONNX-order views (and converts where needed). */
    NBI_OP_STRIDED = 1u << 0,
    /* Element-wise: every output has the broadcast shape of the inputs, in the same layout. */
    NBI_OP_ELEMENTWISE = 1u << 1,
    /* Convolution-like: channels-last inputs and outputs are preferred. Implies NBI_OP_STRIDED. */
    NBI_OP_CHANNELS_LAST = 1u << 2,
    /* Output 0 may overwrite input 0 (same shape, dtype and strides). */
    NBI_OP_INPLACE = 1u << 3,
    /* The output only re-reads the input's bytes in order (Reshape, Flatten, Squeeze…): exec may
     * alias the buffers when the input is contiguous. */
    NBI_OP_ALIAS = 1u << 4,
    /* Index n of output 0's first dimension depends on index n of input 0 only: exec may run
     * forward() on slices of both, one per worker. */
    NBI_OP_PER_IMAGE = 1u << 5,
    /* backward may write gin[0] over gout[0]. */
    NBI_OP_GRAD_INPLACE = 1u << 6
};

/* Which element types forward() computes with; a node that uses others is treated as unknown. */
typedef enum nbi_op_types {
    NBI_TYPES_FLOAT,  /* float32 only */
    NBI_TYPES_NUMBER, /* float32, float64, integers, bool */
    NBI_TYPES_ANY     /* elements are moved, never looked at */
} nbi_op_types;

typedef struct nbi_op {
    const char *name;                     /* ONNX op_type */
    const char *domain;                   /* "" for ai.onnx */
    int min_opset;                        /* oldest opset whose meaning prepare() understands */
    int min_in, max_in, min_out, max_out; /* max_in -1: variadic */
    unsigned flags;
    nbi_op_types types;
    /* Checks arity, reads attributes (of graph->opset) and constant inputs that act as attributes
     * into node->params (in the graph's arena). Normalises old opsets: what infer, forward and
     * lower see is always the newest meaning. Called once after import or on creation. */
    nb_status (*prepare)(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
    /* Sets dtype and shape of the outputs from the inputs' (and from constant inputs' values); may
     * set node->op to a variant row of the same operator (training forms). Unknown dimensions may stay -1. NB_EFORMAT names node, value found and wanted. */
    nb_status (*infer)(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
    /* Shapes are known. NULL: no arithmetic worth counting. */
    void (*cost)(const nbi_graph *graph, const nbi_node *node, nbi_cost *out);
    /* The plain-C reference. Float32 everywhere; integer and bool where ONNX has it. */
    nb_status (*forward)(const nbi_op_call *call);
    /* NULL: not differentiable (integer results, shapes); a gradient that would have to flow
     * through it is an error that names the node. */
    nb_status (*backward)(const nbi_grad_call *call);
    unsigned keep_in, keep_out; /* bit i: backward reads the values of input / output i */
    /* Bit i: input i has a gradient (0: every float32 input). */
    unsigned grad_in;
} nbi_op;

/* The table of this build, sorted as in ops.def; n rows. */
const nbi_op *const *nbi_ops(size_t *n);
/* NULL if unknown. */
const nbi_op *nbi_op_find(const char *domain, const char *op_type);
/* Looks up node->op and calls prepare; an unknown operator keeps op = NULL and is NB_OK, and so
 * does a known one used in a way that is not supported (NB_EUNSUPPORTED of prepare or infer is
 * logged). */
nb_status nbi_node_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
/* What one run costs; zeros for an unknown operator, or behind one, where shapes are not known. */
void nbi_node_cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out);
/* prepare (where params are missing) and infer of one node; unknown operators are left alone. */
nb_status nbi_node_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
/* prepare (where params are missing) and infer for every node in order; constants known. Nodes that
 * are unknown leave their outputs unknown. */
nb_status nbi_graph_infer(nb_ctx *ctx, nbi_graph *graph);

#endif
