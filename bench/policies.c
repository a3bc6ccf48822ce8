/* Policies per second: scores the policies of a genetic search, in its order, on the integer
 * arithmetic, output-statistics correction included.
 *
 *     policies MODEL.onnx CIFAR DRAWS.json TRACE.json N THREADS CACHE_MIB
 *
 * 1,000 training images with crop and flip (draws 0 and 1), the first 512 give the statistics.
 * TRACE: {"policies": ["8433…", …]}, one digit per free weight site in the network's order,
 * activations 8. Prints seconds, CPU seconds and multiply-accumulates computed and saved by the
 * prefix cache, and a checksum of all values: the same with any cache. */
#include "bench_cifar.h"
#include "quant/calibrate.h"
#include "runtime/scorer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGES  1000
#define CLASSES 10

typedef struct trace {
    json_t *root, *policies;
    size_t n;
} trace;

static int fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static trace read_trace(const char *path, size_t most) {
    json_error_t error;
    trace t = {.root = json_load_file(path, 0, &error)};
    t.policies = json_object_get(t.root, "policies");
    t.n = json_array_size(t.policies);
    if (!t.n) fail("the trace holds no policies");
    if (t.n > most) t.n = most;
    return t;
}

static void policy_bits(const nbi_qnet *net, const char *digits, nbi_choice *bits) {
    bench_uniform(net, 8, 8, bits);
    for (int i = 0; i < net->n_sites; i++) {
        const nbi_site *s = &net->site[i];
        if (s->kind != NBI_SITE_WEIGHT || s->fixed_bits) continue;
        if (!digits || *digits < '1' || *digits > '8') fail("the trace is not of this network");
        bits[i] = (nbi_choice)(*digits++ - '0');
    }
    if (digits && *digits) fail("the trace is not of this network");
}

static uint64_t mix(uint64_t h, const float *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, &v[i], sizeof word);
        h = (h ^ word) * 1099511628211u;
    }
    return h;
}

/* Scores all policies; gives the results as JSON. */
static json_t *score(nb_ctx *ctx, const nbi_qnet *net, const nbi_scorer_options *options,
                     const trace *t) {
    nbi_scorer *scorer;
    nbi_choice *bits = bench_room((size_t)net->n_sites * sizeof *bits);
    float *values = bench_room((size_t)IMAGES * CLASSES * sizeof *values);
    double computed, saved, start = nb_seconds(ctx), cpu = bench_cpu_seconds(), first = 0;
    uint64_t hash = 14695981039346656037u;
    char text[32];
    bench_check(ctx, nbi_scorer_new(ctx, net, options, &scorer), "scorer");
    for (size_t i = 0; i < t->n; i++) {
        policy_bits(net, json_string_value(json_array_get(t->policies, i)), bits);
        bench_check(ctx, nbi_scorer_run(ctx, scorer, bits, nbi_score_edge(net), values), "score");
        hash = mix(hash, values, (size_t)IMAGES * CLASSES);
        if (i == 0) first = nb_seconds(ctx) - start;
    }
    double seconds = nb_seconds(ctx) - start;
    nbi_scorer_counts(scorer, &computed, &saved);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    json_t *row = json_pack("{s:I,s:i,s:f,s:f,s:f,s:f,s:f,s:s}", "policies", (json_int_t)t->n,
                            "images", IMAGES, "seconds", seconds, "first_seconds", first,
                            "cpu_seconds", bench_cpu_seconds() - cpu, "gmacs_computed",
                            computed * 1e-9, "gmacs_saved", saved * 1e-9, "checksum", text);
    nbi_scorer_free(scorer);
    free(values);
    free(bits);
    return row;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: %s MODEL.onnx CIFAR DRAWS.json TRACE.json N THREADS CACHE_MIB\n",
                argv[0]);
        return 2;
    }
    nb_ctx *ctx = nb_ctx_new();
    nb_ctx_set_threads(ctx, atoi(argv[6]));
    trace t = read_trace(argv[4], strtoul(argv[5], NULL, 10));
    uint8_t *images = bench_room((size_t)2 * BENCH_CALIB * BENCH_BYTES);
    for (int d = 0; d < 2; d++)
        bench_draw(argv[2], argv[3], d, NULL, images + (size_t)d * BENCH_CALIB * BENCH_BYTES);
    bench_network n;
    bench_network_open(ctx, argv[1], images, BENCH_CALIB, &n);
    const nbi_scorer_options options = {IMAGES, images, BENCH_CALIB,
                                        (size_t)strtoul(argv[7], NULL, 10) << 20, true};
    json_t *row = score(ctx, n.net, &options, &t);
    json_object_set_new(row, "cache_mib", json_integer(atoi(argv[7])));
    json_dumpf(row, stdout, JSON_COMPACT | JSON_REAL_PRECISION(8));
    putchar('\n');
    json_decref(row);
    json_decref(t.root);
    bench_network_close(&n);
    free(images);
    nb_ctx_free(ctx);
    return 0;
}
