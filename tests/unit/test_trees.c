/* Boosted trees on functions that they can represent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "search/trees.h"

#include <math.h>

enum { ROWS = 200, WIDTH = 4 };

static double truth(const float *x) {
    return (x[0] < 0.5f ? 1 : 3) + (x[2] < 0.25f ? 2 : 0) * (x[0] < 0.5f ? 1 : -1);
}

static void make(float *x, double *y) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 3, 4);
    for (int i = 0; i < ROWS; i++) {
        for (int c = 0; c < WIDTH; c++) x[i * WIDTH + c] = nbi_rng_uniform(&rng);
        y[i] = truth(x + i * WIDTH);
    }
}

static void one_tree_by_hand(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    const float x[] = {0, 0, 1, 1};
    const double y[] = {0, 0, 4, 4};
    nbi_trees_options o = nbi_trees_options_default();
    nbi_trees *t;
    o.trees = 1, o.depth = 1, o.rate = 1, o.lambda = 1, o.alpha = 0, o.rows = 1, o.columns = 1;
    assert_int_equal(nbi_trees_fit(ctx, &o, x, y, 4, 1, &t), NB_OK);
    /* base 2, gradients 2 2 −2 −2, leaves −G/(H + 1) = −4/3 and 4/3 */
    assert_true(fabs(nbi_trees_predict(t, x) - (2 - 4.0 / 3)) < 1e-12);
    assert_true(fabs(nbi_trees_predict(t, x + 2) - (2 + 4.0 / 3)) < 1e-12);
    nbi_trees_free(t);
    o.gamma = 100; /* no split gains that much: two halves gain 16/3 */
    assert_int_equal(nbi_trees_fit(ctx, &o, x, y, 4, 1, &t), NB_OK);
    assert_true(nbi_trees_predict(t, x) == 2 && nbi_trees_predict(t, x + 2) == 2);
    nbi_trees_free(t);
    nb_ctx_free(ctx);
}

static void learns_interactions(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    static float x[ROWS * WIDTH];
    static double y[ROWS];
    nbi_trees_options o = nbi_trees_options_default();
    nbi_trees *t, *again;
    make(x, y);
    o.seed = 7;
    assert_int_equal(nbi_trees_fit(ctx, &o, x, y, ROWS, WIDTH, &t), NB_OK);
    assert_int_equal(nbi_trees_fit(ctx, &o, x, y, ROWS, WIDTH, &again), NB_OK);
    double worst = 0;
    for (int i = 0; i < ROWS; i++) {
        double p = nbi_trees_predict(t, x + i * WIDTH);
        worst = fmax(worst, fabs(p - y[i]));
        assert_true(p == nbi_trees_predict(again, x + i * WIDTH));
    }
    assert_true(worst < 0.2); /* values differ by 1 at least; leaves are shrunk */
    nbi_trees_free(t);
    nbi_trees_free(again);
    nb_ctx_free(ctx);
}

/* Stopped before the first tree: the mean. */
static void stops_when_told(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    const float x[] = {0, 0, 1, 1};
    const double y[] = {0, 0, 4, 4};
    nbi_trees_options o = nbi_trees_options_default();
    for (int how = 0; how < 2; how++) {
        nbi_trees *t;
        if (how == 0) o.deadline = nb_seconds(ctx);
        else nb_ctx_cancel(ctx);
        assert_int_equal(nbi_trees_fit(ctx, &o, x, y, 4, 1, &t), NB_OK);
        assert_true(nbi_trees_predict(t, x) == 2 && nbi_trees_predict(t, x + 2) == 2);
        nbi_trees_free(t);
        o.deadline = 0;
    }
    nb_ctx_free(ctx);
}

static void degenerate_tables(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    const float x[] = {1, 1, 1};
    const double y[] = {5, 6, 7};
    nbi_trees_options o = nbi_trees_options_default();
    nbi_trees *t;
    for (size_t n = 1; n <= 3; n++) { /* nothing to split by */
        assert_int_equal(nbi_trees_fit(ctx, &o, x, y, n, 1, &t), NB_OK);
        assert_true(fabs(nbi_trees_predict(t, x) - (4.5 + 0.5 * (double)n)) < 0.2);
        nbi_trees_free(t);
    }
    for (long k = 1;; k++) {
        nbi_alloc_fail_after(k);
        nb_status st = nbi_trees_fit(ctx, &o, x, y, 3, 1, &t);
        nbi_alloc_fail_after(0);
        if (st == NB_OK) break;
        assert_int_equal(st, NB_ENOMEM);
    }
    nbi_trees_free(t);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_tree_by_hand),
        cmocka_unit_test(learns_interactions),
        cmocka_unit_test(stops_when_told),
        cmocka_unit_test(degenerate_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
