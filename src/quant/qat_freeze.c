/* From a trained graph back to integers: weight levels and scales, per-channel gain and shift from
 * BatchNormalization's running statistics, activation grids with the learned steps. */
#include "quant/qat.h"

#include <math.h>
#include <string.h>

#define EPSILON 1e-5

static const float *values(const nbi_qat *q, int tensor) {
    return q->graph->tensor[tensor]->data;
}

/* The grid of FakeQuant's lsq: ties to even, the full range; 1 bit: the sign. */
static int level_of(float w, float scale, int bits) {
    if (bits == 1) return w < 0 ? -1 : 1;
    float k = rintf(w / scale), hi = (float)((1 << (bits - 1)) - 1);
    return (int)fminf(fmaxf(k, -hi - 1), hi);
}

static size_t place_of(const nbi_layer *l, size_t o, size_t k) {
    const nbk_conv *g = &l->geometry;
    size_t taps = (size_t)g->kh * (size_t)g->kw, inputs = (size_t)(g->in_c / g->groups);
    size_t i = k / taps, t = k % taps;
    return l->depthwise ? t * (size_t)g->out_c + o : (o * taps + t) * inputs + i;
}

/* A negative gain moves into the levels; the lowest one, whose negative does not exist, becomes the
 * highest. */
static void freeze_channel(const nbi_qat *q, int index, size_t o, int8_t *levels, float *scale,
                           double *gain, double *shift) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    int bits = q->bits[l->weight_site], hi = bits == 1 ? 1 : (1 << (bits - 1)) - 1;
    bool one = q->graph->tensor[t->weight_scale]->dim[0] == 1;
    const float *w = values(q, t->weight) + o * depth;
    scale[o] = fmaxf(values(q, t->weight_scale)[one ? 0 : o], 1e-30f);
    gain[o] = 1;
    if (t->gamma >= 0) {
        gain[o] = (double)values(q, t->gamma)[o] /
                  sqrt((double)values(q, t->variance)[o] + EPSILON);
        shift[o] = (double)values(q, t->beta)[o] - gain[o] * (double)values(q, t->mean)[o];
    } else {
        shift[o] = t->bias >= 0 ? (double)values(q, t->bias)[o] : 0;
    }
    bool flip = gain[o] < 0;
    if (flip) gain[o] = -gain[o];
    for (size_t k = 0; k < depth; k++) {
        int level = level_of(w[k], scale[o], bits);
        if (flip) level = level < -hi ? hi : -level;
        levels[place_of(l, o, k)] = (int8_t)level;
    }
}

static nb_status freeze_layer(nb_ctx *ctx, const nbi_qat *q, int index, nbi_frozen *f) {
    const nbi_layer *l = &q->net->layer[index];
    size_t channels = (size_t)l->geometry.out_c;
    int8_t *levels = nbi_arena_alloc(&f->arena, l->n_weights, 1);
    float *scale = nbi_arena_alloc(&f->arena, channels, sizeof *scale);
    double *gain = nbi_arena_alloc(&f->arena, channels, sizeof *gain);
    double *shift = nbi_arena_alloc(&f->arena, channels, sizeof *shift);
    if (!levels || !scale || !gain || !shift) return nb_fail_memory(ctx, l->n_weights);
    for (size_t o = 0; o < channels; o++)
        freeze_channel(q, index, o, levels, scale, gain, shift);
    f->conv[index] = (nbi_frozen_conv){.bits = q->bits[l->weight_site],
                                       .levels = levels,
                                       .scale = scale,
                                       .gain = gain,
                                       .shift = shift};
    return NB_OK;
}

static nb_status freeze(nb_ctx *ctx, const nbi_qat *q, nbi_frozen *f) {
    const nbi_qnet *net = q->net;
    f->net = net;
    f->site = nbi_arena_alloc(&f->arena, (size_t)net->n_sites, sizeof *f->site);
    f->conv = nbi_arena_alloc(&f->arena, (size_t)net->n_layers, sizeof *f->conv);
    if (!f->site || !f->conv) return nb_fail_memory(ctx, sizeof *f->site);
    for (int s = 0; s < net->n_sites; s++) {
        if (net->site[s].kind == NBI_SITE_WEIGHT) continue;
        f->site[s] = net->site[s].fit[q->bits[s]];
        if (q->site_scale[s] >= 0)
            f->site[s].scale = (double)fmaxf(*values(q, q->site_scale[s]), 1e-30f);
    }
    for (int l = 0; l < net->n_layers; l++)
        if (net->layer[l].type == NBI_LAYER_CONV) NB_TRY(freeze_layer(ctx, q, l, f));
    return NB_OK;
}

nb_status nbi_qat_freeze(nb_ctx *ctx, const nbi_qat *q, nbi_frozen **out) {
    nbi_frozen *f;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *f, &f));
    nb_status st = freeze(ctx, q, f);
    if (st == NB_OK) *out = f;
    else nbi_frozen_free(f);
    return st;
}
