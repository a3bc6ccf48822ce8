/* Post-training quantization that learns: weights are rounded layer by layer so that the quantized
 * network, fed by its own rounded prefix, computes what the float network computes (docs/
 * quantization.md, "Learned rounding"). */
#ifndef NIBBLE_QUANT_LEARN_H
#define NIBBLE_QUANT_LEARN_H

#include "quant/calibrate.h"
#include "quant/weight_source.h"

typedef struct nbi_learner_options {
    const nbi_graph *source; /* float, any batch */
    const nbi_qnet *net;     /* calibrated */
    nbi_fill_fn fill;        /* calibration images, as the scorer has them */
    void *fill_user;
    size_t images;
    uint64_t seed;           /* of the sample of pixels */
    size_t rows;             /* pixels over all images that a layer is learned from; 0: 32,768 */
    bool alone;              /* no branch makes up for what the other side of an addition has lost */
} nbi_learner_options;

typedef struct nbi_learner nbi_learner;
/* Runs the float network once. source and net must outlive it. */
nb_status nbi_learner_new(nb_ctx *ctx, const nbi_learner_options *options, nbi_learner **out);
/* Nothing more is to be learned: frees the float network's values, keeps what was learned. */
void nbi_learner_settle(nbi_learner *learner);
void nbi_learner_free(nbi_learner *learner); /* NULL is allowed */
/* An nbi_rounding_fn: learns each layer when it is asked for the first time, and gives the same
 * again. */
nb_status nbi_learner_round(nb_ctx *ctx, void *learner, const nbi_rounding_request *request);
/* An nbi_rounding_fn that learns anew each time, and quicker: to rank policies by. With `alone` what a layer
 * gets depends on nothing but its inputs and its choice. */
nb_status nbi_learner_try(nb_ctx *ctx, void *learner, const nbi_rounding_request *request);
/* What layer's weights would be, in levels, if there were no grid: [n_weights], the layer's order; NULL
 * where nothing was learned. */
const float *nbi_learner_ideal(const nbi_learner *learner, int layer);
/* What they are: likewise; *scale: [out_c] of a level of 1. */
const int8_t *nbi_learner_levels(const nbi_learner *learner, int layer, const float **scale);
/* Other levels for a layer that was learned; its scales stay. */
void nbi_learner_set(nbi_learner *learner, int layer, const int8_t *levels);
/* Σ over learned layers of the error of the wanted sums, relative to their variance, with plain
 * rounding and after learning; how many layers. */
void nbi_learner_errors(const nbi_learner *learner, double *plain, double *learned, int *layers);

#endif
