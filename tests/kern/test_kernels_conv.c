/* Every convolution kernel = the reference = a naive definition in 64-bit integers: outputs, sums
 * and finish, on random and extreme values. The AVX-512 kernel is compiled a second time on SIMDe,
 * so that its results are checked on CPUs without it, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "conv_cases.h"

#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<simde/x86/avx512.h>)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#define NBI_EMULATE
#define nbi_conv_row_avx512vnni emulated_row
#ifdef __clang__ /* 512-bit vectors in calls that are all in this file */
#pragma clang diagnostic ignored "-Wpsabi"
#endif
#include "kernels/x86/conv_dense_avx512vnni.c"
#undef nbi_conv_row_avx512vnni
#endif
#endif

enum { SEEDS = 40, CANARY = 64 };

static void fail_at(const char *kernel, const char *what, size_t shape_number, uint64_t seed,
                    size_t i, long long got, long long want) {
    fail_msg("%s: %s, shape %zu, seed %llu: element %zu is %lld, want %lld", kernel, what,
             shape_number, (unsigned long long)seed, i, got, want);
}

/* The buffers of one run; out and acc end in canaries. */
typedef struct buffers {
    size_t bytes;
    uint8_t *out;
    int32_t *acc;
} buffers;

static buffers buffers_make(const problem *q) {
    buffers b = {.bytes = q->outputs * (q->p.out_type == NBK_S32 ? 4 : 1)};
    b.out = must_alloc(b.bytes + CANARY);
    b.acc = must_alloc(q->outputs * 4 + CANARY);
    memset(b.out, 0xa5, b.bytes + CANARY);
    memset(b.acc, 0xa5, q->outputs * 4 + CANARY);
    return b;
}

static void buffers_free(const buffers *b) {
    nbi_free(b->out);
    nbi_free(b->acc);
}

static void check(const char *kernel, const problem *q, const buffers *b, size_t shape_number,
                  uint64_t seed) {
    for (size_t i = 0; i < q->outputs; i++) {
        const int o = (int)(i % (size_t)q->p.out_c);
        const long long want = naive_output(&q->p, q->sums[i], o);
        if (b->acc[i] != q->sums[i])
            fail_at(kernel, "sums", shape_number, seed, i, b->acc[i], q->sums[i]);
        if (output_at(&q->p, b->out, i) != want)
            fail_at(kernel, "output", shape_number, seed, i, output_at(&q->p, b->out, i), want);
    }
    for (size_t i = 0; i < CANARY; i++)
        if (b->out[b->bytes + i] != 0xa5 || ((uint8_t *)(b->acc + q->outputs))[i] != 0xa5)
            fail_msg("%s writes behind its output, shape %zu", kernel, shape_number);
    buffers_free(b);
}

static void check_reference(const problem *q, size_t shape_number, uint64_t seed) {
    buffers b = buffers_make(q);
    void *scratch = must_alloc(q->depthwise ? nbk_dwconv_scratch(&q->p) : nbk_conv_scratch(&q->p));
    (q->depthwise ? nbk_dwconv_run : nbk_conv_run)(&q->p, q->in, b.out, scratch);
    (q->depthwise ? nbk_dwconv_sums : nbk_conv_sums)(&q->p, q->in, b.acc, scratch);
    check("nbk", q, &b, shape_number, seed);
    nbi_free(scratch);
}

/* Sums that were made with another bias give the same output. */
static void check_shifted(const nbi_conv_kernel *row, const problem *q, const buffers *b) {
    const size_t channels = (size_t)q->p.out_c;
    buffers other = buffers_make(q);
    int32_t *had = must_alloc(channels * sizeof *had);
    for (size_t c = 0; c < channels; c++)
        had[c] = q->bias[c] > 0 ? q->bias[c] - 100000 - (int32_t)c
                                  : q->bias[c] + 70000 + (int32_t)c;
    for (size_t i = 0; i < q->outputs; i++) { /* modulo 2^32: extreme sums wrap there and back */
        const size_t c = i % channels;
        other.acc[i] = (int32_t)((uint32_t)b->acc[i] - (uint32_t)q->bias[c] + (uint32_t)had[c]);
        const int64_t exact = (int64_t)b->acc[i] - q->bias[c] + had[c];
        if (exact != other.acc[i]) goto done; /* not a case that can be: such sums fit */
    }
    row->finish(&q->p, other.acc, had, q->pixels, other.out);
    if (memcmp(other.out, b->out, b->bytes)) fail_msg("%s: finish with another bias", row->name);
done:
    nbi_free(had);
    nbi_free(other.out);
    nbi_free(other.acc);
}

static void check_row(const nbi_conv_kernel *row, const problem *q, size_t shape_number,
                      uint64_t seed) {
    if (row->depthwise != q->depthwise) return;
    if (row->supports && !row->supports(&q->p, &q->range)) return;
    buffers b = buffers_make(q), finished = buffers_make(q), parted = buffers_make(q);
    void *packed = must_alloc(row->packed_bytes(&q->p));
    const size_t scratch_bytes = row->scratch_bytes(&q->p);
    uint8_t *scratch = must_alloc(scratch_bytes + CANARY);
    memset(scratch, 0xa5, scratch_bytes + CANARY);
    row->pack(&q->p, q->levels, packed);
    row->run(&q->p, &q->range, packed, q->in, b.out, scratch);
    row->sums(&q->p, &q->range, packed, q->in, b.acc, scratch);
    const int parts = 1 + (int)(seed % 3);
    for (int k = parts - 1; k >= 0 && row->run_part; k--)
        row->run_part(&q->p, &q->range, packed, q->in, parted.out, scratch, k, parts);
    if (row->run_part) memcpy(parted.acc, b.acc, q->outputs * 4);
    row->finish(&q->p, b.acc, NULL, q->pixels, finished.out);
    memcpy(finished.acc, b.acc, q->outputs * 4);
    check_shifted(row, q, &b);
    for (size_t i = 0; i < CANARY; i++)
        if (scratch[scratch_bytes + i] != 0xa5)
            fail_msg("%s writes behind its scratch, shape %zu", row->name, shape_number);
    check(row->name, q, &b, shape_number, seed);
    check(row->name, q, &finished, shape_number, seed);
    if (row->run_part) check(row->name, q, &parted, shape_number, seed);
    else buffers_free(&parted);
    nbi_free(packed);
    nbi_free(scratch);
}

/* Narrow biases, random codes: as stored in the reference kernel, as int32 with −in_zero·Σw, decoded
 * here once more, in all rows. */
static void check_narrow(const problem *q, int bits, size_t shape_number, uint64_t seed) {
    const size_t n = (size_t)q->p.out_c, taps = q->weights / n;
    problem r = *q;
    nbi_rng rng;
    size_t count;
    const nbi_conv_kernel *const *rows = nbi_conv_kernels(&count);
    int8_t *bytes = must_alloc(n);
    int16_t *halves = must_alloc(2 * n);
    nbi_rng_seed(&rng, seed, 8);
    r.bias = must_alloc(4 * n);
    r.sums = must_alloc(q->outputs * sizeof *r.sums);
    r.range.acc_bound += 1 << 28;
    r.p.bias_bits = (uint8_t)bits;
    r.p.bias_shift = (int8_t)(q->p.shift[0] - random_in(&rng, -2, 9));
    for (size_t o = 0; o < n; o++) {
        const int k = q->p.shift[o] - r.p.bias_shift;
        const int code = k > 12 ? random_in(&rng, -1, 1) : random_in(&rng, -(1 << (bits - 1)), 127);
        int64_t sum = 0, unit = k > 30 ? 1 << 30 : k > 0 ? 1 << k : 1;
        bytes[o] = (int8_t)(k > 27 ? 0 : code);
        halves[o] = (int16_t)(k > 27 ? 0 : code);
        for (size_t i = 0; i < taps; i++) sum += q->levels[q->depthwise ? i * n + o : o * taps + i];
        r.bias[o] = (int32_t)(halves[o] * unit - q->p.in_zero * sum);
    }
    for (size_t i = 0; i < q->outputs; i++)
        r.sums[i] = q->sums[i] - q->bias[i % n] + r.bias[i % n];
    r.p.bias = bits == 8 ? (const void *)bytes : halves;
    check_reference(&r, shape_number, seed);
    r.p.bias = r.bias;
    r.p.bias_bits = 32;
    for (size_t i = 0; i < count; i++)
        if (rows[i]->isa <= nbi_cpu_isa()) check_row(rows[i], &r, shape_number, seed);
    nbi_free(bytes), nbi_free(halves), nbi_free(r.bias), nbi_free(r.sums);
}

/* Any addition that operand a of this type can go into. */
static nbk_add random_add(nbi_rng *rng, fill how, uint8_t a_type, size_t count) {
    nbk_add p = {.count = (int32_t)count, .shift = (uint8_t)random_in(rng, 1, 24)};
    const int reach = 1 << (p.shift < 20 ? p.shift : 20); /* 2·383·reach + half fits int32 */
    p.a_mult = value_of(rng, how, -reach, reach), p.b_mult = value_of(rng, how, -reach, reach);
    p.a_zero = (int16_t)random_in(rng, -128, 255), p.b_zero = (int16_t)random_in(rng, -128, 255);
    p.out_zero = (int16_t)random_in(rng, -128, 255);
    p.a_type = a_type;
    p.b_type = nbi_rng_below(rng, 2) ? NBK_U8 : NBK_S8;
    p.out_type = nbi_rng_below(rng, 2) ? NBK_U8 : NBK_S8;
    const int lo = p.out_type == NBK_U8 ? 0 : -128;
    p.out_lo = (int16_t)random_in(rng, lo, lo + 60);
    p.out_hi = (int16_t)random_in(rng, lo + 60, lo + 255);
    return p;
}

/* The convolution that adds = the convolution, then the addition; also over its other operand. */
static void check_sum(const problem *q, size_t shape_number, uint64_t seed) {
    const size_t n = q->outputs;
    nbi_rng rng;
    nbi_rng_seed(&rng, seed, 11);
    const fill how = (fill)(seed % FILLS);
    const nbk_add add = random_add(&rng, how, q->p.out_type, n);
    void *scratch = must_alloc(nbk_conv_scratch(&q->p));
    uint8_t *a = must_alloc(n), *b = must_alloc(n), *want = must_alloc(n);
    uint8_t *out = must_alloc(n + CANARY);
    for (size_t i = 0; i < n; i++) b[i] = (uint8_t)value_of(&rng, how, 0, 255);
    nbk_conv_run(&q->p, q->in, a, scratch);
    nbk_add_run(&add, a, b, want);
    memset(out, 0xa5, n + CANARY);
    nbk_conv_add_run(&q->p, &add, q->in, b, out, scratch);
    for (size_t i = 0; i < n + CANARY; i++)
        if (out[i] != (i < n ? want[i] : 0xa5))
            fail_at("nbk_conv_add", "sum", shape_number, seed, i, out[i], i < n ? want[i] : 0xa5);
    nbk_conv_add_run(&q->p, &add, q->in, b, b, scratch);
    assert_memory_equal(b, want, n);
    nbi_free(scratch), nbi_free(a), nbi_free(b), nbi_free(want), nbi_free(out);
}

static void test_all_kernels(void **state) {
    (void)state;
    size_t n, sums = 0;
    const nbi_conv_kernel *const *rows = nbi_conv_kernels(&n);
    for (size_t s = 0; s < NBI_COUNT(SHAPES); s++)
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            problem q = problem_make(&SHAPES[s], seed + 1000 * s);
            check_reference(&q, s, seed);
            if (!q.depthwise && q.p.out_type != NBK_S32) check_sum(&q, s, seed), sums++;
            if (seed % 2) check_narrow(&q, seed % 4 == 1 ? 8 : 16, s, seed);
            for (size_t i = 0; i < n; i++)
                if (rows[i]->isa <= nbi_cpu_isa()) check_row(rows[i], &q, s, seed);
#if defined(NBI_EMULATE)
            if (nbi_cpu_isa() >= NBI_ISA_AVX2) check_row(&emulated_row, &q, s, seed);
#endif
            problem_free(&q);
        }
    assert_true(sums > 300);
}

/* One width of inputs and of weights, every value at one end or the other. */
static void check_extreme(const shape *s, int a, int w, int ends) {
    size_t n;
    const nbi_conv_kernel *const *rows = nbi_conv_kernels(&n);
    problem q = problem_make(s, 4);
    q.range.in_min = 0, q.range.in_max = (1 << a) - 1;
    q.range.w_min = -(1 << (w - 1)), q.range.w_max = (1 << (w - 1)) - 1;
    q.p.in_type = NBK_U8;
    q.p.in_zero = (int16_t)(ends & 1 ? q.range.in_max : 0);
    q.p.w_bits = 8, q.p.w_levels = NULL, q.p.w = (const uint8_t *)q.levels;
    for (size_t i = 0; i < q.inputs; i++) q.in[i] = (uint8_t)q.range.in_max;
    for (size_t i = 0; i < q.weights; i++)
        q.levels[i] = (int8_t)(ends & 2 ? q.range.w_max : q.range.w_min);
    for (size_t i = 0; i < q.outputs; i++) {
        const int x = (int)i / q.p.out_c;
        q.sums[i] = naive_sum(&q, x / q.p.out_w, x % q.p.out_w, (int)i % q.p.out_c);
    }
    for (size_t i = 0; i < n; i++)
        if (rows[i]->isa <= nbi_cpu_isa())
            check_row(rows[i], &q, 0, (uint64_t)(a * 100 + w * 10 + ends));
    problem_free(&q);
}

/* Values at the very edge of what vpmaddubsw can hold, and of Winograd's sums modulo 2^32. */
static void test_extremes(void **state) {
    (void)state;
    const shape shapes[] = {{3, 5, 64, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false},
                            {4, 4, 112, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false}};
    for (size_t s = 0; s < NBI_COUNT(shapes); s++)
        for (int a = 1; a <= 8; a++)
            for (int w = 1; w <= 8; w++)
                for (int ends = 0; ends < 4; ends++) check_extreme(&shapes[s], a, w, ends);
}

/* Sums at the boundaries where rounding turns, ties among them: the quick way must see them. */
static void fill_boundaries(problem *q, nbi_rng *rng, int32_t *acc) {
    for (size_t i = 0; i < q->outputs; i++) {
        const size_t o = i % (size_t)q->p.out_c;
        const double half = random_in(rng, -140, 260) + 0.5, mult = q->mult[o] ? q->mult[o] : 1;
        const double at = (half - q->p.out_zero) * ldexp(1, q->shift[o]) / mult;
        const double sum = floor(at) + random_in(rng, -1, 2);
        acc[i] = fabs(sum) < 0x1p30 ? (int32_t)sum : 0;
        if (nbi_rng_below(rng, 50) == 0) acc[i] = nbi_rng_below(rng, 2) ? INT32_MAX : INT32_MIN;
    }
}

static void check_boundaries(const nbi_conv_kernel *row, problem *q, uint64_t seed) {
    int32_t *acc = must_alloc(q->outputs * sizeof *acc);
    uint8_t *out = must_alloc(q->outputs * 4);
    nbi_rng rng;
    nbi_rng_seed(&rng, seed, 9);
    for (int32_t o = 0; o < q->p.out_c; o++) {
        if (seed % 3 == 0) { /* ties in plenty */
            q->mult[o] = 1 << 30;
            q->shift[o] = (uint8_t)random_in(&rng, 32, 46);
        } else {
            const double r = ldexp(nbi_rng_uniform(&rng) + 1e-9, -random_in(&rng, 0, 24));
            assert_int_equal(nbi_rescale_of(NULL, r, &q->mult[o], &q->shift[o]), NB_OK);
        }
    }
    fill_boundaries(q, &rng, acc);
    row->finish(&q->p, acc, NULL, q->pixels, out);
    for (size_t i = 0; i < q->outputs; i++) {
        const long long want = naive_output(&q->p, acc[i], (int)(i % (size_t)q->p.out_c));
        if (output_at(&q->p, out, i) != want)
            fail_at(row->name, "boundary", 0, seed, i, output_at(&q->p, out, i), want);
    }
    /* and the same multipliers behind products; ties where they are powers of two */
    if (!row->supports || row->supports(&q->p, &q->range)) check_row(row, q, 0, seed);
    nbi_free(acc);
    nbi_free(out);
}

static void test_boundaries(void **state) {
    (void)state;
    const shape body = {12, 13, 16, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false};
    size_t n;
    const nbi_conv_kernel *const *rows = nbi_conv_kernels(&n);
    for (uint64_t seed = 0; seed < 60; seed++)
        for (size_t i = 0; i < n; i++) {
            if (rows[i]->isa > nbi_cpu_isa() || rows[i]->depthwise) continue;
            problem q = problem_make(&body, seed * FILLS); /* random values */
            check_boundaries(rows[i], &q, seed);
            problem_free(&q);
        }
}

/* So many weights that Winograd takes large groups of tiles, the last one a rest. */
static void test_large_weights(void **state) {
    (void)state;
    const shape large = {14, 17, 160, 130, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, false};
    size_t n, seen = 0;
    const nbi_conv_kernel *const *rows = nbi_conv_kernels(&n);
    problem q = problem_make(&large, 0); /* random values */
    for (size_t i = 0; i < n; i++) {
        if (rows[i]->isa == NBI_ISA_REF || rows[i]->isa > nbi_cpu_isa() || rows[i]->depthwise)
            continue;
        seen += strstr(rows[i]->name, "wino") && rows[i]->supports(&q.p, &q.range);
        check_row(rows[i], &q, 0, 0);
    }
    if (nbi_cpu_isa() >= NBI_ISA_AVX2) assert_true(seen > 0);
    problem_free(&q);
}

static void test_selection(void **state) {
    (void)state;
    problem q = problem_make(&SHAPES[0], 0), body = problem_make(&SHAPES[1], 0);
    const nbi_conv_range low = {0, 15, -8, 7, 1 << 20}, high = {0, 255, -128, 127, 1 << 23};
    q.p.in_type = NBK_U8;
    assert_int_equal(nbi_conv_select(&q.p, &low, false, NBI_ISA_REF)->isa, NBI_ISA_REF);
    assert_true(nbi_conv_select(&q.p, &low, true, NBI_ISA_REF)->depthwise);
#if defined(__x86_64__)
    assert_string_equal(nbi_conv_select(&q.p, &low, false, NBI_ISA_AVX2)->name,
                        "nbi_conv_8_7_avx2_ubs");
    assert_string_equal(nbi_conv_select(&q.p, &high, false, NBI_ISA_AVX2)->name,
                        "nbi_conv_8_8_avx2_wide");
    assert_string_equal(nbi_conv_select(&body.p, &high, false, NBI_ISA_AVX2)->name,
                        "nbi_conv_8_8_avx2_wino");
    assert_int_equal(nbi_conv_select(&q.p, &high, true, NBI_ISA_AVX512VNNI)->isa, NBI_ISA_AVX2);
#else
    (void)high;
#endif
    problem_free(&q);
    problem_free(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kernels),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_boundaries),
        cmocka_unit_test(test_large_weights),
        cmocka_unit_test(test_selection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
