/* QAG on small networks made by hand (specs: qag.md, "Tests"): which sites there are, what fuses,
 * what is left untouched. For what layers compute see test_moves and test_runtime. */
#include "unit/hand_net.h"

static void assert_near(double value, double want) {
    /* float32 constants, one or two operations */
    if (!(fabs(value - want) <= 1e-5 * (fabs(want) + 1e-3)))
        fail_msg("%.9g, want %.9g", value, want);
}

/* ---- sites ---------------------------------------------------------------------------------- */

static void test_two_consumers(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 1, 3, 6, 6), r = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int a = hand_op(h, "Relu", hand_conv3(h, r, 4, 4));
    int b = hand_op(h, "Relu", hand_conv3(h, r, 4, 4));
    a = hand_conv3(h, a, 4, 2);
    b = hand_conv3(h, b, 4, 2);
    hand_outputs(h, 2, (const int[]){a, b});
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(hand_sites(h, NBI_SITE_WEIGHT), 5);
    assert_int_equal(hand_sites(h, NBI_SITE_ACTIVATION), 3); /* r, and the two ReLUs behind it */
    assert_int_equal(hand_sites(h, NBI_SITE_OUTPUT), 2);
    assert_int_equal(hand_sites(h, NBI_SITE_STREAM), 0);
    assert_int_equal(hand_site(h, r)->kind, NBI_SITE_ACTIVATION);
    assert_true(hand_site(h, r)->is_unsigned);
    assert_int_equal(hand_site(h, r)->count, 4 * 36);
    assert_int_equal(hand_site(h, r)->fixed_bits, 0);
    hand_free(h);
}

/* s = relu(conv) ─ conv ─ relu ─ conv ─ + s ─ relu ─ conv: two streams, each read through a
 * requantization where convolutions read it. */
static void test_residual(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 2, 3, 6, 6), s = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int m = hand_op(h, "Relu", hand_conv3(h, s, 4, 4)), branch = hand_conv3(h, m, 4, 4);
    int sum = hand_op(h, "Relu", hand_op2(h, "Add", branch, s));
    int c1 = hand_conv3(h, sum, 4, 4), c2 = hand_conv3(h, sum, 4, 4);
    int y = hand_op2(h, "Add", hand_op2(h, "Add", c1, c2), sum);
    hand_outputs(h, 1, &y);
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    const nbi_site *stream = hand_site(h, sum), *first = hand_site(h, s);
    assert_int_equal(stream->kind, NBI_SITE_STREAM);
    assert_int_equal(stream->fixed_bits, 8);
    assert_true(stream->is_unsigned && first->is_unsigned);
    assert_int_equal(first->kind, NBI_SITE_STREAM);
    assert_false(hand_site(h, branch)->is_unsigned);
    assert_int_equal(hand_site(h, branch)->kind, NBI_SITE_STREAM);
    assert_int_equal(hand_site(h, m)->kind, NBI_SITE_ACTIVATION);
    assert_int_equal(hand_count(h, NBI_LAYER_REQUANT), 2); /* of s and of sum: once for c1 and c2 */
    const nbi_layer *l1 = hand_layer(h, c1), *l2 = hand_layer(h, c2);
    assert_int_equal(l1->in[0], l2->in[0]);
    const nbi_edge *e = &h->net->edge[l1->in[0]];
    assert_int_equal(h->net->layer[e->producer].type, NBI_LAYER_REQUANT);
    assert_int_equal(h->net->layer[e->producer].in[0], hand_edge(h, sum));
    assert_int_equal(h->net->site[e->site].kind, NBI_SITE_ACTIVATION);
    assert_int_equal(h->net->site[e->site].fixed_bits, 0);
    for (int i = 0; i < h->net->n_layers; i++) { /* in order, producers right */
        const nbi_layer *l = &h->net->layer[i];
        assert_int_equal(h->net->edge[l->out].producer, i);
        for (int k = 0; k < l->n_in; k++) assert_true(h->net->edge[l->in[k]].producer < i);
    }
    hand_free(h);
}

/* Everything between two convolutions that keeps values on their grid shares one site. */
static void test_moves_share(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 3, 3, 8, 8);
    int a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int b = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int p = hand_pool(h, "MaxPool", a, 2, 2, 0);
    int s = hand_op_n(h, "Slice", 4, (const int[]){b, hand_list(h, 2, (int64_t[]){0, 2}),
                                                   hand_list(h, 2, (int64_t[]){4, 6}),
                                                   hand_list(h, 2, (int64_t[]){2, 3})});
    int j = hand_op2(h, "Concat", p, s);
    hand_int(h, "axis", 1);
    int pads = hand_list(h, 8, (int64_t[]){0, 0, 1, 0, 0, 0, 0, 1});
    int q = hand_op2(h, "Pad", j, pads), t = hand_op(h, "Transpose", q);
    hand_ints(h, "perm", 4, (int64_t[]){0, 1, 3, 2});
    int y = hand_conv3(h, t, 8, 4);
    hand_finish(h, y);
    const nbi_site *one = hand_site(h, a);
    const int same[] = {b, p, s, j, q, t};
    for (size_t i = 0; i < NBI_COUNT(same); i++) assert_ptr_equal(hand_site(h, same[i]), one);
    assert_int_equal(one->kind, NBI_SITE_ACTIVATION);
    assert_true(one->is_unsigned);
    assert_int_equal(hand_count(h, NBI_LAYER_COPY), 4);
    assert_int_equal(h->net->n_sites, 3 + 3 + 1 + 1 + 1);
    /* weights, biases, input, one activation, output */
    hand_free(h);
}

/* A Concat of a ReLU and of something signed is signed. */
static void test_mixed_signs(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 4, 3, 4, 4);
    int a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4)), b = hand_conv3(h, x, 3, 4);
    int j = hand_op2(h, "Concat", a, b);
    hand_int(h, "axis", 1);
    hand_finish(h, hand_conv3(h, j, 8, 2));
    assert_ptr_equal(hand_site(h, a), hand_site(h, b));
    assert_false(hand_site(h, a)->is_unsigned);
    hand_free(h);
}

/* Each kind of convolution and dense layer has one weight site of its own. */
static void test_weight_sites(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 5, 4, 9, 9), y[8];
    y[0] = hand_conv(h, x, 4, 8, 1, (hand_window){3, 2, 1, 1});
    y[1] = hand_conv(h, y[0], 8, 8, 8, (hand_window){3, 1, 1, 1});
    y[2] = hand_conv(h, y[1], 8, 12, 4, (hand_window){3, 1, 1, 1});
    y[3] = hand_conv(h, y[2], 12, 6, 1, (hand_window){3, 1, 2, 0});
    int flat = hand_op(h, "Flatten", y[3]);
    y[4] = hand_gemm(h, flat, 6, 10);
    int64_t w[2] = {10, 7};
    y[5] = hand_op2(h, "MatMul", y[4], hand_random(h, 2, w, 0, 0.3));
    hand_finish(h, y[5]);
    static const int64_t count[6] = {8 * 4 * 9, 8 * 9, 12 * 2 * 9, 6 * 12 * 9, 60, 70};
    static const double pixels[6] = {25, 25, 25, 1, 1, 1};
    assert_int_equal(hand_sites(h, NBI_SITE_WEIGHT), 6);
    for (int i = 0; i < 6; i++) {
        const nbi_layer *l = hand_layer(h, y[i]);
        const nbi_site *s = &h->net->site[l->weight_site];
        assert_int_equal(l->type, NBI_LAYER_CONV);
        assert_int_equal(s->kind, NBI_SITE_WEIGHT);
        assert_ptr_equal(&h->net->layer[s->layer], l);
        assert_int_equal(s->count, count[i]);
        assert_true(l->macs == (double)count[i] * pixels[i]);
        assert_int_equal(l->depthwise, i == 1);
        assert_int_equal(l->is_first, i == 0);
        assert_int_equal(l->is_last, i == 5);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(l->weight_site, hand_layer(h, y[k])->weight_site);
    }
    assert_int_equal(hand_layer(h, y[3])->geometry.dh, 2);
    hand_free(h);
}

static void test_conv_1d(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = hand_new(h, 6, 3, (const int64_t[]){3, 20});
    int w = hand_random(h, 3, (const int64_t[]){5, 3, 4}, 0, 0.3), y = hand_op2(h, "Conv", x, w);
    hand_ints(h, "strides", 1, (const int64_t[]){2});
    hand_ints(h, "pads", 2, (const int64_t[]){2, 1});
    hand_finish(h, y);
    const nbk_conv *g = &hand_layer(h, y)->geometry;
    const nbi_edge *e = &h->net->edge[hand_edge(h, y)];
    assert_int_equal(hand_sites(h, NBI_SITE_WEIGHT), 1);
    assert_true(g->in_w == 20 && g->in_h == 1 && g->out_w == 10 && g->out_h == 1 && g->kw == 4);
    assert_true(g->kh == 1 && g->sw == 2 && g->pl == 2 && g->pt == 0);
    assert_true(e->c == 5 && e->w == 10 && e->h == 1);
    for (int o = 0; o < 5; o++) /* [o][tap][in] of ONNX's [o][in][tap] */
        for (int i = 0; i < 3; i++)
            for (int t = 0; t < 4; t++)
                assert_true(hand_layer(h, y)->weight[(o * 4 + t) * 3 + i] ==
                            hand_data(h, w)[(o * 3 + i) * 4 + t]);
    hand_free(h);
}

/* First and last layers get 8 bits when asked, and so does what the last one reads. */
static void test_first_last(void **state) {
    (void)state;
    for (int fixed = 0; fixed < 2; fixed++) {
        hand data, *h = &data;
        int x = HAND_IMAGE(h, 7, 3, 4, 4), a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
        int b = hand_op(h, "Relu", hand_conv3(h, a, 4, 4));
        int c = hand_op(h, "Softmax", hand_gemm(h, hand_op(h, "Flatten", b), 64, 3));
        hand_outputs(h, 1, &c);
        hand_generate(h, fixed ? NBI_FIRST_LAST_8 : NBI_FIRST_LAST_SEARCHED);
        int eight = fixed ? 8 : 0;
        const nbi_layer *l = hand_layer(h, a);
        assert_int_equal(h->net->site[l->weight_site].fixed_bits, eight);
        assert_int_equal(hand_site(h, a)->fixed_bits, 0);
        assert_int_equal(h->net->site[hand_layer(h, b)->weight_site].fixed_bits, 0);
        assert_int_equal(hand_site(h, b)->fixed_bits, eight);
        for (int i = 0; i < h->net->n_layers; i++)
            if (h->net->layer[i].is_last)
                assert_int_equal(h->net->site[h->net->layer[i].weight_site].fixed_bits, eight);
        assert_int_equal(hand_site(h, x)->kind, NBI_SITE_INPUT);
        assert_int_equal(hand_site(h, x)->fixed_bits, 8);
        /* the dense layer's sums and the softmax are int32 */
        assert_int_equal(hand_sites(h, NBI_SITE_OUTPUT), 2);
        hand_free(h);
    }
}

/* Layers that read one initializer are sites of their own, told apart by name. */
static void test_shared_weights(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 9, 3, 4, 4), y[4] = {hand_conv3(h, x, 3, 3)};
    int shared = h->node->in[1];
    for (int i = 1; i < 4; i++) {
        y[i] = hand_conv3(h, hand_op(h, "Relu", y[i - 1]), 3, 3);
        h->node->in[1] = shared;
    }
    hand_outputs(h, 1, &y[3]);
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(hand_sites(h, NBI_SITE_WEIGHT), 4);
    int plain = 0;
    for (int i = 0; i < h->net->n_sites; i++) {
        plain += !strcmp(h->net->site[i].name, h->g->tensor[shared]->name);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(h->net->site[i].name, h->net->site[k].name);
    }
    assert_int_equal(plain, 1);
    hand_free(h);
}

/* ---- unknown operators ----------------------------------------------------------------------- */

static void test_unknown(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 8, 3, 4, 4), a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int foo = hand_op(h, "Foo", a), b = hand_conv3(h, a, 4, 2), behind = hand_op(h, "Relu", foo);
    hand_outputs(h, 2, (const int[]){behind, b});
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(h->net->n_untouched, 2);
    assert_string_equal(h->net->untouched[0], h->g->tensor[foo]->name);
    assert_int_equal(h->net->n_outputs, 2); /* a, which Foo reads, and b */
    assert_true(h->net->edge[hand_edge(h, a)].is_output);
    assert_true(h->net->edge[hand_edge(h, b)].is_output);
    assert_int_equal(hand_edge(h, foo), -1);
    assert_int_equal(hand_edge(h, behind), -1);
    assert_int_equal(hand_site(h, a)->kind, NBI_SITE_STREAM); /* not only a convolution reads it */
    hand_calibrate(h, 4);
    hand_free(h);
}

/* What cannot be an edge is left untouched with what lies behind it, and nothing else is. */
static void test_unusable_shape(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 8, 3, 4, 4), a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int b = hand_conv3(h, a, 4, 2), t = hand_op(h, "Transpose", a);
    hand_ints(h, "perm", 4, (const int64_t[]){1, 0, 2, 3});
    int behind = hand_op(h, "Relu", t);
    hand_outputs(h, 2, (const int[]){behind, b});
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(h->net->n_untouched, 2);
    assert_string_equal(h->net->untouched[0], h->g->tensor[t]->name);
    assert_int_equal(h->net->n_outputs, 2);
    assert_int_equal(hand_edge(h, t), -1);
    hand_calibrate(h, 4);
    hand_free(h);
}

/* As many values, but not element by element. */
static void test_broadcast_of_five(void **state) {
    (void)state;
    static const char *const ops[] = {"Add", "Sub", "Mul"};
    for (size_t i = 0; i < NBI_COUNT(ops); i++) {
        hand data, *h = &data;
        int x = HAND_IMAGE(h, 8, 2, 3, 3), a = hand_op(h, "Relu", hand_conv3(h, x, 2, 2)), b;
        a = hand_op2(h, "Reshape", a, hand_list(h, 5, (const int64_t[]){-1, 1, 2, 3, 3}));
        b = hand_op2(h, "Reshape", a, hand_list(h, 5, (const int64_t[]){-1, 2, 1, 3, 3}));
        int y = hand_op2(h, ops[i], a, b);
        hand_outputs(h, 1, &y);
        hand_generate(h, NBI_FIRST_LAST_SEARCHED);
        assert_int_equal(hand_layer(h, y)->type, NBI_LAYER_FLOAT);
        hand_calibrate(h, 4);
        hand_free(h);
    }
}

static void test_unknown_only(void **state) {
    (void)state;
    hand data, *h = &data;
    nbi_graph *g;
    nbi_qnet *net = NULL;
    nbi_qag_options options = {NBI_FIRST_LAST_8, 8};
    int x = HAND_IMAGE(h, 8, 3, 4, 4), y = hand_op(h, "Foo", x);
    hand_outputs(h, 1, &y);
    HAND_OK(nbi_specialize_batch(h->ctx, h->g, 1, &g));
    assert_int_equal(nbi_generate(h->ctx, g, &options, &net), NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "Foo0"));
    assert_null(net);
    hand_free(h);
}

/* A float operator whose result is an output as well as something that integer layers read: those
 * read bytes, so the tensor may not be int32. */
static void test_float_output_with_readers(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 9, 3, 4, 4), a = hand_conv3(h, x, 3, 4);
    int f = hand_op(h, "Softmax", a), y = hand_op2(h, "Add", f, a), z = hand_op(h, "Sigmoid", f);
    hand_outputs(h, 3, (const int[]){f, y, z});
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(hand_site(h, f)->kind, NBI_SITE_STREAM);
    assert_int_equal(hand_layer(h, f)->type, NBI_LAYER_FLOAT);
    hand_free(h);
}

/* ---- what fuses ---------------------------------------------------------------------------- */

/* γ > 0, < 0, = 0: gain ≥ 0, the sign in the weights, the rest in the shift. */
static void test_batchnorm(void **state) {
    (void)state;
    static const float gamma[4] = {1.5f, -0.7f, 0, -2};
    for (int depthwise = 0; depthwise < 2; depthwise++) {
        hand data, *h = &data;
        int x = HAND_IMAGE(h, 10, 4, 5, 5);
        int y = hand_conv(h, x, 4, 4, depthwise ? 4 : 1, (hand_window){3, 1, 1, 1});
        const nbi_node *conv = h->node;
        int z = hand_bn(h, y, 4, gamma);
        const nbi_node *bn = h->node;
        int r = hand_op(h, "Relu", z);
        hand_finish(h, r);
        const nbi_layer *l = hand_layer(h, r);
        assert_int_equal(h->net->n_layers, 1);
        assert_int_equal(l->n_nodes, 3);
        assert_true(l->act_lo == 0 && l->act_hi == INFINITY);
        for (int c = 0; c < 4; c++) {
            double deviation = sqrt((double)hand_data(h, bn->in[4])[c] + 1e-5);
            double a = (double)gamma[c] / deviation, bias = (double)hand_data(h, conv->in[2])[c];
            double b = (double)hand_data(h, bn->in[2])[c] - a * (double)hand_data(h, bn->in[3])[c];
            float sign = gamma[c] < 0 ? -1.0f : 1.0f;
            assert_near((double)l->gain[c], fabs(a));
            assert_near((double)l->shift[c], a * bias + b);
            assert_true(l->sum_scale[c] == sign);
            assert_near((double)l->sum_offset[c], bias);
            int taps = 9, each = depthwise ? 1 : 4;
            for (int i = 0; i < each; i++)
                for (int t = 0; t < taps; t++) {
                    float w = hand_data(h, conv->in[1])[(c * each + i) * taps + t];
                    size_t at = (size_t)(depthwise ? t * 4 + c : (c * taps + t) * each + i);
                    assert_true(l->weight[at] == sign * w);
                }
        }
        hand_free(h);
    }
}

/* Conv ─ Mul k ─ Add k ─ k − y ─ Div k ─ Relu ─ Clip is one layer. */
static void test_constants_fuse(void **state) {
    (void)state;
    hand data, *h = &data;
    static const int64_t vector[4] = {1, 3, 1, 1}, tail[3] = {3, 1, 1};
    int x = HAND_IMAGE(h, 11, 2, 4, 4), y = hand_conv3(h, x, 2, 3);
    const nbi_node *conv = h->node;
    int mul = hand_random(h, 4, vector, 1, 0.5), add = hand_random(h, 3, tail, 0, 1);
    int less = hand_scalar(h, 2), div = hand_scalar(h, 4);
    y = hand_op2(h, "Mul", mul, y);
    y = hand_op2(h, "Add", y, add);
    y = hand_op2(h, "Sub", less, y);
    y = hand_op2(h, "Div", y, div);
    y = hand_clip(h, hand_op(h, "Relu", y), 0.25f, 1.5f);
    hand_finish(h, y);
    const nbi_layer *l = hand_layer(h, y);
    assert_int_equal(h->net->n_layers, 1);
    assert_int_equal(l->n_nodes, 7);
    assert_true(l->act_lo == 0.25f && l->act_hi == 1.5f);
    for (int c = 0; c < 3; c++) {
        double m = (double)hand_data(h, mul)[c], a = (double)hand_data(h, add)[c];
        double b = (double)hand_data(h, conv->in[2])[c];
        assert_near((double)(l->gain[c] * l->sum_scale[c]), -m / 4);
        assert_near((double)l->shift[c], (2 - (m * b + a)) / 4);
    }
    hand_free(h);
}

/* A constant per row, not per channel, does not fuse; nor does what a second consumer reads. */
static void test_what_does_not_fuse(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 12, 2, 4, 4), y = hand_conv3(h, x, 2, 4);
    int row = hand_op2(h, "Add", y, hand_random(h, 2, (const int64_t[]){4, 1}, 0, 1));
    int a = hand_conv3(h, row, 4, 4), r = hand_op(h, "Relu", a), z = hand_op2(h, "Add", a, r);
    hand_finish(h, z);
    assert_true(hand_edge(h, y) >= 0 && hand_edge(h, a) >= 0);
    assert_int_equal(hand_layer(h, row)->type, NBI_LAYER_FLOAT);
    assert_int_equal(hand_layer(h, r)->type, NBI_LAYER_UNARY);
    hand_free(h);
}

static void test_tables(void **state) {
    (void)state;
    static const char *const functions[] = {"Relu", "HardSwish", "Sigmoid", "Tanh", "Abs", "Erf",
                                            "HardSigmoid", "LeakyRelu", "Exp", "Neg"};
    static const bool is_unsigned[] = {1, 0, 1, 0, 1, 0, 1, 0, 1, 0};
    for (size_t i = 0; i < NBI_COUNT(functions); i++) {
        hand data, *h = &data;
        int x = HAND_IMAGE(h, 13, 3, 4, 4), p = hand_conv3(h, x, 3, 4);
        p = hand_pool(h, "MaxPool", p, 2, 2, 0);
        int f = hand_op(h, functions[i], p);
        hand_finish(h, hand_conv3(h, f, 4, 2));
        assert_int_equal(hand_layer(h, f)->type, NBI_LAYER_UNARY);
        assert_int_equal(hand_site(h, f)->is_unsigned, is_unsigned[i]);
        assert_int_equal(hand_site(h, f)->kind, NBI_SITE_ACTIVATION);
        assert_int_equal(hand_site(h, p)->kind, NBI_SITE_STREAM);
        hand_free(h);
    }
    hand data, *h = &data;
    static const int64_t slope[3] = {4, 1, 1};
    int x = HAND_IMAGE(h, 13, 3, 4, 4), p = hand_conv3(h, x, 3, 4);
    int f = hand_op2(h, "PRelu", p, hand_random(h, 3, slope, 0.2, 0.1));
    int g = hand_bn(h, f, 4, NULL);
    hand_finish(h, hand_conv3(h, g, 4, 2));
    assert_int_equal(hand_layer(h, g)->type, NBI_LAYER_UNARY); /* PRelu and BatchNorm: one table */
    assert_int_equal(hand_layer(h, g)->n_nodes, 2);
    hand_free(h);
}

/* A clamp of something that lies outside of its bounds. */
static void test_clip_outside(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 14, 3, 4, 4), p = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    p = hand_pool(h, "MaxPool", p, 2, 2, 0);
    int y = hand_clip(h, p, -3, -1);
    hand_finish(h, hand_conv3(h, y, 4, 2));
    assert_false(hand_site(h, y)->is_unsigned);
    hand_free(h);
}

/* Running it again gives the same network. */
static void test_same_again(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 15, 3, 6, 6), s = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    int sum = hand_op2(h, "Add", s, hand_conv3(h, s, 4, 4));
    hand_finish(h, hand_conv3(h, sum, 4, 2));
    nbi_qnet *first = h->net;
    hand_generate(h, NBI_FIRST_LAST_SEARCHED);
    assert_int_equal(first->n_layers, h->net->n_layers);
    assert_int_equal(first->n_edges, h->net->n_edges);
    assert_int_equal(first->n_sites, h->net->n_sites);
    for (int i = 0; i < first->n_sites; i++) {
        assert_string_equal(first->site[i].name, h->net->site[i].name);
        assert_int_equal(first->site[i].kind, h->net->site[i].kind);
    }
    nbi_qnet_free(first);
    hand_free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_consumers),
        cmocka_unit_test(test_residual),
        cmocka_unit_test(test_moves_share),
        cmocka_unit_test(test_mixed_signs),
        cmocka_unit_test(test_weight_sites),
        cmocka_unit_test(test_conv_1d),
        cmocka_unit_test(test_first_last),
        cmocka_unit_test(test_shared_weights),
        cmocka_unit_test(test_unusable_shape), cmocka_unit_test(test_broadcast_of_five),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_unknown_only),
        cmocka_unit_test(test_float_output_with_readers),
        cmocka_unit_test(test_batchnorm),
        cmocka_unit_test(test_constants_fuse),
        cmocka_unit_test(test_what_does_not_fuse),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_clip_outside),
        cmocka_unit_test(test_same_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
