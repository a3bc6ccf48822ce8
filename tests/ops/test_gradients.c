/* backward() of every operator against central differences: each input that has a gradient, alone
 * and together, in place, and in other layouts; without the values that the row does not keep. An
 * operator with backward but without a case fails. */
#include <stdio.h>

#include "gradient_check.h"

#define DIMS(...)                                                                                  \
    (int64_t[]) {                                                                                  \
        __VA_ARGS__                                                                                \
    }

static void test_conv(void **state) {
    (void)state;
    gc_begin("", "Conv", 13); /* plain, with bias */
    gc_float(4, DIMS(2, 3, 5, 4), -1, 1);
    gc_float(4, DIMS(4, 3, 3, 3), -1, 1);
    gc_float(1, DIMS(4), -1, 1);
    gc_node();
    gc_attr_ints("pads", 4, DIMS(1, 1, 1, 1));
    gc_check();
    gc_begin("", "Conv", 13); /* groups, strides, dilations, uneven pads */
    gc_float(4, DIMS(2, 4, 7, 6), -1, 1);
    gc_float(4, DIMS(6, 2, 3, 2), -1, 1);
    gc_node();
    gc_attr_int("group", 2);
    gc_attr_ints("pads", 4, DIMS(1, 0, 2, 1));
    gc_attr_ints("strides", 2, DIMS(2, 3));
    gc_attr_ints("dilations", 2, DIMS(1, 2));
    gc_check();
    gc_begin("", "Conv", 13); /* depthwise, a stride that leaves inputs out */
    gc_float(4, DIMS(1, 3, 6, 6), -1, 1);
    gc_float(4, DIMS(3, 1, 1, 1), -1, 1);
    gc_float(1, DIMS(3), -1, 1);
    gc_node();
    gc_attr_int("group", 3);
    gc_attr_ints("strides", 2, DIMS(2, 2));
    gc_check();
    gc_begin("", "Conv", 13);
    gc_float(3, DIMS(2, 2, 9), -1, 1);
    gc_float(3, DIMS(3, 2, 3), -1, 1);
    gc_float(1, DIMS(3), -1, 1);
    gc_node();
    gc_attr_ints("pads", 2, DIMS(2, 1));
    gc_check();
    gc_begin("", "Conv", 13);
    gc_float(5, DIMS(1, 2, 3, 4, 3), -1, 1);
    gc_float(5, DIMS(2, 2, 2, 3, 2), -1, 1);
    gc_node();
    gc_attr_ints("pads", 6, DIMS(1, 1, 0, 0, 1, 1));
    gc_attr_ints("strides", 3, DIMS(1, 2, 1));
    gc_check();
}

static void test_gemm(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        gc_begin("", "Gemm", 13);
        gc_float(2, i & 1 ? DIMS(4, 3) : DIMS(3, 4), -1, 1);
        gc_float(2, i & 2 ? DIMS(5, 4) : DIMS(4, 5), -1, 1);
        if (i == 0) gc_float(1, DIMS(5), -1, 1);
        if (i == 1) gc_float(2, DIMS(3, 1), -1, 1);
        if (i == 2) gc_float(0, NULL, -1, 1);
        gc_node();
        gc_attr_int("transA", i & 1);
        gc_attr_int("transB", i >> 1);
        gc_attr_float("alpha", 1.5);
        gc_attr_float("beta", i ? 0.5 : 1);
        gc_check();
    }
}

static void batchnorm(int rank, const int64_t *dim, bool training) {
    gc_begin("", "BatchNormalization", 15);
    if (training) gc.n_out = 5;
    gc_float(rank, dim, -1, 2);
    gc_float(1, dim + 1, 0.5, 1.5);
    gc_float(1, dim + 1, -1, 1);
    gc_float(1, dim + 1, -1, 1);
    gc_float(1, dim + 1, 0.5, 2);
    gc_node();
    gc_attr_int("training_mode", training);
    gc_check();
}

static void test_batchnorm(void **state) {
    (void)state;
    for (int training = 0; training < 2; training++) {
        batchnorm(4, DIMS(3, 4, 3, 2), training);
        batchnorm(3, DIMS(2, 3, 5), training);
        batchnorm(2, DIMS(6, 3), training);
    }
}

static void test_relu(void **state) {
    (void)state;
    gc_begin("", "Relu", 13);
    gc_float(4, DIMS(2, 3, 4, 3), -1, 1);
    gc_node();
    gc_check();
}

static void test_pools(void **state) {
    static const char *const name[] = {"MaxPool", "AveragePool"};
    (void)state;
    for (int i = 0; i < 2; i++)
        for (int form = 0; form < 4; form++) {
            gc_begin("", name[i], 19);
            if (form == 2)
                gc_float(3, DIMS(2, 2, 9), -1, 1);
            else if (form == 3)
                gc_float(5, DIMS(1, 2, 4, 3, 4), -1, 1);
            else
                gc_float(4, DIMS(2, 3, 6, 5), -1, 1);
            gc_node();
            if (form == 0) {
                gc_attr_ints("kernel_shape", 2, DIMS(2, 2));
                gc_attr_ints("strides", 2, DIMS(2, 2));
            } else if (form == 1) { /* overlapping, padded, past the end */
                gc_attr_ints("kernel_shape", 2, DIMS(3, 2));
                gc_attr_ints("strides", 2, DIMS(2, 2));
                gc_attr_ints("pads", 4, DIMS(1, 1, 1, 0));
                gc_attr_int("ceil_mode", 1);
                if (i == 1) gc_attr_int("count_include_pad", 1);
            } else if (form == 2) {
                gc_attr_ints("kernel_shape", 1, DIMS(3));
                gc_attr_ints("dilations", 1, DIMS(2));
                gc_attr_ints("pads", 2, DIMS(1, 2));
            } else {
                gc_attr_ints("kernel_shape", 3, DIMS(2, 3, 2));
                gc_attr_ints("pads", 6, DIMS(1, 0, 0, 0, 1, 1));
            }
            gc_check();
        }
    static const char *const global[] = {"GlobalMaxPool", "GlobalAveragePool"};
    for (int i = 0; i < 2; i++) {
        gc_begin("", global[i], 13);
        gc_float(4, DIMS(2, 3, 5, 4), -1, 1);
        gc_node();
        gc_check();
        gc_begin("", global[i], 13);
        gc_float(3, DIMS(2, 3, 5), -1, 1);
        gc_node();
        gc_check();
    }
}

static void test_views(void **state) {
    (void)state;
    gc_begin("", "Flatten", 13);
    gc_float(4, DIMS(2, 3, 2, 2), -1, 1);
    gc_node();
    gc_check();
    gc_begin("", "Reshape", 13);
    gc_float(3, DIMS(2, 3, 4), -1, 1);
    gc_ints(2, DIMS(4, -1));
    gc_node();
    gc_check();
    gc_begin("", "Squeeze", 13);
    gc_float(4, DIMS(2, 1, 3, 1), -1, 1);
    gc_ints(1, DIMS(1));
    gc_node();
    gc_check();
    gc_begin("", "Unsqueeze", 13);
    gc_float(2, DIMS(2, 3), -1, 1);
    gc_ints(2, DIMS(0, 2));
    gc_node();
    gc_check();
    gc_begin("", "Identity", 13);
    gc_float(2, DIMS(2, 3), -1, 1);
    gc_node();
    gc_check();
    gc_begin("", "Dropout", 13);
    gc_float(2, DIMS(2, 3), -1, 1);
    gc_node();
    gc_check();
}

static void test_losses(void **state) {
    (void)state;
    gc_begin("org.nibble", "CrossEntropy", 13); /* targets need not be normalised */
    gc_float(2, DIMS(3, 5), -3, 3);
    gc_float(2, DIMS(3, 5), 0, 1);
    gc_node();
    gc_check();
    for (int i = 0; i < 2; i++) {
        gc_begin("org.nibble", "KlDivergence", 13);
        gc_float(2, DIMS(3, 4), -3, 3);
        gc_float(2, DIMS(3, 4), -2, 2);
        gc_node();
        if (i) gc_attr_float("temperature", 4);
        gc_check();
    }
    gc_begin("org.nibble", "MeanSquaredError", 13);
    gc_float(4, DIMS(2, 3, 2, 2), -1, 1);
    gc_float(4, DIMS(2, 3, 2, 2), -1, 1);
    gc_node();
    gc_check();
    gc_begin("org.nibble", "SumSquares", 13);
    gc_float(3, DIMS(2, 3, 5), -1, 1);
    gc_node();
    gc_check();
}

static void test_every_operator(void **state) {
    size_t n;
    const nbi_op *const *op = nbi_ops(&n);
    bool missing = false;
    (void)state;
    for (size_t i = 0; i < n; i++) {
        if (!op[i]->backward || gc_was_seen(op[i])) continue;
        print_message("no gradient case for '%s'\n", op[i]->name);
        missing = true;
    }
    assert_false(missing);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv),      cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_batchnorm), cmocka_unit_test(test_relu),
        cmocka_unit_test(test_pools),     cmocka_unit_test(test_views),
        cmocka_unit_test(test_losses),    cmocka_unit_test(test_every_operator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
