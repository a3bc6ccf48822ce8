/* See qat_schemes.h. */
#include "quant/qat_schemes.h"

#include "ops/op.h"
#include "quant/fit.h"

#include <math.h>
#include <string.h>

static float *values(const nbi_qat *q, int tensor) {
    return q->graph->tensor[tensor]->data;
}

int nbi_qat_learned(const nbi_scheme *scheme, const nbi_scheme_use *use) {
    int n = scheme->n_params(use);
    if (!(scheme->flags & NBI_SCHEME_LEARNED)) return 0;
    return scheme->n_learned < 0 || scheme->n_learned > n ? n : scheme->n_learned;
}

nb_status nbi_qat_add_quantizer(nb_ctx *ctx, nbi_qat *q, const nbi_qat_quantizer *z, int *out) {
    const nbi_scheme *row = nbi_choice_row(z->choice);
    nbi_graph *g = q->graph;
    nbi_node *node;
    bool refits = z->training && row->flags & NBI_SCHEME_REFIT;
    int in[2] = {z->x, z->params}, y[3], n = refits ? 3 : 1;
    for (int i = 0; i < n; i++)
        NB_TRY(nbi_graph_add_tensor(ctx, g, NULL, NB_DTYPE_NONE, -1, NULL, &y[i]));
    NB_TRY(nbi_graph_add_node(ctx, g, z->name, "org.nibble", "FakeQuant", 2, in, n, y, &node));
    NB_TRY(nbi_node_set_text(ctx, g, node, "scheme", row->name));
    NB_TRY(nbi_node_set_text(ctx, g, node, "role", z->use.weights ? "weights" : "activations"));
    NB_TRY(nbi_node_set_int(ctx, g, node, "bits", z->use.bits));
    NB_TRY(nbi_node_set_int(ctx, g, node, "unsigned", z->use.is_unsigned));
    NB_TRY(nbi_node_set_int(ctx, g, node, "axis", z->axis));
    NB_TRY(nbi_node_set_int(ctx, g, node, "training", refits));
    NB_TRY(nbi_node_prepare(ctx, g, node));
    NB_TRY(nbi_node_infer(ctx, g, node));
    *out = y[0];
    if (refits && z->keep && !(row->flags & NBI_SCHEME_LEARNED))
        q->state[q->n_states++] = (nbi_tape_state){y[1], z->params};
    return NB_OK;
}

/* ---- weights ---------------------------------------------------------------------------------- */

/* Fits params number `first` and later of every group. */
static void fit_from(const nbi_qat *q, int index, int first) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    const nbi_choice choice = q->bits[l->weight_site];
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    const nbi_tensor *p = q->graph->tensor[t->weight_scale];
    size_t groups = (size_t)p->dim[0], columns = (size_t)p->dim[1], n = l->n_weights / groups;
    float fitted[NBI_SCHEME_MAX_PARAMS];
    for (size_t g = 0; g < groups; g++) {
        row->fit(&use, values(q, t->weight) + g * n, n, fitted);
        for (size_t i = (size_t)first; i < columns; i++)
            values(q, t->weight_scale)[g * columns + i] = fitted[i];
    }
}

void nbi_qat_fit_weights(const nbi_qat *q, int index) {
    fit_from(q, index, 0);
}

void nbi_qat_refit(const nbi_qat *q, int index) {
    const nbi_choice choice = q->bits[q->net->layer[index].weight_site];
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    if (nbi_choice_scheme(choice) && row->flags & NBI_SCHEME_REFIT)
        fit_from(q, index, nbi_qat_learned(row, &use));
}

double nbi_qat_magnification(const nbi_qat *q, int index, size_t o) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_choice choice = q->bits[l->weight_site];
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    const nbi_tensor *p = q->graph->tensor[q->layer[index].weight_scale];
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    const float *w = values(q, q->layer[index].weight) + o * depth;
    const float *params = (const float *)p->data + (p->dim[0] == 1 ? 0 : o * (size_t)p->dim[1]);
    double both = 0, power = 0;
    if (!(row->flags & NBI_SCHEME_RESCALES)) return 1;
    for (size_t i = 0; i < depth; i++) {
        float y;
        row->forward(&use, params, w + i, &y, 1);
        both += (double)w[i] * (double)y;
        power += (double)y * (double)y;
    }
    return both > 0 ? power / both : 1;
}

float nbi_qat_weight_unit(const nbi_qat *q, int index, size_t o) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_choice choice = q->bits[l->weight_site];
    const nbi_tensor *p = q->graph->tensor[q->layer[index].weight_scale];
    const float *row = (const float *)p->data + (p->dim[0] == 1 ? 0 : o * (size_t)p->dim[1]);
    int bits = nbi_choice_bits(choice);
    if (nbi_choice_scheme(choice) == 0) return fmaxf(*row, 1e-30f) / (float)nbk_level_step(bits);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    nbi_scheme_grid grid;
    nbi_choice_row(choice)->grid(&use, row, &grid);
    return grid.scale / (float)nbi_grid_step(&grid, bits);
}

nb_status nbi_qat_code_weights(nb_ctx *ctx, const nbi_qat *q, int index, nbi_arena *arena,
                               nbi_frozen_conv *conv) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    const nbi_choice choice = q->bits[l->weight_site];
    const nbi_tensor *p = q->graph->tensor[t->weight_scale];
    nbi_coded_weights w = {.levels = (int8_t *)conv->levels, .scale = (float *)conv->scale};
    NB_TRY(nbi_encode_weights(ctx, l, choice, (size_t)p->dim[0], values(q, t->weight),
                              values(q, t->weight_scale), (size_t)p->dim[1], &w));
    conv->scheme = nbi_choice_scheme(choice);
    if (!w.has_table) return NB_OK;
    size_t entries = (size_t)1 << conv->bits;
    int8_t *table = nbi_arena_alloc(arena, entries, 1);
    if (!table) return nb_fail_memory(ctx, entries);
    conv->table = memcpy(table, w.table, entries);
    return NB_OK;
}

bool nbi_qat_has_zero(const nbi_qat *q, int index) {
    const nbi_choice choice = q->bits[q->net->layer[index].weight_site];
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    nbi_scheme_grid grid;
    if (nbi_choice_table_size(choice) == 0) return nbi_has_zero_level(use.bits, NULL);
    nbi_choice_row(choice)->grid(&use, values(q, q->layer[index].weight_scale), &grid);
    for (int i = 0; i < grid.n; i++)
        if (grid.level[i] == 0) return true;
    return false;
}

/* ---- activations ------------------------------------------------------------------------------ */

void nbi_qat_site_grid(const nbi_qat *q, int site, nbi_levels *levels, nbi_qparam *out) {
    const nbi_site *s = &q->net->site[site];
    const nbi_choice choice = q->bits[site];
    nbi_qparam first = s->fit[nbi_choice_scheme(choice) ? NBI_MAX_BITS : nbi_choice_bits(choice)];
    if (q->site_scale[site] >= 0)
        first.scale = (double)fmaxf(*values(q, q->site_scale[site]), 1e-30f);
    *out = first;
    if (nbi_choice_scheme(choice) && q->site_params[site] >= 0)
        nbi_choice_grid(choice, s->is_unsigned, values(q, q->site_params[site]), &first, levels,
                        out);
}

bool nbi_qat_moves(const nbi_qnet *net, const nbi_layer *l) {
    bool same_site = false;
    for (int k = 0; k < l->n_in; k++)
        same_site |= net->edge[l->in[k]].site == net->edge[l->out].site;
    return same_site && (l->type == NBI_LAYER_COPY || l->type == NBI_LAYER_MAXPOOL);
}

int nbi_qat_quantizers(const nbi_qnet *net, int site) {
    int n = 0;
    for (int l = 0; l < net->n_layers; l++)
        n += net->edge[net->layer[l].out].site == site && !nbi_qat_moves(net, &net->layer[l]);
    return n;
}

bool nbi_qat_keeps_grid(const nbi_qat *q, const nbi_layer *l) {
    const int in = q->net->edge[l->in[0]].site, out = q->net->edge[l->out].site;
    const nbi_site *x = &q->net->site[in], *y = &q->net->site[out];
    if (l->type != NBI_LAYER_REQUANT || l->lut || q->site_scale[in] < 0) return false;
    if (nbi_choice_scheme(q->bits[in]) || q->bits[in] != q->bits[out]) return false;
    const nbi_qparam *a = &x->fit[nbi_choice_bits(q->bits[in])], *b = &y->fit[nbi_choice_bits(q->bits[out])];
    return a->dtype == b->dtype && a->scale == b->scale && a->zero == b->zero && a->lo == b->lo && a->hi == b->hi &&
           nbi_qat_quantizers(q->net, out) == 1;
}
