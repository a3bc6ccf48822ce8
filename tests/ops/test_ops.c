/* Operators by hand: views of any strides, old opsets, messages of wrong attributes, folding. */
#include "exec/exec.h"
#include "ops/op_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* A graph of one node: inputs x0, x1 … of the given shapes, float32; output y. */
typedef struct one {
    nb_ctx *ctx;
    nbi_graph *g;
    nbi_node *node;
    int in[8], n_in;
} one;

static void begin(one *o, int opset) {
    memset(o, 0, sizeof *o);
    o->ctx = nb_ctx_new();
    assert_int_equal(nbi_graph_new(o->ctx, &o->g), NB_OK);
    o->g->opset = opset;
}

static void input(one *o, int rank, const int64_t *dim) {
    assert_int_equal(
        nbi_graph_add_tensor(o->ctx, o->g, NULL, NB_DTYPE_F32, rank, dim, &o->in[o->n_in++]),
        NB_OK);
}

static void constant_ints(one *o, int n, const int64_t *values) {
    int t;
    int64_t dim = n;
    assert_int_equal(nbi_graph_add_const(o->ctx, o->g, NULL, NB_DTYPE_S64, 1, &dim, &t), NB_OK);
    memcpy(o->g->tensor[t]->data, values, (size_t)n * sizeof *values);
    o->in[o->n_in++] = t;
}

static void node(one *o, const char *type) {
    int y, inputs[8], n = 0;
    assert_int_equal(nbi_graph_add_tensor(o->ctx, o->g, "y", NB_DTYPE_NONE, -1, NULL, &y), NB_OK);
    assert_int_equal(
        nbi_graph_add_node(o->ctx, o->g, "n1", "", type, o->n_in, o->in, 1, &y, &o->node), NB_OK);
    for (int i = 0; i < o->n_in; i++)
        if (!o->g->tensor[o->in[i]]->data) inputs[n++] = o->in[i];
    assert_int_equal(nbi_graph_set_inputs(o->ctx, o->g, n, inputs), NB_OK);
    assert_int_equal(nbi_graph_set_outputs(o->ctx, o->g, 1, &y), NB_OK);
}

static void end(one *o) {
    nbi_graph_free(o->g);
    nb_ctx_free(o->ctx);
}

/* Inference fails, and the message holds all the words. */
static void fails(one *o, nb_status want, const char *a, const char *b) {
    nb_status st = nbi_node_infer(o->ctx, o->g, o->node);
    if (st != want || !strstr(nb_ctx_message(o->ctx), a) || !strstr(nb_ctx_message(o->ctx), b))
        print_message("status %d: %s\n", (int)st, nb_ctx_message(o->ctx));
    assert_int_equal(st, want);
    assert_non_null(strstr(nb_ctx_message(o->ctx), "n1"));
    assert_non_null(strstr(nb_ctx_message(o->ctx), a));
    assert_non_null(strstr(nb_ctx_message(o->ctx), b));
    end(o);
}

static void test_messages(void **state) {
    one o;
    (void)state;
    begin(&o, 13);
    input(&o, 4, (int64_t[]){1, 3, 8, 8});
    input(&o, 4, (int64_t[]){4, 2, 3, 3});
    node(&o, "Conv");
    fails(&o, NB_EFORMAT, "3 channels", "want 2");

    begin(&o, 13);
    input(&o, 4, (int64_t[]){1, 3, 8, 8});
    input(&o, 4, (int64_t[]){4, 3, 3, 3});
    node(&o, "Conv");
    nbi_node_set_ints(o.ctx, o.g, o.node, "strides", 2, (int64_t[]){0, 1});
    fails(&o, NB_EFORMAT, "strides", "0");

    begin(&o, 13);
    input(&o, 4, (int64_t[]){1, 3, 2, 2});
    input(&o, 4, (int64_t[]){4, 3, 3, 3});
    node(&o, "Conv");
    fails(&o, NB_EFORMAT, "window of 3", "2 values");

    begin(&o, 13);
    input(&o, 2, (int64_t[]){2, 3});
    input(&o, 2, (int64_t[]){4, 3});
    node(&o, "Add");
    fails(&o, NB_EFORMAT, "[2,3]", "[4,3]");

    begin(&o, 13);
    input(&o, 2, (int64_t[]){2, 3});
    constant_ints(&o, 2, (int64_t[]){4, 2});
    node(&o, "Reshape");
    fails(&o, NB_EFORMAT, "6 elements", "8");

    begin(&o, 13);
    input(&o, 2, (int64_t[]){2, 3});
    node(&o, "Concat");
    nbi_node_set_int(o.ctx, o.g, o.node, "axis", 2);
    fails(&o, NB_EFORMAT, "axis is 2", "-2 to 1");

    begin(&o, 13);
    input(&o, 1, (int64_t[]){6});
    o.g->tensor[o.in[0]]->dtype = NB_DTYPE_U8;
    input(&o, 0, NULL);
    input(&o, 0, NULL);
    o.g->tensor[o.in[2]]->dtype = NB_DTYPE_S8;
    node(&o, "DequantizeLinear");
    fails(&o, NB_EFORMAT, "uint8", "int8");

    begin(&o, 13);
    input(&o, 2, (int64_t[]){2, 3});
    node(&o, "Gemm");
    fails(&o, NB_EFORMAT, "1 inputs", "want 2");
}

/* What is valid but not supported leaves the node unknown, and says why in the log. */
static void test_unsupported(void **state) {
    one o;
    (void)state;
    begin(&o, 15);
    input(&o, 2, (int64_t[]){2, 3});
    for (int i = 0; i < 3; i++) input(&o, 1, (int64_t[]){3});
    o.in[3] = o.in[2];
    node(&o, "BatchNormalization");
    o.node->n_in = 4;
    assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_EFORMAT); /* four inputs, want five */
    end(&o);
    /* size, kernel, stride, dilation, pads: windows of padding alone have no maximum */
    static const int64_t windows[][7] = {
        {4, 2, 1, 1, 2, 0, 0}, {4, 2, 1, 1, 0, 2, 0}, {1, 2, 1, 2, 1, 1, 0}, {2, 2, 1, 3, 1, 2, 0},
        {4, 2, 1, 1, 1, 1, 1}, {2, 2, 2, 2, 2, 2, 1}, {1, 3, 1, 2, 2, 2, 1}, {5, 3, 2, 2, 4, 4, 1}};
    for (size_t i = 0; i < NBI_COUNT(windows); i++) {
        const int64_t *v = windows[i];
        begin(&o, 13);
        input(&o, 3, (int64_t[]){1, 2, v[0]});
        node(&o, "MaxPool");
        nbi_node_set_ints(o.ctx, o.g, o.node, "kernel_shape", 1, v + 1);
        nbi_node_set_ints(o.ctx, o.g, o.node, "strides", 1, v + 2);
        nbi_node_set_ints(o.ctx, o.g, o.node, "dilations", 1, v + 3);
        nbi_node_set_ints(o.ctx, o.g, o.node, "pads", 2, v + 4);
        assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_OK);
        if ((o.node->op != NULL) != (v[6] != 0)) fail_msg("window %zu", i);
        end(&o);
    }
    begin(&o, 13);
    input(&o, 2, (int64_t[]){2, 3});
    o.g->tensor[o.in[0]]->dtype = NB_DTYPE_F16;
    node(&o, "Relu");
    assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_OK);
    assert_null(o.node->op);
    nbi_exec *e = NULL;
    assert_int_equal(nbi_exec_new(o.ctx, o.g, 0, &e), NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(o.ctx), "Relu"));
    end(&o);
}

static void fill(float *x, size_t n, uint64_t seed) {
    nbi_rng rng;
    nbi_rng_seed(&rng, seed, 1);
    for (size_t i = 0; i < n; i++) x[i] = 2 * nbi_rng_uniform(&rng) - 1;
}

/* forward() on channels-last views gives what it gives on contiguous ones. */
static void strided_equals_plain(one *o, const float *w) {
    enum { MAX = 4096 };
    static float x[MAX], xl[MAX], y[MAX], yl[MAX];
    assert_int_equal(nbi_node_infer(o->ctx, o->g, o->node), NB_OK);
    const nbi_tensor *tx = o->g->tensor[o->in[0]], *ty = o->g->tensor[o->node->out[0]];
    nbi_view in[4] = {{0}}, inl[4], out = {.dtype = NB_DTYPE_F32, .rank = ty->rank}, outl;
    for (int i = 0; i < o->n_in; i++) {
        const nbi_tensor *t = o->g->tensor[o->in[i]];
        in[i] = (nbi_view){.dtype = t->dtype, .rank = t->rank, .data = t->data};
        memcpy(in[i].dim, t->dim, sizeof t->dim);
        nbi_view_contiguous(&in[i]);
        inl[i] = in[i];
    }
    memcpy(out.dim, ty->dim, sizeof ty->dim);
    nbi_view_contiguous(&out);
    outl = out;
    assert_true(nbi_tensor_count(tx) <= MAX && nbi_tensor_count(ty) <= MAX);
    fill(x, (size_t)nbi_tensor_count(tx), 7);
    in[0].data = x;
    inl[0].data = xl;
    nbi_view_channels_last(&inl[0]);
    nbi_view_channels_last(&outl);
    nbi_view_copy(&inl[0], &in[0]);
    if (w) memcpy(&in[1].data, &w, sizeof w), memcpy(&inl[1].data, &w, sizeof w);
    out.data = y;
    outl.data = yl;
    nbi_op_call plain = {o->ctx, o->g, o->node, in, &out, 0};
    nbi_op_call last = {o->ctx, o->g, o->node, inl, &outl, 0};
    assert_int_equal(o->node->op->forward(&plain), NB_OK);
    assert_int_equal(o->node->op->forward(&last), NB_OK);
    static float back[MAX];
    nbi_view again = out;
    again.data = back;
    nbi_view_copy(&again, &outl);
    assert_memory_equal(back, y, (size_t)nbi_tensor_count(ty) * sizeof *y);
    end(o);
}

static void test_strides(void **state) {
    static float w[6 * 2 * 3 * 3];
    one o;
    (void)state;
    fill(w, NBI_COUNT(w), 3);
    begin(&o, 13);
    input(&o, 4, (int64_t[]){2, 4, 9, 7});
    input(&o, 4, (int64_t[]){6, 2, 3, 3});
    node(&o, "Conv");
    nbi_node_set_int(o.ctx, o.g, o.node, "group", 2);
    nbi_node_set_ints(o.ctx, o.g, o.node, "pads", 4, (int64_t[]){1, 0, 2, 1});
    nbi_node_set_ints(o.ctx, o.g, o.node, "strides", 2, (int64_t[]){2, 1});
    nbi_node_set_ints(o.ctx, o.g, o.node, "dilations", 2, (int64_t[]){1, 2});
    strided_equals_plain(&o, w);

    static const char *const simple[] = {
        "Relu",          "Sigmoid",    "Softmax",   "GlobalAveragePool",
        "GlobalMaxPool", "ReduceMean", "HardSwish", "Clip"};
    for (size_t i = 0; i < NBI_COUNT(simple); i++) {
        begin(&o, 14);
        input(&o, 4, (int64_t[]){2, 5, 4, 3});
        node(&o, simple[i]);
        strided_equals_plain(&o, NULL);
    }
    for (int i = 0; i < 2; i++) {
        begin(&o, 13);
        input(&o, 4, (int64_t[]){2, 5, 6, 5});
        node(&o, i ? "MaxPool" : "AveragePool");
        nbi_node_set_ints(o.ctx, o.g, o.node, "kernel_shape", 2, (int64_t[]){3, 2});
        nbi_node_set_ints(o.ctx, o.g, o.node, "pads", 4, (int64_t[]){1, 1, 1, 0});
        strided_equals_plain(&o, NULL);
    }
    begin(&o, 13);
    input(&o, 4, (int64_t[]){2, 5, 6, 5});
    constant_ints(&o, 2, (int64_t[]){-1, 1});
    constant_ints(&o, 2, (int64_t[]){-100, 100});
    constant_ints(&o, 2, (int64_t[]){2, 3});
    node(&o, "Slice");
    o.node->n_in = 4;
    assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_OK);
    assert_int_equal(o.g->tensor[o.node->out[0]]->dim[2], 0); /* step +1 from the end: empty */
    end(&o);
    begin(&o, 13); /* backwards from before the first: the first, as ONNX Runtime does it */
    input(&o, 1, (int64_t[]){4});
    const int64_t list[] = {-6, -9, 0, -1};
    for (int i = 0; i < 4; i++) constant_ints(&o, 1, &list[i]);
    node(&o, "Slice");
    assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_OK);
    assert_int_equal(o.g->tensor[o.node->out[0]]->dim[0], 1);
    end(&o);
}

/* Reshape(x, Concat(Slice(Shape(x)), -1)) becomes a Reshape with a constant shape. */
static void test_fold(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *g, *s;
    int x, shape, head, flat, y, zero, one_, open;
    (void)state;
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    nbi_graph_add_tensor(ctx, g, "x", NB_DTYPE_F32, 3, (int64_t[]){-1, 4, 5}, &x);
    nbi_graph_add_const(ctx, g, "zero", NB_DTYPE_S64, 1, (int64_t[]){1}, &zero);
    nbi_graph_add_const(ctx, g, "one", NB_DTYPE_S64, 1, (int64_t[]){1}, &one_);
    nbi_graph_add_const(ctx, g, "open", NB_DTYPE_S64, 1, (int64_t[]){1}, &open);
    *(int64_t *)g->tensor[one_]->data = 1;
    *(int64_t *)g->tensor[open]->data = -1;
    nbi_graph_add_tensor(ctx, g, "shape", NB_DTYPE_NONE, -1, NULL, &shape);
    nbi_graph_add_tensor(ctx, g, "head", NB_DTYPE_NONE, -1, NULL, &head);
    nbi_graph_add_tensor(ctx, g, "flat", NB_DTYPE_NONE, -1, NULL, &flat);
    nbi_graph_add_tensor(ctx, g, "y", NB_DTYPE_NONE, -1, NULL, &y);
    nbi_node *concat;
    nbi_graph_add_node(ctx, g, "a", "", "Shape", 1, &x, 1, &shape, NULL);
    nbi_graph_add_node(ctx, g, "b", "", "Slice", 3, (int[]){shape, zero, one_}, 1, &head, NULL);
    nbi_graph_add_node(ctx, g, "c", "", "Concat", 2, (int[]){head, open}, 1, &flat, &concat);
    nbi_node_set_int(ctx, g, concat, "axis", 0);
    nbi_graph_add_node(ctx, g, "d", "", "Reshape", 2, (int[]){x, flat}, 1, &y, NULL);
    nbi_graph_set_inputs(ctx, g, 1, &x);
    nbi_graph_set_outputs(ctx, g, 1, &y);
    assert_int_equal(nbi_specialize_batch(ctx, g, 3, &s), NB_OK);
    assert_int_equal(s->n_nodes, 1);
    assert_string_equal(s->node[0]->op_type, "Reshape");
    assert_int_equal(s->tensor[s->output[0]]->dim[0], 3);
    assert_int_equal(s->tensor[s->output[0]]->dim[1], 20);
    nbi_graph_free(s);
    /* Every allocation of the way may fail: an error, no crash, no leak. */
    for (long k = 1; k < 40; k++) {
        nbi_exec *e = NULL;
        s = NULL;
        nbi_alloc_fail_after(k);
        nb_status st = nbi_specialize_batch(ctx, g, 3, &s);
        if (st == NB_OK) st = nbi_exec_new(ctx, s, 0, &e);
        nbi_alloc_fail_after(0);
        assert_true(st == NB_OK || st == NB_ENOMEM);
        nbi_exec_free(e);
        nbi_graph_free(s);
    }
    nbi_graph_free(g);
    nb_ctx_free(ctx);
}

/* x → Conv → Relu → (Conv → Add x) with everything that is fused, in place and kept. */
static void test_modes_agree(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *g;
    int x, w, a, b, c, y;
    float in[2 * 8 * 6 * 6], values[3][2 * 8 * 6 * 6];
    (void)state;
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    const int64_t dim[4] = {2, 8, 6, 6};
    nbi_graph_add_tensor(ctx, g, "x", NB_DTYPE_F32, 4, dim, &x);
    nbi_graph_add_const(ctx, g, "w", NB_DTYPE_F32, 4, (int64_t[]){8, 8, 3, 3}, &w);
    fill(g->tensor[w]->data, 8 * 8 * 9, 5);
    fill(in, NBI_COUNT(in), 6);
    nbi_graph_add_tensor(ctx, g, "a", NB_DTYPE_NONE, -1, NULL, &a);
    nbi_graph_add_tensor(ctx, g, "b", NB_DTYPE_NONE, -1, NULL, &b);
    nbi_graph_add_tensor(ctx, g, "c", NB_DTYPE_NONE, -1, NULL, &c);
    nbi_graph_add_tensor(ctx, g, "y", NB_DTYPE_NONE, -1, NULL, &y);
    nbi_node *conv[2];
    nbi_graph_add_node(ctx, g, "n0", "", "Conv", 2, (int[]){x, w}, 1, &a, &conv[0]);
    nbi_graph_add_node(ctx, g, "n1", "", "Relu", 1, &a, 1, &b, NULL);
    nbi_graph_add_node(ctx, g, "n2", "", "Conv", 2, (int[]){b, w}, 1, &c, &conv[1]);
    for (int i = 0; i < 2; i++)
        nbi_node_set_ints(ctx, g, conv[i], "pads", 4, (int64_t[]){1, 1, 1, 1});
    nbi_graph_add_node(ctx, g, "n3", "", "Add", 2, (int[]){c, b}, 1, &y, NULL);
    nbi_graph_set_inputs(ctx, g, 1, &x);
    nbi_graph_set_outputs(ctx, g, 1, &y);
    assert_int_equal(nbi_graph_infer(ctx, g), NB_OK);
    const unsigned mode[3] = {NBI_EXEC_REFERENCE | NBI_EXEC_KEEP_ALL, 0, NBI_EXEC_KEEP_ALL};
    for (int m = 0; m < 3; m++) {
        nbi_exec *e;
        nbi_view v, out = {.dtype = NB_DTYPE_F32, .rank = 4, .data = values[m]};
        memcpy(out.dim, dim, sizeof dim);
        nbi_view_contiguous(&out);
        assert_int_equal(nbi_exec_new(ctx, g, mode[m], &e), NB_OK);
        for (int run = 0; run < 2; run++) /* a second run must not see the first one's buffers */
            assert_int_equal(nbi_exec_run(ctx, e, (const void *const[]){in}), NB_OK);
        assert_int_equal(nbi_exec_value(ctx, e, y, &v), NB_OK);
        nbi_view_copy(&out, &v);
        /* The raw output of the convolution exists where everything is kept, and only there. */
        nb_status st = nbi_exec_value(ctx, e, a, &v);
        assert_int_equal(st, mode[m] == 0 ? NB_EINVAL : NB_OK);
        nbi_exec_free(e);
        for (size_t i = 0; i < NBI_COUNT(in); i++) /* order of summation, no more */
            assert_true(fabs((double)values[m][i] - (double)values[0][i]) < 1e-4);
    }
    nbi_graph_free(g);
    nb_ctx_free(ctx);
}

/* Before opset 7 the second operand could run along the images, as many as there are rows: it is
 * not divided among workers as the first one is. */
static void test_old_broadcast(void **state) {
    enum { N = 64, C = 2 };
    static float a[N * C * N], b[N], got[2][N * C * N];
    (void)state;
    fill(a, NBI_COUNT(a), 1);
    fill(b, N, 2);
    for (int fast = 0; fast < 2; fast++) {
        one o;
        nbi_exec *e = NULL;
        nbi_view v;
        begin(&o, 6);
        nb_ctx_set_threads(o.ctx, fast ? 2 : 1);
        input(&o, 3, (int64_t[]){N, C, N});
        input(&o, 1, (int64_t[]){N});
        node(&o, "Add");
        nbi_node_set_int(o.ctx, o.g, o.node, "broadcast", 1);
        nbi_node_set_int(o.ctx, o.g, o.node, "axis", 0);
        assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_OK);
        assert_int_equal(nbi_exec_new(o.ctx, o.g, fast ? 0 : NBI_EXEC_REFERENCE, &e), NB_OK);
        assert_int_equal(nbi_exec_run(o.ctx, e, (const void *const[]){a, b}), NB_OK);
        assert_int_equal(nbi_exec_value(o.ctx, e, o.node->out[0], &v), NB_OK);
        memcpy(got[fast], v.data, sizeof got[fast]);
        nbi_exec_free(e);
        end(&o);
    }
    for (int i = 0; i < N * C * N; i++) assert_true(got[0][i] == a[i] + b[i / (C * N)]);
    assert_memory_equal(got[0], got[1], sizeof got[0]);
}

/* An output that nobody asked for is skipped, not what lies behind it. */
static void test_split_omits(void **state) {
    static const float x[6] = {0, 1, 2, 3, 4, 5};
    one o;
    int last;
    nbi_exec *e = NULL;
    nbi_view v;
    (void)state;
    begin(&o, 13);
    input(&o, 1, (int64_t[]){6});
    constant_ints(&o, 3, (int64_t[]){1, 3, 2});
    assert_int_equal(nbi_graph_add_tensor(o.ctx, o.g, "a", NB_DTYPE_NONE, -1, NULL, &last), NB_OK);
    int out[3] = {last, NBI_NO_TENSOR, -1};
    assert_int_equal(nbi_graph_add_tensor(o.ctx, o.g, "c", NB_DTYPE_NONE, -1, NULL, &last), NB_OK);
    out[2] = last;
    assert_int_equal(
        nbi_graph_add_node(o.ctx, o.g, "n1", "", "Split", 2, o.in, 3, out, &o.node), NB_OK);
    assert_int_equal(nbi_graph_set_inputs(o.ctx, o.g, 1, o.in), NB_OK);
    assert_int_equal(nbi_graph_set_outputs(o.ctx, o.g, 1, &last), NB_OK);
    assert_int_equal(nbi_node_infer(o.ctx, o.g, o.node), NB_OK);
    assert_int_equal(nbi_exec_new(o.ctx, o.g, NBI_EXEC_REFERENCE, &e), NB_OK);
    assert_int_equal(nbi_exec_run(o.ctx, e, (const void *const[]){x}), NB_OK);
    assert_int_equal(nbi_exec_value(o.ctx, e, last, &v), NB_OK);
    assert_int_equal(nbi_view_count(&v), 2);
    assert_memory_equal(v.data, x + 4, 2 * sizeof *x);
    nbi_exec_free(e);
    end(&o);
}

/* Every row is complete, and no name stands twice. */
static void test_table(void **state) {
    size_t n;
    const nbi_op *const *op = nbi_ops(&n);
    (void)state;
    assert_true(n >= 60);
    for (size_t i = 0; i < n; i++) {
        assert_non_null(op[i]->prepare);
        assert_non_null(op[i]->infer);
        assert_non_null(op[i]->forward);
        assert_ptr_equal(nbi_op_find(op[i]->domain, op[i]->name), op[i]);
    }
    assert_null(nbi_op_find("", "NoSuchOperator"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_messages),
        cmocka_unit_test(test_unsupported), cmocka_unit_test(test_strides),
        cmocka_unit_test(test_fold),        cmocka_unit_test(test_modes_agree),
        cmocka_unit_test(test_split_omits), cmocka_unit_test(test_old_broadcast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
