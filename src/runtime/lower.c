/* Lowering: one layer becomes one step (a Concat one per input); every real scale ends here in an
 * integer multiplier. The formulas are in docs/quantization.md. */
#include "runtime/lower.h"
#include "runtime/lower_parts.h"
#include "ops/op.h"
#include "schemes/choice.h"

#include <math.h>
#include <string.h>

uint8_t nbi_element_type(const nbi_qparam *q) {
    return q->dtype == NB_DTYPE_U8 ? NBK_U8 : q->dtype == NB_DTYPE_S8 ? NBK_S8 : NBK_S32;
}

int32_t nbi_quantize(const nbi_qparam *q, float real) {
    float k = rintf(real / (float)q->scale) + (float)q->zero;
    if (!(k > (float)q->lo)) return q->lo; /* NaN, too */
    return k >= (float)q->hi ? q->hi : (int32_t)k; /* (float)INT32_MAX is 2^31 */
}

void nbi_clamp_range(const nbi_layer *l, const nbi_qparam *y, int32_t *lo, int32_t *hi) {
    *lo = y->lo;
    *hi = y->hi;
    if (isfinite(l->act_lo)) {
        int32_t v = nbi_quantize(y, l->act_lo);
        if (v > *lo) *lo = v;
    }
    if (isfinite(l->act_hi)) {
        int32_t v = nbi_quantize(y, l->act_hi);
        if (v < *hi) *hi = v;
    }
}

static int32_t magnitude(const nbi_qparam *q) {
    int32_t a = q->hi - q->zero, b = q->zero - q->lo;
    return a > b ? a : b;
}

static nb_status lower_add(nb_ctx *ctx, const nbi_qnet *net, const nbi_layer *l,
                           const nbi_qparam *site, nbi_step *step) {
    const nbi_edge *out = &net->edge[l->out];
    const nbi_qparam *a = &site[net->edge[l->in[0]].site], *b = &site[net->edge[l->in[1]].site];
    const nbi_qparam *y = nbi_made_grid(&site[out->site]);
    double ra = a->scale / y->scale, rb = b->scale / y->scale;
    double reach = ra * magnitude(a) + rb * magnitude(b) + 1;
    int shift = 24;
    while (shift > 1 && reach * ldexp(1, shift) >= (double)(1 << 30)) shift--;
    if (reach * ldexp(1, shift) >= (double)(1 << 30))
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s': its inputs' scales are too far apart",
                       l->name);
    int32_t lo, hi;
    nbi_clamp_range(l, y, &lo, &hi);
    step->type = NBI_STEP_ADD;
    step->u.add = (nbk_add){.count = out->h * out->w * out->c,
                            .a_mult = (int32_t)rint(ldexp(ra, shift)),
                            .b_mult = (int32_t)rint(ldexp(rb * l->sign, shift)),
                            .a_zero = (int16_t)a->zero,
                            .b_zero = (int16_t)b->zero,
                            .out_zero = (int16_t)y->zero,
                            .out_lo = (int16_t)lo,
                            .out_hi = (int16_t)hi,
                            .a_type = nbi_element_type(a),
                            .b_type = nbi_element_type(b),
                            .out_type = nbi_element_type(y),
                            .shift = (uint8_t)shift};
    return NB_OK;
}

static nb_status lower_mul(nb_ctx *ctx, const nbi_qnet *net, const nbi_layer *l,
                           const nbi_qparam *site, nbi_step *step) {
    const nbi_edge *out = &net->edge[l->out], *eb = &net->edge[l->in[1]];
    const nbi_qparam *a = &site[net->edge[l->in[0]].site], *b = &site[eb->site];
    const nbi_qparam *y = nbi_made_grid(&site[out->site]);
    int32_t lo, hi, mult;
    uint8_t shift;
    NB_TRY(nbi_rescale_of(ctx, a->scale * b->scale / y->scale, &mult, &shift));
    nbi_clamp_range(l, y, &lo, &hi);
    bool vector = eb->h * eb->w == 1 && out->h * out->w > 1;
    step->type = NBI_STEP_MUL;
    step->u.mul = (nbk_mul){.count = out->h * out->w * out->c,
                            .b_channels = vector ? eb->c : 0,
                            .mult = mult,
                            .a_zero = (int16_t)a->zero,
                            .b_zero = (int16_t)b->zero,
                            .out_zero = (int16_t)y->zero,
                            .out_lo = (int16_t)lo,
                            .out_hi = (int16_t)hi,
                            .a_type = nbi_element_type(a),
                            .b_type = nbi_element_type(b),
                            .out_type = nbi_element_type(y),
                            .shift = shift};
    return NB_OK;
}

static nb_status lower_pool(nb_ctx *ctx, const nbi_qnet *net, const nbi_layer *l,
                            const nbi_qparam *site, nbi_arena *arena, nbi_step *step) {
    const nbi_qparam *x = &site[net->edge[l->in[0]].site], *y = &site[net->edge[l->out].site];
    nbk_pool *p = &step->u.pool;
    if (l->type == NBI_LAYER_AVGPOOL) y = nbi_made_grid(y);
    *p = l->pool;
    p->type = nbi_element_type(x);
    p->out_type = nbi_element_type(y);
    p->in_zero = (int16_t)x->zero;
    p->out_zero = (int16_t)y->zero;
    step->type = l->type == NBI_LAYER_MAXPOOL ? NBI_STEP_MAXPOOL : NBI_STEP_AVGPOOL;
    if (l->type == NBI_LAYER_MAXPOOL) return NB_OK;
    int taps = p->kh * p->kw;
    if ((int64_t)taps * magnitude(x) > INT32_MAX)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s': sums of %d values can exceed 31 bits",
                       l->name, taps);
    int32_t *mult = nbi_arena_alloc(arena, (size_t)taps + 1, sizeof *mult), lo, hi;
    uint8_t *shift = nbi_arena_alloc(arena, (size_t)taps + 1, 1);
    if (!mult || !shift) return nb_fail_memory(ctx, (size_t)taps * 5);
    shift[0] = 32;
    if (p->count_pad) NB_TRY(nbi_rescale_of(ctx, x->scale / (y->scale * taps), &mult[0], &shift[0]));
    for (int n = 1; n <= taps && !p->count_pad; n++)
        NB_TRY(nbi_rescale_of(ctx, x->scale / (y->scale * n), &mult[n], &shift[n]));
    nbi_clamp_range(l, y, &lo, &hi);
    p->mult = mult;
    p->shift = shift;
    p->out_lo = (int16_t)lo;
    p->out_hi = (int16_t)hi;
    return NB_OK;
}

static nb_status lower_copy(nb_ctx *ctx, const nbi_qnet *net, const nbi_layer *l,
                            const nbi_qparam *site, nbi_step *step, int *n_steps) {
    const nbi_qparam *y = &site[net->edge[l->out].site];
    if (l->n_copy > NBI_MAX_STEPS)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' joins %d tensors, at most %d are allowed",
                       l->name, l->n_copy, NBI_MAX_STEPS);
    for (int i = 0; i < l->n_copy; i++) {
        step[i] = (nbi_step){.type = NBI_STEP_COPY, .name = l->name, .n_in = 1, .out = l->out};
        step[i].in[0] = l->in[l->copy_in[i]];
        step[i].u.copy = l->copy[i];
        step[i].u.copy.fill_value = (int16_t)y->zero;
        step[i].u.copy.size = y->dtype == NB_DTYPE_S32 ? 4 : 1;
        if (y->dtype == NB_DTYPE_S32) step[i].u.copy.fill_bytes *= 4;
    }
    *n_steps = l->n_copy;
    return NB_OK;
}

bool nbi_same_grid(const nbi_qparam *a, const nbi_qparam *b) {
    return a->dtype == b->dtype && a->scale == b->scale && a->zero == b->zero && a->lo == b->lo &&
           a->hi == b->hi && a->levels == b->levels;
}

bool nbi_keeps_grid(const nbi_layer *l, const nbi_qparam *x, const nbi_qparam *y) {
    return l->type == NBI_LAYER_REQUANT && !l->lut && nbi_same_grid(x, y);
}

static nb_status lower_one(nb_ctx *ctx, const nbi_qnet *net, int index, const nbi_qparam *site,
                          const nbi_frozen_conv *conv, bool pack, nbi_arena *arena,
                          nbi_step *step, int *n_steps) {
    const nbi_layer *l = &net->layer[index];
    const nbi_qparam *x = &site[net->edge[l->in[0]].site], *y = &site[net->edge[l->out].site];
    *step = (nbi_step){.name = l->name, .n_in = l->n_in <= 3 ? l->n_in : 3, .out = l->out};
    for (int i = 0; i < step->n_in; i++) step->in[i] = l->in[i];
    *n_steps = 1;
    switch (l->type) {
    case NBI_LAYER_CONV:
        return nbi_lower_conv(ctx, net, index, site, conv, pack, arena, step);
    case NBI_LAYER_ADD:
        return lower_add(ctx, net, l, site, step);
    case NBI_LAYER_MUL:
        return lower_mul(ctx, net, l, site, step);
    case NBI_LAYER_REQUANT:
        if (nbi_keeps_grid(l, x, y)) {
            *n_steps = 0;
            return NB_OK;
        }
        return nbi_lower_unary(ctx, net, index, site, arena, step);
    case NBI_LAYER_UNARY:
        return nbi_lower_unary(ctx, net, index, site, arena, step);
    case NBI_LAYER_MAXPOOL:
    case NBI_LAYER_AVGPOOL:
        return lower_pool(ctx, net, l, site, arena, step);
    case NBI_LAYER_COPY:
        return lower_copy(ctx, net, l, site, step, n_steps);
    case NBI_LAYER_FLOAT:
        if (l->n_in > 3)
            return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' has %d inputs computed in float",
                           l->name, l->n_in);
        step->type = NBI_STEP_FLOAT;
        step->u.island = (nbi_step_float){net->graph, net->graph->node[l->node[0]],
                                          y->levels ? &y->levels->first : NULL};
        return NB_OK;
    }
    return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' has no integer form", l->name);
}

bool nbi_adds_levels(const nbi_layer *l, const nbi_qparam *y) {
    return y->levels && (l->type == NBI_LAYER_CONV || l->type == NBI_LAYER_ADD ||
                         l->type == NBI_LAYER_MUL || l->type == NBI_LAYER_AVGPOOL ||
                         l->type == NBI_LAYER_FLOAT);
}

nb_status nbi_lower_layer(nb_ctx *ctx, const nbi_qnet *net, int index, const nbi_qparam *site,
                          const nbi_frozen_conv *conv, bool pack, nbi_arena *arena,
                          nbi_step *step, int *n_steps) {
    const nbi_layer *l = &net->layer[index];
    const nbi_edge *out = &net->edge[l->out];
    const nbi_qparam *y = &site[out->site];
    NB_TRY(lower_one(ctx, net, index, site, conv, pack, arena, step, n_steps));
    if (!nbi_adds_levels(l, y)) return NB_OK;
    uint8_t *table = nbi_arena_alloc(arena, 256, 1);
    if (!table) return nb_fail_memory(ctx, 256);
    nbi_levels_table(y, &y->levels->first, table);
    step[*n_steps] = (nbi_step){.type = NBI_STEP_LUT, .name = l->name, .n_in = 1, .in = {l->out},
                                .out = l->out};
    step[(*n_steps)++].u.lut =
        (nbk_lut){.count = out->h * out->w * out->c, .channels = 1, .table = table};
    return NB_OK;
}

/* ---- the whole program ---------------------------------------------------------------------- */

void nbi_describe_edge(const nbi_edge *e, const nbi_qparam *q, nbi_ptensor *t) {
    *t = (nbi_ptensor){.name = e->name, .dtype = q->dtype, .rank = e->rank, .h = e->h, .w = e->w,
                       .c = e->c, .scale = q->scale, .zero = q->zero, .lo = q->lo, .hi = q->hi,
                       .is_output = e->is_output};
    memcpy(t->dim, e->dim, sizeof t->dim);
    t->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    t->bytes = nbi_dtype_bytes(q->dtype, t->count);
}

static nb_status add_steps(nb_ctx *ctx, const nbi_frozen *f, nbi_program *p) {
    const nbi_qnet *net = f->net;
    nbi_step part[NBI_MAX_STEPS];
    int *alias = nbi_arena_alloc(&p->arena, (size_t)net->n_edges + 1, sizeof *alias);
    size_t capacity = 2 * (size_t)net->n_layers + 1; /* a layer may have a table behind it */
    for (int l = 0; l < net->n_layers; l++) capacity += (size_t)net->layer[l].n_copy;
    p->step = nbi_arena_alloc(&p->arena, capacity, sizeof *p->step);
    if (!alias || !p->step) return nb_fail_memory(ctx, capacity * sizeof *p->step);
    for (int e = 0; e < net->n_edges; e++) alias[e] = e;
    if (net->input_is_image) {
        NB_TRY(nbi_lower_input(ctx, net, f->site, &p->arena, &p->step[0]));
        p->step[0].in[0] = net->n_edges;
        p->n_steps = 1;
    }
    for (int l = 0; l < net->n_layers; l++) {
        int n;
        NB_TRY(nbi_lower_layer(ctx, net, l, f->site, &f->conv[l], true, &p->arena, part, &n));
        if (n == 0) alias[net->layer[l].out] = alias[net->layer[l].in[0]];
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < part[i].n_in; k++) part[i].in[k] = alias[part[i].in[k]];
            p->step[p->n_steps++] = part[i];
        }
    }
    for (int i = 0; i < net->n_outputs; i++) {
        p->output[i] = alias[net->output[i]];
        p->tensor[p->output[i]].is_output = true;
    }
    p->n_outputs = net->n_outputs;
    return NB_OK;
}

/* Float islands outlive the net: the program owns a copy of the graph. */
static nb_status own_islands(nb_ctx *ctx, const nbi_qnet *net, nbi_program *p) {
    for (int i = 0; i < p->n_steps; i++) {
        if (p->step[i].type != NBI_STEP_FLOAT) continue;
        if (!p->float_graph) NB_TRY(nbi_graph_copy(ctx, net->graph, &p->float_graph));
        int n = 0;
        while (net->graph->node[n] != p->step[i].u.island.node) n++;
        NB_TRY(nbi_node_infer(ctx, p->float_graph, p->float_graph->node[n]));
        p->step[i].u.island.graph = p->float_graph;
        p->step[i].u.island.node = p->float_graph->node[n];
        const nbi_qparam *grid = p->step[i].u.island.grid;
        if (!grid) continue;
        nbi_qparam *own = nbi_arena_alloc(&p->arena, 1, sizeof *own);
        if (!own) return nb_fail_memory(ctx, sizeof *own);
        *own = *grid;
        p->step[i].u.island.grid = own;
    }
    return NB_OK;
}

nb_status nbi_lower(nb_ctx *ctx, const nbi_frozen *f, nbi_program **out) {
    const nbi_qnet *net = f->net;
    nbi_program *p = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *p, &p));
    p->name = nbi_arena_text(&p->arena, net->graph->name, strlen(net->graph->name));
    p->n_tensors = net->n_edges + (net->input_is_image ? 1 : 0);
    p->tensor = nbi_arena_alloc(&p->arena, (size_t)p->n_tensors, sizeof *p->tensor);
    if (!p->name || !p->tensor) {
        st = nb_fail_memory(ctx, (size_t)p->n_tensors * sizeof *p->tensor);
        goto done;
    }
    for (int e = 0; e < net->n_edges; e++)
        nbi_describe_edge(&net->edge[e], &f->site[net->edge[e].site], &p->tensor[e]);
    p->input = net->input;
    p->input_is_pixels = net->input_is_image;
    if (net->input_is_image) {
        nbi_qparam raw = {.dtype = NB_DTYPE_U8, .bits = 8, .scale = 1, .hi = 255};
        p->input = net->n_edges;
        nbi_describe_edge(&net->edge[net->input], &raw, &p->tensor[p->input]);
    }
    p->tensor[p->input].is_input = true;
    NB_TRYG(add_steps(ctx, f, p));
    NB_TRYG(own_islands(ctx, net, p));
    NB_TRYG(nbi_program_plan(ctx, p));
    NB_TRYG(nbi_program_const_bytes(ctx, p, &p->const_bytes));
    *out = p;
    return NB_OK;
done:
    nbi_program_free(p);
    return st;
}
