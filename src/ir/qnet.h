/* The quantized network: a float graph in canonical form (one layer per integer step, BatchNorm as a
 * per-channel affine, activation functions fused as clamps), with its quantization sites. Built by
 * quant/, read by runtime/lower, onnx/export_qdq and the size accounting.
 *
 * Once a policy gives every site its bits and the calibration its scales, a qnet together with a
 * frozen choice (nbi_frozen) is the one hand-over to every back end. */
#ifndef NIBBLE_IR_QNET_H
#define NIBBLE_IR_QNET_H

#include "ir/graph.h"
#include "ir/scheme.h"
#include "kernels/kernels.h"

/* How a tensor is stored: real = scale·(v − zero), lo ≤ v ≤ hi. scale is float32-representable. */
typedef struct nbi_qparam {
    nb_dtype dtype; /* U8, S8, S32; F32 = not quantized */
    int bits;
    double scale;
    int32_t zero, lo, hi;
    const struct nbi_levels *levels; /* NULL: every v occurs; else only a scheme's levels */
} nbi_qparam;

/* The levels of an activation's scheme that is no uniform rounding. What computes such a tensor
 * quantizes to `first`, 8 uniform bits, and a table brings those onto the levels, v = level + zero;
 * what is stored already (a residual stream) goes through a table directly. */
typedef struct nbi_levels {
    const nbi_scheme *scheme;
    nbi_scheme_use use;
    nbi_qparam first;
    nbi_scheme_grid grid;
    float params[NBI_SCHEME_MAX_PARAMS];
} nbi_levels;

typedef enum nbi_site_kind {
    NBI_SITE_WEIGHT,     /* a convolution's or dense layer's weights */
    NBI_SITE_ACTIVATION, /* read by convolutions only: its width is free */
    NBI_SITE_STREAM,     /* residual streams and whatever else is not a convolution's own input */
    NBI_SITE_INPUT,      /* the network's input */
    NBI_SITE_OUTPUT,     /* logits: int32 on one scale */
    NBI_SITE_BIAS        /* a convolution's or dense layer's biases: 8, 16 or 32 bits */
} nbi_site_kind;

#define NBI_MAX_BITS 8
/* What a policy gives one site: a scheme and a width, as scheme·256 + bits, so that a uniform choice
 * (scheme 0) is its number of bits; 0: not decided. A policy in its resolved form is an array of
 * them, index = site. */
typedef uint16_t nbi_choice;
static inline int nbi_choice_bits(nbi_choice c) {
    return c & 255;
}
static inline int nbi_choice_scheme(nbi_choice c) { /* a row of schemes.def */
    return c >> 8;
}
static inline nbi_choice nbi_choice_of(int scheme, int bits) {
    return (nbi_choice)(scheme << 8 | bits);
}

typedef struct nbi_hist {
    double min, max;  /* seen */
    double width;     /* of a bin; bins cover [0, bins·width) and (−bins·width, 0) */
    int64_t zeros, total;
    int64_t *positive, *negative; /* NBI_HIST_BINS counts of |x|, arena */
} nbi_hist;
#define NBI_HIST_BINS 2048

/* What an activation site got by a scheme other than 0. */
typedef struct nbi_site_fit {
    struct nbi_site_fit *next;
    nbi_choice choice;
    nbi_qparam grid;
    double sqnr;
    const float *params; /* of the scheme */
} nbi_site_fit;

/* One quantization decision. Several edges share an activation site (max pooling, slices, …). */
typedef struct nbi_site {
    nbi_site_kind kind;
    const char *name;  /* of the ONNX tensor */
    int layer;         /* weights, biases: the convolution; else the producing layer, −1 for the input */
    bool is_unsigned;  /* values are ≥ 0 whatever the input */
    int fixed_bits;    /* 0 = free (searched or set by the policy) */
    int64_t count;     /* elements of one image, or weights */
    nbi_hist hist;     /* activations, after calibration */
    nbi_qparam fit[NBI_MAX_BITS + 1]; /* activations, after calibration: by bits */
    double sqnr[NBI_MAX_BITS + 1];    /* dB, by bits */
    struct nbi_site_fit *more;        /* activations: by schemes other than 0, as asked for */
} nbi_site;

typedef struct nbi_edge {
    const char *name; /* of the ONNX tensor it stands for */
    int tensor;       /* in qnet.graph; −1 for an edge that quantization adds */
    int rank;
    int64_t dim[NBI_MAX_RANK]; /* ONNX order, dim[0] = 1 */
    int h, w, c;      /* storage: channels last for rank 3 and 4, else c = count */
    int producer;     /* layer; −1: network input */
    int site;
    float lo, hi;     /* values it can have in exact arithmetic (from clamps); ±INFINITY */
    nbi_qparam grid;  /* as a QDQ model gives it; dtype NONE: it does not */
    bool is_output;   /* a graph output, or the last tensor before an unknown operator */
} nbi_edge;

typedef enum nbi_layer_type {
    NBI_LAYER_CONV, /* convolution, dense layer, matrix product with constant weights */
    NBI_LAYER_ADD,  /* in[0] + sign·in[1] */
    NBI_LAYER_MUL,  /* in[1] may be a [1,C,1,1] vector */
    NBI_LAYER_UNARY, /* element-wise function of one tensor (per channel where constants are) */
    NBI_LAYER_REQUANT, /* the identity on another grid */
    NBI_LAYER_MAXPOOL,
    NBI_LAYER_AVGPOOL,
    NBI_LAYER_COPY,  /* moves values: n_copy rows */
    NBI_LAYER_FLOAT  /* computed in float */
} nbi_layer_type;

typedef struct nbi_layer {
    nbi_layer_type type;
    const char *name; /* ONNX node */
    int n_in, *in;    /* edges */
    int out;          /* edge */
    /* Nodes of qnet.graph that it stands for, in order (Conv BatchNormalization Relu …). */
    int n_nodes;
    int *node;
    float act_lo, act_hi; /* fused clamp; ±INFINITY: none */
    float sign;           /* ADD */

    /* CONV: weights [out_c][kh][kw][in_c/groups] (depthwise: [kh][kw][c]), real
     * y[c] = gain[c]·Σ w·x + shift[c], then the clamp. gain ≥ 0 (signs are in the weights, after
     * nbi_net_rescale powers of two as well). */
    nbk_conv geometry; /* shapes only, no pointers */
    bool depthwise;
    float *weight;
    size_t n_weights;
    float *gain, *shift; /* [out_c] */
    int weight_site, bias_site;
    double macs;
    bool is_first, is_last;
    /* The float tensor from which Σ w·x can be measured: Σ w·x = (value − offset[c])·scale[c]. */
    int sum_tensor;
    float *sum_scale, *sum_offset; /* [out_c] */
    /* Float statistics of Σ w·x per output channel on the calibration images. */
    double *mean, *deviation; /* [out_c]; NULL before calibration */

    const uint8_t *lut; /* REQUANT: NULL, or the table that a file gives: [256], codes as bytes, signed
                           ones 128 higher */
    nbk_pool pool;  /* MAXPOOL, AVGPOOL: geometry */
    int n_copy;     /* COPY: copy[i] moves in[copy_in[i]]; 0: the same bytes under another shape */
    nbk_copy *copy;
    int *copy_in;
} nbi_layer;

typedef struct nbi_qnet {
    nbi_arena arena;
    nbi_graph *graph; /* float, batch 1, owned */
    int n_layers, cap_layers;
    nbi_layer *layer; /* in order */
    int n_edges, cap_edges;
    nbi_edge *edge;
    int n_sites, cap_sites;
    nbi_site *site;
    int input; /* edge */
    bool input_is_image; /* u8 H,W,C pixels through a table */
    float input_table[4][256]; /* real value of a raw byte, by channel */
    int n_outputs, output[8]; /* edges */
    int n_untouched;          /* nodes left as they are (unknown, or behind an unknown one) */
    const char **untouched;   /* their names */
} nbi_qnet;

/* What a policy and the corrections make of one convolution. */
typedef struct nbi_frozen_conv {
    int bits;
    int scheme;               /* a row of schemes.def */
    int bias_bits;            /* 8, 16; else 32 */
    const int8_t *levels;     /* geometry order */
    const int8_t *table;      /* NULL: levels are those of uniform codes; else levels by code, 2^bits,
                                 not falling */
    const float *scale;       /* [out_c]: gain and weight scale in one, after nbi_fold_gain */
    double *gain, *shift;     /* [out_c]: y = gain·scale·Σ k·x + shift; frozen: gain = 1, shift a
                                 whole number of steps of scale·(input scale), one that
                                 bias_bits hold */
} nbi_frozen_conv;
/* The frozen quantized graph: qnet + one entry per layer (convolutions) + qparams per site. */
typedef struct nbi_frozen {
    nbi_arena arena;
    const nbi_qnet *net; /* outlives it */
    nbi_qparam *site;    /* [n_sites] */
    nbi_frozen_conv *conv; /* [n_layers] */
} nbi_frozen;
void nbi_frozen_free(nbi_frozen *frozen); /* NULL is allowed */

/* Place in layer->weight of weight (o, k) of the ONNX tensor seen as [out][in/groups · taps]. */
static inline size_t nbi_weight_place(const nbi_layer *l, size_t o, size_t k) {
    const nbk_conv *g = &l->geometry;
    size_t taps = (size_t)g->kh * (size_t)g->kw, in = (size_t)(g->in_c / g->groups);
    size_t i = k / taps, t = k % taps;
    return l->depthwise ? t * (size_t)g->out_c + o : (o * taps + t) * in + i;
}

void nbi_qnet_free(nbi_qnet *net); /* NULL is allowed */
nb_status nbi_qnet_add_edge(nb_ctx *ctx, nbi_qnet *net, const nbi_edge *edge, int *out);
/* `in` and `node` are copied into the arena. */
nb_status nbi_qnet_add_layer(nb_ctx *ctx, nbi_qnet *net, const nbi_layer *layer, int *out);
nb_status nbi_qnet_add_site(nb_ctx *ctx, nbi_qnet *net, const nbi_site *site, int *out);
/* The grid of a site by a choice; weights: any. NULL when it is out of range or was not fitted. */
const nbi_qparam *nbi_site_grid(const nbi_site *site, nbi_choice choice);
double nbi_site_sqnr(const nbi_site *site, nbi_choice choice); /* dB, activations; 0: not fitted */
const nbi_site_fit *nbi_site_find(const nbi_site *site, nbi_choice choice); /* NULL: not fitted */
/* Storage shape of a rank and dims: channels last for rank 3 and 4. */
void nbi_storage_shape(int rank, const int64_t *dim, int *h, int *w, int *c);

#endif
