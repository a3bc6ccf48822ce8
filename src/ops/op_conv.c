/* Conv: y[n,m,o] = bias[m] + Σ_c Σ_k w[m,c,k]·x[n, group(m)·C/g + c, o·stride + k·dilation − pad],
 * with 1 to 3 spatial axes. The reference sums in double, in one fixed order. */
#include "ops/op_grad.h"

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_conv_params)));
    nbi_conv_params *p = node->params;
    p->group = nbi_attr_int(node, "group", 1);
    if (p->group < 1 || p->group > 1 << 24)
        return nbi_op_fail(ctx, node, "group", p->group, "1 to 16777216");
    return nbi_window_read(ctx, node, -1, &p->w);
}

static nb_status check_weights(nb_ctx *ctx, const nbi_node *node, const nbi_tensor *x,
                               const nbi_tensor *w, const nbi_tensor *bias, nbi_conv_params *p) {
    for (int i = 0; i < p->w.n; i++) {
        int64_t k = w->dim[2 + i];
        if (p->w.kernel[i] == 0) p->w.kernel[i] = k;
        if (k == 0 || (k > 0 && p->w.kernel[i] != k))
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (Conv): kernel_shape has the value %lld, "
                           "the weights have %lld",
                           node->name, (long long)p->w.kernel[i], (long long)k);
        if (p->w.kernel[i] < 1) p->w.kernel[i] = 0; /* weights not known yet */
    }
    if (w->dim[0] >= 0 && w->dim[0] % p->group)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Conv): %lld output channels in %lld groups",
                       node->name, (long long)w->dim[0], (long long)p->group);
    if (x->dim[1] >= 0 && w->dim[1] >= 0 && x->dim[1] != w->dim[1] * p->group)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Conv): input '%s' has %lld channels, want %lld",
                       node->name, x->name, (long long)x->dim[1],
                       (long long)(w->dim[1] * p->group));
    if (bias && bias->rank >= 0 &&
        (bias->rank != 1 || (w->dim[0] >= 0 && bias->dim[0] >= 0 && bias->dim[0] != w->dim[0])))
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (Conv): bias '%s' has another length than the "
                       "%lld output channels",
                       node->name, bias->name, (long long)w->dim[0]);
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_conv_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *w = nbi_op_in(graph, node, 1);
    int rank = x->rank >= 0 ? x->rank : w->rank;
    if (rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    if (rank < 3)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (Conv): input '%s' has %d dimensions, want 3 or "
                       "more",
                       node->name, x->name, rank);
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 0, rank));
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, rank));
    NB_TRY(nbi_window_read(ctx, node, rank - 2, &p->w));
    int64_t dim[NBI_MAX_RANK], none[NBI_MAX_RANK];
    for (int i = 0; i < NBI_MAX_RANK; i++) dim[i] = none[i] = -1;
    const int64_t *xd = x->rank < 0 ? none : x->dim;
    if (w->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
    if (x->rank >= 0) NB_TRY(check_weights(ctx, node, x, w, nbi_op_in(graph, node, 2), p));
    bool known = x->rank >= 0;
    for (int i = 0; i < p->w.n; i++) known &= p->w.kernel[i] > 0;
    if (known) NB_TRY(nbi_window_resolve(ctx, node, &p->w, xd + 2, dim + 2));
    dim[0] = xd[0];
    dim[1] = w->dim[0];
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, rank, dim);
}

static void cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out) {
    const nbi_tensor *w = nbi_op_in(graph, node, 1), *b = nbi_op_in(graph, node, 2);
    const nbi_tensor *y = nbi_op_out(graph, node, 0);
    double weights = (double)nbi_tensor_count(w);
    out->macs = (double)nbi_tensor_count(y) * weights / (double)(w->dim[0] ? w->dim[0] : 1);
    out->parameters = weights + (b ? (double)nbi_tensor_count(b) : 0);
}

/* Adds w·x[i·step] to the outputs i of a row whose input position stays inside 0 … in−1. */
static void add_tap(double *acc, int64_t first, int64_t count, const nbi_window3 *g, int64_t kw,
                    const float *x, double w) {
    int64_t s = g->stride[2], at = first * s + kw * g->dilation[2] - g->pad[2];
    int64_t begin = at < 0 ? (-at + s - 1) / s : 0;
    int64_t end = at >= g->in[2] ? 0 : (g->in[2] - at + s - 1) / s;
    if (end > count) end = count;
    int64_t step = s * g->x_stride[2];
    const float *from = x + at * g->x_stride[2];
    for (int64_t i = begin; i < end; i++) acc[i] += w * (double)from[i * step];
}

/* Up to ROW outputs of one row. x, w point at the first channel of the group and at the filter. */
#define ROW 128
static void conv_row(const nbi_window3 *g, const nbi_view *xv, const nbi_view *wv, const float *x,
                     const float *w, const int64_t *at, double *acc, int64_t count) {
    for (int64_t c = 0; c < wv->dim[1]; c++, x += xv->stride[1], w += wv->stride[1])
        for (int64_t kd = 0; kd < g->kernel[0]; kd++) {
            int64_t d = at[0] * g->stride[0] + kd * g->dilation[0] - g->pad[0];
            for (int64_t kh = 0; kh < g->kernel[1]; kh++) {
                int64_t h = at[1] * g->stride[1] + kh * g->dilation[1] - g->pad[1];
                for (int64_t kw = 0; kw < g->kernel[2]; kw++)
                    if (d >= 0 && d < g->in[0] && h >= 0 && h < g->in[1])
                        add_tap(
                            acc, at[2], count, g, kw, x + d * g->x_stride[0] + h * g->x_stride[1],
                            (double)
                                w[kd * g->w_stride[0] + kh * g->w_stride[1] + kw * g->w_stride[2]]);
            }
        }
}

/* One filter over one image. */
static void conv_filter(const nbi_window3 *g, const nbi_view *xv, const nbi_view *wv,
                        const float *x, const float *w, double bias, float *y) {
    int64_t at[3];
    double acc[ROW];
    for (at[0] = 0; at[0] < g->out[0]; at[0]++)
        for (at[1] = 0; at[1] < g->out[1]; at[1]++)
            for (at[2] = 0; at[2] < g->out[2]; at[2] += ROW) {
                int64_t count = g->out[2] - at[2] < ROW ? g->out[2] - at[2] : ROW;
                float *to = y + at[0] * g->y_stride[0] + at[1] * g->y_stride[1];
                for (int64_t i = 0; i < count; i++) acc[i] = bias;
                conv_row(g, xv, wv, x, w, at, acc, count);
                for (int64_t i = 0; i < count; i++)
                    to[(at[2] + i) * g->y_stride[2]] = (float)acc[i];
            }
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_conv_params *p = call->node->params;
    const nbi_view *x = &call->in[0], *w = &call->in[1], *y = &call->out[0];
    const float *bias = call->node->n_in > 2 ? call->in[2].data : NULL;
    nbi_window3 g;
    nbi_window3_make(&p->w, x, y, &g);
    int64_t per_group = w->dim[0] / p->group;
    for (int i = 0; i < 3; i++) g.w_stride[i] = i < 3 - p->w.n ? 0 : w->stride[i + p->w.n - 1];
    for (int64_t n = 0; n < y->dim[0]; n++)
        for (int64_t m = 0; m < w->dim[0]; m++)
            conv_filter(&g, x, w,
                        (const float *)x->data + n * x->stride[0] +
                            m / per_group * w->dim[1] * x->stride[1],
                        (const float *)w->data + m * w->stride[0], bias ? (double)bias[m] : 0,
                        (float *)y->data + n * y->stride[0] + m * y->stride[1]);
    return NB_OK;
}

const nbi_op nbi_op_conv = {.name = "Conv",
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 2,
                            .max_in = 3,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = NBI_OP_STRIDED | NBI_OP_CHANNELS_LAST | NBI_OP_PER_IMAGE,
                            .prepare = prepare,
                            .infer = infer,
                            .cost = cost,
                            .forward = forward,
                            .backward = nbi_grad_conv,
                            .keep_in = 3};
