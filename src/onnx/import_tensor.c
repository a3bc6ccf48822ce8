/* TensorProto -> constant: dtype mapping, size checks, raw_data and the typed fields. Everything
 * is checked against the dims before a byte is copied. */
#include "onnx/proto.h"

#include <math.h>
#include <string.h>

/* TensorProto.DataType by number, up to ONNX 1.20; dtype NONE: nibble does not have it. */
static const struct {
    const char *name;
    nb_dtype dtype;
} types[] = {
    [0] = {"undefined", NB_DTYPE_NONE},
    [1] = {"float32", NB_DTYPE_F32},
    [2] = {"uint8", NB_DTYPE_U8},
    [3] = {"int8", NB_DTYPE_S8},
    [4] = {"uint16", NB_DTYPE_U16},
    [5] = {"int16", NB_DTYPE_S16},
    [6] = {"int32", NB_DTYPE_S32},
    [7] = {"int64", NB_DTYPE_S64},
    [8] = {"string", NB_DTYPE_STRING},
    [9] = {"bool", NB_DTYPE_BOOL},
    [10] = {"float16", NB_DTYPE_F16},
    [11] = {"float64", NB_DTYPE_F64},
    [12] = {"uint32", NB_DTYPE_U32},
    [13] = {"uint64", NB_DTYPE_U64},
    [14] = {"complex64", NB_DTYPE_NONE},
    [15] = {"complex128", NB_DTYPE_NONE},
    [16] = {"bfloat16", NB_DTYPE_BF16},
    [17] = {"float8e4m3fn", NB_DTYPE_NONE},
    [18] = {"float8e4m3fnuz", NB_DTYPE_NONE},
    [19] = {"float8e5m2", NB_DTYPE_NONE},
    [20] = {"float8e5m2fnuz", NB_DTYPE_NONE},
    [21] = {"uint4", NB_DTYPE_U4},
    [22] = {"int4", NB_DTYPE_S4},
    [23] = {"float4e2m1", NB_DTYPE_NONE},
    [24] = {"float8e8m0", NB_DTYPE_NONE},
    [25] = {"uint2", NB_DTYPE_U2},
    [26] = {"int2", NB_DTYPE_S2},
};

nb_dtype nbi_dtype_from_onnx(int32_t type) {
    return type >= 0 && (size_t)type < NBI_COUNT(types) ? types[type].dtype : NB_DTYPE_NONE;
}

int32_t nbi_dtype_to_onnx(nb_dtype dtype) {
    for (size_t i = 1; i < NBI_COUNT(types); i++)
        if (types[i].dtype == dtype) return (int32_t)i;
    return 0;
}

const char *nbi_onnx_type_name(int32_t type) {
    return type >= 0 && (size_t)type < NBI_COUNT(types) ? types[type].name : "unknown";
}

static nb_status read_dims(nb_ctx *ctx, const Onnx__TensorProto *proto, const char *name,
                           nbi_tensor *out, size_t *out_count) {
    if (proto->n_dims > NBI_MAX_RANK)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "tensor '%s' has %zu dimensions, at most %d are supported", name,
                       proto->n_dims, NBI_MAX_RANK);
    out->rank = (int)proto->n_dims;
    for (int i = 0; i < NBI_MAX_RANK; i++) out->dim[i] = -1;
    for (int i = 0; i < out->rank; i++) {
        out->dim[i] = proto->dims[i];
        if (out->dim[i] < 0)
            return nb_fail(ctx, NB_EFORMAT, "tensor '%s': dimension %d is %lld", name, i,
                           (long long)out->dim[i]);
    }
    int64_t count = nbi_tensor_count(out);
    if (count < 0) {
        char shape[96];
        return nb_fail(ctx, NB_EFORMAT, "tensor '%s' has the impossible shape %s", name,
                       nbi_shape_text(out, shape, sizeof shape));
    }
    *out_count = (size_t)count;
    return NB_OK;
}

/* ---- typed fields -------------------------------------------------------------------------- */

static nb_status count_fail(nb_ctx *ctx, const nbi_tensor *t, const char *field, size_t found,
                            size_t wanted) {
    char shape[96];
    return nb_fail(
        ctx, NB_EFORMAT, "tensor '%s' of shape %s and type %s: %s has %zu items, want %zu", t->name,
        nbi_shape_text(t, shape, sizeof shape), nbi_dtype_name(t->dtype), field, found, wanted);
}

/* Range of the values that int32_data may hold for a dtype; false if it is not stored there. Types
 * below 8 bits are stored a packed byte per item, float16 and bfloat16 as bit patterns. */
static bool int32_range(nb_dtype dtype, int32_t *lo, int32_t *hi, size_t *size) {
    static const struct {
        nb_dtype dtype;
        int32_t lo, hi;
        size_t size;
    } rows[] = {{NB_DTYPE_S32, INT32_MIN, INT32_MAX, 4},
                {NB_DTYPE_S16, -32768, 32767, 2},
                {NB_DTYPE_U16, 0, 65535, 2},
                {NB_DTYPE_F16, 0, 65535, 2},
                {NB_DTYPE_BF16, 0, 65535, 2},
                {NB_DTYPE_S8, -128, 127, 1},
                {NB_DTYPE_U8, 0, 255, 1},
                {NB_DTYPE_BOOL, 0, 1, 1},
                {NB_DTYPE_S4, -128, 255, 1},
                {NB_DTYPE_U4, -128, 255, 1},
                {NB_DTYPE_S2, -128, 255, 1},
                {NB_DTYPE_U2, -128, 255, 1}};
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (rows[i].dtype == dtype) {
            *lo = rows[i].lo;
            *hi = rows[i].hi;
            *size = rows[i].size;
            return true;
        }
    return false;
}

static nb_status from_int32_data(nb_ctx *ctx, const Onnx__TensorProto *proto, nbi_tensor *out,
                                 size_t bytes, bool *used) {
    int32_t lo, hi;
    size_t size;
    *used = int32_range(out->dtype, &lo, &hi, &size);
    if (!*used) return NB_OK;
    if (proto->n_int32_data != bytes / size)
        return count_fail(ctx, out, "int32_data", proto->n_int32_data, bytes / size);
    for (size_t i = 0; i < proto->n_int32_data; i++) {
        int32_t v = proto->int32_data[i];
        if (v < lo || v > hi)
            return nb_fail(ctx, NB_EFORMAT, "tensor '%s': value %d does not fit %s", out->name,
                           (int)v, nbi_dtype_name(out->dtype));
        memcpy((char *)out->data + i * size, &v, size); /* little-endian: the low bytes */
    }
    return NB_OK;
}

static nb_status from_wide_data(nb_ctx *ctx, const Onnx__TensorProto *proto, nbi_tensor *out,
                                size_t count, size_t bytes) {
    const void *data = NULL;
    size_t n = 0;
    const char *field = "";
    switch (out->dtype) {
    case NB_DTYPE_F32:
        data = proto->float_data, n = proto->n_float_data, field = "float_data";
        break;
    case NB_DTYPE_F64:
        data = proto->double_data, n = proto->n_double_data, field = "double_data";
        break;
    case NB_DTYPE_S64:
        data = proto->int64_data, n = proto->n_int64_data, field = "int64_data";
        break;
    default:
        data = proto->uint64_data, n = proto->n_uint64_data, field = "uint64_data";
        break;
    }
    if (n != count) return count_fail(ctx, out, field, n, count);
    if (out->dtype != NB_DTYPE_U32) {
        if (n) memcpy(out->data, data, bytes);
        return NB_OK;
    }
    for (size_t i = 0; i < n; i++) {
        if (proto->uint64_data[i] > UINT32_MAX)
            return nb_fail(ctx, NB_EFORMAT, "tensor '%s': value %llu does not fit uint32",
                           out->name, (unsigned long long)proto->uint64_data[i]);
        ((uint32_t *)out->data)[i] = (uint32_t)proto->uint64_data[i];
    }
    return NB_OK;
}

/* ---- the whole tensor ---------------------------------------------------------------------- */

/* Booleans become 0 or 1, unused bits of the last packed byte become 0. */
static void normalise(nbi_tensor *t, size_t count, size_t bytes) {
    uint8_t *data = t->data;
    size_t bits = (size_t)nbi_dtype_bits(t->dtype);
    if (t->dtype == NB_DTYPE_BOOL)
        for (size_t i = 0; i < bytes; i++) data[i] = data[i] != 0;
    if (bits < 8 && count * bits % 8)
        data[bytes - 1] = (uint8_t)(data[bytes - 1] & ((1u << (count * bits % 8)) - 1));
}

static bool all_finite(const nbi_tensor *t, size_t count) {
    uint16_t exponent = t->dtype == NB_DTYPE_F16 ? 0x7c00 : 0x7f80;
    for (size_t i = 0; i < count; i++) {
        if (t->dtype == NB_DTYPE_F32 && !isfinite(((const float *)t->data)[i])) return false;
        if (t->dtype == NB_DTYPE_F64 && !isfinite(((const double *)t->data)[i])) return false;
        if ((t->dtype == NB_DTYPE_F16 || t->dtype == NB_DTYPE_BF16) &&
            (((const uint16_t *)t->data)[i] & exponent) == exponent)
            return false;
    }
    return true;
}

static nb_status check_location(nb_ctx *ctx, const Onnx__TensorProto *proto, const char *name) {
    if (proto->n_external_data || (proto->has_data_location && proto->data_location != 0)) {
        const char *file = "";
        for (size_t i = 0; i < proto->n_external_data; i++) {
            const Onnx__StringStringEntryProto *e = proto->external_data[i];
            if (e->key && e->value && !strcmp(e->key, "location") && nbi_utf8_valid(e->value))
                file = e->value;
        }
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "tensor '%s' keeps its data in another file ('%.200s'): external data is "
                       "not supported, save the model as one file",
                       name, file);
    }
    if (proto->segment)
        return nb_fail(ctx, NB_EUNSUPPORTED, "tensor '%s' is a segment of a tensor: not supported",
                       name);
    return NB_OK;
}

nb_status nbi_tensor_from_proto(nb_ctx *ctx, const Onnx__TensorProto *proto, const char *name,
                                nbi_arena *arena, nbi_tensor *out) {
    nbi_tensor t = {.name = name, .producer = -1};
    size_t count = 0;
    NB_TRY(check_location(ctx, proto, name));
    t.dtype = nbi_dtype_from_onnx(proto->data_type);
    if (t.dtype == NB_DTYPE_NONE || t.dtype == NB_DTYPE_STRING)
        return nb_fail(ctx, NB_EUNSUPPORTED, "tensor '%s' has the data type %s (%d): not supported",
                       name, nbi_onnx_type_name(proto->data_type), (int)proto->data_type);
    NB_TRY(read_dims(ctx, proto, name, &t, &count));
    size_t bytes = nbi_dtype_bytes(t.dtype, count);
    bool raw = proto->has_raw_data && (proto->raw_data.len || !count);
    size_t typed = proto->n_float_data + proto->n_int32_data + proto->n_int64_data +
                   proto->n_double_data + proto->n_uint64_data + proto->n_string_data;
    if (raw && typed)
        return nb_fail(ctx, NB_EFORMAT, "tensor '%s' has both raw and typed data", name);
    if (raw && proto->raw_data.len != bytes)
        return count_fail(ctx, &t, "raw_data", proto->raw_data.len, bytes);
    /* Dims alone must not make us allocate: data in the file has at least a byte per item. */
    if (!raw && typed < (bytes + 7) / 8) return count_fail(ctx, &t, "its data", typed, count);
    t.data = nbi_arena_alloc(arena, bytes ? bytes : 1, 1);
    if (!t.data) return nb_fail_memory(ctx, bytes);
    if (raw) {
        if (bytes) memcpy(t.data, proto->raw_data.data, bytes);
    } else {
        bool used = false;
        NB_TRY(from_int32_data(ctx, proto, &t, bytes, &used));
        if (!used) NB_TRY(from_wide_data(ctx, proto, &t, count, bytes));
    }
    normalise(&t, count, bytes);
    if (!all_finite(&t, count))
        nb_log(ctx, NB_LOG_WARNING, "tensor '%s' holds NaN or infinite values", name);
    *out = t;
    return NB_OK;
}
