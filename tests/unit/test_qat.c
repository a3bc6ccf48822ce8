/* Training graphs of quantized networks: every architecture is converted, trained for one step and
 * lowered without a word, and the integer program computes what the simulation does. */
#include "hand_net.h"

#include "exec/tape.h"
#include "hyper/arch.h"
#include "quant/qat.h"

#define BATCH 4

typedef struct case_of {
    hand h;
    nbi_choice *bits;
    nbi_qat *train, *check;
} case_of;

static void generate(case_of *c, int weights, int activations) {
    hand *h = &c->h;
    hand_generate(h, NBI_FIRST_LAST_8);
    nb_ctx_set_threads(h->ctx, 1);
    hand_calibrate(h, BATCH);
    c->bits = calloc((size_t)h->net->n_sites, sizeof *c->bits);
    hand_bits(h, weights, activations, c->bits);
}

static void build(case_of *c, bool labels) {
    hand *h = &c->h;
    int edge = nbi_score_edge(h->net);
    int classes = labels ? h->net->edge[edge].c : 0;
    nbi_qat_options o = {.batch = BATCH, .per_channel = true, .classes = classes, .distill = true,
                         .temperature = 2};
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c->bits, edge, &o, &c->train));
    o.evaluate = true;
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c->bits, edge, &o, &c->check));
}

static void release(case_of *c) {
    nbi_qat_free(c->train);
    nbi_qat_free(c->check);
    free(c->bits);
    hand_free(&c->h);
}

/* One step of gradient descent; every gradient is finite and some are not 0. */
static void step(case_of *c, float rate) {
    hand *h = &c->h;
    nbi_qat *q = c->train;
    int loss[2], n = 0;
    if (q->label_loss >= 0) loss[n++] = q->label_loss;
    if (q->teacher_loss >= 0) loss[n++] = q->teacher_loss;
    nbi_tape_spec spec = {.n_wrt = q->n_train, .wrt = q->train, .n_losses = n, .loss = loss,
                          .n_states = q->n_states, .state = q->state};
    nbi_tape *tape;
    HAND_OK(nbi_tape_new(h->ctx, q->graph, &spec, &tape));
    size_t outputs = (size_t)nbi_tensor_count(q->graph->tensor[q->logits]);
    float *target = calloc(outputs, sizeof *target), *teacher = calloc(outputs, sizeof *teacher);
    for (size_t i = 0; i < outputs; i++) {
        target[i] = i % (outputs / BATCH) == i / (outputs / BATCH) ? 1 : 0;
        teacher[i] = (float)nbi_rng_normal(&h->rng);
    }
    const void *in[3] = {h->input, q->target >= 0 ? target : teacher, teacher};
    HAND_OK(nbi_tape_forward(h->ctx, tape, in, 0));
    HAND_OK(nbi_tape_backward(h->ctx, tape, NULL));
    double sum = 0;
    for (int i = 0; i < q->n_train; i++) {
        nbi_tensor *t = q->graph->tensor[q->train[i]];
        for (int64_t k = 0; k < nbi_tensor_count(t); k++) {
            float g = nbi_tape_gradient(tape, i)[k];
            if (!isfinite(g)) fail_msg("gradient of '%s'", t->name);
            sum += fabs((double)g);
            /* steps stay positive, as an optimizer's small rates leave them */
            if (q->decays[i]) ((float *)t->data)[k] -= rate * g;
        }
    }
    assert_true(sum > 0);
    nbi_tape_advance(tape);
    nbi_tape_free(tape);
    free(target);
    free(teacher);
}

/* Relative squared difference of the simulation and the integer program on the images. */
static double difference(case_of *c) {
    hand *h = &c->h;
    nbi_tape *tape;
    nbi_tape_spec none = {0};
    nbi_frozen *frozen;
    nbi_program *program;
    nbi_runner *runner;
    nbi_view v;
    nbi_qat_copy(c->check, c->train);
    HAND_OK(nbi_tape_new(h->ctx, c->check->graph, &none, &tape));
    HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input}, 0));
    HAND_OK(nbi_tape_value(h->ctx, tape, c->check->logits, &v));
    HAND_OK(nbi_qat_freeze(h->ctx, c->train, &frozen));
    HAND_OK(nbi_frozen_fold(h->ctx, frozen));
    int kept = h->net->n_outputs, output = h->net->output[0], edge = nbi_score_edge(h->net);
    h->net->n_outputs = 1;
    h->net->output[0] = edge;
    HAND_OK(nbi_lower(h->ctx, frozen, &program));
    h->net->n_outputs = kept;
    h->net->output[0] = output;
    HAND_OK(nbi_runner_new(h->ctx, program, &runner));
    const nbi_ptensor *y = &program->tensor[program->output[0]];
    int32_t *codes = calloc(BATCH * y->count, sizeof *codes), *out[1] = {codes};
    HAND_OK(nbi_runner_run(h->ctx, runner, BATCH, h->codes, out));
    nbi_view flat = v;
    flat.data = calloc(BATCH * y->count, sizeof(float));
    if (v.rank == 3 || v.rank == 4) nbi_view_channels_last(&flat);
    else nbi_view_contiguous(&flat);
    nbi_view_copy(&flat, &v);
    double error = 0, power = 0;
    for (size_t i = 0; i < BATCH * y->count; i++) {
        double a = (double)((float *)flat.data)[i];
        double e = y->scale * ((double)codes[i] - (double)y->zero) - a;
        error += e * e;
        power += a * a;
    }
    free(flat.data);
    free(codes);
    nbi_runner_free(runner);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    nbi_tape_free(tape);
    return power > 0 ? error / power : error;
}

/* A code that lies within float rounding of a border may fall to the other side, and random
 * networks amplify that with their depth; unequal arithmetic gives as much as the power itself. */
static void is_same(case_of *c, const char *name, double most) {
    double d = difference(c);
    if (!(d < most)) fail_msg("%s: simulation and integer program differ by %g", name, d);
}

static void test_every_architecture(void **state) {
    (void)state;
    size_t n;
    const nbi_arch *const *rows = nbi_archs(&n);
    for (size_t i = 0; i < n; i++) {
        case_of c = {.h = {.ctx = nb_ctx_new()}};
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
        generate(&c, 4, 4);
        build(&c, rows[i]->classes > 0);
        step(&c, 1e-3f);
        is_same(&c, rows[i]->name, 0.1);
        release(&c);
    }
}

/* Residual stream, grouped and depthwise convolutions, pools, a negative and a zero gamma; at every
 * width of weights. */
static void test_widths(void **state) {
    (void)state;
    for (int bits = 1; bits <= 8; bits++) {
        case_of c = {0};
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
        generate(&c, bits, bits == 1 ? 2 : bits);
        build(&c, true);
        step(&c, 1e-2f);
        char name[32];
        snprintf(name, sizeof name, "%d bits", bits);
        is_same(&c, name, 1e-3);
        release(&c);
    }
}

/* One convolution's weights used by another, a value added to itself; the
 * scores of a global pool, N,C,1,1, have labels or none. */
static void test_shared(void **state) {
    (void)state;
    for (int labels = 0; labels < 2; labels++) {
        case_of c = {0};
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
        generate(&c, 4, 4);
        build(&c, labels);
        assert_int_equal(c.train->graph->tensor[c.train->logits]->rank, labels ? 2 : 4);
        step(&c, 1e-2f);
        is_same(&c, labels ? "labels" : "no labels", 1e-3);
        release(&c);
    }
}

static int small(case_of *c) {
    hand *h = &c->h;
    int x = HAND_IMAGE(h, 9, 2, 4, 4);
    int a = hand_op(h, "Relu", hand_conv3(h, x, 2, 4));
    int y = hand_gemm(h, hand_op(h, "Flatten", a), 64, 1);
    hand_outputs(h, 1, &y);
    generate(c, 4, 4);
    return x;
}

/* A single value learns from the float network's by squared differences; the divergence of one
 * class would be 0 whatever it is. */
static void test_regression(void **state) {
    (void)state;
    case_of c = {0};
    hand *h = &c.h;
    small(&c);
    nbi_qat_options o = {.batch = BATCH, .per_channel = false, .distill = true,
                         .mean_squared = true, .temperature = 1};
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c.bits, nbi_score_edge(h->net), &o, &c.train));
    o.evaluate = true;
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c.bits, nbi_score_edge(h->net), &o, &c.check));
    step(&c, 1e-3f); /* some gradients are not 0 */
    is_same(&c, "regression", 1e-3);
    release(&c);
}

static void test_fixed_batch(void **state) {
    (void)state;
    case_of c = {0};
    hand *h = &c.h;
    int x = small(&c);
    nbi_qat_options o = {.batch = BATCH, .per_channel = true, .distill = true, .temperature = 1};
    h->g->tensor[x]->dim[0] = 1;
    nb_status st =
        nbi_qat_new(h->ctx, h->g, h->net, c.bits, nbi_score_edge(h->net), &o, &c.train);
    assert_int_equal(st, NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "input 'x' has a fixed batch of 1"));
    release(&c);
}

/* The k-th allocation fails, for every k. */
static void test_no_memory(void **state) {
    (void)state;
    case_of c = {0};
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
    release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),     cmocka_unit_test(test_shared),
        cmocka_unit_test(test_regression), cmocka_unit_test(test_fixed_batch),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_every_architecture),
    };
    return cmocka_run_group_tests_name("qat", tests, NULL, NULL);
}
