/* Sensitivity: how much each option costs in loss with everything else at its best, then the exact
 * best sum of these under the limits, then a short refinement by real scores: one variable rises,
 * another pays, tried in the order of the model's prediction, kept when the score improves. */
#include "search/trials.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REFINE };
static const nbi_option options[] = {
    [REFINE] = {"refine", NBI_OPT_INT, 48, 0, 1e6, NULL,
                "policies to score in the refinement after the selection"},
};

typedef struct move {
    double predicted;
    int up, down;        /* variables; -1: none */
    uint8_t to_up, to_down;
} move;

static int by_prediction(const void *pa, const void *pb) {
    const move *a = pa, *b = pb;
    if (a->predicted != b->predicted) return a->predicted < b->predicted ? -1 : 1;
    if (a->up != b->up) return a->up - b->up;
    if (a->down != b->down) return a->down - b->down;
    if (a->to_up != b->to_up) return a->to_up - b->to_up;
    return a->to_down - b->to_down;
}

/* Single steps up or down, and a step up paid for by one or two steps down elsewhere. */
static size_t list_moves(const nbi_trials *t, double **delta, const uint8_t *policy, move *moves) {
    size_t count = 0;
    int n = (int)t->n;
    for (int v = -1; v < n; v++) {
        if (v >= 0 && policy[v] + 1 >= t->problem->n_options[v]) continue;
        uint8_t up = v < 0 ? 0 : (uint8_t)(policy[v] + 1);
        double gain = v < 0 ? 0 : delta[v][up] - delta[v][policy[v]];
        if (v >= 0) moves[count++] = (move){gain, v, -1, up, 0};
        for (int u = 0; u < n; u++)
            for (int d = 1; d <= 2 && u != v && policy[u] >= d; d++) {
                uint8_t down = (uint8_t)(policy[u] - d);
                double paid = delta[u][down] - delta[u][policy[u]];
                moves[count++] = (move){gain + paid, v, u, up, down};
            }
    }
    qsort(moves, count, sizeof *moves, by_prediction);
    return count;
}

static void apply(const move *m, const uint8_t *policy, uint8_t *trial, size_t n) {
    memcpy(trial, policy, n);
    if (m->up >= 0) trial[m->up] = m->to_up;
    if (m->down >= 0) trial[m->down] = m->to_down;
}

static nb_status refine(nbi_trials *t, double **delta, uint8_t *policy, long budget) {
    size_t n = t->n, most = (n + 1) * (2 * n + 1), i = 0, count;
    move *moves = NULL;
    uint8_t *trial = NULL;
    double score, excess, x;
    long end = t->count + budget;
    NB_TRY(nbi_alloc(t->ctx, most, sizeof *moves, &moves));
    nb_status st = nbi_alloc(t->ctx, n, 1, &trial);
    if (st != NB_OK || !nbi_trials_seen(t, policy, &score)) goto done;
    count = list_moves(t, delta, policy, moves);
    while (i < count && t->count < end && nbi_trials_open(t)) {
        apply(&moves[i++], policy, trial, n);
        if (nbi_trials_seen(t, trial, NULL)) continue;
        NB_TRYG(nbi_trials_cost(t, trial, NULL, &excess));
        if (excess > 0) continue;
        NB_TRYG(nbi_trials_score(t, trial, &x));
        if (x >= score) continue;
        score = x;
        memcpy(policy, trial, n);
        count = list_moves(t, delta, policy, moves);
        i = 0;
    }
done:
    nbi_free(moves);
    nbi_free(trial);
    return st;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    uint8_t *policy = NULL;
    double **delta = NULL, score;
    bool ok;
    if (!r->problem->sensitivity)
        return nb_fail(ctx, NB_EUNSUPPORTED, "sensitivity: the problem offers no sensitivities");
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nb_status st = nbi_alloc(ctx, t.n, 1, &policy);
    if (st != NB_OK) goto done;
    NB_TRYG(nbi_rows_new(ctx, r->problem, &delta));
    NB_TRYG(nbi_policy_select(&t, delta, policy, &ok));
    if (ok) {
        NB_TRYG(nbi_trials_score(&t, policy, &score));
        NB_TRYG(refine(&t, delta, policy, (long)r->options[REFINE]));
    }
    st = nbi_trials_finish(&t);
done:
    nbi_free(delta);
    nbi_free(policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_sensitivity = {
    .name = "sensitivity",
    .help = "loss per variable and option, exact selection under the limits, short refinement",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
