/* Unpacking, multipliers, element-wise operations, pooling and copies: every instruction set
 * against definitions written here, independently, in wide or real arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/kernels.h"

enum { CANARY = 64 };

static uint8_t *bytes_make(nbi_rng *rng, size_t n) {
    uint8_t *x = NULL;
    assert_int_equal(nbi_alloc(NULL, n + NBI_KERNEL_SLACK, 1, &x), NB_OK);
    for (size_t i = 0; i < n + NBI_KERNEL_SLACK; i++) x[i] = (uint8_t)nbi_rng_u32(rng);
    return x;
}

/* An output of n bytes with canaries behind it. */
static uint8_t *output_make(size_t n) {
    uint8_t *y = NULL;
    assert_int_equal(nbi_alloc(NULL, n + CANARY, 1, &y), NB_OK);
    memset(y, 0xa5, n + CANARY);
    return y;
}

static void assert_canary(const uint8_t *y, size_t n) {
    for (size_t i = 0; i < CANARY; i++) assert_int_equal(y[n + i], 0xa5);
}

static int random_in(nbi_rng *rng, int lo, int hi) {
    return lo + (int)nbi_rng_below(rng, (uint32_t)(hi - lo + 1));
}

static uint8_t random_type(nbi_rng *rng) {
    return nbi_rng_below(rng, 2) ? NBK_S8 : NBK_U8;
}

static int value(const uint8_t *x, uint8_t type, size_t i) {
    return type == NBK_U8 ? x[i] : (int8_t)x[i];
}

/* wider than any product here */
__extension__ typedef __int128 wide;

static int64_t floor_div(wide a, wide b) { /* b > 0 */
    const wide q = a / b;
    return (int64_t)(a % b < 0 ? q - 1 : q);
}

static int64_t rescaled(int64_t acc, int32_t mult, int shift) {
    const wide one = 1;
    return floor_div((wide)acc * mult * 2 + (one << shift), one << (shift + 1));
}

static int64_t limited(int64_t v, int lo, int hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

static void random_limits(nbi_rng *rng, uint8_t type, int16_t *lo, int16_t *hi) {
    const int min = type == NBK_U8 ? 0 : -128;
    *lo = (int16_t)(min + (int)nbi_rng_below(rng, 2) * random_in(rng, 0, 100));
    *hi = (int16_t)(min + 255 - (int)nbi_rng_below(rng, 2) * random_in(rng, 0, 100));
}

/* ---- weights and multipliers --------------------------------------------------------------- */

static void test_unpack(void **state) {
    (void)state;
    enum { BYTES = 300 };
    nbi_rng rng;
    nbi_rng_seed(&rng, 3, 3);
    int8_t levels[256], out[BYTES * 8 + 1];
    for (int i = 0; i < 256; i++) levels[i] = (int8_t)nbi_rng_u32(&rng);
    for (int bits = 1; bits <= 8; bits++)
        for (int trial = 0; trial < 200; trial++) {
            uint8_t *packed = bytes_make(&rng, BYTES);
            const size_t codes = BYTES * 8 / (size_t)bits;
            const size_t first = nbi_rng_below(&rng, (uint32_t)codes);
            const size_t count = nbi_rng_below(&rng, (uint32_t)(codes - first + 1));
            const int8_t *table = trial % 2 ? levels : NULL;
            out[count] = 77;
            nbk_unpack(packed, bits, table, first, count, out);
            assert_int_equal(out[count], 77);
            for (size_t i = 0; i < count; i++) {
                int code = 0;
                for (int b = 0; b < bits; b++) {
                    const size_t at = (first + i) * (size_t)bits + (size_t)b;
                    code += (packed[at / 8] >> (at % 8) & 1) * (1 << b);
                }
                const int number = code < 1 << (bits - 1) ? code : code - (1 << bits);
                assert_int_equal(out[i], table ? table[code] : number * nbk_level_step(bits));
            }
            nbi_free(packed);
        }
}

static void test_rescale(void **state) {
    (void)state;
    nbi_rng rng;
    nbi_rng_seed(&rng, 4, 4);
    for (int trial = 0; trial < 200000; trial++) {
        const int shift = random_in(&rng, 1, 62);
        const int32_t acc = (int32_t)nbi_rng_u32(&rng) >> random_in(&rng, 1, 31);
        const int32_t mult = (int32_t)(nbi_rng_u32(&rng) >> random_in(&rng, 1, 31));
        assert_true(nbk_rescale(acc, mult, shift) == rescaled(acc, mult, shift));
    }
    assert_int_equal(nbk_rescale(1, 1, 1), 1);   /* ½ → 1 */
    assert_int_equal(nbk_rescale(-1, 1, 1), 0);  /* −½ → 0 */
    assert_int_equal(nbk_rescale(-3, 1, 1), -1); /* −1½ → −1 */
}

static void test_rescale_of(void **state) {
    (void)state;
    nbi_rng rng;
    nbi_rng_seed(&rng, 5, 5);
    int32_t mult;
    uint8_t shift;
    for (int e = -31; e < 30; e++)
        for (int trial = 0; trial < 1000; trial++) {
            const double fraction =
                1 + (trial < 2 ? trial * (1 - DBL_EPSILON) : nbi_rng_u32(&rng) / 4294967296.0);
            const double r = ldexp(fraction, e);
            assert_int_equal(nbi_rescale_of(NULL, r, &mult, &shift), NB_OK);
            assert_true(mult > 0 && shift >= 1 && shift <= 62);
            if (r < 0.4999999) assert_true(shift >= 32);
            const long double got = ldexpl((long double)mult, -shift);
            assert_true(fabsl(got - r) <= (long double)r * ldexpl(1, -30));
        }
    for (int e = -1074; e < -31; e++) { /* too small for 31 bits: an absolute bound */
        const double r = ldexp(1.7, e);
        assert_int_equal(nbi_rescale_of(NULL, r, &mult, &shift), NB_OK);
        assert_int_equal(shift, 62);
        assert_true(fabsl(ldexpl((long double)mult, -62) - r) <= ldexpl(1, -63));
    }
    assert_int_equal(nbi_rescale_of(NULL, 0, &mult, &shift), NB_OK);
    assert_true(mult == 0 && shift == 32);
    const double wrong[] = {-1, -1e-300, 1073741824.0, INFINITY, NAN};
    for (size_t i = 0; i < NBI_COUNT(wrong); i++)
        assert_int_equal(nbi_rescale_of(NULL, wrong[i], &mult, &shift), NB_EINVAL);
}

/* ---- element-wise -------------------------------------------------------------------------- */

static void check_add(const nbi_simple_kernels *k, nbi_rng *rng) {
    nbk_add p = {.count = random_in(rng, 1, 100), .shift = (uint8_t)random_in(rng, 1, 24)};
    const int reach = 1 << (p.shift < 20 ? p.shift : 20); /* 2·383·reach + half fits int32 */
    p.a_mult = random_in(rng, -reach, reach), p.b_mult = random_in(rng, -reach, reach);
    p.a_zero = (int16_t)random_in(rng, -128, 255), p.b_zero = (int16_t)random_in(rng, -128, 255);
    p.out_zero = (int16_t)random_in(rng, -128, 255);
    p.a_type = random_type(rng), p.b_type = random_type(rng), p.out_type = random_type(rng);
    random_limits(rng, p.out_type, &p.out_lo, &p.out_hi);
    const size_t n = (size_t)p.count;
    uint8_t *a = bytes_make(rng, n), *b = bytes_make(rng, n), *y = output_make(n);
    k->add(&p, a, b, y);
    for (size_t i = 0; i < n; i++) {
        const int64_t x = (int64_t)(value(a, p.a_type, i) - p.a_zero) * p.a_mult +
                          (int64_t)(value(b, p.b_type, i) - p.b_zero) * p.b_mult;
        const int64_t v = rescaled(x, 1, p.shift) + p.out_zero;
        assert_int_equal(value(y, p.out_type, i), limited(v, p.out_lo, p.out_hi));
    }
    assert_canary(y, n);
    nbi_free(a), nbi_free(b), nbi_free(y);
}

static void check_mul(const nbi_simple_kernels *k, nbi_rng *rng) {
    nbk_mul p = {.b_channels = random_in(rng, 0, 20), .shift = (uint8_t)random_in(rng, 14, 62)};
    p.count = random_in(rng, 1, 10) * (p.b_channels ? p.b_channels : 7);
    p.mult = (int32_t)(nbi_rng_u32(rng) >> 1);
    p.a_zero = (int16_t)random_in(rng, -128, 255), p.b_zero = (int16_t)random_in(rng, -128, 255);
    p.out_zero = (int16_t)random_in(rng, -128, 255);
    p.a_type = random_type(rng), p.b_type = random_type(rng), p.out_type = random_type(rng);
    random_limits(rng, p.out_type, &p.out_lo, &p.out_hi);
    const size_t n = (size_t)p.count;
    uint8_t *a = bytes_make(rng, n), *b = bytes_make(rng, n), *y = output_make(n);
    k->mul(&p, a, b, y);
    for (size_t i = 0; i < n; i++) {
        const size_t j = p.b_channels ? i % (size_t)p.b_channels : i;
        const int64_t x =
            (int64_t)(value(a, p.a_type, i) - p.a_zero) * (value(b, p.b_type, j) - p.b_zero);
        const int64_t v = rescaled(x, p.mult, p.shift) + p.out_zero;
        assert_int_equal(value(y, p.out_type, i), limited(v, p.out_lo, p.out_hi));
    }
    assert_canary(y, n);
    nbi_free(a), nbi_free(b), nbi_free(y);
}

static void check_lut(const nbi_simple_kernels *k, nbi_rng *rng) {
    const int channels = nbi_rng_below(rng, 2) ? 1 : random_in(rng, 2, 9);
    const size_t n = (size_t)random_in(rng, 1, 300);
    uint8_t *table = bytes_make(rng, (size_t)channels * 256);
    uint8_t *x = bytes_make(rng, n), *y = output_make(n);
    const nbk_lut p = {.count = (int32_t)n, .channels = (int16_t)channels, .table = table};
    k->lut(&p, x, y);
    for (size_t i = 0; i < n; i++) assert_int_equal(y[i], table[i % (size_t)channels * 256 + x[i]]);
    assert_canary(y, n);
    nbi_free(table), nbi_free(x), nbi_free(y);
}

/* ---- pooling ------------------------------------------------------------------------------- */

static nbk_pool pool_make(nbi_rng *rng) {
    static const int16_t channels[] = {1, 3, 5, 16, 17, 31, 32, 33, 64, 70};
    nbk_pool p = {.c = channels[nbi_rng_below(rng, NBI_COUNT(channels))]};
    p.kh = (int16_t)random_in(rng, 1, 4), p.kw = (int16_t)random_in(rng, 1, 4);
    p.sh = (int16_t)random_in(rng, 1, 3), p.sw = (int16_t)random_in(rng, 1, 3);
    p.dh = (int16_t)random_in(rng, 1, 2), p.dw = (int16_t)random_in(rng, 1, 2);
    p.in_h = (int16_t)random_in(rng, 4, 9), p.in_w = (int16_t)random_in(rng, 4, 9);
    p.pt = (int16_t)random_in(rng, 0, p.kh - 1), p.pl = (int16_t)random_in(rng, 0, p.kw - 1);
    const int h = p.in_h + 2 * p.pt - (p.kh - 1) * p.dh - 1;
    const int w = p.in_w + 2 * p.pl - (p.kw - 1) * p.dw - 1;
    p.out_h = (int16_t)(h < 0 ? 1 : h / p.sh + 1), p.out_w = (int16_t)(w < 0 ? 1 : w / p.sw + 1);
    p.in_zero = (int16_t)random_in(rng, -20, 20), p.out_zero = (int16_t)random_in(rng, -20, 20);
    p.type = random_type(rng), p.out_type = random_type(rng);
    p.count_pad = (uint8_t)nbi_rng_below(rng, 2);
    random_limits(rng, p.out_type, &p.out_lo, &p.out_hi);
    return p;
}

/* The valid taps of one window: their number, sum and maximum. */
static void naive_window(const nbk_pool *p, const uint8_t *x, int y, int c, int *n, int64_t *sum,
                         int *max) {
    const int oy = y / p->out_w, ox = y % p->out_w;
    *n = 0, *sum = 0, *max = -1000;
    for (int i = 0; i < p->kh; i++)
        for (int j = 0; j < p->kw; j++) {
            const int iy = oy * p->sh - p->pt + i * p->dh, ix = ox * p->sw - p->pl + j * p->dw;
            if (iy < 0 || iy >= p->in_h || ix < 0 || ix >= p->in_w) continue;
            const int v = value(x, p->type, (size_t)((iy * p->in_w + ix) * p->c + c));
            ++*n;
            *sum += v - p->in_zero;
            if (v > *max) *max = v;
        }
}

static void check_pool(const nbi_simple_kernels *k, nbi_rng *rng) {
    int32_t mult[17] = {0};
    uint8_t shift[17] = {0};
    nbk_pool p = pool_make(rng);
    for (int i = 1; i <= p.kh * p.kw; i++)
        assert_int_equal(nbi_rescale_of(NULL, 1.3 / i, &mult[i], &shift[i]), NB_OK);
    shift[0] = 32;
    if (p.count_pad) assert_int_equal(nbi_rescale_of(NULL, 0.7, &mult[0], &shift[0]), NB_OK);
    p.mult = mult, p.shift = shift;
    const size_t outputs = (size_t)(p.out_h * p.out_w * p.c);
    uint8_t *x = bytes_make(rng, (size_t)(p.in_h * p.in_w * p.c));
    uint8_t *most = output_make(outputs), *mean = output_make(outputs);
    bool all_windows = true; /* a maximum is defined where a tap is valid */
    int n, max;
    int64_t sum;
    for (int i = 0; i < p.out_h * p.out_w; i++) {
        naive_window(&p, x, i, 0, &n, &sum, &max);
        all_windows = all_windows && n > 0;
    }
    if (all_windows) k->maxpool(&p, x, most);
    k->avgpool(&p, x, mean);
    for (size_t i = 0; i < outputs; i++) {
        const size_t c = (size_t)p.c;
        naive_window(&p, x, (int)(i / c), (int)(i % c), &n, &sum, &max);
        if (all_windows) assert_int_equal(value(most, p.type, i), max);
        const int count = p.count_pad ? 0 : n;
        const int64_t v = rescaled(sum, mult[count], shift[count]) + p.out_zero;
        assert_int_equal(value(mean, p.out_type, i), limited(v, p.out_lo, p.out_hi));
    }
    assert_canary(most, outputs);
    assert_canary(mean, outputs);
    nbi_free(x), nbi_free(most), nbi_free(mean);
}

/* ---- copy ---------------------------------------------------------------------------------- */

/* A random box, read in random order (and backwards), written into a random larger frame. */
static nbk_copy copy_make(nbi_rng *rng, size_t *in_count, size_t *out_count) {
    nbk_copy p = {.size = nbi_rng_below(rng, 2) ? 1 : 4};
    int32_t in_step = 1, out_step = 1;
    bool keep = nbi_rng_below(rng, 2); /* neighbours stay neighbours */
    for (int i = 0; i < NBK_COPY_RANK; i++) p.n[i] = 1;
    for (int i = NBK_COPY_RANK - 1; i >= random_in(rng, 0, 5); i--) {
        p.n[i] = i == NBK_COPY_RANK - 1 ? random_in(rng, 1, 40) : random_in(rng, 1, 4);
        p.in_stride[i] = in_step, p.out_stride[i] = out_step;
        if (!keep && nbi_rng_below(rng, 2)) {
            p.in_offset += (p.n[i] - 1) * in_step;
            p.in_stride[i] = -in_step;
        }
        in_step *= p.n[i] + random_in(rng, 0, 2);
        out_step *= p.n[i] + random_in(rng, 0, 2);
        if (!keep && nbi_rng_below(rng, 4) == 0) in_step *= 2;
    }
    p.out_offset = random_in(rng, 0, 5);
    p.fill_bytes = nbi_rng_below(rng, 2) ? (out_step + p.out_offset) * p.size : 0;
    p.fill_value = (int16_t)random_in(rng, -128, 255);
    *in_count = (size_t)in_step, *out_count = (size_t)(out_step + p.out_offset);
    return p;
}

static void naive_copy(const nbk_copy *p, const uint8_t *in, uint8_t *out) {
    int64_t total = 1;
    for (int i = 0; i < p->fill_bytes; i++) out[i] = (uint8_t)p->fill_value;
    for (int d = 0; d < NBK_COPY_RANK; d++) total *= p->n[d];
    for (int64_t i = 0; i < total; i++) {
        int64_t rest = i, from = p->in_offset, to = p->out_offset;
        for (int d = NBK_COPY_RANK - 1; d >= 0; rest /= p->n[d--]) {
            from += rest % p->n[d] * p->in_stride[d];
            to += rest % p->n[d] * p->out_stride[d];
        }
        memcpy(out + to * p->size, in + from * p->size, p->size);
    }
}

static void check_copy(const nbi_simple_kernels *k, nbi_rng *rng) {
    size_t in_count, out_count;
    const nbk_copy p = copy_make(rng, &in_count, &out_count);
    uint8_t *x = bytes_make(rng, in_count * p.size);
    uint8_t *got = output_make(out_count * p.size), *want = output_make(out_count * p.size);
    k->copy(&p, x, got);
    naive_copy(&p, x, want);
    assert_memory_equal(got, want, out_count * p.size + CANARY);
    nbi_free(x), nbi_free(got), nbi_free(want);
}

static void test_simple(void **state) {
    (void)state;
    for (nbi_isa isa = NBI_ISA_REF; isa <= nbi_cpu_isa(); isa++) {
        const nbi_simple_kernels *k = nbi_simple_select(isa);
        nbi_rng rng;
        nbi_rng_seed(&rng, 6, 6);
        assert_true(k->isa <= isa);
        for (int trial = 0; trial < 2000; trial++) {
            check_add(k, &rng);
            check_mul(k, &rng);
            check_lut(k, &rng);
            check_pool(k, &rng);
            check_copy(k, &rng);
        }
    }
}

static void test_moments(void **state) {
    (void)state;
    enum { PIXELS = 37, MOST = 41 };
    static int32_t acc[PIXELS * MOST];
    nbi_rng rng;
    nbi_rng_seed(&rng, 5, 0);
    for (size_t channels = 1; channels <= MOST; channels += 5)
        for (int isa = 0; isa <= (int)nbi_cpu_isa(); isa++) {
            int64_t sum[MOST], square[MOST];
            for (size_t i = 0; i < PIXELS * channels; i++) {
                acc[i] = random_in(&rng, -100000000, 100000000);
                if (i % 50 == 7) acc[i] = i % 4 ? 200000000 : -200000000;
            }
            nbi_simple_select((nbi_isa)isa)->moments(acc, PIXELS, channels, sum, square);
            for (size_t c = 0; c < channels; c++) {
                int64_t s = 0, q = 0;
                for (size_t i = 0; i < PIXELS; i++) {
                    s += acc[i * channels + c];
                    q += (int64_t)acc[i * channels + c] * acc[i * channels + c];
                }
                assert_true(sum[c] == s && square[c] == q);
            }
        }
}

/* Of every isa: fits or not, values, moments, and the way back. */
static void check_halves(const int32_t *acc, size_t pixels, size_t channels, int shift, bool fits) {
    enum { MOST = 64 };
    int64_t sum[MOST], square[MOST], s[MOST] = {0}, q[MOST] = {0};
    const size_t n = pixels * channels;
    int16_t *half = malloc((n + 8) * sizeof *half);
    int32_t *back = malloc((n + 8) * sizeof *back);
    assert_non_null(half);
    assert_non_null(back);
    for (size_t i = 0; i < n; i++) {
        const int64_t v = acc[i] >> shift;
        s[i % channels] += v;
        q[i % channels] += v * v;
    }
    for (int isa = 0; isa <= (int)nbi_cpu_isa(); isa++) {
        const nbi_simple_kernels *k = nbi_simple_select((nbi_isa)isa);
        half[n] = 77, back[n] = 77;
        assert_true(k->halve(acc, pixels, channels, shift, half, sum, square) == fits);
        assert_int_equal(half[n], 77);
        if (!fits) continue;
        k->widen(half, n, shift, back);
        assert_int_equal(back[n], 77);
        assert_memory_equal(back, acc, n * sizeof *acc);
        assert_memory_equal(sum, s, channels * sizeof *sum);
        assert_memory_equal(square, q, channels * sizeof *square);
    }
    free(half);
    free(back);
}

static void test_halves(void **state) {
    (void)state;
    enum { PIXELS = 37, LONG = 70001 };
    static int32_t acc[LONG * 16];
    static const size_t CHANNELS[] = {1, 10, 16, 17, 32, 48, 64};
    nbi_rng rng;
    nbi_rng_seed(&rng, 6, 0);
    for (size_t k = 0; k < NBI_COUNT(CHANNELS); k++)
        for (int shift = 0; shift <= 7; shift++)
            for (int beyond = 0; beyond < 5; beyond++) {
                const size_t n = (PIXELS - (size_t)beyond % 2) * CHANNELS[k];
                for (size_t i = 0; i < n; i++)
                    acc[i] = random_in(&rng, -32766, 32766) * (1 << shift);
                const int32_t ends[5] = {0, 32767, -32767, -32768, 16000000};
                const size_t at = beyond == 3 ? n - 1 : nbi_rng_below(&rng, (uint32_t)n);
                acc[at] = ends[beyond] * (1 << shift);
                check_halves(acc, n / CHANNELS[k], CHANNELS[k], shift, beyond == 0);
            }
    for (size_t i = 0; i < LONG * 16; i++) acc[i] = i % 16 < 8 ? 32766 : -32766;
    check_halves(acc, LONG, 16, 0, true); /* more than int32 sums hold */
}

static void test_environment(void **state) {
    (void)state;
    const nbi_isa best = nbi_cpu_isa();
    assert_int_equal(setenv("NB_CPU", "ref", 1), 0);
    assert_int_equal(nbi_cpu_isa(), NBI_ISA_REF);
    assert_int_equal(setenv("NB_CPU", "avx512vnni", 1), 0); /* never above the hardware */
    assert_true(nbi_cpu_isa() >= best);
    assert_int_equal(unsetenv("NB_CPU"), 0);
    assert_string_equal(nbi_isa_name(NBI_ISA_AVX2), "avx2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack),      cmocka_unit_test(test_rescale),
        cmocka_unit_test(test_rescale_of),  cmocka_unit_test(test_simple),
        cmocka_unit_test(test_environment), cmocka_unit_test(test_moments),
        cmocka_unit_test(test_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
