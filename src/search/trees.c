/* Second-order boosting with exact splits; for squared error the second derivative is 1, so with
 * G = Σ gradients and n rows a leaf is −T(G)/(n + lambda) and a split gains
 *   (T(G_l)²/(n_l + lambda) + T(G_r)²/(n_r + lambda) − T(G)²/(n + lambda))/2 − gamma,
 * T shrinking towards 0 by alpha. Splits are at midpoints between neighbouring values; of equal
 * gains the first column and the lowest split win. */
#include "search/trees.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct tree_node {
    int column;  /* −1: a leaf */
    float split; /* x < split goes left */
    int left, right;
    double value;
} tree_node;

struct nbi_trees {
    nbi_trees_options o;
    double base; /* mean of y */
    size_t n_nodes, capacity;
    tree_node *node;
    int *root; /* [trees] */
    int n;
};

typedef struct sorted {
    float x;
    uint32_t row;
} sorted;

typedef struct grower {
    nb_ctx *ctx;
    nbi_trees *trees;
    const float *x;
    size_t width;
    double *gradient; /* [n] */
    uint32_t *row;    /* [n] rows of a tree, partitioned as it grows */
    uint32_t *column; /* [width] shuffled */
    size_t columns;
    sorted *order; /* [n] */
} grower;

nbi_trees_options nbi_trees_options_default(void) {
    return (nbi_trees_options){.trees = 250,
                               .depth = 6,
                               .rate = 0.1,
                               .lambda = 1,
                               .alpha = 0.01,
                               .rows = 0.79,
                               .columns = 0.9};
}

static double shrunk(double g, double alpha) {
    return g > alpha ? g - alpha : g < -alpha ? g + alpha : 0;
}

static double quality(const nbi_trees_options *o, double g, double n) {
    double t = shrunk(g, o->alpha);
    return t * t / (n + o->lambda);
}

static int by_x(const void *a, const void *b) {
    const sorted *p = a, *q = b;
    if (p->x != q->x) return p->x < q->x ? -1 : 1;
    return p->row < q->row ? -1 : p->row > q->row;
}

/* The best split of rows first … end−1; gain ≤ 0: none. */
static double best_split(grower *g, size_t first, size_t end, int *column, float *split) {
    const nbi_trees_options *o = &g->trees->o;
    double all = 0, best = 0, n = (double)(end - first);
    for (size_t i = first; i < end; i++) all += g->gradient[g->row[i]];
    double whole = quality(o, all, n);
    for (size_t c = 0; c < g->columns; c++) {
        double left = 0;
        for (size_t i = first; i < end; i++)
            g->order[i] = (sorted){g->x[g->row[i] * g->width + g->column[c]], g->row[i]};
        qsort(g->order + first, end - first, sizeof *g->order, by_x);
        for (size_t i = first; i + 1 < end; i++) {
            left += g->gradient[g->order[i].row];
            if (g->order[i].x == g->order[i + 1].x) continue;
            double nl = (double)(i + 1 - first);
            double gain = (quality(o, left, nl) + quality(o, all - left, n - nl) - whole) / 2;
            gain -= o->gamma;
            if (gain <= best + 1e-12) continue;
            best = gain;
            *column = (int)g->column[c];
            *split = g->order[i].x + (g->order[i + 1].x - g->order[i].x) / 2;
        }
    }
    return best;
}

static nb_status add_node(grower *g, int *out) {
    nbi_trees *t = g->trees;
    if (t->n_nodes == t->capacity) {
        size_t more = t->capacity ? 2 * t->capacity : 256;
        NB_TRY(nbi_grow(g->ctx, &t->node, t->n_nodes, more, sizeof *t->node));
        t->capacity = more;
    }
    *out = (int)t->n_nodes++;
    return NB_OK;
}

static nb_status grow(grower *g, size_t first, size_t end, int depth, int *out) {
    nbi_trees *t = g->trees;
    int at, column = -1, left, right;
    float split = 0;
    double sum = 0;
    NB_TRY(add_node(g, &at));
    *out = at;
    for (size_t i = first; i < end; i++) sum += g->gradient[g->row[i]];
    double n = (double)(end - first);
    t->node[at] = (tree_node){.column = -1,
                              .value = -t->o.rate * shrunk(sum, t->o.alpha) / (n + t->o.lambda)};
    if (depth == 0 || end - first < 2 || best_split(g, first, end, &column, &split) <= 0)
        return NB_OK;
    size_t middle = first;
    for (size_t i = first; i < end; i++) {
        uint32_t r = g->row[i];
        if (!(g->x[r * g->width + (size_t)column] < split)) continue;
        g->row[i] = g->row[middle];
        g->row[middle++] = r;
    }
    if (middle == first || middle == end)
        return NB_OK; /* a midpoint that rounds to its neighbour */
    NB_TRY(grow(g, first, middle, depth - 1, &left));
    NB_TRY(grow(g, middle, end, depth - 1, &right));
    t->node[at].column = column;
    t->node[at].split = split;
    t->node[at].left = left;
    t->node[at].right = right;
    return NB_OK;
}

static double walk(const nbi_trees *t, int at, const float *x) {
    while (t->node[at].column >= 0)
        at = x[t->node[at].column] < t->node[at].split ? t->node[at].left : t->node[at].right;
    return t->node[at].value;
}

double nbi_trees_predict(const nbi_trees *t, const float *x) {
    double sum = t->base;
    for (int i = 0; i < t->n; i++) sum += walk(t, t->root[i], x);
    return sum;
}

void nbi_trees_free(nbi_trees *t) {
    if (!t) return;
    nbi_free(t->node);
    nbi_free(t->root);
    nbi_free(t);
}

static size_t part_of(double part, size_t n) {
    size_t k = (size_t)ceil(part * (double)n);
    return k < 1 ? 1 : k > n ? n : k;
}

/* A request to stop, or the time is over: fewer trees. */
static bool stops(const grower *g) {
    double deadline = g->trees->o.deadline;
    return nb_cancelled(g->ctx) || (deadline > 0 && nb_seconds(g->ctx) >= deadline);
}

static nb_status boost(grower *g, const double *y, size_t n) {
    nbi_trees *t = g->trees;
    nbi_rng rng;
    nbi_rng_seed(&rng, t->o.seed, 0x72ee5);
    for (size_t i = 0; i < n; i++) t->base += y[i] / (double)n;
    for (size_t i = 0; i < n; i++) g->gradient[i] = t->base - y[i];
    for (size_t c = 0; c < g->width; c++) g->column[c] = (uint32_t)c;
    g->columns = part_of(t->o.columns, g->width);
    for (; t->n < t->o.trees && !stops(g); t->n++) {
        for (size_t i = 0; i < n; i++) g->row[i] = (uint32_t)i;
        nbi_rng_shuffle(&rng, g->row, n);
        nbi_rng_shuffle(&rng, g->column, g->width);
        NB_TRY(grow(g, 0, part_of(t->o.rows, n), t->o.depth, &t->root[t->n]));
        for (size_t i = 0; i < n; i++) /* prediction − y */
            g->gradient[i] += walk(t, t->root[t->n], g->x + i * g->width);
    }
    return NB_OK;
}

nb_status nbi_trees_fit(nb_ctx *ctx, const nbi_trees_options *o, const float *x, const double *y,
                        size_t n, size_t width, nbi_trees **out) {
    grower g = {.ctx = ctx, .x = x, .width = width};
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *g.trees, &g.trees));
    g.trees->o = *o;
    NB_TRYG(nbi_alloc(ctx, (size_t)o->trees + 1, sizeof *g.trees->root, &g.trees->root));
    NB_TRYG(nbi_alloc(ctx, n + 1, sizeof *g.gradient, &g.gradient));
    NB_TRYG(nbi_alloc(ctx, n + 1, sizeof *g.row, &g.row));
    NB_TRYG(nbi_alloc(ctx, width + 1, sizeof *g.column, &g.column));
    NB_TRYG(nbi_alloc(ctx, n + 1, sizeof *g.order, &g.order));
    NB_TRYG(boost(&g, y, n));
    *out = g.trees;
    g.trees = NULL;
done:
    nbi_trees_free(g.trees);
    nbi_free(g.gradient);
    nbi_free(g.row);
    nbi_free(g.column);
    nbi_free(g.order);
    return st;
}
