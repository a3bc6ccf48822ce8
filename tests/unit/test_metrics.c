/* Metrics by hand: areas under the ROC with ties and without numbers, scores and probabilities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/api.h"

#include <math.h>
#include <string.h>

static void test_auc(void **state) {
    (void)state;
    /* scores v1 − v0: 3, 1, 1, −2 */
    const float values[8] = {0, 3, 1, 2, 0, 1, 2, 0};
    const int label[4] = {1, 1, 0, 0};
    nbi_metrics m;
    nbi_measure(values, NULL, label, 4, 2, false, &m);
    assert_true(fabs(m.auc - 3.5 / 4) < 1e-9); /* a tie is half */
    const int equal[4] = {1, 1, 1, 1};
    nbi_measure(values, NULL, equal, 4, 2, false, &m);
    assert_true(isnan(m.auc));
    const float broken[3][2] = {{NAN, 0}, {INFINITY, INFINITY}, {-INFINITY, -INFINITY}};
    for (int i = 0; i < 3; i++) {
        float bad[8];
        memcpy(bad, values, sizeof bad);
        memcpy(bad + 2, broken[i], sizeof broken[i]);
        nbi_measure(bad, NULL, label, 4, 2, false, &m);
        assert_true(isnan(m.auc));
        assert_true(m.top1 >= 25 && m.top1 <= 100);
    }
}

static void test_softmax(void **state) {
    (void)state;
    float scores[6] = {1, 2, 3, 1e30f, 0, -1e30f}, probabilities[6];
    const int label[2] = {2, 1};
    nbi_metrics a, b;
    memcpy(probabilities, scores, sizeof scores);
    for (int i = 0; i < 2; i++) nbi_softmax(probabilities + 3 * i, 3);
    assert_true(fabs(probabilities[2] - 0.66524) < 1e-5);
    assert_true(probabilities[3] == 1 && probabilities[4] == 0 && probabilities[5] == 0);
    nbi_measure(scores, NULL, label, 1, 3, false, &a);
    nbi_measure(probabilities, NULL, label, 1, 3, true, &b);
    assert_true(fabs(a.loss - b.loss) < 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_auc), cmocka_unit_test(test_softmax)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
