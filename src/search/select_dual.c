/* Lagrangian duals of the multiple-choice knapsack. The dual has one variable per limit only, so
 * the Dantzig-Wolfe master (one row per limit plus convexity, columns = complete choices) is a
 * simplex on a basis of a few rows; pricing is one pass over all options and gives the bound.
 * Every choice that pricing meets is repaired into a feasible one: that is the first incumbent. */
#include "search/select.h"

#include <math.h>
#include <string.h>

#define MAX_ROUNDS 2000

/* min over choices of Σ a·value + λ·weight; the choice, its value and weights. */
static double price(const nbi_select_core *c, double a, const double *lambda, int *choice,
                    double *value, double *weight) {
    double sum = 0;
    *value = 0;
    for (int l = 0; l < c->limits; l++) weight[l] = 0;
    for (int v = 0; v < c->n; v++) {
        double least = INFINITY;
        int at = c->start[v];
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            const double *w = c->weight + (size_t)i * (size_t)c->limits;
            double x = a * c->value[i];
            for (int l = 0; l < c->limits; l++) x += lambda[l] * w[l];
            if (x < least) {
                least = x;
                at = i;
            }
        }
        sum += least;
        choice[v] = at;
        *value += c->value[at];
        for (int l = 0; l < c->limits; l++)
            weight[l] += c->weight[(size_t)at * (size_t)c->limits + (size_t)l];
    }
    return sum;
}

static double total_excess(const nbi_select_core *c, const double *weight) {
    double sum = 0;
    for (int l = 0; l < c->limits; l++)
        if (weight[l] > c->cap[l] + NBI_SELECT_EPS) sum += weight[l] - c->cap[l];
    return sum;
}

static void apply(const nbi_select_core *c, const double *weight, int from, int to, double *out) {
    const double *a = c->weight + (size_t)from * (size_t)c->limits;
    const double *b = c->weight + (size_t)to * (size_t)c->limits;
    for (int l = 0; l < c->limits; l++) out[l] = weight[l] + b[l] - a[l];
}

/* The single change with the least value per excess removed, or, once everything fits, with the
 * largest gain in value. false: none. */
static bool best_change(const nbi_select_core *c, const int *choice, const double *weight,
                        double *trial, int *group, int *option) {
    double excess = total_excess(c, weight), best = excess > 0 ? INFINITY : -1e-15;
    *group = -1;
    for (int v = 0; v < c->n; v++)
        for (int i = c->start[v]; i < c->start[v + 1]; i++) {
            if (i == choice[v]) continue;
            double gain = c->value[i] - c->value[choice[v]];
            if (excess <= 0 && gain >= best) continue;
            apply(c, weight, choice[v], i, trial);
            double left = total_excess(c, trial);
            if (left >= excess && !(excess <= 0 && left <= 0)) continue;
            double rank = excess > 0 ? gain / (excess - left) : gain;
            if (rank < best) {
                best = rank;
                *group = v;
                *option = i;
            }
        }
    return *group >= 0;
}

/* Makes the choice feasible, then better, by single changes; keeps it when it beats `best`. */
static void repair(const nbi_select_core *c, int *choice, double *weight, double *trial,
                   nbi_select_best *best) {
    int v, to = 0;
    for (int round = 0; round < 4 * c->n + 16 && best_change(c, choice, weight, trial, &v, &to);
         round++) {
        apply(c, weight, choice[v], to, trial);
        memcpy(weight, trial, (size_t)c->limits * sizeof *weight);
        choice[v] = to;
    }
    if (total_excess(c, weight) > 0) return;
    double value = 0;
    for (int i = 0; i < c->n; i++) value += c->value[choice[i]];
    if (value < best->value) {
        best->value = value;
        memcpy(best->choice, choice, (size_t)c->n * sizeof *choice);
    }
}

/* The master's basis: explicit inverse of m = limits + 1 rows. */
typedef struct master {
    int m;
    double *inverse; /* [m][m] */
    double *rhs;     /* [m] values of the basic columns */
    double *cost;    /* [m] costs of the basic columns */
    double *column;  /* [m] the entering column, then its image */
} master;

/* Pivots the column (in t->column, with its cost) into the basis; false: unbounded or degenerate
 * beyond use, the caller stops. */
static bool enter(master *t, double cost, double *image) {
    int m = t->m, row = -1;
    double least = INFINITY;
    for (int r = 0; r < m; r++) {
        image[r] = 0;
        for (int k = 0; k < m; k++) image[r] += t->inverse[r * m + k] * t->column[k];
        if (image[r] > 1e-12 && t->rhs[r] / image[r] < least) {
            least = t->rhs[r] / image[r];
            row = r;
        }
    }
    if (row < 0) return false;
    double pivot = image[row];
    for (int k = 0; k < m; k++) t->inverse[row * m + k] /= pivot;
    t->rhs[row] /= pivot;
    for (int r = 0; r < m; r++) {
        if (r == row) continue;
        for (int k = 0; k < m; k++)
            t->inverse[r * m + k] -= image[r] * t->inverse[row * m + k];
        t->rhs[r] -= image[r] * t->rhs[row];
        if (t->rhs[r] < 0) t->rhs[r] = 0;
    }
    t->cost[row] = cost;
    return true;
}

typedef struct scratch {
    nbi_arena arena;
    int *choice;
    double *lambda, *weight, *trial, *image;
    master t;
} scratch;

static nb_status scratch_new(nb_ctx *ctx, const nbi_select_core *c, scratch *s) {
    size_t l = (size_t)c->limits, m = l + 1;
    memset(s, 0, sizeof *s);
    s->choice = nbi_arena_alloc(&s->arena, (size_t)c->n, sizeof *s->choice);
    double *d = nbi_arena_alloc(&s->arena, 3 * l + 4 * m + m * m, sizeof *d);
    if (!s->choice || !d) return nb_fail_memory(ctx, (size_t)c->n * sizeof *s->choice);
    s->lambda = d, s->weight = d + l, s->trial = d + 2 * l, s->image = d + 3 * l;
    s->t = (master){(int)m, s->image + 4 * m, s->image + m, s->image + 2 * m, s->image + 3 * m};
    for (size_t r = 0; r < m; r++) s->t.inverse[r * m + r] = 1;
    return NB_OK;
}

/* λ and the convexity price from the basis. */
static double duals(const master *t, int limits, double *lambda) {
    double sigma = 0;
    for (int k = 0; k <= limits; k++) {
        double y = 0;
        for (int r = 0; r < t->m; r++) y += t->cost[r] * t->inverse[r * t->m + k];
        if (k < limits) lambda[k] = -y;
        else sigma = y;
    }
    return sigma;
}

nb_status nbi_select_dual(nb_ctx *ctx, const nbi_select_core *c, double ceiling, double *lambda,
                          double *bound, nbi_select_best *best) {
    scratch s;
    nb_status st = scratch_new(ctx, c, &s);
    if (st != NB_OK) goto done;
    double range = 1e-300;
    for (int v = 0; v < c->n; v++) {
        double most = 0;
        for (int i = c->start[v]; i < c->start[v + 1]; i++) most = fmax(most, c->value[i]);
        range += most;
    }
    /* a column that weighs nothing and costs too much starts the master */
    for (int l = 0; l < c->limits; l++) s.t.rhs[l] = c->cap[l];
    s.t.rhs[c->limits] = 1;
    s.t.cost[c->limits] = fmin(16 * range, ceiling + 0.01 * fabs(ceiling));
    *bound = -INFINITY;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        double sigma = duals(&s.t, c->limits, s.lambda), value;
        int negative = 0;
        while (negative < c->limits && s.lambda[negative] >= -1e-12 * range) negative++;
        memset(s.t.column, 0, (size_t)s.t.m * sizeof *s.t.column);
        if (negative < c->limits) { /* its slack enters */
            s.t.column[negative] = 1;
            if (!enter(&s.t, 0, s.image)) break;
            continue;
        }
        for (int l = 0; l < c->limits; l++) s.lambda[l] = fmax(s.lambda[l], 0);
        double least = price(c, 1, s.lambda, s.choice, &value, s.weight), here = least;
        for (int l = 0; l < c->limits; l++) here -= s.lambda[l] * c->cap[l];
        memcpy(s.t.column, s.weight, (size_t)c->limits * sizeof *s.weight);
        s.t.column[c->limits] = 1;
        if (here > *bound) {
            *bound = here;
            memcpy(lambda, s.lambda, (size_t)c->limits * sizeof *lambda);
            if (best) repair(c, s.choice, s.weight, s.trial, best);
            if (here >= ceiling) break;
        }
        if (least >= sigma - 1e-12 * range || !enter(&s.t, value, s.image)) break;
    }
done:
    nbi_arena_free(&s.arena);
    return st;
}

/* Multiplicative weights: the row with the larger excess gains. Plain, and good enough: this only
 * runs where single changes found no feasible choice. */
nb_status nbi_select_dual_excess(nb_ctx *ctx, const nbi_select_core *c, double *lambda,
                                 double *bound, nbi_select_best *best) {
    scratch s;
    nb_status st = scratch_new(ctx, c, &s);
    if (st != NB_OK) goto done;
    *bound = -INFINITY;
    /* first each limit alone, then mixtures */
    for (int round = 0; round < c->limits + 400; round++) {
        double value, top = -INFINITY, spread = 1e-300, sum = 0, here;
        for (int l = 0; l < c->limits; l++) {
            if (round < c->limits) s.lambda[l] = l == round;
            else if (round == c->limits) s.lambda[l] = 1.0 / c->limits;
        }
        here = price(c, 0, s.lambda, s.choice, &value, s.weight);
        for (int l = 0; l < c->limits; l++) {
            here -= s.lambda[l] * c->cap[l];
            top = fmax(top, s.weight[l] - c->cap[l]);
        }
        if (here > *bound) {
            *bound = here;
            memcpy(lambda, s.lambda, (size_t)c->limits * sizeof *lambda);
        }
        if (top < best->value) {
            best->value = top;
            memcpy(best->choice, s.choice, (size_t)c->n * sizeof *s.choice);
        }
        if (round < c->limits) continue;
        for (int l = 0; l < c->limits; l++)
            spread = fmax(spread, fabs(top - (s.weight[l] - c->cap[l])));
        double rate = 2.0 / sqrt(1.0 + round - c->limits);
        for (int l = 0; l < c->limits; l++) {
            s.lambda[l] *= exp(rate * (s.weight[l] - c->cap[l] - top) / spread);
            sum += s.lambda[l];
        }
        for (int l = 0; l < c->limits; l++) s.lambda[l] /= sum;
    }
done:
    nbi_arena_free(&s.arena);
    return st;
}
