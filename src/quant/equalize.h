/* Cross-layer equalization of a float network. */
#ifndef NIBBLE_QUANT_EQUALIZE_H
#define NIBBLE_QUANT_EQUALIZE_H

#include "ir/graph.h"

/* In place, on the graph as imported: wherever a convolution (with or without BatchNormalization)
 * goes through Relu alone into another convolution, its output channel i is divided by s_i and the
 * other's input channel i multiplied by it, s_i = √(r1_i/r2_i), r1_i = largest magnitude of the
 * first one's weights (times the normalization's gain), r2_i of the other's. The function stays.
 * *pairs: how many such places. */
nb_status nbi_equalize(nb_ctx *ctx, nbi_graph *graph, int *pairs);

#endif
