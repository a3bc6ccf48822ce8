/* org.nibble::GumbelSoftmax: p = softmax((θ + g)/τ), g = −ln(−ln u), u uniform: the coefficients of
 * a quantizing vertex (docs/searches.md; Jang et al. 2017). Noise follows from the seed of the run, the node's
 * name and the place, so that backward and any thread count see the same; a seed of 0, as outside
 * training, means no noise.
 *
 * in:  θ [n]; τ (one value, > 0). out: p [n].   dL/dθ_k = p_k/τ·(G_k − ⟨G, p⟩) */
#include "ops/op_util.h"

#include <math.h>
#include <string.h>

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *tau = nbi_op_in(graph, node, 1);
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 0, 1));
    if (nbi_shape_known(tau) && nbi_tensor_count(tau) != 1)
        return nbi_op_fail(ctx, node, "values of the temperature", nbi_tensor_count(tau), "1");
    return nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_F32, x->rank, x->dim);
}

static nb_status temperature(nb_ctx *ctx, const nbi_node *node, const nbi_view *tau, double *out) {
    *out = (double)*(const float *)tau->data;
    if (*out > 0 && isfinite(*out)) return NB_OK;
    return nb_fail(ctx, NB_ENUMERIC, "node '%s' (GumbelSoftmax): the temperature is %g", node->name,
                   *out);
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    const float *theta = x->data;
    float *p = y->data;
    int64_t n = nbi_view_count(x);
    double tau, most = -INFINITY, sum = 0;
    uint64_t key = nbi_hash(NBI_HASH_START, call->node->name, strlen(call->node->name));
    nbi_rng rng;
    NB_TRY(temperature(call->ctx, call->node, &call->in[1], &tau));
    nbi_rng_seed(&rng, nbi_hash(key, &call->seed, sizeof call->seed), 0);
    for (int64_t i = 0; i < n; i++) {
        double u = ((double)nbi_rng_u32(&rng) + 0.5) * 0x1p-32;
        double v = ((double)theta[i] + (call->seed ? -log(-log(u)) : 0)) / tau;
        p[i] = (float)v;
        most = fmax(most, (double)p[i]);
    }
    for (int64_t i = 0; i < n; i++) sum += exp((double)p[i] - most);
    for (int64_t i = 0; i < n; i++) p[i] = (float)(exp((double)p[i] - most) / sum);
    return NB_OK;
}

static nb_status backward(const nbi_grad_call *call) {
    const float *p = call->out[0].data, *g = call->gout[0].data;
    float *dx = call->gin[0].data;
    int64_t n = nbi_view_count(&call->out[0]);
    double tau, dot = 0;
    if (!dx) return NB_OK;
    NB_TRY(temperature(call->ctx, call->node, &call->in[1], &tau));
    for (int64_t i = 0; g && i < n; i++) dot += (double)g[i] * (double)p[i];
    for (int64_t i = 0; i < n; i++)
        dx[i] = g ? (float)((double)p[i] / tau * ((double)g[i] - dot)) : 0;
    return NB_OK;
}

const nbi_op nbi_op_gumbelsoftmax = {.name = "GumbelSoftmax",
                                     .types = NBI_TYPES_FLOAT,
                                     .domain = "org.nibble",
                                     .min_opset = 1,
                                     .min_in = 2,
                                     .max_in = 2,
                                     .min_out = 1,
                                     .max_out = 1,
                                     .prepare = nbi_op_prepare_none,
                                     .infer = infer,
                                     .forward = forward,
                                     .backward = backward,
                                     .keep_in = 2,
                                     .keep_out = 1,
                                     .grad_in = 1};
