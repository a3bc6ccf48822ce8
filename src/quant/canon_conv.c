/* Convolutions and dense layers: raw weights in [out][kh][kw][in] order (depthwise [kh][kw][c]),
 * everything that follows (bias, BatchNorm, constants per channel) as gain and shift, signs of the
 * gain moved into the weights. */
#include "quant/canonical.h"
#include "ops/params.h"

#include <math.h>
#include <string.h>

static nb_status check_finite(nbi_canon *c, const nbi_node *node, int tensor) {
    const nbi_tensor *t = c->graph->tensor[tensor];
    const float *x = t->data;
    for (int64_t i = 0, n = nbi_tensor_count(t); i < n; i++)
        if (!isfinite(x[i]))
            return nb_fail(c->ctx, NB_ENUMERIC, "node '%s': weight tensor '%s' holds %f at %lld",
                           node->name, t->name, (double)x[i], (long long)i);
    return NB_OK;
}

static nb_status alloc_channels(nbi_canon *c, nbi_layer *l) {
    size_t n = (size_t)l->geometry.out_c;
    nbi_arena *a = &c->net->arena;
    l->weight = nbi_arena_alloc(a, l->n_weights, sizeof *l->weight);
    l->gain = nbi_arena_alloc(a, n, sizeof *l->gain);
    l->shift = nbi_arena_alloc(a, n, sizeof *l->shift);
    l->sum_scale = nbi_arena_alloc(a, n, sizeof *l->sum_scale);
    l->sum_offset = nbi_arena_alloc(a, n, sizeof *l->sum_offset);
    if (!l->weight || !l->gain || !l->shift || !l->sum_scale || !l->sum_offset)
        return nb_fail_memory(c->ctx, l->n_weights * sizeof *l->weight);
    for (size_t i = 0; i < n; i++) l->gain[i] = l->sum_scale[i] = 1;
    return NB_OK;
}

/* Element of a constant that broadcasts over N,C,… as one value per channel, or false. */
static bool per_channel(const nbi_tensor *k, const nbi_tensor *y, int channel, float *out) {
    const float *v = k->data;
    int64_t count = nbi_tensor_count(k);
    if (k->dtype != NB_DTYPE_F32 || !v || count < 1) return false;
    if (k->rank > y->rank) return false;
    if (count == 1) {
        *out = v[0];
        return true;
    }
    int axis = k->rank - (y->rank - 1); /* of the constant that meets the channel axis */
    if (axis < 0 || k->dim[axis] != y->dim[1] || count != y->dim[1])
        return false;
    *out = v[channel];
    return true;
}

/* y' = a·y + b per channel for a node behind the layer; false if it is no such node. */
static bool affine_of(nbi_canon *c, const nbi_node *node, int tensor, int channel, float *a,
                      float *b) {
    const nbi_tensor *y = c->graph->tensor[tensor];
    *a = 1;
    *b = 0;
    if (nbi_op_is(node, "BatchNormalization")) {
        const nbi_batchnorm_params *p = node->params;
        const float *v[4];
        if (p->training) return false;
        for (int i = 0; i < 4; i++)
            if (!(v[i] = nbi_canon_const(c, node->in[i + 1]))) return false;
        *a = (float)((double)v[0][channel] / sqrt((double)v[3][channel] + (double)p->epsilon));
        *b = (float)((double)v[1][channel] - (double)*a * (double)v[2][channel]);
        return true;
    }
    bool add = nbi_op_is(node, "Add"), sub = nbi_op_is(node, "Sub");
    bool mul = nbi_op_is(node, "Mul"), div = nbi_op_is(node, "Div");
    if (!(add || sub || mul || div)) return false;
    int other = node->in[0] == tensor ? node->in[1] : node->in[0];
    float k;
    if (other < 0 || !per_channel(c->graph->tensor[other], y, channel, &k)) return false;
    bool first = node->in[0] == tensor; /* x ∘ k, else k ∘ x */
    if ((div && (!first || k == 0))) return false;
    if (add) *b = k;
    if (sub) *a = first ? 1 : -1, *b = first ? -k : k;
    if (mul) *a = k;
    if (div) *a = 1 / k;
    return true;
}

/* Takes in per-channel affine nodes, then clamps; *tensor moves on. */
static void fuse_behind(nbi_canon *c, nbi_layer *l, int *tensor) {
    for (int n; (n = nbi_canon_next(c, *tensor)) >= 0 && l->n_nodes < NBI_CANON_NODES;) {
        const nbi_node *node = c->graph->node[n];
        float a, b;
        if (!affine_of(c, node, *tensor, 0, &a, &b)) break;
        for (int k = 0; k < l->geometry.out_c; k++) {
            affine_of(c, node, *tensor, k, &a, &b);
            l->gain[k] *= a;
            l->shift[k] = a * l->shift[k] + b;
        }
        l->node[l->n_nodes++] = n;
        *tensor = node->out[0];
    }
    nbi_canon_activation(c, l, tensor);
}

/* gain ≥ 0: a negative one moves into the weights. */
static void move_signs(nbi_layer *l) {
    size_t channels = (size_t)l->geometry.out_c, n = l->n_weights / channels;
    for (size_t k = 0; k < channels; k++) {
        if (l->gain[k] >= 0) continue;
        l->gain[k] = -l->gain[k];
        l->sum_scale[k] = -1;
        for (size_t i = 0; i < n; i++) {
            float *w = l->depthwise ? &l->weight[i * channels + k] : &l->weight[k * n + i];
            *w = -*w;
        }
    }
}

static nb_status finish(nbi_canon *c, nbi_layer *l, const nbi_node *node) {
    int tensor = node->out[0];
    memcpy(l->sum_offset, l->shift, (size_t)l->geometry.out_c * sizeof *l->shift);
    l->sum_tensor = tensor;
    fuse_behind(c, l, &tensor);
    move_signs(l);
    for (int k = 0; k < l->geometry.out_c; k++)
        if (!isfinite(l->gain[k]) || !isfinite(l->shift[k]))
            return nb_fail(c->ctx, NB_ENUMERIC, "node '%s': scale or shift of output channel %d is "
                           "not a finite number", node->name, k);
    return nbi_canon_add(c, l, tensor, -INFINITY, INFINITY);
}

/* Weight (o, i, y, x) of the ONNX tensor to its place in the layer. */
static void place_weights(nbi_layer *l, const float *w) {
    const nbk_conv *g = &l->geometry;
    int ic = g->in_c / g->groups, taps = g->kh * g->kw;
    for (int o = 0; o < g->out_c; o++)
        for (int i = 0; i < ic; i++)
            for (int t = 0; t < taps; t++) {
                size_t to = l->depthwise ? (size_t)t * (size_t)g->out_c + (size_t)o
                                         : ((size_t)o * (size_t)taps + (size_t)t) * (size_t)ic +
                                               (size_t)i;
                l->weight[to] = w[((size_t)o * (size_t)ic + (size_t)i) * (size_t)taps + (size_t)t];
            }
}

nb_status nbi_canon_conv(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    const nbi_conv_params *p = node->params;
    const float *w = nbi_canon_const(c, node->in[1]);
    const nbi_tensor *wt = c->graph->tensor[node->in[1]], *yt = c->graph->tensor[node->out[0]];
    int bias = node->n_in > 2 ? node->in[2] : -1, list[NBI_CANON_NODES] = {n};
    if (!w || p->w.n > 2 || (bias >= 0 && !nbi_canon_const(c, bias))) return NB_OK;
    for (int i = 0; i < p->w.n; i++)
        if (p->w.kernel[i] > 255 || p->w.stride[i] > 255 || p->w.dilation[i] > 255 ||
            p->w.pad_begin[i] > 255 || p->w.pad_begin[i] < 0)
            return NB_OK;
    const nbi_edge *x = &c->net->edge[c->edge_of[node->in[0]]];
    int in[1] = {c->edge_of[node->in[0]]}, oh, ow, oc, one = p->w.n == 1;
    nbi_storage_shape(yt->rank, yt->dim, &oh, &ow, &oc);
    nbi_layer l = {.type = NBI_LAYER_CONV, .name = node->name, .n_in = 1, .in = in, .n_nodes = 1,
                   .node = list, .act_lo = -INFINITY, .act_hi = INFINITY};
    l.geometry = (nbk_conv){
        .in_h = (int16_t)x->h, .in_w = (int16_t)x->w, .in_c = (int16_t)x->c,
        .out_h = (int16_t)oh, .out_w = (int16_t)ow, .out_c = (int16_t)oc,
        .kh = (int16_t)(one ? 1 : p->w.kernel[0]), .kw = (int16_t)p->w.kernel[!one],
        .sh = (int16_t)(one ? 1 : p->w.stride[0]), .sw = (int16_t)p->w.stride[!one],
        .dh = (int16_t)(one ? 1 : p->w.dilation[0]), .dw = (int16_t)p->w.dilation[!one],
        .pt = (int16_t)(one ? 0 : p->w.pad_begin[0]), .pl = (int16_t)p->w.pad_begin[!one],
        .groups = (int16_t)p->group};
    l.depthwise = p->group > 1 && p->group == x->c && p->group == oc;
    l.n_weights = (size_t)nbi_tensor_count(wt);
    l.macs = (double)l.n_weights * oh * ow;
    NB_TRY(check_finite(c, node, node->in[1]));
    NB_TRY(alloc_channels(c, &l));
    place_weights(&l, w);
    if (bias >= 0)
        memcpy(l.shift, nbi_canon_const(c, bias), (size_t)oc * sizeof *l.shift);
    *built = true;
    return finish(c, &l, node);
}

nb_status nbi_canon_dense(nbi_canon *c, int n, bool *built) {
    const nbi_node *node = c->graph->node[n];
    bool gemm = nbi_op_is(node, "Gemm");
    const nbi_gemm_params *p = gemm ? node->params : NULL;
    const float *w = nbi_canon_const(c, node->in[1]);
    const nbi_tensor *xt = c->graph->tensor[node->in[0]], *wt = c->graph->tensor[node->in[1]];
    const nbi_tensor *yt = c->graph->tensor[node->out[0]];
    int bias = node->n_in > 2 ? node->in[2] : -1, list[NBI_CANON_NODES] = {n};
    if (!w || xt->data || xt->rank != 2 || wt->rank != 2 || (p && p->trans_a)) return NB_OK;
    bool rows = p && p->trans_b; /* w is [out][in] */
    int64_t k = rows ? wt->dim[1] : wt->dim[0], outputs = rows ? wt->dim[0] : wt->dim[1];
    float ignored, alpha = p ? p->alpha : 1, beta = p ? p->beta : 1;
    if (k > 32767 || outputs > 32767) return NB_OK;
    if (bias >= 0 && !per_channel(c->graph->tensor[bias], yt, 0, &ignored)) return NB_OK;
    int in[1] = {c->edge_of[node->in[0]]};
    nbi_layer l = {.type = NBI_LAYER_CONV, .name = node->name, .n_in = 1, .in = in, .n_nodes = 1,
                   .node = list, .act_lo = -INFINITY, .act_hi = INFINITY};
    l.geometry = (nbk_conv){.in_h = 1, .in_w = 1, .in_c = (int16_t)k, .out_h = 1, .out_w = 1,
                            .out_c = (int16_t)outputs, .kh = 1, .kw = 1, .sh = 1, .sw = 1,
                            .dh = 1, .dw = 1, .groups = 1};
    l.n_weights = (size_t)(k * outputs);
    l.macs = (double)l.n_weights;
    NB_TRY(check_finite(c, node, node->in[1]));
    NB_TRY(alloc_channels(c, &l));
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < k; i++)
            l.weight[o * k + i] = alpha * (rows ? w[o * k + i] : w[i * outputs + o]);
    for (int o = 0; o < (int)outputs && bias >= 0; o++) {
        per_channel(c->graph->tensor[bias], yt, o, &l.shift[o]);
        l.shift[o] *= beta;
    }
    *built = true;
    return finish(c, &l, node);
}
