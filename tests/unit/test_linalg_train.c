/* Convolutions 3×3, the three products of training and inference, against sums in double, on shapes
 * that Winograd's algorithm takes and on one that it leaves; the same bytes at any thread count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "linalg/linalg.h"
#include "linalg/wino.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct tensors {
    float *x, *w, *bias, *y;
    size_t nx, nw, nm, ny;
} tensors;

static nbi_la_conv_desc shape(int64_t n, int64_t c, int64_t m, int64_t h, int64_t w, int64_t pad) {
    return (nbi_la_conv_desc){.n = n,
                              .c = c,
                              .h = h,
                              .w = w,
                              .m = m,
                              .oh = h + 2 * pad - 2,
                              .ow = w + 2 * pad - 2,
                              .group = 1,
                              .fast = true,
                              .kernel = {3, 3},
                              .stride = {1, 1},
                              .dilation = {1, 1},
                              .pad_begin = {pad, pad},
                              .pad_end = {pad, pad}};
}

static float *draw(nbi_rng *rng, size_t n) {
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) v[i] = (float)nbi_rng_normal(rng);
    return v;
}

static tensors draw_all(const nbi_la_conv_desc *d, uint64_t seed) {
    nbi_rng rng;
    tensors t = {.nx = (size_t)(d->n * d->h * d->w * d->c),
                 .nw = (size_t)(d->m * d->c * 9),
                 .nm = (size_t)d->m,
                 .ny = (size_t)(d->n * d->oh * d->ow * d->m)};
    nbi_rng_seed(&rng, seed, 0);
    t.x = draw(&rng, t.nx);
    t.w = draw(&rng, t.nw);
    t.bias = draw(&rng, t.nm);
    t.y = draw(&rng, t.ny);
    return t;
}

static void free_all(tensors *t) {
    free(t->x), free(t->w), free(t->bias), free(t->y);
}

/* What the pass should write, and the bias or its gradient added where it belongs. */
static double *expected(const nbi_la_conv_desc *d, nbi_la_pass pass, const tensors *t, size_t n,
                        double *bias) {
    double *out = calloc(n, sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < d->n * d->oh * d->ow; i++)
        for (int64_t k = 0; k < 9; k++) {
            const int64_t iy = i / d->ow % d->oh + k / 3 - d->pad_begin[0];
            const int64_t ix = i % d->ow + k % 3 - d->pad_begin[1];
            if (iy < 0 || iy >= d->h || ix < 0 || ix >= d->w) continue;
            const int64_t xi = ((i / (d->oh * d->ow) * d->h + iy) * d->w + ix) * d->c;
            for (int64_t m = 0; m < d->m; m++)
                for (int64_t c = 0; c < d->c; c++) {
                    const int64_t wi = (m * d->c + c) * 9 + k, yi = i * d->m + m;
                    if (pass == NBI_LA_FORWARD)
                        out[yi] += (double)t->x[xi + c] * (double)t->w[wi];
                    else if (pass == NBI_LA_BACKWARD_DATA)
                        out[xi + c] += (double)t->y[yi] * (double)t->w[wi];
                    else
                        out[wi] += (double)t->x[xi + c] * (double)t->y[yi];
                }
        }
    for (size_t i = 0; i < t->ny; i++) {
        if (pass == NBI_LA_FORWARD) out[i] += (double)t->bias[i % t->nm];
        if (pass == NBI_LA_BACKWARD_WEIGHTS) bias[i % t->nm] += (double)t->y[i];
    }
    return out;
}

static void close_to(const float *got, const double *want, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= 2e-5 * largest))
            fail_msg("value %zu is %g, not %g", i, (double)got[i], want[i]);
}

static void run(nb_ctx *ctx, const nbi_la_conv_desc *d, nbi_la_pass pass, bool bias, tensors *t) {
    nbi_la *la;
    nbi_la_plan *plan;
    nbi_la_args args = {t->x, t->w, bias ? t->bias : NULL, t->y};
    assert_int_equal(nbi_la_new(ctx, &la), NB_OK);
    nbi_threads_apply(ctx);
    nb_status st = nbi_la_conv_train(ctx, la, d, pass, bias, &plan);
    if (st == NB_EUNSUPPORTED) skip();
    assert_int_equal(st, NB_OK);
    for (int again = 0; again < 2; again++)
        assert_int_equal(nbi_la_run_train(ctx, la, plan, &args), NB_OK);
    nbi_la_plan_free(plan);
    nbi_la_free(la);
}

static float *written(nbi_la_pass pass, const tensors *t, size_t *n) {
    *n = pass == NBI_LA_FORWARD ? t->ny : pass == NBI_LA_BACKWARD_DATA ? t->nx : t->nw;
    return pass == NBI_LA_FORWARD ? t->y : pass == NBI_LA_BACKWARD_DATA ? t->x : t->w;
}

static void check(const nbi_la_conv_desc *d) {
    nb_ctx *ctx = nb_ctx_new();
    for (int pass = 0; pass < 3; pass++) {
        tensors one = draw_all(d, 1), many = draw_all(d, 1);
        size_t n;
        double *gb = calloc(one.nm, sizeof *gb), *want;
        const bool bias = pass != NBI_LA_BACKWARD_DATA;
        assert_non_null(gb);
        written((nbi_la_pass)pass, &one, &n);
        want = expected(d, (nbi_la_pass)pass, &one, n, gb);
        nb_ctx_set_threads(ctx, 1);
        run(ctx, d, (nbi_la_pass)pass, bias, &one);
        nb_ctx_set_threads(ctx, 3);
        run(ctx, d, (nbi_la_pass)pass, bias, &many);
        close_to(written((nbi_la_pass)pass, &one, &n), want, n);
        if (pass == NBI_LA_BACKWARD_WEIGHTS) close_to(one.bias, gb, one.nm);
        if (nbi_wino_fits(d))
            assert_memory_equal(written((nbi_la_pass)pass, &one, &n),
                                written((nbi_la_pass)pass, &many, &n), n * sizeof(float));
        free(gb), free(want);
        free_all(&one), free_all(&many);
    }
    nb_ctx_free(ctx);
}

static void whole_tiles(void **state) {
    (void)state;
    const nbi_la_conv_desc a = shape(3, 16, 32, 8, 12, 1), b = shape(2, 64, 16, 16, 16, 1);
    check(&a);
    check(&b);
}

static void ragged_tiles_and_every_padding(void **state) {
    (void)state;
    for (int64_t pad = 0; pad < 3; pad++) {
        const nbi_la_conv_desc a = shape(2, 16, 16, 14, 11, pad), b = shape(1, 32, 16, 7, 15, pad);
        check(&a);
        check(&b);
    }
}

static void shapes_that_it_leaves(void **state) {
    (void)state;
    const nbi_la_conv_desc few = shape(2, 3, 16, 8, 8, 1), tiny = shape(2, 16, 16, 5, 5, 1);
    assert_false(nbi_wino_fits(&few));
    assert_false(nbi_wino_fits(&tiny));
    check(&few);
    check(&tiny);
}

/* Fixed weights, what y holds added, clamped. */
static void inference(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_la_conv_desc d = shape(2, 16, 32, 9, 12, 1);
    tensors t = draw_all(&d, 2);
    nbi_la *la;
    nbi_la_plan *plan;
    double *want = expected(&d, NBI_LA_FORWARD, &t, t.ny, NULL);
    d.accumulate = d.clamp = true;
    d.lo = -15, d.hi = 30; /* of sums up to about 50 */
    assert_true(nbi_wino_fits(&d));
    for (size_t i = 0; i < t.ny; i++)
        want[i] = fmin(fmax(want[i] + (double)t.y[i], (double)d.lo), (double)d.hi);
    assert_int_equal(nbi_la_new(ctx, &la), NB_OK);
    assert_int_equal(nbi_la_conv(ctx, la, &d, t.w, t.bias, &plan), NB_OK);
    memset(t.w, 0, t.nw * sizeof *t.w); /* the plan has its own */
    assert_int_equal(nbi_la_run(ctx, la, plan, t.x, t.y), NB_OK);
    close_to(t.y, want, t.ny);
    t.x[0] = NAN;
    assert_int_equal(nbi_la_run(ctx, la, plan, t.x, t.y), NB_OK);
    assert_true(isnan(t.y[0]));
    nbi_la_plan_free(plan);
    nbi_la_free(la);
    free(want);
    free_all(&t);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_tiles), cmocka_unit_test(ragged_tiles_and_every_padding),
        cmocka_unit_test(shapes_that_it_leaves), cmocka_unit_test(inference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
