/* Picture files as samples: decode, colour, resize, crop, keep. The cache is one slot per picture;
 * the first thread to finish a picture publishes it with a compare-and-swap, so readers never wait
 * and never see half a picture. */
#include "data/pictures.h"
#include "data/image.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    const char *path;
    size_t rank, added;
    int32_t label;
    int split;
} entry;
typedef _Atomic(uint8_t *) slot;

struct nbi_pictures {
    nbi_arena arena;
    entry *entries;
    size_t n, capacity;
    slot *slots;                 /* n; decoded samples from nbi_alloc, or NULL */
    atomic_size_t cached;        /* bytes in slots */
    int resize;                  /* shorter side before the crop; 0 = see `cover` */
    bool cover;                  /* scale until height×width is covered, then crop */
    int height, width, channels; /* of a sample */
};

nb_status nbi_pictures_new(nb_ctx *ctx, nbi_pictures **out) {
    return nbi_alloc(ctx, 1, sizeof **out, out);
}

void nbi_pictures_free(void *pictures) {
    nbi_pictures *p = pictures;
    if (!p) return;
    for (size_t i = 0; p->slots && i < p->n; i++) nbi_free(atomic_load(&p->slots[i]));
    nbi_free(p->slots);
    nbi_free(p->entries);
    nbi_arena_free(&p->arena);
    nbi_free(p);
}

nbi_arena *nbi_pictures_arena(nbi_pictures *p) {
    return &p->arena;
}

size_t nbi_pictures_count(const nbi_pictures *p) {
    return p->n;
}

nb_status nbi_pictures_add(nb_ctx *ctx, nbi_pictures *p, const char *path, int split, int32_t label,
                           size_t rank) {
    if (p->n == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 256;
        NB_TRY(nbi_grow(ctx, &p->entries, p->n, capacity, sizeof *p->entries));
        p->capacity = capacity;
    }
    p->entries[p->n] = (entry){path, rank, p->n, label, split};
    p->n++;
    return NB_OK;
}

static int compare(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->split != y->split) return x->split < y->split ? -1 : 1;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return x->added < y->added ? -1 : x->added > y->added;
}

/* Size before the crop. */
static void scaled_size(const nbi_pictures *p, int64_t h, int64_t w, int64_t *out_h,
                        int64_t *out_w) {
    *out_h = h;
    *out_w = w;
    if (p->resize) {
        *out_h = h <= w ? p->resize : h * p->resize / w;
        *out_w = h <= w ? w * p->resize / h : p->resize;
    } else if (p->cover && p->height * w >= p->width * h) {
        *out_h = p->height;
        *out_w = (w * p->height + h / 2) / h;
        if (*out_w < p->width) *out_w = p->width;
    } else if (p->cover) {
        *out_w = p->width;
        *out_h = (h * p->width + w / 2) / w;
        if (*out_h < p->height) *out_h = p->height;
    }
}

static nb_status prepare(nb_ctx *ctx, const nbi_pictures *p, nbi_image *image) {
    int64_t h, w;
    NB_TRY(nbi_image_recolour(ctx, image, p->channels));
    scaled_size(p, image->height, image->width, &h, &w);
    if (h > NBI_IMAGE_SIDE_MAX || w > NBI_IMAGE_SIDE_MAX)
        return nb_fail(ctx, NB_EFORMAT, "%dx%d is too long a picture to be resized", image->width,
                       image->height);
    NB_TRY(nbi_image_resize(ctx, image, (int)h, (int)w));
    if (!p->resize && !p->cover && (h < p->height || w < p->width))
        return nb_fail(ctx, NB_EFORMAT, "the picture is %dx%d, want %dx%d (--resize helps)",
                       image->width, image->height, p->width, p->height);
    return nbi_image_crop(ctx, image, p->height, p->width);
}

static nb_status read_sample(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out) {
    nbi_pictures *p = data->source;
    size_t bytes = data->info.sample_bytes;
    const uint8_t *kept = atomic_load_explicit(&p->slots[raw], memory_order_acquire);
    if (kept) {
        memcpy(out, kept, bytes);
        return NB_OK;
    }
    nbi_image image = {0};
    NB_TRY(nbi_image_load(ctx, p->entries[raw].path, &image));
    nb_status st = prepare(ctx, p, &image);
    if (st != NB_OK) {
        nbi_image_free(&image);
        return nb_fail_prefix(ctx, st, "'%s'", p->entries[raw].path);
    }
    memcpy(out, image.data, bytes);
    uint8_t *none = NULL;
    if (atomic_fetch_add(&p->cached, bytes) + bytes <= NBI_PICTURES_CACHE &&
        atomic_compare_exchange_strong(&p->slots[raw], &none, image.data))
        return NB_OK; /* the slot owns the pixels now */
    atomic_fetch_sub(&p->cached, bytes);
    nbi_image_free(&image);
    return NB_OK;
}

/* Size and channels of a sample, from the options, else from the first picture. */
static nb_status plan(nb_ctx *ctx, nbi_pictures *p, const nbi_data_options *o) {
    nbi_image first = {0};
    int want = o->want_channels;
    if (want && want != 1 && want != 3)
        return nb_fail(ctx, NB_EINVAL, "'%s': pictures have 1 or 3 channels, %d are wanted",
                       o->path, want);
    NB_TRY(nbi_image_load(ctx, p->entries[0].path, &first));
    bool wanted = o->want_height && o->want_width;
    p->channels = want ? want : first.channels;
    p->resize = o->resize;
    p->cover = !o->resize && !o->crop && wanted;
    p->height = o->crop ? o->crop : wanted ? o->want_height : o->resize ? o->resize : first.height;
    p->width = o->crop ? o->crop : wanted ? o->want_width : o->resize ? o->resize : first.width;
    if (first.height != p->height || first.width != p->width)
        nb_log(ctx, NB_LOG_INFO, "'%s': pictures are %s to %dx%d (the first one is %dx%d)", o->path,
               p->resize || p->cover ? "resized and centre-cropped" : "centre-cropped", p->width,
               p->height, first.width, first.height);
    if (first.channels != p->channels)
        nb_log(ctx, NB_LOG_INFO, "'%s': pictures are turned to %s", o->path,
               p->channels == 1 ? "grey" : "RGB");
    nbi_image_free(&first);
    return NB_OK;
}

static nb_status fill(nb_ctx *ctx, nbi_pictures *p, nbi_dataset *data,
                      const nbi_data_options *options) {
    size_t labelled = 0;
    qsort(p->entries, p->n, sizeof *p->entries, compare);
    for (size_t i = 0; i < p->n; i++) {
        data->raw_count[p->entries[i].split]++;
        labelled += p->entries[i].label >= 0;
    }
    if (labelled && labelled != p->n)
        return nb_fail(ctx, NB_EFORMAT, "'%s': %zu of %zu pictures have a class, want all or none",
                       options->path, labelled, p->n);
    if (labelled) {
        NB_TRY(nbi_alloc(ctx, p->n, sizeof *data->labels, &data->labels));
        for (size_t i = 0; i < p->n; i++) data->labels[i] = p->entries[i].label;
        NB_TRY(nbi_dataset_count_classes(ctx, data, options->path));
    }
    NB_TRY(plan(ctx, p, options));
    NB_TRY(nbi_alloc(ctx, p->n, sizeof *p->slots, &p->slots));
    data->info.is_image = data->info.is_files = data->info.is_flip_safe = true;
    data->info.height = p->height;
    data->info.width = p->width;
    data->info.channels = p->channels;
    data->info.sample_bytes = (size_t)p->height * (size_t)p->width * (size_t)p->channels;
    return NB_OK;
}

nb_status nbi_pictures_finish(nb_ctx *ctx, nbi_pictures *p, const nbi_reader *row,
                              const nbi_data_options *options, nbi_dataset **out) {
    nbi_dataset *data = NULL;
    if (!p->n) return nb_fail(ctx, NB_EFORMAT, "'%s' lists no pictures", options->path);
    NB_TRY(nbi_dataset_new(ctx, row, &data));
    nb_status st = fill(ctx, p, data, options);
    if (st != NB_OK) {
        nbi_dataset_free(data);
        return st;
    }
    data->source = p;
    data->free_source = nbi_pictures_free;
    data->read = read_sample;
    *out = data;
    return NB_OK;
}
