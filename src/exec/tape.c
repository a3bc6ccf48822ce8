/* The life of a tape and its runs; tape_plan.c builds it. */
#include "exec/tape_parts.h"

#include <math.h>
#include <string.h>

static nb_status copy_ints(nb_ctx *ctx, nbi_arena *arena, const int *from, int n, const int **out) {
    int *to = nbi_arena_alloc(arena, (size_t)n + 1, sizeof *to);
    if (!to) return nb_fail_memory(ctx, sizeof *to);
    if (n) memcpy(to, from, (size_t)n * sizeof *to);
    *out = to;
    return NB_OK;
}

static nb_status check_tensor(nb_ctx *ctx, const nbi_graph *g, int t, const char *what,
                              int64_t count) {
    if (t < 0 || t >= g->n_tensors) return nb_fail(ctx, NB_EINVAL, "%s: no tensor %d", what, t);
    const nbi_tensor *x = g->tensor[t];
    if (x->dtype != NB_DTYPE_F32)
        return nb_fail(ctx, NB_EUNSUPPORTED, "%s '%s' is %s, want float32", what, x->name,
                       nbi_dtype_name(x->dtype));
    if (count >= 0 && nbi_tensor_count(x) != count)
        return nb_fail(ctx, NB_EFORMAT, "%s '%s' has %lld elements, want %lld", what, x->name,
                       (long long)nbi_tensor_count(x), (long long)count);
    return NB_OK;
}

static nb_status copy_spec(nb_ctx *ctx, nbi_tape *t, const nbi_tape_spec *spec) {
    const nbi_graph *g = t->graph;
    t->spec = *spec;
    NB_TRY(copy_ints(ctx, &t->arena, spec->wrt, spec->n_wrt, &t->spec.wrt));
    NB_TRY(copy_ints(ctx, &t->arena, spec->loss, spec->n_losses, &t->spec.loss));
    NB_TRY(copy_ints(ctx, &t->arena, spec->keep, spec->n_keep, &t->spec.keep));
    nbi_tape_state *state =
        nbi_arena_alloc(&t->arena, (size_t)spec->n_states + 1, sizeof *state);
    if (!state) return nb_fail_memory(ctx, sizeof *state);
    if (spec->n_states) memcpy(state, spec->state, (size_t)spec->n_states * sizeof *state);
    t->spec.state = state;
    for (int i = 0; i < spec->n_wrt; i++)
        NB_TRY(check_tensor(ctx, g, spec->wrt[i], "gradient of", -1));
    for (int i = 0; i < spec->n_losses; i++)
        NB_TRY(check_tensor(ctx, g, spec->loss[i], "loss", 1));
    for (int i = 0; i < spec->n_states; i++) {
        NB_TRY(check_tensor(ctx, g, state[i].to, "state", -1));
        const nbi_tensor *to = g->tensor[state[i].to];
        NB_TRY(check_tensor(ctx, g, state[i].from, "state", nbi_tensor_count(to)));
        if (!to->data)
            return nb_fail(ctx, NB_EINVAL, "state '%s' is not a constant of the graph", to->name);
    }
    return NB_OK;
}

nb_status nbi_tape_new(nb_ctx *ctx, nbi_graph *graph, const nbi_tape_spec *spec, nbi_tape **out) {
    nbi_tape *t = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *t, &t));
    t->graph = graph;
    nbi_threads_apply(ctx);
    NB_TRYG(copy_spec(ctx, t, spec));
    NB_TRYG(nbi_alloc(ctx, 1, sizeof *t->plan, &t->plan));
    t->plan->graph = graph;
    t->plan->flags = spec->reference ? NBI_EXEC_REFERENCE : 0;
    NB_TRYG(nbi_exec_arrays(ctx, t->plan));
    NB_TRYG(nbi_tape_build(ctx, t));
    *out = t;
    return NB_OK;
done:
    nbi_tape_free(t);
    return st;
}

void nbi_tape_free(nbi_tape *t) {
    if (!t) return;
    for (int i = 0; i < t->n_plans; i++) nbi_la_plan_free(t->la[i]);
    nbi_free(t->la);
    nbi_exec_free(t->plan);
    nbi_arena_free(&t->arena);
    nbi_free(t);
}

/* ---- running ------------------------------------------------------------------------------- */

nb_status nbi_tape_forward(nb_ctx *ctx, nbi_tape *t, const void *const *inputs, uint64_t seed) {
    nbi_exec *e = t->plan;
    t->ran = false;
    e->seed = seed;
    for (int i = 0; i < t->graph->n_inputs; i++)
        memcpy(&e->slot[t->graph->input[i]].view.data, &inputs[i], sizeof inputs[i]);
    NB_TRY(nbi_exec_steps(ctx, e, 0, t->n_forward));
    t->ran = true;
    return NB_OK;
}

static float *slot_data(const nbi_exec *e, int slot) {
    const exec_slot *s = &e->slot[slot], *root = &e->slot[s->root];
    if (root->offset != NBI_NOWHERE) return (float *)(void *)(e->buffer + root->offset);
    return root->view.data;
}

nb_status nbi_tape_backward(nb_ctx *ctx, nbi_tape *t, const float *weight) {
    if (!t->ran) return nb_fail(ctx, NB_EINVAL, "backward needs a forward run before it");
    t->weight = weight;
    t->ran = false;
    return nbi_exec_steps(ctx, t->plan, t->n_forward, t->plan->n_steps);
}

void nbi_tape_advance(nbi_tape *t) {
    for (int i = 0; i < t->spec.n_states; i++) {
        nbi_tensor *to = t->graph->tensor[t->spec.state[i].to];
        memcpy(to->data, slot_data(t->plan, t->spec.state[i].from),
               (size_t)nbi_tensor_count(to) * sizeof(float));
    }
}

nb_status nbi_tape_value(nb_ctx *ctx, const nbi_tape *t, int tensor, nbi_view *out) {
    return nbi_exec_value(ctx, t->plan, tensor, out);
}

const float *nbi_tape_gradient(const nbi_tape *t, int i) {
    return slot_data(t->plan, t->final[i]);
}

size_t nbi_tape_bytes(const nbi_tape *t) {
    return t->plan->bytes;
}

static bool finite_row(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

const char *nbi_tape_not_finite(const nbi_tape *t) {
    const nbi_graph *g = t->graph;
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 0; i < g->node[n]->n_in + g->node[n]->n_out; i++) {
            const nbi_node *node = g->node[n];
            int x = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
            if (x < 0 || g->tensor[x]->dtype != NB_DTYPE_F32) continue;
            const exec_slot *s = &t->plan->slot[x];
            if (!s->fixed && !g->tensor[x]->data) continue;
            const float *data = g->tensor[x]->data ? g->tensor[x]->data : s->view.data;
            if (data && !finite_row(data, nbi_tensor_count(g->tensor[x])))
                return g->tensor[x]->name;
        }
    return NULL;
}
