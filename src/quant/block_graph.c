/* The graph that blocks are learned on: quant/qat's simulation of the whole network with weights that
 * are not quantized (the caller softly rounds them) and activation quantizers of our own, cut at the
 * block's two tensors. */
#include "quant/block_parts.h"

#include "ops/op_util.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- blocks ---------------------------------------------------------------------------------- */

/* An edge that is quantized where it is made, so that the simulation has one tensor for it. */
static bool can_cut(const nbi_blocks *b, int e) {
    const nbi_edge *edge = &b->o.net->edge[e];
    if (edge->tensor < 0 || edge->producer < 0 || b->vertex[edge->site].n != 1) return false;
    nbi_layer_type t = b->o.net->layer[edge->producer].type;
    return t != NBI_LAYER_COPY && t != NBI_LAYER_MAXPOOL && t != NBI_LAYER_REQUANT;
}

/* The one edge that layers up to i make and later ones read; −1: none, or several. */
static int cut_behind(const nbi_qnet *net, int i) {
    int found = -1;
    for (int e = 0; e < net->n_edges; e++) {
        if (net->edge[e].producer > i) continue;
        bool read = false;
        for (int l = i + 1; l < net->n_layers && !read; l++)
            for (int k = 0; k < net->layer[l].n_in; k++) read |= net->layer[l].in[k] == e;
        if (!read) continue;
        if (found >= 0) return -1;
        found = e;
    }
    return found;
}

bool nbi_block_learns(const nbi_blocks *b, int layer) {
    const nbi_layer *l = &b->o.net->layer[layer];
    return l->type == NBI_LAYER_CONV && (b->o.bits[l->weight_site] & 255) < 8;
}

nb_status nbi_blocks_find(nb_ctx *ctx, nbi_blocks *b) {
    const nbi_qnet *net = b->o.net;
    int from = -1, first = 0;
    b->block = nbi_arena_alloc(&b->arena, (size_t)net->n_layers + 1, sizeof *b->block);
    if (!b->block) return nb_fail_memory(ctx, sizeof *b->block);
    for (int i = 0; i < net->n_layers; i++) {
        int e = net->layer[i].out == b->o.edge ? b->o.edge : cut_behind(net, i);
        bool last = e == b->o.edge;
        if (e < 0 || (!last && !can_cut(b, e)) || net->edge[e].tensor < 0) continue;
        bool learns = false;
        for (int l = first; l <= i; l++) learns |= nbi_block_learns(b, l);
        if (learns && from >= 0) b->block[b->n_blocks++] = (nbi_block){from, e, first, i};
        if (last) break;
        from = e;
        first = i + 1;
    }
    return NB_OK;
}

/* ---- vertices -------------------------------------------------------------------------------- */

static nb_status add(nb_ctx *ctx, nbi_graph *g, const char *domain, const char *type, int a, int b,
                     int *out, nbi_node **node) {
    NB_TRY(nbi_graph_add_tensor(ctx, g, NULL, NB_DTYPE_NONE, -1, NULL, out));
    return nbi_graph_add_node(ctx, g, type, domain, type, 2, (const int[]){a, b}, 1, out, node);
}

static nb_status finish(nb_ctx *ctx, nbi_graph *g, nbi_node *node) {
    NB_TRY(nbi_node_prepare(ctx, g, node));
    NB_TRY(nbi_node_infer(ctx, g, node));
    if (node->op && nbi_shape_known(g->tensor[node->out[0]])) return NB_OK;
    return nb_fail(ctx, NB_EUNSUPPORTED, "'%s' cannot be trained", node->op_type);
}

static nb_status vertex(nb_ctx *ctx, void *user, nbi_qat *qat, const nbi_qat_vertex *v, int *out) {
    nbi_blocks *b = user;
    const nbi_site *site = &b->o.net->site[v->site];
    nbi_block_site *mine = &b->vertex[v->site];
    nbi_graph *g = qat->graph;
    nbi_node *node;
    if (site->kind == NBI_SITE_WEIGHT) {
        *out = v->x;
        return NB_OK;
    }
    if (mine->n == 0) {
        NB_TRY(nbi_graph_add_const(ctx, g, site->name, NB_DTYPE_F32, 2, (const int64_t[]){1, 1},
                                   &mine->step));
        *(float *)g->tensor[mine->step]->data = (float)site->fit[b->o.bits[v->site]].scale;
    }
    NB_TRY(add(ctx, g, "org.nibble", "FakeQuant", v->x, mine->step, out, &node));
    NB_TRY(nbi_node_set_text(ctx, g, node, "scheme", "lsq"));
    NB_TRY(nbi_node_set_text(ctx, g, node, "role", "activations"));
    NB_TRY(nbi_node_set_int(ctx, g, node, "bits", b->o.bits[v->site] & 255));
    NB_TRY(nbi_node_set_int(ctx, g, node, "unsigned", v->is_unsigned));
    NB_TRY(nbi_node_set_int(ctx, g, node, "axis", -1));
    mine->n++;
    mine->x = v->x;
    mine->out = *out;
    return finish(ctx, g, node);
}

nb_status nbi_block_simulate(nb_ctx *ctx, nbi_blocks *b, nbi_qat **out) {
    nbi_qat_options q = {.batch = b->o.batch, .per_channel = true, .evaluate = true,
                         .vertex = vertex, .vertex_user = b};
    memset(b->vertex, 0, (size_t)b->o.net->n_sites * sizeof *b->vertex);
    return nbi_qat_new(ctx, b->o.source, b->o.net, b->o.bits, b->o.edge, &q, out);
}

/* ---- one block ------------------------------------------------------------------------------- */

/* y = x + mask·(quantized − x): where the mask is 0 the value is not quantized. */
static nb_status add_drop(nb_ctx *ctx, nbi_graph *g, const nbi_block_site *v, int *mask) {
    int difference, part, y, from = v->x;
    nbi_node *node, *first;
    for (int n = 0; n < g->n_nodes; n++) /* the block's own input stands for what was there */
        if (g->node[n]->out[0] == v->out) from = g->node[n]->in[0];
    const nbi_tensor *x = g->tensor[from];
    NB_TRY(nbi_graph_add_const(ctx, g, NULL, NB_DTYPE_F32, x->rank, x->dim, mask));
    NB_TRY(add(ctx, g, "", "Sub", v->out, from, &difference, &first));
    NB_TRY(finish(ctx, g, first));
    NB_TRY(add(ctx, g, "", "Mul", difference, *mask, &part, &node));
    NB_TRY(finish(ctx, g, node));
    NB_TRY(add(ctx, g, "", "Add", from, part, &y, &node));
    NB_TRY(finish(ctx, g, node));
    nbi_graph_replace_uses(g, v->out, y);
    first->in[0] = v->out;
    return NB_OK;
}

/* Does tensor t feed the outputs of the pruned graph? */
static bool is_used(const nbi_graph *g, int t) {
    return nbi_graph_uses(g, t) > 0;
}

nb_status nbi_block_open(nb_ctx *ctx, nbi_blocks *b, int index, nbi_block_graph *out) {
    const nbi_block *block = &b->block[index];
    const nbi_qnet *net = b->o.net;
    nbi_graph *g;
    nbi_node *node;
    int in, target, loss;
    NB_TRY(nbi_block_simulate(ctx, b, &out->qat));
    g = out->graph = out->qat->graph;
    int from = b->vertex[net->edge[block->in].site].out;
    bool last = block->out == b->o.edge;
    int to = last ? out->qat->logits : b->vertex[net->edge[block->out].site].x;
    NB_TRY(nbi_graph_add_tensor(ctx, g, "block", NB_DTYPE_F32, g->tensor[from]->rank,
                                g->tensor[from]->dim, &in));
    nbi_graph_replace_uses(g, from, in);
    NB_TRY(nbi_graph_add_tensor(ctx, g, "wanted", NB_DTYPE_F32, g->tensor[to]->rank,
                                g->tensor[to]->dim, &target));
    NB_TRY(add(ctx, g, "org.nibble", "MeanSquaredError", to, target, &loss, &node));
    NB_TRY(finish(ctx, g, node));
    NB_TRY(nbi_graph_set_inputs(ctx, g, 2, (const int[]){in, target}));
    NB_TRY(nbi_graph_set_outputs(ctx, g, 2, (const int[]){to, loss}));
    nbi_graph_prune(g);
    if (nbi_graph_uses(g, out->qat->x) > 0)
        return nb_fail(ctx, NB_EUNSUPPORTED, "tensor '%s' is not all that the block behind it reads",
                       net->edge[block->in].name);
    out->in = in;
    out->out = to;
    out->loss = loss;
    out->mask = nbi_arena_alloc(&g->arena, (size_t)net->n_sites + 1, sizeof *out->mask);
    out->step = nbi_arena_alloc(&g->arena, (size_t)net->n_sites + 1, sizeof *out->step);
    if (!out->mask || !out->step) return nb_fail_memory(ctx, sizeof *out->mask);
    for (int s = 0; s < net->n_sites; s++) {
        const nbi_block_site *v = &b->vertex[s];
        out->mask[s] = out->step[s] = -1;
        if (v->n == 0 || !is_used(g, v->out)) continue;
        out->step[s] = v->step;
        if (b->o.drop && v->n == 1) NB_TRY(add_drop(ctx, g, v, &out->mask[s]));
    }
    return nbi_graph_sort(ctx, g);
}
