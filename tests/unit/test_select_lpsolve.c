/* Exact selection against lp_solve's mixed-integer solver on instances brute force cannot do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <lpsolve/lp_lib.h>

#include "unit/select_instances.h"

/* Least value by lp_solve, INFINITY: infeasible. */
static double by_lp_solve(const instance *x, int options) {
    int n = x->p.n_vars, columns = n * options;
    lprec *lp = make_lp(0, columns);
    assert_non_null(lp);
    set_verbose(lp, 0);
    double *row = calloc((size_t)columns + 1, sizeof *row);
    for (int i = 0; i < columns; i++) {
        set_binary(lp, i + 1, 1);
        row[i + 1] = x->value[i / options][i % options];
    }
    set_obj_fn(lp, row);
    for (int l = 0; l < x->p.n_limits; l++) {
        for (int i = 0; i < columns; i++) row[i + 1] = x->weight[l][i / options][i % options];
        add_constraint(lp, row, LE, x->limit[l]);
    }
    for (int v = 0; v < n; v++) {
        for (int i = 0; i < columns; i++) row[i + 1] = i / options == v;
        add_constraint(lp, row, EQ, 1);
    }
    set_mip_gap(lp, 1, 1e-11);
    set_mip_gap(lp, 0, 1e-11);
    set_timeout(lp, 20);
    int st = solve(lp);
    double value = st == OPTIMAL ? get_objective(lp) : INFINITY;
    assert_true(st == OPTIMAL || st == INFEASIBLE);
    free(row);
    delete_lp(lp);
    return value;
}

static void equals_lp_solve(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    instance *x = malloc(sizeof *x);
    for (uint64_t seed = 0; seed < 40; seed++) {
        int n = 6 + (int)(seed % 9), options = 4 + (int)(seed % 5), choice[INST_VARS];
        double value, gap;
        instance_make(x, seed % 2 ? INST_RANDOM : INST_NETWORK, 1000 + seed, n, options,
                      0.15 + 0.1 * (double)(seed % 6));
        x->p.n_limits = 1 + (int)(seed % 3);
        double want = by_lp_solve(x, options);
        nb_status st = nbi_select(ctx, &x->p, 0, choice, &value, &gap);
        assert_int_equal(st, want < INFINITY ? NB_OK : NB_ELIMIT);
        /* lp_solve's own tolerances are about 1e-9 of a row */
        if (st == NB_OK) assert_true(fabs(value - want) <= 1e-6 * (1 + fabs(want)));
    }
    free(x);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(equals_lp_solve)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
