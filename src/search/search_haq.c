/* HAQ (Wang et al. 2019; constants in docs/searches.md): an agent walks over the
 * variables, its action in [0, 1] picks the option, the reward comes at the end. Ours: the reward
 * is the score in units of the warm-up's spread, because a score is a loss and no accuracy; the
 * limits are met, and used up, by adding one number to all actions, so that what the agent wants
 * more it gets more of (random repair and HAQ's are options); and the agent is shown what the
 * repair made of its walk. */
#include "search/ddpg.h"
#include "search/trials.h"

#include <math.h>
#include <string.h>

enum { EPISODES, WARMUP, HIDDEN, ACTOR_RATE, CRITIC_RATE, NOISE, DECAY, REWARD, REPAIR };
static const nbi_option options[] = {
    [EPISODES] = {"episodes", NBI_OPT_INT, 600, 1, 1e6, NULL, "walks over the variables"},
    [WARMUP] = {"warmup", NBI_OPT_INT, 20, 1, 1e6, NULL, "the first of them, with random actions"},
    [HIDDEN] = {"hidden", NBI_OPT_INT, 300, 1, 4096, NULL, "units in each hidden layer"},
    [ACTOR_RATE] = {"actor_rate", NBI_OPT_REAL, 1e-4, 0, 1, NULL, "learning rate of the actor"},
    [CRITIC_RATE] = {"critic_rate", NBI_OPT_REAL, 1e-3, 0, 1, NULL, "learning rate of the critic"},
    [NOISE] = {"noise", NBI_OPT_REAL, 0.5, 0, 10, NULL, "deviation of actions after the warm-up"},
    [DECAY] = {"decay", NBI_OPT_REAL, 0.99, 0, 1, NULL, "factor of the noise per episode"},
    [REWARD] =
        {"reward", NBI_OPT_CHOICE, 0, 0, 1, "every|end",
         "every step of a walk gets the reward of its end, as in HAQ's code, or the last only"},
    [REPAIR] =
        {"repair", NBI_OPT_CHOICE, 0, 0, 2, "shift|random|haq",
         "all actions shifted to the limits; random steps; HAQ's, last to first one step down"},
};
enum { SHIFT, RANDOM, AS_HAQ };
#define NEW_TRIES   10
#define LEAST_NOISE 0.02
#define SHIFT_STEPS 12 /* halvings: finer than any list of options */

enum { STATE = NBI_FEATURE_COUNT + 2, PREVIOUS = NBI_FEATURE_COUNT, FLAG };

typedef struct walk {
    nbi_trials *t;
    nbi_ddpg *agent;
    bool at_end;            /* the reward comes with the last step only */
    float (*state)[STATE];  /* [n] of one episode */
    double *action;         /* [n] */
    double *early;          /* [warmup] scores */
    uint8_t *policy, *wish; /* [n] after and before the repair */
    uint8_t *full;          /* [n] */
} walk;

/* Every feature min-max scaled over the variables. */
static void fill_features(walk *w) {
    const nbi_problem *p = w->t->problem;
    for (int f = 0; f < NBI_FEATURE_COUNT; f++) {
        double all[NBI_FEATURE_COUNT], low = INFINITY, high = -INFINITY;
        for (int v = 0; v < p->n_vars; v++) {
            p->features(p->self, v, all);
            low = fmin(low, all[f]);
            high = fmax(high, all[f]);
        }
        for (int v = 0; v < p->n_vars; v++) {
            p->features(p->self, v, all);
            w->state[v][f] = high > low ? (float)((all[f] - low) / (high - low)) : 0;
        }
    }
    for (int v = 0; v < p->n_vars; v++)
        w->state[v][FLAG] = p->part && p->part[v] == NBI_PART_ACTIVATION ? 0 : 1;
}

/* HAQ's b = round((bmax − bmin + 1)·a + bmin − 1/2) on the ranks of the options. */
static uint8_t option_of(int n, double action) {
    double o = floor(n * action);
    return (uint8_t)(o < 0 ? 0 : o > n - 1 ? n - 1 : o);
}

static double rank_of(int n, uint8_t option) {
    return n > 1 ? (double)option / (n - 1) : 1;
}

/* Normal around `mean`, within [0, 1]. */
static double noisy(nbi_rng *rng, double mean, double deviation) {
    double x = mean;
    for (int tries = 0; tries < 100; tries++) {
        x = mean + deviation * nbi_rng_normal(rng);
        if (x >= 0 && x <= 1) return x;
    }
    return fmin(fmax(x, 0), 1);
}

static void play(walk *w, double deviation) {
    nbi_trials *t = w->t;
    float previous = 1;
    for (size_t v = 0; v < t->n; v++) {
        int n = t->problem->n_options[v];
        double a;
        w->state[v][PREVIOUS] = previous;
        if (deviation < 0) {
            a = (double)nbi_rng_uniform(&t->rng);
        } else {
            a = nbi_ddpg_act(w->agent, w->state[v]);
            if (!isfinite(a)) a = 0.5;
            a = noisy(&t->rng, a, deviation);
        }
        w->action[v] = a;
        w->wish[v] = option_of(n, a);
        previous = (float)rank_of(n, w->wish[v]);
    }
    memcpy(w->policy, w->wish, t->n);
}

static nb_status repair_as_haq(nbi_trials *t, uint8_t *policy, bool *ok) {
    double excess;
    bool moved = true;
    NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
    while (excess > 0 && moved) {
        moved = false;
        for (size_t v = t->n; v-- > 0 && excess > 0;) {
            if (policy[v] == 0) continue;
            policy[v]--;
            moved = true;
            NB_TRY(nbi_trials_cost(t, policy, NULL, &excess));
        }
    }
    *ok = excess <= 0;
    return NB_OK;
}

static nb_status shifted(walk *w, double by, bool *ok) {
    nbi_trials *t = w->t;
    double excess;
    for (size_t v = 0; v < t->n; v++)
        w->policy[v] = option_of(t->problem->n_options[v], w->action[v] + by);
    NB_TRY(nbi_trials_cost(t, w->policy, NULL, &excess));
    *ok = excess <= 0;
    return NB_OK;
}

/* The largest common shift that fits, then single steps, the one that is nearest to the next option
 * first. */
static nb_status repair_by_shift(walk *w, bool *ok) {
    nbi_trials *t = w->t;
    double low = -1, high = 1, excess;
    NB_TRY(shifted(w, high, ok));
    if (*ok) return shifted(w, 0, ok); /* no limit: what the agent wants */
    NB_TRY(shifted(w, low, ok));
    if (!*ok) return NB_OK;
    for (int i = 0; i < SHIFT_STEPS; i++) {
        double middle = (low + high) / 2;
        NB_TRY(shifted(w, middle, ok));
        if (*ok)
            low = middle;
        else
            high = middle;
    }
    NB_TRY(shifted(w, low, ok));
    memset(w->full, 0, t->n);
    for (size_t left = t->n; left > 0; left--) {
        size_t next = t->n;
        double best = -INFINITY;
        for (size_t v = 0; v < t->n; v++) {
            int n = t->problem->n_options[v];
            double want = n * (w->action[v] + low) - w->policy[v];
            if (w->full[v] || want <= best) continue;
            best = want, next = v;
        }
        if (next == t->n) break;
        w->full[next] = 1;
        if (w->policy[next] + 1 >= t->problem->n_options[next]) continue;
        w->policy[next]++;
        NB_TRY(nbi_trials_cost(t, w->policy, NULL, &excess));
        if (excess > 0) w->policy[next]--;
    }
    return NB_OK;
}

/* The walk as the repaired policy would have been chosen. */
static void remember(walk *w, double score) {
    nbi_trials *t = w->t;
    float previous = 1;
    for (size_t v = 0; v < t->n; v++) {
        int n = t->problem->n_options[v];
        if (w->policy[v] != w->wish[v]) w->action[v] = (w->policy[v] + 0.5) / n;
        w->state[v][PREVIOUS] = previous;
        previous = (float)rank_of(n, w->policy[v]);
    }
    for (size_t v = 0; v < t->n; v++)
        nbi_ddpg_observe(w->agent, w->state[v], w->action[v],
                         w->at_end && v + 1 < t->n ? NAN : -score,
                         v + 1 < t->n ? w->state[v + 1] : NULL);
}

/* Rewards in units of the warm-up's deviation, from its mean. */
static void set_scale(walk *w, long count) {
    double sum = 0, square = 0;
    for (long i = 0; i < count; i++) sum += w->early[i];
    double mean = sum / (double)count;
    for (long i = 0; i < count; i++) square += (w->early[i] - mean) * (w->early[i] - mean);
    double deviation = sqrt(square / (double)count);
    nbi_ddpg_scale(w->agent, -mean, deviation > 0 ? 1 / deviation : 1);
}

static nb_status repair(walk *w, int how, bool *ok) {
    if (how == SHIFT) return repair_by_shift(w, ok);
    if (how == AS_HAQ) return repair_as_haq(w->t, w->policy, ok);
    return nbi_policy_repair(w->t, w->policy, ok);
}

/* A walk that leads to a policy not seen yet, if some more noise finds one. */
static nb_status explore(walk *w, int how, double deviation, bool *ok) {
    for (int tries = 0; tries < NEW_TRIES; tries++) {
        play(w, deviation);
        NB_TRY(repair(w, how, ok));
        if (!*ok || !nbi_trials_seen(w->t, w->policy, NULL)) return NB_OK;
        if (deviation >= 0) deviation = fmax(1.2 * deviation, LEAST_NOISE);
    }
    return NB_OK;
}

static nb_status learn(walk *w, const double *opt) {
    nbi_trials *t = w->t;
    long episodes = (long)opt[EPISODES], warmup = (long)opt[WARMUP];
    double worst = 0, score;
    for (long e = 0; e < episodes; e++) {
        bool ok;
        double deviation = e < warmup ? -1 : opt[NOISE] * pow(opt[DECAY], (double)(e - warmup));
        NB_TRY(explore(w, (int)opt[REPAIR], deviation, &ok));
        if (!ok || (t->have_unscored && !nbi_trials_open(t))) return NB_OK;
        NB_TRY(nbi_trials_score(t, w->policy, &score));
        if (!nbi_trials_seen(t, w->policy, NULL)) return NB_OK; /* stopped */
        if (isfinite(score))
            worst = fmax(worst, score);
        else
            score = worst;
        if (e < warmup) w->early[e] = score;
        if (e + 1 == warmup) set_scale(w, warmup);
        remember(w, score);
        for (size_t i = 0; e >= warmup && i < t->n && nbi_trials_open(t); i++)
            nbi_ddpg_update(w->agent);
    }
    return NB_OK;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    walk w = {.t = &t, .at_end = r->options[REWARD] != 0};
    if (!r->problem->features)
        return nb_fail(ctx, NB_EUNSUPPORTED, "haq: the problem does not describe its variables");
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    nbi_ddpg_options o = {.state = STATE,
                          .hidden = (size_t)r->options[HIDDEN],
                          .batch = 64,
                          .memory = 128 * t.n,
                          .actor_rate = r->options[ACTOR_RATE],
                          .critic_rate = r->options[CRITIC_RATE],
                          .discount = 1,
                          .follow = 0.01,
                          .seed = r->seed};
    nb_status st = nbi_alloc(ctx, 3 * t.n, 1, &w.policy);
    if (st != NB_OK) goto done;
    w.wish = w.policy + t.n;
    w.full = w.wish + t.n;
    NB_TRYG(nbi_alloc(ctx, t.n, sizeof *w.state, &w.state));
    NB_TRYG(nbi_alloc(ctx, t.n, sizeof *w.action, &w.action));
    NB_TRYG(nbi_alloc(ctx, (size_t)r->options[WARMUP], sizeof *w.early, &w.early));
    NB_TRYG(nbi_ddpg_new(ctx, &o, &w.agent));
    fill_features(&w);
    NB_TRYG(learn(&w, r->options));
    st = nbi_trials_finish(&t);
done:
    nbi_ddpg_free(w.agent);
    nbi_free(w.early);
    nbi_free(w.action);
    nbi_free(w.state);
    nbi_free(w.policy);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_haq = {
    .name = "haq",
    .help = "reinforcement learning (DDPG) over the variables, one action each, as in HAQ",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
