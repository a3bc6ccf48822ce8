/* Canonical form: walks the float graph in order; each node starts a layer, which then takes in what
 * follows it as long as nothing else reads the tensor between (BatchNorm, constants, clamps). */
#include "quant/canonical.h"
#include "ops/params.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *op_type;
    nbi_canon_fn build;
} builders[] = {
    {"Conv", nbi_canon_conv},
    {"Gemm", nbi_canon_dense},
    {"MatMul", nbi_canon_dense},
    {"Add", nbi_canon_binary},
    {"Sub", nbi_canon_binary},
    {"Mul", nbi_canon_binary},
    {"Div", nbi_canon_binary},
    {"BatchNormalization", nbi_canon_unary},
    {"Relu", nbi_canon_unary},
    {"Clip", nbi_canon_unary},
    {"LeakyRelu", nbi_canon_unary},
    {"PRelu", nbi_canon_unary},
    {"Sigmoid", nbi_canon_unary},
    {"HardSigmoid", nbi_canon_unary},
    {"HardSwish", nbi_canon_unary},
    {"Tanh", nbi_canon_unary},
    {"Exp", nbi_canon_unary},
    {"Sqrt", nbi_canon_unary},
    {"Neg", nbi_canon_unary},
    {"Abs", nbi_canon_unary},
    {"Erf", nbi_canon_unary},
    {"MaxPool", nbi_canon_pool},
    {"AveragePool", nbi_canon_pool},
    {"GlobalAveragePool", nbi_canon_pool},
    {"ReduceMean", nbi_canon_pool},
    {"Reshape", nbi_canon_reshape},
    {"Flatten", nbi_canon_reshape},
    {"Squeeze", nbi_canon_reshape},
    {"Unsqueeze", nbi_canon_reshape},
    {"Slice", nbi_canon_slice},
    {"Pad", nbi_canon_pad},
    {"Concat", nbi_canon_concat},
    {"Transpose", nbi_canon_transpose},
    {"QuantizeLinear", nbi_canon_quantize},
    {"DequantizeLinear", nbi_canon_dequantize},
};

static nbi_canon_fn builder_of(const nbi_node *node) {
    for (size_t i = 0; i < NBI_COUNT(builders); i++)
        if (nbi_op_is(node, builders[i].op_type)) return builders[i].build;
    return NULL;
}

bool nbi_op_is(const nbi_node *node, const char *op_type) {
    return node->op && !*node->domain && !strcmp(node->op_type, op_type);
}

const float *nbi_canon_const(const nbi_canon *c, int tensor) {
    if (tensor < 0) return NULL;
    const nbi_tensor *t = c->graph->tensor[tensor];
    return t->dtype == NB_DTYPE_F32 ? t->data : NULL;
}

int nbi_canon_next(const nbi_canon *c, int tensor) {
    return c->uses[tensor] == 1 ? c->consumer[tensor] : -1;
}

/* Geometry is kept in 16 bits, counts in 31. */
static nb_status check_shape(nbi_canon *c, int tensor) {
    const nbi_tensor *t = c->graph->tensor[tensor];
    char shape[96];
    if (t->rank > 0 && t->dim[0] != 1)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "tensor '%s' has shape %s: its first dimension is "
                       "not the batch", t->name, nbi_shape_text(t, shape, sizeof shape));
    for (int i = 0; i < t->rank; i++) {
        if (t->dim[i] > 32767 && (t->rank == 3 || t->rank == 4))
            return nb_fail(c->ctx, NB_EUNSUPPORTED, "tensor '%s' has shape %s: a dimension is "
                           "above 32767", t->name, nbi_shape_text(t, shape, sizeof shape));
    }
    if (nbi_tensor_count(t) < 1 || nbi_tensor_count(t) > INT32_MAX / 4)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "tensor '%s' has an unusable shape %s", t->name,
                       nbi_shape_text(t, shape, sizeof shape));
    return NB_OK;
}

nb_status nbi_canon_edge(nbi_canon *c, int tensor, int producer, float lo, float hi, int *out) {
    const nbi_tensor *t = c->graph->tensor[tensor];
    nbi_edge e = {.name = t->name, .tensor = tensor, .rank = t->rank, .producer = producer,
                  .site = -1, .lo = lo, .hi = hi};
    NB_TRY(check_shape(c, tensor));
    memcpy(e.dim, t->dim, sizeof e.dim);
    nbi_storage_shape(t->rank, t->dim, &e.h, &e.w, &e.c);
    NB_TRY(nbi_qnet_add_edge(c->ctx, c->net, &e, out));
    c->edge_of[tensor] = *out;
    return NB_OK;
}

nb_status nbi_canon_add(nbi_canon *c, nbi_layer *layer, int tensor, float lo, float hi) {
    lo = fmaxf(lo, layer->act_lo);
    hi = fminf(hi, layer->act_hi);
    NB_TRY(nbi_canon_edge(c, tensor, c->net->n_layers, lo, hi, &layer->out));
    for (int i = 0; i < layer->n_nodes; i++) c->done[layer->node[i]] = true;
    int index;
    return nbi_qnet_add_layer(c->ctx, c->net, layer, &index);
}

bool nbi_canon_clamp(const nbi_node *node, float *lo, float *hi) {
    *lo = -INFINITY;
    *hi = INFINITY;
    if (nbi_op_is(node, "Relu")) {
        *lo = 0;
        return true;
    }
    const nbi_clip_params *p = node->params;
    if (!nbi_op_is(node, "Clip") || !p->known || p->lo > p->hi) return false;
    *lo = p->lo;
    *hi = p->hi;
    return true;
}

void nbi_canon_activation(nbi_canon *c, nbi_layer *layer, int *tensor) {
    for (int n; (n = nbi_canon_next(c, *tensor)) >= 0 && layer->n_nodes < NBI_CANON_NODES;) {
        const nbi_node *node = c->graph->node[n];
        float lo, hi;
        if (!nbi_canon_clamp(node, &lo, &hi)) return;
        /* clamp(clamp(x)): the later one acts on the earlier bounds */
        layer->act_lo = fminf(fmaxf(layer->act_lo, lo), hi);
        layer->act_hi = fmaxf(fminf(layer->act_hi, hi), lo);
        layer->node[layer->n_nodes++] = n;
        *tensor = node->out[0];
    }
}

/* A node without integer form: computed in float between quantized tensors. */
static nb_status build_float(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    int in[3], n_in = 0, list[1] = {n};
    *built = false;
    if (!node->op || !node->op->forward || node->n_out != 1 || node->n_in > 3) return NB_OK;
    if (c->graph->tensor[node->out[0]]->dtype != NB_DTYPE_F32) return NB_OK;
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0 || c->graph->tensor[node->in[i]]->data) continue;
        in[n_in++] = c->edge_of[node->in[i]];
    }
    if (n_in == 0) return NB_OK;
    nbi_layer layer = {.type = NBI_LAYER_FLOAT, .name = node->name, .n_in = n_in, .in = in,
                       .n_nodes = 1, .node = list, .act_lo = -INFINITY, .act_hi = INFINITY};
    *built = true;
    return nbi_canon_add(c, &layer, node->out[0], -INFINITY, INFINITY);
}

static nb_status leave_untouched(nbi_canon *c, int n) {
    nbi_qnet *net = c->net;
    if (!net->untouched) {
        net->untouched = nbi_arena_alloc(&net->arena, (size_t)c->graph->n_nodes,
                                         sizeof *net->untouched);
        if (!net->untouched) return nb_fail_memory(c->ctx, (size_t)c->graph->n_nodes * 8);
    }
    net->untouched[net->n_untouched++] = c->graph->node[n]->name;
    c->done[n] = true;
    return NB_OK;
}

/* Can the tensor that the node makes be an edge? What nothing here can hold stays as it is; the log
 * says why. Builders rely on it. Borders of a quantized model are not left out. */
static nb_status has_edge(nbi_canon *c, const nbi_node *node, bool *out) {
    bool border = nbi_op_is(node, "QuantizeLinear") || nbi_op_is(node, "DequantizeLinear");
    *out = true;
    if (!node->op || node->n_out < 1 || node->out[0] < 0) return NB_OK;
    if (c->graph->tensor[node->out[0]]->dtype != NB_DTYPE_F32) return NB_OK;
    nb_status st = check_shape(c, node->out[0]);
    if (st != NB_EUNSUPPORTED || border) return st;
    nb_log(c->ctx, NB_LOG_WARNING, "node '%s' (%s) is left untouched: %s", node->name,
           node->op_type, nb_ctx_message(c->ctx));
    *out = false;
    return NB_OK;
}

static nb_status build_node(nbi_canon *c, int n) {
    const nbi_node *node = c->graph->node[n];
    bool built = false, reachable = true;
    for (int i = 0; i < node->n_in; i++) {
        int t = node->in[i];
        reachable &= t < 0 || c->graph->tensor[t]->data || c->edge_of[t] >= 0;
    }
    nbi_canon_fn build = builder_of(node);
    if (reachable) NB_TRY(has_edge(c, node, &reachable));
    if (reachable && nbi_canon_reads_codes(c, node)) {
        NB_TRY(nbi_canon_codes(c, n, build, &built));
    } else if (reachable) {
        if (build && node->n_out >= 1) NB_TRY(build(c, n, &built));
        if (!built) NB_TRY(build_float(c, n, &built));
    }
    return built ? NB_OK : leave_untouched(c, n);
}

static void count_uses(nbi_canon *c) {
    for (int t = 0; t < c->graph->n_tensors; t++) {
        c->edge_of[t] = -1;
        c->consumer[t] = -1;
    }
    for (int n = 0; n < c->graph->n_nodes; n++) {
        const nbi_node *node = c->graph->node[n];
        for (int i = 0; i < node->n_in; i++) {
            if (node->in[i] < 0) continue;
            c->uses[node->in[i]]++;
            c->consumer[node->in[i]] = n;
        }
    }
    for (int i = 0; i < c->graph->n_outputs; i++) c->uses[c->graph->output[i]] += 2;
}

/* Marks the outputs: graph outputs that were reached, and the last tensors before untouched nodes.
 * first[tensor]: the first graph output that it is, or that untouched nodes make of it; else
 * n_outputs. */
static void mark_outputs(nbi_canon *c, int *first) {
    const nbi_graph *g = c->graph;
    const nbi_qnet *net = c->net;
    for (int t = 0; t < g->n_tensors; t++) first[t] = g->n_outputs;
    for (int i = g->n_outputs - 1; i >= 0; i--) {
        first[g->output[i]] = i;
        int e = c->edge_of[g->output[i]];
        if (e >= 0) net->edge[e].is_output = true;
    }
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = g->node[n];
        int least = g->n_outputs;
        bool own = false;
        for (int u = 0; u < net->n_untouched; u++) own |= net->untouched[u] == node->name;
        for (int i = 0; own && i < node->n_out; i++)
            if (node->out[i] >= 0 && first[node->out[i]] < least) least = first[node->out[i]];
        for (int i = 0; own && i < node->n_in; i++) {
            int t = node->in[i];
            if (t < 0) continue;
            if (least < first[t]) first[t] = least;
            if (c->edge_of[t] >= 0) net->edge[c->edge_of[t]].is_output = true;
        }
    }
}

/* In the order of the graph's outputs: by the first one policies are judged. */
static nb_status set_outputs(nbi_canon *c) {
    nbi_qnet *net = c->net;
    int *first;
    NB_TRY(nbi_alloc(c->ctx, (size_t)c->graph->n_tensors + 1, sizeof *first, &first));
    mark_outputs(c, first);
    int most = (int)NBI_COUNT(net->output), n = 0;
    for (int i = 0; i <= c->graph->n_outputs; i++)
        for (int e = 0; e < net->n_edges; e++) {
            const nbi_edge *edge = &net->edge[e];
            if (!edge->is_output || edge->producer < 0 || first[edge->tensor] != i) continue;
            if (n < most) net->output[n] = e;
            n++;
        }
    nbi_free(first);
    if (n > most)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "the network has more than %d outputs", most);
    net->n_outputs = n;
    if (net->n_outputs == 0 && net->n_untouched == 0)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "no output of the network depends on its input '%s'",
                       c->graph->tensor[c->graph->input[0]]->name);
    if (net->n_outputs == 0)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "no output of the network can be computed: node "
                       "'%s' is the first that is not supported", net->untouched[0]);
    return NB_OK;
}

/* First: reads the network input through no other convolution. Last: reaches an output so. */
static nb_status mark_first_last(nb_ctx *ctx, nbi_qnet *net) {
    bool *from_input = NULL, *to_output = NULL;
    NB_TRY(nbi_alloc(ctx, (size_t)net->n_edges, 1, &from_input));
    nb_status st = nbi_alloc(ctx, (size_t)net->n_edges, 1, &to_output);
    if (st == NB_OK) {
        from_input[net->input] = true;
        for (int e = 0; e < net->n_edges; e++) to_output[e] = net->edge[e].is_output;
        for (int i = 0; i < net->n_layers; i++) {
            nbi_layer *l = &net->layer[i];
            for (int k = 0; k < l->n_in; k++) {
                if (l->type == NBI_LAYER_CONV) l->is_first |= from_input[l->in[k]];
                else from_input[l->out] |= from_input[l->in[k]];
            }
        }
        for (int i = net->n_layers - 1; i >= 0; i--) {
            nbi_layer *l = &net->layer[i];
            if (l->type == NBI_LAYER_CONV) l->is_last = to_output[l->out];
            else
                for (int k = 0; k < l->n_in; k++) to_output[l->in[k]] |= to_output[l->out];
        }
    }
    nbi_free(from_input);
    nbi_free(to_output);
    return st;
}

static nb_status canonicalize(nbi_canon *c) {
    nb_ctx *ctx = c->ctx;
    size_t tensors = (size_t)c->graph->n_tensors + 1;
    if (c->graph->n_inputs != 1)
        return nb_fail(ctx, NB_EUNSUPPORTED, "the network has %d inputs; quantization needs one",
                       c->graph->n_inputs);
    NB_TRY(nbi_alloc(ctx, tensors, sizeof *c->edge_of, &c->edge_of));
    NB_TRY(nbi_alloc(ctx, tensors, sizeof *c->uses, &c->uses));
    NB_TRY(nbi_alloc(ctx, tensors, sizeof *c->consumer, &c->consumer));
    NB_TRY(nbi_alloc(ctx, (size_t)c->graph->n_nodes + 1, sizeof *c->done, &c->done));
    count_uses(c);
    NB_TRY(nbi_canon_edge(c, c->graph->input[0], -1, -INFINITY, INFINITY, &c->net->input));
    for (int n = 0; n < c->graph->n_nodes; n++)
        if (!c->done[n]) NB_TRY(build_node(c, n));
    NB_TRY(set_outputs(c));
    return mark_first_last(c->ctx, c->net);
}

nb_status nbi_canonicalize(nb_ctx *ctx, nbi_graph *graph, nbi_qnet **out) {
    nbi_canon c = {.ctx = ctx, .graph = graph};
    nb_status st = nbi_alloc(ctx, 1, sizeof *c.net, &c.net);
    if (st != NB_OK) {
        nbi_graph_free(graph);
        return st;
    }
    c.net->graph = graph;
    st = canonicalize(&c);
    nbi_free(c.edge_of);
    nbi_free(c.uses);
    nbi_free(c.consumer);
    nbi_free(c.done);
    if (st == NB_OK) *out = c.net;
    else nbi_qnet_free(c.net);
    return st;
}
