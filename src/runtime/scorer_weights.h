/* Quantized weights by layer and choice, with their packed forms: made once, kept until dropped.
 * Internal to the scorer. */
#ifndef NIBBLE_RUNTIME_SCORER_WEIGHTS_H
#define NIBBLE_RUNTIME_SCORER_WEIGHTS_H

#include "quant/fit.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

#define NBI_MOST_PACKS 4

typedef struct nbi_weight_fit { /* one layer by one choice */
    struct nbi_weight_fit *next;
    nbi_choice choice;
    bool told; /* the team has it */
    nbi_coded_weights w;
    struct {
        const nbi_conv_kernel *kernel;
        void *packed;
    } pack[NBI_MOST_PACKS];
} nbi_weight_fit;

typedef struct nbi_weight_store {
    const nbi_qnet *net;
    bool per_channel;
    nbi_weight_fit **fit;  /* by layer: those that were asked for */
    nbi_weights_fn source; /* NULL: fitted to the layers' own */
    void *user;
    bool dropped;          /* since the team was told */
} nbi_weight_store;

nb_status nbi_weight_store_init(nb_ctx *ctx, nbi_weight_store *store, const nbi_qnet *net,
                                bool per_channel);
void nbi_weight_store_free(nbi_weight_store *store);
/* Forgets all fits. */
void nbi_weight_store_drop(nbi_weight_store *store);
/* The fit of a layer by asked[its weight site], made if it is not there. asked: the choices of all
 * sites, for the source. The store owns it. team: NULL, or all of it asks in step; rank 0 makes it and
 * tells the others once. */
nb_status nbi_weight_store_get(nb_ctx *ctx, nbi_weight_store *store, nbi_team *team, int layer,
                               const nbi_choice *asked, nbi_weight_fit **out);
/* A step with its packed weights: from the fit (NULL: none), unless the step has levels of its own;
 * those are packed into *own, the caller's to free. */
nb_status nbi_weight_fit_ready(nb_ctx *ctx, nbi_weight_fit *fit, const nbi_step *step,
                               nbi_ready_step *out, void **own);

#endif
