/* BatchNormalization in inference form: per channel c, y = x·a + b with
 * a = scale/sqrt(var + epsilon), b = bias − mean·a. The training form: op_batchnorm_train.c. */
#include "ops/op_grad.h"

#include <math.h>

nb_status nbi_batchnorm_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_batchnorm_params)));
    nbi_batchnorm_params *p = node->params;
    p->epsilon = nbi_attr_float(node, "epsilon", 1e-5f);
    p->momentum = nbi_attr_float(node, "momentum", 0.9f);
    p->training = nbi_attr_int(node, "training_mode", 0) != 0;
    if (graph->opset < 7 && nbi_attr_int(node, "is_test", 0) == 0)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (BatchNormalization): is_test=0 is not supported", node->name);
    if (graph->opset < 9 && nbi_attr_int(node, "spatial", 1) == 0)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (BatchNormalization): spatial=0 is not supported", node->name);
    for (int i = 1; i < node->n_out && !p->training; i++)
        if (node->out[i] >= 0 && nbi_graph_uses(graph, node->out[i]))
            return nb_fail(ctx, NB_EUNSUPPORTED,
                           "node '%s' (BatchNormalization): output %d belongs to training mode",
                           node->name, i);
    return NB_OK;
}

nb_status nbi_batchnorm_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_batchnorm_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    int64_t channels = x->rank < 0 ? -1 : x->rank > 1 ? x->dim[1] : 1;
    for (int i = 1; i < 5; i++) {
        const nbi_tensor *t = nbi_op_in(graph, node, i);
        NB_TRY(nbi_op_want_rank(ctx, graph, node, i, 1));
        if (t->rank == 1 && t->dim[0] >= 0 && channels >= 0 && t->dim[0] != channels)
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (BatchNormalization): '%s' has %lld values, the input has "
                           "%lld channels",
                           node->name, t->name, (long long)t->dim[0], (long long)channels);
    }
    for (int i = 1; p->training && i < node->n_out; i++)
        NB_TRY(nbi_op_set_out(ctx, graph, node, i, NB_DTYPE_F32, 1, &channels));
    if (p->training && x->rank >= 0 && x->rank < 2)
        return nbi_op_fail(ctx, node, "the number of dimensions", x->rank, "2 or more");
    node->op = p->training ? &nbi_op_batchnorm_training : &nbi_op_batchnorm;
    return nbi_op_infer_same(ctx, graph, node);
}

void nbi_batchnorm_cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out) {
    out->macs = 0;
    out->parameters = 4.0 * (double)nbi_tensor_count(nbi_op_in(graph, node, 1));
}

/* y = a·x + b: a and b of a channel each, or next to each other in the row. */
static void row(void *user, char *const *p, const int64_t *step, int64_t count) {
    (void)user;
    float *y = (float *)(void *)p[0];
    const float *x = (const float *)(const void *)p[1];
    const float *a = (const float *)(const void *)p[2], *b = (const float *)(const void *)p[3];
    if (step[0] != 1 || step[1] != 1)
        for (int64_t i = 0; i < count; i++)
            y[i * step[0]] = x[i * step[1]] * a[i * step[2]] + b[i * step[3]];
    else if (step[2] == 1)
        for (int64_t i = 0; i < count; i++) y[i] = x[i] * a[i] + b[i];
    else
        for (int64_t i = 0; i < count; i++) y[i] = x[i] * *a + *b;
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_batchnorm_params *p = call->node->params;
    const float *scale = call->in[1].data, *bias = call->in[2].data;
    const float *mean = call->in[3].data, *var = call->in[4].data;
    const nbi_view x = call->in[0], y = call->out[0];
    const int64_t channels = nbi_view_count(&call->in[1]);
    float *factor;
    NB_TRY(nbi_alloc(call->ctx, 2 * (size_t)channels, sizeof *factor, &factor));
    for (int64_t c = 0; c < channels; c++) {
        const double a = (double)scale[c] / sqrt((double)var[c] + (double)p->epsilon);
        factor[c] = (float)a;
        factor[channels + c] = (float)((double)bias[c] - (double)mean[c] * a);
    }
    nbi_view a = {.dtype = NB_DTYPE_F32, .rank = x.rank, .data = factor};
    for (int d = 0; d < x.rank; d++) a.dim[d] = 1;
    if (x.rank > 1) {
        a.dim[1] = channels;
        a.stride[1] = 1;
    }
    nbi_view b = a;
    b.data = factor + channels;
    nbi_walk(4, (const nbi_view *const[]){&y, &x, &a, &b}, row, NULL);
    nbi_free(factor);
    return NB_OK;
}

const nbi_op nbi_op_batchnorm = {.name = "BatchNormalization",
                                 .domain = "",
                                 .min_opset = 6,
                                 .min_in = 5,
                                 .max_in = 5,
                                 .min_out = 1,
                                 .max_out = 5,
                                 .flags = NBI_OP_STRIDED | NBI_OP_CHANNELS_LAST | NBI_OP_INPLACE |
                                          NBI_OP_PER_IMAGE | NBI_OP_GRAD_INPLACE,
                                 .prepare = nbi_batchnorm_prepare,
                                 .infer = nbi_batchnorm_infer,
                                 .cost = nbi_batchnorm_cost,
                                 .forward = forward,
                                 .backward = nbi_grad_batchnorm,
                                 .keep_in = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4};
