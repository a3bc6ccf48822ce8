/* A set of samples in memory, drawn from a split by seed: for calibration, scoring, evaluation. */
#ifndef NIBBLE_DATA_IMAGES_H
#define NIBBLE_DATA_IMAGES_H

#include "data/data.h"

typedef struct nbi_images {
    size_t n, sample_bytes;
    uint8_t *bytes; /* [n][sample_bytes]: u8 H,W,C, or float32 */
    int *label;     /* [n], −1 = none */
    nbi_dataset_info info;
} nbi_images;

typedef struct nbi_draw {
    nbi_split split;
    size_t count;     /* 0 = the whole split, in order; else a seeded sample without repetition */
    uint64_t seed;
    bool augment;     /* images: crop after padding by 1/8 of the side, and flip where it is safe */
    const uint32_t *indices; /* NULL, or exactly these samples (count of them) */
} nbi_draw;
nb_status nbi_images_draw(nb_ctx *ctx, const nbi_dataset *data, const nbi_draw *draw,
                          nbi_images *out);
void nbi_images_free(nbi_images *images);
/* Samples first … first+n−1 as network input: float32, contiguous ONNX order. */
void nbi_images_fill(const nbi_images *images, const nbi_transform *transform, size_t first,
                     size_t n, float *out);

#endif
