/* Element-wise layers and pools. */
#include "quant/canonical.h"
#include "ops/params.h"

#include <math.h>
#include <string.h>

static bool same_shape(const nbi_edge *a, const nbi_edge *b) {
    return a->rank == b->rank && !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim);
}

/* b has a value for each channel of a: 1,C,1,1 for 1,C,H,W. */
static bool is_vector(const nbi_edge *a, const nbi_edge *b) {
    if (a->rank != b->rank || a->rank < 3 || a->rank > 4 || a->dim[1] != b->dim[1]) return false;
    for (int i = 2; i < b->rank; i++)
        if (b->dim[i] != 1) return false;
    return true;
}

nb_status nbi_canon_binary(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    bool sub = nbi_op_is(node, "Sub"), mul = nbi_op_is(node, "Mul");
    for (int i = 0; i < 2; i++)
        if (c->graph->tensor[node->in[i]]->data) return nbi_canon_unary(c, n, built);
    if (nbi_op_is(node, "Div")) return NB_OK;
    int in[2] = {c->edge_of[node->in[0]], c->edge_of[node->in[1]]}, list[NBI_CANON_NODES] = {n};
    const nbi_edge *a = &c->net->edge[in[0]], *b = &c->net->edge[in[1]];
    if (mul && is_vector(b, a)) { /* the vector comes second */
        int t = in[0];
        in[0] = in[1];
        in[1] = t;
        a = &c->net->edge[in[0]];
        b = &c->net->edge[in[1]];
    }
    if (!same_shape(a, b) && !(mul && is_vector(a, b))) return NB_OK;
    nbi_layer l = {.type = mul ? NBI_LAYER_MUL : NBI_LAYER_ADD, .name = node->name, .n_in = 2,
                   .in = in, .n_nodes = 1, .node = list, .act_lo = -INFINITY, .act_hi = INFINITY,
                   .sign = sub ? -1.0f : 1.0f};
    float lo = -INFINITY;
    if (!sub && a->lo >= 0 && b->lo >= 0) lo = 0;
    int tensor = node->out[0];
    nbi_canon_activation(c, &l, &tensor);
    *built = true;
    return nbi_canon_add(c, &l, tensor, lo, INFINITY);
}

/* The values an element-wise function can have. */
static void range_of(const nbi_node *node, float in_lo, float in_hi, float *lo, float *hi) {
    *lo = -INFINITY;
    *hi = INFINITY;
    if (nbi_canon_clamp(node, lo, hi)) {
        float from = *lo, to = *hi; /* the clamp of both ends */
        *lo = fminf(fmaxf(in_lo, from), to);
        *hi = fminf(fmaxf(in_hi, from), to);
    } else if (nbi_op_is(node, "Sigmoid") || nbi_op_is(node, "HardSigmoid")) {
        *lo = 0;
        *hi = 1;
    } else if (nbi_op_is(node, "Tanh") || nbi_op_is(node, "Erf")) {
        *lo = in_lo >= 0 ? 0 : -1;
        *hi = 1;
    } else if (nbi_op_is(node, "Abs") || nbi_op_is(node, "Exp") || nbi_op_is(node, "Sqrt")) {
        *lo = 0;
    } else if (nbi_op_is(node, "HardSwish")) {
        *lo = in_lo >= 0 ? 0 : -0.375f;
    } else if (in_lo >= 0 && (nbi_op_is(node, "LeakyRelu") || nbi_op_is(node, "PRelu"))) {
        *lo = 0;
    }
}

/* Can the function be evaluated column by column along a batch of 256 (see lower_unary.c)? Its
 * constants must broadcast over every axis but the channel. */
static bool is_per_channel(const nbi_canon *c, const nbi_node *node, const nbi_tensor *x) {
    if (nbi_op_is(node, "BatchNormalization"))
        return x->rank >= 2 && x->rank <= 4 &&
               !((const nbi_batchnorm_params *)node->params)->training;
    for (int i = 0; i < node->n_in; i++) {
        const nbi_tensor *k = node->in[i] < 0 ? NULL : c->graph->tensor[node->in[i]];
        if (!k || !k->data || nbi_tensor_count(k) == 1) continue;
        int axis = k->rank - (x->rank - 1);
        if (x->rank < 2 || x->rank > 4 || axis < 0 || k->rank > x->rank ||
            k->dim[axis] != x->dim[1] || nbi_tensor_count(k) != x->dim[1])
            return false;
    }
    return true;
}

static bool is_unary(const nbi_canon *c, const nbi_node *node, int tensor) {
    static const char *const names[] = {
        "BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid",
        "HardSwish", "Tanh", "Exp", "Sqrt", "Neg", "Abs", "Erf", "Add", "Sub", "Mul", "Div"};
    bool known = false;
    int variable = 0;
    for (size_t i = 0; i < NBI_COUNT(names); i++) known |= nbi_op_is(node, names[i]);
    for (int i = 0; i < node->n_in; i++)
        variable += node->in[i] >= 0 && !c->graph->tensor[node->in[i]]->data;
    const nbi_tensor *x = c->graph->tensor[tensor], *y = c->graph->tensor[node->out[0]];
    return known && variable == 1 && x->rank == y->rank &&
           nbi_tensor_count(x) == nbi_tensor_count(y) && is_per_channel(c, node, x);
}

nb_status nbi_canon_unary(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    int source = node->in[0];
    if (c->graph->tensor[source]->data && node->n_in > 1) source = node->in[1];
    if (!is_unary(c, node, source)) return NB_OK;
    int in[1] = {c->edge_of[source]}, list[NBI_CANON_NODES] = {n}, tensor = node->out[0];
    const nbi_edge *x = &c->net->edge[in[0]];
    nbi_layer l = {.type = NBI_LAYER_UNARY, .name = node->name, .n_in = 1, .in = in,
                   .n_nodes = 1, .node = list, .act_lo = -INFINITY, .act_hi = INFINITY};
    float lo, hi;
    range_of(node, x->lo, x->hi, &lo, &hi);
    for (int k; (k = nbi_canon_next(c, tensor)) >= 0 && l.n_nodes < NBI_CANON_NODES;) {
        const nbi_node *next = c->graph->node[k];
        if (!is_unary(c, next, tensor)) break;
        range_of(next, lo, hi, &lo, &hi);
        l.node[l.n_nodes++] = k;
        tensor = next->out[0];
    }
    *built = true;
    return nbi_canon_add(c, &l, tensor, lo, hi);
}

static bool window_of(nbi_canon *c, const nbi_node *node, const nbi_edge *x, nbk_pool *p) {
    const nbi_tensor *xt = c->graph->tensor[node->in[0]];
    if (xt->rank < 3 || xt->rank > 4) return false;
    *p = (nbk_pool){.in_h = (int16_t)x->h, .in_w = (int16_t)x->w, .c = (int16_t)x->c,
                    .kh = (int16_t)x->h, .kw = (int16_t)x->w, .sh = 1, .sw = 1, .dh = 1, .dw = 1};
    if (nbi_op_is(node, "GlobalAveragePool")) return true;
    if (nbi_op_is(node, "ReduceMean")) {
        const nbi_reduce_params *r = node->params;
        bool space = r->known && !r->over[0] && !r->over[1];
        for (int i = 2; i < xt->rank; i++) space &= r->over[i];
        return space;
    }
    const nbi_pool_params *q = node->params;
    int one = xt->rank == 3;
    for (int i = 0; i < q->w.n; i++)
        if (q->w.kernel[i] > 32767 || q->w.stride[i] > 32767 || q->w.dilation[i] > 255 ||
            q->w.pad_begin[i] > 255)
            return false;
    p->kh = (int16_t)(one ? 1 : q->w.kernel[0]);
    p->kw = (int16_t)q->w.kernel[!one];
    p->sh = (int16_t)(one ? 1 : q->w.stride[0]);
    p->sw = (int16_t)q->w.stride[!one];
    p->dh = (int16_t)(one ? 1 : q->w.dilation[0]);
    p->dw = (int16_t)q->w.dilation[!one];
    p->pt = (int16_t)(one ? 0 : q->w.pad_begin[0]);
    p->pl = (int16_t)q->w.pad_begin[!one];
    p->count_pad = q->count_include_pad;
    /* ceil_mode with padding counted: the divisor of the last window is ONNX's own special case */
    return !(q->w.ceil_mode && q->count_include_pad);
}

/* No window leaves the image. */
static bool is_inside(const nbk_pool *p) {
    return p->pt == 0 && p->pl == 0 && (p->out_h - 1) * p->sh + (p->kh - 1) * p->dh < p->in_h &&
           (p->out_w - 1) * p->sw + (p->kw - 1) * p->dw < p->in_w;
}

nb_status nbi_canon_pool(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    int in[1] = {c->edge_of[node->in[0]]}, list[NBI_CANON_NODES] = {n}, oh, ow, oc;
    const nbi_edge *x = &c->net->edge[in[0]];
    const nbi_tensor *y = c->graph->tensor[node->out[0]];
    bool max = nbi_op_is(node, "MaxPool");
    nbi_layer l = {.type = max ? NBI_LAYER_MAXPOOL : NBI_LAYER_AVGPOOL, .name = node->name,
                   .n_in = 1, .in = in, .n_nodes = 1, .node = list, .act_lo = -INFINITY,
                   .act_hi = INFINITY};
    if (node->n_out > 1 && node->out[1] >= 0) return NB_OK;
    if (!window_of(c, node, x, &l.pool)) return NB_OK;
    nbi_storage_shape(y->rank, y->dim, &oh, &ow, &oc);
    bool vector = y->rank == 2; /* ReduceMean without kept dimensions */
    l.pool.out_h = (int16_t)(vector ? 1 : oh);
    l.pool.out_w = (int16_t)(vector ? 1 : ow);
    if (!max && is_inside(&l.pool)) l.pool.count_pad = 1; /* one divisor */
    int tensor = node->out[0];
    if (!max) nbi_canon_activation(c, &l, &tensor);
    *built = true;
    return nbi_canon_add(c, &l, tensor, x->lo, x->hi);
}
