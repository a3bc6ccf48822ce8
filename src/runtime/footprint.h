/* Flash and RAM of a policy without building its program. */
#ifndef NIBBLE_RUNTIME_FOOTPRINT_H
#define NIBBLE_RUNTIME_FOOTPRINT_H

#include "ir/program.h"
#include "ir/qnet.h"

/* RAM of the generated C (activations, input, scratch) when sites have these bits: the planner's own
 * answer on a program without constants. */
nb_status nbi_footprint_ram(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits,
                            size_t *out_bytes);
/* Constants of the generated C that depend on the bits: packed weights, biases, and the
 * tables and descriptors of requantizations. The rest of a program's const_bytes is the same for every policy
 * (tables shared between layers aside, which only make a program smaller). */
size_t nbi_footprint_variable(const nbi_qnet *net, const nbi_choice *bits);

#endif
