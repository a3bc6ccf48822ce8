/* Gram-matrix rounding (GPTQ; here as Babai's nearest plane on H = R·Rᵀ, which needs no inverse),
 * refined by exact coordinate descent with the scale refitted, as greedy rounding alone leaves a
 * quarter of the error at 2 bits. All sums have a fixed order. */
#include "quant/gram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SWEEPS 20
#define CHUNK  16 /* rows per task of the factorization */

typedef struct sort_key {
    double value;
    uint32_t index;
} sort_key;

static int by_falling_value(const void *a, const void *b) {
    const sort_key *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

static nb_status make_order(nb_ctx *ctx, const double *h, size_t k, uint32_t *order) {
    sort_key *key;
    NB_TRY(nbi_alloc(ctx, k, sizeof *key, &key));
    for (size_t i = 0; i < k; i++) key[i] = (sort_key){h[i * k + i], (uint32_t)i};
    qsort(key, k, sizeof *key, by_falling_value);
    for (size_t i = 0; i < k; i++) order[i] = key[i].index;
    nbi_free(key);
    return NB_OK;
}

typedef struct factor_job {
    double *a;
    size_t k, column;
} factor_job;

/* y −= f·x */
NBI_WIDE static void subtract(double *restrict y, const double *restrict x, double f, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] -= f * x[i];
}
NBI_WIDE static void subtract_float(double *restrict y, const float *restrict x, double f,
                                    size_t n) {
    for (size_t i = 0; i < n; i++) y[i] -= f * (double)x[i];
}

/* Rows below the column's pivot, stored as their upper half: a[j][i], i ≥ j. */
static nb_status eliminate(void *user, size_t begin, size_t end, int worker) {
    const factor_job *job = user;
    size_t k = job->k, c = job->column;
    const double *pivot = job->a + c * k;
    (void)worker;
    for (size_t r = c + 1 + begin; r < c + 1 + end; r++)
        subtract(job->a + r * k + r, pivot + r, pivot[r], k - r);
    return NB_OK;
}

/* A = Uᵀ·U in the upper half, in place, then mirrored: row i of the lower half is L's. */
static nb_status cholesky(nb_ctx *ctx, double *a, size_t k) {
    for (size_t c = 0; c < k; c++) {
        double *row = a + c * k, pivot = row[c];
        if (!(pivot > 0) || !isfinite(pivot))
            return nb_fail(ctx, NB_ENUMERIC, "the Gram matrix is not positive definite");
        double inverse = 1 / sqrt(pivot);
        for (size_t i = c; i < k; i++) row[i] *= inverse;
        factor_job job = {a, k, c};
        NB_TRY(k - c > 128 ? nbi_parallel(ctx, k - c - 1, CHUNK, eliminate, &job)
                           : eliminate(&job, 0, k - c - 1, 0));
    }
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < i; j++) a[i * k + j] = a[j * k + i];
    return NB_OK;
}

void nbi_gram_free(nbi_gram *g) {
    nbi_free(g->order);
    nbi_free(g->factor);
    nbi_free(g->lower);
    *g = (nbi_gram){0};
}

nb_status nbi_gram_new(nb_ctx *ctx, double *h, size_t k, nbi_gram *out) {
    nbi_gram g = {.k = k, .h = h};
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, k, sizeof *g.order, &g.order));
    NB_TRYG(nbi_alloc(ctx, k * k, sizeof *g.factor, &g.factor));
    NB_TRYG(nbi_alloc(ctx, k * k, sizeof *g.lower, &g.lower));
    NB_TRYG(make_order(ctx, h, k, g.order));
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++)
            g.lower[i * k + j] = h[g.order[k - 1 - i] * k + g.order[k - 1 - j]];
    NB_TRYG(cholesky(ctx, g.lower, k));
    for (size_t i = 0; i < k; i++)
        for (size_t j = i; j < k; j++)
            g.factor[i * k + j] = (float)g.lower[(k - 1 - i) * k + (k - 1 - j)];
    *out = g;
    return NB_OK;
done:
    nbi_gram_free(&g);
    return st;
}

/* L·Lᵀ in the reversed order; both triangles are rows of g->lower. */
void nbi_gram_solve(const nbi_gram *g, const double *b, double *x, double *work) {
    size_t k = g->k;
    for (size_t i = 0; i < k; i++) work[i] = b[g->order[k - 1 - i]];
    for (size_t i = 0; i < k; i++) {
        work[i] /= g->lower[i * k + i];
        subtract(work + i + 1, g->lower + i * k + i + 1, work[i], k - i - 1);
    }
    for (size_t i = k; i-- > 0;) {
        work[i] /= g->lower[i * k + i];
        subtract(work, g->lower + i * k, work[i], i);
    }
    for (size_t i = 0; i < k; i++) x[g->order[k - 1 - i]] = work[i];
}

int nbi_grid_nearest(const nbi_grid *grid, double v) {
    int low = 0, high = grid->n - 1;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if ((double)grid->level[middle] <= v) low = middle;
        else high = middle;
    }
    return v - (double)grid->level[low] <= (double)grid->level[high] - v ? low : high;
}

void nbi_rounding_free(nbi_rounding *r) {
    nbi_free(r->shifted);
    nbi_free(r->slope);
    nbi_free(r->hw);
    nbi_free(r->trial);
    *r = (nbi_rounding){0};
}

nb_status nbi_rounding_new(nb_ctx *ctx, size_t k, nbi_rounding *out) {
    nbi_rounding r = {0};
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, k, sizeof *r.shifted, &r.shifted));
    NB_TRYG(nbi_alloc(ctx, k, sizeof *r.slope, &r.slope));
    NB_TRYG(nbi_alloc(ctx, k, sizeof *r.hw, &r.hw));
    NB_TRYG(nbi_alloc(ctx, k, 1, &r.trial));
    *out = r;
    return NB_OK;
done:
    nbi_rounding_free(&r);
    return st;
}

void nbi_gram_round(const nbi_gram *g, const nbi_grid *grid, const double *w, double scale,
                    int8_t *q, nbi_rounding *work) {
    size_t k = g->k;
    double *wanted = work->shifted;
    for (size_t i = 0; i < k; i++) wanted[i] = 0; /* Σ over rounded weights of R[i][j]·error */
    for (size_t i = 0; i < k; i++) {
        const float *row = g->factor + i * k;
        uint32_t at = g->order[i];
        double target = w[at] + wanted[i] / (double)row[i];
        q[at] = grid->level[nbi_grid_nearest(grid, target / scale)];
        double error = scale * (double)q[at] - w[at];
        subtract_float(wanted + i + 1, row + i + 1, error, k - i - 1);
    }
}

/* H·w */
static void product(const nbi_gram *g, const double *w, double *hw) {
    memset(hw, 0, g->k * sizeof *hw);
    for (size_t i = 0; i < g->k; i++)
        if (w[i] != 0) subtract(hw, g->h + i * g->k, -w[i], g->k);
}

/* slope = H·(s·q − w) */
static void slope_of(const nbi_gram *g, const double *hw, double scale, const int8_t *q,
                     double *slope) {
    size_t k = g->k;
    for (size_t i = 0; i < k; i++) slope[i] = -hw[i];
    for (size_t i = 0; i < k; i++)
        if (q[i]) subtract(slope, g->h + i * k, -scale * (double)q[i], k);
}

static double error_of(const double *slope, const double *w, double scale, const int8_t *q,
                       size_t k) {
    double sum = 0;
    for (size_t i = 0; i < k; i++) sum += (scale * (double)q[i] - w[i]) * slope[i];
    return sum;
}

double nbi_gram_error(const nbi_gram *g, const double *w, double scale, const int8_t *q) {
    double sum = 0;
    for (size_t i = 0; i < g->k; i++) {
        double row = 0;
        for (size_t j = 0; j < g->k; j++)
            row += g->h[i * g->k + j] * (scale * (double)q[j] - w[j]);
        sum += (scale * (double)q[i] - w[i]) * row;
    }
    return sum;
}

/* Moves to the scale qᵀ·H·w / qᵀ·H·q; H·q is (slope + H·w)/s. true when it is another one. */
static bool fit_scale(const double *hw, double *scale, const int8_t *q, double *slope, size_t k) {
    double qhq = 0, qs = 0, s = *scale;
    for (size_t i = 0; i < k; i++) {
        qhq += (double)q[i] * (slope[i] + hw[i]);
        qs += (double)q[i] * slope[i];
    }
    double to = qhq > 0 ? s - qs * s / qhq : s;
    if (!(to > 0) || !isfinite(to)) return false;
    for (size_t i = 0; i < k; i++) slope[i] = to / s * (slope[i] + hw[i]) - hw[i];
    *scale = to;
    return fabs(to - s) > 1e-6 * s;
}

/* One sweep in the order of rounding; true when some level changed. */
static bool sweep(const nbi_gram *g, const nbi_grid *grid, double scale, int8_t *q,
                  double *slope) {
    bool changed = false;
    for (size_t i = 0; i < g->k; i++) {
        uint32_t at = g->order[i];
        double curve = g->h[at * g->k + at] * scale;
        double wanted = (double)q[at] - slope[at] / curve;
        int8_t level = grid->level[nbi_grid_nearest(grid, wanted)];
        /* a tie is no reason to move */
        if (level == q[at] || fabs(level - wanted) >= fabs(q[at] - wanted) - 1e-9) continue;
        subtract(slope, g->h + at * g->k, scale * (double)(q[at] - level), g->k);
        q[at] = level;
        changed = true;
    }
    return changed;
}

static double refine(const nbi_gram *g, const nbi_grid *grid, const double *w, int sweeps,
                     bool keep_scale, double *scale, int8_t *q, nbi_rounding *work) {
    slope_of(g, work->hw, *scale, q, work->slope);
    for (int round = 0; round < sweeps; round++) {
        bool changed = sweep(g, grid, *scale, q, work->slope);
        if (!keep_scale) changed |= fit_scale(work->hw, scale, q, work->slope, g->k);
        if (!changed) break;
    }
    return error_of(work->slope, w, *scale, q, g->k);
}

double nbi_gram_refine(const nbi_gram *g, const nbi_grid *grid, const double *w, int sweeps,
                       bool keep_scale, double *scale, int8_t *q, nbi_rounding *work) {
    product(g, w, work->hw);
    return refine(g, grid, w, sweeps, keep_scale, scale, q, work);
}

double nbi_gram_fit(const nbi_gram *g, const nbi_grid *grid, const double *w, bool keep_scale,
                    bool quick, double *scale, int8_t *q, nbi_rounding *work) {
    static const double around[] = {1, 0.8, 0.7, 0.9, 1.1, 1.2};
    const size_t n = keep_scale ? 1 : quick ? 2 : NBI_COUNT(around);
    product(g, w, work->hw);
    double s0 = *scale, best = refine(g, grid, w, SWEEPS, keep_scale, &s0, q, work);
    double best_at = s0;
    for (size_t i = 0; i < n; i++) {
        double s = *scale * around[i];
        nbi_gram_round(g, grid, w, s, work->trial, work);
        double e = refine(g, grid, w, SWEEPS, keep_scale, &s, work->trial, work);
        if (e >= best) continue;
        best = e;
        best_at = s;
        memcpy(q, work->trial, g->k);
    }
    *scale = best_at;
    return best;
}
