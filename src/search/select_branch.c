/* Depth-first branch and bound over the groups. A node is a complete choice: a prefix of decided
 * groups, the others at the option of least reduced cost; its children deviate in one later group.
 * Bounds: suffix minima under a pool of multipliers (λ*, λ* with each limit made dearer and
 * cheaper, and those learned where a subtree grew large), a few multiply-adds each. Passes with a
 * growing threshold above the lower bound make the effort depend on the true gap, not on the
 * quality of the first incumbent. */
#include "search/select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POOL 32
#define LEARN_NODES 400 /* a subtree this large teaches a multiplier */

typedef struct item {
    double reduced;
    int option;
} item;

typedef struct branch {
    nb_ctx *ctx;
    nbi_select_search *s;
    const nbi_select_core *c;
    nbi_select_best *best;
    int limits, groups; /* groups with more than one candidate in this pass */
    double threshold;   /* only choices below it are wanted */
    /* per pass, in search order */
    int *order;    /* [groups] core group */
    int *first;    /* [groups+1] into items */
    item *items;   /* candidates by reduced cost; [0] of a group is its base */
    double *value, *weight; /* of the items */
    double *left;  /* [limits] */
    double *tail;  /* [groups+1][1+limits] value and weights of the bases from here on */
    double *suffix; /* [groups+1][POOL] */
    double *pool;  /* [limits][POOL] */
    double offset[POOL];
    int learned, fixed;
    nb_status st;
    int *now;      /* [n] the current choice */
    double *stack; /* [groups+1][limits] */
    double *reduced; /* [options] */
    double *span;  /* [n] */
    double *guess; /* [limits] */
} branch;

static void set_pool(branch *b, int j, const double *lambda) {
    const nbi_select_core *c = b->c;
    b->offset[j] = 0;
    for (int l = 0; l < b->limits; l++) {
        b->pool[l * POOL + j] = lambda[l];
        b->offset[j] += lambda[l] * c->cap[l];
    }
    double a = b->s->excess ? 0 : 1, sum = 0;
    b->suffix[(size_t)b->groups * POOL + (size_t)j] = 0;
    for (int g = b->groups - 1; g >= 0; g--) {
        double least = INFINITY;
        for (int i = b->first[g]; i < b->first[g + 1]; i++) {
            double x = a * b->value[i];
            for (int l = 0; l < b->limits; l++) x += lambda[l] * b->weight[i * b->limits + l];
            least = fmin(least, x);
        }
        sum += least;
        b->suffix[(size_t)g * POOL + (size_t)j] = sum;
    }
}

static double objective(const branch *b, double value, const double *weight) {
    double top = -INFINITY;
    for (int l = 0; l < b->limits; l++) top = fmax(top, weight[l] - b->c->cap[l]);
    if (b->s->excess) return top;
    return top <= NBI_SELECT_EPS ? value : INFINITY;
}

/* true when no completion of this prefix can be below the threshold. */
static bool pruned(const branch *b, int g, double value, const double *weight) {
    const double *suffix = b->suffix + (size_t)g * POOL;
    double bound[POOL], a = b->s->excess ? 0 : value, t = b->threshold;
    for (int j = 0; j < POOL; j++) bound[j] = suffix[j] - b->offset[j] + a;
    for (int l = 0; l < b->limits; l++) {
        const double *lambda = b->pool + l * POOL;
        double w = weight[l];
        for (int j = 0; j < POOL; j++) bound[j] += lambda[j] * w;
    }
    int cut = 0;
    for (int j = 0; j < POOL; j++) cut |= bound[j] >= t;
    return cut != 0;
}

/* Solves the dual of a subproblem that grew large; its multipliers prune it or what lies below.
 * Deterministic: depends on the search so far only. */
static void learn(branch *b, int g, double value, const double *weight) {
    if (b->s->excess) return;
    double bound;
    nbi_select_core rest = {.n = b->groups - g, .limits = b->limits, .start = b->first + g,
                            .value = b->value, .weight = b->weight, .cap = b->left};
    for (int l = 0; l < b->limits; l++) {
        b->left[l] = b->c->cap[l] - weight[l];
        if (b->left[l] < 0) return;
    }
    double ceiling = b->threshold - value;
    ceiling += 1e-12 * fabs(ceiling);
    b->st = nbi_select_dual(b->ctx, &rest, ceiling, b->guess, &bound, NULL);
    if (b->st != NB_OK) b->s->stopped = true;
    if (b->st != NB_OK) return;
    set_pool(b, b->fixed + b->learned % (POOL - b->fixed), b->guess);
    b->learned++;
}

static void keep(branch *b, double value) {
    b->best->value = value;
    memcpy(b->best->choice, b->now, (size_t)b->c->n * sizeof *b->now);
    if (value < b->threshold) b->threshold = value;
    if (b->s->excess && value <= NBI_SELECT_EPS) b->s->stopped = true;
}

static bool spent(branch *b) {
    nbi_select_search *s = b->s;
    s->nodes++;
    if (s->max_nodes && s->nodes >= s->max_nodes) s->stopped = true;
    if ((s->nodes & 1023) == 0 && (nb_cancelled(b->ctx) || nb_seconds(b->ctx) >= s->until))
        s->stopped = true;
    return s->stopped;
}

static void descend(branch *b, int g, double value, double reduced, const double *prefix) {
    size_t limits = (size_t)b->limits;
    double *weight = b->stack + (size_t)g * 2 * limits, *child = weight + limits, full[64];
    memcpy(weight, prefix, limits * sizeof *weight);
    long learn_at = b->s->nodes + LEARN_NODES;
    for (; g < b->groups; g++) {
        if (pruned(b, g, value, weight)) return;
        int base = b->first[g];
        const double *tail = b->tail + (size_t)(g + 1) * (1 + limits);
        for (int i = base + 1; i < b->first[g + 1]; i++) {
            const double *w = b->weight + (size_t)i * limits;
            if (b->s->bound + reduced + b->items[i].reduced >= b->threshold) break;
            if (spent(b)) return;
            for (size_t l = 0; l < limits; l++) child[l] = weight[l] + w[l];
            for (size_t l = 0; l < limits; l++) full[l] = child[l] + tail[1 + l];
            b->now[b->order[g]] = b->items[i].option;
            double x = objective(b, value + b->value[i] + tail[0], full);
            if (x < b->threshold) keep(b, x);
            if (!b->s->stopped && g + 1 < b->groups)
                descend(b, g + 1, value + b->value[i], reduced + b->items[i].reduced, child);
            if (b->s->stopped) return;
            if (b->s->nodes > learn_at) {
                learn(b, g, value, weight);
                learn_at = b->s->nodes + LEARN_NODES;
                if (b->s->stopped || pruned(b, g, value, weight)) {
                    b->now[b->order[g]] = b->items[base].option;
                    return;
                }
            }
        }
        b->now[b->order[g]] = b->items[base].option;
        value += b->value[base];
        for (size_t l = 0; l < limits; l++) weight[l] += b->weight[(size_t)base * limits + l];
    }
}

static int by_reduced(const void *pa, const void *pb) {
    const item *a = pa, *b = pb;
    if (a->reduced != b->reduced) return a->reduced < b->reduced ? -1 : 1;
    return a->option - b->option;
}

/* Candidates of the pass: reduced cost below `room`. Groups with one candidate are fixed and added
 * to value/weight; the others are ordered by falling span, so that the fine ones come last. */
static void candidates(branch *b, double room, double *value, double *weight) {
    const nbi_select_core *c = b->c;
    int limits = b->limits;
    b->groups = 0;
    *value = 0;
    for (int l = 0; l < limits; l++) weight[l] = 0;
    for (int v = 0; v < c->n; v++) {
        int base = c->start[v], more = 0;
        for (int i = c->start[v]; i < c->start[v + 1]; i++)
            if (b->reduced[i] < b->reduced[base]) base = i;
        b->now[v] = base;
        b->span[v] = 0;
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            if (i == base || b->reduced[i] >= room) continue;
            double d = 0;
            for (int l = 0; l < limits; l++)
                d += (b->s->lambda[l] + 1e-12) *
                     fabs(c->weight[i * limits + l] - c->weight[base * limits + l]);
            b->span[v] = fmax(b->span[v], d);
            more++;
        }
        if (more) {
            int at = b->groups++;
            for (; at > 0 && b->span[b->order[at - 1]] < b->span[v]; at--)
                b->order[at] = b->order[at - 1];
            b->order[at] = v;
            continue;
        }
        *value += c->value[base];
        for (int l = 0; l < limits; l++) weight[l] += c->weight[base * limits + l];
    }
    int count = 0;
    for (int g = 0; g < b->groups; g++) {
        int v = b->order[g];
        b->first[g] = count;
        for (int i = c->start[v]; i < c->start[v + 1]; i++)
            if (i == b->now[v] || b->reduced[i] < room)
                b->items[count++] = (item){b->reduced[i], i};
        qsort(b->items + b->first[g], (size_t)(count - b->first[g]), sizeof *b->items, by_reduced);
        b->now[v] = b->items[b->first[g]].option;
    }
    b->first[b->groups] = count;
    for (int i = 0; i < count; i++) {
        int o = b->items[i].option;
        b->value[i] = c->value[o];
        for (int l = 0; l < limits; l++) b->weight[i * limits + l] = c->weight[o * limits + l];
    }
}

static void set_tail(branch *b) {
    size_t row = 1 + (size_t)b->limits;
    memset(b->tail + (size_t)b->groups * row, 0, row * sizeof *b->tail);
    for (int g = b->groups - 1; g >= 0; g--) {
        double *t = b->tail + (size_t)g * row;
        int i = b->first[g];
        t[0] = t[row] + b->value[i];
        for (int l = 0; l < b->limits; l++)
            t[1 + l] = t[row + 1 + (size_t)l] + b->weight[i * b->limits + l];
    }
}

static void fill_pool(branch *b) {
    static const double scales[] = {0.97, 1.03, 0.85, 1.15};
    const double *best = b->s->lambda;
    int j = 0;
    set_pool(b, j++, best);
    for (size_t k = 0; k < NBI_COUNT(scales); k++)
        for (int l = 0; l < b->limits && j < POOL / 2; l++) {
            memcpy(b->guess, best, (size_t)b->limits * sizeof *best);
            b->guess[l] *= scales[k];
            double sum = 0;
            for (int i = 0; i < b->limits; i++) sum += b->guess[i];
            for (int i = 0; b->s->excess && i < b->limits; i++) b->guess[i] /= sum;
            set_pool(b, j++, b->guess);
        }
    b->fixed = j;
    b->learned = 0;
    for (; j < POOL; j++) set_pool(b, j, best);
}

/* One pass: every choice with an objective below `until` is found or excluded. */
static void pass(branch *b, double until) {
    double value, start[64], full[64];
    b->threshold = until;
    candidates(b, until - b->s->bound, &value, start);
    set_tail(b);
    fill_pool(b);
    for (int l = 0; l < b->limits; l++) full[l] = start[l] + b->tail[1 + l];
    double x = objective(b, value + b->tail[0], full);
    if (x < b->threshold) keep(b, x);
    if (!b->s->stopped && !spent(b)) descend(b, 0, value, 0, start);
}

static nb_status branch_new(branch *b, nbi_arena *arena) {
    const nbi_select_core *c = b->c;
    size_t n = (size_t)c->n, l = (size_t)c->limits, options = (size_t)c->start[c->n];
    b->order = nbi_arena_alloc(arena, n, sizeof *b->order);
    b->first = nbi_arena_alloc(arena, n + 1, sizeof *b->first);
    b->now = nbi_arena_alloc(arena, n, sizeof *b->now);
    b->items = nbi_arena_alloc(arena, options, sizeof *b->items);
    b->tail = nbi_arena_alloc(arena, (n + 1) * (1 + l), sizeof(double));
    b->suffix = nbi_arena_alloc(arena, (n + 1) * POOL, sizeof(double));
    b->pool = nbi_arena_alloc(arena, l * POOL, sizeof(double));
    b->stack = nbi_arena_alloc(arena, (n + 1) * 2 * l, sizeof(double));
    b->reduced = nbi_arena_alloc(arena, options, sizeof(double));
    b->span = nbi_arena_alloc(arena, n, sizeof(double));
    b->guess = nbi_arena_alloc(arena, l, sizeof(double));
    b->left = nbi_arena_alloc(arena, l, sizeof(double));
    b->value = nbi_arena_alloc(arena, options, sizeof(double));
    b->weight = nbi_arena_alloc(arena, options * l, sizeof(double));
    if (!b->order || !b->first || !b->now || !b->items || !b->tail || !b->suffix || !b->pool ||
        !b->stack || !b->reduced || !b->span || !b->guess ||
        !b->left || !b->value || !b->weight)
        return nb_fail_memory(b->ctx, options * sizeof *b->items);
    double a = b->s->excess ? 0 : 1;
    for (int v = 0; v < c->n; v++) {
        double least = INFINITY;
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            b->reduced[i] = a * c->value[i];
            for (size_t k = 0; k < l; k++)
                b->reduced[i] += b->s->lambda[k] * c->weight[(size_t)i * l + k];
            least = fmin(least, b->reduced[i]);
        }
        for (int i = c->start[v]; i < c->start[v + 1]; i++) b->reduced[i] -= least;
    }
    return NB_OK;
}

nb_status nbi_select_branch(nb_ctx *ctx, nbi_select_search *s, nbi_select_best *best) {
    branch b = {.ctx = ctx, .s = s, .c = s->core, .best = best, .limits = s->core->limits};
    nbi_arena arena = {0};
    nb_status st = branch_new(&b, &arena);
    if (st != NB_OK) goto done;
    double root = s->bound, tolerance = 1e-10 * (fabs(best->value) + 1e-3 * fabs(root) + 1e-290);
    double room = (best->value - root) / 32;
    while (!s->stopped && s->bound < best->value - tolerance) {
        double proven = fmin(root + room, best->value - tolerance);
        /* reduced costs are measured from the root's bound */
        s->bound = root;
        double before = best->value;
        pass(&b, proven);
        if (!s->stopped) s->bound = best->value < before ? best->value : proven;
        room *= 1.4;
    }
    st = b.st;
done:
    nbi_arena_free(&arena);
    return st;
}
