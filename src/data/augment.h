/* Augmentation beside crop and flip (data.h): on float images C,H,W and soft targets. Every random
 * choice comes from the caller's generator; the batches seed one per sample. */
#ifndef NIBBLE_DATA_AUGMENT_H
#define NIBBLE_DATA_AUGMENT_H

#include "data/data.h"

/* A square of zeros (the mean, after the input transform) of `side` pixels, its centre anywhere in
 * the image, cut at the border (DeVries and Taylor 2017). */
void nbi_augment_cutout(nbi_rng *rng, float *chw, int channels, int h, int w, int side);
/* Beta(α, α), α > 0: the share λ of the image itself in mixup and cutmix. */
double nbi_rng_beta(nbi_rng *rng, double alpha);
/* x ← λx + (1−λ)·other, for images and targets alike (Zhang et al. 2018). */
void nbi_augment_mixup(float lambda, float *x, const float *other, size_t count);
/* A box of about the share 1−λ of the image is taken from `other`; returns the exact share that was
 * kept, which is to mix the targets (Yun et al. 2019). */
float nbi_augment_cutmix(nbi_rng *rng, double lambda, float *x, const float *other, int channels,
                         int h, int w);

#endif
