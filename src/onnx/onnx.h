/* ONNX files in and out. The only room that sees protobuf. */
#ifndef NIBBLE_ONNX_ONNX_H
#define NIBBLE_ONNX_ONNX_H

#include "ir/graph.h"

/* Bounds that the guard enforces on the wire format before anything is unpacked. */
#define NBI_ONNX_MAX_BYTES   ((size_t)2 << 30)
#define NBI_ONNX_MAX_NESTING 32

/* Reads a model: guard, unpack, external-data refused with a clear message, nodes sorted,
 * attributes and initializers (raw_data or typed fields, all dtypes of nb_dtype) converted,
 * operators looked up and prepared. Unknown operators are kept with op = NULL. */
nb_status nbi_onnx_read(nb_ctx *ctx, const char *path, nbi_graph **out);
nb_status nbi_onnx_parse(nb_ctx *ctx, const void *data, size_t size, nbi_graph **out);
/* Writes a graph at its opset (atomic). dtypes below 8 bits need opset ≥ 21 (4) or 25 (2). Nodes of
 * other domains add an opset import. import → export → import gives the same graph. */
nb_status nbi_onnx_write(nb_ctx *ctx, const nbi_graph *graph, const char *path);
nb_status nbi_onnx_serialize(nb_ctx *ctx, const nbi_graph *graph, nbi_buf *out);

/* A TensorProto file (.pb), .npy or one array of an .npz is read into a new constant of `graph`. */
nb_status nbi_tensor_read_pb(nb_ctx *ctx, const char *path, nbi_graph *graph, int *out_tensor);
nb_status nbi_tensor_write_pb(nb_ctx *ctx, const nbi_tensor *tensor, const char *path);
/* Little-endian, C order; the tensor is named after the file. */
nb_status nbi_tensor_read_npy(nb_ctx *ctx, const char *path, nbi_graph *graph, int *out_tensor);
nb_status nbi_tensor_write_npy(nb_ctx *ctx, const nbi_tensor *tensor, const char *path);
/* name NULL: the file's only array. */
nb_status nbi_tensor_read_npz(nb_ctx *ctx, const char *path, const char *name, nbi_graph *graph,
                              int *out_tensor);

#endif
