/* Turns a graph into steps over slots, and places the slots in one buffer by liveness. */
#include "exec/plan.h"

#include <string.h>

/* ---- slots --------------------------------------------------------------------------------- */

nb_status nbi_plan_slot(nb_ctx *ctx, nbi_exec *e, const nbi_view *view, bool last_layout,
                        int *out) {
    if (e->n_slots == e->cap_slots) {
        size_t cap = (size_t)e->cap_slots * 2 + 16;
        NB_TRY(nbi_grow(ctx, &e->slot, (size_t)e->n_slots, cap, sizeof *e->slot));
        e->cap_slots = (int)cap;
    }
    exec_slot *s = &e->slot[e->n_slots];
    *s = (exec_slot){.view = *view,
                     .offset = NBI_NOWHERE,
                     .root = e->n_slots,
                     .last = -1,
                     .last_layout = last_layout && view->rank >= 3,
                     .copy = {-1, -1}};
    if (s->last_layout) nbi_view_channels_last(&s->view);
    *out = e->n_slots++;
    return NB_OK;
}

static nb_status constant_data(nb_ctx *ctx, nbi_exec *e, const nbi_tensor *t, exec_slot *s) {
    s->fixed = true;
    s->view.data = t->data;
    if (nbi_dtype_bits(t->dtype) >= 8) return NB_OK;
    size_t count = (size_t)nbi_view_count(&s->view);
    s->view.data = nbi_arena_alloc(&e->arena, count + 1, 1);
    if (!s->view.data) return nb_fail_memory(ctx, count);
    nbi_bits_unpack(t->dtype, t->data, count, s->view.data);
    return NB_OK;
}

nb_status nbi_plan_tensor_slots(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    for (int t = 0; t < g->n_tensors; t++) {
        const nbi_tensor *tensor = g->tensor[t];
        bool known = nbi_shape_known(tensor) && nbi_dtype_bits(tensor->dtype);
        nbi_view view = {0};
        int slot;
        if (known) view = nbi_tensor_view(tensor);
        NB_TRY(nbi_plan_slot(ctx, e, &view, false, &slot));
        if (known && tensor->data) NB_TRY(constant_data(ctx, e, tensor, &e->slot[slot]));
    }
    for (int i = 0; i < g->n_inputs; i++) e->slot[g->input[i]].fixed = true;
    for (int i = 0; i < g->n_outputs; i++) e->slot[g->output[i]].fixed = true;
    return NB_OK;
}

/* ---- steps --------------------------------------------------------------------------------- */

nb_status nbi_plan_step(nb_ctx *ctx, nbi_exec *e, exec_kind kind, const nbi_node *node, int n_in,
                        int n_out, exec_step **out) {
    if (e->n_steps == e->cap_steps) {
        size_t cap = (size_t)e->cap_steps * 2 + 64;
        NB_TRY(nbi_grow(ctx, &e->step, (size_t)e->n_steps, cap, sizeof *e->step));
        e->cap_steps = (int)cap;
    }
    exec_step *s = &e->step[e->n_steps];
    size_t n = (size_t)(n_in + n_out) + 1;
    *s = (exec_step){.kind = kind, .node = node, .n_in = n_in, .n_out = n_out, .over = -1};
    s->in = nbi_arena_alloc(&e->arena, n, sizeof *s->in);
    s->in_view = nbi_arena_alloc(&e->arena, n, sizeof *s->in_view);
    if (!s->in || !s->in_view) return nb_fail_memory(ctx, n * sizeof *s->in_view);
    s->out = s->in + n_in;
    s->out_view = s->in_view + n_in;
    e->n_steps++;
    *out = s;
    return NB_OK;
}

/* *slot is replaced by one with the same value in the wanted layout. */
nb_status nbi_plan_layout(nb_ctx *ctx, nbi_exec *e, const nbi_node *node, bool channels_last,
                          int *slot) {
    const nbi_view *v = &e->slot[*slot].view;
    bool fits = channels_last ? nbi_view_is_channels_last(v) : nbi_view_is_contiguous(v);
    if (fits) return NB_OK;
    int copy = e->slot[*slot].copy[channels_last];
    if (copy < 0) {
        nbi_view plain = *v;
        plain.data = NULL;
        nbi_view_contiguous(&plain);
        exec_step *step;
        NB_TRY(nbi_plan_slot(ctx, e, &plain, channels_last, &copy));
        e->slot[*slot].copy[channels_last] = copy;
        NB_TRY(nbi_plan_step(ctx, e, STEP_COPY, node, 1, 1, &step));
        step->in[0] = *slot;
        step->out[0] = copy;
    }
    *slot = copy;
    return NB_OK;
}

static nb_status add_chain(nb_ctx *ctx, nbi_exec *e, const nbi_node *node, const exec_chain *c) {
    int x = c->x, add = c->add;
    exec_step *step;
    NB_TRY(nbi_plan_layout(ctx, e, node, c->channels_last, &x));
    if (add >= 0) NB_TRY(nbi_plan_layout(ctx, e, node, c->channels_last, &add));
    NB_TRY(nbi_plan_step(ctx, e, STEP_LINALG, node, add >= 0 ? 2 : 1, 1, &step));
    step->plan = c->plan;
    step->in[0] = x;
    step->over = 1;
    if (add >= 0) step->in[1] = add;
    step->out[0] = c->out;
    exec_slot *y = &e->slot[c->out];
    y->last_layout = c->channels_last && y->view.rank >= 3;
    if (y->last_layout) nbi_view_channels_last(&y->view);
    return NB_OK;
}

/* The inputs of an operator in a layout that it takes; true when its output is channels last. */
static nb_status op_inputs(nb_ctx *ctx, nbi_exec *e, const nbi_node *node, int *in, bool *last) {
    bool strided = (node->op->flags & NBI_OP_STRIDED) && !(e->flags & NBI_EXEC_REFERENCE);
    const exec_slot *x = node->n_in && node->in[0] >= 0 ? &e->slot[node->in[0]] : NULL;
    const nbi_tensor *y = node->n_out ? e->graph->tensor[node->out[0]] : NULL;
    *last = strided && x && x->last_layout && y && y->rank == x->view.rank;
    bool follow = *last && (node->op->flags & NBI_OP_ELEMENTWISE);
    for (int i = 0; i < node->n_in; i++) {
        in[i] = node->in[i];
        if (in[i] < 0) continue;
        bool same_rank = e->slot[in[i]].view.rank == y->rank;
        if (!strided)
            NB_TRY(nbi_plan_layout(ctx, e, node, false, &in[i]));
        else if (follow && i > 0 && same_rank)
            NB_TRY(nbi_plan_layout(ctx, e, node, true, &in[i]));
    }
    return NB_OK;
}

nb_status nbi_plan_node(nb_ctx *ctx, nbi_exec *e, const nbi_node *node) {
    bool last, alias = (node->op->flags & NBI_OP_ALIAS) && !(e->flags & NBI_EXEC_KEEP_ALL);
    int *in = nbi_arena_alloc(&e->arena, (size_t)node->n_in + 1, sizeof *in);
    exec_step *step;
    if (!in) return nb_fail_memory(ctx, sizeof *in);
    NB_TRY(op_inputs(ctx, e, node, in, &last));
    NB_TRY(
        nbi_plan_step(ctx, e, alias ? STEP_ALIAS : STEP_OP, node, node->n_in, node->n_out, &step));
    for (int i = 0; i < node->n_in; i++) step->in[i] = in[i];
    if (!alias && (node->op->flags & NBI_OP_INPLACE) && node->n_out == 1) step->over = 0;
    for (int i = 0; i < node->n_out; i++) {
        step->out[i] = node->out[i];
        if (node->out[i] < 0 || !last) continue;
        exec_slot *y = &e->slot[node->out[i]];
        y->last_layout = y->view.rank >= 3;
        nbi_view_channels_last(&y->view);
    }
    return NB_OK;
}

/* ---- aliases and memory -------------------------------------------------------------------- */

static bool same_place(const nbi_view *a, const nbi_view *b) {
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || (a->dim[i] > 1 && a->stride[i] != b->stride[i])) return false;
    return true;
}

/* May step s write its output over input i, which nothing reads later? */
static bool may_overwrite(const nbi_exec *e, int s, int i) {
    const exec_step *step = &e->step[s];
    if (step->in[i] < 0 || step->out[0] < 0) return false;
    int root = e->slot[step->in[i]].root;
    const exec_slot *x = &e->slot[step->in[i]], *y = &e->slot[step->out[0]];
    if (e->slot[root].fixed || x->fixed || e->slot[root].last != s) return false;
    if (!same_place(&x->view, &y->view)) return false;
    for (int k = 0; k < step->n_in; k++)
        if (k != i && step->in[k] >= 0 && e->slot[step->in[k]].root == root) return false;
    return true;
}

static void join(nbi_exec *e, int slot, int to) {
    int root = e->slot[to].root;
    e->slot[slot].root = root;
    if (e->slot[slot].last > e->slot[root].last) e->slot[root].last = e->slot[slot].last;
    e->slot[root].fixed |= e->slot[slot].fixed;
}

/* In order of the steps, so that a root's last use covers all aliases made before. */
static void find_aliases(nbi_exec *e) {
    bool keep = (e->flags & NBI_EXEC_KEEP_ALL) != 0;
    for (int s = 0; s < e->n_steps; s++)
        for (int i = 0; i < e->step[s].n_in; i++)
            if (e->step[s].in[i] >= 0) e->slot[e->step[s].in[i]].last = s;
    for (int s = 0; s < e->n_steps; s++) {
        exec_step *step = &e->step[s];
        int i = step->over;
        if (step->kind == STEP_ALIAS) {
            join(e, step->out[0], step->in[0]);
        } else if (i >= 0 && !keep && i < step->n_in && may_overwrite(e, s, i)) {
            step->in_place = true;
            join(e, step->out[0], step->in[i]);
        }
    }
}

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

static nb_status place_slots(nb_ctx *ctx, nbi_exec *e) {
    live_block *live = NULL;
    int n_live = 0;
    bool keep = (e->flags & NBI_EXEC_KEEP_ALL) != 0;
    NB_TRY(nbi_alloc(ctx, (size_t)e->n_slots + 1, sizeof *live, &live));
    for (int s = 0; s < e->n_steps; s++) {
        const exec_step *step = &e->step[s];
        for (int i = 0; i < step->n_out; i++) {
            int t = step->out[i];
            if (t < 0 || e->slot[t].root != t) continue;
            size_t size = view_bytes(&e->slot[t].view);
            e->slot[t].offset = place(live, &n_live, size, t);
            if (e->slot[t].offset + size > e->bytes) e->bytes = e->slot[t].offset + size;
        }
        int kept = 0;
        for (int k = 0; k < n_live; k++) {
            const exec_slot *r = &e->slot[live[k].root];
            if (keep || r->fixed || r->last > s) live[kept++] = live[k];
        }
        n_live = kept;
    }
    nbi_free(live);
    if (e->flags & NBI_EXEC_PLAN_ONLY) return NB_OK;
    /* steps write before they read: a buffer of many MiB is not touched before the first run */
    return nbi_alloc_plain(ctx, e->bytes + 64, 1, &e->buffer);
}

nb_status nbi_plan_memory(nb_ctx *ctx, nbi_exec *e) {
    find_aliases(e);
    return place_slots(ctx, e);
}

nb_status nbi_exec_plan(nb_ctx *ctx, nbi_exec *e) {
    const nbi_graph *g = e->graph;
    NB_TRY(nbi_plan_tensor_slots(ctx, e));
    for (int n = 0; n < g->n_nodes; n++) {
        if (!e->needed[n] || e->skipped[n]) continue;
        if (e->chain[n])
            NB_TRY(add_chain(ctx, e, g->node[n], e->chain[n]));
        else
            NB_TRY(nbi_plan_node(ctx, e, g->node[n]));
    }
    return nbi_plan_memory(ctx, e);
}
