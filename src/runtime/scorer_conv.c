/* A convolution of the candidate: its weights, what a rounding makes of them, and the output-statistics
 * correction, for which its sums over the statistics images come first. */
#include "runtime/lower.h"
#include "runtime/scorer_parts.h"

#include <math.h>
#include <string.h>

typedef struct aim { /* of the correction, per channel */
    const double *mean, *deviation;
} aim;

/* Σ and Σ² of the layer's quantized sums, by channel, of every image of this process that gives
 * statistics: rows of s->moments. */
static nb_status measure(nb_ctx *ctx, nbi_scorer *s, int layer, nbi_weight_fit *f,
                         const nbi_frozen_conv *conv) {
    const nbi_layer *l = &s->net->layer[layer];
    size_t channels = (size_t)l->geometry.out_c, images = s->share.n[0];
    nbi_frozen_conv plain = *conv;
    nbi_step step[NBI_MAX_STEPS];
    nbi_ready_step ready;
    void *own = NULL;
    nbi_images_job j = {.ctx = ctx, .ready = &ready, .tensor = s->tensor, .sums = &s->sums};
    nb_status st;
    int n;
    plain.gain = nbi_arena_alloc(&s->arena, channels, sizeof(double));
    plain.shift = nbi_arena_alloc(&s->arena, channels, sizeof(double));
    if (!plain.gain || !plain.shift) return nb_fail_memory(ctx, channels * 16);
    for (size_t c = 0; c < channels; c++) plain.gain[c] = 1;
    NB_TRYG(nbi_lower_layer(ctx, s->net, layer, s->site, &plain, false, &s->arena, step, &n));
    NB_TRYG(nbi_weight_fit_ready(ctx, f, step, &ready, &own));
    nbi_scorer_inputs(s, step, &j);
    size_t count = (size_t)l->geometry.out_h * (size_t)l->geometry.out_w * channels;
    s->sums.kept = count * images <= s->sums.room;
    NB_TRYG(nbi_scorer_scratch(ctx, s, nbi_images_scratch(&ready)));
    j.scratch = s->scratch;
    j.moments = s->moments + s->share.first[0] * 2 * channels;
    NB_TRYG(nbi_images_sum(&j, images));
done:
    nbi_free(own);
    return st;
}

/* Mean and deviation of the layer's quantized sums become a new gain and shift per channel:
 * gain' = gain·r, shift' = shift + gain·(μ − r·μq), r = σ/σq. The last layer keeps r = 1. Sums are
 * added in the order of the images, whoever has computed them. */
static nb_status correct(nb_ctx *ctx, nbi_scorer *s, int layer, nbi_weight_fit *f,
                         nbi_frozen_conv *conv, const aim *to) {
    const nbi_layer *l = &s->net->layer[layer];
    size_t channels = (size_t)l->geometry.out_c, images = s->options.stat_images;
    nb_status st = measure(ctx, s, layer, f, conv);
    NB_TRY(nbi_team_share(ctx, s->with, st, s->moments, images, 2 * channels * sizeof *s->moments));
    double pixels = (double)l->geometry.out_h * l->geometry.out_w * (double)images;
    const nbi_qparam *x = &s->site[s->net->edge[l->in[0]].site];
    for (size_t c = 0; c < channels; c++) {
        double sum = 0, square = 0, unit = x->scale * (double)conv->scale[c];
        for (size_t i = 0; i < images; i++) {
            sum += s->moments[2 * i * channels + c];
            square += s->moments[(2 * i + 1) * channels + c];
        }
        double mean = sum / pixels, variance = square / pixels - mean * mean;
        double deviation = variance > 0 ? unit * sqrt(variance) : 0;
        double r = l->is_last || deviation <= 0 || to->deviation[c] <= 0
                       ? 1
                       : fmin(fmax(to->deviation[c] / deviation, 0.25), 4);
        conv->shift[c] += conv->gain[c] * (to->mean[c] - r * unit * mean);
        conv->gain[c] *= r;
    }
    return NB_OK;
}

/* Copies of the plain fit and of the float statistics, which the rounding then changes. */
static nb_status ask_rounding(nb_ctx *ctx, nbi_scorer *s, int layer, nbi_arena *arena,
                              nbi_frozen_conv *conv, aim *to) {
    const nbi_layer *l = &s->net->layer[layer];
    size_t channels = (size_t)l->geometry.out_c, edges = (size_t)s->net->n_edges;
    int8_t *levels = nbi_arena_alloc(arena, l->n_weights, 1), level[256];
    float *scale = nbi_arena_alloc(arena, channels, sizeof *scale);
    double *moments = nbi_arena_alloc(arena, 2 * channels, sizeof *moments);
    const uint8_t **value = nbi_arena_alloc(&s->arena, edges, sizeof *value);
    if (!levels || !scale || !moments || !value) return nb_fail_memory(ctx, l->n_weights);
    memcpy(levels, conv->levels, l->n_weights);
    memcpy(scale, conv->scale, channels * sizeof *scale);
    memcpy(moments, l->mean, channels * sizeof *moments);
    memcpy(moments + channels, l->deviation, channels * sizeof *moments);
    for (size_t e = 0; e < edges; e++) {
        const nbi_cached *buffer = s->buffer[s->alias[e]];
        value[e] = buffer ? buffer->data : NULL;
    }
    nbi_rounding_request r = {.net = s->net, .layer = layer,
                            .choice = nbi_choice_of(conv->scheme, conv->bits), .site = s->site, .value = value, .images = s->options.stat_images,
                            .keep_scale = !s->options.per_channel, .levels = levels,
                            .scale = scale, .mean = moments, .deviation = moments + channels};
    nbi_weight_grid(conv->bits, conv->table, level, &r.grid);
    NB_TRY(s->rounding(ctx, s->rounding_user, &r));
    conv->levels = levels;
    conv->scale = scale;
    *to = (aim){moments, moments + channels};
    return NB_OK;
}

nb_status nbi_scorer_conv(nb_ctx *ctx, nbi_scorer *s, int layer, const nbi_choice *policy,
                          nbi_weight_fit **fit, nbi_frozen_conv *conv) {
    const nbi_layer *l = &s->net->layer[layer];
    size_t channels = (size_t)l->geometry.out_c;
    nbi_choice choice = policy[l->weight_site];
    aim to = {l->mean, l->deviation};
    NB_TRY(nbi_weight_store_get(ctx, &s->weights, s->with, layer, policy, fit));
    const nbi_weight_fit *f = *fit;
    nbi_arena *arena = s->freeze ? &s->freeze->arena : &s->arena;
    *conv = (nbi_frozen_conv){.bits = nbi_choice_bits(choice), .scheme = nbi_choice_scheme(choice),
                              .levels = f->w.levels, .scale = f->w.scale,
                              .table = f->w.has_table ? f->w.table : NULL};
    conv->gain = nbi_arena_alloc(arena, channels, sizeof(double));
    conv->shift = nbi_arena_alloc(arena, channels, sizeof(double));
    if (!conv->gain || !conv->shift) return nb_fail_memory(ctx, channels * 16);
    for (size_t c = 0; c < channels; c++) {
        conv->gain[c] = (double)l->gain[c];
        conv->shift[c] = (double)l->shift[c];
    }
    if (s->rounding) NB_TRY(ask_rounding(ctx, s, layer, arena, conv, &to));
    if (s->options.stat_images) NB_TRY(correct(ctx, s, layer, *fit, conv, &to));
    conv->bias_bits = policy[l->bias_site];
    NB_TRY(nbi_fold_gain(ctx, l, &s->site[s->net->edge[l->in[0]].site],
                         &s->site[s->net->edge[l->out].site], arena, conv));
    s->sums.kept &= conv->levels == f->w.levels;
    return NB_OK;
}
