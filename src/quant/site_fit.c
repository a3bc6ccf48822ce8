/* Activation sites by any scheme: a scheme fits values, calibration keeps histograms, so the values are
 * quantiles of the histogram, with the extremes that were seen. */
#include "quant/fit.h"

#include <math.h>

#define SAMPLES 16384

/* The histogram's bins from the lowest value up; bin 2·NBI_HIST_BINS + 1 ends it. */
static int64_t bin_at(const nbi_hist *h, int i, double *from, double *to) {
    int k = i - NBI_HIST_BINS;
    *from = *to = 0;
    if (k == 0) return h->zeros;
    *from = (k < 0 ? k : k - 1) * h->width;
    *to = *from + h->width;
    return k < 0 ? h->negative[-k - 1] : h->positive[k - 1];
}

static void sample(const nbi_site *site, float *x) {
    const nbi_hist *h = &site->hist;
    double low = site->is_unsigned ? 0 : -1, from = 0, to = 0;
    if (!h->positive || h->total <= 0 || !(h->width > 0)) {
        for (int i = 0; i < SAMPLES; i++)
            x[i] = (float)(low + (1 - low) * i / (SAMPLES - 1));
        return;
    }
    int64_t seen = 0, here = 0;
    for (int i = 0, bin = -1; i < SAMPLES; i++) {
        double want = (i + 0.5) * (double)h->total / SAMPLES;
        while ((double)(seen + here) < want && bin < 2 * NBI_HIST_BINS) {
            seen += here;
            here = bin_at(h, ++bin, &from, &to);
        }
        double part = here ? (want - (double)seen) / (double)here : 0;
        x[i] = (float)fmin(fmax(from + part * (to - from), h->min), h->max);
    }
    x[0] = (float)h->min;
    x[SAMPLES - 1] = (float)h->max;
}

/* Signal to noise, as the integer program rounds: to 8 bits, then to levels. */
static double sqnr_of(const nbi_qparam *q, const float *x) {
    double signal = 0, noise = 0;
    const nbi_qparam *f = nbi_made_grid(q);
    uint8_t table[256];
    if (q->levels) nbi_levels_table(q, f, table);
    for (int i = 0; i < SAMPLES; i++) {
        int v = nbi_level_of(x[i], (float)f->scale, f->lo - f->zero, f->hi - f->zero) + f->zero;
        if (q->levels)
            v = q->dtype == NB_DTYPE_S8 ? (int8_t)table[(uint8_t)v] : table[(uint8_t)v];
        double e = (double)x[i] - q->scale * (v - q->zero);
        signal += (double)x[i] * (double)x[i];
        noise += e * e;
    }
    return noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
}

static nb_status slot_of(nb_ctx *ctx, nbi_qnet *net, nbi_site *site, nbi_choice choice,
                         nbi_site_fit **out) {
    for (nbi_site_fit *f = site->more; f; f = f->next)
        if (f->choice == choice) {
            *out = f;
            return NB_OK;
        }
    *out = nbi_arena_alloc(&net->arena, 1, sizeof **out);
    if (!*out) return nb_fail_memory(ctx, sizeof **out);
    (*out)->choice = choice;
    return NB_OK;
}

nb_status nbi_fit_site(nb_ctx *ctx, nbi_qnet *net, int index, nbi_choice choice,
                       nbi_range_method range) {
    nbi_site *site = &net->site[index];
    const nbi_scheme *row = nbi_choice_row(choice);
    float *x, *params;
    nbi_site_fit *f;
    NB_TRY(nbi_choice_check(ctx, site->name, choice, false));
    if (site->kind != NBI_SITE_ACTIVATION || nbi_choice_for(site, choice) != choice ||
        nbi_choice_scheme(choice) == 0)
        return NB_OK;
    nbi_scheme_use use = nbi_choice_use(choice, false, site->is_unsigned);
    use.range = range;
    NB_TRY(slot_of(ctx, net, site, choice, &f));
    nbi_levels *levels = nbi_arena_alloc(&net->arena, 1, sizeof *levels);
    params = nbi_arena_alloc(&net->arena, (size_t)row->n_params(&use), sizeof *params);
    if (!levels || !params) return nb_fail_memory(ctx, sizeof *levels);
    NB_TRY(nbi_alloc(ctx, SAMPLES, sizeof *x, &x));
    sample(site, x);
    row->fit(&use, x, SAMPLES, params);
    nbi_choice_grid(choice, site->is_unsigned, params, &site->fit[NBI_MAX_BITS], levels, &f->grid);
    f->sqnr = sqnr_of(&f->grid, x);
    f->params = params;
    nbi_free(x);
    for (const nbi_site_fit *k = site->more; k; k = k->next)
        if (k == f) return NB_OK;
    f->next = site->more;
    site->more = f;
    return NB_OK;
}

nb_status nbi_fit_policy(nb_ctx *ctx, nbi_qnet *net, const nbi_choice *choice,
                         nbi_range_method range) {
    for (int s = 0; s < net->n_sites; s++)
        if (net->site[s].kind == NBI_SITE_ACTIVATION)
            NB_TRY(nbi_fit_site(ctx, net, s, choice[s], range));
    return NB_OK;
}
