/* ReduceMean, ReduceSum, ReduceMax, ReduceMin. axes: attribute in old opsets, input in new ones. */
#include "ops/op_grad.h"

#include <math.h>
#include <string.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_reduce_params)));
    ((nbi_reduce_params *)node->params)->keepdims = nbi_attr_int(node, "keepdims", 1) != 0;
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_reduce_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t axis[NBI_MAX_RANK], dim[NBI_MAX_RANK];
    int n, rank = 0;
    bool by_input = node->n_in > 1;
    memset(p->over, 0, sizeof p->over);
    if (by_input)
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, axis, NBI_MAX_RANK, &n));
    else
        NB_TRY(nbi_op_attr_ints(ctx, node, "axes", axis, NBI_MAX_RANK, &n));
    p->known = x->rank >= 0 && !(by_input && n < 0 && !nbi_op_is_omitted(node, 1));
    if (!p->known) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    bool none = n <= 0, noop = nbi_attr_int(node, "noop_with_empty_axes", 0) != 0;
    for (int i = 0; i < n; i++) {
        int a;
        NB_TRY(nbi_op_axis(ctx, node, "an axis", axis[i], x->rank, &a));
        p->over[a] = true;
    }
    for (int i = 0; i < x->rank; i++) {
        if (none && !noop) p->over[i] = true;
        if (p->over[i] && !p->keepdims) continue;
        dim[rank++] = p->over[i] ? 1 : x->dim[i];
    }
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
}

typedef enum reduce_kind { KIND_MEAN, KIND_SUM, KIND_MAX, KIND_MIN } reduce_kind;
typedef struct reduction {
    nb_dtype dtype;
    double sum, max, min;
    uint64_t whole; /* integers are summed exactly, modulo 2^64 */
    int64_t imax, imin;
} reduction;

static void row(void *user, char *const *p, const int64_t *step, int64_t count) {
    reduction *r = user;
    if (nbi_dtype_is_float(r->dtype)) {
        for (int64_t i = 0; i < count; i++) {
            double v = nbi_get_real(r->dtype, p[0], i * step[0]);
            r->sum += v;
            if (v > r->max || v != v) r->max = v;
            if (v < r->min || v != v) r->min = v;
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t v = nbi_get_int(r->dtype, p[0], i * step[0]);
        r->whole += (uint64_t)v;
        if (v > r->imax) r->imax = v;
        if (v < r->imin) r->imin = v;
    }
}

static void store(const reduction *r, reduce_kind kind, int64_t count, void *y, int64_t at) {
    if (nbi_dtype_is_float(r->dtype)) {
        double v = kind == KIND_MEAN  ? r->sum / (double)count
                   : kind == KIND_SUM ? r->sum
                   : kind == KIND_MAX ? r->max
                                      : r->min;
        nbi_set_real(r->dtype, y, at, v);
        return;
    }
    int64_t v = kind == KIND_MAX ? r->imax : kind == KIND_MIN ? r->imin : (int64_t)r->whole;
    if (kind == KIND_MEAN && count) v /= count;
    if (r->dtype == NB_DTYPE_BOOL && count == 0) v = kind == KIND_MIN;
    nbi_set_int(r->dtype, y, at, v);
}

static nb_status run(const nbi_op_call *call, reduce_kind kind) {
    const nbi_reduce_params *p = call->node->params;
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    nbi_view one = *x;                  /* what is summed for one output value */
    int kept[NBI_MAX_RANK], n_kept = 0; /* input axis of each output axis, −1: reduced */
    for (int i = 0; i < x->rank; i++) {
        if (!p->over[i]) one.dim[i] = 1;
        if (!p->over[i] || p->keepdims) kept[n_kept++] = p->over[i] ? -1 : i;
    }
    int64_t size = nbi_dtype_bits(x->dtype) / 8, total = nbi_view_count(y);
    int64_t index[NBI_MAX_RANK] = {0}, count = nbi_view_count(&one);
    for (int64_t done = 0; done < total; done++) {
        int64_t from = 0, to = 0;
        for (int i = 0; i < y->rank; i++) {
            to += index[i] * y->stride[i];
            if (kept[i] >= 0) from += index[i] * x->stride[kept[i]];
        }
        reduction r = {x->dtype, 0, -INFINITY, INFINITY, 0, INT64_MIN, INT64_MAX};
        one.data = (char *)x->data + from * size;
        nbi_walk(1, (const nbi_view *const[]){&one}, row, &r);
        store(&r, kind, count, y->data, to);
        for (int i = y->rank - 1; i >= 0; i--) {
            if (++index[i] < y->dim[i]) break;
            index[i] = 0;
        }
    }
    return NB_OK;
}

/* gout with the reduced axes put in, as size 1. */
static nbi_view kept_axes(const nbi_grad_call *call) {
    const nbi_reduce_params *p = call->node->params;
    const nbi_view *gx = &call->gin[0], *gy = &call->gout[0];
    nbi_view v = *gx;
    int from = 0;
    for (int i = 0; i < gx->rank; i++) {
        bool there = !p->over[i] || p->keepdims;
        v.dim[i] = p->over[i] ? 1 : gx->dim[i];
        v.stride[i] = there ? gy->stride[from++] : 0;
    }
    v.data = gy->data;
    return v;
}

static nb_status spread(const nbi_grad_call *call, bool mean) {
    const nbi_reduce_params *p = call->node->params;
    const nbi_view *gx = &call->gin[0];
    int64_t count = 1;
    if (!gx->data) return NB_OK;
    nbi_view from = kept_axes(call);
    for (int i = 0; i < gx->rank; i++) count *= p->over[i] ? gx->dim[i] : 1;
    return nbi_grad_spread(call->ctx, gx, &from, mean && count ? 1 / (double)count : 1);
}

static nb_status backward_mean(const nbi_grad_call *call) {
    return spread(call, true);
}
static nb_status backward_sum(const nbi_grad_call *call) {
    return spread(call, false);
}

/* Where x is the output's value for the first time (in ONNX order), the gradient goes. */
static nb_status backward_extreme(const nbi_grad_call *call) {
    const nbi_view *x = &call->in[0], *gx = &call->gin[0];
    if (!gx->data) return NB_OK;
    nbi_view from = kept_axes(call), y = from;
    const nbi_view *best = &call->out[0];
    const nbi_reduce_params *p = call->node->params;
    int64_t index[NBI_MAX_RANK] = {0}, total = nbi_view_count(x), cells = nbi_view_count(&from);
    bool *taken;
    for (int i = 0, k = 0; i < x->rank; i++)
        y.stride[i] = !p->over[i] || p->keepdims ? best->stride[k++] : 0;
    nbi_view plain = from;
    nbi_view_contiguous(&plain);
    nbi_grad_zero(gx);
    if (total == 0) return NB_OK;
    NB_TRY(nbi_alloc(call->ctx, (size_t)cells, sizeof *taken, &taken));
    for (int64_t done = 0; done < total; done++) {
        int64_t at = 0, to = 0, g = 0, v = 0, cell = 0;
        for (int i = 0; i < x->rank; i++) {
            at += index[i] * x->stride[i];
            to += index[i] * gx->stride[i];
            if (p->over[i]) continue;
            g += index[i] * from.stride[i];
            v += index[i] * y.stride[i];
            cell += index[i] * plain.stride[i];
        }
        if (!taken[cell] && ((const float *)x->data)[at] == ((const float *)best->data)[v]) {
            taken[cell] = true;
            ((float *)gx->data)[to] = ((const float *)from.data)[g];
        }
        for (int i = x->rank - 1; i >= 0; i--) {
            if (++index[i] < x->dim[i]) break;
            index[i] = 0;
        }
    }
    nbi_free(taken);
    return NB_OK;
}

static nb_status forward_mean(const nbi_op_call *call) {
    return run(call, KIND_MEAN);
}
static nb_status forward_sum(const nbi_op_call *call) {
    return run(call, KIND_SUM);
}
static nb_status forward_max(const nbi_op_call *call) {
    return run(call, KIND_MAX);
}
static nb_status forward_min(const nbi_op_call *call) {
    return run(call, KIND_MIN);
}

const nbi_op nbi_op_reducemean = {.name = "ReduceMean",
                                  .types = NBI_TYPES_NUMBER,
                                  .domain = "",
                                  .min_opset = 1,
                                  .min_in = 1,
                                  .max_in = 2,
                                  .min_out = 1,
                                  .max_out = 1,
                                  .flags = NBI_OP_STRIDED,
                                  .prepare = prepare,
                                  .infer = infer,
                                  .forward = forward_mean,
                                  .backward = backward_mean,
                                  .grad_in = 1};
const nbi_op nbi_op_reducesum = {.name = "ReduceSum",
                                 .types = NBI_TYPES_NUMBER,
                                 .domain = "",
                                 .min_opset = 1,
                                 .min_in = 1,
                                 .max_in = 2,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = NBI_OP_STRIDED,
                                 .prepare = prepare,
                                 .infer = infer,
                                 .forward = forward_sum,
                                 .backward = backward_sum,
                                 .grad_in = 1};
const nbi_op nbi_op_reducemax = {.name = "ReduceMax",
                                 .types = NBI_TYPES_NUMBER,
                                 .domain = "",
                                 .min_opset = 1,
                                 .min_in = 1,
                                 .max_in = 2,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = NBI_OP_STRIDED,
                                 .prepare = prepare,
                                 .infer = infer,
                                 .forward = forward_max,
                                 .backward = backward_extreme,
                                 .keep_in = 1,
                                 .keep_out = 1,
                                 .grad_in = 1};
const nbi_op nbi_op_reducemin = {.name = "ReduceMin",
                                 .types = NBI_TYPES_NUMBER,
                                 .domain = "",
                                 .min_opset = 1,
                                 .min_in = 1,
                                 .max_in = 2,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = NBI_OP_STRIDED,
                                 .prepare = prepare,
                                 .infer = infer,
                                 .forward = forward_min,
                                 .backward = backward_extreme,
                                 .keep_in = 1,
                                 .keep_out = 1,
                                 .grad_in = 1};
