/* Training graphs of quantized networks: every architecture is converted, trained for one step and
 * lowered without a word, and the integer program computes what the simulation does. */
#include "qat_layers.h"

#include "hyper/arch.h"

#define BATCH 4

static void test_every_architecture(void **state) {
    (void)state;
    size_t n;
    const nbi_arch *const *rows = nbi_archs(&n);
    for (size_t i = 0; i < n; i++) {
        qat_case c = {.batch = BATCH, .h = {.ctx = nb_ctx_new()}};
        hand *h = &c.h;
        nbi_rng_seed(&h->rng, i, 1);
        nbi_arch_options o = nbi_arch_options_default();
        o.width = rows[i]->rank == 3 ? 0.25 : 1;
        if (rows[i]->rank == 3 && rows[i]->input[1] > 64) {
            o.rank = 3;
            o.input[0] = 3, o.input[1] = o.input[2] = 32;
            o.classes = 10;
        }
        HAND_OK(nbi_arch_build(h->ctx, rows[i]->name, &o, &h->g));
        qat_generate(&c, 4, 4);
        qat_build(&c, rows[i]->classes > 0);
        qat_step(&c, 1e-3f);
        qat_layers_are_same(&c, rows[i]->name);
        qat_is_same(&c, rows[i]->name, 1e-3);
        qat_release(&c);
    }
}

/* Residual stream, grouped and depthwise convolutions, pools, a negative and a zero gamma; at every
 * width of weights. */
static void test_widths(void **state) {
    (void)state;
    for (int bits = 1; bits <= 8; bits++) {
        qat_case c = {.batch = BATCH};
        hand *h = &c.h;
        const float gamma[8] = {1, -1, 0.5f, 0, 1, 2, -0.5f, 1};
        int x = HAND_IMAGE(h, (uint64_t)bits, 3, 8, 8);
        int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 3, 8), 8, NULL));
        int b = hand_bn(h, hand_conv(h, a, 8, 8, 2, (hand_window){3, 1, 1, 1}), 8, gamma);
        b = hand_op(h, "Relu", hand_op2(h, "Add", a, b));
        b = hand_op(h, "Relu", hand_conv(h, b, 8, 8, 8, (hand_window){3, 1, 1, 1}));
        b = hand_pool(h, "MaxPool", b, 2, 2, 0);
        b = hand_clip(h, hand_conv(h, b, 8, 8, 1, (hand_window){1, 1, 1, 0}), 0, 6);
        b = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", b));
        int y = hand_gemm(h, b, 8, 5);
        hand_outputs(h, 1, &y);
        qat_generate(&c, bits, bits == 1 ? 2 : bits);
        qat_build(&c, true);
        qat_step(&c, 1e-2f);
        char name[32];
        snprintf(name, sizeof name, "%d bits", bits);
        qat_is_same(&c, name, 1e-3);
        qat_spoil_gains(&c);
        qat_layers_are_same(&c, name);
        qat_is_same(&c, name, 1e-3);
        qat_release(&c);
    }
}

/* One convolution's weights used by another, a value added to itself; the
 * scores of a global pool, N,C,1,1, have labels or none. */
static void test_shared(void **state) {
    (void)state;
    for (int labels = 0; labels < 2; labels++) {
        qat_case c = {.batch = BATCH};
        hand *h = &c.h;
        int x = HAND_IMAGE(h, 5, 4, 6, 6);
        int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 4, 4), 4, NULL));
        int b = hand_conv3(h, a, 4, 4);
        int weight = h->node->in[1];
        b = hand_op(h, "Relu", hand_op2(h, "Add", b, b));
        b = hand_conv3(h, b, 4, 4);
        h->node->in[1] = weight;
        b = hand_op(h, "Relu", hand_op2(h, "Add", b, a));
        int y = hand_op(h, "GlobalAveragePool", hand_conv3(h, b, 4, 5));
        hand_outputs(h, 1, &y);
        qat_generate(&c, 4, 4);
        qat_build(&c, labels);
        assert_int_equal(c.train->graph->tensor[c.train->logits]->rank, labels ? 2 : 4);
        qat_step(&c, 1e-2f);
        qat_is_same(&c, labels ? "labels" : "no labels", 1e-3);
        qat_release(&c);
    }
}

static void small(qat_case *c) {
    hand *h = &c->h;
    int x = HAND_IMAGE(h, 9, 2, 4, 4);
    int a = hand_op(h, "Relu", hand_conv3(h, x, 2, 4));
    int y = hand_gemm(h, hand_op(h, "Flatten", a), 64, 1);
    hand_outputs(h, 1, &y);
    qat_generate(c, 4, 4);
}

/* A single value learns from the float network's by squared differences; the divergence of one
 * class would be 0 whatever it is. */
static void test_regression(void **state) {
    (void)state;
    qat_case c = {.batch = BATCH};
    hand *h = &c.h;
    small(&c);
    nbi_qat_options o = {.batch = BATCH, .per_channel = false, .distill = true,
                         .mean_squared = true, .temperature = 1};
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c.bits, nbi_score_edge(h->net), &o, &c.train));
    o.evaluate = true;
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c.bits, nbi_score_edge(h->net), &o, &c.check));
    qat_step(&c, 1e-3f); /* some gradients are not 0 */
    qat_is_same(&c, "regression", 1e-3);
    qat_release(&c);
}

/* A file that fixes a batch of 1, as a Reshape does; one that adds up over its batch can have no
 * other. */
static void test_fixed_batch(void **state) {
    (void)state;
    for (int sums = 0; sums < 2; sums++) {
        qat_case c = {.batch = BATCH};
        hand *h = &c.h;
        int x = HAND_IMAGE(h, 9, 2, 4, 4);
        h->g->tensor[x]->dim[0] = 1;
        int a = hand_op(h, "Relu", hand_conv3(h, x, 2, 4));
        if (sums) {
            a = hand_op(h, "ReduceMean", a);
            hand_ints(h, "axes", 1, (const int64_t[]){0});
        }
        a = hand_op2(h, "Reshape", a, hand_list(h, 2, (const int64_t[]){1, 64}));
        int y = hand_gemm(h, a, 64, 3);
        hand_outputs(h, 1, &y);
        if (sums) {
            nbi_graph *g;
            nb_status st = nbi_rebatch(h->ctx, h->g, BATCH, &g);
            assert_int_equal(st, NB_EUNSUPPORTED);
            assert_non_null(strstr(nb_ctx_message(h->ctx), "'ReduceMean2'"));
        } else {
            qat_generate(&c, 4, 4);
            qat_build(&c, true);
            qat_step(&c, 1e-2f);
            qat_is_same(&c, "fixed batch", 1e-3);
        }
        qat_release(&c);
    }
}

static int old_node(hand *h, const char *op, int x, const char *name, size_t n, const int64_t *v) {
    int y = hand_op(h, op, x);
    hand_ints(h, name, n, v);
    return y;
}

/* Operators whose lists were attributes, and a Softmax over all axes from one on: the training
 * graph, of a newer opset, means what the file does. */
static void test_old_opset(void **state) {
    (void)state;
    for (int opset = 7; opset <= 12; opset++) {
        qat_case c = {.batch = BATCH};
        hand *h = &c.h;
        char name[32];
        int x = HAND_IMAGE(h, 11, 3, 6, 6);
        h->g->opset = opset;
        int a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
        const int64_t pads[8] = {0, 0, 1, 0, 0, 0, 0, 1};
        if (opset < 11) a = old_node(h, "Pad", a, "pads", 8, pads);
        if (opset < 10) {
            a = old_node(h, "Slice", a, "starts", 2, (const int64_t[]){1, 2});
            hand_ints(h, "ends", 2, (const int64_t[]){4, 1000});
            hand_ints(h, "axes", 2, (const int64_t[]){1, 2});
        } else {
            a = hand_conv(h, a, 4, 3, 1, (hand_window){3, 1, 1, 1});
        }
        a = hand_op(h, "Softmax", hand_op(h, "Relu", hand_conv3(h, a, 3, 4)));
        a = hand_op(h, "GlobalAveragePool", hand_op(h, "Relu", hand_conv3(h, a, 4, 8)));
        a = old_node(h, "Squeeze", a, "axes", 1, (const int64_t[]){3});
        a = old_node(h, "Unsqueeze", a, "axes", 1, (const int64_t[]){2});
        int y = hand_gemm(h, hand_op(h, "Flatten", a), 8, 3);
        hand_outputs(h, 1, &y);
        qat_generate(&c, 4, 4);
        qat_build(&c, true);
        qat_step(&c, 1e-2f);
        snprintf(name, sizeof name, "opset %d", opset);
        qat_is_same(&c, name, 1e-3);
        qat_release(&c);
    }
}

/* The k-th allocation fails, for every k. */
static void test_no_memory(void **state) {
    (void)state;
    qat_case c = {.batch = BATCH};
    hand *h = &c.h;
    nb_status st = NB_ENOMEM;
    small(&c);
    nbi_qat_options o = {.batch = BATCH, .per_channel = true, .distill = true, .temperature = 1};
    for (long k = 1; st != NB_OK; k++) {
        nbi_qat *q = NULL;
        nbi_tape *tape = NULL;
        nbi_frozen *frozen = NULL;
        nbi_alloc_fail_after(k);
        st = nbi_qat_new(h->ctx, h->g, h->net, c.bits, nbi_score_edge(h->net), &o, &q);
        if (st == NB_OK) {
            nbi_tape_spec spec = {.n_wrt = q->n_train, .wrt = q->train, .n_losses = 1,
                                  .loss = &q->teacher_loss, .n_states = q->n_states,
                                  .state = q->state};
            st = nbi_tape_new(h->ctx, q->graph, &spec, &tape);
        }
        if (st == NB_OK) st = nbi_qat_freeze(h->ctx, q, &frozen);
        if (st == NB_OK) st = nbi_frozen_fold(h->ctx, frozen);
        nbi_alloc_fail_after(0);
        if (st != NB_OK && st != NB_ENOMEM) fail_msg("%ld: %s", k, nb_ctx_message(h->ctx));
        nbi_frozen_free(frozen);
        nbi_tape_free(tape);
        nbi_qat_free(q);
        assert_true(k < 100000);
    }
    qat_release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),     cmocka_unit_test(test_shared),
        cmocka_unit_test(test_regression), cmocka_unit_test(test_fixed_batch),
        cmocka_unit_test(test_no_memory),  cmocka_unit_test(test_old_opset),
        cmocka_unit_test(test_every_architecture),
    };
    return cmocka_run_group_tests_name("qat", tests, NULL, NULL);
}
