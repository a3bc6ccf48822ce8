/* The graph: building, order, pruning, copies, names, attributes, shapes, strided views. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "ir/graph.h"

#define ASSERT_OK(expr) assert_int_equal(expr, NB_OK)

typedef struct fixture {
    nb_ctx *ctx;
    nbi_graph *graph;
} fixture;

static int setup(void **state) {
    static fixture f;
    f = (fixture){.ctx = nb_ctx_new()};
    *state = &f;
    return f.ctx && nbi_graph_new(f.ctx, &f.graph) == NB_OK ? 0 : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    nbi_alloc_fail_after(0);
    nbi_graph_free(f->graph);
    nbi_graph_free(NULL);
    nb_ctx_free(f->ctx);
    return 0;
}

static void assert_message(const nb_ctx *ctx, const char *part) {
    if (!strstr(nb_ctx_message(ctx), part))
        fail_msg("the message '%s' lacks '%s'", nb_ctx_message(ctx), part);
}

static int tensor(fixture *f, const char *name) {
    static const int64_t dim[] = {1, 8};
    int index = -1;
    ASSERT_OK(nbi_graph_add_tensor(f->ctx, f->graph, name, NB_DTYPE_F32, 2, dim, &index));
    return index;
}

static nbi_node *unary(fixture *f, const char *name, int in, int out) {
    nbi_node *node = NULL;
    ASSERT_OK(nbi_graph_add_node(f->ctx, f->graph, name, "", "Relu", 1, &in, 1, &out, &node));
    return node;
}

static void ends(fixture *f, int in, int out) {
    ASSERT_OK(nbi_graph_set_inputs(f->ctx, f->graph, 1, &in));
    ASSERT_OK(nbi_graph_set_outputs(f->ctx, f->graph, 1, &out));
}

/* "a b c": the names of the nodes in order. */
static const char *order(const nbi_graph *g) {
    static char text[400];
    size_t used = 0;
    text[0] = 0;
    for (int n = 0; n < g->n_nodes && used < sizeof text; n++)
        used += (size_t)snprintf(text + used, sizeof text - used, n ? " %s" : "%s",
                                 g->node[n]->name);
    return text;
}

/* ---- building ------------------------------------------------------------------------------ */

static void test_names(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), again = tensor(f, "x"), made = tensor(f, NULL), empty = tensor(f, "");
    assert_string_equal(f->graph->tensor[x]->name, "x");
    for (int i = 0; i < f->graph->n_tensors; i++) {
        assert_true(*f->graph->tensor[i]->name);
        assert_int_equal(nbi_graph_find(f->graph, f->graph->tensor[i]->name), i);
    }
    assert_int_equal(nbi_graph_find(f->graph, "y"), -1);
    assert_true(again != x && made != empty);
    for (int i = 0; i < 300; i++) tensor(f, i % 2 ? "x" : "x_5"); /* past the first capacity */
    assert_int_equal(f->graph->n_tensors, 304);
    assert_string_equal(f->graph->tensor[x]->name, "x");
    for (int i = 0; i < 304; i++)
        assert_int_equal(nbi_graph_find(f->graph, f->graph->tensor[i]->name), i);
}

static void test_build_limits(void **state) {
    fixture *f = *state;
    const int64_t dim[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, huge[2] = {(int64_t)1 << 40, 2},
                  open[2] = {-1, 3};
    int t = 77;
    assert_int_equal(nbi_graph_add_tensor(f->ctx, f->graph, "deep", NB_DTYPE_F32, 9, dim, &t),
                     NB_EUNSUPPORTED);
    assert_message(f->ctx, "deep");
    assert_int_equal(nbi_graph_add_const(f->ctx, f->graph, "huge", NB_DTYPE_F32, 2, huge, &t),
                     NB_EFORMAT);
    assert_message(f->ctx, "huge");
    assert_int_equal(nbi_graph_add_const(f->ctx, f->graph, "open", NB_DTYPE_F32, 2, open, &t),
                     NB_EFORMAT);
    assert_int_equal(t, 77);
    const int64_t none[1] = {0}, five[1] = {5};
    ASSERT_OK(nbi_graph_add_const(f->ctx, f->graph, "none", NB_DTYPE_F32, 1, none, &t));
    assert_non_null(f->graph->tensor[t]->data); /* a constant, though of no elements */
    ASSERT_OK(nbi_graph_add_const(f->ctx, f->graph, "s4", NB_DTYPE_S4, 1, five, &t));
    for (int i = 0; i < 3; i++) assert_int_equal(((char *)f->graph->tensor[t]->data)[i], 0);
}

static void test_meta_and_attributes(void **state) {
    fixture *f = *state;
    nbi_graph *g = f->graph;
    assert_null(nbi_graph_meta(g, "mean"));
    ASSERT_OK(nbi_graph_set_meta(f->ctx, g, "mean", "0.5"));
    ASSERT_OK(nbi_graph_set_meta(f->ctx, g, "std", "0.2"));
    ASSERT_OK(nbi_graph_set_meta(f->ctx, g, "mean", "0.6"));
    assert_int_equal(g->n_meta, 2);
    assert_string_equal(nbi_graph_meta(g, "mean"), "0.6");

    nbi_node *node = unary(f, "", tensor(f, "x"), tensor(f, "y"));
    assert_string_equal(node->name, "Relu_0");
    const int64_t pads[4] = {1, 2, 3, 4}, *got;
    ASSERT_OK(nbi_node_set_int(f->ctx, g, node, "group", 3));
    ASSERT_OK(nbi_node_set_float(f->ctx, g, node, "alpha", 0.1f));
    ASSERT_OK(nbi_node_set_ints(f->ctx, g, node, "pads", 4, pads));
    ASSERT_OK(nbi_node_set_text(f->ctx, g, node, "auto_pad", "SAME_UPPER"));
    ASSERT_OK(nbi_node_set_int(f->ctx, g, node, "group", 4));
    assert_int_equal(node->n_attr, 4);
    assert_int_equal(nbi_attr_int(node, "group", 1), 4);
    assert_true(nbi_attr_float(node, "alpha", 1) == 0.1f);
    assert_string_equal(nbi_attr_text(node, "auto_pad", "NOTSET"), "SAME_UPPER");
    assert_int_equal(nbi_attr_ints(node, "pads", &got), 4);
    assert_memory_equal(got, pads, sizeof pads);
    /* a wrong type counts as absent */
    assert_int_equal(nbi_attr_int(node, "alpha", -7), -7);
    assert_true(nbi_attr_float(node, "group", 2) == 2);
    assert_string_equal(nbi_attr_text(node, "pads", "none"), "none");
    assert_int_equal(nbi_attr_ints(node, "group", &got), 0);
    assert_null(got);
    ASSERT_OK(nbi_node_set_text(f->ctx, g, node, "group", "now a text")); /* replaces the type */
    assert_int_equal(nbi_attr_int(node, "group", -1), -1);
    assert_int_equal(node->n_attr, 4);
}

/* ---- order --------------------------------------------------------------------------------- */

static void test_sort(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), a = tensor(f, "a"), b = tensor(f, "b"), c = tensor(f, "c"),
        y = tensor(f, "y");
    int add[3] = {b, c, NBI_NO_TENSOR};
    ASSERT_OK(nbi_graph_add_node(f->ctx, f->graph, "sum", "", "Add", 3, add, 1, &y, NULL));
    unary(f, "to_b", a, b);
    unary(f, "to_a", x, a);
    unary(f, "to_c", x, c);
    ends(f, x, y);
    ASSERT_OK(nbi_graph_sort(f->ctx, f->graph));
    assert_string_equal(order(f->graph), "to_a to_b to_c sum");
    assert_int_equal(f->graph->tensor[y]->producer, 3);
    assert_int_equal(f->graph->tensor[b]->producer, 1);
    assert_int_equal(f->graph->tensor[x]->producer, -1);
    ASSERT_OK(nbi_graph_sort(f->ctx, f->graph)); /* stable: sorted stays as it is */
    assert_string_equal(order(f->graph), "to_a to_b to_c sum");
    assert_int_equal(nbi_graph_uses(f->graph, x), 2);
    assert_int_equal(nbi_graph_uses(f->graph, y), 1); /* the graph output */
}

static void test_cycle(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), a = tensor(f, "a"), b = tensor(f, "b"), y = tensor(f, "y");
    unary(f, "fine", x, y);
    unary(f, "round", a, b);
    unary(f, "and_round", b, a);
    ends(f, x, y);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "cycle");
    assert_message(f->ctx, "round");
}

static void test_self_cycle(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), a = tensor(f, "a");
    unary(f, "self", a, a);
    ends(f, x, a);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "self");
}

static void test_two_producers(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), y = tensor(f, "y");
    unary(f, "one", x, y);
    unary(f, "two", x, y);
    ends(f, x, y);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "'y' has two producers");
}

static void test_produced_input_and_constant(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), y = tensor(f, "y"), c = -1;
    unary(f, "into_x", y, x);
    ends(f, x, y);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "graph input 'x'");
    f->graph->n_nodes = 0;
    const int64_t dim[1] = {1};
    ASSERT_OK(nbi_graph_add_const(f->ctx, f->graph, "c", NB_DTYPE_F32, 1, dim, &c));
    unary(f, "into_c", x, c);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "'c'");
}

static void test_nobody(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), ghost = tensor(f, "ghost"), y = tensor(f, "y");
    nbi_node *node = unary(f, "reads_ghost", ghost, y);
    ends(f, x, y);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "reads_ghost");
    assert_message(f->ctx, "ghost' is produced by nobody");
    node->in[0] = x;
    ends(f, x, ghost);
    assert_int_equal(nbi_graph_sort(f->ctx, f->graph), NB_EFORMAT);
    assert_message(f->ctx, "output 'ghost'");
    ends(f, x, x); /* an input may be an output */
    ASSERT_OK(nbi_graph_sort(f->ctx, f->graph));
}

static void test_prune_and_replace(void **state) {
    fixture *f = *state;
    int x = tensor(f, "x"), a = tensor(f, "a"), dead = tensor(f, "dead"),
        deader = tensor(f, "deader"), y = tensor(f, "y");
    unary(f, "first", x, a);
    unary(f, "d1", a, dead);
    unary(f, "d2", dead, deader);
    unary(f, "last", a, y);
    ends(f, x, y);
    ASSERT_OK(nbi_graph_sort(f->ctx, f->graph));
    nbi_graph_prune(f->graph);
    assert_string_equal(order(f->graph), "first last");
    assert_int_equal(f->graph->tensor[y]->producer, 1);
    assert_int_equal(f->graph->tensor[dead]->producer, -1);
    nbi_graph_replace_uses(f->graph, a, x);
    nbi_graph_prune(f->graph);
    assert_string_equal(order(f->graph), "last");
    nbi_graph_replace_uses(f->graph, y, x);
    assert_int_equal(f->graph->output[0], x);
    nbi_graph_prune(f->graph);
    assert_int_equal(f->graph->n_nodes, 0);
}

/* ---- copy ---------------------------------------------------------------------------------- */

static void fill_graph(fixture *f) {
    const int64_t dim[2] = {2, 3}, pads[2] = {1, 1};
    int x = tensor(f, "x"), y = tensor(f, "y"), w = -1;
    ASSERT_OK(nbi_graph_add_const(f->ctx, f->graph, "w", NB_DTYPE_F32, 2, dim, &w));
    for (int i = 0; i < 6; i++) ((float *)f->graph->tensor[w]->data)[i] = (float)i;
    f->graph->tensor[x]->dim[0] = -1;
    f->graph->tensor[x]->dim_name[0] = "batch";
    int in[2] = {x, w};
    nbi_node *node;
    ASSERT_OK(nbi_graph_add_node(f->ctx, f->graph, "gemm", "org.nibble", "Gemm", 2, in, 1, &y,
                                 &node));
    ASSERT_OK(nbi_node_set_ints(f->ctx, f->graph, node, "pads", 2, pads));
    ASSERT_OK(nbi_node_set_text(f->ctx, f->graph, node, "mode", "linear"));
    ASSERT_OK(nbi_graph_set_meta(f->ctx, f->graph, "k", "v"));
    ends(f, x, y);
    f->graph->opset = 17;
}

static void test_copy(void **state) {
    fixture *f = *state;
    fill_graph(f);
    nbi_graph *copy = NULL;
    ASSERT_OK(nbi_graph_copy(f->ctx, f->graph, &copy));
    nbi_graph_free(f->graph); /* nothing of the original is needed */
    f->graph = NULL;
    assert_int_equal(copy->opset, 17);
    assert_int_equal(copy->n_tensors, 3);
    assert_int_equal(copy->n_nodes, 1);
    assert_string_equal(copy->node[0]->domain, "org.nibble");
    assert_string_equal(nbi_attr_text(copy->node[0], "mode", ""), "linear");
    const int64_t *pads;
    assert_int_equal(nbi_attr_ints(copy->node[0], "pads", &pads), 2);
    assert_int_equal(pads[1], 1);
    assert_string_equal(nbi_graph_meta(copy, "k"), "v");
    assert_string_equal(copy->tensor[0]->dim_name[0], "batch");
    int w = nbi_graph_find(copy, "w");
    for (int i = 0; i < 6; i++)
        assert_true(((float *)copy->tensor[w]->data)[i] == (float)i);
    assert_int_equal(copy->tensor[copy->output[0]]->producer, 0);
    ASSERT_OK(nbi_graph_sort(f->ctx, copy));
    nbi_graph_free(copy);
}

static void test_copy_without_memory(void **state) {
    fixture *f = *state;
    fill_graph(f);
    const int64_t large[1] = {40000}; /* each constant needs a block of the arena for itself */
    int index;
    for (int i = 0; i < 3; i++)
        ASSERT_OK(
            nbi_graph_add_const(f->ctx, f->graph, "large", NB_DTYPE_F32, 1, large, &index));
    long k = 1;
    for (;; k++) {
        nbi_graph *copy = NULL;
        nbi_alloc_fail_after(k);
        nb_status st = nbi_graph_copy(f->ctx, f->graph, &copy);
        nbi_alloc_fail_after(0);
        if (st == NB_OK) {
            nbi_graph_free(copy);
            break;
        }
        assert_int_equal(st, NB_ENOMEM);
        assert_null(copy);
        assert_message(f->ctx, "no memory");
    }
    assert_true(k >= 5); /* the graph, its first block, three large ones */
    for (k = 1; k <= 7; k++) { /* sort: six scratch arrays, the seventh never comes */
        nbi_alloc_fail_after(k);
        assert_int_equal(nbi_graph_sort(f->ctx, f->graph), k < 7 ? NB_ENOMEM : NB_OK);
    }
}

/* ---- shapes and views ---------------------------------------------------------------------- */

static void test_shapes(void **state) {
    (void)state;
    char text[96];
    nbi_tensor t = {.rank = -1};
    assert_string_equal(nbi_shape_text(&t, text, sizeof text), "[?]");
    assert_int_equal(nbi_tensor_count(&t), -1);
    t = (nbi_tensor){.rank = 0};
    assert_string_equal(nbi_shape_text(&t, text, sizeof text), "[]");
    assert_int_equal(nbi_tensor_count(&t), 1);
    t = (nbi_tensor){.rank = 3, .dim = {-1, 16, -1}, .dim_name = {"batch"}};
    assert_string_equal(nbi_shape_text(&t, text, sizeof text), "[batch,16,?]");
    assert_false(nbi_shape_known(&t));
    t = (nbi_tensor){.rank = 2, .dim = {(int64_t)1 << 20, (int64_t)1 << 20}};
    assert_int_equal(nbi_tensor_count(&t), (int64_t)1 << 40);
    t.dim[1]++;
    assert_int_equal(nbi_tensor_count(&t), -1);
    t.dim[1] = INT64_MAX;
    assert_int_equal(nbi_tensor_count(&t), -1);
    t.dim[0] = 0; /* hides nothing */
    assert_int_equal(nbi_tensor_count(&t), -1);
    t.dim[1] = (int64_t)1 << 40;
    assert_int_equal(nbi_tensor_count(&t), 0);
    t = (nbi_tensor){.rank = 8};
    for (int i = 0; i < 8; i++) t.dim[i] = INT64_MAX;
    nbi_shape_text(&t, text, sizeof text); /* cut, never overrun */
    assert_true(strlen(text) < sizeof text);
}

static void test_views(void **state) {
    (void)state;
    nbi_view v = {.dtype = NB_DTYPE_F32, .rank = 4, .dim = {2, 3, 4, 5}};
    nbi_view_contiguous(&v);
    const int64_t plain[4] = {60, 20, 5, 1}, last[4] = {60, 1, 15, 3};
    assert_memory_equal(v.stride, plain, sizeof plain);
    assert_true(nbi_view_is_contiguous(&v) && !nbi_view_is_channels_last(&v));
    nbi_view_channels_last(&v);
    assert_memory_equal(v.stride, last, sizeof last);
    assert_true(!nbi_view_is_contiguous(&v) && nbi_view_is_channels_last(&v));
    assert_int_equal(nbi_view_count(&v), 120);
    nbi_view one = {.rank = 4, .dim = {1, 1, 4, 5}}; /* one channel: both orders at once */
    nbi_view_channels_last(&one);
    assert_true(nbi_view_is_contiguous(&one) && nbi_view_is_channels_last(&one));
    nbi_view flat = {.rank = 2, .dim = {2, 3}};
    nbi_view_channels_last(&flat);
    assert_true(nbi_view_is_contiguous(&flat));
}

/* element (n,c,h,w) has the value of its ONNX index, in any order of storage and width */
static void test_view_copy(void **state) {
    (void)state;
    static const nb_dtype types[] = {NB_DTYPE_F32, NB_DTYPE_U8, NB_DTYPE_S16, NB_DTYPE_F64};
    for (size_t k = 0; k < NBI_COUNT(types); k++) {
        size_t size = (size_t)nbi_dtype_bits(types[k]) / 8;
        unsigned char in[120 * 8], mid[120 * 8], out[120 * 8];
        for (size_t i = 0; i < sizeof in; i++) in[i] = (unsigned char)(i * 37 + i / 256);
        memset(out, 0, sizeof out);
        nbi_view a = {.dtype = types[k], .rank = 4, .dim = {2, 3, 4, 5}, .data = in}, b = a, c = a;
        b.data = mid;
        c.data = out;
        nbi_view_contiguous(&a);
        nbi_view_channels_last(&b);
        nbi_view_contiguous(&c);
        nbi_view_copy(&b, &a);
        assert_memory_equal(mid + (1 * 60 + 2 * 15 + 3 * 3 + 1) * size, /* n=1 c=1 h=2 w=3 */
                            in + (1 * 60 + 1 * 20 + 2 * 5 + 3) * size, size);
        nbi_view_copy(&c, &b);
        assert_memory_equal(out, in, 120 * size);
    }
    float source = 3, target = 0; /* rank 0 */
    nbi_view s = {.dtype = NB_DTYPE_F32, .data = &source}, t = {.dtype = NB_DTYPE_F32};
    t.data = &target;
    nbi_view_copy(&t, &s);
    assert_true(target == 3);
    nbi_view none = {.dtype = NB_DTYPE_F32, .rank = 2, .dim = {0, 3}};
    nbi_view_copy(&none, &none); /* nothing to copy, no data needed */
    int32_t row[3] = {1, 2, 3}, wide[9] = {0}; /* a broadcast source: stride 0 */
    nbi_view from = {.dtype = NB_DTYPE_S32, .rank = 2, .dim = {3, 3}, .stride = {0, 1}, .data = row};
    nbi_view to = {.dtype = NB_DTYPE_S32, .rank = 2, .dim = {3, 3}, .data = wide};
    nbi_view_contiguous(&to);
    nbi_view_copy(&to, &from);
    for (int i = 0; i < 9; i++) assert_int_equal(wide[i], i % 3 + 1);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_names),
        TEST(test_build_limits),
        TEST(test_meta_and_attributes),
        TEST(test_sort),
        TEST(test_cycle),
        TEST(test_self_cycle),
        TEST(test_two_producers),
        TEST(test_produced_input_and_constant),
        TEST(test_nobody),
        TEST(test_prune_and_replace),
        TEST(test_copy),
        TEST(test_copy_without_memory),
        TEST(test_shapes),
        TEST(test_views),
        TEST(test_view_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
