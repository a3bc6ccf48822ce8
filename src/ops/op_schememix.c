/* org.nibble::SchemeMix, the quantizing vertex of a scheme search (docs/searches.md, after AutoQNN): all
 * candidates quantize the tensor, weighted by p, before the operator reads it:
 *   y = Σ p_i·Q_i(x);   dL/dp_i = ⟨G, Q_i(x)⟩;   dL/dx = Σ p_i·(backward of Q_i).
 * Each candidate is fitted anew to x, to at most SAMPLE evenly spaced values of each group; its
 * outputs are computed again in backward instead of being kept.
 *
 * in:  x; p [candidates] (a softmax over logits, noise and temperature made it).
 * out: y; fitted params (optional) [groups, sum of the candidates' n_params], which spares backward
 *      a second fit.
 * Attributes: candidates ("binary:1 ternary:2 …": scheme and bits), role ("weights" |
 * "activations"), unsigned, axis (−1: per tensor). A candidate without an unsigned form uses its
 * signed one. */
#include "ops/op_groups.h"
#include "ops/op_util.h"
#include "schemes/schemes.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK  16384 /* values of one sum: the border of threads, never of results */
#define SAMPLE 16384

static nb_status read_candidate(nb_ctx *ctx, const nbi_node *node, const char *text, size_t length,
                                bool is_unsigned, bool weights) {
    nbi_schememix_params *p = node->params;
    char name[32];
    const char *colon = memchr(text, ':', length);
    if (p->n == NBI_MIX_MAX)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (SchemeMix): more than %d candidates",
                       node->name, NBI_MIX_MAX);
    size_t letters = colon ? (size_t)(colon - text) : length;
    if (letters >= sizeof name) letters = sizeof name - 1;
    memcpy(name, text, letters);
    name[letters] = 0;
    const nbi_scheme *s = nbi_scheme_find(name);
    if (!s || !colon)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (SchemeMix): candidate '%.*s' is not SCHEME:BITS of 'nibble list "
                       "schemes'",
                       node->name, (int)length, text);
    nbi_scheme_use *use = &p->use[p->n];
    *use = (nbi_scheme_use){.bits = (int)strtol(colon + 1, NULL, 10), .weights = weights};
    use->is_unsigned = is_unsigned && (s->flags & NBI_SCHEME_UNSIGNED);
    p->scheme[p->n++] = s;
    return nbi_scheme_check(ctx, node->name, s, use);
}

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_schememix_params)));
    nbi_schememix_params *p = node->params;
    const char *text = nbi_attr_text(node, "candidates", ""), *role = nbi_attr_text(node, "role", "");
    bool weights = !strcmp(role, "weights"), is_unsigned = nbi_attr_int(node, "unsigned", 0) != 0;
    if (!weights && strcmp(role, "activations"))
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (SchemeMix): role is '%s', want weights or activations",
                       node->name, role);
    p->n = 0;
    while (*text) {
        size_t length = strcspn(text, " ");
        if (length) NB_TRY(read_candidate(ctx, node, text, length, is_unsigned, weights));
        text += length + (text[length] == ' ');
    }
    if (!p->n) return nb_fail(ctx, NB_EFORMAT, "node '%s' (SchemeMix): no candidates", node->name);
    p->columns = 0;
    for (int i = 0; i < p->n; i++) {
        p->column[i] = p->columns;
        p->columns += p->scheme[i]->n_params(&p->use[i]);
    }
    return NB_OK;
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_schememix_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *mix = nbi_op_in(graph, node, 1);
    int64_t axis = nbi_attr_int(node, "axis", -1), dim[2] = {1, p->columns};
    p->axis = -1;
    if (axis != -1 && x->rank >= 0) {
        NB_TRY(nbi_op_axis(ctx, node, "axis", axis, x->rank, &p->axis));
        dim[0] = x->dim[p->axis];
    } else if (axis != -1) {
        dim[0] = -1;
    }
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, 1));
    if (mix->rank == 1 && mix->dim[0] >= 0 && mix->dim[0] != p->n)
        return nbi_op_fail(ctx, node, "values of p", mix->dim[0], "one per candidate");
    NB_TRY(nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_F32, x->rank, x->dim));
    if (node->n_out > 1 && node->out[1] >= 0)
        NB_TRY(nbi_op_set_out(ctx, graph, node, 1, NB_DTYPE_F32, 2, dim));
    return NB_OK;
}

/* One call: group g is x[g·n … g·n + n − 1]. */
typedef struct job {
    nb_ctx *ctx;
    const nbi_schememix_params *p;
    size_t groups, n, chunks; /* chunks of one group */
    const float *x, *g;
    float *y;    /* x̂, or dx; NULL: not wanted */
    float *fitted; /* [groups][columns] */
    float mix[NBI_MIX_MAX];
    double *sums; /* [groups·chunks][candidates], or NULL */
} job;

static nb_status make_job(nb_ctx *ctx, const nbi_node *node, const nbi_view *in, job *j) {
    const nbi_schememix_params *p = node->params;
    const float *mix = in[1].data;
    *j = (job){.ctx = ctx, .p = p};
    for (int i = 0; i < p->n; i++) j->mix[i] = mix[i * in[1].stride[0]];
    j->groups = p->axis < 0 ? 1 : (size_t)in[0].dim[p->axis];
    j->n = j->groups ? (size_t)nbi_view_count(&in[0]) / j->groups : 0;
    j->chunks = (j->n + CHUNK - 1) / CHUNK;
    return NB_OK;
}

/* One group and one candidate. */
static nb_status fit_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    float *sample = NULL;
    size_t step = (j->n + SAMPLE - 1) / SAMPLE, n = step ? (j->n + step - 1) / step : 0;
    (void)worker;
    if (step > 1) NB_TRY(nbi_alloc(j->ctx, n, sizeof *sample, &sample));
    for (size_t i = begin; i < end; i++) {
        size_t g = i / (size_t)j->p->n, c = i % (size_t)j->p->n;
        const float *x = j->x + g * j->n;
        for (size_t k = 0; sample && k < n; k++) sample[k] = x[k * step];
        j->p->scheme[c]->fit(&j->p->use[c], sample ? sample : x, n,
                             j->fitted + g * (size_t)j->p->columns + j->p->column[c]);
    }
    nbi_free(sample);
    return NB_OK;
}

static nb_status fit(job *j) {
    return nbi_parallel(j->ctx, j->groups * (size_t)j->p->n, 1 + CHUNK / (j->n + 1), fit_items, j);
}

static nb_status forward_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    float *room;
    (void)worker;
    NB_TRY(nbi_alloc(j->ctx, CHUNK, sizeof *room, &room));
    for (size_t i = begin; i < end; i++) {
        size_t g = i / j->chunks, at = i % j->chunks * CHUNK, first = g * j->n + at;
        size_t n = j->n - at < CHUNK ? j->n - at : CHUNK;
        const float *params = j->fitted + g * (size_t)j->p->columns;
        float *y = j->y + first;
        for (int c = 0; c < j->p->n; c++) {
            float m = j->mix[c];
            j->p->scheme[c]->forward(&j->p->use[c], params + j->p->column[c], j->x + first, room, n);
            if (c == 0)
                for (size_t k = 0; k < n; k++) y[k] = m * room[k];
            else
                for (size_t k = 0; k < n; k++) y[k] += m * room[k];
        }
    }
    nbi_free(room);
    return NB_OK;
}

static size_t items_at_once(const job *j) {
    return 1 + CHUNK / (j->n + 1);
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    float *room[3] = {NULL}, *from;
    job j;
    nb_status st;
    NB_TRY(make_job(call->ctx, call->node, call->in, &j));
    if (!j.groups || !j.n) return NB_OK;
    /* y may not overwrite x: every candidate reads it */
    bool direct = nbi_is_grouped(x, j.p->axis) && nbi_same_strides(x, y) && x->data != y->data;
    NB_TRYG(nbi_alloc(call->ctx, j.groups * (size_t)j.p->columns + 1, sizeof(float), &room[0]));
    j.fitted = room[0];
    NB_TRYG(nbi_grouped(call->ctx, x, j.p->axis, direct, true, &room[1], &from));
    j.x = from;
    NB_TRYG(fit(&j));
    NB_TRYG(nbi_grouped(call->ctx, y, j.p->axis, direct, false, &room[2], &j.y));
    NB_TRYG(nbi_parallel(call->ctx, j.groups * j.chunks, items_at_once(&j), forward_items, &j));
    if (!direct) nbi_ungroup(y, j.p->axis, j.y);
    if (call->node->n_out > 1 && call->out[1].data) nbi_ungroup(&call->out[1], -1, j.fitted);
done:
    for (size_t i = 0; i < NBI_COUNT(room); i++) nbi_free(room[i]);
    return st;
}

static nb_status backward_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    float *room, *scaled;
    (void)worker;
    NB_TRY(nbi_alloc(j->ctx, 2 * CHUNK, sizeof *room, &room));
    scaled = room + CHUNK;
    for (size_t i = begin; i < end; i++) {
        size_t g = i / j->chunks, at = i % j->chunks * CHUNK, first = g * j->n + at;
        size_t n = j->n - at < CHUNK ? j->n - at : CHUNK;
        const float *params = j->fitted + g * (size_t)j->p->columns, *grad = j->g + first;
        for (int c = 0; c < j->p->n; c++) {
            const nbi_scheme *s = j->p->scheme[c];
            double *sum = &j->sums[i * (size_t)j->p->n + (size_t)c];
            s->forward(&j->p->use[c], params + j->p->column[c], j->x + first, room, n);
            for (size_t k = 0; k < n; k++) *sum += (double)grad[k] * (double)room[k];
            if (!j->y) continue;
            for (size_t k = 0; k < n; k++) scaled[k] = j->mix[c] * grad[k];
            s->backward(&j->p->use[c], params + j->p->column[c], j->x + first, scaled, n, j->n,
                        room, NULL, NULL);
            float *dx = j->y + first;
            if (c == 0)
                memcpy(dx, room, n * sizeof *dx);
            else
                for (size_t k = 0; k < n; k++) dx[k] += room[k];
        }
    }
    nbi_free(room);
    return NB_OK;
}

static nb_status clear(const nbi_grad_call *call) {
    for (int i = 0; i < 2; i++) {
        const nbi_view *v = &call->gin[i];
        float *zeros = NULL;
        size_t n = v->data ? (size_t)nbi_view_count(v) : 0;
        if (!n) continue;
        NB_TRY(nbi_alloc(call->ctx, n, sizeof *zeros, &zeros));
        nbi_ungroup(v, -1, zeros);
        nbi_free(zeros);
    }
    return NB_OK;
}

static nb_status backward(const nbi_grad_call *call) {
    const nbi_node *node = call->node;
    const nbi_view *x = &call->in[0], *g = &call->gout[0], *dx = &call->gin[0], *dp = &call->gin[1];
    float *room[4] = {NULL}, *from;
    double *sums = NULL;
    job j;
    nb_status st;
    NB_TRY(make_job(call->ctx, node, call->in, &j));
    if (!g->data || !j.groups || !j.n) return clear(call);
    bool direct = nbi_is_grouped(x, j.p->axis) && nbi_same_strides(x, g) && dx->data != g->data &&
                  (!dx->data || nbi_same_strides(x, dx));
    NB_TRYG(nbi_alloc(call->ctx, j.groups * (size_t)j.p->columns + 1, sizeof(float), &room[0]));
    j.fitted = room[0];
    NB_TRYG(nbi_grouped(call->ctx, x, j.p->axis, direct, true, &room[1], &from));
    j.x = from;
    NB_TRYG(nbi_grouped(call->ctx, g, j.p->axis, direct, true, &room[2], &from));
    j.g = from;
    if (dx->data) NB_TRYG(nbi_grouped(call->ctx, dx, j.p->axis, direct, false, &room[3], &j.y));
    if (node->n_out > 1 && call->out[1].data) {
        nbi_view rows = call->out[1];
        rows.data = j.fitted;
        nbi_view_contiguous(&rows);
        nbi_view_copy(&rows, &call->out[1]);
    } else {
        NB_TRYG(fit(&j));
    }
    NB_TRYG(nbi_alloc(call->ctx, j.groups * j.chunks * (size_t)j.p->n, sizeof *sums, &sums));
    j.sums = sums;
    NB_TRYG(nbi_parallel(call->ctx, j.groups * j.chunks, items_at_once(&j), backward_items, &j));
    if (dx->data && !direct) nbi_ungroup(dx, j.p->axis, j.y);
    for (int c = 0; dp->data && c < j.p->n; c++) {
        double sum = 0;
        for (size_t i = 0; i < j.groups * j.chunks; i++) sum += sums[i * (size_t)j.p->n + (size_t)c];
        ((float *)dp->data)[c * dp->stride[0]] = (float)sum;
    }
done:
    for (size_t i = 0; i < NBI_COUNT(room); i++) nbi_free(room[i]);
    nbi_free(sums);
    return st;
}

const nbi_op nbi_op_schememix = {.name = "SchemeMix",
                                 .types = NBI_TYPES_FLOAT,
                                 .domain = "org.nibble",
                                 .min_opset = 1,
                                 .min_in = 2,
                                 .max_in = 2,
                                 .min_out = 1,
                                 .max_out = 2,
                                 .flags = NBI_OP_STRIDED,
                                 .prepare = prepare,
                                 .infer = infer,
                                 .forward = forward,
                                 .backward = backward,
                                 .keep_in = 3,
                                 .keep_out = 2,
                                 .grad_in = 3};
