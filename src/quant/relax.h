/* Choices made continuous, so that gradient descent learns them together with the weights (AutoQNN):
 *   schemes  every candidate of a site quantizes in parallel, weighted by p = softmax((θ + g)/τ),
 *            Gumbel noise g; the largest θ decides (docs/searches.md);
 *   widths   every site has a real-valued width bt; its rounding quantizes, dL/dbt = ln2·⟨G, x − x̂⟩,
 *            and a precision loss γ·max(0, B − T)² draws the average widths of weights and of
 *            activations to their targets (docs/schemes.md);
 *   fractions the real-valued width λ mixes the two candidates around it,
 *            x̂ = (1 − f)·Q_low(x) + f·Q_high(x), dL/df = ⟨G, Q_high − Q_low⟩, with the loss κ·|B − T|
 *            (FracBits);
 *   ranges   every site learns its step d and its range q, and its width follows from them,
 *            b = ⌈log2(q/d + 1)⌉, one more where there are signs, with the loss λ·max(0, B − T)²
 *            (differentiable quantization, Uhlich et al.). Both are in docs/searches.md.
 * The network around them is the one of quant/qat.h. */
#ifndef NIBBLE_QUANT_RELAX_H
#define NIBBLE_QUANT_RELAX_H

#include "quant/qat.h"
#include "train/loop.h"

typedef enum nbi_relax_kind {
    NBI_RELAX_SCHEMES,
    NBI_RELAX_WIDTHS,
    NBI_RELAX_FRACTIONS,
    NBI_RELAX_RANGES, /* the uniform scheme only */
    NBI_RELAX_KINDS
} nbi_relax_kind;

#define NBI_RELAX_CANDIDATES 16

/* What one site may become. n = 0: it keeps its start. */
typedef struct nbi_relax_site {
    int n;
    nbi_choice candidate[NBI_RELAX_CANDIDATES]; /* schemes: of any width; widths: one scheme's, rising */
} nbi_relax_site;

typedef struct nbi_relax_spec {
    nbi_relax_kind kind;
    const nbi_relax_site *site; /* [n_sites] */
    const nbi_choice *start;    /* [n_sites]; widths start at its bits */
    bool model_wise;            /* schemes: one θ for all weights, one for all activations */
    /* All but schemes: targets of the average width over all weights and all activations of the
     * network, fixed ones included, and of √(bit operations / multiply-accumulates); 0: no target. */
    double weight_target, activation_target, bops_target;
    double penalty; /* κ or λ of fractions and ranges; 0: 1 and 10 */
    int epochs;
    double choice_rate; /* learning rate of θ (Adam), widths, λ and log2 of d and q (Adam); 0: 0.02,
                           0.05, 0.02, 0.02 */
    double learning_rate; /* of everything else, falling as a cosine; 0: 0.01 */
    uint64_t seed;
} nbi_relax_spec;

typedef struct nbi_relax nbi_relax;
/* Builds the relaxed network. `source`, `net`, `edge`, `options`: as for nbi_qat_new. */
nb_status nbi_relax_new(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net, int edge,
                        const nbi_qat_options *options, const nbi_relax_spec *spec,
                        nbi_relax **out);
void nbi_relax_free(nbi_relax *relax); /* NULL is allowed */
nbi_qat *nbi_relax_qat(nbi_relax *relax);

/* Fills graph, parameters, losses, states, epochs, schedule and the hooks of a loop; the caller adds
 * batches, `more`, the checkpoint and what is told. The loop's `user` is for `more`: hooks get the
 * relaxation through spec->relax. */
nb_status nbi_relax_loop(nb_ctx *ctx, nbi_relax *relax, nbi_loop_spec *spec);
/* Batches of odd index teach θ only, even ones everything else: this share of the samples. Where an
 * epoch is one batch it teaches both. */
#define NBI_RELAX_ALTERNATE 0.2
/* Everything else that was learned, as nbi_trained_take: weights, normalization, steps of every width. */
void nbi_relax_trained(const nbi_relax *relax, float *out);
/* What was learned: the choice of every site; `value` (NULL: not wanted): widths before rounding, or
 * the probability of the chosen scheme without noise. Choices lie between the first and the last
 * candidate, those of widths and ranges not always on one. */
void nbi_relax_decode(const nbi_relax *relax, nbi_choice *choice, double *value);

#endif
