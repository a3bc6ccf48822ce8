/* Runs a float graph whose shapes are all known: plan once, run many times. Uses linalg (oneDNN
 * where built in) for the heavy operators and each op's reference for the rest. */
#ifndef NIBBLE_EXEC_EXEC_H
#define NIBBLE_EXEC_EXEC_H

#include "ir/graph.h"
#include "ops/op.h"

typedef struct nbi_exec nbi_exec;

enum {
    NBI_EXEC_REFERENCE = 1u << 0, /* plain C only, contiguous ONNX order: the oracle */
    NBI_EXEC_PLAN_ONLY = 1u << 2, /* for nbi_exec_arena_bytes: no buffers, it cannot be run */
    /* Rounding errors may be ten times larger where that is faster; of no effect on a graph that
     * quantizes, where values at the border of two codes would go the other way more often. */
    NBI_EXEC_FAST = 1u << 3,
    NBI_EXEC_KEEP_ALL = 1u << 1   /* no buffer is re-used: every tensor can be read afterwards */
};

/* A copy of `graph` with the given input shapes bound (n = graph->n_inputs; dims all ≥ 0), every
 * shape inferred, shape arithmetic and constants folded, dead nodes gone. NB_EFORMAT if a shape
 * cannot be determined; nodes of unknown type and what only they feed are kept, unshaped. */
/* An input whose view has data is bound to that value, too: it becomes a constant and is no longer a
 * graph input (contiguous; below 8 bits one element per byte). */
nb_status nbi_specialize(nb_ctx *ctx, const nbi_graph *graph, const nbi_view *input_shapes,
                         nbi_graph **out);
/* nbi_specialize with dimension 0 of every input = batch where it is unknown (other unknown
 * dimensions are an error that names them). */
nb_status nbi_specialize_batch(nb_ctx *ctx, const nbi_graph *graph, int64_t batch, nbi_graph **out);
/* A copy whose first dimensions are free where the file fixes them at another number than `batch`:
 * those of the inputs, and of the lists that say the same (the shape of a Reshape). NB_EUNSUPPORTED
 * names the first node that at another batch would compute something else than the same for every
 * image. */
nb_status nbi_free_batch(nb_ctx *ctx, const nbi_graph *graph, int64_t batch, nbi_graph **out);
/* Of a specialized graph: computes from several images of a batch, though no shape says so (Softmax over them). */
bool nbi_mixes_images(const nbi_node *node);
/* nbi_free_batch, then nbi_specialize_batch. */
nb_status nbi_rebatch(nb_ctx *ctx, const nbi_graph *graph, int64_t batch, nbi_graph **out);

/* In place: infers shapes, computes nodes whose inputs are all constant (Shape of a known shape,
 * too), removes Identity, Dropout and dead nodes. Quantize and DequantizeLinear are kept: they carry
 * the quantization of a file. */
nb_status nbi_graph_fold(nb_ctx *ctx, nbi_graph *graph);
/* Runs forward() of a node on constants and known shapes into new constants of the graph's arena;
 * *done is false when the node is not of that kind. The node is left in place. */
nb_status nbi_fold_node(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, bool *done);

/* `graph` must outlive the plan. Fails with NB_EUNSUPPORTED naming the first node that has no
 * implementation among those that the requested outputs need. */
nb_status nbi_exec_new(nb_ctx *ctx, const nbi_graph *graph, unsigned flags, nbi_exec **out);
void nbi_exec_free(nbi_exec *exec);
/* Inputs in graph-input order: contiguous ONNX order, dtype and shape as in the graph. */
nb_status nbi_exec_run(nb_ctx *ctx, nbi_exec *exec, const void *const *inputs);
/* The value of a tensor after a run (outputs, inputs and constants always; others with KEEP_ALL):
 * strided view. Types below 8 bits are seen as S8 or U8, one element per byte. */
nb_status nbi_exec_value(nb_ctx *ctx, const nbi_exec *exec, int tensor, nbi_view *out);
/* Peak bytes of the planned activation arena. */
size_t nbi_exec_arena_bytes(const nbi_exec *exec);

#endif
