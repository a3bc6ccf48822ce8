/* Internal to exec/: the plan of a float graph. */
#ifndef NIBBLE_EXEC_PLAN_H
#define NIBBLE_EXEC_PLAN_H

#include "exec/exec.h"
#include "ops/op_util.h"

/* Contiguous view of a tensor with a known shape; data is left NULL. */
nbi_view nbi_tensor_view(const nbi_tensor *t);
/* Runs forward() of a node on constants and known shapes into new constants of the graph's arena;
 * *done is false when the node is not of that kind. The node is left in place. */
nb_status nbi_fold_node(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, bool *done);

#endif
