/* FakeQuant: the scheme per tensor and per channel, widths from an input, refitting and averages,
 * the order of sums at any number of threads, wrong attributes. */
#include "unit/scheme_cases.h"

#include "exec/tape.h"
#include "ops/op_util.h"

#define DIMS(...)                                                                                  \
    (int64_t[]) {                                                                                  \
        __VA_ARGS__                                                                                \
    }
enum { MOST = 300000 };

/* One node; views are contiguous. */
typedef struct bench {
    nb_ctx *ctx;
    nbi_graph *g;
    nbi_node *node;
    int tensor[3];
    nbi_view in[3], out[3], gout[3], gin[3];
    bool with_bits;
} bench;

static nbi_view view_of(int rank, const int64_t *dim, void *data) {
    nbi_view v = {.dtype = NB_DTYPE_F32, .rank = rank, .data = data};
    memcpy(v.dim, dim, (size_t)rank * sizeof *dim);
    nbi_view_contiguous(&v);
    return v;
}

static void *zeros(int64_t n) {
    void *p = calloc((size_t)n + 1, sizeof(float));
    assert_non_null(p);
    return p;
}

/* Inputs x [dim], params [groups, columns] and, with_bits, a scalar; all outputs. */
static void begin(bench *b, int rank, const int64_t *dim, int64_t groups, int64_t columns,
                  bool with_bits) {
    int y[3];
    *b = (bench){.ctx = nb_ctx_new(), .with_bits = with_bits};
    const int64_t rows[2] = {groups, columns};
    assert_int_equal(nbi_graph_new(b->ctx, &b->g), NB_OK);
    for (int i = 0; i < 3; i++) {
        int r = i == 0 ? rank : i == 1 ? 2 : 0;
        const int64_t *d = i == 0 ? dim : rows;
        assert_int_equal(nbi_graph_add_tensor(b->ctx, b->g, NULL, NB_DTYPE_F32, r, d,
                                              &b->tensor[i]), NB_OK);
        assert_int_equal(nbi_graph_add_tensor(b->ctx, b->g, NULL, NB_DTYPE_NONE, -1, NULL, &y[i]),
                         NB_OK);
        b->in[i] = view_of(r, d, NULL);
        b->gin[i] = view_of(r, d, NULL);
        int64_t n = nbi_view_count(&b->in[i]);
        b->in[i].data = zeros(n);
        b->gin[i].data = zeros(n);
        b->out[i] = view_of(i ? 2 : rank, i ? rows : dim, NULL);
        b->out[i].data = zeros(nbi_view_count(&b->out[i]));
        b->gout[i] = b->out[i];
        b->gout[i].data = i ? NULL : zeros(n);
    }
    if (!with_bits) {
        free(b->in[2].data);
        free(b->gin[2].data);
        b->in[2].data = b->gin[2].data = NULL;
    }
    assert_int_equal(nbi_graph_add_node(b->ctx, b->g, "fq", "org.nibble", "FakeQuant",
                                        with_bits ? 3 : 2, b->tensor, 3, y, &b->node),
                     NB_OK);
}

static void text(bench *b, const char *name, const char *value) {
    assert_int_equal(nbi_node_set_text(b->ctx, b->g, b->node, name, value), NB_OK);
}
static void number(bench *b, const char *name, int64_t value) {
    assert_int_equal(nbi_node_set_int(b->ctx, b->g, b->node, name, value), NB_OK);
}

static void describe(bench *b, const char *scheme, const nbi_scheme_use *use, int axis) {
    text(b, "scheme", scheme);
    text(b, "role", use->weights ? "weights" : "activations");
    number(b, "bits", use->bits);
    number(b, "unsigned", use->is_unsigned);
    number(b, "axis", axis);
}

static nb_status forward(bench *b) {
    if (!b->node->op) NB_TRY(nbi_node_infer(b->ctx, b->g, b->node));
    assert_non_null(b->node->op);
    nbi_op_call call = {.ctx = b->ctx, .graph = b->g, .node = b->node, .in = b->in, .out = b->out};
    return b->node->op->forward(&call);
}

static void backward(bench *b) {
    nbi_grad_call call = {.ctx = b->ctx, .graph = b->g, .node = b->node, .in = b->in,
                          .out = b->out, .gout = b->gout, .gin = b->gin};
    assert_int_equal(b->node->op->backward(&call), NB_OK);
}

static void end(bench *b) {
    for (int i = 0; i < 3; i++) {
        free(b->in[i].data);
        free(b->out[i].data);
        free(b->gin[i].data);
    }
    free(b->gout[0].data);
    nbi_graph_free(b->g);
    nb_ctx_free(b->ctx);
}

static float *data(const nbi_view *v) {
    return v->data;
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* y, dx, dparams and dbits of each group are those of the scheme called by hand. */
static void compare_groups(const nbi_scheme *s, const nbi_scheme_use *use, int axis) {
    static const int64_t dim[3] = {4, 3, 50};
    int groups = axis < 0 ? 1 : (int)dim[axis], n = 600 / groups, P = NBI_SCHEME_MAX_PARAMS;
    static float gx[600], gg[600], gy[600], gdx[600];
    double dbits = 0;
    bench b;
    begin(&b, 3, dim, groups, P, true);
    describe(&b, s->name, use, axis);
    *data(&b.in[2]) = (float)use->bits + 0.3f;
    fill_normal(data(&b.in[0]), 600, 4, use);
    fill_normal(data(&b.gout[0]), 600, 5, NULL);
    for (int pass = 0; pass < 2; pass++) { /* fit every group; then look */
        if (pass) {
            assert_int_equal(forward(&b), NB_OK);
            backward(&b);
            assert_memory_equal(data(&b.out[1]), data(&b.in[1]), (size_t)(groups * P) * 4);
        }
        for (int k = 0; k < groups; k++) {
            float *params = data(&b.in[1]) + k * P;
            double sums[NBI_SCHEME_MAX_PARAMS] = {0};
            int count = 0, at[600];
            for (int i = 0; i < 600; i++) {
                int index[3] = {i / 150, i / 50 % 3, i % 50};
                if (axis >= 0 && index[axis] != k) continue;
                at[count] = i;
                gx[count] = data(&b.in[0])[i];
                gg[count++] = data(&b.gout[0])[i];
            }
            assert_int_equal(count, n);
            if (!pass) {
                s->fit(use, gx, (size_t)n, params);
                continue;
            }
            s->forward(use, params, gx, gy, (size_t)n);
            s->backward(use, params, gx, gg, (size_t)n, (size_t)n, gdx, sums, &dbits);
            for (int i = 0; i < n; i++) {
                assert_true(data(&b.out[0])[at[i]] == gy[i]);
                assert_true(data(&b.gin[0])[at[i]] == gdx[i]);
            }
            for (int i = 0; i < P; i++)
                assert_true(data(&b.gin[1])[k * P + i] == (float)sums[i]);
        }
    }
    assert_true(fabs((double)*data(&b.gin[2]) - dbits) <= 1e-6 * (1 + fabs(dbits)));
    end(&b);
}

static void every_axis(const nbi_scheme *s, const nbi_scheme_use *use) {
    for (int axis = -1; axis < 3; axis++) compare_groups(s, use, axis);
}

static void test_groups(void **state) {
    (void)state;
    for_all_uses(every_axis);
}

/* ---- refitting ------------------------------------------------------------------------------- */

static void averages(const nbi_scheme *s, const nbi_scheme_use *use) {
    enum { N = 512 };
    int P = s->n_params(use);
    float fitted[NBI_SCHEME_MAX_PARAMS] = {0}, want[N], first[NBI_SCHEME_MAX_PARAMS];
    float decay = s->decay > 0 ? s->decay : 0.9f;
    bench b;
    if (!(s->flags & NBI_SCHEME_REFIT)) return;
    begin(&b, 1, DIMS(N), 1, P, false);
    describe(&b, s->name, use, -1);
    number(&b, "training", 1);
    int learned = s->flags & NBI_SCHEME_LEARNED ? s->n_learned : 0;
    for (int i = 0; i < learned; i++) data(&b.in[1])[i] = 2.5f;
    for (int batch = 0; batch < 3; batch++) {
        fill_normal(data(&b.in[0]), N, (uint64_t)batch + 1, use);
        assert_int_equal(forward(&b), NB_OK);
        s->fit(use, data(&b.in[0]), N, fitted);
        for (int i = 0; i < learned; i++) fitted[i] = 2.5f;
        s->forward(use, fitted, data(&b.in[0]), want, N); /* the batch's own statistics */
        assert_memory_equal(data(&b.out[0]), want, sizeof want);
        assert_memory_equal(data(&b.out[2]), fitted, (size_t)P * 4);
        for (int i = 0; i < P; i++) {
            float old = data(&b.in[1])[i], now = data(&b.out[1])[i], mixed = fitted[i];
            if (!use->weights && batch && i >= learned)
                mixed = decay * old + (1 - decay) * fitted[i];
            assert_true(fabsf(now - mixed) <= 1e-6f * fabsf(mixed));
        }
        if (batch < 2) memcpy(data(&b.in[1]), data(&b.out[1]), (size_t)P * 4);
    }
    /* backward: the used params are the batch's, whether they were kept or are fitted again */
    fill_normal(data(&b.gout[0]), N, 8, NULL);
    backward(&b);
    memcpy(want, data(&b.gin[0]), sizeof want);
    for (int i = learned; i < P; i++) assert_true(data(&b.gin[1])[i] == 0);
    void *kept = b.out[2].data;
    b.out[2].data = NULL;
    backward(&b);
    assert_memory_equal(data(&b.gin[0]), want, sizeof want);
    b.out[2].data = kept;
    /* in evaluation the average is used, and stays */
    ((nbi_fakequant_params *)b.node->params)->training = false;
    memcpy(first, data(&b.in[1]), (size_t)P * 4);
    assert_int_equal(forward(&b), NB_OK);
    s->forward(use, first, data(&b.in[0]), want, N);
    assert_memory_equal(data(&b.out[0]), want, sizeof want);
    assert_memory_equal(data(&b.out[1]), first, (size_t)P * 4);
    end(&b);
}

static void test_averages(void **state) {
    (void)state;
    for_all_uses(averages);
}

/* ---- width ----------------------------------------------------------------------------------- */

static void test_bits_input(void **state) {
    static const float given[] = {0.2f, 1, 3.4f, 4.5f, 5.5f, 7.6f, 99, -7};
    static const int want[] = {2, 2, 3, 4, 6, 8, 8, 2};
    const nbi_scheme *s = nbi_scheme_find("pact");
    bench b;
    (void)state;
    for (size_t k = 0; k < NBI_COUNT(given); k++) {
        nbi_scheme_use use = {.bits = want[k]};
        float params = 1.5f, y[64];
        begin(&b, 1, DIMS(64), 1, 1, true);
        text(&b, "scheme", "pact");
        text(&b, "role", "activations");
        *data(&b.in[1]) = params;
        *data(&b.in[2]) = given[k];
        fill_normal(data(&b.in[0]), 64, 2, NULL);
        assert_int_equal(forward(&b), NB_OK);
        s->forward(&use, &params, data(&b.in[0]), y, 64);
        assert_memory_equal(data(&b.out[0]), y, sizeof y);
        *data(&b.in[2]) = NAN;
        assert_int_equal(forward(&b), NB_ENUMERIC);
        assert_non_null(strstr(nb_ctx_message(b.ctx), "node 'fq'"));
        end(&b);
    }
}

/* ---- candidates ------------------------------------------------------------------------------- */

/* Every candidate computes what a node of that scheme alone computes, with the same rows of params. */
static void test_candidates(void **state) {
    static const struct {
        const char *scheme;
        int bits;
        bool whole;
        float place;
    } cases[] = {{"lsq", 3, false, -2},       {"pot", 3, false, 0.8f},   {"codebook", 2, true, 2},
                 {"apot", 4, true, 3.2f}, {"ternary", 2, false, 99}};
    (void)state;
    for (size_t k = 0; k < NBI_COUNT(cases); k++) {
        const nbi_scheme *s = nbi_scheme_find(cases[k].scheme);
        nbi_scheme_use use = {.bits = cases[k].bits, .weights = true};
        int P = 4, axis = cases[k].whole ? -1 : 0;
        size_t groups = cases[k].whole ? 1 : 4, n = 256 / groups;
        bench one, all;
        begin(&one, 2, DIMS(4, 64), (int64_t)groups, P, false);
        describe(&one, s->name, &use, axis);
        begin(&all, 2, DIMS(4, 64), 4, P, true);
        text(&all, "candidates", "lsq:3 pot:3 codebook:2:whole apot:4:whole ternary:2");
        text(&all, "role", "weights");
        number(&all, "axis", 0);
        *data(&all.in[2]) = cases[k].place;
        fill_normal(data(&one.in[0]), 256, 6, NULL);
        fill_normal(data(&one.gout[0]), 256, 7, NULL);
        memcpy(data(&all.in[0]), data(&one.in[0]), 256 * sizeof(float));
        memcpy(data(&all.gout[0]), data(&one.gout[0]), 256 * sizeof(float));
        for (size_t g = 0; g < groups; g++)
            s->fit(&use, data(&one.in[0]) + g * n, n, data(&one.in[1]) + g * (size_t)P);
        memcpy(data(&all.in[1]), data(&one.in[1]), groups * (size_t)P * sizeof(float));
        for (int training = 0; training < 2; training++) {
            number(&one, "training", training);
            number(&all, "training", training);
            assert_int_equal(nbi_node_prepare(one.ctx, one.g, one.node), NB_OK);
            assert_int_equal(nbi_node_prepare(all.ctx, all.g, all.node), NB_OK);
            one.node->op = all.node->op = NULL;
            assert_int_equal(forward(&one), NB_OK);
            assert_int_equal(forward(&all), NB_OK);
            backward(&one);
            backward(&all);
            assert_memory_equal(data(&all.out[0]), data(&one.out[0]), 256 * sizeof(float));
            assert_memory_equal(data(&all.gin[0]), data(&one.gin[0]), 256 * sizeof(float));
            for (int i = 1; i < 3; i++)
                assert_memory_equal(data(&all.out[i]), data(&one.out[i]),
                                    groups * (size_t)P * sizeof(float));
            assert_memory_equal(data(&all.gin[1]), data(&one.gin[1]),
                                groups * (size_t)P * sizeof(float));
            for (size_t i = groups * (size_t)P; i < 4 * (size_t)P; i++)
                assert_true(data(&all.gin[1])[i] == 0);
            assert_true(*data(&all.gin[2]) == 0);
        }
        end(&one);
        end(&all);
    }
}

static void test_bad_candidates(void **state) {
    static const char *const cases[][2] = {
        {"lsq:3 nothing:2", "candidate 'nothing:2' is not"},
        {"lsq:3 pot", "candidate 'pot' is not"},
        {"lsq:3 pot:3:half", "candidate 'pot:3:half' is not"},
        {"pot:5", "1 to 4 bits for weights, not 5"},
        {"lsq:3 codebook:4", "params have 2 columns, want 16"},
        {"", "no candidates"}};
    (void)state;
    for (size_t i = 0; i <= NBI_COUNT(cases); i++) {
        bench b;
        bool last = i == NBI_COUNT(cases);
        begin(&b, 2, DIMS(4, 16), 1, 2, !last);
        text(&b, "candidates", last ? "lsq:3" : cases[i][0]);
        text(&b, "role", "weights");
        nb_status st = nbi_node_infer(b.ctx, b.g, b.node);
        if (st == NB_OK || !strstr(nb_ctx_message(b.ctx), last ? "(input 2)" : cases[i][1]))
            fail_msg("case %zu: '%s'", i, nb_ctx_message(b.ctx));
        end(&b);
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

static void test_threads(void **state) {
    static float y[2][MOST], dx[2][MOST], dparams[2], dbits[2];
    (void)state;
    for (int k = 0; k < 2; k++) {
        nbi_scheme_use use = {.bits = 4};
        bench b;
        begin(&b, 2, DIMS(3, MOST / 3), 1, 1, true);
        nb_ctx_set_threads(b.ctx, k ? 4 : 1);
        describe(&b, "lsq", &use, -1);
        *data(&b.in[1]) = 0.4f;
        *data(&b.in[2]) = 4;
        fill_normal(data(&b.in[0]), MOST, 2, NULL);
        fill_normal(data(&b.gout[0]), MOST, 3, NULL);
        assert_int_equal(forward(&b), NB_OK);
        backward(&b);
        memcpy(y[k], data(&b.out[0]), sizeof y[k]);
        memcpy(dx[k], data(&b.gin[0]), sizeof dx[k]);
        dparams[k] = *data(&b.gin[1]);
        dbits[k] = *data(&b.gin[2]);
        end(&b);
    }
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
    assert_true(dparams[0] == dparams[1] && dbits[0] == dbits[1]);
    assert_true(dparams[0] != 0 && dbits[0] != 0);
}

/* ---- on a tape ------------------------------------------------------------------------------- */

#define MUST(call) assert_int_equal((call), NB_OK)

/* loss = mean (x̂ − x)² of a refitted scheme: its gradient to the width is −2·ln2·loss (docs/schemes.md), and
 * the average of its params moves by the tape's states. */
static void test_tape(void **state) {
    enum { N = 1000 };
    static float values[N];
    const nbi_scheme *s = nbi_scheme_find("clip");
    nbi_scheme_use use = {.bits = 3};
    int x, params, bits, out[3], loss;
    float fitted[2], loss_value, average = 0;
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *g;
    nbi_node *node;
    nbi_tape *tape;
    nbi_view view;
    (void)state;
    MUST(nbi_graph_new(ctx, &g));
    g->opset = 21;
    MUST(nbi_graph_add_tensor(ctx, g, "x", NB_DTYPE_F32, 2, DIMS(10, N / 10), &x));
    MUST(nbi_graph_set_inputs(ctx, g, 1, &x));
    MUST(nbi_graph_add_const(ctx, g, "params", NB_DTYPE_F32, 2, DIMS(1, 1), &params));
    MUST(nbi_graph_add_const(ctx, g, "bits", NB_DTYPE_F32, 0, NULL, &bits));
    *(float *)g->tensor[bits]->data = 3.2f;
    for (int i = 0; i < 3; i++)
        MUST(nbi_graph_add_tensor(ctx, g, NULL, NB_DTYPE_NONE, -1, NULL, &out[i]));
    MUST(nbi_graph_add_tensor(ctx, g, NULL, NB_DTYPE_NONE, -1, NULL, &loss));
    MUST(nbi_graph_add_node(ctx, g, "fq", "org.nibble", "FakeQuant", 3, (int[]){x, params, bits},
                            3, out, &node));
    MUST(nbi_node_set_text(ctx, g, node, "scheme", "clip"));
    MUST(nbi_node_set_text(ctx, g, node, "role", "activations"));
    MUST(nbi_node_set_int(ctx, g, node, "training", 1));
    MUST(nbi_graph_add_node(ctx, g, "mse", "org.nibble", "MeanSquaredError", 2,
                            (int[]){out[0], x}, 1, &loss, &node));
    MUST(nbi_graph_infer(ctx, g));
    const nbi_tape_state kept = {out[1], params};
    const nbi_tape_spec spec = {.n_wrt = 2, .wrt = (int[]){bits, params}, .n_losses = 1,
                                .loss = &loss, .n_states = 1, .state = &kept};
    MUST(nbi_tape_new(ctx, g, &spec, &tape));
    for (int step = 0; step < 3; step++) {
        fill_normal(values, N, (uint64_t)step + 1, NULL);
        const void *input = values;
        MUST(nbi_tape_forward(ctx, tape, &input, 1));
        MUST(nbi_tape_backward(ctx, tape, NULL));
        MUST(nbi_tape_value(ctx, tape, loss, &view));
        loss_value = *data(&view);
        float slope = *nbi_tape_gradient(tape, 0), want = -2 * logf(2) * loss_value;
        assert_true(fabsf(slope - want) <= 1e-5f * fabsf(want));
        assert_true(*nbi_tape_gradient(tape, 1) == 0);
        nbi_tape_advance(tape);
        s->fit(&use, values, N, fitted);
        average = step ? 0.9f * average + 0.1f * fitted[0] : fitted[0];
        assert_true(fabsf(*(float *)g->tensor[params]->data - average) < 1e-6f);
    }
    nbi_tape_free(tape);
    nbi_graph_free(g);
    nb_ctx_free(ctx);
}

/* ---- no gradient, no memory, bad input ------------------------------------------------------- */

static void test_no_gradient(void **state) {
    bench b;
    (void)state;
    begin(&b, 1, DIMS(64), 1, 1, true);
    text(&b, "scheme", "lsq");
    text(&b, "role", "weights");
    *data(&b.in[1]) = 1;
    *data(&b.in[2]) = 4;
    assert_int_equal(forward(&b), NB_OK);
    free(b.gout[0].data);
    b.gout[0].data = NULL;
    data(&b.gin[0])[5] = data(&b.gin[1])[0] = data(&b.gin[2])[0] = 7;
    backward(&b);
    assert_true(data(&b.gin[0])[5] == 0 && *data(&b.gin[1]) == 0 && *data(&b.gin[2]) == 0);
    end(&b);
}

static void test_out_of_memory(void **state) {
    (void)state;
    for (long k = 1; k < 20; k++) {
        nbi_scheme_use use = {.bits = 4};
        bench b;
        begin(&b, 2, DIMS(6, 8), 8, 1, false);
        describe(&b, "lsq", &use, 1);
        for (int i = 0; i < 8; i++) data(&b.in[1])[i] = 1;
        assert_int_equal(nbi_node_infer(b.ctx, b.g, b.node), NB_OK);
        nbi_op_call call = {.ctx = b.ctx, .graph = b.g, .node = b.node, .in = b.in, .out = b.out};
        nbi_grad_call back = {.ctx = b.ctx, .graph = b.g, .node = b.node, .in = b.in,
                              .out = b.out, .gout = b.gout, .gin = b.gin};
        nbi_alloc_fail_after(k);
        nb_status st = b.node->op->forward(&call);
        if (st == NB_OK) st = b.node->op->backward(&back);
        bool failed = nbi_alloc_fail_left() == 0;
        nbi_alloc_fail_after(0);
        assert_int_equal(st, failed ? NB_ENOMEM : NB_OK);
        end(&b);
    }
}

typedef struct bad {
    const char *scheme, *role, *name;
    int64_t value;
    const char *message;
} bad;

static void test_bad_attributes(void **state) {
    static const bad cases[] = {
        {"nothing", "weights", "bits", 4, "scheme is 'nothing'"},
        {"lsq", "both", "bits", 4, "role is 'both'"},
        {"lsq", "weights", "bits", 9, "bits is 9"},
        {"lsq", "weights", "bits", -1, "bits is -1"},
        {"pot", "weights", "bits", 5, "1 to 4 bits for weights, not 5"},
        {"pact", "weights", "bits", 4, "'pact' is not for weights"},
        {"clip", "activations", "unsigned", 1, "no form for unsigned"},
        {"lsq", "weights", "axis", 7, "axis"},
        {"lsq", "weights", "axis", 0, "rows of params is 1, want one per group"},
        {"codebook", "weights", "bits", 4, "params have 2 columns, want 16"},
    };
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(cases); i++) {
        bench b;
        begin(&b, 2, DIMS(4, 16), 1, 2, false);
        text(&b, "scheme", cases[i].scheme);
        text(&b, "role", cases[i].role);
        number(&b, cases[i].name, cases[i].value);
        nb_status st = nbi_node_infer(b.ctx, b.g, b.node);
        if (st == NB_OK || !strstr(nb_ctx_message(b.ctx), cases[i].message))
            fail_msg("case %zu: '%s', want '%s'", i, nb_ctx_message(b.ctx), cases[i].message);
        assert_non_null(strstr(nb_ctx_message(b.ctx), "fq"));
        end(&b);
    }
}

static void test_not_fitted(void **state) {
    static const char *const schemes[] = {"lsq", "codebook", "apot", "binary"};
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(schemes); i++) {
        bench b;
        begin(&b, 1, DIMS(64), 1, 256, false);
        text(&b, "scheme", schemes[i]);
        text(&b, "role", "weights");
        assert_int_equal(forward(&b), NB_EINVAL);
        assert_non_null(strstr(nb_ctx_message(b.ctx), "is not fitted"));
        end(&b);
    }
}

/* No values at all, and no groups. */
static void test_empty(void **state) {
    static const int64_t dim[2][2] = {{0, 4}, {4, 0}};
    (void)state;
    for (int k = 0; k < 4; k++) {
        nbi_scheme_use use = {.bits = 4};
        int axis = k < 2 ? -1 : 0;
        bench b;
        begin(&b, 2, dim[k % 2], axis < 0 ? 1 : dim[k % 2][0], 1, false);
        describe(&b, "clip", &use, axis);
        number(&b, "training", 1);
        assert_int_equal(forward(&b), NB_OK);
        backward(&b);
        end(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),        cmocka_unit_test(test_averages),
        cmocka_unit_test(test_candidates),    cmocka_unit_test(test_bad_candidates),
        cmocka_unit_test(test_bits_input),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_gradient),   cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_bad_attributes), cmocka_unit_test(test_not_fitted),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_tape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
