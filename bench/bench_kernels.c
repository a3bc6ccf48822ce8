/* MAC per cycle of every convolution kernel on the layers of known networks, beside the ceilings
 * that this machine's multipliers reach in register-only loops. Cycles are calibrated by a chain of
 * dependent additions (one cycle each). Usage: bench_kernels [part of a kernel's name] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "kernels/kernels.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Cycles per second: the best of several short chains. */
static double clock_rate(void) {
    double best = 0;
    for (int trial = 0; trial < 20; trial++) {
        const long n = 2000000;
        uint64_t x = 0;
        const double start = now();
        for (long i = 0; i < n; i += 8)
            for (int k = 0; k < 8; k++) {
#if defined(__x86_64__)
                __asm__ volatile("add $1, %0" : "+r"(x));
#else
                __asm__ volatile("add %0, %0, #1" : "+r"(x));
#endif
            }
        const double rate = (double)n / (now() - start);
        if (rate > best) best = rate;
    }
    return best;
}

#if defined(__x86_64__)
/* Loops of 8 independent multiply-accumulate steps, written in assembly because compilers add moves
 * and spills to them. ymm0–7: sums, ymm8–14: products, ymm15: both factors. */
#define LOOP(body)                                                                                 \
    __asm__ volatile("1:\n" body "dec %0\njne 1b\nvzeroupper\n"                                    \
                     : "+r"(turns)                                                                 \
                     :                                                                             \
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc")
#define EIGHT(f)                                                                                   \
    f("0", "8") f("1", "9") f("2", "10") f("3", "11") f("4", "12") f("5", "13") f("6", "14")       \
        f("7", "8")
#define MADD(sum, product)                                                                         \
    "vpmaddwd %%ymm15, %%ymm15, %%ymm" product "\n"                                                \
    "vpaddd %%ymm" product ", %%ymm" sum ", %%ymm" sum "\n"
#define UBS_MADD(sum, product)                                                                     \
    "vpmaddubsw %%ymm15, %%ymm15, %%ymm" product "\n"                                              \
    "vpmaddwd %%ymm15, %%ymm" product ", %%ymm" product "\n"                                       \
    "vpaddd %%ymm" product ", %%ymm" sum ", %%ymm" sum "\n"
#define UBS(sum, product)                                                                          \
    "vpmaddubsw %%ymm15, %%ymm15, %%ymm" product "\n"                                              \
    "vpaddw %%ymm" product ", %%ymm" sum ", %%ymm" sum "\n"

/* kind 0: vpmaddwd, 1: vpmaddubsw widened at once, 2: vpmaddubsw summed in int16. */
static double ceiling(int kind, double rate) {
    const int64_t n = 200000;
    double best = 1e9;
    for (int trial = 0; trial < 20; trial++) {
        int64_t turns = n;
        const double start = now();
        if (kind == 0)
            LOOP(EIGHT(MADD));
        else if (kind == 1)
            LOOP(EIGHT(UBS_MADD));
        else
            LOOP(EIGHT(UBS));
        const double t = now() - start;
        if (t < best) best = t;
    }
    return (kind == 0 ? 16.0 : 32.0) * 8 * (double)n / (best * rate);
}
#endif

typedef struct layer {
    const char *name;
    int size, height, c, n, kh, kw, stride, times; /* height 0: = size */
    bool depthwise;
} layer;

static const layer LAYERS[] = {
    {"resnet20 stem", 32, 0, 3, 16, 3, 3, 1, 1, false},
    {"resnet20 16>16 32x32", 32, 0, 16, 16, 3, 3, 1, 6, false},
    {"resnet20 16>32 /2", 32, 0, 16, 32, 3, 3, 2, 1, false},
    {"resnet20 32>32 16x16", 16, 0, 32, 32, 3, 3, 1, 5, false},
    {"resnet20 32>64 /2", 16, 0, 32, 64, 3, 3, 2, 1, false},
    {"resnet20 64>64 8x8", 8, 0, 64, 64, 3, 3, 1, 5, false},
    {"resnet20 fc", 1, 0, 64, 10, 1, 1, 1, 1, false},
    {"resnet18 256>256 14x14", 14, 0, 256, 256, 3, 3, 1, 0, false},
    {"dscnn 10x4", 10, 49, 1, 64, 10, 4, 2, 0, false},
    {"dscnn 1x1 64>64", 5, 25, 64, 64, 1, 1, 1, 0, false},
    {"mobilenet 1x1 16>32", 48, 0, 16, 32, 1, 1, 1, 0, false},
    {"mobilenet 1x1 128>128", 6, 0, 128, 128, 1, 1, 1, 0, false},
    {"mobilenet 1x1 256>256", 3, 0, 256, 256, 1, 1, 1, 0, false},
    {"dense 640>128", 1, 0, 640, 128, 1, 1, 1, 0, false},
    {"depthwise 16 48x48", 48, 0, 16, 16, 3, 3, 1, 0, true},
    {"depthwise 128 6x6", 6, 0, 128, 128, 3, 3, 1, 0, true},
    {"depthwise 64 25x5", 5, 25, 64, 64, 3, 3, 1, 0, true},
};
static const int BITS[][2] = {{8, 8}, {7, 8}, {4, 8}, {4, 4}, {2, 2}}; /* weights, inputs */

typedef struct work {
    nbk_conv p;
    nbi_conv_range range;
    double macs;
    uint8_t *in, *out, *shift, *packed, *scratch;
    int8_t *levels;
    int32_t *bias, *mult;
} work;

static void *need(size_t bytes) {
    void *memory = NULL;
    if (nbi_alloc(NULL, bytes + 64, 1, &memory) != NB_OK) exit(1);
    return memory;
}

static work work_make(const layer *l, int w_bits, int a_bits) {
    const int h = l->height ? l->height : l->size, pad_h = (l->kh - 1) / 2, pad_w = (l->kw - 1) / 2;
    const int oh = (h - 1) / l->stride + 1, ow = (l->size - 1) / l->stride + 1;
    work k = {
        .p = {.in_h = (int16_t)h,
              .in_w = (int16_t)l->size,
              .in_c = (int16_t)l->c,
              .out_h = (int16_t)oh,
              .out_w = (int16_t)ow,
              .out_c = (int16_t)l->n,
              .kh = (int16_t)l->kh,
              .kw = (int16_t)l->kw,
              .sh = (int16_t)l->stride,
              .sw = (int16_t)l->stride,
              .dh = 1,
              .dw = 1,
              .pt = (int16_t)pad_h,
              .pl = (int16_t)pad_w,
              .groups = (int16_t)(l->depthwise ? l->c : 1),
              .w_bits = 8,
              .out_hi = 255},
        .range = {0, (1 << a_bits) - 1, -(1 << (w_bits - 1)), (1 << (w_bits - 1)) - 1, 1 << 30}};
    const size_t c = (size_t)(l->depthwise ? 1 : l->c), n = (size_t)l->n;
    const size_t weights = n * c * (size_t)(l->kh * l->kw);
    const size_t inputs = (size_t)(h * l->size * l->c);
    nbi_rng rng;
    nbi_rng_seed(&rng, 1, 1);
    k.macs = (double)weights * oh * ow;
    k.in = need(inputs), k.out = need(n * (size_t)(oh * ow)), k.levels = need(weights);
    k.bias = need(n * 4), k.mult = need(n * 4), k.shift = need(n);
    for (size_t i = 0; i < inputs; i++) k.in[i] = (uint8_t)(nbi_rng_u32(&rng) >> (32 - a_bits));
    for (size_t i = 0; i < weights; i++)
        k.levels[i] = (int8_t)(k.range.w_min + (int)nbi_rng_below(&rng, 1u << (unsigned)w_bits));
    for (size_t i = 0; i < n; i++) k.mult[i] = 1 << 30, k.shift[i] = 40;
    k.p.bias = k.bias, k.p.mult = k.mult, k.p.shift = k.shift;
    return k;
}

static void work_free(work *k) {
    nbi_free(k->in), nbi_free(k->out), nbi_free(k->levels), nbi_free(k->bias);
    nbi_free(k->mult), nbi_free(k->shift);
}

/* Seconds of one run: the best of several batches. */
static double time_row(const nbi_conv_kernel *row, const work *k, bool quick) {
    void *packed = need(row->packed_bytes(&k->p)), *scratch = need(row->scratch_bytes(&k->p));
    double best = 1e9;
    row->pack(&k->p, k->levels, packed);
    const int turns = quick ? 1 : 1 + (int)(4e6 / k->macs);
    for (int trial = 0; trial < (quick ? 3 : 15); trial++) {
        const double start = now();
        for (int i = 0; i < turns; i++) row->run(&k->p, &k->range, packed, k->in, k->out, scratch);
        const double t = (now() - start) / turns;
        if (t < best) best = t;
    }
    nbi_free(packed);
    nbi_free(scratch);
    return best;
}

static void bench_bits(int w_bits, int a_bits, double rate, const char *part) {
    size_t n;
    const nbi_conv_kernel *const *rows = nbi_conv_kernels(&n);
    double resnet = 0;
    printf("\nW%dA%d\n", w_bits, a_bits);
    for (size_t i = 0; i < NBI_COUNT(LAYERS); i++) {
        work k = work_make(&LAYERS[i], w_bits, a_bits);
        const nbi_conv_kernel *chosen =
            nbi_conv_select(&k.p, &k.range, LAYERS[i].depthwise, nbi_cpu_isa());
        for (size_t r = 0; r < n; r++) {
            const nbi_conv_kernel *row = rows[r];
            if (row->isa > nbi_cpu_isa() || row->depthwise != LAYERS[i].depthwise) continue;
            if (row->supports && !row->supports(&k.p, &k.range)) continue;
            if (part && !strstr(row->name, part)) continue;
            const double t = time_row(row, &k, row->isa == NBI_ISA_REF);
            printf("%-22s %-26s %8.2f us %6.2f MAC/cycle%s\n", LAYERS[i].name, row->name, t * 1e6,
                   k.macs / (t * rate), row == chosen ? "  *" : "");
            if (row == chosen) resnet += t * LAYERS[i].times;
        }
        work_free(&k);
    }
    if (resnet > 0) printf("resnet20 convolutions: %.0f us per image\n", resnet * 1e6);
}

int main(int argc, char **argv) {
    const double rate = clock_rate();
    printf("%.2f GHz by dependent additions; %s\n", rate * 1e-9, nbi_isa_name(nbi_cpu_isa()));
#if defined(__x86_64__)
    if (nbi_cpu_isa() >= NBI_ISA_AVX2)
        printf("ceilings, MAC/cycle: vpmaddwd %.1f, vpmaddubsw + vpmaddwd %.1f, vpmaddubsw in "
               "int16 %.1f\n",
               ceiling(0, rate), ceiling(1, rate), ceiling(2, rate));
#endif
    for (size_t i = 0; i < NBI_COUNT(BITS); i++)
        bench_bits(BITS[i][0], BITS[i][1], rate, argc > 1 ? argv[1] : NULL);
    return 0;
}
