/* Scoring on a real network: independent of threads, cache and order; the frozen program computes
 * what was scored, bit for bit; corrections match the float statistics; footprints are exact. */
#include "exec/exec.h"
#include "onnx/onnx.h"
#include "quant/calibrate.h"
#include "quant/fit.h"
#include "quant/generate.h"
#include "runtime/footprint.h"
#include "runtime/lower.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define IMAGES 24
#define STATS  16

typedef struct fixture {
    nb_ctx *ctx;
    nbi_graph *source;
    nbi_qnet *net;
    uint8_t *pixels;
    float table[256];
} fixture;

static nb_status fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out) {
    const fixture *f = user;
    (void)ctx;
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            for (int p = 0; p < 1024; p++)
                out[i * 3072 + (size_t)c * 1024 + (size_t)p] =
                    f->table[f->pixels[(first + i) * 3072 + (size_t)p * 3 + (size_t)c]];
    return NB_OK;
}

/* Smooth random pictures: noise alone would leave the deeper layers almost silent. */
static void draw(uint8_t *pixels) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 5, 5);
    for (size_t i = 0; i < IMAGES; i++)
        for (int c = 0; c < 3; c++) {
            int a = (int)nbi_rng_below(&rng, 12), b = (int)nbi_rng_below(&rng, 12);
            int base = (int)nbi_rng_below(&rng, 100);
            for (int y = 0; y < 32; y++)
                for (int x = 0; x < 32; x++) {
                    int v = base + a * abs(x - 16) / 2 + b * y / 3 + (int)nbi_rng_below(&rng, 30);
                    pixels[i * 3072 + (size_t)(y * 32 + x) * 3 + (size_t)c] =
                        (uint8_t)(v > 255 ? 255 : v);
                }
        }
}

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    nbi_graph *one;
    nbi_qag_options qag = {NBI_FIRST_LAST_8, 8};
    f->ctx = nb_ctx_new();
    f->pixels = malloc(IMAGES * 3072);
    draw(f->pixels);
    for (int b = 0; b < 256; b++) f->table[b] = ((float)b / 255 - 0.45f) / 0.23f;
    assert_int_equal(nbi_onnx_read(f->ctx, NIBBLE_DATA "/models/resnet20.onnx", &f->source), 0);
    assert_int_equal(nbi_specialize_batch(f->ctx, f->source, 1, &one), NB_OK);
    assert_int_equal(nbi_generate(f->ctx, one, &qag, &f->net), NB_OK);
    f->net->input_is_image = true;
    for (int c = 0; c < 3; c++) memcpy(f->net->input_table[c], f->table, sizeof f->table);
    nbi_calibration c = {fill, f, STATS, NBI_RANGE_MSE, nbi_score_edge(f->net), NULL};
    assert_int_equal(nbi_calibrate(f->ctx, f->source, f->net, &c), NB_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    nbi_qnet_free(f->net);
    nbi_graph_free(f->source);
    nb_ctx_free(f->ctx);
    free(f->pixels);
    free(f);
    return 0;
}

/* Policy number k: pseudo-random widths, activations below 8 bits in odd ones. */
static void make_bits(const fixture *f, unsigned k, nbi_choice *bits) {
    nbi_rng rng;
    nbi_rng_seed(&rng, k, 11);
    for (int i = 0; i < f->net->n_sites; i++) {
        const nbi_site *s = &f->net->site[i];
        bool weight = s->kind == NBI_SITE_WEIGHT;
        uint8_t b = (uint8_t)(1 + nbi_rng_below(&rng, 8));
        bits[i] = s->fixed_bits ? (uint8_t)s->fixed_bits : weight || k % 2 ? b : 8;
        if (s->kind == NBI_SITE_BIAS && k >= 2) bits[i] = (nbi_choice)(8 << b % 3);
    }
}

static nbi_scorer *new_scorer(fixture *f, size_t cache) {
    nbi_scorer *s;
    nbi_scorer_options o = {IMAGES, f->pixels, STATS, cache, true};
    assert_int_equal(nbi_scorer_new(f->ctx, f->net, &o, &s), NB_OK);
    return s;
}

static void test_scores_do_not_depend_on_how(void **state) {
    fixture *f = *state;
    enum { POLICIES = 5 };
    int edge = nbi_score_edge(f->net);
    nbi_choice bits[256];
    float first[POLICIES][IMAGES * 10], again[IMAGES * 10];
    assert_in_range(f->net->n_sites, 1, 256);
    nb_ctx_set_threads(f->ctx, 1);
    nbi_scorer *s = new_scorer(f, 0);
    for (unsigned k = 0; k < POLICIES; k++) {
        make_bits(f, k, bits);
        assert_int_equal(nbi_scorer_run(f->ctx, s, bits, edge, first[k]), NB_OK);
    }
    nbi_scorer_free(s);
    for (int threads = 1; threads <= 3; threads++) {
        nb_ctx_set_threads(f->ctx, threads);
        s = new_scorer(f, threads == 1 ? 1 << 20 : (size_t)1 << 28);
        for (int round = 0; round < 2; round++)
            for (unsigned k = POLICIES; k-- > 0;) {
                make_bits(f, k, bits);
                assert_int_equal(nbi_scorer_run(f->ctx, s, bits, edge, again), NB_OK);
                assert_memory_equal(first[k], again, sizeof again);
            }
        nbi_scorer_free(s);
    }
}

/* Policies that differ from one in a layer, the last layer first, as a sensitivity table asks for them:
 * with room for a path only what lies behind the change is computed; the scores never change. */
static void test_policies_near_one_share_its_beginning(void **state) {
    fixture *f = *state;
    enum { MOST = 5 };
    const size_t room[] = {0, nbi_scorer_path_bytes(f->net, IMAGES), (size_t)1 << 20};
    int edge = nbi_score_edge(f->net), order[MOST], n = 0;
    nbi_choice bits[256];
    static float plain[MOST][IMAGES * 10], near[IMAGES * 10];
    double behind[MOST], macs = 0, before, computed, saved;
    for (int i = f->net->n_layers - 1; i >= 0 && n < MOST; i--) {
        const nbi_layer *l = &f->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        macs += l->macs;
        behind[n] = macs;
        if (!f->net->site[l->weight_site].fixed_bits) order[n++] = l->weight_site;
    }
    nb_ctx_set_threads(f->ctx, 2);
    make_bits(f, 0, bits);
    for (size_t r = 0; r < NBI_COUNT(room); r++) {
        nbi_scorer *s = new_scorer(f, room[r]);
        if (r) assert_int_equal(nbi_scorer_stay_near(f->ctx, s, bits), NB_OK);
        assert_int_equal(nbi_scorer_run(f->ctx, s, bits, edge, near), NB_OK);
        for (int k = 0; k < n; k++) {
            nbi_choice own = bits[order[k]];
            bits[order[k]] = own == 3 ? 2 : 3;
            nbi_scorer_counts(s, &before, &saved);
            assert_int_equal(nbi_scorer_run(f->ctx, s, bits, edge, r ? near : plain[k]), NB_OK);
            nbi_scorer_counts(s, &computed, &saved);
            if (r) assert_memory_equal(near, plain[k], sizeof near);
            if (r == 1) assert_true(computed - before <= behind[k] * IMAGES);
            bits[order[k]] = own;
        }
        assert_int_equal(nbi_scorer_stay_near(f->ctx, s, NULL), NB_OK);
        nbi_scorer_free(s);
    }
}

/* Layers whose sums do not fit are computed twice: some of them, then all. */
static void test_scores_do_not_depend_on_room_for_sums(void **state) {
    fixture *f = *state;
    int edge = nbi_score_edge(f->net);
    const size_t room[] = {(size_t)64 << 20, (size_t)600 << 10, 0};
    static float scores[3][IMAGES * 10];
    nbi_choice bits[256];
    nb_ctx_set_threads(f->ctx, 2);
    make_bits(f, 1, bits);
    for (size_t i = 0; i < NBI_COUNT(room); i++) {
        nbi_scorer *s = new_scorer(f, 0);
        assert_int_equal(nbi_scorer_bound_sums(f->ctx, s, room[i]), NB_OK);
        assert_int_equal(nbi_scorer_run(f->ctx, s, bits, edge, scores[i]), NB_OK);
        nbi_scorer_free(s);
        assert_memory_equal(scores[i], scores[0], sizeof scores[0]);
    }
}

static void test_frozen_program_is_what_was_scored(void **state) {
    fixture *f = *state;
    int edge = nbi_score_edge(f->net);
    nb_ctx_set_threads(f->ctx, 3);
    nbi_scorer *s = new_scorer(f, (size_t)1 << 26);
    double fixed = -1;
    for (unsigned k = 0; k < 4; k++) {
        nbi_choice bits[256];
        float scored[IMAGES * 10];
        int32_t out[IMAGES * 10], *outputs[8] = {out};
        nbi_frozen *frozen;
        nbi_program *program;
        nbi_runner *runner;
        size_t ram, guess;
        make_bits(f, k, bits);
        assert_int_equal(nbi_scorer_run(f->ctx, s, bits, edge, scored), NB_OK);
        assert_int_equal(nbi_scorer_freeze(f->ctx, s, bits, &frozen), NB_OK);
        assert_int_equal(nbi_lower(f->ctx, frozen, &program), NB_OK);
        assert_int_equal(nbi_runner_new(f->ctx, program, &runner), NB_OK);
        assert_int_equal(nbi_runner_run(f->ctx, runner, IMAGES, f->pixels, outputs), NB_OK);
        const nbi_ptensor *y = &program->tensor[program->output[0]];
        for (int i = 0; i < IMAGES * 10; i++)
            assert_true(scored[i] == (float)(y->scale * ((double)out[i] - y->zero)));
        for (int i = 0; i < 3 * IMAGES; i++) { /* alone, divided or not as it comes */
            int32_t one[10], *single[8] = {one};
            const uint8_t *pixels = f->pixels + (size_t)(i % IMAGES) * 3072;
            assert_int_equal(nbi_runner_run(f->ctx, runner, 1, pixels, single), NB_OK);
            assert_memory_equal(one, out + i % IMAGES * 10, sizeof one);
        }
        assert_int_equal(nbi_program_ram(f->ctx, program, &ram), NB_OK);
        assert_int_equal(nbi_footprint_ram(f->ctx, f->net, bits, &guess), NB_OK);
        assert_int_equal(ram, guess);
        /* constants: one part that no policy changes; tables that become equal only shrink it */
        double rest = (double)program->const_bytes - (double)nbi_footprint_variable(f->net, bits);
        if (fixed < 0) fixed = rest;
        assert_true(rest <= fixed && rest > fixed - 2048);
        nbi_runner_free(runner);
        nbi_program_free(program);
        nbi_frozen_free(frozen);
    }
    nbi_scorer_free(s);
}

/* With enough bits the corrections have nothing to do: gain and shift stay near the float ones. */
static void test_corrections_are_small_at_8_bits(void **state) {
    fixture *f = *state;
    nbi_scorer *s = new_scorer(f, 0);
    nbi_choice bits[256];
    nbi_frozen *frozen;
    for (int i = 0; i < f->net->n_sites; i++)
        bits[i] = f->net->site[i].kind == NBI_SITE_BIAS ? 32 : 8;
    assert_int_equal(nbi_scorer_freeze(f->ctx, s, bits, &frozen), NB_OK);
    for (int i = 0; i < f->net->n_layers; i++) {
        const nbi_layer *l = &f->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        int8_t *levels = malloc(l->n_weights);
        float scale[64];
        double sqnr;
        assert_int_equal(nbi_fit_weights(f->ctx, l, 8, true, levels, scale, &sqnr), NB_OK);
        for (int c = 0; c < l->geometry.out_c; c++) {
            double want = (double)l->gain[c] * (double)scale[c];
            double got = (double)frozen->conv[i].scale[c];
            if (l->deviation[c] > 1e-3) assert_true(fabs(got / want - 1) < 0.1);
        }
        free(levels);
    }
    nbi_frozen_free(frozen);
    nbi_scorer_free(s);
}

static void test_wrong_widths_are_named(void **state) {
    fixture *f = *state;
    nbi_scorer *s = new_scorer(f, 0);
    nbi_choice bits[256];
    float values[IMAGES * 10];
    make_bits(f, 0, bits);
    bits[3] = 9;
    assert_int_equal(nbi_scorer_run(f->ctx, s, bits, nbi_score_edge(f->net), values), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(f->ctx), f->net->site[3].name));
    make_bits(f, 0, bits);
    for (int i = 0; i < f->net->n_layers; i++)
        if (f->net->layer[i].type == NBI_LAYER_CONV) bits[f->net->layer[i].bias_site] = 12;
    assert_int_equal(nbi_scorer_run(f->ctx, s, bits, nbi_score_edge(f->net), values), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(f->ctx), "/bias"));
    nbi_scorer_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_do_not_depend_on_how),
        cmocka_unit_test(test_policies_near_one_share_its_beginning),
        cmocka_unit_test(test_scores_do_not_depend_on_room_for_sums),
        cmocka_unit_test(test_frozen_program_is_what_was_scored),
        cmocka_unit_test(test_corrections_are_small_at_8_bits),
        cmocka_unit_test(test_wrong_widths_are_named),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
