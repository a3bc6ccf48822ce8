/* Running a planned float graph. */
#include "exec/plan.h"

#include <string.h>

/* ---- what is needed ------------------------------------------------------------------------ */

nb_status nbi_exec_check_node(nb_ctx *ctx, const nbi_graph *g, const nbi_node *node) {
    if (!node->op || !node->op->forward || !node->params)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s': operator %s%s%s of opset %d is not supported", node->name,
                       node->domain, *node->domain ? "." : "", node->op_type, g->opset);
    for (int i = 0; i < node->n_in + node->n_out; i++) {
        int t = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
        if (t < 0) continue;
        if (!nbi_shape_known(g->tensor[t]) || nbi_dtype_bits(g->tensor[t]->dtype) == 0)
            return nb_fail(ctx, NB_EFORMAT,
                           "node '%s' (%s): the shape or type of '%s' is not known", node->name,
                           node->op_type, g->tensor[t]->name);
    }
    return NB_OK;
}

/* Backwards from the outputs; also counts how often each tensor is read. */
static nb_status mark_needed(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    for (int i = 0; i < g->n_outputs; i++) e->uses[g->output[i]]++;
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = g->node[n];
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i] >= 0) e->needed[n] |= e->uses[node->out[i]] > 0;
        for (int i = 0; e->needed[n] && i < node->n_in; i++)
            if (node->in[i] >= 0) e->uses[node->in[i]]++;
    }
    for (int n = 0; n < g->n_nodes; n++)
        if (e->needed[n]) NB_TRY(nbi_exec_check_node(ctx, g, g->node[n]));
    /* A graph output counts twice: it must exist whoever else reads it. */
    for (int i = 0; i < g->n_outputs; i++) e->uses[g->output[i]]++;
    return NB_OK;
}

/* ---- life ---------------------------------------------------------------------------------- */

nb_status nbi_exec_arrays(nb_ctx *ctx, nbi_exec *e) {
    size_t nodes = (size_t)e->graph->n_nodes + 1, tensors = (size_t)e->graph->n_tensors + 1;
    e->needed = nbi_arena_alloc(&e->arena, nodes, sizeof *e->needed);
    e->skipped = nbi_arena_alloc(&e->arena, nodes, sizeof *e->skipped);
    e->chain = nbi_arena_alloc(&e->arena, nodes, sizeof(exec_chain *));
    e->uses = nbi_arena_alloc(&e->arena, tensors, sizeof *e->uses);
    if (!e->needed || !e->skipped || !e->chain || !e->uses)
        return nb_fail_memory(ctx, nodes * sizeof(exec_chain *));
    return NB_OK;
}

static bool quantizes(const nbi_graph *g) {
    for (int i = 0; i < g->n_nodes; i++)
        if (!strcmp(g->node[i]->op_type, "QuantizeLinear")) return true;
    return false;
}

nb_status nbi_exec_new(nb_ctx *ctx, const nbi_graph *graph, unsigned flags, nbi_exec **out) {
    nbi_exec *e = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *e, &e));
    e->graph = graph;
    e->flags = quantizes(graph) ? flags & ~(unsigned)NBI_EXEC_FAST : flags;
    nbi_threads_apply(ctx);
    NB_TRYG(nbi_exec_arrays(ctx, e));
    NB_TRYG(mark_needed(ctx, e));
    if (!(flags & NBI_EXEC_REFERENCE)) NB_TRYG(nbi_exec_fuse(ctx, e));
    NB_TRYG(nbi_exec_plan(ctx, e));
    *out = e;
    return NB_OK;
done:
    nbi_exec_free(e);
    return st;
}

void nbi_exec_free(nbi_exec *e) {
    if (!e) return;
    for (int n = 0; e->chain && n < e->graph->n_nodes; n++)
        if (e->chain[n]) nbi_la_plan_free(e->chain[n]->plan);
    nbi_exec_free(e->pace.twin);
    nbi_la_free(e->la);
    nbi_free(e->slot);
    nbi_free(e->step);
    nbi_free(e->buffer);
    nbi_arena_free(&e->arena);
    nbi_free(e);
}

size_t nbi_exec_arena_bytes(const nbi_exec *e) {
    return e->bytes;
}

/* ---- running ------------------------------------------------------------------------------- */

typedef struct slice_job {
    const nbi_graph *graph;
    const exec_step *step;
} slice_job;

static void slice_view(nbi_view *v, int rank, int64_t images, size_t begin, size_t end) {
    if (!v->data || v->rank != rank || v->dim[0] != images) return;
    v->data = (char *)v->data + (int64_t)begin * v->stride[0] * (nbi_dtype_bits(v->dtype) / 8);
    v->dim[0] = (int64_t)(end - begin);
}

#define MAX_SLICED_IN 4

static nb_status run_slice(void *user, size_t begin, size_t end, int worker) {
    const slice_job *job = user;
    const exec_step *step = job->step;
    nbi_view in[MAX_SLICED_IN], out = step->out_view[0];
    int64_t images = out.dim[0];
    (void)worker;
    bool all = step->kind == STEP_COPY || (step->node->op->flags & NBI_OP_ELEMENTWISE);
    for (int i = 0; i < step->n_in; i++) {
        in[i] = step->in_view[i];
        if (i == 0 || all) slice_view(&in[i], out.rank, images, begin, end);
    }
    slice_view(&out, out.rank, images, begin, end);
    if (step->kind == STEP_COPY) {
        nbi_view_copy(&out, &in[0]);
        return NB_OK;
    }
    nbi_op_call call = {NULL, job->graph, step->node, in, &out, 0};
    return step->node->op->forward(&call);
}

static bool can_split(const exec_step *s) {
    unsigned flags = s->node->op ? s->node->op->flags : 0;
    /* before opset 7 the second operand may run along the images, whatever its rank */
    if (nbi_node_attr(s->node, "broadcast")) return false;
    if (s->kind != STEP_COPY &&
        (!(flags & (NBI_OP_ELEMENTWISE | NBI_OP_PER_IMAGE)) || !(flags & NBI_OP_STRIDED)))
        return false;
    return s->n_in <= MAX_SLICED_IN && s->n_out == 1 && s->out_view[0].rank >= 2 &&
           s->out_view[0].dim[0] > 1;
}

static nb_status run_linalg(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    if (s->n_in > 1 && !s->in_place) nbi_view_copy(&s->out_view[0], &s->in_view[1]);
    return nbi_la_run(ctx, e->la, s->plan, s->in_view[0].data, s->out_view[0].data);
}

static nb_status run_step(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    for (int i = 0; i < s->n_in; i++)
        if (s->in[i] >= 0) s->in_view[i] = e->slot[s->in[i]].view;
    for (int i = 0; i < s->n_out; i++) {
        if (s->out[i] < 0) continue;
        exec_slot *y = &e->slot[s->out[i]];
        if (y->offset != NBI_NOWHERE)
            y->view.data = e->buffer + y->offset;
        else
            y->view.data = e->slot[y->root].view.data;
        s->out_view[i] = y->view;
    }
    if (s->kind == STEP_ALIAS) return NB_OK;
    if (s->kind == STEP_LINALG) return run_linalg(ctx, e, s);
    if (s->kind == STEP_CALL) return s->call(ctx, e, s);
    if (can_split(s)) {
        slice_job job = {e->graph, s};
        return nbi_parallel(ctx, (size_t)s->out_view[0].dim[0], 1, run_slice, &job);
    }
    if (s->kind == STEP_COPY) {
        nbi_view_copy(&s->out_view[0], &s->in_view[0]);
        return NB_OK;
    }
    nbi_op_call call = {ctx, e->graph, s->node, s->in_view, s->out_view, e->seed};
    return s->node->op->forward(&call);
}

nb_status nbi_exec_steps(nb_ctx *ctx, nbi_exec *e, int begin, int end) {
    nbi_threads_apply(ctx);
    for (int s = begin; s < end; s++) {
        nb_status st = run_step(ctx, e, &e->step[s]);
        if (st != NB_OK)
            return nb_fail_prefix(ctx, st, "node '%s' (%s)", e->step[s].node->name,
                                  e->step[s].node->op_type);
    }
    return NB_OK;
}

static nb_status run_all(nb_ctx *ctx, nbi_exec *e, const void *const *inputs) {
    if (e->flags & NBI_EXEC_PLAN_ONLY)
        return nb_fail(ctx, NB_EINVAL, "a plan without buffers cannot be run");
    for (int i = 0; i < e->graph->n_inputs; i++)
        memcpy(&e->slot[e->graph->input[i]].view.data, &inputs[i], sizeof inputs[i]);
    return nbi_exec_steps(ctx, e, 0, e->n_steps);
}

#define SMALL ((size_t)4 << 20) /* bytes of activations; larger batches lose little at barriers */

/* Alone there is nothing to choose; what keeps all values is run a few times only. */
static bool is_paced(const nb_ctx *ctx, const nbi_exec *e) {
    return nb_ctx_threads(ctx) > 1 && !(e->flags & ~(unsigned)NBI_EXEC_FAST) && e->bytes <= SMALL;
}

static nb_status make_twin(nb_ctx *ctx, nbi_exec *e) {
    const int threads = nb_ctx_threads(ctx);
    nb_ctx_set_threads(ctx, 1);
    nb_status st = nbi_exec_new(ctx, e->graph, e->flags, &e->pace.twin);
    nb_ctx_set_threads(ctx, threads);
    nbi_threads_apply(ctx);
    return st;
}

nb_status nbi_exec_run(nb_ctx *ctx, nbi_exec *e, const void *const *inputs) {
    const int threads = nb_ctx_threads(ctx);
    const bool paced = is_paced(ctx, e), alone = paced && e->pace.pace.alone;
    if (alone && !e->pace.twin) NB_TRY(make_twin(ctx, e));
    e->pace.ran_alone = alone;
    if (!paced) return run_all(ctx, e, inputs);
    const double start = nb_seconds(ctx);
    if (alone) nb_ctx_set_threads(ctx, 1);
    nb_status st = run_all(ctx, alone ? e->pace.twin : e, inputs);
    nb_ctx_set_threads(ctx, threads);
    if (st == NB_OK) nbi_pace_add(&e->pace.pace, nb_seconds(ctx) - start);
    return st;
}

nb_status nbi_exec_value(nb_ctx *ctx, const nbi_exec *e, int tensor, nbi_view *out) {
    if (e->pace.ran_alone) e = e->pace.twin;
    if (tensor < 0 || tensor >= e->graph->n_tensors)
        return nb_fail(ctx, NB_EINVAL, "there is no tensor %d", tensor);
    const nbi_view *v = &e->slot[tensor].view;
    bool kept = e->slot[tensor].fixed || (e->flags & NBI_EXEC_KEEP_ALL);
    if (!v->data || !kept)
        return nb_fail(ctx, NB_EINVAL, "tensor '%s' has no value in this plan",
                       e->graph->tensor[tensor]->name);
    *out = *v;
    return NB_OK;
}
