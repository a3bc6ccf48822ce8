/* From the frozen quantized graph to integer steps. */
#ifndef NIBBLE_RUNTIME_LOWER_H
#define NIBBLE_RUNTIME_LOWER_H

#include "ir/program.h"
#include "ir/qnet.h"

/* Most steps one layer becomes (a Concat of many inputs is the largest). */
#define NBI_MAX_STEPS 64

/* Lowers layer `l`: step[].in/out are edges of the net. Per-channel arrays and tables are taken from
 * `arena`. conv is read for convolutions only. Packed weight bytes (p.w) are made only when `pack`.
 * *n_steps = 0: the output edge is the input edge (a requantization to the same grid). Fails with
 * NB_EUNSUPPORTED when an int32 accumulator could overflow. */
nb_status nbi_lower_layer(nb_ctx *ctx, const nbi_qnet *net, int l, const nbi_qparam *site,
                          const nbi_frozen_conv *conv, bool pack, nbi_arena *arena,
                          nbi_step *step, int *n_steps);
/* Brings a convolution that reads `x` and writes `y` into the form that files can hold: the gain goes into the weight
 * scales (float32), the shift onto a whole number of accumulator steps (int32), as coarse a one as
 * conv->bias_bits want; gain becomes 1. What is scored, frozen, exported and read back is this form. conv->scale is replaced from `arena`. */
nb_status nbi_fold_gain(nb_ctx *ctx, const nbi_layer *l, const nbi_qparam *x, const nbi_qparam *y,
                        nbi_arena *arena, nbi_frozen_conv *conv);
/* The same for every convolution of a frozen graph, in its own arena. */
nb_status nbi_frozen_fold(nb_ctx *ctx, nbi_frozen *frozen);
/* The table that turns raw pixels into the input's codes; only for image inputs. */
nb_status nbi_lower_input(nb_ctx *ctx, const nbi_qnet *net, const nbi_qparam *site,
                          nbi_arena *arena, nbi_step *step);
/* The whole program, planned. */
nb_status nbi_lower(nb_ctx *ctx, const nbi_frozen *frozen, nbi_program **out);
/* The buffer of an edge whose site has these parameters (offset not set). */
void nbi_describe_edge(const nbi_edge *e, const nbi_qparam *q, nbi_ptensor *out);
/* true when equal values mean equal reals. */
bool nbi_same_grid(const nbi_qparam *a, const nbi_qparam *b);
/* Is a layer's output its input, nothing computed? */
bool nbi_keeps_grid(const nbi_layer *layer, const nbi_qparam *x, const nbi_qparam *y);
/* Does a table in place follow what the layer computes on the grid y (its output's)? */
bool nbi_adds_levels(const nbi_layer *layer, const nbi_qparam *y);
/* v = clamp(round(real/scale) + zero): float32 division, ties to even, as ONNX's QuantizeLinear. */
int32_t nbi_quantize(const nbi_qparam *q, float real);

#endif
