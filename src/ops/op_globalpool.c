/* GlobalAveragePool, GlobalMaxPool: one value per image and channel. Sums in double. */
#include "ops/op_grad.h"

#include <math.h>

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    if (x->rank < 0) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, -1, NULL);
    if (x->rank < 3)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (%s): input '%s' has %d dimensions, want 3 or "
                       "more",
                       node->name, node->op_type, x->name, x->rank);
    int64_t dim[NBI_MAX_RANK];
    for (int i = 0; i < x->rank; i++) dim[i] = i < 2 ? x->dim[i] : 1;
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
}

typedef struct pooled {
    double sum;
    float max;
} pooled;

/* Only the walk over x matters: x is its own "output". */
static void row(void *user, char *const *p, const int64_t *step, int64_t count) {
    pooled *k = user;
    const float *x = (const float *)(const void *)p[0];
    for (int64_t i = 0; i < count; i++) {
        float v = x[i * step[0]];
        k->sum += (double)v;
        if (v > k->max || v != v) k->max = v;
    }
}

static nb_status run(const nbi_op_call *call, bool max) {
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    nbi_view one = *x;
    one.dim[0] = one.dim[1] = 1;
    double area = (double)nbi_view_count(&one);
    for (int64_t n = 0; n < x->dim[0]; n++)
        for (int64_t c = 0; c < x->dim[1]; c++) {
            pooled k = {0, -INFINITY};
            one.data = (float *)x->data + n * x->stride[0] + c * x->stride[1];
            nbi_walk(1, (const nbi_view *const[]){&one}, row, &k);
            ((float *)y->data)[n * y->stride[0] + c * y->stride[1]] =
                max ? k.max : (float)(k.sum / area);
        }
    return NB_OK;
}

static nb_status forward_average(const nbi_op_call *call) {
    return run(call, false);
}
static nb_status forward_max(const nbi_op_call *call) {
    return run(call, true);
}

#define POOL_FLAGS (NBI_OP_STRIDED | NBI_OP_CHANNELS_LAST | NBI_OP_PER_IMAGE)
const nbi_op nbi_op_globalaveragepool = {.name = "GlobalAveragePool",
                                         .domain = "",
                                         .min_opset = 1,
                                         .min_in = 1,
                                         .max_in = 1,
                                         .min_out = 1,
                                         .max_out = 1,
                                         .flags = POOL_FLAGS,
                                         .prepare = nbi_op_prepare_none,
                                         .infer = infer,
                                         .forward = forward_average,
                                         .backward = nbi_grad_globalaveragepool};
const nbi_op nbi_op_globalmaxpool = {.name = "GlobalMaxPool",
                                     .domain = "",
                                     .min_opset = 1,
                                     .min_in = 1,
                                     .max_in = 1,
                                     .min_out = 1,
                                     .max_out = 1,
                                     .flags = POOL_FLAGS,
                                     .prepare = nbi_op_prepare_none,
                                     .infer = infer,
                                     .forward = forward_max,
                                     .backward = nbi_grad_globalmaxpool,
                                     .keep_in = 1};
