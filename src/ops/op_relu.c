/* Relu: y = max(x, 0), NaN stays NaN. */
#include "ops/op_grad.h"

static void row(void *user, char *const *p, const int64_t *s, int64_t count) {
    (void)user;
    float *y = (float *)(void *)p[0];
    const float *x = (const float *)(const void *)p[1];
    if (s[0] == 1 && s[1] == 1)
        for (int64_t i = 0; i < count; i++) y[i] = x[i] < 0 ? 0 : x[i];
    else
        for (int64_t i = 0; i < count; i++) y[i * s[0]] = x[i * s[1]] < 0 ? 0 : x[i * s[1]];
}

static void row_int(void *user, char *const *p, const int64_t *s, int64_t count) {
    nb_dtype type = *(const nb_dtype *)user;
    for (int64_t i = 0; i < count; i++) {
        double v = nbi_get_real(type, p[1], i * s[1]);
        nbi_set_real(type, p[0], i * s[0], v < 0 ? 0 : v);
    }
}

static nb_status forward(const nbi_op_call *call) {
    nb_dtype type = call->out[0].dtype;
    nbi_walk(2, (const nbi_view *const[]){&call->out[0], &call->in[0]},
             type == NB_DTYPE_F32 ? row : row_int, &type);
    return NB_OK;
}

/* The derivative at 0 is 0. */
static void term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *y = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) {
        float v = g[i]; /* always read: the loop is vectorised */
        out[i] = y[i] > 0 ? v : 0;
    }
}

static nb_status backward(const nbi_grad_call *call) {
    if (!call->gin[0].data) return NB_OK;
    return nbi_grad_map(call->ctx, &call->gin[0], 2,
                        (const nbi_view *const[]){&call->gout[0], &call->out[0]}, term, NULL);
}

const nbi_op nbi_op_relu = {.name = "Relu",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 1,
                            .max_in = 1,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = NBI_OP_STRIDED | NBI_OP_ELEMENTWISE | NBI_OP_INPLACE |
                                     NBI_OP_GRAD_INPLACE,
                            .prepare = nbi_op_prepare_none,
                            .infer = nbi_op_infer_same,
                            .forward = forward,
                            .backward = backward,
                            .keep_out = 1};
