/* Sites. Edges joined by max pooling and by moves (slice, pad, concat, transpose…) form one class and
 * share one activation site. A class read by convolutions only is an ACTIVATION site of free width;
 * any other reader (Add, Mul, average pooling, functions, outputs) makes it a STREAM of residual
 * width, and the convolutions that read it then read a requantized copy, whose site is free. */
#include "quant/generate.h"
#include "quant/canonical.h"
#include "schemes/choice.h"

#include <math.h>
#include <string.h>

typedef struct generator {
    nb_ctx *ctx;
    nbi_qnet *net;
    const nbi_qag_options *options;
    int *class_of;       /* [edges] representative edge */
    bool *conv_reader;   /* by class */
    bool *last_reader;   /* by class: the last layer reads it */
    bool *other_reader;
    bool *int32_class;   /* by class: logits */
    int *site_of_class;
    int *requant_site;   /* by class: the free site behind a stream, −1 */
    int *requant_edge;   /* by edge */
    nbi_layer *list;     /* the new order */
    int n_list;
} generator;

static int find(int *class_of, int e) {
    while (class_of[e] != e) e = class_of[e] = class_of[class_of[e]];
    return e;
}

static bool shares_site(const nbi_layer *l) {
    return l->type == NBI_LAYER_MAXPOOL || l->type == NBI_LAYER_COPY;
}

static void make_classes(generator *g) {
    for (int e = 0; e < g->net->n_edges; e++) g->class_of[e] = e;
    for (int i = 0; i < g->net->n_layers; i++) {
        const nbi_layer *l = &g->net->layer[i];
        if (!shares_site(l)) continue;
        for (int k = 0; k < l->n_in; k++) {
            int a = find(g->class_of, l->in[k]), b = find(g->class_of, l->out);
            if (a < b) g->class_of[b] = a;
            else g->class_of[a] = b;
        }
    }
    for (int e = 0; e < g->net->n_edges; e++) g->class_of[e] = find(g->class_of, e);
}

static void find_readers(generator *g) {
    for (int i = 0; i < g->net->n_layers; i++) {
        const nbi_layer *l = &g->net->layer[i];
        for (int k = 0; k < l->n_in; k++) {
            int c = g->class_of[l->in[k]];
            if (l->type == NBI_LAYER_CONV) g->conv_reader[c] = true;
            else if (!shares_site(l)) g->other_reader[c] = true;
            if (l->type == NBI_LAYER_CONV && l->is_last) g->last_reader[c] = true;
        }
    }
    for (int e = 0; e < g->net->n_edges; e++)
        if (g->net->edge[e].is_output) g->other_reader[g->class_of[e]] = true;
}

/* Logits: every producer of the class is a convolution, a move or, if the class is an output, computed
 * in float; its readers compute in float, move or are outputs: nothing else reads int32. */
static void find_logits(generator *g) {
    const nbi_qnet *net = g->net;
    for (int c = 0; c < net->n_edges; c++) {
        if (g->class_of[c] != c || g->conv_reader[c]) continue;
        bool logits = true, from_float = false, is_output = false;
        for (int e = 0; e < net->n_edges; e++) {
            if (g->class_of[e] != c) continue;
            int p = net->edge[e].producer;
            nbi_layer_type type = p < 0 ? NBI_LAYER_ADD : net->layer[p].type;
            logits &= type == NBI_LAYER_CONV || type == NBI_LAYER_COPY || type == NBI_LAYER_FLOAT;
            from_float |= type == NBI_LAYER_FLOAT;
            is_output |= net->edge[e].is_output;
        }
        logits &= is_output || !from_float;
        for (int i = 0; i < net->n_layers && logits; i++)
            for (int k = 0; k < net->layer[i].n_in; k++)
                if (g->class_of[net->layer[i].in[k]] == c)
                    logits &= net->layer[i].type == NBI_LAYER_FLOAT ||
                              net->layer[i].type == NBI_LAYER_COPY;
        g->int32_class[c] = logits;
    }
}

static bool class_is_unsigned(const generator *g, int c) {
    for (int e = 0; e < g->net->n_edges; e++)
        if (g->class_of[e] == c && !(g->net->edge[e].lo >= 0)) return false;
    return true;
}

/* What is known of an activation's storage before calibration: everything but the scale. */
static void set_storage(nbi_site *s) {
    for (int b = 1; b <= NBI_MAX_BITS; b++) {
        nbi_qparam *q = &s->fit[b];
        *q = (nbi_qparam){.dtype = s->is_unsigned ? NB_DTYPE_U8 : NB_DTYPE_S8, .bits = b,
                          .scale = 1, .hi = (1 << b) - 1};
        if (s->kind == NBI_SITE_OUTPUT) q->dtype = NB_DTYPE_S32;
        if (s->is_unsigned) continue;
        q->lo = -(1 << (b - 1));
        q->hi = -q->lo - 1;
    }
}

static nb_status add_activation_sites(generator *g) {
    nbi_qnet *net = g->net;
    for (int e = 0; e < net->n_edges; e++) {
        int c = g->class_of[e];
        if (c != e) continue;
        bool stream = g->other_reader[c];
        int p = net->edge[e].producer;
        nbi_site s = {.kind = stream ? NBI_SITE_STREAM : NBI_SITE_ACTIVATION,
                      .name = net->edge[e].name, .layer = p,
                      .is_unsigned = class_is_unsigned(g, c),
                      .fixed_bits = stream ? g->options->residual_bits : 0,
                      .count = (int64_t)net->edge[e].h * net->edge[e].w * net->edge[e].c};
        if (p < 0) s.kind = NBI_SITE_INPUT, s.fixed_bits = 8;
        else if (g->int32_class[c]) s.kind = NBI_SITE_OUTPUT, s.fixed_bits = 8;
        else if (g->last_reader[c] && !stream && g->options->first_last == NBI_FIRST_LAST_8)
            s.fixed_bits = 8;
        set_storage(&s);
        NB_TRY(nbi_qnet_add_site(g->ctx, net, &s, &g->site_of_class[c]));
    }
    for (int e = 0; e < net->n_edges; e++) net->edge[e].site = g->site_of_class[g->class_of[e]];
    return NB_OK;
}

/* The edge that convolutions read instead of the stream `e`; its layer is appended once. */
static nb_status requant_of(generator *g, int e, int *out) {
    nbi_qnet *net = g->net;
    if (g->requant_edge[e] >= 0) {
        *out = g->requant_edge[e];
        return NB_OK;
    }
    int c = g->class_of[e];
    nbi_edge copy = net->edge[e];
    int *in = nbi_arena_alloc(&net->arena, 1, sizeof *in);
    copy.name = nbi_arena_format(&net->arena, "%s/requantized", copy.name);
    if (!in || !copy.name) return nb_fail_memory(g->ctx, 64);
    if (g->requant_site[c] < 0) {
        nbi_site s = net->site[copy.site];
        s.kind = NBI_SITE_ACTIVATION;
        s.fixed_bits = g->last_reader[c] && g->options->first_last == NBI_FIRST_LAST_8 ? 8 : 0;
        s.name = copy.name;
        NB_TRY(nbi_qnet_add_site(g->ctx, net, &s, &g->requant_site[c]));
    }
    copy.tensor = -1;
    copy.is_output = false;
    copy.site = g->requant_site[c];
    NB_TRY(nbi_qnet_add_edge(g->ctx, net, &copy, out));
    g->requant_edge[e] = *out;
    *in = e;
    g->list[g->n_list++] = (nbi_layer){.type = NBI_LAYER_REQUANT, .name = copy.name, .n_in = 1,
                                       .in = in, .out = *out, .act_lo = -INFINITY,
                                       .act_hi = INFINITY};
    return NB_OK;
}

/* Rebuilds the layer list with requantizations where convolutions read streams. */
static nb_status insert_requants(generator *g) {
    nbi_qnet *net = g->net;
    int capacity = net->n_layers + net->n_edges;
    g->list = nbi_arena_alloc(&net->arena, (size_t)capacity, sizeof *g->list);
    if (!g->list) return nb_fail_memory(g->ctx, (size_t)capacity * sizeof *g->list);
    for (int i = 0; i < net->n_layers; i++) {
        nbi_layer *l = &net->layer[i];
        if (l->type == NBI_LAYER_CONV &&
            net->site[net->edge[l->in[0]].site].kind == NBI_SITE_STREAM)
            NB_TRY(requant_of(g, l->in[0], &l->in[0]));
        g->list[g->n_list++] = *l;
    }
    net->layer = g->list;
    net->n_layers = g->n_list;
    net->cap_layers = capacity;
    for (int i = 0; i < net->n_layers; i++) net->edge[net->layer[i].out].producer = i;
    for (int s = 0; s < net->n_sites; s++) net->site[s].layer = -1;
    for (int e = 0; e < net->n_edges; e++) {
        nbi_site *s = &net->site[net->edge[e].site];
        if (s->layer < 0) s->layer = net->edge[e].producer;
    }
    return NB_OK;
}

/* The wanted name; where an earlier site has that one too, also the layer's, and a number if
 * need be: policies and files tell sites apart by name. NULL: no memory. */
static const char *site_name(nbi_qnet *net, const nbi_layer *l, const char *wanted) {
    const char *name = wanted;
    for (int tries = 0, s = 0; name && s < net->n_sites; s++) {
        if (strcmp(net->site[s].name, name)) continue;
        name = tries++ ? nbi_arena_format(&net->arena, "%s/%s/%d", wanted, l->name, tries)
                       : nbi_arena_format(&net->arena, "%s/%s", wanted, l->name);
        s = -1;
    }
    return name;
}

static nb_status add_weight_sites(generator *g) {
    nbi_qnet *net = g->net;
    for (int i = 0; i < net->n_layers; i++) {
        nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        bool fixed = (l->is_first || l->is_last) && g->options->first_last == NBI_FIRST_LAST_8;
        const nbi_node *node = net->graph->node[l->node[0]];
        const char *name = site_name(net, l, net->graph->tensor[node->in[1]]->name);
        if (!name) return nb_fail_memory(g->ctx, 64);
        nbi_site s = {.kind = NBI_SITE_WEIGHT, .name = name,
                      .layer = i, .fixed_bits = fixed ? 8 : 0, .count = (int64_t)l->n_weights};
        NB_TRY(nbi_qnet_add_site(g->ctx, net, &s, &l->weight_site));
    }
    return NB_OK;
}

/* Every layer has biases, from the correction at the latest. */
static nb_status add_bias_sites(generator *g) {
    nbi_qnet *net = g->net;
    for (int i = 0; i < net->n_layers; i++) {
        nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        const char *weight = net->site[l->weight_site].name;
        const char *name = nbi_arena_format(&net->arena, "%s/bias", weight);
        if (name) name = site_name(net, l, name);
        if (!name) return nb_fail_memory(g->ctx, 64);
        nbi_site s = {.kind = NBI_SITE_BIAS, .name = name, .layer = i, .fixed_bits = 32,
                      .count = l->geometry.out_c};
        NB_TRY(nbi_qnet_add_site(g->ctx, net, &s, &l->bias_site));
    }
    return NB_OK;
}

static nb_status generate(generator *g) {
    size_t n = (size_t)g->net->n_edges * 2 + 8;
    NB_TRY(nbi_alloc(g->ctx, n, sizeof(int), &g->class_of));
    NB_TRY(nbi_alloc(g->ctx, n, 1, &g->conv_reader));
    NB_TRY(nbi_alloc(g->ctx, n, 1, &g->last_reader));
    NB_TRY(nbi_alloc(g->ctx, n, 1, &g->other_reader));
    NB_TRY(nbi_alloc(g->ctx, n, 1, &g->int32_class));
    NB_TRY(nbi_alloc(g->ctx, n, sizeof(int), &g->site_of_class));
    NB_TRY(nbi_alloc(g->ctx, n, sizeof(int), &g->requant_site));
    NB_TRY(nbi_alloc(g->ctx, n, sizeof(int), &g->requant_edge));
    for (size_t i = 0; i < n; i++) g->requant_site[i] = g->requant_edge[i] = -1;
    make_classes(g);
    find_readers(g);
    find_logits(g);
    NB_TRY(add_activation_sites(g));
    NB_TRY(insert_requants(g));
    NB_TRY(add_weight_sites(g));
    return add_bias_sites(g);
}

nb_status nbi_generate(nb_ctx *ctx, nbi_graph *graph, const nbi_qag_options *options,
                       nbi_qnet **out) {
    generator g = {.ctx = ctx, .options = options};
    NB_TRY(nbi_canonicalize(ctx, graph, &g.net));
    nb_status st = generate(&g);
    nbi_free(g.class_of);
    nbi_free(g.conv_reader);
    nbi_free(g.last_reader);
    nbi_free(g.other_reader);
    nbi_free(g.int32_class);
    nbi_free(g.site_of_class);
    nbi_free(g.requant_site);
    nbi_free(g.requant_edge);
    if (st == NB_OK) *out = g.net;
    else nbi_qnet_free(g.net);
    return st;
}

/* ---- costs ---------------------------------------------------------------------------------- */

int nbi_container_bits(int bits, int containers) {
    if (containers == 2 && bits <= 2) return 2;
    return bits <= 4 ? 4 : 8;
}

void nbi_net_cost_of(const nbi_qnet *net, const nbi_choice *bits, int containers, nbi_net_cost *out) {
    *out = (nbi_net_cost){0};
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        double n = (double)l->n_weights, channels = l->geometry.out_c;
        int b = nbi_choice_bits(bits[l->weight_site]);
        int a = nbi_choice_bits(bits[net->edge[l->in[0]].site]);
        size_t table = nbi_choice_table_size(bits[l->weight_site]);
        out->bytes_onnx +=
            (double)((l->n_weights * (size_t)nbi_container_bits(b, containers) + 7) / 8) +
            (b <= 4 ? (double)table : 0) + channels * 8;
        out->weight_bits += n * b;
        out->weights += n;
        out->bops += l->macs * b * a;
    }
    for (int s = 0; s < net->n_sites; s++) {
        const nbi_site *site = &net->site[s];
        if (site->kind == NBI_SITE_WEIGHT || site->kind == NBI_SITE_OUTPUT ||
            site->kind == NBI_SITE_BIAS)
            continue;
        out->activation_bits += (double)site->count * nbi_choice_bits(bits[s]);
        out->activations += (double)site->count;
    }
}
