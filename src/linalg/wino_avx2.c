/* The arithmetic of Winograd's F(4×4, 3×3) and F(3×3, 4×4) on AVX2: transforms on 8 channels at
 * once, products of 6 tiles by 16 channels. */
#include "linalg/wino_parts.h"


#if defined(__AVX2__)
#include <immintrin.h>

enum { LANES = 8 };
typedef __m256 vec;

static inline vec load(const float *at) {
    return _mm256_loadu_ps(at);
}
static inline void store(float *at, vec v) {
    _mm256_storeu_ps(at, v);
}
static inline vec all(float v) {
    return _mm256_set1_ps(v);
}
static inline vec add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
static inline vec sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
/* a + k·b */
static inline vec more(vec a, float k, vec b) {
    return _mm256_fmadd_ps(all(k), b, a);
}

/* ---- one dimension of each transform: in 6 or 4 or 3 vectors, out so many vectors apart -------
 */

/* Bᵗ d */
static inline void input_6(vec d0, vec d1, vec d2, vec d3, vec d4, vec d5, vec *t, size_t apart) {
    const vec a = more(d4, -4, d2), b = more(d3, -4, d1), c = sub(d4, d2), e = sub(d3, d1);
    t[0] = more(c, 4, sub(d0, d2));
    t[apart] = add(a, b);
    t[2 * apart] = sub(a, b);
    t[3 * apart] = more(c, 2, e);
    t[4 * apart] = more(c, -2, e);
    t[5 * apart] = more(sub(d5, d3), -4, e);
}

/* Aᵗ m: 6 to 4. */
static inline void output_4(const float *m, size_t from, vec *y, size_t apart) {
    const vec m1 = load(m + from), m2 = load(m + 2 * from), m3 = load(m + 3 * from);
    const vec m4 = load(m + 4 * from), s = add(m1, m2), d = sub(m1, m2), s2 = add(m3, m4);
    const vec d2 = sub(m3, m4);
    y[0] = add(load(m), add(s, s2));
    y[apart] = more(d, 2, d2);
    y[2 * apart] = more(s, 4, s2);
    y[3 * apart] = more(add(d, load(m + 5 * from)), 8, d2);
}

/* G g: 3 to 6. */
static inline void weights_6(vec g0, vec g1, vec g2, vec *t, size_t apart) {
    const vec sixth = all(-1.0f / 6), s = _mm256_mul_ps(sixth, add(g0, g2));
    const vec e = _mm256_mul_ps(sixth, g1);
    const vec s2 = _mm256_mul_ps(all(1.0f / 24), more(g0, 4, g2));
    const vec e2 = _mm256_mul_ps(all(1.0f / 12), g1);
    t[0] = _mm256_mul_ps(all(0.25f), g0);
    t[apart] = add(s, e);
    t[2 * apart] = sub(s, e);
    t[3 * apart] = add(s2, e2);
    t[4 * apart] = sub(s2, e2);
    t[5 * apart] = g2;
}

/* G′ y without its factors ¼, -⅙, -⅙, 1/24, 1/24, 1, which gradient_3 has: 4 to 6. */
static inline void gradient_6(vec y0, vec y1, vec y2, vec y3, vec *t, size_t apart) {
    const vec p = add(y0, y2), q = add(y1, y3), p2 = more(y0, 4, y2);
    const vec q2 = more(add(y1, y1), 8, y3);
    t[0] = y0;
    t[apart] = add(p, q);
    t[2 * apart] = sub(p, q);
    t[3 * apart] = add(p2, q2);
    t[4 * apart] = sub(p2, q2);
    t[5 * apart] = y3;
}

/* A′ᵗ u: 6, so many vectors apart, to 3. */
static inline void gradient_3(const vec *u, size_t from, vec *g, size_t apart) {
    const vec sixth = all(-1.0f / 6), part = all(1.0f / 24);
    const vec s = _mm256_mul_ps(sixth, add(u[from], u[2 * from]));
    const vec d = _mm256_mul_ps(sixth, sub(u[from], u[2 * from]));
    const vec s2 = _mm256_mul_ps(part, add(u[3 * from], u[4 * from]));
    const vec d2 = _mm256_mul_ps(part, sub(u[3 * from], u[4 * from]));
    g[0] = more(add(s, s2), 0.25f, u[0]);
    g[apart] = more(d, 2, d2);
    g[2 * apart] = more(add(s, u[5 * from]), 4, s2);
}

/* ---- weights ------------------------------------------------------------------------------- */

void nbi_wino_weights(const wino_shape *s, const float *w, bool turned, size_t begin, size_t end,
                      float *u) {
    const size_t in_step = turned ? s->m * 9 : 9, out_step = turned ? 9 : s->c * 9;
    const int step = (int)out_step;
    const __m256i at =
        _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(step));
    for (size_t i = begin; i < end; i++)
        for (size_t o = 0; o < s->m; o += LANES) {
            const float *from = w + i * in_step + o * out_step;
            float *to = u + (o / WINO_STRIP * s->c + i) * WINO_STRIP + o % WINO_STRIP;
            vec g[9], t[3][WINO_WINDOW], row[WINO_WINDOW];
            for (size_t k = 0; k < 9; k++)
                g[k] = _mm256_i32gather_ps(from + (turned ? 8 - k : k), at, 4);
            for (size_t x = 0; x < 3; x++) weights_6(g[x], g[3 + x], g[6 + x], &t[x][0], 1);
            for (size_t y = 0; y < WINO_WINDOW; y++) {
                weights_6(t[0][y], t[1][y], t[2][y], row, 1);
                for (size_t x = 0; x < WINO_WINDOW; x++)
                    store(to + (y * WINO_WINDOW + x) * s->c * s->m, row[x]);
            }
        }
}

/* ---- inputs -------------------------------------------------------------------------------- */

enum { RUN = 8 }; /* neighbouring tiles of a row that are transformed together */

/* Tiles of one row of an image. */
typedef struct tile_run {
    const float *image;
    int64_t y, x; /* of the first one's first output */
    size_t n;
} tile_run;

static inline tile_run find_run(const wino_shape *s, const float *in, size_t image, size_t tile,
                                size_t most) {
    const size_t one = s->rows * s->columns, k = tile % one, column = k % s->columns;
    size_t n = s->columns - column < RUN ? s->columns - column : RUN;
    if (n > most) n = most;
    return (tile_run){in + tile / one * image, (int64_t)(k / s->columns * WINO_SIDE),
                      (int64_t)(column * WINO_SIDE), n};
}

/* Bᵗ of the 6 values from row y on of a column; `at`: where its row 0 is. */
static inline void column_at_edge(const wino_shape *s, const float *at, int64_t y, vec *t) {
    vec d[WINO_WINDOW];
    for (int64_t r = 0; r < WINO_WINDOW; r++)
        d[r] = y + r >= 0 && y + r < (int64_t)s->h ? load(at + (size_t)(y + r) * s->w * s->c)
                                                    : _mm256_setzero_ps();
    input_6(d[0], d[1], d[2], d[3], d[4], d[5], t, 1);
}

/* 8 channels of a run, from `image` and `to` on. Columns first, as neighbours share two of six. */
static inline void transform_run(const wino_shape *s, const tile_run *run, size_t c, float *to) {
    const int64_t y = run->y - s->pt, x = run->x - s->pl;
    const bool inside = y >= 0 && y + WINO_WINDOW <= (int64_t)s->h;
    const size_t row = s->w * s->c, apart = s->x_place;
    vec t[RUN * WINO_SIDE + 2][WINO_WINDOW];
    for (size_t k = 0; k < run->n * WINO_SIDE + 2; k++) {
        const int64_t column = x + (int64_t)k;
        if (column < 0 || column >= (int64_t)s->w) {
            for (size_t r = 0; r < WINO_WINDOW; r++) t[k][r] = _mm256_setzero_ps();
            continue;
        }
        const float *at = run->image + (size_t)column * s->c + c;
        if (!inside) {
            column_at_edge(s, at, y, t[k]);
            continue;
        }
        at += (size_t)y * row;
        input_6(load(at), load(at + row), load(at + 2 * row), load(at + 3 * row),
                load(at + 4 * row), load(at + 5 * row), t[k], 1);
    }
    for (size_t k = 0; k < run->n; k++, to += s->c) {
        vec(*const tile)[WINO_WINDOW] = t + k * WINO_SIDE;
        float *place = to;
        for (size_t r = 0; r < WINO_WINDOW; r++, place += WINO_WINDOW * apart) {
            vec out[WINO_WINDOW];
            input_6(tile[0][r], tile[1][r], tile[2][r], tile[3][r], tile[4][r], tile[5][r], out,
                    1);
            for (size_t i = 0; i < WINO_WINDOW; i++) store(place + i * apart, out[i]);
        }
    }
}

void nbi_wino_input(const wino_shape *s, const float *in, size_t first, size_t n, wino_work *work) {
    for (size_t k = 0; k < n;) {
        const tile_run run = find_run(s, in, s->h * s->w * s->c, first + k, n - k);
        for (size_t c = 0; c < s->c; c += LANES)
            transform_run(s, &run, c, work->x + k * s->c + c);
        k += run.n;
    }
}

/* ---- products ------------------------------------------------------------------------------ */

#define PRODUCT_ROW(a, b, row)                                                                     \
    v = _mm256_broadcast_ss(x + (row)*c);                                                          \
    a = _mm256_fmadd_ps(v, u0, a);                                                                 \
    b = _mm256_fmadd_ps(v, u1, b)

/* WINO_ROWS tiles × 16 channels of one place. x: [tile][c], u: [c][16], to: a tile every m floats.
 */
static inline void multiply(const float *x, size_t c, const float *u, float *to, size_t m) {
    vec a0 = _mm256_setzero_ps(), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
    vec e0 = a0, e1 = a0, f0 = a0, f1 = a0, v;
    for (const float *end = x + c; x < end; x++, u += WINO_STRIP) {
        const vec u0 = load(u), u1 = load(u + LANES);
        PRODUCT_ROW(a0, a1, 0);
        PRODUCT_ROW(b0, b1, 1);
        PRODUCT_ROW(c0, c1, 2);
        PRODUCT_ROW(d0, d1, 3);
        PRODUCT_ROW(e0, e1, 4);
        PRODUCT_ROW(f0, f1, 5);
    }
    store(to, a0), store(to + LANES, a1), to += m;
    store(to, b0), store(to + LANES, b1), to += m;
    store(to, c0), store(to + LANES, c1), to += m;
    store(to, d0), store(to + LANES, d1), to += m;
    store(to, e0), store(to + LANES, e1), to += m;
    store(to, f0), store(to + LANES, f1);
}

void nbi_wino_products(const wino_shape *s, const float *u, size_t n, wino_work *work) {
    for (size_t place = 0; place < WINO_PLACES; place++) {
        const float *x = work->x + place * s->x_place;
        float *y = work->y + place * s->y_place;
        for (size_t o = 0; o < s->m; o += WINO_STRIP, u += s->c * WINO_STRIP)
            for (size_t t = 0; t < n; t += WINO_ROWS)
                multiply(x + t * s->c, s->c, u, y + t * s->m + o, s->m);
    }
}

/* ---- outputs ------------------------------------------------------------------------------- */

static inline vec activate(const wino_act *act, vec v, const float *before) {
    if (act->accumulate) v = add(v, load(before));
    /* the second operand is kept where it is NaN */
    if (act->clamp) v = _mm256_min_ps(all(act->hi), _mm256_max_ps(all(act->lo), v));
    return v;
}

/* 8 channels of a tile of height × width pixels; to: the first one. */
static inline void untransform(const wino_shape *s, const wino_act *act, vec bias,
                               const float *from, float *to, size_t height, size_t width) {
    vec t[WINO_SIDE][WINO_WINDOW], y[WINO_SIDE];
    for (size_t x = 0; x < WINO_WINDOW; x++)
        output_4(from + x * s->y_place, WINO_WINDOW * s->y_place, &t[0][x], WINO_WINDOW);
    for (size_t r = 0; r < height; r++, to += s->ow * s->m) {
        output_4((const float *)t[r], LANES, y, 1);
        for (size_t x = 0; x < width; x++) {
            float *at = to + x * s->m;
            store(at, activate(act, add(y[x], bias), at));
        }
    }
}

void nbi_wino_output(const wino_shape *s, const wino_act *act, const float *bias, size_t first,
                     size_t n, const wino_work *work, float *out) {
    static const wino_act none = {0};
    const bool plain = !act->accumulate && !act->clamp;
    for (size_t k = 0; k < n;) {
        const tile_run run = find_run(s, out, s->oh * s->ow * s->m, first + k, n - k);
        const size_t y = (size_t)run.y, height = s->oh - y < WINO_SIDE ? s->oh - y : WINO_SIDE;
        for (size_t i = 0; i < run.n; i++, k++) {
            const size_t x = (size_t)run.x + i * WINO_SIDE;
            const size_t width = s->ow - x < WINO_SIDE ? s->ow - x : WINO_SIDE;
            float *to = out + (run.image - out) + (y * s->ow + x) * s->m;
            const float *from = work->y + k * s->m;
            for (size_t o = 0; o < s->m; o += LANES) {
                const vec b = bias ? load(bias + o) : _mm256_setzero_ps();
                if (plain && height == WINO_SIDE && width == WINO_SIDE)
                    untransform(s, &none, b, from + o, to + o, WINO_SIDE, WINO_SIDE);
                else
                    untransform(s, act, b, from + o, to + o, height, width);
            }
        }
    }
}

/* ---- gradients of weights ------------------------------------------------------------------- */

/* 8 channels of a tile of height × width values, zeros behind it. */
static inline void transform_gradient(const wino_shape *s, const float *from, size_t height,
                                      size_t width, float *to) {
    const size_t row = s->ow * s->m, apart = s->y_place;
    vec t[WINO_WINDOW][WINO_SIDE], d[WINO_SIDE];
    for (size_t x = 0; x < WINO_SIDE; x++) {
        for (size_t y = 0; y < WINO_SIDE; y++)
            d[y] = y < height && x < width ? load(from + y * row + x * s->m) : _mm256_setzero_ps();
        gradient_6(d[0], d[1], d[2], d[3], &t[0][x], WINO_SIDE);
    }
    for (size_t y = 0; y < WINO_WINDOW; y++, to += WINO_WINDOW * apart) {
        vec out[WINO_WINDOW];
        gradient_6(t[y][0], t[y][1], t[y][2], t[y][3], out, 1);
        for (size_t x = 0; x < WINO_WINDOW; x++) store(to + x * apart, out[x]);
    }
}

void nbi_wino_gradient_input(const wino_shape *s, const float *gy, size_t first, size_t n,
                             wino_work *work) {
    for (size_t k = 0; k < n;) {
        const tile_run run = find_run(s, gy, s->oh * s->ow * s->m, first + k, n - k);
        const size_t y = (size_t)run.y, height = s->oh - y < WINO_SIDE ? s->oh - y : WINO_SIDE;
        for (size_t i = 0; i < run.n; i++, k++) {
            const size_t x = (size_t)run.x + i * WINO_SIDE;
            const size_t width = s->ow - x < WINO_SIDE ? s->ow - x : WINO_SIDE;
            const float *from = run.image + (y * s->ow + x) * s->m;
            float *to = work->y + k * s->m;
            for (size_t o = 0; o < s->m; o += LANES) {
                if (height == WINO_SIDE && width == WINO_SIDE)
                    transform_gradient(s, from + o, WINO_SIDE, WINO_SIDE, to + o);
                else
                    transform_gradient(s, from + o, height, width, to + o);
            }
        }
    }
}

/* 4 input × 16 output channels of one place over n tiles. x: [tile][c], y: [tile][m]; to: an input
 * channel every m floats. */
static inline void accumulate(const float *x, size_t c, const float *y, size_t m, size_t n,
                              float *to) {
    vec a0 = load(to), a1 = load(to + LANES), b0 = load(to + m), b1 = load(to + m + LANES);
    vec c0 = load(to + 2 * m), c1 = load(to + 2 * m + LANES), d0 = load(to + 3 * m);
    vec d1 = load(to + 3 * m + LANES), v;
    for (size_t t = 0; t < n; t++, x += c, y += m) {
        const vec y0 = load(y), y1 = load(y + LANES);
        v = _mm256_broadcast_ss(x), a0 = _mm256_fmadd_ps(v, y0, a0),
        a1 = _mm256_fmadd_ps(v, y1, a1);
        v = _mm256_broadcast_ss(x + 1), b0 = _mm256_fmadd_ps(v, y0, b0);
        b1 = _mm256_fmadd_ps(v, y1, b1);
        v = _mm256_broadcast_ss(x + 2), c0 = _mm256_fmadd_ps(v, y0, c0);
        c1 = _mm256_fmadd_ps(v, y1, c1);
        v = _mm256_broadcast_ss(x + 3), d0 = _mm256_fmadd_ps(v, y0, d0);
        d1 = _mm256_fmadd_ps(v, y1, d1);
    }
    store(to, a0), store(to + LANES, a1), to += m;
    store(to, b0), store(to + LANES, b1), to += m;
    store(to, c0), store(to + LANES, c1), to += m;
    store(to, d0), store(to + LANES, d1);
}

void nbi_wino_gradient_products(const wino_shape *s, size_t n, const wino_work *work, float *u) {
    for (size_t place = 0; place < WINO_PLACES; place++, u += s->c * s->m)
        for (size_t o = 0; o < s->m; o += WINO_STRIP)
            for (size_t i = 0; i < s->c; i += 4)
                accumulate(work->x + place * s->x_place + i, s->c, work->y + place * s->y_place + o,
                           s->m, n, u + i * s->m + o);
}

/* At the point 1 a transform is the sum of its inputs. */
void nbi_wino_gradient_bias(const wino_shape *s, size_t n, const wino_work *work, float *bias) {
    const float *y = work->y + (WINO_WINDOW + 1) * s->y_place;
    for (size_t t = 0; t < n; t++, y += s->m)
        for (size_t o = 0; o < s->m; o += LANES) store(bias + o, add(load(bias + o), load(y + o)));
}

void nbi_wino_gradient_output(const wino_shape *s, const float *u, size_t n_sums, size_t begin,
                              size_t end, float *gw) {
    const size_t place = s->c * s->m, sum = WINO_PLACES * place;
    for (size_t i = begin; i < end; i++)
        for (size_t o = 0; o < s->m; o += LANES) {
            const float *from = u + i * s->m + o;
            vec d[WINO_PLACES], t[3][WINO_WINDOW], g[9];
            float lane[9][LANES];
            for (size_t p = 0; p < WINO_PLACES; p++, from += place) {
                d[p] = load(from);
                for (size_t k = 1; k < n_sums; k++) d[p] = add(d[p], load(from + k * sum));
            }
            for (size_t x = 0; x < WINO_WINDOW; x++)
                gradient_3(d + x, WINO_WINDOW, &t[0][x], WINO_WINDOW);
            for (size_t y = 0; y < 3; y++) gradient_3(t[y], 1, g + 3 * y, 1);
            for (size_t k = 0; k < 9; k++) store(lane[k], g[k]);
            for (size_t l = 0; l < LANES; l++)
                for (size_t k = 0; k < 9; k++) gw[((o + l) * s->c + i) * 9 + k] = lane[k][l];
        }
}
#endif
