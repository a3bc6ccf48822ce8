/* Conv, Gemm and MatMul of a tape on linalg's three products. Weights may be constants that an
 * optimizer changes, or computed tensors. */
#include "exec/tape_parts.h"

#include <string.h>

typedef struct product {
    bool conv, transposed;
    nbi_la_conv_desc c;
    nbi_la_gemm_desc g;
    int bias; /* tensor or −1 */
} product;

static bool is(const nbi_node *node, const char *type) {
    return !*node->domain && !strcmp(node->op_type, type);
}

static bool gemm_fits(const nbi_graph *g, const nbi_node *node, product *p) {
    const nbi_tensor *x = g->tensor[node->in[0]], *w = g->tensor[node->in[1]];
    const nbi_tensor *y = g->tensor[node->out[0]];
    if (x->dtype != NB_DTYPE_F32 || w->dtype != NB_DTYPE_F32 || x->rank != 2 || w->rank != 2)
        return false;
    p->transposed = true;
    if (is(node, "Gemm")) {
        const nbi_gemm_params *gp = node->params;
        if (gp->trans_a || gp->alpha != 1.0f) return false;
        p->transposed = !gp->trans_b;
        if (p->bias >= 0) {
            const nbi_tensor *b = g->tensor[p->bias];
            if (gp->beta != 1.0f || nbi_tensor_count(b) != y->dim[1] ||
                (b->rank > 0 && b->dim[b->rank - 1] != y->dim[1]))
                return false;
        }
    }
    p->g = (nbi_la_gemm_desc){.n = x->dim[0], .k = x->dim[1], .m = y->dim[1]};
    return p->g.n > 0 && p->g.k > 0 && p->g.m > 0;
}

static bool fits(const nbi_graph *g, const nbi_node *node, product *p) {
    *p = (product){.bias = node->n_in > 2 ? node->in[2] : -1};
    if (is(node, "Conv")) {
        p->conv = true;
        return nbi_fuse_conv(g, node, &p->c);
    }
    return (is(node, "Gemm") || is(node, "MatMul")) && gemm_fits(g, node, p);
}

static nb_status make(nb_ctx *ctx, nbi_tape *t, const product *p, nbi_la_pass pass, bool bias,
                      nbi_la_plan **out) {
    if (t->n_plans == t->cap_plans) {
        size_t cap = (size_t)t->cap_plans * 2 + 16;
        NB_TRY(nbi_grow(ctx, &t->la, (size_t)t->n_plans, cap, sizeof(nbi_la_plan *)));
        t->cap_plans = (int)cap;
    }
    nbi_la *la = t->plan->la;
    nbi_la_conv_desc conv = p->c;
    conv.fast = t->spec.n_losses > 0;
    NB_TRY(p->conv ? nbi_la_conv_train(ctx, la, &conv, pass, bias, out)
                   : nbi_la_gemm_train(ctx, la, &p->g, pass, bias, p->transposed, out));
    t->la[t->n_plans++] = *out;
    return NB_OK;
}

static nb_status run_forward(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    nbi_la_args args = {s->in_view[0].data, s->in_view[1].data,
                        s->n_in > 2 ? s->in_view[2].data : NULL, s->out_view[0].data};
    return nbi_la_run_train(ctx, e->la, s->user, &args);
}

static nb_status run_data(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    nbi_la_args args = {s->out_view[0].data, s->in_view[1].data, NULL, s->in_view[0].data};
    return nbi_la_run_train(ctx, e->la, s->user, &args);
}

static nb_status run_weights(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    nbi_la_args args = {s->in_view[0].data, s->out_view[0].data,
                        s->n_out > 1 ? s->out_view[1].data : NULL, s->in_view[1].data};
    return nbi_la_run_train(ctx, e->la, s->user, &args);
}

nb_status nbi_tape_linalg_forward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, bool *done) {
    product p;
    nbi_la_plan *plan;
    if (!fits(t->graph, node, &p)) return NB_OK;
    nb_status st = make(ctx, t, &p, NBI_LA_FORWARD, p.bias >= 0, &plan);
    if (st == NB_EUNSUPPORTED) return NB_OK;
    NB_TRY(st);
    int in[3] = {node->in[0], node->in[1], p.bias}, y = node->out[0];
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, p.conv, &in[0]));
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, false, &in[1]));
    NB_TRY(nbi_tape_call(ctx, t, node, run_forward, plan, p.bias >= 0 ? 3 : 2, in, 1, &y, NULL));
    exec_slot *slot = &t->plan->slot[y];
    slot->last_layout = p.conv;
    if (p.conv) nbi_view_channels_last(&slot->view);
    *done = true;
    return NB_OK;
}

static nb_status data_step(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, const product *p,
                           nbi_la_plan *plan, int gy) {
    int in[2] = {gy, node->in[1]}, gx;
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, false, &in[1]));
    NB_TRY(nbi_tape_gradient_slot(ctx, t, node->in[0], p->conv, &gx));
    NB_TRY(nbi_tape_call(ctx, t, node, run_data, plan, 2, in, 1, &gx, NULL));
    return nbi_tape_contribute(ctx, t, node, node->in[0], gx);
}

static nb_status weight_step(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, const product *p,
                             nbi_la_plan *plan, int gy, bool bias) {
    int in[2] = {node->in[0], gy}, out[2];
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, p->conv, &in[0]));
    NB_TRY(nbi_tape_gradient_slot(ctx, t, node->in[1], false, &out[0]));
    if (bias) NB_TRY(nbi_tape_gradient_slot(ctx, t, p->bias, false, &out[1]));
    NB_TRY(nbi_tape_call(ctx, t, node, run_weights, plan, 2, in, bias ? 2 : 1, out, NULL));
    NB_TRY(nbi_tape_contribute(ctx, t, node, node->in[1], out[0]));
    return bias ? nbi_tape_contribute(ctx, t, node, p->bias, out[1]) : NB_OK;
}

nb_status nbi_tape_linalg_backward(nb_ctx *ctx, nbi_tape *t, const nbi_node *node, bool *done) {
    product p;
    nbi_la_plan *data = NULL, *weights = NULL;
    nb_status st = NB_OK;
    if (!fits(t->graph, node, &p)) return NB_OK;
    bool bias = p.bias >= 0 && nbi_tape_needs(t, node, 2);
    if (nbi_tape_needs(t, node, 0)) st = make(ctx, t, &p, NBI_LA_BACKWARD_DATA, false, &data);
    if (st == NB_OK && (nbi_tape_needs(t, node, 1) || bias))
        st = make(ctx, t, &p, NBI_LA_BACKWARD_WEIGHTS, bias, &weights);
    if (st == NB_EUNSUPPORTED) return NB_OK;
    NB_TRY(st);
    int gy = t->gradient[node->out[0]];
    NB_TRY(nbi_plan_layout(ctx, t->plan, node, p.conv, &gy));
    if (data) NB_TRY(data_step(ctx, t, node, &p, data, gy));
    if (weights) NB_TRY(weight_step(ctx, t, node, &p, weights, gy, bias));
    *done = true;
    return NB_OK;
}
