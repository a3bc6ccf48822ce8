/* Clip: y = min(max(x, lo), hi). Bounds are attributes before opset 11, scalar inputs after. */
#include "ops/op_grad.h"

#include <math.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_clip_params)));
    nbi_clip_params *p = node->params;
    p->lo = -INFINITY;
    p->hi = INFINITY;
    p->known = graph->opset < 11;
    if (!p->known) return NB_OK;
    p->lo = nbi_attr_float(node, "min", -INFINITY);
    p->hi = nbi_attr_float(node, "max", INFINITY);
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_clip_params *p = node->params;
    for (int i = 1; i < 3; i++) {
        const nbi_tensor *t = nbi_op_in(graph, node, i);
        if (t && nbi_shape_known(t) && nbi_tensor_count(t) != 1)
            return nbi_op_fail(ctx, node, "the number of bounds", nbi_tensor_count(t), "1");
    }
    if (graph->opset >= 11) {
        const nbi_tensor *lo = nbi_op_in(graph, node, 1), *hi = nbi_op_in(graph, node, 2);
        p->known = (!lo || lo->data) && (!hi || hi->data);
        if (lo && lo->data) p->lo = (float)nbi_get_real(lo->dtype, lo->data, 0);
        if (hi && hi->data) p->hi = (float)nbi_get_real(hi->dtype, hi->data, 0);
    }
    return nbi_op_infer_same(ctx, graph, node);
}

typedef struct bounds {
    nb_dtype dtype;
    double lo, hi;
} bounds;

static void row(void *user, char *const *p, const int64_t *step, int64_t count) {
    const bounds *b = user;
    if (b->dtype == NB_DTYPE_F32) {
        float *y = (float *)(void *)p[0], lo = (float)b->lo, hi = (float)b->hi;
        const float *x = (const float *)(const void *)p[1];
        for (int64_t i = 0; i < count; i++) {
            float v = x[i * step[1]];
            v = v < lo ? lo : v;
            y[i * step[0]] = v > hi ? hi : v;
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        double v = nbi_get_real(b->dtype, p[1], i * step[1]);
        v = v < b->lo ? b->lo : v;
        nbi_set_real(b->dtype, p[0], i * step[0], v > b->hi ? b->hi : v);
    }
}

static bounds read_bounds(const nbi_node *node, const nbi_view *in, nb_dtype dtype) {
    const nbi_clip_params *p = node->params;
    bounds b = {dtype, (double)p->lo, (double)p->hi};
    for (int i = 1; i < node->n_in; i++) {
        if (!in[i].data) continue;
        double v = nbi_get_real(in[i].dtype, in[i].data, 0);
        if (i == 1)
            b.lo = v;
        else
            b.hi = v;
    }
    return b;
}

static nb_status forward(const nbi_op_call *call) {
    bounds b = read_bounds(call->node, call->in, call->out[0].dtype);
    nbi_walk(2, (const nbi_view *const[]){&call->out[0], &call->in[0]}, row, &b);
    return NB_OK;
}

/* From the lower bound to the upper one, both included, gy goes to x, as in chains
 * (exec/tape_chain.c); beyond a bound it goes to that bound. */
static void term_x(const void *user, const float *const *x, int64_t n, float *out) {
    const bounds *b = user;
    const float *g = x[0], *v = x[1];
    float lo = (float)b->lo, hi = (float)b->hi;
    for (int64_t i = 0; i < n; i++) out[i] = v[i] >= lo && v[i] <= hi ? g[i] : 0;
}
static void term_lo(const void *user, const float *const *x, int64_t n, float *out) {
    const bounds *b = user;
    const float *g = x[0], *v = x[1];
    float lo = (float)b->lo, hi = (float)b->hi;
    for (int64_t i = 0; i < n; i++) out[i] = v[i] < lo && lo <= hi ? g[i] : 0;
}
static void term_hi(const void *user, const float *const *x, int64_t n, float *out) {
    const bounds *b = user;
    const float *g = x[0], *v = x[1];
    float lo = (float)b->lo, hi = (float)b->hi;
    for (int64_t i = 0; i < n; i++) out[i] = v[i] > hi || (v[i] < lo && lo > hi) ? g[i] : 0;
}

static nb_status backward(const nbi_grad_call *call) {
    static const nbi_term_fn term[3] = {term_x, term_lo, term_hi};
    bounds b = read_bounds(call->node, call->in, NB_DTYPE_F32);
    for (int i = call->node->n_in - 1; i >= 0; i--)
        if (call->gin[i].data)
            NB_TRY(nbi_grad_reduce(call->ctx, &call->gin[i], 2,
                                   (const nbi_view *const[]){&call->gout[0], &call->in[0]},
                                   term[i], &b));
    return NB_OK;
}

const nbi_op nbi_op_clip = {.name = "Clip",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 1,
                            .max_in = 3,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = NBI_OP_STRIDED | NBI_OP_ELEMENTWISE | NBI_OP_INPLACE |
                                     NBI_OP_GRAD_INPLACE,
                            .prepare = prepare,
                            .infer = infer,
                            .forward = forward,
                            .backward = backward,
                            .keep_in = 1 << 0 | 1 << 1 | 1 << 2};
