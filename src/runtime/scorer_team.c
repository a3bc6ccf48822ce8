/* A scorer whose images are spread over processes. Rank 0 gives orders; all run the same layers of
 * the same policy, each over its share of the images, and meet where images depend on each other:
 * at the sums of a correction, and at the end. So results are those of one process, bit for bit.
 *
 * That needs the same cache everywhere: all start empty, see the same keys, and count bytes by the
 * largest share. What happens on rank 0 alone (a rounding is learned there), or a failure
 * somewhere, empties all of them. Numbers of the network and weights are rank 0's, whatever their
 * source (a network that generates weights is trained there alone), and told once. */
#include "quant/net_numbers.h"
#include "runtime/scorer_parts.h"

#include <string.h>

typedef struct nbi_order {
    int32_t what, edge;
    bool fresh_cache, fresh_weights; /* forget what is there */
    bool fresh_net;                  /* its numbers follow */
    bool whole_policy, near;         /* of the scorer */
    nbi_choice bits[];               /* [n_sites] */
} order;

static size_t order_bytes(const nbi_scorer *s) {
    return sizeof *s->order + (size_t)s->net->n_sites * sizeof *s->order->bits;
}

static void take_share(nbi_scorer *s, const nbi_team *team) {
    const size_t all[2] = {s->options.stat_images, s->options.images - s->options.stat_images};
    const int rank = team ? team->rank : 0;
    s->share = (nbi_image_share){0};
    for (int k = 0; k < 2; k++) {
        const size_t begin = nbi_team_first(team, all[k], rank);
        s->share.first[k] = (k ? all[0] : 0) + begin;
        s->share.n[k] = nbi_team_first(team, all[k], rank + 1) - begin;
        s->share.images += s->share.n[k];
        s->share.most += nbi_team_first(team, all[k], 1);
    }
}

nb_status nbi_scorer_set_team(nb_ctx *ctx, nbi_scorer *s, nbi_team *team, nbi_qnet *net) {
    s->team = team;
    s->told = net;
    s->fresh = s->stale = s->weights.dropped = true; /* the others may have served before */
    nbi_free(s->order);
    NB_TRY(nbi_alloc(ctx, order_bytes(s), 1, &s->order));
    take_share(s, team);
    return nbi_scorer_bound_sums(ctx, s, NBI_SUMS_BYTES); /* a share needs less */
}

static nb_status tell_net(nb_ctx *ctx, nbi_scorer *s) {
    const bool follows = nbi_team_follows(s->team);
    const size_t bytes = nbi_net_numbers_bytes(s->told);
    void *data = NULL;
    nb_status st = nbi_alloc(ctx, bytes, 1, &data);
    if (st == NB_OK && !follows) nbi_net_numbers_get(s->told, data);
    st = nbi_team_tell(ctx, s->team, st, data, bytes);
    if (st == NB_OK && follows) st = nbi_net_numbers_set(ctx, s->told, data);
    nbi_free(data);
    return nbi_team_agree(ctx, s->team, st);
}

/* ---- rank 0 ---------------------------------------------------------------------------------- */

nb_status nbi_scorer_order(nb_ctx *ctx, nbi_scorer *s, nbi_order_kind what, const nbi_choice *bits,
                           int edge) {
    const size_t size = (size_t)s->net->n_sites * sizeof *bits;
    s->with = s->rounding && what != NBI_ORDER_NEAR ? NULL : s->team;
    take_share(s, s->with);
    if (nbi_team_follows(s->with)) return NB_OK; /* what is done here was ordered */
    if (s->whole_policy && memcmp(s->asked, bits, size)) nbi_weight_store_drop(&s->weights);
    if (!s->with) {
        s->stale = true;
        return NB_OK;
    }
    if (s->stale) nbi_cache_clear(&s->cache);
    *s->order = (order){.what = (int32_t)what,
                        .edge = edge,
                        .fresh_cache = s->stale,
                        .fresh_weights = s->weights.dropped,
                        .fresh_net = s->fresh,
                        .whole_policy = s->whole_policy,
                        .near = s->has_wanted};
    memcpy(s->order->bits, bits, size);
    s->stale = s->weights.dropped = false;
    nbi_team_begin(s->with);
    NB_TRY(nbi_team_tell(ctx, s->with, NB_OK, s->order, order_bytes(s)));
    if (s->fresh) NB_TRY(tell_net(ctx, s));
    s->fresh = false;
    return NB_OK;
}

void nbi_scorer_dismiss(nb_ctx *ctx, nbi_scorer *s) {
    if (!s->team || nbi_team_follows(s->team)) return;
    s->order->what = NBI_ORDER_END;
    nbi_team_begin(s->team);
    (void)nbi_team_tell(ctx, s->team, NB_OK, s->order, order_bytes(s)); /* cannot fail */
    s->team = NULL;
}

/* ---- the others ------------------------------------------------------------------------------ */

static nb_status follow_run(nb_ctx *ctx, nbi_scorer *s) {
    const nbi_edge *e = &s->net->edge[s->order->edge];
    const size_t count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    float *values;
    NB_TRY(nbi_alloc(ctx, count * s->options.images, sizeof *values, &values));
    nb_status st = nbi_scorer_run(ctx, s, s->order->bits, s->order->edge, values);
    nbi_free(values);
    return st;
}

static nb_status follow_freeze(nb_ctx *ctx, nbi_scorer *s) {
    nbi_frozen *frozen = NULL;
    nb_status st = nbi_scorer_freeze(ctx, s, s->order->bits, &frozen);
    nbi_frozen_free(frozen);
    return st;
}

static nb_status follow(nb_ctx *ctx, nbi_scorer *s) {
    const order *o = s->order;
    if (o->fresh_cache) nbi_cache_clear(&s->cache);
    if (o->fresh_weights) nbi_weight_store_drop(&s->weights);
    s->whole_policy = o->whole_policy;
    s->has_wanted &= o->near;
    if (o->fresh_net) NB_TRY(tell_net(ctx, s));
    if (o->what == NBI_ORDER_RUN) return follow_run(ctx, s);
    if (o->what == NBI_ORDER_FREEZE) return follow_freeze(ctx, s);
    return nbi_scorer_stay_near(ctx, s, o->bits);
}

nb_status nbi_scorer_serve(nb_ctx *ctx, nbi_scorer *s) {
    for (;;) {
        nbi_team_begin(s->team);
        NB_TRY(nbi_team_tell(ctx, s->team, NB_OK, s->order, order_bytes(s)));
        if (s->order->what == NBI_ORDER_END) return NB_OK;
        nb_status st = follow(ctx, s);
        /* what is to be done about a failure is rank 0's business, once it knows */
        if (st != NB_OK) (void)nbi_team_agree(ctx, s->team, st);
    }
}
