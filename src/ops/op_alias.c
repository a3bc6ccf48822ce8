/* Operators whose output is the input's bytes in the same order: Reshape, Flatten, Squeeze,
 * Unsqueeze, Identity. */
#include "ops/op_grad.h"

#include <string.h>

nb_status nbi_alias_forward(const nbi_op_call *call) {
    nbi_view to = call->out[0];
    /* Through contiguous strides of the input's shape: only the order of elements matters. */
    nbi_view same = call->in[0];
    same.data = to.data;
    nbi_view_contiguous(&same);
    if (nbi_view_is_contiguous(&to))
        nbi_view_copy(&same, &call->in[0]);
    else
        nbi_view_copy(&to, &call->in[0]);
    return NB_OK;
}

/* The gradient goes back as it came: the same bytes. */
nb_status nbi_grad_alias(const nbi_grad_call *call) {
    const nbi_view *gx = &call->gin[0], *gy = &call->gout[0];
    size_t size = (size_t)nbi_view_count(gx) * sizeof(float);
    if (gx->data && gx->data != gy->data && size) memcpy(gx->data, gy->data, size);
    return NB_OK;
}

static nb_status flatten_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(int64_t)));
    *(int64_t *)node->params = nbi_attr_int(node, "axis", 1);
    return NB_OK;
}

static int64_t product(const int64_t *dim, int begin, int end) {
    int64_t p = 1;
    for (int i = begin; i < end; i++) {
        if (dim[i] < 0) return -1;
        p *= dim[i];
    }
    return p;
}

static nb_status flatten_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t axis = *(const int64_t *)node->params, dim[2] = {-1, -1};
    if (x->rank >= 0) {
        if (axis < -x->rank || axis > x->rank)
            return nbi_op_fail(ctx, node, "axis", axis, "within the input's dimensions");
        int at = (int)(axis < 0 ? axis + x->rank : axis);
        dim[0] = product(x->dim, 0, at);
        dim[1] = product(x->dim, at, x->rank);
    }
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, 2, dim);
}

/* ---- lists that were attributes ------------------------------------------------------------- */

/* Reshape, Squeeze, Unsqueeze: the list is an attribute in old opsets, input 1 in new ones. */
typedef struct list_params {
    bool by_attribute;
} list_params;

static nb_status prepare_list(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, int opset) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(list_params)));
    ((list_params *)node->params)->by_attribute = graph->opset < opset;
    return NB_OK;
}

static bool by_attribute(const nbi_node *node) {
    return ((const list_params *)node->params)->by_attribute;
}

/* ---- Reshape ------------------------------------------------------------------------------- */

static nb_status reshape_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    if (graph->opset >= 5 && node->n_in < 2)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Reshape): the shape is missing", node->name);
    return prepare_list(ctx, graph, node, 5);
}

/* 0 copies the input's dimension (unless allowzero), −1 takes what is left. */
static nb_status reshape_dims(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int n,
                              int64_t *dim) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    bool allow_zero = nbi_attr_int(node, "allowzero", 0) != 0;
    int open = -1;
    int64_t rest = 1, total = nbi_tensor_count(x);
    for (int i = 0; i < n; i++) {
        if (dim[i] == 0 && !allow_zero) {
            if (x->rank >= 0 && i >= x->rank)
                return nb_fail(ctx, NB_EFORMAT,
                               "node '%s' (Reshape): shape value %d is 0, but the "
                               "input has only %d dimensions",
                               node->name, i, x->rank);
            dim[i] = x->rank < 0 ? -1 : x->dim[i];
            if (dim[i] < 0) rest = -1;
        } else if (dim[i] == -1) {
            if (open >= 0)
                return nb_fail(ctx, NB_EFORMAT, "node '%s' (Reshape): the shape has two -1",
                               node->name);
            open = i;
            continue;
        } else if (dim[i] < 0 || dim[i] > (int64_t)1 << 40) {
            return nbi_op_fail(ctx, node, "a shape value", dim[i], "-1 or more");
        }
        if (rest >= 0 && dim[i] > 0 && rest > ((int64_t)1 << 40) / dim[i])
            return nbi_op_fail(ctx, node, "a shape value", dim[i], "a smaller number");
        if (rest >= 0 && dim[i] >= 0) rest *= dim[i];
    }
    if (total < 0 || rest < 0) return NB_OK;
    bool fits = open < 0 ? rest == total : rest > 0 ? total % rest == 0 : total == 0;
    if (!fits) {
        char text[96];
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (Reshape): '%s' of shape %s has %lld elements, "
                       "the wanted shape %lld",
                       node->name, x->name, nbi_shape_text(x, text, sizeof text), (long long)total,
                       (long long)rest);
    }
    if (open >= 0) dim[open] = rest > 0 ? total / rest : 0;
    return NB_OK;
}

static nb_status reshape_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *s = nbi_op_in(graph, node, 1);
    int64_t dim[NBI_MAX_RANK];
    int n;
    if (by_attribute(node))
        NB_TRY(nbi_op_attr_ints(ctx, node, "shape", dim, NBI_MAX_RANK, &n));
    else
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, dim, NBI_MAX_RANK, &n));
    if (n >= 0) {
        NB_TRY(reshape_dims(ctx, graph, node, n, dim));
        return nbi_op_set_out(ctx, graph, node, 0, x->dtype, n, dim);
    }
    bool rank_known = s && s->rank == 1 && s->dim[0] >= 0 && s->dim[0] <= NBI_MAX_RANK;
    for (int i = 0; i < NBI_MAX_RANK; i++) dim[i] = -1;
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank_known ? (int)s->dim[0] : -1, dim);
}

/* ---- Squeeze, Unsqueeze -------------------------------------------------------------------- */

static nb_status squeeze_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    return prepare_list(ctx, graph, node, 13);
}

/* *n = −1 when the axes are omitted, *known false: later. */
static nb_status read_axes(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int64_t *axis,
                           int *n, bool *known) {
    *known = true;
    if (by_attribute(node)) return nbi_op_attr_ints(ctx, node, "axes", axis, NBI_MAX_RANK, n);
    NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, axis, NBI_MAX_RANK, n));
    *known = *n >= 0 || nbi_op_is_omitted(node, 1);
    return NB_OK;
}

static nb_status squeeze_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t axis[NBI_MAX_RANK], dim[NBI_MAX_RANK];
    bool known, drop[NBI_MAX_RANK] = {false};
    int n, rank = 0;
    NB_TRY(read_axes(ctx, graph, node, axis, &n, &known));
    if (!known || x->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    for (int i = 0; i < n; i++) {
        int a;
        NB_TRY(nbi_op_axis(ctx, node, "an axis", axis[i], x->rank, &a));
        if (x->dim[a] > 1 || x->dim[a] == 0)
            return nbi_op_fail(ctx, node, "the squeezed dimension", x->dim[a], "1");
        drop[a] = true;
    }
    for (int i = 0; i < x->rank; i++) {
        if (n < 0 && x->dim[i] < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
        if (!(n < 0 ? x->dim[i] == 1 : drop[i])) dim[rank++] = x->dim[i];
    }
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
}

static nb_status unsqueeze_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t axis[NBI_MAX_RANK], dim[NBI_MAX_RANK];
    bool known, added[NBI_MAX_RANK] = {false};
    int n, from = 0;
    NB_TRY(read_axes(ctx, graph, node, axis, &n, &known));
    if (known && n < 0)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Unsqueeze): axes is missing", node->name);
    if (!known || x->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    int rank = x->rank + n;
    if (rank > NBI_MAX_RANK)
        return nbi_op_fail(ctx, node, "the number of output dimensions", rank, "at most 8");
    for (int i = 0; i < n; i++) {
        int a;
        NB_TRY(nbi_op_axis(ctx, node, "an axis", axis[i], rank, &a));
        if (added[a]) return nbi_op_fail(ctx, node, "an axis given twice", a, "each once");
        added[a] = true;
    }
    for (int i = 0; i < rank; i++) dim[i] = added[i] ? 1 : x->dim[from++];
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
}

const nbi_op nbi_op_flatten = {.name = "Flatten",
                               .types = NBI_TYPES_ANY,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 1,
                               .min_out = 1,
                               .max_out = 1,
                               .flags = NBI_OP_ALIAS | NBI_OP_GRAD_INPLACE,
                               .prepare = flatten_prepare,
                               .infer = flatten_infer,
                               .forward = nbi_alias_forward,
                               .backward = nbi_grad_alias,
                               .grad_in = 1};
const nbi_op nbi_op_reshape = {.name = "Reshape",
                               .types = NBI_TYPES_ANY,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 2,
                               .min_out = 1,
                               .max_out = 1,
                               .flags = NBI_OP_ALIAS | NBI_OP_GRAD_INPLACE,
                               .prepare = reshape_prepare,
                               .infer = reshape_infer,
                               .forward = nbi_alias_forward,
                               .backward = nbi_grad_alias,
                               .grad_in = 1};
const nbi_op nbi_op_squeeze = {.name = "Squeeze",
                               .types = NBI_TYPES_ANY,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 2,
                               .min_out = 1,
                               .max_out = 1,
                               .flags = NBI_OP_ALIAS | NBI_OP_GRAD_INPLACE,
                               .prepare = squeeze_prepare,
                               .infer = squeeze_infer,
                               .forward = nbi_alias_forward,
                               .backward = nbi_grad_alias,
                               .grad_in = 1};
const nbi_op nbi_op_unsqueeze = {.name = "Unsqueeze",
                                 .types = NBI_TYPES_ANY,
                                 .domain = "",
                                 .min_opset = 1,
                                 .min_in = 1,
                                 .max_in = 2,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = NBI_OP_ALIAS | NBI_OP_GRAD_INPLACE,
                                 .prepare = squeeze_prepare,
                                 .infer = unsqueeze_infer,
                                 .forward = nbi_alias_forward,
                                 .backward = nbi_grad_alias,
                                 .grad_in = 1};
const nbi_op nbi_op_identity = {.name = "Identity",
                                .types = NBI_TYPES_ANY,
                                .domain = "",
                                .min_opset = 1,
                                .min_in = 1,
                                .max_in = 1,
                                .min_out = 1,
                                .max_out = 1,
                                .flags = NBI_OP_ALIAS | NBI_OP_GRAD_INPLACE,
                                .prepare = nbi_op_prepare_none,
                                .infer = nbi_op_infer_same,
                                .forward = nbi_alias_forward,
                                .backward = nbi_grad_alias,
                                .grad_in = 1};
