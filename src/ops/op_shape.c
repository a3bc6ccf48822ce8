/* What shape arithmetic is made of: Shape, Size, Constant, ConstantOfShape, Cast, Range, Expand. */
#include "ops/op_grad.h"

#include <math.h>
#include <string.h>

/* ---- Shape, Size --------------------------------------------------------------------------- */

typedef struct shape_params {
    int64_t start, end;
} shape_params;

static nb_status shape_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(shape_params)));
    shape_params *p = node->params;
    p->start = nbi_attr_int(node, "start", 0);
    p->end = nbi_attr_int(node, "end", INT64_MAX);
    return NB_OK;
}

static int64_t clamp(int64_t v, int64_t rank) {
    if (v < 0) v = v < -rank ? 0 : v + rank;
    return v > rank ? rank : v;
}

static nb_status shape_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const shape_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t n = -1;
    if (x->rank >= 0) {
        n = clamp(p->end, x->rank) - clamp(p->start, x->rank);
        if (n < 0) n = 0;
    }
    return nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_S64, 1, &n);
}

static nb_status shape_forward(const nbi_op_call *call) {
    const shape_params *p = call->node->params;
    int64_t start = clamp(p->start, call->in[0].rank);
    for (int64_t i = 0; i < call->out[0].dim[0]; i++)
        ((int64_t *)call->out[0].data)[i] = call->in[0].dim[start + i];
    return NB_OK;
}

static nb_status size_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    return nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_S64, 0, NULL);
}

static nb_status size_forward(const nbi_op_call *call) {
    *(int64_t *)call->out[0].data = nbi_view_count(&call->in[0]);
    return NB_OK;
}

/* ---- Constant ------------------------------------------------------------------------------ */

/* The value as a tensor, whatever attribute form it came in. */
static nb_status constant_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_tensor *t = nbi_arena_alloc(&graph->arena, 1, sizeof *t);
    if (!t) return nb_fail_memory(ctx, sizeof *t);
    for (int i = 0; i < node->n_attr; i++) {
        nbi_attr *a = &node->attr[i];
        if (a->type == NBI_ATTR_TENSOR && a->tensor) {
            *t = *a->tensor;
        } else if (a->type == NBI_ATTR_INT || a->type == NBI_ATTR_INTS) {
            t->dtype = NB_DTYPE_S64;
            t->rank = a->type == NBI_ATTR_INTS;
            t->dim[0] = (int64_t)a->count;
            t->data = t->rank ? (void *)a->ints : (void *)&a->i;
        } else if (a->type == NBI_ATTR_FLOAT || a->type == NBI_ATTR_FLOATS) {
            t->dtype = NB_DTYPE_F32;
            t->rank = a->type == NBI_ATTR_FLOATS;
            t->dim[0] = (int64_t)a->count;
            t->data = t->rank ? (void *)a->floats : (void *)&a->f;
        } else {
            return nb_fail(ctx, NB_EUNSUPPORTED,
                           "node '%s' (Constant): attribute '%s' is not "
                           "supported",
                           node->name, a->name);
        }
    }
    if (!t->data && nbi_tensor_count(t) != 0)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Constant): the value is missing", node->name);
    node->params = t;
    return NB_OK;
}

static nb_status constant_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *t = node->params;
    return nbi_op_set_out(ctx, graph, node, 0, t->dtype, t->rank, t->dim);
}

static nb_status constant_forward(const nbi_op_call *call) {
    const nbi_tensor *t = call->node->params;
    size_t count = (size_t)nbi_tensor_count(t);
    if (count == 0) return NB_OK;
    if (nbi_dtype_bits(t->dtype) < 8)
        nbi_bits_unpack(t->dtype, t->data, count, call->out[0].data);
    else
        memcpy(call->out[0].data, t->data, nbi_dtype_bytes(t->dtype, count));
    return NB_OK;
}

static nb_status cos_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_attr *a = nbi_node_attr(node, "value");
    const nbi_tensor *t = a && a->type == NBI_ATTR_TENSOR ? a->tensor : NULL;
    if (t && (nbi_tensor_count(t) != 1 || !t->data))
        return nbi_op_fail(ctx, node, "the number of values", nbi_tensor_count(t), "1");
    if (t && nbi_dtype_bits(t->dtype) < 8)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (ConstantOfShape): values of type %s are "
                       "not supported",
                       node->name, nbi_dtype_name(t->dtype));
    return nbi_op_prepare_none(ctx, graph, node);
}

/* An output shape given by a constant list of int64. */
static nb_status infer_listed(nb_ctx *ctx, nbi_graph *graph, const nbi_node *node, int input,
                              nb_dtype dtype) {
    int64_t dim[NBI_MAX_RANK];
    int n;
    NB_TRY(nbi_op_const_ints(ctx, graph, node, input, dim, NBI_MAX_RANK, &n));
    for (int i = 0; i < n; i++)
        if (dim[i] < 0) return nbi_op_fail(ctx, node, "a shape value", dim[i], "0 or more");
    return nbi_op_set_out(ctx, graph, node, 0, dtype, n, dim);
}

static nb_status cos_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_attr *a = nbi_node_attr(node, "value");
    nb_dtype dtype = a && a->type == NBI_ATTR_TENSOR ? a->tensor->dtype : NB_DTYPE_F32;
    return infer_listed(ctx, graph, node, 0, dtype);
}

static nb_status cos_forward(const nbi_op_call *call) {
    const nbi_attr *a = nbi_node_attr(call->node, "value");
    const nbi_view *y = &call->out[0];
    double zero = 0;
    const void *value = a && a->type == NBI_ATTR_TENSOR ? a->tensor->data : &zero;
    size_t size = (size_t)nbi_dtype_bits(y->dtype) / 8, count = (size_t)nbi_view_count(y);
    for (size_t i = 0; i < count; i++) memcpy((char *)y->data + i * size, value, size);
    return NB_OK;
}

/* ---- Cast ---------------------------------------------------------------------------------- */

static nb_status cast_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nb_dtype)));
    int64_t to = nbi_attr_int(node, "to", 0);
    nb_dtype dtype = nbi_dtype_of_onnx(to);
    if (nbi_dtype_bits(dtype) < 8)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (Cast): type %lld is not supported",
                       node->name, (long long)to);
    *(nb_dtype *)node->params = dtype;
    return NB_OK;
}

static nb_status cast_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    nb_dtype from = x->dtype;
    if (nbi_dtype_bits(from) == 0 || from == NB_DTYPE_F16 || from == NB_DTYPE_BF16)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (Cast): from type %s is not supported",
                       node->name, nbi_dtype_name(from));
    return nbi_op_set_out(ctx, graph, node, 0, *(const nb_dtype *)node->params, x->rank, x->dim);
}

static void cast_row(void *user, char *const *p, const int64_t *step, int64_t count) {
    const nb_dtype *types = user; /* to, from */
    bool real = nbi_dtype_is_float(types[1]);
    for (int64_t i = 0; i < count; i++)
        if (real)
            nbi_set_real(types[0], p[0], i * step[0], nbi_get_real(types[1], p[1], i * step[1]));
        else
            nbi_set_int(types[0], p[0], i * step[0], nbi_get_int(types[1], p[1], i * step[1]));
}

static nb_status cast_forward(const nbi_op_call *call) {
    nb_dtype types[2] = {call->out[0].dtype, call->in[0].dtype};
    nbi_walk(2, (const nbi_view *const[]){&call->out[0], &call->in[0]}, cast_row, types);
    return NB_OK;
}

/* ---- Range, Expand ------------------------------------------------------------------------- */

static nb_status range_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *t[3];
    int64_t n = -1;
    double v[3];
    bool known = true;
    for (int i = 0; i < 3; i++) {
        t[i] = nbi_op_in(graph, node, i);
        known &= t[i]->data && nbi_tensor_count(t[i]) == 1;
        if (known) v[i] = nbi_get_real(t[i]->dtype, t[i]->data, 0);
    }
    if (known) {
        double count = v[2] == 0 ? -1 : ceil((v[1] - v[0]) / v[2]);
        if (v[2] == 0 || !(count < 1e12)) return nbi_op_fail(ctx, node, "delta", 0, "another one");
        n = count > 0 ? (int64_t)count : 0;
    }
    return nbi_op_set_out(ctx, graph, node, 0, t[0]->dtype, 1, &n);
}

static nb_status range_forward(const nbi_op_call *call) {
    const nbi_view *y = &call->out[0];
    for (int64_t i = 0; i < y->dim[0]; i++) {
        if (nbi_dtype_is_float(y->dtype))
            nbi_set_real(y->dtype, y->data, i * y->stride[0],
                         nbi_get_real(y->dtype, call->in[0].data, 0) +
                             (double)i * nbi_get_real(y->dtype, call->in[2].data, 0));
        else
            nbi_set_int(
                y->dtype, y->data, i * y->stride[0],
                (int64_t)((uint64_t)nbi_get_int(y->dtype, call->in[0].data, 0) +
                          (uint64_t)i * (uint64_t)nbi_get_int(y->dtype, call->in[2].data, 0)));
    }
    return NB_OK;
}

static nb_status expand_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    nbi_tensor shape = {.name = "shape", .dtype = x->dtype};
    int64_t dim[NBI_MAX_RANK];
    int rank;
    NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, shape.dim, NBI_MAX_RANK, &shape.rank));
    for (int i = 0; i < shape.rank; i++)
        if (shape.dim[i] < 0)
            return nbi_op_fail(ctx, node, "a shape value", shape.dim[i], "0 or more");
    NB_TRY(nbi_op_broadcast(ctx, node, x, &shape, &rank, dim));
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
}

static void copy_row(void *user, char *const *p, const int64_t *step, int64_t count) {
    int64_t size = *(const int64_t *)user;
    for (int64_t i = 0; i < count; i++)
        memcpy(p[0] + i * step[0] * size, p[1] + i * step[1] * size, (size_t)size);
}

static nb_status expand_forward(const nbi_op_call *call) {
    int64_t size = nbi_dtype_bits(call->out[0].dtype) / 8;
    nbi_walk(2, (const nbi_view *const[]){&call->out[0], &call->in[0]}, copy_row, &size);
    return NB_OK;
}

const nbi_op nbi_op_shape = {.name = "Shape",
                             .types = NBI_TYPES_ANY,
                             .domain = "",
                             .min_opset = 1,
                             .min_in = 1,
                             .max_in = 1,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = 0,
                             .prepare = shape_prepare,
                             .infer = shape_infer,
                             .forward = shape_forward};
const nbi_op nbi_op_size = {.name = "Size",
                            .types = NBI_TYPES_ANY,
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 1,
                            .max_in = 1,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = 0,
                            .prepare = nbi_op_prepare_none,
                            .infer = size_infer,
                            .forward = size_forward};
const nbi_op nbi_op_constant = {.name = "Constant",
                                .types = NBI_TYPES_ANY,
                                .domain = "",
                                .min_opset = 1,
                                .min_in = 0,
                                .max_in = 0,
                                .min_out = 1,
                                .max_out = 1,
                                .flags = 0,
                                .prepare = constant_prepare,
                                .infer = constant_infer,
                                .forward = constant_forward};
const nbi_op nbi_op_constantofshape = {.name = "ConstantOfShape",
                                       .types = NBI_TYPES_ANY,
                                       .domain = "",
                                       .min_opset = 9,
                                       .min_in = 1,
                                       .max_in = 1,
                                       .min_out = 1,
                                       .max_out = 1,
                                       .flags = 0,
                                       .prepare = cos_prepare,
                                       .infer = cos_infer,
                                       .forward = cos_forward};
const nbi_op nbi_op_cast = {.name = "Cast",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 6,
                            .min_in = 1,
                            .max_in = 1,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = NBI_OP_STRIDED | NBI_OP_ELEMENTWISE,
                            .prepare = cast_prepare,
                            .infer = cast_infer,
                            .forward = cast_forward,
                            .backward = nbi_grad_cast};
const nbi_op nbi_op_range = {.name = "Range",
                             .types = NBI_TYPES_NUMBER,
                             .domain = "",
                             .min_opset = 11,
                             .min_in = 3,
                             .max_in = 3,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = NBI_OP_STRIDED,
                             .prepare = nbi_op_prepare_none,
                             .infer = range_infer,
                             .forward = range_forward};
const nbi_op nbi_op_expand = {.name = "Expand",
                              .types = NBI_TYPES_ANY,
                              .domain = "",
                              .min_opset = 8,
                              .min_in = 2,
                              .max_in = 2,
                              .min_out = 1,
                              .max_out = 1,
                              .flags = NBI_OP_STRIDED,
                              .prepare = nbi_op_prepare_none,
                              .infer = expand_infer,
                              .forward = expand_forward,
                              .backward = nbi_grad_expand,
                              .grad_in = 1};
