/* The float facade in plain C, for builds without oneDNN. Convolution is im2col by rows of output
 * pixels and a register-blocked product; depthwise is direct. Work is split by images and rows,
 * sums are in one order, so results do not depend on the number of threads. */
#include "linalg/linalg.h"

#ifndef NIBBLE_HAVE_ONEDNN

#include <math.h>
#include <string.h>

#define TILE 8 /* output channels computed together */
#define ROWS 4 /* output pixels computed together */

struct nbi_la {
    int unused;
};

typedef enum plan_kind { PLAN_CONV, PLAN_POOL } plan_kind;
struct nbi_la_plan {
    plan_kind kind;
    nbi_la_conv_desc c;
    nbi_la_pool_desc p;
    int64_t depth;  /* values per filter: kernel area × C/group */
    int64_t tiles;  /* of TILE channels, per group */
    float *weights; /* group, tile, depth (kh, kw, c), TILE */
    float *bias;    /* group, tile, TILE */
};

const char *nbi_la_name(void) {
    return "plain C";
}

nb_status nbi_la_new(nb_ctx *ctx, nbi_la **out) {
    return nbi_alloc(ctx, 1, sizeof **out, out);
}

void nbi_la_free(nbi_la *la) {
    nbi_free(la);
}

void nbi_la_plan_free(nbi_la_plan *plan) {
    if (!plan) return;
    nbi_free(plan->weights);
    nbi_free(plan->bias);
    nbi_free(plan);
}

static void pack(nbi_la_plan *p, const float *w, const float *bias) {
    const nbi_la_conv_desc *d = &p->c;
    int64_t area = d->kernel[0] * d->kernel[1], cg = d->c / d->group, mg = d->m / d->group;
    for (int64_t g = 0; g < d->group; g++)
        for (int64_t m = 0; m < mg; m++) {
            int64_t tile = g * p->tiles + m / TILE, lane = m % TILE;
            const float *from = w + (g * mg + m) * cg * area;
            float *to = p->weights + tile * p->depth * TILE + lane;
            for (int64_t k = 0; k < area; k++)
                for (int64_t c = 0; c < cg; c++) to[(k * cg + c) * TILE] = from[c * area + k];
            if (bias) p->bias[tile * TILE + lane] = bias[g * mg + m];
        }
}

nb_status nbi_la_conv(nb_ctx *ctx, nbi_la *la, const nbi_la_conv_desc *desc, const float *w,
                      const float *bias, nbi_la_plan **out) {
    nbi_la_plan *p = NULL;
    nb_status st;
    (void)la;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *p, &p));
    p->kind = PLAN_CONV;
    p->c = *desc;
    p->depth = desc->kernel[0] * desc->kernel[1] * (desc->c / desc->group);
    p->tiles = (desc->m / desc->group + TILE - 1) / TILE;
    size_t lanes = (size_t)(p->tiles * desc->group * TILE);
    NB_TRYG(nbi_alloc(ctx, lanes * (size_t)p->depth, sizeof *p->weights, &p->weights));
    NB_TRYG(nbi_alloc(ctx, lanes, sizeof *p->bias, &p->bias));
    pack(p, w, bias);
    *out = p;
    return NB_OK;
done:
    nbi_la_plan_free(p);
    return st;
}

/* A product is a convolution of 1×1 images. */
nb_status nbi_la_gemm(nb_ctx *ctx, nbi_la *la, const nbi_la_gemm_desc *d, const float *w,
                      const float *bias, nbi_la_plan **out) {
    nbi_la_conv_desc c = {.n = 1,
                          .c = d->k,
                          .h = d->n,
                          .w = 1,
                          .m = d->m,
                          .oh = d->n,
                          .ow = 1,
                          .group = 1,
                          .kernel = {1, 1},
                          .stride = {1, 1},
                          .dilation = {1, 1},
                          .clamp = d->clamp,
                          .lo = d->lo,
                          .hi = d->hi};
    return nbi_la_conv(ctx, la, &c, w, bias, out);
}

nb_status nbi_la_pool(nb_ctx *ctx, nbi_la *la, const nbi_la_pool_desc *desc, nbi_la_plan **out) {
    (void)la;
    NB_TRY(nbi_alloc(ctx, 1, sizeof **out, out));
    (*out)->kind = PLAN_POOL;
    (*out)->p = *desc;
    return NB_OK;
}

/* ---- convolution --------------------------------------------------------------------------- */

/* One pixel's receptive field of one group, kh,kw,c; zeros outside the image. */
static void gather(const nbi_la_conv_desc *d, const float *x, int64_t g, int64_t oy, int64_t ox,
                   float *to) {
    int64_t cg = d->c / d->group;
    for (int64_t i = 0; i < d->kernel[0]; i++) {
        int64_t y = oy * d->stride[0] + i * d->dilation[0] - d->pad_begin[0];
        for (int64_t j = 0; j < d->kernel[1]; j++, to += cg) {
            int64_t v = ox * d->stride[1] + j * d->dilation[1] - d->pad_begin[1];
            if (y < 0 || y >= d->h || v < 0 || v >= d->w)
                memset(to, 0, (size_t)cg * sizeof *to);
            else
                memcpy(to, x + (y * d->w + v) * d->c + g * cg, (size_t)cg * sizeof *to);
        }
    }
}

/* acc[r][lane] = Σ_k rows[r][k]·w[k][lane] */
static void product(const float *rows, int64_t depth, const float *w, float acc[ROWS][TILE]) {
    float a0[TILE] = {0}, a1[TILE] = {0}, a2[TILE] = {0}, a3[TILE] = {0};
    const float *r0 = rows, *r1 = r0 + depth, *r2 = r1 + depth, *r3 = r2 + depth;
    for (int64_t k = 0; k < depth; k++, w += TILE)
        for (int l = 0; l < TILE; l++) {
            a0[l] += r0[k] * w[l];
            a1[l] += r1[k] * w[l];
            a2[l] += r2[k] * w[l];
            a3[l] += r3[k] * w[l];
        }
    memcpy(acc[0], a0, sizeof a0);
    memcpy(acc[1], a1, sizeof a1);
    memcpy(acc[2], a2, sizeof a2);
    memcpy(acc[3], a3, sizeof a3);
}

static void store(const nbi_la_plan *p, int64_t tile, const float *acc, int64_t lanes, float *y) {
    const nbi_la_conv_desc *d = &p->c;
    const float *bias = p->bias + tile * TILE;
    for (int64_t l = 0; l < lanes; l++) {
        float v = acc[l] + bias[l] + (d->accumulate ? y[l] : 0);
        if (d->clamp) v = v < d->lo ? d->lo : v > d->hi ? d->hi : v;
        y[l] = v;
    }
}

typedef struct conv_job {
    nb_ctx *ctx;
    const nbi_la_plan *plan;
    const float *x;
    float *y;
} conv_job;

/* One output row: pixels in groups of ROWS. */
static void conv_row(const conv_job *job, int64_t image, int64_t oy, float *rows) {
    const nbi_la_plan *p = job->plan;
    const nbi_la_conv_desc *d = &p->c;
    const float *x = job->x + image * d->h * d->w * d->c;
    float *y = job->y + (image * d->oh + oy) * d->ow * d->m, acc[ROWS][TILE];
    int64_t mg = d->m / d->group;
    for (int64_t ox = 0; ox < d->ow; ox += ROWS) {
        int64_t n = d->ow - ox < ROWS ? d->ow - ox : ROWS;
        for (int64_t g = 0; g < d->group; g++) {
            for (int64_t r = 0; r < n; r++) gather(d, x, g, oy, ox + r, rows + r * p->depth);
            for (int64_t t = 0; t < p->tiles; t++) {
                int64_t lanes = mg - t * TILE < TILE ? mg - t * TILE : TILE;
                int64_t tile = g * p->tiles + t;
                product(rows, p->depth, p->weights + tile * p->depth * TILE, acc);
                for (int64_t r = 0; r < n; r++)
                    store(p, tile, acc[r], lanes, y + (ox + r) * d->m + g * mg + t * TILE);
            }
        }
    }
}

/* One row of a depthwise convolution: channels innermost, so that the compiler vectorizes. */
static void depthwise_row(const conv_job *job, int64_t image, int64_t oy, float *acc) {
    const nbi_la_plan *p = job->plan;
    const nbi_la_conv_desc *d = &p->c;
    const float *x = job->x + image * d->h * d->w * d->c;
    float *y = job->y + (image * d->oh + oy) * d->ow * d->m;
    const float *w = acc + d->c; /* kh,kw,c */
    for (int64_t ox = 0; ox < d->ow; ox++, y += d->m) {
        for (int64_t c = 0; c < d->c; c++) acc[c] = p->bias[c * TILE];
        for (int64_t i = 0; i < d->kernel[0]; i++) {
            int64_t h = oy * d->stride[0] + i * d->dilation[0] - d->pad_begin[0];
            if (h < 0 || h >= d->h) continue;
            for (int64_t j = 0; j < d->kernel[1]; j++) {
                int64_t v = ox * d->stride[1] + j * d->dilation[1] - d->pad_begin[1];
                if (v < 0 || v >= d->w) continue;
                const float *xp = x + (h * d->w + v) * d->c,
                            *wp = w + (i * d->kernel[1] + j) * d->c;
                for (int64_t c = 0; c < d->c; c++) acc[c] += xp[c] * wp[c];
            }
        }
        for (int64_t c = 0; c < d->c; c++) {
            float s = acc[c] + (d->accumulate ? y[c] : 0);
            if (d->clamp) s = s < d->lo ? d->lo : s > d->hi ? d->hi : s;
            y[c] = s;
        }
    }
}

static nb_status conv_rows(void *user, size_t begin, size_t end, int worker) {
    const conv_job *job = user;
    const nbi_la_plan *p = job->plan;
    bool depthwise = p->c.group > 1 && p->c.group == p->c.c && p->c.m == p->c.c;
    size_t area = (size_t)p->depth;
    size_t need = depthwise ? (size_t)p->c.c * (area + 1) : ROWS * area;
    float *scratch = NULL;
    (void)worker;
    NB_TRY(nbi_alloc(job->ctx, need, sizeof *scratch, &scratch));
    if (depthwise)
        for (size_t c = 0; c < (size_t)p->c.c; c++)
            for (size_t k = 0; k < area; k++)
                scratch[(k + 1) * (size_t)p->c.c + c] = p->weights[(c * area + k) * TILE];
    for (size_t r = begin; r < end; r++) {
        int64_t image = (int64_t)r / p->c.oh, oy = (int64_t)r % p->c.oh;
        if (depthwise)
            depthwise_row(job, image, oy, scratch);
        else
            conv_row(job, image, oy, scratch);
    }
    nbi_free(scratch);
    return NB_OK;
}

/* ---- pooling ------------------------------------------------------------------------------- */

static void pool_pixel(const nbi_la_pool_desc *d, const float *x, int64_t oy, int64_t ox,
                       float *y) {
    int64_t count = 0;
    for (int64_t c = 0; c < d->c; c++) y[c] = d->max ? -INFINITY : 0;
    for (int64_t i = 0; i < d->kernel[0]; i++) {
        int64_t h = oy * d->stride[0] + i - d->pad_begin[0];
        if (h < 0 || h >= d->h) continue;
        for (int64_t j = 0; j < d->kernel[1]; j++) {
            int64_t v = ox * d->stride[1] + j - d->pad_begin[1];
            if (v < 0 || v >= d->w) continue;
            const float *xp = x + (h * d->w + v) * d->c;
            count++;
            if (d->max)
                for (int64_t c = 0; c < d->c; c++) y[c] = y[c] > xp[c] ? y[c] : xp[c];
            else
                for (int64_t c = 0; c < d->c; c++) y[c] += xp[c];
        }
    }
    if (d->max) return;
    if (d->include_pad) count = d->kernel[0] * d->kernel[1];
    for (int64_t c = 0; c < d->c; c++) y[c] /= (float)count;
}

static nb_status pool_rows(void *user, size_t begin, size_t end, int worker) {
    const conv_job *job = user;
    const nbi_la_pool_desc *d = &job->plan->p;
    (void)worker;
    for (size_t r = begin; r < end; r++) {
        int64_t image = (int64_t)r / d->oh, oy = (int64_t)r % d->oh;
        for (int64_t ox = 0; ox < d->ow; ox++)
            pool_pixel(d, job->x + image * d->h * d->w * d->c, oy, ox,
                       job->y + ((image * d->oh + oy) * d->ow + ox) * d->c);
    }
    return NB_OK;
}

nb_status nbi_la_run(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, const float *x, float *y) {
    conv_job job = {ctx, plan, x, y};
    (void)la;
    bool conv = plan->kind == PLAN_CONV;
    size_t n = (size_t)(conv ? plan->c.n * plan->c.oh : plan->p.n * plan->p.oh);
    return nbi_parallel(ctx, n, 8, conv ? conv_rows : pool_rows, &job);
}

/* ---- training: the operators' own reference is the fallback ---- */

static nb_status no_training(nb_ctx *ctx) {
    return nb_fail(ctx, NB_EUNSUPPORTED, "this build has no fast training kernels");
}

nb_status nbi_la_conv_train(nb_ctx *ctx, nbi_la *la, const nbi_la_conv_desc *desc, nbi_la_pass pass,
                            bool bias, nbi_la_plan **out) {
    (void)la, (void)desc, (void)pass, (void)bias, (void)out;
    return no_training(ctx);
}

nb_status nbi_la_gemm_train(nb_ctx *ctx, nbi_la *la, const nbi_la_gemm_desc *desc, nbi_la_pass pass,
                            bool bias, bool transposed, nbi_la_plan **out) {
    (void)la, (void)desc, (void)pass, (void)bias, (void)transposed, (void)out;
    return no_training(ctx);
}

nb_status nbi_la_run_train(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, const nbi_la_args *args) {
    (void)la, (void)plan, (void)args;
    return no_training(ctx);
}

#else
/* oneDNN is there; ISO C wants a declaration in every file. */
typedef int nbi_la_ref_unused;
#endif
