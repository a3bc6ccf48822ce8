/* Small networks made by hand: a graph from the input up, its quantized network, calibration on
 * made-up images. Shared by the tests of quantization and of the integer runtime. */
#ifndef HAND_NET_H
#define HAND_NET_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec/exec.h"
#include "quant/calibrate.h"
#include "quant/generate.h"
#include "runtime/footprint.h"
#include "runtime/lower.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

typedef struct hand {
    nb_ctx *ctx;
    nbi_graph *g;   /* any batch */
    nbi_node *node; /* the last one added */
    nbi_qnet *net;
    nbi_rng rng;
    size_t images, count; /* elements of one input */
    float *input;         /* [images], ONNX order */
    uint8_t *codes;       /* [images], storage order, the input site's codes */
} hand;

#define HAND_OK(call)                                                                              \
    do {                                                                                           \
        if ((call) != NB_OK) fail_msg("%s: %s", #call, nb_ctx_message(h->ctx));                    \
    } while (0)

/* A graph with the input [batch, dim…]; returns the input. */
static inline int hand_new(hand *h, uint64_t seed, int rank, const int64_t *dim) {
    int x;
    int64_t shape[NBI_MAX_RANK] = {-1};
    *h = (hand){.ctx = nb_ctx_new()};
    nb_ctx_set_threads(h->ctx, 1);
    nbi_rng_seed(&h->rng, seed, 7);
    for (int i = 1; i < rank; i++) shape[i] = dim[i - 1];
    HAND_OK(nbi_graph_new(h->ctx, &h->g));
    h->g->opset = 14;
    HAND_OK(nbi_graph_add_tensor(h->ctx, h->g, "x", NB_DTYPE_F32, rank, shape, &x));
    HAND_OK(nbi_graph_set_inputs(h->ctx, h->g, 1, &x));
    return x;
}

#define HAND_IMAGE(h, seed, c, y, x) hand_new(h, seed, 4, (const int64_t[]){c, y, x})

static inline void hand_free(hand *h) {
    nbi_qnet_free(h->net);
    nbi_graph_free(h->g);
    nb_ctx_free(h->ctx);
    free(h->input);
    free(h->codes);
}

/* Adds a node ("Foo": an operator that nobody knows); its output. */
static inline int hand_op_n(hand *h, const char *op, int n_in, const int *in) {
    int out;
    char name[48];
    snprintf(name, sizeof name, "%s%d", op, h->g->n_nodes);
    HAND_OK(nbi_graph_add_tensor(h->ctx, h->g, name, NB_DTYPE_NONE, -1, NULL, &out));
    HAND_OK(nbi_graph_add_node(h->ctx, h->g, name, "", op, n_in, in, 1, &out, &h->node));
    return out;
}
static inline int hand_op(hand *h, const char *op, int a) {
    return hand_op_n(h, op, 1, &a);
}
static inline int hand_op2(hand *h, const char *op, int a, int b) {
    return hand_op_n(h, op, 2, (const int[]){a, b});
}
static inline void hand_int(hand *h, const char *name, int64_t v) {
    HAND_OK(nbi_node_set_int(h->ctx, h->g, h->node, name, v));
}
static inline void hand_ints(hand *h, const char *name, size_t n, const int64_t *v) {
    HAND_OK(nbi_node_set_ints(h->ctx, h->g, h->node, name, n, v));
}

/* ---- constants ------------------------------------------------------------------------------ */

static inline float *hand_data(hand *h, int tensor) {
    return h->g->tensor[tensor]->data;
}
/* Normal values: mean + deviation·N(0,1). */
static inline int hand_random(hand *h, int rank, const int64_t *dim, double mean,
                              double deviation) {
    int k;
    HAND_OK(nbi_graph_add_const(h->ctx, h->g, "k", NB_DTYPE_F32, rank, dim, &k));
    for (int64_t i = 0, n = nbi_tensor_count(h->g->tensor[k]); i < n; i++)
        hand_data(h, k)[i] = (float)(mean + deviation * nbi_rng_normal(&h->rng));
    return k;
}
static inline int hand_scalar(hand *h, float v) {
    int k = hand_random(h, 0, NULL, 0, 0);
    hand_data(h, k)[0] = v;
    return k;
}
static inline int hand_list(hand *h, size_t n, const int64_t *v) {
    int k;
    HAND_OK(nbi_graph_add_const(h->ctx, h->g, "i", NB_DTYPE_S64, 1, (const int64_t[]){(int64_t)n},
                                &k));
    memcpy(h->g->tensor[k]->data, v, n * sizeof *v);
    return k;
}

/* ---- layers --------------------------------------------------------------------------------- */

typedef struct hand_window {
    int kernel, stride, dilation, pad;
} hand_window;

/* Conv of a 4-D tensor with bias; groups = in_c = out_c: depthwise. */
static inline int hand_conv(hand *h, int x, int in_c, int out_c, int groups, hand_window w) {
    int64_t shape[4] = {out_c, in_c / groups, w.kernel, w.kernel}, n = out_c;
    double fan = (double)in_c / groups * w.kernel * w.kernel;
    int in[3] = {x, hand_random(h, 4, shape, 0, sqrt(2 / fan)), hand_random(h, 1, &n, 0, 0.1)};
    int y = hand_op_n(h, "Conv", 3, in);
    const int64_t s[2] = {w.stride, w.stride}, d[2] = {w.dilation, w.dilation};
    const int64_t p[4] = {w.pad, w.pad, w.pad, w.pad};
    hand_int(h, "group", groups);
    hand_ints(h, "strides", 2, s);
    hand_ints(h, "dilations", 2, d);
    hand_ints(h, "pads", 4, p);
    return y;
}
static inline int hand_conv3(hand *h, int x, int in_c, int out_c) {
    return hand_conv(h, x, in_c, out_c, 1, (hand_window){3, 1, 1, 1});
}
/* gamma: [c], or NULL for values around 1. */
static inline int hand_bn(hand *h, int x, int c, const float *gamma) {
    int64_t n = c;
    int in[5] = {x, hand_random(h, 1, &n, 1, 0.2), hand_random(h, 1, &n, 0, 0.3),
                 hand_random(h, 1, &n, 0, 0.3), hand_random(h, 1, &n, 1, 0.1)};
    if (gamma) memcpy(hand_data(h, in[1]), gamma, (size_t)c * sizeof *gamma);
    return hand_op_n(h, "BatchNormalization", 5, in);
}
static inline int hand_gemm(hand *h, int x, int in, int out) {
    int64_t shape[2] = {out, in}, n = out;
    int list[3] = {x, hand_random(h, 2, shape, 0, sqrt(2.0 / in)), hand_random(h, 1, &n, 0, 0.1)};
    int y = hand_op_n(h, "Gemm", 3, list);
    hand_int(h, "transB", 1);
    return y;
}
static inline int hand_clip(hand *h, int x, float lo, float hi) {
    return hand_op_n(h, "Clip", 3, (const int[]){x, hand_scalar(h, lo), hand_scalar(h, hi)});
}
static inline int hand_pool(hand *h, const char *op, int x, int kernel, int stride, int pad) {
    int y = hand_op(h, op, x);
    const int64_t k[2] = {kernel, kernel}, s[2] = {stride, stride}, p[4] = {pad, pad, pad, pad};
    hand_ints(h, "kernel_shape", 2, k);
    hand_ints(h, "strides", 2, s);
    hand_ints(h, "pads", 4, p);
    return y;
}

/* ---- from the graph to the quantized network ----------------------------------------------- */

static inline void hand_outputs(hand *h, int n, const int *out) {
    HAND_OK(nbi_graph_set_outputs(h->ctx, h->g, n, out));
    HAND_OK(nbi_graph_sort(h->ctx, h->g));
    for (int i = 0; i < h->g->n_nodes; i++)
        HAND_OK(nbi_node_prepare(h->ctx, h->g, h->g->node[i]));
}
static inline void hand_generate(hand *h, nbi_first_last first_last) {
    nbi_graph *g;
    nbi_qag_options options = {first_last, 8};
    HAND_OK(nbi_specialize_batch(h->ctx, h->g, 1, &g));
    HAND_OK(nbi_generate(h->ctx, g, &options, &h->net));
}
/* Outputs, then the network with nothing fixed but streams, inputs and outputs. */
static inline void hand_finish(hand *h, int output) {
    hand_outputs(h, 1, &output);
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
}

static inline nb_status hand_fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out) {
    (void)ctx;
    const hand *h = user;
    memcpy(out, h->input + first * h->count, n * h->count * sizeof *out);
    return NB_OK;
}

static inline size_t edge_count(const nbi_edge *e) {
    return (size_t)e->h * (size_t)e->w * (size_t)e->c;
}

/* Storage index of element i (ONNX order) of one image. */
static inline size_t hand_storage(const nbi_edge *e, size_t i) {
    size_t space = (size_t)e->h * (size_t)e->w, channels = (size_t)e->c;
    return e->rank == 3 || e->rank == 4 ? i % space * channels + i / space : i;
}

/* The codes of h->input on the input's grid. */
static inline void hand_codes(hand *h) {
    const nbi_edge *e = &h->net->edge[h->net->input];
    const nbi_qparam *q = &h->net->site[e->site].fit[8];
    for (size_t i = 0; i < h->images; i++)
        for (size_t k = 0; k < h->count; k++)
            h->codes[i * h->count + hand_storage(e, k)] =
                (uint8_t)nbi_quantize(q, h->input[i * h->count + k]);
}

static inline void hand_calibrate_method(hand *h, nbi_range_method method) {
    nbi_calibration c = {.fill = hand_fill, .user = h, .images = h->images, .range = method,
                         .score_edge = nbi_score_edge(h->net)};
    HAND_OK(nbi_calibrate(h->ctx, h->g, h->net, &c));
}
/* Normal images, then calibration. */
static inline void hand_calibrate(hand *h, size_t images) {
    const nbi_edge *e = &h->net->edge[h->net->input];
    h->images = images;
    h->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    h->input = calloc(images * h->count, sizeof *h->input);
    h->codes = calloc(images * h->count, 1);
    for (size_t i = 0; i < images * h->count; i++)
        h->input[i] = (float)nbi_rng_normal(&h->rng);
    hand_calibrate_method(h, NBI_RANGE_MSE);
    hand_codes(h);
}

/* Every bias gets this width; 0: a random one. */
static inline void hand_bias_bits(hand *h, int biases, nbi_choice *bits) {
    static const nbi_choice widths[] = {8, 16, 32};
    for (int i = 0; i < h->net->n_sites; i++)
        if (h->net->site[i].kind == NBI_SITE_BIAS)
            bits[i] = biases ? (nbi_choice)biases : widths[nbi_rng_below(&h->rng, 3)];
}

/* bits[n_sites]: fixed ones, else `weights` and `activations`; 0: random 1 (activations 2) … 8, and
 * random biases. */
static inline void hand_bits(hand *h, int weights, int activations, nbi_choice *bits) {
    for (int i = 0; i < h->net->n_sites; i++) {
        const nbi_site *s = &h->net->site[i];
        bool weight = s->kind == NBI_SITE_WEIGHT;
        int b = weight ? weights : activations, least = weight ? 1 : 2;
        if (b == 0) b = least + (int)nbi_rng_below(&h->rng, (uint32_t)(9 - least));
        bits[i] = (uint8_t)(s->fixed_bits ? s->fixed_bits : b);
    }
    if (weights == 0) hand_bias_bits(h, 0, bits);
}
#define HAND_SITES 96

static inline nbi_scorer *hand_scorer(hand *h, size_t stat_images, size_t cache_bytes) {
    nbi_scorer *s;
    nbi_scorer_options o = {h->images, h->codes, stat_images, cache_bytes, true};
    assert_in_range(h->net->n_sites, 1, HAND_SITES);
    HAND_OK(nbi_scorer_new(h->ctx, h->net, &o, &s));
    return s;
}

/* The edge that stands for a tensor of the graph, −1 if there is none. */
static inline int hand_edge(const hand *h, int tensor) {
    for (int e = 0; e < h->net->n_edges; e++)
        if (!strcmp(h->net->edge[e].name, h->g->tensor[tensor]->name)) return e;
    return -1;
}
static inline const nbi_site *hand_site(const hand *h, int tensor) {
    int e = hand_edge(h, tensor);
    assert_in_range(e, 0, h->net->n_edges - 1);
    return &h->net->site[h->net->edge[e].site];
}
/* The layer that makes a tensor. */
static inline const nbi_layer *hand_layer(const hand *h, int tensor) {
    int e = hand_edge(h, tensor);
    assert_in_range(e, 0, h->net->n_edges - 1);
    return &h->net->layer[h->net->edge[e].producer];
}
static inline int hand_count(const hand *h, nbi_layer_type type) {
    int n = 0;
    for (int i = 0; i < h->net->n_layers; i++) n += h->net->layer[i].type == type;
    return n;
}
static inline int hand_sites(const hand *h, nbi_site_kind kind) {
    int n = 0;
    for (int i = 0; i < h->net->n_sites; i++) n += h->net->site[i].kind == kind;
    return n;
}

#endif
