/* The walk of Goyal et al. (2021; docs/searches.md): weights, then biases, then
 * activations, and inside each part layer by layer, a variable goes down step by step while the
 * score rises by no more than a tolerance, with one probe beyond the first failure; every score
 * includes all choices made so far. Ours: the tolerance is what meets the limits. It grows until a
 * walk ends within them, then it is halved between the last two on a logarithmic scale. */
#include "search/trials.h"

#include <math.h>
#include <string.h>

enum { TOLERANCE, ROUNDS };
static const nbi_option options[] = {
    [TOLERANCE] = {"tolerance", NBI_OPT_REAL, 1e-3, 1e-12, 1e12, NULL,
                   "rise of the score that the first walk allows for one step"},
    [ROUNDS] = {"rounds", NBI_OPT_INT, 10, 0, 64, NULL,
                "walks between the last tolerance that was too small and the first that was not"},
};
#define GROWTH   4.0  /* of the tolerance while walks end beyond the limits */
#define SMALLEST 1e-6 /* part of the first tolerance, where that was enough already */

typedef struct walk {
    nbi_trials *t;
    uint8_t *policy;
    double score;
    bool fits;
} walk;

/* Moves v to `option` when the score allows it, or when there is no time to know. */
static nb_status try_step(walk *w, size_t v, uint8_t option, double most, bool *taken) {
    nbi_trials *t = w->t;
    double cost[NBI_COST_COUNT], excess, score;
    uint8_t old = w->policy[v];
    w->policy[v] = option;
    NB_TRY(nbi_trials_cost(t, w->policy, cost, &excess));
    NB_TRY(nbi_trials_probe(t, w->policy, &score));
    *taken = score <= most || !nbi_trials_seen(t, w->policy, NULL);
    if (!*taken) {
        w->policy[v] = old;
        return NB_OK;
    }
    if (nbi_trials_seen(t, w->policy, NULL)) w->score = score;
    w->fits = excess <= 0;
    return NB_OK;
}

static nb_status walk_part(walk *w, nbi_part part, double tolerance) {
    const nbi_problem *p = w->t->problem;
    for (size_t v = 0; v < w->t->n; v++) {
        bool down = (p->part ? p->part[v] : NBI_PART_WEIGHT) == part;
        while (down && !w->fits && w->policy[v] > 0) {
            uint8_t old = w->policy[v];
            NB_TRY(try_step(w, v, (uint8_t)(old - 1), w->score + tolerance, &down));
            if (!down && old > 1) /* one beyond the first failure */
                NB_TRY(try_step(w, v, (uint8_t)(old - 2), w->score + 2 * tolerance, &down));
        }
    }
    return NB_OK;
}

/* From the best options down, until the limits hold or no step is allowed. */
static nb_status walk_down(walk *w, double tolerance) {
    nbi_trials *t = w->t;
    double excess;
    for (size_t v = 0; v < t->n; v++) w->policy[v] = (uint8_t)(t->problem->n_options[v] - 1);
    NB_TRY(nbi_trials_cost(t, w->policy, NULL, &excess));
    NB_TRY(nbi_trials_probe(t, w->policy, &w->score));
    w->fits = excess <= 0;
    NB_TRY(walk_part(w, NBI_PART_WEIGHT, tolerance));
    NB_TRY(walk_part(w, NBI_PART_BIAS, tolerance));
    return walk_part(w, NBI_PART_ACTIVATION, tolerance);
}

static nb_status go(walk *w, double tolerance, long rounds) {
    nbi_trials *t = w->t;
    double excess, x, low = 0;
    memset(w->policy, 0, t->n);
    NB_TRY(nbi_trials_cost(t, w->policy, NULL, &excess));
    if (excess > 0) return NB_OK; /* even the cheapest options exceed a limit */
    for (;;) {
        NB_TRY(walk_down(w, tolerance));
        if (w->fits) break;
        low = tolerance;
        tolerance *= GROWTH; /* ends at infinity, which allows everything */
    }
    NB_TRY(nbi_trials_score(t, w->policy, &x));
    if (low == 0) low = tolerance * SMALLEST;
    for (; rounds > 0 && nbi_trials_open(t); rounds--) {
        double middle = sqrt(low) * sqrt(isfinite(tolerance) ? tolerance : low * GROWTH);
        NB_TRY(walk_down(w, middle));
        if (w->fits)
            tolerance = middle;
        else
            low = middle;
    }
    return NB_OK;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    walk w = {.t = &t};
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &w.policy);
    if (st != NB_OK) goto done;
    NB_TRYG(go(&w, r->options[TOLERANCE], (long)r->options[ROUNDS]));
    st = nbi_trials_finish(&t);
done:
    nbi_free(w.policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_fixedpoint = {
    .name = "fixedpoint",
    .help = "weights, biases, activations in turn, each layer down while the score allows it",
    .options = options,
    .n_options = NBI_COUNT(options),
    .beyond = true,
    .run = run,
};
