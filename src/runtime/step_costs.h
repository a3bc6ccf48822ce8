/* What one image costs, layer by layer: seconds and energy of every layer at every width, from a table
 * of the user's (a device that is not here) or measured on this machine. Sums of them are costs of
 * a policy before it is built. */
#ifndef NIBBLE_RUNTIME_STEP_COSTS_H
#define NIBBLE_RUNTIME_STEP_COSTS_H

#include "ir/program.h"
#include "ir/qnet.h"

typedef struct nbi_step_costs nbi_step_costs;

#define NBI_STEP_COSTS_BYTES ((size_t)16 << 20) /* the longest file */

/* From a file of lines `step,shape,weight_bits,input_bits,cycles|seconds[,energy]`, named so in its
 * first line, in any order. Empty lines and those that begin with # are left out; `# clock HZ` turns
 * cycles into seconds; energy is in joules.
 *   step: conv, dwconv, add, mul, lut, maxpool, avgpool, copy, float
 *   shape: of conv and dwconv HxWxC>N:KHxKW/STRIDE (input, output channels, kernel), groups as :gG;
 *          of all others HxWxC of the output
 *   widths: empty where a step has none
 * A layer without a line of its own: among lines of its step, those of the same widths, else the
 * next wider ones (weights first); between two of them by multiply-adds (elements), outside in
 * proportion to the nearest. NB_EFORMAT names line and column. */
nb_status nbi_step_costs_read(nb_ctx *ctx, const nbi_qnet *net, const char *path,
                              nbi_step_costs **out);

typedef struct nbi_step_widths {
    const nbi_choice *fixed;  /* [n_sites]; 0: free */
    const nbi_choice *weight, *activation; /* offered; schemes do not matter */
    int n_weight, n_activation;
    bool per_channel;
} nbi_step_widths;
/* Measured here on one thread at the widths that may be chosen. input: one image, as the scorer takes
 * it. Another call gives slightly other numbers. */
nb_status nbi_step_costs_measure(nb_ctx *ctx, const nbi_qnet *net, const nbi_step_widths *widths,
                                 const uint8_t *input, nbi_step_costs **out);
void nbi_step_costs_free(nbi_step_costs *costs); /* NULL is allowed */

/* Sums over all layers; *energy is NAN when the table has none. program: the one that was made, whose
 * grids training may have moved apart; NULL: as calibration left them. Thread-safe. NB_EFORMAT names the
 * layer that no line of the table fits. */
nb_status nbi_step_costs_sum(nb_ctx *ctx, const nbi_step_costs *costs, const nbi_choice *bits,
                             const nbi_program *program, double *seconds, double *energy);
bool nbi_step_costs_have_energy(const nbi_step_costs *costs);
/* Whether they are measured here. */
bool nbi_step_costs_measured(const nbi_step_costs *costs);

/* ---- shared by step_costs.c and step_table.c ---- */

typedef struct nbi_step_cost {
    double seconds, energy; /* NAN: not known */
} nbi_step_cost;

typedef struct nbi_layer_costs { /* by width of weights and input; [0][0]: a step without widths */
    nbi_step_cost at[NBI_MAX_BITS + 1][NBI_MAX_BITS + 1];
} nbi_layer_costs;

struct nbi_step_costs {
    const nbi_qnet *net;
    nbi_layer_costs *layer; /* [n_layers] */
    double rest;            /* seconds of what belongs to no layer */
    bool has_energy, measured;
    char *source;           /* the file, for messages */
};
nb_status nbi_step_costs_new(nb_ctx *ctx, const nbi_qnet *net, const char *source,
                             nbi_step_costs **out);

#endif
