/* Training batches: every sample once an epoch, the same content at any thread count and in any
 * order of asking, soft targets, augmentation against its definitions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "data/augment.h"
#include "data/batches.h"
#include "data/dataset.h"

#include <math.h>
#include <string.h>

enum { COUNT = 50, CLASSES = 3 };

/* Sample i is the float i; label i % 3, or 7 for `bad`. */
static nb_status read_number(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out) {
    float x = (float)raw;
    (void)ctx;
    (void)data;
    memcpy(out, &x, sizeof x);
    return NB_OK;
}

static nbi_dataset *numbers(nb_ctx *ctx, size_t bad) {
    static const nbi_reader row = {.name = "numbers"};
    nbi_dataset *data;
    nbi_data_options o = {.val_count = 0};
    assert_int_equal(nbi_dataset_new(ctx, &row, &data), NB_OK);
    data->raw_count[0] = data->raw_count[1] = data->raw_count[2] = COUNT;
    data->read = read_number;
    data->info.rank = 1;
    data->info.shape[0] = 1;
    data->info.sample_bytes = sizeof(float);
    data->info.classes = CLASSES;
    assert_int_equal(nbi_alloc(ctx, 3 * COUNT, sizeof *data->labels, &data->labels), NB_OK);
    for (size_t i = 0; i < 3 * COUNT; i++) data->labels[i] = i == bad ? 7 : (int32_t)(i % CLASSES);
    assert_int_equal(nbi_dataset_divide(ctx, data, &o), NB_OK);
    return data;
}

static void an_epoch_has_every_sample_once(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_dataset *data = numbers(ctx, SIZE_MAX);
    nbi_batches_spec s = {
        .data = data, .batch = 8, .classes = CLASSES, .smoothing = 0.3, .seed = 5};
    nbi_batches *b;
    float first[2] = {-1, -1};
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_OK);
    assert_int_equal(nbi_batches_per_epoch(b), COUNT / 8);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        bool seen[COUNT] = {false};
        for (size_t i = 0; i < COUNT / 8; i++) {
            nbi_batch batch;
            assert_int_equal(nbi_batches_get(ctx, b, epoch, i, &batch), NB_OK);
            if (i == 0) first[epoch] = batch.x[0];
            for (size_t k = 0; k < 8; k++) {
                int id = (int)batch.x[k];
                assert_false(seen[id]);
                seen[id] = true;
                for (int c = 0; c < CLASSES; c++)
                    assert_true(fabs((double)batch.target[k * CLASSES + (size_t)c] -
                                     (c == id % CLASSES ? 0.8 : 0.1)) < 1e-7);
            }
        }
    }
    assert_true(first[0] != first[1]); /* for this seed */
    nbi_batches_free(b);
    nbi_dataset_free(data);
    nb_ctx_free(ctx);
}

static void wrong_data_is_refused(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_dataset *data = numbers(ctx, 11);
    nbi_batches_spec s = {.data = data, .batch = COUNT + 1, .classes = CLASSES};
    nbi_batches *b;
    nbi_batch batch;
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_EFORMAT);
    assert_non_null(strstr(nb_ctx_message(ctx), "50 samples"));
    s.batch = COUNT;
    s.augment.crop = true;
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_EINVAL);
    s.augment.crop = false;
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_OK);
    assert_int_equal(nbi_batches_get(ctx, b, 0, 0, &batch), NB_EFORMAT);
    assert_non_null(strstr(nb_ctx_message(ctx), "label 7"));
    assert_non_null(strstr(nb_ctx_message(ctx), "3 classes"));
    nbi_batches_free(b);
    nbi_dataset_free(data);
    nb_ctx_free(ctx);
}

/* Batch 2 of epoch 3 of glyphs with everything on. */
static void glyph_batch(int threads, bool others_first, float *x, float *target, size_t n) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_data_options o = {.path = "builtin:glyphs", .limit = 100};
    nbi_dataset *data;
    nbi_batches *b;
    nbi_batch batch;
    nb_ctx_set_threads(ctx, threads);
    assert_int_equal(nbi_dataset_open(ctx, &o, &data), NB_OK);
    nbi_batches_spec s = {.data = data, .batch = n, .classes = 10, .smoothing = 0.1, .seed = 1};
    nbi_transform_default(&s.transform);
    assert_int_equal(nbi_augmentation_parse(ctx, "crop,flip,cutout=8,mixup,cutmix=1",
                                            nbi_dataset_get(data), &s.augment),
                     NB_OK);
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_OK);
    if (others_first) {
        assert_int_equal(nbi_batches_get(ctx, b, 3, 0, &batch), NB_OK);
        assert_int_equal(nbi_batches_get(ctx, b, 0, 1, &batch), NB_OK);
    }
    assert_int_equal(nbi_batches_get(ctx, b, 3, 2, &batch), NB_OK);
    memcpy(x, batch.x, n * 3072 * sizeof *x);
    memcpy(target, batch.target, n * 10 * sizeof *target);
    nbi_batches_free(b);
    nbi_dataset_free(data);
    nb_ctx_free(ctx);
}

static void a_batch_depends_on_its_place_only(void **state) {
    enum { N = 24 };
    static float x[2][N * 3072], t[2][N * 10];
    (void)state;
    glyph_batch(1, false, x[0], t[0], N);
    glyph_batch(3, true, x[1], t[1], N);
    assert_memory_equal(x[0], x[1], sizeof x[0]);
    assert_memory_equal(t[0], t[1], sizeof t[0]);
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int c = 0; c < 10; c++) sum += (double)t[0][i * 10 + c];
        assert_true(fabs(sum - 1) < 1e-6);
    }
}

static void boxes_are_exact(void **state) {
    enum { H = 9, W = 7, C = 2 };
    float x[C * H * W], other[C * H * W];
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        nbi_rng rng;
        nbi_rng_seed(&rng, seed, 1);
        for (int i = 0; i < C * H * W; i++) x[i] = 1, other[i] = 2;
        double lambda = (double)nbi_rng_uniform(&rng);
        float kept = nbi_augment_cutmix(&rng, lambda, x, other, C, H, W);
        int n[C] = {0};
        for (int c = 0; c < C; c++)
            for (int i = 0; i < H * W; i++) n[c] += x[c * H * W + i] == 1;
        assert_int_equal(n[0], n[1]);
        assert_true(fabs((double)kept - n[0] / (double)(H * W)) < 1e-6);
        assert_true((double)kept >= lambda - 1e-6); /* boxes are rounded down and cut */
        nbi_augment_cutout(&rng, x, C, H, W, 4);
        int zeros = 0;
        for (int i = 0; i < H * W; i++) zeros += x[i] == 0;
        assert_in_range(zeros, 4, 16); /* a centre in the corner leaves 2 × 2 */
    }
    nbi_augment_mixup(0.25f, x, other, 1);
    assert_true(x[0] == 2 || fabs((double)x[0] - 1.75) < 1e-6 || fabs((double)x[0] - 1.5) < 1e-6);
}

/* Mean 1/2, variance 1/(4(2α + 1)); 20,000 draws: standard errors below 0.004. */
static void beta_has_its_moments(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        const double alpha = (const double[]){0.2, 1, 4}[k];
        nbi_rng rng;
        double sum = 0, squares = 0;
        nbi_rng_seed(&rng, 9, (uint64_t)k);
        for (int i = 0; i < 20000; i++) {
            double v = nbi_rng_beta(&rng, alpha);
            assert_true(v >= 0 && v <= 1);
            sum += v, squares += (v - 0.5) * (v - 0.5);
        }
        assert_true(fabs(sum / 20000 - 0.5) < 0.012);
        assert_true(fabs(squares / 20000 - 1 / (4 * (2 * alpha + 1))) < 0.006);
    }
}

static void texts_are_understood(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_dataset_info image = {.is_image = true, .height = 32, .width = 40, .is_flip_safe = true};
    nbi_dataset_info array = {.is_image = false};
    nbi_augmentation a;
    assert_int_equal(nbi_augmentation_parse(ctx, NULL, &image, &a), NB_OK);
    assert_true(a.crop && a.flip && !a.cutout && a.mixup == 0 && a.cutmix == 0);
    assert_int_equal(nbi_augmentation_parse(ctx, NULL, &array, &a), NB_OK);
    assert_true(!a.crop && !a.flip);
    assert_int_equal(nbi_augmentation_parse(ctx, "cutout,mixup=0.5,cutmix", &image, &a), NB_OK);
    assert_true(!a.crop && a.cutout == 16 && a.mixup == 0.5 && a.cutmix == 1);
    assert_int_equal(nbi_augmentation_parse(ctx, "none", &image, &a), NB_OK);
    assert_true(!a.crop && !a.flip);
    static const char *const wrong[] = {"",        "crop,",  "crops",      "cutout=0",  "mixup=",
                                        "mixup=x", "flip=1", "cutmix=nan", "cutout=1e9"};
    for (size_t i = 0; i < NBI_COUNT(wrong); i++)
        assert_int_equal(nbi_augmentation_parse(ctx, wrong[i], &image, &a), NB_EINVAL);
    assert_int_equal(nbi_augmentation_parse(ctx, "crop", &array, &a), NB_EINVAL);
    assert_int_equal(nbi_augmentation_parse(ctx, "mixup", &array, &a), NB_OK);
    nb_ctx_free(ctx);
}

/* Odd batches hold a fixed share of the samples, even ones the others. */
static void batches_alternate(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_dataset *data = numbers(ctx, SIZE_MAX);
    nbi_batches_spec s = {.data = data, .batch = 8, .classes = CLASSES, .seed = 5};
    nbi_batches *b;
    int side[COUNT] = {0};
    s.alternate = 0.9; /* leaves 5 samples for even batches */
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_EINVAL);
    s.alternate = 0.3;
    assert_int_equal(nbi_batches_new(ctx, &s, &b), NB_OK);
    for (uint64_t epoch = 0; epoch < 20; epoch++)
        for (size_t i = 0; i < COUNT / 8; i++) {
            nbi_batch batch;
            assert_int_equal(nbi_batches_get(ctx, b, epoch, i, &batch), NB_OK);
            for (size_t k = 0; k < 8; k++) side[(int)batch.x[k]] |= i & 1 ? 2 : 1;
        }
    size_t odd = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true(side[i] == 1 || side[i] == 2);
        odd += side[i] == 2;
    }
    assert_int_equal(odd, 15);
    nbi_batches_free(b);
    nbi_dataset_free(data);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_alternate),
        cmocka_unit_test(an_epoch_has_every_sample_once),
        cmocka_unit_test(wrong_data_is_refused),
        cmocka_unit_test(a_batch_depends_on_its_place_only),
        cmocka_unit_test(boxes_are_exact),
        cmocka_unit_test(beta_has_its_moments),
        cmocka_unit_test(texts_are_understood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
