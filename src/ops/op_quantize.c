/* QuantizeLinear: q = saturate(round_half_even(x/scale) + zero); DequantizeLinear:
 * x = (q − zero)·scale. Per tensor, per index of an axis, or per block along an axis (opset 21). */
#include "ops/op_grad.h"

#include <math.h>
#include <string.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_quant_params)));
    nbi_quant_params *p = node->params;
    p->axis = -1;
    p->block = nbi_attr_int(node, "block_size", 0);
    if (p->block < 0) return nbi_op_fail(ctx, node, "block_size", p->block, "0 or more");
    return NB_OK;
}

static nb_status infer_axis(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node) {
    nbi_quant_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *scale = nbi_op_in(graph, node, 1);
    const nbi_tensor *zero = nbi_op_in(graph, node, 2);
    p->axis = -1;
    if (scale->dtype != NB_DTYPE_F32)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s): scales of type %s are not supported",
                       node->name, node->op_type, nbi_dtype_name(scale->dtype));
    bool both = zero && nbi_shape_known(zero) && nbi_shape_known(scale);
    bool scalar = both && nbi_tensor_count(zero) == 1 && nbi_tensor_count(scale) == 1;
    if (both && !(scalar && p->block == 0) &&
        (zero->rank != scale->rank ||
         memcmp(zero->dim, scale->dim, (size_t)scale->rank * sizeof *scale->dim))) {
        char zt[96], st[96];
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (%s): zero points of shape %s for scales of shape %s", node->name,
                       node->op_type, nbi_shape_text(zero, zt, sizeof zt),
                       nbi_shape_text(scale, st, sizeof st));
    }
    if (x->rank < 0 || scale->rank < 0) return NB_OK;
    if (scale->rank == 0 || (scale->rank == 1 && scale->dim[0] == 1 && p->block == 0)) return NB_OK;
    NB_TRY(nbi_op_axis(ctx, node, "axis", nbi_attr_int(node, "axis", 1), x->rank, &p->axis));
    int64_t dim = x->dim[p->axis];
    if (p->block == 0) {
        if (scale->rank != 1 || (dim >= 0 && scale->dim[0] >= 0 && scale->dim[0] != dim))
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (%s): '%s' has %lld scales, axis %d has "
                           "%lld values",
                           node->name, node->op_type, scale->name,
                           (long long)nbi_tensor_count(scale), p->axis, (long long)dim);
        return NB_OK;
    }
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, x->rank));
    for (int i = 0; i < x->rank; i++) {
        int64_t want = i == p->axis ? (x->dim[i] + p->block - 1) / p->block : x->dim[i];
        if (x->dim[i] >= 0 && scale->dim[i] != want)
            return nbi_op_fail(ctx, node, "a dimension of the scales", scale->dim[i],
                               "one per block");
    }
    return NB_OK;
}

static bool is_code(nb_dtype dtype) {
    return dtype == NB_DTYPE_S8 || dtype == NB_DTYPE_U8 || dtype == NB_DTYPE_S16 ||
           dtype == NB_DTYPE_U16 || dtype == NB_DTYPE_S4 || dtype == NB_DTYPE_U4 ||
           dtype == NB_DTYPE_S2 || dtype == NB_DTYPE_U2 || dtype == NB_DTYPE_S32;
}

static nb_status quantize_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *zero = nbi_op_in(graph, node, 2);
    NB_TRY(infer_axis(ctx, graph, node));
    int64_t asked = nbi_attr_int(node, "output_dtype", 0);
    nb_dtype dtype = zero ? zero->dtype : asked ? nbi_dtype_of_onnx(asked) : NB_DTYPE_U8;
    if (!is_code(dtype) || x->dtype == NB_DTYPE_F16 || x->dtype == NB_DTYPE_BF16)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (QuantizeLinear): %s to %s is not "
                       "supported",
                       node->name, nbi_dtype_name(x->dtype), nbi_dtype_name(dtype));
    return nbi_op_set_out(ctx, graph, node, 0, dtype, x->rank, x->dim);
}

static nb_status dequantize_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    const nbi_tensor *zero = nbi_op_in(graph, node, 2);
    NB_TRY(infer_axis(ctx, graph, node));
    if (zero && zero->dtype != x->dtype)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (DequantizeLinear): '%s' is %s, its zero point %s", node->name,
                       x->name, nbi_dtype_name(x->dtype), nbi_dtype_name(zero->dtype));
    if (!is_code(x->dtype))
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (DequantizeLinear): codes of type %s are "
                       "not supported",
                       node->name, nbi_dtype_name(x->dtype));
    return nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_F32, x->rank, x->dim);
}

typedef struct quant_call {
    nb_dtype in, out, zero;
    bool has_zero;
    double lo, hi;
} quant_call;

static void quantize_row(void *user, char *const *p, const int64_t *s, int64_t count) {
    const quant_call *c = user;
    for (int64_t i = 0; i < count; i++) {
        float x = (float)nbi_get_real(c->in, p[1], i * s[1]);
        double q = rint((double)(x / *(const float *)(const void *)(p[2] + 4 * i * s[2])));
        if (c->has_zero) q += (double)nbi_get_int(c->zero, p[3], i * s[3]);
        q = !(q > c->lo) ? c->lo : q > c->hi ? c->hi : q;
        nbi_set_int(c->out, p[0], i * s[0], (int64_t)q);
    }
}

static void dequantize_row(void *user, char *const *p, const int64_t *s, int64_t count) {
    const quant_call *c = user;
    for (int64_t i = 0; i < count; i++) {
        int64_t q = nbi_get_int(c->in, p[1], i * s[1]);
        if (c->has_zero) q -= nbi_get_int(c->zero, p[3], i * s[3]);
        ((float *)(void *)p[0])[i * s[0]] =
            (float)q * *(const float *)(const void *)(p[2] + 4 * i * s[2]);
    }
}

/* A per-axis vector as a view that broadcasts against x. */
static nbi_view along(const nbi_view *v, const nbi_view *x, int axis) {
    nbi_view out = *v;
    out.rank = axis < 0 ? 0 : x->rank;
    for (int i = 0; i < out.rank; i++) {
        out.dim[i] = i == axis ? v->dim[0] : 1;
        out.stride[i] = i == axis ? v->stride[0] : 0;
    }
    return out;
}

/* Index i of the axis only: the rest of the walk broadcasts nothing along it. */
static nbi_view at_index(const nbi_view *v, int axis, int64_t i) {
    nbi_view out = *v;
    if (!v->data) return out;
    out.dim[axis] = 1;
    out.data = (char *)v->data + i * v->stride[axis] * (nbi_dtype_bits(v->dtype) / 8);
    return out;
}

static void run(const nbi_op_call *call, quant_call *c, nbi_row_fn row) {
    const nbi_quant_params *p = call->node->params;
    const nbi_view *x = &call->in[0], *y = &call->out[0], *scale = &call->in[1];
    c->has_zero = call->node->n_in > 2 && call->in[2].data;
    const nbi_view *zero = c->has_zero ? &call->in[2] : scale;
    c->in = x->dtype;
    c->out = y->dtype;
    c->zero = zero->dtype;
    if (p->block == 0 || p->axis < 0) {
        nbi_view s = along(scale, x, p->axis), z = along(zero, x, p->axis);
        nbi_walk(4, (const nbi_view *const[]){y, x, &s, &z}, row, c);
        return;
    }
    for (int64_t i = 0; i < x->dim[p->axis]; i++) {
        nbi_view xi = at_index(x, p->axis, i), yi = at_index(y, p->axis, i);
        nbi_view s = at_index(scale, p->axis, i / p->block);
        nbi_view z = at_index(zero, p->axis, i / p->block);
        nbi_walk(4, (const nbi_view *const[]){&yi, &xi, &s, &z}, row, c);
    }
}

static nb_status quantize_forward(const nbi_op_call *call) {
    /* The view of a 4-bit tensor is bytes: the range comes from the tensor. */
    nb_dtype dtype = nbi_op_out(call->graph, call->node, 0)->dtype;
    bool is_unsigned = dtype == NB_DTYPE_U8 || dtype == NB_DTYPE_U16 || dtype == NB_DTYPE_U4 ||
                       dtype == NB_DTYPE_U2;
    double span = ldexp(1, nbi_dtype_bits(dtype));
    quant_call c = {.lo = is_unsigned ? 0 : -span / 2};
    c.hi = c.lo + span - 1;
    run(call, &c, quantize_row);
    return NB_OK;
}

static nb_status dequantize_forward(const nbi_op_call *call) {
    quant_call c = {0};
    run(call, &c, dequantize_row);
    return NB_OK;
}

/* Σ gy·(q − zero) */
static void scale_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *q = x[1], *zero = x[2];
    if (*(const bool *)user)
        for (int64_t i = 0; i < n; i++) out[i] = g[i] * (q[i] - zero[i]);
    else
        for (int64_t i = 0; i < n; i++) out[i] = g[i] * q[i];
}

/* Of the scales; codes and zero points have none. */
static nb_status dequantize_backward(const nbi_grad_call *call) {
    const nbi_quant_params *p = call->node->params;
    const nbi_view *x = &call->in[0], *gy = &call->gout[0], *to = &call->gin[1];
    bool has_zero = call->node->n_in > 2 && call->in[2].data;
    const nbi_view *zero = has_zero ? &call->in[2] : x;
    if (!to->data) return NB_OK;
    if (p->block == 0 || p->axis < 0) {
        nbi_view s = along(to, x, p->axis), z = has_zero ? along(zero, x, p->axis) : *x;
        return nbi_grad_reduce(call->ctx, &s, 3, (const nbi_view *const[]){gy, x, &z}, scale_term,
                               &has_zero);
    }
    for (int64_t b = 0; b < to->dim[p->axis]; b++) {
        int64_t first = b * p->block, left = x->dim[p->axis] - first;
        nbi_view s = at_index(to, p->axis, b);
        nbi_view q = at_index(x, p->axis, first), g = at_index(gy, p->axis, first);
        q.dim[p->axis] = g.dim[p->axis] = left < p->block ? left : p->block;
        nbi_view z = has_zero ? at_index(zero, p->axis, b) : q;
        NB_TRY(nbi_grad_reduce(call->ctx, &s, 3, (const nbi_view *const[]){&g, &q, &z}, scale_term,
                               &has_zero));
    }
    return NB_OK;
}

const nbi_op nbi_op_quantizelinear = {.name = "QuantizeLinear",
                                      .types = NBI_TYPES_NUMBER,
                                      .domain = "",
                                      .min_opset = 10,
                                      .min_in = 2,
                                      .max_in = 3,
                                      .min_out = 1,
                                      .max_out = 1,
                                      .flags = NBI_OP_STRIDED,
                                      .prepare = prepare,
                                      .infer = quantize_infer,
                                      .forward = quantize_forward};
const nbi_op nbi_op_dequantizelinear = {.name = "DequantizeLinear",
                                        .types = NBI_TYPES_NUMBER,
                                        .domain = "",
                                        .min_opset = 10,
                                        .min_in = 2,
                                        .max_in = 3,
                                        .min_out = 1,
                                        .max_out = 1,
                                        .flags = NBI_OP_STRIDED,
                                        .prepare = prepare,
                                        .infer = dequantize_infer,
                                        .forward = dequantize_forward,
                                        .backward = dequantize_backward,
                                        .keep_in = 1 << 0 | 1 << 2,
                                        .grad_in = 1 << 1};
