/* The real sets: CIFAR-10 and Fashion-MNIST as laid out under NIBBLE_DATA. */
#include "data_files.h"

static void check(const char *name, const char *kind, const size_t count[3], int side,
                  int channels) {
    char path[512];
    static uint8_t image[3072];
    size_t seen[3][10] = {{0}};
    int label;
    nb_ctx *ctx = nb_ctx_new();
    nbi_dataset *data = NULL;
    snprintf(path, sizeof path, "%s/%s", NIBBLE_DATA, name);
    nbi_data_options o = {.path = path};
    nb_status st = nbi_dataset_open(ctx, &o, &data);
    if (st != NB_OK) print_error("%s\n", nb_ctx_message(ctx));
    assert_int_equal(st, NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_string_equal(d->kind, kind);
    assert_int_equal(d->height, side);
    assert_int_equal(d->width, side);
    assert_int_equal(d->channels, channels);
    assert_int_equal(d->classes, 10);
    for (int s = 0; s < 3; s++) {
        assert_int_equal(d->count[s], count[s]);
        for (size_t i = 0; i < count[s]; i++) {
            assert_int_equal(nbi_dataset_sample(ctx, data, (nbi_split)s, i, image, &label), NB_OK);
            assert_in_range(label, 0, 9);
            seen[s][label]++;
        }
    }
    /* held out in proportion: a class's share of val is its share of all training data, ±1 */
    for (int k = 0; k < 10; k++) {
        double share = (double)(seen[0][k] + seen[1][k]) / (double)(count[0] + count[1]);
        double off = (double)seen[1][k] - share * (double)count[1];
        assert_true(off > -1.0001 && off < 1.0001);
    }
    nbi_dataset_free(data);
    nb_ctx_free(ctx);
}

static void test_cifar10(void **state) {
    (void)state;
    check("cifar-10-batches-bin", "cifar", (const size_t[]){44914, 4990, 5000}, 32, 3);
}

static void test_fashion(void **state) {
    (void)state;
    check("fashion-mnist", "idx", (const size_t[]){18000, 2000, 5000}, 28, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cifar10),
        cmocka_unit_test(test_fashion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
