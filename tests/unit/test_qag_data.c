/* Every model file that we have and every large architecture: converted, trained for one step,
 * lowered, without a word. */
#include "qat_case.h"

#include "hyper/arch.h"
#include "onnx/onnx.h"

#include <dirent.h>

#define BATCH 2
#define LARGE (128 * 128) /* pixels: such a network gets one image */

/* One score per class, and not the input again. */
static bool has_classes(const nbi_qnet *net) {
    const nbi_edge *y = &net->edge[nbi_score_edge(net)], *x = &net->edge[net->input];
    return y->h * y->w == 1 && y->c > 1 && y->c != x->h * x->w * x->c;
}

/* c->h.g is read or made. */
static void whole_way(qat_case *c, const char *name) {
    hand *h = &c->h;
    const nbi_tensor *x = h->g->tensor[h->g->input[0]];
    c->batch = x->rank == 4 && x->dim[2] * x->dim[3] > LARGE ? 1 : BATCH;
    qat_generate(c, 4, 4);
    nb_ctx_set_threads(h->ctx, 2);
    assert_int_equal(h->net->n_untouched, 0);
    qat_build(c, has_classes(h->net));
    for (int l = 0; l < h->net->n_layers; l++) /* none is forgotten, none without a normalization */
        if (h->net->layer[l].type == NBI_LAYER_CONV) {
            assert_true(c->train->layer[l].weight >= 0);
            assert_true(c->train->layer[l].gamma >= 0 || h->net->layer[l].is_last ||
                        h->net->layer[l].geometry.out_h * h->net->layer[l].geometry.out_w == 1);
        }
    qat_step(c, 1e-4f);
    qat_is_same(c, name, 0.1);
    qat_release(c);
}

static void model(const char *path) {
    qat_case c = {.h = {.ctx = nb_ctx_new()}};
    hand *h = &c.h;
    nbi_rng_seed(&h->rng, 1, 1);
    HAND_OK(nbi_onnx_read(h->ctx, path, &h->g));
    whole_way(&c, path);
}

static void test_models(void **state) {
    (void)state;
    const char *folder = NIBBLE_DATA "/models";
    struct dirent *entry;
    DIR *dir = opendir(folder);
    int n = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        char path[600];
        size_t length = strlen(entry->d_name);
        if (length < 5 || strcmp(entry->d_name + length - 5, ".onnx")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        model(path);
        n++;
    }
    closedir(dir);
    assert_true(n >= 10);
}

/* Those of large pictures, at their own size; unit.qat trains them on small ones, and the others.
 */
static void test_large_architectures(void **state) {
    (void)state;
    size_t n;
    const nbi_arch *const *rows = nbi_archs(&n);
    for (size_t i = 0; i < n; i++) {
        bool mobile = !strcmp(rows[i]->name, "mobilenet_v2"); /* known at both sizes */
        if (!mobile && (rows[i]->rank != 3 || rows[i]->input[1] * rows[i]->input[2] <= LARGE))
            continue;
        qat_case c = {.h = {.ctx = nb_ctx_new()}};
        hand *h = &c.h;
        nbi_arch_options o = nbi_arch_options_default();
        if (mobile) o.rank = 3, o.input[0] = 3, o.input[1] = o.input[2] = 224, o.classes = 1000;
        nbi_rng_seed(&h->rng, i, 1);
        HAND_OK(nbi_arch_build(h->ctx, rows[i]->name, &o, &h->g));
        whole_way(&c, rows[i]->name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_large_architectures),
    };
    return cmocka_run_group_tests_name("qag", tests, NULL, NULL);
}
