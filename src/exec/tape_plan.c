/* Builds a tape: what is needed, the forward steps, and for every node that lies between a loss and
 * a wanted gradient, in reverse order, its backward steps. */
#include "exec/tape_parts.h"

#include <string.h>

/* ---- what is needed ------------------------------------------------------------------------ */

bool nbi_tape_needs(const nbi_tape *t, const nbi_node *node, int i) {
    if (i >= node->n_in || node->in[i] < 0) return false;
    if (t->graph->tensor[node->in[i]]->dtype != NB_DTYPE_F32) return false;
    unsigned mask = node->op->grad_in;
    if (mask && (i > 31 || !(mask >> i & 1))) return false;
    return t->wants[node->in[i]];
}

static void need(nbi_tape *t, int n, const int *tensor) {
    for (int i = 0; i < n; i++) t->plan->uses[tensor[i]]++;
}

static nb_status mark_needed(nb_ctx *ctx, nbi_tape *t) {
    const nbi_graph *g = t->graph;
    nbi_exec *e = t->plan;
    need(t, g->n_outputs, g->output);
    need(t, t->spec.n_losses, t->spec.loss);
    need(t, t->spec.n_keep, t->spec.keep);
    need(t, t->spec.n_wrt, t->spec.wrt);
    for (int i = 0; i < t->spec.n_states; i++) need(t, 1, &t->spec.state[i].from);
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = g->node[n];
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i] >= 0) e->needed[n] |= e->uses[node->out[i]] > 0;
        for (int i = 0; e->needed[n] && i < node->n_in; i++)
            if (node->in[i] >= 0) e->uses[node->in[i]]++;
    }
    for (int n = 0; n < g->n_nodes; n++)
        if (e->needed[n]) NB_TRY(nbi_exec_check_node(ctx, g, g->node[n]));
    return NB_OK;
}

/* wants: forwards from what gradients are asked for; reaches: backwards from the losses. */
static void mark_gradients(nbi_tape *t) {
    const nbi_graph *g = t->graph;
    for (int i = 0; i < t->spec.n_wrt; i++) t->wants[t->spec.wrt[i]] = true;
    for (int n = 0; n < g->n_nodes; n++) {
        if (!t->plan->needed[n]) continue;
        bool any = false;
        for (int i = 0; i < g->node[n]->n_in; i++) any |= nbi_tape_needs(t, g->node[n], i);
        for (int i = 0; any && i < g->node[n]->n_out; i++)
            if (g->node[n]->out[i] >= 0) t->wants[g->node[n]->out[i]] = true;
    }
    for (int i = 0; i < t->spec.n_losses; i++) t->reaches[t->spec.loss[i]] = true;
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        bool any = false;
        for (int i = 0; t->plan->needed[n] && i < g->node[n]->n_out; i++)
            any |= g->node[n]->out[i] >= 0 && t->reaches[g->node[n]->out[i]];
        for (int i = 0; any && i < g->node[n]->n_in; i++)
            if (g->node[n]->in[i] >= 0) t->reaches[g->node[n]->in[i]] = true;
    }
}

/* ---- steps --------------------------------------------------------------------------------- */

nb_status nbi_tape_call(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, exec_call call, void *user,
                        int n_in, const int *in, int n_out, const int *out, exec_step **step) {
    exec_step *s;
    NB_TRY(nbi_plan_step(ctx, t->plan, STEP_CALL, node, n_in, n_out, &s));
    s->call = call;
    s->user = user;
    for (int i = 0; i < n_in; i++) s->in[i] = in[i];
    for (int i = 0; i < n_out; i++) s->out[i] = out[i];
    if (step) *step = s;
    return NB_OK;
}

nb_status nbi_tape_gradient_slot(nb_ctx *ctx, nbi_tape *t, int x, bool channels_last, int *out) {
    nbi_view view = nbi_tensor_view(t->graph->tensor[x]);
    return nbi_plan_slot(ctx, t->plan, &view, channels_last, out);
}

typedef struct add_job {
    const float *a, *b;
    float *y;
} add_job;

NBI_WIDE static nb_status add_range(void *user, size_t begin, size_t end, int worker) {
    const add_job *job = user;
    (void)worker;
    for (size_t i = begin; i < end; i++) job->y[i] = job->a[i] + job->b[i];
    return NB_OK;
}

/* Both have the layout of one tensor, so their memory lies in the same order. */
static nb_status add_call(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    add_job job = {s->in_view[0].data, s->in_view[1].data, s->out_view[0].data};
    (void)e;
    return nbi_parallel(ctx, (size_t)nbi_view_count(&s->out_view[0]), 16384, add_range, &job);
}

static nb_status zero_call(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    (void)ctx, (void)e;
    memset(s->out_view[0].data, 0, (size_t)nbi_view_count(&s->out_view[0]) * sizeof(float));
    return NB_OK;
}

typedef struct seed_user {
    const nbi_tape *tape;
    int loss;
} seed_user;

static nb_status seed_call(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    const seed_user *u = s->user;
    (void)ctx, (void)e;
    *(float *)s->out_view[0].data = u->tape->weight ? u->tape->weight[u->loss] : 1.0f;
    return NB_OK;
}

nb_status nbi_tape_contribute(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, int x, int slot) {
    int sum, in[2];
    exec_step *step;
    bool last = t->plan->slot[x].last_layout;
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, last, &slot));
    if (t->gradient[x] < 0) {
        t->gradient[x] = slot;
        return NB_OK;
    }
    in[0] = t->gradient[x];
    in[1] = slot;
    NB_TRY(nbi_tape_gradient_slot(ctx, t, x, last, &sum));
    NB_TRY(nbi_tape_call(ctx, t, node, add_call, NULL, 2, in, 1, &sum, &step));
    step->over = 0;
    t->gradient[x] = sum;
    return NB_OK;
}

/* ---- backward of one node ------------------------------------------------------------------ */

static nb_status backward_call(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    const nbi_node *node = s->node;
    nbi_grad_call call = {.ctx = ctx,
                          .graph = e->graph,
                          .node = node,
                          .in = s->in_view,
                          .out = s->in_view + node->n_in,
                          .gout = s->in_view + node->n_in + node->n_out,
                          .gin = s->out_view,
                          .seed = e->seed};
    return node->op->backward(&call);
}

/* The slot a value is read from in backward, or −1 with a view that has no data. */
static nb_status kept_value(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, int x, bool keep,
                            bool strided, int *slot, nbi_view *view) {
    *slot = -1;
    if (x < 0) return NB_OK;
    int s = x;
    if (keep && !strided) NB_TRY(nbi_plan_layout(ctx, t->plan, node, false, &s));
    if (keep) *slot = s;
    *view = t->plan->slot[s].view;
    view->data = NULL;
    if (!strided) nbi_view_contiguous(view);
    return NB_OK;
}

/* All bits: any number of values. */
static bool bit(unsigned mask, int i) {
    return mask == ~0u || (i < 32 && (mask >> i & 1));
}

static nb_status fill_backward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, int *list,
                               nbi_view *view) {
    bool strided = (node->op->flags & NBI_OP_STRIDED) && !t->spec.reference;
    for (int i = 0; i < node->n_in; i++)
        NB_TRY(kept_value(ctx, t, node, node->in[i], bit(node->op->keep_in, i), strided, &list[i],
                          &view[i]));
    list += node->n_in;
    view += node->n_in;
    for (int i = 0; i < node->n_out; i++) {
        NB_TRY(kept_value(ctx, t, node, node->out[i], bit(node->op->keep_out, i), strided, &list[i],
                          &view[i]));
        view[node->n_out + i] = view[i];
        int g = node->out[i] < 0 ? -1 : t->gradient[node->out[i]];
        if (g >= 0 && !strided) NB_TRY(nbi_plan_layout(ctx, t->plan, node, false, &g));
        list[node->n_out + i] = g;
    }
    return NB_OK;
}

static nb_status op_backward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node) {
    int n = node->n_in + 2 * node->n_out;
    bool strided = (node->op->flags & NBI_OP_STRIDED) && !t->spec.reference;
    int *list = nbi_arena_alloc(&t->arena, (size_t)(n + node->n_in) + 1, sizeof *list);
    nbi_view *view = nbi_arena_alloc(&t->arena, (size_t)n + 1, sizeof *view);
    exec_step *step;
    if (!list || !view) return nb_fail_memory(ctx, sizeof *view);
    NB_TRY(fill_backward(ctx, t, node, list, view));
    int *gin = list + n;
    for (int i = 0; i < node->n_in; i++) {
        gin[i] = -1;
        if (!nbi_tape_needs(t, node, i)) continue;
        int x = node->in[i];
        bool last = strided && t->plan->slot[x].last_layout;
        NB_TRY(nbi_tape_gradient_slot(ctx, t, x, last, &gin[i]));
    }
    NB_TRY(nbi_tape_call(ctx, t, node, backward_call, NULL, n, list, node->n_in, gin, &step));
    memcpy(step->in_view, view, (size_t)n * sizeof *view);
    if (node->op->flags & NBI_OP_GRAD_INPLACE) step->over = node->n_in + node->n_out;
    for (int i = 0; i < node->n_in; i++)
        if (gin[i] >= 0) NB_TRY(nbi_tape_contribute(ctx, t, node, node->in[i], gin[i]));
    return NB_OK;
}

/* Reshape and its kind: the same memory under the input's shape. */
static nb_status alias_backward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node) {
    int g = t->gradient[node->out[0]], x = node->in[0], slot;
    exec_step *step;
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, false, &g));
    NB_TRY(nbi_tape_gradient_slot(ctx, t, x, false, &slot));
    NB_TRY(nbi_plan_step(ctx, t->plan, STEP_ALIAS, node, 1, 1, &step));
    step->in[0] = g;
    step->out[0] = slot;
    return nbi_tape_contribute(ctx, t, node, x, slot);
}

static bool same_shape(const nbi_tensor *a, const nbi_tensor *b) {
    return a->rank == b->rank && !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim);
}

/* An Add without broadcasting hands its gradient on. */
static bool is_plain_add(const nbi_tape *t, const nbi_node *node) {
    const nbi_graph *g = t->graph;
    return !*node->domain && !strcmp(node->op_type, "Add") && !t->spec.reference &&
           same_shape(g->tensor[node->in[0]], g->tensor[node->out[0]]) &&
           same_shape(g->tensor[node->in[1]], g->tensor[node->out[0]]);
}

static nb_status node_backward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node) {
    bool done = false;
    if (is_plain_add(t, node)) {
        for (int i = 0; i < 2; i++)
            if (nbi_tape_needs(t, node, i))
                NB_TRY(nbi_tape_contribute(ctx, t, node, node->in[i], t->gradient[node->out[0]]));
        return NB_OK;
    }
    if ((node->op->flags & NBI_OP_ALIAS) && nbi_tape_needs(t, node, 0))
        return alias_backward(ctx, t, node);
    if (!t->spec.reference) NB_TRY(nbi_tape_linalg_backward(ctx, t, node, &done));
    if (done) return NB_OK;
    if (!node->op->backward)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (%s): no gradient is defined for this operator", node->name,
                       node->op_type);
    return op_backward(ctx, t, node);
}

/* ---- all ----------------------------------------------------------------------------------- */

static nb_status plan_seeds(nb_ctx *ctx, nbi_tape *t) {
    for (int i = 0; i < t->spec.n_losses; i++) {
        int x = t->spec.loss[i], slot;
        const nbi_node *node = NULL;
        if (t->graph->tensor[x]->producer >= 0)
            node = t->graph->node[t->graph->tensor[x]->producer];
        if (!node || !t->wants[x]) continue;
        seed_user *user = nbi_arena_alloc(&t->arena, 1, sizeof *user);
        if (!user) return nb_fail_memory(ctx, sizeof *user);
        *user = (seed_user){t, i};
        NB_TRY(nbi_tape_gradient_slot(ctx, t, x, false, &slot));
        NB_TRY(nbi_tape_call(ctx, t, node, seed_call, user, 0, NULL, 1, &slot, NULL));
        NB_TRY(nbi_tape_contribute(ctx, t, node, x, slot));
    }
    return NB_OK;
}

static nb_status plan_results(nb_ctx *ctx, nbi_tape *t) {
    const nbi_graph *g = t->graph;
    for (int i = 0; i < t->spec.n_wrt; i++) {
        int x = t->spec.wrt[i], slot = t->gradient[x];
        const nbi_node *any = g->n_nodes ? g->node[0] : NULL;
        if (!any) return nb_fail(ctx, NB_EFORMAT, "the graph has no node to train");
        if (slot < 0) {
            NB_TRY(nbi_tape_gradient_slot(ctx, t, x, false, &slot));
            NB_TRY(nbi_tape_call(ctx, t, any, zero_call, NULL, 0, NULL, 1, &slot, NULL));
        } else {
            NB_TRY(nbi_plan_layout(ctx, t->plan, any, false, &slot));
        }
        t->plan->slot[slot].fixed = true;
        t->final[i] = slot;
    }
    return NB_OK;
}

static nb_status alloc_arrays(nb_ctx *ctx, nbi_tape *t) {
    size_t n = (size_t)t->graph->n_tensors + 1, w = (size_t)t->spec.n_wrt + 1;
    t->skipped = nbi_arena_alloc(&t->arena, (size_t)t->graph->n_nodes + 1, sizeof *t->skipped);
    t->chain = nbi_arena_alloc(&t->arena, (size_t)t->graph->n_nodes + 1, sizeof(tape_chain *));
    t->wants = nbi_arena_alloc(&t->arena, n, sizeof *t->wants);
    t->reaches = nbi_arena_alloc(&t->arena, n, sizeof *t->reaches);
    t->gradient = nbi_arena_alloc(&t->arena, n, sizeof *t->gradient);
    t->final = nbi_arena_alloc(&t->arena, w, sizeof *t->final);
    if (!t->skipped || !t->chain || !t->wants || !t->reaches || !t->gradient || !t->final)
        return nb_fail_memory(ctx, n * sizeof *t->gradient);
    for (size_t i = 0; i < n; i++) t->gradient[i] = -1;
    return NB_OK;
}

static nb_status plan_forward(nb_ctx *ctx, nbi_tape *t, int n) {
    bool done = false;
    if (t->skipped[n]) return NB_OK;
    if (!t->spec.reference && !t->chain[n]) {
        NB_TRY(nbi_tape_linalg_forward(ctx, t, t->graph->node[n], &done));
        if (done) return NB_OK;
        NB_TRY(nbi_tape_find_chain(ctx, t, n));
        if (t->skipped[n]) return NB_OK;
    }
    if (t->chain[n]) return nbi_tape_chain_forward(ctx, t, n);
    return nbi_plan_node(ctx, t->plan, t->graph->node[n]);
}

static void fix(nbi_tape *t, int n, const int *tensor) {
    for (int i = 0; i < n; i++) t->plan->slot[tensor[i]].fixed = true;
}

nb_status nbi_tape_build(nb_ctx *ctx, nbi_tape *t) {
    const nbi_graph *g = t->graph;
    NB_TRY(alloc_arrays(ctx, t));
    NB_TRY(mark_needed(ctx, t));
    mark_gradients(t);
    if (!t->spec.reference) NB_TRY(nbi_la_new(ctx, &t->plan->la));
    NB_TRY(nbi_plan_tensor_slots(ctx, t->plan));
    fix(t, t->spec.n_losses, t->spec.loss);
    fix(t, t->spec.n_keep, t->spec.keep);
    fix(t, t->spec.n_wrt, t->spec.wrt);
    for (int i = 0; i < t->spec.n_states; i++) fix(t, 1, &t->spec.state[i].from);
    for (int n = 0; n < g->n_nodes; n++)
        if (t->plan->needed[n]) NB_TRY(plan_forward(ctx, t, n));
    t->n_forward = t->plan->n_steps;
    NB_TRY(plan_seeds(ctx, t));
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = g->node[n];
        bool reached = false, wanted = false;
        for (int i = 0; i < node->n_out; i++)
            reached |= node->out[i] >= 0 && t->gradient[node->out[i]] >= 0;
        for (int i = 0; i < node->n_in && node->op; i++) wanted |= nbi_tape_needs(t, node, i);
        if (!t->plan->needed[n] || t->skipped[n]) continue;
        if (t->chain[n])
            NB_TRY(nbi_tape_chain_backward(ctx, t, n));
        else if (reached && wanted)
            NB_TRY(node_backward(ctx, t, node));
    }
    NB_TRY(plan_results(ctx, t));
    return nbi_plan_memory(ctx, t->plan);
}
