/* See net_numbers.h. One walk counts, reads or writes. */
#include "quant/net_numbers.h"

#include "schemes/choice.h"

#include <string.h>

typedef struct cursor {
    enum { COUNT, GET, SET } what;
    size_t bytes; /* so far */
    char *to;
    const char *from;
} cursor;

static void pass(cursor *c, void *data, size_t bytes) {
    if (c->what == GET) memcpy(c->to + c->bytes, data, bytes);
    if (c->what == SET) memcpy(data, c->from + c->bytes, bytes);
    c->bytes += bytes;
}

static void pass_grid(cursor *c, nbi_qparam *grid) {
    const nbi_levels *own = grid->levels; /* a pointer means nothing elsewhere */
    pass(c, grid, sizeof *grid);
    grid->levels = own;
}

/* By its params: levels follow from them. */
static nb_status pass_fit(nb_ctx *ctx, cursor *c, nbi_qnet *net, const nbi_site *site,
                          nbi_site_fit *fit) {
    float params[NBI_SCHEME_MAX_PARAMS];
    const nbi_scheme_use use = nbi_choice_use(fit->choice, false, site->is_unsigned);
    const size_t size = (size_t)nbi_choice_row(fit->choice)->n_params(&use) * sizeof *params;
    memcpy(params, fit->params, size);
    pass(c, params, size);
    if (c->what != SET || !memcmp(params, fit->params, size)) return NB_OK;
    float *own = nbi_arena_alloc(&net->arena, size, 1);
    nbi_levels *levels = nbi_arena_alloc(&net->arena, 1, sizeof *levels);
    if (!own || !levels) return nb_fail_memory(ctx, size + sizeof *levels);
    fit->params = memcpy(own, params, size);
    nbi_choice_grid(fit->choice, site->is_unsigned, own, &site->fit[NBI_MAX_BITS], levels,
                    &fit->grid);
    return NB_OK;
}

static nb_status walk(nb_ctx *ctx, cursor *c, nbi_qnet *net) {
    for (int s = 0; s < net->n_sites; s++) {
        nbi_site *site = &net->site[s];
        for (int b = 0; b <= NBI_MAX_BITS; b++) pass_grid(c, &site->fit[b]);
        for (nbi_site_fit *f = site->more; f; f = f->next) NB_TRY(pass_fit(ctx, c, net, site, f));
    }
    for (int i = 0; i < net->n_layers; i++) {
        nbi_layer *l = &net->layer[i];
        const size_t channels = (size_t)l->geometry.out_c;
        if (l->type != NBI_LAYER_CONV || !l->mean) continue;
        pass(c, l->gain, channels * sizeof *l->gain);
        pass(c, l->shift, channels * sizeof *l->shift);
        pass(c, l->mean, channels * sizeof *l->mean);
        pass(c, l->deviation, channels * sizeof *l->deviation);
    }
    return NB_OK;
}

size_t nbi_net_numbers_bytes(const nbi_qnet *net) {
    cursor c = {.what = COUNT};
    (void)walk(NULL, &c, (nbi_qnet *)net); /* changes nothing, as the next one */
    return c.bytes;
}

void nbi_net_numbers_get(const nbi_qnet *net, void *to) {
    cursor c = {.what = GET, .to = to};
    (void)walk(NULL, &c, (nbi_qnet *)net);
}

nb_status nbi_net_numbers_set(nb_ctx *ctx, nbi_qnet *net, const void *from) {
    cursor c = {.what = SET, .from = from};
    return walk(ctx, &c, net);
}
