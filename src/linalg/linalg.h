/* The float facade: convolution, matrix product and pooling on channels-last activations, planned
 * once and run many times. Two implementations of one interface, chosen when the library is built:
 * onednn.c (the only file that sees oneDNN) and ref.c (plain C). Results of the two differ by
 * rounding only. */
#ifndef NIBBLE_LINALG_LINALG_H
#define NIBBLE_LINALG_LINALG_H

#include "base/base.h"

/* x: N,H,W,C and y: N,OH,OW,M (1-D: H = 1); w: M,C/group,KH,KW (ONNX order); bias: M or NULL.
 * y = act(conv(x, w) + bias [+ y before]); act: none, or clamped to lo … hi (relu: 0 … infinity). */
typedef struct nbi_la_conv_desc {
    int64_t n, c, h, w;
    int64_t m, oh, ow;
    int64_t group;
    int64_t kernel[2], stride[2], dilation[2], pad_begin[2], pad_end[2];
    bool accumulate; /* add to what y holds */
    bool clamp;
    float lo, hi;
    bool fast; /* rounding errors may be ten times larger where that is faster */
} nbi_la_conv_desc;

/* y[N,M] = act(x[N,K]·w[M,K]ᵀ + bias). */
typedef struct nbi_la_gemm_desc {
    int64_t n, k, m;
    bool clamp;
    float lo, hi;
} nbi_la_gemm_desc;

/* x: N,H,W,C to y: N,OH,OW,C. */
typedef struct nbi_la_pool_desc {
    int64_t n, c, h, w, oh, ow;
    int64_t kernel[2], stride[2], pad_begin[2], pad_end[2];
    bool max, include_pad;
} nbi_la_pool_desc;

/* Whatever the plans share. One per execution plan; not for two threads at once. */
typedef struct nbi_la nbi_la;
typedef struct nbi_la_plan nbi_la_plan;

/* "oneDNN 2.6.3 (avx2)" or "plain C". */
const char *nbi_la_name(void);
nb_status nbi_la_new(nb_ctx *ctx, nbi_la **out);
void nbi_la_free(nbi_la *la);
/* Weights are copied into the plan in the order that runs fastest. A shape that the implementation
 * cannot do is NB_EUNSUPPORTED (the caller falls back to the operator's reference). */
nb_status nbi_la_conv(nb_ctx *ctx, nbi_la *la, const nbi_la_conv_desc *desc, const float *w,
                      const float *bias, nbi_la_plan **out);
nb_status nbi_la_gemm(nb_ctx *ctx, nbi_la *la, const nbi_la_gemm_desc *desc, const float *w,
                      const float *bias, nbi_la_plan **out);
nb_status nbi_la_pool(nb_ctx *ctx, nbi_la *la, const nbi_la_pool_desc *desc, nbi_la_plan **out);
nb_status nbi_la_run(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, const float *x, float *y);
/* ---- training ------------------------------------------------------------------------------ */

/* One of the three products of a layer. `weights` is in ONNX order at every run (it changes from
 * step to step, or another network computes it). Names are those of forward: in a backward pass x, w
 * and y stand for their gradients where the pass writes or reads gradients. */
typedef enum nbi_la_pass {
    NBI_LA_FORWARD,         /* x, w[, bias] → y */
    NBI_LA_BACKWARD_DATA,   /* y, w → x */
    NBI_LA_BACKWARD_WEIGHTS /* x, y → w[, bias] */
} nbi_la_pass;
typedef struct nbi_la_args {
    float *x, *w, *bias, *y; /* bias NULL: none */
} nbi_la_args;
/* accumulate and clamp must be off. NB_EUNSUPPORTED: the caller uses the operator's reference. */
nb_status nbi_la_conv_train(nb_ctx *ctx, nbi_la *la, const nbi_la_conv_desc *desc,
                            nbi_la_pass pass, bool bias, nbi_la_plan **out);
/* transposed: w is K,M instead of M,K. */
nb_status nbi_la_gemm_train(nb_ctx *ctx, nbi_la *la, const nbi_la_gemm_desc *desc,
                            nbi_la_pass pass, bool bias, bool transposed, nbi_la_plan **out);
nb_status nbi_la_run_train(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, const nbi_la_args *args);

void nbi_la_plan_free(nbi_la_plan *plan); /* NULL is allowed */

#endif
