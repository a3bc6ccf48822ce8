/* Gradients of the binary operators, summed over broadcast dimensions. Input 1 comes first: the
 * gradient of input 0 may be written over gy. */
#include "ops/op_grad.h"

#include <math.h>
#include <string.h>

/* B as it broadcasts: with the dimensions that the old form appends. */
static nbi_view padded(const nbi_grad_call *call, nbi_view b) {
    const nbi_binary_params *p = call->node->params;
    for (int i = 0; i < p->trailing; i++) {
        b.dim[b.rank] = 1;
        b.stride[b.rank++] = 0;
    }
    return b;
}

/* ga and gb from gy, a, b, y; those that a term does not read may be missing. */
static nb_status run(const nbi_grad_call *call, nbi_term_fn term_a, nbi_term_fn term_b,
                     unsigned reads) {
    nbi_view b = padded(call, call->in[1]);
    const nbi_view *v[4] = {&call->gout[0], &call->in[0], &b, &call->out[0]};
    for (int i = 0; i < 3; i++)
        if (!(reads >> i & 1)) v[i + 1] = v[0];
    for (int k = 1; k >= 0; k--) {
        if (!call->gin[k].data) continue;
        nbi_view to = k ? padded(call, call->gin[1]) : call->gin[0];
        NB_TRY(nbi_grad_reduce(call->ctx, &to, reads ? 4 : 1, v, k ? term_b : term_a, NULL));
    }
    return NB_OK;
}

#define READS_A 1u
#define READS_B 2u
#define READS_Y 4u

/* Term functions: x = gy, a, b, y. */
static void plus(const void *user, const float *const *x, int64_t n, float *out) {
    (void)user;
    if (out != x[0]) memcpy(out, x[0], (size_t)n * sizeof *out);
}
static void minus(const void *user, const float *const *x, int64_t n, float *out) {
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = -x[0][i];
}
static void times_a(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * a[i];
}
static void times_b(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *b = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * b[i];
}
static void div_a(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *b = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] / b[i];
}
/* −a/b² */
static void div_b(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1], *b = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = -g[i] * (a[i] / b[i]) / b[i];
}
/* b·a^(b−1), and 0 for b = 0 even where a is 0 */
static void pow_a(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1], *b = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) {
        double e = (double)b[i];
        out[i] = e == 0 ? 0 : (float)((double)g[i] * e * pow((double)a[i], e - 1));
    }
}
/* a^b·log a, and 0 where a is 0 and b positive */
static void pow_b(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1], *b = x[2], *y = x[3];
    (void)user;
    for (int64_t i = 0; i < n; i++) {
        bool zero = a[i] == 0 && b[i] >= 0;
        out[i] = zero ? 0 : (float)((double)g[i] * (double)y[i] * log((double)a[i]));
    }
}
static void prelu_x(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1], *slope = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = a[i] < 0 ? g[i] * slope[i] : g[i];
}
static void prelu_slope(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = a[i] < 0 ? g[i] * a[i] : 0;
}

nb_status nbi_grad_add(const nbi_grad_call *call) {
    return run(call, plus, plus, 0);
}
nb_status nbi_grad_sub(const nbi_grad_call *call) {
    return run(call, plus, minus, 0);
}
nb_status nbi_grad_mul(const nbi_grad_call *call) {
    return run(call, times_b, times_a, READS_A | READS_B);
}
nb_status nbi_grad_div(const nbi_grad_call *call) {
    return run(call, div_a, div_b, READS_A | READS_B);
}
nb_status nbi_grad_pow(const nbi_grad_call *call) {
    return run(call, pow_a, pow_b, READS_A | READS_B | READS_Y);
}
nb_status nbi_grad_prelu(const nbi_grad_call *call) {
    return run(call, prelu_x, prelu_slope, READS_A | READS_B);
}

/* ---- Min, Max ------------------------------------------------------------------------------ */

/* x: what is left of gy, input k, y. */
static void selected(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1], *y = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = a[i] == y[i] ? g[i] : 0;
}
static void left_over(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1], *y = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = a[i] == y[i] ? 0 : g[i];
}

/* The first input that equals the output gets the gradient. */
nb_status nbi_grad_min_max(const nbi_grad_call *call) {
    const nbi_view *y = &call->out[0];
    nbi_view rest = call->gout[0];
    size_t count = (size_t)nbi_view_count(y);
    if (count == 0) return NB_OK;
    NB_TRY(nbi_alloc(call->ctx, count, sizeof(float), &rest.data));
    nbi_view_contiguous(&rest);
    nbi_view_copy(&rest, &call->gout[0]);
    nb_status st = NB_OK;
    for (int k = 0; st == NB_OK && k < call->node->n_in; k++) {
        const nbi_view *v[3] = {&rest, &call->in[k], y};
        if (call->gin[k].data) st = nbi_grad_reduce(call->ctx, &call->gin[k], 3, v, selected, NULL);
        if (st == NB_OK) st = nbi_grad_map(call->ctx, &rest, 3, v, left_over, NULL);
    }
    nbi_free(rest.data);
    return st;
}
