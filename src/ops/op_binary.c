/* Binary arithmetic with broadcasting: Add, Sub, Mul, Div, Pow, PRelu, Min and Max. Before opset 7
 * broadcasting was asked for by attributes: B's dimensions start at `axis` of A; that is normalised
 * to a view of B with dimensions of size 1 behind. Integers wrap; division truncates towards zero.
 */
#include "ops/op_grad.h"

#include <math.h>
#include <string.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_binary_params)));
    nbi_binary_params *p = node->params;
    p->axis = -1;
    if (!strcmp(node->op_type, "PRelu")) {
        p->axis = graph->opset < 7 ? 1 : -1; /* the old slope has one value per channel */
        return NB_OK;
    }
    if (graph->opset >= 7 || nbi_attr_int(node, "broadcast", 0) == 0) return NB_OK;
    int64_t axis = nbi_attr_int(node, "axis", -1);
    if (axis < -1 || axis >= NBI_MAX_RANK) return nbi_op_fail(ctx, node, "axis", axis, "0 to 7");
    p->axis = (int)axis;
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_binary_params *p = node->params;
    const nbi_tensor *a = nbi_op_in(graph, node, 0);
    nbi_tensor b = *nbi_op_in(graph, node, 1);
    if (a->dtype != b.dtype && strcmp(node->op_type, "Pow"))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): '%s' is %s, '%s' is %s", node->name,
                       node->op_type, a->name, nbi_dtype_name(a->dtype), b.name,
                       nbi_dtype_name(b.dtype));
    p->trailing = 0;
    if (p->axis >= 0 && a->rank >= 0 && b.rank >= 0 && nbi_tensor_count(&b) != 1) {
        p->trailing = a->rank - p->axis - b.rank;
        if (p->trailing < 0) return nbi_op_fail(ctx, node, "axis", p->axis, "smaller");
        for (int i = 0; i < p->trailing; i++) b.dim[b.rank++] = 1;
    }
    int rank;
    int64_t dim[NBI_MAX_RANK];
    NB_TRY(nbi_op_broadcast(ctx, node, a, &b, &rank, dim));
    return nbi_op_set_out(ctx, graph, node, 0, a->dtype, rank, dim);
}

/* Min and Max of any number of inputs. */
static nb_status infer_many(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_tensor all = *nbi_op_in(graph, node, 0);
    for (int i = 1; i < node->n_in; i++) {
        const nbi_tensor *b = nbi_op_in(graph, node, i);
        if (!b || b->dtype != all.dtype)
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (%s): input %d is omitted or of another "
                           "type",
                           node->name, node->op_type, i);
        int rank;
        int64_t dim[NBI_MAX_RANK];
        NB_TRY(nbi_op_broadcast(ctx, node, &all, b, &rank, dim));
        all.rank = rank;
        if (rank > 0) memcpy(all.dim, dim, (size_t)rank * sizeof *dim);
    }
    return nbi_op_set_out(ctx, graph, node, 0, all.dtype, all.rank, all.dim);
}

typedef enum binary_kind {
    KIND_ADD,
    KIND_SUB,
    KIND_MUL,
    KIND_DIV,
    KIND_POW,
    KIND_PRELU,
    KIND_MIN,
    KIND_MAX
} binary_kind;
typedef struct binary_call {
    binary_kind kind;
    nb_dtype dtype, dtype_b;
    bool bad; /* an integer was divided by zero */
} binary_call;

static void row_f32(binary_kind kind, char *const *p, const int64_t *s, int64_t count) {
    float *y = (float *)(void *)p[0];
    const float *a = (const float *)(const void *)p[1], *b = (const float *)(const void *)p[2];
    int64_t sy = s[0], sa = s[1], sb = s[2];
    if (kind == KIND_ADD && sy == 1 && sa == 1 && sb == 1)
        for (int64_t i = 0; i < count; i++) y[i] = a[i] + b[i];
    else if (kind == KIND_ADD)
        for (int64_t i = 0; i < count; i++) y[i * sy] = a[i * sa] + b[i * sb];
    else if (kind == KIND_SUB)
        for (int64_t i = 0; i < count; i++) y[i * sy] = a[i * sa] - b[i * sb];
    else if (kind == KIND_MUL)
        for (int64_t i = 0; i < count; i++) y[i * sy] = a[i * sa] * b[i * sb];
    else
        for (int64_t i = 0; i < count; i++) y[i * sy] = a[i * sa] / b[i * sb];
}

static double real_op(binary_kind kind, double a, double b) {
    if (kind == KIND_ADD) return a + b;
    if (kind == KIND_SUB) return a - b;
    if (kind == KIND_MUL) return a * b;
    if (kind == KIND_DIV) return a / b;
    if (kind == KIND_POW) return pow(a, b);
    if (kind == KIND_PRELU) return a < 0 ? a * b : a;
    if (a != a || b != b) return a + b;
    return (kind == KIND_MIN) == (a < b) ? a : b;
}

/* Through uint64_t: overflow wraps instead of being undefined. */
static int64_t int_op(binary_call *c, int64_t a, int64_t b) {
    uint64_t ua = (uint64_t)a, ub = (uint64_t)b;
    if (c->kind == KIND_ADD) return (int64_t)(ua + ub);
    if (c->kind == KIND_SUB) return (int64_t)(ua - ub);
    if (c->kind == KIND_MUL) return (int64_t)(ua * ub);
    if (c->kind == KIND_PRELU) return a < 0 ? (int64_t)(ua * ub) : a;
    if (c->kind == KIND_MIN || c->kind == KIND_MAX) {
        bool less = c->dtype == NB_DTYPE_U64 ? ua < ub : a < b;
        return (c->kind == KIND_MIN) == less ? a : b;
    }
    if (b == 0) {
        c->bad = true;
        return 0;
    }
    if (c->dtype == NB_DTYPE_U64) return (int64_t)(ua / ub);
    return b == -1 ? (int64_t)(0 - ua) : a / b;
}

static void row(void *user, char *const *p, const int64_t *s, int64_t count) {
    binary_call *c = user;
    if (c->dtype == NB_DTYPE_F32 && c->kind <= KIND_DIV) {
        row_f32(c->kind, p, s, count);
    } else if (nbi_dtype_is_float(c->dtype) || c->kind == KIND_POW) {
        for (int64_t i = 0; i < count; i++)
            nbi_set_real(c->dtype, p[0], i * s[0],
                         real_op(c->kind, nbi_get_real(c->dtype, p[1], i * s[1]),
                                 nbi_get_real(c->dtype_b, p[2], i * s[2])));
    } else {
        for (int64_t i = 0; i < count; i++)
            nbi_set_int(c->dtype, p[0], i * s[0],
                        int_op(c, nbi_get_int(c->dtype, p[1], i * s[1]),
                               nbi_get_int(c->dtype, p[2], i * s[2])));
    }
}

static nb_status run(const nbi_op_call *call, binary_kind kind) {
    const nbi_binary_params *p = call->node->params;
    nbi_view b = call->in[1];
    for (int i = 0; i < p->trailing; i++) {
        b.dim[b.rank] = 1;
        b.stride[b.rank++] = 0;
    }
    binary_call c = {kind, call->out[0].dtype, b.dtype, false};
    nbi_walk(3, (const nbi_view *const[]){&call->out[0], &call->in[0], &b}, row, &c);
    if (c.bad)
        return nb_fail(call->ctx, NB_ENUMERIC, "node '%s' (Div): an integer is divided by zero",
                       call->node->name);
    return NB_OK;
}

static nb_status forward_add(const nbi_op_call *call) {
    return run(call, KIND_ADD);
}
static nb_status forward_sub(const nbi_op_call *call) {
    return run(call, KIND_SUB);
}
static nb_status forward_mul(const nbi_op_call *call) {
    return run(call, KIND_MUL);
}
static nb_status forward_div(const nbi_op_call *call) {
    return run(call, KIND_DIV);
}
static nb_status forward_pow(const nbi_op_call *call) {
    return run(call, KIND_POW);
}
static nb_status forward_prelu(const nbi_op_call *call) {
    return run(call, KIND_PRELU);
}

static void copy_row(void *user, char *const *p, const int64_t *s, int64_t count) {
    int64_t size = *(const int64_t *)user;
    for (int64_t i = 0; i < count; i++)
        memcpy(p[0] + i * s[0] * size, p[1] + i * s[1] * size, (size_t)size);
}

static nb_status run_many(const nbi_op_call *call, binary_kind kind) {
    const nbi_view *y = &call->out[0];
    int64_t size = nbi_dtype_bits(y->dtype) / 8;
    binary_call c = {kind, y->dtype, y->dtype, false};
    nbi_walk(2, (const nbi_view *const[]){y, &call->in[0]}, copy_row, &size);
    for (int i = 1; i < call->node->n_in; i++)
        nbi_walk(3, (const nbi_view *const[]){y, y, &call->in[i]}, row, &c);
    return NB_OK;
}

static nb_status forward_min(const nbi_op_call *call) {
    return run_many(call, KIND_MIN);
}
static nb_status forward_max(const nbi_op_call *call) {
    return run_many(call, KIND_MAX);
}

#define BINARY_FLAGS (NBI_OP_STRIDED | NBI_OP_ELEMENTWISE | NBI_OP_INPLACE)
const nbi_op nbi_op_add = {.name = "Add",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 2,
                           .max_in = 2,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = BINARY_FLAGS | NBI_OP_GRAD_INPLACE,
                           .prepare = prepare,
                           .infer = infer,
                           .forward = forward_add,
                           .backward = nbi_grad_add};
const nbi_op nbi_op_sub = {.name = "Sub",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 2,
                           .max_in = 2,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = BINARY_FLAGS | NBI_OP_GRAD_INPLACE,
                           .prepare = prepare,
                           .infer = infer,
                           .forward = forward_sub,
                           .backward = nbi_grad_sub};
const nbi_op nbi_op_mul = {.name = "Mul",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 2,
                           .max_in = 2,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = BINARY_FLAGS,
                           .prepare = prepare,
                           .infer = infer,
                           .forward = forward_mul,
                           .backward = nbi_grad_mul,
                           .keep_in = 3};
const nbi_op nbi_op_div = {.name = "Div",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 2,
                           .max_in = 2,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = BINARY_FLAGS | NBI_OP_GRAD_INPLACE,
                           .prepare = prepare,
                           .infer = infer,
                           .forward = forward_div,
                           .backward = nbi_grad_div,
                           .keep_in = 3};
const nbi_op nbi_op_pow = {.name = "Pow",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 2,
                           .max_in = 2,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = BINARY_FLAGS,
                           .prepare = prepare,
                           .infer = infer,
                           .forward = forward_pow,
                           .backward = nbi_grad_pow,
                           .keep_in = 3,
                           .keep_out = 1};
const nbi_op nbi_op_prelu = {.name = "PRelu",
                             .types = NBI_TYPES_NUMBER,
                             .domain = "",
                             .min_opset = 6,
                             .min_in = 2,
                             .max_in = 2,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = BINARY_FLAGS | NBI_OP_GRAD_INPLACE,
                             .prepare = prepare,
                             .infer = infer,
                             .forward = forward_prelu,
                             .backward = nbi_grad_prelu,
                             .keep_in = 3};
const nbi_op nbi_op_min = {.name = "Min",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 6,
                           .min_in = 1,
                           .max_in = -1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = NBI_OP_STRIDED,
                           .prepare = nbi_op_prepare_none,
                           .infer = infer_many,
                           .forward = forward_min,
                           .backward = nbi_grad_min_max,
                           .keep_in = ~0u,
                           .keep_out = 1};
const nbi_op nbi_op_max = {.name = "Max",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 6,
                           .min_in = 1,
                           .max_in = -1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = NBI_OP_STRIDED,
                           .prepare = nbi_op_prepare_none,
                           .infer = infer_many,
                           .forward = forward_max,
                           .backward = nbi_grad_min_max,
                           .keep_in = ~0u,
                           .keep_out = 1};
