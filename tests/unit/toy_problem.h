/* Toy search problems whose optimum brute force can find, and which refuse what a method must not
 * do: score a policy twice or an infeasible one. */
#ifndef TESTS_TOY_PROBLEM_H
#define TESTS_TOY_PROBLEM_H

#include "search/search.h"

#include <math.h>
#include <string.h>

enum { TOY_MAX_VARS = 8, TOY_MAX_OPTIONS = 5, TOY_OPTION_ROOM = 8, TOY_TRACE = 4096 };

typedef struct toy {
    nbi_problem problem;
    nb_ctx *ctx;
    int n_options[TOY_MAX_VARS];
    nbi_part part[TOY_MAX_VARS];
    double loss[TOY_MAX_VARS][TOY_OPTION_ROOM], bytes[TOY_MAX_VARS][TOY_OPTION_ROOM];
    double ram[TOY_MAX_VARS][TOY_OPTION_ROOM];
    double coupling; /* neighbours at different ranks cost this much */
    uint8_t trace[TOY_TRACE][TOY_MAX_VARS];
    int scored, duplicates, infeasible, improved, worse_improved, cancel_after;
    double last_improved;
    /* called for each score, e.g. to keep a study; NULL: none */
    bool (*known)(void *user, const uint8_t *policy, double *score);
    nb_status (*scored_fn)(void *user, const uint8_t *policy, double score);
    void *user;
    int fresh; /* scores that were computed and not known */
    int costs; /* for a test that counts them */
} toy;

static inline nb_status toy_cost(nb_ctx *ctx, void *self, const uint8_t *policy,
                                 double out[NBI_COST_COUNT]) {
    (void)ctx;
    const toy *t = self;
    memset(out, 0, NBI_COST_COUNT * sizeof *out);
    for (int v = 0; v < t->problem.n_vars; v++) {
        out[NBI_COST_BYTES] += t->bytes[v][policy[v]];
        /* two neighbours are alive together: a maximum, not a sum */
        double peak = t->ram[v][policy[v]] + (v ? t->ram[v - 1][policy[v - 1]] : 0);
        out[NBI_COST_RAM] = fmax(out[NBI_COST_RAM], peak);
    }
    out[NBI_COST_BYTES_ONNX] = 2 * out[NBI_COST_BYTES];
    return NB_OK;
}

static inline double toy_loss(const toy *t, const uint8_t *policy) {
    double sum = 0;
    for (int v = 0; v < t->problem.n_vars; v++) {
        sum += t->loss[v][policy[v]];
        if (v) sum += t->coupling * abs(policy[v] - policy[v - 1]);
    }
    return sum;
}

static inline nb_status toy_score(nb_ctx *ctx, void *self, const uint8_t *policy, double *out) {
    toy *t = self;
    double cost[NBI_COST_COUNT];
    size_t n = (size_t)t->problem.n_vars;
    if (t->cancel_after && t->scored >= t->cancel_after) {
        nb_ctx_cancel(ctx);
        return nb_fail(ctx, NB_ECANCELLED, "stopped");
    }
    toy_cost(ctx, self, policy, cost);
    if (!nbi_feasible(&t->problem, cost)) t->infeasible++;
    for (int i = 0; i < t->scored; i++) t->duplicates += memcmp(t->trace[i], policy, n) == 0;
    if (t->scored < TOY_TRACE) memcpy(t->trace[t->scored++], policy, n);
    if (t->known && t->known(t->user, policy, out)) return NB_OK;
    t->fresh++;
    *out = toy_loss(t, policy);
    return t->scored_fn ? t->scored_fn(t->user, policy, *out) : NB_OK;
}

static inline nb_status toy_sensitivity(nb_ctx *ctx, void *self, double **delta) {
    (void)ctx;
    toy *t = self;
    for (int v = 0; v < t->problem.n_vars; v++)
        for (int o = 0; o < t->n_options[v]; o++)
            delta[v][o] = t->loss[v][o] - t->loss[v][t->n_options[v] - 1];
    return NB_OK;
}

/* The toy's tensors have no values of their own: the separable part of the loss stands for them. */
static inline nb_status toy_own_error(nb_ctx *ctx, void *self, double **rows) {
    (void)ctx;
    toy *t = self;
    for (int v = 0; v < t->problem.n_vars; v++)
        for (int o = 0; o < t->n_options[v]; o++) rows[v][o] = t->loss[v][o];
    return NB_OK;
}

/* What a relaxation would find: least loss + price·bytes, the price risen until the bytes come near
 * their limit; coupling and RAM it does not see. */
static inline nb_status toy_learn(nb_ctx *ctx, void *self, const nbi_learning *how,
                                  uint8_t *policy) {
    (void)ctx;
    (void)how;
    const toy *t = self;
    for (double price = 1e-6; price < 1e3; price *= 1.1) {
        double bytes = 0;
        for (int v = 0; v < t->problem.n_vars; v++) {
            policy[v] = 0;
            for (int o = 1; o < t->n_options[v]; o++)
                if (t->loss[v][o] + price * t->bytes[v][o] <
                    t->loss[v][policy[v]] + price * t->bytes[v][policy[v]])
                    policy[v] = (uint8_t)o;
            bytes += t->bytes[v][policy[v]];
        }
        if (bytes <= 1.05 * t->problem.limit[NBI_COST_BYTES]) break;
    }
    return NB_OK;
}

static inline void toy_features(const void *self, int v, double out[NBI_FEATURE_COUNT]) {
    const toy *t = self;
    for (int i = 0; i < NBI_FEATURE_COUNT; i++) out[i] = 1;
    out[NBI_FEATURE_WEIGHTS] = t->bytes[v][0];
    out[NBI_FEATURE_MAP] = t->ram[v][0];
    out[NBI_FEATURE_INDEX] = v;
}

static inline nb_status toy_improved(nb_ctx *ctx, void *self, const uint8_t *policy, double score) {
    (void)ctx;
    (void)policy;
    toy *t = self;
    if (t->improved && score >= t->last_improved) t->worse_improved++;
    t->last_improved = score;
    t->improved++;
    return NB_OK;
}

static inline void toy_make(toy *t, nb_ctx *ctx, uint64_t seed, int n, double coupling) {
    memset(t, 0, sizeof *t);
    nbi_rng r;
    nbi_rng_seed(&r, seed, 77);
    t->ctx = ctx;
    t->coupling = coupling;
    for (int v = 0; v < n; v++) {
        t->part[v] = v % 3 == 2 ? NBI_PART_ACTIVATION : NBI_PART_WEIGHT;
        t->n_options[v] = 2 + (int)nbi_rng_below(&r, TOY_MAX_OPTIONS - 1);
        double size = 10 + nbi_rng_below(&r, 100), act = 10 + nbi_rng_below(&r, 50);
        double pain = 0.2 + (double)nbi_rng_uniform(&r) * 3;
        for (int o = 0; o < t->n_options[v]; o++) {
            t->bytes[v][o] = floor(size * (o + 1) * 0.5);
            t->ram[v][o] = act * (o + 1);
            t->loss[v][o] = pain * pow(3, -o) * (1 + 0.1 * (double)nbi_rng_uniform(&r));
        }
    }
    t->problem = (nbi_problem){.self = t, .n_vars = n, .n_options = t->n_options, .cost = toy_cost,
                               .score = toy_score, .sensitivity = toy_sensitivity,
                               .local_error = toy_own_error, .curvature = toy_own_error,
                               .learn = toy_learn, .features = toy_features, .part = t->part,
                               .improved = toy_improved};
    for (int c = 0; c < NBI_COST_COUNT; c++) t->problem.limit[c] = INFINITY;
}

/* Limit `cost` at a fraction of the way from the cheapest to the most expensive policy. */
static inline void toy_limit(toy *t, nbi_cost_id cost, double fraction) {
    uint8_t low[TOY_MAX_VARS] = {0}, high[TOY_MAX_VARS];
    double a[NBI_COST_COUNT], b[NBI_COST_COUNT];
    for (int v = 0; v < t->problem.n_vars; v++) high[v] = (uint8_t)(t->n_options[v] - 1);
    toy_cost(t->ctx, t, low, a);
    toy_cost(t->ctx, t, high, b);
    t->problem.limit[cost] = floor(a[cost] + fraction * (b[cost] - a[cost]));
}

/* Least loss over all feasible policies, INFINITY: none; *closest = least excess of all. */
static inline double toy_optimum(const toy *t, double *closest) {
    uint8_t p[TOY_MAX_VARS] = {0};
    double best = INFINITY, cost[NBI_COST_COUNT];
    *closest = INFINITY;
    for (;;) {
        toy_cost(t->ctx, (void *)(uintptr_t)t, p, cost);
        *closest = fmin(*closest, nbi_excess(&t->problem, cost));
        if (nbi_feasible(&t->problem, cost)) best = fmin(best, toy_loss(t, p));
        int v = 0;
        while (v < t->problem.n_vars && ++p[v] == t->n_options[v]) p[v++] = 0;
        if (v == t->problem.n_vars) return best;
    }
}

/* Small networks and few rounds where the defaults are made for an afternoon. */
static inline const char *toy_options(const nbi_search *method) {
    static const char *const quick[][2] = {{"haq", "episodes=60,hidden=16"},
                                             {"quantune", "trials=100,pool=60,trees=40"},
                                             {"grid", "trials=4000"}};
    for (size_t i = 0; i < NBI_COUNT(quick); i++)
        if (strcmp(method->name, quick[i][0]) == 0) return quick[i][1];
    return NULL;
}

/* Runs a method with `text` as options (NULL: toy_options) and returns its status. */
static inline nb_status toy_run_with(toy *t, const nbi_search *method, const char *text,
                                     uint64_t seed, long max_trials, double seconds,
                                     uint8_t *policy, nbi_search_result *result) {
    double options[32];
    *result = (nbi_search_result){.policy = policy};
    NB_TRY(nbi_options_parse(t->ctx, method->name, method->options, method->n_options,
                             text ? text : toy_options(method), options));
    nbi_search_run run = {.problem = &t->problem, .options = options, .max_trials = max_trials,
                          .deadline = nb_seconds(t->ctx) + seconds, .seed = seed,
                          .result = result};
    return method->run(t->ctx, &run);
}

static inline nb_status toy_run(toy *t, const nbi_search *method, uint64_t seed, long max_trials,
                                double seconds, uint8_t *policy, nbi_search_result *result) {
    return toy_run_with(t, method, NULL, seed, max_trials, seconds, policy, result);
}

/* Equal steps of cost and convex losses: every sound method reaches the optimum. */
static inline void toy_make_easy(toy *t, nb_ctx *ctx, uint64_t seed, int n) {
    toy_make(t, ctx, seed, n, 0);
    for (int v = 0; v < n; v++) {
        t->n_options[v] = 4;
        for (int o = 0; o < 4; o++) {
            t->bytes[v][o] = 10 * (o + 1);
            t->ram[v][o] = 10 * (o + 1);
            t->loss[v][o] = t->loss[v][0] * pow(0.25, o);
        }
    }
}

#endif
