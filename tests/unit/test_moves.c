/* Layers that only move values (reshape, transpose, shuffles, slice, pad, concat, max pooling):
 * small integers through the integer program and through the float engine are the same. */
#include "unit/hand_net.h"

/* The input holds integers of a range of 255, so its grid is exact: scale 1. */
static void integer_images(hand *h, int lo) {
    const nbi_edge *e = &h->net->edge[h->net->input];
    h->images = 2;
    h->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    h->input = calloc(h->images * h->count, sizeof *h->input);
    h->codes = calloc(h->images * h->count, 1);
    for (size_t i = 0; i < h->images * h->count; i++)
        h->input[i] = (float)((int)nbi_rng_below(&h->rng, 256) + lo);
    h->input[0] = (float)lo;
    h->input[1] = (float)(lo + 255);
    hand_calibrate_method(h, NBI_RANGE_MSE);
    hand_codes(h);
    const nbi_qparam *q = &h->net->site[e->site].fit[8];
    assert_true(q->scale == 1 && q->zero == -lo);
}

static float *run_float(hand *h, size_t *count) {
    nbi_graph *g;
    nbi_exec *exec;
    nbi_view v, to;
    HAND_OK(nbi_specialize_batch(h->ctx, h->g, (int64_t)h->images, &g));
    HAND_OK(nbi_exec_new(h->ctx, g, NBI_EXEC_REFERENCE, &exec));
    const void *in[1] = {h->input};
    HAND_OK(nbi_exec_run(h->ctx, exec, in));
    HAND_OK(nbi_exec_value(h->ctx, exec, g->output[0], &v));
    to = v;
    nbi_view_contiguous(&to);
    *count = (size_t)nbi_view_count(&v) / h->images;
    to.data = calloc(*count * h->images, sizeof(float));
    nbi_view_copy(&to, &v);
    nbi_exec_free(exec);
    nbi_graph_free(g);
    return to.data;
}

static void compare_moves(hand *h, int output) {
    nbi_choice bits[HAND_SITES];
    size_t count;
    nbi_frozen *frozen;
    nbi_program *p;
    nbi_runner *runner;
    hand_finish(h, output);
    assert_int_equal(hand_count(h, NBI_LAYER_FLOAT), 0);
    integer_images(h, -(int)nbi_rng_below(&h->rng, 200));
    nbi_scorer *s = hand_scorer(h, 0, 0);
    hand_bits(h, 8, 8, bits);
    HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
    HAND_OK(nbi_lower(h->ctx, frozen, &p));
    HAND_OK(nbi_runner_new(h->ctx, p, &runner));
    float *want = run_float(h, &count);
    const nbi_ptensor *t = &p->tensor[p->output[0]];
    const nbi_edge *e = &h->net->edge[h->net->output[0]];
    assert_int_equal(t->count, count);
    int32_t *value = calloc(h->images * count, sizeof *value), *list[8] = {value};
    HAND_OK(nbi_runner_run(h->ctx, runner, h->images, h->codes, list));
    for (size_t i = 0; i < h->images; i++)
        for (size_t k = 0; k < count; k++) {
            double got = t->scale * (value[i * count + hand_storage(e, k)] - t->zero);
            if (got != (double)want[i * count + k])
                fail_msg("image %zu, element %zu: %g, want %g", i, k, got,
                         (double)want[i * count + k]);
        }
    free(want);
    free(value);
    nbi_runner_free(runner);
    nbi_program_free(p);
    nbi_frozen_free(frozen);
    nbi_scorer_free(s);
}

static int reshape(hand *h, int x, size_t n, const int64_t *dim) {
    return hand_op2(h, "Reshape", x, hand_list(h, n, dim));
}
static int transpose(hand *h, int x, size_t n, const int64_t *perm) {
    int y = hand_op(h, "Transpose", x);
    hand_ints(h, "perm", n, perm);
    return y;
}

static void test_reshape(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 20, 4, 3, 5);
    compare_moves(h, hand_op(h, "Flatten", x));
    hand_free(h);
    x = HAND_IMAGE(h, 20, 4, 3, 5);
    int f = hand_op(h, "Flatten", x);
    compare_moves(h, reshape(h, f, 4, (int64_t[]){0, 2, 6, 5}));
    hand_free(h);
    x = HAND_IMAGE(h, 20, 4, 3, 5);
    compare_moves(h, reshape(h, x, 5, (int64_t[]){0, 2, 2, 3, 5}));
    hand_free(h);
    x = HAND_IMAGE(h, 20, 6, 1, 1);
    compare_moves(h, reshape(h, x, 3, (int64_t[]){0, 6, 1})); /* the same bytes */
    hand_free(h);
    x = HAND_IMAGE(h, 20, 4, 3, 5);
    f = reshape(h, x, 3, (int64_t[]){0, 4, -1}); /* the same bytes: L,C for H,W,C, and back */
    compare_moves(h, reshape(h, f, 4, (int64_t[]){0, 4, 5, 3}));
    hand_free(h);
    x = hand_new(h, 20, 3, (const int64_t[]){4, 6});
    f = hand_op(h, "Flatten", x);
    compare_moves(h, reshape(h, f, 3, (int64_t[]){0, 8, 3}));
    hand_free(h);
}

static void test_transpose(void **state) {
    (void)state;
    static const int64_t perm[6][4] = {{0, 1, 2, 3}, {0, 1, 3, 2}, {0, 2, 1, 3},
                                       {0, 2, 3, 1}, {0, 3, 1, 2}, {0, 3, 2, 1}};
    hand data, *h = &data;
    for (int i = 0; i < 6; i++) {
        int x = HAND_IMAGE(h, 21, 4, 3, 5);
        compare_moves(h, transpose(h, x, 4, perm[i]));
        hand_free(h);
    }
    int x = hand_new(h, 21, 3, (const int64_t[]){4, 6});
    compare_moves(h, transpose(h, x, 3, (int64_t[]){0, 2, 1}));
    hand_free(h);
}

/* Pixel shuffle as exporters write it, and channel shuffle. */
static void test_shuffles(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 22, 12, 2, 3);
    int y = reshape(h, x, 6, (int64_t[]){0, 3, 2, 2, 2, 3});
    y = transpose(h, y, 6, (int64_t[]){0, 1, 4, 2, 5, 3});
    compare_moves(h, reshape(h, y, 4, (int64_t[]){0, 3, 4, 6}));
    hand_free(h);
    x = HAND_IMAGE(h, 22, 6, 2, 3);
    y = reshape(h, x, 5, (int64_t[]){0, 2, 3, 2, 3});
    y = transpose(h, y, 5, (int64_t[]){0, 2, 1, 3, 4});
    compare_moves(h, reshape(h, y, 4, (int64_t[]){0, 6, 2, 3}));
    hand_free(h);
}

static int slice(hand *h, int x, const int64_t *from, const int64_t *to, const int64_t *step) {
    static const int64_t axes[3] = {1, 2, 3};
    return hand_op_n(h, "Slice", 5, (const int[]){x, hand_list(h, 3, from), hand_list(h, 3, to),
                                                  hand_list(h, 3, axes), hand_list(h, 3, step)});
}

static void test_slice_pad_concat(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 23, 4, 5, 6);
    compare_moves(h, slice(h, x, (int64_t[]){1, 4, 0}, (int64_t[]){4, -6, 6},
                           (int64_t[]){2, -1, 3}));
    hand_free(h);
    x = HAND_IMAGE(h, 23, 4, 5, 6);
    compare_moves(h, hand_op2(h, "Pad", x, hand_list(h, 8, (int64_t[]){0, 1, -2, 3, 0, 0, 1, -1})));
    hand_free(h);
    for (int axis = 1; axis < 4; axis++) {
        x = HAND_IMAGE(h, 23, 4, 5, 6);
        static const int64_t from[3] = {1, 1, 1}, step[3] = {1, 1, 1};
        int64_t to[3] = {9, 9, 9}, begin[3] = {0, 0, 0};
        begin[axis - 1] = from[axis - 1]; /* cut along the axis only */
        int y = hand_op_n(h, "Concat", 3, (const int[]){x, slice(h, x, begin, to, step), x});
        hand_int(h, "axis", axis);
        compare_moves(h, y);
        hand_free(h);
    }
}

/* Chains of random moves: 1 of 6 kinds at each link, pools between. */
static void test_random_moves(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        hand data, *h = &data;
        int64_t c = 2 + (int64_t)seed % 3, ih = 4, iw = 5;
        int x = HAND_IMAGE(h, 100 + seed, c, ih, iw);
        for (int link = 0; link < 5; link++) {
            switch (nbi_rng_below(&h->rng, 6)) {
            case 0:
                x = transpose(h, x, 4, (int64_t[]){0, 3, 1, 2});
                {
                    int64_t t = iw;
                    iw = ih, ih = c, c = t;
                }
                break;
            case 1:
                x = reshape(h, hand_op(h, "Flatten", x), 4, (int64_t[]){0, ih, c, iw});
                {
                    int64_t t = c;
                    c = ih, ih = t;
                }
                break;
            case 2:
                x = hand_op2(h, "Pad", x, hand_list(h, 8, (int64_t[]){0, 0, 1, 0, 0, 1, 0, 2}));
                c += 1, ih += 1, iw += 2;
                break;
            case 3:
                if (iw > 2)
                    x = slice(h, x, (int64_t[]){0, 0, -1}, (int64_t[]){99, 99, 0},
                              (int64_t[]){1, 1, -1}),
                    iw -= 1;
                break;
            case 4:
                if (c < 8) {
                    x = hand_op2(h, "Concat", x, x);
                    hand_int(h, "axis", 1);
                    c *= 2;
                }
                break;
            default:
                if (ih > 1 && iw > 1) x = hand_pool(h, "MaxPool", x, 2, 1, 0), ih--, iw--;
            }
        }
        compare_moves(h, hand_op(h, "Flatten", x));
        hand_free(h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reshape),
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_shuffles),
        cmocka_unit_test(test_slice_pad_concat),
        cmocka_unit_test(test_random_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
