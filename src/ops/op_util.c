/* Helpers of prepare() and infer(): everything that reads a file's values checks them here. */
#include "ops/op_util.h"

#include <stdio.h>
#include <string.h>

#define MAX_COUNT  ((int64_t)1 << 40)
#define MAX_WINDOW ((int64_t)1 << 24)

nb_status nbi_op_params(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, size_t size) {
    node->params = nbi_arena_alloc(&graph->arena, 1, size);
    return node->params ? NB_OK : nb_fail_memory(ctx, size);
}

nb_status nbi_op_prepare_none(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    return nbi_op_params(ctx, graph, node, 1);
}

nb_status nbi_op_set_out(nb_ctx *ctx, nbi_graph *graph, const nbi_node *node, int i, nb_dtype dtype,
                         int rank, const int64_t *dim) {
    nbi_tensor *t = nbi_op_out(graph, node, i);
    if (!t) return NB_OK;
    if (rank > NBI_MAX_RANK)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s): output has %d dimensions, at most %d",
                       node->name, node->op_type, rank, NBI_MAX_RANK);
    int64_t count = 1;
    for (int d = 0; d < rank; d++) {
        if (dim[d] < -1) return nbi_op_fail(ctx, node, "an output dimension", dim[d], "0 or more");
        if (dim[d] > 0 && count > MAX_COUNT / dim[d])
            return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): output '%s' would be too large",
                           node->name, node->op_type, t->name);
        if (dim[d] > 0) count *= dim[d];
    }
    t->dtype = dtype;
    t->rank = rank;
    for (int d = 0; d < NBI_MAX_RANK; d++) t->dim[d] = d < rank ? dim[d] : -1;
    return NB_OK;
}

nb_status nbi_op_infer_same(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, x->dim);
}

nb_status nbi_op_fail(nb_ctx *ctx, const nbi_node *node, const char *what, int64_t found,
                      const char *wanted) {
    return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): %s is %lld, want %s", node->name,
                   node->op_type, what, (long long)found, wanted);
}

nb_status nbi_op_want_rank(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int i,
                           int rank) {
    const nbi_tensor *t = nbi_op_in(graph, node, i);
    if (!t || t->rank < 0 || t->rank == rank) return NB_OK;
    return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): input '%s' has %d dimensions, want %d",
                   node->name, node->op_type, t->name, t->rank, rank);
}

nb_status nbi_op_axis(nb_ctx *ctx, const nbi_node *node, const char *what, int64_t axis, int rank,
                      int *out) {
    if (axis < -rank || axis >= rank) {
        char wanted[48];
        snprintf(wanted, sizeof wanted, "%d to %d", -rank, rank - 1);
        return nbi_op_fail(ctx, node, what, axis, wanted);
    }
    *out = (int)(axis < 0 ? axis + rank : axis);
    return NB_OK;
}

bool nbi_op_is_omitted(const nbi_node *node, int i) {
    return i >= node->n_in || node->in[i] < 0;
}

nb_status nbi_op_const_ints(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int i,
                            int64_t *out, int max, int *n) {
    const nbi_tensor *t = nbi_op_in(graph, node, i);
    *n = -1;
    if (!t || !t->data) return NB_OK;
    int64_t count = nbi_tensor_count(t);
    if (t->rank > 1 || (t->dtype != NB_DTYPE_S64 && t->dtype != NB_DTYPE_S32))
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (%s): input '%s' is %s with %d dimensions, want a list of int64",
                       node->name, node->op_type, t->name, nbi_dtype_name(t->dtype), t->rank);
    if (count > max)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): input '%s' has %lld values, at most %d",
                       node->name, node->op_type, t->name, (long long)count, max);
    for (int64_t k = 0; k < count; k++) out[k] = nbi_get_int(t->dtype, t->data, k);
    *n = (int)count;
    return NB_OK;
}

nb_status nbi_op_attr_ints(nb_ctx *ctx, const nbi_node *node, const char *name, int64_t *out,
                           int max, int *n) {
    const int64_t *values = NULL;
    size_t count = nbi_attr_ints(node, name, &values);
    *n = -1;
    if (count == 0 && !nbi_node_attr(node, name)) return NB_OK;
    if (count > (size_t)max)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): %s has %zu values, at most %d", node->name,
                       node->op_type, name, count, max);
    if (count) memcpy(out, values, count * sizeof *out);
    *n = (int)count;
    return NB_OK;
}

nb_status nbi_op_broadcast(nb_ctx *ctx, const nbi_node *node, const nbi_tensor *a,
                           const nbi_tensor *b, int *rank, int64_t *dim) {
    if (a->rank < 0 || b->rank < 0) {
        *rank = -1;
        return NB_OK;
    }
    *rank = a->rank > b->rank ? a->rank : b->rank;
    for (int i = 0; i < *rank; i++) {
        int ia = i - (*rank - a->rank), ib = i - (*rank - b->rank);
        int64_t da = ia < 0 ? 1 : a->dim[ia], db = ib < 0 ? 1 : b->dim[ib];
        if (da == 1 || db == 1)
            dim[i] = da == 1 ? db : da;
        else if (da < 0 || db < 0)
            dim[i] = da < 0 ? db : da;
        else if (da == db)
            dim[i] = da;
        else {
            char ta[96], tb[96];
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (%s): shapes %s of '%s' and %s of '%s' do "
                           "not broadcast",
                           node->name, node->op_type, nbi_shape_text(a, ta, sizeof ta), a->name,
                           nbi_shape_text(b, tb, sizeof tb), b->name);
        }
    }
    return NB_OK;
}

nb_dtype nbi_dtype_of_onnx(int64_t number) {
    static const nb_dtype table[] = {
        [1] = NB_DTYPE_F32,  [2] = NB_DTYPE_U8,   [3] = NB_DTYPE_S8,   [4] = NB_DTYPE_U16,
        [5] = NB_DTYPE_S16,  [6] = NB_DTYPE_S32,  [7] = NB_DTYPE_S64,  [9] = NB_DTYPE_BOOL,
        [11] = NB_DTYPE_F64, [12] = NB_DTYPE_U32, [13] = NB_DTYPE_U64, [21] = NB_DTYPE_U4,
        [22] = NB_DTYPE_S4,  [25] = NB_DTYPE_U2,  [26] = NB_DTYPE_S2};
    if (number < 0 || number >= (int64_t)NBI_COUNT(table)) return NB_DTYPE_NONE;
    return table[number];
}

/* ---- the sliding window -------------------------------------------------------------------- */

static nb_status window_list(nb_ctx *ctx, const nbi_node *node, const char *name, int n,
                             int64_t least, int64_t *out) {
    int found;
    int64_t values[2 * NBI_MAX_SPATIAL];
    NB_TRY(nbi_op_attr_ints(ctx, node, name, values, 2 * NBI_MAX_SPATIAL, &found));
    if (found <= 0) return NB_OK;
    if (n >= 0 && found != n)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): %s has %d values, want %d", node->name,
                       node->op_type, name, found, n);
    for (int i = 0; i < found; i++) {
        if (values[i] < least || values[i] > MAX_WINDOW)
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (%s): %s has the value %lld, want %lld or "
                           "more",
                           node->name, node->op_type, name, (long long)values[i], (long long)least);
        out[i] = values[i];
    }
    return NB_OK;
}

nb_status nbi_window_read(nb_ctx *ctx, const nbi_node *node, int n, nbi_window *w) {
    static const char *const modes[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    const char *text = nbi_attr_text(node, "auto_pad", "NOTSET");
    size_t mode = 0;
    while (mode < NBI_COUNT(modes) && strcmp(text, modes[mode])) mode++;
    if (mode == NBI_COUNT(modes))
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (%s): auto_pad is '%.32s', want NOTSET, "
                       "SAME_UPPER, SAME_LOWER or VALID",
                       node->name, node->op_type, text);
    if (n > NBI_MAX_SPATIAL)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s): %d spatial axes, at most %d",
                       node->name, node->op_type, n, NBI_MAX_SPATIAL);
    int64_t kernel[2 * NBI_MAX_SPATIAL] = {0}, stride[2 * NBI_MAX_SPATIAL];
    int64_t dilation[2 * NBI_MAX_SPATIAL], pads[2 * NBI_MAX_SPATIAL] = {0};
    for (int i = 0; i < 2 * NBI_MAX_SPATIAL; i++) stride[i] = dilation[i] = 1;
    NB_TRY(window_list(ctx, node, "kernel_shape", n, 1, kernel));
    NB_TRY(window_list(ctx, node, "strides", n, 1, stride));
    NB_TRY(window_list(ctx, node, "dilations", n, 1, dilation));
    NB_TRY(window_list(ctx, node, "pads", n < 0 ? n : 2 * n, 0, pads));
    w->n = n;
    w->auto_pad = (nbi_auto_pad)mode;
    w->ceil_mode = nbi_attr_int(node, "ceil_mode", 0) != 0;
    for (int i = 0; i < n; i++) {
        w->kernel[i] = kernel[i];
        w->stride[i] = stride[i];
        w->dilation[i] = dilation[i];
        w->pad_begin[i] = mode == 0 ? pads[i] : 0;
        w->pad_end[i] = mode == 0 ? pads[n + i] : 0;
    }
    return NB_OK;
}

nb_status nbi_window_resolve(nb_ctx *ctx, const nbi_node *node, nbi_window *w, const int64_t *in,
                             int64_t *out) {
    for (int i = 0; i < w->n; i++) {
        int64_t reach = w->dilation[i] * (w->kernel[i] - 1) + 1, s = w->stride[i];
        out[i] = -1;
        if (in[i] < 0) continue;
        if (w->auto_pad == NBI_PAD_SAME_UPPER || w->auto_pad == NBI_PAD_SAME_LOWER) {
            out[i] = (in[i] + s - 1) / s;
            int64_t pad = (out[i] - 1) * s + reach - in[i];
            if (pad < 0) pad = 0;
            int64_t less = pad / 2, more = pad - less;
            w->pad_begin[i] = w->auto_pad == NBI_PAD_SAME_UPPER ? less : more;
            w->pad_end[i] = pad - w->pad_begin[i];
            continue;
        }
        int64_t room = in[i] + w->pad_begin[i] + w->pad_end[i] - reach;
        if (room < 0)
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (%s): the window of %lld does not fit into "
                           "%lld values (padding %lld and %lld included)",
                           node->name, node->op_type, (long long)reach,
                           (long long)(in[i] + w->pad_begin[i] + w->pad_end[i]),
                           (long long)w->pad_begin[i], (long long)w->pad_end[i]);
        out[i] = (w->ceil_mode ? room + s - 1 : room) / s + 1;
        /* A window that would start in the end padding is dropped. */
        if (w->ceil_mode && (out[i] - 1) * s >= in[i] + w->pad_begin[i]) out[i]--;
    }
    return NB_OK;
}

void nbi_window3_make(const nbi_window *w, const nbi_view *x, const nbi_view *y, nbi_window3 *out) {
    for (int i = 0; i < 3; i++) {
        int a = i - (3 - w->n); /* spatial axis, or < 0 for a missing one */
        out->in[i] = a < 0 ? 1 : x->dim[2 + a];
        out->out[i] = a < 0 ? 1 : y->dim[2 + a];
        out->kernel[i] = a < 0 ? 1 : w->kernel[a];
        out->stride[i] = a < 0 ? 1 : w->stride[a];
        out->dilation[i] = a < 0 ? 1 : w->dilation[a];
        out->pad[i] = a < 0 ? 0 : w->pad_begin[a];
        out->x_stride[i] = a < 0 ? 0 : x->stride[2 + a];
        out->y_stride[i] = a < 0 ? 0 : y->stride[2 + a];
    }
}
