/* Traces of quadratic forms whose Hessian is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "quant/hutchinson.h"

#include <math.h>
#include <string.h>

enum { A = 7, B = 5, N = A + B };

typedef struct form { /* loss x'Hx/2 */
    float x[N], g[N];
    double h[N][N];
} form;

static nb_status gradient(nb_ctx *ctx, void *user, long probe, const float **out) {
    form *f = user;
    (void)ctx;
    (void)probe;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int k = 0; k < N; k++) sum += f->h[i][k] * (double)f->x[k];
        f->g[i] = (float)sum;
    }
    out[0] = f->g;
    out[1] = f->g + A;
    return NB_OK;
}

static void make(form *f, double coupling) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 5, 6);
    for (int i = 0; i < N; i++) {
        f->x[i] = nbi_rng_uniform(&rng) - 0.5f;
        for (int k = 0; k <= i; k++) {
            double off = coupling * (2 * (double)nbi_rng_uniform(&rng) - 1);
            f->h[i][k] = f->h[k][i] = i == k ? 1 + i : off;
        }
    }
}

static void run(form *f, nbi_hutchinson_block block[2], long *probes) {
    nb_ctx *ctx = nb_ctx_new();
    form before = *f;
    block[0] = (nbi_hutchinson_block){.value = f->x, .count = A, .size = 0.3};
    block[1] = (nbi_hutchinson_block){.value = f->x + A, .count = B, .size = 20};
    nbi_hutchinson s = {.n = 2,
                        .block = block,
                        .gradient = gradient,
                        .user = f,
                        .step = 0.25,
                        .least = 50,
                        .most = 200,
                        .tolerance = 0.01,
                        .deadline = INFINITY,
                        .seed = 1};
    assert_int_equal(nbi_hutchinson_run(ctx, &s, probes), NB_OK);
    assert_memory_equal(f->x, before.x, sizeof f->x);
    nb_ctx_free(ctx);
}

static void diagonal_is_exact(void **state) {
    (void)state;
    form f = {0};
    nbi_hutchinson_block block[2];
    long probes;
    make(&f, 0);
    run(&f, block, &probes);
    assert_int_equal(probes, 50);
    /* float32 gradients: 24 bits, blocks of numbers of one size */
    assert_true(fabs(block[0].trace - 28) < 1e-4 && fabs(block[1].trace - 50) < 1e-4);
    assert_true(block[0].error < 1e-4 && block[1].error < 1e-4);
}

static void dense_is_within_its_error(void **state) {
    (void)state;
    form f = {0};
    nbi_hutchinson_block block[2];
    long probes;
    make(&f, 0.3);
    for (int i = 0; i < A; i++) /* blocks of very different sizes are kept apart here */
        for (int k = A; k < N; k++) f.h[i][k] = f.h[k][i] = 0;
    run(&f, block, &probes);
    assert_in_range(probes, 50, 200);
    assert_true(block[0].error > 0 && block[1].error > 0);
    assert_true(fabs(block[0].trace - 28) < 4 * block[0].error);
    assert_true(fabs(block[1].trace - 50) < 4 * block[1].error);
}

static nb_status broken(nb_ctx *ctx, void *user, long probe, const float **out) {
    nb_status st = gradient(ctx, user, probe, out);
    ((form *)user)->g[3] = NAN;
    return st;
}

static void stops_cleanly(void **state) {
    (void)state;
    form f = {0};
    make(&f, 0.3);
    form before = f;
    nb_ctx *ctx = nb_ctx_new();
    nbi_hutchinson_block block[2] = {{.value = f.x, .count = A, .size = 1},
                                     {.value = f.x + A, .count = B, .size = 1}};
    nbi_hutchinson s = {.n = 2,
                        .block = block,
                        .gradient = gradient,
                        .user = &f,
                        .step = 0.25,
                        .least = 50,
                        .most = 200,
                        .tolerance = 0,
                        .deadline = -1,
                        .seed = 1};
    long probes = 0;
    assert_int_equal(nbi_hutchinson_run(ctx, &s, &probes), NB_OK);
    assert_int_equal(probes, 1); /* out of time: still an estimate */
    assert_true(isinf(block[0].error));
    s.gradient = broken;
    assert_int_equal(nbi_hutchinson_run(ctx, &s, &probes), NB_ENUMERIC);
    assert_memory_equal(f.x, before.x, sizeof f.x);
    s.gradient = gradient;
    nb_ctx_cancel(ctx);
    assert_int_equal(nbi_hutchinson_run(ctx, &s, &probes), NB_ECANCELLED);
    assert_memory_equal(f.x, before.x, sizeof f.x);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(diagonal_is_exact),
        cmocka_unit_test(dense_is_within_its_error),
        cmocka_unit_test(stops_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
