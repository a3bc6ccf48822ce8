/* Layers that keep their operators: pools, moves of values (written anew from the operators'
 * normalised parameters, without the batch in any constant), functions of one value and float
 * islands (the source's nodes, in the target opset's meaning), and nodes left untouched. */
#include "onnx/export_qdq_parts.h"

#include "ops/op_util.h"

#include <string.h>

static const nbi_node *first_node(const nbi_qdq *q, const nbi_layer *l) {
    return q->net->graph->node[l->node[0]];
}

static bool is(const nbi_node *node, const char *op_type) {
    return !*node->domain && strcmp(node->op_type, op_type) == 0;
}

/* ---- pools ---------------------------------------------------------------------------------- */

static nb_status set_window(nbi_qdq *q, nbi_node *to, const nbi_node *from) {
    const nbi_pool_params *p = from->params;
    const nbi_window *w = &p->w;
    int64_t pads[2 * NBI_MAX_SPATIAL];
    bool padded = false, dilated = false;
    for (int i = 0; i < w->n; i++) {
        pads[i] = w->pad_begin[i];
        pads[w->n + i] = w->pad_end[i];
        padded |= pads[i] || pads[w->n + i];
        dilated |= w->dilation[i] != 1;
    }
    size_t n = (size_t)w->n;
    NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "kernel_shape", n, w->kernel));
    NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "strides", n, w->stride));
    if (padded) NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "pads", 2 * n, pads));
    if (dilated) NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "dilations", n, w->dilation));
    if (w->ceil_mode) NB_TRY(nbi_node_set_int(q->ctx, q->g, to, "ceil_mode", 1));
    if (p->count_include_pad) NB_TRY(nbi_node_set_int(q->ctx, q->g, to, "count_include_pad", 1));
    return NB_OK;
}

/* Reshape to `shape`, whose first dimension (the batch) is taken from the input. */
static nb_status add_reshape(nbi_qdq *q, const char *name, int from, const nbi_tensor *shape,
                             int out_tensor, int *out) {
    int64_t dim[NBI_MAX_RANK];
    int in[2] = {from, -1};
    for (int i = 0; i < shape->rank; i++) dim[i] = i ? shape->dim[i] : 0;
    NB_TRY(nbi_qdq_ints(q, shape->rank, dim, &in[1]));
    return nbi_qdq_node(q, name, "Reshape", 2, in, out_tensor, NULL, out);
}

nb_status nbi_qdq_pool(nbi_qdq *q, const nbi_layer *l) {
    const nbi_node *from = first_node(q, l);
    const nbi_tensor *y = q->net->graph->tensor[from->out[0]];
    const nbi_tensor *x = q->net->graph->tensor[from->in[0]];
    bool window = is(from, "AveragePool"), vector = y->rank != x->rank;
    int in[1], value;
    nbi_node *node;
    NB_TRY(nbi_qdq_real(q, l->in[0], &in[0]));
    NB_TRY(nbi_qdq_node(q, l->name, window ? "AveragePool" : "GlobalAveragePool", 1, in,
                        vector ? -1 : nbi_qdq_value_out(q, l), &node, &value));
    if (window) NB_TRY(set_window(q, node, from));
    if (!vector) return nbi_qdq_finish(q, l, value);
    if (!nbi_qdq_is_code(nbi_qdq_param(q, l->out))) {
        NB_TRY(add_reshape(q, NULL, value, y, nbi_qdq_value_out(q, l), &value));
        return nbi_qdq_finish(q, l, value);
    }
    NB_TRY(nbi_qdq_finish(q, l, value));
    return add_reshape(q, NULL, q->code[l->out], y, -1, &q->code[l->out]);
}

/* ---- moves ---------------------------------------------------------------------------------- */

typedef struct move {
    const nbi_layer *layer; /* NULL or the layer whose edges are moved */
    const char *name;
    const nbi_node *from; /* of net->graph */
    int n_in, *in;
    int out_tensor;
    uint8_t zero; /* the code of 0 */
    bool codes;
} move;

static nb_status move_reshape(nbi_qdq *q, const move *m, int *out) {
    const nbi_tensor *y = q->net->graph->tensor[m->from->out[0]];
    const nbi_tensor *x = q->net->graph->tensor[m->from->in[0]];
    if (y->rank == 2 && x->rank >= 1) /* [N, everything else] */
        return nbi_qdq_node(q, m->name, "Flatten", 1, m->in, m->out_tensor, NULL, out);
    if (y->rank >= 1) return add_reshape(q, m->name, m->in[0], y, m->out_tensor, out);
    return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' makes a scalar of a batch", m->name);
}

static nb_status move_slice(nbi_qdq *q, const move *m, int *out) {
    const nbi_slice_params *p = m->from->params;
    const nbi_tensor *x = q->net->graph->tensor[m->from->in[0]];
    int64_t v[4][NBI_MAX_RANK]; /* starts, ends, axes, steps */
    int n = 0, in[5] = {m->in[0]};
    bool stepped = false;
    for (int i = 1; i < p->rank; i++) {
        if (p->step[i] == 1 && p->size[i] == x->dim[i]) continue;
        int64_t end = p->start[i] + p->step[i] * p->size[i];
        v[0][n] = p->start[i];
        v[1][n] = end < 0 ? INT64_MIN : end;
        v[2][n] = i;
        v[3][n++] = p->step[i];
        stepped |= p->step[i] != 1;
    }
    if (n == 0) return nbi_qdq_node(q, m->name, "Identity", 1, in, m->out_tensor, NULL, out);
    for (int k = 0; k < 3 + stepped; k++) NB_TRY(nbi_qdq_ints(q, n, v[k], &in[k + 1]));
    return nbi_qdq_node(q, m->name, "Slice", 4 + stepped, in, m->out_tensor, NULL, out);
}

static nb_status move_pad(nbi_qdq *q, const move *m, int *out) {
    static const char *const modes[] = {"constant", "edge", "reflect", "wrap"};
    const nbi_pad_params *p = m->from->params;
    int64_t pads[2 * NBI_MAX_RANK];
    int in[3] = {m->in[0], -1, -1}, n_in = 2;
    float value = (float)p->value;
    nbi_node *node;
    for (int i = 0; i < p->rank; i++) {
        pads[i] = p->begin[i];
        pads[p->rank + i] = p->end[i];
    }
    NB_TRY(nbi_qdq_ints(q, 2 * p->rank, pads, &in[1]));
    if (m->codes) NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_U8, &m->zero, &in[2]));
    else NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_F32, &value, &in[2]));
    if (p->mode == NBI_PAD_CONSTANT) n_in = 3;
    NB_TRY(nbi_qdq_node(q, m->name, "Pad", n_in, in, m->out_tensor, &node, out));
    if (p->mode == NBI_PAD_CONSTANT) return NB_OK;
    return nbi_node_set_text(q->ctx, q->g, node, "mode", modes[p->mode]);
}

static nb_status move_concat(nbi_qdq *q, const move *m, int *out) {
    const nbi_concat_params *p = m->from->params;
    nbi_node *node;
    NB_TRY(nbi_qdq_node(q, m->name, "Concat", m->n_in, m->in, m->out_tensor, &node, out));
    return nbi_node_set_int(q->ctx, q->g, node, "axis", p->axis);
}

static nb_status move_transpose(nbi_qdq *q, const move *m, int *out) {
    const nbi_transpose_params *p = m->from->params;
    int64_t perm[NBI_MAX_RANK];
    nbi_node *node;
    for (int i = 0; i < p->rank; i++) perm[i] = p->perm[i];
    NB_TRY(nbi_qdq_node(q, m->name, "Transpose", 1, m->in, m->out_tensor, &node, out));
    return nbi_node_set_ints(q->ctx, q->g, node, "perm", (size_t)p->rank, perm);
}

static nb_status move_maxpool(nbi_qdq *q, const move *m, int *out) {
    nbi_node *node;
    NB_TRY(nbi_qdq_node(q, m->name, "MaxPool", 1, m->in, m->out_tensor, &node, out));
    return set_window(q, node, m->from);
}

static const struct {
    const char *op_type;
    nb_status (*add)(nbi_qdq *q, const move *m, int *out);
} moves[] = {
    {"Reshape", move_reshape}, {"Flatten", move_reshape},     {"Squeeze", move_reshape},
    {"Unsqueeze", move_reshape}, {"Slice", move_slice},       {"Pad", move_pad},
    {"Concat", move_concat},   {"Transpose", move_transpose}, {"MaxPool", move_maxpool},
};

nb_status nbi_qdq_move(nbi_qdq *q, const nbi_layer *l) {
    const nbi_node *from = first_node(q, l);
    const nbi_qparam *p = nbi_qdq_param(q, l->out);
    move m = {.name = l->name, .from = from, .n_in = l->n_in, .codes = nbi_qdq_is_code(p),
              .out_tensor = nbi_qdq_moved_out(q, l->out)};
    int tensor;
    m.zero = (uint8_t)(m.codes ? p->zero + nbi_qdq_offset(p) : 0);
    m.in = nbi_arena_alloc(&q->g->arena, (size_t)l->n_in + 1, sizeof *m.in);
    if (!m.in) return nb_fail_memory(q->ctx, (size_t)l->n_in * sizeof *m.in);
    for (int i = 0; i < l->n_in; i++) NB_TRY(nbi_qdq_moved(q, l->in[i], &m.in[i]));
    for (size_t i = 0; i < NBI_COUNT(moves); i++)
        if (is(from, moves[i].op_type)) {
            NB_TRY(moves[i].add(q, &m, &tensor));
            nbi_qdq_set_moved(q, l->out, tensor);
            return NB_OK;
        }
    return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' (%s) has no QDQ form", l->name,
                   from->op_type);
}

/* ---- nodes as they are ---------------------------------------------------------------------- */

/* The copy of the source's node that makes the tensor of this name. */
static nb_status old_node(nbi_qdq *q, const nbi_node *of, nbi_node **out) {
    const char *name = q->net->graph->tensor[of->out[0]]->name;
    int t = nbi_graph_find(q->source, name);
    int n = t < 0 ? -1 : q->source->tensor[t]->producer;
    if (n < 0)
        return nb_fail(q->ctx, NB_EINVAL, "tensor '%s' is not in the source graph", name);
    *out = q->old[n];
    return NB_OK;
}

/* Input k of a node of net->graph as a tensor of g: an edge's float tensor, the value of the node
 * before it in the layer, or a constant. */
static nb_status plain_input(nbi_qdq *q, const nbi_layer *l, int tensor, int previous,
                             int previous_value, int *out) {
    *out = -1;
    if (tensor < 0) return NB_OK;
    const nbi_tensor *t = q->net->graph->tensor[tensor];
    if (t->data)
        return nbi_qdq_const(q, t->dtype, t->rank, t->dim, t->data, out);
    if (tensor == previous) {
        *out = previous_value;
        return NB_OK;
    }
    for (int i = 0; i < l->n_in; i++)
        if (q->net->edge[l->in[i]].tensor == tensor) return nbi_qdq_real(q, l->in[i], out);
    return nb_fail(q->ctx, NB_EINVAL, "node '%s' reads '%s', which is not an input of its layer",
                   l->name, t->name);
}

static nb_status add_plain(nbi_qdq *q, const nbi_layer *l, const nbi_node *from, int previous,
                           int *value, bool last) {
    int out = last ? nbi_qdq_value_out(q, l) : -1;
    int in[64];
    nbi_node *old = NULL, *node;
    if (from->n_in > (int)NBI_COUNT(in))
        return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' has %d inputs", from->name, from->n_in);
    NB_TRY(old_node(q, from, &old));
    for (int k = 0; k < from->n_in; k++)
        NB_TRY(plain_input(q, l, from->in[k], previous, *value, &in[k]));
    for (size_t i = 0; i < NBI_COUNT(moves); i++)
        if (is(from, moves[i].op_type)) {
            move m = {.name = from->name, .from = from, .n_in = from->n_in, .in = in,
                      .out_tensor = out};
            return moves[i].add(q, &m, value);
        }
    NB_TRY(nbi_qdq_node(q, from->name, from->op_type, from->n_in, in, out, &node, value));
    node->domain = old->domain;
    node->attr = old->attr;
    node->n_attr = old->n_attr;
    const nbi_tensor *x[2] = {NULL, NULL};
    for (int k = 0; k < 2 && k < from->n_in; k++)
        if (from->in[k] >= 0) x[k] = q->net->graph->tensor[from->in[k]];
    return nbi_qdq_upgrade(q, node, x);
}

nb_status nbi_qdq_plain(nbi_qdq *q, const nbi_layer *l) {
    int previous = -1, value = -1;
    for (int i = 0; i < l->n_nodes; i++) {
        const nbi_node *from = q->net->graph->node[l->node[i]];
        NB_TRY(add_plain(q, l, from, previous, &value, i == l->n_nodes - 1));
        previous = from->out[0];
    }
    return nbi_qdq_finish(q, l, value);
}

/* ---- untouched nodes ------------------------------------------------------------------------ */

/* Tensors that only nodes outside the layers can give, marked backwards from the outputs. */
static void mark_needed(const nbi_qdq *q, bool *needed) {
    const nbi_graph *s = q->source;
    for (int i = 0; i < s->n_outputs; i++) needed[s->output[i]] = true;
    for (int n = s->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = s->node[n];
        bool wanted = false;
        for (int i = 0; i < node->n_out; i++)
            wanted |= node->out[i] >= 0 && needed[node->out[i]] && q->edge_of[node->out[i]] < 0;
        for (int i = 0; wanted && i < node->n_in; i++)
            if (node->in[i] >= 0) needed[node->in[i]] = true;
    }
}

static nb_status append_old(nbi_qdq *q, nbi_node *old) {
    nbi_node *node;
    const nbi_tensor *x[2] = {NULL, NULL};
    NB_TRY(nbi_graph_add_node(q->ctx, q->g, old->name, old->domain, old->op_type, old->n_in,
                              old->in, old->n_out, old->out, &node));
    node->attr = old->attr;
    node->n_attr = old->n_attr;
    for (int k = 0; k < 2 && k < old->n_in; k++) {
        if (old->in[k] < 0) continue;
        int edge = q->edge_of[old->in[k]];
        x[k] = edge < 0 ? q->source->tensor[old->in[k]]
                        : q->net->graph->tensor[q->net->edge[edge].tensor];
    }
    return nbi_qdq_upgrade(q, node, x);
}

nb_status nbi_qdq_untouched(nbi_qdq *q) {
    const nbi_graph *s = q->source;
    bool *needed = nbi_arena_alloc(&q->g->arena, (size_t)s->n_tensors + 1, 1);
    if (!needed) return nb_fail_memory(q->ctx, (size_t)s->n_tensors);
    mark_needed(q, needed);
    for (int t = 0, ignored; t < s->n_tensors; t++)
        if (needed[t] && q->edge_of[t] >= 0 && q->edge_of[t] != q->net->input)
            NB_TRY(nbi_qdq_real(q, q->edge_of[t], &ignored));
    for (int n = 0; n < s->n_nodes; n++) {
        bool wanted = false;
        for (int i = 0; i < s->node[n]->n_out; i++) {
            int t = s->node[n]->out[i];
            wanted |= t >= 0 && needed[t] && q->edge_of[t] < 0;
        }
        if (wanted) NB_TRY(append_old(q, q->old[n]));
    }
    return NB_OK;
}
