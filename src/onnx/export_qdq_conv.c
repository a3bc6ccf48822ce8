/* Convolutions and dense layers: levels in an integer initializer, per channel a scale (weight scale
 * times gain) and an int32 bias at the scale of the sums. Codes of 4 and 2 bits become int8 levels by
 * Cast and Gather from a table before DequantizeLinear: runtimes fold both at load time and then find
 * an int8 convolution, where DequantizeLinear of int4 would leave a float one. */
#include "onnx/export_qdq_parts.h"

#include "ops/op_util.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define MAX_BIAS ((double)(1 << 30)) /* as in runtime/lower_conv.c */
#define ONNX_INT32 6

/* scale[c], bias[c], bias_scale[c] of a layer; levels of a channel that is 0 stay as they are, its
 * scale is. */
typedef struct channels {
    float *scale, *bias_scale;
    int32_t *bias;
} channels;

static nb_status channels_of(nbi_qdq *q, const nbi_layer *l, const nbi_frozen_conv *conv,
                             double x_scale, channels *out) {
    size_t n = (size_t)l->geometry.out_c;
    nbi_arena *a = &q->g->arena;
    out->scale = nbi_arena_alloc(a, n, sizeof *out->scale);
    out->bias_scale = nbi_arena_alloc(a, n, sizeof *out->bias_scale);
    out->bias = nbi_arena_alloc(a, n, sizeof *out->bias);
    if (!out->scale || !out->bias_scale || !out->bias) return nb_fail_memory(q->ctx, n * 12);
    for (size_t c = 0; c < n; c++) {
        double unit = conv->gain[c] * x_scale * (double)conv->scale[c]; /* real value of one */
        double b = unit > 0 ? conv->shift[c] / unit : INFINITY;
        if (!(fabs(b) <= MAX_BIAS)) {
            b = conv->shift[c] < 0 ? -MAX_BIAS : conv->shift[c] > 0 ? MAX_BIAS : 0;
            unit = fabs(conv->shift[c]) / MAX_BIAS;
        }
        if (unit / x_scale < (double)FLT_MIN || unit < (double)FLT_MIN)
            unit = b = 0; /* nothing that float32 can tell from 0 */
        out->scale[c] = (float)(unit / x_scale);
        out->bias_scale[c] = (float)(x_scale * (double)out->scale[c]);
        out->bias[c] = (int32_t)rint(b);
    }
    return NB_OK;
}

/* Level number i of the ONNX order [out][in][taps]. */
static int8_t level_at(const nbi_layer *l, const int8_t *levels, size_t i) {
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    return levels[nbi_weight_place(l, i / depth, i % depth)];
}

/* Codes in containers of `bits`, two's complement, to int8 levels: negative codes index from the
 * table's end. */
static nb_status look_up(nbi_qdq *q, const nbi_frozen_conv *conv, int bits, int *value) {
    int8_t table[16];
    int64_t size = 1 << bits;
    int step = nbk_level_step(conv->bits), last = (1 << conv->bits) - 1;
    nbi_node *cast, *gather;
    int in[2] = {*value};
    for (int i = 0; i < size; i++)
        table[i] = conv->table ? conv->table[i < last ? i : last]
                               : (int8_t)((i < size / 2 ? i : i - (int)size) * step);
    NB_TRY(nbi_qdq_node(q, NULL, "Cast", 1, in, -1, &cast, &in[1]));
    NB_TRY(nbi_node_set_int(q->ctx, q->g, cast, "to", ONNX_INT32));
    NB_TRY(nbi_qdq_const(q, NB_DTYPE_S8, 1, &size, table, &in[0]));
    return nbi_qdq_node(q, NULL, "Gather", 2, in, -1, &gather, value);
}

/* What is stored of a level: its place in the table, or its uniform code. Containers of a byte hold
 * the levels of a table themselves. */
static int8_t code_of(const nbi_frozen_conv *conv, int8_t level, bool narrow) {
    int code = 0;
    if (!conv->table) return (int8_t)(level / nbk_level_step(conv->bits));
    if (!narrow) return level;
    while (conv->table[code] != level) code++;
    return (int8_t)code; /* the packing keeps the low bits: two's complement */
}

static nb_status add_weights(nbi_qdq *q, const nbi_layer *l, const nbi_frozen_conv *conv, int rank,
                             const int64_t *dim, int *out) {
    const char *name = q->net->site[l->weight_site].name;
    nb_dtype dtype = conv->bits <= 2 && q->containers == 2 ? NB_DTYPE_S2
                     : conv->bits <= 4                     ? NB_DTYPE_S4
                                                           : NB_DTYPE_S8;
    nbi_buf levels = {0};
    nb_status st = NB_OK;
    for (size_t i = 0; i < l->n_weights && st == NB_OK; i++) {
        int8_t v = code_of(conv, level_at(l, conv->levels, i), dtype != NB_DTYPE_S8);
        st = nbi_buf_append(q->ctx, &levels, &v, 1);
    }
    name = nbi_arena_format(&q->g->arena, "%s_q", name);
    if (st == NB_OK && !name) st = nb_fail_memory(q->ctx, 8);
    if (st == NB_OK) st = nbi_graph_add_const(q->ctx, q->g, name, dtype, rank, dim, out);
    if (st == NB_OK && dtype == NB_DTYPE_S8)
        memcpy(q->g->tensor[*out]->data, levels.data, l->n_weights);
    else if (st == NB_OK)
        nbi_bits_pack(dtype, levels.data, l->n_weights, q->g->tensor[*out]->data);
    nbi_buf_free(&levels);
    NB_TRY(st);
    if (dtype == NB_DTYPE_S8) return NB_OK;
    return look_up(q, conv, dtype == NB_DTYPE_S2 ? 2 : 4, out);
}

/* DequantizeLinear along axis 0. Zero points, all 0, are written where ONNX Runtime needs them: it
 * fuses dense layers only with them, and where a layer's output stays float its switch from int8 to
 * uint8 weights (x64quantprecision) fails without; it also fails when two layers share them. */
static nb_status dequantize(nbi_qdq *q, int codes, int n, const float *scale, bool zeros, int *out) {
    int in[3] = {codes, -1, -1};
    int64_t dim = n;
    nbi_node *node;
    NB_TRY(nbi_qdq_const(q, NB_DTYPE_F32, 1, &dim, scale, &in[1]));
    if (zeros) {
        const char *name = nbi_arena_format(&q->g->arena, "z%d", q->names++);
        if (!name) return nb_fail_memory(q->ctx, 8);
        NB_TRY(nbi_graph_add_const(q->ctx, q->g, name, NB_DTYPE_S8, 1, &dim, &in[2]));
    }
    NB_TRY(nbi_qdq_node(q, NULL, "DequantizeLinear", zeros ? 3 : 2, in, -1, &node, out));
    return nbi_node_set_int(q->ctx, q->g, node, "axis", 0);
}

static nb_status set_window(nbi_qdq *q, nbi_node *to, const nbi_node *from) {
    const nbi_conv_params *p = from->params;
    const nbi_window *w = &p->w;
    int64_t pads[2 * NBI_MAX_SPATIAL];
    bool padded = false, dilated = false, strided = false;
    for (int i = 0; i < w->n; i++) {
        pads[i] = w->pad_begin[i];
        pads[w->n + i] = w->pad_end[i];
        padded |= pads[i] || pads[w->n + i];
        dilated |= w->dilation[i] != 1;
        strided |= w->stride[i] != 1;
    }
    size_t n = (size_t)w->n;
    NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "kernel_shape", n, w->kernel));
    if (padded) NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "pads", 2 * n, pads));
    if (strided) NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "strides", n, w->stride));
    if (dilated) NB_TRY(nbi_node_set_ints(q->ctx, q->g, to, "dilations", n, w->dilation));
    if (p->group != 1) NB_TRY(nbi_node_set_int(q->ctx, q->g, to, "group", p->group));
    return NB_OK;
}

nb_status nbi_qdq_conv(nbi_qdq *q, int layer) {
    const nbi_layer *l = &q->net->layer[layer];
    const nbi_frozen_conv *conv = &q->frozen->conv[layer];
    const nbi_node *from = q->net->graph->node[l->node[0]];
    const nbi_tensor *w = q->net->graph->tensor[from->in[1]];
    const nbi_qparam *x = nbi_qdq_param(q, l->in[0]);
    bool dense = strcmp(from->op_type, "Conv") != 0;
    int n = l->geometry.out_c, in[3], value;
    int64_t flat[2] = {n, l->geometry.in_c}, count = n;
    channels ch;
    nbi_node *node;
    if (!nbi_qdq_is_code(x))
        return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' reads a tensor that is not quantized",
                       l->name);
    NB_TRY(channels_of(q, l, conv, x->scale, &ch));
    NB_TRY(nbi_qdq_real(q, l->in[0], &in[0]));
    NB_TRY(add_weights(q, l, conv, dense ? 2 : w->rank, dense ? flat : w->dim, &in[1]));
    bool zeros = dense || !nbi_qdq_is_code(nbi_qdq_param(q, l->out));
    NB_TRY(dequantize(q, in[1], n, ch.scale, zeros, &in[1]));
    NB_TRY(nbi_qdq_const(q, NB_DTYPE_S32, 1, &count, ch.bias, &in[2]));
    NB_TRY(dequantize(q, in[2], n, ch.bias_scale, false, &in[2]));
    NB_TRY(nbi_qdq_node(q, l->name, dense ? "Gemm" : "Conv", 3, in, nbi_qdq_value_out(q, l), &node,
                        &value));
    if (dense) NB_TRY(nbi_node_set_int(q->ctx, q->g, node, "transB", 1));
    else NB_TRY(set_window(q, node, from));
    return nbi_qdq_finish(q, l, value);
}
