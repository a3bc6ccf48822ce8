/* Search: methods know only this problem, never networks. A problem has variables (groups of
 * quantization sites that are decided together), each with a list of options (scheme, bits); a
 * policy is one option index per variable. */
#ifndef NIBBLE_SEARCH_SEARCH_H
#define NIBBLE_SEARCH_SEARCH_H

#include "base/base.h"

typedef enum nbi_cost_id { /* rows of costs.def */
    NBI_COST_BYTES,
    NBI_COST_BYTES_ONNX,
    NBI_COST_AVG_BITS, /* weights */
    NBI_COST_RAM,      /* peak activation arena, bytes */
    NBI_COST_BOPS,
    NBI_COST_LATENCY,  /* seconds */
    NBI_COST_ENERGY,   /* joules */
    NBI_COST_COUNT
} nbi_cost_id;
const char *nbi_cost_name(nbi_cost_id id); /* "bytes", … */
const char *nbi_cost_help(nbi_cost_id id);

typedef enum nbi_part { NBI_PART_WEIGHT, NBI_PART_BIAS, NBI_PART_ACTIVATION } nbi_part;

/* What describes a variable to a method that learns across variables; raw numbers. */
typedef enum nbi_feature {
    NBI_FEATURE_DEPTHWISE, /* 0 or 1 */
    NBI_FEATURE_IN,        /* channels */
    NBI_FEATURE_OUT,
    NBI_FEATURE_STRIDE,
    NBI_FEATURE_KERNEL,    /* taps along one side */
    NBI_FEATURE_WEIGHTS,   /* elements */
    NBI_FEATURE_MAP,       /* side of the input feature map */
    NBI_FEATURE_INDEX,     /* of the layer */
    NBI_FEATURE_COUNT
} nbi_feature;

typedef nb_status (*nbi_known_fn)(void *user, const uint8_t *policy, double score);

struct nbi_meta_settings; /* hyper/metaquantnet.h */
/* How a policy is learned by gradient. */
typedef enum nbi_learning_by { /* quant/relax.h */
    NBI_LEARN_WIDTHS,    /* autoqnn, schemes before them */
    NBI_LEARN_FRACTIONS, /* fracbits */
    NBI_LEARN_RANGES     /* dq */
} nbi_learning_by;
typedef struct nbi_learning {
    const char *method; /* names checkpoints and messages */
    nbi_learning_by by;
    double penalty; /* of fractions and ranges: what a cost beyond its target costs; 0: the default */
    int scheme_epochs, width_epochs; /* 0: schemes stay, widths stay */
    bool model_wise;                 /* one scheme for all weights, one for all activations */
    double scheme_rate, width_rate, rate;
    uint64_t seed;
    double deadline; /* nb_seconds; INFINITY: none */
} nbi_learning;

typedef struct nbi_problem {
    void *self;
    int n_vars;
    const int *n_options;       /* [n_vars] ≥ 1; options of a variable sorted by rising cost */
    double limit[NBI_COST_COUNT]; /* INFINITY: none */
    /* Exact costs of a policy; cheap, thread-safe. */
    nb_status (*cost)(nb_ctx *ctx, void *self, const uint8_t *policy, double out[NBI_COST_COUNT]);
    /* The loss to minimise, measured on the integer program over held-out images; the problem
     * caches by policy and by prefix and records the trial in the study. May use threads. */
    nb_status (*score)(nb_ctx *ctx, void *self, const uint8_t *policy, double *out);
    /* Additive model, filled by the problem when asked for by a method (may be NULL before):
     * delta[v] points to room for n_options[v] numbers, the caller's; delta[v][o] = loss of option o at variable v with every other variable at its best option,
     * minus the loss of the best policy. */
    nb_status (*sensitivity)(nb_ctx *ctx, void *self, double **delta);
    /* What follows may be NULL; a method that needs it then fails with NB_EUNSUPPORTED. Rows as in
     * sensitivity, sums over variables being what counts. */
    /* n·MSE of the tensors at each option, without running the network. */
    nb_status (*local_error)(nb_ctx *ctx, void *self, double **error);
    /* Second-order estimate of the loss: mean curvature of a tensor times its squared error. */
    nb_status (*curvature)(nb_ctx *ctx, void *self, double **omega);
    /* A policy from training the network with its choices made continuous; it comes near the limits
     * and may exceed them. */
    nb_status (*learn)(nb_ctx *ctx, void *self, const nbi_learning *how, uint8_t *policy);
    /* Options of one level differ in scheme only; rises with the width. NULL: every option is a level
     * of its own. */
    int (*level)(const void *self, int variable, int option);
    void (*features)(const void *self, int variable, double out[NBI_FEATURE_COUNT]);
    /* Calls fn for each policy that earlier runs (other data, other settings) have scored. */
    nb_status (*earlier)(nb_ctx *ctx, void *self, nbi_known_fn fn, void *user);
    const nbi_part *part; /* [n_vars]; NULL: all weights */
    /* Tells of a new best feasible policy: written to disk at once. May be NULL. */
    nb_status (*improved)(nb_ctx *ctx, void *self, const uint8_t *policy, double score);
    /* From now on scores are those of weights that a network generates for each policy; it is
     * trained, or read where it has been. NULL: the problem has no weights. */
    nb_status (*hypernetwork)(nb_ctx *ctx, void *self, const struct nbi_meta_settings *settings);
} nbi_problem;

/* true when every limit holds. */
bool nbi_feasible(const nbi_problem *problem, const double cost[NBI_COST_COUNT]);
/* The largest relative excess over a limit, 0 when all hold. */
double nbi_excess(const nbi_problem *problem, const double cost[NBI_COST_COUNT]);

typedef struct nbi_search_result {
    uint8_t *policy; /* [n_vars], caller's */
    double score;    /* INFINITY: stopped before anything was scored */
    bool feasible;   /* false: the closest policy found (smallest relative excess) */
    long evaluations;
} nbi_search_result;

typedef struct nbi_search_run {
    nbi_problem *problem;
    const double *options; /* parsed values of the method's table */
    long max_trials;       /* 0: the method's default */
    double deadline;       /* nb_seconds() to stop at; INFINITY: none */
    uint64_t seed;
    nbi_search_result *result; /* policy allocated by the caller */
} nbi_search_run;

/* One row per method, one file; searches.def. */
typedef struct nbi_search {
    const char *name, *help;
    const nbi_option *options;
    size_t n_options;
    /* Whether the options that `text` gives ("key=value,…"; NULL: none) belong together; NULL: always. */
    nb_status (*check)(nb_ctx *ctx, const char *text, const double *values);
    bool beyond; /* scores policies beyond the limits on its way to them */
    bool learns; /* choices and weights from training images, augmented as the session's are */
    /* What the method does to the problem's scores before its search (weights of a network's making):
     * a given policy is scored after it, too. The problem has `hypernetwork`. NULL: nothing. */
    nb_status (*prepare)(nb_ctx *ctx, const nbi_search_run *run);
    /* Anytime: on cancel or deadline returns NB_OK with the best so far. NB_ELIMIT when no policy
     * can meet the limits (result = the closest). */
    nb_status (*run)(nb_ctx *ctx, const nbi_search_run *run);
} nbi_search;
const nbi_search *const *nbi_searches(size_t *n);
const nbi_search *nbi_search_find(const char *name);

/* ---- exact selection: multiple-choice knapsack with several limits --------------------------- */

typedef struct nbi_select_problem {
    int n_vars;
    const int *n_options;
    const double *const *value; /* [v][o] to minimise in sum; finite */
    int n_limits;
    /* weight[l][v][o] ≥ 0: Σ_v weight ≤ limit[l]. */
    const double *const *const *weight;
    const double *limit;
} nbi_select_problem;
/* Exact branch and bound (Lagrangian bounds). *gap = 0 when proven optimal, else the relative gap
 * of the incumbent at the deadline (seconds from now; ≤ 0: none). NB_ELIMIT: no choice fits, and
 * `choice` holds the one with the least relative excess. */
nb_status nbi_select(nb_ctx *ctx, const nbi_select_problem *p, double seconds, int *choice,
                     double *value, double *gap);
typedef struct nbi_select_outcome {
    double value, gap;
    long nodes;
} nbi_select_outcome;
/* The same with a bound on nodes (0: none): the answer then depends on the problem only, not on the
 * clock. */
nb_status nbi_select_effort(nb_ctx *ctx, const nbi_select_problem *p, double seconds,
                            long max_nodes, int *choice, nbi_select_outcome *out);

#endif
