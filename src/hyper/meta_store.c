/* What the generator makes for a policy. Where a layer's weights depend on its own width only, each
 * width is generated once for all layers; else one policy is kept at a time. */
#include "hyper/meta_parts.h"

#include "quant/fit.h"

#include <math.h>
#include <string.h>

/* Weights [n_weights] of every row and its steps [groups], of one policy. */
typedef struct made {
    float **weight, **step;
    float *input; /* the policy: [rows·columns] */
    bool valid;
} made;

struct nbi_meta_store {
    nbi_arena arena;
    made *set; /* [columns] by width, or one */
    int n;
};

void nbi_meta_store_free(nbi_meta *m) {
    if (!m->store) return;
    nbi_arena_free(&m->store->arena);
    nbi_free(m->store);
    m->store = NULL;
}

static bool own_width_only(const nbi_meta *m) {
    return m->o.kind != NBI_META_HYPER || m->o.context == 1;
}

static nb_status new_set(nb_ctx *ctx, const nbi_meta *m, nbi_arena *a, made *set) {
    size_t rows = (size_t)m->n_rows;
    set->weight = nbi_arena_alloc(a, rows, sizeof *set->weight);
    set->step = nbi_arena_alloc(a, rows, sizeof *set->step);
    set->input = nbi_arena_alloc(a, rows * (size_t)m->columns, sizeof *set->input);
    if (!set->weight || !set->step || !set->input) return nb_fail_memory(ctx, rows);
    for (int r = 0; r < m->n_rows; r++) {
        const nbi_graph *g = m->generator;
        size_t n = r < m->n_weights ? (size_t)nbi_tensor_count(g->tensor[m->row[r].weight]) : 0;
        size_t steps = (size_t)nbi_tensor_count(g->tensor[m->row[r].selected]);
        set->weight[r] = nbi_arena_alloc(a, n + 1, sizeof(float));
        set->step[r] = nbi_arena_alloc(a, steps, sizeof(float));
        if (!set->weight[r] || !set->step[r]) return nb_fail_memory(ctx, n);
    }
    return NB_OK;
}

static nb_status open_store(nb_ctx *ctx, nbi_meta *m) {
    if (m->store) return NB_OK;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *m->store, &m->store));
    m->store->n = own_width_only(m) ? m->columns : 1;
    m->store->set = nbi_arena_alloc(&m->store->arena, (size_t)m->store->n, sizeof(made));
    nb_status st = m->store->set ? NB_OK : nb_fail_memory(ctx, sizeof(made));
    for (int i = 0; st == NB_OK && i < m->store->n; i++)
        st = new_set(ctx, m, &m->store->arena, &m->store->set[i]);
    if (st != NB_OK) nbi_meta_store_free(m);
    return st;
}

static nb_status read_value(nb_ctx *ctx, const nbi_meta *m, int tensor, float *to) {
    nbi_view v, flat;
    NB_TRY(nbi_tape_value(ctx, m->tape, tensor, &v));
    flat = v;
    flat.data = to;
    nbi_view_contiguous(&flat);
    nbi_view_copy(&flat, &v);
    return NB_OK;
}

static nb_status run(nb_ctx *ctx, nbi_meta *m, made *set) {
    set->valid = false;
    NB_TRY(nbi_tape_forward(ctx, m->tape, (const void *const[]){set->input}, 0));
    for (int r = 0; r < m->n_rows; r++) {
        NB_TRY(read_value(ctx, m, m->row[r].selected, set->step[r]));
        if (r < m->n_weights) NB_TRY(read_value(ctx, m, m->row[r].weight, set->weight[r]));
    }
    set->valid = true;
    return NB_OK;
}

/* The offered width nearest to `bits` (the wider of two). */
static int nearest(const nbi_meta *m, int row, int bits) {
    int best = 0;
    for (int k = 1; k < nbi_meta_widths(m, row); k++) {
        int a = nbi_meta_bits(m, row, k) - bits, b = nbi_meta_bits(m, row, best) - bits;
        if ((a < 0 ? -a : a) <= (b < 0 ? -b : b)) best = k;
    }
    return best;
}

/* All rows at column k. */
static void whole_policy(const nbi_meta *m, int k, float *input) {
    memset(input, 0, (size_t)m->n_rows * (size_t)m->columns * sizeof *input);
    for (int r = 0; r < m->n_rows; r++) {
        int n = nbi_meta_widths(m, r);
        input[r * m->columns + (k < n ? k : n - 1)] = 1;
    }
}

static void policy_of(const nbi_meta *m, const nbi_choice *bits, float *input) {
    memset(input, 0, (size_t)m->n_rows * (size_t)m->columns * sizeof *input);
    for (int r = 0; r < m->n_rows; r++)
        input[r * m->columns + nearest(m, r, bits[m->row[r].site])] = 1;
}

/* The set that holds what `row` needs. */
static nb_status find_set(nb_ctx *ctx, nbi_meta *m, int row, const nbi_choice *bits, made **out) {
    NB_TRY(open_store(ctx, m));
    if (own_width_only(m)) {
        int k = nearest(m, row, bits[m->row[row].site]);
        *out = &m->store->set[k];
        if ((*out)->valid) return NB_OK;
        whole_policy(m, k, (*out)->input);
        return run(ctx, m, *out);
    }
    size_t bytes = (size_t)m->n_rows * (size_t)m->columns * sizeof(float);
    float *wanted;
    NB_TRY(nbi_alloc(ctx, bytes, 1, &wanted));
    *out = m->store->set;
    policy_of(m, bits, wanted);
    bool same = (*out)->valid && !memcmp(wanted, (*out)->input, bytes);
    if (!same) memcpy((*out)->input, wanted, bytes);
    nbi_free(wanted);
    return same ? NB_OK : run(ctx, m, *out);
}

static int row_of(const nbi_meta *m, int layer) {
    for (int r = 0; r < m->n_weights; r++)
        if (m->row[r].layer == layer) return r;
    return -1;
}

static bool is_negative(const nbi_meta *m, int layer, int channel) {
    int gamma = m->qat->layer[layer].gamma;
    return gamma >= 0 && ((const float *)m->qat->graph->tensor[gamma]->data)[channel] < 0;
}

/* Weights in ONNX order and steps of a layer, generated or its own; *exact: the steps are those of
 * the width asked for. */
static nb_status parts_of(nb_ctx *ctx, nbi_meta *m, int layer, const nbi_choice *bits,
                          const float **weight, const float **step, bool *exact) {
    const nbi_layer *l = &m->net->layer[layer];
    int row = row_of(m, layer), width = bits[l->weight_site];
    made *set;
    if (row < 0) {
        const nbi_qat_layer *q = &m->qat->layer[layer];
        if (q->weight < 0)
            return nb_fail(ctx, NB_EUNSUPPORTED, "layer '%s' was not trained", l->name);
        *weight = m->qat->graph->tensor[q->weight]->data;
        *step = m->qat->graph->tensor[q->weight_scale]->data;
        *exact = width == m->qat->bits[l->weight_site];
        return NB_OK;
    }
    NB_TRY(find_set(ctx, m, row, bits, &set));
    *weight = set->weight[row];
    *step = set->step[row];
    *exact = nbi_meta_bits(m, row, nearest(m, row, width)) == width;
    return NB_OK;
}

static void place(const nbi_meta *m, int layer, const float *weight, float *out) {
    const nbi_layer *l = &m->net->layer[layer];
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    for (int c = 0; c < l->geometry.out_c; c++) {
        float sign = is_negative(m, layer, c) ? -1.0f : 1.0f;
        for (size_t k = 0; k < depth; k++)
            out[nbi_weight_place(l, (size_t)c, k)] = sign * weight[(size_t)c * depth + k];
    }
}

nb_status nbi_meta_weights(nb_ctx *ctx, nbi_meta *m, int layer, const nbi_choice *bits,
                           float *out) {
    const float *weight = NULL, *step;
    bool exact;
    NB_TRY(parts_of(ctx, m, layer, bits, &weight, &step, &exact));
    place(m, layer, weight, out);
    return NB_OK;
}

/* A channel as FakeQuant rounds it; turned round where its gain is negative (the lowest level has no
 * counterpart: it becomes the highest). */
static void round_channel(const nbi_meta *m, int layer, int c, int bits, const float *weight,
                          float step, int8_t *levels, double *signal, double *noise) {
    const nbi_layer *l = &m->net->layer[layer];
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    bool turned = is_negative(m, layer, c);
    int lo = bits == 1 ? -1 : -(1 << (bits - 1)), hi = bits == 1 ? 1 : -lo - 1;
    for (size_t k = 0; k < depth; k++) {
        float w = weight[(size_t)c * depth + k];
        int level = bits == 1 ? (w < 0 ? -1 : 1) : nbi_level_of(w, step, lo, hi);
        double e = (double)w - (double)step * level;
        *signal += (double)w * (double)w;
        *noise += e * e;
        if (turned) level = level < -hi ? hi : -level;
        levels[nbi_weight_place(l, (size_t)c, k)] = (int8_t)(level * nbk_level_step(bits));
    }
}

static nb_status fit(nb_ctx *ctx, const nbi_meta *m, int layer, int bits, const float *weight,
                     int8_t *levels, float *scale, double *sqnr) {
    nbi_layer l = m->net->layer[layer];
    NB_TRY(nbi_alloc(ctx, l.n_weights, sizeof *l.weight, &l.weight));
    place(m, layer, weight, l.weight);
    nb_status st = nbi_fit_weights(ctx, &l, bits, m->o.qat.per_channel, levels, scale, sqnr);
    nbi_free(l.weight);
    return st;
}

nb_status nbi_meta_levels(nb_ctx *ctx, nbi_meta *m, int layer, const nbi_choice *bits,
                          int8_t *levels, float *scale, double *sqnr) {
    const nbi_layer *l = &m->net->layer[layer];
    const float *weight = NULL, *step = NULL;
    double signal = 0, noise = 0;
    bool exact = false;
    int width = bits[l->weight_site];
    if (width < 1 || width > NBI_MAX_BITS)
        return nb_fail(ctx, NB_EUNSUPPORTED, "layer '%s': weights are generated for uniform widths "
                       "only", l->name);
    NB_TRY(parts_of(ctx, m, layer, bits, &weight, &step, &exact));
    if (!exact) return fit(ctx, m, layer, width, weight, levels, scale, sqnr);
    for (int c = 0; c < l->geometry.out_c; c++) {
        float s = fmaxf(step[m->o.qat.per_channel ? c : 0], 1e-30f);
        round_channel(m, layer, c, width, weight, s, levels, &signal, &noise);
        scale[c] = s / (float)nbk_level_step(width);
    }
    *sqnr = noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
    return NB_OK;
}
