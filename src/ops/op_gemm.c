/* Gemm: Y[M,N] = alpha·op(A)[M,K]·op(B)[K,N] + beta·C, C broadcast to M,N. Sums in double. */
#include "ops/op_grad.h"

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_gemm_params)));
    nbi_gemm_params *p = node->params;
    p->alpha = nbi_attr_float(node, "alpha", 1.0f);
    p->beta = nbi_attr_float(node, "beta", 1.0f);
    p->trans_a = nbi_attr_int(node, "transA", 0) != 0;
    p->trans_b = nbi_attr_int(node, "transB", 0) != 0;
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_gemm_params *p = node->params;
    const nbi_tensor *a = nbi_op_in(graph, node, 0), *b = nbi_op_in(graph, node, 1);
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 0, 2));
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, 2));
    int64_t m = a->rank < 0 ? -1 : a->dim[p->trans_a], n = b->rank < 0 ? -1 : b->dim[!p->trans_b];
    int64_t ka = a->rank < 0 ? -1 : a->dim[!p->trans_a], kb = b->rank < 0 ? -1 : b->dim[p->trans_b];
    if (ka >= 0 && kb >= 0 && ka != kb)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (Gemm): '%s' has %lld columns, '%s' has %lld "
                       "rows",
                       node->name, a->name, (long long)ka, b->name, (long long)kb);
    const nbi_tensor *c = nbi_op_in(graph, node, 2);
    if (c && c->rank >= 0) {
        int64_t want[2] = {m, n};
        bool fits = c->rank <= 2;
        for (int i = 0; fits && i < c->rank; i++) {
            int64_t d = c->dim[i], w = want[2 - c->rank + i];
            fits = d == 1 || d < 0 || w < 0 || d == w;
        }
        char text[96];
        if (!fits)
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (Gemm): '%s' of shape %s does not "
                           "broadcast to [%lld,%lld]",
                           node->name, c->name, nbi_shape_text(c, text, sizeof text), (long long)m,
                           (long long)n);
    }
    return nbi_op_set_out(ctx, graph, node, 0, a->dtype, 2, (int64_t[]){m, n});
}

static void cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out) {
    const nbi_gemm_params *p = node->params;
    const nbi_tensor *a = nbi_op_in(graph, node, 0), *b = nbi_op_in(graph, node, 1);
    const nbi_tensor *c = nbi_op_in(graph, node, 2);
    out->macs = (double)nbi_tensor_count(a) * (double)b->dim[!p->trans_b];
    out->parameters = (b->data ? (double)nbi_tensor_count(b) : 0) +
                      (c && c->data ? (double)nbi_tensor_count(c) : 0);
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_gemm_params *p = call->node->params;
    const nbi_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    const nbi_view *c = call->node->n_in > 2 && call->in[2].data ? &call->in[2] : NULL;
    int64_t am = a->stride[p->trans_a], ak = a->stride[!p->trans_a];
    int64_t bn = b->stride[!p->trans_b], bk = b->stride[p->trans_b];
    int64_t depth = a->dim[!p->trans_a];
    for (int64_t m = 0; m < y->dim[0]; m++)
        for (int64_t n = 0; n < y->dim[1]; n++) {
            double sum = 0;
            for (int64_t k = 0; k < depth; k++)
                sum += (double)((const float *)a->data)[m * am + k * ak] *
                       (double)((const float *)b->data)[n * bn + k * bk];
            sum *= (double)p->alpha;
            if (c) {
                int64_t at = 0;
                if (c->rank > 0 && c->dim[c->rank - 1] > 1) at += n * c->stride[c->rank - 1];
                if (c->rank > 1 && c->dim[0] > 1) at += m * c->stride[0];
                sum += (double)p->beta * (double)((const float *)c->data)[at];
            }
            ((float *)y->data)[m * y->stride[0] + n * y->stride[1]] = (float)sum;
        }
    return NB_OK;
}

/* Â = op(A), B̂ = op(B): gÂ = alpha·gY·B̂ᵀ, gB̂ = alpha·Âᵀ·gY, gC = beta·gY summed where C broadcasts. */
static nb_status backward(const nbi_grad_call *call) {
    const nbi_gemm_params *p = call->node->params;
    const nbi_view *a = &call->in[0], *b = &call->in[1], *gy = &call->gout[0];
    const nbi_view *ga = &call->gin[0], *gb = &call->gin[1];
    int am = p->trans_a, ak = !p->trans_a, bk = p->trans_b, bn = !p->trans_b;
    int64_t m = gy->dim[0], n = gy->dim[1], k = a->dim[ak];
    if (call->node->n_in > 2 && call->gin[2].data)
        NB_TRY(nbi_grad_scaled(call->ctx, &call->gin[2], gy, (double)p->beta));
    if (ga->data) {
        nbi_product to_a = {.n_out = 2,
                            .n_sum = 1,
                            .out = {{m, ga->stride[am], gy->stride[0], 0},
                                    {k, ga->stride[ak], 0, b->stride[bk]}},
                            .sum = {{n, 0, gy->stride[1], b->stride[bn]}},
                            .a = gy->data,
                            .b = b->data,
                            .to = ga->data,
                            .factor = (double)p->alpha};
        NB_TRY(nbi_product_run(call->ctx, &to_a));
    }
    if (gb->data) {
        nbi_product to_b = {.n_out = 2,
                            .n_sum = 1,
                            .out = {{k, gb->stride[bk], a->stride[ak], 0},
                                    {n, gb->stride[bn], 0, gy->stride[1]}},
                            .sum = {{m, 0, a->stride[am], gy->stride[0]}},
                            .a = a->data,
                            .b = gy->data,
                            .to = gb->data,
                            .factor = (double)p->alpha};
        NB_TRY(nbi_product_run(call->ctx, &to_b));
    }
    return NB_OK;
}

const nbi_op nbi_op_gemm = {.name = "Gemm",
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 2,
                            .max_in = 3,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = NBI_OP_STRIDED,
                            .prepare = prepare,
                            .infer = infer,
                            .cost = cost,
                            .forward = forward,
                            .backward = backward,
                            .keep_in = 3};
