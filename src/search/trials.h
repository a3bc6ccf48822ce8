/* What every method shares: the one door to problem->score. It scores each policy once, never an
 * infeasible one, counts, watches the deadline, keeps the best and the closest. */
#ifndef NIBBLE_SEARCH_TRIALS_H
#define NIBBLE_SEARCH_TRIALS_H

#include "search/search.h"

typedef struct nbi_trials {
    nb_ctx *ctx;
    const nbi_search_run *run;
    const nbi_problem *problem;
    size_t n;
    nbi_rng rng;
    long max_trials; /* 0: none */
    bool stopped;    /* cancelled inside a score, or out of time or trials */
    long count;
    uint8_t *seen;   /* [count][n] scored policies */
    double *scores;  /* [count] */
    long *slots;     /* hash table of indices + 1 */
    size_t capacity, n_slots;
    uint8_t *best, *closest, *unscored;
    double best_score, closest_excess;
    bool have_best, have_unscored, have_wanted;
    bool reachable_window; /* some limit stops the most expensive policy */
} nbi_trials;

nb_status nbi_trials_new(nb_ctx *ctx, const nbi_search_run *run, long default_trials,
                         nbi_trials *t);
void nbi_trials_free(nbi_trials *t);
/* false once the deadline, the number of trials or a cancel says stop. */
bool nbi_trials_open(nbi_trials *t);
/* Costs of a policy; `cost` may be NULL. *excess = nbi_excess. */
nb_status nbi_trials_cost(nbi_trials *t, const uint8_t *policy, double *cost, double *excess);
/* true when the policy has been scored; *score may be NULL. */
bool nbi_trials_seen(const nbi_trials *t, const uint8_t *policy, double *score);
/* Scores a feasible policy that has not been scored (else the known score comes back). When the
 * search has to stop instead, *score = INFINITY and nbi_trials_open() is false. */
nb_status nbi_trials_score(nbi_trials *t, const uint8_t *policy, double *score);
/* The same for a policy that may exceed the limits: then it is a trial, but never the result. */
nb_status nbi_trials_probe(nbi_trials *t, const uint8_t *policy, double *score);
/* Fills run->result; NB_ELIMIT when nothing feasible was met. */
nb_status nbi_trials_finish(nbi_trials *t);

/* Sum of the relative excesses over all limits: unlike the largest one it tells that a step helps
 * even when another limit is exceeded by more. */
double nbi_sum_excess(const nbi_problem *problem, const double cost[NBI_COST_COUNT]);

/* Random policy, every option equally likely. */
void nbi_policy_random(nbi_trials *t, uint8_t *policy);
/* Makes a policy feasible by lowering random variables, then fills the budget by raising random
 * ones, unless a limit is already used to 97 %. false in *ok: could not be made feasible. */
nb_status nbi_policy_repair(nbi_trials *t, uint8_t *policy, bool *ok);

/* The same by rows of errors, step by step: lowers what adds the least error per excess removed until
 * the limits hold, then raises what takes the most error away while something fits. Options of one
 * level are never exchanged for each other. */
nb_status nbi_policy_repair_by(nbi_trials *t, double **error, uint8_t *policy, bool *ok);

/* The best policy of the additive model under the limits, re-checked with exact costs. *ok false:
 * none found (or no sensitivities). `delta` may be NULL, else [n] rows for the sensitivities. */
nb_status nbi_policy_select(nbi_trials *t, double **delta, uint8_t *policy, bool *ok);
/* The same by other rows than sensitivities. */
typedef nb_status (*nbi_rows_fn)(nb_ctx *ctx, void *self, double **rows);
nb_status nbi_policy_select_by(nbi_trials *t, nbi_rows_fn fill, double **delta, uint8_t *policy,
                               bool *ok);
/* Rows of one double per option, freed by nbi_free of the result. */
nb_status nbi_rows_new(nb_ctx *ctx, const nbi_problem *problem, double ***rows);

#endif
