/* QDQ export of a small network made by hand: signed and mixed streams, clamps on the codes, pools,
 * functions, moves, unknown operators behind it, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "qdq_pipeline.h"

enum { CHANNELS = 4, SIDE = 6, CLASSES = 5 };

static int add(qdq_case *c, const char *op, int n_in, const int *in, nbi_node **node) {
    int out;
    nbi_node *made;
    char name[32];
    snprintf(name, sizeof name, "%s%d", op, c->source->n_nodes);
    QDQ_OK(nbi_graph_add_tensor(c->ctx, c->source, name, NB_DTYPE_NONE, -1, NULL, &out));
    QDQ_OK(nbi_graph_add_node(c->ctx, c->source, name, strcmp(op, "Foo") ? "" : "some.domain", op,
                              n_in, in, 1, &out, &made));
    if (node) *node = made;
    return out;
}

static int constant(qdq_case *c, const char *name, int rank, const int64_t *dim, nbi_rng *rng) {
    int k;
    QDQ_OK(nbi_graph_add_const(c->ctx, c->source, name, NB_DTYPE_F32, rank, dim, &k));
    float *x = c->source->tensor[k]->data;
    for (int64_t i = 0, n = nbi_tensor_count(c->source->tensor[k]); i < n; i++)
        x[i] = (float)(0.4 * nbi_rng_normal(rng));
    return k;
}

static int conv(qdq_case *c, int x, int in_c, int groups, nbi_rng *rng) {
    int64_t w[4] = {CHANNELS, in_c / groups, 3, 3}, b[1] = {CHANNELS};
    nbi_node *node;
    int in[3] = {x, constant(c, "w", 4, w, rng), constant(c, "b", 1, b, rng)};
    int y = add(c, "Conv", 3, in, &node);
    QDQ_OK(nbi_node_set_ints(c->ctx, c->source, node, "pads", 4, (const int64_t[]){1, 1, 1, 1}));
    QDQ_OK(nbi_node_set_int(c->ctx, c->source, node, "group", groups));
    return y;
}

/* x ─ conv a ─┬─ Relu ─┬─ depthwise conv ─ Concat ─ conv ─ d ─ MaxPool ─ d·Sigmoid(d) − … ─ mean
 *             └────────┴───────────────────┘                                          ─ Gemm ─ y */
static int build_body(qdq_case *c) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 3, 1);
    nbi_graph *g;
    nbi_node *node;
    int x, y;
    QDQ_OK(nbi_graph_new(c->ctx, &c->source));
    g = c->source;
    QDQ_OK(nbi_graph_add_tensor(c->ctx, g, "q0", NB_DTYPE_F32, 4,
                                (const int64_t[]){-1, 3, SIDE, SIDE}, &x));
    g->tensor[x]->dim_name[0] = "batch";
    QDQ_OK(nbi_graph_set_inputs(c->ctx, g, 1, &x));
    int a = conv(c, x, 3, 1, &rng), r = add(c, "Relu", 1, &a, NULL);
    int dw = conv(c, r, CHANNELS, CHANNELS, &rng);
    int joined = add(c, "Concat", 2, (const int[]){r, dw}, &node);
    QDQ_OK(nbi_node_set_int(c->ctx, g, node, "axis", 1));
    int d = conv(c, joined, 2 * CHANNELS, 1, &rng);
    int p = add(c, "MaxPool", 1, &d, &node);
    QDQ_OK(nbi_node_set_ints(c->ctx, g, node, "kernel_shape", 2, (const int64_t[]){2, 2}));
    QDQ_OK(nbi_node_set_ints(c->ctx, g, node, "strides", 2, (const int64_t[]){2, 2}));
    int s = add(c, "Sigmoid", 1, &p, NULL);
    int m = add(c, "Mul", 2, (const int[]){p, s}, NULL);
    int sub = add(c, "Sub", 2, (const int[]){m, p}, NULL);
    int mean = add(c, "ReduceMean", 1, &sub, &node);
    QDQ_OK(nbi_node_set_ints(c->ctx, g, node, "axes", 2, (const int64_t[]){2, 3}));
    QDQ_OK(nbi_node_set_int(c->ctx, g, node, "keepdims", 0));
    int64_t w[2] = {CHANNELS, CLASSES}, b[1] = {CLASSES};
    int in[3] = {mean, constant(c, "w", 2, w, &rng), constant(c, "b", 1, b, &rng)};
    y = add(c, "Gemm", 3, in, NULL);
    return y;
}

static void finish_body(qdq_case *c, int output) {
    QDQ_OK(nbi_graph_set_outputs(c->ctx, c->source, 1, &output));
    QDQ_OK(nbi_graph_set_meta(c->ctx, c->source, "author", "somebody"));
    QDQ_OK(nbi_graph_sort(c->ctx, c->source));
    for (int n = 0; n < c->source->n_nodes; n++)
        QDQ_OK(nbi_node_prepare(c->ctx, c->source, c->source->node[n]));
    qdq_prepare(c, 64, -2, 2);
}

static int count_nodes(const nbi_graph *g, const char *op) {
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++) n += strcmp(g->node[i]->op_type, op) == 0;
    return n;
}

static void test_equals_program(void **state) {
    (void)state;
    static const int widths[][3] = {{8, 8, 0}, {4, 4, 0}, {3, 2, 2}, {2, 5, 2}, {1, 3, 0}, {1, 1, 2}};
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    finish_body(c, build_body(c));
    for (size_t k = 0; k < NBI_COUNT(widths); k++) {
        nbi_qdq_options options = {0, widths[k][2]};
        size_t bytes;
        qdq_freeze(c, widths[k][0], widths[k][1]);
        nbi_graph *g = qdq_round_trip(c, &options, &bytes);
        qdq_run_program(c);
        qdq_run_graph(c, g);
        qdq_agreement a = qdq_compare(c);
        print_message("W%dA%d: top-1 %.3f, within 1 %% %.4f, error %.2g\n", widths[k][0],
                      widths[k][1], a.top1, a.close, a.error);
        assert_true(a.top1 >= 0.95 && a.close >= 0.9);
        nbi_graph_free(g);
    }
    qdq_done(c);
}

static void test_form(void **state) {
    (void)state;
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    size_t bytes;
    finish_body(c, build_body(c));
    qdq_freeze(c, 4, 4);
    nbi_graph *g = qdq_round_trip(c, NULL, &bytes);
    const nbi_tensor *x = g->tensor[g->input[0]];
    assert_string_equal(x->name, "q0");
    assert_int_equal(x->dim[0], -1);
    assert_string_equal(x->dim_name[0], "batch");
    assert_string_equal(nbi_graph_meta(g, "author"), "somebody");
    assert_string_equal(nbi_graph_meta(g, "nibble.version"), nb_version());
    assert_non_null(strstr(nbi_graph_meta(g, "nibble.policy"), "\"q0\":8"));
    assert_int_equal(count_nodes(g, "Conv"), 3);
    assert_int_equal(count_nodes(g, "Relu"), 0); /* the codes' lower bound */
    assert_int_equal(count_nodes(g, "Cast"), 2); /* the first layer and the last have 8 bits */
    for (int i = 0; i < g->n_nodes; i++)
        if (!strcmp(g->node[i]->op_type, "QuantizeLinear"))
            assert_int_equal(g->tensor[g->node[i]->in[2]]->dtype, NB_DTYPE_U8);
    nbi_graph_free(g);
    qdq_done(c);
}

static void test_untouched(void **state) {
    (void)state;
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    size_t bytes;
    int y = build_body(c), shape = add(c, "Shape", 1, &y, NULL);
    finish_body(c, add(c, "Foo", 2, (const int[]){y, shape}, NULL));
    assert_int_equal(c->net->n_untouched, 1);
    qdq_freeze(c, 4, 8);
    nbi_graph *g = qdq_round_trip(c, NULL, &bytes);
    assert_int_equal(count_nodes(g, "Foo"), 1);
    assert_int_equal(count_nodes(g, "Shape"), 1); /* of any batch */
    const nbi_node *foo = g->node[g->tensor[g->output[0]]->producer];
    assert_string_equal(foo->domain, "some.domain");
    assert_string_equal(g->tensor[foo->in[0]]->name, c->source->tensor[y]->name);
    nbi_graph_free(g);
    qdq_done(c);
}

static const nbi_node *the_node(const nbi_graph *g, const char *op) {
    for (int i = 0; i < g->n_nodes; i++)
        if (!strcmp(g->node[i]->op_type, op)) return g->node[i];
    fail_msg("no %s", op);
    return NULL;
}

/* Softmax of old files covers all axes from one on: one axis where the others have one value, else
 * Flatten before it and Reshape behind it. Upsample becomes Resize. */
static void test_old_opset(void **state) {
    (void)state;
    static const char *const kinds[] = {"pixel", "picture", "unknown shape"};
    for (size_t kind = 0; kind < NBI_COUNT(kinds); kind++) {
        qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
        size_t bytes;
        nbi_node *node;
        int y = build_body(c);
        c->source->opset = 9;
        y = add(c, "Unsqueeze", 1, &y, &node);
        QDQ_OK(nbi_node_set_ints(c->ctx, c->source, node, "axes", 2, (const int64_t[]){2, 3}));
        if (kind == 1) {
            int in[2] = {y, y};
            y = add(c, "Concat", 2, in, &node);
            QDQ_OK(nbi_node_set_int(c->ctx, c->source, node, "axis", 3));
        }
        if (kind == 2) {
            const float scales[4] = {1, 1, 2, 3};
            int64_t four = 4;
            int in[2] = {add(c, "Foo", 1, &y, NULL)};
            QDQ_OK(nbi_graph_add_const(c->ctx, c->source, "s", NB_DTYPE_F32, 1, &four, &in[1]));
            memcpy(c->source->tensor[in[1]]->data, scales, sizeof scales);
            y = add(c, "Upsample", 2, in, NULL);
        }
        finish_body(c, add(c, "Softmax", 1, &y, NULL));
        qdq_freeze(c, 4, 8);
        nbi_graph *g = qdq_round_trip(c, NULL, &bytes);
        const nbi_node *softmax = the_node(g, "Softmax");
        assert_int_equal(nbi_attr_int(softmax, "axis", 99), kind ? -1 : 1);
        assert_int_equal(count_nodes(g, "Shape"), kind > 0);
        if (kind) {
            const nbi_node *last = g->node[g->tensor[g->output[0]]->producer];
            assert_string_equal(last->op_type, "Reshape");
            assert_int_equal(last->in[0], softmax->out[0]);
        }
        if (kind == 2) {
            assert_int_equal(count_nodes(g, "Upsample"), 0);
            node = g->node[g->tensor[the_node(g, "Shape")->in[0]]->producer];
            assert_string_equal(node->op_type, "Resize");
            assert_int_equal(node->n_in, 3);
            assert_int_equal(node->in[1], NBI_NO_TENSOR);
            assert_string_equal(nbi_attr_text(node, "nearest_mode", ""), "floor");
        } else {
            qdq_run_program(c);
            qdq_run_graph(c, g);
            qdq_agreement a = qdq_compare(c);
            print_message("%s: error %.2g\n", kinds[kind], a.error);
            assert_true(a.error < 1e-3);
        }
        nbi_graph_free(g);
        qdq_done(c);
    }
}

/* Files from before opset 7 say by an attribute which dimensions of the first operand the second one has. */
static void test_old_broadcast(void **state) {
    (void)state;
    for (int axis = 0; axis < 2; axis++) { /* 0: none, the last dimensions */
        qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
        size_t bytes;
        nbi_node *node;
        int in[2] = {build_body(c), -1};
        c->source->opset = 6;
        QDQ_OK(nbi_graph_add_const(c->ctx, c->source, "s", NB_DTYPE_F32, 1, (const int64_t[]){CLASSES},
                                   &in[1]));
        for (int i = 0; i < CLASSES; i++) ((float *)c->source->tensor[in[1]]->data)[i] = 1 + (float)i;
        if (axis) {
            in[0] = add(c, "Unsqueeze", 1, in, &node);
            QDQ_OK(nbi_node_set_ints(c->ctx, c->source, node, "axes", 2, (const int64_t[]){2, 3}));
            in[0] = add(c, "Sigmoid", 1, in, NULL);
        }
        int y = add(c, "Mul", 2, in, &node);
        QDQ_OK(nbi_node_set_int(c->ctx, c->source, node, "broadcast", 1));
        if (axis) QDQ_OK(nbi_node_set_int(c->ctx, c->source, node, "axis", axis));
        finish_body(c, y);
        qdq_freeze(c, 4, 8);
        nbi_graph *g = qdq_round_trip(c, NULL, &bytes);
        const nbi_node *mul = the_node(g, "Mul");
        assert_null(nbi_node_attr(mul, "broadcast"));
        assert_null(nbi_node_attr(mul, "axis"));
        assert_int_equal(count_nodes(g, "Unsqueeze"), axis);
        qdq_run_program(c);
        qdq_run_graph(c, g);
        qdq_agreement a = qdq_compare(c);
        print_message("axis %d: error %.2g\n", axis, a.error);
        assert_true(a.error < 1e-3);
        nbi_graph_free(g);
        qdq_done(c);
    }
}

/* Before opset 7 a slope [C] of PRelu goes along axis 1, today along the last one. */
static void test_old_slope(void **state) {
    (void)state;
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    size_t bytes;
    nbi_node *node;
    int in[2] = {build_body(c), -1};
    c->source->opset = 6;
    QDQ_OK(nbi_graph_add_const(c->ctx, c->source, "s", NB_DTYPE_F32, 1, (const int64_t[]){CLASSES},
                               &in[1]));
    for (int i = 0; i < CLASSES; i++)
        ((float *)c->source->tensor[in[1]]->data)[i] = 0.1f + 0.2f * (float)i;
    in[0] = add(c, "Unsqueeze", 1, in, &node);
    QDQ_OK(nbi_node_set_ints(c->ctx, c->source, node, "axes", 2, (const int64_t[]){2, 3}));
    finish_body(c, add(c, "PRelu", 2, in, NULL));
    qdq_freeze(c, 4, 8);
    nbi_graph *g = qdq_round_trip(c, NULL, &bytes);
    const nbi_tensor *slope = g->tensor[the_node(g, "PRelu")->in[1]];
    assert_string_equal(g->node[slope->producer]->op_type, "Unsqueeze");
    qdq_run_program(c);
    qdq_run_graph(c, g);
    qdq_agreement a = qdq_compare(c);
    print_message("error %.2g\n", a.error);
    assert_true(a.error < 1e-3);
    nbi_graph_free(g);
    qdq_done(c);
}

/* Names of the source are not made up once more, and keep their nodes. */
static void test_node_names(void **state) {
    (void)state;
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    nbi_graph *g;
    int conv = 0;
    finish_body(c, build_body(c));
    qdq_freeze(c, 4, 4);
    while (c->net->layer[conv].type != NBI_LAYER_CONV) conv++;
    QDQ_OK(nbi_export_qdq(c->ctx, c->frozen, c->source, NULL, &g));
    c->net->layer[conv].name =
        nbi_arena_format(&c->source->arena, "%s", the_node(g, "DequantizeLinear")->name);
    nbi_graph_free(g);
    QDQ_OK(nbi_export_qdq(c->ctx, c->frozen, c->source, NULL, &g));
    assert_string_equal(the_node(g, "Conv")->name, c->net->layer[conv].name);
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < i; k++)
            assert_string_not_equal(g->node[i]->name, g->node[k]->name);
    nbi_graph_free(g);
    qdq_done(c);
}

static void test_refused(void **state) {
    (void)state;
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    static const nbi_qdq_options wrong[] = {{20, 0}, {21, 2}, {0, 1}};
    nbi_graph *g = NULL, *other = NULL;
    finish_body(c, build_body(c));
    qdq_freeze(c, 4, 8);
    for (size_t i = 0; i < NBI_COUNT(wrong); i++)
        assert_int_equal(nbi_export_qdq(c->ctx, c->frozen, c->source, &wrong[i], &g), NB_EINVAL);
    QDQ_OK(nbi_graph_new(c->ctx, &other));
    assert_int_equal(nbi_export_qdq(c->ctx, c->frozen, other, NULL, &g), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(c->ctx), "not in the source graph"));
    assert_null(g);
    nbi_graph_free(other);
    qdq_done(c);
}

static void test_no_memory(void **state) {
    (void)state;
    qdq_case data = {.ctx = nb_ctx_new()}, *c = &data;
    finish_body(c, build_body(c));
    qdq_freeze(c, 2, 3);
    for (long k = 1;; k++) {
        nbi_graph *g = NULL;
        nbi_alloc_fail_after(k);
        nb_status st = nbi_export_qdq(c->ctx, c->frozen, c->source, NULL, &g);
        nbi_alloc_fail_after(0);
        nbi_graph_free(g);
        if (st == NB_OK) break;
        assert_int_equal(st, NB_ENOMEM);
    }
    qdq_done(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_program), cmocka_unit_test(test_form),
        cmocka_unit_test(test_untouched), cmocka_unit_test(test_old_opset),
        cmocka_unit_test(test_old_broadcast), cmocka_unit_test(test_old_slope),
        cmocka_unit_test(test_node_names), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
