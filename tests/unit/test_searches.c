/* Every method of the registry on toy problems with a known optimum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "unit/toy_problem.h"

/* Methods that reach the optimum of small problems, whatever these look like. The others are walks
 * or learners: they are held to the easy problem and to the middle of what is feasible. */
static bool searches_well(const nbi_search *s) {
    static const char *const names[] = {"random", "sensitivity", "genetic", "grid"};
    for (size_t i = 0; i < NBI_COUNT(names); i++)
        if (strcmp(s->name, names[i]) == 0) return true;
    return false;
}

/* Methods that see single scores only and stop after few of them. */
static bool learns(const nbi_search *s) {
    return !strcmp(s->name, "haq") || !strcmp(s->name, "quantune");
}

/* Median loss of the feasible policies. */
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double toy_median(const toy *t) {
    static double losses[1 << 12];
    size_t count = 0;
    uint8_t p[TOY_MAX_VARS] = {0};
    double cost[NBI_COST_COUNT];
    for (int v = 0; v < t->problem.n_vars;) {
        toy_cost(t->ctx, (void *)(uintptr_t)t, p, cost);
        if (nbi_feasible(&t->problem, cost)) losses[count++] = toy_loss(t, p);
        v = 0;
        while (v < t->problem.n_vars && ++p[v] == t->n_options[v]) p[v++] = 0;
    }
    qsort(losses, count, sizeof *losses, by_value);
    return losses[count / 2];
}

/* Separable or coupled, one or two limits: feasible, nothing scored twice, the optimum reached
 * where the method can (uniform: at least its own best). */
static void every_method_finds_good_policies(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++)
        for (uint64_t seed = 0; seed < 12; seed++) {
            double closest, cost[NBI_COST_COUNT];
            toy_make(t, ctx, seed, 5, seed % 2 ? 0.05 : 0);
            toy_limit(t, NBI_COST_BYTES, 0.3 + 0.05 * (double)(seed % 5));
            if (seed % 3 == 0) toy_limit(t, NBI_COST_RAM, 0.5);
            double best = toy_optimum(t, &closest);
            assert_int_equal(toy_run(t, all[m], seed, 0, 60, policy, &r), NB_OK);
            assert_true(r.feasible);
            assert_int_equal(r.evaluations, t->scored);
            toy_cost(ctx, t, policy, cost);
            assert_true(nbi_feasible(&t->problem, cost));
            assert_true(r.score == toy_loss(t, policy) && t->last_improved == r.score);
            assert_int_equal(t->duplicates + t->worse_improved, 0);
            if (!all[m]->beyond) assert_int_equal(t->infeasible, 0);
            /* peak memory is no sum: the selection by sums is then a heuristic */
            double slack = t->problem.limit[NBI_COST_RAM] < INFINITY ? 0.1 * best : 1e-9;
            if (searches_well(all[m])) assert_true(r.score <= best + slack);
            else if (strcmp(all[m]->name, "uniform") && !(r.score <= toy_median(t)))
                fail_msg("%s, seed %d: %g, median %g, optimum %g", all[m]->name, (int)seed, r.score,
                         toy_median(t), best);
        }
    free(t);
    nb_ctx_free(ctx);
}

/* The optimum of an easy problem, by every method, and by greedy in all its forms. */
static void every_method_solves_the_easy_problem(void **state) {
    (void)state;
    static const char *const forms[] = {"direction=down", "direction=up", "direction=down,local=1",
                                        "direction=up,local=1"};
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++) {
        bool greedy = strcmp(all[m]->name, "greedy") == 0;
        if (strcmp(all[m]->name, "uniform") == 0) continue; /* the optimum is not uniform */
        for (uint64_t seed = 0; seed < 4; seed++)
            for (size_t f = 0; f < (greedy ? NBI_COUNT(forms) : 1); f++) {
                double closest;
                toy_make_easy(t, ctx, seed, 4);
                toy_limit(t, NBI_COST_BYTES, 0.4);
                double best = toy_optimum(t, &closest);
                assert_int_equal(
                    toy_run_with(t, all[m], greedy ? forms[f] : NULL, seed, 0, 60, policy, &r),
                    NB_OK);
                if (!(r.score <= best + 1e-9))
                    fail_msg("%s, seed %d: %g, optimum %g", all[m]->name, (int)seed, r.score, best);
                if (greedy && f >= 2) assert_int_equal(r.evaluations, 1);
            }
    }
    free(t);
    nb_ctx_free(ctx);
}

static void unreachable_limits_give_the_closest(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++) {
        double closest, cost[NBI_COST_COUNT];
        toy_make(t, ctx, 3, 6, 0);
        toy_limit(t, NBI_COST_BYTES, 0);
        t->problem.limit[NBI_COST_BYTES] *= 0.8;
        toy_optimum(t, &closest);
        assert_int_equal(toy_run(t, all[m], 1, 0, 60, policy, &r), NB_ELIMIT);
        assert_non_null(strstr(nb_ctx_message(ctx), "bytes"));
        assert_false(r.feasible);
        assert_int_equal(t->scored, 0);
        toy_cost(ctx, t, policy, cost);
        assert_true(nbi_excess(&t->problem, cost) <= closest + 1e-12);
    }
    free(t);
    nb_ctx_free(ctx);
}

static void stops_when_told(void **state) {
    (void)state;
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++)
        for (int how = 0; how < 3; how++) {
            double cost[NBI_COST_COUNT];
            nb_ctx *ctx = nb_ctx_new();
            toy_make(t, ctx, 5, 8, 0.1);
            toy_limit(t, NBI_COST_BYTES, 0.5);
            if (how == 2) t->cancel_after = 2;
            double seconds = how == 1 ? -1 : 60;
            assert_int_equal(toy_run(t, all[m], 1, how == 0 ? 3 : 0, seconds, policy, &r), NB_OK);
            assert_in_range(t->scored, how == 1 ? 0 : 1, how == 0 ? 3 : how == 1 ? 0 : 2);
            assert_true(r.feasible);
            toy_cost(ctx, t, policy, cost);
            assert_true(nbi_feasible(&t->problem, cost));
            nb_ctx_free(ctx);
        }
    free(t);
}

static nb_status count_cost(nb_ctx *ctx, void *self, const uint8_t *policy,
                            double out[NBI_COST_COUNT]) {
    ((toy *)self)->costs++;
    return toy_cost(ctx, self, policy, out);
}

/* Nothing fits, and a request to stop came: grid and quantune do not go through all there is. */
static void a_cancel_ends_what_fits_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"grid", "quantune"};
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    for (size_t i = 0; i < NBI_COUNT(names); i++) {
        nb_ctx *ctx = nb_ctx_new();
        toy_make(t, ctx, 5, 8, 0.1);
        t->problem.limit[NBI_COST_BYTES] = 1e-3;
        t->problem.cost = count_cost;
        t->costs = 0;
        nb_ctx_cancel(ctx);
        assert_int_equal(toy_run(t, nbi_search_find(names[i]), 1, 0, 60, policy, &r), NB_ELIMIT);
        assert_in_range(t->costs, 1, 3);
        nb_ctx_free(ctx);
    }
    free(t);
}

static void same_seed_same_trace(void **state) {
    (void)state;
    toy *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    uint8_t pa[TOY_MAX_VARS], pb[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++) {
        toy *both[] = {a, b};
        for (int i = 0; i < 2; i++) {
            nb_ctx *ctx = nb_ctx_new();
            nb_ctx_set_threads(ctx, 1 + 3 * i);
            toy_make(both[i], ctx, 9, 8, 0.2);
            toy_limit(both[i], NBI_COST_BYTES, 0.4);
            toy_limit(both[i], NBI_COST_RAM, 0.6);
            assert_int_equal(toy_run(both[i], all[m], 42, 0, 60, i ? pb : pa, &r), NB_OK);
            nb_ctx_free(ctx);
        }
        assert_int_equal(a->scored, b->scored);
        assert_memory_equal(a->trace, b->trace, sizeof a->trace);
        assert_memory_equal(pa, pb, 8);
    }
    free(a);
    free(b);
}

/* No limits at all, and one variable with one option, are problems, too. */
static void degenerate_problems(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++) {
        double closest;
        toy_make(t, ctx, 2, 4, 0);
        double best = toy_optimum(t, &closest);
        assert_int_equal(toy_run(t, all[m], 1, 0, 60, policy, &r), NB_OK);
        if (!learns(all[m]) && !(r.score <= best + 1e-12))
            fail_msg("%s: %g, optimum %g", all[m]->name, r.score, best);
        toy_make(t, ctx, 2, 1, 0);
        t->n_options[0] = 1;
        assert_int_equal(toy_run(t, all[m], 1, 0, 60, policy, &r), NB_OK);
        assert_int_equal(t->scored, 1);
        t->problem.n_vars = 0;
        assert_int_equal(toy_run(t, all[m], 1, 0, 60, policy, &r), NB_EINVAL);
    }
    free(t);
    nb_ctx_free(ctx);
}

/* The k-th allocation fails, for every k. */
static void survives_no_memory(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++)
        for (long k = 1;; k++) {
            assert_in_range(k, 1, 5000);
            toy_make(t, ctx, 2, 4, 0.1);
            toy_limit(t, NBI_COST_BYTES, 0.5);
            nbi_alloc_fail_after(k);
            nb_status st = toy_run(t, all[m], 1, 5, 60, policy, &r);
            nbi_alloc_fail_after(0);
            if (st == NB_OK) break;
            assert_int_equal(st, NB_ENOMEM);
        }
    free(t);
    nb_ctx_free(ctx);
}

/* Trials of an earlier run: a problem of the same kind, whose scores are others (doubled here). */
static nb_status toy_earlier(nb_ctx *ctx, void *self, nbi_known_fn fn, void *user) {
    const toy *t = self;
    nbi_rng rng;
    (void)ctx;
    nbi_rng_seed(&rng, 99, 1);
    for (int i = 0; i < 150; i++) {
        uint8_t p[TOY_MAX_VARS];
        for (int v = 0; v < t->problem.n_vars; v++)
            p[v] = (uint8_t)nbi_rng_below(&rng, (uint32_t)t->n_options[v]);
        NB_TRY(fn(user, p, 2 * toy_loss(t, p)));
    }
    return NB_OK;
}

static void quantune_learns_from_earlier_runs(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    double above[2] = {0}, closest;
    const nbi_search *quantune = nbi_search_find("quantune");
    for (uint64_t seed = 0; seed < 7; seed++)
        for (int transfer = 0; transfer < 2; transfer++) {
            toy_make(t, ctx, seed, 8, 0.05);
            toy_limit(t, NBI_COST_BYTES, 0.4);
            t->problem.earlier = toy_earlier;
            assert_int_equal(toy_run_with(t, quantune,
                                          transfer ? "trials=10,pool=60,trees=40"
                                                   : "trials=10,pool=60,trees=40,transfer=0",
                                          seed, 0, 60, policy, &r), NB_OK);
            assert_int_equal(t->scored, 10);
            above[transfer] += r.score / toy_optimum(t, &closest) / 7;
        }
    if (!(above[1] < above[0])) fail_msg("with %g, without %g", above[1], above[0]);
    free(t);
    nb_ctx_free(ctx);
}

static void registry_is_complete(void **state) {
    (void)state;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    assert_true(n >= 4);
    for (size_t m = 0; m < n; m++) {
        assert_ptr_equal(nbi_search_find(all[m]->name), all[m]);
        assert_true(all[m]->help && *all[m]->help && all[m]->run);
        for (size_t o = 0; o < all[m]->n_options; o++) {
            const nbi_option *x = &all[m]->options[o];
            assert_true(x->help && x->def >= x->min && x->def <= x->max);
        }
    }
    assert_null(nbi_search_find("none such"));
    for (int c = 0; c < NBI_COST_COUNT; c++) {
        assert_true(*nbi_cost_name((nbi_cost_id)c) != 0);
        assert_true(*nbi_cost_help((nbi_cost_id)c) != 0);
    }
}

/* Four schemes at each of two widths; what was learned keeps its scheme though others have less error,
 * and room that is left is used by wider options only. */
static int two_levels(const void *self, int variable, int option) {
    (void)self;
    (void)variable;
    return option / 4;
}

static nb_status learn_second(nb_ctx *ctx, void *self, const nbi_learning *how, uint8_t *policy) {
    (void)ctx;
    (void)how;
    for (int v = 0; v < ((const toy *)self)->problem.n_vars; v++) policy[v] = 1;
    return NB_OK;
}

static void learned_schemes_survive_the_repair(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    uint8_t policy[TOY_MAX_VARS];
    nbi_search_result r;
    toy_make(t, ctx, 1, 4, 0);
    for (int v = 0; v < 4; v++) {
        t->n_options[v] = 8;
        for (int o = 0; o < 8; o++) {
            t->bytes[v][o] = 100 * (1 + o / 4) + o % 4; /* tables of some schemes */
            t->loss[v][o] = (v + 1) * (o < 4 ? 1 : 0.1) * (1 - 0.1 * (o % 4));
        }
    }
    t->problem.level = two_levels;
    t->problem.learn = learn_second;
    t->problem.limit[NBI_COST_BYTES] = 430; /* no room for a second width anywhere */
    assert_int_equal(toy_run_with(t, nbi_search_find("autoqnn"), NULL, 0, 0, 60, policy, &r), NB_OK);
    for (int v = 0; v < 4; v++) assert_int_equal(policy[v], 1);
    t->problem.limit[NBI_COST_BYTES] = 530; /* room for one: the one that gains most, best scheme */
    assert_int_equal(toy_run_with(t, nbi_search_find("autoqnn"), NULL, 0, 0, 60, policy, &r), NB_OK);
    for (int v = 0; v < 3; v++) assert_int_equal(policy[v], 1);
    assert_int_equal(policy[3], 7);
    t->problem.limit[NBI_COST_BYTES] = 300; /* nothing fits */
    assert_int_equal(toy_run_with(t, nbi_search_find("autoqnn"), NULL, 0, 0, 60, policy, &r),
                     NB_ELIMIT);
    free(t);
    nb_ctx_free(ctx);
}

/* Energy is unknown where nobody asks for it. */
static void unknown_costs_without_limits_do_not_count(void **state) {
    (void)state;
    nbi_problem p = {0};
    double cost[NBI_COST_COUNT];
    for (int c = 0; c < NBI_COST_COUNT; c++) p.limit[c] = INFINITY, cost[c] = c;
    cost[NBI_COST_ENERGY] = NAN;
    assert_true(nbi_feasible(&p, cost));
    p.limit[NBI_COST_ENERGY] = 1e9;
    assert_false(nbi_feasible(&p, cost));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registry_is_complete),
        cmocka_unit_test(every_method_finds_good_policies),
        cmocka_unit_test(every_method_solves_the_easy_problem),
        cmocka_unit_test(unreachable_limits_give_the_closest),
        cmocka_unit_test(stops_when_told),
        cmocka_unit_test(a_cancel_ends_what_fits_nothing),
        cmocka_unit_test(same_seed_same_trace),
        cmocka_unit_test(degenerate_problems),
        cmocka_unit_test(survives_no_memory),
        cmocka_unit_test(learned_schemes_survive_the_repair),
        cmocka_unit_test(quantune_learns_from_earlier_runs),
        cmocka_unit_test(unknown_costs_without_limits_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
