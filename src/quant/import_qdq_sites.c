/* Sites of an imported network. Edges joined by moves and max pooling form one class with one grid,
 * as in generate.c; where a move changes the grid (a Concat whose inputs have scales of their own),
 * a requantization comes before it. */
#include "quant/import_qdq_parts.h"

#include <math.h>
#include <stdlib.h>

static bool moves(const nbi_layer *l) {
    return l->type == NBI_LAYER_MAXPOOL || l->type == NBI_LAYER_COPY;
}

static bool has_grid(const nbi_edge *e) {
    return e->grid.dtype != NB_DTYPE_NONE;
}

static bool same_grid(const nbi_edge *a, const nbi_edge *b) {
    return a->grid.dtype == b->grid.dtype && a->grid.scale == b->grid.scale &&
           a->grid.zero == b->grid.zero;
}

/* A tensor that is only moved on has the grid it is moved to, or came from. */
static void spread_grids(nbi_qnet *net) {
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = 0; i < net->n_layers; i++) {
            const nbi_layer *l = &net->layer[i];
            if (!moves(l)) continue;
            nbi_edge *out = &net->edge[l->out];
            for (int k = 0; k < l->n_in; k++) {
                nbi_edge *in = &net->edge[l->in[k]];
                if (has_grid(in) == has_grid(out)) continue;
                if (has_grid(out)) in->grid = out->grid;
                else out->grid = in->grid;
                changed = true;
            }
        }
    }
}

/* ---- requantizations before moves ------------------------------------------------------------ */

static nb_status requant_input(nbi_qdq_import *im, nbi_layer *l, int k, nbi_layer *list, int *n) {
    nbi_qnet *net = im->net;
    nbi_edge copy = net->edge[l->in[k]];
    int *in = nbi_arena_alloc(&net->arena, 1, sizeof *in), out;
    copy.name = nbi_arena_format(&net->arena, "%s/requantized", copy.name);
    if (!in || !copy.name) return nb_fail_memory(im->ctx, 64);
    copy.grid = net->edge[l->out].grid;
    copy.tensor = -1;
    copy.is_output = false;
    NB_TRY(nbi_qnet_add_edge(im->ctx, net, &copy, &out));
    *in = l->in[k];
    l->in[k] = out;
    list[(*n)++] = (nbi_layer){.type = NBI_LAYER_REQUANT, .name = copy.name, .n_in = 1, .in = in,
                               .out = out, .act_lo = -INFINITY, .act_hi = INFINITY};
    return NB_OK;
}

static nb_status insert_requants(nbi_qdq_import *im) {
    nbi_qnet *net = im->net;
    size_t capacity = 1;
    int n = 0;
    for (int i = 0; i < net->n_layers; i++) capacity += 1 + (size_t)net->layer[i].n_in;
    nbi_layer *list = nbi_arena_alloc(&net->arena, capacity, sizeof *list);
    if (!list) return nb_fail_memory(im->ctx, capacity * sizeof *list);
    for (int i = 0; i < net->n_layers; i++) {
        nbi_layer *l = &net->layer[i];
        for (int k = 0; k < l->n_in && moves(l); k++)
            if (!same_grid(&net->edge[l->in[k]], &net->edge[l->out]))
                NB_TRY(requant_input(im, l, k, list, &n));
        list[n++] = *l;
    }
    net->layer = list;
    net->n_layers = n;
    net->cap_layers = (int)capacity;
    for (int i = 0; i < n; i++) net->edge[list[i].out].producer = i;
    return NB_OK;
}

/* ---- classes -------------------------------------------------------------------------------- */

typedef struct edge_class { /* kept at its first edge */
    bool conv_reader, other_reader, float_reader_only, is_output;
    bool from_input, from_float, from_sums; /* producers: any, all, all (moves aside) */
} edge_class;

static int find(int *class_of, int e) {
    while (class_of[e] != e) e = class_of[e] = class_of[class_of[e]];
    return e;
}

static void make_classes(const nbi_qnet *net, int *class_of) {
    for (int e = 0; e < net->n_edges; e++) class_of[e] = e;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        for (int k = 0; k < l->n_in && moves(l); k++) {
            int a = find(class_of, l->in[k]), b = find(class_of, l->out);
            if (a < b) class_of[b] = a;
            else class_of[a] = b;
        }
    }
    for (int e = 0; e < net->n_edges; e++) class_of[e] = find(class_of, e);
}

static void describe_classes(const nbi_qnet *net, const int *class_of, edge_class *list) {
    for (int e = 0; e < net->n_edges; e++)
        list[e].float_reader_only = list[e].from_float = list[e].from_sums = true;
    for (int e = 0; e < net->n_edges; e++) {
        edge_class *c = &list[class_of[e]];
        int p = net->edge[e].producer;
        c->is_output |= net->edge[e].is_output;
        c->from_input |= p < 0;
        if (p >= 0 && net->layer[p].type == NBI_LAYER_COPY) continue;
        c->from_float &= p >= 0 && net->layer[p].type == NBI_LAYER_FLOAT;
        c->from_sums &= p >= 0 && net->layer[p].type == NBI_LAYER_CONV;
    }
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        for (int k = 0; k < l->n_in; k++) {
            edge_class *c = &list[class_of[l->in[k]]];
            c->conv_reader |= l->type == NBI_LAYER_CONV;
            c->other_reader |= l->type != NBI_LAYER_CONV && !moves(l);
            c->float_reader_only &= l->type == NBI_LAYER_FLOAT || l->type == NBI_LAYER_COPY;
        }
    }
}

/* ---- grids ---------------------------------------------------------------------------------- */

static int width_of(bool is_signed, int32_t lo, int32_t hi) {
    for (int b = 1; b < NBI_MAX_BITS; b++)
        if (is_signed ? lo >= -(1 << (b - 1)) && hi < 1 << (b - 1) : hi < 1 << b) return b;
    return NBI_MAX_BITS;
}

static void full_range(nbi_qparam *q, int bits) {
    bool is_signed = q->dtype == NB_DTYPE_S8;
    q->bits = bits;
    q->lo = is_signed ? -(1 << (bits - 1)) : 0;
    q->hi = q->lo + (1 << bits) - 1;
}

/* Kernels are fastest, and our own grids are, unsigned from 0 or signed around 0; files may hold
 * the latter 128 higher, and the former as signed codes. Our inputs are unsigned with any zero
 * point. */
static void normalise(nbi_qparam *q, bool is_input) {
    int shift = 0;
    if (q->dtype == NB_DTYPE_U8 && q->zero == 128 && !is_input) {
        q->dtype = NB_DTYPE_S8;
        shift = -128;
    } else if (q->dtype == NB_DTYPE_S8 && q->zero != 0) {
        q->dtype = NB_DTYPE_U8;
        shift = 1 << (q->bits - 1);
    }
    q->zero += shift;
    q->lo += shift;
    q->hi += shift;
}

/* The code of 0 stands for padding, so that a width holds it, too, whatever a clamp leaves. */
static int least_width(const nbi_qparam *q) {
    int32_t lo = q->zero < q->lo ? q->zero : q->lo, hi = q->zero > q->hi ? q->zero : q->hi;
    return width_of(q->dtype == NB_DTYPE_S8, lo, hi);
}

/* Codes leave a choice of width where a layer's own clamp cuts them: the policy says, or 8 bits,
 * unless only convolutions read them (the width then changes no result). */
static void set_width(const nbi_qdq_import *im, const int *class_of, int first,
                      const edge_class *c, nbi_qparam *q) {
    const nbi_qnet *net = im->net;
    const nbi_qparam cut = *q;
    int least = least_width(q), bits = 0;
    for (int e = 0; e < net->n_edges && !bits; e++)
        if (class_of[e] == first) bits = nbi_qdq_policy_bits(im, net->edge[e].name, NBI_MAX_BITS);
    if (bits < least) {
        full_range(q, least);
        bool exact = (q->lo == cut.lo && q->hi == cut.hi) || (c->conv_reader && !c->other_reader);
        bits = exact ? least : NBI_MAX_BITS;
    }
    full_range(q, bits);
    if (c->from_float) { /* computed in float: the site's range is the only clamp */
        q->lo = cut.lo;
        q->hi = cut.hi;
    }
}

static nb_status class_grid(const nbi_qdq_import *im, const int *class_of, int first,
                            const edge_class *c, nbi_qparam *out) {
    const nbi_qnet *net = im->net;
    const nbi_edge *e = &net->edge[first];
    bool sums = c->from_sums && !c->conv_reader && c->float_reader_only;
    bool island = c->from_float && c->float_reader_only;
    *out = e->grid;
    if (!has_grid(e)) {
        if (!sums && !island)
            return nb_fail(im->ctx, NB_EUNSUPPORTED, "tensor '%s' of the quantized model is not "
                           "quantized", e->name);
        /* the scale follows, see nbi_qdq_set_logits */
        *out = (nbi_qparam){.dtype = NB_DTYPE_S32, .bits = NBI_MAX_BITS, .lo = INT32_MIN,
                            .hi = INT32_MAX};
        return NB_OK;
    }
    for (int k = first + 1; k < net->n_edges; k++) {
        if (class_of[k] != first) continue;
        if (!same_grid(e, &net->edge[k]))
            return nb_fail(im->ctx, NB_EUNSUPPORTED, "tensors '%s' and '%s' of the quantized model "
                           "have different scales, but only values are moved between them", e->name,
                           net->edge[k].name);
        if (net->edge[k].grid.lo < out->lo) out->lo = net->edge[k].grid.lo;
        if (net->edge[k].grid.hi > out->hi) out->hi = net->edge[k].grid.hi;
    }
    if (out->zero < -128 || out->zero > 255)
        return nb_fail(im->ctx, NB_EFORMAT, "tensor '%s': zero point %d", e->name, (int)out->zero);
    normalise(out, c->from_input);
    set_width(im, class_of, first, c, out);
    if (out->zero < out->lo || out->zero > out->hi) /* sums are bounded by the codes' range */
        return nb_fail(im->ctx, NB_EUNSUPPORTED, "tensor '%s': the zero point %d is not one of its "
                       "codes, %d to %d", e->name, (int)out->zero, (int)out->lo, (int)out->hi);
    return NB_OK;
}

static nb_status add_sites(nbi_qdq_import *im, const int *class_of, const edge_class *list) {
    nbi_qnet *net = im->net;
    for (int e = 0; e < net->n_edges; e++) {
        const edge_class *c = &list[class_of[e]];
        if (class_of[e] != e) {
            net->edge[e].site = net->edge[class_of[e]].site;
            continue;
        }
        const nbi_edge *edge = &net->edge[e];
        nbi_qparam q;
        NB_TRY(class_grid(im, class_of, e, c, &q));
        nbi_site s = {.kind = c->other_reader || c->is_output ? NBI_SITE_STREAM
                                                              : NBI_SITE_ACTIVATION,
                      .name = edge->name, .layer = edge->producer, .fixed_bits = q.bits,
                      .is_unsigned = q.dtype == NB_DTYPE_U8 && q.zero == 0,
                      .count = (int64_t)edge->h * edge->w * edge->c};
        if (c->from_input) s.kind = NBI_SITE_INPUT;
        else if (q.dtype == NB_DTYPE_S32) s.kind = NBI_SITE_OUTPUT;
        for (int b = 0; b <= NBI_MAX_BITS; b++) s.fit[b] = q;
        NB_TRY(nbi_qnet_add_site(im->ctx, net, &s, &net->edge[e].site));
    }
    return NB_OK;
}

nb_status nbi_qdq_make_sites(nbi_qdq_import *im) {
    int *class_of = NULL;
    edge_class *list = NULL;
    nb_status st;
    spread_grids(im->net);
    NB_TRY(insert_requants(im));
    NB_TRYG(nbi_alloc(im->ctx, (size_t)im->net->n_edges + 1, sizeof *class_of, &class_of));
    NB_TRYG(nbi_alloc(im->ctx, (size_t)im->net->n_edges + 1, sizeof *list, &list));
    make_classes(im->net, class_of);
    describe_classes(im->net, class_of, list);
    st = add_sites(im, class_of, list);
done:
    nbi_free(class_of);
    nbi_free(list);
    return st;
}

/* ---- int32 outputs --------------------------------------------------------------------------- */

/* The largest magnitude that the layer's sums can have. */
static double reach_of(const nbi_qdq_import *im, int layer) {
    const nbi_layer *l = &im->net->layer[layer];
    const nbi_frozen_conv *conv = &im->frozen->conv[layer];
    const nbi_qparam *x = &im->frozen->site[im->net->edge[l->in[0]].site];
    double top = fmax(x->hi - x->zero, x->zero - x->lo), reach = 0;
    size_t channels = (size_t)l->geometry.out_c, n = l->n_weights / channels;
    for (size_t c = 0; c < channels; c++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += abs(conv->levels[l->depthwise ? i * channels + c : c * n + i]);
        double unit = conv->gain[c] * x->scale * (double)conv->scale[c];
        reach = fmax(reach, unit * sum * top + fabs(conv->shift[c]));
    }
    return reach;
}

nb_status nbi_qdq_set_logits(nbi_qdq_import *im) {
    nbi_qnet *net = im->net;
    for (int s = 0; s < net->n_sites; s++) {
        nbi_qparam *q = &im->frozen->site[s];
        double scale = 0, reach = 0;
        if (net->site[s].kind != NBI_SITE_OUTPUT) continue;
        for (int e = 0; e < net->n_edges; e++) {
            if (net->edge[e].site != s) continue;
            int p = net->edge[e].producer;
            if (!(scale > 0) && im->logits)
                nbi_flat_json_number(im->logits, net->edge[e].name, &scale);
            if (p >= 0 && net->layer[p].type == NBI_LAYER_CONV)
                reach = fmax(reach, reach_of(im, p));
        }
        /* 2^20 steps of 1 for what is computed in float: probabilities and the like */
        q->scale = (double)(float)(reach > 0 ? ldexp(reach, -29) : ldexp(1, -20));
        if (scale > 1e-30 && scale < 1e30) q->scale = (double)(float)scale;
        if (!(q->scale > 1e-30)) q->scale = 1e-30;
        for (int b = 0; b <= NBI_MAX_BITS; b++) net->site[s].fit[b] = *q;
    }
    return NB_OK;
}
