/* Internal to exec/: the plan of a float graph. */
#ifndef NIBBLE_EXEC_PLAN_H
#define NIBBLE_EXEC_PLAN_H

#include "base/pace.h"
#include "exec/exec.h"
#include "linalg/linalg.h"
#include "ops/op_util.h"

/* Contiguous view of a tensor with a known shape; data is left NULL. */
nbi_view nbi_tensor_view(const nbi_tensor *t);

/* A slot is a place for a value: the first graph->n_tensors are the tensors, the rest are copies in
 * another layout. */
typedef struct exec_slot {
    nbi_view view;    /* data NULL: not planned (or an input between runs) */
    size_t offset;    /* in the buffer, NBI_NOWHERE for constants, inputs and aliases */
    int root;         /* whose memory it uses; itself, unless it is an alias */
    int last;         /* of a root: the last step that reads it or an alias, -1 */
    bool last_layout; /* channels last (only rank ≥ 3) */
    bool fixed;       /* a constant, a graph input or a graph output: never overwritten */
    int copy[2];      /* slot of the plain and of the channels-last copy, -1 */
} exec_slot;
#define NBI_NOWHERE SIZE_MAX

typedef enum exec_kind { STEP_OP, STEP_COPY, STEP_ALIAS, STEP_LINALG, STEP_CALL } exec_kind;
typedef struct exec_step exec_step;
/* What a STEP_CALL does with its views. */
typedef nb_status (*exec_call)(nb_ctx *ctx, nbi_exec *e, exec_step *s);
struct exec_step {
    exec_kind kind;
    exec_call call;
    void *user; /* of the call */
    const nbi_node *node; /* for STEP_COPY the node that wants the copy */
    int n_in, n_out;
    int *in, *out;                /* slots or NBI_NO_TENSOR. STEP_LINALG: x[, what y is added to] */
    nbi_view *in_view, *out_view; /* refreshed before every run */
    nbi_la_plan *plan;
    int over;      /* output 0 may use the memory of this input, −1 */
    bool in_place; /* and does */
};

/* A linalg plan that stands for up to four nodes: Conv or Gemm, BatchNormalization, Add, Relu or
 * Clip; it runs where the last of them stands. */
typedef struct exec_chain {
    nbi_la_plan *plan;
    int x, add, out;    /* tensors; add −1: none */
    bool channels_last; /* x and out */
} exec_chain;

/* Whether this plan runs or its twin for one thread. */
typedef struct exec_pace {
    nbi_exec *twin; /* NULL: not made yet */
    bool ran_alone; /* the values of the last run are in the twin */
    nbi_pace pace;  /* alone: the twin */
} exec_pace;

struct nbi_exec {
    const nbi_graph *graph;
    unsigned flags;
    nbi_arena arena;
    nbi_la *la;
    int n_slots, cap_slots;
    exec_slot *slot;
    char *buffer;
    size_t bytes;
    int n_steps, cap_steps;
    exec_step *step;
    bool *needed;       /* per node */
    bool *skipped;      /* per node: part of a chain, not its end */
    exec_chain **chain; /* per node: the chain that ends here, or NULL */
    int *uses;          /* per tensor: reads by needed nodes and graph outputs */
    uint64_t seed;      /* of this run's random operators */
    exec_pace pace;
};

/* fuse.c: fills skipped and chain with what linalg can run. */
nb_status nbi_exec_fuse(nb_ctx *ctx, nbi_exec *e);
/* plan.c: slots, steps and memory. */
nb_status nbi_exec_plan(nb_ctx *ctx, nbi_exec *e);
/* ---- the parts of a plan, for tapes, too ---- */

nb_status nbi_plan_slot(nb_ctx *ctx, nbi_exec *e, const nbi_view *view, bool channels_last,
                        int *out);
/* One slot per tensor; constants, inputs and outputs are fixed. */
nb_status nbi_plan_tensor_slots(nb_ctx *ctx, nbi_exec *e);
nb_status nbi_plan_step(nb_ctx *ctx, nbi_exec *e, exec_kind kind, const nbi_node *node, int n_in,
                        int n_out, exec_step **out);
/* *slot is replaced by one with the same value in the wanted layout. */
nb_status nbi_plan_layout(nb_ctx *ctx, nbi_exec *e, const nbi_node *node, bool channels_last,
                          int *slot);
/* The forward step of one operator. */
nb_status nbi_plan_node(nb_ctx *ctx, nbi_exec *e, const nbi_node *node);
/* Which slots share memory, and where in one buffer each lies. */
nb_status nbi_plan_memory(nb_ctx *ctx, nbi_exec *e);
/* exec.c: steps begin … end−1, and what of a node cannot run. */
nb_status nbi_exec_steps(nb_ctx *ctx, nbi_exec *e, int begin, int end);
nb_status nbi_exec_check_node(nb_ctx *ctx, const nbi_graph *g, const nbi_node *node);
nb_status nbi_exec_arrays(nb_ctx *ctx, nbi_exec *e);
/* fuse.c: the geometry of a node when linalg can run it. */
bool nbi_fuse_conv(const nbi_graph *g, const nbi_node *node, nbi_la_conv_desc *out);
bool nbi_fuse_pool(const nbi_graph *g, const nbi_node *node, nbi_la_pool_desc *out);

#endif
