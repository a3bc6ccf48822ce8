/* Update rules against PyTorch 1.13 (three steps, numbers printed with nine digits), schedules
 * against their formulas, clipping, moving averages, and the same bytes at any thread count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "train/optimizer.h"
#include "train/schedule.h"

#include <math.h>
#include <string.h>

/* A few units in the last place: PyTorch orders the same operations differently. */
#define CLOSE 1e-6

static void three_steps(nbi_optimizer_options o, float decay, double lr, const double want[4]) {
    static const float g[3][4] = {
        {0.1f, -0.2f, 0.3f, 0.4f}, {-0.3f, 0.5f, 0.1f, 0.0f}, {0.2f, 0.2f, -0.7f, 1e-3f}};
    nb_ctx *ctx = nb_ctx_new();
    float w[4] = {0.5f, -1.0f, 2.0f, 0.25f};
    nbi_param p = {.name = "w", .value = w, .count = 4, .lr = 1, .decay = decay};
    nbi_optimizer *optimizer;
    assert_int_equal(nbi_optimizer_new(ctx, &o, &p, 1, &optimizer), NB_OK);
    for (int t = 0; t < 3; t++) {
        p.gradient = g[t];
        assert_int_equal(nbi_optimizer_step(ctx, optimizer, lr, NULL), NB_OK);
    }
    for (int i = 0; i < 4; i++) assert_true(fabs((double)w[i] - want[i]) < CLOSE);
    nbi_optimizer_free(optimizer);
    nb_ctx_free(ctx);
}

static void updates_equal_pytorch(void **state) {
    (void)state;
    nbi_optimizer_options o = nbi_optimizer_options_default();
    three_steps(o, 0.01f, 0.1, (const double[]){0.50710535, -1.05522072, 1.95861363, 0.140250653});
    o.nesterov = true;
    three_steps(o, 0.01f, 0.1, (const double[]){0.504887044, -1.09671032, 1.98700464, 0.110652879});
    o.momentum = 0;
    three_steps(o, 0, 0.1, (const double[]){0.50000006, -1.04999995, 2.02999997, 0.209899992});
    o.kind = NBI_ADAM;
    three_steps(o, 0.1f, 0.05,
                (const double[]){0.453600854, -0.973972738, 1.89558721, 0.136273146});
    o.kind = NBI_ADAMW;
    three_steps(o, 0.1f, 0.05,
                (const double[]){0.466682762, -0.984721005, 1.89257669, 0.137454391});
}

static void clipping_scales_all_gradients(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    float a = 1, b = 1;
    const float ga = 3, gb = 4;
    nbi_param p[2] = {{.name = "a", .value = &a, .gradient = &ga, .count = 1, .lr = 1},
                      {.name = "b", .value = &b, .gradient = &gb, .count = 1, .lr = 0.5f}};
    nbi_optimizer_options o = nbi_optimizer_options_default();
    nbi_optimizer *optimizer;
    double norm;
    o.momentum = 0;
    o.clip = 1;
    assert_int_equal(nbi_optimizer_new(ctx, &o, p, 2, &optimizer), NB_OK);
    assert_int_equal(nbi_optimizer_step(ctx, optimizer, 0.1, &norm), NB_OK);
    assert_true(fabs(norm - 5) < 1e-12);
    assert_true(fabs((double)a - (1 - 0.1 * 0.6)) < CLOSE);
    assert_true(fabs((double)b - (1 - 0.05 * 0.8)) < CLOSE);
    nbi_optimizer_free(optimizer);
    nb_ctx_free(ctx);
}

static void infinite_gradients_change_nothing(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    float w[2] = {1, 2};
    const float g[2] = {1, NAN};
    nbi_param p = {.name = "conv7.weight", .value = w, .gradient = g, .count = 2, .lr = 1};
    nbi_optimizer_options o = nbi_optimizer_options_default();
    nbi_optimizer *optimizer;
    assert_int_equal(nbi_optimizer_new(ctx, &o, &p, 1, &optimizer), NB_OK);
    assert_int_equal(nbi_optimizer_step(ctx, optimizer, 0.1, NULL), NB_ENUMERIC);
    assert_non_null(strstr(nb_ctx_message(ctx), "conv7.weight"));
    assert_true(w[0] == 1 && w[1] == 2);
    nbi_optimizer_free(optimizer);
    o.momentum = 1.5f;
    assert_int_equal(nbi_optimizer_new(ctx, &o, &p, 1, &optimizer), NB_EINVAL);
    nb_ctx_free(ctx);
}

/* Weights of 3 tensors after 5 steps with clipping and averaging. */
enum { BIG = 40007 };
static void train_some(int threads, nbi_optimizer_kind kind, float *w, float *g) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_rng rng;
    nbi_optimizer_options o = nbi_optimizer_options_default();
    nbi_optimizer *optimizer;
    nbi_ema *ema;
    nb_ctx_set_threads(ctx, threads);
    nbi_rng_seed(&rng, 3, 1);
    for (int i = 0; i < BIG; i++) w[i] = nbi_rng_uniform(&rng) - 0.5f;
    nbi_param p[3] = {{"a", w, g, 33, 1, 0, true},
                      {"b", w + 33, g + 33, 39000, 1, 0.01f, false},
                      {"c", w + 39033, g + 39033, BIG - 39033, 2, 0.01f, false}};
    o.kind = kind;
    o.clip = 0.5f;
    assert_int_equal(nbi_optimizer_new(ctx, &o, p, 3, &optimizer), NB_OK);
    assert_int_equal(nbi_ema_new(ctx, 0.9f, p, 3, &ema), NB_OK);
    for (int t = 0; t < 5; t++) {
        for (int i = 0; i < BIG; i++) g[i] = nbi_rng_uniform(&rng) - 0.5f;
        assert_int_equal(nbi_optimizer_step(ctx, optimizer, 0.1, NULL), NB_OK);
        assert_int_equal(nbi_ema_update(ctx, ema), NB_OK);
    }
    assert_int_equal(nbi_ema_swap(ctx, ema), NB_OK);
    nbi_ema_free(ema);
    nbi_optimizer_free(optimizer);
    nb_ctx_free(ctx);
}

/* An Adam group among SGD groups moves as it would under Adam, and the others as under SGD. */
static void groups_may_use_adam(void **state) {
    (void)state;
    float w[2][3][2];
    const float g[2] = {0.3f, -2};
    nb_ctx *ctx = nb_ctx_new();
    for (int mixed = 0; mixed < 3; mixed++) { /* all SGD, all Adam, one of each */
        nbi_optimizer_options o = nbi_optimizer_options_default();
        nbi_optimizer *optimizer;
        nbi_param p[2];
        o.kind = mixed == 1 ? NBI_ADAM : NBI_SGD;
        for (int i = 0; i < 2; i++) {
            w[i][mixed][0] = w[i][mixed][1] = 1;
            p[i] = (nbi_param){.name = "w", .value = w[i][mixed], .gradient = g, .count = 2,
                               .lr = 1, .adam = mixed == 2 && i == 1};
        }
        assert_int_equal(nbi_optimizer_new(ctx, &o, p, 2, &optimizer), NB_OK);
        for (int t = 0; t < 4; t++)
            assert_int_equal(nbi_optimizer_step(ctx, optimizer, 0.1, NULL), NB_OK);
        nbi_optimizer_free(optimizer);
    }
    assert_memory_equal(w[0][2], w[0][0], sizeof w[0][0]);
    assert_memory_equal(w[1][2], w[1][1], sizeof w[1][1]);
    nb_ctx_free(ctx);
}

/* A group that rests every second step moves as one that takes its steps alone: Adam's bias
 * correction counts the group's own steps. */
static void resting_groups_count_their_own_steps(void **state) {
    (void)state;
    float w[2] = {1, 1};
    const float g = 0.3f;
    nb_ctx *ctx = nb_ctx_new();
    for (int alone = 0; alone < 2; alone++) {
        nbi_optimizer_options o = nbi_optimizer_options_default();
        nbi_optimizer *optimizer;
        nbi_state *unused;
        uint64_t *steps;
        size_t n;
        nbi_param p = {.name = "w", .value = &w[alone], .gradient = &g, .count = 1, .adam = true};
        assert_int_equal(nbi_optimizer_new(ctx, &o, &p, 1, &optimizer), NB_OK);
        for (int t = 0; t < 10; t++) {
            p.lr = t & 1 ? 1.0f : 0.0f;
            if (!alone || p.lr > 0)
                assert_int_equal(nbi_optimizer_step(ctx, optimizer, 0.1, NULL), NB_OK);
        }
        nbi_optimizer_state(optimizer, &unused, &n, &steps);
        assert_int_equal(steps[0], 5);
        nbi_optimizer_free(optimizer);
    }
    assert_memory_equal(&w[0], &w[1], sizeof w[0]);
    /* the gradient never changes: every step is one of the learning rate, the first one, too */
    assert_true(fabs((double)w[0] - (1 - 5 * 0.1)) < CLOSE);
    nb_ctx_free(ctx);
}

static void same_bytes_at_any_thread_count(void **state) {
    static float one[BIG], three[BIG], g[BIG];
    (void)state;
    for (int kind = NBI_SGD; kind <= NBI_ADAMW; kind++) {
        train_some(1, (nbi_optimizer_kind)kind, one, g);
        train_some(3, (nbi_optimizer_kind)kind, three, g);
        assert_memory_equal(one, three, sizeof one);
    }
}

static void average_follows_its_formula(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    float w = 1;
    nbi_param p = {.name = "w", .value = &w, .count = 1};
    nbi_ema *ema;
    assert_int_equal(nbi_ema_new(ctx, 0.5f, &p, 1, &ema), NB_OK);
    w = 2;
    assert_int_equal(nbi_ema_update(ctx, ema), NB_OK); /* d = 2/11 */
    w = 4;
    assert_int_equal(nbi_ema_update(ctx, ema), NB_OK); /* d = 3/12 */
    assert_int_equal(nbi_ema_swap(ctx, ema), NB_OK);
    double first = 2.0 / 11 + 2.0 * 9 / 11;
    assert_true(fabs((double)w - (0.25 * first + 0.75 * 4)) < CLOSE);
    assert_int_equal(nbi_ema_swap(ctx, ema), NB_OK);
    assert_true(w == 4);
    nbi_ema_free(ema);
    assert_int_equal(nbi_ema_new(ctx, 1.0f, &p, 1, &ema), NB_EINVAL);
    nb_ctx_free(ctx);
}

static void schedules_follow_their_formulas(void **state) {
    (void)state;
    nbi_schedule s = {.kind = NBI_LR_COSINE, .lr = 0.4, .steps = 110, .warmup = 10};
    assert_true(fabs(nbi_schedule_lr(&s, 0) - 0.04) < 1e-15);
    assert_true(fabs(nbi_schedule_lr(&s, 9) - 0.4) < 1e-15);
    assert_true(fabs(nbi_schedule_lr(&s, 10) - 0.4) < 1e-15);
    assert_true(fabs(nbi_schedule_lr(&s, 60) - 0.2) < 1e-15);
    assert_true(fabs(nbi_schedule_lr(&s, 35) - 0.2 * (1 + sqrt(0.5))) < 1e-12);
    assert_true(nbi_schedule_lr(&s, 109) > 0 && nbi_schedule_lr(&s, 109) < 0.4e-3);
    assert_true(nbi_schedule_lr(&s, 5000) == nbi_schedule_lr(&s, 109));
    s.last = 0.1;
    assert_true(fabs(nbi_schedule_lr(&s, 60) - 0.22) < 1e-15);
    s = (nbi_schedule){.kind = NBI_LR_STEP, .lr = 1, .steps = 100};
    assert_true(nbi_schedule_lr(&s, 49) == 1 && nbi_schedule_lr(&s, 50) == 0.1);
    assert_true(nbi_schedule_lr(&s, 74) == 0.1 && nbi_schedule_lr(&s, 75) == 0.01);
    s.kind = NBI_LR_CONSTANT;
    assert_true(nbi_schedule_lr(&s, 99) == 1);
}

static void wrong_settings_are_named(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_schedule_kind kind;
    nbi_optimizer_kind optimizer;
    nbi_schedule s = {.kind = NBI_LR_STEP, .lr = 1, .steps = 10, .warmup = 10};
    assert_int_equal(nbi_schedule_check(ctx, &s), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "10 steps"));
    s = (nbi_schedule){.kind = NBI_LR_STEP, .lr = -1, .steps = 10};
    assert_int_equal(nbi_schedule_check(ctx, &s), NB_EINVAL);
    assert_int_equal(nbi_schedule_parse(ctx, "cosin", &kind), NB_EINVAL);
    assert_int_equal(nbi_schedule_parse(ctx, "cosine", &kind), NB_OK);
    assert_int_equal(kind, NBI_LR_COSINE);
    assert_int_equal(nbi_optimizer_parse(ctx, "lion", &optimizer), NB_EINVAL);
    assert_int_equal(nbi_optimizer_parse(ctx, "adamw", &optimizer), NB_OK);
    assert_int_equal(optimizer, NBI_ADAMW);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_equal_pytorch),
        cmocka_unit_test(clipping_scales_all_gradients),
        cmocka_unit_test(infinite_gradients_change_nothing),
        cmocka_unit_test(groups_may_use_adam),
        cmocka_unit_test(resting_groups_count_their_own_steps),
        cmocka_unit_test(same_bytes_at_any_thread_count),
        cmocka_unit_test(average_follows_its_formula),
        cmocka_unit_test(schedules_follow_their_formulas),
        cmocka_unit_test(wrong_settings_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
