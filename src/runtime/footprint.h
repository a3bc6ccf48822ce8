/* Flash and RAM of a policy without building its program. */
#ifndef NIBBLE_RUNTIME_FOOTPRINT_H
#define NIBBLE_RUNTIME_FOOTPRINT_H

#include "ir/program.h"
#include "ir/qnet.h"

/* RAM of the generated C (activations, input, scratch) when sites have these bits: the planner's own
 * answer on a program without constants. */
nb_status nbi_footprint_ram(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits,
                            size_t *out_bytes);
/* Can C be made of the network? NB_EUNSUPPORTED as in nbi_program_cut. */
nb_status nbi_footprint_has_c(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits);
/* Constants of the generated C that depend on the bits: packed weights, biases, and the
 * tables and descriptors of requantizations. */
size_t nbi_footprint_variable(const nbi_qnet *net, const nbi_choice *bits);
/* The same, summed over the steps instead of the peak: what any tensor adds anywhere counts. */
nb_status nbi_footprint_ram_sum(nb_ctx *ctx, const nbi_qnet *net, const nbi_choice *bits,
                                double *out_bytes);
/* The rest of a program's const_bytes, the same for every policy: descriptors, multipliers, tables of
 * functions and of the input's pixels. Tables that turn out equal are stored once, so a program may be
 * smaller than both together, by little. */
size_t nbi_footprint_fixed(const nbi_qnet *net);

#endif
