/* The table of operators and the two passes over a graph that every model goes through. */
#include "ops/op.h"

#include <string.h>

#define OP(row) extern const nbi_op row;
#include "ops/ops.def"
#undef OP

static const nbi_op *const table[] = {
#define OP(row) &row,
#include "ops/ops.def"
#undef OP
};

const nbi_op *const *nbi_ops(size_t *n) {
    *n = NBI_COUNT(table);
    return table;
}

const nbi_op *nbi_op_find(const char *domain, const char *op_type) {
    if (!strcmp(domain, "ai.onnx")) domain = "";
    for (size_t i = 0; i < NBI_COUNT(table); i++)
        if (!strcmp(table[i]->name, op_type) && !strcmp(table[i]->domain, domain)) return table[i];
    return NULL;
}

static nb_status check_arity(nb_ctx *ctx, const nbi_node *node, const nbi_op *op) {
    if (node->n_in < op->min_in || (op->max_in >= 0 && node->n_in > op->max_in))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): %d inputs, want %d to %d", node->name,
                       op->name, node->n_in, op->min_in, op->max_in);
    if (node->n_out < op->min_out || node->n_out > op->max_out)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): %d outputs, want %d to %d", node->name,
                       op->name, node->n_out, op->min_out, op->max_out);
    for (int i = 0; i < op->min_in; i++)
        if (node->in[i] < 0)
            return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): required input %d is omitted",
                           node->name, op->name, i);
    if (op->min_out > 0 && node->out[0] < 0)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): output 0 is omitted", node->name,
                       op->name);
    return NB_OK;
}

/* Valid, but beyond us: the node is treated like one of an unknown operator, and the log says why.
 */
static nb_status leave_alone(nb_ctx *ctx, nbi_node *node) {
    if (ctx) nb_log(ctx, NB_LOG_WARNING, "%s", nb_ctx_message(ctx));
    node->op = NULL;
    return NB_OK;
}

nb_status nbi_node_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_op *op = nbi_op_find(node->domain, node->op_type);
    node->op = NULL;
    node->params = NULL;
    if (!op || (!*op->domain && graph->opset < op->min_opset)) return NB_OK;
    for (int i = 0; i < node->n_attr; i++)
        if (node->attr[i].type == NBI_ATTR_GRAPH) return NB_OK;
    NB_TRY(check_arity(ctx, node, op));
    nb_status st = op->prepare(ctx, graph, node);
    if (st == NB_EUNSUPPORTED) return leave_alone(ctx, node);
    if (st == NB_OK) node->op = op;
    return st;
}

/* True when an input that the node needs is of unknown type: nothing can be said about outputs. */
static bool inputs_typed(const nbi_graph *graph, const nbi_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && graph->tensor[node->in[i]]->dtype == NB_DTYPE_NONE) return false;
    return true;
}

static bool type_fits(nbi_op_types types, nb_dtype dtype) {
    if (types == NBI_TYPES_ANY || dtype == NB_DTYPE_NONE) return true;
    if (types == NBI_TYPES_FLOAT) return dtype == NB_DTYPE_F32;
    return dtype != NB_DTYPE_F16 && dtype != NB_DTYPE_BF16 && dtype != NB_DTYPE_STRING;
}

static nb_status check_types(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0) continue;
        const nbi_tensor *t = graph->tensor[node->in[i]];
        if (!type_fits(node->op->types, t->dtype))
            return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s): '%s' of type %s is not supported",
                           node->name, node->op_type, t->name, nbi_dtype_name(t->dtype));
    }
    return NB_OK;
}

nb_status nbi_node_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    if (!node->op || !node->params) NB_TRY(nbi_node_prepare(ctx, graph, node));
    if (!node->op || !inputs_typed(graph, node)) return NB_OK;
    nb_status st = check_types(ctx, graph, node);
    if (st == NB_OK) st = node->op->infer(ctx, graph, node);
    return st == NB_EUNSUPPORTED ? leave_alone(ctx, node) : st;
}

void nbi_node_cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out) {
    *out = (nbi_cost){0};
    if (!node->op || !node->op->cost || !node->params) return;
    for (int i = 0; i < node->n_in + node->n_out; i++) {
        int t = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
        if (t >= 0 && !nbi_shape_known(graph->tensor[t])) return;
    }
    node->op->cost(graph, node, out);
}

nb_status nbi_graph_infer(nb_ctx *ctx, nbi_graph *graph) {
    for (int n = 0; n < graph->n_nodes; n++) NB_TRY(nbi_node_infer(ctx, graph, graph->node[n]));
    return NB_OK;
}
