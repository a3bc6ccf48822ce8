/* The table of schemes, and what is the same for all of them. */
#include "schemes/scheme_util.h"

#include <string.h>

#define SCHEME(row) extern const nbi_scheme row;
#include "schemes/schemes.def"
#undef SCHEME

static const nbi_scheme *const table[] = {
#define SCHEME(row) &row,
#include "schemes/schemes.def"
#undef SCHEME
};

const nbi_scheme *const *nbi_schemes(size_t *n) {
    *n = NBI_COUNT(table);
    return table;
}

const nbi_scheme *nbi_scheme_find(const char *name) {
    for (size_t i = 0; name && *name && i < NBI_COUNT(table); i++)
        if (!strcmp(table[i]->name, name) || !strcmp(table[i]->letter, name)) return table[i];
    return NULL;
}

int nbi_scheme_max_bits(const nbi_scheme *scheme, bool weights) {
    return weights || !scheme->max_bits_activations ? scheme->max_bits
                                                    : scheme->max_bits_activations;
}

int nbi_scheme_deploy_bits(const nbi_scheme *scheme, bool weights) {
    return weights ? scheme->deploy_weights : scheme->deploy_activations;
}

nb_status nbi_scheme_check(nb_ctx *ctx, const char *who, const nbi_scheme *scheme,
                           const nbi_scheme_use *use) {
    unsigned role = use->weights ? NBI_SCHEME_WEIGHTS : NBI_SCHEME_ACTIVATIONS;
    unsigned sign = use->is_unsigned ? NBI_SCHEME_UNSIGNED : NBI_SCHEME_SIGNED;
    int most = nbi_scheme_max_bits(scheme, use->weights);
    if (!(scheme->flags & role))
        return nb_fail(ctx, NB_EINVAL, "%s: scheme '%s' is not for %s", who, scheme->name,
                       use->weights ? "weights" : "activations");
    if (!(scheme->flags & sign))
        return nb_fail(ctx, NB_EINVAL, "%s: scheme '%s' has no form for %s values", who,
                       scheme->name, use->is_unsigned ? "unsigned" : "signed");
    if (use->bits < scheme->min_bits || use->bits > most)
        return nb_fail(ctx, NB_EINVAL, "%s: scheme '%s' has %d to %d bits for %s, not %d", who,
                       scheme->name, scheme->min_bits, most,
                       use->weights ? "weights" : "activations", use->bits);
    return NB_OK;
}

double nbi_scheme_default_dbits(const nbi_scheme *scheme, const nbi_scheme_use *use,
                                const float *params, const float *x, const float *g, size_t n) {
    float y[NBI_BLOCK];
    double lane[NBI_LANES] = {0};
    for (size_t i = 0; i < n; i += NBI_BLOCK) {
        size_t count = n - i < NBI_BLOCK ? n - i : NBI_BLOCK;
        scheme->forward(use, params, x + i, y, count);
        for (size_t k = 0; k < count; k++)
            lane[k % NBI_LANES] += (double)g[i + k] * ((double)x[i + k] - (double)y[k]);
    }
    return NBI_LN2 * nbi_lane_sum(lane);
}
