/* What keeps trained networks steady: dampening pulls weights to their levels, and statistics that
 * are estimated anew make the network in evaluation what it is in training. */
#include "qat_case.h"

#include "quant/dampen.h"
#include "quant/reestimate.h"
#include "schemes/choice.h"

#define BATCH 4

/* Counts warnings of layers that are left alone. */
static void hear(void *user, nb_log_level level, const char *message) {
    if (level == NB_LOG_WARNING && strstr(message, "dampening acts on uniform and lsq")) ++*(int *)user;
}

/* Free layers get `scheme`; NULL: uniform. */
static void build(qat_case *c, int bits, const char *scheme) {
    hand *h = &c->h;
    c->batch = BATCH;
    int x = HAND_IMAGE(h, (uint64_t)bits, 3, 32, 32);
    int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 3, 8), 8, NULL));
    a = hand_pool(h, "MaxPool", a, 4, 4, 0);
    a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, a, 8, 8), 8, NULL));
    a = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", a));
    int y = hand_gemm(h, a, 8, 10);
    hand_outputs(h, 1, &y);
    qat_generate(c, bits, 8);
    nbi_choice choice;
    char text[16];
    snprintf(text, sizeof text, "%s%d", scheme ? scheme : "", bits);
    HAND_OK(nbi_choice_parse(h->ctx, "scheme", text, strlen(text), &choice));
    for (int i = 0; i < h->net->n_sites; i++)
        if (h->net->site[i].kind == NBI_SITE_WEIGHT && !h->net->site[i].fixed_bits) c->bits[i] = choice;
    qat_build(c, true);
}

/* The nearest of the levels −top…top − 1; NAN out of their range. */
static float nearest(float w, float scale, int bits) {
    int top = 1 << (bits - 1);
    float best = NAN;
    if (w < -(float)top * scale || w > (float)(top - 1) * scale) return NAN;
    for (int k = -top; k < top; k++)
        if (!(fabsf(w - (float)k * scale) >= fabsf(w - best))) best = (float)k * scale;
    return best;
}

static void check_pull(const qat_case *c, int layer, const nbi_param *p, float pull) {
    const nbi_qat *q = c->train;
    const nbi_tensor *scale = q->graph->tensor[q->layer[layer].weight_scale];
    int bits = nbi_choice_bits(c->bits[c->h.net->layer[layer].weight_site]);
    size_t per = p->count / (size_t)scale->dim[0];
    for (size_t i = 0; i < p->count; i++) {
        float w = p->value[i], level = nearest(w, ((float *)scale->data)[i / per], bits);
        float want = 0.5f + (isnan(level) ? 0 : pull * (w - level));
        if (fabsf(p->gradient[i] - want) > 1e-5f)
            fail_msg("layer %d, weight %zu: gradient %g, want %g", layer, i,
                     (double)p->gradient[i], (double)want);
    }
}

static void test_dampening(void **state) {
    (void)state;
    const float lambda = 0.25f;
    static const char *const schemes[] = {NULL, "lsq"};
    for (int k = 0; k < 6; k++) {
        qat_case c = {0};
        build(&c, 2 + k / 2, schemes[k % 2]);
        const nbi_qat *q = c.train;
        hand *h = &c.h;
        nbi_param *params = calloc((size_t)q->n_train, sizeof *params);
        float *half = calloc(100000, sizeof *half);
        nbi_dampen *d;
        for (int i = 0; i < 100000; i++) half[i] = 0.5f;
        HAND_OK(nbi_dampen_new(h->ctx, q, (double)lambda, &d));
        for (uint64_t step = 0; step < 11; step += 5) {
            for (int i = 0; i < q->n_train; i++) {
                const nbi_tensor *t = q->graph->tensor[q->train[i]];
                params[i] = (nbi_param){.name = t->name, .value = t->data, .gradient = half,
                                        .count = (size_t)nbi_tensor_count(t)};
            }
            HAND_OK(nbi_dampen_adjust(h->ctx, d, step, 11, 0.1, params));
            for (int l = 0; l < h->net->n_layers; l++)
                for (int i = 0; i < q->n_train; i++)
                    if (q->layer[l].weight == q->train[i])
                        check_pull(&c, l, &params[i], lambda * (float)step / 5);
            for (int i = 0; i < q->n_train; i++) /* nothing but weights is touched */
                if (!q->decays[i]) assert_ptr_equal(params[i].gradient, half);
        }
        nbi_dampen_free(d);
        free(params);
        free(half);
        qat_release(&c);
    }
}

/* Weights of a scheme without steps are left alone, and that is told. */
static void test_undamped(void **state) {
    (void)state;
    for (int other = 0; other < 2; other++) {
        qat_case c = {0};
        nbi_dampen *d;
        int warnings = 0;
        build(&c, 3, other ? "pot" : "lsq");
        hand *h = &c.h;
        nb_ctx_set_log(h->ctx, hear, &warnings);
        HAND_OK(nbi_dampen_new(h->ctx, c.train, 0.1, &d));
        assert_int_equal(warnings, other);
        nbi_dampen_free(d);
        qat_release(&c);
    }
}

static double difference(qat_case *c, const nbi_batch *batch) {
    hand *h = &c->h;
    const nbi_qat *graphs[2] = {c->train, c->check};
    nbi_tape *tape[2];
    float *teacher = calloc(BATCH * 10, sizeof *teacher), *y[2];
    const void *in[3] = {batch->x, batch->target, teacher};
    double error = 0, power = 0;
    nbi_qat_copy(c->check, c->train);
    for (int k = 0; k < 2; k++) {
        nbi_tape_spec none = {0};
        nbi_view v;
        HAND_OK(nbi_tape_new(h->ctx, graphs[k]->graph, &none, &tape[k]));
        HAND_OK(nbi_tape_forward(h->ctx, tape[k], in, 0));
        HAND_OK(nbi_tape_value(h->ctx, tape[k], graphs[k]->logits, &v));
        y[k] = v.data;
    }
    for (int i = 0; i < BATCH * 10; i++) {
        double e = (double)y[0][i] - (double)y[1][i];
        error += e * e;
        power += (double)y[0][i] * (double)y[0][i];
    }
    nbi_tape_free(tape[0]);
    nbi_tape_free(tape[1]);
    free(teacher);
    return error / power;
}

/* With the statistics of one batch, evaluation computes on that batch what training computes. */
static void test_reestimation(void **state) {
    (void)state;
    qat_case c = {0};
    nbi_dataset *data;
    nbi_batches *batches;
    nbi_batch batch;
    float *kept, *again;
    build(&c, 8, NULL);
    hand *h = &c.h;
    nbi_data_options o = {.path = "builtin:glyphs", .limit = 64};
    HAND_OK(nbi_dataset_open(h->ctx, &o, &data));
    nbi_batches_spec spec = {.data = data, .batch = BATCH, .classes = 10};
    nbi_transform_default(&spec.transform);
    HAND_OK(nbi_batches_new(h->ctx, &spec, &batches));
    HAND_OK(nbi_batches_get(h->ctx, batches, 7, 0, &batch));
    double before = difference(&c, &batch);
    HAND_OK(nbi_qat_statistics_keep(h->ctx, c.train, &kept));
    HAND_OK(nbi_qat_reestimate(h->ctx, c.train, batches, 7, 1));
    HAND_OK(nbi_batches_get(h->ctx, batches, 7, 0, &batch));
    double after = difference(&c, &batch);
    if (!(before > 0.01 && after < 1e-3)) fail_msg("differences %g, then %g", before, after);
    nbi_qat_statistics_restore(c.train, kept);
    HAND_OK(nbi_qat_statistics_keep(h->ctx, c.train, &again));
    assert_memory_equal(kept, again, 32 * sizeof *kept); /* two layers of 8: means, variances */
    nbi_free(kept);
    nbi_free(again);
    nbi_batches_free(batches);
    nbi_dataset_free(data);
    qat_release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dampening), cmocka_unit_test(test_undamped),
                                       cmocka_unit_test(test_reestimation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
