/* Private to the onnx room: protobuf-c types and what guard, import, export and tensor_io share. */
#ifndef NIBBLE_ONNX_PROTO_H
#define NIBBLE_ONNX_PROTO_H

#include "ir/graph.h"
#include "onnx.pb-c.h"
#include "onnx/onnx.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ONNX raw data is little-endian; this file format code does not swap bytes"
/* ---- export_values.c ----------------------------------------------------------------------- */

/* Everything below allocates from `arena` and points into the graph: both must outlive the result.
 */
nb_status nbi_proto_new(nb_ctx *ctx, nbi_arena *arena, const ProtobufCMessageDescriptor *type,
                        void *out_pointer);
/* dims, type, raw_data and, unless empty, the name. */
nb_status nbi_tensor_to_proto(nb_ctx *ctx, const nbi_tensor *tensor, nbi_arena *arena,
                              Onnx__TensorProto **out);
nb_status nbi_value_to_proto(nb_ctx *ctx, const nbi_tensor *tensor, nbi_arena *arena,
                             Onnx__ValueInfoProto **out);
nb_status nbi_attr_to_proto(nb_ctx *ctx, const nbi_attr *attr, nbi_arena *arena,
                            Onnx__AttributeProto **out);
/* Appends the packed message. */
nb_status nbi_proto_pack(nb_ctx *ctx, const ProtobufCMessage *message, nbi_buf *out);

#endif

/* Key prefix under which the opset version of a domain other than ai.onnx is kept in graph->meta.
 * Written as an opset import, never as a metadata property. */
#define NBI_META_OPSET "opset_import:"

/* ---- guard.c ------------------------------------------------------------------------------- */

/* Walks the wire format of a message of type `type` without allocating or unpacking. After NB_OK,
 * protobuf-c unpacks the bytes in bounded depth, time and memory. */
nb_status nbi_proto_guard(nb_ctx *ctx, const ProtobufCMessageDescriptor *type, const void *data,
                          size_t size);
/* Guard, then unpack into the arena. */
nb_status nbi_proto_unpack(nb_ctx *ctx, const ProtobufCMessageDescriptor *type, const void *data,
                           size_t size, nbi_arena *arena, ProtobufCMessage **out);

/* ---- names.c ------------------------------------------------------------------------------- */

/* A hash table from names (not copied) to indices. Zero-initialised is empty. */
typedef struct nbi_names {
    size_t n, capacity; /* capacity: 0 or a power of two */
    struct nbi_name_slot {
        const char *key;
        uint64_t hash;
        int value;
    } * slot;
} nbi_names;
/* -1 if absent. */
int nbi_names_find(const nbi_names *names, const char *key);
/* Adds key → value; *out_found is the value that was there before (the table is then unchanged), or
 * -1. value ≥ 0. */
nb_status nbi_names_add(nb_ctx *ctx, nbi_names *names, const char *key, int value, int *out_found);
/* A name that the table lacked, added to it: `wanted` (not copied), or wanted_<number> from the arena.
 * *number only grows, so that one counter for all calls takes linear time whatever the names are. */
nb_status nbi_names_make(nb_ctx *ctx, nbi_names *names, nbi_arena *arena, const char *wanted,
                         int *number, const char **out);
void nbi_names_free(nbi_names *names);
/* Valid UTF-8 without control characters (and short enough to show). `what` says whose name. */
nb_status nbi_name_check(nb_ctx *ctx, const char *what, const char *text);
bool nbi_utf8_valid(const char *text);

/* ---- import_tensor.c ----------------------------------------------------------------------- */

/* NB_DTYPE_NONE for types that nibble does not have (float8, complex…). */
nb_dtype nbi_dtype_from_onnx(int32_t type);
int32_t nbi_dtype_to_onnx(nb_dtype dtype);
/* "float8e4m3fn" …; never NULL. */
const char *nbi_onnx_type_name(int32_t type);
/* Fills dtype, rank, dim and data (in the arena) of *out; its name is `name` as given. */
nb_status nbi_tensor_from_proto(nb_ctx *ctx, const Onnx__TensorProto *proto, const char *name,
                                nbi_arena *arena, nbi_tensor *out);

/* ---- import_attr.c ------------------------------------------------------------------------- */

/* Converts one attribute. Kinds that nibble does not compute with (sub-graphs, tensor lists, sparse
 * tensors, types, tensors of foreign dtypes) become NBI_ATTR_GRAPH: s, s_length hold the packed
 * AttributeProto. `node` names the owner in messages. */
nb_status nbi_attr_from_proto(nb_ctx *ctx, const Onnx__AttributeProto *proto, const char *node,
                              nbi_arena *arena, nbi_attr *out);
/* Names that sub-graphs of the node read from the enclosing graph (present in `outer`), each once,
 * as tensor indices in *out (from the arena). */
nb_status nbi_attr_captures(nb_ctx *ctx, const Onnx__NodeProto *node, const nbi_names *outer,
                            nbi_arena *arena, int *out_n, int **out);

/* ---- export_values.c ----------------------------------------------------------------------- */

/* Everything below allocates from `arena` and points into the graph: both must outlive the result.
 */
nb_status nbi_proto_new(nb_ctx *ctx, nbi_arena *arena, const ProtobufCMessageDescriptor *type,
                        void *out_pointer);
/* dims, type, raw_data and, unless empty, the name. */
nb_status nbi_tensor_to_proto(nb_ctx *ctx, const nbi_tensor *tensor, nbi_arena *arena,
                              Onnx__TensorProto **out);
nb_status nbi_value_to_proto(nb_ctx *ctx, const nbi_tensor *tensor, nbi_arena *arena,
                             Onnx__ValueInfoProto **out);
nb_status nbi_attr_to_proto(nb_ctx *ctx, const nbi_attr *attr, nbi_arena *arena,
                            Onnx__AttributeProto **out);
/* Appends the packed message. */
nb_status nbi_proto_pack(nb_ctx *ctx, const ProtobufCMessage *message, nbi_buf *out);

#endif
