/* Data sets: finds the reader by content, opens, divides into splits, serves samples. */
#include "data/dataset.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const nbi_reader *const *nbi_readers(size_t *n) {
    static const nbi_reader *const rows[] = {
#define READER(row) &row,
#include "data/readers.def"
#undef READER
    };
    *n = NBI_COUNT(rows);
    return rows;
}

nb_status nbi_dataset_new(nb_ctx *ctx, const nbi_reader *row, nbi_dataset **out) {
    NB_TRY(nbi_alloc(ctx, 1, sizeof **out, out));
    (*out)->info.kind = row->name;
    return NB_OK;
}

void nbi_dataset_free(nbi_dataset *data) {
    if (!data) return;
    if (data->source) data->free_source(data->source);
    for (int s = 0; s < 3; s++) nbi_free(data->order[s]);
    nbi_free(data->labels);
    nbi_free(data);
}

size_t nbi_dataset_raw_total(const nbi_dataset *data) {
    return data->raw_count[0] + data->raw_count[1] + data->raw_count[2];
}

nb_status nbi_dataset_count_classes(nb_ctx *ctx, nbi_dataset *data, const char *path) {
    int32_t most = -1;
    for (size_t i = 0, n = nbi_dataset_raw_total(data); i < n; i++) {
        if (data->labels[i] < 0 || data->labels[i] >= NBI_CLASSES_MAX)
            return nb_fail(ctx, NB_EFORMAT, "'%s': label %d of sample %zu, want 0..%d", path,
                           (int)data->labels[i], i, NBI_CLASSES_MAX - 1);
        if (data->labels[i] > most) most = data->labels[i];
    }
    data->info.classes = most + 1;
    return NB_OK;
}

static nb_status check_options(nb_ctx *ctx, const nbi_data_options *o) {
    if (!o->path || !o->path[0]) return nb_fail(ctx, NB_EINVAL, "no data path is given");
    const int values[] = {o->resize, o->crop, o->want_height, o->want_width, o->want_channels};
    static const char *const names[] = {"resize", "crop", "wanted height", "wanted width",
                                        "wanted channels"};
    for (size_t i = 0; i < NBI_COUNT(values); i++)
        if (values[i] < 0 || values[i] > 16384)
            return nb_fail(ctx, NB_EINVAL, "%s is %d, want 0..16384", names[i], values[i]);
    return NB_OK;
}

static nb_status no_reader(nb_ctx *ctx, const char *path) {
    nbi_buf text = {0};
    size_t n;
    const nbi_reader *const *rows = nbi_readers(&n);
    nb_status st = NB_OK;
    for (size_t i = 0; i < n && st == NB_OK; i++)
        st = nbi_buf_printf(ctx, &text, "%s%s", i ? "; " : "", rows[i]->help);
    if (st == NB_OK)
        st = nb_fail(ctx, NB_EFORMAT, "'%s' is no data that nibble knows; looked for: %s", path,
                     text.data);
    nbi_buf_free(&text);
    return st;
}

nb_status nbi_dataset_open(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    NB_TRY(check_options(ctx, options));
    size_t n;
    const nbi_reader *const *rows = nbi_readers(&n);
    const nbi_reader *row = NULL;
    for (size_t i = 0; i < n && !row; i++)
        if (rows[i]->recognise(options->path)) row = rows[i];
    if (!row) {
        nbi_arena names = {0};
        const char **name;
        /* nobody could look into it? Then that is the error. */
        nb_status listed = nbi_is_folder(options->path)
                               ? nbi_folder_list(ctx, options->path, &names, &name, &n) : NB_OK;
        nbi_arena_free(&names);
        NB_TRY(listed);
        if (strncmp(options->path, "builtin:", 8) != 0 && !nbi_file_exists(options->path))
            return nb_fail(ctx, NB_EIO, "'%s' does not exist", options->path);
        return no_reader(ctx, options->path);
    }
    nbi_dataset *data = NULL;
    nb_status st;
    NB_TRY(row->open(ctx, options, &data));
    if (nbi_dataset_raw_total(data) == 0) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s' (%s) holds no samples", options->path, row->name);
        goto done;
    }
    NB_TRYG(nbi_dataset_divide(ctx, data, options));
    *out = data;
    data = NULL;
done:
    nbi_dataset_free(data);
    return st;
}

const nbi_dataset_info *nbi_dataset_get(const nbi_dataset *data) {
    return &data->info;
}

nb_status nbi_dataset_sample(nb_ctx *ctx, const nbi_dataset *data, nbi_split split, size_t index,
                             void *out, int *label) {
    if ((unsigned)split > NBI_SPLIT_TEST || index >= data->info.count[split])
        return nb_fail(ctx, NB_EINVAL, "sample %zu of split %d of %s data, which has %zu", index,
                       (int)split, data->info.kind,
                       (unsigned)split > NBI_SPLIT_TEST ? 0 : data->info.count[split]);
    size_t raw = data->order[split][index];
    NB_TRY(data->read(ctx, data, raw, out));
    *label = data->labels ? (int)data->labels[raw] : -1;
    return NB_OK;
}

char *nbi_path_join(nbi_arena *arena, const char *folder, const char *name) {
    size_t n = strlen(folder);
    return nbi_arena_format(arena, n && folder[n - 1] == '/' ? "%s%s" : "%s/%s", folder, name);
}

bool nbi_name_ends(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    if (m > n) return false;
    for (size_t i = 0; i < m; i++)
        if (tolower((unsigned char)name[n - m + i]) != tolower((unsigned char)ending[i]))
            return false;
    return true;
}

bool nbi_file_peek(const char *path, void *out, size_t size) {
    if (nbi_is_folder(path)) return false;
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool ok = fread(out, 1, size, f) == size;
    fclose(f);
    return ok;
}
