/* Second moments of what a convolution reads, from the codes of the quantized network, and its cross
 * moments with wanted outputs; over a sample of its output pixels. */
#ifndef NIBBLE_QUANT_GRAM_MOMENTS_H
#define NIBBLE_QUANT_GRAM_MOMENTS_H

#include "ir/qnet.h"

typedef struct nbi_gram_sample {
    const nbi_layer *layer;
    const nbi_qparam *x;    /* of the input */
    const uint8_t *codes;   /* [images] of the input, storage order */
    size_t bytes;           /* of one image */
    size_t images, pixels;  /* so many output pixels of each image: */
    const uint32_t *pixel;  /* [images][pixels] row·out_w + column; NULL: all */
    const float *wanted;    /* [images·pixels][out_c], in steps of the input's grid */
} nbi_gram_sample;

/* Of one group with k inputs and m outputs; centred: covariances over the sample. Order of k: taps,
 * then channels, as in layer->weight. */
typedef struct nbi_moments {
    size_t k, m;
    double *xx; /* [k][k] */
    double *xt; /* [m][k] */
    double *tt; /* [m] */
    double *x;  /* [k] means */
    double *t;  /* [m] means */
} nbi_moments;

size_t nbi_moments_width(const nbi_layer *layer); /* k */
nb_status nbi_moments_new(nb_ctx *ctx, const nbi_layer *layer, nbi_moments *out);
void nbi_moments_free(nbi_moments *moments); /* a zeroed one is allowed */
/* Products of codes are summed exactly (in float32 as long as that is exact), those with wanted
 * outputs in a fixed order: the same at any number of threads. */
nb_status nbi_moments_of(nb_ctx *ctx, const nbi_gram_sample *sample, int group, nbi_moments *out);

#endif
