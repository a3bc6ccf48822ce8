/* Moving elements: Transpose, Concat, Split, Gather. */
#include "ops/op_grad.h"

#include <string.h>

/* ---- Transpose ----------------------------------------------------------------------------- */

static nb_status transpose_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    return nbi_op_params(ctx, graph, node, sizeof(nbi_transpose_params));
}

static nb_status transpose_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_transpose_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t perm[NBI_MAX_RANK], dim[NBI_MAX_RANK];
    bool seen[NBI_MAX_RANK] = {false};
    int n;
    NB_TRY(nbi_op_attr_ints(ctx, node, "perm", perm, NBI_MAX_RANK, &n));
    if (x->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    if (n >= 0 && n != x->rank) return nbi_op_fail(ctx, node, "the length of perm", n, "the rank");
    p->rank = x->rank;
    for (int i = 0; i < x->rank; i++) {
        int64_t from = n < 0 ? x->rank - 1 - i : perm[i];
        if (from < 0 || from >= x->rank || seen[from])
            return nbi_op_fail(ctx, node, "a value of perm", from, "each axis once");
        seen[from] = true;
        p->perm[i] = (int)from;
        dim[i] = x->dim[from];
    }
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
}

static nb_status transpose_forward(const nbi_op_call *call) {
    const nbi_transpose_params *p = call->node->params;
    nbi_view from = call->in[0];
    for (int i = 0; i < p->rank; i++) {
        from.dim[i] = call->in[0].dim[p->perm[i]];
        from.stride[i] = call->in[0].stride[p->perm[i]];
    }
    nbi_view_copy(&call->out[0], &from);
    return NB_OK;
}

/* ---- Concat, Split ------------------------------------------------------------------------- */

static nb_status concat_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    if (graph->opset >= 4 && !nbi_node_attr(node, "axis"))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Concat): axis is missing", node->name);
    return nbi_op_params(ctx, graph, node, sizeof(nbi_concat_params));
}

static nb_status concat_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_concat_params *p = node->params;
    const nbi_tensor *first = nbi_op_in(graph, node, 0);
    int64_t dim[NBI_MAX_RANK];
    for (int k = 0; k < node->n_in; k++) {
        const nbi_tensor *x = nbi_op_in(graph, node, k);
        if (!x)
            return nb_fail(ctx, NB_EFORMAT, "node '%s' (Concat): input %d is omitted", node->name,
                           k);
        if (x->rank < 0 || first->rank < 0)
            return nbi_op_set_out(ctx, graph, node, 0, first->dtype, -1, NULL);
        if (k == 0) {
            memcpy(dim, x->dim, sizeof dim);
            NB_TRY(
                nbi_op_axis(ctx, node, "axis", nbi_attr_int(node, "axis", 1), x->rank, &p->axis));
            continue;
        }
        NB_TRY(nbi_op_want_rank(ctx, graph, node, k, first->rank));
        if (x->dtype != first->dtype)
            return nb_fail(ctx, NB_EFORMAT, "node '%s' (Concat): '%s' is %s, '%s' is %s",
                           node->name, first->name, nbi_dtype_name(first->dtype), x->name,
                           nbi_dtype_name(x->dtype));
        for (int i = 0; i < x->rank; i++) {
            if (i == p->axis) {
                dim[i] = dim[i] < 0 || x->dim[i] < 0 ? -1 : dim[i] + x->dim[i];
            } else if (dim[i] < 0) {
                dim[i] = x->dim[i];
            } else if (x->dim[i] >= 0 && x->dim[i] != dim[i]) {
                return nb_fail(ctx, NB_EFORMAT,
                               "node '%s' (Concat): dimension %d of '%s' is %lld, "
                               "want %lld",
                               node->name, i, x->name, (long long)x->dim[i], (long long)dim[i]);
            }
        }
    }
    return nbi_op_set_out(ctx, graph, node, 0, first->dtype, first->rank, dim);
}

/* Copies between `part` and the piece of `whole` that starts at `at` along the axis. */
static void copy_part(const nbi_view *whole, const nbi_view *part, int axis, int64_t at,
                      bool to_whole) {
    nbi_view piece = *whole;
    piece.dim[axis] = part->dim[axis];
    if (nbi_view_count(&piece) == 0) return;
    piece.data =
        (char *)whole->data + at * whole->stride[axis] * (nbi_dtype_bits(whole->dtype) / 8);
    if (to_whole)
        nbi_view_copy(&piece, part);
    else
        nbi_view_copy(part, &piece);
}

static nb_status concat_forward(const nbi_op_call *call) {
    int axis = ((const nbi_concat_params *)call->node->params)->axis;
    int64_t at = 0;
    for (int k = 0; k < call->node->n_in; k++) {
        copy_part(&call->out[0], &call->in[k], axis, at, true);
        at += call->in[k].dim[axis];
    }
    return NB_OK;
}

static nb_status split_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_split_params)));
    nbi_split_params *p = node->params;
    p->by_attribute = graph->opset < 13;
    p->at = nbi_arena_alloc(&graph->arena, (size_t)node->n_out + 1, sizeof *p->at);
    return p->at ? NB_OK : nb_fail_memory(ctx, (size_t)node->n_out * sizeof *p->at);
}

#define MAX_SPLIT 256
static nb_status split_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_split_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t size[MAX_SPLIT], dim[NBI_MAX_RANK], sum = 0;
    int n;
    if (node->n_out > MAX_SPLIT)
        return nbi_op_fail(ctx, node, "the number of outputs", node->n_out, "at most 256");
    if (p->by_attribute)
        NB_TRY(nbi_op_attr_ints(ctx, node, "split", size, MAX_SPLIT, &n));
    else
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, size, MAX_SPLIT, &n));
    bool later = !p->by_attribute && n < 0 && !nbi_op_is_omitted(node, 1);
    if (x->rank < 0) return NB_OK;
    NB_TRY(nbi_op_axis(ctx, node, "axis", nbi_attr_int(node, "axis", 0), x->rank, &p->axis));
    int64_t whole = x->dim[p->axis];
    if (n >= 0 && n != node->n_out)
        return nbi_op_fail(ctx, node, "the number of sizes", n, "one per output");
    memcpy(dim, x->dim, sizeof dim);
    for (int i = 0; i < node->n_out; i++) {
        int64_t part = whole < 0 ? -1 : (whole + node->n_out - 1) / node->n_out;
        if (n >= 0)
            part = size[i];
        else if (whole >= 0 && part > whole - sum)
            part = whole - sum;
        dim[p->axis] = later ? -1 : part;
        if (n >= 0 && (part < 0 || part > (int64_t)1 << 40 || (whole >= 0 && part > whole - sum)))
            return nbi_op_fail(ctx, node, "a size", part, "what is left of the dimension");
        p->at[i] = sum;
        p->at[i + 1] = sum += part;
        NB_TRY(nbi_op_set_out(ctx, graph, node, i, x->dtype, x->rank, dim));
    }
    if (whole >= 0 && !later && sum != whole)
        return nbi_op_fail(ctx, node, "the sum of the sizes", sum, "the dimension");
    return NB_OK;
}

static nb_status split_forward(const nbi_op_call *call) {
    const nbi_split_params *p = call->node->params;
    for (int k = 0; k < call->node->n_out; k++)
        if (nbi_op_out(call->graph, call->node, k))
            copy_part(&call->in[0], &call->out[k], p->axis, p->at[k], false);
    return NB_OK;
}

/* ---- Gather -------------------------------------------------------------------------------- */

static nb_status gather_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    return nbi_op_params(ctx, graph, node, sizeof(nbi_concat_params));
}

static nb_status gather_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_concat_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *index = nbi_op_in(graph, node, 1);
    if (index->dtype != NB_DTYPE_S64 && index->dtype != NB_DTYPE_S32)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (Gather): indices '%s' are %s, want int64 or "
                       "int32",
                       node->name, index->name, nbi_dtype_name(index->dtype));
    if (x->rank < 0 || index->rank < 0)
        return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    NB_TRY(nbi_op_axis(ctx, node, "axis", nbi_attr_int(node, "axis", 0), x->rank, &p->axis));
    int64_t dim[2 * NBI_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < p->axis; i++) dim[rank++] = x->dim[i];
    for (int i = 0; i < index->rank; i++) dim[rank++] = index->dim[i];
    for (int i = p->axis + 1; i < x->rank; i++) dim[rank++] = x->dim[i];
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
}

static nb_status gather_forward(const nbi_op_call *call) {
    int axis = ((const nbi_concat_params *)call->node->params)->axis, q = call->in[1].rank;
    const nbi_view *x = &call->in[0], *index = &call->in[1], *y = &call->out[0];
    int64_t size = nbi_dtype_bits(x->dtype) / 8, count = nbi_view_count(index);
    int64_t at[NBI_MAX_RANK] = {0};
    nbi_view from = *x, to = *y; /* both without the gathered axes: those get size 1 */
    from.dim[axis] = 1;
    from.rank = to.rank = 0;
    for (int i = 0; i < x->rank; i++) {
        int k = i < axis ? i : i + q - 1;
        if (i == axis) continue;
        from.dim[from.rank] = to.dim[to.rank] = x->dim[i];
        from.stride[from.rank++] = x->stride[i];
        to.stride[to.rank++] = y->stride[k];
    }
    for (int64_t n = 0; n < count; n++) {
        int64_t where = 0, dst = 0;
        for (int i = 0; i < q; i++) {
            where += at[i] * index->stride[i];
            dst += at[i] * y->stride[axis + i];
        }
        int64_t v = nbi_get_int(index->dtype, index->data, where), dim = x->dim[axis];
        if (v < -dim || v >= dim)
            return nb_fail(call->ctx, NB_EFORMAT,
                           "node '%s' (Gather): index %lld is outside the "
                           "dimension of %lld",
                           call->node->name, (long long)v, (long long)dim);
        from.data = (char *)x->data + (v < 0 ? v + dim : v) * x->stride[axis] * size;
        to.data = (char *)y->data + dst * size;
        nbi_view_copy(&to, &from);
        for (int i = q - 1; i >= 0; i--) {
            if (++at[i] < index->dim[i]) break;
            at[i] = 0;
        }
    }
    return NB_OK;
}

const nbi_op nbi_op_transpose = {.name = "Transpose",
                                 .types = NBI_TYPES_ANY,
                                 .domain = "",
                                 .min_opset = 1,
                                 .min_in = 1,
                                 .max_in = 1,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = NBI_OP_STRIDED,
                                 .prepare = transpose_prepare,
                                 .infer = transpose_infer,
                                 .forward = transpose_forward,
                                 .backward = nbi_grad_transpose};
const nbi_op nbi_op_concat = {.name = "Concat",
                              .types = NBI_TYPES_ANY,
                              .domain = "",
                              .min_opset = 1,
                              .min_in = 1,
                              .max_in = -1,
                              .min_out = 1,
                              .max_out = 1,
                              .flags = NBI_OP_STRIDED,
                              .prepare = concat_prepare,
                              .infer = concat_infer,
                              .forward = concat_forward,
                              .backward = nbi_grad_concat};
const nbi_op nbi_op_split = {.name = "Split",
                             .types = NBI_TYPES_ANY,
                             .domain = "",
                             .min_opset = 2,
                             .min_in = 1,
                             .max_in = 2,
                             .min_out = 1,
                             .max_out = MAX_SPLIT,
                             .flags = NBI_OP_STRIDED,
                             .prepare = split_prepare,
                             .infer = split_infer,
                             .forward = split_forward,
                             .backward = nbi_grad_split,
                             .grad_in = 1};
const nbi_op nbi_op_gather = {.name = "Gather",
                              .types = NBI_TYPES_ANY,
                              .domain = "",
                              .min_opset = 1,
                              .min_in = 2,
                              .max_in = 2,
                              .min_out = 1,
                              .max_out = 1,
                              .flags = NBI_OP_STRIDED,
                              .prepare = gather_prepare,
                              .infer = gather_infer,
                              .forward = gather_forward,
                              .backward = nbi_grad_gather,
                              .keep_in = 1 << 1,
                              .grad_in = 1};
