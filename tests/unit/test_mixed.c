/* Policies that mix schemes: for every scheme and width that devices run, codes → levels is fake
 * quantization, the scorer is the integer program, and sizes are what is stored. */
#include "unit/hand_zoo.h"

#include "onnx/export_qdq.h"
#include "onnx/onnx.h"
#include "quant/fit.h"
#include "quant/import_qdq.h"
#include "runtime/footprint.h"
#include "runtime/lower.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

#include <string.h>

enum { IMAGES = 6, VALUES = IMAGES * ZOO_CLASSES, PAIRS = 160 };

/* Every pair that deploys, scheme 0 included. */
static int all_pairs(bool weights, nbi_choice out[PAIRS]) {
    size_t rows;
    int n = 0;
    (void)nbi_schemes(&rows);
    for (int s = 0; s < (int)rows; s++)
        for (int b = 1; b <= 8; b++)
            if (nbi_choice_deploys(nbi_choice_of(s, b), weights)) out[n++] = nbi_choice_of(s, b);
    return n;
}

/* ---- weights ---------------------------------------------------------------------------------- */

/* What FakeQuant makes of the weights in ONNX's order, with the params of a fresh fit. */
static void fake(const nbi_layer *l, nbi_choice choice, size_t groups, const float *w, float *y) {
    const nbi_scheme *row = nbi_choice_row(choice);
    nbi_scheme_use use = nbi_choice_use(choice, true, false);
    float params[NBI_SCHEME_MAX_PARAMS];
    size_t n = l->n_weights / groups;
    for (size_t g = 0; g < groups; g++) {
        row->fit(&use, w + g * n, n, params);
        row->forward(&use, params, w + g * n, y + g * n, n);
    }
}

static void check_levels(const nbi_layer *l, nbi_choice choice, bool per_channel) {
    enum { MOST = 4096 };
    static int8_t levels[MOST], back[MOST];
    static float scale[64], w[MOST], y[MOST];
    static uint8_t packed[MOST];
    nbi_coded_weights c = {.levels = levels, .scale = scale};
    size_t depth = l->n_weights / (size_t)l->geometry.out_c, n = l->n_weights;
    int bits = nbi_choice_bits(choice);
    char text[NBI_CHOICE_TEXT];
    assert_in_range(n, 1, MOST);
    nbi_choice_text(choice, text);
    assert_int_equal(nbi_fit_weight_choice(NULL, l, choice, per_channel, &c), NB_OK);
    for (size_t i = 0; i < n; i++) w[i] = l->weight[nbi_weight_place(l, i / depth, i % depth)];
    if (nbi_choice_scheme(choice))
        fake(l, choice, nbi_weight_groups(l, choice, per_channel), w, y);
    bool exact = nbi_choice_scheme(choice) && !(nbi_choice_row(choice)->flags & NBI_SCHEME_RESCALES);
    for (size_t i = 0; i < n && exact; i++) {
        if (l->gain[i / depth] == 0) continue; /* a constant, whatever its weights */
        float got = scale[i / depth] * (float)levels[nbi_weight_place(l, i / depth, i % depth)];
        if (got != y[i]) fail_msg("%s: weight %zu is %g, want %g", text, i, (double)got, (double)y[i]);
    }
    assert_int_equal(c.has_table, nbi_choice_table_size(choice) > 0);
    if (c.has_table) assert_true(nbi_choice_table_size(choice) == (size_t)1 << bits);
    int8_t own[256];
    if (nbi_choice_table(choice, own)) assert_memory_equal(own, c.table, (size_t)1 << bits);
    const int8_t *table = c.has_table ? c.table : nbi_level_table(bits);
    nbi_pack_codes(levels, n, bits, c.has_table ? c.table : NULL, packed);
    nbk_unpack(packed, bits, table, 0, n, back);
    assert_memory_equal(back, levels, n);
}

static void test_weight_levels(void **state) {
    (void)state;
    nbi_choice pair[PAIRS];
    int n = all_pairs(true, pair);
    hand data, *h = &data;
    hand_finish(h, zoo_build(h, 1));
    assert_true(n > 60);
    for (int i = 0; i < n; i++)
        for (int l = 0; l < h->net->n_layers; l++)
            if (h->net->layer[l].type == NBI_LAYER_CONV) {
                check_levels(&h->net->layer[l], pair[i], true);
                check_levels(&h->net->layer[l], pair[i], false);
            }
    hand_free(h);
}

/* ---- networks --------------------------------------------------------------------------------- */

static void run_program(hand *h, const nbi_program *p, float *values) {
    nbi_runner *runner;
    int32_t out[VALUES], *list[8] = {out};
    HAND_OK(nbi_runner_new(h->ctx, p, &runner));
    HAND_OK(nbi_runner_run(h->ctx, runner, IMAGES, h->codes, list));
    const nbi_ptensor *t = &p->tensor[p->output[0]];
    for (int k = 0; k < VALUES; k++) values[k] = (float)(t->scale * ((double)out[k] - t->zero));
    nbi_runner_free(runner);
}

/* Bytes of a program less those that depend on the policy: the same for all. Biases and the like that
 * happen to be equal are stored once: they count here. */
static double fixed_bytes(const hand *h, const nbi_program *p, const nbi_choice *bits) {
    double sum = (double)p->const_bytes - (double)nbi_footprint_variable(h->net, bits);
    nbi_const_table *table;
    HAND_OK(nbi_program_tables(h->ctx, p, &table));
    for (int i = 0; i < p->n_steps * NBI_STEP_TABLES; i++) {
        const nbi_step *step = &p->step[i / NBI_STEP_TABLES];
        bool conv = step->type == NBI_STEP_CONV || step->type == NBI_STEP_DWCONV;
        bool levels = conv && i % NBI_STEP_TABLES == 1;
        levels |= step->type == NBI_STEP_LUT && step->in[0] == step->out;
        if (table[i].home != i && !levels) sum += (double)table[i].bytes;
    }
    nbi_free(table);
    return sum;
}

/* Of packed weights and their tables. */
static size_t weight_bytes(const nbi_program *p) {
    size_t sum = 0;
    for (int i = 0; i < p->n_steps; i++) {
        nbi_const_table table[NBI_STEP_TABLES];
        bool conv = p->step[i].type == NBI_STEP_CONV || p->step[i].type == NBI_STEP_DWCONV;
        nbi_step_tables(&p->step[i], table);
        if (conv) sum += table[0].bytes + table[1].bytes;
    }
    return sum;
}

/* Through a file and back: the same program. */
static void check_file(hand *h, const nbi_frozen *frozen, const nbi_program *p,
                       const float *want) {
    nbi_graph *exported, *read;
    nbi_qnet *net;
    nbi_frozen *again;
    nbi_program *q;
    nbi_buf file = {0};
    float values[VALUES];
    nbi_qdq_options o = {0, 0};
    HAND_OK(nbi_export_qdq(h->ctx, frozen, h->g, &o, &exported));
    HAND_OK(nbi_onnx_serialize(h->ctx, exported, &file));
    HAND_OK(nbi_onnx_parse(h->ctx, file.data, file.size, &read));
    HAND_OK(nbi_import_qdq(h->ctx, read, &net, &again));
    HAND_OK(nbi_lower(h->ctx, again, &q));
    run_program(h, q, values);
    assert_memory_equal(values, want, sizeof values);
    /* levels that happen to be uniform need no table */
    assert_true(weight_bytes(q) <= weight_bytes(p) && weight_bytes(q) + 64 > weight_bytes(p));
    nbi_program_free(q);
    nbi_frozen_free(again);
    nbi_qnet_free(net);
    nbi_graph_free(read);
    nbi_graph_free(exported);
    nbi_buf_free(&file);
}

/* Tables that depend on the data may happen to be equal: then one is stored. */
static bool may_share(const hand *h, const nbi_choice *bits) {
    bool any = false;
    for (int i = 0; i < h->net->n_sites; i++) {
        bool weight = h->net->site[i].kind == NBI_SITE_WEIGHT;
        any |= weight ? nbi_choice_table_size(bits[i]) && !nbi_choice_table(bits[i], (int8_t[256]){0})
                      : nbi_choice_scheme(bits[i]) != 0;
    }
    return any;
}

static void check_policy(hand *h, nbi_scorer *s, const nbi_choice *bits, bool file, double *fixed) {
    float values[VALUES], again[VALUES];
    nbi_frozen *frozen;
    nbi_program *p;
    size_t ram, own;
    HAND_OK(nbi_scorer_run(h->ctx, s, bits, h->net->output[0], values));
    HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
    HAND_OK(nbi_lower(h->ctx, frozen, &p));
    run_program(h, p, again);
    assert_memory_equal(values, again, sizeof values);
    double f = fixed_bytes(h, p, bits);
    if (*fixed < 0) *fixed = f;
    if (!(f == *fixed || (may_share(h, bits) && f < *fixed)))
        fail_msg("scheme %d, %d bits: %g bytes that no policy changes, not %g",
                 nbi_choice_scheme(bits[1]), nbi_choice_bits(bits[1]), f, *fixed);
    HAND_OK(nbi_footprint_ram(h->ctx, h->net, bits, &ram));
    HAND_OK(nbi_program_ram(h->ctx, p, &own));
    assert_int_equal(ram, own);
    if (file) check_file(h, frozen, p, values);
    nbi_program_free(p);
    nbi_frozen_free(frozen);
}

static void test_weight_policies(void **state) {
    (void)state;
    nbi_choice pair[PAIRS], bits[HAND_SITES];
    int n = all_pairs(true, pair);
    double fixed = -1;
    hand data, *h = &data;
    hand_finish(h, zoo_build(h, 1));
    hand_calibrate(h, IMAGES);
    nbi_scorer *s = hand_scorer(h, IMAGES, 1u << 20);
    for (int i = 0; i <= n; i++) { /* each everywhere, then all of them at random */
        hand_bits(h, 8, 8, bits);
        for (int k = 0; k < h->net->n_sites; k++)
            if (h->net->site[k].kind == NBI_SITE_WEIGHT)
                bits[k] = i < n ? pair[i] : pair[nbi_rng_below(&h->rng, (uint32_t)n)];
        check_policy(h, s, bits, i % 7 == 0 || i == n, &fixed);
    }
    nbi_scorer_free(s);
    hand_free(h);
}

/* ---- activations ------------------------------------------------------------------------------ */

/* The whole way of a real value, by FakeQuant's functions, against the integer tables. */
static void check_site(const nbi_site *site, nbi_choice choice) {
    const nbi_qparam *q = nbi_site_grid(site, choice);
    char text[NBI_CHOICE_TEXT];
    nbi_choice_text(choice, text);
    if (!q) fail_msg("%s is not fitted", text);
    const nbi_qparam *first = nbi_made_grid(q);
    uint8_t table[256];
    nbi_scheme_use eight = {.bits = 8, .is_unsigned = site->is_unsigned};
    if (q->levels) nbi_levels_table(q, first, table);
    for (int i = 0; i < 2000; i++) {
        float x = (float)((site->is_unsigned ? i : i - 1000) * 0.004), y = x;
        int v = nbi_quantize(first, x);
        if (q->levels) {
            const nbi_levels *l = q->levels;
            float step = (float)first->scale;
            nbi_scheme_find("lsq")->forward(&eight, &step, &x, &y, 1);
            l->scheme->forward(&l->use, l->params, &y, &y, 1);
            v = q->dtype == NB_DTYPE_S8 ? (int8_t)table[(uint8_t)v] : table[(uint8_t)v];
        } else {
            y = (float)q->scale * (float)(v - q->zero);
        }
        assert_in_range(v - q->lo, 0, q->hi - q->lo);
        assert_in_range(q->zero - q->lo, 0, q->hi - q->lo);
        if (y != (float)q->scale * (float)(v - q->zero))
            fail_msg("%s at %g: level %d, fake quantization %g", text, (double)x, v, (double)y);
    }
}

/* Uniform roundings without a table: the grid is the scheme. */
static void check_steps(const nbi_site *site, nbi_choice choice) {
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_qparam *q = nbi_site_grid(site, choice);
    nbi_scheme_use use = nbi_choice_use(choice, false, site->is_unsigned);
    float params[NBI_SCHEME_MAX_PARAMS], x[257], y[257];
    nbi_qparam grid;
    nbi_levels levels;
    if (q->levels) return;
    for (int i = 0; i < 257; i++) x[i] = (float)((site->is_unsigned ? i : i - 128) * 0.013);
    row->fit(&use, x, 257, params);
    nbi_choice_grid(choice, site->is_unsigned, params, &site->fit[8], &levels, &grid);
    row->forward(&use, params, x, y, 257);
    for (int i = 0; i < 257; i++)
        assert_true(y[i] == (float)grid.scale * (float)(nbi_quantize(&grid, x[i]) - grid.zero));
}

static void test_activation_policies(void **state) {
    (void)state;
    nbi_choice pair[PAIRS], weight[PAIRS], bits[HAND_SITES];
    int n = all_pairs(false, pair), w = all_pairs(true, weight);
    for (int seed = 0; seed < 2; seed++) {
        double fixed = -1;
        hand data, *h = &data;
        hand_finish(h, zoo_build(h, (uint64_t)seed));
        hand_calibrate(h, IMAGES);
        nbi_scorer *s = hand_scorer(h, IMAGES, 1u << 20);
        for (int i = 0; i <= n; i++) { /* each everywhere, then all of them at random */
            hand_bits(h, 8, 8, bits);
            for (int k = 0; k < h->net->n_sites; k++) {
                const nbi_site *site = &h->net->site[k];
                if (site->kind == NBI_SITE_ACTIVATION)
                    bits[k] = nbi_choice_for(
                        site, i < n ? pair[i] : pair[nbi_rng_below(&h->rng, (uint32_t)n)]);
                if (site->kind == NBI_SITE_WEIGHT && i == n)
                    bits[k] = weight[nbi_rng_below(&h->rng, (uint32_t)w)];
            }
            HAND_OK(nbi_fit_policy(h->ctx, h->net, bits, NBI_RANGE_MSE));
            for (int k = 0; k < h->net->n_sites; k++)
                if (h->net->site[k].kind == NBI_SITE_ACTIVATION) {
                    check_site(&h->net->site[k], bits[k]);
                    check_steps(&h->net->site[k], bits[k]);
                }
            check_policy(h, s, bits, i % 7 == 0 || i == n, &fixed);
        }
        nbi_scorer_free(s);
        hand_free(h);
    }
}

/* ---- text ------------------------------------------------------------------------------------- */

static void test_text(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_choice pair[PAIRS], c;
    int n = all_pairs(true, pair);
    char text[NBI_CHOICE_TEXT];
    for (int i = 0; i < n; i++) {
        nbi_choice_text(pair[i], text);
        assert_int_equal(nbi_choice_parse(ctx, "x", text, strlen(text), &c), NB_OK);
        assert_int_equal(c, pair[i]);
    }
    assert_int_equal(nbi_choice_parse(ctx, "x", "T2", 2, &c), NB_OK);
    assert_string_equal(nbi_choice_row(c)->name, "ternary");
    static const char *const bad[] = {"", "9", "0", "pot", "pot33", "nope2", "4x", "-2"};
    for (size_t i = 0; i < NBI_COUNT(bad); i++)
        assert_int_equal(nbi_choice_parse(ctx, "x", bad[i], strlen(bad[i]), &c), NB_EINVAL);
    assert_int_equal(nbi_choice_parse(ctx, "x", "pot4", 4, &c), NB_OK);
    assert_int_equal(nbi_choice_check(ctx, "conv1", c, true), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(ctx), "conv1: scheme 'pot' has 1 to 3 bits"));
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weight_levels),
        cmocka_unit_test(test_weight_policies),
        cmocka_unit_test(test_activation_policies),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
