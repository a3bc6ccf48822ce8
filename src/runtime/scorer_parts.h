/* The scorer's state, and what its files do for each other. Internal to the scorer. */
#ifndef NIBBLE_RUNTIME_SCORER_PARTS_H
#define NIBBLE_RUNTIME_SCORER_PARTS_H

#include "base/team.h"
#include "runtime/run.h"
#include "runtime/scorer.h"
#include "runtime/scorer_cache.h"
#include "runtime/scorer_images.h"
#include "runtime/scorer_weights.h"

#define NBI_SUMS_BYTES ((size_t)64 << 20) /* of sums kept between statistics and finish, at first */

/* The images that this process computes: a part of those that give statistics, then a part of the
 * others. Buffers hold them in this order. */
typedef struct nbi_image_share {
    size_t first[2], n[2]; /* of both kinds; places among all images */
    size_t images;         /* n[0] + n[1] */
    size_t most;           /* the same of the process that has most: what caches are accounted by */
} nbi_image_share;

struct nbi_order;

struct nbi_scorer {
    const nbi_qnet *net;
    nbi_scorer_options options;
    nbi_team *team;       /* NULL: none */
    nbi_team *with;       /* this run is spread over it; NULL: alone */
    nbi_image_share share; /* of this run */
    struct nbi_order *order; /* as given last; room for one where there is a team */
    bool stale;           /* caches of the team may differ: they start anew with the next order */
    nbi_qnet *told;       /* `net`, whose numbers the team is told */
    bool fresh;           /* the team has not got its numbers */
    nbi_prefix_cache cache;
    nbi_weight_store weights;
    nbi_qparam *site;     /* of the policy being run */
    bool whole_policy;
    nbi_choice *asked;    /* by site: the policy being run */
    uint64_t *key;        /* by edge */
    uint64_t *wanted;     /* by edge: the keys that may stay in the cache, while has_wanted */
    bool has_wanted;
    int *alias;           /* by edge: the edge that holds its values */
    nbi_cached **buffer;  /* by edge, pinned while needed */
    bool *needed;         /* by edge */
    int *readers;         /* by edge: layers still to run */
    nbi_ptensor *tensor;  /* by edge */
    char **scratch;       /* by worker */
    size_t scratch_bytes;
    int workers;
    double computed, saved; /* by all processes */
    nbi_arena arena;      /* of the candidate */
    nbi_frozen *freeze;   /* filled when freezing */
    double *moments;      /* [statistics images][2][channels of a layer]: Σ, Σ² */
    nbi_kept_sums sums;   /* of the statistics images, one layer at a time */
    nbi_rounding_fn rounding; /* NULL: as fitted */
    void *rounding_user;
    bool pure;                /* what it says depends on a layer's inputs and choice alone */
    const nbi_qparam *grid;   /* NULL: the fits */
};

/* ---- scorer.c -------------------------------------------------------------------------------- */

nb_status nbi_scorer_scratch(nb_ctx *ctx, nbi_scorer *s, size_t bytes); /* of every worker, at least */
/* Where the step's inputs are. */
void nbi_scorer_inputs(nbi_scorer *s, const nbi_step *step, nbi_images_job *job);

/* ---- scorer_conv.c --------------------------------------------------------------------------- */

/* A convolution as the policy has it, in the candidate's arena: weights, rounding, correction. */
nb_status nbi_scorer_conv(nb_ctx *ctx, nbi_scorer *s, int layer, const nbi_choice *policy,
                          nbi_weight_fit **fit, nbi_frozen_conv *conv);

/* ---- scorer_team.c --------------------------------------------------------------------------- */

typedef enum nbi_order_kind {
    NBI_ORDER_END,
    NBI_ORDER_RUN,    /* nbi_scorer_run */
    NBI_ORDER_FREEZE, /* nbi_scorer_freeze */
    NBI_ORDER_NEAR    /* nbi_scorer_stay_near */
} nbi_order_kind;
/* First in each of these: decides who takes part (s->with, s->share), and lets a team follow. */
nb_status nbi_scorer_order(nb_ctx *ctx, nbi_scorer *s, nbi_order_kind what, const nbi_choice *bits,
                           int edge);

#endif
