/* See scorer_weights.h. A handful of choices per layer, so each has a list. */
#include "runtime/scorer_weights.h"

nb_status nbi_weight_store_init(nb_ctx *ctx, nbi_weight_store *s, const nbi_qnet *net,
                                bool per_channel) {
    *s = (nbi_weight_store){.net = net, .per_channel = per_channel};
    return nbi_alloc(ctx, (size_t)net->n_layers + 1, sizeof *s->fit, &s->fit);
}

static void free_fit(nbi_weight_fit *f) {
    if (!f) return;
    nbi_free(f->w.levels);
    nbi_free(f->w.scale);
    for (int k = 0; k < NBI_MOST_PACKS; k++) nbi_free(f->pack[k].packed);
    nbi_free(f);
}

void nbi_weight_store_drop(nbi_weight_store *s) {
    for (int i = 0; s->fit && i < s->net->n_layers; i++) {
        for (nbi_weight_fit *f = s->fit[i], *next; f; f = next) {
            next = f->next;
            free_fit(f);
        }
        s->fit[i] = NULL;
    }
    s->dropped = true;
}

void nbi_weight_store_free(nbi_weight_store *s) {
    nbi_weight_store_drop(s);
    nbi_free(s->fit);
    s->fit = NULL;
}

/* Room for a fit. */
static nb_status new_fit(nb_ctx *ctx, const nbi_layer *l, nbi_choice choice, nbi_weight_fit **out) {
    nbi_weight_fit *f = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *f, &f));
    f->choice = choice;
    NB_TRYG(nbi_alloc(ctx, (size_t)l->geometry.out_c, sizeof *f->w.scale, &f->w.scale));
    NB_TRYG(nbi_alloc(ctx, l->n_weights, 1, &f->w.levels));
    *out = f;
    return NB_OK;
done:
    free_fit(f);
    return st;
}

static nb_status fill(nb_ctx *ctx, const nbi_weight_store *s, int layer, const nbi_choice *asked,
                      nbi_weight_fit *f) {
    const nbi_layer *l = &s->net->layer[layer];
    NB_TRY(nbi_choice_check(ctx, s->net->site[l->weight_site].name, f->choice, true));
    NB_TRY(s->source ? s->source(ctx, s->user, layer, asked, &f->w)
                     : nbi_fit_weight_choice(ctx, l, f->choice, s->per_channel, &f->w));
    nbi_clear_constants(l, nbi_choice_bits(f->choice), f->w.has_table ? f->w.table : NULL,
                        f->w.levels);
    return NB_OK;
}

/* st: of the process's own part so far. */
static nb_status tell_fit(nb_ctx *ctx, nbi_team *team, nb_status st, const nbi_layer *l,
                          nbi_weight_fit *f) {
    NB_TRY(nbi_team_agree(ctx, team, st));
    nbi_coded_weights w = f->w;
    NB_TRY(nbi_team_tell(ctx, team, NB_OK, &w, sizeof w));
    w.levels = f->w.levels;
    w.scale = f->w.scale;
    f->w = w;
    NB_TRY(nbi_team_tell(ctx, team, NB_OK, w.levels, l->n_weights));
    return nbi_team_tell(ctx, team, NB_OK, w.scale, (size_t)l->geometry.out_c * sizeof *w.scale);
}

nb_status nbi_weight_store_get(nb_ctx *ctx, nbi_weight_store *s, nbi_team *team, int layer,
                               const nbi_choice *asked, nbi_weight_fit **out) {
    const nbi_layer *l = &s->net->layer[layer];
    const nbi_choice choice = asked[l->weight_site];
    nbi_weight_fit *f = s->fit[layer];
    nb_status st = NB_OK;
    while (f && f->choice != choice) f = f->next;
    const bool fresh = !f;
    if (fresh) {
        st = new_fit(ctx, l, choice, &f);
        if (st == NB_OK && !nbi_team_follows(team)) st = fill(ctx, s, layer, asked, f);
    }
    if (team && (fresh || !f->told)) {
        st = tell_fit(ctx, team, st, l, f);
        if (st == NB_OK) f->told = true;
    }
    if (st != NB_OK) {
        if (fresh) free_fit(f);
        return st;
    }
    if (fresh) {
        f->next = s->fit[layer];
        s->fit[layer] = f;
    }
    *out = f;
    return NB_OK;
}

nb_status nbi_weight_fit_ready(nb_ctx *ctx, nbi_weight_fit *f, const nbi_step *step,
                               nbi_ready_step *out, void **own) {
    *own = NULL;
    if (!f || step->u.conv.levels != f->w.levels) return nbi_step_ready(ctx, step, own, out);
    NB_TRY(nbi_step_ready(ctx, step, NULL, out));
    for (int k = 0; k < NBI_MOST_PACKS; k++) {
        if (f->pack[k].kernel == out->kernel) {
            out->packed = f->pack[k].packed;
            return NB_OK;
        }
        if (f->pack[k].kernel) continue;
        nbi_ready_step full;
        NB_TRY(nbi_step_ready(ctx, step, &f->pack[k].packed, &full));
        f->pack[k].kernel = out->kernel;
        out->packed = full.packed;
        return NB_OK;
    }
    return nbi_step_ready(ctx, step, own, out);
}
