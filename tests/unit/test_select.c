/* Exact selection against brute force on small instances, and its speed on large ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "unit/select_instances.h"

static void equals_brute_force(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    instance *x = malloc(sizeof *x);
    int infeasible = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        int n = 1 + (int)(seed % 5), options = 2 + (int)(seed % 4), choice[INST_VARS], c[8] = {0};
        /* from hopeless to loose */
        instance_make(x, seed % 2 ? INST_RANDOM : INST_NETWORK, seed, n, options,
                      0.1 * (double)(seed % 11) - (seed % 3 == 0 ? 0 : 0.05));
        if (seed % 7 == 0)
            for (int l = 0; l < INST_LIMITS; l++) x->limit[l] *= 0.7;
        x->p.n_limits = 1 + (int)(seed % 3);
        double best = INFINITY, closest = INFINITY, value, got, gap;
        for (bool more = true; more;) {
            double e = instance_excess(x, c, &value);
            closest = fmin(closest, e);
            if (e <= 1e-12) best = fmin(best, value);
            int v = 0;
            while (v < n && ++c[v] == options) c[v++] = 0;
            more = v < n;
        }
        nb_status st = nbi_select(ctx, &x->p, 0, choice, &got, &gap);
        double excess = instance_excess(x, choice, &value);
        assert_true(value == got);
        assert_int_equal(st, best < INFINITY ? NB_OK : NB_ELIMIT);
        assert_true(gap == 0);
        if (st == NB_OK) {
            assert_true(excess <= 1e-11);
            assert_true(fabs(got - best) <= 1e-9 * (1 + fabs(best)));
        } else {
            infeasible++;
            assert_true(excess <= closest + 1e-9);
        }
    }
    assert_in_range(infeasible, 20, 250); /* both kinds of answer were tried */
    free(x);
    nb_ctx_free(ctx);
}

static int by_size(const void *pa, const void *pb) {
    double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

#ifdef __SANITIZE_ADDRESS__
#define SLOWER 10 /* the sanitizers' cost */
#else
#define SLOWER 1
#endif

static double cpu_seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

/* Proven optimal, the same every time, and fast, in processor time: other programs do not count. */
static void large_instances_are_fast(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    instance *x = malloc(sizeof *x);
    double seconds[41];
    int choice[INST_VARS], again[INST_VARS];
    for (uint64_t seed = 0; seed < 41; seed++) {
        double value, gap, start = cpu_seconds();
        instance_make(x, INST_NETWORK, seed, INST_VARS, INST_OPTIONS, -1);
        assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_OK);
        seconds[seed] = cpu_seconds() - start;
        assert_true(gap == 0);
        if (seed > 3) continue;
        assert_int_equal(nbi_select(ctx, &x->p, 0, again, &value, &gap), NB_OK);
        assert_memory_equal(choice, again, sizeof choice);
    }
    qsort(seconds, 41, sizeof *seconds, by_size);
    print_message("60 x 40 x 3: median %.1f ms, worst %.1f ms\n", 1e3 * seconds[20],
                  1e3 * seconds[40]);
    assert_true(seconds[20] < 0.5 * SLOWER && seconds[40] < 5 * SLOWER);
    free(x);
    nb_ctx_free(ctx);
}

/* Stopped early: a feasible choice and an honest gap. */
static void stops_with_a_gap(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    instance *x = malloc(sizeof *x);
    int choice[INST_VARS], exact[INST_VARS];
    for (uint64_t seed = 0; seed < 10; seed++) {
        nbi_select_outcome a = {0}, b = {0};
        double value;
        instance_make(x, INST_NETWORK, seed, INST_VARS, INST_OPTIONS, -1);
        assert_int_equal(nbi_select_effort(ctx, &x->p, 0, 20, choice, &a), NB_OK);
        assert_int_equal(nbi_select_effort(ctx, &x->p, 0, 0, exact, &b), NB_OK);
        assert_true(instance_excess(x, choice, &value) <= 1e-11);
        assert_true(a.nodes <= 20 && b.gap == 0);
        assert_true(a.value >= b.value - 1e-9);
        assert_true(a.value * (1 - a.gap) <= b.value * (1 + 1e-9));
    }
    instance_make(x, INST_NETWORK, 0, INST_VARS, INST_OPTIONS, -1);
    nb_ctx_cancel(ctx);
    double value, gap;
    assert_int_equal(nbi_select(ctx, &x->p, 1, choice, &value, &gap), NB_OK);
    free(x);
    nb_ctx_free(ctx);
}

static void refuses_nonsense(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    instance *x = malloc(sizeof *x);
    int choice[INST_VARS];
    double value, gap;
    instance_make(x, INST_NETWORK, 1, 4, 5, 0.5);
    x->value[2][1] = NAN;
    assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_ENUMERIC);
    x->value[2][1] = 1;
    x->weight[1][0][3] = -1;
    assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_ENUMERIC);
    x->weight[1][0][3] = 1;
    x->limit[0] = NAN;
    assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_ENUMERIC);
    x->limit[0] = -5;
    assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_ELIMIT);
    for (int l = 0; l < 3; l++) x->limit[l] = INFINITY;
    assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_OK);
    x->p.n_vars = 0;
    assert_int_equal(nbi_select(ctx, &x->p, 0, choice, &value, &gap), NB_EINVAL);
    instance_make(x, INST_NETWORK, 1, 6, 5, 0.5);
    for (long k = 1;; k++) {
        nbi_alloc_fail_after(k);
        nb_status st = nbi_select(ctx, &x->p, 0, choice, &value, &gap);
        nbi_alloc_fail_after(0);
        if (st == NB_OK) break;
        assert_int_equal(st, NB_ENOMEM);
        assert_in_range(k, 1, 100);
    }
    free(x);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_brute_force),
        cmocka_unit_test(large_instances_are_fast),
        cmocka_unit_test(stops_with_a_gap),
        cmocka_unit_test(refuses_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
