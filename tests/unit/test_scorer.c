/* The scorer against itself and the runner, corrections against the float network. */
#include "unit/hand_zoo.h"

enum { POLICIES = 5 };

static void random_policies(hand *h, nbi_choice bits[POLICIES][HAND_SITES]) {
    hand_bits(h, 8, 8, bits[0]);
    for (int i = 1; i < POLICIES; i++) hand_bits(h, 0, 0, bits[i]);
    memcpy(bits[2], bits[1], sizeof bits[1]); /* differs from 1 late in the network only */
    for (int s = h->net->n_sites - 1; s >= 0; s--)
        if (!h->net->site[s].fixed_bits) {
            bits[2][s] = (uint8_t)(bits[2][s] == 4 ? 3 : 4);
            break;
        }
}

static void score(hand *h, nbi_scorer *s, const nbi_choice *bits, float *values) {
    HAND_OK(nbi_scorer_run(h->ctx, s, bits, h->net->output[0], values));
}

static void test_scorer_agrees(void **state) {
    (void)state;
    enum { IMAGES = 17, VALUES = IMAGES * ZOO_CLASSES };
    static const int order[3][POLICIES] = {{0, 1, 2, 3, 4}, {4, 2, 1, 0, 3}, {2, 3, 4, 1, 0}};
    static const size_t cache[3] = {64u << 20, 0, 40000};
    nbi_choice bits[POLICIES][HAND_SITES];
    float want[POLICIES][VALUES], got[VALUES];
    hand data, *h = zoo_ready(&data, 31, IMAGES, false);
    random_policies(h, bits);
    for (int i = 0; i < POLICIES; i++) { /* a fresh scorer each: nothing shared */
        nbi_scorer *s = hand_scorer(h, 13, 0);
        score(h, s, bits[i], want[i]);
        nbi_scorer_free(s);
    }
    for (int threads = 1; threads <= 3; threads++)
        for (int k = 0; k < (threads == 2 ? 3 : 1); k++) {
            nb_ctx_set_threads(h->ctx, threads);
            nbi_scorer *s = hand_scorer(h, 13, cache[k]);
            double computed, saved;
            for (int twice = k > 0 || threads > 1; twice < 2; twice++)
                for (int i = 0; i < POLICIES; i++) {
                    int p = order[(threads + k) % 3][i];
                    score(h, s, bits[p], got);
                    assert_memory_equal(got, want[p], sizeof got);
                }
            nbi_scorer_counts(s, &computed, &saved);
            if (k == 0 && threads == 1) assert_true(saved > computed); /* the 2nd is free */
            if (k == 1) assert_true(saved < computed); /* little is left to share */
            nbi_scorer_free(s);
        }
    hand_free(h);
}

static void test_scorer_is_runner(void **state) {
    (void)state;
    enum { IMAGES = 11, VALUES = IMAGES * ZOO_CLASSES };
    for (int pixels = 0; pixels < 2; pixels++) {
        nbi_choice bits[POLICIES][HAND_SITES];
        hand data, *h = zoo_ready(&data, 40 + (uint64_t)pixels, IMAGES, pixels);
        nbi_scorer *s = hand_scorer(h, 8, 1u << 20);
        random_policies(h, bits);
        for (int i = 0; i < POLICIES; i++) {
            nbi_frozen *frozen;
            nbi_program *p;
            nbi_runner *runner;
            float values[VALUES], again[VALUES];
            int32_t out[VALUES], *list[8] = {out};
            score(h, s, bits[i], values);
            HAND_OK(nbi_scorer_freeze(h->ctx, s, bits[i], &frozen));
            score(h, s, bits[i], again); /* freezing leaves the scorer as it was */
            assert_memory_equal(values, again, sizeof values);
            HAND_OK(nbi_lower(h->ctx, frozen, &p));
            assert_int_equal(p->input_is_pixels, pixels);
            HAND_OK(nbi_runner_new(h->ctx, p, &runner));
            HAND_OK(nbi_runner_run(h->ctx, runner, IMAGES, h->codes, list));
            const nbi_ptensor *t = &p->tensor[p->output[0]];
            assert_int_equal(t->dtype, NB_DTYPE_S32);
            for (int k = 0; k < VALUES; k++)
                again[k] = (float)(t->scale * ((double)out[k] - t->zero));
            assert_memory_equal(values, again, sizeof values);
            nbi_runner_free(runner);
            nbi_program_free(p);
            nbi_frozen_free(frozen);
        }
        nbi_scorer_free(s);
        hand_free(h);
    }
}

/* At 8 bits the scores are the float network's, nearly. */
static void test_scorer_near_float(void **state) {
    (void)state;
    enum { IMAGES = 16, VALUES = IMAGES * ZOO_CLASSES };
    nbi_choice bits[HAND_SITES];
    float got[VALUES], want[VALUES];
    hand data, *h = zoo_ready(&data, 50, IMAGES, true);
    nbi_calibration c = {.fill = hand_fill, .user = h, .images = IMAGES,
                         .score_edge = h->net->output[0], .scores = want};
    HAND_OK(nbi_float_scores(h->ctx, h->g, h->net, &c));
    nbi_scorer *s = hand_scorer(h, IMAGES, 0);
    hand_bits(h, 8, 8, bits);
    score(h, s, bits, got);
    double wrong = 0, power = 0;
    for (int i = 0; i < VALUES; i++) {
        double d = (double)got[i] - (double)want[i];
        wrong += d * d;
        power += (double)want[i] * (double)want[i];
    }
    /* about 20 layers of 8 bits, 40 dB each */
    assert_true(wrong / power < 0.003);
    nbi_scorer_free(s);
    hand_free(h);
}

/* Every allocation fails once; afterwards the scorer still says the truth. */
static void check_out_of_memory(hand *h, const nbi_choice *bits, size_t stat_images) {
    enum { VALUES = 9 * ZOO_CLASSES };
    float want[VALUES], got[VALUES];
    nbi_scorer *s = hand_scorer(h, stat_images, 0);
    score(h, s, bits, want);
    nbi_scorer_free(s);
    bool failed = true;
    for (long k = 1; failed; k++) {
        nbi_frozen *frozen = NULL;
        s = hand_scorer(h, stat_images, 8u << 20);
        nbi_alloc_fail_after(k);
        nb_status st = nbi_scorer_run(h->ctx, s, bits, h->net->output[0], got);
        nbi_alloc_fail_after(0);
        assert_true(st == NB_OK || st == NB_ENOMEM);
        failed = st != NB_OK;
        score(h, s, bits, got);
        assert_memory_equal(got, want, sizeof got);
        nbi_alloc_fail_after(k);
        st = nbi_scorer_freeze(h->ctx, s, bits, &frozen);
        nbi_alloc_fail_after(0);
        assert_true(st == NB_OK || (st == NB_ENOMEM && !frozen));
        failed |= st != NB_OK;
        nbi_frozen_free(frozen);
        score(h, s, bits, got);
        assert_memory_equal(got, want, sizeof got);
        nbi_scorer_free(s);
    }
}

static void test_scorer_out_of_memory(void **state) {
    (void)state;
    nbi_choice bits[HAND_SITES];
    hand data, *h = zoo_ready(&data, 60, 9, false);
    hand_bits(h, 0, 0, bits);
    check_out_of_memory(h, bits, 5);
    check_out_of_memory(h, bits, 0); /* weights are packed after the output's buffer is made */
    hand_free(h);
}

static void test_scorer_refuses(void **state) {
    (void)state;
    nbi_choice bits[HAND_SITES];
    float got[4 * ZOO_CLASSES];
    hand data, *h = zoo_ready(&data, 61, 4, false);
    nbi_scorer *s = hand_scorer(h, 4, 0);
    hand_bits(h, 4, 4, bits);
    nb_ctx_set_threads(h->ctx, 4); /* more than it has scratch for */
    assert_int_equal(nbi_scorer_run(h->ctx, s, bits, h->net->output[0], got), NB_EINVAL);
    nb_ctx_set_threads(h->ctx, 1);
    bits[1] = 9;
    assert_int_equal(nbi_scorer_run(h->ctx, s, bits, h->net->output[0], got), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(h->ctx), h->net->site[1].name));
    nbi_scorer_free(s);
    hand_free(h);
}

/* ---- the correction ------------------------------------------------------------------------ */

/* Per channel: mean and deviation of the layer's exact output before the clamp, over all images,
 * from the codes that its input really has. */
static void real_statistics(hand *h, nbi_scorer *s, const nbi_choice *bits, const nbi_layer *l,
                            const nbi_frozen_conv *f, double *mean, double *deviation) {
    size_t n_in = edge_count(&h->net->edge[l->in[0]]), n_out = edge_count(&h->net->edge[l->out]);
    size_t channels = (size_t)l->geometry.out_c;
    float *values = calloc(h->images * n_in, sizeof *values);
    double *x = calloc(n_in, sizeof *x), *y = calloc(n_out, sizeof *y);
    HAND_OK(nbi_scorer_run(h->ctx, s, bits, l->in[0], values));
    for (size_t c = 0; c < channels; c++) mean[c] = deviation[c] = 0;
    for (size_t i = 0; i < h->images; i++) {
        for (size_t k = 0; k < n_in; k++) x[k] = (double)values[i * n_in + k];
        zoo_conv(l, f, x, y);
        for (size_t k = 0; k < n_out; k++) {
            mean[k % channels] += y[k];
            deviation[k % channels] += y[k] * y[k];
        }
    }
    double n = (double)(h->images * n_out / channels);
    for (size_t c = 0; c < channels; c++) {
        mean[c] /= n;
        deviation[c] = sqrt(fmax(deviation[c] / n - mean[c] * mean[c], 0));
    }
    free(values);
    free(x);
    free(y);
}

static void test_correction(void **state) {
    (void)state;
    for (int width = 1; width <= 8; width += width < 4 ? 1 : 4) {
        nbi_choice bits[HAND_SITES];
        nbi_frozen *frozen;
        int matched = 0;
        hand data, *h = zoo_ready(&data, 70, 12, false);
        nbi_scorer *s = hand_scorer(h, h->images, 32u << 20);
        hand_bits(h, width, width < 2 ? 2 : width, bits);
        HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
        for (int i = 0; i < h->net->n_layers; i++) {
            const nbi_layer *l = &h->net->layer[i];
            const nbi_frozen_conv *f = &frozen->conv[i];
            double mean[64], deviation[64], sqnr;
            float scale[64];
            int8_t levels[2048];
            if (l->type != NBI_LAYER_CONV) continue;
            assert_in_range(l->n_weights, 1, sizeof levels);
            HAND_OK(nbi_fit_weights(h->ctx, l, f->bits, true, levels, scale, &sqnr));
            nbi_clear_constants(l, f->bits, NULL, levels);
            assert_memory_equal(levels, f->levels, l->n_weights);
            real_statistics(h, s, bits, l, f, mean, deviation);
            const nbi_qparam *x = &frozen->site[h->net->edge[l->in[0]].site];
            for (int c = 0; c < l->geometry.out_c; c++) {
                double want = (double)l->gain[c] * l->mean[c] + (double)l->shift[c];
                double sigma = (double)l->gain[c] * l->deviation[c];
                double step = x->scale * (double)f->scale[c]; /* the shift is a multiple of it */
                /* float32 values and scales: 1e-4 of the deviation */
                if (!(fabs(mean[c] - want) <= 0.51 * step + 1e-4 * (sigma + fabs(want)) + 1e-9))
                    fail_msg("%d bits, layer '%s', channel %d: mean %g, float %g, step %g", width,
                             l->name, c, mean[c], want, step);
                /* the factor on the deviation: 1 at the end, else held within 1/4 … 4 */
                double r = (double)f->scale[c] / ((double)l->gain[c] * (double)scale[c]);
                if (l->gain[c] <= 0 || deviation[c] <= 1e-5 * sigma) continue; /* one code */
                if (l->is_last) assert_true(fabs(r - 1) < 1e-6);
                else assert_true(r > 0.2499 && r < 4.001);
                if (l->is_last || r < 0.2501 || r > 3.999) continue;
                assert_true(fabs(deviation[c] / sigma - 1) < 1e-3);
                matched++;
            }
        }
        assert_true(matched > 20);
        nbi_frozen_free(frozen);
        nbi_scorer_free(s);
        hand_free(h);
    }
}

/* The oracle is the float engine: a tensor in the network's middle, no clamp on it. */
static void test_correction_outputs(void **state) {
    (void)state;
    static const float gamma[4] = {1, -0.7f, 0, 1.3f};
    enum { IMAGES = 24, SPACE = 36, COUNT = 4 * SPACE };
    for (int width = 2; width <= 8; width += 2) {
        nbi_choice bits[HAND_SITES];
        float *got = malloc(IMAGES * COUNT * sizeof *got);
        float *want = malloc(IMAGES * COUNT * sizeof *want);
        hand data, *h = &data;
        int x = HAND_IMAGE(h, 80, 3, 6, 6), a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
        int y = hand_bn(h, hand_conv3(h, a, 4, 4), 4, gamma), z = hand_op(h, "Sigmoid", y);
        hand_outputs(h, 1, &z);
        hand_generate(h, NBI_FIRST_LAST_SEARCHED);
        hand_calibrate(h, IMAGES);
        int edge = hand_edge(h, y);
        nbi_calibration c = {.fill = hand_fill, .user = h, .images = IMAGES, .score_edge = edge,
                             .scores = want};
        HAND_OK(nbi_float_scores(h->ctx, h->g, h->net, &c));
        nbi_scorer *s = hand_scorer(h, IMAGES, 0);
        hand_bits(h, width, width, bits);
        HAND_OK(nbi_scorer_run(h->ctx, s, bits, edge, got));
        nbi_frozen *frozen;
        HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
        const nbi_layer *l = hand_layer(h, y);
        for (int k = 0; k < 4; k++) {
            /* a step of the output, and the shift's rounding to a step of the sums */
            double sum = 0, step = h->net->site[h->net->edge[edge].site].fit[8].scale;
            step += 0.51 * frozen->site[h->net->edge[l->in[0]].site].scale *
                    (double)frozen->conv[l - h->net->layer].scale[k];
            for (int i = k; i < IMAGES * COUNT; i += 4) sum += (double)got[i] - (double)want[i];
            if (!(fabs(sum / (IMAGES * SPACE)) <= step))
                fail_msg("%d bits, channel %d: mean is off by %g, a step is %g", width, k,
                         sum / (IMAGES * SPACE), step);
        }
        nbi_frozen_free(frozen);
        nbi_scorer_free(s);
        hand_free(h);
        free(got);
        free(want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scorer_agrees),
        cmocka_unit_test(test_scorer_is_runner),
        cmocka_unit_test(test_scorer_near_float),
        cmocka_unit_test(test_scorer_out_of_memory),
        cmocka_unit_test(test_scorer_refuses),
        cmocka_unit_test(test_correction),
        cmocka_unit_test(test_correction_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
