/* Splits. Data with a training split but no validation split holds validation samples out of it;
 * data with one split only is divided 80/10/10. Both draw stratified (every class gives its share,
 * rounded along the running sum of class sizes) and seeded. What is drawn comes class by class in
 * turn, so its prefixes are balanced, too (`limit`); what stays keeps the data's order. A test
 * split of the data is never touched. */
#include "data/dataset.h"

#include <string.h>

typedef struct items {
    uint32_t *index; /* raw indices; from nbi_alloc */
    size_t n;
} items;

static size_t class_of(const nbi_dataset *data, uint32_t raw) {
    return data->labels ? (size_t)data->labels[raw] : 0;
}

/* Sorts `all` by class, stable; start[k]..start[k+1]-1 are the places of class k. */
static nb_status sort_by_class(nb_ctx *ctx, const nbi_dataset *data, const items *all,
                               size_t classes, uint32_t **out_sorted, size_t **out_start) {
    nb_status st;
    uint32_t *sorted = NULL;
    size_t *start = NULL, *fill = NULL;
    NB_TRYG(nbi_alloc(ctx, all->n, sizeof *sorted, &sorted));
    NB_TRYG(nbi_alloc(ctx, classes + 1, sizeof *start, &start));
    NB_TRYG(nbi_alloc(ctx, classes, sizeof *fill, &fill));
    for (size_t i = 0; i < all->n; i++) start[class_of(data, all->index[i]) + 1]++;
    for (size_t k = 0; k < classes; k++) {
        start[k + 1] += start[k];
        fill[k] = start[k];
    }
    for (size_t i = 0; i < all->n; i++)
        sorted[fill[class_of(data, all->index[i])]++] = all->index[i];
    *out_sorted = sorted;
    *out_start = start;
    sorted = NULL;
    start = NULL;
done:
    nbi_free(sorted);
    nbi_free(start);
    nbi_free(fill);
    return st;
}

/* Samples of class k that belong to a draw of `take`. */
static size_t quota(const size_t *start, size_t k, size_t take, size_t n) {
    return (size_t)((uint64_t)take * start[k + 1] / n - (uint64_t)take * start[k] / n);
}

/* Moves `take` samples out of `all` into *drawn. */
static nb_status draw(nb_ctx *ctx, const nbi_dataset *data, items *all, size_t take,
                      const uint64_t seed[2], items *drawn) {
    nb_status st;
    size_t classes = data->labels ? (size_t)data->info.classes : 1, *start = NULL;
    uint32_t *sorted = NULL, *chosen = NULL;
    uint8_t *gone = NULL;
    NB_TRYG(sort_by_class(ctx, data, all, classes, &sorted, &start));
    NB_TRYG(nbi_alloc(ctx, take, sizeof *chosen, &chosen));
    NB_TRYG(nbi_alloc(ctx, nbi_dataset_raw_total(data), 1, &gone));
    size_t most = 0, n = 0;
    for (size_t k = 0; k < classes; k++) {
        nbi_rng rng;
        nbi_rng_seed(&rng, seed[0], seed[1] << 32 | k);
        nbi_rng_shuffle(&rng, sorted + start[k], start[k + 1] - start[k]);
        if (quota(start, k, take, all->n) > most) most = quota(start, k, take, all->n);
    }
    for (size_t turn = 0; turn < most; turn++)
        for (size_t k = 0; k < classes; k++)
            if (turn < quota(start, k, take, all->n)) chosen[n++] = sorted[start[k] + turn];
    for (size_t i = 0; i < n; i++) gone[chosen[i]] = 1;
    size_t kept = 0;
    for (size_t i = 0; i < all->n; i++)
        if (!gone[all->index[i]]) all->index[kept++] = all->index[i];
    all->n = kept;
    *drawn = (items){chosen, n};
    chosen = NULL;
done:
    nbi_free(sorted);
    nbi_free(start);
    nbi_free(chosen);
    nbi_free(gone);
    return st;
}

static nb_status natural(nb_ctx *ctx, size_t begin, size_t n, items *out) {
    NB_TRY(nbi_alloc(ctx, n, sizeof *out->index, &out->index));
    for (size_t i = 0; i < n; i++) out->index[i] = (uint32_t)(begin + i);
    out->n = n;
    return NB_OK;
}

/* One split → 80/10/10; tiny data gives the training split its first sample, test the second. */
static nb_status divide_one(nb_ctx *ctx, nbi_dataset *data, const nbi_data_options *o,
                            items split[3]) {
    size_t n = nbi_dataset_raw_total(data), tenth = (n + 5) / 10;
    size_t test = n >= 2 && !tenth ? 1 : n >= 2 ? tenth : 0;
    size_t val = o->val_count ? o->val_count : n >= 3 && !tenth ? 1 : n >= 3 ? tenth : 0;
    if (o->val_count && val + test >= n)
        return nb_fail(ctx, NB_EINVAL,
                       "'%s' has %zu samples: %zu for validation and %zu for test leave none",
                       o->path, n, val, test);
    NB_TRY(natural(ctx, 0, n, &split[NBI_SPLIT_TRAIN]));
    NB_TRY(draw(ctx, data, &split[NBI_SPLIT_TRAIN], test, (uint64_t[]){o->seed, 2},
                &split[NBI_SPLIT_TEST]));
    return draw(ctx, data, &split[NBI_SPLIT_TRAIN], val, (uint64_t[]){o->seed, 1},
                &split[NBI_SPLIT_VAL]);
}

/* Which of the data's own splits serve as train, val and test (−1: none). Two of them: the one to
 * learn from gives the validation samples, the other one is for the final numbers. */
static void choose_roles(nb_ctx *ctx, const nbi_dataset *data, const nbi_data_options *o,
                         int role[3]) {
    bool has[3];
    for (int s = 0; s < 3; s++) {
        has[s] = data->raw_count[s] > 0;
        role[s] = has[s] ? s : -1;
    }
    if (has[0] && has[2]) return;
    role[0] = has[0] ? 0 : 1;
    role[1] = -1;
    role[2] = has[2] ? 2 : 1;
    nb_log(ctx, NB_LOG_INFO,
           has[0] ? "'%s' has no test split: its validation split serves as test, and validation "
                    "samples are held out of train"
                  : "'%s' has no training split: its validation split serves as train, and "
                    "validation samples are held out of it",
           o->path);
}

static nb_status divide_own(nb_ctx *ctx, nbi_dataset *data, const nbi_data_options *o,
                            items split[3]) {
    int role[3];
    size_t begin[3] = {0, data->raw_count[0], data->raw_count[0] + data->raw_count[1]};
    choose_roles(ctx, data, o, role);
    for (int s = 0; s < 3; s++)
        if (role[s] >= 0) NB_TRY(natural(ctx, begin[role[s]], data->raw_count[role[s]], &split[s]));
    if (role[NBI_SPLIT_VAL] >= 0) {
        if (o->val_count)
            nb_log(ctx, NB_LOG_WARNING, "'%s' has a validation split of its own (%zu): %zu ignored",
                   o->path, split[NBI_SPLIT_VAL].n, o->val_count);
        return NB_OK;
    }
    size_t n = split[NBI_SPLIT_TRAIN].n, tenth = n / 10;
    size_t val = o->val_count ? o->val_count : tenth < 5000 ? tenth : 5000;
    if (!val && n >= 2) val = 1;
    if (o->val_count && val >= n)
        return nb_fail(ctx, NB_EINVAL,
                       "'%s': %zu validation samples cannot be held out of %zu for training",
                       o->path, val, n);
    return draw(ctx, data, &split[NBI_SPLIT_TRAIN], val, (uint64_t[]){o->seed, 1},
                &split[NBI_SPLIT_VAL]);
}

nb_status nbi_dataset_divide(nb_ctx *ctx, nbi_dataset *data, const nbi_data_options *options) {
    items split[3] = {{0}};
    int own = 0;
    size_t total = nbi_dataset_raw_total(data);
    if (total > NBI_SAMPLES_MAX)
        return nb_fail(ctx, NB_EUNSUPPORTED, "'%s' has %zu samples, want at most %zu",
                       options->path, total, NBI_SAMPLES_MAX);
    for (int s = 0; s < 3; s++) own += data->raw_count[s] > 0;
    nb_status st =
        own == 1 ? divide_one(ctx, data, options, split) : divide_own(ctx, data, options, split);
    for (int s = 0; s < 3; s++) {
        data->order[s] = split[s].index; /* freed with the data set, also after a failure */
        data->info.count[s] =
            options->limit && options->limit < split[s].n ? options->limit : split[s].n;
    }
    return st;
}
