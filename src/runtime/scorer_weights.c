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
}

void nbi_weight_store_free(nbi_weight_store *s) {
    nbi_weight_store_drop(s);
    nbi_free(s->fit);
    s->fit = NULL;
}

nb_status nbi_weight_store_get(nb_ctx *ctx, nbi_weight_store *s, int layer,
                               const nbi_choice *asked, nbi_weight_fit **out) {
    const nbi_layer *l = &s->net->layer[layer];
    const nbi_choice choice = asked[l->weight_site];
    nbi_weight_fit *f = s->fit[layer];
    nb_status st;
    while (f && f->choice != choice) f = f->next;
    if (f) {
        *out = f;
        return NB_OK;
    }
    NB_TRY(nbi_choice_check(ctx, s->net->site[l->weight_site].name, choice, true));
    NB_TRY(nbi_alloc(ctx, 1, sizeof *f, &f));
    f->choice = choice;
    NB_TRYG(nbi_alloc(ctx, (size_t)l->geometry.out_c, sizeof *f->w.scale, &f->w.scale));
    NB_TRYG(nbi_alloc(ctx, l->n_weights, 1, &f->w.levels));
    NB_TRYG(s->source ? s->source(ctx, s->user, layer, asked, &f->w)
                      : nbi_fit_weight_choice(ctx, l, choice, s->per_channel, &f->w));
    nbi_clear_constants(l, nbi_choice_bits(choice), f->w.has_table ? f->w.table : NULL,
                        f->w.levels);
    f->next = s->fit[layer];
    s->fit[layer] = f;
    *out = f;
    return NB_OK;
done:
    free_fit(f);
    return st;
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
