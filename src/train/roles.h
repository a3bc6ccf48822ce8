/* What the constants of a float graph are for: which are trained, how they start. */
#ifndef NIBBLE_TRAIN_ROLES_H
#define NIBBLE_TRAIN_ROLES_H

#include "ir/graph.h"

typedef enum nbi_role {
    NBI_ROLE_NONE,
    NBI_ROLE_KERNEL, /* of Conv, Gemm, MatMul */
    NBI_ROLE_BIAS,   /* of Conv, Gemm, and a vector added to a MatMul */
    NBI_ROLE_SCALE,  /* BatchNormalization: trained */
    NBI_ROLE_SHIFT,
    NBI_ROLE_MEAN, /* BatchNormalization: running statistics */
    NBI_ROLE_VARIANCE,
    NBI_ROLE_SLOPE /* PRelu */
} nbi_role;
/* Of input i of a node; NONE unless it is a float32 constant. */
nbi_role nbi_role_of(const nbi_graph *graph, const nbi_node *node, int i);

/* New values for every constant that has a role: He et al. 2015 for kernels (normal, variance
 * 2/fan-in; 1/fan-in where the layer's output is the graph's), 0 for biases, identity for
 * BatchNormalization, 0.25 for slopes. A kernel's values follow from the seed and its name. */
void nbi_init_weights(nbi_graph *graph, uint64_t seed);

#endif
