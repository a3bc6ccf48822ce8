/* What the backward functions share: element-wise gradients, sums over broadcast dimensions,
 * products of strided arrays. */
#ifndef NIBBLE_OPS_OP_GRAD_H
#define NIBBLE_OPS_OP_GRAD_H

#include "ops/op_util.h"

/* out[i] = one position's contribution from x[k][i], i < n ≤ NBI_TERM_ROW: plain arrays, whatever
 * layout, broadcasting or type the views have. out may be x[0]. */
#define NBI_TERM_ROW 256
typedef void (*nbi_term_fn)(const void *user, const float *const *x, int64_t n, float *out);
#define NBI_TERM_VIEWS (NBI_WALK_VIEWS - 1)

/* to[i] = term(v[…][i]): v broadcast to the shape of `to`, any strides. `to` may be v[0]. */
nb_status nbi_grad_map(nb_ctx *ctx, const nbi_view *to, int n, const nbi_view *const *v,
                       nbi_term_fn term, const void *user);
/* sum[j] += Σ term over the positions of v[0] that element j of `shape` is broadcast to; v[1…]
 * broadcast to v[0]. sum: contiguous ONNX order, zeroed by the caller. */
nb_status nbi_grad_sum(nb_ctx *ctx, const nbi_view *shape, int n, const nbi_view *const *v,
                       nbi_term_fn term, const void *user, double *sum);
/* to[j] = the same sum, rounded once; nbi_grad_map where nothing is broadcast. */
nb_status nbi_grad_reduce(nb_ctx *ctx, const nbi_view *to, int n, const nbi_view *const *v,
                          nbi_term_fn term, const void *user);
/* to = factor·Σ from, over the dimensions along which `to` is broadcast. */
nb_status nbi_grad_scaled(nb_ctx *ctx, const nbi_view *to, const nbi_view *from, double factor);
/* to = factor·from, `from` broadcast. */
nb_status nbi_grad_spread(nb_ctx *ctx, const nbi_view *to, const nbi_view *from, double factor);
/* sum, contiguous and of to's shape, into `to`; with strides. */
void nbi_grad_store(const nbi_view *to, const double *sum);
void nbi_grad_zero(const nbi_view *to);

/* out[o…] = factor·Σ_s a[o…,s…]·b[o…,s…], summed in double in one fixed order. A stride of 0: the
 * operand does not have that dimension. */
#define NBI_PRODUCT_DIMS (NBI_MAX_RANK + 1)
typedef struct nbi_product_dim {
    int64_t dim, out, a, b; /* strides; out is not read in sums */
} nbi_product_dim;
typedef struct nbi_product {
    int n_out, n_sum;
    nbi_product_dim out[NBI_PRODUCT_DIMS], sum[NBI_PRODUCT_DIMS];
    const float *a, *b;
    float *to;
    double factor;
} nbi_product;
nb_status nbi_product_run(nb_ctx *ctx, const nbi_product *p);

/* Backward functions that stand in a file of their own. */
nb_status nbi_grad_conv(const nbi_grad_call *call);
nb_status nbi_grad_maxpool(const nbi_grad_call *call);
nb_status nbi_grad_averagepool(const nbi_grad_call *call);
nb_status nbi_grad_globalmaxpool(const nbi_grad_call *call);
nb_status nbi_grad_globalaveragepool(const nbi_grad_call *call);
nb_status nbi_grad_leakyrelu(const nbi_grad_call *call);
nb_status nbi_grad_sigmoid(const nbi_grad_call *call);
nb_status nbi_grad_hardsigmoid(const nbi_grad_call *call);
nb_status nbi_grad_hardswish(const nbi_grad_call *call);
nb_status nbi_grad_tanh(const nbi_grad_call *call);
nb_status nbi_grad_exp(const nbi_grad_call *call);
nb_status nbi_grad_log(const nbi_grad_call *call);
nb_status nbi_grad_sqrt(const nbi_grad_call *call);
nb_status nbi_grad_neg(const nbi_grad_call *call);
nb_status nbi_grad_abs(const nbi_grad_call *call);
nb_status nbi_grad_erf(const nbi_grad_call *call);
nb_status nbi_grad_step(const nbi_grad_call *call);
nb_status nbi_grad_reciprocal(const nbi_grad_call *call);
nb_status nbi_grad_add(const nbi_grad_call *call);
nb_status nbi_grad_sub(const nbi_grad_call *call);
nb_status nbi_grad_mul(const nbi_grad_call *call);
nb_status nbi_grad_div(const nbi_grad_call *call);
nb_status nbi_grad_pow(const nbi_grad_call *call);
nb_status nbi_grad_prelu(const nbi_grad_call *call);
nb_status nbi_grad_min_max(const nbi_grad_call *call);
nb_status nbi_grad_transpose(const nbi_grad_call *call);
nb_status nbi_grad_concat(const nbi_grad_call *call);
nb_status nbi_grad_split(const nbi_grad_call *call);
nb_status nbi_grad_slice(const nbi_grad_call *call);
nb_status nbi_grad_pad(const nbi_grad_call *call);
nb_status nbi_grad_gather(const nbi_grad_call *call);
nb_status nbi_grad_expand(const nbi_grad_call *call);
nb_status nbi_grad_cast(const nbi_grad_call *call);
nb_status nbi_grad_where(const nbi_grad_call *call);
nb_status nbi_grad_batchnorm(const nbi_grad_call *call);

/* Pad: input index of output index o along axis i, −1: the constant. */
int64_t nbi_pad_source(const nbi_pad_params *p, int i, int64_t dim, int64_t o);

/* node->params of the binary operators. */
typedef struct nbi_binary_params {
    int trailing; /* dimensions of size 1 to append to B (opset < 7), or 0 */
    int axis;     /* of the old form; −1: aligned at the end */
} nbi_binary_params;

/* Operators that re-read the bytes of input 0. */
nb_status nbi_alias_forward(const nbi_op_call *call);
nb_status nbi_grad_alias(const nbi_grad_call *call);
extern const nbi_op nbi_op_dropout, nbi_op_dropout_training;

/* Both forms of BatchNormalization. */
extern const nbi_op nbi_op_batchnorm, nbi_op_batchnorm_training;
nb_status nbi_batchnorm_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
nb_status nbi_batchnorm_infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
void nbi_batchnorm_cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out);

#endif
