/* The generator's nodes. The training graph is built as for any policy; then what reads a free
 * layer's weights reads w = C·h + c instead (the constant that was there is c), the quantizer's step
 * is the row of a table that the policy selects, and its width is an input. */
#include "hyper/meta_parts.h"

#include "ops/op_util.h"
#include "quant/fit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct builder {
    nb_ctx *ctx;
    nbi_meta *m;
    nbi_graph *g;
    nbi_rng rng;
    int widths;  /* [n_weights,1]: width over the widest of every free weight */
    int one;     /* [1,1]: what stands for a missing neighbour */
    int n_nodes; /* of the graph without generator */
} builder;

/* ---- nodes --------------------------------------------------------------------------------- */

static nb_status node(builder *b, const char *type, int n_in, const int *in, int *out,
                      nbi_node **made) {
    NB_TRY(nbi_graph_add_tensor(b->ctx, b->g, NULL, NB_DTYPE_NONE, -1, NULL, out));
    return nbi_graph_add_node(b->ctx, b->g, NULL, "", type, n_in, in, 1, out, made);
}

static nb_status finish(builder *b, nbi_node *made) {
    NB_TRY(nbi_node_prepare(b->ctx, b->g, made));
    return nbi_node_infer(b->ctx, b->g, made);
}

static nb_status simple(builder *b, const char *type, int x, int y, int *out) {
    nbi_node *made;
    int in[2] = {x, y};
    NB_TRY(node(b, type, y < 0 ? 1 : 2, in, out, &made));
    return finish(b, made);
}

static nb_status constant(builder *b, const char *base, const char *what, int64_t rows,
                          int64_t columns, int *out) {
    char name[256];
    snprintf(name, sizeof name, "%s/%s", base, what);
    return nbi_graph_add_const(b->ctx, b->g, name, NB_DTYPE_F32, 2, (int64_t[]){rows, columns},
                               out);
}

static float *values(const builder *b, int t) {
    return b->g->tensor[t]->data;
}

static nb_status numbers(builder *b, int n, const int64_t *from, int *out) {
    NB_TRY(nbi_graph_add_const(b->ctx, b->g, NULL, NB_DTYPE_S64, 1, (int64_t[]){n}, out));
    memcpy(b->g->tensor[*out]->data, from, (size_t)n * sizeof *from);
    return NB_OK;
}

/* Rows first … last − 1 and the first `columns` columns. */
static nb_status slice(builder *b, int x, int64_t first, int64_t last, int64_t columns, int *out) {
    const int64_t from[2] = {first, 0}, to[2] = {last, columns}, axes[2] = {0, 1};
    int in[4] = {x};
    nbi_node *made;
    NB_TRY(numbers(b, 2, from, &in[1]));
    NB_TRY(numbers(b, 2, to, &in[2]));
    NB_TRY(numbers(b, 2, axes, &in[3]));
    NB_TRY(node(b, "Slice", 4, in, out, &made));
    return finish(b, made);
}

static nb_status reshape(builder *b, int x, int rank, const int64_t *dim, int *out) {
    int shape;
    NB_TRY(numbers(b, rank, dim, &shape));
    return simple(b, "Reshape", x, shape, out);
}

/* `lr`: factor of the learning rate. */
static void trains(builder *b, int tensor, float lr, bool decays) {
    b->m->param[b->m->n_params++] = (nbi_loop_param){
        .tensor = tensor, .lr = lr, .decay = decays ? 1 : 0};
}

static void uniform(builder *b, int tensor, double bound) {
    float *to = values(b, tensor);
    for (int64_t i = 0, n = nbi_tensor_count(b->g->tensor[tensor]); i < n; i++)
        to[i] = (float)(bound * (2 * (double)nbi_rng_uniform(&b->rng) - 1));
}

static void normal(builder *b, int tensor, double sigma) {
    float *to = values(b, tensor);
    for (int64_t i = 0, n = nbi_tensor_count(b->g->tensor[tensor]); i < n; i++)
        to[i] = (float)(sigma * nbi_rng_normal(&b->rng));
}

/* ---- the policy ---------------------------------------------------------------------------- */

static nb_status add_policy(builder *b) {
    nbi_meta *m = b->m;
    nbi_graph *g = b->g;
    int input[4], n = g->n_inputs, x, scale;
    if (n >= (int)NBI_COUNT(input))
        return nb_fail(b->ctx, NB_EINVAL, "the training graph has %d inputs", n);
    NB_TRY(nbi_graph_add_tensor(b->ctx, g, "policy", NB_DTYPE_F32, 2,
                                (int64_t[]){m->n_rows, m->columns}, &m->policy));
    memcpy(input, g->input, (size_t)n * sizeof *input);
    input[n++] = m->policy;
    NB_TRY(nbi_graph_set_inputs(b->ctx, g, n, input));
    NB_TRY(slice(b, m->policy, 0, m->n_weights, m->o.n_weight_bits, &x));
    NB_TRY(constant(b, "policy", "relative widths", m->o.n_weight_bits, 1, &scale));
    for (int k = 0; k < m->o.n_weight_bits; k++)
        values(b, scale)[k] =
            (float)m->o.weight_bits[k] / (float)m->o.weight_bits[m->o.n_weight_bits - 1];
    NB_TRY(constant(b, "policy", "no neighbour", 1, 1, &b->one));
    *values(b, b->one) = 1;
    return simple(b, "MatMul", x, scale, &b->widths);
}

static nb_status context_of(builder *b, int row, int *out) {
    const nbi_meta *m = b->m;
    int in[3], at[3] = {row, row - 1, row + 1};
    nbi_node *made;
    if (m->o.context == 0) return reshape(b, b->widths, 2, (int64_t[]){1, m->n_weights}, out);
    for (int i = 0; i < m->o.context; i++) {
        in[i] = b->one;
        if (at[i] >= 0 && at[i] < m->n_weights)
            NB_TRY(slice(b, b->widths, at[i], at[i] + 1, 1, &in[i]));
    }
    *out = in[0];
    if (m->o.context == 1) return NB_OK;
    NB_TRY(node(b, "Concat", 3, in, out, &made));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, made, "axis", 1));
    return finish(b, made);
}

/* The policy's row, the selected step and width of one site. */
typedef struct selection {
    int row;  /* [1,K] */
    int bits; /* [1,1] */
} selection;

static nb_status select_widths(builder *b, int row, const char *name, int groups, selection *out) {
    nbi_meta *m = b->m;
    nbi_meta_row *r = &m->row[row];
    int k = nbi_meta_widths(m, row), table, flat;
    NB_TRY(slice(b, m->policy, row, row + 1, k, &out->row));
    NB_TRY(constant(b, name, "widths", k, 1, &table));
    for (int i = 0; i < k; i++) values(b, table)[i] = (float)nbi_meta_bits(m, row, i);
    NB_TRY(simple(b, "MatMul", out->row, table, &out->bits));
    NB_TRY(constant(b, name, "steps", k, groups, &r->steps));
    trains(b, r->steps, 1, false);
    NB_TRY(simple(b, "MatMul", out->row, r->steps, &flat));
    return reshape(b, flat, 2, (int64_t[]){groups, 1}, &r->selected);
}

/* The quantizers that read `step` among the nodes of the network read the selection instead; `x`
 * (−1: as it is) is their new input. */
static nb_status redirect(builder *b, int step, int x, int selected, int bits) {
    for (int n = 0; n < b->n_nodes; n++) {
        nbi_node *q = b->g->node[n];
        if (strcmp(q->op_type, "FakeQuant") || q->in[1] != step) continue;
        int *in = nbi_arena_alloc(&b->g->arena, 3, sizeof *in);
        if (!in) return nb_fail_memory(b->ctx, 3 * sizeof *in);
        in[0] = x < 0 ? q->in[0] : x;
        in[1] = selected;
        in[2] = bits;
        q->in = in;
        q->n_in = 3;
        NB_TRY(nbi_node_infer(b->ctx, b->g, q));
    }
    return NB_OK;
}

/* ---- weights ------------------------------------------------------------------------------- */

static double deviation_of(const float *w, int64_t n) {
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)w[i];
        square += (double)w[i] * (double)w[i];
    }
    double mean = n ? sum / (double)n : 0, variance = n ? square / (double)n - mean * mean : 0;
    return variance > 0 ? sqrt(variance) : 0;
}

/* h = ReLU(e·A + a), [1,H]. *square: the mean of |h|² over the widths, with neighbours alike. */
static nb_status hidden(builder *b, int row, const char *name, int *out, double *square) {
    const nbi_meta *m = b->m;
    int e, bias, matrix, inputs = m->o.context ? m->o.context : m->n_weights, h = m->o.hidden;
    NB_TRY(context_of(b, row, &e));
    NB_TRY(constant(b, name, "A", inputs, h, &matrix));
    NB_TRY(constant(b, name, "a", 1, h, &bias));
    normal(b, matrix, sqrt(2.0 / inputs));
    uniform(b, bias, 1 / sqrt((double)inputs)); /* 0 would leave w linear in one width */
    trains(b, matrix, 1, false);
    trains(b, bias, 1, false);
    *square = 0;
    for (int k = 0; k < m->o.n_weight_bits; k++) {
        float x = (float)m->o.weight_bits[k] / (float)m->o.weight_bits[m->o.n_weight_bits - 1];
        for (int j = 0; j < h; j++) {
            float u = values(b, bias)[j];
            for (int i = 0; i < inputs; i++) u += x * values(b, matrix)[i * h + j];
            if (u > 0) *square += (double)u * (double)u / m->o.n_weight_bits;
        }
    }
    NB_TRY(simple(b, "MatMul", e, matrix, &e));
    NB_TRY(simple(b, "Add", e, bias, &e));
    return simple(b, "Relu", e, -1, out);
}

/* C·h + c. A step of descent moves w through C |h|² times as far as through c: C's learning rate is
 * divided by that, so that both parts move alike. */
static nb_status generate(builder *b, int row, const char *name, int c, int *out) {
    const nbi_tensor *t = b->g->tensor[c];
    int64_t n = nbi_tensor_count(t);
    int h, matrix, w;
    double square;
    NB_TRY(hidden(b, row, name, &h, &square));
    NB_TRY(constant(b, name, "C", b->m->o.hidden, n, &matrix));
    uniform(b, matrix, 0.1 * deviation_of(t->data, n) / sqrt((double)b->m->o.hidden));
    trains(b, matrix, (float)(1 / fmax(square, 1)), true);
    NB_TRY(simple(b, "MatMul", h, matrix, &w));
    NB_TRY(reshape(b, w, t->rank, t->dim, &w));
    return simple(b, "Add", w, c, out);
}

static nb_status choose_table(builder *b, const char *name, int policy, int c, int *out) {
    const nbi_tensor *t = b->g->tensor[c];
    int64_t n = nbi_tensor_count(t), k = b->m->o.n_weight_bits;
    int table, w;
    NB_TRY(constant(b, name, "tables", k, n, &table));
    for (int64_t i = 0; i < k; i++)
        memcpy(values(b, table) + i * n, t->data, (size_t)n * sizeof(float));
    trains(b, table, 1, true);
    NB_TRY(simple(b, "MatMul", policy, table, &w));
    return reshape(b, w, t->rank, t->dim, out);
}

/* Steps of least squared error at every width. */
static nb_status start_steps(builder *b, int row, int groups) {
    const nbi_meta *m = b->m;
    const nbi_layer *l = &m->qat->net->layer[m->row[row].layer];
    int8_t *levels = NULL;
    float *scale = NULL;
    double ignored;
    nb_status st;
    NB_TRYG(nbi_alloc(b->ctx, l->n_weights, 1, &levels));
    NB_TRYG(nbi_alloc(b->ctx, (size_t)l->geometry.out_c, sizeof *scale, &scale));
    for (int k = 0; k < m->o.n_weight_bits; k++) {
        int bits = m->o.weight_bits[k];
        NB_TRYG(nbi_fit_weights(b->ctx, l, bits, groups > 1, levels, scale, &ignored));
        for (int g = 0; g < groups; g++)
            values(b, m->row[row].steps)[k * groups + g] = scale[g] * (float)nbk_level_step(bits);
    }
done:
    nbi_free(levels);
    nbi_free(scale);
    return st;
}

static nb_status free_weight(builder *b, int row) {
    nbi_meta *m = b->m;
    nbi_meta_row *r = &m->row[row];
    const nbi_qat_layer *q = &m->qat->layer[r->layer];
    const char *name = b->g->tensor[q->weight]->name;
    int groups = (int)b->g->tensor[q->weight_scale]->dim[0];
    selection s;
    NB_TRY(select_widths(b, row, name, groups, &s));
    NB_TRY(start_steps(b, row, groups));
    r->weight = q->weight;
    if (m->o.kind == NBI_META_HYPER)
        NB_TRY(generate(b, row, name, q->weight, &r->weight));
    else if (m->o.kind == NBI_META_TABLES)
        NB_TRY(choose_table(b, name, s.row, q->weight, &r->weight));
    if (m->o.kind != NBI_META_TABLES) trains(b, q->weight, 1, true);
    return redirect(b, q->weight_scale, r->weight, r->selected, s.bits);
}

static nb_status free_activation(builder *b, int row) {
    nbi_meta *m = b->m;
    nbi_meta_row *r = &m->row[row];
    const nbi_site *site = &m->qat->net->site[r->site];
    selection s;
    NB_TRY(select_widths(b, row, site->name, 1, &s));
    for (int k = 0; k < m->o.n_activation_bits; k++)
        values(b, r->steps)[k] = (float)site->fit[m->o.activation_bits[k]].scale;
    return redirect(b, m->qat->site_scale[r->site], -1, r->selected, s.bits);
}

/* ---- all ----------------------------------------------------------------------------------- */

static bool is_replaced(const nbi_meta *m, int tensor) {
    for (int i = 0; i < m->n_rows; i++) {
        const nbi_meta_row *r = &m->row[i];
        if (r->layer < 0 ? m->qat->site_scale[r->site] == tensor
                         : m->qat->layer[r->layer].weight_scale == tensor ||
                               m->qat->layer[r->layer].weight == tensor)
            return true;
    }
    return false;
}

static nb_status find_rows(builder *b) {
    nbi_meta *m = b->m;
    const nbi_qnet *net = m->qat->net;
    size_t most = (size_t)net->n_sites + 1;
    m->row = nbi_arena_alloc(&m->arena, most, sizeof *m->row);
    m->param = nbi_arena_alloc(&m->arena, (size_t)m->qat->n_train + 6 * most, sizeof *m->param);
    if (!m->row || !m->param) return nb_fail_memory(b->ctx, most * sizeof *m->row);
    for (int i = 0; i < net->n_layers; i++)
        if (m->qat->layer[i].weight >= 0 && !m->o.fixed[net->layer[i].weight_site])
            m->row[m->n_rows++] = (nbi_meta_row){.site = net->layer[i].weight_site, .layer = i};
    m->n_weights = m->n_rows;
    if (!m->n_weights)
        return nb_fail(b->ctx, NB_EUNSUPPORTED, "no layer's width is free: there is nothing to "
                       "generate");
    for (int s = 0; s < net->n_sites && m->o.n_activation_bits > 1; s++)
        if (m->qat->site_scale[s] >= 0 && !m->o.fixed[s])
            m->row[m->n_rows++] = (nbi_meta_row){.site = s, .layer = -1};
    m->columns = m->o.n_weight_bits;
    if (m->n_rows > m->n_weights && m->o.n_activation_bits > m->columns)
        m->columns = m->o.n_activation_bits;
    return NB_OK;
}

/* Widths to build the graph for: what is free becomes an input. */
static nb_status first_policy(builder *b, const nbi_qnet *net, nbi_choice *bits) {
    const nbi_meta_options *o = &b->m->o;
    for (int s = 0; s < net->n_sites; s++) {
        bool weight = net->site[s].kind == NBI_SITE_WEIGHT;
        bits[s] = o->fixed[s]  ? o->fixed[s]
                  : weight     ? NBI_MAX_BITS
                               : o->activation_bits[o->n_activation_bits - 1];
        if (bits[s] > NBI_MAX_BITS)
            return nb_fail(b->ctx, NB_EUNSUPPORTED, "tensor '%s': only uniform widths are trained "
                           "with generated weights", net->site[s].name);
    }
    return NB_OK;
}

nb_status nbi_meta_build(nb_ctx *ctx, nbi_meta *m, const nbi_graph *source, int edge) {
    builder b = {.ctx = ctx, .m = m};
    const nbi_qnet *net = m->net;
    nbi_choice *bits;
    NB_TRY(nbi_alloc(ctx, (size_t)net->n_sites + 1, sizeof *bits, &bits));
    nb_status st = first_policy(&b, net, bits);
    if (st == NB_OK)
        st = nbi_qat_new(ctx, source, net, bits, edge, &m->o.qat, &m->qat);
    nbi_free(bits);
    NB_TRY(st);
    b.g = m->qat->graph;
    b.n_nodes = b.g->n_nodes;
    nbi_rng_seed(&b.rng, m->o.seed, 0x3e7a);
    NB_TRY(find_rows(&b));
    NB_TRY(add_policy(&b));
    for (int i = 0; i < m->n_rows; i++)
        NB_TRY(i < m->n_weights ? free_weight(&b, i) : free_activation(&b, i));
    for (int i = 0; i < m->qat->n_train; i++)
        if (!is_replaced(m, m->qat->train[i])) trains(&b, m->qat->train[i], 1, m->qat->decays[i]);
    return nbi_graph_sort(ctx, b.g);
}

nb_status nbi_meta_generator(nb_ctx *ctx, const nbi_meta *m, nbi_graph **out) {
    nbi_graph *g;
    int n = 0, *list;
    NB_TRY(nbi_graph_copy(ctx, m->qat->graph, &g));
    for (int t = 0; t < g->n_tensors; t++) g->tensor[t]->data = m->qat->graph->tensor[t]->data;
    nb_status st = nbi_alloc(ctx, 2 * (size_t)m->n_rows, sizeof *list, &list);
    for (int i = 0; st == NB_OK && i < m->n_rows; i++) {
        list[n++] = m->row[i].selected;
        if (i < m->n_weights) list[n++] = m->row[i].weight;
    }
    if (st == NB_OK) st = nbi_graph_set_inputs(ctx, g, 1, &m->policy);
    if (st == NB_OK) st = nbi_graph_set_outputs(ctx, g, n, list);
    nbi_free(list);
    if (st != NB_OK) {
        nbi_graph_free(g);
        return st;
    }
    nbi_graph_prune(g);
    for (int i = 0; i < g->n_nodes; i++) {
        st = nbi_node_prepare(ctx, g, g->node[i]);
        if (st == NB_OK) st = nbi_node_infer(ctx, g, g->node[i]);
        if (st != NB_OK) {
            nbi_graph_free(g);
            return st;
        }
    }
    *out = g;
    return NB_OK;
}
