/* Gradients of the element-wise functions of one value: gx = gy·f'(x), from the input or, where
 * that is enough, from the output, so that forward() may run in place. At a kink the derivative is
 * that of the constant side; Abs has 0 at 0. */
#include "ops/op_grad.h"

#include <math.h>

static nb_status from_in(const nbi_grad_call *call, nbi_term_fn term) {
    if (!call->gin[0].data) return NB_OK;
    return nbi_grad_map(call->ctx, &call->gin[0], 2,
                        (const nbi_view *const[]){&call->gout[0], &call->in[0]}, term,
                        call->node->params);
}
static nb_status from_out(const nbi_grad_call *call, nbi_term_fn term) {
    if (!call->gin[0].data) return NB_OK;
    return nbi_grad_map(call->ctx, &call->gin[0], 2,
                        (const nbi_view *const[]){&call->gout[0], &call->out[0]}, term,
                        call->node->params);
}

/* Term functions: g is gy, v the input or the output. */
static void leakyrelu_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    float alpha = ((const nbi_unary_params *)user)->alpha;
    for (int64_t i = 0; i < n; i++) out[i] = v[i] < 0 ? g[i] * alpha : g[i];
}
static void sigmoid_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * v[i] * (1 - v[i]);
}
static void hardsigmoid_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    float alpha = ((const nbi_unary_params *)user)->alpha;
    for (int64_t i = 0; i < n; i++) out[i] = v[i] > 0 && v[i] < 1 ? g[i] * alpha : 0;
}
static void tanh_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * (1 - v[i] * v[i]);
}
static void exp_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * v[i];
}
static void log_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] / v[i];
}
static void sqrt_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] / (2 * v[i]);
}
static void abs_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = v[i] > 0 ? g[i] : v[i] < 0 ? -g[i] : 0;
}
static void reciprocal_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = -g[i] * v[i] * v[i];
}
/* x·clamp(x/6 + 1/2, 0, 1) */
static void hardswish_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++)
        out[i] = v[i] <= -3 ? 0 : v[i] >= 3 ? g[i] : g[i] * (v[i] / 3 + 0.5f);
}
/* 2/√π·exp(−x²) */
static void erf_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) {
        double a = (double)v[i];
        out[i] = (float)((double)g[i] * 1.1283791670955126 * exp(-a * a));
    }
}

nb_status nbi_grad_leakyrelu(const nbi_grad_call *call) {
    return from_in(call, leakyrelu_term);
}
nb_status nbi_grad_sigmoid(const nbi_grad_call *call) {
    return from_out(call, sigmoid_term);
}
nb_status nbi_grad_hardsigmoid(const nbi_grad_call *call) {
    return from_out(call, hardsigmoid_term);
}
nb_status nbi_grad_hardswish(const nbi_grad_call *call) {
    return from_in(call, hardswish_term);
}
nb_status nbi_grad_tanh(const nbi_grad_call *call) {
    return from_out(call, tanh_term);
}
nb_status nbi_grad_exp(const nbi_grad_call *call) {
    return from_out(call, exp_term);
}
nb_status nbi_grad_log(const nbi_grad_call *call) {
    return from_in(call, log_term);
}
nb_status nbi_grad_sqrt(const nbi_grad_call *call) {
    return from_out(call, sqrt_term);
}
nb_status nbi_grad_abs(const nbi_grad_call *call) {
    return from_in(call, abs_term);
}
nb_status nbi_grad_erf(const nbi_grad_call *call) {
    return from_in(call, erf_term);
}
nb_status nbi_grad_reciprocal(const nbi_grad_call *call) {
    return from_out(call, reciprocal_term);
}
nb_status nbi_grad_neg(const nbi_grad_call *call) {
    if (!call->gin[0].data) return NB_OK;
    return nbi_grad_scaled(call->ctx, &call->gin[0], &call->gout[0], -1);
}
/* Floor and Ceil are constant between their steps. */
nb_status nbi_grad_step(const nbi_grad_call *call) {
    if (call->gin[0].data) nbi_grad_zero(&call->gin[0]);
    return NB_OK;
}
