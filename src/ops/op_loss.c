/* Losses of the domain org.nibble, one scalar each; sums in double, per chunk of rows or values.
 *   CrossEntropy(z, t) = −1/N Σ_n Σ_c t·log softmax(z)              z, t: N,C; t: probabilities
 *   KlDivergence(s, t) = T²/N Σ_n Σ_c p_t·(log p_t − log p_s)       p = softmax(·/T); s, t: N,C
 *     (Hinton et al. 2015: T² keeps the gradient's size independent of T)
 *   MeanSquaredError(a, b) = mean (a − b)²                          equal shapes
 *   SumSquares(x) = Σ x²
 * log softmax(z) = z − max − log Σ exp(z − max): nothing overflows. */
#include "ops/op_grad.h"

#include <math.h>

/* T of KlDivergence, else 1. */
typedef struct loss_params {
    double temperature;
} loss_params;

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(loss_params)));
    float t = nbi_attr_float(node, "temperature", 1);
    if (!(t > 0 && t < INFINITY))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): temperature is %g, want more than 0",
                       node->name, node->op_type, (double)t);
    ((loss_params *)node->params)->temperature = (double)t;
    return NB_OK;
}

static nb_status infer_scalar(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *a = nbi_op_in(graph, node, 0), *b = nbi_op_in(graph, node, 1);
    bool equal = !b || a->rank < 0 || b->rank < 0 || a->rank == b->rank;
    for (int i = 0; equal && b && a->rank >= 0 && b->rank >= 0 && i < a->rank; i++)
        equal = a->dim[i] == b->dim[i] || a->dim[i] < 0 || b->dim[i] < 0;
    char ta[96], tb[96];
    if (!equal)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (%s): '%s' is %s, '%s' is %s, want equal shapes",
                       node->name, node->op_type, a->name, nbi_shape_text(a, ta, sizeof ta),
                       b->name, nbi_shape_text(b, tb, sizeof tb));
    return nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_F32, 0, NULL);
}

static nb_status infer_rows(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 0, 2));
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, 2));
    return infer_scalar(ctx, graph, node);
}

/* ---- rows of logits ------------------------------------------------------------------------ */

typedef struct row_view {
    const float *x;
    int64_t step;
    double inv_t, max, log_sum; /* log softmax(x/T)[c] = x[c]/T − max − log_sum */
} row_view;

static row_view read_row(const nbi_view *v, int64_t n, double temperature) {
    row_view r = {(const float *)v->data + n * v->stride[0], v->stride[1], 1 / temperature,
                  -INFINITY, 0};
    for (int64_t c = 0; c < v->dim[1]; c++) {
        double x = (double)r.x[c * r.step] * r.inv_t;
        if (x > r.max || x != x) r.max = x;
    }
    for (int64_t c = 0; c < v->dim[1]; c++)
        r.log_sum += exp((double)r.x[c * r.step] * r.inv_t - r.max);
    r.log_sum = log(r.log_sum);
    return r;
}

static double log_p(const row_view *r, int64_t c) {
    return (double)r->x[c * r->step] * r->inv_t - r->max - r->log_sum;
}

/* p·(log p − log q), 0 where p is 0. */
static double divergence(double log_p_, double log_q) {
    double p = exp(log_p_);
    return p > 0 ? p * (log_p_ - log_q) : 0;
}

static double entropy_row(const nbi_op_call *call, int64_t n) {
    const nbi_view *t = &call->in[1];
    row_view z = read_row(&call->in[0], n, 1);
    const float *target = (const float *)t->data + n * t->stride[0];
    double sum = 0;
    for (int64_t c = 0; c < t->dim[1]; c++) {
        double p = (double)target[c * t->stride[1]];
        if (p != 0) sum -= p * log_p(&z, c);
    }
    return sum;
}

static nb_status entropy_forward(const nbi_op_call *call) {
    int64_t rows = call->in[0].dim[0];
    double sum = 0;
    for (int64_t n = 0; n < rows; n++) sum += entropy_row(call, n);
    *(float *)call->out[0].data = (float)(sum / (double)rows);
    return NB_OK;
}

/* gz = g/N·(softmax(z)·Σt − t), gt = −g/N·log softmax(z). */
static nb_status entropy_backward(const nbi_grad_call *call) {
    const nbi_view *z = &call->in[0], *t = &call->in[1], *gz = &call->gin[0], *gt = &call->gin[1];
    double g = (double)*(const float *)call->gout[0].data / (double)z->dim[0];
    for (int64_t n = 0; n < z->dim[0]; n++) {
        row_view r = read_row(z, n, 1);
        const float *target = (const float *)t->data + n * t->stride[0];
        double total = 0;
        for (int64_t c = 0; c < z->dim[1]; c++) total += (double)target[c * t->stride[1]];
        for (int64_t c = 0; c < z->dim[1]; c++) {
            double p = log_p(&r, c), want = (double)target[c * t->stride[1]];
            if (gz->data)
                ((float *)gz->data)[n * gz->stride[0] + c * gz->stride[1]] =
                    (float)(g * (exp(p) * total - want));
            if (gt->data)
                ((float *)gt->data)[n * gt->stride[0] + c * gt->stride[1]] = (float)(-g * p);
        }
    }
    return NB_OK;
}

static nb_status kl_forward(const nbi_op_call *call) {
    double t = ((const loss_params *)call->node->params)->temperature, sum = 0;
    const nbi_view *s = &call->in[0];
    for (int64_t n = 0; n < s->dim[0]; n++) {
        row_view student = read_row(s, n, t), teacher = read_row(&call->in[1], n, t);
        for (int64_t c = 0; c < s->dim[1]; c++)
            sum += divergence(log_p(&teacher, c), log_p(&student, c));
    }
    *(float *)call->out[0].data = (float)(t * t * sum / (double)s->dim[0]);
    return NB_OK;
}

/* gs = g·T/N·(p_s − p_t), gt = g·T/N·p_t·(log p_t − log p_s − KL of the row). */
static nb_status kl_backward(const nbi_grad_call *call) {
    double t = ((const loss_params *)call->node->params)->temperature;
    const nbi_view *s = &call->in[0], *gs = &call->gin[0], *gt = &call->gin[1];
    double g = (double)*(const float *)call->gout[0].data * t / (double)s->dim[0];
    for (int64_t n = 0; n < s->dim[0]; n++) {
        row_view student = read_row(s, n, t), teacher = read_row(&call->in[1], n, t);
        double kl = 0;
        for (int64_t c = 0; c < s->dim[1]; c++)
            kl += divergence(log_p(&teacher, c), log_p(&student, c));
        for (int64_t c = 0; c < s->dim[1]; c++) {
            double ps = log_p(&student, c), pt = log_p(&teacher, c), p = exp(pt);
            if (gs->data)
                ((float *)gs->data)[n * gs->stride[0] + c * gs->stride[1]] =
                    (float)(g * (exp(ps) - p));
            if (gt->data)
                ((float *)gt->data)[n * gt->stride[0] + c * gt->stride[1]] =
                    (float)(p > 0 ? g * p * (pt - ps - kl) : 0);
        }
    }
    return NB_OK;
}

/* ---- sums of squares ----------------------------------------------------------------------- */

static void square_term(const void *user, const float *const *x, int64_t n, float *out) {
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = x[0][i] * x[0][i];
}
static void difference_term(const void *user, const float *const *x, int64_t n, float *out) {
    const float *a = x[0], *b = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = (a[i] - b[i]) * (a[i] - b[i]);
}
static void slope_term(const void *user, const float *const *x, int64_t n, float *out) {
    float k = *(const float *)user;
    for (int64_t i = 0; i < n; i++) out[i] = k * x[0][i];
}
static void difference_slope_term(const void *user, const float *const *x, int64_t n, float *out) {
    float k = *(const float *)user;
    const float *a = x[0], *b = x[1];
    for (int64_t i = 0; i < n; i++) out[i] = k * (a[i] - b[i]);
}

static nb_status mse_forward(const nbi_op_call *call) {
    const nbi_view scalar = {.dtype = NB_DTYPE_F32};
    double sum = 0;
    NB_TRY(nbi_grad_sum(call->ctx, &scalar, 2,
                        (const nbi_view *const[]){&call->in[0], &call->in[1]}, difference_term,
                        NULL, &sum));
    *(float *)call->out[0].data = (float)(sum / (double)nbi_view_count(&call->in[0]));
    return NB_OK;
}

static nb_status mse_backward(const nbi_grad_call *call) {
    const nbi_view *a = &call->in[0], *b = &call->in[1];
    float k = 2 * *(const float *)call->gout[0].data / (float)nbi_view_count(a);
    for (int i = 0; i < 2; i++)
        if (call->gin[i].data)
            NB_TRY(nbi_grad_map(call->ctx, &call->gin[i], 2,
                                (const nbi_view *const[]){i ? b : a, i ? a : b},
                                difference_slope_term, &k));
    return NB_OK;
}

static nb_status squares_forward(const nbi_op_call *call) {
    const nbi_view scalar = {.dtype = NB_DTYPE_F32};
    double sum = 0;
    NB_TRY(nbi_grad_sum(call->ctx, &scalar, 1, (const nbi_view *const[]){&call->in[0]}, square_term,
                        NULL, &sum));
    *(float *)call->out[0].data = (float)sum;
    return NB_OK;
}

static nb_status squares_backward(const nbi_grad_call *call) {
    float k = 2 * *(const float *)call->gout[0].data;
    if (!call->gin[0].data) return NB_OK;
    return nbi_grad_map(call->ctx, &call->gin[0], 1, (const nbi_view *const[]){&call->in[0]},
                        slope_term, &k);
}

const nbi_op nbi_op_crossentropy = {.name = "CrossEntropy",
                                    .domain = "org.nibble",
                                    .min_opset = 1,
                                    .min_in = 2,
                                    .max_in = 2,
                                    .min_out = 1,
                                    .max_out = 1,
                                    .flags = NBI_OP_STRIDED,
                                    .prepare = prepare,
                                    .infer = infer_rows,
                                    .forward = entropy_forward,
                                    .backward = entropy_backward,
                                    .keep_in = 3};
const nbi_op nbi_op_kldivergence = {.name = "KlDivergence",
                                    .domain = "org.nibble",
                                    .min_opset = 1,
                                    .min_in = 2,
                                    .max_in = 2,
                                    .min_out = 1,
                                    .max_out = 1,
                                    .flags = NBI_OP_STRIDED,
                                    .prepare = prepare,
                                    .infer = infer_rows,
                                    .forward = kl_forward,
                                    .backward = kl_backward,
                                    .keep_in = 3};
const nbi_op nbi_op_meansquarederror = {.name = "MeanSquaredError",
                                        .domain = "org.nibble",
                                        .min_opset = 1,
                                        .min_in = 2,
                                        .max_in = 2,
                                        .min_out = 1,
                                        .max_out = 1,
                                        .flags = NBI_OP_STRIDED,
                                        .prepare = prepare,
                                        .infer = infer_scalar,
                                        .forward = mse_forward,
                                        .backward = mse_backward,
                                        .keep_in = 3};
const nbi_op nbi_op_sumsquares = {.name = "SumSquares",
                                  .domain = "org.nibble",
                                  .min_opset = 1,
                                  .min_in = 1,
                                  .max_in = 1,
                                  .min_out = 1,
                                  .max_out = 1,
                                  .flags = NBI_OP_STRIDED,
                                  .prepare = prepare,
                                  .infer = infer_scalar,
                                  .forward = squares_forward,
                                  .backward = squares_backward,
                                  .keep_in = 1};
