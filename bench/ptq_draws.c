/* Post-training quantization of a CIFAR-10 network at uniform widths, on one committed calibration
 * draw, evaluated on the integer program:
 *
 *     ptq_draws MODEL.onnx CIFAR DRAWS.json DRAW augmented|plain CONFIGS METHOD [IMAGES]
 *
 * CONFIGS: W4A4,W3A3,…; METHOD: how weights are rounded, as --ptq has it; IMAGES: only the first test images. Ranges come from the 512 images of the
 * draw with their crop and flip, or as they are; the output-statistics correction always measures
 * on the augmented ones, and so, then, do the float statistics. Prints {config: {top1, classes,
 * seconds}}; classes is one digit per test image, seconds (wall and CPU) those of learning, correction
 * and freezing. */
#include "bench_cifar.h"
#include "quant/calibrate.h"
#include "runtime/lower.h"
#include "runtime/reconstruct.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_MOST 10000
#define CLASSES   10
#define CACHE     ((size_t)64 << 20)

typedef struct test_set {
    size_t n;
    uint8_t *images;
    int *labels;
} test_set;

/* The fits of `from`'s activation sites, with `to`'s statistics of the sums kept. */
static void copy_fits(const nbi_qnet *from, nbi_qnet *to) {
    for (int i = 0; i < to->n_sites; i++) {
        memcpy(to->site[i].fit, from->site[i].fit, sizeof to->site[i].fit);
        memcpy(to->site[i].sqnr, from->site[i].sqnr, sizeof to->site[i].sqnr);
    }
}

/* Lowest index among equals, as everywhere. */
static int argmax(const int32_t *v) {
    int best = 0;
    for (int c = 1; c < CLASSES; c++)
        if (v[c] > v[best]) best = c;
    return best;
}

typedef struct experiment {
    const bench_network *network;
    const uint8_t *images; /* of the draw */
    const char *method;
    nbi_scorer *scorer;
} experiment;

/* As `quantize --ptq` does it. */
static nbi_learner *learn(nb_ctx *ctx, const experiment *e, const nbi_choice *bits,
                          nbi_qparam *grid) {
    const nbi_qnet *net = e->network->net;
    bench_filler f = {e->images, net};
    nbi_learner *learner;
    const nbi_learner_options o = {e->network->source, net, bench_fill, &f, BENCH_CALIB, 0};
    bench_check(ctx, nbi_learner_new(ctx, &o, &learner), "learning");
    nbi_scorer_set_rounding(e->scorer, nbi_learner_round, learner);
    if (!strcmp(e->method, "gram")) return learner;
    nbi_frozen *gram;
    bench_check(ctx, nbi_scorer_freeze(ctx, e->scorer, bits, &gram), "learning");
    nbi_frozen_free(gram);
    nbi_reconstruction job = {.blocks = {e->network->source, net, bits, nbi_score_edge(net),
                                         NBI_BLOCK_BATCH, NBI_BLOCK_STEPS,
                                         !strcmp(e->method, "qdrop"), 0},
                              .fill = bench_fill, .fill_user = &f, .images = BENCH_CALIB,
                              .scorer_images = BENCH_CALIB};
    nbi_scorer_set_grids(e->scorer, grid);
    bench_check(ctx, nbi_reconstruct(ctx, e->scorer, learner, grid, &job), "learning");
    return learner;
}

static json_t *evaluate(nb_ctx *ctx, const experiment *e, const nbi_choice *bits,
                        const test_set *t) {
    nbi_scorer *scorer = e->scorer;
    nbi_learner *learner = NULL;
    nbi_qparam *grid = bench_room((size_t)e->network->net->n_sites * sizeof *grid);
    nbi_frozen *frozen;
    nbi_program *program;
    nbi_runner *runner;
    char *classes = bench_room(t->n + 1);
    int32_t *logits = bench_room(t->n * CLASSES * sizeof *logits), *outputs[8] = {NULL};
    double start = nb_seconds(ctx), cpu = bench_cpu_seconds();
    size_t right = 0;
    if (strcmp(e->method, "none")) learner = learn(ctx, e, bits, grid);
    bench_check(ctx, nbi_scorer_freeze(ctx, scorer, bits, &frozen), "freeze");
    bench_check(ctx, nbi_lower(ctx, frozen, &program), "lower");
    double seconds = nb_seconds(ctx) - start;
    cpu = bench_cpu_seconds() - cpu;
    bench_check(ctx, nbi_runner_new(ctx, program, &runner), "run");
    outputs[program->n_outputs - 1] = logits;
    bench_check(ctx, nbi_runner_run(ctx, runner, t->n, t->images, outputs), "run");
    for (size_t i = 0; i < t->n; i++) {
        int c = argmax(logits + i * CLASSES);
        classes[i] = (char)('0' + c);
        right += c == t->labels[i];
    }
    json_t *row = json_pack("{s:f,s:s,s:f,s:f,s:I}", "top1", 100.0 * (double)right / (double)t->n,
                            "classes", classes, "seconds", seconds, "cpu_seconds", cpu, "bytes",
                            (json_int_t)program->const_bytes);
    nbi_runner_free(runner);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    nbi_scorer_set_rounding(scorer, NULL, NULL);
    nbi_scorer_set_grids(scorer, NULL);
    nbi_learner_free(learner);
    free(grid);
    free(logits);
    free(classes);
    return row;
}

static json_t *evaluate_all(nb_ctx *ctx, experiment *e, char *configs, const test_set *t) {
    const nbi_qnet *net = e->network->net;
    const nbi_scorer_options options = {BENCH_CALIB, e->images, BENCH_CALIB, CACHE, true};
    json_t *root = json_object();
    nbi_choice *bits = bench_room((size_t)net->n_sites * sizeof *bits);
    bench_check(ctx, nbi_scorer_new(ctx, net, &options, &e->scorer), "scorer");
    for (char *name = strtok(configs, ","); name; name = strtok(NULL, ",")) {
        int w, a;
        if (sscanf(name, "W%dA%d", &w, &a) != 2 || w < 1 || w > 8 || a < 1 || a > 8) {
            fprintf(stderr, "'%s' is not a configuration such as W4A4\n", name);
            exit(2);
        }
        bench_uniform(net, w, a, bits);
        json_object_set_new(root, name, evaluate(ctx, e, bits, t));
    }
    nbi_scorer_free(e->scorer);
    free(bits);
    return root;
}

int main(int argc, char **argv) {
    if (argc < 8) {
        fprintf(stderr, "usage: %s MODEL.onnx CIFAR DRAWS.json DRAW augmented|plain CONFIGS "
                        "METHOD [IMAGES]\n", argv[0]);
        return 2;
    }
    nb_ctx *ctx = nb_ctx_new();
    bool plain_ranges = !strcmp(argv[5], "plain");
    size_t limit = argc > 8 ? strtoul(argv[8], NULL, 10) : TEST_MOST;
    uint8_t *plain = bench_room((size_t)BENCH_CALIB * BENCH_BYTES);
    uint8_t *augmented = bench_room((size_t)BENCH_CALIB * BENCH_BYTES);
    if (limit > TEST_MOST) limit = TEST_MOST;
    test_set t = {0, bench_room(limit * BENCH_BYTES), bench_room(limit * sizeof(int))};
    t.n = bench_records(argv[2], "test_batch.bin", limit, t.images, t.labels);
    bench_draw(argv[2], argv[3], atoi(argv[4]), plain, augmented);
    bench_network n, p;
    bench_network_open(ctx, argv[1], augmented, BENCH_CALIB, &n);
    if (plain_ranges) {
        bench_network_open(ctx, argv[1], plain, BENCH_CALIB, &p);
        copy_fits(p.net, n.net);
        bench_network_close(&p);
    }
    experiment e = {&n, augmented, argv[7], NULL};
    json_t *root = evaluate_all(ctx, &e, argv[6], &t);
    json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(8));
    putchar('\n');
    json_decref(root);
    bench_network_close(&n);
    free(t.images);
    free(t.labels);
    free(plain);
    free(augmented);
    nb_ctx_free(ctx);
    return 0;
}
