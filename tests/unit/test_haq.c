/* The agent of HAQ learns: against random search on a quadratic problem, at equal evaluations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "search/ddpg.h"
#include "unit/toy_problem.h"

/* Six layers, the loss falls with the square of the distance from the best option, early layers
 * hurt more. */
static void make_quadratic(toy *t, nb_ctx *ctx) {
    toy_make(t, ctx, 1, 6, 0);
    for (int v = 0; v < 6; v++) {
        t->n_options[v] = TOY_OPTION_ROOM;
        for (int o = 0; o < TOY_OPTION_ROOM; o++) {
            double gap = TOY_OPTION_ROOM - 1 - o;
            t->bytes[v][o] = 10 * (v + 1) * (o + 1);
            t->ram[v][o] = 1;
            t->loss[v][o] = gap * gap * (7 - v);
        }
    }
    toy_limit(t, NBI_COST_BYTES, 0.5);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The mean score of the last 50 policies of 200: what a policy that has learned draws, and the best
 * of all; medians over five seeds. */
static void beats_random(void **state) {
    (void)state;
    static const char *const names[] = {"random", "haq"};
    static const char *const texts[] = {"trials=200", "episodes=200,hidden=64"};
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    double best[2][5], late[2][5], closest;
    for (int m = 0; m < 2; m++) {
        for (int seed = 0; seed < 5; seed++) {
            make_quadratic(t, ctx);
            assert_int_equal(toy_run_with(t, nbi_search_find(names[m]), texts[m], (uint64_t)seed,
                                          200, 600, policy, &r),
                             NB_OK);
            best[m][seed] = r.score - toy_optimum(t, &closest);
            int from = t->scored > 50 ? t->scored - 50 : 0;
            late[m][seed] = 0;
            for (int i = from; i < t->scored; i++)
                late[m][seed] += toy_loss(t, t->trace[i]) / (t->scored - from);
        }
        qsort(best[m], 5, sizeof **best, by_value);
        qsort(late[m], 5, sizeof **late, by_value);
    }
    assert_true(late[1][2] < late[0][2]);
    assert_true(best[1][2] < best[0][2]);
    free(t);
    nb_ctx_free(ctx);
}

/* One state, reward −(a − 0.7)²: the actor must go there. */
static void agent_finds_the_action(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_ddpg *agent;
    nbi_rng rng;
    const float s[2] = {1, 0.5f};

    nbi_rng_seed(&rng, 1, 2);
    nbi_ddpg_options o = {.state = 2,
                          .hidden = 32,
                          .batch = 32,
                          .memory = 500,
                          .actor_rate = 1e-3,
                          .critic_rate = 1e-2,
                          .discount = 1,
                          .follow = 0.01,
                          .seed = 3};
    assert_int_equal(nbi_ddpg_new(ctx, &o, &agent), NB_OK);
    nbi_ddpg_update(agent); /* nothing to learn from: allowed */
    for (int i = 0; i < 500; i++) {
        double x = (double)nbi_rng_uniform(&rng);
        nbi_ddpg_observe(agent, s, x, -(x - 0.7) * (x - 0.7), NULL);
    }
    nbi_ddpg_scale(agent, -0.1, 10);
    for (int i = 0; i < 1500; i++) nbi_ddpg_update(agent);
    assert_true(fabs(nbi_ddpg_act(agent, s) - 0.7) <
                0.1); /* the critic is a fit of a parabola by 32 units */
    nbi_ddpg_free(agent);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agent_finds_the_action),
        cmocka_unit_test(beats_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
