/* A zip archive whose entries are stored, not packed: local header, data, …, central directory, end
 * record (PKWARE APPNOTE 6.3, sections 4.3.7 to 4.3.16). Weights do not compress, and libzip would
 * not let us write through nbi_file_write. */
#include "train/checkpoint.h"

#include "base/npy_header.h"
#include "data/npy.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { JSON_MAX = 1 << 26 };

typedef struct writer {
    nb_ctx *ctx;
    nbi_buf file, directory;
    size_t entries;
} writer;

static void put(uint8_t *to, size_t bytes, uint64_t value) {
    for (size_t i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> (8 * i));
}

/* The fields that both headers share: version, flags, method, time, date, crc, sizes, name. The
 * date is 1980-01-01, so that equal states are equal files. */
static void put_common(uint8_t *h, uint32_t crc, size_t size, size_t name) {
    put(h, 2, 20);
    put(h + 8, 2, 0x21);
    put(h + 10, 4, crc);
    put(h + 14, 4, size);
    put(h + 18, 4, size);
    put(h + 22, 2, name);
}

static nb_status add_entry(writer *w, const char *name, nb_dtype dtype, size_t count,
                           const void *data) {
    uint8_t local[30] = {'P', 'K', 3, 4}, central[46] = {'P', 'K', 1, 2};
    nbi_buf header = {0};
    int64_t dim = (int64_t)count;
    size_t bytes = nbi_dtype_bytes(dtype, count), length = strlen(name), offset = w->file.size;
    nb_status st;
    NB_TRYG(nbi_npy_write_header(w->ctx, dtype, 1, &dim, &header));
    if (offset + header.size + bytes + length > UINT32_MAX - 4096 ||
        w->entries == NBI_NPZ_ARRAYS_MAX) {
        st = nb_fail(w->ctx, NB_EUNSUPPORTED, "a checkpoint of 4 GiB or of more than %d arrays "
                     "cannot be written", NBI_NPZ_ARRAYS_MAX);
        goto done;
    }
    uLong crc = crc32_z(0, (const Bytef *)header.data, header.size);
    if (bytes) crc = crc32_z(crc, data, bytes);
    put_common(local + 4, (uint32_t)crc, header.size + bytes, length);
    put(central + 4, 2, 20);
    put_common(central + 6, (uint32_t)crc, header.size + bytes, length);
    put(central + 42, 4, offset);
    NB_TRYG(nbi_buf_append(w->ctx, &w->file, local, sizeof local));
    NB_TRYG(nbi_buf_append(w->ctx, &w->file, name, length));
    NB_TRYG(nbi_buf_append(w->ctx, &w->file, header.data, header.size));
    if (bytes) NB_TRYG(nbi_buf_append(w->ctx, &w->file, data, bytes));
    NB_TRYG(nbi_buf_append(w->ctx, &w->directory, central, sizeof central));
    NB_TRYG(nbi_buf_append(w->ctx, &w->directory, name, length));
    w->entries++;
done:
    nbi_buf_free(&header);
    return st;
}

static nb_status add_end(writer *w) {
    uint8_t end[22] = {'P', 'K', 5, 6};
    size_t offset = w->file.size;
    put(end + 8, 2, w->entries);
    put(end + 10, 2, w->entries);
    put(end + 12, 4, w->directory.size);
    put(end + 16, 4, offset);
    NB_TRY(nbi_buf_append(w->ctx, &w->file, w->directory.data, w->directory.size));
    return nbi_buf_append(w->ctx, &w->file, end, sizeof end);
}

nb_status nbi_checkpoint_write(nb_ctx *ctx, const char *path, const json_t *json, size_t n,
                               const nbi_checkpoint_array *arrays) {
    writer w = {.ctx = ctx};
    char *text = json_dumps(json, JSON_COMPACT);
    nb_status st;
    if (!text) return nb_fail(ctx, NB_ENOMEM, "no memory for the checkpoint");
    NB_TRYG(add_entry(&w, "json.npy", NB_DTYPE_U8, strlen(text), text));
    for (size_t i = 0; i < n; i++) {
        nbi_buf name = {0};
        st = nbi_buf_printf(ctx, &name, "%s.npy", arrays[i].name);
        if (st == NB_OK)
            st = add_entry(&w, name.data, NB_DTYPE_F32, arrays[i].count, arrays[i].data);
        nbi_buf_free(&name);
        if (st != NB_OK) goto done;
    }
    NB_TRYG(add_end(&w));
    st = nbi_file_write(ctx, path, w.file.data, w.file.size);
done:
    free(text);
    nbi_buf_free(&w.file);
    nbi_buf_free(&w.directory);
    return st == NB_OK ? NB_OK : nb_fail_prefix(ctx, st, "checkpoint");
}

nb_status nbi_checkpoint_json(nb_ctx *ctx, const char *path, json_t **json) {
    nbi_npz npz = {0};
    nbi_npy a = {0};
    nb_status st;
    NB_TRYG(nbi_npz_open(ctx, path, &npz));
    NB_TRYG(nbi_npz_read(ctx, &npz, "json", &a));
    json_error_t error;
    json_t *root = a.item_bytes == 1 && a.items <= JSON_MAX
                       ? json_loadb((const char *)a.data, a.items, 0, &error)
                       : NULL;
    if (!json_is_object(root)) {
        bool memory = !root && json_error_code(&error) == json_error_out_of_memory;
        json_decref(root);
        st = memory ? nb_fail(ctx, NB_ENOMEM, "no memory for the checkpoint '%s'", path)
                    : nb_fail(ctx, NB_EFORMAT,
                              "'%s' is not a checkpoint: its 'json' is no JSON object", path);
        goto done;
    }
    *json = root;
done:
    nbi_npy_free(&a);
    nbi_npz_close(&npz);
    return st;
}

static nb_status read_array(nb_ctx *ctx, nbi_npz *npz, const nbi_checkpoint_array *to) {
    nbi_npy a = {0};
    NB_TRY(nbi_npz_read(ctx, npz, to->name, &a));
    bool fits = a.kind == 'f' && a.item_bytes == 4 && a.items == to->count;
    if (fits)
        for (size_t i = 0; i < to->count; i++) to->data[i] = (float)nbi_npy_real(&a, i);
    nb_status st = fits ? NB_OK
                        : nb_fail(ctx, NB_EFORMAT,
                                  "'%s': '%s' holds %zu values, this network needs %zu floats",
                                  npz->path, to->name, a.items, to->count);
    nbi_npy_free(&a);
    return st;
}

nb_status nbi_checkpoint_read(nb_ctx *ctx, const char *path, size_t n,
                              const nbi_checkpoint_array *arrays) {
    nbi_npz npz = {0};
    NB_TRY(nbi_npz_open(ctx, path, &npz));
    nb_status st = NB_OK;
    for (size_t i = 0; i < n && st == NB_OK; i++) st = read_array(ctx, &npz, &arrays[i]);
    nbi_npz_close(&npz);
    return st;
}
