/* Convolutions: y = gain·sx·sw·Σ(v−zx)·k + shift becomes integer bias, multiplier and shift per
 * output channel (docs/quantization.md, "Canonical convolution"). */
#include "runtime/lower_parts.h"
#include "quant/fit.h"

#include <math.h>
#include <string.h>

#define MAX_BIAS ((double)(1 << 30))

typedef struct sums {
    int64_t *level, *magnitude; /* Σk and Σ|k| per output channel */
} sums;

static nb_status sum_levels(nb_ctx *ctx, const nbi_layer *l, const int8_t *levels,
                            nbi_arena *arena, sums *s) {
    size_t channels = (size_t)l->geometry.out_c;
    s->level = nbi_arena_alloc(arena, channels, sizeof *s->level);
    s->magnitude = nbi_arena_alloc(arena, channels, sizeof *s->magnitude);
    if (!s->level || !s->magnitude) return nb_fail_memory(ctx, channels * 8);
    for (size_t i = 0; i < l->n_weights; i++) {
        int c = nbi_weight_channel(l, i);
        s->level[c] += levels[i];
        s->magnitude[c] += levels[i] < 0 ? -levels[i] : levels[i];
    }
    return NB_OK;
}

/* Channels of gain 0 are constants: their levels are 0 where they can be, so that nothing of the sums
 * is left beside the shift. */
static nb_status clear_constants(nb_ctx *ctx, const nbi_layer *l, nbi_arena *arena,
                                 nbi_frozen_conv *conv) {
    bool any = false;
    int8_t *levels;
    for (size_t i = 0; i < l->n_weights; i++)
        any |= conv->levels[i] && conv->gain[nbi_weight_channel(l, i)] == 0;
    if (!any || !nbi_has_zero_level(conv->bits, conv->table)) return NB_OK;
    levels = nbi_arena_alloc(arena, l->n_weights, 1);
    if (!levels) return nb_fail_memory(ctx, l->n_weights);
    for (size_t i = 0; i < l->n_weights; i++)
        levels[i] = conv->gain[nbi_weight_channel(l, i)] == 0 ? 0 : conv->levels[i];
    conv->levels = levels;
    return NB_OK;
}

/* The real value of one step of a channel's sums. */
static double unit_of(const nbi_frozen_conv *conv, const nbi_qparam *x, size_t c) {
    return conv->gain[c] * x->scale * (double)conv->scale[c];
}

static nb_status rescale(nb_ctx *ctx, const nbi_layer *l, size_t c, double r, int32_t *mult,
                         uint8_t *shift) {
    nb_status st = nbi_rescale_of(ctx, r, mult, shift);
    return st == NB_OK ? NB_OK
                       : nb_fail_prefix(ctx, st, "node '%s', channel %zu", l->name, c);
}

/* Gains are folded: the shifts become what narrow biases hold. */
static nb_status narrow_shifts(nb_ctx *ctx, const nbi_layer *l, const nbi_qparam *x,
                               const nbi_qparam *y, nbi_arena *arena, nbi_frozen_conv *conv) {
    size_t channels = (size_t)l->geometry.out_c;
    double *bias = nbi_arena_alloc(arena, channels, sizeof *bias);
    uint8_t *shift = nbi_arena_alloc(arena, channels, 1);
    int8_t base;
    int32_t mult;
    if (!bias || !shift) return nb_fail_memory(ctx, channels * 9);
    for (size_t c = 0; c < channels; c++) {
        NB_TRY(rescale(ctx, l, c, unit_of(conv, x, c) / y->scale, &mult, &shift[c]));
        bias[c] = conv->shift[c] / unit_of(conv, x, c);
    }
    nbi_fit_bias(conv->bias_bits, channels, shift, bias, &base);
    for (size_t c = 0; c < channels; c++) conv->shift[c] = bias[c] * unit_of(conv, x, c);
    return NB_OK;
}

nb_status nbi_fold_gain(nb_ctx *ctx, const nbi_layer *l, const nbi_qparam *x, const nbi_qparam *y,
                        nbi_arena *arena, nbi_frozen_conv *conv) {
    size_t channels = (size_t)l->geometry.out_c;
    float *scale = nbi_arena_alloc(arena, channels, sizeof *scale);
    if (!scale) return nb_fail_memory(ctx, channels * sizeof *scale);
    NB_TRY(clear_constants(ctx, l, arena, conv));
    for (size_t c = 0; c < channels; c++) {
        /* a shift far outside what the weights can reach: all but a constant. A constant proper
         * (beside levels of 0) is a bias of one step. */
        bool constant = conv->gain[c] == 0 && nbi_has_zero_level(conv->bits, conv->table);
        double steps = nbi_fold_channel(conv->gain[c] * (double)conv->scale[c], conv->shift[c],
                                        x->scale, constant, &scale[c]);
        conv->gain[c] = 1;
        conv->shift[c] = steps * (x->scale * (double)scale[c]);
    }
    conv->scale = scale;
    if (!nbi_bias_is_narrow(conv->bias_bits)) return NB_OK;
    return narrow_shifts(ctx, l, x, nbi_made_grid(y), arena, conv);
}

nb_status nbi_frozen_fold(nb_ctx *ctx, nbi_frozen *frozen) {
    const nbi_qnet *net = frozen->net;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type == NBI_LAYER_CONV)
            NB_TRY(nbi_fold_gain(ctx, l, &frozen->site[net->edge[l->in[0]].site],
                                 &frozen->site[net->edge[l->out].site], &frozen->arena,
                                 &frozen->conv[i]));
    }
    return NB_OK;
}

/* What the C stores of a narrow bias. */
static nb_status store_bias(nb_ctx *ctx, int bits, size_t channels, const double *bias,
                            const uint8_t *shift, nbi_arena *arena, nbi_step_conv *out) {
    int8_t *bytes = nbi_arena_alloc(arena, channels, sizeof *bytes);
    int16_t *halves = nbi_arena_alloc(arena, channels, sizeof *halves);
    if (!bytes || !halves) return nb_fail_memory(ctx, channels * 3);
    for (size_t c = 0; c < channels; c++) {
        double code = ldexp(bias[c], -nbi_bias_exponent(shift[c], out->bias_shift));
        if (bits == 8) bytes[c] = (int8_t)code;
        else halves[c] = (int16_t)code;
    }
    out->bias_codes = bits == 8 ? (const void *)bytes : halves;
    out->bias_bits = (uint8_t)bits;
    return NB_OK;
}

/* `pack`: what only the C reads, too. */
static nb_status channel_params(nb_ctx *ctx, const nbi_layer *l, const nbi_frozen_conv *conv,
                                const nbi_qparam *x, const nbi_qparam *y, bool pack,
                                nbi_arena *arena, nbi_step_conv *out) {
    size_t channels = (size_t)l->geometry.out_c;
    sums s;
    NB_TRY(sum_levels(ctx, l, conv->levels, arena, &s));
    double *steps = nbi_arena_alloc(arena, channels, sizeof *steps);
    int32_t *bias = nbi_arena_alloc(arena, channels, sizeof *bias);
    int32_t *mult = nbi_arena_alloc(arena, channels, sizeof *mult);
    uint8_t *shift = nbi_arena_alloc(arena, channels, 1);
    if (!steps || !bias || !mult || !shift) return nb_fail_memory(ctx, channels * 17);
    for (size_t c = 0; c < channels; c++) {
        double unit = unit_of(conv, x, c);
        steps[c] = fmin(fmax(conv->shift[c] / unit, -MAX_BIAS), MAX_BIAS);
        NB_TRY(rescale(ctx, l, c, unit / y->scale, &mult[c], &shift[c]));
    }
    nbi_fit_bias(conv->bias_bits, channels, shift, steps, &out->bias_shift);
    int64_t top = x->hi > -x->lo ? x->hi : -x->lo;
    out->range.acc_bound = 0;
    for (size_t c = 0; c < channels; c++) {
        int64_t whole = (int64_t)steps[c] - (int64_t)x->zero * s.level[c];
        int64_t bound = (whole < 0 ? -whole : whole) + s.magnitude[c] * top;
        if (bound > INT32_MAX)
            return nb_fail(ctx, NB_EUNSUPPORTED,
                           "node '%s': the sums of output channel %zu can reach %lld, more than 31 "
                           "bits hold",
                           l->name, c, (long long)bound);
        if (bound > out->range.acc_bound) out->range.acc_bound = bound;
        bias[c] = (int32_t)whole;
    }
    out->p.bias = bias;
    out->p.mult = mult;
    out->p.shift = shift;
    if (!pack || !nbi_bias_is_narrow(conv->bias_bits)) return NB_OK;
    return store_bias(ctx, conv->bias_bits, channels, steps, shift, arena, out);
}

/* What codes mean, and the levels that can occur. */
static nb_status set_table(nb_ctx *ctx, const nbi_frozen_conv *conv, nbi_arena *arena,
                           nbi_step_conv *out) {
    int unit = nbk_level_step(conv->bits), half = 1 << (conv->bits - 1);
    out->p.w_levels = nbi_level_table(conv->bits);
    out->range.w_min = unit * (conv->bits == 1 ? -1 : -half);
    out->range.w_max = unit * (conv->bits == 1 ? 1 : half - 1);
    if (!conv->table) return NB_OK;
    size_t entries = (size_t)1 << conv->bits;
    int8_t *table = nbi_arena_alloc(arena, entries, 1);
    if (!table) return nb_fail_memory(ctx, entries);
    out->p.w_levels = memcpy(table, conv->table, entries);
    out->range.w_min = table[0];
    out->range.w_max = table[entries - 1];
    return NB_OK;
}

nb_status nbi_lower_conv(nb_ctx *ctx, const nbi_qnet *net, int index, const nbi_qparam *site,
                         const nbi_frozen_conv *conv, bool pack, nbi_arena *arena,
                         nbi_step *step) {
    const nbi_layer *l = &net->layer[index];
    const nbi_qparam *x = &site[net->edge[l->in[0]].site];
    const nbi_qparam *y = nbi_made_grid(&site[net->edge[l->out].site]);
    nbi_step_conv *out = &step->u.conv;
    step->type = l->depthwise ? NBI_STEP_DWCONV : NBI_STEP_CONV;
    out->p = l->geometry;
    out->p.in_zero = (int16_t)x->zero;
    out->p.in_type = nbi_element_type(x);
    out->p.out_type = nbi_element_type(y);
    out->p.out_zero = (int16_t)y->zero;
    out->p.w_bits = (uint8_t)conv->bits;
    NB_TRY(set_table(ctx, conv, arena, out));
    nbi_clamp_range(l, y, &out->p.out_lo, &out->p.out_hi);
    out->levels = conv->levels;
    out->w_count = l->n_weights;
    out->w_bytes = nbi_packed_bytes(l->n_weights, conv->bits);
    out->range.in_min = x->lo;
    out->range.in_max = x->hi;
    NB_TRY(channel_params(ctx, l, conv, x, y, pack, arena, out));
    if (pack) {
        uint8_t *packed = nbi_arena_alloc(arena, out->w_bytes, 1);
        if (!packed) return nb_fail_memory(ctx, out->w_bytes);
        nbi_pack_codes(out->levels, out->w_count, conv->bits, conv->table, packed);
        out->p.w = packed;
    }
    return NB_OK;
}
