/* Greedy walks (docs/searches.md). Down: from the best options, lower by one step the
 * variable with the least (rise of the score) / (excess over the limits removed) until the limits
 * hold. Up: from the cheapest options, raise the variable with the most (fall of the score) / (cost
 * added) while something fits. Each score is measured with all earlier choices applied. With
 * `local` the score is the sum of the tensors' own squared errors, no policy but the last is run.
 */
#include "search/trials.h"

#include <math.h>
#include <string.h>

enum { DIRECTION, LOCAL };
static const nbi_option options[] = {
    [DIRECTION] = {"direction", NBI_OPT_CHOICE, 0, 0, 1, "down|up",
                   "lower from the best options, or raise from the cheapest"},
    [LOCAL] = {"local", NBI_OPT_BOOL, 0, 0, 1, NULL,
               "judge a step by the tensor's squared error instead of a run of the network"},
};

typedef struct walk {
    nbi_trials *t;
    double **error; /* local: n·MSE by option; else NULL */
    uint8_t *policy;
    double *slope; /* [n] rise of the score when it was last measured for a step of v */
    double score;  /* of policy */
} walk;

/* The score of w->policy after variable v has gone from option `old` to where it is. */
static nb_status judge(walk *w, size_t v, uint8_t old, double *score) {
    if (w->error) {
        *score = w->score + w->error[v][w->policy[v]] - w->error[v][old];
        return NB_OK;
    }
    double x;
    NB_TRY(nbi_trials_probe(w->t, w->policy, &x));
    /* out of time: as it was at the last measurement */
    *score = nbi_trials_seen(w->t, w->policy, NULL) ? x : w->score + w->slope[v];
    return NB_OK;
}

/* All limits together: how much of them is used. */
static double spent(const nbi_problem *p, const double *cost) {
    double sum = 0;
    for (int c = 0; c < NBI_COST_COUNT; c++)
        if (p->limit[c] < INFINITY) sum += cost[c] / (p->limit[c] > 0 ? p->limit[c] : 1);
    return sum;
}

/* a before b: by price, then by score, then by number. */
static bool cheaper(double price, double score, double best_price, double best_score) {
    return price != best_price ? price < best_price : score < best_score;
}

static nb_status step_down(walk *w, double *over, bool *moved) {
    nbi_trials *t = w->t;
    double cost[NBI_COST_COUNT], excess, best = INFINITY, best_score = INFINITY, best_over = *over;
    size_t chosen = t->n;
    for (size_t v = 0; v < t->n; v++) {
        double score;
        uint8_t old = w->policy[v];
        if (old == 0) continue;
        w->policy[v]--;
        NB_TRY(nbi_trials_cost(t, w->policy, cost, &excess));
        double left = nbi_sum_excess(t->problem, cost), saved = *over - left;
        nb_status st = judge(w, v, old, &score);
        w->policy[v] = old;
        NB_TRY(st);
        w->slope[v] = isfinite(score - w->score) ? score - w->score : 0;
        /* a step that removes nothing (two tensors share the peak) comes last */
        double price = saved > 0 ? (score - w->score) / saved : INFINITY;
        if (isnan(price)) price = INFINITY;
        if (chosen < t->n && !cheaper(price, score, best, best_score)) continue;
        chosen = v, best = price, best_score = score, best_over = left;
    }
    *moved = chosen < t->n;
    if (!*moved) return NB_OK;
    w->policy[chosen]--;
    w->score = best_score;
    *over = best_over;
    return NB_OK;
}

static nb_status step_up(walk *w, double *used, bool *moved) {
    nbi_trials *t = w->t;
    double cost[NBI_COST_COUNT], excess, best = INFINITY, best_score = INFINITY, best_used = *used;
    size_t chosen = t->n;
    for (size_t v = 0; v < t->n; v++) {
        double score;
        uint8_t old = w->policy[v];
        if (old + 1 >= t->problem->n_options[v]) continue;
        w->policy[v]++;
        nb_status st = nbi_trials_cost(t, w->policy, cost, &excess);
        bool fits = st == NB_OK && excess <= 0;
        double now = spent(t->problem, cost), added = now - *used;
        if (fits) st = judge(w, v, old, &score);
        w->policy[v] = old;
        NB_TRY(st);
        if (!fits) continue;
        w->slope[v] = isfinite(score - w->score) ? score - w->score : 0;
        /* what costs nothing is ranked as if it cost little */
        double price = (score - w->score) / fmax(added, 1e-9);
        if (isnan(price)) price = INFINITY;
        if (chosen < t->n && !cheaper(price, score, best, best_score)) continue;
        chosen = v, best = price, best_score = score, best_used = now;
    }
    *moved = chosen < t->n;
    if (!*moved) return NB_OK;
    w->policy[chosen]++;
    w->score = best_score;
    *used = best_used;
    return NB_OK;
}

static double local_sum(const walk *w) {
    double sum = 0;
    for (size_t v = 0; v < w->t->n; v++) sum += w->error[v][w->policy[v]];
    return sum;
}

static nb_status go(walk *w, bool up) {
    nbi_trials *t = w->t;
    double cost[NBI_COST_COUNT], excess, x;
    bool moved = true;
    memset(w->policy, 0, t->n);
    NB_TRY(nbi_trials_cost(t, w->policy, cost, &excess));
    if (excess > 0) return NB_OK; /* even the cheapest options exceed a limit */
    for (size_t v = 0; v < t->n && !up; v++) w->policy[v] = (uint8_t)(t->problem->n_options[v] - 1);
    NB_TRY(nbi_trials_cost(t, w->policy, cost, &excess));
    if (w->error)
        w->score = local_sum(w);
    else
        NB_TRY(nbi_trials_probe(t, w->policy, &w->score));
    if (!isfinite(w->score)) w->score = 0; /* differences are what counts */
    if (up) {
        double used = spent(t->problem, cost);
        while (moved && (w->error || nbi_trials_open(t))) NB_TRY(step_up(w, &used, &moved));
    } else {
        double over = nbi_sum_excess(t->problem, cost);
        while (over > 0 && moved) NB_TRY(step_down(w, &over, &moved));
        if (over > 0) return NB_OK;
    }
    return nbi_trials_score(t, w->policy, &x);
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    walk w = {.t = &t};
    bool local = r->options[LOCAL] != 0;
    if (local && !r->problem->local_error)
        return nb_fail(ctx, NB_EUNSUPPORTED, "greedy: the problem offers no local errors");
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &w.policy);
    if (st != NB_OK) goto done;
    NB_TRYG(nbi_alloc(ctx, t.n, sizeof *w.slope, &w.slope));
    if (local) {
        NB_TRYG(nbi_rows_new(ctx, r->problem, &w.error));
        NB_TRYG(r->problem->local_error(ctx, r->problem->self, w.error));
    }
    NB_TRYG(go(&w, r->options[DIRECTION] != 0));
    st = nbi_trials_finish(&t);
done:
    nbi_free(w.error);
    nbi_free(w.slope);
    nbi_free(w.policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_greedy = {
    .name = "greedy",
    .help = "one step at a time, the least loss per cost saved (or the most gained per cost)",
    .options = options,
    .n_options = NBI_COUNT(options),
    .beyond = true,
    .run = run,
};
