/* The integer runtime: layers against their formulas in double, the scorer against itself and the
 * runner, corrections against the float network, sizes against programs. */
#include "unit/hand_zoo.h"

/* ---- layers against formulas --------------------------------------------------------------- */

typedef struct layer_case {
    hand *h;
    const nbi_layer *l;
    const nbi_qparam *site;
    nbi_arena arena;
    void *codes[2]; /* of the inputs, random */
    double *real[2];
    double *want;
    int32_t *got;
    size_t n;
} layer_case;

static size_t edge_count(const nbi_edge *e) {
    return (size_t)e->h * (size_t)e->w * (size_t)e->c;
}

static int32_t stored(const nbi_qparam *q, const void *data, size_t i) {
    if (q->dtype == NB_DTYPE_S32) return ((const int32_t *)data)[i];
    return q->dtype == NB_DTYPE_S8 ? ((const int8_t *)data)[i] : ((const uint8_t *)data)[i];
}

/* Random codes of an edge: all of the grid, its ends often. */
static void random_codes(layer_case *t, int k) {
    const nbi_edge *e = &t->h->net->edge[t->l->in[k]];
    const nbi_qparam *q = &t->site[e->site];
    size_t n = edge_count(e);
    assert_true(q->dtype == NB_DTYPE_U8 || q->dtype == NB_DTYPE_S8);
    t->codes[k] = nbi_arena_alloc(&t->arena, n + NBI_KERNEL_SLACK, 1);
    t->real[k] = nbi_arena_alloc(&t->arena, n, sizeof(double));
    bool extreme = nbi_rng_below(&t->h->rng, 4) == 0;
    for (size_t i = 0; i < n; i++) {
        int32_t v = q->lo + (int32_t)nbi_rng_below(&t->h->rng, (uint32_t)(q->hi - q->lo + 1));
        if (extreme) v = nbi_rng_below(&t->h->rng, 2) ? q->hi : q->lo;
        ((uint8_t *)t->codes[k])[i] = (uint8_t)v;
        t->real[k][i] = q->scale * (v - q->zero);
    }
}

static void run_steps(layer_case *t, const nbi_step *step, int n) {
    hand *h = t->h;
    const nbi_qparam *y = &t->site[h->net->edge[t->l->out].site];
    void *out = nbi_arena_alloc(&t->arena, t->n * 4 + NBI_KERNEL_SLACK, 1);
    for (int i = 0; i < n; i++) {
        nbi_ready_step ready;
        void *packed = NULL, *scratch = NULL;
        const void *in[3] = {t->codes[0], t->codes[1], NULL};
        HAND_OK(nbi_step_ready(h->ctx, &step[i], &packed, &ready));
        HAND_OK(nbi_alloc(h->ctx, ready.scratch + NBI_KERNEL_SLACK, 1, &scratch));
        HAND_OK(nbi_step_run(h->ctx, &ready, NULL, in, out, scratch));
        nbi_free(packed);
        nbi_free(scratch);
    }
    for (size_t i = 0; i < t->n; i++) t->got[i] = stored(y, out, i);
}

/* |code − formula's code| ≤ 1 + slack, in steps of the output. */
static void compare_codes(const layer_case *t, const double *slack) {
    const nbi_edge *e = &t->h->net->edge[t->l->out];
    const nbi_qparam *y = &t->site[e->site];
    for (size_t i = 0; i < t->n; i++) {
        double k = zoo_clamp(rint(t->want[i] / y->scale) + y->zero, y->lo, y->hi);
        /* int32 outputs have 2^20 steps and more: the multipliers' relative error is 2^−30 */
        double most = 1 + (slack ? slack[i % (size_t)e->c] : 0) + fabs(k) * 1e-8;
        if (!(fabs(t->got[i] - k) <= most))
            fail_msg("layer '%s' (type %d), element %zu: code %d, formula %g (%g), allowed %g",
                     t->l->name, (int)t->l->type, i, t->got[i], k, t->want[i] / y->scale, most);
    }
}

/* The frozen form of a convolution without correction, before and after nbi_fold_gain. */
static void freeze_conv(layer_case *t, int bits, int bias_bits, nbi_frozen_conv *plain,
                        nbi_frozen_conv *folded) {
    hand *h = t->h;
    size_t c = (size_t)t->l->geometry.out_c;
    int8_t *levels = nbi_arena_alloc(&t->arena, t->l->n_weights, 1);
    float *scale = nbi_arena_alloc(&t->arena, c, sizeof *scale);
    double sqnr;
    HAND_OK(nbi_fit_weights(h->ctx, t->l, bits, true, levels, scale, &sqnr));
    *plain = (nbi_frozen_conv){.bits = bits, .bias_bits = bias_bits, .levels = levels,
                               .scale = scale};
    for (int k = 0; k < 2; k++) {
        nbi_frozen_conv *f = k ? folded : plain;
        *f = *plain;
        f->gain = nbi_arena_alloc(&t->arena, c, sizeof(double));
        f->shift = nbi_arena_alloc(&t->arena, c, sizeof(double));
        for (size_t i = 0; i < c; i++) {
            f->gain[i] = (double)t->l->gain[i];
            f->shift[i] = (double)t->l->shift[i];
        }
    }
    const nbi_qparam *x = &t->site[h->net->edge[t->l->in[0]].site];
    const nbi_qparam *y = &t->site[h->net->edge[t->l->out].site];
    HAND_OK(nbi_fold_gain(h->ctx, t->l, x, y, &t->arena, folded));
}

/* What the C stores and runs: packed weights, narrow biases, the reference kernels. */
static void compare_stored(layer_case *t, const nbi_step *step, int bias_bits) {
    const nbk_conv p = nbi_stored_conv(&step->u.conv);
    const nbi_qparam *y = &t->site[t->h->net->edge[t->l->out].site];
    const bool depthwise = step->type == NBI_STEP_DWCONV;
    assert_int_equal(p.bias_bits == 8 || p.bias_bits == 16 ? p.bias_bits : 32, bias_bits);
    void *out = nbi_arena_alloc(&t->arena, t->n * 4, 1);
    void *scratch = nbi_arena_alloc(&t->arena, nbi_step_scratch_bytes(step) + 1, 1);
    (depthwise ? nbk_dwconv_run : nbk_conv_run)(&p, t->codes[0], out, scratch);
    for (size_t i = 0; i < t->n; i++)
        if (stored(y, out, i) != t->got[i])
            fail_msg("layer '%s', %d-bit biases, element %zu: %d as stored, %d here", t->l->name,
                     bias_bits, i, stored(y, out, i), t->got[i]);
}

static void check_layer(hand *h, int index, const nbi_qparam *site, const nbi_choice *bits) {
    layer_case data = {.h = h, .l = &h->net->layer[index], .site = site}, *t = &data;
    const nbi_edge *e = &h->net->edge[t->l->out];
    nbi_frozen_conv plain = {0}, folded = {0};
    nbi_step step[NBI_MAX_STEPS];
    double slack[64];
    int n;
    if (t->l->type == NBI_LAYER_COPY) return; /* see test_moves */
    t->n = edge_count(e);
    t->want = nbi_arena_alloc(&t->arena, t->n, sizeof(double));
    t->got = nbi_arena_alloc(&t->arena, t->n, sizeof *t->got);
    for (int k = 0; k < t->l->n_in; k++) random_codes(t, k);
    if (t->l->type == NBI_LAYER_CONV)
        freeze_conv(t, bits[t->l->weight_site], bits[t->l->bias_site], &plain, &folded);
    HAND_OK(nbi_lower_layer(h->ctx, h->net, index, site, &folded, true, &t->arena, step, &n));
    if (n == 0) goto done; /* the same grid */
    run_steps(t, step, n);
    zoo_formula(h->net, t->l, &folded, t->real, t->want);
    compare_codes(t, NULL);
    if (t->l->type == NBI_LAYER_CONV) { /* folding moves the shift by half a unit of the bias */
        const nbi_step_conv *conv = &step[0].u.conv;
        compare_stored(t, step, bits[t->l->bias_site]);
        const nbi_qparam *x = &site[h->net->edge[t->l->in[0]].site], *y = &site[e->site];
        assert_in_range(e->c, 1, 64);
        for (int c = 0; c < e->c; c++) {
            double unit = 1; /* in accumulator steps, to which it is rounded before */
            if (conv->bias_codes)
                unit += ldexp(1, nbi_bias_exponent(conv->p.shift[c], conv->bias_shift));
            slack[c] = 0.5 * unit * x->scale * (double)folded.scale[c] / y->scale;
            if (plain.gain[c] != 0) continue;
            if (!conv->bias_codes) slack[c] = 0; /* a constant; of one bit: what is left of sums·|shift|/2^30 */
            if (folded.bits == 1) slack[c] += 0.25;
        }
        zoo_formula(h->net, t->l, &plain, t->real, t->want);
        compare_codes(t, slack);
        /* packed codes are the levels */
        int8_t *back = nbi_arena_alloc(&t->arena, t->l->n_weights, 1);
        nbk_unpack(step[0].u.conv.p.w, folded.bits, step[0].u.conv.p.w_levels, 0, t->l->n_weights,
                   back);
        assert_memory_equal(back, folded.levels, t->l->n_weights);
    }
done:
    nbi_arena_free(&t->arena);
}

static void policy_sites(const hand *h, const nbi_choice *bits, nbi_qparam *site) {
    for (int i = 0; i < h->net->n_sites; i++)
        if (h->net->site[i].kind != NBI_SITE_BIAS) site[i] = h->net->site[i].fit[bits[i]];
}

static void test_layers(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        hand data, *h = &data;
        nbi_choice bits[HAND_SITES];
        nbi_qparam site[HAND_SITES];
        hand_finish(h, zoo_build(h, seed));
        assert_in_range(h->net->n_sites, 1, HAND_SITES);
        hand_calibrate(h, 8);
        static const nbi_layer_type types[] = {NBI_LAYER_CONV, NBI_LAYER_ADD, NBI_LAYER_MUL,
                                               NBI_LAYER_UNARY, NBI_LAYER_REQUANT,
                                               NBI_LAYER_MAXPOOL, NBI_LAYER_AVGPOOL};
        for (size_t i = 0; i < NBI_COUNT(types); i++) assert_true(hand_count(h, types[i]) > 0);
        assert_int_equal(hand_count(h, NBI_LAYER_FLOAT), 0);
        for (int round = 0; round < 10; round++) {
            if (round < 8) hand_bits(h, round + 1, round + 1, bits);
            else hand_bits(h, 0, 0, bits);
            if (round < 8 && seed < 3) hand_bias_bits(h, seed == 0 ? 8 : seed == 1 ? 16 : 0, bits);
            policy_sites(h, bits, site);
            for (int l = 0; l < h->net->n_layers; l++) check_layer(h, l, site, bits);
        }
        hand_free(h);
    }
}

/* Sums that int32 cannot hold are refused with the layer's name. */
static void test_refuses_overflow(void **state) {
    (void)state;
    hand data, *h = &data;
    int x = HAND_IMAGE(h, 1, 1, 4096, 4096), y = hand_op(h, "GlobalAveragePool", x);
    nbi_qparam site[HAND_SITES];
    nbi_choice bits[HAND_SITES];
    nbi_step step[NBI_MAX_STEPS];
    nbi_arena arena = {0};
    int n;
    hand_finish(h, y);
    hand_bits(h, 8, 8, bits);
    policy_sites(h, bits, site);
    assert_int_equal(nbi_lower_layer(h->ctx, h->net, 0, site, NULL, true, &arena, step, &n),
                     NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "GlobalAveragePool0"));
    hand_free(h);
    x = HAND_IMAGE(h, 1, 32767, 3, 3);
    hand_finish(h, hand_conv(h, x, 32767, 1, 1, (hand_window){3, 1, 1, 0}));
    hand_bits(h, 8, 8, bits);
    policy_sites(h, bits, site);
    layer_case t = {.h = h, .l = &h->net->layer[0], .site = site};
    nbi_frozen_conv plain, folded;
    freeze_conv(&t, 8, 32, &plain, &folded);
    int8_t *levels = nbi_arena_alloc(&arena, t.l->n_weights, 1);
    memset(levels, -128, t.l->n_weights);
    folded.levels = levels;
    assert_int_equal(nbi_lower_layer(h->ctx, h->net, 0, site, &folded, true, &arena, step, &n),
                     NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "Conv0"));
    nbi_arena_free(&t.arena);
    nbi_arena_free(&arena);
    hand_free(h);
}

static void test_quantize(void **state) {
    (void)state;
    nbi_qparam q = {.dtype = NB_DTYPE_U8, .bits = 8, .scale = 0.5, .zero = 3, .hi = 255};
    assert_int_equal(nbi_quantize(&q, 0), 3);
    assert_int_equal(nbi_quantize(&q, 0.25f), 3); /* ties to even */
    assert_int_equal(nbi_quantize(&q, 0.75f), 5);
    assert_int_equal(nbi_quantize(&q, -99), 0);
    assert_int_equal(nbi_quantize(&q, INFINITY), 255);
    assert_int_equal(nbi_quantize(&q, NAN), 0);
    nbi_qparam wide = {.dtype = NB_DTYPE_S32, .bits = 8, .scale = 1, .lo = INT32_MIN,
                       .hi = INT32_MAX};
    assert_int_equal(nbi_quantize(&wide, 2147483648.0f), INT32_MAX);
    assert_int_equal(nbi_quantize(&wide, 1e30f), INT32_MAX);
    assert_int_equal(nbi_quantize(&wide, -2147483648.0f), INT32_MIN);
    assert_int_equal(nbi_quantize(&wide, 2147483520.0f), 2147483520);
}

/* ---- the scorer ---------------------------------------------------------------------------- */

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

static hand *zoo_ready(hand *h, uint64_t seed, size_t images, bool pixels) {
    hand_finish(h, zoo_build(h, seed));
    if (pixels) zoo_pixels(h, images);
    else hand_calibrate(h, images);
    return h;
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

/* ---- sizes --------------------------------------------------------------------------------- */

static void test_footprint(void **state) {
    (void)state;
    for (int pixels = 0; pixels < 2; pixels++) {
        nbi_choice bits[HAND_SITES];
        hand data, *h = zoo_ready(&data, 90 + (uint64_t)pixels, 4, pixels);
        nbi_scorer *s = hand_scorer(h, 4, 1u << 20);
        size_t fixed = 0;
        for (int round = 0; round < 24; round++) {
            nbi_frozen *frozen;
            nbi_program *p;
            size_t ram, planned, stored_bytes = 0;
            int one_bit = 0;
            if (round < 8) hand_bits(h, round + 1, round + 1, bits);
            else hand_bits(h, 0, 0, bits);
            HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
            HAND_OK(nbi_lower(h->ctx, frozen, &p));
            HAND_OK(nbi_footprint_ram(h->ctx, h->net, bits, &ram));
            HAND_OK(nbi_program_ram(h->ctx, p, &planned));
            assert_int_equal(ram, planned);
            for (int i = 0; i < p->n_steps; i++) {
                stored_bytes += nbi_step_const_bytes(&p->step[i]);
                one_bit += p->step[i].type <= NBI_STEP_DWCONV && p->step[i].u.conv.p.w_bits == 1;
            }
            if (one_bit > 1) stored_bytes -= 2 * (size_t)(one_bit - 1); /* one level table */
            size_t rest = stored_bytes - nbi_footprint_variable(h->net, bits);
            if (round == 0) fixed = rest;
            assert_int_equal(rest, fixed);
            assert_int_equal(rest, nbi_footprint_fixed(h->net));
            assert_true(p->const_bytes <= stored_bytes);
            nbi_program_free(p);
            nbi_frozen_free(frozen);
        }
        nbi_scorer_free(s);
        hand_free(h);
    }
}

static void test_profile(void **state) {
    (void)state;
    nbi_choice bits[HAND_SITES];
    nbi_frozen *frozen;
    nbi_program *p;
    nbi_runner *runner;
    double seconds[128];
    hand data, *h = zoo_ready(&data, 95, 2, false);
    nbi_scorer *s = hand_scorer(h, 2, 0);
    hand_bits(h, 4, 4, bits);
    HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
    HAND_OK(nbi_lower(h->ctx, frozen, &p));
    HAND_OK(nbi_runner_new(h->ctx, p, &runner));
    assert_in_range(p->n_steps, 1, NBI_COUNT(seconds));
    HAND_OK(nbi_runner_profile(h->ctx, runner, h->codes, 3, seconds));
    for (int i = 0; i < p->n_steps; i++) assert_true(seconds[i] >= 0 && seconds[i] < 10);
    nb_ctx_set_threads(h->ctx, 2);
    assert_int_equal(nbi_runner_run(h->ctx, runner, 1, h->codes, (int32_t *[8]){NULL}), NB_EINVAL);
    nbi_runner_free(runner);
    nbi_program_free(p);
    nbi_frozen_free(frozen);
    nbi_scorer_free(s);
    hand_free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_refuses_overflow),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_scorer_agrees),
        cmocka_unit_test(test_scorer_is_runner),
        cmocka_unit_test(test_scorer_near_float),
        cmocka_unit_test(test_scorer_out_of_memory),
        cmocka_unit_test(test_scorer_refuses),
        cmocka_unit_test(test_correction),
        cmocka_unit_test(test_correction_outputs),
        cmocka_unit_test(test_footprint),
        cmocka_unit_test(test_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
