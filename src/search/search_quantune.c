/* Quantune (Lee et al. 2022; the loop of its sibling tuner, docs/searches.md): a few
 * random trials, then rounds: boosted trees are fitted to all trials, and the best predicted
 * policies that are not known yet are tried. Ours: candidates are random repaired policies and
 * mutants of the best ones, as policies are too many to list; trees see each variable's option
 * one-hot and by rank; they predict the rank of a score and not its value, so that losses of any
 * scale, and infinite ones, are equally good teachers; trials of earlier runs teach, too, where
 * there are some. */
#include "search/trees.h"
#include "search/trials.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIALS, FIRST, ROUND, POOL, TREES, TRANSFER };
static const nbi_option options[] = {
    [TRIALS] = {"trials", NBI_OPT_INT, 100, 1, 1e6, NULL, "policies to score"},
    [FIRST] = {"first", NBI_OPT_INT, 5, 1, 1e6, NULL, "the first of them, at random"},
    [ROUND] = {"round", NBI_OPT_INT, 5, 1, 1e6, NULL, "policies between two fits"},
    [POOL] = {"pool", NBI_OPT_INT, 500, 1, 1e5, NULL, "candidates that are predicted in a round"},
    [TREES] = {"trees", NBI_OPT_INT, 250, 1, 1e4, NULL, "boosted trees"},
    [TRANSFER] = {"transfer", NBI_OPT_BOOL, 1, 0, 1, NULL,
                  "learn from trials of earlier runs in study.db, too"},
};
#define MOST_ROWS 1000 /* that the trees are fitted to: the last ones; and of earlier runs */
#define STALE     50   /* draws in a row that bring nothing new: the space is exhausted */

typedef struct tuner {
    nbi_trials *t;
    const double *opt;
    size_t width;     /* features */
    uint8_t *earlier; /* [MOST_ROWS][n] */
    double *earlier_score;
    size_t n_earlier, seen_earlier;
    uint8_t *pool;     /* [POOL][n] */
    double *predicted; /* [POOL] */
    size_t n_pool;
    uint8_t *trial;
    float *x;           /* [2·MOST_ROWS + 1][width] */
    double *y, *sorted; /* [2·MOST_ROWS] */
} tuner;

static void features(const tuner *u, const uint8_t *policy, float *x) {
    memset(x, 0, u->width * sizeof *x);
    for (size_t v = 0; v < u->t->n; v++) {
        int n = u->t->problem->n_options[v];
        x[policy[v]] = 1;
        x[n] = n > 1 ? (float)policy[v] / (float)(n - 1) : 0;
        x += n + 1;
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Scores → 0 … 1 by rank; equal scores have equal ranks. */
static void rank(const tuner *u, const double *score, size_t n, double *y) {
    if (n == 0) return;
    memcpy(u->sorted, score, n * sizeof *score);
    qsort(u->sorted, n, sizeof *score, by_value);
    for (size_t i = 0; i < n; i++) {
        size_t low = 0, high = n;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (u->sorted[middle] < score[i])
                low = middle + 1;
            else
                high = middle;
        }
        y[i] = n > 1 ? (double)low / (double)(n - 1) : 0;
    }
}

static nb_status learn(tuner *u, nbi_trees **out) {
    nbi_trials *t = u->t;
    size_t own = (size_t)t->count, from = own > MOST_ROWS ? own - MOST_ROWS : 0, n = 0;
    for (size_t i = from; i < own; i++) features(u, t->seen + i * t->n, u->x + n++ * u->width);
    rank(u, t->scores + from, own - from, u->y);
    rank(u, u->earlier_score, u->n_earlier, u->y + n);
    for (size_t i = 0; i < u->n_earlier; i++)
        features(u, u->earlier + i * t->n, u->x + n++ * u->width);
    nbi_trees_options o = nbi_trees_options_default();
    o.trees = (int)u->opt[TREES];
    o.seed = t->run->seed + (uint64_t)t->count;
    if (isfinite(t->run->deadline)) o.deadline = t->run->deadline;
    return nbi_trees_fit(t->ctx, &o, u->x, u->y, n, u->width, out);
}

/* A random policy, or the best known with some genes changed. */
static nb_status draw(tuner *u, bool mutate, bool *ok) {
    nbi_trials *t = u->t;
    nbi_policy_random(t, u->trial);
    if (mutate && t->have_best) {
        double prob = 1.5 / (double)t->n;
        for (size_t v = 0; v < t->n; v++)
            if ((double)nbi_rng_uniform(&t->rng) >= prob) u->trial[v] = t->best[v];
    }
    return nbi_policy_repair(t, u->trial, ok);
}

static bool pooled(const tuner *u) {
    for (size_t i = 0; i < u->n_pool; i++)
        if (!memcmp(u->pool + i * u->t->n, u->trial, u->t->n)) return true;
    return false;
}

/* Without a policy that fits the time does not count, a request to stop does. */
static bool goes_on(nbi_trials *t) {
    return t->have_unscored ? nbi_trials_open(t) : !nb_cancelled(t->ctx);
}

static nb_status fill_pool(tuner *u, size_t most) {
    bool ok = true;
    u->n_pool = 0;
    for (int stale = 0; u->n_pool < most && stale < STALE && goes_on(u->t);) {
        NB_TRY(draw(u, u->n_pool % 2 == 1, &ok));
        if (!ok) break;
        stale++;
        if (nbi_trials_seen(u->t, u->trial, NULL) || pooled(u)) continue;
        memcpy(u->pool + u->n_pool++ * u->t->n, u->trial, u->t->n);
        stale = 0;
    }
    return NB_OK;
}

/* Scores up to `count` of the pool, the best predicted first; without a prediction in order. */
static nb_status try_pool(tuner *u, size_t count) {
    nbi_trials *t = u->t;
    double score;
    for (size_t k = 0; k < count && nbi_trials_open(t); k++) {
        size_t best = u->n_pool;
        for (size_t i = 0; i < u->n_pool; i++)
            if (!isnan(u->predicted[i]) &&
                (best == u->n_pool || u->predicted[i] < u->predicted[best]))
                best = i;
        if (best == u->n_pool) break;
        u->predicted[best] = NAN;
        NB_TRY(nbi_trials_score(t, u->pool + best * t->n, &score));
    }
    return NB_OK;
}

/* Without trees all are equal; NAN where there was no time. */
static void predict(tuner *u, const nbi_trees *trees) {
    nbi_trials *t = u->t;
    bool open = true;
    for (size_t i = 0; i < u->n_pool; i++) {
        u->predicted[i] = 0;
        if (!trees) continue;
        open = open && nbi_trials_open(t);
        features(u, u->pool + i * t->n, u->x);
        u->predicted[i] = open ? nbi_trees_predict(trees, u->x) : (double)NAN;
    }
}

static nb_status tune(tuner *u) {
    nbi_trials *t = u->t;
    size_t first = (size_t)u->opt[FIRST];
    while (t->count == 0 || nbi_trials_open(t)) {
        nbi_trees *trees = NULL;
        bool random = t->count == 0 && u->n_earlier == 0;
        NB_TRY(fill_pool(u, random ? (size_t)fmin((double)first, u->opt[POOL])
                                   : (size_t)u->opt[POOL]));
        if (!u->n_pool || !nbi_trials_open(t)) return NB_OK;
        if (!random) NB_TRY(learn(u, &trees));
        predict(u, trees);
        nbi_trees_free(trees);
        NB_TRY(try_pool(u, random ? first : (size_t)u->opt[ROUND]));
    }
    return NB_OK;
}

static nb_status take_earlier(void *user, const uint8_t *policy, double score) {
    tuner *u = user;
    size_t at = u->seen_earlier++ % MOST_ROWS;
    memcpy(u->earlier + at * u->t->n, policy, u->t->n);
    u->earlier_score[at] = score;
    if (u->n_earlier < MOST_ROWS) u->n_earlier++;
    return NB_OK;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    tuner u = {.t = &t, .opt = r->options};
    const nbi_problem *p = r->problem;
    NB_TRY(nbi_trials_new(ctx, r, (long)r->options[TRIALS], &t));
    size_t pool = (size_t)r->options[POOL];
    for (size_t v = 0; v < t.n; v++) u.width += (size_t)p->n_options[v] + 1;
    nb_status st = nbi_alloc(ctx, (pool + MOST_ROWS + 1) * t.n, 1, &u.pool);
    if (st != NB_OK) goto done;
    u.earlier = u.pool + pool * t.n;
    u.trial = u.earlier + MOST_ROWS * t.n;
    NB_TRYG(nbi_alloc(ctx, pool + 5 * MOST_ROWS, sizeof *u.predicted, &u.predicted));
    u.earlier_score = u.predicted + pool;
    u.y = u.earlier_score + MOST_ROWS;
    u.sorted = u.y + 2 * MOST_ROWS;
    NB_TRYG(nbi_alloc(ctx, 2 * MOST_ROWS * u.width, sizeof *u.x, &u.x));
    if (p->earlier && r->options[TRANSFER] != 0)
        NB_TRYG(p->earlier(ctx, p->self, take_earlier, &u));
    NB_TRYG(tune(&u));
    st = nbi_trials_finish(&t);
done:
    nbi_free(u.pool);
    nbi_free(u.predicted);
    nbi_free(u.x);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_quantune = {
    .name = "quantune",
    .help = "boosted trees predict scores, the best predicted are tried; learns from earlier runs",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
