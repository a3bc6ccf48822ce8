/* Comparisons and choice, as shape arithmetic uses them: Equal, Less, Greater, Not, Where. */
#include "ops/op_grad.h"

#include <string.h>

static nb_status compare_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *a = nbi_op_in(graph, node, 0), *b = nbi_op_in(graph, node, 1);
    int rank;
    int64_t dim[NBI_MAX_RANK];
    if (a->dtype != b->dtype || nbi_dtype_bits(a->dtype) < 8 || a->dtype == NB_DTYPE_F16 ||
        a->dtype == NB_DTYPE_BF16)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s): comparing %s and %s is not supported",
                       node->name, node->op_type, nbi_dtype_name(a->dtype),
                       nbi_dtype_name(b->dtype));
    NB_TRY(nbi_op_broadcast(ctx, node, a, b, &rank, dim));
    return nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_BOOL, rank, dim);
}

typedef enum compare_kind { KIND_EQUAL, KIND_LESS, KIND_GREATER } compare_kind;
typedef struct compare_call {
    compare_kind kind;
    nb_dtype dtype;
} compare_call;

static void compare_row(void *user, char *const *p, const int64_t *s, int64_t count) {
    const compare_call *c = user;
    bool real = nbi_dtype_is_float(c->dtype);
    for (int64_t i = 0; i < count; i++) {
        bool equal, less;
        if (c->dtype == NB_DTYPE_U64) {
            uint64_t a = ((const uint64_t *)(const void *)p[1])[i * s[1]];
            uint64_t b = ((const uint64_t *)(const void *)p[2])[i * s[2]];
            equal = a == b;
            less = a < b;
        } else if (real) {
            double a = nbi_get_real(c->dtype, p[1], i * s[1]);
            double b = nbi_get_real(c->dtype, p[2], i * s[2]);
            equal = a == b;
            less = c->kind == KIND_GREATER ? !(a > b) : a < b; /* NaN: neither */
        } else {
            int64_t a = nbi_get_int(c->dtype, p[1], i * s[1]);
            int64_t b = nbi_get_int(c->dtype, p[2], i * s[2]);
            equal = a == b;
            less = a < b;
        }
        bool value = c->kind == KIND_EQUAL ? equal : c->kind == KIND_LESS ? less : !less && !equal;
        ((uint8_t *)p[0])[i * s[0]] = value;
    }
}

static nb_status compare(const nbi_op_call *call, compare_kind kind) {
    compare_call c = {kind, call->in[0].dtype};
    nbi_walk(3, (const nbi_view *const[]){&call->out[0], &call->in[0], &call->in[1]}, compare_row,
             &c);
    return NB_OK;
}

static nb_status forward_equal(const nbi_op_call *call) {
    return compare(call, KIND_EQUAL);
}
static nb_status forward_less(const nbi_op_call *call) {
    return compare(call, KIND_LESS);
}
static nb_status forward_greater(const nbi_op_call *call) {
    return compare(call, KIND_GREATER);
}

static void not_row(void *user, char *const *p, const int64_t *s, int64_t count) {
    (void)user;
    for (int64_t i = 0; i < count; i++)
        ((uint8_t *)p[0])[i * s[0]] = ((const uint8_t *)p[1])[i * s[1]] == 0;
}

static nb_status forward_not(const nbi_op_call *call) {
    nbi_walk(2, (const nbi_view *const[]){&call->out[0], &call->in[0]}, not_row, NULL);
    return NB_OK;
}

static nb_status where_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *c = nbi_op_in(graph, node, 0), *a = nbi_op_in(graph, node, 1);
    const nbi_tensor *b = nbi_op_in(graph, node, 2);
    int rank;
    int64_t dim[NBI_MAX_RANK];
    if (c->dtype != NB_DTYPE_BOOL || a->dtype != b->dtype || nbi_dtype_bits(a->dtype) < 8)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (Where): types %s, %s, %s are not "
                       "supported",
                       node->name, nbi_dtype_name(c->dtype), nbi_dtype_name(a->dtype),
                       nbi_dtype_name(b->dtype));
    NB_TRY(nbi_op_broadcast(ctx, node, a, b, &rank, dim));
    nbi_tensor both = *a;
    both.rank = rank;
    if (rank > 0) memcpy(both.dim, dim, (size_t)rank * sizeof *dim);
    NB_TRY(nbi_op_broadcast(ctx, node, c, &both, &rank, dim));
    return nbi_op_set_out(ctx, graph, node, 0, a->dtype, rank, dim);
}

static void where_row(void *user, char *const *p, const int64_t *s, int64_t count) {
    int64_t size = *(const int64_t *)user;
    for (int64_t i = 0; i < count; i++) {
        int from = ((const uint8_t *)p[1])[i * s[1]] ? 2 : 3;
        memcpy(p[0] + i * s[0] * size, p[from] + i * s[from] * size, (size_t)size);
    }
}

static nb_status forward_where(const nbi_op_call *call) {
    int64_t size = nbi_dtype_bits(call->out[0].dtype) / 8;
    nbi_walk(4, (const nbi_view *const[]){&call->out[0], &call->in[0], &call->in[1], &call->in[2]},
             where_row, &size);
    return NB_OK;
}

const nbi_op nbi_op_equal = {.name = "Equal",
                             .types = NBI_TYPES_NUMBER,
                             .domain = "",
                             .min_opset = 7,
                             .min_in = 2,
                             .max_in = 2,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = NBI_OP_STRIDED,
                             .prepare = nbi_op_prepare_none,
                             .infer = compare_infer,
                             .forward = forward_equal};
const nbi_op nbi_op_less = {.name = "Less",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 7,
                            .min_in = 2,
                            .max_in = 2,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = NBI_OP_STRIDED,
                            .prepare = nbi_op_prepare_none,
                            .infer = compare_infer,
                            .forward = forward_less};
const nbi_op nbi_op_greater = {.name = "Greater",
                               .types = NBI_TYPES_NUMBER,
                               .domain = "",
                               .min_opset = 7,
                               .min_in = 2,
                               .max_in = 2,
                               .min_out = 1,
                               .max_out = 1,
                               .flags = NBI_OP_STRIDED,
                               .prepare = nbi_op_prepare_none,
                               .infer = compare_infer,
                               .forward = forward_greater};
const nbi_op nbi_op_not = {.name = "Not",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 1,
                           .max_in = 1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = NBI_OP_STRIDED,
                           .prepare = nbi_op_prepare_none,
                           .infer = nbi_op_infer_same,
                           .forward = forward_not};
const nbi_op nbi_op_where = {.name = "Where",
                             .types = NBI_TYPES_ANY,
                             .domain = "",
                             .min_opset = 9,
                             .min_in = 3,
                             .max_in = 3,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = NBI_OP_STRIDED,
                             .prepare = nbi_op_prepare_none,
                             .infer = where_infer,
                             .forward = forward_where,
                             .backward = nbi_grad_where,
                             .keep_in = 1};
