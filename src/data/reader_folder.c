/* Folders of pictures: class/name.png|jpg, or flat and unlabelled; below train/, val/ and test/
 * where there are such. Classes are numbered by their names in byte order (as torchvision does),
 * over all splits. A split serves the first picture of each class, then the second of each …, so
 * that its prefixes are balanced. One picture file is data, too. */
#include "data/image.h"
#include "data/pictures.h"

#include <stdlib.h>
#include <string.h>

typedef struct listing {
    nb_ctx *ctx;
    nbi_pictures *pictures;
    nbi_arena *arena;
    const char **classes; /* sorted, unique */
    size_t n, capacity;
} listing;

static bool is_picture_name(const char *name) {
    return nbi_name_ends(name, ".png") || nbi_name_ends(name, ".jpg") ||
           nbi_name_ends(name, ".jpeg");
}

static bool is_picture_file(const char *path) {
    uint8_t head[8];
    return nbi_file_peek(path, head, sizeof head) &&
           (nbi_image_is_png(head) || nbi_image_is_jpeg(head));
}

/* Whether pictures lie in the folder or, to `depth`, below it. */
static bool holds_pictures(const char *path, int depth) {
    nbi_arena arena = {0};
    const char **names = NULL;
    size_t n = 0;
    bool found = false;
    if (nbi_folder_list(NULL, path, &arena, &names, &n) != NB_OK) n = 0;
    for (size_t i = 0; i < n && !found; i++) found = is_picture_name(names[i]);
    for (size_t i = 0; i < n && !found && depth > 0; i++) {
        char *below = nbi_path_join(&arena, path, names[i]);
        if (below && nbi_is_folder(below)) found = holds_pictures(below, depth - 1);
    }
    nbi_arena_free(&arena);
    return found;
}

static bool recognise(const char *path) {
    return nbi_is_folder(path) ? holds_pictures(path, 2) : is_picture_file(path);
}

static int split_of(const char *name) {
    if (strcmp(name, "train") == 0) return NBI_SPLIT_TRAIN;
    if (strcmp(name, "val") == 0 || strcmp(name, "valid") == 0 || strcmp(name, "validation") == 0)
        return NBI_SPLIT_VAL;
    return strcmp(name, "test") == 0 ? NBI_SPLIT_TEST : -1;
}

static nb_status list(listing *l, const char *path, const char ***names, size_t *n) {
    return nbi_folder_list(l->ctx, path, l->arena, names, n);
}

static nb_status join(listing *l, const char *folder, const char *name, char **out) {
    *out = nbi_path_join(l->arena, folder, name);
    return *out ? NB_OK : nb_fail_memory(l->ctx, strlen(folder) + strlen(name));
}

/* Adds the pictures that lie directly in a folder. */
static nb_status add_pictures(listing *l, const char *folder, int split, int32_t label) {
    const char **names = NULL;
    size_t n = 0, rank = 0;
    NB_TRY(list(l, folder, &names, &n));
    for (size_t i = 0; i < n; i++) {
        char *path;
        if (!is_picture_name(names[i])) continue;
        NB_TRY(join(l, folder, names[i], &path));
        NB_TRY(nbi_pictures_add(l->ctx, l->pictures, path, split, label, rank++));
    }
    return NB_OK;
}

static nb_status note_class(listing *l, const char *name) {
    if (l->n == NBI_CLASSES_MAX)
        return nb_fail(l->ctx, NB_EFORMAT, "more than %d class folders", NBI_CLASSES_MAX);
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 64;
        NB_TRY(nbi_grow(l->ctx, &l->classes, l->n, capacity, sizeof *l->classes));
        l->capacity = capacity;
    }
    l->classes[l->n++] = name;
    return NB_OK;
}

static int compare_names(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static void make_unique(listing *l) {
    size_t kept = 0;
    if (l->n) qsort(l->classes, l->n, sizeof *l->classes, compare_names);
    for (size_t i = 0; i < l->n; i++)
        if (!kept || strcmp(l->classes[kept - 1], l->classes[i]) != 0)
            l->classes[kept++] = l->classes[i];
    l->n = kept;
}

/* Notes the class folders of one split: sub-folders that hold pictures. */
static nb_status note_classes(listing *l, const char *folder) {
    const char **names = NULL;
    size_t n = 0;
    NB_TRY(list(l, folder, &names, &n));
    for (size_t i = 0; i < n; i++) {
        char *path;
        NB_TRY(join(l, folder, names[i], &path));
        if (nbi_is_folder(path) && holds_pictures(path, 0)) NB_TRY(note_class(l, names[i]));
    }
    return NB_OK;
}

/* Adds one split: by class if there are classes, else flat. */
static nb_status add_split(listing *l, const char *folder, int split) {
    size_t before = nbi_pictures_count(l->pictures);
    for (size_t k = 0; k < l->n; k++) {
        char *path;
        NB_TRY(join(l, folder, l->classes[k], &path));
        if (nbi_is_folder(path)) NB_TRY(add_pictures(l, path, split, (int32_t)k));
    }
    if (nbi_pictures_count(l->pictures) == before) return add_pictures(l, folder, split, -1);
    if (holds_pictures(folder, 0))
        nb_log(l->ctx, NB_LOG_WARNING, "'%s': pictures beside the class folders are left out",
               folder);
    return NB_OK;
}

static nb_status list_folder(listing *l, const char *path) {
    const char **names = NULL, *folder[3] = {NULL, NULL, NULL};
    size_t n = 0;
    bool has_splits = false;
    NB_TRY(list(l, path, &names, &n));
    for (size_t i = 0; i < n; i++) {
        int s = split_of(names[i]);
        char *below;
        if (s < 0) continue;
        NB_TRY(join(l, path, names[i], &below));
        if (!nbi_is_folder(below) || !holds_pictures(below, 1)) continue;
        if (folder[s])
            return nb_fail(l->ctx, NB_EFORMAT, "both '%s' and '%s' hold a validation split",
                           folder[s], below);
        folder[s] = below;
        has_splits = true;
    }
    if (!has_splits) folder[0] = path;
    for (int s = 0; s < 3; s++)
        if (folder[s]) NB_TRY(note_classes(l, folder[s]));
    make_unique(l);
    for (int s = 0; s < 3; s++)
        if (folder[s]) NB_TRY(add_split(l, folder[s], s));
    return NB_OK;
}

static nb_status open_folder(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    listing l = {.ctx = ctx};
    nb_status st;
    NB_TRYG(nbi_pictures_new(ctx, &l.pictures));
    l.arena = nbi_pictures_arena(l.pictures);
    if (nbi_is_folder(options->path)) {
        NB_TRYG(list_folder(&l, options->path));
    } else {
        char *path = nbi_arena_text(l.arena, options->path, strlen(options->path));
        st = path ? NB_OK : nb_fail_memory(ctx, strlen(options->path));
        if (st == NB_OK) st = nbi_pictures_add(ctx, l.pictures, path, NBI_SPLIT_TRAIN, -1, 0);
        if (st != NB_OK) goto done;
    }
    NB_TRYG(nbi_pictures_finish(ctx, l.pictures, &nbi_reader_folder, options, out));
    l.pictures = NULL;
done:
    nbi_pictures_free(l.pictures);
    nbi_free(l.classes);
    return st;
}

const nbi_reader nbi_reader_folder = {
    .name = "folder",
    .help = "folder of pictures (class/name.png|jpg, or flat; train/, val/, test/ are respected), "
            "or one picture",
    .recognise = recognise,
    .open = open_folder,
};
