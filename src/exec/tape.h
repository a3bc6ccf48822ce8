/* Runs a float graph forward and backward. One plan holds both directions, so activation memory is
 * what the operators say they must keep (op.h, keep_in and keep_out), placed by liveness.
 *
 * A parameter is a constant of the graph: its values are read from graph->tensor[t]->data at every
 * run, so an optimizer updates them in place. Anything else (weights that another part of the graph
 * computes, scales, bit widths, inputs) can have a gradient, too. */
#ifndef NIBBLE_EXEC_TAPE_H
#define NIBBLE_EXEC_TAPE_H

#include "ir/graph.h"

typedef struct nbi_tape nbi_tape;

/* After a step, the value of tensor `from` (an output of a node: new running statistics) is copied
 * into the constant `to` of the same shape. */
typedef struct nbi_tape_state {
    int from, to;
} nbi_tape_state;

typedef struct nbi_tape_spec {
    int n_wrt, n_losses, n_states, n_keep;
    const int *wrt;  /* float32 tensors whose gradients are wanted: constants, inputs or computed */
    const int *loss; /* float32 tensors of one element; may be empty (forward only) */
    const int *keep; /* further tensors whose values are read after a run */
    const nbi_tape_state *state;
    bool reference; /* plain C only, contiguous ONNX order: the oracle */
} nbi_tape_spec;

/* `graph`: every shape known; it must outlive the tape. Graph outputs keep their values, too.
 * NB_EUNSUPPORTED names the first node without forward, or without backward where a gradient has to
 * flow through it. A wrt tensor that no loss depends on has gradient 0. */
nb_status nbi_tape_new(nb_ctx *ctx, nbi_graph *graph, const nbi_tape_spec *spec, nbi_tape **out);
void nbi_tape_free(nbi_tape *tape); /* NULL is allowed */
/* Inputs in graph-input order: contiguous ONNX order. `seed` reaches random operators. */
nb_status nbi_tape_forward(nb_ctx *ctx, nbi_tape *tape, const void *const *inputs, uint64_t seed);
/* Gradients of Σ weight[i]·loss[i] (NULL: all 1) of the last forward run. */
nb_status nbi_tape_backward(nb_ctx *ctx, nbi_tape *tape, const float *weight);
/* Copies the states; after a step that is to count. */
void nbi_tape_advance(nbi_tape *tape);
/* The value of a loss, wrt, keep, input or output tensor after a run; strided. */
nb_status nbi_tape_value(nb_ctx *ctx, const nbi_tape *tape, int tensor, nbi_view *out);
/* The gradient of spec.wrt[i]: contiguous ONNX order, float32, valid until the next run. */
const float *nbi_tape_gradient(const nbi_tape *tape, int i);
/* Bytes of the planned activations and gradients. */
size_t nbi_tape_bytes(const nbi_tape *tape);
/* The first tensor, in the order of the last run, that holds a value that is not finite: its name,
 * or NULL. For messages after a loss has become NaN; looks at kept values and parameters. */
const char *nbi_tape_not_finite(const nbi_tape *tape);

#endif
