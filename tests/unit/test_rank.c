/* Kendall's tau-b against values worked out by hand (and by SciPy's kendalltau). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "search/rank.h"

#include <math.h>

static void known_values(void **state) {
    (void)state;
    const double a[] = {1, 2, 3, 4, 5}, same[] = {10, 20, 30, 40, INFINITY};
    const double back[] = {5, 4, 3, 2, 1}, some[] = {1, 3, 2, 5, 4}, flat[] = {2, 2, 2, 2, 2};
    const double ties_a[] = {12, 2, 1, 12, 2}, ties_b[] = {1, 4, 7, 1, 0};
    assert_true(nbi_kendall(a, same, 5) == 1);
    assert_true(nbi_kendall(a, back, 5) == -1);
    assert_true(fabs(nbi_kendall(a, some, 5) - 0.6) < 1e-15); /* 8 of 10 pairs agree, 2 do not */
    assert_true(fabs(nbi_kendall(ties_a, ties_b, 5) - -0.47140452079103173) < 1e-15);
    assert_true(isnan(nbi_kendall(a, flat, 5)));
    assert_true(isnan(nbi_kendall(a, same, 1)) && isnan(nbi_kendall(a, same, 0)));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
