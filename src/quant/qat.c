/* The training graph: a float graph of the wanted batch size to which, layer by layer, the
 * quantized network's own nodes are added; pruning leaves only those. */
#include "quant/qat.h"

#include "exec/exec.h"
#include "ops/op_util.h"
#include "quant/fit.h"
#include "quant/qat_schemes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TEACHER_SHARE 0.5f /* of the loss, where there are labels, too */

typedef struct builder {
    nb_ctx *ctx;
    nbi_qat *q;
    nbi_graph *g;
    const nbi_qnet *net;
    const nbi_qat_options *o;
    int *value;  /* the graph's */
    int *mapped; /* [tensors of net->graph] → tensor of g inside the layer being built, −1 */
} builder;

void nbi_qat_free(nbi_qat *q) {
    if (!q) return;
    nbi_graph_free(q->graph);
    nbi_arena_free(&q->arena);
    nbi_free(q);
}

static void copy_values(const nbi_qat *to, int a, const nbi_qat *from, int b) {
    if (a < 0 || b < 0) return;
    const nbi_tensor *t = to->graph->tensor[a];
    memcpy(t->data, from->graph->tensor[b]->data, (size_t)nbi_tensor_count(t) * sizeof(float));
}

void nbi_qat_copy(const nbi_qat *to, const nbi_qat *from) {
    for (int i = 0; i < to->net->n_layers; i++) {
        const nbi_qat_layer *a = &to->layer[i], *b = &from->layer[i];
        copy_values(to, a->weight, from, b->weight);
        copy_values(to, a->weight_scale, from, b->weight_scale);
        copy_values(to, a->gamma, from, b->gamma);
        copy_values(to, a->beta, from, b->beta);
        copy_values(to, a->mean, from, b->mean);
        copy_values(to, a->variance, from, b->variance);
        copy_values(to, a->bias, from, b->bias);
    }
    for (int i = 0; i < to->net->n_sites; i++)
        copy_values(to, to->site_scale[i], from, from->site_scale[i]);
    for (int i = 0; i < to->net->n_sites; i++)
        copy_values(to, to->site_params[i], from, from->site_params[i]);
    nbi_qat_settle(to);
}

/* ---- nodes --------------------------------------------------------------------------------- */

static nb_status add(builder *b, const char *name, const char *domain, const char *type, int n_in,
                     const int *in, int n_out, int *out, nbi_node **node) {
    for (int i = 0; i < n_out; i++)
        NB_TRY(nbi_graph_add_tensor(b->ctx, b->g, NULL, NB_DTYPE_NONE, -1, NULL, &out[i]));
    return nbi_graph_add_node(b->ctx, b->g, name, domain, type, n_in, in, n_out, out, node);
}

/* Attributes are set by then. */
static nb_status finish(builder *b, nbi_node *node) {
    NB_TRY(nbi_node_prepare(b->ctx, b->g, node));
    NB_TRY(nbi_node_infer(b->ctx, b->g, node));
    if (!node->op || !nbi_shape_known(b->g->tensor[node->out[0]]))
        return nb_fail(b->ctx, NB_EUNSUPPORTED, "node '%s' (%s) cannot be trained", node->name,
                       node->op_type);
    return NB_OK;
}

static nb_status constant(builder *b, const char *base, const char *what, int rank,
                          const int64_t *dim, int *out) {
    char name[256];
    snprintf(name, sizeof name, "%s/%s", base, what);
    return nbi_graph_add_const(b->ctx, b->g, name, NB_DTYPE_F32, rank, dim, out);
}

static float *values(const builder *b, int tensor) {
    return b->g->tensor[tensor]->data;
}

static void trains(builder *b, int tensor, bool decays) {
    b->q->decays[b->q->n_train] = decays;
    b->q->train[b->q->n_train++] = tensor;
}

/* ---- fake quantization --------------------------------------------------------------------- */

static nb_status fake_quant(builder *b, const char *name, int x, int params, const char *scheme,
                            const char *role, int bits, bool is_unsigned, int axis, int *out) {
    nbi_node *node;
    int in[2] = {x, params};
    NB_TRY(add(b, name, "org.nibble", "FakeQuant", 2, in, 1, out, &node));
    NB_TRY(nbi_node_set_text(b->ctx, b->g, node, "scheme", scheme));
    NB_TRY(nbi_node_set_text(b->ctx, b->g, node, "role", role));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, node, "bits", bits));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, node, "unsigned", is_unsigned));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, node, "axis", axis));
    return finish(b, node);
}

/* The input's grid is given: quantized and back, without a gradient. */
static nb_status fixed_grid(builder *b, const nbi_site *s, const nbi_qparam *p, int x, int *out) {
    int in[3] = {x}, code;
    nbi_node *node;
    NB_TRY(constant(b, s->name, "scale", 0, NULL, &in[1]));
    *values(b, in[1]) = (float)p->scale;
    NB_TRY(nbi_graph_add_const(b->ctx, b->g, NULL, p->dtype, 0, NULL, &in[2]));
    if (p->dtype == NB_DTYPE_U8)
        *(uint8_t *)b->g->tensor[in[2]]->data = (uint8_t)p->zero;
    else
        *(int8_t *)b->g->tensor[in[2]]->data = (int8_t)p->zero;
    NB_TRY(add(b, s->name, "", "QuantizeLinear", 3, in, 1, &code, &node));
    NB_TRY(finish(b, node));
    in[0] = code;
    NB_TRY(add(b, s->name, "", "DequantizeLinear", 3, in, 1, out, &node));
    return finish(b, node);
}

static nb_status special_vertex(builder *b, const nbi_qat_vertex *v, int *out) {
    *out = -1;
    return b->o->vertex ? b->o->vertex(b->ctx, b->o->vertex_user, b->q, v, out) : NB_OK;
}

static nb_status stepped(builder *b, int site, int x, const nbi_qparam *p, int bits, int *out) {
    const nbi_site *s = &b->net->site[site];
    if (b->q->site_scale[site] < 0) {
        NB_TRY(constant(b, s->name, "step", 2, (int64_t[]){1, 1}, &b->q->site_scale[site]));
        *values(b, b->q->site_scale[site]) = (float)p->scale;
        trains(b, b->q->site_scale[site], false);
    }
    return fake_quant(b, s->name, x, b->q->site_scale[site], "lsq", "activations", bits, p->lo == 0,
                      -1, out);
}

/* By a scheme other than uniform; where the integer program rounds to 8 bits first, here too, but not
 * behind a stream, which has its own. A grid that several share is calibration's, which has seen them
 * all: each would be fitted to its own values, and no such grid is deployed. */
static nb_status by_scheme(builder *b, int site, int x, bool stored, int *out) {
    const nbi_site *s = &b->net->site[site];
    const nbi_choice choice = b->q->bits[site];
    const nbi_site_fit *fit = nbi_site_find(s, choice);
    const nbi_scheme *row = nbi_choice_row(choice);
    nbi_qat_quantizer z = {.name = s->name, .choice = choice, .x = x, .axis = -1,
                           .use = nbi_choice_use(choice, false, s->is_unsigned),
                           .training = !b->o->evaluate && nbi_qat_quantizers(b->net, site) == 1};
    if (!fit)
        return nb_fail(b->ctx, NB_EINVAL, "tensor '%s' was not fitted by scheme '%s'", s->name,
                       row->name);
    if (b->q->site_params[site] < 0) {
        int n = row->n_params(&z.use);
        NB_TRY(constant(b, s->name, "params", 2, (int64_t[]){1, n}, &b->q->site_params[site]));
        memcpy(values(b, b->q->site_params[site]), fit->params, (size_t)n * sizeof(float));
        if (nbi_qat_learned(row, &z.use)) trains(b, b->q->site_params[site], false);
        z.keep = true;
    }
    z.params = b->q->site_params[site];
    if (fit->grid.levels && !stored)
        NB_TRY(stepped(b, site, x, &fit->grid.levels->first, NBI_MAX_BITS, &z.x));
    return nbi_qat_add_quantizer(b->ctx, b->q, &z, out);
}

/* `x` on the grid of a site; `stored`: x is on a grid of its own already. */
static nb_status quantized(builder *b, int site, int x, bool stored, int *out) {
    const nbi_site *s = &b->net->site[site];
    const nbi_choice choice = b->q->bits[site];
    const nbi_qparam *p = &s->fit[nbi_choice_bits(choice)];
    *out = x;
    if (s->kind == NBI_SITE_OUTPUT || p->dtype == NB_DTYPE_F32) return NB_OK;
    if (s->kind == NBI_SITE_INPUT) return fixed_grid(b, s, p, x, out);
    if (p->zero != 0)
        return nb_fail(b->ctx, NB_EUNSUPPORTED,
                       "tensor '%s' has the zero point %d: only symmetric and unsigned grids are "
                       "trained",
                       s->name, (int)p->zero);
    nbi_qat_vertex vertex = {.site = site, .x = x, .axis = -1, .is_unsigned = p->lo == 0};
    NB_TRY(special_vertex(b, &vertex, out));
    if (*out >= 0) return NB_OK;
    if (nbi_choice_scheme(choice)) return by_scheme(b, site, x, stored, out);
    return stepped(b, site, x, p, b->q->bits[site], out);
}

/* ---- layers -------------------------------------------------------------------------------- */

/* The tensor of g that stands for input `name` of a node in this layer. */
static int input_of(const builder *b, const nbi_layer *l, int t) {
    if (b->mapped[t] >= 0) return b->mapped[t];
    const char *name = b->net->graph->tensor[t]->name;
    for (int k = 0; k < l->n_in; k++) {
        const nbi_edge *e = &b->net->edge[l->in[k]];
        if (e->tensor < 0) e = &b->net->edge[b->net->layer[e->producer].in[0]];
        if (!strcmp(e->name, name)) return b->value[l->in[k]];
    }
    return nbi_graph_find(b->g, name); /* a constant */
}

/* The float node of g that has the same output as node `n` of the network's graph. */
static nb_status twin_of(builder *b, int n, nbi_node **out) {
    const nbi_node *node = b->net->graph->node[n];
    int t = nbi_graph_find(b->g, b->net->graph->tensor[node->out[0]]->name);
    if (t < 0 || b->g->tensor[t]->producer < 0)
        return nb_fail(b->ctx, NB_EUNSUPPORTED, "node '%s' (%s) is another one at a batch of %lld",
                       node->name, node->op_type, (long long)b->o->batch);
    *out = b->g->node[b->g->tensor[t]->producer];
    return NB_OK;
}

/* Node `n` again, on the values of this layer. */
static nb_status repeat(builder *b, const nbi_layer *l, int n, int *out) {
    const nbi_node *node = b->net->graph->node[n];
    nbi_node *twin, *made;
    int *in = nbi_arena_alloc(&b->g->arena, (size_t)node->n_in + 1, sizeof *in);
    if (!in) return nb_fail_memory(b->ctx, sizeof *in);
    NB_TRY(twin_of(b, n, &twin));
    for (int i = 0; i < node->n_in; i++) {
        /* constants may differ with the batch (a Reshape's shape): the twin has the right ones */
        bool constant_in = twin->in[i] >= 0 && b->g->tensor[twin->in[i]]->data;
        in[i] = node->in[i] < 0 ? -1 : constant_in ? twin->in[i] : input_of(b, l, node->in[i]);
        if (node->in[i] >= 0 && in[i] < 0)
            return nb_fail(b->ctx, NB_EUNSUPPORTED, "node '%s': input %d has no value", node->name,
                           i);
    }
    NB_TRY(add(b, node->name, node->domain, node->op_type, node->n_in, in, 1, out, &made));
    made->n_attr = twin->n_attr;
    made->attr = twin->attr;
    made->op = twin->op; /* prepared under the file's own opset */
    made->params = twin->params;
    NB_TRY(nbi_node_infer(b->ctx, b->g, made));
    b->mapped[node->out[0]] = *out;
    return NB_OK;
}

static nb_status clamped(builder *b, const nbi_layer *l, int x, int *out) {
    int in[3] = {x, -1, -1};
    nbi_node *node;
    *out = x;
    if (isinf(l->act_lo) && isinf(l->act_hi)) return NB_OK;
    if (l->act_lo == 0 && isinf(l->act_hi)) {
        NB_TRY(add(b, l->name, "", "Relu", 1, in, 1, out, &node));
        return finish(b, node);
    }
    NB_TRY(constant(b, l->name, "lo", 0, NULL, &in[1]));
    NB_TRY(constant(b, l->name, "hi", 0, NULL, &in[2]));
    *values(b, in[1]) = l->act_lo;
    *values(b, in[2]) = l->act_hi;
    NB_TRY(add(b, l->name, "", "Clip", 3, in, 1, out, &node));
    return finish(b, node);
}

/* The steps that training starts from: [M,1] or [1,1]. */
static nb_status first_steps(builder *b, const nbi_layer *l, int bits, int tensor) {
    int8_t *levels = NULL;
    float *scale = NULL;
    double ignored;
    NB_TRY(nbi_alloc(b->ctx, l->n_weights, 1, &levels));
    nb_status st = nbi_alloc(b->ctx, (size_t)l->geometry.out_c, sizeof *scale, &scale);
    if (st == NB_OK)
        st = nbi_fit_weights(b->ctx, l, bits, b->o->per_channel, levels, scale, &ignored);
    if (st == NB_OK)
        for (int64_t c = 0; c < b->g->tensor[tensor]->dim[0]; c++)
            values(b, tensor)[c] = scale[c] * (float)nbk_level_step(bits);
    nbi_free(levels);
    nbi_free(scale);
    return st;
}

static nb_status scheme_weight(builder *b, int index, const char *name, int *out) {
    const nbi_layer *l = &b->net->layer[index];
    nbi_qat_layer *ql = &b->q->layer[index];
    const nbi_choice choice = b->q->bits[l->weight_site];
    const nbi_scheme *row = nbi_choice_row(choice);
    nbi_qat_quantizer z = {.name = name, .choice = choice, .x = ql->weight,
                           .use = nbi_choice_use(choice, true, false),
                           .training = !b->o->evaluate};
    int64_t groups = (int64_t)nbi_weight_groups(l, choice, b->o->per_channel);
    int64_t dim[2] = {groups, row->n_params(&z.use)};
    NB_TRY(constant(b, name, "params", 2, dim, &ql->weight_scale));
    nbi_qat_fit_weights(b->q, index);
    if (nbi_qat_learned(row, &z.use)) trains(b, ql->weight_scale, false);
    z.params = ql->weight_scale;
    z.axis = groups > 1 ? 0 : -1;
    return nbi_qat_add_quantizer(b->ctx, b->q, &z, out);
}

static nb_status add_weight(builder *b, int index, const nbi_node *twin, bool conv, int *out) {
    const nbi_layer *l = &b->net->layer[index];
    nbi_qat_layer *ql = &b->q->layer[index];
    const nbi_tensor *w = b->g->tensor[twin->in[1]];
    int64_t m = l->geometry.out_c, k = (int64_t)l->n_weights / m, dim[NBI_MAX_RANK] = {m, k};
    const nbi_choice choice = b->q->bits[l->weight_site];
    int bits = nbi_choice_bits(choice), rank = conv ? w->rank : 2;
    if (conv) memcpy(dim, w->dim, sizeof dim);
    NB_TRY(constant(b, w->name, "trained", rank, dim, &ql->weight));
    for (int64_t o = 0; o < m; o++)
        for (int64_t i = 0; i < k; i++)
            values(b, ql->weight)[o * k + i] = l->weight[nbi_weight_place(l, (size_t)o, (size_t)i)];
    trains(b, ql->weight, true);
    nbi_qat_vertex vertex = {
        .site = l->weight_site, .x = ql->weight, .axis = b->o->per_channel ? 0 : -1};
    NB_TRY(special_vertex(b, &vertex, out));
    if (*out >= 0) return NB_OK;
    if (nbi_choice_scheme(choice)) return scheme_weight(b, index, w->name, out);
    int64_t groups = b->o->per_channel ? m : 1;
    NB_TRY(constant(b, w->name, "step", 2, (int64_t[]){groups, 1}, &ql->weight_scale));
    if (!b->o->evaluate) NB_TRY(first_steps(b, l, bits, ql->weight_scale));
    if (bits > 1) trains(b, ql->weight_scale, false);
    return fake_quant(b, w->name, ql->weight, ql->weight_scale, bits == 1 ? "binary" : "lsq",
                      "weights", bits, false, b->o->per_channel ? 0 : -1, out);
}

static nb_status channels(builder *b, const nbi_layer *l, const char *what, bool train, int *out) {
    NB_TRY(constant(b, l->name, what, 1, (int64_t[]){l->geometry.out_c}, out));
    if (train) trains(b, *out, false);
    return NB_OK;
}

static nb_status add_norm(builder *b, int index, int x, int *out) {
    const nbi_layer *l = &b->net->layer[index];
    nbi_qat_layer *q = &b->q->layer[index];
    nbi_node *node;
    int y[5];
    NB_TRY(channels(b, l, "gamma", true, &q->gamma));
    NB_TRY(channels(b, l, "beta", true, &q->beta));
    NB_TRY(channels(b, l, "mean", false, &q->mean));
    NB_TRY(channels(b, l, "variance", false, &q->variance));
    for (int c = 0; c < l->geometry.out_c; c++) {
        double mean = l->mean[c], var = l->deviation[c] * l->deviation[c];
        values(b, q->gamma)[c] = (float)((double)l->gain[c] * sqrt(var + (double)NBI_QAT_EPSILON));
        values(b, q->beta)[c] = (float)((double)l->gain[c] * mean + (double)l->shift[c]);
        double times = q->weight_scale < 0 ? 1 : nbi_qat_magnification(b->q, index, (size_t)c);
        values(b, q->mean)[c] = (float)(times * mean);
        values(b, q->variance)[c] = (float)(times * times * var);
    }
    int in[5] = {x, q->gamma, q->beta, q->mean, q->variance};
    bool train = !b->o->evaluate;
    NB_TRY(add(b, l->name, "", "BatchNormalization", 5, in, train ? 5 : 1, y, &node));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, node, "training_mode", train));
    NB_TRY(nbi_node_set_float(b->ctx, b->g, node, "epsilon", NBI_QAT_EPSILON));
    NB_TRY(nbi_node_set_float(b->ctx, b->g, node, "momentum", 0.9f));
    if (train) {
        b->q->state[b->q->n_states++] = (nbi_tape_state){y[1], q->mean};
        b->q->state[b->q->n_states++] = (nbi_tape_state){y[2], q->variance};
    }
    *out = y[0];
    return finish(b, node);
}

bool nbi_qat_normalizes(const nbi_qnet *net, const nbi_layer *l) {
    bool conv = !strcmp(net->graph->node[l->node[0]]->op_type, "Conv");
    if (conv && !l->is_last) return true;
    for (int c = 0; c < l->geometry.out_c; c++)
        if (l->gain[c] != 1) return true;
    return false;
}

static nb_status build_conv(builder *b, int index, int *out) {
    const nbi_layer *l = &b->net->layer[index];
    nbi_node *twin, *node;
    NB_TRY(twin_of(b, l->node[0], &twin));
    bool conv = !strcmp(twin->op_type, "Conv"), norm = nbi_qat_normalizes(b->net, l);
    int in[3] = {b->value[l->in[0]]}, y;
    NB_TRY(add_weight(b, index, twin, conv, &in[1]));
    if (!norm) {
        NB_TRY(channels(b, l, "bias", true, &in[2]));
        memcpy(values(b, in[2]), l->shift, (size_t)l->geometry.out_c * sizeof *l->shift);
        b->q->layer[index].bias = in[2];
    }
    NB_TRY(add(b, l->name, "", conv ? "Conv" : "Gemm", norm ? 2 : 3, in, 1, &y, &node));
    if (conv) {
        node->n_attr = twin->n_attr;
        node->attr = twin->attr;
    } else {
        NB_TRY(nbi_node_set_int(b->ctx, b->g, node, "transB", 1));
    }
    NB_TRY(finish(b, node));
    if (norm) NB_TRY(add_norm(b, index, y, &y));
    return clamped(b, l, y, out);
}

static nb_status build_binary(builder *b, const nbi_layer *l, int *out) {
    nbi_node *node;
    const char *type = l->type == NBI_LAYER_MUL ? "Mul" : l->sign < 0 ? "Sub" : "Add";
    int in[2] = {b->value[l->in[0]], b->value[l->in[1]]}, y;
    NB_TRY(add(b, l->name, "", type, 2, in, 1, &y, &node));
    NB_TRY(finish(b, node));
    return clamped(b, l, y, out);
}

static nb_status build_layer(builder *b, int index) {
    const nbi_layer *l = &b->net->layer[index];
    int y = -1;
    for (int k = 0; k < l->n_in; k++)
        if (b->value[l->in[k]] < 0)
            return nb_fail(b->ctx, NB_EUNSUPPORTED, "layer '%s' reads what nothing computes",
                           l->name);
    if (l->type == NBI_LAYER_CONV) {
        NB_TRY(build_conv(b, index, &y));
    } else if (l->type == NBI_LAYER_REQUANT) {
        y = b->value[l->in[0]];
    } else if (l->type == NBI_LAYER_ADD || (l->type == NBI_LAYER_MUL && l->n_in == 2)) {
        NB_TRY(build_binary(b, l, &y));
    } else {
        for (int i = 0; i < l->n_nodes; i++) NB_TRY(repeat(b, l, l->node[i], &y));
        /* what follows reads the layer's edge, which may be quantized */
        for (int i = 0; i < l->n_nodes; i++)
            b->mapped[b->net->graph->node[l->node[i]]->out[0]] = -1;
    }
    if (b->o->ties && nbi_qat_keeps_grid(b->q, l))
        b->q->site_scale[b->net->edge[l->out].site] = b->q->site_scale[b->net->edge[l->in[0]].site];
    else if (!nbi_qat_moves(b->net, l))
        NB_TRY(quantized(b, b->net->edge[l->out].site, y, l->type == NBI_LAYER_REQUANT, &y));
    b->value[l->out] = y;
    return NB_OK;
}

/* ---- losses -------------------------------------------------------------------------------- */

static nb_status add_loss(builder *b, const char *type, int y, int other, int *out) {
    int in[2] = {y, other};
    nbi_node *node;
    NB_TRY(add(b, type, "org.nibble", type, 2, in, 1, out, &node));
    if (!strcmp(type, "KlDivergence"))
        NB_TRY(nbi_node_set_float(b->ctx, b->g, node, "temperature", b->o->temperature));
    return finish(b, node);
}

static nb_status flat(builder *b, int *x) {
    int in[1] = {*x};
    nbi_node *node;
    NB_TRY(add(b, "flat", "", "Flatten", 1, in, 1, x, &node));
    return finish(b, node);
}

int nbi_qat_taught(const nbi_qnet *net, int edge, bool all, int *list) {
    int n = 0;
    list[n++] = edge;
    for (int i = 1; all && i < net->n_outputs; i++) list[n++] = net->output[i];
    return n;
}

/* What the teacher's values are compared with. */
static nb_status taught(builder *b, int edge, int *y) {
    int list[NBI_COUNT(b->net->output)];
    const int n = nbi_qat_taught(b->net, edge, b->o->all_outputs, list);
    nbi_node *node;
    *y = b->q->logits;
    if (n == 1) return NB_OK;
    for (int i = 0; i < n; i++) {
        list[i] = b->value[list[i]];
        NB_TRY(flat(b, &list[i]));
    }
    NB_TRY(add(b, "taught", "", "Concat", n, list, 1, y, &node));
    NB_TRY(nbi_node_set_int(b->ctx, b->g, node, "axis", 1));
    return finish(b, node);
}

static nb_status add_losses(builder *b, int edge) {
    nbi_qat *q = b->q;
    int input[3] = {q->x}, n = 1;
    q->logits = b->value[edge];
    const nbi_tensor *y = b->g->tensor[q->logits];
    if (b->o->classes && !b->o->evaluate) {
        int64_t count = nbi_tensor_count(y) / b->o->batch;
        if (count != b->o->classes)
            return nb_fail(b->ctx, NB_EUNSUPPORTED,
                           "output '%s' has %lld values, the data has %d classes",
                           b->net->edge[edge].name, (long long)count, b->o->classes);
        if (y->rank != 2) NB_TRY(flat(b, &q->logits)); /* N,C,1,1 of a global pool */
        y = b->g->tensor[q->logits];
        NB_TRY(nbi_graph_add_tensor(b->ctx, b->g, "targets", NB_DTYPE_F32, 2, y->dim, &q->target));
        input[n++] = q->target;
        NB_TRY(add_loss(b, "CrossEntropy", q->logits, q->target, &q->label_loss));
    }
    if (b->o->distill && !b->o->evaluate) {
        int x;
        NB_TRY(taught(b, edge, &x));
        y = b->g->tensor[x];
        NB_TRY(nbi_graph_add_tensor(b->ctx, b->g, "teacher", NB_DTYPE_F32, y->rank, y->dim,
                                    &q->teacher));
        input[n++] = q->teacher;
        bool kl = y->rank == 2 && !b->o->mean_squared && !b->o->all_outputs;
        NB_TRY(add_loss(b, kl ? "KlDivergence" : "MeanSquaredError", x, q->teacher,
                        &q->teacher_loss));
    }
    NB_TRY(nbi_graph_set_inputs(b->ctx, b->g, n, input));
    int output[3], outs = 0;
    output[outs++] = q->logits;
    if (q->label_loss >= 0) output[outs++] = q->label_loss;
    if (q->teacher_loss >= 0) output[outs++] = q->teacher_loss;
    return nbi_graph_set_outputs(b->ctx, b->g, outs, output);
}

int nbi_qat_losses(const nbi_qat *q, int loss[2], float weight[2]) {
    int n = 0;
    if (q->label_loss >= 0) {
        weight[n] = q->teacher_loss >= 0 ? 1 - TEACHER_SHARE : 1;
        loss[n++] = q->label_loss;
    }
    if (q->teacher_loss >= 0) {
        weight[n] = q->label_loss >= 0 ? TEACHER_SHARE : 1;
        loss[n++] = q->teacher_loss;
    }
    return n;
}

/* ---- all ----------------------------------------------------------------------------------- */

static nb_status alloc_arrays(builder *b, const nbi_choice *bits) {
    const nbi_qnet *net = b->net;
    nbi_qat *q = b->q;
    nbi_arena *a = &q->arena;
    size_t layers = (size_t)net->n_layers + 1, sites = (size_t)net->n_sites + 1, channels = 1;
    for (int l = 0; l < net->n_layers; l++)
        if ((size_t)net->layer[l].geometry.out_c > channels)
            channels = (size_t)net->layer[l].geometry.out_c;
    q->work_bias = nbi_arena_alloc(a, channels, sizeof *q->work_bias);
    q->work_scale = nbi_arena_alloc(a, channels, sizeof *q->work_scale);
    q->work_shift = nbi_arena_alloc(a, channels, 1);
    q->layer = nbi_arena_alloc(a, layers, sizeof *q->layer);
    q->site_scale = nbi_arena_alloc(a, sites, sizeof *q->site_scale);
    q->site_params = nbi_arena_alloc(a, sites, sizeof *q->site_params);
    q->bits = nbi_arena_alloc(a, sites, sizeof *q->bits);
    q->train = nbi_arena_alloc(a, 6 * layers + 2 * sites, sizeof *q->train);
    q->decays = nbi_arena_alloc(a, 6 * layers + 2 * sites, sizeof *q->decays);
    q->state = nbi_arena_alloc(a, 2 * layers + sites, sizeof *q->state);
    q->value = b->value = nbi_arena_alloc(a, (size_t)net->n_edges + 1, sizeof *b->value);
    b->mapped = nbi_arena_alloc(a, (size_t)net->graph->n_tensors + 1, sizeof *b->mapped);
    if (!q->layer || !q->site_scale || !q->site_params || !q->bits || !q->train || !q->decays ||
        !q->state || !b->value || !b->mapped || !q->work_bias || !q->work_scale || !q->work_shift)
        return nb_fail_memory(b->ctx, layers * sizeof *q->layer);
    memcpy(q->bits, bits, (size_t)net->n_sites * sizeof *bits);
    for (size_t i = 0; i < layers; i++) q->layer[i] = (nbi_qat_layer){-1, -1, -1, -1, -1, -1, -1};
    for (size_t i = 0; i < sites; i++) q->site_scale[i] = q->site_params[i] = -1;
    for (int e = 0; e <= net->n_edges; e++) b->value[e] = -1;
    for (int t = 0; t <= net->graph->n_tensors; t++) b->mapped[t] = -1;
    q->x = q->target = q->teacher = q->logits = q->label_loss = q->teacher_loss = -1;
    return NB_OK;
}

/* A convolution that the compared output does not depend on would not be trained. */
static nb_status fail_beside(const builder *b, const nbi_layer *l, int edge) {
    const nbi_qnet *net = b->net;
    const char *name = net->edge[edge].name;
    if (net->n_outputs > 1)
        return nb_fail(b->ctx, NB_EUNSUPPORTED, "node '%s' does not lead to output '%s', which "
                       "training compares: of a network with another one, '%s', not all can be "
                       "trained", l->name, name, net->edge[net->output[1]].name);
    return nb_fail(b->ctx, NB_EUNSUPPORTED, "node '%s' does not lead to output '%s', which training "
                   "compares", l->name, name);
}

static nb_status build(builder *b, int edge) {
    const nbi_edge *input = &b->net->edge[b->net->input];
    b->q->x = nbi_graph_find(b->g, input->name);
    if (b->q->x < 0) return nb_fail(b->ctx, NB_EFORMAT, "the graph has no input '%s'", input->name);
    NB_TRY(quantized(b, input->site, b->q->x, false, &b->value[b->net->input]));
    for (int l = 0; l < b->net->n_layers; l++) {
        NB_TRY(build_layer(b, l));
        if (b->net->layer[l].out != edge || b->o->all_outputs) continue;
        if (b->o->evaluate) break; /* what does not lead to it does not matter */
        for (l++; l < b->net->n_layers; l++)
            if (b->net->layer[l].type == NBI_LAYER_CONV)
                return fail_beside(b, &b->net->layer[l], edge);
    }
    if (b->value[edge] < 0)
        return nb_fail(b->ctx, NB_EUNSUPPORTED, "output '%s' cannot be trained",
                       b->net->edge[edge].name);
    NB_TRY(add_losses(b, edge));
    nbi_graph_prune(b->g);
    return nbi_graph_sort(b->ctx, b->g);
}

nb_status nbi_qat_new(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net,
                      const nbi_choice *bits, int edge, const nbi_qat_options *options,
                      nbi_qat **out) {
    nbi_qat *q = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *q, &q));
    builder b = {.ctx = ctx, .q = q, .net = net, .o = options};
    q->net = net;
    NB_TRYG(alloc_arrays(&b, bits));
    NB_TRYG(nbi_rebatch(ctx, source, options->batch, &q->graph));
    b.g = q->graph;
    if (b.g->opset < 14) b.g->opset = 14; /* params of old nodes are prepared already */
    NB_TRYG(build(&b, edge));
    *out = q;
    return NB_OK;
done:
    nbi_qat_free(q);
    return st;
}
