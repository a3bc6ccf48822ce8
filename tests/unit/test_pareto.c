/* The Pareto archive against a quadratic filter, in shuffled orders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "search/pareto.h"

enum { POINTS = 300 };

static void keeps_the_front_in_any_order(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    for (int costs = 0; costs <= NBI_PARETO_COSTS; costs++) {
        double score[POINTS], cost[POINTS][NBI_PARETO_COSTS];
        uint32_t order[POINTS];
        nbi_rng r;
        nbi_rng_seed(&r, 4, (uint64_t)costs);
        for (int i = 0; i < POINTS; i++) { /* small numbers: many ties */
            score[i] = nbi_rng_below(&r, 12);
            for (int c = 0; c < NBI_PARETO_COSTS; c++) cost[i][c] = nbi_rng_below(&r, 12);
            order[i] = (uint32_t)i;
        }
        nbi_pareto sets[2];
        for (int k = 0; k < 2; k++) {
            assert_int_equal(nbi_pareto_init(ctx, &sets[k], 2, costs), NB_OK);
            for (int i = 0; i < POINTS; i++) {
                uint8_t policy[2] = {(uint8_t)(order[i] & 255), (uint8_t)(order[i] >> 8)};
                assert_int_equal(nbi_pareto_add(ctx, &sets[k], policy, score[order[i]],
                                                cost[order[i]], NULL), NB_OK);
            }
            nbi_rng_shuffle(&r, order, POINTS);
        }
        assert_int_equal(sets[0].count, sets[1].count);
        size_t front = 0;
        for (int i = 0; i < POINTS; i++) {
            bool beaten = false;
            for (int j = 0; j < POINTS && !beaten; j++) {
                bool le = score[j] <= score[i], same = score[j] == score[i];
                for (int c = 0; c < costs; c++) {
                    le = le && cost[j][c] <= cost[i][c];
                    same = same && cost[j][c] == cost[i][c];
                }
                uint8_t a[2] = {(uint8_t)(i & 255), (uint8_t)(i >> 8)};
                uint8_t b[2] = {(uint8_t)(j & 255), (uint8_t)(j >> 8)};
                beaten = le && (!same || memcmp(b, a, 2) < 0);
            }
            front += !beaten;
        }
        assert_int_equal(sets[0].count, front);
        for (size_t i = 0; i < sets[0].count; i++) {
            assert_memory_equal(sets[0].points[i].policy, sets[1].points[i].policy, 2);
            assert_true(sets[0].points[i].score == sets[1].points[i].score);
        }
        nbi_pareto_free(&sets[0]);
        nbi_pareto_free(&sets[1]);
    }
    nb_ctx_free(ctx);
}

static void refuses_nonsense(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_pareto p;
    uint8_t policy = 0;
    double cost = NAN;
    assert_int_equal(nbi_pareto_init(ctx, &p, 1, 4), NB_EINVAL);
    assert_int_equal(nbi_pareto_init(ctx, &p, 1, 1), NB_OK);
    assert_int_equal(nbi_pareto_add(ctx, &p, &policy, 1, &cost, NULL), NB_ENUMERIC);
    cost = 1;
    assert_int_equal(nbi_pareto_add(ctx, &p, &policy, NAN, &cost, NULL), NB_ENUMERIC);
    assert_int_equal(p.count, 0);
    for (long k = 1; k <= 2; k++) {
        nbi_alloc_fail_after(k);
        assert_int_equal(nbi_pareto_add(ctx, &p, &policy, 1, &cost, NULL), NB_ENOMEM);
        assert_int_equal(p.count, 0);
    }
    nbi_alloc_fail_after(0);
    nbi_pareto_free(&p);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_the_front_in_any_order),
        cmocka_unit_test(refuses_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
