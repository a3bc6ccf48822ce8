/* Data sets: readers recognise a path by its content; the loader holds out splits, applies the
 * affine input transform of the model and augments. */
#ifndef NIBBLE_DATA_DATA_H
#define NIBBLE_DATA_DATA_H

#include "base/base.h"

typedef enum nbi_split { NBI_SPLIT_TRAIN, NBI_SPLIT_VAL, NBI_SPLIT_TEST } nbi_split;

/* An indexed set of samples, random access; sample bytes are raw u8 in H,W,C order (images), or
 * float32 in ONNX order without the batch dimension (arrays). */
typedef struct nbi_dataset nbi_dataset;
typedef struct nbi_dataset_info {
    const char *kind;   /* reader name: "cifar", "idx", "npz", "folder", "list", "builtin" */
    bool is_image;      /* u8 H,W,C (else float32 `shape`) */
    bool is_files;      /* picture files: resize and crop apply */
    int height, width, channels; /* images */
    int rank;           /* arrays: shape without batch */
    int64_t shape[8];
    size_t sample_bytes;
    size_t count[3];    /* samples in train, val, test */
    int classes;        /* 0 = unlabelled */
    bool is_flip_safe;  /* horizontal flip keeps the label: CIFAR and folders yes; digits, glyphs no */
} nbi_dataset_info;

typedef struct nbi_data_options {
    const char *path; /* --data */
    int resize, crop; /* --resize, --crop: 0 = as is; shorter side to `resize`, then centre crop */
    uint64_t seed;    /* of the split of data that has one split only (80/10/10, stratified) */
    /* Validation samples held out of the training split when the data has no split of its own for
     * it; 0 = default: min(5000, 10 % of train). Class-balanced, seeded, disjoint from train. */
    size_t val_count;
    size_t limit;     /* --limit: at most so many samples per split, the first ones; 0 = all */
    int want_height, want_width, want_channels; /* of the model's input; 0 = any. Folders resize to
                                                   it when no --resize/--crop is given */
} nbi_data_options;

/* One row per reader; src/data/readers.def. */
typedef struct nbi_reader {
    const char *name;
    const char *help; /* one line for `nibble list readers` */
    /* Cheap test of the content; never fails. */
    bool (*recognise)(const char *path);
    nb_status (*open)(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out);
} nbi_reader;
const nbi_reader *const *nbi_readers(size_t *n);

/* Finds the reader by content. NB_EFORMAT says what was looked for when nothing fits. */
nb_status nbi_dataset_open(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out);
void nbi_dataset_free(nbi_dataset *data);
const nbi_dataset_info *nbi_dataset_get(const nbi_dataset *data);
/* Copies sample `index` (< count[split]) of a split: info.sample_bytes bytes; *label = class or -1.
 * Thread-safe after open. */
nb_status nbi_dataset_sample(nb_ctx *ctx, const nbi_dataset *data, nbi_split split, size_t index,
                             void *out, int *label);

/* From a picture to its H,W,C bytes, and from those to float32 C,H,W: ((byte·scale) − mean[c]) / std[c]. */
typedef struct nbi_transform {
    int resize, crop; /* as in nbi_data_options, which the reader takes them from; default 0 */
    float scale;      /* default 1/255 */
    float mean[4], std[4]; /* defaults 0 and 1; one value serves all channels when n = 1 */
    int n;            /* values given: 1 or the number of channels */
} nbi_transform;
void nbi_transform_default(nbi_transform *t);
/* Of its values, over `hash`. */
uint64_t nbi_transform_hash(uint64_t hash, const nbi_transform *t);
/* The 256 real values of each byte for channel c; the one definition of the input transform. */
void nbi_transform_table(const nbi_transform *t, int channel, float table[256]);
void nbi_transform_apply(const nbi_transform *t, const uint8_t *hwc, int h, int w, int c,
                         float *chw);
/* Random crop after padding by 4 with `pad` bytes (all channels) and, if flip, a horizontal flip
 * with probability 1/2: the CIFAR training augmentation. Seeded: same rng, same result. */
void nbi_augment_crop_flip(nbi_rng *rng, const uint8_t *in, int h, int w, int c, int pad_pixels,
                           uint8_t pad, bool flip, uint8_t *out);

#endif
