/* Layers that only move values: rows of strided copies between channels-last buffers. */
#include "quant/canonical.h"
#include "ops/params.h"

#include <math.h>
#include <string.h>

/* Strides, in elements, of a tensor's storage by ONNX dimension. */
static void storage_strides(const nbi_tensor *t, int64_t *stride) {
    nbi_view v = {.rank = t->rank};
    memcpy(v.dim, t->dim, sizeof v.dim);
    if (t->rank == 3 || t->rank == 4) nbi_view_channels_last(&v);
    else nbi_view_contiguous(&v);
    memcpy(stride, v.stride, sizeof v.stride);
}

/* Storage order = ONNX order? */
static bool is_plain(const nbi_tensor *t) {
    if (t->rank != 3 && t->rank != 4) return true;
    int64_t space = t->rank == 4 ? t->dim[2] * t->dim[3] : t->dim[2];
    return space == 1 || t->dim[1] == 1;
}

/* Loops of a copy, outermost first; sizes of 1 are dropped, rows are sorted by output stride. */
static bool set_loops(nbk_copy *p, int rank, const int64_t *n, const int64_t *in,
                      const int64_t *out) {
    int order[NBI_MAX_RANK], count = 0;
    for (int i = 0; i < rank; i++) {
        if (n[i] == 1) continue;
        int at = count++;
        while (at > 0 && out[order[at - 1]] < out[i]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    if (count > NBK_COPY_RANK) return false;
    int first = NBK_COPY_RANK - count;
    for (int i = 0; i < first; i++) p->n[i] = 1;
    for (int i = 0; i < count; i++) {
        p->n[first + i] = (int32_t)n[order[i]];
        p->in_stride[first + i] = (int32_t)in[order[i]];
        p->out_stride[first + i] = (int32_t)out[order[i]];
    }
    return true;
}

/* Adds a copy layer of `rows` over the node's non-constant inputs in[…]. */
static nb_status add_copy(nbi_canon *c, int n, int n_in, int *in, int rows, const nbk_copy *copy,
                          const int *copy_in, float lo, float hi) {
    const nbi_node *node = c->graph->node[n];
    int list[1] = {n};
    nbi_layer l = {.type = NBI_LAYER_COPY, .name = node->name, .n_in = n_in, .in = in,
                   .n_nodes = 1, .node = list, .act_lo = -INFINITY, .act_hi = INFINITY,
                   .n_copy = rows};
    l.copy = nbi_arena_alloc(&c->net->arena, (size_t)rows + 1, sizeof *l.copy);
    l.copy_in = nbi_arena_alloc(&c->net->arena, (size_t)rows + 1, sizeof *l.copy_in);
    if (!l.copy || !l.copy_in) return nb_fail_memory(c->ctx, (size_t)rows * sizeof *l.copy);
    if (rows) {
        memcpy(l.copy, copy, (size_t)rows * sizeof *copy);
        memcpy(l.copy_in, copy_in, (size_t)rows * sizeof *copy_in);
    }
    return nbi_canon_add(c, &l, node->out[0], lo, hi);
}

nb_status nbi_canon_reshape(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_tensor *x = c->graph->tensor[node->in[0]], *y = c->graph->tensor[node->out[0]];
    int in[1] = {c->edge_of[node->in[0]]}, zero = 0;
    float lo = c->net->edge[in[0]].lo, hi = c->net->edge[in[0]].hi;
    bool same = is_plain(x) && is_plain(y);
    /* H,W,C and L,C with L = H·W: the positions are in the same order */
    if (!is_plain(x) && !is_plain(y) && x->dim[0] == y->dim[0] && x->dim[1] == y->dim[1]) same = true;
    if (same) {
        *built = true;
        return add_copy(c, n, 1, in, 0, NULL, NULL, lo, hi);
    }
    if (!is_plain(x) && !is_plain(y)) return NB_OK;
    /* walk the tensor whose storage is not plain; the other's address is the ONNX index */
    const nbi_tensor *walk = is_plain(x) ? y : x;
    int64_t a[NBI_MAX_RANK], b[NBI_MAX_RANK];
    nbi_view plain = {.rank = walk->rank};
    memcpy(plain.dim, walk->dim, sizeof plain.dim);
    nbi_view_contiguous(&plain);
    storage_strides(walk, a);
    memcpy(b, plain.stride, sizeof b);
    nbk_copy p = {0};
    if (!set_loops(&p, walk->rank, walk->dim, walk == x ? a : b, walk == x ? b : a)) return NB_OK;
    *built = true;
    return add_copy(c, n, 1, in, 1, &p, &zero, lo, hi);
}

nb_status nbi_canon_transpose(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_transpose_params *p = node->params;
    const nbi_tensor *x = c->graph->tensor[node->in[0]], *y = c->graph->tensor[node->out[0]];
    int in[1] = {c->edge_of[node->in[0]]}, zero = 0;
    int64_t sx[NBI_MAX_RANK], sy[NBI_MAX_RANK], from[NBI_MAX_RANK];
    if (p->perm[0] != 0) return NB_OK;
    storage_strides(x, sx);
    storage_strides(y, sy);
    for (int i = 0; i < y->rank; i++) from[i] = sx[p->perm[i]];
    nbk_copy copy = {0};
    if (!set_loops(&copy, y->rank, y->dim, from, sy)) return NB_OK;
    const nbi_edge *e = &c->net->edge[in[0]];
    *built = true;
    return add_copy(c, n, 1, in, 1, &copy, &zero, e->lo, e->hi);
}

nb_status nbi_canon_slice(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_slice_params *p = node->params;
    const nbi_tensor *x = c->graph->tensor[node->in[0]], *y = c->graph->tensor[node->out[0]];
    int in[1] = {c->edge_of[node->in[0]]}, zero = 0;
    int64_t sx[NBI_MAX_RANK], sy[NBI_MAX_RANK], offset = 0;
    if (!p->known) return NB_OK;
    storage_strides(x, sx);
    storage_strides(y, sy);
    for (int i = 0; i < x->rank; i++) {
        offset += p->start[i] * sx[i];
        sx[i] *= p->step[i];
    }
    nbk_copy copy = {.in_offset = (int32_t)offset};
    if (!set_loops(&copy, y->rank, y->dim, sx, sy)) return NB_OK;
    const nbi_edge *e = &c->net->edge[in[0]];
    *built = true;
    return add_copy(c, n, 1, in, 1, &copy, &zero, e->lo, e->hi);
}

nb_status nbi_canon_pad(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_pad_params *p = node->params;
    const nbi_tensor *x = c->graph->tensor[node->in[0]], *y = c->graph->tensor[node->out[0]];
    int in[1] = {c->edge_of[node->in[0]]}, zero = 0;
    int64_t sx[NBI_MAX_RANK], sy[NBI_MAX_RANK], size[NBI_MAX_RANK], from = 0, to = 0;
    double blank = nbi_canon_reads_codes(c, node) ? c->net->edge[in[0]].grid.zero : 0;
    if (!p->known || p->mode != NBI_PAD_CONSTANT || p->value != blank) return NB_OK;
    storage_strides(x, sx);
    storage_strides(y, sy);
    for (int i = 0; i < x->rank; i++) {
        int64_t cut_begin = p->begin[i] < 0 ? -p->begin[i] : 0;
        int64_t cut_end = p->end[i] < 0 ? -p->end[i] : 0;
        size[i] = x->dim[i] - cut_begin - cut_end;
        if (size[i] < 1) return NB_OK;
        from += cut_begin * sx[i];
        to += (p->begin[i] > 0 ? p->begin[i] : 0) * sy[i];
    }
    nbk_copy copy = {.in_offset = (int32_t)from, .out_offset = (int32_t)to,
                     .fill_bytes = (int32_t)nbi_tensor_count(y)};
    if (!set_loops(&copy, y->rank, size, sx, sy)) return NB_OK;
    const nbi_edge *e = &c->net->edge[in[0]];
    *built = true;
    return add_copy(c, n, 1, in, 1, &copy, &zero, fminf(e->lo, 0), fmaxf(e->hi, 0));
}

nb_status nbi_canon_concat(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_concat_params *p = node->params;
    const nbi_tensor *y = c->graph->tensor[node->out[0]];
    enum { MOST = 64 };
    nbk_copy copy[MOST];
    int in[MOST], source[MOST];
    int64_t sx[NBI_MAX_RANK], sy[NBI_MAX_RANK], at = 0;
    float lo = INFINITY, hi = -INFINITY;
    if (node->n_in > MOST || p->axis == 0) return NB_OK;
    storage_strides(y, sy);
    for (int i = 0; i < node->n_in; i++) {
        const nbi_tensor *x = c->graph->tensor[node->in[i]];
        if (x->data) return NB_OK;
        in[i] = c->edge_of[node->in[i]];
        source[i] = i;
        lo = fminf(lo, c->net->edge[in[i]].lo);
        hi = fmaxf(hi, c->net->edge[in[i]].hi);
        storage_strides(x, sx);
        copy[i] = (nbk_copy){.out_offset = (int32_t)(at * sy[p->axis])};
        if (!set_loops(&copy[i], x->rank, x->dim, sx, sy)) return NB_OK;
        at += x->dim[p->axis];
    }
    *built = true;
    return add_copy(c, n, node->n_in, in, node->n_in, copy, source, lo, hi);
}
