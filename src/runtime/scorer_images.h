/* One step over all images, and the sums of a convolution over the statistics images. Internal to
 * the scorer. */
#ifndef NIBBLE_RUNTIME_SCORER_IMAGES_H
#define NIBBLE_RUNTIME_SCORER_IMAGES_H

#include "runtime/run.h"

/* Sums kept between a layer's statistics and its outputs, a place of out_h·out_w·out_c int32 per
 * image. Where all of an image's fit int16, only half of the place is touched: caches hold twice as
 * many images. */
typedef struct nbi_kept_sums {
    int32_t *sums;
    size_t room;         /* so many in all */
    bool *halved;        /* by image: int16, sum >> shift */
    bool kept;           /* they are those of the layer being run */
    const int32_t *bias; /* that they contain */
    int shift;           /* all sums are multiples of 2^shift */
} nbi_kept_sums;

typedef struct nbi_images_job {
    nb_ctx *ctx;
    const nbi_ready_step *ready;
    const nbi_ptensor *tensor;
    char *const *scratch; /* by worker, nbi_images_scratch bytes */
    const uint8_t *in[3];
    size_t in_bytes[3], out_bytes;
    uint8_t *out;
    nbi_kept_sums *sums;
    size_t kept;          /* nbi_images_run: so many images have their sums already */
    double *moments;      /* nbi_images_sum: [images][2][channels] of Σ and Σ², exact below 2^53 */
} nbi_images_job;

size_t nbi_images_scratch(const nbi_ready_step *ready);
nb_status nbi_images_run(const nbi_images_job *job, size_t images);
/* Statistics of a convolution; sets sums->shift, and keeps the sums if sums->kept. */
nb_status nbi_images_sum(nbi_images_job *job, size_t images);

#endif
