/* What the generator makes for a policy. Where a layer's weights depend on its own choice only, a choice
 * is generated for all layers at once and the last few are kept; else one policy is kept at a time. */
#include "hyper/meta_parts.h"

#include "quant/fit.h"

#include <math.h>
#include <string.h>

#define MOST_SETS 8

/* Weights [n_weights] of every row and its params [groups, columns], of one policy. */
typedef struct made {
    float **weight, **step;
    float *input; /* the policy: [rows·columns] */
    int column;   /* of all rows */
    bool valid;
} made;

struct nbi_meta_store {
    nbi_arena arena;
    made set[MOST_SETS]; /* of the last choices, or one */
    int n, next;
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
    m->store->n = !own_width_only(m) ? 1 : m->columns < MOST_SETS ? m->columns : MOST_SETS;
    nb_status st = NB_OK;
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

/* The choice itself where it is offered; else the nearest width (the wider of two) of its scheme, or of
 * any. */
static int nearest(const nbi_meta *m, int row, nbi_choice wanted) {
    const nbi_meta_row *r = &m->row[row];
    int best = -1, least = 0;
    for (int k = 0; k < r->n; k++) {
        int apart = nbi_choice_bits(r->choice[k]) - nbi_choice_bits(wanted);
        int far = 2 * (apart < 0 ? -apart : apart) + (apart < 0) +
                  (nbi_choice_scheme(r->choice[k]) == nbi_choice_scheme(wanted) ? 0 : 64);
        if (best < 0 || far < least) best = k, least = far;
    }
    return best;
}

/* All rows at column k. */
static void whole_policy(const nbi_meta *m, int k, float *input) {
    memset(input, 0, (size_t)m->n_rows * (size_t)m->columns * sizeof *input);
    for (int r = 0; r < m->n_rows; r++) {
        int n = m->row[r].n;
        input[r * m->columns + (k < n ? k : n - 1)] = 1;
    }
}

static void policy_of(const nbi_meta *m, const nbi_choice *bits, float *input) {
    memset(input, 0, (size_t)m->n_rows * (size_t)m->columns * sizeof *input);
    for (int r = 0; r < m->n_rows; r++)
        input[r * m->columns + nearest(m, r, bits[m->row[r].site])] = 1;
}

static nb_status find_column(nb_ctx *ctx, nbi_meta *m, int k, made **out) {
    struct nbi_meta_store *s = m->store;
    for (int i = 0; i < s->n; i++)
        if (s->set[i].valid && s->set[i].column == k) {
            *out = &s->set[i];
            return NB_OK;
        }
    *out = &s->set[s->next];
    s->next = (s->next + 1) % s->n;
    whole_policy(m, k, (*out)->input);
    (*out)->column = k;
    return run(ctx, m, *out);
}

/* The set that holds what `row` needs. */
static nb_status find_set(nb_ctx *ctx, nbi_meta *m, int row, const nbi_choice *bits, made **out) {
    NB_TRY(open_store(ctx, m));
    if (own_width_only(m))
        return find_column(ctx, m, nearest(m, row, bits[m->row[row].site]), out);
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

/* Generated, or a layer's own. */
typedef struct parts {
    const float *weight, *params; /* ONNX's order; [groups, columns] */
    size_t columns;
    bool exact; /* params are those of the choice asked for */
} parts;

static nb_status parts_of(nb_ctx *ctx, nbi_meta *m, int layer, const nbi_choice *bits, parts *p) {
    const nbi_layer *l = &m->net->layer[layer];
    int row = row_of(m, layer);
    nbi_choice wanted = bits[l->weight_site];
    made *set;
    if (row < 0) {
        const nbi_qat_layer *q = &m->qat->layer[layer];
        if (q->weight < 0)
            return nb_fail(ctx, NB_EUNSUPPORTED, "layer '%s' was not trained", l->name);
        const nbi_tensor *params = m->qat->graph->tensor[q->weight_scale];
        *p = (parts){m->qat->graph->tensor[q->weight]->data, params->data, (size_t)params->dim[1],
                     wanted == m->qat->bits[l->weight_site]};
        return NB_OK;
    }
    NB_TRY(find_set(ctx, m, row, bits, &set));
    *p = (parts){set->weight[row], set->step[row], (size_t)m->row[row].columns,
                 m->row[row].choice[nearest(m, row, wanted)] == wanted};
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
    parts p = {0};
    NB_TRY(parts_of(ctx, m, layer, bits, &p));
    place(m, layer, p.weight, out);
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

static nb_status fit(nb_ctx *ctx, const nbi_meta *m, int layer, nbi_choice choice,
                     const float *weight, nbi_coded_weights *out) {
    nbi_layer l = m->net->layer[layer];
    NB_TRY(nbi_alloc(ctx, l.n_weights, sizeof *l.weight, &l.weight));
    place(m, layer, weight, l.weight);
    nb_status st = nbi_fit_weight_choice(ctx, &l, choice, m->o.qat.per_channel, out);
    nbi_free(l.weight);
    return st;
}

static double decibels(double signal, double noise) {
    return noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
}

/* Uniform, with the steps that were learned. */
static void round_uniform(const nbi_meta *m, int layer, int bits, const parts *p,
                          nbi_coded_weights *out) {
    double signal = 0, noise = 0;
    for (int c = 0; c < m->net->layer[layer].geometry.out_c; c++) {
        size_t group = m->o.qat.per_channel ? (size_t)c : 0;
        float s = fmaxf(p->params[group * p->columns], 1e-30f);
        round_channel(m, layer, c, bits, p->weight, s, out->levels, &signal, &noise);
        out->scale[c] = s / (float)nbk_level_step(bits);
    }
    out->sqnr = decibels(signal, noise);
}

/* What training refits is fitted to the generated weights, the rest is as it was learned. */
static void params_of(const nbi_meta *m, int layer, nbi_choice choice, const parts *p,
                      const float *values, size_t groups, float *out) {
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    size_t columns = (size_t)row->n_params(&use), n = m->net->layer[layer].n_weights / groups;
    int learned = nbi_meta_learned(choice, &use);
    float fitted[NBI_SCHEME_MAX_PARAMS];
    for (size_t g = 0; g < groups; g++) {
        const float *from = p->params + g * p->columns;
        row->fit(&use, values + g * n, n, fitted);
        bool refits = (row->flags & NBI_SCHEME_REFIT) != 0;
        for (size_t i = 0; i < columns; i++)
            out[g * columns + i] = refits && i >= (size_t)learned ? fitted[i] : from[i];
    }
}

/* `rescales`: whatever follows absorbs a constant (DoReFa). */
static double sqnr_of(const nbi_layer *l, const float *values, const nbi_coded_weights *w,
                      bool rescales) {
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    double signal = 0, power = 0, both = 0;
    for (size_t i = 0; i < l->n_weights; i++) {
        double x = (double)values[i];
        double y = (double)w->scale[i / depth] * w->levels[nbi_weight_place(l, i / depth, i % depth)];
        signal += x * x;
        power += y * y;
        both += x * y;
    }
    double by = rescales && power > 0 ? both / power : 1;
    return decibels(signal, fmax(signal - 2 * by * both + by * by * power, 0));
}

/* Signs move into the weights first: a table may lack the negatives of its levels. */
static nb_status round_scheme(nb_ctx *ctx, const nbi_meta *m, int layer, nbi_choice choice,
                              const parts *p, nbi_coded_weights *out) {
    const nbi_layer *l = &m->net->layer[layer];
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    size_t groups = nbi_weight_groups(l, choice, m->o.qat.per_channel);
    size_t columns = (size_t)nbi_choice_row(choice)->n_params(&use);
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    float *values = NULL, *params = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, l->n_weights, sizeof *values, &values));
    NB_TRYG(nbi_alloc(ctx, groups * columns, sizeof *params, &params));
    for (size_t i = 0; i < l->n_weights; i++)
        values[i] = is_negative(m, layer, (int)(i / depth)) ? -p->weight[i] : p->weight[i];
    params_of(m, layer, choice, p, values, groups, params);
    NB_TRYG(nbi_encode_weights(ctx, l, choice, groups, values, params, columns, out));
    out->sqnr = sqnr_of(l, values, out,
                        (nbi_choice_row(choice)->flags & NBI_SCHEME_RESCALES) != 0);
done:
    nbi_free(values);
    nbi_free(params);
    return st;
}

nb_status nbi_meta_levels(nb_ctx *ctx, nbi_meta *m, int layer, const nbi_choice *bits,
                          nbi_coded_weights *out) {
    nbi_choice choice = bits[m->net->layer[layer].weight_site];
    parts p = {0};
    out->has_table = false;
    NB_TRY(nbi_choice_check(ctx, m->net->layer[layer].name, choice, true));
    NB_TRY(parts_of(ctx, m, layer, bits, &p));
    if (!p.exact) return fit(ctx, m, layer, choice, p.weight, out);
    if (nbi_choice_scheme(choice)) return round_scheme(ctx, m, layer, choice, &p, out);
    round_uniform(m, layer, nbi_choice_bits(choice), &p, out);
    return NB_OK;
}
