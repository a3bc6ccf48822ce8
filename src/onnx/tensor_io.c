/* Single tensors in files: TensorProto (.pb, as in the ONNX backend tests), .npy, arrays of .npz.
 */
#include "onnx/proto.h"

#include "base/npy_header.h"

#include <stdlib.h>
#include <string.h>
#include <zip.h>

static nb_status add_tensor(nb_ctx *ctx, nbi_graph *graph, const nbi_tensor *t, int *out_tensor) {
    return nbi_graph_add_const(ctx, graph, t->name, t->dtype, t->rank, t->dim, out_tensor);
}

static nb_status parse_pb(nb_ctx *ctx, const void *data, size_t size, nbi_graph *graph,
                          int *out_tensor) {
    nbi_arena arena = {0};
    ProtobufCMessage *message = NULL;
    nbi_tensor t;
    nb_status st;
    int index = 0;
    NB_TRYG(nbi_proto_unpack(ctx, &onnx__tensor_proto__descriptor, data, size, &arena, &message));
    const Onnx__TensorProto *proto = (const Onnx__TensorProto *)message;
    const char *name = proto->name ? proto->name : "";
    NB_TRYG(nbi_name_check(ctx, "the tensor's name", name));
    NB_TRYG(nbi_tensor_from_proto(ctx, proto, name, &arena, &t));
    NB_TRYG(add_tensor(ctx, graph, &t, &index));
    memcpy(graph->tensor[index]->data, t.data,
           nbi_dtype_bytes(t.dtype, (size_t)nbi_tensor_count(&t)));
    *out_tensor = index;
done:
    nbi_arena_free(&arena);
    return st;
}

nb_status nbi_tensor_read_pb(nb_ctx *ctx, const char *path, nbi_graph *graph, int *out_tensor) {
    void *data = NULL;
    size_t size = 0;
    NB_TRY(nbi_file_read(ctx, path, NBI_ONNX_MAX_BYTES, &data, &size));
    nb_status st = parse_pb(ctx, data, size, graph, out_tensor);
    nbi_free(data);
    return st == NB_OK ? NB_OK : nb_fail_prefix(ctx, st, "'%s'", path);
}

nb_status nbi_tensor_write_pb(nb_ctx *ctx, const nbi_tensor *tensor, const char *path) {
    nbi_arena arena = {0};
    nbi_buf bytes = {0};
    Onnx__TensorProto *proto = NULL;
    nb_status st;
    NB_TRYG(nbi_tensor_to_proto(ctx, tensor, &arena, &proto));
    NB_TRYG(nbi_proto_pack(ctx, &proto->base, &bytes));
    st = nbi_file_write(ctx, path, bytes.data, bytes.size);
done:
    nbi_buf_free(&bytes);
    nbi_arena_free(&arena);
    return st;
}

/* ---- .npy, .npz ---------------------------------------------------------------------------- */

/* `name` names the new tensor, `what` the source in messages. */
static nb_status parse_npy(nb_ctx *ctx, const char *what, const char *name, const uint8_t *data,
                           size_t size, nbi_graph *graph, int *out_tensor) {
    nbi_npy_info npy;
    int index;
    if (name) NB_TRY(nbi_name_check(ctx, "the array's name", name));
    NB_TRY(nbi_npy_parse(ctx, what, data, size, &npy));
    if (npy.bytes != size - npy.offset)
        return nb_fail(ctx, NB_EFORMAT, "'%s' has %zu bytes of data, its shape wants %zu", what,
                       size - npy.offset, npy.bytes);
    NB_TRY(nbi_graph_add_const(ctx, graph, name, npy.dtype, npy.rank, npy.dim, &index));
    uint8_t *to = graph->tensor[index]->data;
    if (npy.bytes) memcpy(to, data + npy.offset, npy.bytes);
    for (size_t i = 0; npy.dtype == NB_DTYPE_BOOL && i < npy.bytes; i++) to[i] = to[i] != 0;
    *out_tensor = index;
    return NB_OK;
}

/* "dir/x.npy" -> "x" */
static const char *base_name(nbi_graph *graph, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    if (n > 4 && !strcmp(name + n - 4, ".npy")) n -= 4;
    return nbi_arena_text(&graph->arena, name, n);
}

nb_status nbi_tensor_read_npy(nb_ctx *ctx, const char *path, nbi_graph *graph, int *out_tensor) {
    void *data = NULL;
    size_t size = 0;
    NB_TRY(nbi_file_read(ctx, path, NBI_ONNX_MAX_BYTES, &data, &size));
    nb_status st = parse_npy(ctx, path, base_name(graph, path), data, size, graph, out_tensor);
    nbi_free(data);
    return st;
}

nb_status nbi_tensor_write_npy(nb_ctx *ctx, const nbi_tensor *tensor, const char *path) {
    nbi_buf bytes = {0};
    nb_status st;
    int64_t count = nbi_tensor_count(tensor);
    if (count < 0 || !tensor->data)
        return nb_fail(ctx, NB_EINVAL, "tensor '%s' is not a constant that can be written",
                       tensor->name);
    NB_TRYG(nbi_npy_write_header(ctx, tensor->dtype, tensor->rank, tensor->dim, &bytes));
    NB_TRYG(
        nbi_buf_append(ctx, &bytes, tensor->data, nbi_dtype_bytes(tensor->dtype, (size_t)count)));
    st = nbi_file_write(ctx, path, bytes.data, bytes.size);
done:
    nbi_buf_free(&bytes);
    return st;
}

/* Index of the entry: "NAME.npy", or the only one when name is NULL. */
static nb_status find_entry(nb_ctx *ctx, zip_t *zip, const char *path, const char *name,
                            zip_uint64_t *out) {
    if (!name) {
        if (zip_get_num_entries(zip, 0) != 1)
            return nb_fail(ctx, NB_EINVAL, "'%s' holds %lld arrays: say which", path,
                           (long long)zip_get_num_entries(zip, 0));
        *out = 0;
        return NB_OK;
    }
    nbi_buf entry = {0};
    nb_status st = nbi_buf_printf(ctx, &entry, "%s.npy", name);
    zip_int64_t index = st == NB_OK ? zip_name_locate(zip, entry.data, 0) : -1;
    nbi_buf_free(&entry);
    if (st == NB_OK && index < 0)
        return nb_fail(ctx, NB_EINVAL, "'%s' has no array '%s'", path, name);
    *out = (zip_uint64_t)index;
    return st;
}

static nb_status read_entry(nb_ctx *ctx, zip_t *zip, const char *path, zip_uint64_t index,
                            void **out, size_t *out_size) {
    zip_stat_t info;
    nbi_buf bytes = {0};
    nb_status st = NB_OK;
    char chunk[16384];
    if (zip_stat_index(zip, index, 0, &info) != 0 || !(info.valid & ZIP_STAT_SIZE) ||
        info.size > NBI_ONNX_MAX_BYTES)
        return nb_fail(ctx, NB_EFORMAT, "'%s': entry %llu cannot be read", path,
                       (unsigned long long)index);
    zip_file_t *file = zip_fopen_index(zip, index, 0);
    if (!file) return nb_fail(ctx, NB_EFORMAT, "'%s': %s", path, zip_strerror(zip));
    zip_int64_t n;
    /* The stated size is not trusted for an allocation: the buffer grows with what arrives. */
    while ((n = zip_fread(file, chunk, sizeof chunk)) > 0 && bytes.size <= info.size)
        NB_TRYG(nbi_buf_append(ctx, &bytes, chunk, (size_t)n));
    if (n != 0 || bytes.size != info.size) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s': entry %llu is damaged", path,
                     (unsigned long long)index);
        goto done;
    }
    *out = bytes.data;
    *out_size = bytes.size;
    bytes = (nbi_buf){0};
done:
    zip_fclose(file);
    nbi_buf_free(&bytes);
    return st;
}

nb_status nbi_tensor_read_npz(nb_ctx *ctx, const char *path, const char *name, nbi_graph *graph,
                              int *out_tensor) {
    int code = 0;
    zip_uint64_t index = 0;
    void *data = NULL;
    size_t size = 0;
    zip_t *zip = zip_open(path, ZIP_RDONLY, &code);
    if (!zip) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        nb_fail(ctx, NB_EFORMAT, "'%s' is not a readable .npz: %s", path,
                zip_error_strerror(&error));
        zip_error_fini(&error);
        return NB_EFORMAT;
    }
    nb_status st = find_entry(ctx, zip, path, name, &index);
    if (st == NB_OK) st = read_entry(ctx, zip, path, index, &data, &size);
    if (st == NB_OK) {
        const char *entry = zip_get_name(zip, index, 0);
        st = parse_npy(ctx, path, name ? name : base_name(graph, entry ? entry : ""),
                       data ? data : (void *)"", size, graph, out_tensor);
    }
    nbi_free(data);
    zip_discard(zip);
    return st;
}
