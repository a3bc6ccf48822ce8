/* One thread or all: the choice on simulated times, in virtual seconds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/pace.h"

/* The share of runs that were alone, of those in the second half of so many seconds. */
static double share_alone(double divided, double alone, double noise, double seconds) {
    nbi_pace pace = {0};
    nbi_rng rng;
    double spent = 0;
    int runs = 0, of_them = 0;
    nbi_rng_seed(&rng, 1, 0);
    while (spent < seconds) {
        const bool late = spent > seconds / 2, was = pace.alone;
        const double t = (was ? alone : divided) * (1 + noise * (nbi_rng_uniform(&rng) - 0.5));
        nbi_pace_add(&pace, t);
        spent += t;
        runs += late;
        of_them += late && was;
    }
    assert_true(runs > 0);
    return (double)of_them / runs;
}

static void test_choice(void **state) {
    (void)state;
    assert_true(share_alone(0.30e-3, 0.5e-3, 0.1, 4) < 0.05);
    assert_true(share_alone(0.40e-3, 0.5e-3, 0.1, 4) < 0.05);
    assert_true(share_alone(0.55e-3, 0.5e-3, 0.1, 4) > 0.95);
    assert_true(share_alone(20e-3, 0.5e-3, 0.1, 4) > 0.99); /* a busy machine */
    assert_true(share_alone(0.48e-3, 0.5e-3, 0.05, 4) > 0.95); /* not worth a second thread */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_choice)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
