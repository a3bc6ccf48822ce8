/* Integer programs built by hand for tests, and their evaluation with the reference kernels, every
 * tensor in memory of its own: what the planner and the generated C are compared with. */
#ifndef NIBBLE_TESTS_HANDMADE_H
#define NIBBLE_TESTS_HANDMADE_H

#include "ir/program.h"

#include <stdlib.h>
#include <string.h>

#define HANDMADE_MAX 96

typedef struct handmade {
    nbi_program p;
    nbi_rng rng;
    nbi_ptensor tensor[HANDMADE_MAX];
    nbi_step step[HANDMADE_MAX];
} handmade;

static inline void *handmade_alloc(handmade *n, size_t bytes) {
    void *data = nbi_arena_alloc(&n->p.arena, bytes, 1);
    if (!data) abort();
    return data;
}

static inline void *handmade_bytes(handmade *n, size_t bytes) {
    uint8_t *data = handmade_alloc(n, bytes);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)nbi_rng_below(&n->rng, 256);
    return data;
}

/* min..max */
static inline int handmade_pick(handmade *n, int min, int max) {
    return min + (int)nbi_rng_below(&n->rng, (uint32_t)(max - min + 1));
}

static inline int handmade_tensor(handmade *n, nb_dtype dtype, int h, int w, int c) {
    if (n->p.n_tensors == HANDMADE_MAX) abort();
    nbi_ptensor *t = &n->tensor[n->p.n_tensors];
    t->name = nbi_arena_format(&n->p.arena, "t%d", n->p.n_tensors);
    t->dtype = dtype;
    t->rank = 4;
    t->dim[0] = 1, t->dim[1] = c, t->dim[2] = h, t->dim[3] = w;
    t->h = h, t->w = w, t->c = c;
    t->count = (size_t)h * (size_t)w * (size_t)c;
    t->bytes = nbi_dtype_bytes(dtype, t->count);
    t->scale = 0.1 / (1 + n->p.n_tensors);
    t->lo = dtype == NB_DTYPE_U8 ? 0 : -128;
    t->hi = t->lo + 255;
    return n->p.n_tensors++;
}

static inline void handmade_start(handmade *n, uint64_t seed, nb_dtype dtype, int h, int w, int c) {
    memset(n, 0, sizeof *n);
    nbi_rng_seed(&n->rng, seed, 7);
    n->p.name = "handmade";
    n->p.tensor = n->tensor;
    n->p.step = n->step;
    n->p.input = handmade_tensor(n, dtype, h, w, c);
    n->p.input_is_pixels = dtype == NB_DTYPE_U8;
    n->tensor[n->p.input].is_input = true;
}

static inline void handmade_output(handmade *n, int t) {
    n->p.output[n->p.n_outputs++] = t;
    n->tensor[t].is_output = true;
}

static inline void handmade_end(handmade *n) {
    nbi_arena_free(&n->p.arena);
}

static inline nbi_step *handmade_step(handmade *n, nbi_step_type type, int in, int out) {
    if (n->p.n_steps == HANDMADE_MAX) abort();
    nbi_step *s = &n->step[n->p.n_steps++];
    s->type = type;
    s->name = nbi_arena_format(&n->p.arena, "step_%d", n->p.n_steps);
    s->n_in = 1;
    s->in[0] = in;
    s->out = out;
    return s;
}

static inline uint8_t handmade_type(const handmade *n, int t) {
    const nb_dtype d = n->tensor[t].dtype;
    return d == NB_DTYPE_U8 ? NBK_U8 : d == NB_DTYPE_S8 ? NBK_S8 : NBK_S32;
}

typedef struct handmade_window {
    int k, stride, pad, dilation;
} handmade_window;

static inline int handmade_size(int in, const handmade_window *v) {
    return (in + 2 * v->pad - v->dilation * (v->k - 1) - 1) / v->stride + 1;
}

/* Another bias, of 8 or 16 bits, beside its int32 form. */
static inline void handmade_narrow(handmade *n, nbi_step_conv *conv, bool depthwise) {
    nbk_conv *p = &conv->p;
    const size_t channels = (size_t)p->out_c, taps = conv->w_count / channels;
    int32_t *bias = handmade_alloc(n, channels * 4);
    int8_t *levels = handmade_alloc(n, conv->w_count), *bytes = handmade_alloc(n, channels);
    int16_t *halves = handmade_alloc(n, channels * 2);
    nbk_unpack(p->w, p->w_bits, p->w_levels, 0, conv->w_count, levels);
    conv->bias_bits = nbi_rng_below(&n->rng, 2) ? 8 : 16;
    conv->bias_shift = (int8_t)handmade_pick(n, 28, 36);
    for (size_t o = 0; o < channels; o++) {
        const int top = conv->bias_bits == 8 ? 127 : 3000, k = p->shift[o] - conv->bias_shift;
        const int code = handmade_pick(n, -top - 1, top);
        int32_t sum = 0;
        bytes[o] = (int8_t)(conv->bias_bits == 8 ? code : 0);
        halves[o] = (int16_t)code;
        for (size_t i = 0; i < taps; i++) sum += levels[depthwise ? i * channels + o : o * taps + i];
        bias[o] = code * (1 << (k > 0 ? k : 0)) - p->in_zero * sum;
    }
    conv->bias_codes = conv->bias_bits == 8 ? (const void *)bytes : halves;
    p->bias = bias;
}

static inline int handmade_conv(handmade *n, int in, int out_c, handmade_window v, int groups,
                                int bits, bool levels, nb_dtype dtype) {
    const nbi_ptensor t = n->tensor[in];
    const bool depthwise = groups == t.c && out_c == t.c && groups > 1;
    const int out =
        handmade_tensor(n, dtype, handmade_size(t.h, &v), handmade_size(t.w, &v), out_c);
    nbi_step *s = handmade_step(n, depthwise ? NBI_STEP_DWCONV : NBI_STEP_CONV, in, out);
    nbk_conv *p = &s->u.conv.p;
    p->in_h = (int16_t)t.h, p->in_w = (int16_t)t.w, p->in_c = (int16_t)t.c;
    p->out_h = (int16_t)n->tensor[out].h, p->out_w = (int16_t)n->tensor[out].w;
    p->out_c = (int16_t)out_c;
    p->kh = p->kw = (int16_t)v.k, p->sh = p->sw = (int16_t)v.stride;
    p->dh = p->dw = (int16_t)v.dilation, p->pt = p->pl = (int16_t)v.pad;
    p->groups = (int16_t)groups;
    p->in_zero = (int16_t)handmade_pick(n, 0, 3);
    p->out_zero = (int16_t)handmade_pick(n, -3, 3);
    p->in_type = handmade_type(n, in), p->out_type = handmade_type(n, out);
    p->w_bits = (uint8_t)bits;
    const bool wide = dtype == NB_DTYPE_S32;
    p->out_lo = wide ? INT32_MIN : n->tensor[out].lo;
    p->out_hi = wide ? INT32_MAX : n->tensor[out].hi;
    s->u.conv.w_count = (size_t)out_c * (size_t)(v.k * v.k) * (size_t)(t.c / groups);
    s->u.conv.w_bytes = (s->u.conv.w_count * (size_t)bits + 7) / 8;
    p->w = handmade_bytes(n, s->u.conv.w_bytes);
    p->w_levels = levels ? handmade_bytes(n, (size_t)1 << bits) : NULL;
    int32_t *bias = handmade_alloc(n, (size_t)out_c * 4),
            *mult = handmade_alloc(n, (size_t)out_c * 4);
    uint8_t *shift = handmade_alloc(n, (size_t)out_c);
    const bool zero_bias = handmade_pick(n, 0, 2) == 0;
    for (int o = 0; o < out_c; o++) {
        bias[o] = zero_bias ? 0 : handmade_pick(n, -3000, 3000);
        mult[o] = handmade_pick(n, 1 << 29, INT32_MAX - 1);
        shift[o] =
            (uint8_t)(wide ? handmade_pick(n, 20, 31) : handmade_pick(n, 33 + bits / 2, 36 + bits));
    }
    p->bias = bias, p->mult = mult, p->shift = shift;
    if (nbi_rng_below(&n->rng, 2)) handmade_narrow(n, &s->u.conv, depthwise);
    return out;
}

static inline int handmade_add(handmade *n, int a, int b, nb_dtype dtype) {
    const nbi_ptensor t = n->tensor[a];
    const int out = handmade_tensor(n, dtype, t.h, t.w, t.c);
    nbi_step *s = handmade_step(n, NBI_STEP_ADD, a, out);
    s->n_in = 2;
    s->in[1] = b;
    s->u.add = (nbk_add){.count = (int32_t)t.count,
                         .a_mult = handmade_pick(n, 200000, 900000),
                         .b_mult = handmade_pick(n, -900000, 900000),
                         .a_zero = (int16_t)handmade_pick(n, -9, 9),
                         .b_zero = (int16_t)handmade_pick(n, -9, 9),
                         .out_zero = (int16_t)handmade_pick(n, -9, 9),
                         .out_lo = (int16_t)n->tensor[out].lo,
                         .out_hi = (int16_t)n->tensor[out].hi,
                         .a_type = handmade_type(n, a),
                         .b_type = handmade_type(n, b),
                         .out_type = handmade_type(n, out),
                         .shift = 20};
    return out;
}

/* b: the shape of a, or a vector of its channels. */
static inline int handmade_mul(handmade *n, int a, int b, nb_dtype dtype) {
    const nbi_ptensor t = n->tensor[a];
    const bool vector = n->tensor[b].count != t.count;
    const int out = handmade_tensor(n, dtype, t.h, t.w, t.c);
    nbi_step *s = handmade_step(n, NBI_STEP_MUL, a, out);
    s->n_in = 2;
    s->in[1] = b;
    s->u.mul = (nbk_mul){.count = (int32_t)t.count,
                         .b_channels = vector ? t.c : 0,
                         .mult = handmade_pick(n, 1 << 29, INT32_MAX - 1),
                         .a_zero = (int16_t)handmade_pick(n, -9, 9),
                         .b_zero = (int16_t)handmade_pick(n, -9, 9),
                         .out_zero = (int16_t)handmade_pick(n, -9, 9),
                         .out_lo = (int16_t)n->tensor[out].lo,
                         .out_hi = (int16_t)n->tensor[out].hi,
                         .a_type = handmade_type(n, a),
                         .b_type = handmade_type(n, b),
                         .out_type = handmade_type(n, out),
                         .shift = 37};
    return out;
}

static inline int handmade_lut(handmade *n, int in, bool per_channel, const uint8_t *table,
                               nb_dtype dtype) {
    const nbi_ptensor t = n->tensor[in];
    const int channels = per_channel ? t.c : 1;
    const int out = handmade_tensor(n, dtype, t.h, t.w, t.c);
    nbi_step *s = handmade_step(n, NBI_STEP_LUT, in, out);
    s->u.lut = (nbk_lut){.count = (int32_t)t.count, .channels = (int16_t)channels};
    s->u.lut.table = table ? table : handmade_bytes(n, (size_t)channels * 256);
    return out;
}

static inline int handmade_pool(handmade *n, int in, handmade_window v, bool average) {
    const nbi_ptensor t = n->tensor[in];
    const int out =
        handmade_tensor(n, t.dtype, handmade_size(t.h, &v), handmade_size(t.w, &v), t.c);
    nbi_step *s = handmade_step(n, average ? NBI_STEP_AVGPOOL : NBI_STEP_MAXPOOL, in, out);
    nbk_pool *p = &s->u.pool;
    p->in_h = (int16_t)t.h, p->in_w = (int16_t)t.w, p->c = (int16_t)t.c;
    p->out_h = (int16_t)n->tensor[out].h, p->out_w = (int16_t)n->tensor[out].w;
    p->kh = p->kw = (int16_t)v.k, p->sh = p->sw = (int16_t)v.stride;
    p->dh = p->dw = (int16_t)v.dilation, p->pt = p->pl = (int16_t)v.pad;
    p->type = p->out_type = handmade_type(n, in);
    if (!average) return out;
    const int taps = v.k * v.k;
    int32_t *mult = handmade_alloc(n, (size_t)(taps + 1) * 4);
    uint8_t *shift = handmade_alloc(n, (size_t)taps + 1);
    mult[0] = ((1 << 30) + taps / 2) / taps, shift[0] = 30; /* with count_pad the only one */
    for (int i = 1; i <= taps; i++) mult[i] = ((1 << 30) + i / 2) / i, shift[i] = 30;
    p->mult = mult, p->shift = shift;
    p->count_pad = (uint8_t)handmade_pick(n, 0, 1);
    p->in_zero = p->out_zero = 2;
    p->out_lo = (int16_t)n->tensor[out].lo, p->out_hi = (int16_t)n->tensor[out].hi;
    return out;
}

/* Copies `in` into the channels of `out` from `first` on (Concat); fills first if asked. */
static inline void handmade_copy(handmade *n, int in, int out, int first, bool fill) {
    const nbi_ptensor *t = &n->tensor[in], *o = &n->tensor[out];
    nbi_step *s = handmade_step(n, NBI_STEP_COPY, in, out);
    s->u.copy = (nbk_copy){.n = {1, 1, 1, t->h, t->w, t->c},
                           .in_stride = {0, 0, 0, t->w * t->c, t->c, 1},
                           .out_stride = {0, 0, 0, o->w * o->c, o->c, 1},
                           .out_offset = first,
                           .fill_bytes = fill ? (int32_t)o->bytes : 0,
                           .fill_value = -5,
                           .size = (uint8_t)(t->bytes / t->count)};
}

static inline int handmade_concat(handmade *n, int a, int b) {
    const nbi_ptensor t = n->tensor[a];
    const int out = handmade_tensor(n, t.dtype, t.h, t.w, t.c + n->tensor[b].c + 1);
    handmade_copy(n, a, out, 0, true);
    handmade_copy(n, b, out, t.c, false);
    return out;
}

/* A residual block, depthwise and pointwise, a gate, pools, a dense layer of 32-bit logits. */
static inline int handmade_every_step(handmade *n, int bits) {
    const handmade_window same3 = {3, 1, 1, 1}, down3 = {3, 2, 1, 1}, point = {1, 1, 0, 1};
    int x = handmade_lut(n, n->p.input, true, NULL, NB_DTYPE_S8);
    x = handmade_conv(n, x, 8, same3, 1, bits, false, NB_DTYPE_U8);
    int y = handmade_conv(n, x, 8, same3, 2, 1 + bits % 8, bits <= 4, NB_DTYPE_S8);
    x = handmade_add(n, x, y, NB_DTYPE_U8);
    x = handmade_conv(n, x, 8, down3, 8, bits, true, NB_DTYPE_U8);
    y = handmade_conv(n, x, 12, point, 1, bits, false, NB_DTYPE_U8);
    const int size = n->tensor[y].h;
    int gate = handmade_pool(n, y, (handmade_window){size, 1, 0, 1}, true);
    gate = handmade_conv(n, gate, 12, point, 1, bits, false, NB_DTYPE_U8);
    y = handmade_mul(n, y, gate, NB_DTYPE_U8);
    x = handmade_concat(n, x, y);
    x = handmade_pool(n, x, (handmade_window){3, 2, 1, 1}, false);
    x = handmade_pool(n, x, (handmade_window){2, 1, 1, 1}, true);
    const handmade_window all = {n->tensor[x].h, 1, 0, 1};
    x = handmade_conv(n, x, 10, all, 1, bits, false, NB_DTYPE_S32);
    y = handmade_tensor(n, NB_DTYPE_S32, 1, 1, 10); /* the logits, last one first */
    handmade_copy(n, x, y, 0, false);
    n->step[n->p.n_steps - 1].u.copy.in_offset = 9;
    n->step[n->p.n_steps - 1].u.copy.in_stride[5] = -1;
    return y;
}

static inline void handmade_run_step(const nbi_step *s, const void *a, const void *b, void *out) {
    void *scratch = malloc(nbi_step_scratch_bytes(s) + 1);
    switch (s->type) {
    case NBI_STEP_CONV:
        if (s->sum) nbk_conv_add_run(&s->u.conv.p, s->sum, a, b, out, scratch);
        else nbk_conv_run(&s->u.conv.p, a, out, scratch);
        break;
    case NBI_STEP_DWCONV:
        nbk_dwconv_run(&s->u.conv.p, a, out, scratch);
        break;
    case NBI_STEP_ADD:
        nbk_add_run(&s->u.add, a, b, out);
        break;
    case NBI_STEP_MUL:
        nbk_mul_run(&s->u.mul, a, b, out);
        break;
    case NBI_STEP_LUT:
        nbk_lut_run(&s->u.lut, a, out);
        break;
    case NBI_STEP_MAXPOOL:
        nbk_maxpool_run(&s->u.pool, a, out);
        break;
    case NBI_STEP_AVGPOOL:
        nbk_avgpool_run(&s->u.pool, a, out);
        break;
    case NBI_STEP_COPY:
        nbk_copy_run(&s->u.copy, a, out);
        break;
    case NBI_STEP_FLOAT:
    case NBI_STEP_TYPES:
        break; /* its result is never looked at */
    }
    free(scratch);
}

/* Values of tensor i in value[i], from malloc; the caller frees all n_tensors. */
static inline void handmade_run(const nbi_program *p, const void *input, void **value) {
    for (int t = 0; t < p->n_tensors; t++) value[t] = calloc(p->tensor[t].bytes + 1, 1);
    memcpy(value[p->input], input, p->tensor[p->input].bytes);
    for (int i = 0; i < p->n_steps; i++) {
        const nbi_step *s = &p->step[i];
        handmade_run_step(s, value[s->in[0]], s->n_in > 1 ? value[s->in[1]] : NULL, value[s->out]);
    }
}

static inline int32_t handmade_value(const nbi_ptensor *t, const void *data, size_t i) {
    return t->dtype == NB_DTYPE_S32  ? ((const int32_t *)data)[i]
           : t->dtype == NB_DTYPE_U8 ? ((const uint8_t *)data)[i]
                                     : ((const int8_t *)data)[i];
}

#endif
