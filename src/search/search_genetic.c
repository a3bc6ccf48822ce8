/* Genetic algorithm of docs/searches.md (constants as in MetaPruning's search.py): population
 * 50, parents = best 10, 25 mutations and 25 crossovers per iteration, gene probability 0.1, 20
 * iterations. Candidates are repaired into the window 0.97..1 of the tightest limit instead of
 * being rejected; nothing infeasible or seen before is ever scored. */
#include "search/trials.h"

#include <math.h>
#include <string.h>

enum { POPULATION, PARENTS, ITERATIONS, PROB, SEEDED };
static const nbi_option options[] = {
    [POPULATION] = {"population", NBI_OPT_INT, 50, 2, 10000, NULL, "policies kept"},
    [PARENTS] = {"parents", NBI_OPT_INT, 10, 1, 10000, NULL, "best policies that breed"},
    [ITERATIONS] = {"iterations", NBI_OPT_INT, 20, 1, 100000, NULL, "generations"},
    [PROB] = {"prob", NBI_OPT_REAL, 0.1, 0, 1, NULL, "probability that a gene mutates"},
    [SEEDED] = {"seeded", NBI_OPT_BOOL, 1, 0, 1, NULL,
                "the first population holds the selection by sensitivity"},
};

typedef struct herd {
    nbi_trials *t;
    size_t size, parents;
    double prob;
    uint8_t *kept;  /* [2*size][n] the kept first, sorted by score; then the young */
    double *score;  /* [2*size] */
    size_t n_kept, n_young;
    uint8_t *trial; /* [n] */
} herd;

static uint8_t *row(const herd *h, size_t i) {
    return h->kept + i * h->t->n;
}

/* Repairs h->trial and takes it as a candidate unless it is known. */
static nb_status offer(herd *h, bool *taken) {
    bool ok;
    size_t n = h->t->n;
    *taken = false;
    NB_TRY(nbi_policy_repair(h->t, h->trial, &ok));
    if (!ok || nbi_trials_seen(h->t, h->trial, NULL)) return NB_OK;
    for (size_t i = 0; i < h->n_young; i++)
        if (memcmp(row(h, h->n_kept + i), h->trial, n) == 0) return NB_OK;
    memcpy(row(h, h->n_kept + h->n_young++), h->trial, n);
    *taken = true;
    return NB_OK;
}

static nb_status fill_random(herd *h, size_t wanted) {
    bool taken;
    for (size_t tries = 0; h->n_young < wanted && tries < 20 * h->size; tries++) {
        if (!nbi_trials_open(h->t) && h->t->have_unscored) break;
        nbi_policy_random(h->t, h->trial);
        NB_TRY(offer(h, &taken));
        if (!h->t->have_unscored) break; /* even the cheapest options exceed a limit */
    }
    return NB_OK;
}

static nb_status mutate(herd *h, size_t wanted) {
    nbi_trials *t = h->t;
    size_t parents = h->n_kept < h->parents ? h->n_kept : h->parents, made = 0;
    bool taken;
    for (size_t tries = 0; made < wanted && tries < 10 * wanted && nbi_trials_open(t); tries++) {
        memcpy(h->trial, row(h, nbi_rng_below(&t->rng, (uint32_t)parents)), t->n);
        for (size_t v = 0; v < t->n; v++) {
            uint32_t k = (uint32_t)t->problem->n_options[v];
            if (k < 2 || (double)nbi_rng_uniform(&t->rng) >= h->prob) continue;
            h->trial[v] = (uint8_t)((h->trial[v] + 1 + nbi_rng_below(&t->rng, k - 1)) % k);
        }
        NB_TRY(offer(h, &taken));
        made += taken;
    }
    return NB_OK;
}

static nb_status cross(herd *h, size_t wanted) {
    nbi_trials *t = h->t;
    uint32_t parents = (uint32_t)(h->n_kept < h->parents ? h->n_kept : h->parents);
    size_t made = 0;
    bool taken;
    if (parents < 2) return NB_OK;
    for (size_t tries = 0; made < wanted && tries < 10 * wanted && nbi_trials_open(t); tries++) {
        uint32_t a = nbi_rng_below(&t->rng, parents), b = nbi_rng_below(&t->rng, parents - 1);
        const uint8_t *pa = row(h, a), *pb = row(h, b + (b >= a));
        for (size_t v = 0; v < t->n; v++)
            h->trial[v] = nbi_rng_u32(&t->rng) >> 31 ? pa[v] : pb[v];
        NB_TRY(offer(h, &taken));
        made += taken;
    }
    return NB_OK;
}

/* Young from number `first` on in the order of their genes: neighbours then share the beginning of
 * the network, which problems keep. */
static void sort_young(herd *h, size_t first) {
    size_t n = h->t->n;
    for (size_t i = first + 1; i < h->n_young; i++) {
        size_t at = i;
        memcpy(h->trial, row(h, h->n_kept + i), n);
        for (; at > first && memcmp(row(h, h->n_kept + at - 1), h->trial, n) > 0; at--)
            memcpy(row(h, h->n_kept + at), row(h, h->n_kept + at - 1), n);
        memcpy(row(h, h->n_kept + at), h->trial, n);
    }
}

/* Scores the young and keeps the best of all; equal scores stay in the order of their genes. */
static nb_status select_best(herd *h) {
    nbi_trials *t = h->t;
    size_t scored = 0;
    for (size_t i = 0; i < h->n_young; i++) {
        double x;
        NB_TRY(nbi_trials_score(t, row(h, h->n_kept + i), &x));
        if (!nbi_trials_seen(t, row(h, h->n_kept + i), NULL)) break;
        h->score[h->n_kept + i] = x;
        scored++;
    }
    size_t total = h->n_kept + scored;
    for (size_t i = h->n_kept; i < total; i++) {
        double x = h->score[i];
        size_t at = i;
        memcpy(h->trial, row(h, i), t->n);
        for (; at > 0 && h->score[at - 1] > x; at--) {
            h->score[at] = h->score[at - 1];
            memcpy(row(h, at), row(h, at - 1), t->n);
        }
        h->score[at] = x;
        memcpy(row(h, at), h->trial, t->n);
    }
    h->n_kept = total < h->size ? total : h->size;
    h->n_young = 0;
    return NB_OK;
}

static nb_status evolve(herd *h, const double *opt) {
    nbi_trials *t = h->t;
    bool ok, seeded = false;
    if (opt[SEEDED] != 0 && !t->problem->sensitivity)
        nb_log(t->ctx, NB_LOG_INFO, "genetic: no sensitivities, the first population is random");
    if (opt[SEEDED] != 0) {
        NB_TRY(nbi_policy_select(t, NULL, h->trial, &ok));
        /* as selected, not filled up: what it leaves unused does not pay by the model */
        if (ok) memcpy(row(h, h->n_young++), h->trial, t->n);
        seeded = ok;
    }
    for (int i = 0; i < (int)opt[ITERATIONS] && (i == 0 || nbi_trials_open(t)); i++) {
        if (i > 0) {
            NB_TRY(mutate(h, h->size / 2));
            NB_TRY(cross(h, h->size - h->size / 2));
        }
        NB_TRY(fill_random(h, h->size));
        if (!h->n_young) break; /* nothing new is left */
        sort_young(h, i == 0 && seeded ? 1 : 0); /* the selected policy first */
        NB_TRY(select_best(h));
    }
    return NB_OK;
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    nbi_trials t;
    herd h = {.t = &t};
    NB_TRY(nbi_trials_new(ctx, r, 0, &t));
    h.size = (size_t)r->options[POPULATION];
    h.parents = (size_t)r->options[PARENTS];
    h.prob = r->options[PROB];
    nb_status st = nbi_alloc(ctx, (2 * h.size + 1) * t.n, 1, &h.kept);
    if (st != NB_OK) goto done;
    h.trial = row(&h, 2 * h.size);
    NB_TRYG(nbi_alloc(ctx, 2 * h.size, sizeof *h.score, &h.score));
    NB_TRYG(evolve(&h, r->options));
    st = nbi_trials_finish(&t);
done:
    nbi_free(h.kept);
    nbi_free(h.score);
    nbi_trials_free(&t);
    return st;
}

const nbi_search nbi_search_genetic = {
    .name = "genetic",
    .help = "genetic algorithm with repair to the limits",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
