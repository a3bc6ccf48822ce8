/* Softmax over one axis (opset 13), or over all axes from `axis` on (before). The largest value is
 * subtracted first; sums in double. */
#include "ops/op_grad.h"

#include <math.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_softmax_params)));
    nbi_softmax_params *p = node->params;
    p->to_end = graph->opset < 13;
    p->axis = nbi_attr_int(node, "axis", p->to_end ? 1 : -1);
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_softmax_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t axis = p->axis;
    if (x->rank < 0) return nbi_op_infer_same(ctx, graph, node);
    if (p->to_end && axis == x->rank) {
        p->first = x->rank; /* rows of one value */
        p->last = x->rank - 1;
    } else if (x->rank > 0 || (axis != 0 && axis != -1)) {
        NB_TRY(nbi_op_axis(ctx, node, "axis", axis, x->rank, &p->first));
        p->last = p->to_end ? x->rank - 1 : p->first;
    } else {
        p->first = 0;
        p->last = -1;
    }
    return nbi_op_infer_same(ctx, graph, node);
}

typedef struct sums {
    nb_dtype dtype;
    double max, sum;
} sums;

static void row_max(void *user, char *const *p, const int64_t *step, int64_t count) {
    sums *s = user;
    for (int64_t i = 0; i < count; i++) {
        double v = nbi_get_real(s->dtype, p[0], i * step[0]);
        if (v > s->max) s->max = v;
    }
}
static void row_sum(void *user, char *const *p, const int64_t *step, int64_t count) {
    sums *s = user;
    for (int64_t i = 0; i < count; i++)
        s->sum += exp(nbi_get_real(s->dtype, p[0], i * step[0]) - s->max);
}
static void row_out(void *user, char *const *p, const int64_t *step, int64_t count) {
    const sums *s = user;
    for (int64_t i = 0; i < count; i++)
        nbi_set_real(s->dtype, p[0], i * step[0],
                     exp(nbi_get_real(s->dtype, p[1], i * step[1]) - s->max) / s->sum);
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_softmax_params *p = call->node->params;
    nbi_view x = call->in[0], y = call->out[0], outer = x;
    for (int i = 0; i < x.rank; i++) {
        if (i >= p->first && i <= p->last)
            outer.dim[i] = 1;
        else
            x.dim[i] = y.dim[i] = 1;
    }
    int64_t rows = nbi_view_count(&outer), index[NBI_MAX_RANK] = {0};
    int64_t size = nbi_dtype_bits(x.dtype) / 8;
    char *y0 = y.data;
    for (int64_t r = 0; r < rows; r++) {
        int64_t from = 0, to = 0;
        for (int i = 0; i < x.rank; i++) {
            from += index[i] * x.stride[i];
            to += index[i] * y.stride[i];
        }
        nbi_view xr = x, yr = y;
        xr.data = (char *)call->in[0].data + from * size;
        yr.data = y0 + to * size;
        sums s = {x.dtype, -INFINITY, 0};
        nbi_walk(1, (const nbi_view *const[]){&xr}, row_max, &s);
        nbi_walk(1, (const nbi_view *const[]){&xr}, row_sum, &s);
        nbi_walk(2, (const nbi_view *const[]){&yr, &xr}, row_out, &s);
        for (int i = x.rank - 1; i >= 0; i--) {
            if (++index[i] < outer.dim[i]) break;
            index[i] = 0;
        }
    }
    return NB_OK;
}

static void term_dot(const void *user, const float *const *x, int64_t n, float *out) {
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = x[0][i] * x[1][i];
}
/* y·(gy − Σ gy·y) */
static void term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *y = x[1], *dot = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = y[i] * (g[i] - dot[i]);
}

static nb_status backward(const nbi_grad_call *call) {
    const nbi_softmax_params *p = call->node->params;
    const nbi_view *gy = &call->gout[0], *y = &call->out[0];
    nbi_view dot = *y; /* one value per row */
    if (!call->gin[0].data || nbi_view_count(y) == 0) return NB_OK;
    for (int i = p->first; i <= p->last; i++) dot.dim[i] = 1;
    nbi_view_contiguous(&dot);
    NB_TRY(nbi_alloc(call->ctx, (size_t)nbi_view_count(&dot), sizeof(float), &dot.data));
    nb_status st =
        nbi_grad_reduce(call->ctx, &dot, 2, (const nbi_view *const[]){gy, y}, term_dot, NULL);
    if (st == NB_OK)
        st = nbi_grad_map(call->ctx, &call->gin[0], 3, (const nbi_view *const[]){gy, y, &dot}, term,
                          NULL);
    nbi_free(dot.data);
    return st;
}

const nbi_op nbi_op_softmax = {.name = "Softmax",
                               .types = NBI_TYPES_NUMBER,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 1,
                               .min_out = 1,
                               .max_out = 1,
                               .flags = NBI_OP_STRIDED | NBI_OP_GRAD_INPLACE,
                               .prepare = prepare,
                               .infer = infer,
                               .forward = forward,
                               .backward = backward,
                               .keep_out = 1};
