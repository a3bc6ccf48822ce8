/* The table of quantizing schemes. The room knows tensors and statistics, no operators; FakeQuant
 * and everything further right finds a scheme here. */
#ifndef NIBBLE_SCHEMES_H
#define NIBBLE_SCHEMES_H

#include "ir/scheme.h"

/* In the order of schemes.def; *n rows. */
const nbi_scheme *const *nbi_schemes(size_t *n);
/* By name ("ternary") or letter ("T"); NULL if there is none. */
const nbi_scheme *nbi_scheme_find(const char *name);
/* Widest width that trains, and that deploys (0: none), for weights or activations. */
int nbi_scheme_max_bits(const nbi_scheme *scheme, bool weights);
int nbi_scheme_deploy_bits(const nbi_scheme *scheme, bool weights);
/* NB_EINVAL when the scheme has no such form or width; `who` names the tensor or node. */
nb_status nbi_scheme_check(nb_ctx *ctx, const char *who, const nbi_scheme *scheme,
                           const nbi_scheme_use *use);
/* Σ g·ln2·(x − x̂): the default gradient of the width (docs/schemes.md). */
double nbi_scheme_default_dbits(const nbi_scheme *scheme, const nbi_scheme_use *use,
                                const float *params, const float *x, const float *g, size_t n);

#endif
