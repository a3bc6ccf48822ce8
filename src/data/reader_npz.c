/* .npz: `x` with optional `y`; or x_train, y_train, x_val, y_val, x_test, y_test; or one array of
 * any name (a network's input). uint8 N,H,W,C or N,C,H,W with 1 or 3 channels, and uint8 N,H,W,
 * are images; every other array is served as float32. */
#include "data/dataset.h"
#include "data/npy.h"

#include <math.h>
#include <string.h>

typedef struct npz {
    nbi_npy x[3];
    bool planes; /* images come as N,C,H,W */
} npz;

static bool recognise(const char *path) {
    uint8_t head[4];
    return nbi_file_peek(path, head, sizeof head) && memcmp(head, "PK\3\4", 4) == 0;
}

static void free_npz(void *source) {
    npz *z = source;
    for (int s = 0; s < 3; s++) nbi_npy_free(&z->x[s]);
    nbi_free(z);
}

static nb_status read_sample(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out) {
    const npz *z = data->source;
    const nbi_dataset_info *info = &data->info;
    int split = 0;
    (void)ctx;
    for (; raw >= data->raw_count[split]; split++) raw -= data->raw_count[split];
    const nbi_npy *x = &z->x[split];
    size_t items = x->items / x->shape[0];
    if (!info->is_image) {
        float *v = out;
        for (size_t i = 0; i < items; i++) v[i] = (float)nbi_npy_real(x, raw * items + i);
        return NB_OK;
    }
    const uint8_t *in = x->data + raw * items;
    if (!z->planes) {
        memcpy(out, in, items);
        return NB_OK;
    }
    uint8_t *pixel = out;
    size_t c = (size_t)info->channels, plane = items / c;
    for (size_t p = 0; p < plane; p++)
        for (size_t k = 0; k < c; k++) *pixel++ = in[k * plane + p];
    return NB_OK;
}

static bool is_colour(size_t n) {
    return n == 1 || n == 3;
}

/* Fills info from the first array; the same for each, or an error. */
static nb_status describe(nb_ctx *ctx, nbi_dataset *data, const char *path, const nbi_npy *x) {
    npz *z = data->source;
    nbi_dataset_info d = data->info;
    if (x->rank < 1 || !x->items)
        return nb_fail(ctx, NB_EFORMAT, "'%s': '%s' holds no samples (rank %d, %zu items)", path,
                       x->name, x->rank, x->items);
    d.rank = x->rank - 1;
    for (int i = 0; i < d.rank; i++) d.shape[i] = (int64_t)x->shape[i + 1];
    bool u8 = x->kind == 'u' && x->item_bytes == 1, last = false, first = false;
    if (u8 && x->rank == 4) last = is_colour(x->shape[3]), first = is_colour(x->shape[1]);
    d.is_image = u8 && (x->rank == 3 || last || first);
    z->planes = first && !last;
    size_t values = x->items / x->shape[0];
    d.sample_bytes = d.is_image ? values : values * sizeof(float);
    if (d.is_image) {
        int at = z->planes ? 2 : 1;
        if (x->shape[at] > 16384 || x->shape[at + 1] > 16384)
            return nb_fail(ctx, NB_EFORMAT, "'%s': '%s' has images of %zux%zu, want up to 16384",
                           path, x->name, x->shape[at], x->shape[at + 1]);
        d.height = (int)x->shape[at];
        d.width = (int)x->shape[at + 1];
        d.channels = x->rank == 3 ? 1 : (int)x->shape[z->planes ? 1 : 3];
    }
    if (data->info.sample_bytes &&
        (d.rank != data->info.rank || d.is_image != data->info.is_image ||
         memcmp(d.shape, data->info.shape, sizeof d.shape) != 0))
        return nb_fail(ctx, NB_EFORMAT,
                       "'%s': '%s' has another shape or type than the arrays of "
                       "the other splits",
                       path, x->name);
    data->info = d;
    return NB_OK;
}

/* No NaN or infinity gets past the door. */
static nb_status check_finite(nb_ctx *ctx, const char *path, const nbi_npy *x) {
    if (x->kind != 'f') return NB_OK;
    for (size_t i = 0; i < x->items; i++)
        if (!isfinite((float)nbi_npy_real(x, i)))
            return nb_fail(ctx, NB_ENUMERIC, "'%s': '%s' item %zu is not a finite float32", path,
                           x->name, i);
    return NB_OK;
}

static nb_status read_labels(nb_ctx *ctx, nbi_npz *file, const char *name, size_t want,
                             int32_t *labels) {
    nbi_npy y = {0};
    nb_status st = NB_OK;
    NB_TRYG(nbi_npz_read(ctx, file, name, &y));
    if (y.kind == 'f') {
        st = nb_fail(ctx, NB_EFORMAT, "'%s': labels '%s' are floats, want integers", file->path,
                     name);
        goto done;
    }
    if (y.items != want || y.rank < 1 || y.shape[0] != want) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s': '%s' has %zu labels, want %zu, one per sample",
                     file->path, name, y.items, want);
        goto done;
    }
    for (size_t i = 0; i < want; i++) {
        int64_t v = nbi_npy_integer(&y, i);
        if (v < 0 || v >= NBI_CLASSES_MAX) {
            st = nb_fail(ctx, NB_EFORMAT, "'%s': '%s' item %zu is %lld, want 0..%d", file->path,
                         name, i, (long long)v, NBI_CLASSES_MAX - 1);
            goto done;
        }
        labels[i] = (int32_t)v;
    }
done:
    nbi_npy_free(&y);
    return st;
}

/* Which array is which: names of x and y by split, NULL where there is none. */
static nb_status choose_arrays(nb_ctx *ctx, const nbi_npz *file, const char *x[3],
                               const char *y[3]) {
    static const char *const xs[3] = {"x_train", "x_val", "x_test"};
    static const char *const ys[3] = {"y_train", "y_val", "y_test"};
    for (int s = 0; s < 3; s++) {
        x[s] = nbi_npz_has(file, xs[s]) ? xs[s] : NULL;
        y[s] = x[s] && nbi_npz_has(file, ys[s]) ? ys[s] : NULL;
    }
    if (x[0] || x[1] || x[2]) return NB_OK;
    y[0] = nbi_npz_has(file, "y") ? "y" : NULL;
    for (size_t i = 0; i < file->n; i++)
        if (strcmp(file->names[i], "y") != 0) x[0] = file->names[i];
    if (nbi_npz_has(file, "x"))
        x[0] = "x";
    else if (!x[0] || file->n != (y[0] ? 2u : 1u))
        return nb_fail(ctx, NB_EFORMAT,
                       "'%s' holds %zu arrays, want 'x' (and 'y'), 'x_train' and so on, or one "
                       "array only",
                       file->path, file->n);
    return NB_OK;
}

static nb_status load_labels(nb_ctx *ctx, nbi_dataset *data, nbi_npz *file, const char *const x[3],
                             const char *const y[3]) {
    size_t at = 0;
    for (int s = 0; s < 3; s++)
        if (x[s] && !y[s]) {
            if (y[0] || y[1] || y[2])
                nb_log(ctx, NB_LOG_WARNING, "'%s': '%s' has no 'y%s': used unlabelled", file->path,
                       x[s], x[s] + 1);
            return NB_OK;
        }
    NB_TRY(nbi_alloc(ctx, nbi_dataset_raw_total(data), sizeof *data->labels, &data->labels));
    for (int s = 0; s < 3; s++) {
        if (x[s]) NB_TRY(read_labels(ctx, file, y[s], data->raw_count[s], data->labels + at));
        at += data->raw_count[s];
    }
    return nbi_dataset_count_classes(ctx, data, file->path);
}

static nb_status open_npz(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    nbi_npz file = {0};
    nbi_dataset *data = NULL;
    npz *z = NULL;
    const char *x[3], *y[3];
    nb_status st;
    NB_TRYG(nbi_npz_open(ctx, options->path, &file));
    NB_TRYG(choose_arrays(ctx, &file, x, y));
    NB_TRYG(nbi_dataset_new(ctx, &nbi_reader_npz, &data));
    NB_TRYG(nbi_alloc(ctx, 1, sizeof *z, &z));
    data->source = z;
    data->free_source = free_npz;
    data->read = read_sample;
    for (int s = 0; s < 3; s++) {
        if (!x[s]) continue;
        NB_TRYG(nbi_npz_read(ctx, &file, x[s], &z->x[s]));
        NB_TRYG(describe(ctx, data, options->path, &z->x[s]));
        NB_TRYG(check_finite(ctx, options->path, &z->x[s]));
        data->raw_count[s] = z->x[s].shape[0];
    }
    NB_TRYG(load_labels(ctx, data, &file, x, y));
    *out = data;
    data = NULL;
done:
    nbi_npz_close(&file);
    nbi_dataset_free(data);
    return st;
}

const nbi_reader nbi_reader_npz = {
    .name = "npz",
    .help = ".npz (x and, if there are labels, y; or x_train, y_train, …; or one array)",
    .recognise = recognise,
    .open = open_npz,
};
