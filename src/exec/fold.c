/* Constant folding: forward() on nodes whose inputs are constants. One pass in topological order
 * also resolves the shape arithmetic of exported models, because each folded node makes its
 * consumers' attributes known before they are inferred. */
#include "exec/plan.h"
#include "ops/op_util.h"

#include <string.h>

/* A hostile file cannot make us fill memory: elements of one tensor, bytes of the whole graph. */
#define MAX_FOLDED ((int64_t)1 << 26)
#define MAX_ARENA  ((size_t)4 << 30)

nbi_view nbi_tensor_view(const nbi_tensor *t) {
    nbi_view v = {.dtype = nbi_view_dtype(t->dtype), .rank = t->rank};
    memcpy(v.dim, t->dim, sizeof v.dim);
    nbi_view_contiguous(&v);
    return v;
}

/* The value of a constant as a view; sub-byte ones are unpacked into `scratch` of the arena. */
static nb_status const_view(nb_ctx *ctx, nbi_arena *scratch, const nbi_tensor *t, nbi_view *out) {
    *out = nbi_tensor_view(t);
    out->data = t->data;
    if (nbi_dtype_bits(t->dtype) >= 8) return NB_OK;
    size_t count = (size_t)nbi_view_count(out);
    out->data = nbi_arena_alloc(scratch, count + 1, 1);
    if (!out->data) return nb_fail_memory(ctx, count);
    nbi_bits_unpack(t->dtype, t->data, count, out->data);
    return NB_OK;
}

static bool can_fold(const nbi_graph *graph, const nbi_node *node) {
    if (graph->arena.total > MAX_ARENA) return false;
    bool shape = !strcmp(node->op_type, "Shape") || !strcmp(node->op_type, "Size");
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0) continue;
        const nbi_tensor *t = graph->tensor[node->in[i]];
        if (!nbi_shape_known(t) || (!shape && !t->data) || t->dtype == NB_DTYPE_STRING)
            return false;
    }
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0) continue;
        const nbi_tensor *t = graph->tensor[node->out[i]];
        if (t->data || !nbi_shape_known(t) || nbi_tensor_count(t) > MAX_FOLDED) return false;
        if (nbi_dtype_bits(t->dtype) == 0) return false;
    }
    return true;
}

static nb_status run_folded(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, nbi_arena *scratch) {
    nbi_view *in = nbi_arena_alloc(scratch, (size_t)node->n_in + 1, sizeof *in);
    nbi_view *out = nbi_arena_alloc(scratch, (size_t)node->n_out + 1, sizeof *out);
    if (!in || !out) return nb_fail_memory(ctx, sizeof *in);
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0) continue;
        const nbi_tensor *t = graph->tensor[node->in[i]];
        if (t->data)
            NB_TRY(const_view(ctx, scratch, t, &in[i]));
        else
            in[i] = nbi_tensor_view(t);
    }
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0) continue;
        out[i] = nbi_tensor_view(graph->tensor[node->out[i]]);
        size_t bytes = (size_t)nbi_view_count(&out[i]) * (size_t)nbi_dtype_bits(out[i].dtype) / 8;
        out[i].data = nbi_arena_alloc(&graph->arena, bytes + 1, 1);
        if (!out[i].data) return nb_fail_memory(ctx, bytes);
    }
    nbi_op_call call = {ctx, graph, node, in, out, 0};
    NB_TRY(node->op->forward(&call));
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0) continue;
        nbi_tensor *t = graph->tensor[node->out[i]];
        t->data = out[i].data;
        if (nbi_dtype_bits(t->dtype) >= 8) continue;
        size_t count = (size_t)nbi_view_count(&out[i]);
        t->data = nbi_arena_alloc(&graph->arena, nbi_dtype_bytes(t->dtype, count) + 1, 1);
        if (!t->data) return nb_fail_memory(ctx, count);
        nbi_bits_pack(t->dtype, out[i].data, count, t->data);
    }
    return NB_OK;
}

nb_status nbi_fold_node(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, bool *done) {
    *done = false;
    if (!node->op || !node->op->forward || !can_fold(graph, node)) return NB_OK;
    nbi_arena scratch = {0};
    nb_status st = run_folded(ctx, graph, node, &scratch);
    nbi_arena_free(&scratch);
    *done = st == NB_OK;
    return st;
}

static bool is_output(const nbi_graph *graph, int t) {
    for (int i = 0; i < graph->n_outputs; i++)
        if (graph->output[i] == t) return true;
    return false;
}

/* Identity and inference Dropout vanish, unless the name of a graph output would vanish with it. */
static bool remove_identity(nbi_graph *graph, const nbi_node *node) {
    if (!node->op || *node->domain) return false;
    if (strcmp(node->op_type, "Identity") && strcmp(node->op_type, "Dropout")) return false;
    if (!(node->op->flags & NBI_OP_ALIAS)) return false; /* Dropout in training */
    if (is_output(graph, node->out[0])) return false;
    nbi_graph_replace_uses(graph, node->out[0], node->in[0]);
    return true;
}

static bool keeps_scheme(const nbi_node *node) {
    return !strcmp(node->op_type, "QuantizeLinear") || !strcmp(node->op_type, "DequantizeLinear");
}

nb_status nbi_graph_fold(nb_ctx *ctx, nbi_graph *graph) {
    int kept = 0;
    for (int n = 0; n < graph->n_nodes; n++) {
        nbi_node *node = graph->node[n];
        bool gone = false;
        NB_TRY(nbi_node_infer(ctx, graph, node));
        if (!keeps_scheme(node)) NB_TRY(nbi_fold_node(ctx, graph, node, &gone));
        if (!gone) gone = remove_identity(graph, node);
        if (gone) {
            for (int i = 0; i < node->n_out; i++)
                if (node->out[i] >= 0) graph->tensor[node->out[i]]->producer = -1;
            continue;
        }
        graph->node[kept++] = node;
    }
    graph->n_nodes = kept;
    nbi_graph_prune(graph);
    return NB_OK;
}
