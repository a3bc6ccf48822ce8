/* From a trained graph back to integers: weight levels and scales, per-channel gain and shift from
 * BatchNormalization's running statistics, activation grids with the learned steps. */
#include "quant/fit.h"
#include "quant/qat_schemes.h"

#include <math.h>
#include <string.h>

#define EPSILON 1e-5

static const float *values(const nbi_qat *q, int tensor) {
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

/* A channel as nbi_fold_gain sees it: the gain in a float32 scale, the shift in steps of the sums. */
typedef struct channel {
    double unit, shift; /* real value of a step; the shift, in steps */
    double offset;      /* the tensor that is trained holds shift·unit + offset */
} channel;

static channel channel_of(const nbi_qat *q, int index, double x_step, int64_t o) {
    const nbi_qat_layer *t = &q->layer[index];
    float scale = nbi_qat_weight_unit(q, index, (size_t)o);
    double gain = 1, shift = 0, mean = 0;
    shift = (double)values(q, t->gamma >= 0 ? t->beta : t->bias)[o];
    if (t->gamma >= 0) {
        gain = (double)values(q, t->gamma)[o] / sqrt((double)values(q, t->variance)[o] + EPSILON);
        mean = (double)values(q, t->mean)[o];
        shift -= gain * mean;
    }
    double unit = x_step * (double)(float)(fabs(gain) * (double)scale);
    return (channel){unit, unit > 0 ? shift / unit : INFINITY, gain * mean};
}

static bool is_steady(const channel *c) { /* not all but a constant */
    return fabs(c->shift) < (double)(1 << 30);
}

static void settle_layer(const nbi_qat *q, int index) {
    const nbi_layer *l = &q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    float *beta = q->graph->tensor[t->gamma >= 0 ? t->beta : t->bias]->data;
    int bits = q->bits[l->bias_site], n = l->geometry.out_c;
    double x_step = step_of(q, l->in[0], false), y = step_of(q, l->out, true);
    int8_t base;
    for (int o = 0; o < n; o++) {
        channel c = channel_of(q, index, x_step, o);
        int32_t mult;
        q->work_bias[o] = is_steady(&c) ? c.shift : 0; /* 0: decides nothing */
        q->work_shift[o] = 0;
        if (nbi_bias_is_narrow(bits) && is_steady(&c))
            (void)nbi_rescale_of(NULL, c.unit / y, &mult, &q->work_shift[o]);
    }
    nbi_fit_bias(bits, (size_t)n, q->work_shift, q->work_bias, &base);
    for (int o = 0; o < n; o++) {
        channel c = channel_of(q, index, x_step, o);
        if (is_steady(&c)) beta[o] = (float)(q->work_bias[o] * c.unit + c.offset);
    }
}

void nbi_qat_settle(const nbi_qat *q) {
    for (int i = 0; i < q->net->n_layers; i++) {
        if (q->layer[i].weight < 0) continue;
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

/* y = gain·Σ w·x + shift of the trained layer. */
static void affine_of(const nbi_qat *q, int index, size_t o, double *gain, double *shift) {
    const nbi_qat_layer *t = &q->layer[index];
    *gain = 1;
    *shift = t->bias >= 0 ? (double)values(q, t->bias)[o] : 0;
    if (t->gamma < 0) return;
    *gain = (double)values(q, t->gamma)[o] / sqrt((double)values(q, t->variance)[o] + EPSILON);
    *shift = (double)values(q, t->beta)[o] - *gain * (double)values(q, t->mean)[o];
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
    if (nbi_choice_scheme(q->bits[l->weight_site])) {
        nbi_qat_refit(q, index);
        NB_TRY(nbi_qat_code_weights(ctx, q, index, &f->arena, conv));
    } else {
        for (size_t o = 0; o < channels; o++) code_channel(q, index, o, levels, scale);
    }
    for (size_t o = 0; o < channels; o++) {
        affine_of(q, index, o, &gain[o], &shift[o]);
        if (gain[o] >= 0) continue;
        /* moves into the levels; the lowest one, whose negative does not exist, becomes the highest */
        gain[o] = -gain[o];
        nbi_qat_flip(l, conv, o, levels);
    }
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
