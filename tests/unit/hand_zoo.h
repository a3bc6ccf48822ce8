/* One small network with every kind of integer layer, and the formula of each layer in double. */
#ifndef HAND_ZOO_H
#define HAND_ZOO_H

#include "ops/params.h"
#include "unit/hand_net.h"

enum { ZOO_C = 8, ZOO_SIDE = 9, ZOO_CLASSES = 5 };

static inline int zoo_gate(hand *h, int x) { /* squeeze and excitation */
    int g = hand_op(h, "GlobalAveragePool", x);
    g = hand_op(h, "Relu", hand_conv(h, g, ZOO_C, 4, 1, (hand_window){1, 1, 1, 0}));
    g = hand_op(h, "Sigmoid", hand_conv(h, g, 4, ZOO_C, 1, (hand_window){1, 1, 1, 0}));
    return hand_op2(h, "Mul", g, x);
}

/* The output (logits). seed also chooses among activations and poolings. */
static inline int zoo_build(hand *h, uint64_t seed) {
    static const float gamma[ZOO_C] = {1, -0.8f, 0, 0.5f, -1.5f, 2, 0.1f, 1};
    static const int64_t slope[3] = {ZOO_C, 1, 1};
    int odd = seed & 1, x = HAND_IMAGE(h, seed, 3, ZOO_SIDE, ZOO_SIDE);
    x = hand_bn(h, hand_conv3(h, x, 3, ZOO_C), ZOO_C, gamma);
    int a = odd ? hand_op(h, "Relu", x) : hand_clip(h, x, 0, 2);
    int b = hand_conv(h, a, ZOO_C, ZOO_C, ZOO_C, (hand_window){3, 1, 1, 1});
    b = hand_op(h, odd ? "HardSwish" : "Relu", hand_bn(h, b, ZOO_C, gamma));
    int c = hand_conv(h, b, ZOO_C, ZOO_C, 2, (hand_window){3, 1, 2, 2});
    c = hand_op2(h, "PRelu", c, hand_random(h, 3, slope, 0.2, 0.1));
    int d = hand_clip(h, hand_conv3(h, c, ZOO_C, ZOO_C), -1, 1.5f);
    int s = hand_op2(h, "Add", a, d);
    if (odd) s = hand_op(h, "Relu", s);
    s = hand_op2(h, "Sub", s, hand_conv(h, s, ZOO_C, ZOO_C, 1, (hand_window){1, 1, 1, 0}));
    s = zoo_gate(h, s);
    s = hand_op2(h, "Mul", s, hand_op(h, "Sigmoid", s));
    int p = hand_pool(h, "AveragePool", s, 3, 2, 1);
    if (odd) hand_int(h, "count_include_pad", 1);
    int q = hand_pool(h, "MaxPool", s, 3, 2, 1);
    int j = hand_op2(h, "Concat", q, p);
    hand_int(h, "axis", 1);
    j = hand_conv(h, j, 2 * ZOO_C, ZOO_C, 1, (hand_window){3, 2, 1, 1});
    j = hand_bn(h, hand_op(h, "Tanh", j), ZOO_C, gamma);
    int flat = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", j));
    return hand_gemm(h, flat, ZOO_C, ZOO_CLASSES);
}

/* Pixels instead of float inputs: 256 random values per channel, one of them 0. */
static inline void zoo_pixels(hand *h, size_t images) {
    const nbi_edge *e = &h->net->edge[h->net->input];
    h->net->input_is_image = true;
    for (int c = 0; c < e->c; c++)
        for (int b = 0; b < 256; b++)
            h->net->input_table[c][b] = (float)(b - 100 - 10 * c) / 60;
    h->images = images;
    h->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    h->input = calloc(images * h->count, sizeof *h->input);
    h->codes = calloc(images * h->count, 1);
    size_t space = (size_t)e->h * (size_t)e->w;
    for (size_t i = 0; i < images * h->count; i++) {
        size_t k = i % h->count, at = i - k + hand_storage(e, k);
        h->codes[at] = (uint8_t)nbi_rng_below(&h->rng, 256);
        h->input[i] = h->net->input_table[k / space][h->codes[at]];
    }
    hand_calibrate_method(h, NBI_RANGE_MSE);
}

/* ---- formulas: real values in storage order ------------------------------------------------ */

static inline hand *zoo_ready(hand *h, uint64_t seed, size_t images, bool pixels) {
    hand_finish(h, zoo_build(h, seed));
    if (pixels) zoo_pixels(h, images);
    else hand_calibrate(h, images);
    return h;
}

static inline double zoo_clamp(double v, double lo, double hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* gain·scale·Σ k·x + shift, before the clamp. */
static inline void zoo_conv(const nbi_layer *l, const nbi_frozen_conv *f, const double *x,
                            double *y) {
    const nbk_conv *g = &l->geometry;
    int ic = g->in_c / g->groups, oc = g->out_c / g->groups;
    for (int oy = 0; oy < g->out_h; oy++)
        for (int ox = 0; ox < g->out_w; ox++)
            for (int o = 0; o < g->out_c; o++) {
                double sum = 0;
                for (int ky = 0; ky < g->kh; ky++)
                    for (int kx = 0; kx < g->kw; kx++) {
                        int iy = oy * g->sh - g->pt + ky * g->dh;
                        int ix = ox * g->sw - g->pl + kx * g->dw;
                        if (iy < 0 || iy >= g->in_h || ix < 0 || ix >= g->in_w) continue;
                        for (int i = 0; i < ic; i++) {
                            int tap = ky * g->kw + kx;
                            int k = l->depthwise ? f->levels[tap * g->out_c + o]
                                                 : f->levels[(o * g->kh * g->kw + tap) * ic + i];
                            sum += k * x[(iy * g->in_w + ix) * g->in_c + o / oc * ic + i];
                        }
                    }
                y[(oy * g->out_w + ox) * g->out_c + o] =
                    f->gain[o] * (double)f->scale[o] * sum + f->shift[o];
            }
}

static inline void zoo_pool(const nbi_layer *l, const double *x, double *y) {
    const nbk_pool *g = &l->pool;
    for (int oy = 0; oy < g->out_h; oy++)
        for (int ox = 0; ox < g->out_w; ox++)
            for (int c = 0; c < g->c; c++) {
                double sum = 0, most = -INFINITY;
                int n = 0;
                for (int ky = 0; ky < g->kh; ky++)
                    for (int kx = 0; kx < g->kw; kx++) {
                        int iy = oy * g->sh - g->pt + ky * g->dh;
                        int ix = ox * g->sw - g->pl + kx * g->dw;
                        if (iy < 0 || iy >= g->in_h || ix < 0 || ix >= g->in_w) continue;
                        double v = x[(iy * g->in_w + ix) * g->c + c];
                        sum += v;
                        most = fmax(most, v);
                        n++;
                    }
                if (g->count_pad) n = g->kh * g->kw;
                y[(oy * g->out_w + ox) * g->c + c] =
                    l->type == NBI_LAYER_MAXPOOL ? most : sum / n;
            }
}

static inline double zoo_function(const nbi_graph *g, const nbi_node *node, int c, double v) {
    const float *k[5] = {0};
    for (int i = 1; i < node->n_in; i++) k[i] = g->tensor[node->in[i]]->data;
    if (!strcmp(node->op_type, "Relu")) return fmax(v, 0);
    if (!strcmp(node->op_type, "Sigmoid")) return 1 / (1 + exp(-v));
    if (!strcmp(node->op_type, "Tanh")) return tanh(v);
    if (!strcmp(node->op_type, "HardSwish")) return v * zoo_clamp(v / 6 + 0.5, 0, 1);
    if (!strcmp(node->op_type, "PRelu")) return v < 0 ? (double)k[1][c] * v : v;
    assert_string_equal(node->op_type, "BatchNormalization");
    const nbi_batchnorm_params *p = node->params;
    return (double)k[1][c] * (v - (double)k[3][c]) / sqrt((double)k[4][c] + (double)p->epsilon) +
           (double)k[2][c];
}

/* in[i]: real values of the layer's inputs. Not for moves. */
static inline void zoo_formula(const nbi_qnet *net, const nbi_layer *l, const nbi_frozen_conv *f,
                               double *const *in, double *y) {
    const nbi_edge *out = &net->edge[l->out];
    int n = out->h * out->w * out->c;
    if (l->type == NBI_LAYER_CONV) zoo_conv(l, f, in[0], y);
    else if (l->type == NBI_LAYER_MAXPOOL || l->type == NBI_LAYER_AVGPOOL) zoo_pool(l, in[0], y);
    for (int i = 0; i < n; i++) {
        int c = i % out->c;
        if (l->type == NBI_LAYER_ADD) y[i] = in[0][i] + (double)l->sign * in[1][i];
        if (l->type == NBI_LAYER_MUL) {
            const nbi_edge *b = &net->edge[l->in[1]];
            y[i] = in[0][i] * in[1][b->h * b->w == 1 ? c : i];
        }
        if (l->type == NBI_LAYER_REQUANT || l->type == NBI_LAYER_UNARY) y[i] = in[0][i];
        for (int k = 0; l->type == NBI_LAYER_UNARY && k < l->n_nodes; k++)
            y[i] = zoo_function(net->graph, net->graph->node[l->node[k]], c, y[i]);
        y[i] = zoo_clamp(y[i], (double)l->act_lo, (double)l->act_hi);
    }
}

#endif
