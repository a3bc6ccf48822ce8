/* backward() of every operator against central differences: each input that has a gradient, alone
 * and together, in place, and in other layouts; without the values that the row does not keep. An
 * operator with backward but without a case fails. */
#include "gradient_quantizers.h"

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

/* a: 2,3,4 against many shapes of b; the old form of broadcasting, too. */
static void binary(const char *op, double lo, double hi, double lo_b, double hi_b) {
    static const struct {
        int rank;
        int64_t dim[4];
    } shape[] = {{3, {2, 3, 4}}, {1, {4}},          {3, {1, 3, 1}}, {0, {0}},
                 {3, {2, 1, 1}}, {4, {2, 2, 3, 4}}, {2, {3, 1}}};
    for (size_t i = 0; i < NBI_COUNT(shape); i++) {
        gc_begin("", op, 16);
        gc_float(3, DIMS(2, 3, 4), lo, hi);
        gc_float(shape[i].rank, shape[i].dim, lo_b, hi_b);
        gc_node();
        gc_check();
    }
    gc_begin("", op, 16);
    gc_float(4, DIMS(1, 3, 1, 2), lo, hi);
    gc_float(4, DIMS(2, 1, 2, 2), lo_b, hi_b);
    gc_node();
    gc_check();
}

static void test_binary(void **state) {
    (void)state;
    binary("Add", -1, 1, -1, 1);
    binary("Sub", -1, 1, -1, 1);
    binary("Mul", -1, 1, -1, 1);
    binary("Div", -1, 1, 0.8, 2);
    binary("Pow", 0.5, 2, -1, 2);
    binary("PRelu", -1, 1, -0.5, 0.5);
    binary("Min", -1, 1, -0.9, 1);
    binary("Max", -1, 1, -0.9, 1);
    gc_begin("", "Add", 6);
    gc_float(3, DIMS(2, 3, 4), -1, 1);
    gc_float(1, DIMS(3), -1, 1);
    gc_node();
    gc_attr_int("broadcast", 1);
    gc_attr_int("axis", 1);
    gc_check();
    for (int i = 0; i < 2; i++) {
        gc_begin("", i ? "Max" : "Min", 13);
        gc_float(2, DIMS(3, 4), -1, 1);
        gc_float(1, DIMS(4), -0.97, 1);
        gc_float(2, DIMS(3, 1), -0.95, 1);
        gc_float(0, NULL, -0.1, 0.2);
        gc_node();
        gc_check();
    }
    gc_begin("", "Pow", 13); /* an integer exponent, negative bases */
    gc_float(2, DIMS(2, 4), -1, 1);
    gc_ints(1, DIMS(3));
    gc_node();
    gc_check();
}

static void unary(const char *op, double lo, double hi) {
    gc_begin("", op, 16);
    gc_float(4, DIMS(2, 3, 3, 2), lo, hi);
    gc_node();
    gc_check();
    gc_begin("", op, 16);
    gc_float(0, NULL, lo, hi);
    gc_node();
    gc_check();
}

static void test_unary(void **state) {
    (void)state;
    unary("LeakyRelu", -1, 1);
    unary("Sigmoid", -3, 3);
    unary("HardSigmoid", -4, 4);
    unary("HardSwish", -5, 5);
    unary("Tanh", -2, 2);
    unary("Exp", -1, 1);
    unary("Log", 0.7, 3);
    unary("Sqrt", 0.5, 2);
    unary("Neg", -1, 1);
    unary("Abs", -1, 1);
    unary("Erf", -2, 2);
    unary("Floor", -2, 2);
    unary("Ceil", -2, 2);
    unary("Reciprocal", 0.7, 2);
    gc_begin("", "LeakyRelu", 16);
    gc_float(2, DIMS(3, 4), -1, 1);
    gc_node();
    gc_attr_float("alpha", -0.3); /* from the input, whatever the slope */
    gc_check();
    gc_begin("", "HardSigmoid", 16);
    gc_float(2, DIMS(3, 4), -2, 2);
    gc_node();
    gc_attr_float("alpha", 0.5);
    gc_attr_float("beta", 0.6);
    gc_check();
}

static void test_clip(void **state) {
    (void)state;
    gc_begin("", "Clip", 13);
    gc_float(4, DIMS(2, 3, 3, 2), -1, 1);
    gc_float(0, NULL, -0.5, -0.4);
    gc_float(0, NULL, 0.4, 0.5);
    gc_node();
    gc_check();
    gc_begin("", "Clip", 13); /* one bound */
    gc_float(2, DIMS(3, 4), -1, 1);
    gc_omit();
    gc_float(0, NULL, 0.1, 0.2);
    gc_node();
    gc_check();
    gc_begin("", "Clip", 6);
    gc_float(2, DIMS(3, 4), -1, 1);
    gc_node();
    gc_attr_float("min", -0.41);
    gc_check();
}

static void test_softmax(void **state) {
    (void)state;
    for (int axis = -1; axis < 3; axis++) {
        gc_begin("", "Softmax", axis == 2 ? 11 : 13);
        gc_float(3, DIMS(2, 3, 4), -2, 2);
        gc_node();
        gc_attr_int("axis", axis == 2 ? 1 : axis);
        gc_check();
    }
}

static void test_matmul(void **state) {
    static const struct {
        int rank_a, rank_b;
        int64_t a[4], b[4];
    } shape[] = {{2, 2, {3, 4}, {4, 2}},
                 {3, 2, {2, 3, 4}, {4, 2}},
                 {2, 3, {3, 4}, {2, 4, 2}},
                 {4, 3, {2, 1, 3, 4}, {3, 4, 2}},
                 {1, 2, {4}, {4, 3}},
                 {3, 1, {2, 3, 4}, {4}},
                 {1, 1, {4}, {4}},
                 {1, 3, {4}, {2, 4, 3}},
                 {2, 4, {3, 4}, {3, 2, 4, 2}}};
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(shape); i++) {
        gc_begin("", "MatMul", 13);
        gc_float(shape[i].rank_a, shape[i].a, -1, 1);
        gc_float(shape[i].rank_b, shape[i].b, -1, 1);
        gc_node();
        gc_check();
    }
}

static void test_reduce(void **state) {
    static const char *const name[] = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"};
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(name); i++) {
        gc_begin("", name[i], 11);
        gc_float(4, DIMS(2, 3, 4, 2), -1, 1);
        gc_node();
        gc_attr_ints("axes", 2, DIMS(2, -1));
        gc_check();
        gc_begin("", name[i], 11);
        gc_float(4, DIMS(2, 3, 4, 2), -1, 1);
        gc_node();
        gc_attr_ints("axes", 2, DIMS(0, 2));
        gc_attr_int("keepdims", 0);
        gc_check();
        gc_begin("", name[i], 18);
        gc_float(2, DIMS(3, 5), -1, 1);
        gc_node();
        gc_attr_int("keepdims", 0);
        gc_check();
        gc_begin("", name[i], 18);
        gc_float(3, DIMS(3, 1, 5), -1, 1);
        gc_ints(1, DIMS(0));
        gc_node();
        gc_check();
    }
}

static void test_moves(void **state) {
    (void)state;
    gc_begin("", "Transpose", 13);
    gc_float(4, DIMS(2, 3, 4, 2), -1, 1);
    gc_node();
    gc_attr_ints("perm", 4, DIMS(2, 0, 3, 1));
    gc_check();
    gc_begin("", "Concat", 13);
    gc_float(3, DIMS(2, 3, 2), -1, 1);
    gc_float(3, DIMS(2, 1, 2), -1, 1);
    gc_float(3, DIMS(2, 0, 2), -1, 1);
    gc_float(3, DIMS(2, 2, 2), -1, 1);
    gc_node();
    gc_attr_int("axis", -2);
    gc_check();
    gc_begin("", "Split", 13);
    gc.n_out = 3;
    gc.gout = 5; /* nothing flows into the middle */
    gc_float(3, DIMS(2, 6, 3), -1, 1);
    gc_ints(3, DIMS(1, 2, 3));
    gc_node();
    gc_attr_int("axis", 1);
    gc_check();
    gc_begin("", "Split", 13);
    gc.n_out = 3;
    gc.gout = 5;
    gc.omitted = 2; /* the last part lies behind it all the same */
    gc_float(3, DIMS(2, 6, 3), -1, 1);
    gc_ints(3, DIMS(1, 2, 3));
    gc_node();
    gc_attr_int("axis", 1);
    gc_check();
    gc_begin("", "Gather", 13);
    gc_float(3, DIMS(2, 4, 3), -1, 1);
    memcpy(gc_const(NB_DTYPE_S64, 2, DIMS(2, 3)), DIMS(0, 3, 3, -1, 1, 3), 6 * sizeof(int64_t));
    gc_node();
    gc_attr_int("axis", 1);
    gc_check();
    gc_begin("", "Gather", 13); /* a codebook */
    gc_float(1, DIMS(4), -1, 1);
    memcpy(gc_const(NB_DTYPE_S64, 3, DIMS(2, 3, 1)), DIMS(0, 3, 3, 0, 1, 3), 6 * sizeof(int64_t));
    gc_node();
    gc_check();
    gc_begin("", "Gather", 13); /* one index, no axis left of it */
    gc_float(2, DIMS(4, 3), -1, 1);
    *(int64_t *)gc_const(NB_DTYPE_S64, 0, NULL) = 2;
    gc_node();
    gc_check();
    gc_begin("", "Expand", 13);
    gc_float(3, DIMS(2, 1, 3), -1, 1);
    gc_ints(4, DIMS(2, 1, 4, 1));
    gc_node();
    gc_check();
    gc_begin("", "Cast", 13);
    gc_float(2, DIMS(2, 3), -1, 1);
    gc_node();
    gc_attr_int("to", 1);
    gc_check();
    gc_begin("", "Where", 13);
    memcpy(gc_const(NB_DTYPE_BOOL, 2, DIMS(3, 1)), "\1\0\1", 3);
    gc_float(2, DIMS(3, 4), -1, 1);
    gc_float(3, DIMS(2, 1, 4), -1, 1);
    gc_node();
    gc_check();
}

/* codes: 4, 3 */
static void dequantize(int rank, const int64_t *dim, int64_t block, bool zero) {
    gc_begin("", "DequantizeLinear", 21);
    memcpy(gc_const(NB_DTYPE_S8, 2, DIMS(4, 3)), "\1\7\3\377\0\2\374\5\1\6\2\371", 12);
    gc_float(rank, dim, 0.5, 2);
    if (zero) {
        int8_t *z = gc_const(NB_DTYPE_S8, rank, dim);
        for (int64_t i = 0; i < nbi_tensor_count(gc.g->tensor[gc.in[1]]); i++)
            z[i] = (int8_t)(3 - i);
    }
    gc_node();
    gc_attr_int("axis", rank == 2 ? 0 : 1);
    if (block) gc_attr_int("block_size", block);
    gc_check();
}

static void test_dequantize(void **state) {
    (void)state;
    for (int zero = 0; zero < 2; zero++) {
        dequantize(0, NULL, 0, zero);
        dequantize(1, DIMS(3), 0, zero);
        dequantize(2, DIMS(2, 3), 3, zero); /* blocks of 3 and 1 */
    }
}

static void test_slice_pad(void **state) {
    static const char *const mode[] = {"constant", "edge", "reflect", "wrap"};
    (void)state;
    gc_begin("", "Slice", 13);
    gc_float(3, DIMS(4, 5, 3), -1, 1);
    gc_ints(2, DIMS(-1, 1));
    gc_ints(2, DIMS(-100, 5));
    gc_ints(2, DIMS(1, 0));
    gc_ints(2, DIMS(-2, 2));
    gc_node();
    gc_check();
    for (size_t i = 0; i < NBI_COUNT(mode); i++) {
        gc_begin("", "Pad", 19);
        gc_float(3, DIMS(2, 4, 5), -1, 1);
        gc_ints(6, DIMS(0, 2, -1, 0, 1, 3));
        gc_node();
        assert_int_equal(nbi_node_set_text(gc.ctx, gc.g, gc.node, "mode", mode[i]), NB_OK);
        gc_check();
    }
}

static void dropout(const int64_t *dim, double ratio, uint64_t seed) {
    gc_begin("", "Dropout", 13);
    gc.seed = seed;
    gc_float(3, dim, -1, 1);
    *(float *)gc_const(NB_DTYPE_F32, 0, NULL) = (float)ratio;
    *(uint8_t *)gc_const(NB_DTYPE_BOOL, 0, NULL) = 1;
    gc_node();
}

static void test_dropout(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        dropout(DIMS(2, 5, 4), 0.5 * i, (uint64_t)i);
        gc_check();
    }
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
        cmocka_unit_test(test_conv),           cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_batchnorm),      cmocka_unit_test(test_relu),
        cmocka_unit_test(test_pools),          cmocka_unit_test(test_views),
        cmocka_unit_test(test_losses),         cmocka_unit_test(test_binary),
        cmocka_unit_test(test_unary),          cmocka_unit_test(test_clip),
        cmocka_unit_test(test_softmax),        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_reduce),         cmocka_unit_test(test_moves),
        cmocka_unit_test(test_slice_pad),      cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_fakequant),
        cmocka_unit_test(test_range_quant),    cmocka_unit_test(test_range_quant_sums),
        cmocka_unit_test(test_scheme_mix),    cmocka_unit_test(test_gumbel_softmax),
        cmocka_unit_test(test_fake_quant),     cmocka_unit_test(test_dequantize),
        cmocka_unit_test(test_every_operator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
