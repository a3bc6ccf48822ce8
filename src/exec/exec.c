/* Planning and running a float graph. */
#include "exec/plan.h"
#include "ops/op_util.h"

#include <string.h>

typedef struct exec_step {
    const nbi_node *node;
    nbi_view *in, *out; /* copies of the tensors' views, data refreshed before every run */
} exec_step;

struct nbi_exec {
    const nbi_graph *graph;
    unsigned flags;
    nbi_arena arena;
    nbi_view *view; /* per tensor; data NULL: not planned (or an input between runs) */
    size_t *offset; /* per tensor: place in `buffer` */
    int *root;      /* per tensor: whose memory it uses */
    bool *planned;
    char *buffer;
    size_t bytes;
    int n_steps;
    exec_step *step;
    bool ran;
};

#define NOWHERE SIZE_MAX

/* ---- what is needed ------------------------------------------------------------------------ */

static nb_status mark_needed(nb_ctx *ctx, const nbi_graph *g, bool *needed_tensor, bool *needed) {
    for (int i = 0; i < g->n_outputs; i++) needed_tensor[g->output[i]] = true;
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = g->node[n];
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i] >= 0) needed[n] |= needed_tensor[node->out[i]];
        for (int i = 0; needed[n] && i < node->n_in; i++)
            if (node->in[i] >= 0) needed_tensor[node->in[i]] = true;
    }
    for (int n = 0; n < g->n_nodes; n++) {
        const nbi_node *node = g->node[n];
        if (!needed[n]) continue;
        if (!node->op || !node->op->forward || !node->params)
            return nb_fail(ctx, NB_EUNSUPPORTED,
                           "node '%s': operator %s%s%s of opset %d is not "
                           "supported",
                           node->name, node->domain, *node->domain ? "." : "", node->op_type,
                           g->opset);
        for (int i = 0; i < node->n_in + node->n_out; i++) {
            int t = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
            if (t < 0) continue;
            if (!nbi_shape_known(g->tensor[t]) || nbi_dtype_bits(g->tensor[t]->dtype) == 0)
                return nb_fail(ctx, NB_EFORMAT,
                               "node '%s' (%s): the shape or type of '%s' is not "
                               "known",
                               node->name, node->op_type, g->tensor[t]->name);
        }
    }
    return NB_OK;
}

/* ---- memory -------------------------------------------------------------------------------- */

static size_t view_bytes(const nbi_view *v) {
    size_t bytes = (size_t)nbi_view_count(v) * (size_t)nbi_dtype_bits(v->dtype) / 8;
    return (bytes + 63) & ~(size_t)63;
}

typedef struct live_block {
    size_t offset, size;
    int root;
} live_block;

/* First fit into the gaps between live blocks, which are kept sorted by offset. */
static size_t place(live_block *live, int *n, size_t size, int root) {
    size_t at = 0;
    int i = 0;
    for (; i < *n; i++) {
        if (live[i].offset - at >= size) break;
        at = live[i].offset + live[i].size;
    }
    memmove(&live[i + 1], &live[i], (size_t)(*n - i) * sizeof *live);
    live[i] = (live_block){at, size, root};
    ++*n;
    return at;
}

static void release(live_block *live, int *n, int root) {
    for (int i = 0; i < *n; i++)
        if (live[i].root == root) {
            memmove(&live[i], &live[i + 1], (size_t)(*n - i - 1) * sizeof *live);
            --*n;
            return;
        }
}

static nb_status plan_memory(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    int *last = NULL, n_live = 0;
    live_block *live = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_tensors + 1, sizeof *last, &last));
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_tensors + 1, sizeof *live, &live));
    for (int s = 0; s < e->n_steps; s++)
        for (int i = 0; i < e->step[s].node->n_in; i++)
            if (e->step[s].node->in[i] >= 0) last[e->root[e->step[s].node->in[i]]] = s;
    for (int i = 0; i < g->n_outputs; i++) last[e->root[g->output[i]]] = e->n_steps;
    for (int s = 0; s < e->n_steps; s++) {
        const nbi_node *node = e->step[s].node;
        for (int i = 0; i < node->n_out; i++) {
            int t = node->out[i];
            if (t < 0 || e->root[t] != t) continue;
            e->offset[t] = place(live, &n_live, view_bytes(&e->view[t]), t);
            size_t end = e->offset[t] + view_bytes(&e->view[t]);
            if (end > e->bytes) e->bytes = end;
            if (last[t] < s) last[t] = s;
        }
        if (e->flags & NBI_EXEC_KEEP_ALL) continue;
        for (int k = n_live - 1; k >= 0; k--)
            if (last[live[k].root] == s) release(live, &n_live, live[k].root);
    }
    st = nbi_alloc(ctx, e->bytes + 64, 1, &e->buffer);
done:
    nbi_free(last);
    nbi_free(live);
    return st;
}

/* ---- the plan ------------------------------------------------------------------------------ */

static nb_status set_constant(nb_ctx *ctx, nbi_exec *e, int t) {
    const nbi_tensor *tensor = e->graph->tensor[t];
    e->view[t].data = tensor->data;
    if (nbi_dtype_bits(tensor->dtype) >= 8) return NB_OK;
    size_t count = (size_t)nbi_view_count(&e->view[t]);
    e->view[t].data = nbi_arena_alloc(&e->arena, count + 1, 1);
    if (!e->view[t].data) return nb_fail_memory(ctx, count);
    nbi_unpack(tensor->dtype, tensor->data, count, e->view[t].data);
    return NB_OK;
}

static nb_status set_views(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    for (int t = 0; t < g->n_tensors; t++) {
        e->root[t] = t;
        e->offset[t] = NOWHERE;
        if (!nbi_shape_known(g->tensor[t])) continue;
        e->view[t] = nbi_tensor_view(g->tensor[t]);
        if (g->tensor[t]->data && nbi_dtype_bits(g->tensor[t]->dtype))
            NB_TRY(set_constant(ctx, e, t));
    }
    return NB_OK;
}

static nb_status add_step(nb_ctx *ctx, nbi_exec *e, const nbi_node *node) {
    exec_step *s = &e->step[e->n_steps++];
    s->node = node;
    s->in = nbi_arena_alloc(&e->arena, (size_t)node->n_in + 1, sizeof *s->in);
    s->out = nbi_arena_alloc(&e->arena, (size_t)node->n_out + 1, sizeof *s->out);
    if (!s->in || !s->out) return nb_fail_memory(ctx, sizeof *s->in);
    if ((node->op->flags & NBI_OP_ALIAS) && !(e->flags & NBI_EXEC_KEEP_ALL))
        e->root[node->out[0]] = e->root[node->in[0]];
    return NB_OK;
}

static nb_status make_plan(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    bool *needed = NULL, *needed_tensor = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_nodes + 1, 1, &needed));
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_tensors + 1, 1, &needed_tensor));
    NB_TRYG(mark_needed(ctx, g, needed_tensor, needed));
    NB_TRYG(set_views(ctx, e));
    for (int n = 0; n < g->n_nodes; n++)
        if (needed[n]) NB_TRYG(add_step(ctx, e, g->node[n]));
    NB_TRYG(plan_memory(ctx, e));
done:
    nbi_free(needed);
    nbi_free(needed_tensor);
    return st;
}

nb_status nbi_exec_new(nb_ctx *ctx, const nbi_graph *graph, unsigned flags, nbi_exec **out) {
    nbi_exec *e = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *e, &e));
    e->graph = graph;
    e->flags = flags;
    size_t n = (size_t)graph->n_tensors + 1;
    e->view = nbi_arena_alloc(&e->arena, n, sizeof *e->view);
    e->offset = nbi_arena_alloc(&e->arena, n, sizeof *e->offset);
    e->root = nbi_arena_alloc(&e->arena, n, sizeof *e->root);
    e->step = nbi_arena_alloc(&e->arena, (size_t)graph->n_nodes + 1, sizeof *e->step);
    if (!e->view || !e->offset || !e->root || !e->step) {
        st = nb_fail_memory(ctx, n * sizeof *e->view);
        goto done;
    }
    NB_TRYG(make_plan(ctx, e));
    *out = e;
    return NB_OK;
done:
    nbi_exec_free(e);
    return st;
}

void nbi_exec_free(nbi_exec *e) {
    if (!e) return;
    nbi_free(e->buffer);
    nbi_arena_free(&e->arena);
    nbi_free(e);
}

size_t nbi_exec_arena_bytes(const nbi_exec *e) {
    return e->bytes;
}

/* ---- running ------------------------------------------------------------------------------- */

typedef struct slice_job {
    nb_ctx *ctx;
    const nbi_graph *graph;
    const exec_step *step;
} slice_job;

static void slice_view(nbi_view *v, int rank, int64_t images, size_t begin, size_t end) {
    if (!v->data || v->rank != rank || v->dim[0] != images) return;
    v->data = (char *)v->data + (int64_t)begin * v->stride[0] * (nbi_dtype_bits(v->dtype) / 8);
    v->dim[0] = (int64_t)(end - begin);
}

static nb_status run_slice(void *user, size_t begin, size_t end, int worker) {
    (void)worker;
    const slice_job *job = user;
    const nbi_node *node = job->step->node;
    nbi_view in[4], out = job->step->out[0];
    int64_t images = out.dim[0];
    bool all = (node->op->flags & NBI_OP_ELEMENTWISE) != 0;
    for (int i = 0; i < node->n_in; i++) {
        in[i] = job->step->in[i];
        if (i == 0 || all) slice_view(&in[i], out.rank, images, begin, end);
    }
    slice_view(&out, out.rank, images, begin, end);
    nbi_op_call call = {NULL, job->graph, node, in, &out};
    return node->op->forward(&call);
}

static bool can_split(const exec_step *s) {
    const nbi_op *op = s->node->op;
    if (!(op->flags & (NBI_OP_ELEMENTWISE | NBI_OP_PER_IMAGE)) || !(op->flags & NBI_OP_STRIDED))
        return false;
    if (s->node->n_in > 4 || s->node->n_out != 1 || s->out[0].rank < 2) return false;
    return s->out[0].dim[0] > 1;
}

static nb_status run_op(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    if (can_split(s)) {
        slice_job job = {ctx, e->graph, s};
        return nbi_parallel(ctx, (size_t)s->out[0].dim[0], 1, run_slice, &job);
    }
    nbi_op_call call = {ctx, e->graph, s->node, s->in, s->out};
    return s->node->op->forward(&call);
}

static nb_status run_step(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    for (int i = 0; i < s->node->n_in; i++)
        if (s->node->in[i] >= 0) s->in[i] = e->view[s->node->in[i]];
    for (int i = 0; i < s->node->n_out; i++) {
        int t = s->node->out[i];
        if (t < 0) continue;
        if (e->offset[t] != NOWHERE)
            e->view[t].data = e->buffer + e->offset[t];
        else if (e->root[t] != t)
            e->view[t].data = e->view[e->root[t]].data;
        s->out[i] = e->view[t];
    }
    if (s->node->n_out && s->node->out[0] >= 0 && e->root[s->node->out[0]] != s->node->out[0])
        return NB_OK; /* an alias */
    return run_op(ctx, e, s);
}

nb_status nbi_exec_run(nb_ctx *ctx, nbi_exec *e, const void *const *inputs) {
    for (int i = 0; i < e->graph->n_inputs; i++)
        memcpy(&e->view[e->graph->input[i]].data, &inputs[i], sizeof inputs[i]);
    for (int s = 0; s < e->n_steps; s++) {
        nb_status st = run_step(ctx, e, &e->step[s]);
        if (st == NB_OK) continue;
        return nb_fail_prefix(ctx, st, "node '%s' (%s)", e->step[s].node->name,
                              e->step[s].node->op_type);
    }
    e->ran = true;
    return NB_OK;
}

nb_status nbi_exec_value(nb_ctx *ctx, const nbi_exec *e, int tensor, nbi_view *out) {
    if (tensor < 0 || tensor >= e->graph->n_tensors)
        return nb_fail(ctx, NB_EINVAL, "there is no tensor %d", tensor);
    if (!e->view[tensor].data)
        return nb_fail(ctx, NB_EINVAL, "tensor '%s' has no value in this plan",
                       e->graph->tensor[tensor]->name);
    *out = e->view[tensor];
    return NB_OK;
}
