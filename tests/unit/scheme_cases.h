/* Every scheme in every use that it declares, and made-up tensors for them. */
#ifndef NIBBLE_TESTS_SCHEME_CASES_H
#define NIBBLE_TESTS_SCHEME_CASES_H

#include "schemes/schemes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef void (*scheme_case)(const nbi_scheme *scheme, const nbi_scheme_use *use);

static inline void for_all_uses(scheme_case fn) {
    size_t n;
    const nbi_scheme *const *s = nbi_schemes(&n);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 4; k++)
            for (int bits = 1; bits <= 8; bits++) {
                nbi_scheme_use use = {.bits = bits, .weights = k & 1, .is_unsigned = k & 2};
                if (nbi_scheme_check(NULL, "test", s[i], &use) == NB_OK) fn(s[i], &use);
            }
}

static inline void fill_normal(float *x, size_t n, uint64_t seed, const nbi_scheme_use *use) {
    nbi_rng rng;
    nbi_rng_seed(&rng, seed, 5);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)nbi_rng_normal(&rng);
        if (use && use->is_unsigned && x[i] < 0) x[i] = 0;
    }
}

static inline double mse_of(const nbi_scheme *s, const nbi_scheme_use *use, const float *params,
                            const float *x, float *y, size_t n) {
    double sum = 0;
    s->forward(use, params, x, y, n);
    for (size_t i = 0; i < n; i++) {
        double e = (double)x[i] - (double)y[i];
        sum += e * e;
    }
    return sum / (double)n;
}

#define CASE(s, u) (s)->name, (u)->bits, (u)->weights ? "weights" : "activations", \
                   (u)->is_unsigned ? "unsigned" : "signed"
#define CASE_FORMAT "%s %d bits, %s, %s: "

#endif
