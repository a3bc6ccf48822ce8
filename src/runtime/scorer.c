/* One candidate: keys of all edges from the policy; walk back from the wanted edge to what is cached;
 * run the missing layers forward, each over all images.
 *
 * The correction of a convolution needs its sums over the statistics images before anything can be
 * requantized: they are kept (NBI_SUMS_BYTES at most) and finished with the final multipliers; where
 * they are too large they are computed again, so memory stays bounded whatever the number of images
 * or the size of the layer. */
#include "runtime/lower.h"
#include "runtime/scorer_parts.h"

#include <string.h>

static size_t sums_bytes(size_t room) {
    return (room + NBI_KERNEL_SLACK) * sizeof(int32_t);
}

static void free_sums(nbi_scorer *s) {
    nbi_pages_free(s->sums.sums, sums_bytes(s->sums.room));
}

void nbi_scorer_free(nbi_scorer *s) {
    if (!s) return;
    nbi_cache_free(&s->cache);
    nbi_weight_store_free(&s->weights);
    for (int w = 0; s->scratch && w < s->workers; w++) nbi_free(s->scratch[w]);
    nbi_free(s->scratch);
    nbi_free(s->asked);
    nbi_free(s->site);
    nbi_free(s->key);
    nbi_free(s->wanted);
    nbi_free(s->alias);
    nbi_free(s->buffer);
    nbi_free(s->needed);
    nbi_free(s->readers);
    nbi_free(s->tensor);
    free_sums(s);
    nbi_free(s->sums.halved);
    nbi_free(s->moments);
    nbi_free(s->order);
    nbi_arena_free(&s->arena);
    nbi_free(s);
}

void nbi_scorer_set_weights(nbi_scorer *s, nbi_weights_fn weights, void *user,
                            bool whole_policy) {
    s->weights.source = weights;
    s->weights.user = user;
    s->whole_policy = whole_policy;
}

nb_status nbi_scorer_bound_sums(nb_ctx *ctx, nbi_scorer *s, size_t bytes) {
    size_t most = 0; /* of the largest layer that fits the bound */
    int32_t *sums;
    for (int i = 0; i < s->net->n_layers; i++) {
        const nbk_conv *g = &s->net->layer[i].geometry;
        size_t count =
            (size_t)g->out_h * (size_t)g->out_w * (size_t)g->out_c * s->share.n[0];
        if (s->net->layer[i].type == NBI_LAYER_CONV && count <= bytes / 4 && count > most)
            most = count;
    }
    NB_TRY(nbi_pages_new(ctx, sums_bytes(most), &sums));
    free_sums(s);
    s->sums.sums = sums;
    s->sums.room = most;
    return NB_OK;
}

nb_status nbi_scorer_new(nb_ctx *ctx, const nbi_qnet *net, const nbi_scorer_options *options,
                         nbi_scorer **out) {
    nbi_scorer *s = NULL;
    nb_status st;
    size_t edges = (size_t)net->n_edges, channels = 0;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *s, &s));
    s->net = net;
    s->options = *options;
    s->workers = nb_ctx_threads(ctx);
    if (s->options.stat_images > s->options.images) s->options.stat_images = s->options.images;
    s->share.n[0] = s->options.stat_images; /* until an order says so */
    NB_TRYG(nbi_cache_init(ctx, &s->cache, options->cache_bytes));
    NB_TRYG(nbi_weight_store_init(ctx, &s->weights, net, options->per_channel));
    NB_TRYG(nbi_alloc(ctx, (size_t)net->n_sites, sizeof *s->site, &s->site));
    NB_TRYG(nbi_alloc(ctx, (size_t)net->n_sites + 1, sizeof *s->asked, &s->asked));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->key, &s->key));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->wanted, &s->wanted));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->alias, &s->alias));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->buffer, &s->buffer));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->needed, &s->needed));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->readers, &s->readers));
    NB_TRYG(nbi_alloc(ctx, edges, sizeof *s->tensor, &s->tensor));
    NB_TRYG(nbi_alloc(ctx, (size_t)s->workers, sizeof *s->scratch, &s->scratch));
    for (int i = 0; i < net->n_layers; i++)
        if (net->layer[i].type == NBI_LAYER_CONV && (size_t)net->layer[i].geometry.out_c > channels)
            channels = (size_t)net->layer[i].geometry.out_c;
    NB_TRYG(nbi_alloc(ctx, 2 * channels * s->options.stat_images, sizeof *s->moments,
                      &s->moments));
    NB_TRYG(nbi_alloc(ctx, s->options.stat_images + 1, sizeof *s->sums.halved, &s->sums.halved));
    NB_TRYG(nbi_scorer_bound_sums(ctx, s, NBI_SUMS_BYTES));
    *out = s;
    return NB_OK;
done:
    nbi_scorer_free(s);
    return st;
}

void nbi_scorer_set_rounding(nbi_scorer *s, nbi_rounding_fn rounding, void *user) {
    if (s->pure) nbi_scorer_clear(s);
    s->rounding = rounding;
    s->rounding_user = user;
    s->pure = false;
}

void nbi_scorer_set_pure_rounding(nbi_scorer *s, nbi_rounding_fn rounding, void *user) {
    nbi_scorer_set_rounding(s, rounding, user);
    nbi_scorer_clear(s);
    s->pure = true;
}

void nbi_scorer_clear(nbi_scorer *s) {
    nbi_cache_clear(&s->cache);
    s->stale = true;
}

void nbi_scorer_set_grids(nbi_scorer *s, const nbi_qparam *grid) {
    s->grid = grid;
}

/* Do edges depend on nothing but the choices that make their keys? */
static bool caches(const nbi_scorer *s) {
    return !s->freeze && (!s->rounding || s->pure);
}

void nbi_scorer_counts(const nbi_scorer *s, double *computed, double *saved) {
    *computed = s->computed;
    *saved = s->saved;
}

nb_status nbi_scorer_weight_sqnr(nb_ctx *ctx, nbi_scorer *s, int site, nbi_choice choice,
                                 double *out) {
    nbi_weight_fit *f;
    s->asked[site] = choice;
    if (s->whole_policy) nbi_weight_store_drop(&s->weights); /* fits of another policy */
    NB_TRY(nbi_weight_store_get(ctx, &s->weights, NULL, s->net->site[site].layer, s->asked, &f));
    *out = f->w.sqnr;
    if (s->whole_policy) nbi_weight_store_drop(&s->weights); /* the next run knows not of this one */
    return NB_OK;
}

/* ---- running one step over the images -------------------------------------------------------- */

nb_status nbi_scorer_scratch(nb_ctx *ctx, nbi_scorer *s, size_t bytes) {
    if (bytes <= s->scratch_bytes) return NB_OK;
    s->scratch_bytes = 0; /* until every worker has its own */
    for (int w = 0; w < s->workers; w++) {
        nbi_free(s->scratch[w]);
        s->scratch[w] = NULL;
        NB_TRY(nbi_alloc(ctx, bytes, 1, &s->scratch[w]));
    }
    s->scratch_bytes = bytes;
    return NB_OK;
}

static size_t image_bytes(const nbi_scorer *s, int edge) {
    const nbi_edge *e = &s->net->edge[edge];
    size_t count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    return s->site[e->site].dtype == NB_DTYPE_S32 ? count * 4 : count;
}

void nbi_scorer_inputs(nbi_scorer *s, const nbi_step *step, nbi_images_job *j) {
    for (int k = 0; k < step->n_in; k++) {
        int e = s->alias[step->in[k]];
        j->in[k] = s->buffer[e]->data;
        j->in_bytes[k] = image_bytes(s, e);
    }
}

/* Outputs that only an addition reads at once are not worth keeping. */
static bool worth_keeping(const nbi_scorer *s, int edge) {
    if (!caches(s) || (s->has_wanted && s->key[edge] != s->wanted[edge])) return false;
    for (int i = 0; i < s->net->n_layers; i++) {
        const nbi_layer *l = &s->net->layer[i];
        for (int k = 0; k < l->n_in; k++)
            if (l->in[k] == edge) return l->type != NBI_LAYER_ADD || l->n_in < 2;
    }
    return true;
}

static nb_status run_layer(nb_ctx *ctx, nbi_scorer *s, int layer, const nbi_choice *bits) {
    const nbi_layer *l = &s->net->layer[layer];
    nbi_step step[NBI_MAX_STEPS];
    nbi_frozen_conv conv = {0};
    nbi_weight_fit *f = NULL;
    int n;
    s->sums.kept = false;
    if (l->type == NBI_LAYER_CONV) {
        NB_TRY(nbi_scorer_conv(ctx, s, layer, bits, &f, &conv));
        if (s->freeze) s->freeze->conv[layer] = conv;
        s->computed += l->macs * (double)s->options.images;
    }
    NB_TRY(nbi_lower_layer(ctx, s->net, layer, s->site, &conv, false, &s->arena, step, &n));
    nbi_cached *out;
    size_t bytes = image_bytes(s, l->out);
    NB_TRY(nbi_cache_put(ctx, &s->cache, s->key[l->out],
                         bytes * s->share.most + NBI_KERNEL_SLACK, false, &out));
    s->buffer[l->out] = out;
    for (int i = 0; i < n; i++) {
        nbi_ready_step ready;
        void *own = NULL;
        nbi_images_job j = {.ctx = ctx, .ready = &ready, .tensor = s->tensor, .sums = &s->sums,
                            .out = out->data, .out_bytes = bytes};
        nb_status st = nbi_weight_fit_ready(ctx, i == 0 ? f : NULL, &step[i], &ready, &own);
        if (st == NB_OK) st = nbi_scorer_scratch(ctx, s, nbi_images_scratch(&ready));
        nbi_scorer_inputs(s, &step[i], &j);
        /* a convolution's second step is the table of its levels, in place */
        bool sums = l->type == NBI_LAYER_CONV && i == 0 && s->sums.kept;
        j.kept = sums ? s->share.n[0] : 0;
        j.scratch = s->scratch;
        if (st == NB_OK) st = nbi_images_run(&j, s->share.images);
        nbi_free(own);
        NB_TRY(st);
    }
    out->keep = worth_keeping(s, l->out); /* only what is complete */
    return NB_OK;
}

static nb_status run_input(nb_ctx *ctx, nbi_scorer *s) {
    const nbi_qnet *net = s->net;
    const size_t bytes = image_bytes(s, net->input);
    nbi_step step;
    nbi_ready_step ready;
    nbi_cached *out;
    NB_TRY(nbi_cache_put(ctx, &s->cache, s->key[net->input],
                         bytes * s->share.most + NBI_KERNEL_SLACK, false, &out));
    s->buffer[net->input] = out;
    if (net->input_is_image) {
        NB_TRY(nbi_lower_input(ctx, net, s->site, &s->arena, &step));
        NB_TRY(nbi_step_ready(ctx, &step, NULL, &ready));
        NB_TRY(nbi_scorer_scratch(ctx, s, nbi_images_scratch(&ready)));
    }
    uint8_t *to = out->data;
    for (int k = 0; k < 2; k++) {
        const uint8_t *from = s->options.inputs + s->share.first[k] * bytes;
        const size_t n = s->share.n[k];
        nbi_images_job j = {.ctx = ctx, .ready = &ready, .tensor = s->tensor, .in = {from},
                            .in_bytes = {bytes}, .scratch = s->scratch, .out = to,
                            .out_bytes = bytes};
        if (net->input_is_image) NB_TRY(nbi_images_run(&j, n));
        else memcpy(to, from, bytes * n);
        to += n * bytes;
    }
    out->keep = caches(s);
    return NB_OK;
}

/* ---- one candidate --------------------------------------------------------------------------- */

/* An edge's key: everything that its values depend on. */
static void make_keys(nbi_scorer *s, const nbi_choice *bits) {
    const nbi_qnet *net = s->net;
    uint64_t start = NBI_HASH_START;
    if (s->whole_policy)
        start = nbi_hash(start, bits, (size_t)net->n_sites * sizeof *bits);
    s->key[net->input] = nbi_hash(start, "input", 5);
    s->alias[net->input] = net->input;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        const nbi_qparam *y = &s->site[net->edge[l->out].site];
        s->alias[l->out] = l->out;
        bool alias = nbi_keeps_grid(l, &s->site[net->edge[l->in[0]].site], y) ||
                     (l->type == NBI_LAYER_COPY && l->n_copy == 0);
        if (alias) {
            s->alias[l->out] = s->alias[l->in[0]];
            s->key[l->out] = s->key[l->in[0]];
            continue;
        }
        bool conv = l->type == NBI_LAYER_CONV;
        nbi_choice own[3] = {bits[net->edge[l->out].site], conv ? bits[l->weight_site] : 0,
                             conv ? bits[l->bias_site] : 0};
        uint64_t h = nbi_hash(start, &i, sizeof i);
        h = nbi_hash(h, own, sizeof own);
        for (int k = 0; k < l->n_in; k++) h = nbi_hash(h, &s->key[l->in[k]], sizeof h);
        s->key[l->out] = h ? h : 1;
    }
}

static void describe(nbi_scorer *s) {
    for (int i = 0; i < s->net->n_edges; i++)
        nbi_describe_edge(&s->net->edge[i], &s->site[s->net->edge[i].site], &s->tensor[i]);
}

/* Which edges must be there, walking back from `edge`; what is cached is pinned and walked no
 * further. */
static void find_needed(nbi_scorer *s, int edge) {
    const nbi_qnet *net = s->net;
    memset(s->needed, 0, (size_t)net->n_edges);
    memset(s->readers, 0, (size_t)net->n_edges * sizeof *s->readers);
    memset(s->buffer, 0, (size_t)net->n_edges * sizeof *s->buffer);
    /* all of this candidate's own path, the beginning last: the next candidate in order shares it,
     * even where this one starts behind it; beside one policy the next one changes the layer before */
    for (int i = 0; i < net->n_layers; i++)
        nbi_cache_touch(&s->cache,
                        s->key[net->layer[s->has_wanted ? i : net->n_layers - 1 - i].out]);
    if (!s->has_wanted) nbi_cache_touch(&s->cache, s->key[net->input]);
    s->needed[s->alias[edge]] = true;
    s->readers[s->alias[edge]] = 1;
    for (int i = net->n_layers - 1; i >= 0; i--) {
        const nbi_layer *l = &net->layer[i];
        if (s->alias[l->out] != l->out || !s->needed[l->out]) continue;
        if (caches(s) && (s->buffer[l->out] = nbi_cache_get(&s->cache, s->key[l->out]))) continue;
        for (int k = 0; k < l->n_in; k++) {
            s->needed[s->alias[l->in[k]]] = true;
            s->readers[s->alias[l->in[k]]]++;
        }
    }
    if (s->needed[net->input] && !s->buffer[net->input] && caches(s))
        s->buffer[net->input] = nbi_cache_get(&s->cache, s->key[net->input]);
}

static void release(nbi_scorer *s, int edge) {
    int e = s->alias[edge];
    if (--s->readers[e] > 0 || !s->buffer[e]) return;
    nbi_cache_unpin(s->buffer[e]);
    s->buffer[e] = NULL;
}

static nb_status run_needed(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits) {
    const nbi_qnet *net = s->net;
    if (s->needed[net->input] && !s->buffer[net->input]) NB_TRY(run_input(ctx, s));
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (s->alias[l->out] != l->out) continue;
        if (!s->needed[l->out] || s->buffer[l->out]) {
            s->saved += l->macs * (double)s->options.images;
            continue;
        }
        NB_TRY(run_layer(ctx, s, i, bits));
        for (int k = 0; k < l->n_in; k++) release(s, l->in[k]);
        if (nb_cancelled(ctx)) return nb_fail(ctx, NB_ECANCELLED, "stopped on request");
    }
    return NB_OK;
}

static nb_status set_policy(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits) {
    for (int i = 0; i < s->net->n_sites; i++) {
        const nbi_site *site = &s->net->site[i];
        const nbi_qparam *q = nbi_site_grid(site, bits[i]);
        int b = nbi_choice_bits(bits[i]);
        if (site->kind == NBI_SITE_BIAS) {
            if (bits[i] != 32 && !nbi_bias_is_narrow(bits[i]))
                return nb_fail(ctx, NB_EINVAL, "bias '%s': %d bits; 8, 16 and 32 are possible",
                               site->name, bits[i]);
            s->site[i] = (nbi_qparam){.dtype = NB_DTYPE_S32, .bits = b, .scale = 1};
            continue;
        }
        if (b < 1 || b > NBI_MAX_BITS)
            return nb_fail(ctx, NB_EINVAL, "tensor '%s': %d bits; 1 to %d are possible",
                           site->name, b, NBI_MAX_BITS);
        if (!q)
            return nb_fail(ctx, NB_EINVAL, "tensor '%s' was not fitted by scheme number %d at %d "
                           "bits", site->name, nbi_choice_scheme(bits[i]), b);
        bool learned = s->rounding && s->grid && s->grid[i].dtype != NB_DTYPE_NONE;
        s->site[i] = learned ? s->grid[i] : *q;
    }
    memcpy(s->asked, bits, (size_t)s->net->n_sites * sizeof *bits);
    make_keys(s, bits);
    describe(s);
    return NB_OK;
}

/* The values of this process's images, in their places among all. */
static void take_values(const nbi_scorer *s, int edge, float *values) {
    const nbi_ptensor *t = &s->tensor[edge];
    const uint8_t *data = s->buffer[edge]->data;
    size_t at = 0;
    for (int k = 0; k < 2; k++) {
        float *out = values + s->share.first[k] * t->count;
        const size_t n = s->share.n[k] * t->count;
        for (size_t i = 0; i < n; i++, at++) {
            int32_t v = t->dtype == NB_DTYPE_S32  ? ((const int32_t *)(const void *)data)[at]
                        : t->dtype == NB_DTYPE_S8 ? (int8_t)data[at]
                                                  : data[at];
            out[i] = (float)(t->scale * ((double)v - t->zero));
        }
    }
}

static nb_status run_share(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits, int edge,
                           float *values) {
    if (nb_ctx_threads(ctx) > s->workers)
        return nb_fail(ctx, NB_EINVAL, "the scorer was made for %d threads", s->workers);
    NB_TRY(set_policy(ctx, s, bits));
    find_needed(s, edge);
    nb_status st = run_needed(ctx, s, bits);
    if (st == NB_OK && values) take_values(s, s->alias[edge], values);
    for (int i = 0; i < s->net->n_edges; i++)
        if (s->buffer[i]) nbi_cache_unpin(s->buffer[i]);
    nbi_arena_free(&s->arena);
    return st;
}

/* After an order. values NULL: nobody wants them. */
static nb_status run_to(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits, int edge,
                        float *values) {
    const nbi_edge *e = &s->net->edge[edge];
    const size_t count = (size_t)e->h * (size_t)e->w * (size_t)e->c, stats = s->options.stat_images;
    const size_t row = count * sizeof *values;
    nb_status st = run_share(ctx, s, bits, edge, values);
    if (values) {
        st = nbi_team_share(ctx, s->with, st, values, stats, row);
        st = nbi_team_share(ctx, s->with, st, values + stats * count, s->options.images - stats, row);
    } else {
        st = nbi_team_agree(ctx, s->with, st);
    }
    s->stale |= st != NB_OK;
    return st;
}

nb_status nbi_scorer_stay_near(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits) {
    s->has_wanted = false;
    if (!bits) return NB_OK;
    NB_TRY(nbi_scorer_order(ctx, s, NBI_ORDER_NEAR, bits, 0));
    NB_TRY(nbi_team_agree(ctx, s->with, set_policy(ctx, s, bits)));
    memcpy(s->wanted, s->key, (size_t)s->net->n_edges * sizeof *s->wanted);
    s->has_wanted = true;
    return NB_OK;
}

size_t nbi_scorer_path_bytes(const nbi_qnet *net, size_t images) {
    size_t bytes = 0, largest = 0;
    for (int e = 0; e < net->n_edges; e++) {
        const nbi_edge *edge = &net->edge[e];
        size_t n = (size_t)edge->h * (size_t)edge->w * (size_t)edge->c;
        bytes += n;
        if (n > largest) largest = n;
    }
    bytes += 3 * largest; /* what a candidate beside it needs at once */
    return images > SIZE_MAX / 2 / bytes ? SIZE_MAX / 2 : bytes * images;
}

nb_status nbi_scorer_run(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits, int edge,
                         float *values) {
    NB_TRY(nbi_scorer_order(ctx, s, NBI_ORDER_RUN, bits, edge));
    return run_to(ctx, s, bits, edge, values);
}

/* Levels move into the frozen graph, which outlives the scorer. */
static nb_status own_weights(nb_ctx *ctx, nbi_frozen *f) {
    for (int i = 0; i < f->net->n_layers; i++) {
        const nbi_layer *l = &f->net->layer[i];
        nbi_frozen_conv *c = &f->conv[i];
        if (l->type != NBI_LAYER_CONV) continue;
        size_t entries = c->table ? (size_t)1 << c->bits : 0;
        int8_t *levels = nbi_arena_alloc(&f->arena, l->n_weights + entries, 1);
        if (!levels) return nb_fail_memory(ctx, l->n_weights);
        memcpy(levels, c->levels, l->n_weights);
        c->levels = levels;
        if (entries) c->table = memcpy(levels + l->n_weights, c->table, entries);
    }
    return NB_OK;
}

static nb_status new_frozen(nb_ctx *ctx, const nbi_qnet *net, nbi_frozen **out) {
    nbi_frozen *f;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *f, &f));
    f->net = net;
    f->site = nbi_arena_alloc(&f->arena, (size_t)net->n_sites, sizeof *f->site);
    f->conv = nbi_arena_alloc(&f->arena, (size_t)net->n_layers + 1, sizeof *f->conv);
    if (!f->site || !f->conv) {
        nbi_frozen_free(f);
        return nb_fail_memory(ctx, (size_t)net->n_sites * sizeof *f->site);
    }
    *out = f;
    return NB_OK;
}

nb_status nbi_scorer_freeze(nb_ctx *ctx, nbi_scorer *s, const nbi_choice *bits, nbi_frozen **out) {
    nbi_frozen *f = NULL;
    NB_TRY(nbi_scorer_order(ctx, s, NBI_ORDER_FREEZE, bits, 0));
    nb_status st = new_frozen(ctx, s->net, &f);
    s->freeze = f;
    /* every output edge: layers that feed only a later one are corrected as well */
    for (int i = 0; i < s->net->n_outputs && st == NB_OK; i++)
        st = run_to(ctx, s, bits, s->net->output[i], NULL);
    s->freeze = NULL;
    if (st == NB_OK) {
        memcpy(f->site, s->site, (size_t)s->net->n_sites * sizeof *f->site);
        st = own_weights(ctx, f);
    }
    st = nbi_team_agree(ctx, s->with, st);
    if (st != NB_OK) {
        s->stale = true;
        nbi_frozen_free(f);
        return st;
    }
    *out = f;
    return NB_OK;
}
