/* Weights and biases of an imported network. The layer's float weights are scale·(code − zero) in
 * the layer's own order, with signs and alpha applied, so dividing by the scale gives the levels in
 * that order whatever the operator: the quotient is within 2^−22 of an integer below 2^9. */
#include "quant/import_qdq_parts.h"

#include "exec/exec.h"
#include "ops/op_util.h"
#include "quant/canonical.h"
#include "quant/fit.h"

#include <math.h>
#include <string.h>

static bool is_const(const nbi_graph *g, int t) {
    return t < 0 || g->tensor[t]->data;
}

/* The initializer behind a node's input in the file: through Cast, QuantizeLinear… */
static const char *root_name(const nbi_graph *file, int tensor) {
    for (int depth = 0; depth < 8; depth++) {
        int p = file->tensor[tensor]->producer;
        if (p < 0 || file->node[p]->n_in < 1 || file->node[p]->in[0] < 0) break;
        int data = nbi_op_is(file->node[p], "Gather") ? 1 : 0; /* codes index a table of levels */
        tensor = file->node[p]->in[data];
    }
    return file->tensor[tensor]->name;
}

static nb_status check_scales(nbi_qdq_import *im, const nbi_node *node, const nbi_tensor *scale) {
    const float *s = scale->data;
    for (int64_t i = 0, n = nbi_tensor_count(scale); i < n; i++)
        if (!(s[i] >= 0) || !isfinite(s[i]))
            return nb_fail(im->ctx, NB_EFORMAT, "node '%s' (DequantizeLinear): scale '%s' holds %g "
                           "at %lld, want a positive number", node->name, scale->name,
                           (double)s[i], (long long)i);
    return NB_OK;
}

nb_status nbi_qdq_fold_weights(nbi_qdq_import *im, nbi_graph *g) {
    int kept = 0;
    NB_TRY(nbi_alloc(im->ctx, (size_t)g->n_tensors + 1, sizeof *im->entry, &im->entry));
    for (int n = 0; n < g->n_nodes; n++) {
        nbi_node *node = g->node[n];
        bool dequantize = nbi_op_is(node, "DequantizeLinear"), folded = false;
        bool candidate = dequantize || nbi_op_is(node, "QuantizeLinear");
        for (int i = 0; i < node->n_in; i++) candidate &= is_const(g, node->in[i]);
        if (candidate) {
            const nbi_quant_params *p = node->params;
            const nbi_tensor *scale = nbi_op_in(g, node, 1);
            if (dequantize) NB_TRY(check_scales(im, node, scale));
            NB_TRY(nbi_fold_node(im->ctx, g, node, &folded));
            if (folded && dequantize && p->block == 0)
                im->entry[node->out[0]] = (nbi_qdq_const_entry){
                    nbi_op_in(g, node, 0), scale, nbi_op_in(g, node, 2), p->axis,
                    root_name(im->source, node->in[0])};
        }
        if (!folded) g->node[kept++] = node;
    }
    g->n_nodes = kept;
    nbi_graph_prune(g);
    return NB_OK;
}

/* ---- weights -------------------------------------------------------------------------------- */

static const nbi_node *first_node(const nbi_qdq_import *im, const nbi_layer *l) {
    return im->net->graph->node[l->node[0]];
}

/* The axis of the weight tensor that output channels run along. */
static int channel_axis(const nbi_node *node) {
    if (nbi_op_is(node, "Conv")) return 0;
    const nbi_gemm_params *p = nbi_op_is(node, "Gemm") ? node->params : NULL;
    return p && p->trans_b ? 0 : 1;
}

static nb_status weight_entry(const nbi_qdq_import *im, const nbi_layer *l,
                              const nbi_qdq_const_entry **out) {
    const nbi_node *node = first_node(im, l);
    const nbi_qdq_const_entry *w = &im->entry[node->in[1]];
    if (!w->codes)
        return nb_fail(im->ctx, NB_EUNSUPPORTED, "node '%s' (%s): its weights are not quantized",
                       node->name, node->op_type);
    if (nbi_dtype_bits(w->codes->dtype) > 8)
        return nb_fail(im->ctx, NB_EUNSUPPORTED, "node '%s' (%s): weights of type %s",
                       node->name, node->op_type, nbi_dtype_name(w->codes->dtype));
    if (w->axis >= 0 && w->axis != channel_axis(node))
        return nb_fail(im->ctx, NB_EUNSUPPORTED, "node '%s' (%s): the scales of its weights run "
                       "along axis %d, not along its outputs", node->name, node->op_type, w->axis);
    *out = w;
    return NB_OK;
}

static float scale_of(const nbi_qdq_const_entry *w, int channel) {
    return ((const float *)w->scale->data)[w->axis < 0 ? 0 : channel];
}

/* The narrowest width that holds levels lo…hi, all multiples of `unit`. */
static int width_of(int lo, int hi, int unit, bool zeros) {
    int bits = 2;
    if (!zeros && lo >= -unit && hi <= unit) return 1;
    while (lo / unit < -(1 << (bits - 1)) || hi / unit >= 1 << (bits - 1)) bits++;
    return bits;
}

/* Every bias is a whole number of steps that are `times` as wide as those of scale. */
static bool biases_allow(const nbi_layer *l, const nbi_qparam *x, const nbi_frozen_conv *conv,
                         const float *scale, int times) {
    for (int c = 0; c < l->geometry.out_c; c++) {
        double unit = conv->gain[c] * x->scale * (double)scale[c], k = conv->shift[c] / unit;
        if (!(unit > 0) || conv->shift[c] == 0) continue; /* such a channel is made anew */
        if (!(fabs(k - times * rint(k / times)) < 1e-6)) return false;
    }
    return true;
}

/* The levels that occur, in order, as a table of `width` bits; false when they are more. */
static bool table_of(const nbi_layer *l, const int8_t *levels, int width, int8_t table[256]) {
    bool seen[256] = {false};
    int n = 0;
    for (size_t i = 0; i < l->n_weights; i++) seen[levels[i] + 128] = true;
    for (int v = 0; v < 256; v++)
        if (seen[v] && n < 1 << width) table[n++] = (int8_t)(v - 128);
        else if (seen[v]) return false;
    for (int i = n; i < 1 << width; i++) table[i] = n ? table[n - 1] : 0;
    return true;
}

/* Brings levels onto the grid of the narrowest width that holds them, or of `width` where that is
 * known and fits: multiples of its level step, with the scale that keeps the real values. The steps
 * of the sums become wider only where the biases stay exact. Levels that are not uniform stay as they
 * are, with a table, where the width is known and holds it. */
static void settle_width(const nbi_layer *l, const nbi_qparam *x, const nbi_frozen_conv *conv,
                         int width, int8_t *levels, float *scale, int *bits, int8_t *table,
                         bool *has_table) {
    int all = 0, lo = 0, hi = 0, unit = 128;
    bool zeros = false;
    for (size_t i = 0; i < l->n_weights; i++) {
        all |= levels[i];
        lo = levels[i] < lo ? levels[i] : lo;
        hi = levels[i] > hi ? levels[i] : hi;
        zeros |= levels[i] == 0;
    }
    while (unit > 1 && all % unit) unit /= 2;
    int known = width ? nbk_level_step(width) : 1, step;
    if (width > 1 && all % known == 0 && lo >= -known * (1 << (width - 1)) &&
        hi < known * (1 << (width - 1)))
        unit = known;
    for (;; unit /= 2) {
        *bits = width_of(lo, hi, unit, zeros);
        if (width > *bits) *bits = width;
        step = nbk_level_step(*bits);
        if (unit <= step || biases_allow(l, x, conv, scale, unit / step)) break;
    }
    *has_table = width && *bits > width && table_of(l, levels, width, table);
    if (*has_table) {
        *bits = width;
        return;
    }
    for (size_t i = 0; i < l->n_weights; i++) levels[i] = (int8_t)(levels[i] / unit * step);
    for (int c = 0; c < l->geometry.out_c; c++) scale[c] *= (float)unit / (float)step;
}

/* Fills conv->levels, scale and gain, all as in the file. */
static nb_status set_levels(nbi_qdq_import *im, const nbi_layer *l, const nbi_qdq_const_entry *w,
                            int8_t *levels, float *scale, double *gain) {
    const nbi_node *node = first_node(im, l);
    const nbi_gemm_params *p = nbi_op_is(node, "Gemm") ? node->params : NULL;
    double alpha = p ? fabs((double)p->alpha) : 1;
    for (int c = 0; c < l->geometry.out_c; c++) {
        scale[c] = scale_of(w, c);
        gain[c] = alpha * (double)l->gain[c];
    }
    for (size_t i = 0; i < l->n_weights; i++) {
        int c = nbi_weight_channel(l, i);
        double one = alpha * (double)scale[c];
        double k = one > 0 ? rint((double)l->weight[i] / one) : 0; /* 0: the channel is constant */
        if (!(k >= -128 && k <= 127))
            return nb_fail(im->ctx, NB_EUNSUPPORTED, "node '%s' (%s): weight level %g of output "
                           "channel %d does not fit int8", node->name, node->op_type, k, c);
        levels[i] = (int8_t)k;
    }
    return NB_OK;
}

/* Weight sites are named as in the network that the file was made from. */
static nb_status site_name(nbi_qdq_import *im, const nbi_qdq_const_entry *w, const char **name,
                           int *width) {
    size_t n = strlen(w->name);
    *name = nbi_arena_text(&im->net->arena, w->name, n);
    if (!*name) return nb_fail_memory(im->ctx, n);
    *width = nbi_qdq_policy_bits(im, *name, NBI_MAX_BITS);
    if (!*width && im->policy && n > 2 && !strcmp(*name + n - 2, "_q")) {
        char *stem = nbi_arena_text(&im->net->arena, w->name, n - 2);
        if (!stem) return nb_fail_memory(im->ctx, n);
        if ((*width = nbi_qdq_policy_bits(im, stem, NBI_MAX_BITS)) != 0) *name = stem;
    }
    return NB_OK;
}

static nb_status add_site(nbi_qdq_import *im, int layer, const char *name, int bits) {
    nbi_qnet *net = im->net;
    nbi_layer *l = &net->layer[layer];
    nbi_site s = {.kind = NBI_SITE_WEIGHT, .name = name, .layer = layer, .fixed_bits = bits,
                  .count = (int64_t)l->n_weights};
    return nbi_qnet_add_site(im->ctx, net, &s, &l->weight_site);
}

/* ---- biases --------------------------------------------------------------------------------- */

/* The int32 bias of a layer that is nothing but weights, bias and clamps; else NULL. */
static const nbi_qdq_const_entry *bias_entry(const nbi_qdq_import *im, const nbi_layer *l) {
    const nbi_node *node = first_node(im, l);
    const nbi_gemm_params *p = nbi_op_is(node, "Gemm") ? node->params : NULL;
    int tensor = node->n_in > 2 ? node->in[2] : -1, others = 0;
    for (int i = 1; i < l->n_nodes; i++) {
        const nbi_node *next = im->net->graph->node[l->node[i]];
        float lo, hi;
        if (nbi_canon_clamp(next, &lo, &hi)) continue;
        others++;
        if (tensor >= 0 || !nbi_op_is(next, "Add")) return NULL;
        tensor = im->net->graph->tensor[next->in[0]]->data ? next->in[0] : next->in[1];
    }
    if (tensor < 0 || others > 1 || (p && (p->beta != 1 || p->alpha != 1))) return NULL;
    const nbi_qdq_const_entry *b = &im->entry[tensor];
    if (!b->codes || b->codes->dtype != NB_DTYPE_S32) return NULL;
    if (nbi_tensor_count(b->codes) != l->geometry.out_c) return NULL;
    for (int64_t i = 0; b->zero && i < nbi_tensor_count(b->zero); i++)
        if (nbi_get_int(b->zero->dtype, b->zero->data, i) != 0) return NULL;
    return b;
}

static void set_shift(const nbi_qdq_import *im, const nbi_layer *l, nbi_frozen_conv *conv) {
    const nbi_qdq_const_entry *b = bias_entry(im, l);
    const nbi_qparam *x = &im->frozen->site[im->net->edge[l->in[0]].site];
    for (int c = 0; c < l->geometry.out_c; c++) {
        conv->shift[c] = (double)l->shift[c];
        if (!b || conv->gain[c] != 1) continue;
        double k = (double)nbi_get_int(NB_DTYPE_S32, b->codes->data, c);
        double unit = x->scale * (double)conv->scale[c], s = (double)scale_of(b, c);
        /* the file's float32 scale stands for the exact product, but for a level step */
        double times = exp2(rint(log2(s / unit)));
        if (fabs(s / unit / times - 1) < 1e-5) conv->shift[c] = k * times * unit;
    }
}

/* What every format holds: a whole number of accumulator steps; a constant where no weight
 * matters, or where the bias is beyond what they can reach. */
static void settle(const nbi_qparam *x, int channels, nbi_frozen_conv *conv, float *scale) {
    const double most = (double)(1 << 30);
    for (int c = 0; c < channels; c++) {
        double s = conv->gain[c] * (double)scale[c], reach = fabs(conv->shift[c]) / most;
        if (!(s * x->scale >= reach)) s = reach / x->scale;
        scale[c] = fmaxf((float)s, 1e-30f);
        double unit = x->scale * (double)scale[c];
        conv->gain[c] = 1;
        conv->shift[c] = fmin(fmax(rint(conv->shift[c] / unit), -most), most) * unit;
    }
}

static nb_status freeze_layer(nbi_qdq_import *im, int layer) {
    const nbi_layer *l = &im->net->layer[layer];
    nbi_frozen_conv *conv = &im->frozen->conv[layer];
    nbi_arena *arena = &im->frozen->arena;
    const nbi_qparam *x = &im->frozen->site[im->net->edge[l->in[0]].site];
    size_t channels = (size_t)l->geometry.out_c;
    const nbi_qdq_const_entry *w = NULL;
    NB_TRY(weight_entry(im, l, &w));
    if (x->dtype != NB_DTYPE_U8 && x->dtype != NB_DTYPE_S8)
        return nb_fail(im->ctx, NB_EUNSUPPORTED, "node '%s' reads tensor '%s', which is not "
                       "quantized", l->name, im->net->edge[l->in[0]].name);
    int8_t *levels = nbi_arena_alloc(arena, l->n_weights, 1);
    float *scale = nbi_arena_alloc(arena, channels, sizeof *scale);
    conv->gain = nbi_arena_alloc(arena, channels, sizeof *conv->gain);
    conv->shift = nbi_arena_alloc(arena, channels, sizeof *conv->shift);
    if (!levels || !scale || !conv->gain || !conv->shift) return nb_fail_memory(im->ctx, channels);
    conv->levels = levels;
    conv->scale = scale;
    const char *name;
    int width;
    NB_TRY(site_name(im, w, &name, &width));
    NB_TRY(set_levels(im, l, w, levels, scale, conv->gain));
    set_shift(im, l, conv);
    int8_t table[256];
    bool has_table;
    settle_width(l, x, conv, width, levels, scale, &conv->bits, table, &has_table);
    if (has_table) {
        int8_t *own = nbi_arena_alloc(&im->frozen->arena, (size_t)1 << conv->bits, 1);
        if (!own) return nb_fail_memory(im->ctx, 256);
        conv->table = memcpy(own, table, (size_t)1 << conv->bits);
    }
    NB_TRY(add_site(im, layer, name, conv->bits));
    settle(x, (int)channels, conv, scale);
    return NB_OK;
}

static bool biases_are(nbi_qdq_import *im, int layer, int bits, double *bias, uint8_t *shift) {
    const nbi_qnet *net = im->net;
    const nbi_layer *l = &net->layer[layer];
    const nbi_frozen_conv *conv = &im->frozen->conv[layer];
    const nbi_qparam *x = &im->frozen->site[net->edge[l->in[0]].site];
    const nbi_qparam *y = nbi_made_grid(&im->frozen->site[net->edge[l->out].site]);
    size_t n = (size_t)l->geometry.out_c;
    int32_t mult;
    int8_t base;
    for (size_t c = 0; c < n; c++) {
        double unit = conv->gain[c] * x->scale * (double)conv->scale[c];
        bias[c] = conv->shift[c] / unit;
        if (nbi_rescale_of(NULL, unit / y->scale, &mult, &shift[c]) != NB_OK) return false;
    }
    nbi_fit_bias(bits, n, shift, bias, &base);
    for (size_t c = 0; c < n; c++) {
        double unit = conv->gain[c] * x->scale * (double)conv->scale[c];
        if (bias[c] != rint(conv->shift[c] / unit)) return false;
    }
    return true;
}

nb_status nbi_qdq_freeze_biases(nbi_qdq_import *im) {
    nbi_qnet *net = im->net;
    for (int i = 0; i < net->n_layers; i++) {
        nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        size_t n = (size_t)l->geometry.out_c;
        const char *name =
            nbi_arena_format(&net->arena, "%s/bias", net->site[l->weight_site].name);
        double *bias = nbi_arena_alloc(&im->frozen->arena, n, sizeof *bias);
        uint8_t *shift = nbi_arena_alloc(&im->frozen->arena, n, 1);
        if (!name || !bias || !shift) return nb_fail_memory(im->ctx, n * 9);
        int bits = nbi_qdq_policy_bits(im, name, 32);
        if (!nbi_bias_is_narrow(bits) || !biases_are(im, i, bits, bias, shift)) bits = 32;
        nbi_site s = {.kind = NBI_SITE_BIAS, .name = name, .layer = i, .fixed_bits = bits,
                      .count = (int64_t)n};
        NB_TRY(nbi_qnet_add_site(im->ctx, net, &s, &l->bias_site));
        im->frozen->conv[i].bias_bits = bits;
        im->frozen->site[l->bias_site] =
            (nbi_qparam){.dtype = NB_DTYPE_S32, .bits = bits, .scale = 1};
    }
    return NB_OK;
}

nb_status nbi_qdq_freeze_weights(nbi_qdq_import *im) {
    for (int i = 0; i < im->net->n_layers; i++)
        if (im->net->layer[i].type == NBI_LAYER_CONV) NB_TRY(freeze_layer(im, i));
    return NB_OK;
}
