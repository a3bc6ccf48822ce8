/* Training batches: float images N,C,H,W and soft targets N,classes. What batch `index` of epoch
 * `epoch` holds follows from the seed alone: not from threads, not from what was asked before. */
#ifndef NIBBLE_DATA_BATCHES_H
#define NIBBLE_DATA_BATCHES_H

#include "data/data.h"

typedef struct nbi_augmentation {
    bool crop, flip;      /* of images: after padding by 1/8 of the side; mirrored half the time */
    int cutout;           /* side of the square in pixels; 0 = none */
    double mixup, cutmix; /* α of Beta(α, α); 0 = none. With both, each sample takes one of them */
} nbi_augmentation;
/* "crop,flip,cutout,mixup,cutmix", each with "=number" where it has one ("cutout=8", "mixup=0.2");
 * "none"; NULL: crop, and flip where it is safe, for images. Defaults: a cutout of half the side,
 * α = 0.2 (mixup) and 1 (cutmix). NB_EINVAL names what is wrong, or asks for images. */
nb_status nbi_augmentation_parse(nb_ctx *ctx, const char *text, const nbi_dataset_info *info,
                                 nbi_augmentation *out);

typedef struct nbi_batches_spec {
    const nbi_dataset *data; /* must outlive the batches */
    nbi_split split;
    size_t batch;            /* samples; what is left over at the end of an epoch is dropped */
    size_t classes;          /* 0: no targets (unlabelled data) */
    nbi_transform transform; /* of images */
    nbi_augmentation augment;
    /* Share of the samples that only batches of odd index hold, which hold no others: 0 = all batches
     * alike. For searches that learn weights and choices from different images in turn. */
    double alternate;
    double smoothing; /* of labels, 0 … <1: 1−s+s/classes for the class, s/classes for others */
    uint64_t seed;
} nbi_batches_spec;

typedef struct nbi_batch {
    const float *x;      /* [batch][sample] */
    const float *target; /* [batch][classes]; NULL without */
} nbi_batch;

typedef struct nbi_batches nbi_batches;
/* NB_EFORMAT: fewer samples than one batch. NB_EINVAL: a wrong setting. The context may not be
 * given more threads afterwards. */
nb_status nbi_batches_new(nb_ctx *ctx, const nbi_batches_spec *spec, nbi_batches **out);
void nbi_batches_free(nbi_batches *batches); /* NULL is allowed */
size_t nbi_batches_per_epoch(const nbi_batches *batches);
size_t nbi_batches_size(const nbi_batches *batches); /* samples of one batch */
/* index < per_epoch; *out is valid until the next call. NB_EFORMAT names a label ≥ classes and a
 * sample without one. */
nb_status nbi_batches_get(nb_ctx *ctx, nbi_batches *batches, uint64_t epoch, size_t index,
                          nbi_batch *out);

#endif
