/* What a training graph has learned, apart from the graph: another one of the same network may start
 * from it, whatever choices either was built for. */
#ifndef NIBBLE_QUANT_TRAINED_H
#define NIBBLE_QUANT_TRAINED_H

#include "quant/qat.h"

/* Numbers of nbi_trained_take: by layer weights, normalization or biases, and steps by width; by site
 * steps by width. NAN: not known. */
size_t nbi_trained_count(const nbi_qnet *net);
void nbi_trained_take(const nbi_qat *qat, float *out);
/* The rows of steps inside `values`: of a layer's weights, [8][groups]; of an activation site, [8]. */
float *nbi_trained_weight_steps(const nbi_qnet *net, int layer, float *values);
float *nbi_trained_site_steps(const nbi_qnet *net, int site, float *values);
/* Into a graph that is to be trained. Steps and params of weights that are not known for their choice
 * are fitted to the weights. */
nb_status nbi_trained_give(nb_ctx *ctx, const float *values, nbi_qat *qat);
/* Steps, or params, of a layer's weights: fitted anew to what the graph holds. */
nb_status nbi_trained_fit(nb_ctx *ctx, nbi_qat *qat, int layer);

#endif
