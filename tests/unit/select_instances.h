/* Seeded instances of the selection problem. */
#ifndef TESTS_SELECT_INSTANCES_H
#define TESTS_SELECT_INSTANCES_H

#include "search/search.h"

#include <math.h>
#include <string.h>

enum { INST_VARS = 60, INST_OPTIONS = 40, INST_LIMITS = 3 };
/* Options are pairs of a weight width 1..8 and an activation width 4..8; bytes, activation bytes
 * and bit operations rise with them, the loss falls (so values and weights are correlated), with
 * 30 % noise, over groups whose sizes spread log-normally, as layers do. RANDOM: whole numbers
 * without structure, with equal options among them. */
typedef enum instance_kind { INST_NETWORK, INST_RANDOM } instance_kind;

typedef struct instance {
    nbi_select_problem p;
    int n_options[INST_VARS];
    double value[INST_VARS][INST_OPTIONS], weight[INST_LIMITS][INST_VARS][INST_OPTIONS];
    double limit[INST_LIMITS];
    const double *values[INST_VARS], *rows[INST_LIMITS][INST_VARS];
    const double *const *weights[INST_LIMITS];
} instance;

static inline void instance_option(instance *x, nbi_rng *r, instance_kind kind, int v, int o,
                                   const double scale[5]) {
    int bw = o % 8 + 1, ba = o / 8 % 5 + 4;
    if (kind == INST_RANDOM) {
        x->value[v][o] = nbi_rng_below(r, 50);
        for (int l = 0; l < INST_LIMITS; l++) x->weight[l][v][o] = nbi_rng_below(r, 30);
        return;
    }
    x->weight[0][v][o] = ceil(scale[0] * bw / 8) + 8;
    x->weight[1][v][o] = ceil(scale[1] * ba / 8);
    x->weight[2][v][o] = scale[2] * bw * ba / 64;
    x->value[v][o] = (scale[3] * pow(2, -1.2 * bw) + 0.3 * scale[4] * pow(2, 2.0 - ba)) *
                     (1 + 0.3 * (double)nbi_rng_uniform(r));
}

/* `room` places each limit between the least and the largest sum; random in 0.3..0.7 when < 0. */
static inline void instance_make(instance *x, instance_kind kind, uint64_t seed, int n, int options,
                                 double room) {
    nbi_rng r;
    double low[INST_LIMITS] = {0}, high[INST_LIMITS] = {0};
    memset(x, 0, sizeof *x);
    nbi_rng_seed(&r, seed, (uint64_t)kind);
    for (int v = 0; v < n; v++) {
        double size = floor(exp(6 + 1.5 * nbi_rng_normal(&r)));
        double act = floor(exp(6 + nbi_rng_normal(&r)));
        double scale[5] = {size, act, size * act / 50, exp(nbi_rng_normal(&r)),
                           exp(nbi_rng_normal(&r))};
        x->n_options[v] = options;
        x->values[v] = x->value[v];
        for (int o = 0; o < options; o++) instance_option(x, &r, kind, v, o, scale);
        for (int l = 0; l < INST_LIMITS; l++) {
            double a = INFINITY, b = 0;
            for (int o = 0; o < options; o++) {
                a = fmin(a, x->weight[l][v][o]);
                b = fmax(b, x->weight[l][v][o]);
            }
            low[l] += a;
            high[l] += b;
            x->rows[l][v] = x->weight[l][v];
        }
    }
    for (int l = 0; l < INST_LIMITS; l++) {
        double at = room >= 0 ? room : 0.3 + 0.4 * (double)nbi_rng_uniform(&r);
        x->limit[l] = low[l] + at * (high[l] - low[l]);
        x->weights[l] = x->rows[l];
    }
    x->p = (nbi_select_problem){n, x->n_options, x->values, INST_LIMITS, x->weights, x->limit};
}

static inline double instance_excess(const instance *x, const int *choice, double *value) {
    double most = 0;
    *value = 0;
    for (int v = 0; v < x->p.n_vars; v++) *value += x->value[v][choice[v]];
    for (int l = 0; l < x->p.n_limits; l++) {
        double sum = 0, scale = x->limit[l] > 0 ? x->limit[l] : 1;
        for (int v = 0; v < x->p.n_vars; v++) sum += x->weight[l][v][choice[v]];
        most = fmax(most, (sum - x->limit[l]) / scale);
    }
    return most;
}

#endif
