/* Drawing samples. Which samples and how each is augmented depends on the seed and on its place in
 * the draw only. */
#include "data/images.h"

#include <string.h>

void nbi_images_free(nbi_images *images) {
    nbi_free(images->bytes);
    nbi_free(images->label);
    *images = (nbi_images){0};
}

typedef struct draw_job {
    nb_ctx *ctx;
    const nbi_dataset *data;
    const nbi_draw *draw;
    const uint32_t *index;
    nbi_images *out;
    uint8_t *scratch; /* [workers][sample_bytes] */
} draw_job;

static nb_status load_range(void *user, size_t begin, size_t end, int worker) {
    const draw_job *j = user;
    nbi_images *o = j->out;
    const nbi_dataset_info *info = &o->info;
    uint8_t *scratch = j->scratch + (size_t)worker * o->sample_bytes;
    for (size_t i = begin; i < end; i++) {
        uint8_t *to = o->bytes + i * o->sample_bytes;
        bool augment = j->draw->augment && info->is_image;
        NB_TRY(nbi_dataset_sample(j->ctx, j->data, j->draw->split, j->index[i],
                                  augment ? scratch : to, &o->label[i]));
        if (!augment) continue;
        nbi_rng rng;
        nbi_rng_seed(&rng, j->draw->seed, i + 1);
        int side = info->height < info->width ? info->height : info->width;
        nbi_augment_crop_flip(&rng, scratch, info->height, info->width, info->channels, side / 8,
                              0, info->is_flip_safe, to);
    }
    return NB_OK;
}

nb_status nbi_images_draw(nb_ctx *ctx, const nbi_dataset *data, const nbi_draw *draw,
                          nbi_images *out) {
    nbi_images o = {.info = *nbi_dataset_get(data)};
    uint32_t *order = NULL;
    draw_job job = {ctx, data, draw, NULL, &o, NULL};
    nb_status st;
    size_t have = o.info.count[draw->split];
    o.n = draw->count && (draw->indices || draw->count < have) ? draw->count : have;
    o.sample_bytes = o.info.sample_bytes;
    if (o.n == 0) {
        static const char *const names[] = {"train", "validation", "test"};
        return nb_fail(ctx, NB_EFORMAT, "the data has no %s samples", names[draw->split]);
    }
    NB_TRYG(nbi_alloc(ctx, o.n, o.sample_bytes, &o.bytes));
    NB_TRYG(nbi_alloc(ctx, o.n, sizeof *o.label, &o.label));
    NB_TRYG(nbi_alloc(ctx, (size_t)nb_ctx_threads(ctx), o.sample_bytes, &job.scratch));
    job.index = draw->indices;
    if (!draw->indices) {
        NB_TRYG(nbi_alloc(ctx, have, sizeof *order, &order));
        for (size_t i = 0; i < have; i++) order[i] = (uint32_t)i;
        if (draw->count) {
            nbi_rng rng;
            nbi_rng_seed(&rng, draw->seed, 0);
            nbi_rng_shuffle(&rng, order, have);
        }
        job.index = order;
    }
    NB_TRYG(nbi_parallel(ctx, o.n, 64, load_range, &job));
    *out = o;
done:
    nbi_free(order);
    nbi_free(job.scratch);
    if (st != NB_OK) nbi_images_free(&o);
    return st;
}

void nbi_images_fill(const nbi_images *images, const nbi_transform *transform, size_t first,
                     size_t n, float *out) {
    const nbi_dataset_info *info = &images->info;
    if (!info->is_image) {
        memcpy(out, images->bytes + first * images->sample_bytes, n * images->sample_bytes);
        return;
    }
    size_t pixels = (size_t)info->height * (size_t)info->width, channels = (size_t)info->channels;
    for (size_t c = 0; c < channels; c++) {
        float table[256];
        nbi_transform_table(transform, (int)c, table);
        for (size_t i = 0; i < n; i++) {
            const uint8_t *from = images->bytes + (first + i) * images->sample_bytes + c;
            float *to = out + (i * channels + c) * pixels;
            for (size_t p = 0; p < pixels; p++) to[p] = table[from[p * channels]];
        }
    }
}
