/* Scores policies on the integer arithmetic: runs the quantized network layer by layer over a fixed
 * set of images, applies the output-statistics correction on the way, and keeps the outputs of
 * prefixes that candidates share. The result does not depend on the thread count, on the cache, on
 * the order of candidates, or on a team that shares the work. */
#ifndef NIBBLE_RUNTIME_SCORER_H
#define NIBBLE_RUNTIME_SCORER_H

#include "base/team.h"
#include "ir/program.h"
#include "quant/weight_source.h"

typedef struct nbi_scorer_options {
    size_t images;
    const uint8_t *inputs; /* images · storage bytes: pixels, or codes of the input site */
    size_t stat_images;    /* the first so many give the statistics; 0 = no correction */
    size_t cache_bytes;    /* for outputs of prefixes */
    bool per_channel;      /* granularity of weights */
} nbi_scorer_options;

typedef struct nbi_scorer nbi_scorer;
/* `net` (calibrated) must outlive it; the inputs are not copied. */
nb_status nbi_scorer_new(nb_ctx *ctx, const nbi_qnet *net, const nbi_scorer_options *options,
                         nbi_scorer **out);
void nbi_scorer_free(nbi_scorer *scorer);
/* Weights of another source than the layers' own (generated ones), as nbi_fit_weight_choice gives
 * them, for the choices of all sites. */
struct nbi_coded_weights;
typedef nb_status (*nbi_weights_fn)(nb_ctx *ctx, void *user, int layer, const nbi_choice *bits,
                                    struct nbi_coded_weights *out);
/* Before the first run. whole_policy: they depend on the widths of other layers, too, so that no
 * prefix is shared. */
void nbi_scorer_set_weights(nbi_scorer *scorer, nbi_weights_fn weights, void *user,
                            bool whole_policy);
/* Bounds the memory for sums kept between a layer's statistics and its outputs (64 MiB at first).
 * Larger layers compute theirs twice: slower, the same bits. */
nb_status nbi_scorer_bound_sums(nb_ctx *ctx, nbi_scorer *scorer, size_t bytes);
/* bits[n_sites] → values of edge `edge` for every image: float32 [images][count], storage order. */
nb_status nbi_scorer_run(nb_ctx *ctx, nbi_scorer *scorer, const nbi_choice *bits, int edge,
                         float *values);
/* The frozen graph of a policy, corrections measured on the scorer's images. It holds
 * copies of its weight levels and may outlive the scorer, but not `net`. */
nb_status nbi_scorer_freeze(nb_ctx *ctx, nbi_scorer *scorer, const nbi_choice *bits,
                            nbi_frozen **out);
/* SQNR (dB) of a weight site by a choice, fitting it if need be. */
nb_status nbi_scorer_weight_sqnr(nb_ctx *ctx, nbi_scorer *scorer, int site, nbi_choice choice,
                                 double *out);
/* From now on the images are spread over the team, which outlives the scorer, as long as no rounding is
 * set: one scorer of each process, of the same network, images and options. Rank 0's may be replaced by
 * another one, with weights of another source; the others only serve. `net`, the scorer's own, gets
 * the numbers of rank 0's with the first run (quant/net_numbers.h). */
nb_status nbi_scorer_set_team(nb_ctx *ctx, nbi_scorer *scorer, nbi_team *team, nbi_qnet *net);
/* Ranks > 0: does their share of what rank 0 runs, until that ends it. */
nb_status nbi_scorer_serve(nb_ctx *ctx, nbi_scorer *scorer);
/* Rank 0: ends it (no team, or not rank 0: nothing). */
void nbi_scorer_dismiss(nb_ctx *ctx, nbi_scorer *scorer);
/* Frees the cached outputs: before something else takes much memory. */
void nbi_scorer_clear(nbi_scorer *scorer);
/* From now on `rounding` may change what the weights' fit gives (NULL: no more). It is asked once per
 * convolution and run, in the order of execution, with the codes that the layer reads; nothing is
 * taken from or left in the cache. */
void nbi_scorer_set_rounding(nbi_scorer *scorer, nbi_rounding_fn rounding, void *user);
/* The same for one whose answer depends on the layer's inputs and choice alone: prefixes are shared as
 * without. Frees the cached outputs, as leaving it does. */
void nbi_scorer_set_pure_rounding(nbi_scorer *scorer, nbi_rounding_fn rounding, void *user);
/* Grids [n_sites] that activation sites have instead of their fit while a rounding is set
 * (dtype NONE: the fit); NULL: none. Not copied. */
void nbi_scorer_set_grids(nbi_scorer *scorer, const nbi_qparam *grid);
/* From now on policies come that differ from this one in a few layers, the last layers first: only
 * outputs that they share with it stay in the cache. NULL: no more. */
nb_status nbi_scorer_stay_near(nb_ctx *ctx, nbi_scorer *scorer, const nbi_choice *bits);
/* cache_bytes that hold all outputs of one policy, and those of a second one that are alive at
 * once. */
size_t nbi_scorer_path_bytes(const nbi_qnet *net, size_t images);
/* Multiply-accumulates computed and saved by the cache so far. */
void nbi_scorer_counts(const nbi_scorer *scorer, double *computed, double *saved);

#endif
