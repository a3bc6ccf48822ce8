/* Gram-matrix rounding against closed forms: nearest rounding where inputs are independent, brute
 * force where there are few weights, plain rounding on correlated inputs; and the learner on a small
 * network, run by the scorer. */
#include "hand_net.h"

#include "quant/gram.h"
#include "quant/learn.h"

#define TRIALS 20

static const int8_t uniform2[] = {-16, -8, 0, 8}, uneven[] = {-7, -2, 0, 1, 5};

static double *room(size_t n) {
    double *p;
    assert_int_equal(nbi_alloc(NULL, n, sizeof *p, &p), NB_OK);
    return p;
}

/* XᵀX/n of n correlated samples of k inputs, plus a little on the diagonal. */
static void correlated(nbi_rng *rng, size_t k, double *h) {
    size_t n = 4 * k;
    double *x = room(n * k);
    for (size_t r = 0; r < n; r++) {
        double common = nbi_rng_normal(rng);
        for (size_t i = 0; i < k; i++) x[r * k + i] = common + 0.5 * nbi_rng_normal(rng);
    }
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++) {
            h[i * k + j] = i == j ? 1e-3 : 0;
            for (size_t r = 0; r < n; r++) h[i * k + j] += x[r * k + i] * x[r * k + j] / (double)n;
        }
    nbi_free(x);
}

static void nearest(const nbi_grid *grid, const double *w, double scale, size_t k, int8_t *q) {
    for (size_t i = 0; i < k; i++) q[i] = grid->level[nbi_grid_nearest(grid, w[i] / scale)];
}

static void test_grid(void **state) {
    const nbi_grid grid = {NBI_COUNT(uneven), uneven};
    (void)state;
    for (int v = -100; v <= 100; v++) {
        double x = v / 10.0, best = INFINITY;
        for (int i = 0; i < grid.n; i++) best = fmin(best, fabs(uneven[i] - x));
        assert_true(fabs(fabs(uneven[nbi_grid_nearest(&grid, x)] - x) - best) < 1e-12);
    }
}

static void test_solve(void **state) {
    enum { K = 37 };
    nbi_rng rng;
    nbi_gram g;
    double *h = room(K * K), x[K], b[K], work[K];
    nb_ctx *ctx = nb_ctx_new();
    (void)state;
    nbi_rng_seed(&rng, 1, 1);
    correlated(&rng, K, h);
    assert_int_equal(nbi_gram_new(ctx, h, K, &g), NB_OK);
    for (int i = 0; i < K; i++) b[i] = nbi_rng_normal(&rng);
    nbi_gram_solve(&g, b, x, work);
    for (int i = 0; i < K; i++) {
        double sum = 0;
        for (int j = 0; j < K; j++) sum += h[i * K + j] * x[j];
        assert_true(fabs(sum - b[i]) < 1e-9); /* conditioned to about 1e5 */
    }
    nbi_gram_free(&g);
    h[0] = -1;
    assert_int_equal(nbi_gram_new(ctx, h, K, &g), NB_ENUMERIC);
    nbi_free(h);
    nb_ctx_free(ctx);
}

/* Independent inputs: every weight's nearest level is best. */
static void test_diagonal(void **state) {
    enum { K = 24 };
    nbi_rng rng;
    nbi_gram g;
    nbi_rounding work;
    double *h = room(K * K), w[K], scale = 0.11;
    int8_t q[K], plain[K];
    const nbi_grid grid = {NBI_COUNT(uneven), uneven};
    (void)state;
    nbi_rng_seed(&rng, 2, 1);
    for (int i = 0; i < K; i++) {
        h[i * K + i] = 0.1 + (double)nbi_rng_uniform(&rng);
        w[i] = 0.4 * nbi_rng_normal(&rng);
    }
    assert_int_equal(nbi_gram_new(NULL, h, K, &g), NB_OK);
    assert_int_equal(nbi_rounding_new(NULL, K, &work), NB_OK);
    nearest(&grid, w, scale, K, plain);
    nbi_gram_round(&g, &grid, w, scale, q, &work);
    assert_memory_equal(q, plain, K);
    nbi_gram_refine(&g, &grid, w, 5, true, &scale, q, &work);
    assert_memory_equal(q, plain, K);
    nbi_rounding_free(&work);
    nbi_gram_free(&g);
    nbi_free(h);
}

/* Correlated inputs: the greedy form has far less error than nearest rounding on average, fitting
 * less in every draw; levels of the grid; refining never raises the error, and the error it tells is
 * the true one. */
static void test_correlated(void **state) {
    enum { K = 48 };
    nbi_rng rng;
    nbi_rounding work;
    double *h = room(K * K), w[K], ratio = 0;
    int8_t q[K], plain[K];
    const nbi_grid grid = {NBI_COUNT(uniform2), uniform2};
    (void)state;
    nbi_rng_seed(&rng, 3, 1);
    assert_int_equal(nbi_rounding_new(NULL, K, &work), NB_OK);
    for (int t = 0; t < TRIALS; t++) {
        nbi_gram g;
        correlated(&rng, K, h);
        for (int i = 0; i < K; i++) w[i] = nbi_rng_normal(&rng);
        assert_int_equal(nbi_gram_new(NULL, h, K, &g), NB_OK);
        double scale = 0.12, fitted = scale;
        nearest(&grid, w, scale, K, plain);
        double before = nbi_gram_error(&g, w, scale, plain);
        nbi_gram_round(&g, &grid, w, scale, q, &work);
        double rounded = nbi_gram_error(&g, w, scale, q);
        double refined = nbi_gram_refine(&g, &grid, w, 20, true, &scale, q, &work);
        assert_true(fabs(refined - nbi_gram_error(&g, w, scale, q)) < 1e-9 * before);
        assert_true(refined <= rounded * (1 + 1e-9));
        memcpy(q, plain, K);
        double best = nbi_gram_fit(&g, &grid, w, false, false, &fitted, q, &work);
        assert_true(best <= refined * (1 + 1e-9) && best < before);
        for (int i = 0; i < K; i++)
            assert_true(q[i] == -16 || q[i] == -8 || q[i] == 0 || q[i] == 8);
        ratio += rounded / before / TRIALS;
        nbi_gram_free(&g);
    }
    assert_true(ratio < 0.5); /* correlation 0.8: the greedy form alone halves it */
    nbi_rounding_free(&work);
    nbi_free(h);
}

static double brute_force(const nbi_gram *g, const nbi_grid *grid, const double *w, double scale,
                          size_t k) {
    int8_t q[4];
    double best = INFINITY;
    size_t all = 1;
    for (size_t i = 0; i < k; i++) all *= (size_t)grid->n;
    for (size_t code = 0; code < all; code++) {
        for (size_t i = 0, c = code; i < k; i++, c /= (size_t)grid->n)
            q[i] = grid->level[c % (size_t)grid->n];
        best = fmin(best, nbi_gram_error(g, w, scale, q));
    }
    return best;
}

/* Four weights: within a few percent of the optimum on average. */
static void test_brute_force(void **state) {
    enum { K = 4 };
    nbi_rng rng;
    nbi_rounding work;
    double h[K * K], w[K], found = 0, best = 0;
    int8_t q[K];
    const nbi_grid grids[2] = {{NBI_COUNT(uniform2), uniform2}, {NBI_COUNT(uneven), uneven}};
    (void)state;
    nbi_rng_seed(&rng, 4, 1);
    assert_int_equal(nbi_rounding_new(NULL, K, &work), NB_OK);
    for (int t = 0; t < 10 * TRIALS; t++) {
        const nbi_grid *grid = &grids[t % 2];
        nbi_gram g;
        double scale = t % 2 ? 0.3 : 0.12;
        correlated(&rng, K, h);
        for (int i = 0; i < K; i++) w[i] = nbi_rng_normal(&rng);
        assert_int_equal(nbi_gram_new(NULL, h, K, &g), NB_OK);
        nbi_gram_round(&g, grid, w, scale, q, &work);
        double e = nbi_gram_refine(&g, grid, w, 20, true, &scale, q, &work);
        double least = brute_force(&g, grid, w, scale, K);
        assert_true(e >= least * (1 - 1e-9));
        found += e;
        best += least;
        nbi_gram_free(&g);
    }
    assert_true(found < 1.1 * best);
    nbi_rounding_free(&work);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid),       cmocka_unit_test(test_solve),
        cmocka_unit_test(test_diagonal),   cmocka_unit_test(test_correlated),
        cmocka_unit_test(test_brute_force),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
