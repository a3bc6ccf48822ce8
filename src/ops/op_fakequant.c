/* org.nibble::FakeQuant, the operator of training with quantization: y = x̂ by a scheme, which is
 * called through its const row (ir/scheme.h); no scheme is known here.
 *
 * in:  x; params [groups, P], P ≥ the scheme's n_params at its widest width in use; bits (optional,
 *      one value): its rounded value is the width, and it gets a gradient. With candidates: which of
 *      them quantizes, counted from 0, without a gradient.
 * out: y; new params (optional) [groups, P]; used params (optional) [groups, P], which spares
 *      backward a second fit.
 * Attributes: scheme, role ("weights" | "activations"), bits, unsigned, axis (−1: per tensor),
 * training, decay, exact_bits, range ("mse" …); candidates ("lsq:4 pot:3 codebook:2:whole …", in
 * place of scheme and bits: scheme, width, and whether one group is made of the tensor all the same;
 * one without an unsigned form uses its signed one).
 *
 * In training a REFIT scheme is fitted to x. New params are then: weights, the fitted ones;
 * activations, decay·params + (1 − decay)·fitted, or the fitted ones where params are all zero (not
 * set yet). In evaluation params are used as they are, and passed on. What is learned comes from
 * params always. */
#include "ops/op_groups.h"
#include "ops/op_util.h"
#include "schemes/schemes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHUNK 65536 /* values of one sum: the border of threads, never of results */

static nb_status fail_text(nb_ctx *ctx, const nbi_node *node, const char *what, const char *found,
                           const char *wanted) {
    return nb_fail(ctx, NB_EFORMAT, "node '%s' (FakeQuant): %s is '%s', want %s", node->name, what,
                   found, wanted);
}

static nb_status read_range(nb_ctx *ctx, const nbi_node *node, nbi_range_method *out) {
    static const char *const names[NBI_RANGE_METHODS] = {"mse", "minmax", "percentile", "kl"};
    const char *text = nbi_attr_text(node, "range", "mse");
    for (int i = 0; i < NBI_RANGE_METHODS; i++)
        if (!strcmp(text, names[i])) {
            *out = (nbi_range_method)i;
            return NB_OK;
        }
    return fail_text(ctx, node, "range", text, "mse, minmax, percentile or kl");
}

/* "SCHEME:BITS" or "SCHEME:BITS:whole" of `n` characters. */
static nb_status read_candidate(nb_ctx *ctx, const nbi_node *node, const char *text, size_t n,
                                nbi_fakequant_candidate *out) {
    const nbi_fakequant_params *p = node->params;
    char word[48] = "", name[32] = "", rest[8] = "";
    int bits = 0;
    if (n < sizeof word) memcpy(word, text, n);
    int found = sscanf(word, "%31[^:]:%d:%7s", name, &bits, rest);
    out->scheme = nbi_scheme_find(name);
    out->whole = found == 3;
    out->use = p->use;
    out->use.bits = bits;
    if (found < 2 || !out->scheme || (found == 3 && strcmp(rest, "whole")) || bits < 1 || bits > 8)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (FakeQuant): candidate '%.*s' is not SCHEME:BITS "
                       "of 'nibble list schemes'", node->name, n < 40 ? (int)n : 40, text);
    if (!(out->scheme->flags & NBI_SCHEME_UNSIGNED)) out->use.is_unsigned = false;
    return nbi_scheme_check(ctx, node->name, out->scheme, &out->use);
}

static nb_status read_candidates(nb_ctx *ctx, nbi_graph *graph, const nbi_node *node,
                                 const char *text) {
    nbi_fakequant_params *p = node->params;
    int n = 1;
    for (const char *c = text; *c; c++) n += *c == ' ';
    p->candidate = nbi_arena_alloc(&graph->arena, (size_t)n, sizeof *p->candidate);
    if (!p->candidate) return nb_fail_memory(ctx, (size_t)n * sizeof *p->candidate);
    while (*text) {
        size_t length = strcspn(text, " ");
        if (length) NB_TRY(read_candidate(ctx, node, text, length, &p->candidate[p->n++]));
        text += length + (text[length] == ' ');
    }
    if (!p->n) return nb_fail(ctx, NB_EFORMAT, "node '%s' (FakeQuant): no candidates", node->name);
    if (nbi_op_is_omitted(node, 2))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (FakeQuant): nothing says which candidate "
                       "quantizes (input 2)", node->name);
    p->scheme = p->candidate[0].scheme;
    p->use = p->candidate[0].use;
    return NB_OK;
}

static nb_status read_scheme(nb_ctx *ctx, const nbi_node *node) {
    nbi_fakequant_params *p = node->params;
    const char *name = nbi_attr_text(node, "scheme", "");
    p->scheme = nbi_scheme_find(name);
    if (!p->scheme) return fail_text(ctx, node, "scheme", name, "one of 'nibble list schemes'");
    int64_t bits = nbi_attr_int(node, "bits", nbi_scheme_max_bits(p->scheme, p->use.weights));
    if (bits < 1 || bits > 8) return nbi_op_fail(ctx, node, "bits", bits, "1 to 8");
    p->use.bits = (int)bits;
    return nbi_scheme_check(ctx, node->name, p->scheme, &p->use);
}

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_fakequant_params)));
    nbi_fakequant_params *p = node->params;
    const char *role = nbi_attr_text(node, "role", "");
    const char *candidates = nbi_attr_text(node, "candidates", NULL);
    p->use.weights = !strcmp(role, "weights");
    if (!p->use.weights && strcmp(role, "activations"))
        return fail_text(ctx, node, "role", role, "weights or activations");
    p->use.is_unsigned = nbi_attr_int(node, "unsigned", 0) != 0;
    p->use.exact_bits = nbi_attr_int(node, "exact_bits", 0) != 0;
    NB_TRY(read_range(ctx, node, &p->use.range));
    NB_TRY(candidates ? read_candidates(ctx, graph, node, candidates) : read_scheme(ctx, node));
    p->training = nbi_attr_int(node, "training", 0) != 0;
    p->decay = nbi_attr_float(node, "decay", p->scheme->decay > 0 ? p->scheme->decay : 0.9f);
    if (p->decay >= 0 && p->decay < 1) return NB_OK;
    return nb_fail(ctx, NB_EFORMAT, "node '%s' (FakeQuant): decay is %g, want 0 to less than 1",
                   node->name, (double)p->decay);
}

/* Params per group that any width of this node needs. */
static int widest_params(const nbi_node *node) {
    const nbi_fakequant_params *p = node->params;
    nbi_scheme_use use = p->use;
    int most = 0;
    for (int i = 0; i < p->n; i++) {
        int n = p->candidate[i].scheme->n_params(&p->candidate[i].use);
        most = n > most ? n : most;
    }
    if (p->n) return most;
    if (!nbi_op_is_omitted(node, 2)) use.bits = nbi_scheme_max_bits(p->scheme, use.weights);
    return p->scheme->n_params(&use);
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_fakequant_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *params = nbi_op_in(graph, node, 1);
    const nbi_tensor *bits = nbi_op_in(graph, node, 2);
    int64_t axis = nbi_attr_int(node, "axis", -1), groups = 1;
    p->axis = -1;
    if (axis != -1 && x->rank >= 0) {
        NB_TRY(nbi_op_axis(ctx, node, "axis", axis, x->rank, &p->axis));
        groups = x->dim[p->axis];
    } else if (axis != -1) {
        groups = -1;
    }
    NB_TRY(nbi_op_want_rank(ctx, graph, node, 1, 2));
    if (params->rank == 2 && params->dim[0] >= 0 && groups >= 0 && params->dim[0] != groups)
        return nbi_op_fail(ctx, node, "rows of params", params->dim[0], "one per group");
    if (params->rank == 2 && params->dim[1] >= 0 && params->dim[1] < widest_params(node))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (FakeQuant): params have %lld columns, want %d",
                       node->name, (long long)params->dim[1], widest_params(node));
    if (bits && nbi_shape_known(bits) && nbi_tensor_count(bits) != 1)
        return nbi_op_fail(ctx, node, "values of bits", nbi_tensor_count(bits), "1");
    NB_TRY(nbi_op_set_out(ctx, graph, node, 0, NB_DTYPE_F32, x->rank, x->dim));
    for (int i = 1; i < node->n_out; i++)
        if (node->out[i] >= 0)
            NB_TRY(nbi_op_set_out(ctx, graph, node, i, NB_DTYPE_F32, params->rank, params->dim));
    return NB_OK;
}

/* ---- groups of values ------------------------------------------------------------------------ */

/* One call: group g is x[g·n … g·n + n − 1]; params come from rows of `columns`. */
typedef struct job {
    nb_ctx *ctx;
    const nbi_node *node;
    const nbi_fakequant_params *p;
    const nbi_scheme *scheme;
    nbi_scheme_use use;
    int axis;
    size_t groups, n, chunks; /* chunks of one group */
    size_t rows;              /* of params: groups, or more */
    size_t columns, n_params;
    const float *x, *g;
    float *y; /* x̂, or dx; NULL: not wanted */
    const float *old;
    float *used;
    double *sums;        /* [groups·chunks][n_params + 1]: of params, of the width; or NULL */
    bool want_params, want_bits;
} job;

/* The candidate at a place that is rounded, and within the list. */
static void pick(job *j, float place) {
    int last = j->p->n - 1;
    const nbi_fakequant_candidate *c =
        &j->p->candidate[!(place > 0) ? 0 : place >= (float)last ? last : (int)rintf(place)];
    j->scheme = c->scheme;
    j->use = c->use;
    if (c->whole) j->axis = -1;
}

static nb_status set_use(job *j, const nbi_view *bits, bool given) {
    j->scheme = j->p->scheme;
    j->use = j->p->use;
    j->axis = j->p->axis;
    if (!given) return NB_OK;
    float b = *(const float *)bits->data;
    int most = nbi_scheme_max_bits(j->scheme, j->use.weights);
    if (!isfinite(b))
        return nb_fail(j->ctx, NB_ENUMERIC, "node '%s' (FakeQuant): its bits are not finite",
                       j->node->name);
    if (j->p->n) {
        pick(j, b);
        return NB_OK;
    }
    b = rintf(b);
    b = b < (float)j->scheme->min_bits ? (float)j->scheme->min_bits : b;
    j->use.bits = b > (float)most ? most : (int)b;
    return NB_OK;
}

static nb_status make_job(nb_ctx *ctx, const nbi_node *node, const nbi_view *in, job *j) {
    const nbi_fakequant_params *p = node->params;
    *j = (job){.ctx = ctx, .node = node, .p = p};
    NB_TRY(set_use(j, node->n_in > 2 ? &in[2] : NULL, node->n_in > 2 && in[2].data));
    j->groups = j->axis < 0 ? 1 : (size_t)in[0].dim[j->axis];
    j->rows = (size_t)in[1].dim[0];
    j->n = j->groups ? (size_t)nbi_view_count(&in[0]) / j->groups : 0;
    j->chunks = (j->n + CHUNK - 1) / CHUNK;
    j->columns = (size_t)in[1].dim[1];
    j->n_params = (size_t)j->scheme->n_params(&j->use);
    return NB_OK;
}

static bool refits(const job *j) {
    return j->p->training && (j->scheme->flags & NBI_SCHEME_REFIT);
}

/* How many params of a refitted row come from the input all the same. */
static size_t n_learned(const job *j) {
    const nbi_scheme *s = j->scheme;
    if (!(s->flags & NBI_SCHEME_LEARNED)) return 0;
    return s->n_learned < 0 ? j->n_params : (size_t)s->n_learned;
}

static bool is_unset(const float *row, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (row[i] != 0) return false;
    return true;
}

static nb_status fit_groups(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    float fitted[NBI_SCHEME_MAX_PARAMS];
    size_t learned = n_learned(j);
    (void)worker;
    for (size_t g = begin; g < end; g++) {
        j->scheme->fit(&j->use, j->x + g * j->n, j->n, fitted);
        for (size_t i = learned; i < j->n_params; i++) j->used[g * j->columns + i] = fitted[i];
    }
    return NB_OK;
}

/* Fills j->used (allocated by the caller) from j->old and, where the scheme refits, from x. */
static nb_status use_params(job *j) {
    memcpy(j->used, j->old, j->rows * j->columns * sizeof *j->used);
    size_t needed = refits(j) ? n_learned(j) : j->n_params;
    for (size_t g = 0; needed && g < j->groups; g++)
        if (is_unset(j->old + g * j->columns, needed))
            return nb_fail(j->ctx, NB_EINVAL, "node '%s' (FakeQuant): '%s' is not fitted: the "
                           "params of group %zu are 0", j->node->name, j->scheme->name, g);
    return refits(j) ? nbi_parallel(j->ctx, j->groups, 1 + CHUNK / (j->n + 1), fit_groups, j)
                     : NB_OK;
}

static void new_params(const job *j, float *out) {
    float keep = j->p->n && j->scheme->decay > 0 ? j->scheme->decay : j->p->decay;
    bool average = refits(j) && !j->use.weights;
    memcpy(out, j->used, j->rows * j->columns * sizeof *out);
    for (size_t g = 0; average && g < j->groups; g++) {
        const float *old = j->old + g * j->columns;
        if (is_unset(old, j->n_params)) continue;
        for (size_t i = n_learned(j); i < j->n_params; i++) {
            float *v = &out[g * j->columns + i];
            *v = keep * old[i] + (1 - keep) * *v;
        }
    }
}

/* ---- params --------------------------------------------------------------------------------- */

/* The rows of params, contiguous (exec may pass any strides). */
static nb_status params_rows(nb_ctx *ctx, const nbi_view *v, float **copy, const float **out) {
    if (nbi_view_is_contiguous(v)) {
        *out = v->data;
        return NB_OK;
    }
    float *rows;
    NB_TRY(nbi_grouped(ctx, v, -1, false, true, copy, &rows));
    *out = rows;
    return NB_OK;
}

static void put_params(const nbi_view *to, float *rows) {
    nbi_ungroup(to, -1, rows);
}

/* ---- forward --------------------------------------------------------------------------------- */

static nb_status forward_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t g = i / j->chunks, at = i % j->chunks * CHUNK;
        size_t n = j->n - at < CHUNK ? j->n - at : CHUNK;
        j->scheme->forward(&j->use, j->used + g * j->columns, j->x + g * j->n + at,
                              j->y + g * j->n + at, n);
    }
    return NB_OK;
}

/* Small groups go to a worker together. */
static size_t items_at_once(const job *j) {
    return 1 + CHUNK / (j->n + 1);
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_node *node = call->node;
    const nbi_view *x = &call->in[0], *y = &call->out[0];
    float *room[4] = {NULL}, *rows, *from;
    job j;
    nb_status st;
    NB_TRY(make_job(call->ctx, node, call->in, &j));
    if (!j.groups) return NB_OK;
    bool direct = nbi_is_grouped(x, j.axis) && nbi_same_strides(x, y);
    NB_TRYG(params_rows(call->ctx, &call->in[1], &room[0], &j.old));
    NB_TRYG(nbi_alloc(call->ctx, 2 * j.rows * j.columns, sizeof *rows, &room[1]));
    j.used = room[1];
    NB_TRYG(nbi_grouped(call->ctx, x, j.axis, direct, true, &room[2], &from));
    j.x = from;
    NB_TRYG(use_params(&j));
    NB_TRYG(nbi_grouped(call->ctx, y, j.axis, direct, false, &room[3], &j.y));
    NB_TRYG(nbi_parallel(call->ctx, j.groups * j.chunks, items_at_once(&j), forward_items, &j));
    if (!direct) nbi_ungroup(y, j.axis, j.y);
    rows = j.used + j.rows * j.columns;
    if (node->n_out > 1 && call->out[1].data) {
        new_params(&j, rows);
        put_params(&call->out[1], rows);
    }
    if (node->n_out > 2 && call->out[2].data) put_params(&call->out[2], j.used);
done:
    for (size_t i = 0; i < NBI_COUNT(room); i++) nbi_free(room[i]);
    return st;
}

/* ---- backward -------------------------------------------------------------------------------- */

static nb_status backward_items(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t g = i / j->chunks, at = i % j->chunks * CHUNK, first = g * j->n + at;
        size_t n = j->n - at < CHUNK ? j->n - at : CHUNK;
        double *sums = j->sums + i * (j->n_params + 1);
        j->scheme->backward(&j->use, j->used + g * j->columns, j->x + first, j->g + first, n,
                               j->n, j->y ? j->y + first : NULL, j->want_params ? sums : NULL,
                               j->want_bits ? sums + j->n_params : NULL);
    }
    return NB_OK;
}

/* In the order of groups and chunks. Gradients of refitted params stay 0. */
static void write_sums(const job *j, float *dparams, float *dbits) {
    size_t n = refits(j) ? n_learned(j) : j->n_params, row = j->n_params + 1;
    double bits = 0;
    for (size_t i = 0; i < j->groups * j->chunks; i++) bits += j->sums[i * row + j->n_params];
    if (dbits) *dbits = (float)bits;
    for (size_t g = 0; dparams && g < j->groups; g++)
        for (size_t k = 0; k < n; k++) {
            double sum = 0;
            for (size_t c = 0; c < j->chunks; c++) sum += j->sums[(g * j->chunks + c) * row + k];
            dparams[g * j->columns + k] = (float)sum;
        }
}

static void clear(const nbi_view *v, float *zeros) {
    memset(zeros, 0, (size_t)nbi_view_count(v) * sizeof *zeros);
    nbi_ungroup(v, -1, zeros);
}

/* Nothing flows in: every gradient is 0. */
static nb_status no_gradient(const nbi_grad_call *call) {
    for (int i = 0; i < call->node->n_in; i++) {
        float *zeros = NULL;
        if (!call->gin[i].data) continue;
        NB_TRY(nbi_alloc(call->ctx, (size_t)nbi_view_count(&call->gin[i]), sizeof *zeros, &zeros));
        if (zeros) clear(&call->gin[i], zeros);
        nbi_free(zeros);
    }
    return NB_OK;
}

static nb_status used_params(const nbi_grad_call *call, job *j, float **copy) {
    if (call->node->n_out > 2 && call->out[2].data) {
        const float *rows;
        NB_TRY(params_rows(call->ctx, &call->out[2], copy, &rows));
        memcpy(j->used, rows, j->rows * j->columns * sizeof *j->used);
        return NB_OK;
    }
    return use_params(j);
}

static nb_status backward(const nbi_grad_call *call) {
    const nbi_node *node = call->node;
    const nbi_view *x = &call->in[0], *g = &call->gout[0], *dx = &call->gin[0];
    const nbi_view *dparams = &call->gin[1];
    float *room[6] = {NULL}, *from;
    double *sums = NULL;
    job j;
    nb_status st;
    if (!g->data) return no_gradient(call);
    NB_TRY(make_job(call->ctx, node, call->in, &j));
    if (!j.groups) return no_gradient(call);
    bool direct = nbi_is_grouped(x, j.axis) && nbi_same_strides(x, g) &&
                  (!dx->data || nbi_same_strides(x, dx));
    float *dbits = node->n_in > 2 ? call->gin[2].data : NULL;
    j.want_params = dparams->data != NULL;
    j.want_bits = dbits != NULL && !j.p->n;
    NB_TRYG(params_rows(call->ctx, &call->in[1], &room[0], &j.old));
    NB_TRYG(nbi_alloc(call->ctx, 2 * j.rows * j.columns, sizeof *from, &room[1]));
    j.used = room[1];
    NB_TRYG(nbi_grouped(call->ctx, x, j.axis, direct, true, &room[2], &from));
    j.x = from;
    NB_TRYG(nbi_grouped(call->ctx, g, j.axis, direct, true, &room[3], &from));
    j.g = from;
    if (dx->data) NB_TRYG(nbi_grouped(call->ctx, dx, j.axis, direct, false, &room[4], &j.y));
    NB_TRYG(used_params(call, &j, &room[5]));
    NB_TRYG(nbi_alloc(call->ctx, j.groups * j.chunks * (j.n_params + 1), sizeof *sums, &sums));
    j.sums = sums;
    NB_TRYG(nbi_parallel(call->ctx, j.groups * j.chunks, items_at_once(&j), backward_items, &j));
    if (dx->data && !direct) nbi_ungroup(dx, j.axis, j.y);
    from = j.used + j.rows * j.columns; /* zeroed by nbi_alloc */
    write_sums(&j, j.want_params ? from : NULL, dbits);
    if (j.want_params) put_params(dparams, from);
done:
    for (size_t i = 0; i < NBI_COUNT(room); i++) nbi_free(room[i]);
    nbi_free(sums);
    return st;
}

const nbi_op nbi_op_fakequant = {.name = "FakeQuant",
                                 .types = NBI_TYPES_FLOAT,
                                 .domain = "org.nibble",
                                 .min_opset = 1,
                                 .min_in = 2,
                                 .max_in = 3,
                                 .min_out = 1,
                                 .max_out = 3,
                                 .flags = NBI_OP_STRIDED | NBI_OP_INPLACE | NBI_OP_GRAD_INPLACE,
                                 .prepare = prepare,
                                 .infer = infer,
                                 .forward = forward,
                                 .backward = backward,
                                 .keep_in = 7,
                                 .keep_out = 4,
                                 .grad_in = 7};
