/* The parameters that other rooms read from node->params: normalised by prepare() (old opsets,
 * defaults) and completed by infer() (values that depend on shapes or on constant inputs). They are
 * valid after nbi_graph_infer; `known` says whether the constant inputs they need were there. */
#ifndef NIBBLE_OPS_PARAMS_H
#define NIBBLE_OPS_PARAMS_H

#include "ir/graph.h"
#include "ir/scheme.h"

#define NBI_MAX_SPATIAL 3

typedef enum nbi_auto_pad {
    NBI_PAD_EXPLICIT, /* pad_begin, pad_end as written */
    NBI_PAD_SAME_UPPER,
    NBI_PAD_SAME_LOWER,
    NBI_PAD_VALID
} nbi_auto_pad;

/* The sliding window of Conv and of the pools, one entry per spatial axis (ONNX order). infer()
 * writes the pads that auto_pad and ceil_mode lead to: the output size is always
 * floor((in + pad_begin + pad_end − dilation·(kernel − 1) − 1) / stride) + 1, except that with
 * ceil_mode the last window may reach past the padding. */
typedef struct nbi_window {
    int n; /* spatial axes: rank − 2 */
    int64_t kernel[NBI_MAX_SPATIAL], stride[NBI_MAX_SPATIAL], dilation[NBI_MAX_SPATIAL];
    int64_t pad_begin[NBI_MAX_SPATIAL], pad_end[NBI_MAX_SPATIAL];
    nbi_auto_pad auto_pad;
    bool ceil_mode;
} nbi_window;

/* Conv. in: x N,C,spatial; w M,C/group,kernel; bias M (optional). */
typedef struct nbi_conv_params {
    nbi_window w;
    int64_t group;
} nbi_conv_params;

/* MaxPool, AveragePool. */
typedef struct nbi_pool_params {
    nbi_window w;
    bool count_include_pad; /* AveragePool: the divisor counts padding */
} nbi_pool_params;

/* y = alpha·op(A)·op(B) + beta·C. */
typedef struct nbi_gemm_params {
    float alpha, beta;
    bool trans_a, trans_b;
} nbi_gemm_params;

/* y = scale·(x − mean)/sqrt(var + epsilon) + bias; in: x, scale, bias, mean, var. training: with the
 * mean and variance of the batch; out: y, then (each optional) running mean and variance
 * = old·momentum + batch's·(1 − momentum), the batch's mean, 1/sqrt(its variance + epsilon). */
typedef struct nbi_batchnorm_params {
    float epsilon, momentum;
    bool training;
} nbi_batchnorm_params;

/* y = min(max(x, lo), hi). known: the bounds are constants (±infinity when there is none). */
typedef struct nbi_clip_params {
    bool known;
    float lo, hi;
} nbi_clip_params;

/* Resolved per axis of the input: out[i] = in[start + i·step], i < size. by_attribute: what it is
 * resolved from are attributes (before opset 10). */
typedef struct nbi_slice_params {
    bool known, by_attribute;
    int rank;
    int64_t start[NBI_MAX_RANK], step[NBI_MAX_RANK], size[NBI_MAX_RANK];
} nbi_slice_params;

typedef enum nbi_pad_mode {
    NBI_PAD_CONSTANT,
    NBI_PAD_EDGE,
    NBI_PAD_REFLECT,
    NBI_PAD_WRAP
} nbi_pad_mode;
/* Elements added (negative: cut) per axis. attribute: the one that lists them (before opset 11),
 * NULL: input 1 does. */
typedef struct nbi_pad_params {
    bool known;
    const char *attribute;
    nbi_pad_mode mode;
    int rank;
    int64_t begin[NBI_MAX_RANK], end[NBI_MAX_RANK];
    double value;
} nbi_pad_params;

/* 0 ≤ axis < rank. */
typedef struct nbi_concat_params {
    int axis;
} nbi_concat_params;

/* 0 ≤ axis < rank. Output k, omitted or not, is what lies from at[k] to at[k + 1] along the axis,
 * once known. by_attribute: the sizes are an attribute (before opset 13). */
typedef struct nbi_split_params {
    int axis;
    bool by_attribute;
    int64_t *at; /* [n_out + 1] */
} nbi_split_params;

/* out dimension i is in dimension perm[i]. */
typedef struct nbi_transpose_params {
    int rank;
    int perm[NBI_MAX_RANK];
} nbi_transpose_params;

/* ReduceMean, ReduceSum, ReduceMax, ReduceMin. */
typedef struct nbi_reduce_params {
    bool known;
    bool keepdims;
    bool over[NBI_MAX_RANK]; /* input axes that are reduced */
} nbi_reduce_params;

/* Softmax over axes first … last (one axis from opset 13; axis … rank−1 before: to_end). */
typedef struct nbi_softmax_params {
    int64_t axis; /* as written */
    bool to_end;
    int first, last;
} nbi_softmax_params;

/* LeakyRelu and HardSigmoid: alpha (and beta). */
typedef struct nbi_unary_params {
    float alpha, beta;
} nbi_unary_params;

/* QuantizeLinear, DequantizeLinear. axis −1: per tensor; block 0: one scale per index of axis. */
typedef struct nbi_quant_params {
    int axis;
    int64_t block;
} nbi_quant_params;

typedef struct nbi_fakequant_candidate {
    const nbi_scheme *scheme;
    nbi_scheme_use use;
    bool whole; /* one group, whatever the axis */
} nbi_fakequant_candidate;

/* org.nibble::FakeQuant. axis −1: one group, else one per index of the axis. use.bits: the attribute;
 * the bits input, where there is one, replaces it at run time, or, where there are candidates, picks
 * one. A trainer may set `training`. */
typedef struct nbi_fakequant_params {
    int n; /* candidates; 0: there is one scheme */
    nbi_fakequant_candidate *candidate;
    const nbi_scheme *scheme;
    nbi_scheme_use use;
    int axis;
    bool training;
    float decay;
} nbi_fakequant_params;

/* org.nibble::RangeQuant. */
typedef struct nbi_rangequant_params {
    bool is_unsigned;
} nbi_rangequant_params;

/* org.nibble::SchemeMix: candidate i has use[i] and the columns from column[i] on of the params. */
#define NBI_MIX_MAX 16
typedef struct nbi_schememix_params {
    int n, axis;
    const nbi_scheme *scheme[NBI_MIX_MAX];
    nbi_scheme_use use[NBI_MIX_MAX];
    int column[NBI_MIX_MAX], columns;
} nbi_schememix_params;

#endif
