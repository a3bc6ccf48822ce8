/* From a trained graph back to integers: weight levels and scales, per-channel gain and shift from
 * BatchNormalization's running statistics, activation grids with the learned steps. */
#include "quant/fit.h"
#include "quant/qat_schemes.h"

#include <math.h>
#include <string.h>

static float *values(const nbi_qat *q, int tensor) {
    return q->graph->tensor[tensor]->data;
}

/* The code of FakeQuant's lsq: the full range; 1 bit: the sign. */
static int code_of(float w, float scale, int bits) {
    int top = 1 << (bits - 1);
    return bits == 1 ? (w < 0 ? -1 : 1) : nbi_level_of(w, scale, -top, top - 1);
}

/* The real value of a step of an edge's codes; `made`: of what a layer computes, before a table. */
static double step_of(const nbi_qat *q, int edge, bool made) {
    nbi_levels room;
    nbi_qparam grid;
    nbi_qat_site_grid(q, q->net->edge[edge].site, &room, &grid);
    return made ? nbi_made_grid(&grid)->scale : grid.scale;
}

/* y = gain·Σ w·x + shift of the trained layer. */
static void affine_of(const nbi_qat *q, int index, size_t o, double *gain, double *shift) {
    const nbi_qat_layer *t = &q->layer[index];
    *gain = 1;
    *shift = t->bias >= 0 ? (double)values(q, t->bias)[o] : 0;
    if (t->gamma < 0) return;
    *gain = (double)values(q, t->gamma)[o] / sqrt((double)values(q, t->variance)[o] + (double)NBI_QAT_EPSILON);
    *shift = (double)values(q, t->beta)[o] - *gain * (double)values(q, t->mean)[o];
}

/* Moves the sign of gains into the weights, before these are coded: levels that are not symmetric would
 * have no place for the negatives of codes. `back`: as they were before. */
static void turn(const nbi_qat *q, int index, bool back) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    size_t channels = (size_t)l->geometry.out_c, depth = l->n_weights / channels;
    for (size_t o = 0; t->gamma >= 0 && o < channels; o++) {
        float *gamma = &values(q, t->gamma)[o], *w = values(q, t->weight) + o * depth;
        if (!back) q->work_shift[o] = *gamma < 0;
        if (!q->work_shift[o]) continue;
        *gamma = -*gamma;
        values(q, t->mean)[o] = -values(q, t->mean)[o];
        for (size_t k = 0; k < depth; k++) w[k] = -w[k];
    }
}

/* Channel o computes what the integer program computes: its scale, its shift. */
static void settle_channel(const nbi_qat *q, int index, size_t o, double gain, double x_step) {
    const nbi_qat_layer *t = &q->layer[index];
    float unit = nbi_qat_weight_unit(q, index, o), scale = q->work_scale[o];
    double shift = q->work_bias[o] * (x_step * (double)scale);
    if (t->gamma < 0) {
        values(q, t->bias)[o] = (float)shift;
        return;
    }
    values(q, t->beta)[o] = (float)shift;
    values(q, t->mean)[o] = 0;
    bool constant = gain == 0 && nbi_qat_has_zero(q, index);
    if (constant || scale == (float)(gain * (double)unit)) return;
    values(q, t->gamma)[o] = (float)((double)scale / (double)unit *
                                     sqrt((double)values(q, t->variance)[o] + (double)NBI_QAT_EPSILON));
}

static void settle_layer(const nbi_qat *q, int index) {
    const nbi_layer *l = &q->net->layer[index];
    size_t n = (size_t)l->geometry.out_c;
    int bits = q->bits[l->bias_site];
    bool zero = nbi_qat_has_zero(q, index);
    double x_step = step_of(q, l->in[0], false), y = step_of(q, l->out, true), gain, shift;
    int8_t base;
    for (size_t o = 0; o < n; o++) {
        double unit = (double)nbi_qat_weight_unit(q, index, o);
        int32_t mult;
        affine_of(q, index, o, &gain, &shift);
        q->work_bias[o] = nbi_fold_channel(gain * unit, shift, x_step, gain == 0 && zero,
                                           &q->work_scale[o]);
        q->work_shift[o] = 0;
        if (nbi_bias_is_narrow(bits))
            (void)nbi_rescale_of(NULL, x_step * (double)q->work_scale[o] / y, &mult,
                                 &q->work_shift[o]);
    }
    nbi_fit_bias(bits, n, q->work_shift, q->work_bias, &base);
    for (size_t o = 0; o < n; o++) {
        affine_of(q, index, o, &gain, &shift);
        settle_channel(q, index, o, gain, x_step);
    }
}

void nbi_qat_settle(const nbi_qat *q) {
    for (int i = 0; i < q->net->n_layers; i++) {
        if (q->layer[i].weight < 0) continue;
        turn(q, i, false);
        nbi_qat_refit(q, i);
        settle_layer(q, i);
    }
}

static void code_channel(const nbi_qat *q, int index, size_t o, int8_t *levels, float *scale) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    int bits = nbi_choice_bits(q->bits[l->weight_site]);
    bool one = q->graph->tensor[t->weight_scale]->dim[0] == 1;
    const float *w = values(q, t->weight) + o * depth;
    scale[o] = fmaxf(values(q, t->weight_scale)[one ? 0 : o], 1e-30f);
    for (size_t k = 0; k < depth; k++)
        levels[nbi_weight_place(l, o, k)] =
            (int8_t)(code_of(w[k], scale[o], bits) * nbk_level_step(bits));
    scale[o] /= (float)nbk_level_step(bits);
}

static nb_status code_layer(nb_ctx *ctx, const nbi_qat *q, int index, nbi_frozen *f,
                            int8_t *levels, float *scale) {
    const nbi_layer *l = &q->net->layer[index];
    nbi_frozen_conv *conv = &f->conv[index];
    size_t channels = (size_t)l->geometry.out_c;
    if (nbi_choice_scheme(q->bits[l->weight_site])) {
        nbi_qat_refit(q, index);
        return nbi_qat_code_weights(ctx, q, index, &f->arena, conv);
    }
    for (size_t o = 0; o < channels; o++) code_channel(q, index, o, levels, scale);
    return NB_OK;
}

static nb_status freeze_layer(nb_ctx *ctx, const nbi_qat *q, int index, nbi_frozen *f) {
    const nbi_layer *l = &q->net->layer[index];
    size_t channels = (size_t)l->geometry.out_c;
    int8_t *levels = nbi_arena_alloc(&f->arena, l->n_weights, 1);
    float *scale = nbi_arena_alloc(&f->arena, channels, sizeof *scale);
    double *gain = nbi_arena_alloc(&f->arena, channels, sizeof *gain);
    double *shift = nbi_arena_alloc(&f->arena, channels, sizeof *shift);
    if (!levels || !scale || !gain || !shift) return nb_fail_memory(ctx, l->n_weights);
    nbi_frozen_conv *conv = &f->conv[index];
    *conv = (nbi_frozen_conv){.bits = nbi_choice_bits(q->bits[l->weight_site]),
                              .bias_bits = q->bits[l->bias_site],
                              .levels = levels,
                              .scale = scale,
                              .gain = gain,
                              .shift = shift};
    turn(q, index, false);
    nb_status st = code_layer(ctx, q, index, f, levels, scale);
    for (size_t o = 0; o < channels; o++) affine_of(q, index, o, &gain[o], &shift[o]);
    turn(q, index, true);
    return st;
}

static nb_status freeze(nb_ctx *ctx, const nbi_qat *q, nbi_frozen *f) {
    const nbi_qnet *net = q->net;
    f->net = net;
    f->site = nbi_arena_alloc(&f->arena, (size_t)net->n_sites, sizeof *f->site);
    f->conv = nbi_arena_alloc(&f->arena, (size_t)net->n_layers, sizeof *f->conv);
    if (!f->site || !f->conv) return nb_fail_memory(ctx, sizeof *f->site);
    for (int s = 0; s < net->n_sites; s++) {
        if (net->site[s].kind == NBI_SITE_WEIGHT) continue;
        if (net->site[s].kind == NBI_SITE_BIAS) {
            f->site[s] = (nbi_qparam){.dtype = NB_DTYPE_S32, .bits = q->bits[s], .scale = 1};
            continue;
        }
        nbi_levels *levels = NULL;
        if (nbi_choice_scheme(q->bits[s])) {
            levels = nbi_arena_alloc(&f->arena, 1, sizeof *levels);
            if (!levels) return nb_fail_memory(ctx, sizeof *levels);
        }
        nbi_qat_site_grid(q, s, levels, &f->site[s]);
    }
    for (int l = 0; l < net->n_layers; l++)
        if (net->layer[l].type == NBI_LAYER_CONV) NB_TRY(freeze_layer(ctx, q, l, f));
    return NB_OK;
}

nb_status nbi_qat_freeze(nb_ctx *ctx, const nbi_qat *q, nbi_frozen **out) {
    nbi_frozen *f;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *f, &f));
    nb_status st = freeze(ctx, q, f);
    if (st == NB_OK)
        *out = f;
    else
        nbi_frozen_free(f);
    return st;
}
