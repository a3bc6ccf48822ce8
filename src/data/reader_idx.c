/* MNIST-type IDX folders: <any>train<any>images<any>idx3<any> with its labels file, the same with
 * t10k or test; plain or .gz. Format: big-endian magic (0, 0, type 8 = u8, rank), rank sizes, data.
 * http://yann.lecun.com/exdb/mnist/ */
#include "data/dataset.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

enum { RANK_MAX = 4, HEADER_MAX = 4 + 4 * RANK_MAX };
#define FILE_MAX ((size_t)4 << 30)

typedef struct array {
    uint8_t *data; /* from nbi_alloc */
    int rank;
    size_t shape[RANK_MAX];
    size_t bytes;
} array;
typedef struct idx {
    array images[3];
} idx;

static int split_of(const char *name) {
    if (!strstr(name, "images") || !strstr(name, "idx")) return -1;
    if (strstr(name, "train")) return NBI_SPLIT_TRAIN;
    if (strstr(name, "t10k") || strstr(name, "test")) return NBI_SPLIT_TEST;
    return -1;
}

static bool recognise(const char *path) {
    nbi_arena arena = {0};
    const char **names = NULL;
    size_t n = 0;
    bool found = false;
    if (!nbi_is_folder(path)) return false;
    if (nbi_folder_list(NULL, path, &arena, &names, &n) == NB_OK)
        for (size_t i = 0; i < n; i++) found = found || split_of(names[i]) >= 0;
    nbi_arena_free(&arena);
    return found;
}

/* Inflates up to `size` bytes into out; *got says how many came. `whole`: the stream must end
 * there. */
static nb_status inflate_some(nb_ctx *ctx, const char *path, const uint8_t *in, size_t in_size,
                              uint8_t *out, size_t size, bool whole, size_t *got) {
    z_stream z = {0};
    if (inflateInit2(&z, 15 + 16) != Z_OK) return nb_fail_memory(ctx, 1 << 16);
    size_t in_at = 0, out_at = 0;
    uint8_t beyond;
    int rc = Z_OK;
    while (rc == Z_OK) {
        size_t in_part = in_size - in_at < 1u << 30 ? in_size - in_at : 1u << 30;
        size_t out_part = size - out_at < 1u << 30 ? size - out_at : 1u << 30;
        if (!out_part && !whole) break;
        z.next_in = (Bytef *)(uintptr_t)(in + in_at);
        z.avail_in = (uInt)in_part;
        z.next_out = out_part ? out + out_at : &beyond;
        z.avail_out = out_part ? (uInt)out_part : 1;
        rc = inflate(&z, Z_NO_FLUSH);
        in_at += in_part - z.avail_in;
        if (out_part)
            out_at += out_part - z.avail_out;
        else if (!z.avail_out)
            rc = Z_BUF_ERROR; /* more data than the header says */
    }
    inflateEnd(&z);
    *got = out_at;
    if (rc == Z_STREAM_END ? whole && out_at < size : whole || rc != Z_OK)
        return nb_fail(ctx, NB_EFORMAT,
                       "'%s': gzip data is damaged, or of another length than its header says "
                       "(%zu bytes, %zu inflated)",
                       path, size, out_at);
    return NB_OK;
}

static uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Checks an IDX header; *out gets rank, shape, bytes; header bytes are 4 + 4·rank. */
static nb_status parse_header(nb_ctx *ctx, const char *path, const uint8_t *h, size_t got,
                              const int ranks[2], array *out) {
    if (got < 4 || h[0] || h[1] || h[2] != 8 || h[3] < ranks[0] || h[3] > ranks[1])
        return nb_fail(ctx, NB_EFORMAT, "'%s': IDX magic is 0x%08x, want 0x%08x", path,
                       got < 4 ? 0 : big_endian(h), 0x800 + ranks[0]);
    out->rank = h[3];
    out->bytes = 1;
    if (got < 4 + 4 * (size_t)out->rank)
        return nb_fail(ctx, NB_EFORMAT, "'%s' ends in its header", path);
    for (int i = 0; i < out->rank; i++) {
        out->shape[i] = big_endian(h + 4 + 4 * i);
        if (!out->shape[i] || (i && out->shape[i] > 16384) ||
            !nbi_mul_size(out->bytes, out->shape[i], &out->bytes) || out->bytes > FILE_MAX)
            return nb_fail(
                ctx, NB_EFORMAT,
                "'%s': dimension %d is %zu, want 1..16384 and %zu bytes in total at most", path, i,
                out->shape[i], FILE_MAX);
    }
    return NB_OK;
}

static nb_status load_array(nb_ctx *ctx, const char *path, const int ranks[2], array *out) {
    uint8_t *file = NULL, *data = NULL, head[HEADER_MAX] = {0};
    size_t size = 0, got = 0;
    array a = {0};
    bool gz = nbi_name_ends(path, ".gz");
    nb_status st;
    NB_TRYG(nbi_file_read(ctx, path, FILE_MAX, (void **)&file, &size));
    if (gz) {
        NB_TRYG(inflate_some(ctx, path, file, size, head, sizeof head, false, &got));
    } else {
        got = size < sizeof head ? size : sizeof head;
        memcpy(head, file, got);
    }
    NB_TRYG(parse_header(ctx, path, head, got, ranks, &a));
    size_t header = 4 + 4 * (size_t)a.rank, total = header + a.bytes;
    if (gz ? total / 1100 > size : total != size) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s' has %zu bytes%s, its header says %zu: truncated?", path,
                     size, gz ? " compressed" : "", total);
        goto done;
    }
    if (gz) {
        NB_TRYG(nbi_alloc(ctx, total, 1, &data));
        NB_TRYG(inflate_some(ctx, path, file, size, data, total, true, &got));
    } else {
        data = file;
        file = NULL;
    }
    memmove(data, data + header, a.bytes);
    a.data = data;
    *out = a;
    data = NULL;
done:
    nbi_free(file);
    nbi_free(data);
    return st;
}

static void free_idx(void *source) {
    idx *x = source;
    for (int s = 0; s < 3; s++) nbi_free(x->images[s].data);
    nbi_free(x);
}

static nb_status read_sample(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out) {
    const idx *x = data->source;
    (void)ctx;
    int split = 0;
    for (; raw >= data->raw_count[split]; split++) raw -= data->raw_count[split];
    memcpy(out, x->images[split].data + raw * data->info.sample_bytes, data->info.sample_bytes);
    return NB_OK;
}

/* The images file of a split: *found is NULL if there is none; a plain file wins over its .gz. */
static nb_status find_images(nb_ctx *ctx, const char *folder, int split, nbi_arena *arena,
                             const char **found) {
    const char **names = NULL;
    size_t n = 0;
    *found = NULL;
    NB_TRY(nbi_folder_list(ctx, folder, arena, &names, &n));
    for (size_t i = 0; i < n; i++) {
        if (split_of(names[i]) != split) continue;
        size_t length = *found ? strlen(*found) : 0;
        if (*found &&
            !(strncmp(names[i], *found, length) == 0 && strcmp(names[i] + length, ".gz") == 0))
            return nb_fail(ctx, NB_EFORMAT, "'%s' holds both '%s' and '%s', want one of them",
                           folder, *found, names[i]);
        if (!*found) *found = names[i];
    }
    return NB_OK;
}

/* "…images…idx3…" → "…labels…idx1…" in the folder, plain or with .gz added or removed. */
static nb_status find_labels(nb_ctx *ctx, const char *folder, const char *images, nbi_arena *arena,
                             char **out) {
    char *name = nbi_arena_text(arena, images, strlen(images));
    if (!name) return nb_fail_memory(ctx, strlen(images));
    memcpy(strstr(name, "images"), "labels", 6);
    char *rank = strstr(name, "idx3");
    if (rank) rank[3] = '1';
    size_t n = strlen(name);
    if (nbi_name_ends(name, ".gz")) name[n - 3] = 0;
    char *plain = nbi_path_join(arena, folder, name);
    char *gz = plain ? nbi_arena_format(arena, "%s.gz", plain) : NULL;
    if (!gz) return nb_fail_memory(ctx, n);
    *out = nbi_file_exists(plain) ? plain : nbi_file_exists(gz) ? gz : NULL;
    return NB_OK;
}

static nb_status open_split(nb_ctx *ctx, nbi_dataset *data, const char *folder, int split,
                            nbi_arena *arena, array *labels) {
    idx *x = data->source;
    array *images = &x->images[split];
    const char *name;
    char *label_path = NULL;
    NB_TRY(find_images(ctx, folder, split, arena, &name));
    if (!name) return NB_OK;
    char *path = nbi_path_join(arena, folder, name);
    if (!path) return nb_fail_memory(ctx, strlen(folder));
    NB_TRY(load_array(ctx, path, (const int[]){3, 4}, images));
    int channels = images->rank == 4 ? (int)images->shape[3] : 1;
    if (data->info.sample_bytes &&
        (data->info.height != (int)images->shape[1] || data->info.width != (int)images->shape[2] ||
         data->info.channels != channels))
        return nb_fail(ctx, NB_EFORMAT, "'%s': images of %zux%zux%d, want %dx%dx%d as in train",
                       path, images->shape[1], images->shape[2], channels, data->info.height,
                       data->info.width, data->info.channels);
    data->info.height = (int)images->shape[1];
    data->info.width = (int)images->shape[2];
    data->info.channels = channels;
    data->info.sample_bytes = images->bytes / images->shape[0];
    data->raw_count[split] = images->shape[0];
    NB_TRY(find_labels(ctx, folder, name, arena, &label_path));
    if (!label_path) return NB_OK;
    NB_TRY(load_array(ctx, label_path, (const int[]){1, 1}, labels));
    if (labels->shape[0] != images->shape[0])
        return nb_fail(ctx, NB_EFORMAT, "'%s' has %zu labels, want %zu as there are images",
                       label_path, labels->shape[0], images->shape[0]);
    return NB_OK;
}

static nb_status gather_labels(nb_ctx *ctx, nbi_dataset *data, const char *folder,
                               const array labels[3]) {
    size_t at = 0;
    for (int s = 0; s < 3; s++)
        if (data->raw_count[s] && !labels[s].data) {
            nb_log(ctx, NB_LOG_WARNING, "'%s': %s images have no labels file: used unlabelled",
                   folder, s == NBI_SPLIT_TRAIN ? "train" : "test");
            return NB_OK;
        }
    NB_TRY(nbi_alloc(ctx, nbi_dataset_raw_total(data), sizeof *data->labels, &data->labels));
    for (int s = 0; s < 3; s++)
        for (size_t i = 0; i < data->raw_count[s]; i++) data->labels[at++] = labels[s].data[i];
    return nbi_dataset_count_classes(ctx, data, folder);
}

static nb_status open_idx(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    nbi_arena arena = {0};
    nbi_dataset *data = NULL;
    array labels[3] = {{0}};
    nb_status st;
    NB_TRYG(nbi_dataset_new(ctx, &nbi_reader_idx, &data));
    NB_TRYG(nbi_alloc(ctx, 1, sizeof(idx), &data->source));
    data->free_source = free_idx;
    data->read = read_sample;
    data->info.is_image = true;
    for (int s = 0; s < 3; s++)
        NB_TRYG(open_split(ctx, data, options->path, s, &arena, &labels[s]));
    NB_TRYG(gather_labels(ctx, data, options->path, labels));
    *out = data;
    data = NULL;
done:
    for (int s = 0; s < 3; s++) nbi_free(labels[s].data);
    nbi_arena_free(&arena);
    nbi_dataset_free(data);
    return st;
}

const nbi_reader nbi_reader_idx = {
    .name = "idx",
    .help = "MNIST-type IDX folder (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-…; .gz)",
    .recognise = recognise,
    .open = open_idx,
};
