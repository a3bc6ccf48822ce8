/* The quantizers of a site that several choices share. FakeQuant reads its params from the row of a
 * table that the policy selects; where all choices are uniform its width is an input, else the place
 * of the choice among FakeQuant's candidates is. What a scheme refits to every batch is fitted to the
 * generated weights; of activations the running average goes into the row of the choice at hand:
 *   fitted += policy'·(averaged − selected).
 * A uniform tensor's params are the step of LSQ. Unlike fine-tuning, schemes whose levels are no uniform
 * rounding read activations as they are, not their 8-bit rounding. */
#include "hyper/meta_parts.h"

#include "ops/op_util.h"
#include "quant/fit.h"

#include <string.h>

typedef nbi_meta_builder builder;

/* What trains a choice. */
static const nbi_scheme *trained(nbi_choice choice) {
    return nbi_choice_scheme(choice) ? nbi_choice_row(choice) : nbi_scheme_find("lsq");
}

static nbi_scheme_use use_of(const builder *b, int row, nbi_choice choice) {
    const nbi_meta_row *r = &b->m->row[row];
    return nbi_choice_use(choice, r->layer >= 0, b->m->net->site[r->site].is_unsigned);
}

int nbi_meta_learned(nbi_choice choice, const nbi_scheme_use *use) {
    const nbi_scheme *s = trained(choice);
    int n = s->n_params(use);
    if (!(s->flags & NBI_SCHEME_LEARNED)) return 0;
    return s->n_learned < 0 || s->n_learned > n ? n : s->n_learned;
}

/* ---- what the policy selects ------------------------------------------------------------------ */

static int most_params(const builder *b, int row) {
    const nbi_meta_row *r = &b->m->row[row];
    int most = 1;
    for (int k = 0; k < r->n; k++) {
        nbi_scheme_use use = use_of(b, row, r->choice[k]);
        int n = trained(r->choice[k])->n_params(&use);
        most = n > most ? n : most;
    }
    return most;
}

static bool averages(const builder *b, int row) {
    const nbi_meta_row *r = &b->m->row[row];
    bool any = false;
    for (int k = 0; k < r->n && r->layer < 0; k++)
        any |= (trained(r->choice[k])->flags & NBI_SCHEME_REFIT) != 0;
    return any;
}

nb_status nbi_meta_select(builder *b, int row, const char *name, int groups, int *policy,
                          int *which) {
    nbi_meta *m = b->m;
    nbi_meta_row *r = &m->row[row];
    int table, flat, more;
    r->columns = r->mixed ? most_params(b, row) : 1;
    r->fitted = -1;
    NB_TRY(nbi_meta_slice(b, m->policy, row, row + 1, r->n, policy));
    NB_TRY(nbi_meta_constant(b, name, r->mixed ? "places" : "widths", r->n, 1, &table));
    for (int k = 0; k < r->n; k++)
        nbi_meta_values(m, table)[k] = (float)(r->mixed ? k : nbi_choice_bits(r->choice[k]));
    NB_TRY(nbi_meta_simple(b, "MatMul", *policy, table, which));
    NB_TRY(nbi_meta_constant(b, name, "steps", r->n, (int64_t)groups * r->columns, &r->steps));
    nbi_meta_trains(b, r->steps, 1, false);
    NB_TRY(nbi_meta_simple(b, "MatMul", *policy, r->steps, &flat));
    if (averages(b, row)) {
        NB_TRY(nbi_meta_constant(b, name, "fitted", r->n, r->columns, &r->fitted));
        NB_TRY(nbi_meta_simple(b, "MatMul", *policy, r->fitted, &more));
        NB_TRY(nbi_meta_simple(b, "Add", flat, more, &flat));
    }
    return nbi_meta_reshape(b, flat, 2, (int64_t[]){groups, r->columns}, &r->selected);
}

/* ---- into the network's quantizers ------------------------------------------------------------ */

/* "lsq:4 pot:3 codebook:2:whole" */
static nb_status set_candidates(builder *b, int row, nbi_node *q) {
    const nbi_meta_row *r = &b->m->row[row];
    nbi_buf text = {0};
    nb_status st = NB_OK;
    for (int k = 0; k < r->n && st == NB_OK; k++) {
        nbi_choice c = r->choice[k];
        bool whole = r->layer >= 0 && b->m->o.qat.per_channel &&
                     nbi_weight_groups(&b->m->net->layer[r->layer], c, true) == 1 &&
                     b->m->net->layer[r->layer].geometry.out_c > 1;
        st = nbi_buf_printf(b->ctx, &text, "%s%s:%d%s", k ? " " : "", trained(c)->name,
                            nbi_choice_bits(c), whole ? ":whole" : "");
    }
    if (st == NB_OK) st = nbi_node_set_text(b->ctx, b->g, q, "candidates", text.data);
    if (st == NB_OK) st = nbi_node_set_int(b->ctx, b->g, q, "training", 1);
    nbi_buf_free(&text);
    return st;
}

/* Outputs for what training refits: new params, and those that backward needs again. */
static nb_status more_outputs(builder *b, int at) {
    nbi_node *q = b->g->node[at];
    int *out = nbi_arena_alloc(&b->g->arena, 3, sizeof *out);
    if (!out) return nb_fail_memory(b->ctx, 3 * sizeof *out);
    out[0] = q->out[0];
    for (int i = 1; i < 3; i++) {
        NB_TRY(nbi_graph_add_tensor(b->ctx, b->g, NULL, NB_DTYPE_NONE, -1, NULL, &out[i]));
        b->g->tensor[out[i]]->producer = at;
    }
    q->out = out;
    q->n_out = 3;
    return NB_OK;
}

/* The row of the choice at hand takes the average over batches; of several quantizers the first's. */
static nb_status keep_average(builder *b, int row, int policy, int averaged) {
    const nbi_meta_row *r = &b->m->row[row];
    nbi_qat *q = b->m->qat;
    int change, column, spread, table;
    NB_TRY(nbi_meta_simple(b, "Sub", averaged, r->selected, &change));
    NB_TRY(nbi_meta_reshape(b, policy, 2, (int64_t[]){r->n, 1}, &column));
    NB_TRY(nbi_meta_simple(b, "MatMul", column, change, &spread));
    NB_TRY(nbi_meta_simple(b, "Add", r->fitted, spread, &table));
    q->state[q->n_states++] = (nbi_tape_state){table, r->fitted};
    return NB_OK;
}

static nb_status redirect_one(builder *b, int row, int at, int x, int which) {
    const nbi_meta_row *r = &b->m->row[row];
    nbi_node *q = b->g->node[at];
    int *in = nbi_arena_alloc(&b->g->arena, 3, sizeof *in);
    if (!in) return nb_fail_memory(b->ctx, 3 * sizeof *in);
    in[0] = x < 0 ? q->in[0] : x;
    in[1] = r->selected;
    in[2] = which;
    q->in = in;
    q->n_in = 3;
    if (!r->mixed) return nbi_node_infer(b->ctx, b->g, q);
    NB_TRY(set_candidates(b, row, q));
    NB_TRY(more_outputs(b, at));
    return nbi_meta_finish(b, q);
}

nb_status nbi_meta_redirect(builder *b, int row, int step, int x, int policy, int which) {
    bool first = true;
    for (int n = 0; n < b->n_nodes; n++) {
        nbi_node *q = b->g->node[n];
        if (strcmp(q->op_type, "FakeQuant") || q->in[1] != step) continue;
        NB_TRY(redirect_one(b, row, n, x, which));
        if (first && b->m->row[row].fitted >= 0)
            NB_TRY(keep_average(b, row, policy, q->out[1]));
        first = false;
    }
    return NB_OK;
}

/* ---- what they start from --------------------------------------------------------------------- */

static nb_status fit_uniform(builder *b, int row, int bits, int groups, float *to) {
    const nbi_meta *m = b->m;
    const nbi_layer *l = &m->net->layer[m->row[row].layer];
    int8_t *levels = NULL;
    float *scale = NULL;
    double ignored;
    nb_status st;
    NB_TRYG(nbi_alloc(b->ctx, l->n_weights, 1, &levels));
    NB_TRYG(nbi_alloc(b->ctx, (size_t)l->geometry.out_c, sizeof *scale, &scale));
    NB_TRYG(nbi_fit_weights(b->ctx, l, bits, groups > 1, levels, scale, &ignored));
    for (int g = 0; g < groups; g++)
        to[g * m->row[row].columns] = scale[g] * (float)nbk_level_step(bits);
done:
    nbi_free(levels);
    nbi_free(scale);
    return st;
}

nb_status nbi_meta_fit_weights(builder *b, int row, int groups) {
    const nbi_meta *m = b->m;
    const nbi_meta_row *r = &m->row[row];
    const nbi_tensor *w = b->g->tensor[m->qat->layer[r->layer].weight];
    size_t count = (size_t)nbi_tensor_count(w);
    for (int k = 0; k < r->n; k++) {
        nbi_choice c = r->choice[k];
        float *to = nbi_meta_values(m, r->steps) + (size_t)k * (size_t)groups * (size_t)r->columns;
        if (!nbi_choice_scheme(c)) {
            NB_TRY(fit_uniform(b, row, nbi_choice_bits(c), groups, to));
            continue;
        }
        nbi_scheme_use use = use_of(b, row, c);
        size_t own = nbi_weight_groups(&m->net->layer[r->layer], c, groups > 1), n = count / own;
        float fitted[NBI_SCHEME_MAX_PARAMS];
        for (size_t g = 0; g < own; g++) {
            nbi_choice_row(c)->fit(&use, (const float *)w->data + g * n, n, fitted);
            memcpy(to + g * (size_t)r->columns, fitted,
                   (size_t)nbi_choice_row(c)->n_params(&use) * sizeof *to);
        }
    }
    return NB_OK;
}

nb_status nbi_meta_fit_activations(builder *b, int row) {
    const nbi_meta *m = b->m;
    const nbi_meta_row *r = &m->row[row];
    const nbi_site *site = &m->net->site[r->site];
    for (int k = 0; k < r->n; k++) {
        nbi_choice c = r->choice[k];
        float *to = nbi_meta_values(m, r->steps) + k * r->columns;
        if (!nbi_choice_scheme(c)) {
            *to = (float)site->fit[nbi_choice_bits(c)].scale;
            continue;
        }
        const nbi_site_fit *fit = nbi_site_find(site, c);
        nbi_scheme_use use = use_of(b, row, c);
        int learned = nbi_meta_learned(c, &use), n = nbi_choice_row(c)->n_params(&use);
        if (!fit)
            return nb_fail(b->ctx, NB_EINVAL, "tensor '%s' was not fitted by scheme '%s'",
                           site->name, nbi_choice_row(c)->name);
        bool refits = (nbi_choice_row(c)->flags & NBI_SCHEME_REFIT) != 0;
        for (int i = 0; i < n; i++)
            (refits && i >= learned ? nbi_meta_values(m, r->fitted) + k * r->columns : to)[i] =
                fit->params[i];
    }
    return NB_OK;
}
