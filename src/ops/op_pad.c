/* Pad: attributes before opset 11, inputs after. Negative pads cut. Each axis has a map from output
 * to input index, −1 where the constant goes. */
#include "ops/op_grad.h"

#include <string.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    static const char *const modes[] = {"constant", "edge", "reflect", "wrap"};
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_pad_params)));
    nbi_pad_params *p = node->params;
    const char *text = nbi_attr_text(node, "mode", "constant");
    size_t mode = 0;
    while (mode < NBI_COUNT(modes) && strcmp(text, modes[mode])) mode++;
    if (mode == NBI_COUNT(modes))
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (Pad): mode is '%.32s', want constant, edge, "
                       "reflect or wrap",
                       node->name, text);
    p->mode = (nbi_pad_mode)mode;
    if (graph->opset >= 11 && node->n_in < 2)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Pad): pads is missing", node->name);
    if (graph->opset >= 11) return NB_OK;
    p->attribute = graph->opset < 2 ? "paddings" : "pads";
    p->value = (double)nbi_attr_float(node, "value", 0);
    return NB_OK;
}

static nb_status read_pads(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int64_t *pads,
                           int *n, int *axes) {
    int n_axes = -1;
    int64_t axis[NBI_MAX_RANK];
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    const char *name = ((const nbi_pad_params *)node->params)->attribute;
    if (name) {
        NB_TRY(nbi_op_attr_ints(ctx, node, name, pads, 2 * NBI_MAX_RANK, n));
        if (*n < 0)
            return nb_fail(ctx, NB_EFORMAT, "node '%s' (Pad): %s is missing", node->name, name);
    } else {
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, pads, 2 * NBI_MAX_RANK, n));
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 3, axis, NBI_MAX_RANK, &n_axes));
        if (n_axes < 0 && !nbi_op_is_omitted(node, 3)) *n = -1;
    }
    if (*n < 0 || x->rank < 0) return NB_OK;
    int count = n_axes < 0 ? x->rank : n_axes;
    if (*n != 2 * count) return nbi_op_fail(ctx, node, "the number of pads", *n, "2 per axis");
    for (int i = 0; i < count; i++)
        NB_TRY(nbi_op_axis(ctx, node, "an axis", n_axes < 0 ? i : axis[i], x->rank, &axes[i]));
    return NB_OK;
}

static nb_status check_axis(nb_ctx *ctx, const nbi_node *node, const nbi_pad_params *p, int64_t dim,
                            int i) {
    int64_t most = p->begin[i] > p->end[i] ? p->begin[i] : p->end[i];
    if (p->begin[i] + p->end[i] + dim < 0)
        return nbi_op_fail(ctx, node, "a padded size", p->begin[i] + p->end[i] + dim, "0 or more");
    if (p->mode == NBI_PAD_CONSTANT || most <= 0) return NB_OK;
    if (dim < 1) return nbi_op_fail(ctx, node, "a padded dimension", dim, "1 or more");
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_pad_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *value = nbi_op_in(graph, node, 2);
    int64_t pads[2 * NBI_MAX_RANK], dim[NBI_MAX_RANK];
    int n, axes[NBI_MAX_RANK];
    NB_TRY(read_pads(ctx, graph, node, pads, &n, axes));
    for (int i = 0; i < NBI_MAX_RANK; i++) dim[i] = -1;
    p->rank = x->rank;
    p->known = n >= 0 && x->rank >= 0 && (!value || value->data);
    memset(p->begin, 0, sizeof p->begin);
    memset(p->end, 0, sizeof p->end);
    if (value && value->data && nbi_tensor_count(value) == 1)
        p->value = nbi_get_real(value->dtype, value->data, 0);
    if (n < 0 || x->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
    for (int i = 0; i < n / 2; i++) {
        int64_t b = pads[i], e = pads[n / 2 + i], most = (int64_t)1 << 40;
        if (b < -most || b > most || e < -most || e > most)
            return nbi_op_fail(ctx, node, "a pad", b, "a smaller number");
        p->begin[axes[i]] = b;
        p->end[axes[i]] = e;
    }
    for (int i = 0; i < x->rank; i++) {
        if (x->dim[i] < 0) {
            p->known &= p->begin[i] == 0 && p->end[i] == 0;
            continue;
        }
        NB_TRY(check_axis(ctx, node, p, x->dim[i], i));
        dim[i] = x->dim[i] + p->begin[i] + p->end[i];
    }
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
}

typedef struct fill {
    nb_dtype dtype;
    const void *value;
} fill;

static void fill_row(void *user, char *const *p, const int64_t *step, int64_t count) {
    const fill *f = user;
    size_t size = (size_t)nbi_dtype_bits(f->dtype) / 8;
    for (int64_t i = 0; i < count; i++) memcpy(p[0] + i * step[0] * (int64_t)size, f->value, size);
}

int64_t nbi_pad_source(const nbi_pad_params *p, int i, int64_t dim, int64_t o) {
    int64_t at = o - p->begin[i];
    if (at >= 0 && at < dim) return at;
    switch (p->mode) {
    case NBI_PAD_EDGE:
        return at < 0 ? 0 : dim - 1;
    case NBI_PAD_WRAP:
        return ((at % dim) + dim) % dim;
    case NBI_PAD_REFLECT: {
        if (dim == 1) return 0;
        int64_t period = 2 * (dim - 1);
        at = ((at % period) + period) % period;
        return at < dim ? at : period - at;
    }
    default:
        return -1;
    }
}

/* Rows along the last axis are copied element by element: padding is never the hot spot. */
static void mapped(const nbi_pad_params *p, const nbi_view *x, const nbi_view *y) {
    size_t size = (size_t)nbi_dtype_bits(y->dtype) / 8;
    int64_t index[NBI_MAX_RANK] = {0}, count = nbi_view_count(y);
    for (int64_t done = 0; done < count; done++) {
        int64_t from = 0, to = 0;
        for (int i = 0; i < y->rank; i++) {
            from += nbi_pad_source(p, i, x->dim[i], index[i]) * x->stride[i];
            to += index[i] * y->stride[i];
        }
        memcpy((char *)y->data + to * (int64_t)size, (const char *)x->data + from * (int64_t)size,
               size);
        for (int i = y->rank - 1; i >= 0; i--) {
            if (++index[i] < y->dim[i]) break;
            index[i] = 0;
        }
    }
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_pad_params *p = call->node->params;
    nbi_view x = call->in[0], y = call->out[0];
    if (p->mode != NBI_PAD_CONSTANT) {
        mapped(p, &x, &y);
        return NB_OK;
    }
    double bits = 0;
    nbi_set_real(y.dtype, &bits, 0, p->value);
    fill f = {y.dtype, &bits};
    if (call->node->n_in > 2 && call->in[2].data) f.value = call->in[2].data;
    nbi_walk(1, (const nbi_view *const[]){&y}, fill_row, &f);
    int64_t from = 0, to = 0, size = nbi_dtype_bits(y.dtype) / 8;
    for (int i = 0; i < y.rank; i++) {
        int64_t b = p->begin[i], cut = b < 0 ? -b : 0, after = p->end[i] < 0 ? -p->end[i] : 0;
        from += cut * x.stride[i];
        to += (b > 0 ? b : 0) * y.stride[i];
        x.dim[i] = y.dim[i] = x.dim[i] - cut - after;
        if (x.dim[i] <= 0) return NB_OK;
    }
    x.data = (char *)x.data + from * size;
    y.data = (char *)y.data + to * size;
    nbi_view_copy(&y, &x);
    return NB_OK;
}

const nbi_op nbi_op_pad = {.name = "Pad",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 1,
                           .max_in = 4,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = NBI_OP_STRIDED,
                           .prepare = prepare,
                           .infer = infer,
                           .forward = forward,
                           .backward = nbi_grad_pad,
                           .grad_in = 1};
