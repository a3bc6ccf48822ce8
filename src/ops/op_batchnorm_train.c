/* BatchNormalization in training form, and the gradients of both forms. Per channel, over the
 * M = N·H·W values of a batch: x̂ = (x − mean)·r with r = 1/sqrt(var + epsilon), y = scale·x̂ + bias.
 *   gbias = Σ gy,  gscale = Σ gy·x̂,
 *   training:   gx = scale·r·(gy − gbias/M − x̂·gscale/M)   (Ioffe & Szegedy 2015),
 *   inference:  gx = scale·r·gy,  gmean = −scale·r·gbias,  gvar = −scale·r²/2·gscale.
 * The variance is summed around the mean, in double, per chunk of images. */
#include "ops/op_grad.h"

#include <math.h>

/* A vector of C values as 1,C,1… */
static nbi_view channels(const nbi_view *x, const float *data, int64_t stride) {
    nbi_view v = {.dtype = NB_DTYPE_F32, .rank = x->rank};
    for (int i = 0; i < x->rank; i++) {
        v.dim[i] = i == 1 ? x->dim[1] : 1;
        v.stride[i] = i == 1 ? stride : 0;
    }
    v.data = (void *)(uintptr_t)data;
    return v;
}

static void term_value(const void *user, const float *const *x, int64_t n, float *out) {
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = x[0][i];
}
static void term_square(const void *user, const float *const *x, int64_t n, float *out) {
    const float *v = x[0], *mean = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = (v[i] - mean[i]) * (v[i] - mean[i]);
}
static void term_affine(const void *user, const float *const *x, int64_t n, float *out) {
    const float *v = x[0], *mean = x[1], *a = x[2], *b = x[3];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = (v[i] - mean[i]) * a[i] + b[i];
}
/* gy·(x − mean); the factor r is applied to the sum. */
static void term_scale(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1], *mean = x[2];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * (v[i] - mean[i]);
}
static void term_product(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *a = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = g[i] * a[i];
}
/* a·(gy − shift) + b·(x − mean) */
static void term_data(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *v = x[1], *mean = x[2], *a = x[3], *shift = x[4], *b = x[5];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = a[i] * (g[i] - shift[i]) + b[i] * (v[i] - mean[i]);
}

/* ---- forward ------------------------------------------------------------------------------- */

/* Five arrays of C values. */
typedef struct batch {
    double *sum, *var;
    float *mean, *a, *b;
    void *memory;
} batch;

static nb_status batch_alloc(nb_ctx *ctx, int64_t c, batch *s) {
    double *m;
    NB_TRY(nbi_alloc(ctx, (size_t)c * 4, sizeof *m, &m));
    float *f = (float *)(m + 2 * c);
    *s = (batch){.sum = m, .var = m + c, .mean = f, .a = f + c, .b = f + 2 * c, .memory = m};
    return NB_OK;
}

static nb_status batch_statistics(nb_ctx *ctx, const nbi_view *x, double count, batch *s) {
    nbi_view mean = channels(x, s->mean, 1);
    NB_TRY(nbi_grad_sum(ctx, &mean, 1, (const nbi_view *const[]){x}, term_value, NULL, s->sum));
    for (int64_t c = 0; c < x->dim[1]; c++) {
        s->sum[c] /= count;
        s->mean[c] = (float)s->sum[c];
    }
    NB_TRY(nbi_grad_sum(ctx, &mean, 2, (const nbi_view *const[]){x, &mean}, term_square, NULL,
                        s->var));
    for (int64_t c = 0; c < x->dim[1]; c++) {
        double off = s->sum[c] - (double)s->mean[c];
        s->var[c] = s->var[c] / count - off * off;
        if (s->var[c] < 0) s->var[c] = 0;
    }
    return NB_OK;
}

static void write_statistics(const nbi_op_call *call, const batch *s) {
    const nbi_batchnorm_params *p = call->node->params;
    float *out[5] = {0};
    double keep = (double)p->momentum;
    for (int i = 1; i < call->node->n_out; i++) out[i] = call->out[i].data;
    for (int64_t c = 0; c < call->in[0].dim[1]; c++) {
        double mean = (double)((const float *)call->in[3].data)[c];
        double var = (double)((const float *)call->in[4].data)[c];
        if (out[1]) out[1][c] = (float)(mean * keep + s->sum[c] * (1 - keep));
        if (out[2]) out[2][c] = (float)(var * keep + s->var[c] * (1 - keep));
        if (out[3]) out[3][c] = s->mean[c];
        if (out[4]) out[4][c] = (float)(1 / sqrt(s->var[c] + (double)p->epsilon));
    }
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_batchnorm_params *p = call->node->params;
    const nbi_view *x = &call->in[0];
    const float *scale = call->in[1].data, *bias = call->in[2].data;
    int64_t n = x->dim[1];
    batch s;
    nb_status st;
    if (nbi_view_count(x) == 0)
        return nb_fail(call->ctx, NB_EFORMAT,
                       "node '%s' (BatchNormalization): the batch to normalise is empty",
                       call->node->name);
    NB_TRY(batch_alloc(call->ctx, n, &s));
    NB_TRYG(batch_statistics(call->ctx, x, (double)(nbi_view_count(x) / n), &s));
    for (int64_t c = 0; c < n; c++) {
        s.a[c] = (float)((double)scale[c] / sqrt(s.var[c] + (double)p->epsilon));
        s.b[c] = bias[c];
    }
    nbi_view mean = channels(x, s.mean, 1), a = channels(x, s.a, 1), b = channels(x, s.b, 1);
    NB_TRYG(nbi_grad_map(call->ctx, &call->out[0], 4, (const nbi_view *const[]){x, &mean, &a, &b},
                         term_affine, NULL));
    write_statistics(call, &s);
done:
    nbi_free(s.memory);
    return st;
}

/* ---- backward ------------------------------------------------------------------------------ */

/* What both forms need: mean, r and the two sums. */
typedef struct sums {
    const float *mean, *scale;
    float *a, *shift, *b; /* of the data's gradient */
    double *r, *gbias, *gscale;
    void *memory;
} sums;

static nb_status sums_alloc(nb_ctx *ctx, int64_t c, sums *s) {
    double *m;
    NB_TRY(nbi_alloc(ctx, (size_t)c * 5, sizeof *m, &m));
    float *f = (float *)(m + 3 * c);
    s->r = m;
    s->gbias = m + c;
    s->gscale = m + 2 * c;
    s->a = f;
    s->shift = f + c;
    s->b = f + 2 * c;
    s->memory = m;
    return NB_OK;
}

static nb_status add_up(const nbi_grad_call *call, sums *s) {
    const nbi_view *x = &call->in[0], *gy = &call->gout[0];
    nbi_view mean = channels(x, s->mean, 1);
    NB_TRY(nbi_grad_sum(call->ctx, &mean, 1, (const nbi_view *const[]){gy}, term_value, NULL,
                        s->gbias));
    NB_TRY(nbi_grad_sum(call->ctx, &mean, 3, (const nbi_view *const[]){gy, x, &mean}, term_scale,
                        NULL, s->gscale));
    for (int64_t c = 0; c < x->dim[1]; c++) s->gscale[c] *= s->r[c];
    return NB_OK;
}

static nb_status data_gradient(const nbi_grad_call *call, bool training, sums *s) {
    const nbi_view *x = &call->in[0], *gy = &call->gout[0];
    nbi_view a = channels(x, s->a, 1), b = channels(x, s->b, 1), shift = channels(x, s->shift, 1);
    nbi_view mean = channels(x, s->mean, 1);
    double count = (double)(nbi_view_count(x) / (x->dim[1] ? x->dim[1] : 1));
    for (int64_t c = 0; c < x->dim[1]; c++) {
        double k = (double)s->scale[c] * s->r[c];
        s->a[c] = (float)k;
        s->shift[c] = (float)(s->gbias[c] / count);
        s->b[c] = (float)(-k * s->r[c] * s->gscale[c] / count);
    }
    if (!training)
        return nbi_grad_map(call->ctx, &call->gin[0], 2, (const nbi_view *const[]){gy, &a},
                            term_product, NULL);
    return nbi_grad_map(call->ctx, &call->gin[0], 6,
                        (const nbi_view *const[]){gy, x, &mean, &a, &shift, &b}, term_data, NULL);
}

static void parameter_gradients(const nbi_grad_call *call, bool training, const sums *s) {
    for (int i = 1; i < 5; i++) {
        float *g = call->gin[i].data;
        for (int64_t c = 0; g && c < call->in[0].dim[1]; c++) {
            double k = (double)s->scale[c] * s->r[c], v = 0;
            if (i == 1) v = s->gscale[c];
            if (i == 2) v = s->gbias[c];
            if (i == 3 && !training) v = -k * s->gbias[c];
            if (i == 4 && !training) v = -k * s->r[c] * s->gscale[c] / 2;
            g[c * call->gin[i].stride[0]] = (float)v;
        }
    }
}

static nb_status check(const nbi_grad_call *call, bool training) {
    for (int i = 1; i < call->node->n_out; i++)
        if (call->gout[i].data)
            return nb_fail(call->ctx, NB_EUNSUPPORTED,
                           "node '%s' (BatchNormalization): no gradient flows through the "
                           "statistics of output %d",
                           call->node->name, i);
    if (training && (call->node->n_out < 5 || !call->out[3].data || !call->out[4].data))
        return nb_fail(call->ctx, NB_EUNSUPPORTED,
                       "node '%s' (BatchNormalization): the gradient of the training form needs "
                       "outputs 3 and 4",
                       call->node->name);
    return NB_OK;
}

nb_status nbi_grad_batchnorm(const nbi_grad_call *call) {
    const nbi_batchnorm_params *p = call->node->params;
    nbi_view x = call->in[0];
    sums s = {.scale = call->in[1].data};
    nb_status st;
    NB_TRY(check(call, p->training));
    nbi_grad_call two = *call; /* one channel without spatial axes: the inference form allows it */
    nbi_view in[5], gout[1], gin[5];
    if (x.rank == 1) {
        for (int i = 0; i < 5; i++) in[i] = call->in[i], gin[i] = call->gin[i];
        gout[0] = call->gout[0];
        nbi_view *view[3] = {&in[0], &gout[0], &gin[0]};
        for (int i = 0; i < 3; i++) view[i]->rank = 2, view[i]->dim[1] = 1, view[i]->stride[1] = 1;
        two.in = in;
        two.gout = gout;
        two.gin = gin;
    }
    int64_t n = two.in[0].dim[1];
    NB_TRY(sums_alloc(call->ctx, n, &s));
    s.mean = p->training ? call->out[3].data : call->in[3].data;
    for (int64_t c = 0; c < n; c++)
        s.r[c] = p->training
                     ? (double)((const float *)call->out[4].data)[c]
                     : 1 / sqrt((double)((const float *)call->in[4].data)[c] + (double)p->epsilon);
    NB_TRYG(add_up(&two, &s));
    parameter_gradients(&two, p->training, &s);
    if (call->gin[0].data) st = data_gradient(&two, p->training, &s);
done:
    nbi_free(s.memory);
    return st;
}

const nbi_op nbi_op_batchnorm_training = {.name = "BatchNormalization",
                                          .domain = "",
                                          .min_opset = 6,
                                          .min_in = 5,
                                          .max_in = 5,
                                          .min_out = 1,
                                          .max_out = 5,
                                          .flags = NBI_OP_STRIDED | NBI_OP_CHANNELS_LAST |
                                                   NBI_OP_GRAD_INPLACE,
                                          .prepare = nbi_batchnorm_prepare,
                                          .infer = nbi_batchnorm_infer,
                                          .cost = nbi_batchnorm_cost,
                                          .forward = forward,
                                          .backward = nbi_grad_batchnorm,
                                          .keep_in = 1 << 0 | 1 << 1,
                                          .keep_out = 1 << 3 | 1 << 4,
                                          .grad_in = 1 << 0 | 1 << 1 | 1 << 2};
