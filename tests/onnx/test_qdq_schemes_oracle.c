/* QDQ files of networks whose weights and activations have every scheme and width that devices run: in
 * ONNX Runtime they compute what the integer program computes. The two round at the same places, ties
 * apart (to even there, up here), and files hold sums in float. */
#include "onnx/export_qdq.h"
#include "onnx/onnx.h"
#include "unit/scheme_nets.h"

#include <unistd.h>

#define IMAGES 8

static void write_input(hand *h, const char *path) {
    const nbi_edge *e = &h->net->edge[h->net->input];
    int64_t dim[4] = {IMAGES, e->c, e->h, e->w};
    nbi_tensor t = {.dtype = NB_DTYPE_F32, .rank = 4, .data = h->input};
    memcpy(t.dim, dim, sizeof dim);
    HAND_OK(nbi_tensor_write_npy(h->ctx, &t, path));
}

/* Relative distance of theirs, n values, from the program's. */
static double distance(hand *h, const nbi_frozen *frozen, const float *theirs, size_t n) {
    nbi_program *p;
    nbi_runner *runner;
    HAND_OK(nbi_lower(h->ctx, frozen, &p));
    HAND_OK(nbi_runner_new(h->ctx, p, &runner));
    const nbi_ptensor *y = &p->tensor[p->output[0]];
    assert_int_equal(n, IMAGES * y->count);
    int32_t *value = calloc(n, sizeof *value), *out[1] = {value};
    HAND_OK(nbi_runner_run(h->ctx, runner, IMAGES, h->codes, out));
    double wrong = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        double ours = y->scale * ((double)value[i] - y->zero), d = ours - (double)theirs[i];
        wrong += d * d;
        power += ours * ours;
    }
    free(value);
    nbi_runner_free(runner);
    nbi_program_free(p);
    return sqrt(wrong / power);
}

static void check(const char *folder, int k) {
    hand room, *h = &room;
    char path[96], command[1024];
    nbi_graph *file, *arrays;
    int y;
    nbi_frozen *frozen = scheme_net_frozen(h, k, IMAGES);
    HAND_OK(nbi_export_qdq(h->ctx, frozen, h->g, NULL, &file));
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    HAND_OK(nbi_onnx_write(h->ctx, file, path));
    snprintf(path, sizeof path, "%s/x.npy", folder);
    write_input(h, path);
    snprintf(command, sizeof command,
             "'%s' '%s/tests/onnx/run_ort.py' %s/model.onnx %s/x.npy %s/y.npy",
             NIBBLE_ORACLE_PYTHON, NIBBLE_SOURCE_DIR, folder, folder, folder);
    assert_int_equal(system(command), 0);
    HAND_OK(nbi_graph_new(h->ctx, &arrays));
    snprintf(path, sizeof path, "%s/y.npy", folder);
    HAND_OK(nbi_tensor_read_npy(h->ctx, path, arrays, &y));
    const nbi_tensor *t = arrays->tensor[y];
    double d = distance(h, frozen, t->data, (size_t)nbi_tensor_count(t));
    print_message("network %d: relative distance %g\n", k, d);
    assert_true(d < 1e-3);
    nbi_graph_free(arrays);
    nbi_graph_free(file);
    nbi_frozen_free(frozen);
    hand_free(h);
}

static void test_every_scheme(void **state) {
    (void)state;
    char folder[] = "/tmp/nibble-schemes-XXXXXX", command[64];
    assert_non_null(mkdtemp(folder));
    for (int k = 0; k < SCHEME_NETS; k++) check(folder, k);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_scheme)};
    return cmocka_run_group_tests_name("qdq_schemes", tests, NULL, NULL);
}
