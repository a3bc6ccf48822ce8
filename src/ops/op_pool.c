/* MaxPool and AveragePool over 1 to 3 spatial axes. */
#include "ops/op_grad.h"

#include <math.h>

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_pool_params)));
    nbi_pool_params *p = node->params;
    if (!nbi_node_attr(node, "kernel_shape"))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): kernel_shape is missing", node->name,
                       node->op_type);
    if (node->n_out > 1 && node->out[1] >= 0 && nbi_graph_uses(graph, node->out[1]))
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s): the output Indices is not supported",
                       node->name, node->op_type);
    p->count_include_pad = nbi_attr_int(node, "count_include_pad", 0) != 0;
    return nbi_window_read(ctx, node, -1, &p->w);
}

/* Does a window of axis i lie wholly in the padding? It would have no maximum, and no mean. */
static bool is_padding_only(const nbi_window *w, int i, int64_t in, int64_t out) {
    int64_t s = w->stride[i], d = w->dilation[i], pad = w->pad_begin[i];
    if (pad > d * (w->kernel[i] - 1) || (out - 1) * s - pad >= in) return true;
    for (int64_t o = 0; in < d && o < out && o * s < pad; o++) /* steps may skip a small tensor */
        if ((pad - o * s + d - 1) / d * d - (pad - o * s) >= in) return true;
    return false;
}

static nb_status check_windows(nb_ctx *ctx, const nbi_node *node, const nbi_window *w,
                               const int64_t *in, const int64_t *out) {
    for (int i = 0; i < w->n; i++)
        if (in[i] > 0 && out[i] > 0 && is_padding_only(w, i, in[i], out[i]))
            return nb_fail(ctx, NB_EUNSUPPORTED,
                           "node '%s' (%s): pads are %lld and %lld, so that a window of %lld "
                           "(steps of %lld) holds nothing else", node->name, node->op_type,
                           (long long)w->pad_begin[i], (long long)w->pad_end[i],
                           (long long)w->kernel[i], (long long)w->dilation[i]);
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_pool_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    if (x->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    if (x->rank < 3)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (%s): input '%s' has %d dimensions, want 3 or "
                       "more",
                       node->name, node->op_type, x->name, x->rank);
    NB_TRY(nbi_window_read(ctx, node, x->rank - 2, &p->w));
    int64_t dim[NBI_MAX_RANK] = {x->dim[0], x->dim[1]};
    for (int i = 0; i < p->w.n; i++)
        if (p->w.kernel[i] < 1) return nbi_op_fail(ctx, node, "kernel_shape", 0, "1 or more");
    NB_TRY(nbi_window_resolve(ctx, node, &p->w, x->dim + 2, dim + 2));
    NB_TRY(check_windows(ctx, node, &p->w, x->dim + 2, dim + 2));
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
}

typedef struct pool_call {
    nbi_window3 g;
    int64_t pad_end[3];
    nb_dtype dtype;
    bool max, include_pad;
} pool_call;

/* Positions of one axis that a window covers: begin ≤ k < end inside the tensor. */
static void covered(const nbi_window3 *g, int a, int64_t o, int64_t *begin, int64_t *end) {
    int64_t first = o * g->stride[a] - g->pad[a], d = g->dilation[a];
    *begin = first < 0 ? (-first + d - 1) / d : 0;
    *end = g->in[a] <= first ? 0 : (g->in[a] - first + d - 1) / d;
    if (*end > g->kernel[a]) *end = g->kernel[a];
    if (*begin > *end) *begin = *end;
}

static double pool_at(const pool_call *c, const char *x, const int64_t *o) {
    const nbi_window3 *g = &c->g;
    int64_t b[3], e[3], first[3];
    double sum = 0, best = -INFINITY, divisor = 1;
    for (int a = 0; a < 3; a++) {
        covered(g, a, o[a], &b[a], &e[a]);
        first[a] = o[a] * g->stride[a] - g->pad[a];
        int64_t counted = e[a] - b[a];
        if (c->include_pad) {
            /* Padding counts, what ceil_mode adds behind it does not. */
            int64_t limit = g->in[a] + c->pad_end[a] - first[a], d = g->dilation[a];
            counted = (limit + d - 1) / d < g->kernel[a] ? (limit + d - 1) / d : g->kernel[a];
        }
        divisor *= (double)counted;
    }
    for (int64_t i = b[0]; i < e[0]; i++)
        for (int64_t j = b[1]; j < e[1]; j++)
            for (int64_t k = b[2]; k < e[2]; k++) {
                double v = nbi_get_real(c->dtype, x,
                                        (first[0] + i * g->dilation[0]) * g->x_stride[0] +
                                            (first[1] + j * g->dilation[1]) * g->x_stride[1] +
                                            (first[2] + k * g->dilation[2]) * g->x_stride[2]);
                sum += v;
                if (v > best || v != v) best = v;
            }
    return c->max ? best : sum / divisor;
}

static nb_status run(const nbi_op_call *call, bool max) {
    const nbi_pool_params *p = call->node->params;
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    pool_call c = {.dtype = x->dtype, .max = max, .include_pad = !max && p->count_include_pad};
    nbi_window3_make(&p->w, x, y, &c.g);
    for (int i = 0; i < p->w.n; i++) c.pad_end[3 - p->w.n + i] = p->w.pad_end[i];
    int64_t size = nbi_dtype_bits(x->dtype) / 8, o[3];
    for (int64_t n = 0; n < y->dim[0]; n++)
        for (int64_t m = 0; m < y->dim[1]; m++) {
            const char *xm = (const char *)x->data + (n * x->stride[0] + m * x->stride[1]) * size;
            int64_t to = n * y->stride[0] + m * y->stride[1];
            for (o[0] = 0; o[0] < c.g.out[0]; o[0]++)
                for (o[1] = 0; o[1] < c.g.out[1]; o[1]++)
                    for (o[2] = 0; o[2] < c.g.out[2]; o[2]++)
                        nbi_set_real(y->dtype, y->data,
                                     to + o[0] * c.g.y_stride[0] + o[1] * c.g.y_stride[1] +
                                         o[2] * c.g.y_stride[2],
                                     pool_at(&c, xm, o));
        }
    return NB_OK;
}

static nb_status forward_max(const nbi_op_call *call) {
    return run(call, true);
}
static nb_status forward_average(const nbi_op_call *call) {
    return run(call, false);
}

#define POOL_FLAGS (NBI_OP_STRIDED | NBI_OP_CHANNELS_LAST | NBI_OP_PER_IMAGE)
const nbi_op nbi_op_maxpool = {.name = "MaxPool",
                               .types = NBI_TYPES_NUMBER,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 1,
                               .min_out = 1,
                               .max_out = 2,
                               .flags = POOL_FLAGS,
                               .prepare = prepare,
                               .infer = infer,
                               .forward = forward_max,
                               .backward = nbi_grad_maxpool,
                               .keep_in = 1};
const nbi_op nbi_op_averagepool = {.name = "AveragePool",
                                   .types = NBI_TYPES_NUMBER,
                                   .domain = "",
                                   .min_opset = 1,
                                   .min_in = 1,
                                   .max_in = 1,
                                   .min_out = 1,
                                   .max_out = 1,
                                   .flags = POOL_FLAGS,
                                   .prepare = prepare,
                                   .infer = infer,
                                   .forward = forward_average,
                                   .backward = nbi_grad_averagepool};
