/* Gradients of the pools. Average: every covered value gets gy/divisor, the divisor of forward().
 * Maximum: the first largest value in ONNX order gets gy. Images in parallel; within an image the
 * windows send in one fixed order. */
#include "ops/op_grad.h"

#include <math.h>

typedef struct pool_job {
    nbi_window3 g;
    int64_t pad_end[3], gx_stride[3];
    bool max, include_pad;
    const nbi_view *x, *gy, *gx;
} pool_job;

typedef struct pool_window {
    int64_t begin[3], end[3], first[3]; /* covered taps; the position of tap 0 */
    double divisor;
} pool_window;

static void window_at(const pool_job *j, const int64_t *o, pool_window *w) {
    const nbi_window3 *g = &j->g;
    w->divisor = 1;
    for (int a = 0; a < 3; a++) {
        int64_t first = o[a] * g->stride[a] - g->pad[a], d = g->dilation[a];
        int64_t begin = first < 0 ? (-first + d - 1) / d : 0;
        int64_t end = g->in[a] <= first ? 0 : (g->in[a] - first + d - 1) / d;
        if (end > g->kernel[a]) end = g->kernel[a];
        if (begin > end) begin = end;
        int64_t counted = end - begin;
        if (j->include_pad) {
            int64_t limit = (g->in[a] + j->pad_end[a] - first + d - 1) / d;
            counted = limit < g->kernel[a] ? limit : g->kernel[a];
        }
        w->divisor *= (double)counted;
        w->begin[a] = begin;
        w->end[a] = end;
        w->first[a] = first;
    }
}

/* Sends `value` to each covered position, or to the largest of x. */
static void send(const pool_job *j, const pool_window *w, const float *x, float *gx, float value) {
    const nbi_window3 *g = &j->g;
    const int64_t *gs = j->gx_stride;
    int64_t best_at = -1;
    float best = -INFINITY;
    for (int64_t i = w->begin[0]; i < w->end[0]; i++)
        for (int64_t k = w->begin[1]; k < w->end[1]; k++)
            for (int64_t l = w->begin[2]; l < w->end[2]; l++) {
                int64_t p0 = w->first[0] + i * g->dilation[0];
                int64_t p1 = w->first[1] + k * g->dilation[1];
                int64_t p2 = w->first[2] + l * g->dilation[2];
                int64_t at = p0 * gs[0] + p1 * gs[1] + p2 * gs[2];
                if (!j->max) {
                    gx[at] += value;
                    continue;
                }
                float v = x[p0 * g->x_stride[0] + p1 * g->x_stride[1] + p2 * g->x_stride[2]];
                if (best_at >= 0 && !(v > best || v != v)) continue;
                best = v;
                best_at = at;
            }
    if (best_at >= 0) gx[best_at] += value;
}

static nb_status images(void *user, size_t begin, size_t end, int worker) {
    const pool_job *j = user;
    const nbi_window3 *g = &j->g;
    const nbi_view *gx = j->gx, *gy = j->gy, *x = j->x;
    int64_t o[3];
    (void)worker;
    for (int64_t n = (int64_t)begin; n < (int64_t)end; n++)
        for (int64_t c = 0; c < gx->dim[1]; c++) {
            float *to = (float *)gx->data + n * gx->stride[0] + c * gx->stride[1];
            const float *from = (const float *)gy->data + n * gy->stride[0] + c * gy->stride[1];
            const float *xc = NULL;
            if (j->max) xc = (const float *)x->data + n * x->stride[0] + c * x->stride[1];
            for (o[0] = 0; o[0] < g->out[0]; o[0]++)
                for (o[1] = 0; o[1] < g->out[1]; o[1]++)
                    for (o[2] = 0; o[2] < g->out[2]; o[2]++) {
                        pool_window w;
                        window_at(j, o, &w);
                        float v = from[o[0] * g->y_stride[0] + o[1] * g->y_stride[1] +
                                       o[2] * g->y_stride[2]];
                        send(j, &w, xc, to, j->max ? v : (float)((double)v / w.divisor));
                    }
        }
    return NB_OK;
}

/* ---- channels last ------------------------------------------------------------------------- */

#define LANES 256 /* channels at once */

NBI_WIDE static void first_tap(const float *x, int32_t at, int64_t n, float *best, int32_t *where) {
    for (int64_t c = 0; c < n; c++) {
        best[c] = x[c];
        where[c] = at;
    }
}

NBI_WIDE static void next_tap(const float *x, int32_t at, int64_t n, float *best, int32_t *where) {
    for (int64_t c = 0; c < n; c++) {
        float v = x[c];
        bool take = (v > best[c]) | (v != v);
        best[c] = take ? v : best[c];
        where[c] = take ? at : where[c];
    }
}

NBI_WIDE static void spread(const float *gy, double divisor, int64_t n, float *gx) {
    for (int64_t c = 0; c < n; c++) gx[c] += (float)((double)gy[c] / divisor);
}

/* One window of n channels; x, gx: their image, gy: their values. */
static void send_channels(const pool_job *j, const pool_window *w, const float *x, const float *gy,
                          int64_t n, float *gx) {
    const nbi_window3 *g = &j->g;
    float best[LANES];
    int32_t where[LANES];
    bool any = false;
    for (int64_t i = w->begin[0]; i < w->end[0]; i++)
        for (int64_t k = w->begin[1]; k < w->end[1]; k++)
            for (int64_t l = w->begin[2]; l < w->end[2]; l++) {
                const int64_t at = (w->first[0] + i * g->dilation[0]) * j->gx_stride[0] +
                                   (w->first[1] + k * g->dilation[1]) * j->gx_stride[1] +
                                   (w->first[2] + l * g->dilation[2]) * j->gx_stride[2];
                if (!j->max)
                    spread(gy, w->divisor, n, gx + at);
                else if (any)
                    next_tap(x + at, (int32_t)at, n, best, where);
                else
                    first_tap(x + at, (int32_t)at, n, best, where);
                any = true;
            }
    for (int64_t c = 0; j->max && any && c < n; c++) gx[where[c] + c] += gy[c];
}

static nb_status images_last(void *user, size_t begin, size_t end, int worker) {
    const pool_job *j = user;
    const nbi_window3 *g = &j->g;
    const nbi_view *gx = j->gx, *gy = j->gy;
    int64_t o[3];
    (void)worker;
    for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
        float *to = (float *)gx->data + n * gx->stride[0];
        const float *x = j->max ? (const float *)j->x->data + n * j->x->stride[0] : NULL;
        for (o[0] = 0; o[0] < g->out[0]; o[0]++)
            for (o[1] = 0; o[1] < g->out[1]; o[1]++)
                for (o[2] = 0; o[2] < g->out[2]; o[2]++) {
                    const float *from = (const float *)gy->data + n * gy->stride[0];
                    pool_window w;
                    window_at(j, o, &w);
                    for (int i = 0; i < 3; i++) from += o[i] * g->y_stride[i];
                    for (int64_t c = 0; c < gx->dim[1]; c += LANES) {
                        int64_t count = gx->dim[1] - c < LANES ? gx->dim[1] - c : LANES;
                        send_channels(j, &w, x ? x + c : NULL, from + c, count, to + c);
                    }
                }
    }
    return NB_OK;
}

/* All three store the channels of a place together, in one order of places. */
static bool is_last(const pool_job *j) {
    const nbi_view *x = j->max ? j->x : j->gx;
    if (x->stride[1] != 1 || j->gx->stride[1] != 1 || j->gy->stride[1] != 1) return false;
    if (j->gx->dim[1] < 4 || j->gx->stride[0] > INT32_MAX) return false;
    for (int i = 2; i < x->rank; i++)
        if (x->stride[i] != j->gx->stride[i]) return false;
    return true;
}

/* -------------------------------------------------------------------------------------------- */

static nb_status run(const nbi_grad_call *call, bool max) {
    const nbi_pool_params *p = call->node->params;
    const nbi_view *x = &call->in[0], *gx = &call->gin[0];
    if (!gx->data) return NB_OK;
    pool_job j = {.max = max, .include_pad = !max && p->count_include_pad};
    j.x = x;
    j.gy = &call->gout[0];
    j.gx = gx;
    nbi_window3_make(&p->w, max ? x : gx, j.gy, &j.g);
    for (int i = 0; i < p->w.n; i++) {
        j.pad_end[3 - p->w.n + i] = p->w.pad_end[i];
        j.gx_stride[3 - p->w.n + i] = gx->stride[2 + i];
    }
    nbi_grad_zero(gx);
    return nbi_parallel(call->ctx, (size_t)gx->dim[0], 1, is_last(&j) ? images_last : images, &j);
}

nb_status nbi_grad_maxpool(const nbi_grad_call *call) {
    return run(call, true);
}
nb_status nbi_grad_averagepool(const nbi_grad_call *call) {
    return run(call, false);
}

/* ---- the whole plane ----------------------------------------------------------------------- */

nb_status nbi_grad_globalaveragepool(const nbi_grad_call *call) {
    const nbi_view *gx = &call->gin[0];
    int64_t area = 1;
    if (!gx->data) return NB_OK;
    for (int i = 2; i < gx->rank; i++) area *= gx->dim[i];
    return nbi_grad_spread(call->ctx, gx, &call->gout[0], area ? 1 / (double)area : 0);
}

static nb_status largest(void *user, size_t begin, size_t end, int worker) {
    const pool_job *j = user;
    const nbi_view *x = j->x, *gx = j->gx;
    (void)worker;
    for (int64_t n = (int64_t)begin; n < (int64_t)end; n++)
        for (int64_t c = 0; c < x->dim[1]; c++) {
            const float *from = (const float *)x->data + n * x->stride[0] + c * x->stride[1];
            int64_t index[NBI_MAX_RANK] = {0}, best_at = -1, area = 1;
            float best = -INFINITY;
            for (int i = 2; i < x->rank; i++) area *= x->dim[i];
            for (int64_t k = 0; k < area; k++) {
                int64_t at = 0, to = n * gx->stride[0] + c * gx->stride[1];
                for (int i = 2; i < x->rank; i++) {
                    at += index[i] * x->stride[i];
                    to += index[i] * gx->stride[i];
                }
                if (best_at < 0 || from[at] > best || from[at] != from[at]) {
                    best = from[at];
                    best_at = to;
                }
                for (int i = x->rank - 1; i >= 2; i--) {
                    if (++index[i] < x->dim[i]) break;
                    index[i] = 0;
                }
            }
            if (best_at < 0) continue;
            ((float *)gx->data)[best_at] =
                ((const float *)j->gy->data)[n * j->gy->stride[0] + c * j->gy->stride[1]];
        }
    return NB_OK;
}

nb_status nbi_grad_globalmaxpool(const nbi_grad_call *call) {
    pool_job j = {.x = &call->in[0], .gy = &call->gout[0], .gx = &call->gin[0]};
    if (!j.gx->data) return NB_OK;
    nbi_grad_zero(j.gx);
    return nbi_parallel(call->ctx, (size_t)j.gx->dim[0], 1, largest, &j);
}
