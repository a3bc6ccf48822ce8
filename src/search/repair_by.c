/* Repair by rows of errors (autoqnn, and what else learns a policy near the limits). A step goes to
 * the next level of a variable, down or up, whichever option there has the least error: options of one
 * level (schemes at one width) are never exchanged for each other, because what chose between them
 * knew more than the errors tell. */
#include "search/trials.h"

#include <math.h>

typedef struct repair {
    nbi_trials *t;
    double **error;
    uint8_t *policy;
    double used, over; /* of policy: see measure */
} repair;

/* How much of all limits together a policy uses, and by how much it exceeds them. */
static nb_status measure(const repair *r, double *used, double *over) {
    const nbi_problem *p = r->t->problem;
    double cost[NBI_COST_COUNT], excess;
    NB_TRY(nbi_trials_cost(r->t, r->policy, cost, &excess));
    *used = 0;
    for (int c = 0; c < NBI_COST_COUNT; c++)
        if (p->limit[c] < INFINITY) *used += cost[c] / (p->limit[c] > 0 ? p->limit[c] : 1);
    *over = nbi_sum_excess(p, cost);
    return NB_OK;
}

typedef struct step {
    size_t v;
    int option;
    double price, added; /* rise of the error per cost saved or added; error added */
} step;

static bool better(const step *a, const step *b) {
    return a->price != b->price ? a->price < b->price : a->added < b->added;
}

static int level_of(const repair *r, size_t v, int option) {
    const nbi_problem *p = r->t->problem;
    return p->level ? p->level(p->self, (int)v, option) : option;
}

/* The best step of variable v to its next level in `direction`; v of *best stays n where there is
 * none. Upwards a step must fit and take error away; downwards one that saves nothing (two tensors
 * share the peak of memory) comes last, and upwards what costs nothing counts as costing little. */
static nb_status consider(repair *r, size_t v, int direction, step *best) {
    int here = r->policy[v], n = r->t->problem->n_options[v], next = here;
    nb_status st = NB_OK;
    for (int o = 0; o < n; o++) { /* the nearest level beyond this one */
        int away = direction * (level_of(r, v, o) - level_of(r, v, here));
        int least = direction * (level_of(r, v, next) - level_of(r, v, here));
        if (away > 0 && (least == 0 || away < least)) next = o;
    }
    for (int o = 0; next != here && o < n && st == NB_OK; o++) {
        double used, over;
        if (level_of(r, v, o) != level_of(r, v, next)) continue;
        r->policy[v] = (uint8_t)o;
        st = measure(r, &used, &over);
        step s = {v, o, INFINITY, r->error[v][o] - r->error[v][here]};
        double saved = direction > 0 ? fmax(used - r->used, 1e-9) : r->over - over;
        if (st != NB_OK || (direction > 0 && (over > 0 || !(s.added < 0)))) continue;
        if (saved > 0) s.price = s.added / saved;
        if (isnan(s.price)) s.price = INFINITY;
        if (best->v == r->t->n || better(&s, best)) *best = s;
    }
    r->policy[v] = (uint8_t)here;
    return st;
}

static nb_status move(repair *r, int direction, bool *moved) {
    step best = {.v = r->t->n};
    for (size_t v = 0; v < r->t->n; v++) NB_TRY(consider(r, v, direction, &best));
    *moved = best.v < r->t->n;
    if (!*moved) return NB_OK;
    r->policy[best.v] = (uint8_t)best.option;
    return measure(r, &r->used, &r->over);
}

nb_status nbi_policy_repair_by(nbi_trials *t, double **error, uint8_t *policy, bool *ok) {
    repair r = {.t = t, .error = error, .policy = policy};
    bool moved = true;
    NB_TRY(measure(&r, &r.used, &r.over));
    while (r.over > 0 && moved) NB_TRY(move(&r, -1, &moved));
    *ok = r.over <= 0;
    moved = *ok && r.used > 0; /* no limit: nothing to fill */
    while (moved) NB_TRY(move(&r, 1, &moved));
    return NB_OK;
}
