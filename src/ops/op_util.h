/* What operators share: access to a node's tensors, errors, the element walk, the sliding window.
 */
#ifndef NIBBLE_OPS_OP_UTIL_H
#define NIBBLE_OPS_OP_UTIL_H

#include "ops/op.h"
#include "ops/params.h"

/* NULL when omitted. */
static inline nbi_tensor *nbi_op_in(const nbi_graph *graph, const nbi_node *node, int i) {
    return i < node->n_in && node->in[i] >= 0 ? graph->tensor[node->in[i]] : NULL;
}
static inline nbi_tensor *nbi_op_out(const nbi_graph *graph, const nbi_node *node, int i) {
    return i < node->n_out && node->out[i] >= 0 ? graph->tensor[node->out[i]] : NULL;
}

/* node->params of `size` bytes, zeroed, from the graph's arena. */
nb_status nbi_op_params(nb_ctx *ctx, nbi_graph *graph, nbi_node *node, size_t size);
/* prepare() of an operator without attributes. */
nb_status nbi_op_prepare_none(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
/* Sets output i; a dimension of −1 stays unknown. Refuses more than 2^40 elements. */
nb_status nbi_op_set_out(nb_ctx *ctx, nbi_graph *graph, const nbi_node *node, int i, nb_dtype dtype,
                         int rank, const int64_t *dim);
/* Output 0 has input 0's type and shape. */
nb_status nbi_op_infer_same(nb_ctx *ctx, nbi_graph *graph, nbi_node *node);
/* NB_EFORMAT "node 'x' (Conv): <what> is <found>, want <wanted>". */
nb_status nbi_op_fail(nb_ctx *ctx, const nbi_node *node, const char *what, int64_t found,
                      const char *wanted);
/* Input i must have this many dimensions (when known). */
nb_status nbi_op_want_rank(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int i,
                           int rank);
/* Maps −rank…rank−1 to 0…rank−1, or fails naming `what`. */
nb_status nbi_op_axis(nb_ctx *ctx, const nbi_node *node, const char *what, int64_t axis, int rank,
                      int *out);
/* Input i as integers when it is a constant (S32 or S64, at most `max` values): *n is the count, −1
 * when the input is not constant (yet) and also when it is omitted. */
nb_status nbi_op_const_ints(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node, int i,
                            int64_t *out, int max, int *n);
bool nbi_op_is_omitted(const nbi_node *node, int i);
/* An ints attribute copied out; *n = −1 when absent. */
nb_status nbi_op_attr_ints(nb_ctx *ctx, const nbi_node *node, const char *name, int64_t *out,
                           int max, int *n);

/* NumPy broadcasting of two shapes; unknown dimensions are carried. */
nb_status nbi_op_broadcast(nb_ctx *ctx, const nbi_node *node, const nbi_tensor *a,
                           const nbi_tensor *b, int *rank, int64_t *dim);

/* Elements as real numbers or integers. Integers of 64 bits keep their value in the int form. */
double nbi_get_real(nb_dtype dtype, const void *data, int64_t index);
int64_t nbi_get_int(nb_dtype dtype, const void *data, int64_t index);
void nbi_set_real(nb_dtype dtype, void *data, int64_t index, double value);
void nbi_set_int(nb_dtype dtype, void *data, int64_t index, int64_t value);
bool nbi_dtype_is_float(nb_dtype dtype);
/* The dtype that a run-time view has: below 8 bits, one element per byte (S4 → S8, U4 → U8). */
nb_dtype nbi_view_dtype(nb_dtype dtype);

/* One element per byte from packed sub-byte storage (S4, U4, S2, U2), and back. */
void nbi_bits_unpack(nb_dtype dtype, const void *packed, size_t count, void *out);
void nbi_bits_pack(nb_dtype dtype, const void *elements, size_t count, void *packed);
/* The dtype of a TensorProto.DataType number, NONE for those that are not supported. */
nb_dtype nbi_dtype_of_onnx(int64_t number);

/* Walks all elements of v[0] (the output), the others broadcast to its shape, in the output's
 * memory order with dimensions merged: fn gets n pointers to the first elements of a row, their
 * steps in elements, and the row's length. n_views ≤ NBI_WALK_VIEWS. */
#define NBI_WALK_VIEWS 8
typedef void (*nbi_row_fn)(void *user, char *const *p, const int64_t *step, int64_t count);
void nbi_walk(int n_views, const nbi_view *const *v, nbi_row_fn fn, void *user);
/* The same in planes of `rows` such rows, `outer` elements apart. */
typedef void (*nbi_plane_fn)(void *user, char *const *p, const int64_t *step, int64_t count,
                             const int64_t *outer, int64_t rows);
void nbi_walk_planes(int n_views, const nbi_view *const *v, nbi_plane_fn fn, void *user);

/* Reads kernel_shape, strides, dilations, pads, auto_pad, ceil_mode; n = −1: not known yet. */
nb_status nbi_window_read(nb_ctx *ctx, const nbi_node *node, int n, nbi_window *w);
/* Output sizes of the spatial axes; completes pads. in: sizes, −1 unknown. */
nb_status nbi_window_resolve(nb_ctx *ctx, const nbi_node *node, nbi_window *w, const int64_t *in,
                             int64_t *out);

/* Three spatial axes whatever the rank: the missing ones come first, with size and kernel 1. */
typedef struct nbi_window3 {
    int64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
    int64_t x_stride[3], y_stride[3];
    int64_t w_stride[3]; /* of the kernel axes; set by Conv */
} nbi_window3;
void nbi_window3_make(const nbi_window *w, const nbi_view *x, const nbi_view *y, nbi_window3 *out);

#endif
