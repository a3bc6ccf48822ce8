/* Internal to exec/: how a tape is built. A tape is a plan (plan.h) whose steps run a graph forward,
 * then backward. Gradients are in single-assignment form: every contribution has a slot of its own,
 * sums make new slots (in place where the old one is not read again). */
#ifndef NIBBLE_EXEC_TAPE_PARTS_H
#define NIBBLE_EXEC_TAPE_PARTS_H

#include "exec/plan.h"
#include "exec/tape.h"

typedef struct tape_chain tape_chain;

struct nbi_tape {
    nbi_exec *plan;
    nbi_graph *graph;
    nbi_arena arena;
    nbi_tape_spec spec; /* arrays copied */
    bool *wants;        /* per tensor: a gradient is wanted, of it or of what it depends on */
    bool *reaches;      /* per tensor: a loss depends on it */
    int *gradient;      /* per tensor: slot of the gradient so far, −1 */
    int *final;         /* per wrt: slot of the finished gradient, in ONNX order */
    const float *weight; /* per loss, during backward; NULL: 1 */
    bool *skipped;       /* per node: inside a chain, not its end */
    tape_chain **chain;  /* per node: the chain that ends here, or NULL */
    int n_forward;       /* steps */
    int n_plans, cap_plans;
    nbi_la_plan **la;
    bool ran; /* forward has run */
};

/* tape_plan.c */
nb_status nbi_tape_build(nb_ctx *ctx, nbi_tape *t);
/* The slot joins the gradient of tensor x. */
nb_status nbi_tape_contribute(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, int x, int slot);
/* A new slot for a gradient of tensor x. */
nb_status nbi_tape_gradient_slot(nb_ctx *ctx, nbi_tape *t, int x, bool channels_last, int *out);
/* A STEP_CALL. */
nb_status nbi_tape_call(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, exec_call call, void *user,
                        int n_in, const int *in, int n_out, const int *out, exec_step **step);
bool nbi_tape_needs(const nbi_tape *t, const nbi_node *node, int input);
/* tape_linalg.c: *done when linalg takes the node in this direction. */
nb_status nbi_tape_linalg_forward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, bool *done);
nb_status nbi_tape_linalg_backward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, bool *done);
/* tape_chain.c: finds a chain that begins at node n (then t->chain has it at its end); its steps. */
nb_status nbi_tape_find_chain(nb_ctx *ctx, nbi_tape *t, int n);
nb_status nbi_tape_chain_forward(nb_ctx *ctx, nbi_tape *t, int n);
nb_status nbi_tape_chain_backward(nb_ctx *ctx, nbi_tape *t, int n);

#endif
