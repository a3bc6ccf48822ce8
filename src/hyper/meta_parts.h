/* What the files of MetaQuantNet share. */
#ifndef NIBBLE_HYPER_META_PARTS_H
#define NIBBLE_HYPER_META_PARTS_H

#include "hyper/metaquantnet.h"

#define NBI_META_EPSILON 1e-5 /* of BatchNormalization in quant/qat.h */

/* meta_build.c: the training graph with a generator in front of its weights. */
nb_status nbi_meta_build(nb_ctx *ctx, nbi_meta *meta, const nbi_graph *source, int edge);
/* A copy of the training graph that ends at what is generated; constants are those of the original. */
nb_status nbi_meta_generator(nb_ctx *ctx, const nbi_meta *meta, nbi_graph **out);
/* meta_store.c */
void nbi_meta_store_free(nbi_meta *meta);

/* Widths of a row. */
static inline int nbi_meta_widths(const nbi_meta *m, int row) {
    return row < m->n_weights ? m->o.n_weight_bits : m->o.n_activation_bits;
}
static inline int nbi_meta_bits(const nbi_meta *m, int row, int column) {
    return row < m->n_weights ? m->o.weight_bits[column] : m->o.activation_bits[column];
}

#endif
