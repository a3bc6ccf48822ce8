/* Import of hand-made files: what must be read, what must be refused with a message, and that
 * nothing hostile crashes, hangs or eats memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph_equal.h"
#include "onnx/onnx.h"
#include "pb_writer.h"

enum {
    F32 = 1,
    U8 = 2,
    S8 = 3,
    U16 = 4,
    S32 = 6,
    S64 = 7,
    STR = 8,
    BOOL = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U4 = 21,
    S4 = 22,
    S2 = 26
};

static nb_ctx *ctx;

static int setup(void **state) {
    (void)state;
    ctx = nb_ctx_new();
    return ctx == NULL;
}

static int teardown(void **state) {
    (void)state;
    nb_ctx_free(ctx);
    return 0;
}

/* Frees the bytes; the graph, or NULL and the message says why. */
static nbi_graph *parse(nbi_buf *bytes) {
    nbi_graph *g = NULL;
    nb_status st = nbi_onnx_parse(ctx, bytes->data, bytes->size, &g);
    nbi_buf_free(bytes);
    assert_true((st == NB_OK) == (g != NULL));
    return g;
}

static nbi_graph *parse_ok(nbi_buf *bytes) {
    nbi_graph *g = parse(bytes);
    if (!g) fail_msg("refused: %s", nb_ctx_message(ctx));
    return g;
}

static void refuse(nbi_buf *bytes, const char *message_part) {
    nbi_graph *g = parse(bytes);
    if (g) fail_msg("accepted, although: %s", message_part);
    if (!strstr(nb_ctx_message(ctx), message_part))
        fail_msg("message '%s' does not say '%s'", nb_ctx_message(ctx), message_part);
}

/* ---- models -------------------------------------------------------------------------------- */

static const int64_t n4[] = {-1, 4}, four[] = {4}, two_two[] = {2, 2};

/* x: float32[N,4] -> graph with that input, and output y of the same type. */
static nbi_buf graph_xy(void) {
    nbi_buf g = {0}, x = pb_value("x", F32, 2, n4), y = pb_value("y", F32, 2, n4);
    pb_text(&g, 2, "g");
    pb_message(&g, 11, &x);
    pb_message(&g, 12, &y);
    return g;
}

static void add_node(nbi_buf *g, const char *op, const char *in, const char *out) {
    nbi_buf n = pb_node(op, in, out);
    pb_message(g, 1, &n);
}

static void add_floats(nbi_buf *g, const char *name) {
    const float w[4] = {1, -2, 0.5f, 1e-7f};
    nbi_buf t = pb_tensor(name, F32, 1, four);
    pb_bytes(&t, 9, w, sizeof w);
    pb_message(g, 5, &t);
}

/* An attribute of every kind. */
static void add_attributes(nbi_buf *node) {
    const int64_t ints[] = {1, -2, INT64_MIN};
    for (int type = 1; type <= 8; type++) {
        nbi_buf a = {0}, t = pb_tensor("", U8, 2, two_two);
        char name[16];
        pb_bytes(&t, 9, "abcd", 4);
        snprintf(name, sizeof name, "a%d", type);
        pb_text(&a, 1, name);
        if (type == 1) pb_float(&a, 2, -0.0f);
        if (type == 2) pb_int(&a, 3, -7);
        if (type == 3) pb_bytes(&a, 4, "t\0x", 3);
        if (type == 4) pb_bytes(&a, 5, t.data, t.size);
        if (type == 5) pb_bytes(&a, 6, "", 0);
        for (int i = 0; i < 3; i++) {
            if (type == 6) pb_float(&a, 7, (float)i / 3);
            if (type == 7) pb_int(&a, 8, ints[i]);
            if (type == 8) pb_text(&a, 9, i ? "text" : "");
        }
        pb_int(&a, 20, type);
        pb_message(node, 5, &a);
        nbi_buf_free(&t);
    }
}

/* If whose branch reads tensor `captured` of the enclosing graph. */
static nbi_buf if_node(const char *captured, const char *out) {
    nbi_buf n = pb_node("If", "c", out), a = {0}, sub = {0}, o = pb_value("r", F32, 2, n4);
    add_node(&sub, "Relu", captured, "r");
    pb_message(&sub, 12, &o);
    pb_text(&a, 1, "then_branch");
    pb_message(&a, 6, &sub);
    pb_int(&a, 20, 5);
    pb_message(&n, 5, &a);
    return n;
}

/* Uses most of the format in some 700 bytes; listed back to front, so that it must be sorted. */
static nbi_buf small_model(void) {
    nbi_buf g = graph_xy(), foo = pb_node("Foo", "h - v", "y z"), c = pb_tensor("c", BOOL, 0, NULL);
    nbi_buf pair = {0}, o = {0}, hint = pb_value("h", F32, 2, n4), branch = if_node("u", "v");
    pb_text(&foo, 7, "com.example");
    add_attributes(&foo);
    pb_message(&g, 1, &foo);
    add_node(&g, "Add", "x w", "h");
    pb_message(&g, 1, &branch);
    add_node(&g, "Relu", "h", "u");
    add_floats(&g, "w");
    pb_bytes(&c, 9, "\1", 1);
    pb_message(&g, 5, &c);
    pb_message(&g, 13, &hint);
    nbi_buf m = pb_model(8, 13, &g);
    pb_text(&pair, 1, "key");
    pb_text(&pair, 2, "line 1\nline 2");
    pb_message(&m, 14, &pair);
    pb_text(&o, 1, "com.example");
    pb_int(&o, 2, 3);
    pb_message(&m, 8, &o);
    return m;
}

static nbi_buf model_of(nbi_buf *graph) {
    return pb_model(8, 13, graph);
}

/* ---- reading ------------------------------------------------------------------------------- */

static void test_small_model(void **state) {
    (void)state;
    nbi_buf m = small_model(), first = {0};
    nbi_graph *g = parse_ok(&m), *again = NULL, *copy = NULL;
    assert_int_equal(g->n_nodes, 4);
    assert_int_equal(g->n_inputs, 1);
    assert_string_equal(g->node[0]->op_type, "Add"); /* sorted */
    assert_string_equal(g->node[3]->op_type, "Foo");
    assert_string_equal(g->tensor[g->input[0]]->dim_name[0], "N");
    assert_int_equal(g->tensor[g->input[0]]->dim[1], 4);
    assert_string_equal(nbi_graph_meta(g, "key"), "line 1\nline 2");
    const nbi_node *foo = g->node[3];
    assert_null(foo->op);
    assert_int_equal(foo->in[1], NBI_NO_TENSOR);
    assert_int_equal(nbi_attr_int(foo, "a2", 0), -7);
    assert_int_equal(nbi_node_attr(foo, "a3")->s_length, 3);
    assert_memory_equal(nbi_node_attr(foo, "a4")->tensor->data, "abcd", 4);
    assert_int_equal(nbi_node_attr(foo, "a5")->type, NBI_ATTR_GRAPH);
    assert_int_equal(nbi_node_attr(foo, "a7")->ints[2], INT64_MIN);
    assert_string_equal(nbi_node_attr(foo, "a8")->texts[1], "text");
    assert_int_equal(nbi_graph_copy(ctx, g, &copy), NB_OK);
    assert_int_equal(nbi_onnx_serialize(ctx, copy, &first), NB_OK);
    assert_int_equal(nbi_onnx_parse(ctx, first.data, first.size, &again), NB_OK);
    const char *d = graph_differs(g, again);
    if (d) fail_msg("after a round trip: %s", d);
    nbi_buf_free(&first);
    nbi_graph_free(g);
    nbi_graph_free(copy);
    nbi_graph_free(again);
}

/* Nodes without a name, or with one that an earlier node has, get one that no other node has. */
static void test_node_names(void **state) {
    (void)state;
    static const char *const given[] = {"Foo_2", "", "", "Foo_2", "b"};
    static const char *const want[] = {"Foo_2", "Foo_1", "Foo_2_5", "Foo_2_6", "b"};
    nbi_buf g = graph_xy();
    for (size_t i = 0; i < NBI_COUNT(given); i++) {
        nbi_buf n = pb_node("Foo", "x", i ? "-" : "y");
        pb_text(&n, 3, given[i]);
        pb_message(&g, 1, &n);
    }
    nbi_buf m = model_of(&g);
    nbi_graph *ok = parse_ok(&m);
    for (size_t i = 0; i < NBI_COUNT(want); i++)
        assert_string_equal(ok->node[i]->name, want[i]);
    nbi_graph_free(ok);
}

/* What a sub-graph reads survives pruning and renaming of the tensor around it. */
static void test_captures(void **state) {
    (void)state;
    nbi_buf m = small_model(), bytes = {0};
    nbi_graph *g = parse_ok(&m), *again = NULL;
    nbi_graph_prune(g);
    assert_int_equal(g->n_nodes, 4);
    int u = nbi_graph_find(g, "u"), h = nbi_graph_find(g, "h");
    nbi_graph_replace_uses(g, u, h);
    nbi_graph_prune(g);
    assert_int_equal(g->n_nodes, 3);
    assert_int_equal(nbi_onnx_serialize(ctx, g, &bytes), NB_OK);
    assert_int_equal(nbi_onnx_parse(ctx, bytes.data, bytes.size, &again), NB_OK);
    assert_int_equal(again->n_nodes, 4); /* h -> Identity -> u */
    assert_int_equal(again->tensor[nbi_graph_find(again, "u")]->producer, 1);
    nbi_buf_free(&bytes);
    nbi_graph_free(g);
    nbi_graph_free(again);
}

/* An initializer of the given type and shape with one data field; the tensor or NULL. */
static nbi_graph *with_initializer(int type, int rank, const int64_t *dim, uint32_t field,
                                   const void *data, size_t size) {
    nbi_buf g = graph_xy(), t = pb_tensor("t", type, rank, dim);
    if (data) pb_bytes(&t, field, data, size);
    pb_message(&g, 5, &t);
    add_node(&g, "Foo", "x t", "y");
    nbi_buf m = pb_model(13, 25, &g);
    return parse(&m);
}

static void expect_data(int type, int rank, const int64_t *dim, uint32_t field, const void *data,
                        size_t size, const void *want, size_t want_size) {
    nbi_buf bytes = {0};
    nbi_graph *g = with_initializer(type, rank, dim, field, data, size), *again = NULL;
    if (!g) fail_msg("type %d, field %u: %s", type, field, nb_ctx_message(ctx));
    const nbi_tensor *t = g->tensor[nbi_graph_find(g, "t")];
    assert_int_equal(nbi_dtype_bytes(t->dtype, (size_t)nbi_tensor_count(t)), want_size);
    assert_memory_equal(t->data, want, want_size);
    assert_int_equal(nbi_onnx_serialize(ctx, g, &bytes), NB_OK);
    assert_int_equal(nbi_onnx_parse(ctx, bytes.data, bytes.size, &again), NB_OK);
    assert_null(graph_differs(g, again));
    nbi_graph_free(g);
    nbi_graph_free(again);
    nbi_buf_free(&bytes);
}

static void test_typed_fields(void **state) {
    (void)state;
    const int64_t two[] = {2}, three[] = {3}, five[] = {5}, none[] = {0, 7};
    const float f[2] = {1.5f, -2};
    const double d[2] = {1.5, -2};
    const uint8_t minus_one[10] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 1};
    expect_data(F32, 1, two, 4, f, 8, f, 8);
    expect_data(F32, 1, two, 9, f, 8, f, 8);
    expect_data(F64, 1, two, 10, d, 16, d, 16);
    expect_data(S64, 0, NULL, 7, minus_one, 10, "\377\377\377\377\377\377\377\377", 8);
    expect_data(S32, 1, two, 5, "\5\200\1", 3, "\5\0\0\0\200\0\0\0", 8);
    expect_data(S8, 0, NULL, 5, minus_one, 10, "\377", 1);
    expect_data(U16, 1, two, 5, "\1\200\2", 3, "\1\0\0\1", 4);
    expect_data(F16, 0, NULL, 5, "\200\170", 2, "\0\074", 2);
    expect_data(U32, 0, NULL, 11, "\200\2", 2, "\0\1\0\0", 4);
    expect_data(BOOL, 1, two, 9, "\0\7", 2, "\0\1", 2);
    /* packed: two or four items per byte, the unused bits of the last one are cleared */
    expect_data(U4, 1, three, 9, "\x21\xf3", 2, "\x21\x03", 2);
    expect_data(S4, 1, three, 5, "\x21\x03", 2, "\x21\x03", 2);
    expect_data(S2, 1, five, 9, "\xe4\xff", 2, "\xe4\x03", 2);
    expect_data(F32, 2, none, 9, "", 0, "", 0);
    expect_data(F32, 2, none, 9, NULL, 0, "", 0);
}

static void test_wrong_data(void **state) {
    (void)state;
    const int64_t two[] = {2}, minus[] = {-2}, huge[] = {INT64_MAX, INT64_MAX};
    const int64_t hidden[] = {0, INT64_MAX};
    const int64_t big[] = {1 << 20, 1 << 19}, nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    const struct {
        int type, rank;
        const int64_t *dim;
        uint32_t field;
        const char *data;
        size_t size;
        const char *message;
    } rows[] = {
        {F32, 1, two, 9, "1234", 4,
         "'t' of shape [2] and type float32: raw_data has 4 items, want 8"},
        {F32, 1, two, 4, "1234", 4, "float_data has 1 items, want 2"},
        {S8, 1, two, 5, "\1\2\3", 3, "int32_data has 3 items, want 2"},
        {U8, 1, two, 5, "\1\200\2", 3, "value 256 does not fit uint8"},
        {F32, 1, two, 9, NULL, 0, "has 0 items, want 2"},
        {F32, 1, minus, 9, "", 0, "dimension 0 is -2"},
        {F32, 2, huge, 9, "", 0, "impossible shape"},
        {F32, 2, hidden, 9, "", 0, "impossible shape"},
        {F32, 2, big, 9, NULL, 0, "want 549755813888"},
        {F32, 9, nine, 9, "1234", 4, "9 dimensions"},
        {STR, 1, two, 6, "a", 1, "string (8): not supported"},
        {17, 1, two, 9, "ab", 2, "float8e4m3fn (17): not supported"},
        {99, 1, two, 9, "ab", 2, "unknown (99): not supported"},
    };
    for (size_t i = 0; i < NBI_COUNT(rows); i++) {
        nbi_graph *g = with_initializer(rows[i].type, rows[i].rank, rows[i].dim, rows[i].field,
                                        rows[i].data, rows[i].size);
        if (g) fail_msg("row %zu was accepted", i);
        if (!strstr(nb_ctx_message(ctx), rows[i].message))
            fail_msg("row %zu: '%s' does not say '%s'", i, nb_ctx_message(ctx), rows[i].message);
    }
}

static void note_warning(void *user, nb_log_level level, const char *text) {
    if (level == NB_LOG_WARNING && strstr(text, "'t' holds NaN")) *(bool *)user = true;
}

static void test_nan_is_reported(void **state) {
    (void)state;
    const float bad[4] = {1, NAN, 0, 0};
    bool warned = false;
    nb_ctx_set_log(ctx, note_warning, &warned);
    nbi_graph *g = with_initializer(F32, 1, four, 9, bad, sizeof bad);
    assert_non_null(g);
    assert_true(warned);
    nbi_graph_free(g);
}

/* ---- refused ------------------------------------------------------------------------------- */

static void test_headers(void **state) {
    (void)state;
    nbi_buf m = {0}, g = graph_xy(), text = {0};
    nbi_buf_append(ctx, &m, "", 0);
    refuse(&m, "empty");
    pb_int(&m, 1, 8);
    refuse(&m, "no graph");
    m = pb_model(0, 13, &g);
    refuse(&m, "ir_version is 0");
    g = graph_xy();
    m = pb_model(-5, 13, &g);
    refuse(&m, "ir_version is -5");
    g = graph_xy();
    m = pb_model(8, 0, &g);
    refuse(&m, "opset version 0");
    g = (nbi_buf){0};
    nbi_buf_append(ctx, &g, "", 0);
    m = model_of(&g);
    refuse(&m, "no outputs");
    g = graph_xy();
    m = model_of(&g);
    nbi_buf extra = graph_xy();
    pb_message(&m, 7, &extra);
    refuse(&m, "second 'graph'");
    nbi_buf_printf(ctx, &text, "<html>404 not found</html>");
    refuse(&text, "not a valid ONNX file");
    g = graph_xy();
    add_node(&g, "Relu", "x", "y");
    m = model_of(&g);
    nbi_buf f = {0};
    pb_text(&f, 1, "MyFunction");
    pb_message(&m, 25, &f);
    refuse(&m, "'MyFunction'");
}

static void refuse_nodes(const char *const *nodes, const char *message_part) {
    nbi_buf g = graph_xy();
    for (; *nodes; nodes += 3) add_node(&g, nodes[0], nodes[1], nodes[2]);
    nbi_buf m = model_of(&g);
    refuse(&m, message_part);
}

static void test_wiring(void **state) {
    (void)state;
    const char *const cycle[] = {"Add", "x b", "a", "Relu", "a", "b", "Add", "x b", "y", NULL};
    const char *const self[] = {"Add", "x y", "y", NULL};
    const char *const twice[] = {"Relu", "x", "y", "Relu", "x", "y", NULL};
    const char *const input[] = {"Relu", "x", "x", "Relu", "x", "y", NULL};
    const char *const unknown[] = {"Relu", "q", "y", NULL};
    const char *const missing[] = {"Relu", "x", "z", NULL};
    const char *const control[] = {"Relu", "x", "y\nz", NULL};
    const char *const utf8[] = {"Relu", "x", "\xc0\xaf", NULL};
    const char *const nameless[] = {"", "x", "y", NULL};
    refuse_nodes(cycle, "cycle");
    refuse_nodes(self, "cycle");
    refuse_nodes(twice, "tensor 'y' is defined twice");
    refuse_nodes(input, "tensor 'x' is defined twice");
    refuse_nodes(unknown, "input 'q' is produced by nobody");
    refuse_nodes(missing, "graph output 'y' is produced by nobody");
    refuse_nodes(control, "control character 0x0a");
    refuse_nodes(utf8, "not valid UTF-8");
    refuse_nodes(nameless, "no operator type");
}

/* The worst order for sorting: every node stands before the one it needs. */
static void test_reversed_chain(void **state) {
    (void)state;
    enum { LENGTH = 20000 };
    nbi_buf g = graph_xy();
    char in[16], out[16];
    for (int i = LENGTH; i > 0; i--) {
        snprintf(in, sizeof in, i == 1 ? "x" : "t%d", i - 1);
        snprintf(out, sizeof out, i == LENGTH ? "y" : "t%d", i);
        add_node(&g, "Foo", in, out);
    }
    nbi_buf m = model_of(&g);
    nbi_graph *ok = parse_ok(&m);
    for (int n = 1; n < LENGTH; n++) assert_int_equal(ok->node[n]->in[0], ok->node[n - 1]->out[0]);
    nbi_graph_free(ok);
}

static void test_initializers(void **state) {
    (void)state;
    nbi_buf g = graph_xy(), v = pb_value("w", F32, 1, four), t, e = {0};
    add_floats(&g, "w"); /* with the input of that name, as before IR version 4 */
    pb_message(&g, 11, &v);
    add_node(&g, "Add", "x w", "y");
    nbi_buf m = model_of(&g);
    nbi_graph *ok = parse_ok(&m);
    assert_int_equal(ok->n_inputs, 1);
    nbi_graph_free(ok);

    g = graph_xy();
    add_floats(&g, "w");
    add_floats(&g, "w");
    m = model_of(&g);
    refuse(&m, "initializer 'w' is defined twice");

    g = graph_xy();
    add_floats(&g, "y");
    add_node(&g, "Relu", "x", "y");
    m = model_of(&g);
    refuse(&m, "tensor 'y' is defined twice");

    g = graph_xy();
    t = pb_tensor("w", F32, 1, four);
    pb_text(&e, 1, "location");
    pb_text(&e, 2, "../weights.bin");
    pb_message(&t, 13, &e);
    pb_int(&t, 14, 1);
    pb_message(&g, 5, &t);
    m = model_of(&g);
    refuse(&m, "'../weights.bin'");

    g = graph_xy();
    nbi_buf sparse = {0};
    t = pb_tensor("s", F32, 1, four);
    pb_message(&sparse, 1, &t);
    pb_message(&g, 15, &sparse);
    m = model_of(&g);
    refuse(&m, "'s' is sparse");
}

static void test_wire_format(void **state) {
    (void)state;
    const struct {
        const char *bytes;
        size_t size;
        const char *message;
    } rows[] = {
        {"\x08", 1, "malformed number"},
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11, "malformed number"},
        {"\x3a\x05zz", 4, "ends past its parent"},
        {"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01zz", 13, "ends past its parent"},
        {"\x00\x00", 2, "bad field tag"},
        {"\xff\xff\xff\xff\xff\x7f", 6, "bad field tag"},
        {"\x3b\x3c", 2, "unknown wire type 3"}, /* a group */
        {"\x3d\0\0\0\0", 5, "'graph' at byte 0 is not a message"},
        {"\x12\x03"
         "a\0b",
         5, "holds a NUL"},
        {"\x0a\x01x", 3, "wrong type"}, /* ir_version as text */
    };
    for (size_t i = 0; i < NBI_COUNT(rows); i++) {
        nbi_buf m = {0};
        nbi_buf_append(ctx, &m, rows[i].bytes, rows[i].size);
        refuse(&m, rows[i].message);
    }
}

static void test_nesting(void **state) {
    (void)state;
    nbi_buf g = graph_xy();
    for (int depth = 0; depth < 5000; depth++) {
        nbi_buf a = {0}, n = pb_node("If", "x", "y"), outer = {0};
        pb_text(&a, 1, "b");
        pb_message(&a, 6, &g);
        pb_message(&n, 5, &a);
        pb_message(&outer, 1, &n);
        g = outer;
    }
    nbi_buf m = model_of(&g);
    refuse(&m, "nested more than");
    nbi_buf type = {0};
    for (int depth = 0; depth < 5000; depth++) { /* sequence of sequence of … */
        nbi_buf sequence = {0}, outer = {0};
        pb_message(&sequence, 1, &type);
        pb_message(&outer, 4, &sequence);
        type = outer;
    }
    nbi_buf v = {0}, graph = {0};
    pb_text(&v, 1, "x");
    pb_message(&v, 2, &type);
    pb_message(&graph, 11, &v);
    m = model_of(&graph);
    refuse(&m, "nested more than");
}

/* Two bytes of file per message of 200 and more in memory. */
static void test_memory_bomb(void **state) {
    (void)state;
    nbi_buf node = {0}, graph = {0}, attrs = {0};
    for (int i = 0; i < 1000; i++) nbi_buf_append(ctx, &attrs, "\x2a\0", 2);
    for (int i = 0; i < 2000; i++) nbi_buf_append(ctx, &node, attrs.data, attrs.size);
    nbi_buf_free(&attrs);
    pb_message(&graph, 1, &node);
    nbi_buf m = model_of(&graph);
    refuse(&m, "of memory to unpack");
    for (int i = 0; i < 70000; i++) nbi_buf_append(ctx, &graph, "\x0a\0", 2);
    m = model_of(&graph);
    refuse(&m, "more than 65536 nodes");
}

/* ---- everything around a good file --------------------------------------------------------- */

static void test_truncations(void **state) {
    (void)state;
    nbi_buf m = small_model();
    for (size_t n = 0; n < m.size; n++) {
        nbi_graph *g = NULL;
        void *exact = NULL; /* so that the address sanitizer sees a read past the end */
        assert_int_equal(nbi_alloc(ctx, n ? n : 1, 1, &exact), NB_OK);
        if (n) memcpy(exact, m.data, n);
        nb_status st = nbi_onnx_parse(ctx, exact, n, &g);
        /* only what follows the graph may be missing: metadata and the second opset import */
        if (st == NB_OK && n + 60 < m.size) fail_msg("%zu of %zu bytes were accepted", n, m.size);
        if (st != NB_OK) assert_true(strlen(nb_ctx_message(ctx)) > 10);
        nbi_graph_free(g);
        nbi_free(exact);
    }
    nbi_buf_free(&m);
}

/* Whatever is accepted can be written and read again, and is then the same graph. */
static void test_bit_flips(void **state) {
    (void)state;
    nbi_buf m = small_model();
    size_t accepted = 0;
    for (size_t bit = 0; bit < m.size * 8; bit++) {
        nbi_graph *g = NULL, *again = NULL;
        nbi_buf bytes = {0};
        m.data[bit / 8] = (char)(m.data[bit / 8] ^ (1 << bit % 8));
        nb_status st = nbi_onnx_parse(ctx, m.data, m.size, &g);
        assert_true(st == NB_OK || st == NB_EFORMAT || st == NB_EUNSUPPORTED);
        if (st == NB_OK && nbi_onnx_serialize(ctx, g, &bytes) == NB_OK) {
            accepted++;
            if (nbi_onnx_parse(ctx, bytes.data, bytes.size, &again) != NB_OK)
                fail_msg("bit %zu: written, but refused: %s", bit, nb_ctx_message(ctx));
            const char *d = graph_differs(g, again);
            if (d) fail_msg("bit %zu: after a round trip: %s", bit, d);
        }
        m.data[bit / 8] = (char)(m.data[bit / 8] ^ (1 << bit % 8));
        nbi_buf_free(&bytes);
        nbi_graph_free(g);
        nbi_graph_free(again);
    }
    print_message("%zu of %zu flips still make a model\n", accepted, m.size * 8);
    assert_true(accepted > 100);
    nbi_buf_free(&m);
}

/* The k-th allocation fails, for every k: NB_ENOMEM, no leak, no crash. */
static void test_no_memory(void **state) {
    (void)state;
    nbi_buf m = small_model();
    for (long k = 1;; k++) {
        nbi_graph *g = NULL;
        nbi_buf bytes = {0};
        nbi_alloc_fail_after(k);
        nb_status st = nbi_onnx_parse(ctx, m.data, m.size, &g);
        if (st == NB_OK) st = nbi_onnx_serialize(ctx, g, &bytes);
        nbi_alloc_fail_after(0);
        nbi_buf_free(&bytes);
        nbi_graph_free(g);
        if (st == NB_OK) break;
        if (st != NB_ENOMEM) fail_msg("allocation %ld: %s", k, nb_ctx_message(ctx));
        assert_true(k < 1000);
    }
    nbi_buf_free(&m);
}

static void test_paths(void **state) {
    (void)state;
    nbi_graph *g = NULL;
    assert_int_equal(nbi_onnx_read(ctx, "/nonexistent.onnx", &g), NB_EIO);
    assert_int_equal(nbi_onnx_read(ctx, "/", &g), NB_EIO);
    assert_non_null(strstr(nb_ctx_message(ctx), "not a regular file"));
    assert_int_equal(nbi_onnx_read(ctx, "/dev/null", &g), NB_EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_small_model), TEST(test_captures),        TEST(test_typed_fields),
        TEST(test_wrong_data),  TEST(test_nan_is_reported), TEST(test_headers),
        TEST(test_wiring),      TEST(test_initializers),    TEST(test_wire_format),
        TEST(test_nesting),     TEST(test_memory_bomb),     TEST(test_truncations),
        TEST(test_bit_flips),   TEST(test_no_memory),       TEST(test_reversed_chain),
        TEST(test_paths),       TEST(test_node_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
