/* The generator's nodes. The training graph is built as for any policy; then what reads a free
 * layer's weights reads w = C·h + c instead (the constant that was there is c). What quantizers read
 * is in meta_quantizer.c. */
#include "hyper/meta_parts.h"

#include "ops/op_util.h"
#include "quant/fit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef nbi_meta_builder builder;

/* ---- nodes --------------------------------------------------------------------------------- */

nb_status nbi_meta_node(builder *b, const char *type, int n_in, const int *in, int *out,
                      nbi_node **made) {
    NB_TRY(nbi_graph_add_tensor(b->ctx, b->g, NULL, NB_DTYPE_NONE, -1, NULL, out));
    return nbi_graph_add_node(b->ctx, b->g, NULL, "", type, n_in, in, 1, out, made);
}

nb_status nbi_meta_finish(builder *b, nbi_node *made) {
    NB_TRY(nbi_node_prepare(b->ctx, b->g, made));
    return nbi_node_infer(b->ctx, b->g, made);
}

nb_status nbi_meta_simple(builder *b, const char *type, int x, int y, int *out) {
    nbi_node *made;
    int in[2] = {x, y};
    NB_TRY(nbi_meta_node(b, type, y < 0 ? 1 : 2, in, out, &made));
    return nbi_meta_finish(b, made);
}

nb_status nbi_meta_constant(builder *b, const char *base, const char *what, int64_t rows,
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
nb_status nbi_meta_slice(builder *b, int x, int64_t first, int64_t last, int64_t columns, int *out) {
    const int64_t from[2] = {first, 0}, to[2] = {last, columns}, axes[2] = {0, 1};
    int in[4] = {x};
    nbi_node *made;
    NB_TRY(numbers(b, 2, from, &in[1]));
    NB_TRY(numbers(b, 2, to, &in[2]));
    NB_TRY(numbers(b, 2, axes, &in[3]));
    NB_TRY(nbi_meta_node(b, "Slice", 4, in, out, &made));
    return nbi_meta_finish(b, made);
}

nb_status nbi_meta_reshape(builder *b, int x, int rank, const int64_t *dim, int *out) {
    int shape;
    NB_TRY(numbers(b, rank, dim, &shape));
    return nbi_meta_simple(b, "Reshape", x, shape, out);
}

/* `lr`: factor of the learning rate. */
void nbi_meta_trains(builder *b, int tensor, float lr, bool decays) {
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

static float relative_width(const nbi_meta *m, int k) {
    return (float)nbi_choice_bits(m->o.weights[k]) /
           (float)nbi_choice_bits(m->o.weights[m->o.n_weights - 1]);
}

/* What the generator sees of choice k: numbers[]. */
static void code_of(const builder *b, int k, float *to) {
    const nbi_meta *m = b->m;
    to[0] = relative_width(m, k);
    for (int s = 0; s < b->numbers - 1; s++)
        to[1 + s] = nbi_choice_scheme(m->o.weights[k]) == m->scheme[s];
}

static nb_status add_policy(builder *b) {
    nbi_meta *m = b->m;
    nbi_graph *g = b->g;
    int input[4], n = g->n_inputs, x, codes;
    if (n >= (int)NBI_COUNT(input))
        return nb_fail(b->ctx, NB_EINVAL, "the training graph has %d inputs", n);
    NB_TRY(nbi_graph_add_tensor(b->ctx, g, "policy", NB_DTYPE_F32, 2,
                                (int64_t[]){m->n_rows, m->columns}, &m->policy));
    memcpy(input, g->input, (size_t)n * sizeof *input);
    input[n++] = m->policy;
    NB_TRY(nbi_graph_set_inputs(b->ctx, g, n, input));
    b->numbers = m->n_schemes > 1 ? 1 + m->n_schemes : 1;
    NB_TRY(nbi_meta_slice(b, m->policy, 0, m->n_weights, m->o.n_weights, &x));
    NB_TRY(nbi_meta_constant(b, "policy", "codes", m->o.n_weights, b->numbers, &codes));
    for (int k = 0; k < m->o.n_weights; k++) code_of(b, k, values(b, codes) + k * b->numbers);
    NB_TRY(nbi_meta_constant(b, "policy", "no neighbour", 1, b->numbers, &b->one));
    *values(b, b->one) = 1; /* as wide as can be, of no scheme */
    return nbi_meta_simple(b, "MatMul", x, codes, &b->codes);
}

static nb_status context_of(builder *b, int row, int *out) {
    const nbi_meta *m = b->m;
    int in[3], at[3] = {row, row - 1, row + 1};
    nbi_node *made;
    if (m->o.context == 0)
        return nbi_meta_reshape(b, b->codes, 2, (int64_t[]){1, m->n_weights * b->numbers}, out);
    for (int i = 0; i < m->o.context; i++) {
        in[i] = b->one;
        if (at[i] >= 0 && at[i] < m->n_weights)
            NB_TRY(nbi_meta_slice(b, b->codes, at[i], at[i] + 1, b->numbers, &in[i]));
    }
    *out = in[0];
    if (m->o.context == 1) return NB_OK;
    NB_TRY(nbi_meta_node(b, "Concat", 3, in, out, &made));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, made, "axis", 1));
    return nbi_meta_finish(b, made);
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

/* |ReLU(e·A + a)|² where all `layers` of the context have choice k. */
static double square_of(const builder *b, int k, int layers, const float *matrix,
                        const float *bias) {
    float code[1 + NBI_META_CHOICES];
    double sum = 0;
    int h = b->m->o.hidden;
    code_of(b, k, code);
    for (int j = 0; j < h; j++) {
        float u = bias[j];
        for (int i = 0; i < layers * b->numbers; i++) u += code[i % b->numbers] * matrix[i * h + j];
        if (u > 0) sum += (double)u * (double)u;
    }
    return sum;
}

/* h = ReLU(e·A + a), [1,H]. *square: the mean of |h|² over the choices, with neighbours alike. */
static nb_status hidden(builder *b, int row, const char *name, int *out, double *square) {
    const nbi_meta *m = b->m;
    int layers = m->o.context ? m->o.context : m->n_weights, inputs = layers * b->numbers;
    int e, bias, matrix, h = m->o.hidden;
    double active = layers * (m->n_schemes > 1 ? 2 : 1); /* numbers that are not 0 */
    NB_TRY(context_of(b, row, &e));
    NB_TRY(nbi_meta_constant(b, name, "A", inputs, h, &matrix));
    NB_TRY(nbi_meta_constant(b, name, "a", 1, h, &bias));
    normal(b, matrix, sqrt(2.0 / active));
    uniform(b, bias, 1 / sqrt(active)); /* 0 would leave w linear in one width */
    nbi_meta_trains(b, matrix, 1, false);
    nbi_meta_trains(b, bias, 1, false);
    *square = 0;
    for (int k = 0; k < m->o.n_weights; k++)
        *square += square_of(b, k, layers, values(b, matrix), values(b, bias)) / m->o.n_weights;
    NB_TRY(nbi_meta_simple(b, "MatMul", e, matrix, &e));
    NB_TRY(nbi_meta_simple(b, "Add", e, bias, &e));
    return nbi_meta_simple(b, "Relu", e, -1, out);
}

/* C·h + c. A step of descent moves w through C |h|² times as far as through c: C's learning rate is
 * divided by that, so that both parts move alike. */
static nb_status generate(builder *b, int row, const char *name, int c, int *out) {
    const nbi_tensor *t = b->g->tensor[c];
    int64_t n = nbi_tensor_count(t);
    int h, matrix, w;
    double square;
    NB_TRY(hidden(b, row, name, &h, &square));
    NB_TRY(nbi_meta_constant(b, name, "C", b->m->o.hidden, n, &matrix));
    uniform(b, matrix, 0.1 * deviation_of(t->data, n) / sqrt((double)b->m->o.hidden));
    nbi_meta_trains(b, matrix, (float)(1 / fmax(square, 1)), true);
    NB_TRY(nbi_meta_simple(b, "MatMul", h, matrix, &w));
    NB_TRY(nbi_meta_reshape(b, w, t->rank, t->dim, &w));
    return nbi_meta_simple(b, "Add", w, c, out);
}

static nb_status choose_table(builder *b, const char *name, int policy, int c, int *out) {
    const nbi_tensor *t = b->g->tensor[c];
    int64_t n = nbi_tensor_count(t), k = b->m->o.n_weights;
    int table, w;
    NB_TRY(nbi_meta_constant(b, name, "tables", k, n, &table));
    for (int64_t i = 0; i < k; i++)
        memcpy(values(b, table) + i * n, t->data, (size_t)n * sizeof(float));
    nbi_meta_trains(b, table, 1, true);
    NB_TRY(nbi_meta_simple(b, "MatMul", policy, table, &w));
    return nbi_meta_reshape(b, w, t->rank, t->dim, out);
}

static nb_status free_weight(builder *b, int row) {
    nbi_meta *m = b->m;
    nbi_meta_row *r = &m->row[row];
    const nbi_qat_layer *q = &m->qat->layer[r->layer];
    const char *name = b->g->tensor[q->weight]->name;
    int groups = (int)b->g->tensor[q->weight_scale]->dim[0], policy, which;
    NB_TRY(nbi_meta_select(b, row, name, groups, &policy, &which));
    NB_TRY(nbi_meta_fit_weights(b, row, groups));
    r->weight = q->weight;
    if (m->o.kind == NBI_META_HYPER)
        NB_TRY(generate(b, row, name, q->weight, &r->weight));
    else if (m->o.kind == NBI_META_TABLES)
        NB_TRY(choose_table(b, name, policy, q->weight, &r->weight));
    if (m->o.kind != NBI_META_TABLES) nbi_meta_trains(b, q->weight, 1, true);
    return nbi_meta_redirect(b, row, q->weight_scale, r->weight, policy, which);
}

static nb_status free_activation(builder *b, int row) {
    nbi_meta *m = b->m;
    nbi_meta_row *r = &m->row[row];
    int policy, which;
    NB_TRY(nbi_meta_select(b, row, m->qat->net->site[r->site].name, 1, &policy, &which));
    NB_TRY(nbi_meta_fit_activations(b, row));
    return nbi_meta_redirect(b, row, m->qat->site_scale[r->site], -1, policy, which);
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

/* What a row may get: an activation only what it can. */
static nb_status list_choices(builder *b, nbi_meta_row *r) {
    const nbi_meta *m = b->m;
    const nbi_choice *from = r->layer >= 0 ? m->o.weights : m->o.activations;
    int n = r->layer >= 0 ? m->o.n_weights : m->o.n_activations;
    nbi_choice *list = nbi_arena_alloc(&b->m->arena, (size_t)n, sizeof *list);
    if (!list) return nb_fail_memory(b->ctx, (size_t)n * sizeof *list);
    for (int i = 0; i < n; i++) {
        nbi_choice c = nbi_choice_for(&m->net->site[r->site], from[i]);
        bool known = false;
        for (int k = 0; k < r->n; k++) known |= list[k] == c;
        if (!known) list[r->n++] = c;
        r->mixed |= nbi_choice_scheme(c) != 0;
    }
    r->choice = list;
    return NB_OK;
}

static void list_schemes(nbi_meta *m) {
    for (int k = 0; k < m->o.n_weights; k++) {
        int scheme = nbi_choice_scheme(m->o.weights[k]);
        bool known = false;
        for (int s = 0; s < m->n_schemes; s++) known |= m->scheme[s] == scheme;
        if (!known) m->scheme[m->n_schemes++] = scheme;
    }
}

static nb_status find_rows(builder *b) {
    nbi_meta *m = b->m;
    const nbi_qnet *net = m->qat->net;
    size_t most = (size_t)net->n_sites + 1;
    m->row = nbi_arena_alloc(&m->arena, most, sizeof *m->row);
    m->param = nbi_arena_alloc(&m->arena, (size_t)m->qat->n_train + 6 * most, sizeof *m->param);
    if (!m->row || !m->param) return nb_fail_memory(b->ctx, most * sizeof *m->row);
    list_schemes(m);
    for (int i = 0; i < net->n_layers; i++)
        if (m->qat->layer[i].weight >= 0 && !m->o.fixed[net->layer[i].weight_site])
            m->row[m->n_rows++] = (nbi_meta_row){.site = net->layer[i].weight_site, .layer = i};
    m->n_weights = m->n_rows;
    if (!m->n_weights)
        return nb_fail(b->ctx, NB_EUNSUPPORTED, "no layer's width is free: there is nothing to "
                       "generate");
    for (int s = 0; s < net->n_sites && m->o.n_activations > 1; s++)
        if (m->qat->site_scale[s] >= 0 && !m->o.fixed[s])
            m->row[m->n_rows++] = (nbi_meta_row){.site = s, .layer = -1};
    for (int i = 0; i < m->n_rows; i++) {
        NB_TRY(list_choices(b, &m->row[i]));
        m->columns = m->row[i].n > m->columns ? m->row[i].n : m->columns;
    }
    return NB_OK;
}

/* Choices to build the graph for: what is free is uniform, and becomes an input. */
static void first_policy(const builder *b, const nbi_qnet *net, nbi_choice *bits) {
    const nbi_meta_options *o = &b->m->o;
    for (int s = 0; s < net->n_sites; s++) {
        bool weight = net->site[s].kind == NBI_SITE_WEIGHT;
        nbi_choice widest = nbi_choice_for(&net->site[s], o->activations[o->n_activations - 1]);
        bits[s] = 32; /* training does not round biases: any width may be deployed */
        if (net->site[s].kind == NBI_SITE_BIAS) continue;
        if (o->n_activations > 1) widest = (nbi_choice)nbi_choice_bits(widest);
        bits[s] = o->fixed[s] ? o->fixed[s] : weight ? NBI_MAX_BITS : widest;
    }
}

nb_status nbi_meta_build(nb_ctx *ctx, nbi_meta *m, const nbi_graph *source, int edge) {
    builder b = {.ctx = ctx, .m = m};
    const nbi_qnet *net = m->net;
    nbi_choice *bits;
    NB_TRY(nbi_alloc(ctx, (size_t)net->n_sites + 1, sizeof *bits, &bits));
    first_policy(&b, net, bits);
    nb_status st = nbi_qat_new(ctx, source, net, bits, edge, &m->o.qat, &m->qat);
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
        if (!is_replaced(m, m->qat->train[i])) nbi_meta_trains(&b, m->qat->train[i], 1, m->qat->decays[i]);
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
