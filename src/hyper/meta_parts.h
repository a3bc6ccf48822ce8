/* What the files of MetaQuantNet share. */
#ifndef NIBBLE_HYPER_META_PARTS_H
#define NIBBLE_HYPER_META_PARTS_H

#include "hyper/metaquantnet.h"
#include "ir/scheme.h"

#define NBI_META_EPSILON 1e-5 /* of BatchNormalization in quant/qat.h */

/* meta_build.c: the training graph with a generator in front of its weights. */
nb_status nbi_meta_build(nb_ctx *ctx, nbi_meta *meta, const nbi_graph *source, int edge);
/* A copy of the training graph that ends at what is generated; constants are those of the original. */
nb_status nbi_meta_generator(nb_ctx *ctx, const nbi_meta *meta, nbi_graph **out);
/* meta_store.c */
void nbi_meta_store_free(nbi_meta *meta);

/* meta_quantizer.c: reads what the policy selects. `x` (−1: as it is): what the site's quantizers read
 * from now on. */
typedef struct nbi_meta_builder {
    nb_ctx *ctx;
    nbi_meta *m;
    nbi_graph *g;
    nbi_rng rng;
    int codes;   /* [n_weights, numbers]: what the generator sees of every free weight */
    int one;     /* [1, numbers]: what stands for a missing neighbour */
    int numbers; /* of a layer in the context */
    int n_nodes; /* of the graph without generator */
} nbi_meta_builder;
nb_status nbi_meta_select(nbi_meta_builder *b, int row, const char *name, int groups, int *policy,
                          int *which);
nb_status nbi_meta_redirect(nbi_meta_builder *b, int row, int step, int x, int policy, int which);
/* Starts from the least squared error of every choice. */
nb_status nbi_meta_fit_weights(nbi_meta_builder *b, int row, int groups);
nb_status nbi_meta_fit_activations(nbi_meta_builder *b, int row);

/* meta_build.c: nodes. */
nb_status nbi_meta_node(nbi_meta_builder *b, const char *type, int n_in, const int *in, int *out,
                        nbi_node **made);
nb_status nbi_meta_finish(nbi_meta_builder *b, nbi_node *made);
nb_status nbi_meta_simple(nbi_meta_builder *b, const char *type, int x, int y, int *out);
nb_status nbi_meta_constant(nbi_meta_builder *b, const char *base, const char *what, int64_t rows,
                            int64_t columns, int *out);
nb_status nbi_meta_slice(nbi_meta_builder *b, int x, int64_t first, int64_t last, int64_t columns,
                         int *out);
nb_status nbi_meta_reshape(nbi_meta_builder *b, int x, int rank, const int64_t *dim, int *out);
void nbi_meta_trains(nbi_meta_builder *b, int tensor, float lr, bool decays);
static inline float *nbi_meta_values(const nbi_meta *m, int tensor) {
    return m->qat->graph->tensor[tensor]->data;
}

/* How many params of a choice are learned: the first ones. */
int nbi_meta_learned(nbi_choice choice, const nbi_scheme_use *use);

#endif
