/* Which nodes go to linalg, and which of their neighbours go with them: Conv or Gemm, then
 * BatchNormalization (folded into a scaled copy of the weights), then Add, then Relu or Clip. A
 * tensor disappears only when nothing else reads it; with NBI_EXEC_KEEP_ALL none does. */
#include "exec/plan.h"

#include <math.h>
#include <string.h>

typedef struct candidate {
    const nbi_node *first, *bn, *add, *act;
    int n_members, member[4]; /* node indices */
    int out;                  /* tensor that the chain produces so far */
    int add_tensor;
    bool clamp;
    float lo, hi;
} candidate;

static bool is(const nbi_node *node, const char *type) {
    return !*node->domain && !strcmp(node->op_type, type);
}

/* The only reader of tensor t, when there is exactly one and it is a node; its index or −1. */
static int only_reader(const nbi_exec *e, int t, int from) {
    const nbi_graph *g = e->graph;
    if (e->uses[t] != 1) return -1;
    for (int n = from + 1; n < g->n_nodes; n++) {
        if (!e->needed[n]) continue;
        for (int i = 0; i < g->node[n]->n_in; i++)
            if (g->node[n]->in[i] == t) return n;
    }
    return -1;
}

static void take(candidate *c, const nbi_graph *g, int n) {
    c->member[c->n_members++] = n;
    c->out = g->node[n]->out[0];
}

static bool all_const(const nbi_graph *g, const nbi_node *node, int from) {
    for (int i = from; i < node->n_in; i++)
        if (node->in[i] >= 0 && !g->tensor[node->in[i]]->data) return false;
    return true;
}

static bool same_shape(const nbi_tensor *a, const nbi_tensor *b) {
    return a->rank == b->rank && a->dtype == b->dtype &&
           !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim);
}

static void extend_add(const nbi_exec *e, candidate *c, int n) {
    const nbi_graph *g = e->graph;
    const nbi_node *node = g->node[n];
    int other = node->in[0] == c->out ? node->in[1] : node->in[0];
    if (other == c->out || g->tensor[other]->data) return;
    if (!same_shape(g->tensor[other], g->tensor[node->out[0]])) return;
    if (!same_shape(g->tensor[c->out], g->tensor[node->out[0]])) return;
    c->add = node;
    c->add_tensor = other;
    take(c, g, n);
}

/* Grows a chain that so far is one Conv or Gemm. */
static void extend(const nbi_exec *e, candidate *c, bool allow_add) {
    const nbi_graph *g = e->graph;
    for (;;) {
        int n = only_reader(e, c->out, c->member[c->n_members - 1]), before = c->n_members;
        if (n < 0 || e->skipped[n] || e->chain[n]) return;
        const nbi_node *node = g->node[n];
        if (is(node, "BatchNormalization") && !c->bn && !c->add && node->in[0] == c->out &&
            all_const(g, node, 1) && !((const nbi_batchnorm_params *)node->params)->training) {
            c->bn = node;
            take(c, g, n);
        } else if (is(node, "Add") && allow_add && !c->add) {
            extend_add(e, c, n);
        } else if (is(node, "Relu") || (is(node, "Clip") && node->in[0] == c->out &&
                                        ((const nbi_clip_params *)node->params)->known)) {
            const nbi_clip_params *p = is(node, "Clip") ? node->params : NULL;
            c->act = node;
            c->clamp = true;
            c->lo = p ? p->lo : 0;
            c->hi = p ? p->hi : INFINITY;
            take(c, g, n);
            return;
        }
        if (c->n_members == before) return;
    }
}

/* w·a and bias·a + b of a BatchNormalization behind `rows` filters of `depth` values. */
static void fold_norm(const nbi_graph *g, const nbi_node *bn, float *w, float *bias, int64_t rows,
                      int64_t depth) {
    const nbi_batchnorm_params *p = bn->params;
    const float *scale = g->tensor[bn->in[1]]->data, *shift = g->tensor[bn->in[2]]->data;
    const float *mean = g->tensor[bn->in[3]]->data, *var = g->tensor[bn->in[4]]->data;
    for (int64_t m = 0; m < rows; m++) {
        double a = (double)scale[m] / sqrt((double)var[m] + (double)p->epsilon);
        for (int64_t k = 0; k < depth; k++)
            w[m * depth + k] = (float)((double)w[m * depth + k] * a);
        bias[m] = (float)(((double)bias[m] - (double)mean[m]) * a + (double)shift[m]);
    }
}

/* ---- convolution --------------------------------------------------------------------------- */


/* The spatial axes of a window as H, W; 1-D has H = 1. */
static void spatial(const nbi_window *w, const nbi_tensor *x, const nbi_tensor *y,
                    nbi_la_conv_desc *d) {
    for (int i = 0; i < 2; i++) {
        int a = i - (2 - w->n);
        d->kernel[i] = a < 0 ? 1 : w->kernel[a];
        d->stride[i] = a < 0 ? 1 : w->stride[a];
        d->dilation[i] = a < 0 ? 1 : w->dilation[a];
        d->pad_begin[i] = a < 0 ? 0 : w->pad_begin[a];
        d->pad_end[i] = a < 0 ? 0 : w->pad_end[a];
        *(i ? &d->w : &d->h) = a < 0 ? 1 : x->dim[2 + a];
        *(i ? &d->ow : &d->oh) = a < 0 ? 1 : y->dim[2 + a];
    }
}

bool nbi_fuse_conv(const nbi_graph *g, const nbi_node *node, nbi_la_conv_desc *out) {
    const nbi_tensor *x = g->tensor[node->in[0]], *y = g->tensor[node->out[0]];
    const nbi_conv_params *p = node->params;
    if (x->dtype != NB_DTYPE_F32 || g->tensor[node->in[1]]->dtype != NB_DTYPE_F32 || x->rank < 3 ||
        x->rank > 4 || nbi_tensor_count(x) <= 0 || nbi_tensor_count(y) <= 0)
        return false;
    *out = (nbi_la_conv_desc){
        .n = x->dim[0], .c = x->dim[1], .m = y->dim[1], .group = p->group};
    spatial(&p->w, x, y, out);
    return true;
}

/* A copy of the weights as rows × depth, and of the bias (zeros if there is none). */
static nb_status copy_weights(nb_ctx *ctx, const nbi_tensor *w, bool transposed,
                              const nbi_tensor *bias, float **out_w, float **out_b) {
    size_t count = (size_t)nbi_tensor_count(w), n = (size_t)w->dim[transposed];
    const float *from = w->data;
    NB_TRY(nbi_alloc(ctx, count, sizeof **out_w, out_w));
    NB_TRY(nbi_alloc(ctx, n, sizeof **out_b, out_b));
    if (transposed)
        for (size_t k = 0; k < count; k++) (*out_w)[k % n * (count / n) + k / n] = from[k];
    else
        memcpy(*out_w, from, count * sizeof *from);
    size_t given = bias ? (size_t)nbi_tensor_count(bias) : 0;
    for (size_t i = 0; given && i < n; i++)
        (*out_b)[i] = ((const float *)bias->data)[given == 1 ? 0 : i];
    return NB_OK;
}

static nb_status plan_conv(nb_ctx *ctx, nbi_exec *e, const candidate *c, nbi_la_conv_desc d,
                           nbi_la_plan **plan) {
    const nbi_graph *g = e->graph;
    const nbi_node *node = c->first;
    const nbi_tensor *w = g->tensor[node->in[1]];
    const nbi_tensor *b = node->n_in > 2 && node->in[2] >= 0 ? g->tensor[node->in[2]] : NULL;
    d.accumulate = c->add != NULL;
    d.clamp = c->clamp;
    d.lo = c->lo;
    d.hi = c->hi;
    d.fast = (e->flags & NBI_EXEC_FAST) != 0;
    float *wc = NULL, *bc = NULL;
    nb_status st;
    NB_TRYG(copy_weights(ctx, w, false, b, &wc, &bc));
    if (c->bn) fold_norm(g, c->bn, wc, bc, d.m, nbi_tensor_count(w) / d.m);
    st = nbi_la_conv(ctx, e->la, &d, wc, b || c->bn ? bc : NULL, plan);
done:
    nbi_free(wc);
    nbi_free(bc);
    return st;
}

/* ---- product and pooling ------------------------------------------------------------------- */

static bool gemm_fits(const nbi_graph *g, const nbi_node *node) {
    const nbi_gemm_params *p = node->params;
    const nbi_tensor *a = g->tensor[node->in[0]], *y = g->tensor[node->out[0]];
    const nbi_tensor *c = node->n_in > 2 && node->in[2] >= 0 ? g->tensor[node->in[2]] : NULL;
    bool bias = !c || (c->rank <= 1 && p->beta == 1.0f) ||
                (c->rank == 2 && c->dim[0] == 1 && p->beta == 1.0f);
    return a->dtype == NB_DTYPE_F32 && p->alpha == 1.0f && !p->trans_a && bias &&
           all_const(g, node, 1) && nbi_tensor_count(a) > 0 && nbi_tensor_count(y) > 0;
}

static nb_status plan_gemm(nb_ctx *ctx, nbi_exec *e, const candidate *c, nbi_la_plan **plan) {
    const nbi_graph *g = e->graph;
    const nbi_node *node = c->first;
    const nbi_gemm_params *p = node->params;
    const nbi_tensor *a = g->tensor[node->in[0]], *w = g->tensor[node->in[1]];
    const nbi_tensor *b = node->n_in > 2 && node->in[2] >= 0 ? g->tensor[node->in[2]] : NULL;
    nbi_la_gemm_desc d = {.n = a->dim[0],
                          .k = a->dim[1],
                          .m = g->tensor[node->out[0]]->dim[1],
                          .clamp = c->clamp,
                          .lo = c->lo,
                          .hi = c->hi};
    float *wc = NULL, *bc = NULL;
    nb_status st;
    NB_TRYG(copy_weights(ctx, w, !p->trans_b, b, &wc, &bc));
    if (c->bn) fold_norm(g, c->bn, wc, bc, d.m, d.k);
    st = nbi_la_gemm(ctx, e->la, &d, wc, bc, plan);
done:
    nbi_free(wc);
    nbi_free(bc);
    return st;
}

/* Windows that ceil_mode pushes past the padding, and dilation, stay with the reference. */
bool nbi_fuse_pool(const nbi_graph *g, const nbi_node *node, nbi_la_pool_desc *out) {
    const nbi_tensor *x = g->tensor[node->in[0]], *y = g->tensor[node->out[0]];
    bool global = !strncmp(node->op_type, "Global", 6);
    if (x->dtype != NB_DTYPE_F32 || x->rank < 3 || x->rank > 4 || nbi_tensor_count(x) <= 0 ||
        nbi_tensor_count(y) <= 0)
        return false;
    nbi_la_conv_desc d;
    nbi_window w = {.n = x->rank - 2};
    for (int i = 0; i < w.n; i++) {
        w.kernel[i] = x->dim[2 + i];
        w.stride[i] = w.dilation[i] = 1;
    }
    if (!global) w = ((const nbi_pool_params *)node->params)->w;
    spatial(&w, x, y, &d);
    int64_t in[2] = {d.h, d.w}, o[2] = {d.oh, d.ow};
    for (int i = 0; i < 2; i++) {
        if (d.dilation[i] != 1 || d.pad_begin[i] >= d.kernel[i] || d.pad_end[i] >= d.kernel[i])
            return false;
        if ((in[i] + d.pad_begin[i] + d.pad_end[i] - d.kernel[i]) / d.stride[i] + 1 != o[i])
            return false;
    }
    *out = (nbi_la_pool_desc){.n = x->dim[0],
                              .c = x->dim[1],
                              .h = d.h,
                              .w = d.w,
                              .oh = d.oh,
                              .ow = d.ow,
                              .max = strstr(node->op_type, "MaxPool") != NULL};
    memcpy(out->kernel, d.kernel, sizeof d.kernel);
    memcpy(out->stride, d.stride, sizeof d.stride);
    memcpy(out->pad_begin, d.pad_begin, sizeof d.pad_begin);
    memcpy(out->pad_end, d.pad_end, sizeof d.pad_end);
    out->include_pad = !global && ((const nbi_pool_params *)node->params)->count_include_pad;
    return true;
}

/* ---- all ----------------------------------------------------------------------------------- */

static bool is_pool(const nbi_node *node) {
    return is(node, "MaxPool") || is(node, "AveragePool") || is(node, "GlobalAveragePool") ||
           is(node, "GlobalMaxPool");
}

static nb_status try_node(nb_ctx *ctx, nbi_exec *e, int n, candidate *c, nbi_la_plan **plan) {
    const nbi_graph *g = e->graph;
    const nbi_node *node = g->node[n];
    bool keep = (e->flags & NBI_EXEC_KEEP_ALL) != 0;
    nbi_la_pool_desc pool;
    nbi_la_conv_desc conv;
    *c = (candidate){.first = node, .add_tensor = -1};
    take(c, g, n);
    if (is(node, "Conv") && all_const(g, node, 1) && nbi_fuse_conv(g, node, &conv)) {
        if (!keep) extend(e, c, true);
        return plan_conv(ctx, e, c, conv, plan);
    }
    if (is(node, "Gemm") && gemm_fits(g, node)) {
        if (!keep) extend(e, c, false);
        return plan_gemm(ctx, e, c, plan);
    }
    if (is_pool(node) && nbi_fuse_pool(g, node, &pool)) return nbi_la_pool(ctx, e->la, &pool, plan);
    return NB_OK;
}

nb_status nbi_exec_fuse(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    NB_TRY(nbi_la_new(ctx, &e->la));
    for (int n = 0; n < g->n_nodes; n++) {
        if (!e->needed[n] || e->skipped[n] || e->chain[n]) continue;
        candidate c;
        nbi_la_plan *plan = NULL;
        nb_status st = try_node(ctx, e, n, &c, &plan);
        if (st == NB_EUNSUPPORTED || (st == NB_OK && !plan)) continue;
        if (st != NB_OK)
            return nb_fail_prefix(ctx, st, "node '%s' (%s)", g->node[n]->name, g->node[n]->op_type);
        exec_chain *chain = nbi_arena_alloc(&e->arena, 1, sizeof *chain);
        if (!chain) {
            nbi_la_plan_free(plan);
            return nb_fail_memory(ctx, sizeof *chain);
        }
        *chain = (exec_chain){plan, c.first->in[0], c.add_tensor, c.out, !is(c.first, "Gemm")};
        for (int i = 0; i + 1 < c.n_members; i++) e->skipped[c.member[i]] = true;
        e->chain[c.member[c.n_members - 1]] = chain;
    }
    return NB_OK;
}
