/* A copy of a graph for given input shapes: what every later stage works on. */
#include "exec/plan.h"

#include <string.h>

static nb_status bind_shape(nb_ctx *ctx, nbi_tensor *t, const nbi_view *shape) {
    if (t->rank >= 0 && t->rank != shape->rank)
        return nb_fail(ctx, NB_EFORMAT, "input '%s' has %d dimensions, %d are given", t->name,
                       t->rank, shape->rank);
    for (int d = 0; d < shape->rank; d++) {
        if (shape->dim[d] < 0)
            return nb_fail(ctx, NB_EFORMAT, "dimension %d of input '%s' is not known", d, t->name);
        if (t->rank >= 0 && t->dim[d] >= 0 && t->dim[d] != shape->dim[d])
            return nb_fail(ctx, NB_EFORMAT,
                           "dimension %d of input '%s' is %lld in the model, %lld "
                           "is given",
                           d, t->name, (long long)t->dim[d], (long long)shape->dim[d]);
        t->dim[d] = shape->dim[d];
        t->dim_name[d] = NULL;
    }
    t->rank = shape->rank;
    if (t->dtype == NB_DTYPE_NONE) t->dtype = shape->dtype;
    if (nbi_tensor_count(t) < 0)
        return nb_fail(ctx, NB_EFORMAT, "input '%s' would be too large", t->name);
    return NB_OK;
}

static nb_status bind_value(nb_ctx *ctx, nbi_graph *g, nbi_tensor *t, const nbi_view *value) {
    size_t count = (size_t)nbi_tensor_count(t), bytes = nbi_dtype_bytes(t->dtype, count);
    t->data = nbi_arena_alloc(&g->arena, bytes + 1, 1);
    if (!t->data) return nb_fail_memory(ctx, bytes);
    if (nbi_dtype_bits(t->dtype) < 8)
        nbi_bits_pack(t->dtype, value->data, count, t->data);
    else if (bytes)
        memcpy(t->data, value->data, bytes);
    return NB_OK;
}

/* Every output of a known operator whose inputs are all shaped must have a shape by now. */
static nb_status check_shapes(nb_ctx *ctx, const nbi_graph *g) {
    for (int n = 0; n < g->n_nodes; n++) {
        const nbi_node *node = g->node[n];
        bool shaped = node->op != NULL;
        for (int i = 0; i < node->n_in; i++)
            if (node->in[i] >= 0) shaped &= nbi_shape_known(g->tensor[node->in[i]]);
        for (int i = 0; shaped && i < node->n_out; i++)
            if (node->out[i] >= 0 && !nbi_shape_known(g->tensor[node->out[i]]))
                return nb_fail(ctx, NB_EFORMAT,
                               "node '%s' (%s): the shape of '%s' depends on "
                               "values that are only known at run time",
                               node->name, node->op_type, g->tensor[node->out[i]]->name);
    }
    return NB_OK;
}

nb_status nbi_specialize(nb_ctx *ctx, const nbi_graph *graph, const nbi_view *input_shapes,
                         nbi_graph **out) {
    nbi_graph *g = NULL;
    nb_status st;
    NB_TRYG(nbi_graph_copy(ctx, graph, &g));
    int free_inputs = 0;
    for (int i = 0; i < g->n_inputs; i++) {
        nbi_tensor *t = g->tensor[g->input[i]];
        NB_TRYG(bind_shape(ctx, t, &input_shapes[i]));
        if (input_shapes[i].data)
            NB_TRYG(bind_value(ctx, g, t, &input_shapes[i]));
        else
            g->input[free_inputs++] = g->input[i];
    }
    g->n_inputs = free_inputs;
    NB_TRYG(nbi_graph_fold(ctx, g));
    NB_TRYG(check_shapes(ctx, g));
    *out = g;
    return NB_OK;
done:
    nbi_graph_free(g);
    return st;
}

nb_status nbi_specialize_batch(nb_ctx *ctx, const nbi_graph *graph, int64_t batch,
                               nbi_graph **out) {
    nbi_view *shape = NULL;
    nb_status st;
    if (batch < 1)
        return nb_fail(ctx, NB_EINVAL, "the batch is %lld, want 1 or more", (long long)batch);
    NB_TRY(nbi_alloc(ctx, (size_t)graph->n_inputs + 1, sizeof *shape, &shape));
    for (int i = 0; i < graph->n_inputs; i++) {
        const nbi_tensor *t = graph->tensor[graph->input[i]];
        if (t->rank < 0) {
            st = nb_fail(ctx, NB_EFORMAT, "input '%s' has no shape in the model", t->name);
            goto done;
        }
        shape[i] = (nbi_view){.dtype = t->dtype, .rank = t->rank};
        for (int d = 0; d < t->rank; d++) shape[i].dim[d] = t->dim[d];
        if (t->rank > 0 && shape[i].dim[0] < 0) shape[i].dim[0] = batch;
        for (int d = 0; d < t->rank; d++)
            if (shape[i].dim[d] < 0) {
                st = nb_fail(ctx, NB_EFORMAT, "dimension %d ('%s') of input '%s' is not known", d,
                             t->dim_name[d] ? t->dim_name[d] : "?", t->name);
                goto done;
            }
    }
    st = nbi_specialize(ctx, graph, shape, out);
done:
    nbi_free(shape);
    return st;
}
