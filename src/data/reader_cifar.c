/* CIFAR-10/100, binary version: records of label bytes (CIFAR-100: coarse, fine) and 3,072 pixel
 * bytes as R, G, B planes. Only labels stay in memory; pixels are read when asked for.
 * Layouts: data_batch_*.bin + test_batch.bin, or train.bin + test.bin. */
#include "data/dataset.h"

#include <stdio.h>
#include <string.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXEL_BYTES = 3 * PLANE, FILES_MAX = 64, BLOCK = 256 };

typedef struct part {
    nbi_file file;
    size_t records;
    int split;
} part;
typedef struct cifar {
    part parts[FILES_MAX]; /* train files by number, then test */
    int n, label_bytes;
} cifar;

static bool starts(const char *text, const char *with) {
    return strncmp(text, with, strlen(with)) == 0;
}

static int split_of(const char *name) {
    if (!nbi_name_ends(name, ".bin")) return -1;
    if (starts(name, "data_batch_") || strcmp(name, "train.bin") == 0) return NBI_SPLIT_TRAIN;
    if (strcmp(name, "test_batch.bin") == 0 || strcmp(name, "test.bin") == 0) return NBI_SPLIT_TEST;
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

static void free_cifar(void *source) {
    cifar *c = source;
    for (int i = 0; i < c->n; i++) nbi_file_close(&c->parts[i].file);
    nbi_free(c);
}

static nb_status read_sample(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out) {
    const cifar *c = data->source;
    const part *p = c->parts;
    uint8_t planes[PIXEL_BYTES], *pixel = out;
    for (; raw >= p->records; p++) raw -= p->records;
    size_t label = (size_t)c->label_bytes, record = PIXEL_BYTES + label;
    NB_TRY(nbi_file_read_at(ctx, &p->file, raw * record + label, planes, sizeof planes));
    for (int i = 0; i < PLANE; i++)
        for (int k = 0; k < 3; k++) *pixel++ = planes[k * PLANE + i];
    return NB_OK;
}

/* Opens the files of one split, in the order of their names. */
static nb_status open_split(nb_ctx *ctx, cifar *c, const char *folder, int split,
                            nbi_arena *arena) {
    const char **names = NULL;
    size_t n = 0;
    NB_TRY(nbi_folder_list(ctx, folder, arena, &names, &n));
    for (size_t i = 0; i < n; i++) {
        if (split_of(names[i]) != split) continue;
        if (c->n == FILES_MAX)
            return nb_fail(ctx, NB_EFORMAT, "'%s' has more than %d batch files", folder, FILES_MAX);
        char *path = nbi_path_join(arena, folder, names[i]);
        if (!path) return nb_fail_memory(ctx, strlen(folder));
        NB_TRY(nbi_file_open(ctx, path, &c->parts[c->n].file));
        c->parts[c->n++].split = split;
    }
    return NB_OK;
}

/* One label byte (CIFAR-10) or two (CIFAR-100): the one that fits the size of every file; if both
 * fit, the one whose first record has labels in range. */
static nb_status find_label_bytes(nb_ctx *ctx, cifar *c) {
    bool fits[2] = {true, true};
    for (int i = 0; i < c->n; i++)
        for (int b = 0; b < 2; b++)
            fits[b] = fits[b] && c->parts[i].file.size % (uint64_t)(PIXEL_BYTES + 1 + b) == 0;
    if (fits[0] && fits[1]) {
        uint8_t second[2];
        const nbi_file *f = &c->parts[0].file;
        if (f->size) NB_TRY(nbi_file_read_at(ctx, f, PIXEL_BYTES + 2, second, 2));
        fits[1] = f->size && second[0] < 20 && second[1] < 100;
    }
    if (!fits[0] && !fits[1])
        for (int i = 0; i < c->n; i++)
            if (c->parts[i].file.size % (PIXEL_BYTES + 1) != 0)
                return nb_fail(
                    ctx, NB_EFORMAT,
                    "'%s' has %llu bytes, want whole records of %d (CIFAR-10) or, in all "
                    "files, %d (CIFAR-100): truncated?",
                    c->parts[i].file.path, (unsigned long long)c->parts[i].file.size,
                    PIXEL_BYTES + 1, PIXEL_BYTES + 2);
    for (int i = 0; i < c->n; i++)
        if (c->parts[i].file.size == 0)
            return nb_fail(ctx, NB_EFORMAT, "'%s' is empty", c->parts[i].file.path);
    c->label_bytes = fits[1] ? 2 : 1;
    return NB_OK;
}

static nb_status read_labels(nb_ctx *ctx, const cifar *c, const part *p, int32_t *labels) {
    size_t record = (size_t)(PIXEL_BYTES + c->label_bytes);
    int classes = c->label_bytes == 2 ? 100 : 10;
    uint8_t *block = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, BLOCK, record, &block));
    for (size_t i = 0; i < p->records; i++) {
        if (i % BLOCK == 0) {
            size_t n = p->records - i < BLOCK ? p->records - i : BLOCK;
            NB_TRYG(nbi_file_read_at(ctx, &p->file, i * record, block, n * record));
        }
        int label = block[i % BLOCK * record + (size_t)c->label_bytes - 1];
        if (label >= classes) {
            st = nb_fail(ctx, NB_EFORMAT, "'%s': record %zu has label %d, want 0..%d", p->file.path,
                         i, label, classes - 1);
            goto done;
        }
        labels[i] = label;
    }
done:
    nbi_free(block);
    return st;
}

static void describe(nbi_dataset *data, const cifar *c) {
    data->info.is_image = true;
    data->info.height = data->info.width = SIDE;
    data->info.channels = 3;
    data->info.sample_bytes = PIXEL_BYTES;
    data->info.classes = c->label_bytes == 2 ? 100 : 10;
    data->info.is_flip_safe = true;
    data->read = read_sample;
}

static nb_status open_cifar(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    nbi_arena arena = {0};
    nbi_dataset *data = NULL;
    cifar *c = NULL;
    nb_status st;
    NB_TRYG(nbi_dataset_new(ctx, &nbi_reader_cifar, &data));
    NB_TRYG(nbi_alloc(ctx, 1, sizeof *c, &c));
    data->source = c;
    data->free_source = free_cifar;
    NB_TRYG(open_split(ctx, c, options->path, NBI_SPLIT_TRAIN, &arena));
    NB_TRYG(open_split(ctx, c, options->path, NBI_SPLIT_TEST, &arena));
    NB_TRYG(find_label_bytes(ctx, c));
    for (int i = 0; i < c->n; i++) {
        part *p = &c->parts[i];
        p->records = (size_t)(p->file.size / (uint64_t)(PIXEL_BYTES + c->label_bytes));
        data->raw_count[p->split] += p->records;
    }
    size_t at = 0;
    NB_TRYG(nbi_alloc(ctx, nbi_dataset_raw_total(data), sizeof *data->labels, &data->labels));
    for (int i = 0; i < c->n; i++) {
        NB_TRYG(read_labels(ctx, c, &c->parts[i], data->labels + at));
        at += c->parts[i].records;
    }
    describe(data, c);
    *out = data;
    data = NULL;
done:
    nbi_arena_free(&arena);
    nbi_dataset_free(data);
    return st;
}

const nbi_reader nbi_reader_cifar = {
    .name = "cifar",
    .help = "CIFAR-10/100 binary folder (data_batch_*.bin + test_batch.bin, or train.bin + "
            "test.bin)",
    .recognise = recognise,
    .open = open_cifar,
};
