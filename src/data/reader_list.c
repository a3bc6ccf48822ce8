/* list.csv: lines `path,label`, or `path` alone for unlabelled data; paths are relative to the
 * file's folder; a first line `path,label` is a header. Labels are class numbers, or names, which
 * are then numbered in byte order. A field may stand in double quotes ("" is a quote). */
#include "data/pictures.h"

#include <stdlib.h>
#include <string.h>

#define LIST_MAX ((size_t)1 << 30)

typedef struct table {
    nb_ctx *ctx;
    const char *path; /* of the list */
    nbi_pictures *pictures;
    nbi_arena *arena;
    const char **pics, **labels; /* n; labels NULL where there is none */
    size_t n, capacity;
    const char **names; /* sorted label names */
    size_t names_n;
} table;

static bool recognise(const char *path) {
    if (!nbi_is_folder(path)) return nbi_name_ends(path, ".csv") && nbi_file_exists(path);
    nbi_arena arena = {0};
    char *file = nbi_path_join(&arena, path, "list.csv");
    bool found = file && nbi_file_exists(file);
    nbi_arena_free(&arena);
    return found;
}

/* Cuts one field off the line: terminated and unquoted in place. NULL: a quote is not closed. */
static char *take_field(char **line) {
    char *in = *line, *start = in, *out = in;
    if (*in != '"') {
        char *comma = strchr(in, ',');
        *line = comma ? comma + 1 : NULL;
        if (comma) *comma = 0;
        return start;
    }
    bool closed = false;
    for (in++; *in && !closed; in++) {
        if (*in == '"' && in[1] != '"')
            closed = true;
        else
            *out++ = *in == '"' ? *in++ : *in;
    }
    if (!closed || (*in && *in != ',')) return NULL;
    *line = *in ? in + 1 : NULL;
    *out = 0;
    return start;
}

static nb_status add_row(table *t, char *line, size_t number) {
    char *rest = line, *label = NULL, *pic = take_field(&rest);
    if (pic && rest) label = take_field(&rest);
    if (!pic || rest || !pic[0])
        return nb_fail(t->ctx, NB_EFORMAT, "'%s' line %zu: want path,label", t->path, number);
    if (number == 1 && strcmp(pic, "path") == 0 && (!label || strcmp(label, "label") == 0))
        return NB_OK;
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 256;
        NB_TRY(nbi_grow(t->ctx, &t->pics, t->n, capacity, sizeof *t->pics));
        NB_TRY(nbi_grow(t->ctx, &t->labels, t->n, capacity, sizeof *t->labels));
        t->capacity = capacity;
    }
    t->pics[t->n] = pic;
    t->labels[t->n++] = label && label[0] ? label : NULL;
    return NB_OK;
}

static nb_status parse(table *t, char *text, size_t size) {
    if (strlen(text) != size)
        return nb_fail(t->ctx, NB_EFORMAT, "'%s' holds a zero byte: is it text?", t->path);
    size_t number = 1;
    for (char *line = text; line; number++) {
        char *end = strchr(line, '\n'), *next = end ? end + 1 : NULL;
        if (!end) end = line + strlen(line);
        if (end > line && end[-1] == '\r') end--;
        *end = 0;
        if (end > line) NB_TRY(add_row(t, line, number));
        line = next;
    }
    return NB_OK;
}

static bool is_number(const char *text, long *value) {
    char *end;
    *value = strtol(text, &end, 10);
    return end != text && !*end && *text != ' ';
}

static int compare_names(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* Fills names[] if any label is not a number. */
static nb_status name_classes(table *t) {
    bool numbers = true;
    long value;
    size_t kept = 0;
    for (size_t i = 0; i < t->n && numbers; i++)
        numbers = !t->labels[i] || is_number(t->labels[i], &value);
    if (numbers) return NB_OK;
    NB_TRY(nbi_alloc(t->ctx, t->n, sizeof *t->names, &t->names));
    for (size_t i = 0; i < t->n; i++)
        if (t->labels[i]) t->names[t->names_n++] = t->labels[i];
    qsort(t->names, t->names_n, sizeof *t->names, compare_names);
    for (size_t i = 0; i < t->names_n; i++)
        if (!kept || strcmp(t->names[kept - 1], t->names[i]) != 0) t->names[kept++] = t->names[i];
    t->names_n = kept;
    return NB_OK;
}

static nb_status label_number(const table *t, size_t i, int32_t *out) {
    long value = -1;
    *out = -1;
    if (!t->labels[i]) return NB_OK;
    if (t->names) {
        const char **hit =
            bsearch(&t->labels[i], t->names, t->names_n, sizeof *t->names, compare_names);
        value = (long)(hit - t->names);
    } else {
        is_number(t->labels[i], &value);
    }
    if (value < 0 || value >= NBI_CLASSES_MAX)
        return nb_fail(t->ctx, NB_EFORMAT, "'%s': label %s of '%s', want 0..%d", t->path,
                       t->labels[i], t->pics[i], NBI_CLASSES_MAX - 1);
    *out = (int32_t)value;
    return NB_OK;
}

static nb_status add_pictures(table *t, const char *folder) {
    NB_TRY(name_classes(t));
    for (size_t i = 0; i < t->n; i++) {
        int32_t label;
        NB_TRY(label_number(t, i, &label));
        char *path = t->pics[i][0] == '/' ? nbi_arena_text(t->arena, t->pics[i], strlen(t->pics[i]))
                                          : nbi_path_join(t->arena, folder, t->pics[i]);
        if (!path) return nb_fail_memory(t->ctx, strlen(t->pics[i]));
        if (!nbi_file_exists(path))
            return nb_fail(t->ctx, NB_EFORMAT, "'%s' lists '%s', which does not exist", t->path,
                           path);
        NB_TRY(nbi_pictures_add(t->ctx, t->pictures, path, NBI_SPLIT_TRAIN, label, i));
    }
    return NB_OK;
}

/* The list's own path and its folder, from what the user gave. */
static nb_status locate(table *t, const char *given, const char **folder) {
    *folder = given;
    t->path = given;
    if (nbi_is_folder(given)) {
        t->path = nbi_path_join(t->arena, given, "list.csv");
    } else {
        const char *slash = strrchr(given, '/');
        *folder = slash ? nbi_arena_text(t->arena, given, (size_t)(slash - given) + 1) : ".";
    }
    return t->path && *folder ? NB_OK : nb_fail_memory(t->ctx, strlen(given));
}

static nb_status open_list(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    table t = {.ctx = ctx};
    void *text = NULL;
    size_t size;
    const char *folder;
    nb_status st;
    NB_TRYG(nbi_pictures_new(ctx, &t.pictures));
    t.arena = nbi_pictures_arena(t.pictures);
    NB_TRYG(locate(&t, options->path, &folder));
    NB_TRYG(nbi_file_read(ctx, t.path, LIST_MAX, &text, &size));
    NB_TRYG(parse(&t, text, size));
    NB_TRYG(add_pictures(&t, folder));
    NB_TRYG(nbi_pictures_finish(ctx, t.pictures, &nbi_reader_list, options, out));
    t.pictures = NULL;
done:
    nbi_pictures_free(t.pictures);
    nbi_free(t.pics);
    nbi_free(t.labels);
    nbi_free(t.names);
    nbi_free(text);
    return st;
}

const nbi_reader nbi_reader_list = {
    .name = "list",
    .help = "list.csv of pictures (lines path,label)",
    .recognise = recognise,
    .open = open_list,
};
