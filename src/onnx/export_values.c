/* Tensors, types and attributes of the graph -> protobuf messages. Strings and data are pointed to,
 * not copied; protobuf-c only reads them. */
#include "onnx/proto.h"

#include <limits.h>
#include <string.h>

nb_status nbi_proto_new(nb_ctx *ctx, nbi_arena *arena, const ProtobufCMessageDescriptor *type,
                        void *out_pointer) {
    void *message = nbi_arena_alloc(arena, 1, type->sizeof_message);
    if (!message) return nb_fail_memory(ctx, type->sizeof_message);
    protobuf_c_message_init(type, message);
    memcpy(out_pointer, &message, sizeof message);
    return NB_OK;
}

nb_status nbi_proto_pack(nb_ctx *ctx, const ProtobufCMessage *message, nbi_buf *out) {
    size_t size = protobuf_c_message_get_packed_size(message);
    void *bytes = NULL;
    if (size > INT_MAX)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "the model would take %zu bytes, more than one ONNX file can hold", size);
    NB_TRY(nbi_alloc(ctx, size + 1, 1, &bytes));
    protobuf_c_message_pack(message, bytes);
    nb_status st = nbi_buf_append(ctx, out, bytes, size);
    nbi_free(bytes);
    return st;
}

nb_status nbi_tensor_to_proto(nb_ctx *ctx, const nbi_tensor *tensor, nbi_arena *arena,
                              Onnx__TensorProto **out) {
    Onnx__TensorProto *p = NULL;
    int32_t type = nbi_dtype_to_onnx(tensor->dtype);
    int64_t count = nbi_tensor_count(tensor);
    if (count < 0 || !tensor->data || !type || tensor->dtype == NB_DTYPE_STRING)
        return nb_fail(ctx, NB_EINVAL, "tensor '%s' (%s) is not a constant that can be written",
                       tensor->name, nbi_dtype_name(tensor->dtype));
    NB_TRY(nbi_proto_new(ctx, arena, &onnx__tensor_proto__descriptor, &p));
    if (*tensor->name) p->name = (char *)tensor->name;
    p->n_dims = (size_t)tensor->rank;
    p->dims = (int64_t *)tensor->dim;
    p->has_data_type = true;
    p->data_type = type;
    p->has_raw_data = true;
    p->raw_data.len = nbi_dtype_bytes(tensor->dtype, (size_t)count);
    p->raw_data.data = tensor->data;
    *out = p;
    return NB_OK;
}

nb_status nbi_value_to_proto(nb_ctx *ctx, const nbi_tensor *tensor, nbi_arena *arena,
                             Onnx__ValueInfoProto **out) {
    Onnx__ValueInfoProto *v = NULL;
    Onnx__TypeProto__Tensor *t = NULL;
    NB_TRY(nbi_proto_new(ctx, arena, &onnx__value_info_proto__descriptor, &v));
    *out = v;
    v->name = (char *)tensor->name;
    if (tensor->dtype == NB_DTYPE_NONE && tensor->rank < 0) return NB_OK;
    NB_TRY(nbi_proto_new(ctx, arena, &onnx__type_proto__descriptor, &v->type));
    NB_TRY(nbi_proto_new(ctx, arena, &onnx__type_proto__tensor__descriptor, &t));
    v->type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    v->type->tensor_type = t;
    t->has_elem_type = tensor->dtype != NB_DTYPE_NONE;
    t->elem_type = nbi_dtype_to_onnx(tensor->dtype);
    if (tensor->rank < 0) return NB_OK;
    NB_TRY(nbi_proto_new(ctx, arena, &onnx__tensor_shape_proto__descriptor, &t->shape));
    t->shape->n_dim = (size_t)tensor->rank;
    t->shape->dim = nbi_arena_alloc(arena, (size_t)tensor->rank + 1, sizeof *t->shape->dim);
    if (!t->shape->dim) return nb_fail_memory(ctx, sizeof *t->shape->dim);
    for (int i = 0; i < tensor->rank; i++) {
        Onnx__TensorShapeProto__Dimension *d = NULL;
        NB_TRY(nbi_proto_new(ctx, arena, &onnx__tensor_shape_proto__dimension__descriptor, &d));
        if (tensor->dim[i] >= 0) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            d->dim_value = tensor->dim[i];
        } else if (tensor->dim_name[i]) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            d->dim_param = (char *)tensor->dim_name[i];
        }
        t->shape->dim[i] = d;
    }
    return NB_OK;
}

static nb_status unpack_attr(nb_ctx *ctx, const nbi_attr *attr, nbi_arena *arena,
                             Onnx__AttributeProto **out) {
    ProtobufCMessage *message = NULL;
    nb_status st = nbi_proto_unpack(ctx, &onnx__attribute_proto__descriptor, attr->s,
                                    attr->s_length, arena, &message);
    if (st != NB_OK) return nb_fail_prefix(ctx, st, "attribute '%s'", attr->name);
    *out = (Onnx__AttributeProto *)message;
    return NB_OK;
}

static nb_status texts_to_proto(nb_ctx *ctx, const nbi_attr *attr, nbi_arena *arena,
                                Onnx__AttributeProto *p) {
    p->strings = nbi_arena_alloc(arena, attr->count + 1, sizeof *p->strings);
    if (!p->strings) return nb_fail_memory(ctx, attr->count * sizeof *p->strings);
    p->n_strings = attr->count;
    for (size_t i = 0; i < attr->count; i++) {
        p->strings[i].data = (uint8_t *)attr->texts[i];
        p->strings[i].len = strlen(attr->texts[i]);
    }
    return NB_OK;
}

nb_status nbi_attr_to_proto(nb_ctx *ctx, const nbi_attr *attr, nbi_arena *arena,
                            Onnx__AttributeProto **out) {
    Onnx__AttributeProto *p = NULL;
    if (attr->type == NBI_ATTR_GRAPH) return unpack_attr(ctx, attr, arena, out);
    NB_TRY(nbi_proto_new(ctx, arena, &onnx__attribute_proto__descriptor, &p));
    p->name = (char *)attr->name;
    p->has_type = true;
    switch (attr->type) {
    case NBI_ATTR_INT:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        p->has_i = true;
        p->i = attr->i;
        break;
    case NBI_ATTR_FLOAT:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
        p->has_f = true;
        p->f = attr->f;
        break;
    case NBI_ATTR_TEXT:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
        p->has_s = true;
        p->s.data = (uint8_t *)attr->s;
        p->s.len = attr->s_length;
        break;
    case NBI_ATTR_TENSOR:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
        NB_TRY(nbi_tensor_to_proto(ctx, attr->tensor, arena, &p->t));
        break;
    case NBI_ATTR_INTS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
        p->n_ints = attr->count;
        p->ints = attr->ints;
        break;
    case NBI_ATTR_FLOATS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
        p->n_floats = attr->count;
        p->floats = attr->floats;
        break;
    case NBI_ATTR_TEXTS:
        p->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
        NB_TRY(texts_to_proto(ctx, attr, arena, p));
        break;
    default:
        return nb_fail(ctx, NB_EINVAL, "attribute '%s' has no type", attr->name);
    }
    *out = p;
    return NB_OK;
}
