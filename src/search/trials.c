/* The memo of scored policies, stopping rules, best and closest policy; random policies and their
 * repair (specs: lower random layers until the limits hold, then raise random layers while they
 * still hold). */
#include "search/trials.h"

#include <math.h>
#include <string.h>

nb_status nbi_trials_new(nb_ctx *ctx, const nbi_search_run *run, long default_trials,
                         nbi_trials *t) {
    const nbi_problem *p = run->problem;
    memset(t, 0, sizeof *t);
    if (p->n_vars < 1) return nb_fail(ctx, NB_EINVAL, "nothing to search: no variables");
    for (int v = 0; v < p->n_vars; v++)
        if (p->n_options[v] < 1 || p->n_options[v] > 256)
            return nb_fail(ctx, NB_EINVAL, "variable %d has %d options (1..256)", v,
                           p->n_options[v]);
    t->ctx = ctx;
    t->run = run;
    t->problem = p;
    t->n = (size_t)p->n_vars;
    t->max_trials = run->max_trials > 0 ? run->max_trials : default_trials;
    t->best_score = t->closest_excess = INFINITY;
    nbi_rng_seed(&t->rng, run->seed, 0x5ea2c4);
    nb_status st = nbi_alloc(ctx, 3 * t->n, 1, &t->best);
    if (st != NB_OK) return st;
    t->closest = t->best + t->n;
    t->unscored = t->closest + t->n;
    uint8_t *top = t->unscored; /* free for use until the first cost */
    for (size_t v = 0; v < t->n; v++) top[v] = (uint8_t)(p->n_options[v] - 1);
    double cost[NBI_COST_COUNT];
    st = p->cost(ctx, p->self, top, cost);
    t->reachable_window = st == NB_OK && !nbi_feasible(p, cost);
    if (st != NB_OK) nbi_trials_free(t);
    return st;
}

void nbi_trials_free(nbi_trials *t) {
    nbi_free(t->best);
    nbi_free(t->seen);
    nbi_free(t->scores);
    nbi_free(t->slots);
    t->best = t->seen = NULL;
    t->scores = NULL;
    t->slots = NULL;
}

bool nbi_trials_open(nbi_trials *t) {
    if (t->max_trials > 0 && t->count >= t->max_trials) t->stopped = true;
    if (nb_cancelled(t->ctx) || nb_seconds(t->ctx) >= t->run->deadline) t->stopped = true;
    return !t->stopped;
}

nb_status nbi_trials_cost(nbi_trials *t, const uint8_t *policy, double *cost, double *excess) {
    double own[NBI_COST_COUNT], *c = cost ? cost : own;
    NB_TRY(t->problem->cost(t->ctx, t->problem->self, policy, c));
    for (int i = 0; i < NBI_COST_COUNT; i++)
        if (isnan(c[i]) && t->problem->limit[i] < INFINITY)
            return nb_fail(t->ctx, NB_ENUMERIC, "cost %s of a policy is not a number",
                           nbi_cost_name((nbi_cost_id)i));
    *excess = nbi_excess(t->problem, c);
    if (*excess < t->closest_excess) {
        t->closest_excess = *excess;
        memcpy(t->closest, policy, t->n);
    }
    if (*excess <= 0 && !t->have_unscored) {
        t->have_unscored = true;
        memcpy(t->unscored, policy, t->n);
    }
    return NB_OK;
}

static size_t slot_of(const nbi_trials *t, const uint8_t *policy) {
    size_t mask = t->n_slots - 1;
    size_t s = (size_t)nbi_hash(NBI_HASH_START, policy, t->n) & mask;
    while (t->slots[s] && memcmp(t->seen + (size_t)(t->slots[s] - 1) * t->n, policy, t->n) != 0)
        s = (s + 1) & mask;
    return s;
}

bool nbi_trials_seen(const nbi_trials *t, const uint8_t *policy, double *score) {
    if (!t->n_slots) return false;
    size_t s = slot_of(t, policy);
    if (t->slots[s] && score) *score = t->scores[t->slots[s] - 1];
    return t->slots[s] != 0;
}

static nb_status grow(nbi_trials *t) {
    if ((size_t)t->count < t->capacity) return NB_OK;
    size_t capacity = t->capacity ? 2 * t->capacity : 64, count = (size_t)t->count;
    long *slots = NULL;
    NB_TRY(nbi_grow(t->ctx, &t->seen, count * t->n, capacity * t->n, 1));
    NB_TRY(nbi_grow(t->ctx, &t->scores, count, capacity, sizeof *t->scores));
    NB_TRY(nbi_alloc(t->ctx, 4 * capacity, sizeof *slots, &slots));
    nbi_free(t->slots);
    t->slots = slots;
    t->n_slots = 4 * capacity;
    t->capacity = capacity;
    for (size_t i = 0; i < count; i++) t->slots[slot_of(t, t->seen + i * t->n)] = (long)i + 1;
    return NB_OK;
}

/* Scores a policy that is not known yet; the best feasible one is kept. */
static nb_status measure(nbi_trials *t, const uint8_t *policy, bool feasible, double *score) {
    const nbi_problem *p = t->problem;
    double x;
    NB_TRY(grow(t));
    nb_status st = p->score(t->ctx, p->self, policy, &x);
    if (st == NB_ECANCELLED) {
        t->stopped = true;
        return NB_OK;
    }
    NB_TRY(st);
    if (isnan(x)) x = INFINITY; /* a network that computes nonsense is the worst one */
    memcpy(t->seen + (size_t)t->count * t->n, policy, t->n);
    t->scores[t->count] = x;
    t->slots[slot_of(t, policy)] = ++t->count;
    *score = x;
    if (feasible && (!t->have_best || x < t->best_score)) {
        t->have_best = true;
        t->best_score = x;
        memcpy(t->best, policy, t->n);
        if (p->improved) NB_TRY(p->improved(t->ctx, p->self, policy, x));
    }
    if (nb_progress(t->ctx, "policies", (double)t->count, (double)t->max_trials) != NB_OK)
        t->stopped = true;
    return NB_OK;
}

nb_status nbi_trials_score(nbi_trials *t, const uint8_t *policy, double *score) {
    double excess;
    if (nbi_trials_seen(t, policy, score)) return NB_OK;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
    if (excess > 0) return nb_fail(t->ctx, NB_EINVAL, "an infeasible policy came up for scoring");
    *score = INFINITY;
    if (!nbi_trials_open(t)) {
        /* the first policy that a method wanted to know is its choice as well */
        if (!t->have_wanted) memcpy(t->unscored, policy, t->n);
        t->have_wanted = true;
        return NB_OK;
    }
    return measure(t, policy, true, score);
}

nb_status nbi_trials_probe(nbi_trials *t, const uint8_t *policy, double *score) {
    double excess;
    if (nbi_trials_seen(t, policy, score)) return NB_OK;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
    *score = INFINITY;
    return nbi_trials_open(t) ? measure(t, policy, excess <= 0, score) : NB_OK;
}

nb_status nbi_trials_finish(nbi_trials *t) {
    nbi_search_result *r = t->run->result;
    const uint8_t *from = t->have_best ? t->best : t->have_unscored ? t->unscored : t->closest;
    r->evaluations = t->count;
    r->feasible = t->have_best || t->have_unscored;
    r->score = t->have_best ? t->best_score : INFINITY;
    if (!r->feasible && t->closest_excess == INFINITY) memset(r->policy, 0, t->n);
    else memcpy(r->policy, from, t->n);
    if (r->feasible) return NB_OK;
    double cost[NBI_COST_COUNT];
    NB_TRY(t->problem->cost(t->ctx, t->problem->self, r->policy, cost));
    int worst = 0;
    double most = -1;
    for (int c = 0; c < NBI_COST_COUNT; c++) {
        double limit = t->problem->limit[c];
        double over = (cost[c] - limit) / (limit > 0 ? limit : 1);
        if (over > most) {
            most = over;
            worst = c;
        }
    }
    return nb_fail(t->ctx, NB_ELIMIT, "no policy found within the limits: the closest has %s %.6g, "
                   "limit %.6g", nbi_cost_name((nbi_cost_id)worst), cost[worst],
                   t->problem->limit[worst]);
}

void nbi_policy_random(nbi_trials *t, uint8_t *policy) {
    for (size_t v = 0; v < t->n; v++)
        policy[v] = (uint8_t)nbi_rng_below(&t->rng, (uint32_t)t->problem->n_options[v]);
}

double nbi_sum_excess(const nbi_problem *p, const double cost[NBI_COST_COUNT]) {
    double sum = 0;
    for (int c = 0; c < NBI_COST_COUNT; c++)
        if (cost[c] > p->limit[c])
            sum += (cost[c] - p->limit[c]) / (p->limit[c] > 0 ? p->limit[c] : 1);
    return sum;
}

/* How much of the tightest limit is used. */
static double usage(const nbi_problem *p, const double *cost) {
    double most = 0;
    for (int c = 0; c < NBI_COST_COUNT; c++)
        if (p->limit[c] < INFINITY && p->limit[c] > 0) most = fmax(most, cost[c] / p->limit[c]);
    return most;
}

/* Lowers one random variable, one that helps if there is one. false: all are at their minimum. */
static nb_status lower(nbi_trials *t, uint8_t *policy, uint32_t *order, double *cost,
                       double *excess, bool *done) {
    double before = nbi_sum_excess(t->problem, cost), trial[NBI_COST_COUNT], e;
    size_t count = 0;
    for (size_t v = 0; v < t->n; v++)
        if (policy[v] > 0) order[count++] = (uint32_t)v;
    *done = count > 0;
    if (!count) return NB_OK;
    nbi_rng_shuffle(&t->rng, order, count);
    for (size_t i = 0; i < count; i++) {
        policy[order[i]]--;
        NB_TRY(nbi_trials_cost(t, policy, trial, &e));
        if (nbi_sum_excess(t->problem, trial) < before) {
            memcpy(cost, trial, sizeof trial);
            *excess = e;
            return NB_OK;
        }
        policy[order[i]]++;
    }
    policy[order[0]]--;
    return nbi_trials_cost(t, policy, cost, excess);
}

static nb_status repair(nbi_trials *t, uint8_t *policy, uint32_t *order, bool *ok) {
    double cost[NBI_COST_COUNT], excess;
    bool more = true;
    NB_TRY(nbi_trials_cost(t, policy, cost, &excess));
    bool was_feasible = excess <= 0;
    while (excess > 0 && more) NB_TRY(lower(t, policy, order, cost, &excess, &more));
    *ok = excess <= 0;
    if (!*ok || !t->reachable_window || (was_feasible && usage(t->problem, cost) >= 0.97))
        return NB_OK;
    size_t count = 0;
    for (size_t v = 0; v < t->n; v++)
        if (policy[v] + 1 < t->problem->n_options[v]) order[count++] = (uint32_t)v;
    while (count) {
        size_t i = nbi_rng_below(&t->rng, (uint32_t)count);
        uint32_t v = order[i];
        policy[v]++;
        NB_TRY(nbi_trials_cost(t, policy, cost, &excess));
        bool fits = excess <= 0;
        if (!fits) policy[v]--;
        if (!fits || policy[v] + 1 >= t->problem->n_options[v]) order[i] = order[--count];
    }
    return NB_OK;
}

nb_status nbi_policy_repair(nbi_trials *t, uint8_t *policy, bool *ok) {
    uint32_t *order = NULL;
    NB_TRY(nbi_alloc(t->ctx, t->n, sizeof *order, &order));
    nb_status st = repair(t, policy, order, ok);
    nbi_free(order);
    return st;
}
