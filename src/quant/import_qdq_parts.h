/* Pieces that the files of the QDQ import share. */
#ifndef NIBBLE_QUANT_IMPORT_QDQ_PARTS_H
#define NIBBLE_QUANT_IMPORT_QDQ_PARTS_H

#include "ir/qnet.h"

/* Where a constant came from: scale·(codes − zero), scales along `axis` (−1: one). */
typedef struct nbi_qdq_const_entry {
    const nbi_tensor *codes; /* NULL: not from DequantizeLinear */
    const nbi_tensor *scale, *zero; /* zero: NULL = 0 */
    int axis;
    const char *name; /* of the initializer in the file */
} nbi_qdq_const_entry;

typedef struct nbi_qdq_import {
    nb_ctx *ctx;
    const nbi_graph *source;
    nbi_qdq_const_entry *entry; /* by tensor */
    nbi_qnet *net;
    nbi_frozen *frozen;
    const char *policy, *logits; /* metadata or NULL */
} nbi_qdq_import;

/* The value of `key` in a flat JSON object of numbers; false if it is not there. */
bool nbi_flat_json_number(const char *json, const char *key, double *out);
/* The width that the model's policy gives `name`; 0: none, or not 1 to `most`. */
int nbi_qdq_policy_bits(const nbi_qdq_import *im, const char *name, int most);

/* Every DequantizeLinear of constants in `graph` becomes a constant, and an entry. */
nb_status nbi_qdq_fold_weights(nbi_qdq_import *im, nbi_graph *graph);
/* Gives every edge a grid and a site; adds requantizations where moves change the grid. */
nb_status nbi_qdq_make_sites(nbi_qdq_import *im);
/* frozen->conv and the weight sites. */
nb_status nbi_qdq_freeze_weights(nbi_qdq_import *im);
/* The bias sites, once all grids are known: the width that the model's policy gives where the file's
 * int32 biases are what that width holds, else 32. */
nb_status nbi_qdq_freeze_biases(nbi_qdq_import *im);
/* Grids of int32 outputs, once the weights are there. */
nb_status nbi_qdq_set_logits(nbi_qdq_import *im);

#endif
