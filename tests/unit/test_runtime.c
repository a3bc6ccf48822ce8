/* The integer runtime: layers against their formulas in double, sizes against programs. */
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
        cmocka_unit_test(test_footprint),
        cmocka_unit_test(test_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
