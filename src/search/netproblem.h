/* The problem that searches solve for a real network: variables from quantization sites, costs from
 * exact sums and the memory planner, scores from the integer arithmetic, trials kept in a study. */
#ifndef NIBBLE_SEARCH_NETPROBLEM_H
#define NIBBLE_SEARCH_NETPROBLEM_H

#include "quant/generate.h"
#include "runtime/scorer.h"
#include "runtime/step_costs.h"
#include "search/search.h"
#include "search/study.h"

typedef enum nbi_loss {
    NBI_LOSS_KL, /* mean over images of KL(softmax(float) ‖ softmax(quantized)), nats */
    NBI_LOSS_MSE /* Σ(float − quantized)² / Σ float² */
} nbi_loss;

/* Choices that a site may get, by rising width. */
#define NBI_MAX_OFFER 160
/* Most options of one variable. */
#define NBI_NETPROBLEM_OPTIONS 200
typedef struct nbi_offer {
    int n;
    nbi_choice choice[NBI_MAX_OFFER];
} nbi_offer;

typedef struct nbi_netproblem_options {
    const nbi_qnet *net;
    nbi_scorer *scorer;
    int edge;              /* whose values are compared */
    const float *reference; /* float values: [images][count], scorer's order */
    size_t first, images;  /* scored: scorer images first … images−1 */
    nbi_loss loss;
    nbi_offer weights, activations; /* activations: one choice fixes all of them */
    nbi_offer biases;               /* likewise; of 8, 16 and 32 bits */
    const nbi_choice *fixed;  /* [n_sites] bits that rules or the network fix; 0 = free */
    bool for_onnx;         /* the size limit means ONNX containers */
    int containers;        /* see nbi_net_cost_of */
    double extra_bytes;    /* of parameters that stay float: part of both sizes */
    nbi_study *study;      /* may be NULL */
    nb_status (*improved)(nb_ctx *ctx, void *user, const nbi_choice *bits, double score);
    /* nbi_problem.hypernetwork; calls nbi_netproblem_set_scorer. NULL: none. */
    nb_status (*hypernetwork)(nb_ctx *ctx, void *user, const struct nbi_meta_settings *settings);
    /* For methods that learn by gradient; NULL: there are none. `choice` [n_sites] holds what to
     * start from and gets what was learned; target: what the limits leave room for, average widths of
     * weights and of activations, and √(bit operations / multiply-accumulates); 0: no limit. */
    nb_status (*learn)(nb_ctx *ctx, void *user, const nbi_learning *how, const double target[3],
                       nbi_choice *choice);
    /* Mean curvature of the score along each site's values (a bias: counted at every place of its
     * layer's sums, as in nbi_site_power): [n_sites], 0 where it is not known. NULL: no curvature.
     * Asked for once a search; the callee keeps what is expensive. */
    nb_status (*curvature)(nb_ctx *ctx, void *user, double *mean);
    void *user;
} nbi_netproblem_options;

typedef struct nbi_netproblem nbi_netproblem;
nb_status nbi_netproblem_new(nb_ctx *ctx, const nbi_netproblem_options *options,
                             nbi_netproblem **out);
void nbi_netproblem_free(nbi_netproblem *np);
/* The problem with no limits set; the caller sets them. Lives as long as np. */
nbi_problem *nbi_netproblem_problem(nbi_netproblem *np);
/* After this moment (nb_seconds; INFINITY: never) sensitivities that are not measured yet are estimated
 * from the tensors' signal-to-noise ratios, scaled like the measured ones; with more time a later call
 * measures them. */
void nbi_netproblem_set_deadline(nbi_netproblem *np, double deadline);
/* Another scorer of the same network and images; sensitivities are forgotten. */
void nbi_netproblem_set_scorer(nbi_netproblem *np, nbi_scorer *scorer);
/* Latency and energy become costs from now on (0 before). NULL: no more; else it must outlive np. */
void nbi_netproblem_set_costs(nbi_netproblem *np, const nbi_step_costs *costs);
/* false while sensitivities are not measured, or some were estimated. */
bool nbi_netproblem_measured(const nbi_netproblem *np);
/* Once the limits are set: options that need more RAM than allowed beside the cheapest, beside the
 * dearest and beside the leanest options of all others are no options (netram.c). Peak memory is no
 * sum: a method that looks for cheaper options would not find that wider weights, which need no
 * scratch, take less. Policies of before mean nothing afterwards. */
nb_status nbi_netproblem_bound_ram(nb_ctx *ctx, nbi_netproblem *np);
/* Peak memory of the generated C. */
nb_status nbi_netproblem_ram(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits, double *out);
/* Drops the options of a variable that are not kept; keep: by option. At least one stays. */
void nbi_netproblem_keep(nbi_netproblem *np, int variable, const bool *keep);
/* Policy → choice of every site. */
void nbi_netproblem_bits(const nbi_netproblem *np, const uint8_t *policy, nbi_choice *bits);
/* The site that gives a variable its name (the first of its group). */
int nbi_netproblem_site(const nbi_netproblem *np, int variable);
/* The sites of a variable; *site stays the problem's. */
int nbi_netproblem_sites(const nbi_netproblem *np, int variable, const int **site);
/* What option o of a variable gives its k-th site. */
nbi_choice nbi_netproblem_choice(const nbi_netproblem *np, int variable, int o, int k);
/* Signal to noise (dB) of a site at a choice. */
nb_status nbi_netproblem_sqnr(nb_ctx *ctx, const nbi_netproblem *np, int site, nbi_choice choice,
                              double *out);
const nbi_netproblem_options *nbi_netproblem_get(const nbi_netproblem *np);
/* Mean of x² by a histogram's bin centres. */
double nbi_hist_mean_square(const nbi_hist *hist);
/* Σ x² of a tensor: all weights, the activations of one image, or biases at every pixel of one. */
double nbi_site_power(const nbi_qnet *net, const nbi_site *site);
/* Sets problem->local_error, curvature, features and part (nethints.c). */
void nbi_netproblem_add_hints(nbi_netproblem *np, nbi_part *part);
/* Sets problem->learn where the options have it (netlearn.c). */
void nbi_netproblem_add_learning(nbi_netproblem *np);
/* Choices of every site → policy; false when one is not offered. */
bool nbi_netproblem_policy(const nbi_netproblem *np, const nbi_choice *bits, uint8_t *policy);
/* Loss of any assignment of bits (cached in the study by the bits themselves). */
nb_status nbi_netproblem_loss(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits, double *out);
/* The losses of the scored images one by one, as the scorer is now (each[images − first]); nothing is
 * looked up or kept. Their mean is the loss. */
nb_status nbi_netproblem_each(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits,
                              double *each);
/* Costs of any assignment of bits. */
nb_status nbi_netproblem_cost(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits,
                              double out[NBI_COST_COUNT]);
long nbi_netproblem_scored(const nbi_netproblem *np);    /* computed, not from the study */

#endif
