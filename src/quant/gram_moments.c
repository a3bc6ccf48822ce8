/* Rows of patches (im2col) of a few thousand pixels at a time. Codes are small integers, so a float32
 * matrix product of so many rows is exact, whatever order it sums in; the products of such blocks
 * are added in double. Narrow layers (depthwise ones) need no matrix product. */
#include "quant/gram_moments.h"

#include "linalg/linalg.h"

#include <math.h>
#include <string.h>

#define NARROW    32   /* inputs: loops of our own below */
#define MOST_ROWS 4096 /* of one block */
#define SLICE     16   /* inputs per task of the cross moments */

size_t nbi_moments_width(const nbi_layer *l) {
    return l->n_weights / (size_t)l->geometry.out_c;
}

void nbi_moments_free(nbi_moments *m) {
    nbi_free(m->xx);
    nbi_free(m->xt);
    nbi_free(m->tt);
    nbi_free(m->x);
    nbi_free(m->t);
    *m = (nbi_moments){0};
}

nb_status nbi_moments_new(nb_ctx *ctx, const nbi_layer *l, nbi_moments *out) {
    nbi_moments m = {.k = nbi_moments_width(l),
                     .m = (size_t)(l->geometry.out_c / l->geometry.groups)};
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, m.k * m.k, sizeof(double), &m.xx));
    NB_TRYG(nbi_alloc(ctx, m.m * m.k, sizeof(double), &m.xt));
    NB_TRYG(nbi_alloc(ctx, m.m, sizeof(double), &m.tt));
    NB_TRYG(nbi_alloc(ctx, m.k, sizeof(double), &m.x));
    NB_TRYG(nbi_alloc(ctx, m.m, sizeof(double), &m.t));
    *out = m;
    return NB_OK;
done:
    nbi_moments_free(&m);
    return st;
}

typedef struct block {
    nb_ctx *ctx;
    const nbi_gram_sample *s;
    int group;
    size_t k, m, first, rows; /* rows of this block */
    float *x;      /* [rows][k] codes less the zero point; 0 in the padding */
    double *xt;    /* [k][m] */
} block;

/* One patch of one group. */
static void gather(const nbi_gram_sample *s, int group, size_t row, float *out) {
    const nbk_conv *g = &s->layer->geometry;
    size_t image = row / s->pixels, p = s->pixel ? s->pixel[row] : row % s->pixels;
    const uint8_t *in = s->codes + image * s->bytes;
    int depth = g->in_c / g->groups, zero = s->x->zero;
    int y0 = (int)p / g->out_w * g->sh - g->pt, x0 = (int)p % g->out_w * g->sw - g->pl;
    bool is_signed = s->x->dtype == NB_DTYPE_S8;
    for (int ky = 0; ky < g->kh; ky++)
        for (int kx = 0; kx < g->kw; kx++, out += depth) {
            int y = y0 + ky * g->dh, x = x0 + kx * g->dw;
            if (y < 0 || y >= g->in_h || x < 0 || x >= g->in_w) {
                memset(out, 0, (size_t)depth * sizeof *out);
                continue;
            }
            const uint8_t *v = in + ((size_t)y * (size_t)g->in_w + (size_t)x) * (size_t)g->in_c +
                               (size_t)(group * depth);
            if (is_signed)
                for (int c = 0; c < depth; c++) out[c] = (float)((int)(int8_t)v[c] - zero);
            else
                for (int c = 0; c < depth; c++) out[c] = (float)((int)v[c] - zero);
        }
}

static nb_status gather_rows(void *user, size_t begin, size_t end, int worker) {
    const block *b = user;
    (void)worker;
    for (size_t r = begin; r < end; r++) gather(b->s, b->group, b->first + r, b->x + r * b->k);
    return NB_OK;
}

NBI_WIDE static void add_scaled(float *restrict y, const float *restrict x, float f, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += f * x[i];
}

/* Σ x·t of some inputs over the block: float32 inside the block, double beyond. */
static nb_status cross_slice(void *user, size_t begin, size_t end, int worker) {
    const block *b = user;
    const float *t = b->s->wanted + b->first * (size_t)b->s->layer->geometry.out_c +
                     (size_t)b->group * b->m;
    float *sum;
    (void)worker;
    NB_TRY(nbi_alloc(b->ctx, (end - begin) * b->m, sizeof *sum, &sum));
    for (size_t r = 0; r < b->rows; r++) {
        const float *x = b->x + r * b->k, *tr = t + r * (size_t)b->s->layer->geometry.out_c;
        for (size_t i = begin; i < end; i++)
            if (x[i] != 0) add_scaled(sum + (i - begin) * b->m, tr, x[i], b->m);
    }
    for (size_t i = 0; i < (end - begin) * b->m; i++) b->xt[begin * b->m + i] += (double)sum[i];
    nbi_free(sum);
    return NB_OK;
}

/* Σ x·x by rows: few inputs. */
static void add_narrow(const block *b, double *xx) {
    for (size_t r = 0; r < b->rows; r++) {
        const float *x = b->x + r * b->k;
        for (size_t i = 0; i < b->k; i++)
            for (size_t j = 0; j < b->k; j++) xx[i * b->k + j] += (double)x[i] * (double)x[j];
    }
}

/* The largest number of rows whose products of codes sum exactly in float32. */
static size_t exact_rows(const nbi_qparam *x) {
    double top = fmax((double)x->hi - (double)x->zero, (double)x->zero - (double)x->lo);
    double rows = floor(0x1p24 / fmax(top * top, 1));
    return rows > MOST_ROWS ? MOST_ROWS : rows < 1 ? 1 : (size_t)rows;
}

/* Plain moments become central ones. */
static void centre(nbi_moments *o, const double *xt, double n) {
    for (size_t i = 0; i < o->k; i++) o->x[i] /= n;
    for (size_t c = 0; c < o->m; c++) {
        o->t[c] /= n;
        o->tt[c] = o->tt[c] / n - o->t[c] * o->t[c];
        for (size_t i = 0; i < o->k; i++)
            o->xt[c * o->k + i] = xt[i * o->m + c] / n - o->x[i] * o->t[c];
    }
    for (size_t i = 0; i < o->k; i++)
        for (size_t j = 0; j < o->k; j++)
            o->xx[i * o->k + j] = o->xx[i * o->k + j] / n - o->x[i] * o->x[j];
}

typedef struct product { /* the matrix product of a block with itself */
    nbi_la *la;
    nbi_la_plan *plan;
    float *out;
} product;

static nb_status product_new(nb_ctx *ctx, size_t rows, size_t k, product *p) {
    nbi_la_gemm_desc d = {.n = (int64_t)rows, .k = (int64_t)k, .m = (int64_t)k};
    if (k <= NARROW) return NB_OK;
    NB_TRY(nbi_la_new(ctx, &p->la));
    NB_TRY(nbi_la_gemm_train(ctx, p->la, &d, NBI_LA_BACKWARD_WEIGHTS, false, false, &p->plan));
    return nbi_alloc(ctx, k * k, sizeof *p->out, &p->out);
}

static void product_free(product *p) {
    nbi_la_plan_free(p->plan);
    nbi_la_free(p->la);
    nbi_free(p->out);
}

static nb_status add_block(nb_ctx *ctx, block *b, product *p, size_t room, nbi_moments *o) {
    const nbi_gram_sample *s = b->s;
    size_t k = b->k, stride = (size_t)s->layer->geometry.out_c;
    NB_TRY(nbi_parallel(ctx, b->rows, 64, gather_rows, b));
    if (p->plan) {
        memset(b->x + b->rows * k, 0, (room - b->rows) * k * sizeof *b->x);
        nbi_la_args a = {.x = b->x, .y = b->x, .w = p->out};
        NB_TRY(nbi_la_run_train(ctx, p->la, p->plan, &a));
        for (size_t i = 0; i < k * k; i++) o->xx[i] += (double)p->out[i];
    } else {
        add_narrow(b, o->xx);
    }
    for (size_t r = 0; r < b->rows; r++) {
        const float *t = s->wanted + (b->first + r) * stride + (size_t)b->group * b->m;
        for (size_t i = 0; i < k; i++) o->x[i] += (double)b->x[r * k + i];
        for (size_t c = 0; c < b->m; c++) {
            o->t[c] += (double)t[c];
            o->tt[c] += (double)t[c] * (double)t[c];
        }
    }
    return nbi_parallel(ctx, k, SLICE, cross_slice, b);
}

nb_status nbi_moments_of(nb_ctx *ctx, const nbi_gram_sample *s, int group, nbi_moments *o) {
    size_t k = o->k, total = s->images * s->pixels, room = exact_rows(s->x);
    block b = {.ctx = ctx, .s = s, .group = group, .k = k, .m = o->m};
    product p = {0};
    nb_status st;
    memset(o->xx, 0, k * k * sizeof *o->xx);
    memset(o->x, 0, k * sizeof *o->x);
    memset(o->t, 0, o->m * sizeof *o->t);
    memset(o->tt, 0, o->m * sizeof *o->tt);
    NB_TRYG(nbi_alloc(ctx, room * k, sizeof *b.x, &b.x));
    NB_TRYG(nbi_alloc(ctx, k * o->m, sizeof *b.xt, &b.xt));
    NB_TRYG(product_new(ctx, room, k, &p));
    for (b.first = 0; b.first < total; b.first += room) {
        b.rows = total - b.first < room ? total - b.first : room;
        NB_TRYG(add_block(ctx, &b, &p, room, o));
    }
    centre(o, b.xt, (double)total);
    st = NB_OK;
done:
    product_free(&p);
    nbi_free(b.x);
    nbi_free(b.xt);
    return st;
}
