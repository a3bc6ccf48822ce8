/* The ONNX backend tests whose operators this build knows, run by the reference and by the fast
 * path, against the outputs that ONNX ships. Tolerances are the ONNX test runner's defaults. */
#include "base/base.h"
#include "exec/exec.h"
#include "onnx/onnx.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RTOL   1e-3
#define ATOL   1e-7
#define MAX_IO 16

/* Cases that pass in both modes when this list was last revised; fewer is a regression. */
#define LEAST_PASSED 627

typedef enum verdict { PASSED, UNKNOWN_OP, UNSUPPORTED_TYPE, FAILED } verdict;

typedef struct io {
    nbi_graph *graph; /* owns the tensors */
    int n_in, n_out;
    nbi_tensor *in[MAX_IO], *out[MAX_IO];
} io;

static bool type_is_supported(nb_dtype dtype) {
    return nbi_dtype_bits(dtype) > 0 && dtype != NB_DTYPE_F16 && dtype != NB_DTYPE_BF16;
}

/* Reads <dir>/<kind>_0.pb …; false when one exists that cannot be read. */
static bool read_tensors(nb_ctx *ctx, io *d, const char *dir, const char *kind, nbi_tensor **list,
                         int *n) {
    for (*n = 0; *n < MAX_IO; ++*n) {
        char path[1024];
        int t;
        snprintf(path, sizeof path, "%s/%s_%d.pb", dir, kind, *n);
        if (!nbi_file_exists(path)) return true;
        if (nbi_tensor_read_pb(ctx, path, d->graph, &t) != NB_OK) return false;
        list[*n] = d->graph->tensor[t];
        if (!type_is_supported(list[*n]->dtype)) return false;
    }
    return true;
}

/* One element per byte below 8 bits, as the engine sees them. */
static double element(const nbi_tensor *t, int64_t i) {
    int bits = nbi_dtype_bits(t->dtype);
    if (bits < 8) {
        int per = 8 / bits, raw = ((const uint8_t *)t->data)[i / per] >> (i % per * bits);
        raw &= (1 << bits) - 1;
        bool sign = t->dtype == NB_DTYPE_S4 || t->dtype == NB_DTYPE_S2;
        return sign && raw >> (bits - 1) ? raw - (1 << bits) : raw;
    }
    switch (t->dtype) {
    case NB_DTYPE_F32:
        return (double)((const float *)t->data)[i];
    case NB_DTYPE_F64:
        return ((const double *)t->data)[i];
    case NB_DTYPE_S8:
        return ((const int8_t *)t->data)[i];
    case NB_DTYPE_S16:
        return ((const int16_t *)t->data)[i];
    case NB_DTYPE_U16:
        return ((const uint16_t *)t->data)[i];
    case NB_DTYPE_S32:
        return ((const int32_t *)t->data)[i];
    case NB_DTYPE_U32:
        return ((const uint32_t *)t->data)[i];
    case NB_DTYPE_S64:
        return (double)((const int64_t *)t->data)[i];
    case NB_DTYPE_U64:
        return (double)((const uint64_t *)t->data)[i];
    default:
        return ((const uint8_t *)t->data)[i];
    }
}

static bool equal_values(const nbi_view *got, const nbi_tensor *want, char *why, size_t size) {
    nbi_tensor flat = {.dtype = got->dtype, .rank = got->rank};
    nbi_view plain = *got;
    nbi_view_contiguous(&plain);
    int64_t count = nbi_view_count(got);
    if (got->rank != want->rank ||
        memcmp(got->dim, want->dim, (size_t)got->rank * sizeof *got->dim)) {
        char text[96];
        snprintf(why, size, "the shape differs from %s", nbi_shape_text(want, text, sizeof text));
        return false;
    }
    plain.data = calloc((size_t)count + 1, 8);
    if (count) nbi_view_copy(&plain, got);
    flat.data = plain.data;
    bool ok = true;
    for (int64_t i = 0; i < count && ok; i++) {
        double a = element(&flat, i), b = element(want, i);
        ok = a == b || (isnan(a) && isnan(b)) || fabs(a - b) <= ATOL + RTOL * fabs(b);
        if (!ok) snprintf(why, size, "value %lld is %g, want %g", (long long)i, a, b);
    }
    free(plain.data);
    return ok;
}

static void *unpacked(const nbi_tensor *t) {
    int64_t count = nbi_tensor_count(t);
    int8_t *bytes = calloc((size_t)count + 1, 1);
    for (int64_t i = 0; i < count; i++) bytes[i] = (int8_t)(int)element(t, i);
    return bytes;
}

static verdict run_mode(nb_ctx *ctx, const nbi_graph *g, const io *d, const void *const *inputs,
                        unsigned flags, char *why, size_t size) {
    nbi_exec *e = NULL;
    verdict v = PASSED;
    nb_status st = nbi_exec_new(ctx, g, flags, &e);
    if (st == NB_EUNSUPPORTED) return UNKNOWN_OP;
    if (st == NB_OK) st = nbi_exec_run(ctx, e, inputs);
    for (int i = 0; st == NB_OK && i < d->n_out && v == PASSED; i++) {
        nbi_view out;
        st = nbi_exec_value(ctx, e, g->output[i], &out);
        if (st == NB_OK && !equal_values(&out, d->out[i], why, size)) v = FAILED;
    }
    nbi_exec_free(e);
    if (st == NB_OK) return v;
    snprintf(why, size, "%s", nb_ctx_message(ctx));
    return FAILED;
}

/* Float inputs stay inputs; all others (shapes, axes, indices) are bound as values. With `all` the
 * floats are bound, too: everything is folded (Range of floats has a shape only then). */
static verdict run_set(nb_ctx *ctx, const nbi_graph *model, io *d, bool all, char *why,
                       size_t size) {
    nbi_view shape[MAX_IO];
    const void *inputs[MAX_IO];
    void *owned[MAX_IO] = {0};
    int n = 0;
    nbi_graph *g = NULL;
    if (d->n_in != model->n_inputs || d->n_out != model->n_outputs) return UNSUPPORTED_TYPE;
    for (int i = 0; i < d->n_in; i++) {
        const nbi_tensor *t = d->in[i];
        shape[i] = (nbi_view){.dtype = t->dtype, .rank = t->rank};
        memcpy(shape[i].dim, t->dim, sizeof t->dim);
        if (t->dtype == NB_DTYPE_F32 && !all)
            inputs[n++] = t->data;
        else
            shape[i].data = nbi_dtype_bits(t->dtype) < 8 ? (owned[i] = unpacked(t)) : t->data;
    }
    verdict v;
    nb_status st = nbi_specialize(ctx, model, shape, &g);
    if (st != NB_OK && !all) {
        v = run_set(ctx, model, d, true, why, size);
    } else if (st != NB_OK) {
        snprintf(why, size, "%s", nb_ctx_message(ctx));
        v = FAILED;
    } else {
        v = run_mode(ctx, g, d, inputs, NBI_EXEC_REFERENCE, why, size);
        if (v == PASSED) v = run_mode(ctx, g, d, inputs, 0, why, size);
        if (v == PASSED) v = run_mode(ctx, g, d, inputs, NBI_EXEC_KEEP_ALL, why, size);
    }
    for (int i = 0; i < d->n_in; i++) free(owned[i]);
    nbi_graph_free(g);
    return v;
}

static bool ops_known(const nbi_graph *g) {
    for (int n = 0; n < g->n_nodes; n++)
        if (!g->node[n]->op) return false;
    return true;
}

static verdict run_case(nb_ctx *ctx, const char *dir, char *why, size_t size) {
    char path[1200]; /* dir has at most 1024 */
    nbi_graph *model = NULL;
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    nb_status st = nbi_onnx_read(ctx, path, &model);
    if (st != NB_OK) {
        snprintf(why, size, "%s", nb_ctx_message(ctx));
        return st == NB_EUNSUPPORTED ? UNSUPPORTED_TYPE : FAILED;
    }
    verdict v = ops_known(model) ? PASSED : UNKNOWN_OP;
    for (int k = 0; v == PASSED; k++) {
        io d = {0};
        snprintf(path, sizeof path, "%s/test_data_set_%d", dir, k);
        if (!nbi_is_folder(path)) break;
        assert_int_equal(nbi_graph_new(ctx, &d.graph), NB_OK);
        if (!read_tensors(ctx, &d, path, "input", d.in, &d.n_in) ||
            !read_tensors(ctx, &d, path, "output", d.out, &d.n_out))
            v = UNSUPPORTED_TYPE;
        else
            v = run_set(ctx, model, &d, false, why, size);
        nbi_graph_free(d.graph);
    }
    nbi_graph_free(model);
    return v;
}

/* The expected masks of these are drawn by NumPy's generator; the cases with ratio 0 are run. */
static bool depends_on_generator(const char *name) {
    return !strncmp(name, "test_training_dropout", 21) && !strstr(name, "zero_ratio");
}

static void test_conformance(void **state) {
    static const char *const groups[] = {"node", "simple", "pytorch-operator", "pytorch-converted"};
    int count[4] = {0};
    nb_ctx *ctx = nb_ctx_new();
    (void)state;
    nb_ctx_set_threads(ctx, 2);
    for (size_t k = 0; k < NBI_COUNT(groups); k++) {
        char root[512];
        snprintf(root, sizeof root, "%s/onnx-conformance/%s", NIBBLE_DATA, groups[k]);
        DIR *folder = opendir(root);
        assert_non_null(folder);
        for (struct dirent *entry; (entry = readdir(folder));) {
            char dir[1024], why[512] = "";
            if (*entry->d_name == '.' || depends_on_generator(entry->d_name)) continue;
            snprintf(dir, sizeof dir, "%s/%s", root, entry->d_name);
            char model[1100];
            snprintf(model, sizeof model, "%s/model.onnx", dir);
            if (!nbi_file_exists(model)) continue; /* some cases of the collection are empty */
            verdict v = run_case(ctx, dir, why, sizeof why);
            count[v]++;
            if (getenv("NIBBLE_CONFORMANCE_LIST")) print_message("%d %s\n", (int)v, entry->d_name);
            if (v == FAILED) print_message("%s/%s: %s\n", groups[k], entry->d_name, why);
        }
        closedir(folder);
    }
    nb_ctx_free(ctx);
    print_message("%d pass, %d fail, %d with operators or types of elements that are "
                  "not known\n",
                  count[PASSED], count[FAILED], count[UNKNOWN_OP] + count[UNSUPPORTED_TYPE]);
    assert_int_equal(count[FAILED], 0);
    assert_true(count[PASSED] >= LEAST_PASSED);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conformance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
