/* Frozen graph -> QDQ graph. Each layer becomes its float operator on dequantized inputs, followed by
 * QuantizeLinear and, where the levels are fewer than a byte has, Clip on the uint8 codes: that is
 * exact, and leaves the pattern DequantizeLinear – operator – QuantizeLinear that runtimes fuse.
 * Moves (reshape, slice, pad, concat, max pool…) work on the codes directly. */
#include "onnx/export_qdq_parts.h"

#include "ops/op.h"
#include "schemes/choice.h"

#include <math.h>
#include <string.h>

#define ONNX_INT32 6

const nbi_qparam *nbi_qdq_param(const nbi_qdq *q, int edge) {
    return &q->frozen->site[q->net->edge[edge].site];
}

/* ---- edges ---------------------------------------------------------------------------------- */

nb_status nbi_qdq_real(nbi_qdq *q, int edge, int *out) {
    const nbi_qparam *p = nbi_qdq_param(q, edge);
    if (!q->has_real[edge]) {
        if (q->code[edge] < 0)
            return nb_fail(q->ctx, NB_EINVAL, "tensor '%s' is read before it is computed",
                           q->net->edge[edge].name);
        float scale = (float)p->scale;
        uint8_t zero = (uint8_t)(p->zero + nbi_qdq_offset(p));
        int in[3] = {q->code[edge]};
        NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_F32, &scale, &in[1]));
        NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_U8, &zero, &in[2]));
        NB_TRY(nbi_qdq_node(q, NULL, "DequantizeLinear", 3, in, q->tensor[edge], NULL,
                            &q->tensor[edge]));
        q->has_real[edge] = true;
    }
    *out = q->tensor[edge];
    return NB_OK;
}

nb_status nbi_qdq_moved(nbi_qdq *q, int edge, int *out) {
    if (!nbi_qdq_is_code(nbi_qdq_param(q, edge))) return nbi_qdq_real(q, edge, out);
    *out = q->code[edge];
    return NB_OK;
}

int nbi_qdq_moved_out(const nbi_qdq *q, int edge) {
    return nbi_qdq_is_code(nbi_qdq_param(q, edge)) ? -1 : q->tensor[edge];
}

void nbi_qdq_set_moved(nbi_qdq *q, int edge, int tensor) {
    if (nbi_qdq_is_code(nbi_qdq_param(q, edge))) {
        q->code[edge] = tensor;
    } else {
        q->tensor[edge] = tensor;
        q->has_real[edge] = true;
    }
}

static bool is_clamped(const nbi_layer *l) {
    return isfinite(l->act_lo) || isfinite(l->act_hi);
}

int nbi_qdq_value_out(const nbi_qdq *q, const nbi_layer *l) {
    return is_clamped(l) ? -1 : nbi_qdq_moved_out(q, l->out);
}

/* The level of a real number, as QuantizeLinear computes it. */
static int level_of(const nbi_qparam *p, float real) {
    float k = rintf(real / (float)p->scale) + (float)p->zero;
    if (!(k > (float)p->lo)) return p->lo;
    return k > (float)p->hi ? p->hi : (int)k;
}

/* Codes through a table, by code: Cast and Gather. */
static nb_status look_up(nbi_qdq *q, int codes, const uint8_t table[256], int *out) {
    const int64_t size = 256;
    int in[2];
    nbi_node *cast;
    NB_TRY(nbi_qdq_node(q, NULL, "Cast", 1, &codes, -1, &cast, &in[1]));
    NB_TRY(nbi_node_set_int(q->ctx, q->g, cast, "to", ONNX_INT32));
    NB_TRY(nbi_qdq_const(q, NB_DTYPE_U8, 1, &size, table, &in[0]));
    return nbi_qdq_node(q, NULL, "Gather", 2, in, -1, NULL, out);
}

/* Codes of `from` onto the levels of p, both as the file has them: signed ones 128 higher. */
static nb_status onto_levels(nbi_qdq *q, const nbi_qparam *from, const nbi_qparam *p, int codes,
                             int *out) {
    uint8_t raw[256], table[256];
    nbi_levels_table(p, from, raw);
    for (int c = 0; c < 256; c++)
        table[c] = (uint8_t)(raw[c ^ nbi_qdq_offset(from)] ^ nbi_qdq_offset(p));
    return look_up(q, codes, table, out);
}

static nb_status quantize(nbi_qdq *q, const nbi_qparam *p, int edge, int value, int lo, int hi);

nb_status nbi_qdq_quantize(nbi_qdq *q, int edge, int value, int lo, int hi) {
    const nbi_qparam *p = nbi_qdq_param(q, edge);
    NB_TRY(quantize(q, nbi_made_grid(p), edge, value, lo, hi));
    if (!p->levels) return NB_OK;
    return onto_levels(q, &p->levels->first, p, q->code[edge], &q->code[edge]);
}

static nb_status quantize(nbi_qdq *q, const nbi_qparam *p, int edge, int value, int lo, int hi) {
    float scale = (float)p->scale;
    int offset = nbi_qdq_offset(p), in[3] = {value, -1, -1};
    uint8_t zero = (uint8_t)(p->zero + offset);
    uint8_t least = (uint8_t)(lo + offset), most = (uint8_t)(hi + offset);
    NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_F32, &scale, &in[1]));
    NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_U8, &zero, &in[2]));
    NB_TRY(nbi_qdq_node(q, NULL, "QuantizeLinear", 3, in, -1, NULL, &q->code[edge]));
    if (least == 0 && most == 255) return NB_OK;
    int clip[3] = {q->code[edge], -1, -1};
    if (least > 0) NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_U8, &least, &clip[1]));
    if (most < 255) NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_U8, &most, &clip[2]));
    return nbi_qdq_node(q, NULL, "Clip", most < 255 ? 3 : 2, clip, -1, NULL, &q->code[edge]);
}

/* Float outputs keep their clamp in float. */
static nb_status clamp_real(nbi_qdq *q, const nbi_layer *l, int value) {
    if (is_clamped(l)) {
        int in[3] = {value, -1, -1};
        if (isfinite(l->act_lo)) NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_F32, &l->act_lo, &in[1]));
        if (isfinite(l->act_hi)) NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_F32, &l->act_hi, &in[2]));
        NB_TRY(nbi_qdq_node(q, NULL, "Clip", in[2] >= 0 ? 3 : 2, in, q->tensor[l->out], NULL,
                            &value));
    }
    nbi_qdq_set_moved(q, l->out, value);
    return NB_OK;
}

nb_status nbi_qdq_finish(nbi_qdq *q, const nbi_layer *l, int value) {
    const nbi_qparam *p = nbi_qdq_param(q, l->out);
    if (!nbi_qdq_is_code(p)) return clamp_real(q, l, value);
    p = nbi_made_grid(p);
    int lo = p->lo, hi = p->hi;
    if (isfinite(l->act_lo)) {
        int k = level_of(p, l->act_lo);
        lo = k > lo ? k : lo;
    }
    if (isfinite(l->act_hi)) {
        int k = level_of(p, l->act_hi);
        hi = k < hi ? k : hi;
    }
    return nbi_qdq_quantize(q, l->out, value, lo, hi);
}

/* ---- layers --------------------------------------------------------------------------------- */

static nb_status add_or_mul(nbi_qdq *q, const nbi_layer *l) {
    int in[2], value;
    const char *op = l->type == NBI_LAYER_MUL ? "Mul" : l->sign < 0 ? "Sub" : "Add";
    NB_TRY(nbi_qdq_real(q, l->in[0], &in[0]));
    NB_TRY(nbi_qdq_real(q, l->in[1], &in[1]));
    NB_TRY(nbi_qdq_node(q, l->name, op, 2, in, nbi_qdq_value_out(q, l), NULL, &value));
    return nbi_qdq_finish(q, l, value);
}

static bool same_grid(const nbi_qparam *a, const nbi_qparam *b) {
    return a->dtype == b->dtype && a->scale == b->scale && a->zero == b->zero && a->lo == b->lo &&
           a->hi == b->hi && a->levels == b->levels;
}

static nb_status requantize(nbi_qdq *q, const nbi_layer *l) {
    const nbi_qparam *x = nbi_qdq_param(q, l->in[0]), *y = nbi_qdq_param(q, l->out);
    int value;
    if (l->lut) return look_up(q, q->code[l->in[0]], l->lut, &q->code[l->out]);
    if (y->levels) return onto_levels(q, x, y, q->code[l->in[0]], &q->code[l->out]);
    if (same_grid(x, y)) {
        q->code[l->out] = q->code[l->in[0]];
        q->tensor[l->out] = q->tensor[l->in[0]];
        q->has_real[l->out] = q->has_real[l->in[0]];
        /* not dequantized yet: that happens through the copy, at most once more */
        if (!q->has_real[l->out]) q->tensor[l->out] = -1;
        return NB_OK;
    }
    NB_TRY(nbi_qdq_real(q, l->in[0], &value));
    return nbi_qdq_finish(q, l, value);
}

static nb_status add_layer(nbi_qdq *q, int index) {
    const nbi_layer *l = &q->net->layer[index];
    switch (l->type) {
    case NBI_LAYER_CONV:
        return nbi_qdq_conv(q, index);
    case NBI_LAYER_ADD:
    case NBI_LAYER_MUL:
        return add_or_mul(q, l);
    case NBI_LAYER_REQUANT:
        return requantize(q, l);
    case NBI_LAYER_AVGPOOL:
        return nbi_qdq_pool(q, l);
    case NBI_LAYER_MAXPOOL:
    case NBI_LAYER_COPY:
        return nbi_qdq_move(q, l);
    case NBI_LAYER_UNARY:
    case NBI_LAYER_FLOAT:
        return nbi_qdq_plain(q, l);
    }
    return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' has no QDQ form", l->name);
}

/* ---- the whole graph ------------------------------------------------------------------------ */

static nb_status append_name(nbi_qdq *q, nbi_buf *text, const char *name) {
    NB_TRY(nbi_buf_printf(q->ctx, text, text->size ? ",\"" : "{\""));
    for (const char *c = name; *c; c++) {
        bool plain = (unsigned char)*c >= 32 && *c != '"' && *c != '\\';
        if (plain) NB_TRY(nbi_buf_append(q->ctx, text, c, 1));
        else NB_TRY(nbi_buf_printf(q->ctx, text, "\\u%04x", (unsigned)(unsigned char)*c));
    }
    return nbi_buf_printf(q->ctx, text, "\":");
}

/* What a QDQ file does not say in ONNX's terms: widths below those of the containers, and the scales
 * of int32 outputs, which are float in the file. */
static nb_status append_sites(nbi_qdq *q, nbi_buf *policy, nbi_buf *logits) {
    for (int s = 0; s < q->net->n_sites; s++) {
        const nbi_site *site = &q->net->site[s];
        if (site->kind == NBI_SITE_OUTPUT) {
            NB_TRY(append_name(q, logits, site->name));
            NB_TRY(nbi_buf_printf(q->ctx, logits, "%.9g", q->frozen->site[s].scale));
            continue;
        }
        if (site->kind == NBI_SITE_BIAS) { /* int32 in the file; only fewer bits need a word */
            int b = q->frozen->conv[site->layer].bias_bits;
            if (b != 8 && b != 16) continue;
            NB_TRY(append_name(q, policy, site->name));
            NB_TRY(nbi_buf_printf(q->ctx, policy, "%d", b));
            continue;
        }
        int bits = site->kind == NBI_SITE_WEIGHT ? q->frozen->conv[site->layer].bits
                                                 : q->frozen->site[s].bits;
        NB_TRY(append_name(q, policy, site->name));
        NB_TRY(nbi_buf_printf(q->ctx, policy, "%d", bits));
    }
    if (logits->size) NB_TRY(nbi_buf_printf(q->ctx, logits, "}"));
    return nbi_buf_printf(q->ctx, policy, policy->size ? "}" : "{}");
}

/* Names of schemes other than uniform, for people: levels and tables say what is computed. */
static nb_status append_schemes(nbi_qdq *q, nbi_buf *schemes) {
    for (int s = 0; s < q->net->n_sites; s++) {
        const nbi_site *site = &q->net->site[s];
        const nbi_levels *levels = q->frozen->site[s].levels;
        const char *name = levels ? levels->scheme->name : NULL;
        if (site->kind == NBI_SITE_WEIGHT && q->frozen->conv[site->layer].scheme)
            name = nbi_choice_row(nbi_choice_of(q->frozen->conv[site->layer].scheme, 1))->name;
        if (!name) continue;
        NB_TRY(append_name(q, schemes, site->name));
        NB_TRY(nbi_buf_printf(q->ctx, schemes, "\"%s\"", name));
    }
    return schemes->size ? nbi_buf_printf(q->ctx, schemes, "}") : NB_OK;
}

static nb_status set_meta(nbi_qdq *q) {
    nbi_buf policy = {0}, logits = {0}, schemes = {0};
    nb_status st = append_sites(q, &policy, &logits);
    if (st == NB_OK) st = append_schemes(q, &schemes);
    if (st == NB_OK && schemes.size)
        st = nbi_graph_set_meta(q->ctx, q->g, "nibble.schemes", schemes.data);
    if (st == NB_OK) st = nbi_graph_set_meta(q->ctx, q->g, "nibble.policy", policy.data);
    if (st == NB_OK && logits.size)
        st = nbi_graph_set_meta(q->ctx, q->g, "nibble.logits", logits.data);
    if (st == NB_OK) st = nbi_graph_set_meta(q->ctx, q->g, "nibble.version", nb_version());
    nbi_buf_free(&policy);
    nbi_buf_free(&logits);
    nbi_buf_free(&schemes);
    return st;
}

static nb_status check_options(nb_ctx *ctx, const nbi_qdq_options *o, int *opset) {
    *opset = o->opset ? o->opset : o->containers == 2 ? 25 : 21;
    if (o->containers != 0 && o->containers != 2)
        return nb_fail(ctx, NB_EINVAL, "QDQ export: containers is %d, want 0 or 2", o->containers);
    if (*opset < (o->containers == 2 ? 25 : 21))
        return nb_fail(ctx, NB_EINVAL, "QDQ export: opset is %d, want %d or more", *opset,
                       o->containers == 2 ? 25 : 21);
    return NB_OK;
}

static nb_status start(nbi_qdq *q) {
    const nbi_qnet *net = q->net;
    size_t edges = (size_t)net->n_edges, tensors = (size_t)q->source->n_tensors + 1;
    nbi_arena *arena;
    NB_TRY(nbi_graph_copy(q->ctx, q->source, &q->g));
    arena = &q->g->arena;
    q->old = q->g->node;
    q->g->node = NULL;
    q->g->n_nodes = q->g->cap_nodes = 0;
    if (q->opset < q->source->opset) q->opset = q->source->opset;
    q->g->opset = q->opset;
    q->tensor = nbi_arena_alloc(arena, edges, sizeof *q->tensor);
    q->code = nbi_arena_alloc(arena, edges, sizeof *q->code);
    q->has_real = nbi_arena_alloc(arena, edges, sizeof *q->has_real);
    q->edge_of = nbi_arena_alloc(arena, tensors, sizeof *q->edge_of);
    if (!q->tensor || !q->code || !q->has_real || !q->edge_of)
        return nb_fail_memory(q->ctx, edges * sizeof *q->tensor);
    for (size_t t = 0; t < tensors; t++) q->edge_of[t] = -1;
    for (int e = 0; e < net->n_edges; e++) {
        q->tensor[e] = q->code[e] = -1;
        if (net->edge[e].tensor < 0) continue;
        int t = q->tensor[e] = nbi_graph_find(q->source, net->edge[e].name);
        if (t < 0)
            return nb_fail(q->ctx, NB_EINVAL, "tensor '%s' is not in the source graph",
                           net->edge[e].name);
        q->edge_of[t] = e;
    }
    return NB_OK;
}

static nb_status add_input(nbi_qdq *q) {
    int edge = q->net->input;
    const nbi_qparam *p = nbi_qdq_param(q, edge);
    int raw = q->tensor[edge];
    q->tensor[edge] = -1; /* its dequantized twin gets a name of its own */
    return nbi_qdq_quantize(q, edge, raw, p->lo, p->hi);
}

static nb_status prepare_nodes(nbi_qdq *q) {
    NB_TRY(nbi_graph_sort(q->ctx, q->g));
    nbi_graph_prune(q->g);
    for (int n = 0; n < q->g->n_nodes; n++) {
        nbi_node *node = q->g->node[n];
        node->op = NULL;
        node->params = NULL;
        NB_TRY(nbi_node_prepare(q->ctx, q->g, node));
    }
    return NB_OK;
}

static nb_status export_graph(nbi_qdq *q) {
    NB_TRY(start(q));
    NB_TRY(add_input(q));
    for (int l = 0; l < q->net->n_layers; l++) NB_TRY(add_layer(q, l));
    NB_TRY(nbi_qdq_untouched(q));
    NB_TRY(nbi_qdq_name_nodes(q));
    NB_TRY(prepare_nodes(q));
    return set_meta(q);
}

nb_status nbi_export_qdq(nb_ctx *ctx, const nbi_frozen *frozen, const nbi_graph *source,
                         const nbi_qdq_options *options, nbi_graph **out) {
    static const nbi_qdq_options none = {0, 0};
    nbi_qdq q = {.ctx = ctx, .frozen = frozen, .net = frozen->net, .source = source};
    if (!options) options = &none;
    NB_TRY(check_options(ctx, options, &q.opset));
    q.containers = options->containers;
    nb_status st = export_graph(&q);
    if (st == NB_OK) *out = q.g;
    else nbi_graph_free(q.g);
    return st;
}
