/* org.nibble::RangeQuant: a step d and a range q, both learned (differentiable quantization, Uhlich
 * et al.; docs/searches.md), d rounded to a power of two; d = 2^round(s0), q = 2^s1:
 *   y = sgn(x)·d·round(|x|/d) where |x| ≤ q (inside), else sgn(x)·q
 * Straight-through, dy/dx is 1 inside and 0 outside, dy/dd is (y − x)/d inside and 0 outside, and
 * dy/dq is 0 inside and sgn(x) outside; so
 *   dL/ds0 = ln2·Σ g·(y − x) over inside,   dL/ds1 = ln2·q·Σ g·sgn(x) over outside.
 *
 * in:  x; s [2] = log2 of d and of q. out: y.
 * Attribute unsigned: values below 0 become 0, without a gradient. */
#include "ops/op_groups.h"
#include "ops/op_util.h"

#include <math.h>

#define CHUNK 65536 /* values of one sum: the border of threads, never of results */
#define LN2   0.69314718055994530942

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_rangequant_params)));
    nbi_rangequant_params *p = node->params;
    p->is_unsigned = nbi_attr_int(node, "unsigned", 0) != 0;
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *s = nbi_op_in(graph, node, 1);
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, 1));
    if (nbi_shape_known(s) && nbi_tensor_count(s) != 2)
        return nbi_op_fail(ctx, node, "values of s", nbi_tensor_count(s), "2");
    return nbi_op_infer_same(ctx, graph, node);
}

typedef struct job {
    float step, range, low; /* low: −range, unsigned 0 */
    size_t n;
    const float *x, *g;
    float *y;     /* or dx; NULL: not wanted */
    double *sums; /* [chunks][2]: of g·(y − x) inside, of g·sgn(x) outside */
} job;

static nb_status make_job(nb_ctx *ctx, const nbi_node *node, const nbi_view *in, job *j) {
    const nbi_rangequant_params *p = node->params;
    const float *s = in[1].data;
    *j = (job){.step = exp2f(rintf(s[0])), .range = exp2f(s[in[1].stride[0]])};
    j->low = p->is_unsigned ? 0 : -j->range;
    j->n = (size_t)nbi_view_count(&in[0]);
    if (isfinite(j->step) && isfinite(j->range) && j->step > 0) return NB_OK;
    return nb_fail(ctx, NB_ENUMERIC, "node '%s' (RangeQuant): the step is %g, the range %g",
                   node->name, (double)j->step, (double)j->range);
}

static nb_status forward_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    float inverse = 1 / j->step; /* exact: a power of two */
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float x = j->x[i], y = rintf(x * inverse) * j->step;
        y = x > j->range ? j->range : y;
        j->y[i] = x < j->low ? j->low : y;
    }
    return NB_OK;
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    float *room[2] = {NULL}, *from;
    job j;
    nb_status st;
    NB_TRY(make_job(call->ctx, call->node, call->in, &j));
    if (!j.n) return NB_OK;
    bool direct = nbi_is_grouped(x, -1) && nbi_same_strides(x, y);
    NB_TRYG(nbi_grouped(call->ctx, x, -1, direct, true, &room[0], &from));
    j.x = from;
    NB_TRYG(nbi_grouped(call->ctx, y, -1, direct, false, &room[1], &j.y));
    NB_TRYG(nbi_parallel(call->ctx, j.n, CHUNK, forward_items, &j));
    if (!direct) nbi_ungroup(y, -1, j.y);
done:
    nbi_free(room[0]);
    nbi_free(room[1]);
    return st;
}

static nb_status backward_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    float inverse = 1 / j->step;
    (void)worker;
    for (size_t c = begin; c < end; c++) {
        size_t last = (c + 1) * CHUNK < j->n ? (c + 1) * CHUNK : j->n;
        double inside = 0, outside = 0;
        for (size_t i = c * CHUNK; i < last; i++) {
            float x = j->x[i], g = j->g[i];
            bool above = x > j->range, below = x < j->low;
            double error = (double)(rintf(x * inverse) * j->step) - (double)x;
            inside += above || below ? 0 : (double)g * error;
            outside += above ? (double)g : below && j->low < 0 ? -(double)g : 0;
            if (j->y) j->y[i] = above || below ? 0 : g;
        }
        j->sums[2 * c] = inside;
        j->sums[2 * c + 1] = outside;
    }
    return NB_OK;
}

static void write_sums(const nbi_view *ds, const job *j, size_t chunks) {
    double inside = 0, outside = 0;
    for (size_t c = 0; c < chunks; c++) {
        inside += j->sums[2 * c];
        outside += j->sums[2 * c + 1];
    }
    ((float *)ds->data)[0] = (float)(LN2 * inside);
    ((float *)ds->data)[ds->stride[0]] = (float)(LN2 * (double)j->range * outside);
}

static nb_status backward(const nbi_grad_call *call) {
    const nbi_view *x = &call->in[0], *g = &call->gout[0], *dx = &call->gin[0], *ds = &call->gin[1];
    float *room[3] = {NULL}, *from;
    double *sums = NULL;
    job j;
    nb_status st;
    NB_TRY(make_job(call->ctx, call->node, call->in, &j));
    size_t chunks = g->data ? (j.n + CHUNK - 1) / CHUNK : 0;
    bool direct = g->data && nbi_is_grouped(x, -1) && nbi_same_strides(x, g) &&
                  (!dx->data || nbi_same_strides(x, dx));
    if (chunks) {
        NB_TRYG(nbi_grouped(call->ctx, x, -1, direct, true, &room[0], &from));
        j.x = from;
        NB_TRYG(nbi_grouped(call->ctx, g, -1, direct, true, &room[1], &from));
        j.g = from;
    }
    if (dx->data && j.n) NB_TRYG(nbi_grouped(call->ctx, dx, -1, direct, false, &room[2], &j.y));
    NB_TRYG(nbi_alloc(call->ctx, 2 * chunks + 1, sizeof *sums, &sums));
    j.sums = sums;
    if (chunks) NB_TRYG(nbi_parallel(call->ctx, chunks, 1, backward_items, &j));
    if (dx->data && j.n && !direct) nbi_ungroup(dx, -1, j.y); /* zeros where nothing flowed in */
    if (ds->data) write_sums(ds, &j, chunks);
    st = NB_OK;
done:
    for (size_t i = 0; i < NBI_COUNT(room); i++) nbi_free(room[i]);
    nbi_free(sums);
    return st;
}

const nbi_op nbi_op_rangequant = {.name = "RangeQuant",
                                  .types = NBI_TYPES_FLOAT,
                                  .domain = "org.nibble",
                                  .min_opset = 1,
                                  .min_in = 2,
                                  .max_in = 2,
                                  .min_out = 1,
                                  .max_out = 1,
                                  .flags = NBI_OP_STRIDED | NBI_OP_INPLACE | NBI_OP_GRAD_INPLACE,
                                  .prepare = prepare,
                                  .infer = infer,
                                  .forward = forward,
                                  .backward = backward,
                                  .keep_in = 3,
                                  .grad_in = 3};
