/* QuantizeLinear and DequantizeLinear of activations. The tensor before QuantizeLinear, its codes
 * and the tensor behind DequantizeLinear are one edge with a grid; nothing is fused across it.
 *
 *   Conv → QuantizeLinear → (Clip of codes) → MaxPool → DequantizeLinear → Conv
 *   └ layer, its edge gets the grid and the clamp ┘ └ layer                └ reads that edge */
#include "quant/canonical.h"
#include "ops/op_util.h"

#include <math.h>
#include <string.h>

/* Levels that a code's type can hold; false for types that no kernel reads. */
static bool range_of_type(nb_dtype dtype, nbi_qparam *out) {
    bool is_signed = dtype == NB_DTYPE_S8 || dtype == NB_DTYPE_S4 || dtype == NB_DTYPE_S2;
    int bits = nbi_dtype_bits(dtype);
    if (!is_signed && dtype != NB_DTYPE_U8 && dtype != NB_DTYPE_U4 && dtype != NB_DTYPE_U2)
        return false;
    out->dtype = is_signed ? NB_DTYPE_S8 : NB_DTYPE_U8;
    out->bits = bits;
    out->lo = is_signed ? -(1 << (bits - 1)) : 0;
    out->hi = out->lo + (1 << bits) - 1;
    return true;
}

/* The grid of a QuantizeLinear or DequantizeLinear node whose codes are `codes`. */
static nb_status read_grid(const nbi_canon *c, const nbi_node *node, int codes, nbi_qparam *out) {
    const nbi_quant_params *p = node->params;
    const nbi_tensor *scale = nbi_op_in(c->graph, node, 1), *zero = nbi_op_in(c->graph, node, 2);
    const nbi_tensor *t = c->graph->tensor[codes];
    *out = (nbi_qparam){0};
    if (!range_of_type(t->dtype, out))
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "node '%s' (%s): codes of type %s have no integer "
                       "kernels", node->name, node->op_type, nbi_dtype_name(t->dtype));
    if (!scale || !scale->data || (zero && !zero->data))
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "node '%s' (%s): its scale or zero point is not "
                       "constant", node->name, node->op_type);
    if (p->axis >= 0 || nbi_tensor_count(scale) != 1)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "node '%s' (%s): activations with %lld scales",
                       node->name, node->op_type, (long long)nbi_tensor_count(scale));
    float s = *(const float *)scale->data;
    if (!(s > 0) || !isfinite(s))
        return nb_fail(c->ctx, NB_EFORMAT, "node '%s' (%s): scale '%s' is %g, want a positive "
                       "number", node->name, node->op_type, scale->name, (double)s);
    out->scale = (double)s;
    if (!zero) return NB_OK;
    int8_t first[8] = {0}; /* elements of the first byte: below 8 bits they are packed */
    if (nbi_dtype_bits(zero->dtype) < 8) {
        nbi_bits_unpack(zero->dtype, zero->data, 1, first);
        out->zero = (int32_t)nbi_get_int(nbi_view_dtype(zero->dtype), first, 0);
    } else {
        out->zero = (int32_t)nbi_get_int(zero->dtype, zero->data, 0);
    }
    return NB_OK;
}

static bool same_grid(const nbi_qparam *a, const nbi_qparam *b) {
    return a->dtype == b->dtype && a->scale == b->scale && a->zero == b->zero;
}

/* The values of edge `from` on another grid, as the edge of `tensor`. */
static nb_status add_requant(nbi_canon *c, const nbi_node *node, int from, int tensor,
                             const nbi_qparam *grid) {
    int in[1] = {from};
    const nbi_edge *e = &c->net->edge[from];
    nbi_layer l = {.type = NBI_LAYER_REQUANT, .name = node->name, .n_in = 1, .in = in,
                   .act_lo = -INFINITY, .act_hi = INFINITY};
    NB_TRY(nbi_canon_add(c, &l, tensor, e->lo, e->hi));
    c->net->edge[c->edge_of[tensor]].grid = *grid;
    return NB_OK;
}

nb_status nbi_canon_quantize(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    int e = c->edge_of[node->in[0]];
    nbi_qparam grid;
    if (e < 0) return NB_OK; /* of a constant */
    NB_TRY(read_grid(c, node, node->out[0], &grid));
    if (c->net->edge[e].grid.dtype == NB_DTYPE_NONE) {
        c->net->edge[e].grid = grid;
        c->edge_of[node->out[0]] = e;
    } else {
        NB_TRY(add_requant(c, node, e, node->out[0], &grid));
    }
    c->done[n] = true;
    *built = true;
    return NB_OK;
}

nb_status nbi_canon_dequantize(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    int e = c->edge_of[node->in[0]];
    nbi_qparam grid;
    if (e < 0) return NB_OK;
    NB_TRY(read_grid(c, node, node->in[0], &grid));
    nbi_edge *edge = &c->net->edge[e];
    if (edge->grid.dtype == NB_DTYPE_NONE) edge->grid = grid; /* the network reads codes */
    if (!same_grid(&edge->grid, &grid))
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "node '%s' (DequantizeLinear): its scale or zero "
                       "point differs from that of the codes of '%s'", node->name, edge->name);
    /* our own files name what they quantize here, those of others before QuantizeLinear */
    if (nbi_graph_meta(c->graph, "nibble.version"))
        edge->name = c->graph->tensor[node->out[0]]->name;
    c->edge_of[node->out[0]] = e;
    c->done[n] = true;
    *built = true;
    return NB_OK;
}

/* A Gather from 256 bytes by codes (through a Cast): levels of a scheme. */
static bool is_table(const nbi_canon *c, const nbi_node *node) {
    if (!nbi_op_is(node, "Gather") || node->n_in != 2 || nbi_attr_int(node, "axis", 0) != 0)
        return false;
    const nbi_tensor *table = c->graph->tensor[node->in[0]];
    int e = c->edge_of[node->in[1]];
    return table->data && table->dtype == NB_DTYPE_U8 && table->rank == 1 &&
           table->dim[0] == 256 && e >= 0 && c->net->edge[e].grid.dtype == NB_DTYPE_U8;
}

bool nbi_canon_reads_codes(const nbi_canon *c, const nbi_node *node) {
    if (nbi_op_is(node, "DequantizeLinear")) return false;
    if (is_table(c, node)) return true;
    for (int i = 0; i < node->n_in; i++) {
        int t = node->in[i], e = t < 0 ? -1 : c->edge_of[t];
        nbi_qparam ignored;
        if (e >= 0 && c->net->edge[e].grid.dtype != NB_DTYPE_NONE &&
            range_of_type(c->graph->tensor[t]->dtype, &ignored))
            return true;
    }
    return false;
}

/* Does lowering the layer heed act_lo and act_hi (or, for a float one, the range of its site)? */
static bool has_clamp(const nbi_canon *c, int layer) {
    if (layer < 0) return false;
    nbi_layer_type t = c->net->layer[layer].type;
    return t != NBI_LAYER_MAXPOOL && t != NBI_LAYER_COPY;
}

/* Clip of codes: the clamp of the layer that makes them. */
static nb_status clip_codes(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_clip_params *p = node->params;
    int e = c->edge_of[node->in[0]];
    if (!p->known || p->lo > p->hi) return NB_OK;
    bool alone = c->uses[node->in[0]] == 1 && has_clamp(c, c->net->edge[e].producer);
    if (!alone) {
        nbi_qparam grid = c->net->edge[e].grid;
        NB_TRY(add_requant(c, node, e, node->out[0], &grid));
        e = c->edge_of[node->out[0]];
    }
    nbi_edge *edge = &c->net->edge[e];
    nbi_layer *l = &c->net->layer[edge->producer];
    nbi_qparam *g = &edge->grid;
    if (p->lo > (float)g->hi || p->hi < (float)g->lo)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "node '%s' (Clip) leaves none of the codes of '%s'",
                       node->name, edge->name);
    if (p->lo > (float)g->lo) {
        g->lo = (int32_t)ceilf(p->lo);
        l->act_lo = fmaxf(l->act_lo, (float)(g->scale * (g->lo - g->zero)));
        edge->lo = fmaxf(edge->lo, l->act_lo);
    }
    if (p->hi < (float)g->hi) {
        g->hi = (int32_t)floorf(p->hi);
        l->act_hi = fminf(l->act_hi, (float)(g->scale * (g->hi - g->zero)));
        edge->hi = fminf(edge->hi, l->act_hi);
    }
    c->edge_of[node->out[0]] = e;
    c->done[n] = true;
    *built = true;
    return NB_OK;
}

static nb_status add_table(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    int in[1] = {c->edge_of[node->in[1]]};
    uint8_t *table = nbi_arena_alloc(&c->net->arena, 256, 1);
    if (!table) return nb_fail_memory(c->ctx, 256);
    memcpy(table, c->graph->tensor[node->in[0]]->data, 256);
    nbi_layer l = {.type = NBI_LAYER_REQUANT, .name = node->name, .n_in = 1, .in = in,
                   .act_lo = -INFINITY, .act_hi = INFINITY, .lut = table};
    c->done[n] = true;
    *built = true;
    return nbi_canon_add(c, &l, node->out[0], -INFINITY, INFINITY);
}

nb_status nbi_canon_codes(nbi_canon *c, int n, nbi_canon_fn move, bool *built) {
    static const char *const moves[] = {"MaxPool", "Reshape",   "Flatten", "Squeeze", "Unsqueeze",
                                        "Slice",   "Transpose", "Pad",     "Concat"};
    const nbi_node *node = c->graph->node[n];
    bool known = false;
    if (nbi_op_is(node, "Clip")) return clip_codes(c, n, built);
    if (is_table(c, node)) return add_table(c, n, built);
    if (nbi_op_is(node, "Cast")) { /* of codes to what a Gather takes */
        int reader = c->uses[node->out[0]] == 1 ? c->consumer[node->out[0]] : -1;
        if (reader < 0 || !nbi_op_is(c->graph->node[reader], "Gather")) return NB_OK;
        c->edge_of[node->out[0]] = c->edge_of[node->in[0]];
        c->done[n] = true;
        *built = true;
        return NB_OK;
    }
    for (size_t i = 0; i < NBI_COUNT(moves); i++) known |= nbi_op_is(node, moves[i]);
    if (!known || !move) return NB_OK;
    const nbi_qparam grid = c->net->edge[c->edge_of[node->in[0]]].grid;
    nbi_qparam joined = grid;
    for (int i = 1; i < node->n_in && nbi_op_is(node, "Concat"); i++) {
        int e = c->edge_of[node->in[i]];
        if (e < 0) return NB_OK;
        const nbi_qparam *g = &c->net->edge[e].grid;
        if (!same_grid(&grid, g))
            return nb_fail(c->ctx, NB_EUNSUPPORTED, "node '%s' joins codes of different scales",
                           node->name);
        if (g->lo < joined.lo) joined.lo = g->lo;
        if (g->hi > joined.hi) joined.hi = g->hi;
    }
    NB_TRY(move(c, n, built));
    if (*built) c->net->edge[c->edge_of[node->out[0]]].grid = joined;
    return NB_OK;
}
