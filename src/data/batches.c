/* Two passes over a batch: every sample by itself (read, crop, flip, transform, cutout), then, for
 * mixup and cutmix, every sample with a partner of the same batch, as the first pass left it. The
 * generator of a sample is seeded by (seed, epoch, place in the epoch). */
#include "data/batches.h"

#include "data/augment.h"

#include <math.h>
#include <string.h>

struct nbi_batches {
    nbi_batches_spec s;
    nbi_dataset_info info;
    size_t floats; /* of one sample */
    uint32_t *order, *all; /* all: with alternating parts */
    uint64_t order_epoch; /* UINT64_MAX: none yet */
    uint8_t *bytes;       /* [threads][2][sample_bytes] */
    float *x, *target, *mixed, *mixed_target;
    float (*table)[256]; /* [channels]: the input transform */
};

static bool mixes(const nbi_augmentation *a) {
    return a->mixup > 0 || a->cutmix > 0;
}

static nb_status check_spec(nb_ctx *ctx, const nbi_batches_spec *s, const nbi_dataset_info *info) {
    const nbi_augmentation *a = &s->augment;
    if (s->batch == 0) return nb_fail(ctx, NB_EINVAL, "the batch is 0, want 1 or more");
    if (info->count[s->split] < s->batch)
        return nb_fail(ctx, NB_EFORMAT,
                       "the data has %zu samples to train on, fewer than a batch of %zu",
                       info->count[s->split], s->batch);
    size_t n = info->count[s->split], odd = (size_t)(s->alternate * (double)n);
    if (!(s->alternate >= 0 && s->alternate < 1) ||
        (s->alternate > 0 && (odd < s->batch || n - odd < s->batch)))
        return nb_fail(ctx, NB_EINVAL,
                       "a share of %g of %zu samples for every other batch leaves one side with "
                       "fewer than a batch of %zu",
                       s->alternate, n, s->batch);
    if (!(s->smoothing >= 0 && s->smoothing < 1))
        return nb_fail(ctx, NB_EINVAL, "label smoothing is %g, want 0 to below 1", s->smoothing);
    if (!(a->mixup >= 0 && a->mixup <= 1000 && a->cutmix >= 0 && a->cutmix <= 1000))
        return nb_fail(ctx, NB_EINVAL, "mixup is %g and cutmix %g, want 0 to 1000", a->mixup,
                       a->cutmix);
    if (a->cutout < 0) return nb_fail(ctx, NB_EINVAL, "cutout is %d pixels", a->cutout);
    if (!info->is_image && (a->crop || a->flip || a->cutout || a->cutmix > 0))
        return nb_fail(ctx, NB_EINVAL, "crop, flip, cutout and cutmix are for images");
    return NB_OK;
}

nb_status nbi_batches_new(nb_ctx *ctx, const nbi_batches_spec *spec, nbi_batches **out) {
    const nbi_dataset_info *info = nbi_dataset_get(spec->data);
    nbi_batches *b = NULL;
    nb_status st;
    size_t n, targets;
    NB_TRY(check_spec(ctx, spec, info));
    NB_TRY(nbi_alloc(ctx, 1, sizeof *b, &b));
    b->s = *spec;
    b->info = *info;
    b->order_epoch = UINT64_MAX;
    b->floats = info->is_image ? info->sample_bytes : info->sample_bytes / sizeof(float);
    if (!nbi_mul_size(spec->batch, b->floats, &n) ||
        !nbi_mul_size(spec->batch, spec->classes, &targets)) {
        st = nb_fail(ctx, NB_EINVAL, "the batch of %zu is too large", spec->batch);
        goto done;
    }
    NB_TRYG(nbi_alloc(ctx, info->count[spec->split], sizeof *b->order, &b->order));
    if (spec->alternate > 0)
        NB_TRYG(nbi_alloc(ctx, info->count[spec->split], sizeof *b->all, &b->all));
    NB_TRYG(nbi_alloc(ctx, n, sizeof *b->x, &b->x));
    NB_TRYG(nbi_alloc(ctx, targets, sizeof *b->target, &b->target));
    if (mixes(&spec->augment)) {
        NB_TRYG(nbi_alloc(ctx, n, sizeof *b->mixed, &b->mixed));
        NB_TRYG(nbi_alloc(ctx, targets, sizeof *b->mixed_target, &b->mixed_target));
    }
    if (info->is_image) {
        NB_TRYG(nbi_alloc(ctx, 2 * (size_t)nb_ctx_threads(ctx), info->sample_bytes, &b->bytes));
        NB_TRYG(nbi_alloc(ctx, (size_t)info->channels, sizeof *b->table, &b->table));
        for (int c = 0; c < info->channels; c++)
            nbi_transform_table(&spec->transform, c, b->table[c]);
    }
    *out = b;
    return NB_OK;
done:
    nbi_batches_free(b);
    return st;
}

void nbi_batches_free(nbi_batches *b) {
    if (!b) return;
    nbi_free(b->order);
    nbi_free(b->all);
    nbi_free(b->bytes);
    nbi_free(b->x);
    nbi_free(b->target);
    nbi_free(b->mixed);
    nbi_free(b->mixed_target);
    nbi_free(b->table);
    nbi_free(b);
}

size_t nbi_batches_per_epoch(const nbi_batches *b) {
    return b->info.count[b->s.split] / b->s.batch;
}

size_t nbi_batches_size(const nbi_batches *b) {
    return b->s.batch;
}

static size_t odd_samples(const nbi_batches *b, size_t n) {
    return (size_t)(b->s.alternate * (double)n);
}

static uint64_t epoch_seed(const nbi_batches *b, uint64_t epoch) {
    const uint64_t parts[2] = {b->s.seed, epoch};
    return nbi_hash(NBI_HASH_START, parts, sizeof parts);
}

/* Batches of even index from the first part of `all`, odd ones from the rest, each part shuffled and
 * gone through as often as needed. */
static void alternate(nbi_batches *b, nbi_rng *rng, size_t n) {
    size_t batch = b->s.batch, cut = n - odd_samples(b, n);
    uint32_t *part[2] = {b->all, b->all + cut};
    size_t size[2] = {cut, n - cut}, at[2] = {0};
    for (size_t i = 0; i < n / batch; i++) {
        int k = (int)(i & 1);
        if (at[k] == 0 || at[k] + batch > size[k]) {
            nbi_rng_shuffle(rng, part[k], size[k]);
            at[k] = 0;
        }
        memcpy(b->order + i * batch, part[k] + at[k], batch * sizeof *b->order);
        at[k] += batch;
    }
}

static void make_order(nbi_batches *b, uint64_t epoch) {
    size_t n = b->info.count[b->s.split];
    nbi_rng rng;
    if (b->order_epoch == epoch) return;
    for (size_t i = 0; i < n; i++) b->order[i] = (uint32_t)i;
    if (b->all) { /* which samples are in which part is the same in every epoch */
        nbi_rng_seed(&rng, b->s.seed, 1);
        nbi_rng_shuffle(&rng, b->order, n);
        memcpy(b->all, b->order, n * sizeof *b->all);
    }
    nbi_rng_seed(&rng, epoch_seed(b, epoch), 0);
    if (b->all)
        alternate(b, &rng, n);
    else
        nbi_rng_shuffle(&rng, b->order, n);
    b->order_epoch = epoch;
}

typedef struct batch_job {
    nb_ctx *ctx;
    nbi_batches *b;
    uint64_t seed;
    size_t first; /* place of the batch's first sample in the epoch */
} batch_job;

static nb_status set_target(nb_ctx *ctx, const nbi_batches *b, size_t sample, int label,
                            float *to) {
    size_t classes = b->s.classes;
    if (label < 0) return nb_fail(ctx, NB_EFORMAT, "training image %zu has no label", sample);
    if ((size_t)label >= classes)
        return nb_fail(ctx, NB_EFORMAT,
                       "training image %zu has the label %d, the model has outputs for %zu classes",
                       sample, label, classes);
    float off = (float)(b->s.smoothing / (double)classes);
    for (size_t c = 0; c < classes; c++) to[c] = off;
    to[label] = (float)(1 - b->s.smoothing + b->s.smoothing / (double)classes);
    return NB_OK;
}

/* u8 H,W,C → the transform's float C,H,W. */
static void to_floats(const nbi_batches *b, const uint8_t *hwc, float *chw) {
    size_t pixels = (size_t)b->info.height * (size_t)b->info.width, step = (size_t)b->info.channels;
    for (size_t c = 0; c < step; c++)
        for (size_t p = 0; p < pixels; p++) *chw++ = b->table[c][hwc[p * step + c]];
}

static nb_status read_range(void *user, size_t begin, size_t end, int worker) {
    const batch_job *j = user;
    nbi_batches *b = j->b;
    const nbi_dataset_info *o = &b->info;
    const nbi_augmentation *a = &b->s.augment;
    uint8_t *raw = o->is_image ? b->bytes + 2 * (size_t)worker * o->sample_bytes : NULL;
    uint8_t *cut = o->is_image ? raw + o->sample_bytes : NULL;
    int side = o->height < o->width ? o->height : o->width;
    for (size_t i = begin; i < end; i++) {
        float *x = b->x + i * b->floats;
        size_t sample = b->order[j->first + i];
        int label;
        nbi_rng rng;
        nbi_rng_seed(&rng, j->seed, 2 * (j->first + i) + 1);
        NB_TRY(nbi_dataset_sample(j->ctx, b->s.data, b->s.split, sample,
                                  o->is_image ? (void *)raw : (void *)x, &label));
        if (o->is_image) {
            if (a->crop || a->flip)
                nbi_augment_crop_flip(&rng, raw, o->height, o->width, o->channels,
                                      a->crop ? side / 8 : 0, 0, a->flip, cut);
            to_floats(b, a->crop || a->flip ? cut : raw, x);
            if (a->cutout) nbi_augment_cutout(&rng, x, o->channels, o->height, o->width, a->cutout);
        }
        if (b->s.classes)
            NB_TRY(set_target(j->ctx, b, sample, label, b->target + i * b->s.classes));
    }
    return NB_OK;
}

static nb_status mix_range(void *user, size_t begin, size_t end, int worker) {
    const batch_job *j = user;
    nbi_batches *b = j->b;
    const nbi_augmentation *a = &b->s.augment;
    size_t n = b->floats, classes = b->s.classes;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float *x = b->mixed + i * n, *t = b->mixed_target + i * classes;
        nbi_rng rng;
        nbi_rng_seed(&rng, j->seed, 2 * (j->first + i) + 2);
        size_t other = nbi_rng_below(&rng, (uint32_t)b->s.batch);
        bool box = a->cutmix > 0 && (a->mixup <= 0 || (nbi_rng_u32(&rng) & 1));
        double lambda = nbi_rng_beta(&rng, box ? a->cutmix : a->mixup);
        float share = (float)lambda;
        memcpy(x, b->x + i * n, n * sizeof *x);
        if (box)
            share = nbi_augment_cutmix(&rng, lambda, x, b->x + other * n, b->info.channels,
                                       b->info.height, b->info.width);
        else
            nbi_augment_mixup(share, x, b->x + other * n, n);
        if (!classes) continue;
        memcpy(t, b->target + i * classes, classes * sizeof *t);
        nbi_augment_mixup(share, t, b->target + other * classes, classes);
    }
    return NB_OK;
}

nb_status nbi_batches_get(nb_ctx *ctx, nbi_batches *b, uint64_t epoch, size_t index,
                          nbi_batch *out) {
    batch_job job = {ctx, b, epoch_seed(b, epoch), index * b->s.batch};
    bool mixed = mixes(&b->s.augment);
    make_order(b, epoch);
    NB_TRY(nbi_parallel(ctx, b->s.batch, 8, read_range, &job));
    if (mixed) NB_TRY(nbi_parallel(ctx, b->s.batch, 8, mix_range, &job));
    out->x = mixed ? b->mixed : b->x;
    out->target = !b->s.classes ? NULL : mixed ? b->mixed_target : b->target;
    return NB_OK;
}
