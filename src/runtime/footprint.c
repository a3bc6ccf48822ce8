/* See footprint.h. */
#include "runtime/footprint.h"

#include "quant/fit.h"
#include "runtime/lower.h"

#include <string.h>

static bool same_grid(const nbi_qnet *net, const nbi_layer *l, const nbi_choice *bits) {
    int a = net->edge[l->in[0]].site, b = net->edge[l->out].site;
    return nbi_keeps_grid(l, nbi_site_grid(&net->site[a], bits[a]),
                          nbi_site_grid(&net->site[b], bits[b]));
}

/* The level tables of weights that one program stores: equal ones once. Fixed ones are compared by
 * what they hold, the others are a tensor's own. */
typedef struct tables {
    nbi_choice choice[32]; /* fixed ones that were counted, each another table */
    int n;
    bool one_bit;
} tables;

static size_t table_bytes(tables *t, nbi_choice choice) {
    size_t size = nbi_choice_table_size(choice);
    int8_t own[256], other[256];
    if (!size) {
        bool first = nbi_choice_bits(choice) == 1 && !t->one_bit;
        t->one_bit |= nbi_choice_bits(choice) == 1;
        return first ? 2 : 0;
    }
    if (!nbi_choice_table(choice, own)) return size;
    for (int i = 0; i < t->n; i++) {
        nbi_choice_table(t->choice[i], other);
        if (nbi_choice_bits(t->choice[i]) == nbi_choice_bits(choice) && !memcmp(own, other, size))
            return 0;
    }
    if (t->n < (int)NBI_COUNT(t->choice)) t->choice[t->n++] = choice;
    return size;
}

static bool adds_levels(const nbi_qnet *net, const nbi_layer *l, const nbi_choice *bits) {
    int site = net->edge[l->out].site;
    return nbi_adds_levels(l, nbi_site_grid(&net->site[site], bits[site]));
}

/* Tables behind layers: each a step, those of one site the same bytes. */
static size_t level_bytes(const nbi_qnet *net, const nbi_choice *bits) {
    const nbi_step lut = {.type = NBI_STEP_LUT};
    size_t bytes = 0;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        bool first = true;
        if (!adds_levels(net, l, bits)) continue;
        for (int k = 0; k < i; k++)
            first &= net->edge[net->layer[k].out].site != net->edge[l->out].site ||
                     !adds_levels(net, &net->layer[k], bits);
        bytes += nbi_step_descriptor_bytes(&lut) + (first ? 256 : 0);
    }
    return bytes;
}

size_t nbi_footprint_variable(const nbi_qnet *net, const nbi_choice *bits) {
    size_t bytes = level_bytes(net, bits);
    tables t = {.n = 0};
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type == NBI_LAYER_CONV) {
            nbi_choice choice = bits[l->weight_site];
            bytes += nbi_packed_bytes(l->n_weights, nbi_choice_bits(choice));
            bytes += table_bytes(&t, choice);
            bytes += (size_t)l->geometry.out_c * (size_t)nbi_choice_bits(bits[l->bias_site]) / 8;
        } else if (l->type == NBI_LAYER_REQUANT && !same_grid(net, l, bits)) {
            const nbi_step lut = {.type = NBI_STEP_LUT};
            bytes += 256 + nbi_step_descriptor_bytes(&lut);
        }
    }
    return bytes;
}

static nbi_step_type step_type(const nbi_layer *l) {
    switch (l->type) {
    case NBI_LAYER_CONV:
        return l->depthwise ? NBI_STEP_DWCONV : NBI_STEP_CONV;
    case NBI_LAYER_ADD:
        return NBI_STEP_ADD;
    case NBI_LAYER_MUL:
        return NBI_STEP_MUL;
    case NBI_LAYER_MAXPOOL:
        return NBI_STEP_MAXPOOL;
    case NBI_LAYER_AVGPOOL:
        return NBI_STEP_AVGPOOL;
    case NBI_LAYER_COPY:
        return NBI_STEP_COPY;
    case NBI_LAYER_FLOAT:
        return NBI_STEP_FLOAT;
    default:
        return NBI_STEP_LUT;
    }
}

/* Tables of a function: one for each channel where a constant of its nodes differs by channel. */
static size_t table_count(const nbi_qnet *net, const nbi_layer *l) {
    const nbi_edge *in = &net->edge[l->in[0]];
    for (int i = 0; i < l->n_nodes && in->rank >= 2 && in->rank <= 4; i++) {
        const nbi_node *node = net->graph->node[l->node[i]];
        for (int k = 0; k < node->n_in; k++) {
            const nbi_tensor *t = node->in[k] < 0 ? NULL : net->graph->tensor[node->in[k]];
            const float *x = t && t->dtype == NB_DTYPE_F32 ? t->data : NULL;
            for (int64_t c = 1; x && c < nbi_tensor_count(t); c++)
                if (x[c] != x[0]) return (size_t)in->c;
        }
    }
    return 1;
}

static size_t pixel_bytes(const nbi_qnet *net) {
    const nbi_step lut = {.type = NBI_STEP_LUT};
    const int channels = net->edge[net->input].c;
    bool equal = true;
    for (int c = 1; c < channels && c < (int)NBI_COUNT(net->input_table); c++)
        equal &= !memcmp(net->input_table[0], net->input_table[c], sizeof net->input_table[0]);
    return nbi_step_descriptor_bytes(&lut) + 256 * (size_t)(equal ? 1 : channels);
}

size_t nbi_footprint_fixed(const nbi_qnet *net) {
    size_t bytes = net->input_is_image ? pixel_bytes(net) : 0;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        const nbi_step step = {.type = step_type(l)};
        size_t one = nbi_step_descriptor_bytes(&step);
        if (l->type == NBI_LAYER_REQUANT) continue;
        if (l->type == NBI_LAYER_CONV) one += 5 * (size_t)l->geometry.out_c;
        if (l->type == NBI_LAYER_AVGPOOL) one += 5 * nbk_pool_divisors(&l->pool);
        if (l->type == NBI_LAYER_UNARY) one += 256 * table_count(net, l);
        bytes += one * (size_t)(l->type == NBI_LAYER_COPY ? l->n_copy : 1);
    }
    return bytes;
}

/* Steps with buffers and scratch, but no constants. */
static nb_status outline(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits, nbi_program *p) {
    size_t edges = (size_t)net->n_edges + 1, capacity = 2 * (size_t)net->n_layers + 1;
    for (int i = 0; i < net->n_layers; i++) capacity += (size_t)net->layer[i].n_copy;
    p->tensor = nbi_arena_alloc(&p->arena, edges, sizeof *p->tensor);
    p->step = nbi_arena_alloc(&p->arena, capacity, sizeof *p->step);
    int *alias = nbi_arena_alloc(&p->arena, edges, sizeof *alias);
    if (!p->tensor || !p->step || !alias) return nb_fail_memory(ctx, capacity * sizeof *p->step);
    for (int e = 0; e < net->n_edges; e++) {
        int site = net->edge[e].site;
        nbi_describe_edge(&net->edge[e], nbi_site_grid(&net->site[site], bits[site]), &p->tensor[e]);
        alias[e] = e;
    }
    p->n_tensors = net->n_edges;
    p->input = net->input;
    if (net->input_is_image) {
        p->input = p->n_tensors++;
        p->tensor[p->input] = p->tensor[net->input];
        p->step[p->n_steps++] = (nbi_step){.type = NBI_STEP_LUT, .name = "", .n_in = 1,
                                           .in = {p->input}, .out = net->input};
    }
    p->tensor[p->input].is_input = true;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (same_grid(net, l, bits) || (l->type == NBI_LAYER_COPY && l->n_copy == 0)) {
            alias[l->out] = alias[l->in[0]];
            continue;
        }
        int rows = l->type == NBI_LAYER_COPY ? l->n_copy : 1;
        for (int k = 0; k < rows; k++) {
            nbi_step *s = &p->step[p->n_steps++];
            *s = (nbi_step){.type = step_type(l), .name = l->name, .out = l->out};
            s->n_in = l->type == NBI_LAYER_COPY ? 1 : l->n_in < 3 ? l->n_in : 3;
            for (int j = 0; j < s->n_in; j++)
                s->in[j] = alias[l->in[l->type == NBI_LAYER_COPY ? l->copy_in[k] : j]];
            if (l->type != NBI_LAYER_CONV) continue;
            s->u.conv.p = l->geometry;
            s->u.conv.p.w_bits = (uint8_t)nbi_choice_bits(bits[l->weight_site]);
        }
        if (adds_levels(net, l, bits))
            p->step[p->n_steps++] = (nbi_step){.type = NBI_STEP_LUT, .name = l->name, .n_in = 1,
                                               .in = {l->out}, .out = l->out};
    }
    for (int i = 0; i < net->n_outputs; i++) {
        p->output[i] = alias[net->output[i]];
        p->tensor[p->output[i]].is_output = true;
    }
    p->n_outputs = net->n_outputs;
    return NB_OK;
}

nb_status nbi_footprint_ram(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits,
                            size_t *out_bytes) {
    nbi_program p = {.name = ""};
    nb_status st = outline(ctx, net, bits, &p);
    if (st == NB_OK) st = nbi_program_ram(ctx, &p, out_bytes);
    nbi_arena_free(&p.arena);
    return st;
}

nb_status nbi_footprint_has_c(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits) {
    nbi_program p = {.name = net->graph->name};
    nbi_arena memory = {0};
    nbi_program cut;
    const char *name;
    nb_status st = outline(ctx, net, bits, &p);
    if (st == NB_OK) st = nbi_program_cut(ctx, &p, &memory, &cut, &name);
    nbi_arena_free(&memory);
    nbi_arena_free(&p.arena);
    return st;
}

nb_status nbi_footprint_ram_sum(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits,
                                double *out_bytes) {
    nbi_program p = {.name = ""};
    nb_status st = outline(ctx, net, bits, &p);
    if (st == NB_OK) st = nbi_program_ram_sum(ctx, &p, out_bytes);
    nbi_arena_free(&p.arena);
    return st;
}
