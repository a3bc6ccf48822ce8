/* Learned rounding on small networks, run by the scorer: closer to the float network than plain
 * rounding, levels of the grid, the same at any number of threads and whenever it is asked again. */
#include "hand_net.h"

#include "quant/equalize.h"
#include "quant/learned_start.h"
#include "runtime/reconstruct.h"

#define IMAGES 96
#define C      8

/* Stride 2, groups, depthwise, a residual stream with a convolution on either side, a dense end. */
static void make(hand *h) {
    int x = HAND_IMAGE(h, 21, 3, 12, 12);
    int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 3, C), C, NULL));
    int b = hand_conv(h, a, C, C, 2, (hand_window){3, 1, 1, 1});
    b = hand_op(h, "Relu", hand_bn(h, b, C, NULL));
    b = hand_bn(h, hand_conv(h, b, C, C, C, (hand_window){3, 1, 1, 1}), C, NULL);
    int sum = hand_op(h, "Relu", hand_op2(h, "Add", a, b));
    int left = hand_bn(h, hand_conv(h, sum, C, 2 * C, 1, (hand_window){3, 2, 1, 1}), 2 * C, NULL);
    int right = hand_bn(h, hand_conv(h, sum, C, 2 * C, 1, (hand_window){1, 2, 1, 0}), 2 * C, NULL);
    sum = hand_op(h, "Relu", hand_op2(h, "Add", left, right));
    int flat = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", sum));
    hand_finish(h, hand_gemm(h, flat, 2 * C, 5));
    hand_calibrate(h, IMAGES);
}

static nbi_learner *learner_of(hand *h) {
    nbi_learner *l;
    nbi_learner_options o = {.source = h->g, .net = h->net, .fill = hand_fill, .fill_user = h,
                             .images = h->images, .seed = 5};
    HAND_OK(nbi_learner_new(h->ctx, &o, &l));
    return l;
}

static nbi_frozen *freeze(hand *h, nbi_scorer *s, const nbi_choice *bits) {
    nbi_frozen *f;
    HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &f));
    return f;
}

static void assert_same(const hand *h, const nbi_frozen *a, const nbi_frozen *b) {
    for (int i = 0; i < h->net->n_layers; i++) {
        const nbi_layer *l = &h->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        size_t channels = (size_t)l->geometry.out_c;
        assert_memory_equal(a->conv[i].levels, b->conv[i].levels, l->n_weights);
        assert_memory_equal(a->conv[i].scale, b->conv[i].scale, channels * sizeof(float));
        assert_memory_equal(a->conv[i].shift, b->conv[i].shift, channels * sizeof(double));
    }
}

static double error(hand *h, nbi_scorer *s, const nbi_choice *bits, const float *reference) {
    float values[IMAGES * 5];
    double sum = 0, power = 0;
    HAND_OK(nbi_scorer_run(h->ctx, s, bits, h->net->output[0], values));
    for (int i = 0; i < IMAGES * 5; i++) {
        double e = (double)values[i] - (double)reference[i];
        sum += e * e;
        power += (double)reference[i] * (double)reference[i];
    }
    return sum / power;
}

static void test_closer(void **state) {
    hand net, *h = &net;
    nbi_choice bits[HAND_SITES];
    float reference[IMAGES * 5];
    (void)state;
    make(h);
    nbi_calibration c = {.fill = hand_fill, .user = h, .images = h->images,
                         .score_edge = nbi_score_edge(h->net), .scores = reference};
    HAND_OK(nbi_float_scores(h->ctx, h->g, h->net, &c));
    static const int widths[][2] = {{1, 8}, {2, 4}, {2, 8}, {3, 3}, {4, 4}};
    for (size_t i = 0; i < NBI_COUNT(widths); i++) {
        nbi_scorer *s = hand_scorer(h, IMAGES, 1u << 20);
        nbi_learner *l = learner_of(h);
        hand_bits(h, widths[i][0], widths[i][1], bits);
        double plain = error(h, s, bits, reference), before, after;
        nbi_scorer_set_rounding(s, nbi_learner_round, l);
        double learned = error(h, s, bits, reference);
        int layers;
        nbi_learner_errors(l, &before, &after, &layers);
        assert_int_equal(layers, 6);
        assert_true(after < before);
        /* the images are the calibration's own: 1 bit is hardly better, 2 bits twice as good */
        assert_true(learned < (widths[i][0] == 2 ? 0.6 : 1) * plain);
        nbi_scorer_set_rounding(s, NULL, NULL);
        assert_true(error(h, s, bits, reference) == plain);
        nbi_scorer_free(s);
        nbi_learner_free(l);
    }
    hand_free(h);
}

static void test_same_bytes(void **state) {
    hand net, *h = &net;
    nbi_choice bits[HAND_SITES];
    nbi_frozen *first = NULL;
    (void)state;
    make(h);
    hand_bits(h, 2, 4, bits);
    for (int threads = 1; threads <= 3; threads++) {
        nb_ctx_set_threads(h->ctx, threads);
        nbi_scorer *s = hand_scorer(h, IMAGES, 0);
        nbi_learner *l = learner_of(h);
        nbi_scorer_set_rounding(s, nbi_learner_round, l);
        nbi_frozen *f = freeze(h, s, bits), *again = freeze(h, s, bits);
        assert_same(h, f, again);
        if (first) assert_same(h, f, first);
        for (int i = 0; i < h->net->n_layers; i++) {
            if (h->net->layer[i].type != NBI_LAYER_CONV) continue;
            for (size_t k = 0; k < h->net->layer[i].n_weights; k++) {
                int v = f->conv[i].levels[k];
                assert_true(v == -16 || v == -8 || v == 0 || v == 8);
            }
        }
        nbi_frozen_free(again);
        if (first) nbi_frozen_free(f);
        else first = f;
        nbi_scorer_free(s);
        nbi_learner_free(l);
    }
    nbi_frozen_free(first);
    hand_free(h);
}

/* A failed allocation anywhere is an error, and nothing else. */
static void test_out_of_memory(void **state) {
    hand net, *h = &net;
    nbi_choice bits[HAND_SITES];
    (void)state;
    make(h);
    hand_bits(h, 2, 4, bits);
    bool failed = true;
    for (long k = 1; failed; k += 1 + k / 7) { /* a sample: later ones are alike */
        nbi_scorer *s = hand_scorer(h, IMAGES, 0);
        nbi_learner *l = NULL;
        nbi_frozen *f = NULL;
        nbi_learner_options o = {.source = h->g, .net = h->net, .fill = hand_fill, .fill_user = h,
                                 .images = h->images, .seed = 5};
        nbi_alloc_fail_after(k);
        nb_status st = nbi_learner_new(h->ctx, &o, &l);
        nbi_scorer_set_rounding(s, nbi_learner_round, l);
        if (st == NB_OK) st = nbi_scorer_freeze(h->ctx, s, bits, &f);
        failed = nbi_alloc_fail_left() == 0;
        nbi_alloc_fail_after(0);
        assert_int_equal(st, failed ? NB_ENOMEM : NB_OK);
        nbi_frozen_free(f);
        nbi_scorer_free(s);
        nbi_learner_free(l);
    }
    hand_free(h);
}

/* Blocks from Gram's levels: nothing gets worse, levels stay on the grid, steps positive, the same
 * again with the same seed; the scorer takes levels and grids. */
static void blocks(hand *h, const nbi_choice *bits, bool drop, nbi_qparam *grid,
                   nbi_reconstruction *job, nbi_frozen **out) {
    nbi_scorer *s = hand_scorer(h, IMAGES, 0);
    nbi_learner *l = learner_of(h);
    nbi_scorer_set_rounding(s, nbi_learner_round, l);
    nbi_frozen_free(freeze(h, s, bits));
    *job = (nbi_reconstruction){.blocks = {h->g, h->net, bits, nbi_score_edge(h->net), 16, 60, drop,
                                           9},
                                .fill = hand_fill, .fill_user = h, .images = IMAGES,
                                .scorer_images = IMAGES};
    nbi_scorer_set_grids(s, grid);
    HAND_OK(nbi_reconstruct(h->ctx, s, l, grid, job));
    *out = freeze(h, s, bits);
    nbi_scorer_free(s);
    nbi_learner_free(l);
}

static void test_blocks(void **state) {
    hand net, *h = &net;
    nbi_choice bits[HAND_SITES];
    (void)state;
    make(h);
    hand_bits(h, 2, 3, bits);
    for (int drop = 0; drop < 2; drop++) {
        nbi_qparam grid[2][HAND_SITES] = {{{0}}};
        nbi_reconstruction job[2];
        nbi_frozen *f[2];
        for (int i = 0; i < 2; i++) blocks(h, bits, drop, grid[i], &job[i], &f[i]);
        assert_in_range(job[0].n_blocks, 2, 4); /* a residual block, one with a shortcut, the end */
        assert_true(job[0].before > 0 && job[0].after <= job[0].before);
        assert_true(job[0].improved > 0 || job[0].after == job[0].before);
        assert_true(job[0].after == job[1].after);
        assert_same(h, f[0], f[1]);
        for (int i = 0; i < h->net->n_layers; i++)
            for (size_t k = 0; h->net->layer[i].type == NBI_LAYER_CONV &&
                               k < h->net->layer[i].n_weights; k++)
                assert_true(f[0]->conv[i].levels[k] % 8 == 0 &&
                            abs(f[0]->conv[i].levels[k] + 4) <= 12);
        for (int i = 0; i < h->net->n_sites; i++)
            assert_true(grid[0][i].dtype == NB_DTYPE_NONE || (drop && grid[0][i].scale > 0));
        nbi_frozen_free(f[0]);
        nbi_frozen_free(f[1]);
    }
    hand_free(h);
}

/* Training that starts from learned rounding computes with the same levels, and its gains are the
 * network's whatever the statistics are. */
static void test_start(void **state) {
    static const int widths[][2] = {{1, 8}, {2, 4}, {3, 3}, {4, 4}};
    hand net, *h = &net;
    nbi_choice bits[HAND_SITES];
    (void)state;
    make(h);
    for (size_t i = 0; i < NBI_COUNT(widths); i++) {
        nbi_qat_options o = {.batch = 4, .per_channel = true, .classes = 5};
        nbi_frozen *rounded, *trained;
        nbi_qat *q;
        size_t seen = 0;
        hand_bits(h, widths[i][0], widths[i][1], bits);
        nbi_scorer *s = hand_scorer(h, IMAGES, 0);
        nbi_learner *l = learner_of(h);
        nbi_scorer_set_rounding(s, nbi_learner_round, l);
        rounded = freeze(h, s, bits);
        HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, bits, nbi_score_edge(h->net), &o, &q));
        nbi_qparam grid[HAND_SITES] = {{0}}; /* one activation was learned, too */
        int site = 0;
        while (q->site_scale[site] < 0) site++;
        grid[site] = (nbi_qparam){.dtype = NB_DTYPE_U8, .scale = 0.375};
        HAND_OK(nbi_learned_start(h->ctx, l, grid, q));
        assert_true(*(float *)q->graph->tensor[q->site_scale[site]]->data == 0.375f);
        for (int k = 0; k < h->net->n_layers; k++)
            for (int c = 0; q->layer[k].gamma >= 0 && c < h->net->layer[k].geometry.out_c; c++)
                ((float *)q->graph->tensor[q->layer[k].variance]->data)[c] = 0.5f + (float)c;
        nbi_learned_gains(l, q);
        HAND_OK(nbi_qat_freeze(h->ctx, q, &trained));
        for (int k = 0; k < h->net->n_layers; k++) {
            const nbi_layer *layer = &h->net->layer[k];
            const nbi_frozen_conv *a = &rounded->conv[k], *b = &trained->conv[k];
            if (layer->type != NBI_LAYER_CONV) continue;
            size_t channels = (size_t)layer->geometry.out_c, depth = layer->n_weights / channels;
            for (size_t c = 0; c < channels; c++) {
                double gain = layer->gain[c];
                if (q->layer[k].gamma < 0) gain = 1;
                if (gain <= 0) continue; /* training turns these */
                assert_true(fabs(b->gain[c] - gain) <= 1e-5 * gain);
                for (size_t d = 0; d < depth; d++, seen++) {
                    size_t at = nbi_weight_place(layer, c, d);
                    assert_int_equal(a->levels[at], b->levels[at]);
                }
            }
        }
        assert_true(seen > 1000);
        nbi_qat_free(q);
        nbi_frozen_free(rounded);
        nbi_frozen_free(trained);
        nbi_scorer_free(s);
        nbi_learner_free(l);
    }
    hand_free(h);
}

/* Output of the float graph on one made-up image. */
static void run_float(hand *h, const float *image, float *out, size_t n) {
    nbi_graph *g;
    nbi_exec *e;
    nbi_view v;
    HAND_OK(nbi_specialize_batch(h->ctx, h->g, 1, &g));
    HAND_OK(nbi_exec_new(h->ctx, g, NBI_EXEC_REFERENCE, &e));
    HAND_OK(nbi_exec_run(h->ctx, e, (const void *const[]){image}));
    HAND_OK(nbi_exec_value(h->ctx, e, g->output[0], &v));
    assert_int_equal(nbi_view_count(&v), n);
    memcpy(out, v.data, n * sizeof *out);
    nbi_exec_free(e);
    nbi_graph_free(g);
}

/* Two pairs in a chain, one without (Add) and one clipped; the function stays, ranges meet. */
static void test_equalize(void **state) {
    enum { N = 5, SIDE = 6 };
    hand net, *h = &net;
    float image[3 * SIDE * SIDE], before[N], after[N];
    int pairs;
    (void)state;
    int x = HAND_IMAGE(h, 33, 3, SIDE, SIDE);
    int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 3, C), C, NULL));
    a = hand_op(h, "Relu", hand_conv(h, a, C, C, C, (hand_window){3, 1, 1, 1}));
    int first = h->g->node[h->g->n_nodes - 2]->in[1];
    for (int i = 0; i < 9; i++) hand_data(h, first)[i] *= 50; /* one channel far above the others */
    int b = hand_conv(h, a, C, C, 1, (hand_window){1, 1, 1, 0});
    b = hand_op(h, "Relu", hand_op2(h, "Add", b, hand_conv3(h, x, 3, C)));
    b = hand_clip(h, hand_conv3(h, b, C, C), 0, 6);
    b = hand_op(h, "GlobalAveragePool", hand_conv3(h, b, C, N));
    hand_outputs(h, 1, &b);
    for (size_t i = 0; i < NBI_COUNT(image); i++) image[i] = (float)nbi_rng_normal(&h->rng);
    run_float(h, image, before, N);
    float was = hand_data(h, first)[0];
    HAND_OK(nbi_equalize(h->ctx, h->g, &pairs));
    assert_int_equal(pairs, 2);
    assert_true(fabsf(hand_data(h, first)[0]) < fabsf(was) / 2);
    run_float(h, image, after, N);
    for (int i = 0; i < N; i++) /* float32 products of other factors */
        assert_true(fabsf(after[i] - before[i]) < 1e-4f * (1 + fabsf(before[i])));
    hand_free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closer),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_equalize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
