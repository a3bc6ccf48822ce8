/* Gradients of Conv. With y[n,m,o] = bias[m] + Σ w[m,c,k]·x[n,c,o·stride + k·dilation − pad]:
 *   gx[n,c,i] = Σ_m Σ_k w[m,c,k]·gy[n,m,o]   over the o with o·stride + k·dilation − pad = i,
 *   gw[m,c,k] = Σ_n Σ_o gy[n,m,o]·x[n,c,o·stride + k·dilation − pad],   gbias[m] = Σ_n Σ_o
 * gy[n,m,o]. Each value is one sum in double in one fixed order: the oracle of whatever runs
 * faster. */
#include "ops/op_grad.h"

typedef struct conv_job {
    const nbi_view *x, *w, *gy,
        *to; /* to: gx or gw; x and w may have no data when it is the other */
    nbi_window3 g;
    int64_t in_per_group, out_per_group;
} conv_job;

/* Positions o of an axis with 0 ≤ o·stride + offset < in: begin ≤ o < end. */
static void valid(int64_t offset, int64_t stride, int64_t in, int64_t out, int64_t *begin,
                  int64_t *end) {
    *begin = offset < 0 ? (-offset + stride - 1) / stride : 0;
    *end = offset >= in ? 0 : (in - offset + stride - 1) / stride;
    if (*end > out) *end = out;
    if (*begin > *end) *begin = *end;
}

/* The output index that meets input index i through tap k, or −1. */
static int64_t meets(const nbi_window3 *g, int axis, int64_t i, int64_t k) {
    int64_t at = i + g->pad[axis] - k * g->dilation[axis];
    if (at < 0 || at % g->stride[axis]) return -1;
    return at / g->stride[axis] < g->out[axis] ? at / g->stride[axis] : -1;
}

/* ---- data ---------------------------------------------------------------------------------- */

#define ROW 128
/* Adds what the taps of one kernel row send to the inputs first … first+count−1 of a row. */
static void data_taps(const nbi_window3 *g, const float *gy, const float *w, int64_t first,
                      int64_t count, double *acc) {
    int64_t s = g->stride[2];
    for (int64_t k = 0; k < g->kernel[2]; k++) {
        int64_t begin, end, offset = k * g->dilation[2] - g->pad[2] - first;
        valid(offset, s, count, g->out[2], &begin, &end);
        double wk = (double)w[k * g->w_stride[2]];
        for (int64_t o = begin; o < end; o++)
            acc[o * s + offset] += wk * (double)gy[o * g->y_stride[2]];
    }
}

/* One row of gx: gy and w point at the group's first filter, w at input channel c of it. */
static void data_row(const conv_job *j, const float *gy, const float *w, const int64_t *at,
                     int64_t count, double *acc) {
    const nbi_window3 *g = &j->g;
    for (int64_t m = 0; m < j->out_per_group; m++) {
        for (int64_t kd = 0; kd < g->kernel[0]; kd++) {
            int64_t od = meets(g, 0, at[0], kd);
            for (int64_t kh = 0; od >= 0 && kh < g->kernel[1]; kh++) {
                int64_t oh = meets(g, 1, at[1], kh);
                if (oh >= 0)
                    data_taps(g, gy + od * g->y_stride[0] + oh * g->y_stride[1],
                              w + kd * g->w_stride[0] + kh * g->w_stride[1], at[2], count, acc);
            }
        }
        gy += j->gy->stride[1];
        w += j->w->stride[0];
    }
}

static void data_plane(const conv_job *j, const float *gy, const float *w, float *gx) {
    const nbi_window3 *g = &j->g;
    int64_t at[3];
    double acc[ROW];
    for (at[0] = 0; at[0] < g->in[0]; at[0]++)
        for (at[1] = 0; at[1] < g->in[1]; at[1]++)
            for (at[2] = 0; at[2] < g->in[2]; at[2] += ROW) {
                int64_t count = g->in[2] - at[2] < ROW ? g->in[2] - at[2] : ROW;
                float *to = gx + at[0] * g->x_stride[0] + at[1] * g->x_stride[1];
                for (int64_t i = 0; i < count; i++) acc[i] = 0;
                data_row(j, gy, w, at, count, acc);
                for (int64_t i = 0; i < count; i++)
                    to[(at[2] + i) * g->x_stride[2]] = (float)acc[i];
            }
}

static nb_status data_images(void *user, size_t begin, size_t end, int worker) {
    const conv_job *j = user;
    (void)worker;
    for (int64_t n = (int64_t)begin; n < (int64_t)end; n++)
        for (int64_t c = 0; c < j->to->dim[1]; c++) {
            int64_t group = c / j->in_per_group, m = group * j->out_per_group;
            data_plane(j, (const float *)j->gy->data + n * j->gy->stride[0] + m * j->gy->stride[1],
                       (const float *)j->w->data + m * j->w->stride[0] +
                           c % j->in_per_group * j->w->stride[1],
                       (float *)j->to->data + n * j->to->stride[0] + c * j->to->stride[1]);
        }
    return NB_OK;
}

/* ---- weights ------------------------------------------------------------------------------- */

/* One tap over one image: gy points at the filter's plane, x at the channel's. */
static double weight_tap(const nbi_window3 *g, const float *gy, const float *x, const int64_t *k) {
    int64_t begin[3], end[3], offset[3];
    double sum = 0;
    for (int a = 0; a < 3; a++) {
        offset[a] = k[a] * g->dilation[a] - g->pad[a];
        valid(offset[a], g->stride[a], g->in[a], g->out[a], &begin[a], &end[a]);
    }
    int64_t step = g->stride[2] * g->x_stride[2];
    for (int64_t d = begin[0]; d < end[0]; d++)
        for (int64_t h = begin[1]; h < end[1]; h++) {
            const float *gr = gy + d * g->y_stride[0] + h * g->y_stride[1];
            const float *xr = x + (d * g->stride[0] + offset[0]) * g->x_stride[0] +
                              (h * g->stride[1] + offset[1]) * g->x_stride[1] +
                              offset[2] * g->x_stride[2];
            for (int64_t o = begin[2]; o < end[2]; o++)
                sum += (double)gr[o * g->y_stride[2]] * (double)xr[o * step];
        }
    return sum;
}

static nb_status weight_filters(void *user, size_t begin, size_t end, int worker) {
    const conv_job *j = user;
    const nbi_window3 *g = &j->g;
    (void)worker;
    for (int64_t m = (int64_t)begin; m < (int64_t)end; m++)
        for (int64_t c = 0; c < j->to->dim[1]; c++) {
            const float *gy = (const float *)j->gy->data + m * j->gy->stride[1];
            const float *x = (const float *)j->x->data +
                             (m / j->out_per_group * j->in_per_group + c) * j->x->stride[1];
            float *to = (float *)j->to->data + m * j->to->stride[0] + c * j->to->stride[1];
            int64_t k[3];
            for (k[0] = 0; k[0] < g->kernel[0]; k[0]++)
                for (k[1] = 0; k[1] < g->kernel[1]; k[1]++)
                    for (k[2] = 0; k[2] < g->kernel[2]; k[2]++) {
                        double sum = 0;
                        for (int64_t n = 0; n < j->gy->dim[0]; n++)
                            sum += weight_tap(g, gy + n * j->gy->stride[0], x + n * j->x->stride[0],
                                              k);
                        to[k[0] * g->w_stride[0] + k[1] * g->w_stride[1] + k[2] * g->w_stride[2]] =
                            (float)sum;
                    }
        }
    return NB_OK;
}

/* ---- all three ----------------------------------------------------------------------------- */

static void kernel_strides(nbi_window3 *g, int spatial, const nbi_view *w) {
    for (int i = 0; i < 3; i++) g->w_stride[i] = i < 3 - spatial ? 0 : w->stride[i + spatial - 1];
}

nb_status nbi_grad_conv(const nbi_grad_call *call) {
    const nbi_conv_params *p = call->node->params;
    const nbi_view *gy = &call->gout[0];
    nbi_view *gx = &call->gin[0], *gw = &call->gin[1];
    conv_job j = {.x = &call->in[0], .w = &call->in[1], .gy = gy};
    j.in_per_group = call->in[1].dim[1];
    j.out_per_group = call->in[1].dim[0] / p->group;
    if (gx->data) {
        j.to = gx;
        nbi_window3_make(&p->w, gx, gy, &j.g);
        kernel_strides(&j.g, p->w.n, j.w);
        NB_TRY(nbi_parallel(call->ctx, (size_t)gx->dim[0], 1, data_images, &j));
    }
    if (gw->data) {
        j.to = gw;
        nbi_window3_make(&p->w, j.x, gy, &j.g);
        kernel_strides(&j.g, p->w.n, gw);
        NB_TRY(nbi_parallel(call->ctx, (size_t)gw->dim[0], 1, weight_filters, &j));
    }
    if (call->node->n_in > 2 && call->gin[2].data) {
        nbi_view bias = call->gin[2]; /* M as 1,M,1… */
        bias.rank = gy->rank;
        for (int i = 0; i < gy->rank; i++) {
            bias.dim[i] = i == 1 ? gy->dim[1] : 1;
            bias.stride[i] = i == 1 ? call->gin[2].stride[0] : 0;
        }
        NB_TRY(nbi_grad_scaled(call->ctx, &bias, gy, 1));
    }
    return NB_OK;
}
