/* Tensors in single files: what is written is read back, malformed headers are
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include "base/npy_header.h"
#include "nibble/nibble.h"
#include "onnx/onnx.h"
#include "ops/op_util.h"

static nb_ctx *ctx;
static char folder[64];

static int setup(void **state) {
    (void)state;
    ctx = nb_ctx_new();
    snprintf(folder, sizeof folder, "/tmp/nibble_test_XXXXXX");
    return ctx == NULL || !mkdtemp(folder);
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    nb_ctx_free(ctx);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const nb_dtype dtypes[] = {NB_DTYPE_F32, NB_DTYPE_F64, NB_DTYPE_F16, NB_DTYPE_S8,
                                  NB_DTYPE_U8,  NB_DTYPE_S16, NB_DTYPE_U16, NB_DTYPE_S32,
                                  NB_DTYPE_U32, NB_DTYPE_S64, NB_DTYPE_U64, NB_DTYPE_BOOL};
static const nb_dtype pb_only[] = {NB_DTYPE_BF16, NB_DTYPE_S4, NB_DTYPE_U4, NB_DTYPE_S2,
                                   NB_DTYPE_U2};

static void check_one(nbi_graph *g, nb_dtype dtype, int rank, const int64_t *dim, bool npy) {
    int a, b = -1;
    const char *path = in_folder(npy ? "t.npy" : "t.pb");
    assert_int_equal(nbi_graph_add_const(ctx, g, "t", dtype, rank, dim, &a), NB_OK);
    const nbi_tensor *t = g->tensor[a];
    size_t bytes = nbi_dtype_bytes(dtype, (size_t)nbi_tensor_count(t));
    /* 1 is valid in every byte of every type, and leaves unused bits clear */
    memset(t->data, 1, bytes);
    nb_status st = npy ? nbi_tensor_write_npy(ctx, t, path) : nbi_tensor_write_pb(ctx, t, path);
    if (st == NB_OK)
        st = npy ? nbi_tensor_read_npy(ctx, path, g, &b) : nbi_tensor_read_pb(ctx, path, g, &b);
    if (st != NB_OK) fail_msg("%s: %s", nbi_dtype_name(dtype), nb_ctx_message(ctx));
    const nbi_tensor *r = g->tensor[b];
    assert_int_equal(r->dtype, dtype);
    assert_int_equal(r->rank, rank);
    for (int i = 0; i < rank; i++) assert_int_equal(r->dim[i], dim[i]);
    assert_memory_equal(r->data, t->data, bytes);
}

static void test_write_then_read(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{0, 0, 0}, {5, 0, 0}, {2, 3, 0}, {2, 0, 3}, {1, 2, 3}};
    static const int ranks[] = {0, 1, 2, 3, 3};
    nbi_graph *g;
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    for (size_t s = 0; s < NBI_COUNT(ranks); s++) {
        for (size_t i = 0; i < NBI_COUNT(dtypes); i++) {
            check_one(g, dtypes[i], ranks[s], shapes[s], true);
            check_one(g, dtypes[i], ranks[s], shapes[s], false);
        }
        for (size_t i = 0; i < NBI_COUNT(pb_only); i++)
            check_one(g, pb_only[i], ranks[s], shapes[s], false);
    }
    nbi_graph_free(g);
}

/* Version 1 header around a dictionary. */
static size_t header(uint8_t *to, const char *dictionary) {
    size_t n = strlen(dictionary);
    memcpy(to, "\x93NUMPY\1\0", 8);
    to[8] = (uint8_t)n;
    to[9] = (uint8_t)(n >> 8);
    memcpy(to + 10, dictionary, n);
    return 10 + n;
}

static void test_headers(void **state) {
    (void)state;
    uint8_t bytes[512];
    nbi_npy_info npy;
    size_t n = header(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }      \n");
    assert_int_equal(nbi_npy_parse(ctx, "a", bytes, n, &npy), NB_OK);
    assert_int_equal(npy.dtype, NB_DTYPE_F32);
    assert_int_equal(npy.rank, 2);
    assert_int_equal(npy.dim[1], 3);
    assert_int_equal(npy.offset, n);
    assert_int_equal(npy.bytes, 24);
    n = header(bytes, "{\"shape\":(),\"fortran_order\":False,\"descr\":\"|u1\"}");
    assert_int_equal(nbi_npy_parse(ctx, "a", bytes, n, &npy), NB_OK);
    assert_int_equal(npy.rank, 0);
    assert_int_equal(npy.bytes, 1);
    for (size_t k = 0; k < n; k++) /* every prefix */
        assert_int_equal(nbi_npy_parse(ctx, "a", bytes, k, &npy), NB_EFORMAT);
    static const struct {
        const char *text;
        nb_status want;
    } rows[] = {
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}", NB_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", NB_EUNSUPPORTED},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (2,)}", NB_EUNSUPPORTED},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", NB_EUNSUPPORTED},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", NB_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", NB_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", NB_EFORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", NB_EFORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,1099511627776)}",
         NB_EFORMAT},
        {"{'descr': '<f4', 'fortran_order': False}", NB_EFORMAT},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}", NB_EFORMAT},
        {"{'descr': '<f4', 'fortran_order': maybe, 'shape': ()}", NB_EFORMAT},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': ()}", NB_EFORMAT},
        {"__import__('os')", NB_EFORMAT},
    };
    for (size_t i = 0; i < NBI_COUNT(rows); i++) {
        n = header(bytes, rows[i].text);
        if (nbi_npy_parse(ctx, "a", bytes, n, &npy) != rows[i].want)
            fail_msg("%s: %s", rows[i].text, nb_ctx_message(ctx));
    }
}

static void test_wrong_size(void **state) {
    (void)state;
    uint8_t bytes[512];
    nbi_graph *g;
    int t;
    size_t n = header(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n");
    memset(bytes + n, 0, 24);
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    for (size_t more = 20; more <= 28; more += 4) {
        assert_int_equal(nbi_file_write(ctx, in_folder("x.npy"), bytes, n + more), NB_OK);
        assert_int_equal(nbi_tensor_read_npy(ctx, in_folder("x.npy"), g, &t),
                         more == 24 ? NB_OK : NB_EFORMAT);
    }
    assert_string_equal(g->tensor[t]->name, "x");
    nbi_graph_free(g);
}

static void add_array(zip_t *zip, const char *name, const nbi_buf *bytes) {
    zip_source_t *source = zip_source_buffer(zip, bytes->data, bytes->size, 0);
    assert_true(zip_file_add(zip, name, source, 0) >= 0);
}

static void test_npz(void **state) {
    (void)state;
    const int64_t two[] = {2};
    const float values[2] = {1.5f, -3};
    nbi_buf bytes = {0};
    nbi_graph *g;
    int t;
    assert_int_equal(nbi_npy_write_header(ctx, NB_DTYPE_F32, 1, two, &bytes), NB_OK);
    assert_int_equal(bytes.size % 64, 0);
    assert_int_equal(nbi_buf_append(ctx, &bytes, values, sizeof values), NB_OK);
    zip_t *zip = zip_open(in_folder("a.npz"), ZIP_CREATE, NULL);
    add_array(zip, "x.npy", &bytes);
    add_array(zip, "y.npy", &bytes);
    assert_int_equal(zip_close(zip), 0);
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    assert_int_equal(nbi_tensor_read_npz(ctx, in_folder("a.npz"), "y", g, &t), NB_OK);
    assert_string_equal(g->tensor[t]->name, "y");
    assert_memory_equal(g->tensor[t]->data, values, sizeof values);
    assert_int_equal(nbi_tensor_read_npz(ctx, in_folder("a.npz"), "z", g, &t), NB_EINVAL);
    assert_int_equal(nbi_tensor_read_npz(ctx, in_folder("a.npz"), NULL, g, &t), NB_EINVAL);
    assert_int_equal(nbi_file_write(ctx, in_folder("b.npz"), "PK\3\4junk", 8), NB_OK);
    assert_int_equal(nbi_tensor_read_npz(ctx, in_folder("b.npz"), NULL, g, &t), NB_EFORMAT);
    nbi_buf_free(&bytes);
    nbi_graph_free(g);
}

/* A graph that is only a constant: types below 8 bits need an opset that has them. */
static void test_small_dtypes_need_new_opsets(void **state) {
    (void)state;
    static const int64_t four[] = {4};
    const struct {
        nb_dtype dtype;
        int opset;
        nb_status want;
    } rows[] = {{NB_DTYPE_S4, 20, NB_EINVAL},
                {NB_DTYPE_S4, 21, NB_OK},
                {NB_DTYPE_U2, 24, NB_EINVAL},
                {NB_DTYPE_U2, 25, NB_OK},
                {NB_DTYPE_S8, 13, NB_OK}};
    for (size_t i = 0; i < NBI_COUNT(rows); i++) {
        nbi_graph *g;
        nbi_buf bytes = {0};
        int t;
        assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
        g->opset = rows[i].opset;
        assert_int_equal(nbi_graph_add_const(ctx, g, "q", rows[i].dtype, 1, four, &t), NB_OK);
        assert_int_equal(nbi_graph_set_outputs(ctx, g, 1, &t), NB_OK);
        assert_int_equal(nbi_onnx_serialize(ctx, g, &bytes), rows[i].want);
        nbi_buf_free(&bytes);
        nbi_graph_free(g);
    }
}

/* Models that read int4 from a file, and make float32 of it or give it back. */
static void test_run_on_int4(void **state) {
    (void)state;
    static const int8_t code[5] = {-8, 7, 0, -1, 3};
    const int64_t five[1] = {5};
    for (int same = 0; same < 2; same++) {
        char path[3][128], *json = NULL;
        nbi_graph *g;
        nb_model *model = NULL;
        int x, y, stored, real, in[2];
        assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
        g->opset = 21;
        nb_dtype out = same ? NB_DTYPE_S4 : NB_DTYPE_F32;
        assert_int_equal(nbi_graph_add_const(ctx, g, "c", NB_DTYPE_S4, 1, five, &stored), NB_OK);
        nbi_bits_pack(NB_DTYPE_S4, code, 5, g->tensor[stored]->data);
        assert_int_equal(nbi_graph_add_const(ctx, g, "r", NB_DTYPE_F32, 1, five, &real), NB_OK);
        for (int i = 0; i < 5; i++) ((float *)g->tensor[real]->data)[i] = 0.5f * (float)code[i];
        assert_int_equal(nbi_graph_add_const(ctx, g, "s", NB_DTYPE_F32, 0, NULL, &in[1]), NB_OK);
        *(float *)g->tensor[in[1]]->data = 0.5f;
        assert_int_equal(nbi_graph_add_tensor(ctx, g, "x", NB_DTYPE_S4, 1, five, &x), NB_OK);
        assert_int_equal(nbi_graph_add_tensor(ctx, g, "y", out, 1, five, &y), NB_OK);
        in[0] = x;
        const char *op = same ? "Identity" : "DequantizeLinear";
        assert_int_equal(nbi_graph_add_node(ctx, g, "n", "", op, 2 - same, in, 1, &y, NULL), NB_OK);
        assert_int_equal(nbi_graph_set_inputs(ctx, g, 1, &x), NB_OK);
        assert_int_equal(nbi_graph_set_outputs(ctx, g, 1, &y), NB_OK);
        for (int i = 0; i < 3; i++) snprintf(path[i], sizeof path[i], "%s/%d.pb", folder, i);
        assert_int_equal(nbi_tensor_write_pb(ctx, g->tensor[stored], path[0]), NB_OK);
        assert_int_equal(nbi_tensor_write_pb(ctx, g->tensor[same ? stored : real], path[1]), NB_OK);
        assert_int_equal(nbi_onnx_write(ctx, g, path[2]), NB_OK);
        nbi_graph_free(g);
        const char *inputs[1] = {path[0]}, *expect[1] = {path[1]};
        nb_run_options o = {inputs, 1, NULL, expect, 1};
        if (nb_model_load(ctx, path[2], &model) != NB_OK ||
            nb_model_run(ctx, model, &o, &json) != NB_OK)
            fail_msg("%s: %s", op, nb_ctx_message(ctx));
        nb_model_free(model);
        nb_free(json);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {TEST(test_write_then_read), TEST(test_headers),
                                       TEST(test_wrong_size), TEST(test_npz),
                                       TEST(test_small_dtypes_need_new_opsets),
                                       TEST(test_run_on_int4)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
