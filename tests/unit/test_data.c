/* Data sets: splits, CIFAR, IDX, .npz, glyphs, the input transform, augmentation. */
#include "data_files.h"
#include "unit/npz_file.h"
#include "data/glyphs.h"

#include <math.h>
#include <zlib.h>

enum { RECORD = 3073 };
#define GLYPHS_HASH 0x153986a406b58f44ull

/* n records: label i mod 10, byte j of plane c = i + 3·j + 50·c (low 8 bits). */
static uint8_t *cifar_bytes(size_t n, int label_bytes) {
    size_t record = 3072 + (size_t)label_bytes;
    uint8_t *b = calloc(n, record);
    for (size_t i = 0; i < n; i++) {
        uint8_t *r = b + i * record;
        if (label_bytes == 2) *r++ = (uint8_t)(i % 20);
        *r++ = (uint8_t)(i % (label_bytes == 2 ? 100 : 10));
        for (size_t j = 0; j < 3072; j++) r[j] = (uint8_t)(i + 3 * (j % 1024) + 50 * (j / 1024));
    }
    return b;
}

static void put_cifar(place *p, const char *name, size_t n, int label_bytes, size_t cut) {
    uint8_t *b = cifar_bytes(n, label_bytes);
    put(p, name, b, n * (3072 + (size_t)label_bytes) - cut);
    free(b);
}

static void test_cifar(void **state) {
    place *p = *state;
    nbi_dataset *data;
    uint8_t image[3072];
    int label;
    put_cifar(p, "c/data_batch_1.bin", 100, 1, 0);
    put_cifar(p, "c/data_batch_2.bin", 100, 1, 0);
    put_cifar(p, "c/test_batch.bin", 30, 1, 0);
    assert_int_equal(open_at(p, "c", &data), NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_string_equal(d->kind, "cifar");
    assert_int_equal(d->count[0], 180);
    assert_int_equal(d->count[1], 20);
    assert_int_equal(d->count[2], 30);
    assert_int_equal(d->classes, 10);
    assert_true(d->is_image && d->is_flip_safe);
    for (size_t i = 0; i < 30; i++) { /* test is untouched and in order */
        assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TEST, i, image, &label), NB_OK);
        assert_int_equal(label, i % 10);
        for (size_t j = 0; j < 3072; j++)
            assert_int_equal(image[j], (uint8_t)(i + 3 * (j / 3) + 50 * (j % 3)));
    }
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TEST, 30, image, &label),
                     NB_EINVAL);
    nbi_dataset_free(data);
    put_cifar(p, "h/train.bin", 100, 2, 0);
    put_cifar(p, "h/test.bin", 20, 2, 0);
    assert_int_equal(open_at(p, "h", &data), NB_OK);
    assert_int_equal(nbi_dataset_get(data)->classes, 100);
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TEST, 7, image, &label), NB_OK);
    assert_int_equal(label, 7);
    assert_int_equal(image[0], 7);
    nbi_dataset_free(data);
}

static void test_cifar_hostile(void **state) {
    place *p = *state;
    put_cifar(p, "t/data_batch_1.bin", 5, 1, 1);
    refuse(p, "t", NB_EFORMAT, "data_batch_1.bin' has 15364 bytes");
    uint8_t *b = cifar_bytes(5, 1);
    b[3 * RECORD] = 10;
    put(p, "l/train.bin", b, 5 * RECORD);
    free(b);
    refuse(p, "l", NB_EFORMAT, "record 3 has label 10, want 0..9");
    put(p, "e/test.bin", "", 0);
    refuse(p, "e", NB_EFORMAT, "is empty");
    put(p, "n/other.txt", "x", 1);
    refuse(p, "n", NB_EFORMAT, "looked for");
    refuse(p, "absent", NB_EIO, "does not exist");
}

/* Marks the samples of a split by image byte 0 and label; returns how many were marked before. */
static size_t mark(place *p, const nbi_dataset *data, nbi_split s, int *seen, int per_class[10]) {
    float v;
    int label;
    size_t twice = 0;
    for (size_t i = 0; i < nbi_dataset_get(data)->count[s]; i++) {
        assert_int_equal(nbi_dataset_sample(p->ctx, data, s, i, &v, &label), NB_OK);
        twice += seen[(int)v]++ != 0;
        per_class[label]++;
    }
    return twice;
}

/* ---- npz ---- */

static void put_npz(place *p, const char *name, const npz_entry *e, int n, bool deflated) {
    npz_write(at(p, name), e, n, deflated);
}

static void test_splits(void **state) {
    place *p = *state;
    float x[1000];
    int64_t y[1000];
    nbi_dataset *data, *again;
    for (int i = 0; i < 1000; i++) x[i] = (float)i, y[i] = i / 100;
    put_npz(p, "one.npz",
            (npz_entry[]){{"x.npy", "<f4", "(1000, 1)", x, sizeof x},
                      {"y.npy", "<i8", "(1000,)", y, sizeof y}},
            2, true);
    nbi_data_options o = {.path = at(p, "one.npz"), .seed = 7};
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &data), NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_int_equal(d->count[0], 800);
    assert_int_equal(d->count[1], 100);
    assert_int_equal(d->count[2], 100);
    assert_false(d->is_image);
    assert_int_equal(d->rank, 1);
    int seen[1000] = {0};
    for (int s = 0; s < 3; s++) {
        int per_class[10] = {0};
        assert_int_equal(mark(p, data, (nbi_split)s, seen, per_class), 0); /* disjoint */
        for (int k = 0; k < 10; k++) assert_int_equal(per_class[k], s ? 10 : 80);
    }
    for (int i = 0; i < 1000; i++) assert_int_equal(seen[i], 1); /* nothing lost */
    /* the same seed: the same samples; a limit: the first of them, balanced; another seed: others
     */
    o.limit = 20;
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &again), NB_OK);
    float a, b;
    int label, per_class[10] = {0}, different = 0;
    assert_int_equal(nbi_dataset_get(again)->count[1], 20);
    for (size_t i = 0; i < 20; i++) {
        nbi_dataset_sample(p->ctx, data, NBI_SPLIT_VAL, i, &a, &label);
        nbi_dataset_sample(p->ctx, again, NBI_SPLIT_VAL, i, &b, &label);
        assert_true(a == b);
        per_class[label]++;
    }
    for (int k = 0; k < 10; k++) assert_int_equal(per_class[k], 2);
    nbi_dataset_free(again);
    o.seed = 8;
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &again), NB_OK);
    for (size_t i = 0; i < 20; i++) {
        nbi_dataset_sample(p->ctx, data, NBI_SPLIT_VAL, i, &a, &label);
        nbi_dataset_sample(p->ctx, again, NBI_SPLIT_VAL, i, &b, &label);
        different += a != b;
    }
    assert_true(different > 10);
    nbi_dataset_free(again);
    nbi_dataset_free(data);
    o = (nbi_data_options){.path = at(p, "one.npz"), .val_count = 900};
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &data), NB_EINVAL);
}

static void test_npz(void **state) {
    place *p = *state;
    nbi_dataset *data;
    uint8_t u8[2 * 4 * 5 * 3], image[60];
    double f8[6] = {1.5, -2, 3, 4, 5, 1e-3};
    int label;
    for (size_t i = 0; i < sizeof u8; i++) u8[i] = (uint8_t)i;
    for (int deflated = 0; deflated < 2; deflated++) {
        /* N,C,H,W: two pictures of 4x5 */
        put_npz(p, "a.npz",
                (npz_entry[]){{"x_train.npy", "|u1", "(1, 3, 4, 5)", u8, 60},
                          {"x_test.npy", "|u1", "(1, 3, 4, 5)", u8 + 60, 60},
                          {"y_train.npy", "<i4", "(1,)", "\0\0\0\0", 4},
                          {"y_test.npy", "|u1", "(1, 1)", "\1", 1}},
                4, deflated);
        assert_int_equal(open_at(p, "a.npz", &data), NB_OK);
        const nbi_dataset_info *d = nbi_dataset_get(data);
        assert_true(d->is_image);
        assert_int_equal(d->height, 4);
        assert_int_equal(d->width, 5);
        assert_int_equal(d->channels, 3);
        assert_int_equal(d->classes, 2);
        assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TEST, 0, image, &label), NB_OK);
        assert_int_equal(label, 1);
        for (int i = 0; i < 60; i++) assert_int_equal(image[i], 60 + i % 3 * 20 + i / 3);
        nbi_dataset_free(data);
    }
    put_npz(p, "b.npz", (npz_entry[]){{"input.npy", "<f8", "(3, 2)", f8, sizeof f8}}, 1, true);
    assert_int_equal(open_at(p, "b.npz", &data), NB_OK);
    float pair[2];
    assert_int_equal(nbi_dataset_get(data)->classes, 0);
    assert_int_equal(nbi_dataset_get(data)->shape[0], 2);
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TRAIN, 0, pair, &label), NB_OK);
    assert_int_equal(label, -1);
    nbi_dataset_free(data);
}

static void hear(void *user, nb_log_level level, const char *text) {
    char *heard = user;
    if (level == NB_LOG_WARNING) snprintf(heard, 512, "%s", text);
}

/* Labels of some arrays only: none are used, which is told; no labels at all is nothing to tell. */
static void test_npz_unlabelled(void **state) {
    place *p = *state;
    char heard[512] = "";
    nb_ctx_set_log(p->ctx, hear, heard);
    for (int n = 2; n <= 3; n++) {
        nbi_dataset *data;
        put_npz(p, "u.npz",
                (npz_entry[]){{"x_train.npy", "|u1", "(2, 1)", "ab", 2},
                              {"x_test.npy", "|u1", "(2, 1)", "ab", 2},
                              {"y_train.npy", "|u1", "(2,)", "\0\1", 2}},
                n, false);
        assert_int_equal(open_at(p, "u.npz", &data), NB_OK);
        assert_int_equal(nbi_dataset_get(data)->classes, 0);
        nbi_dataset_free(data);
        assert_int_equal(strstr(heard, "'x_test' has no 'y_test': used unlabelled") != NULL, n == 3);
        if (n == 2) assert_string_equal(heard, "");
    }
    nb_ctx_set_log(p->ctx, NULL, NULL);
}

/* An entry of the directory that claims gigabytes, stored: more than the file holds. */
static void test_npz_claims(void **state) {
    place *p = *state;
    void *file;
    size_t size, directory = 0;
    put_npz(p, "a.npz", (npz_entry[]){{"x.npy", "|u1", "(1, 2)", "ab", 2}}, 1, false);
    assert_int_equal(nbi_file_read(p->ctx, at(p, "a.npz"), 1000, &file, &size), NB_OK);
    uint8_t *f = file;
    while (directory + 28 < size && memcmp(f + directory, "PK\1\2", 4) != 0) directory++;
    assert_true(directory + 28 < size);
    for (size_t i = 0; i < 8; i++) /* sizes, compressed and not, there and in the entry's header */
        f[directory + 20 + i] = f[18 + i] = i % 4 == 3 ? 0xf0 : 0;
    put(p, "a.npz", file, size);
    nbi_free(file);
    refuse(p, "a.npz", NB_EFORMAT, "claims 4026531840 bytes from 4026531840 compressed, in a file");
}

static void test_npz_hostile(void **state) {
    place *p = *state;
    float nan2[2] = {1, (float)NAN};
    int8_t low = -1;
    put_npz(p, "a.npz", (npz_entry[]){{"x.npy", "<f4", "(2,)", nan2, 8}}, 1, false);
    refuse(p, "a.npz", NB_ENUMERIC, "item 1");
    put_npz(p, "a.npz", (npz_entry[]){{"x.npy", "<f4", "(4,)", nan2, 8}}, 1, false);
    refuse(p, "a.npz", NB_EFORMAT, "has 8 bytes of data, its shape says 16");
    put_npz(p, "a.npz", (npz_entry[]){{"x.npy", "<f4", "(4294967295, 4294967295, 9)", nan2, 8}}, 1,
            false);
    refuse(p, "a.npz", NB_EFORMAT, "bad header");
    put_npz(p, "a.npz", (npz_entry[]){{"x.npy", "|O", "(2,)", nan2, 8}}, 1, false);
    refuse(p, "a.npz", NB_EUNSUPPORTED, "dtype");
    put_npz(p, "a.npz", (npz_entry[]){{"x.npy", "<f4", "(0, 4)", NULL, 0}}, 1, false);
    refuse(p, "a.npz", NB_EFORMAT, "no samples");
    put_npz(p, "a.npz",
            (npz_entry[]){{"x.npy", "|u1", "(1, 2)", "ab", 2}, {"y.npy", "|i1", "(1,)", &low, 1}}, 2,
            false);
    refuse(p, "a.npz", NB_EFORMAT, "item 0 is -1");
    put_npz(p, "a.npz",
            (npz_entry[]){{"x.npy", "|u1", "(1, 2)", "ab", 2}, {"y.npy", "|u1", "(2,)", "ab", 2}}, 2,
            false);
    refuse(p, "a.npz", NB_EFORMAT, "2 labels, want 1");
    put_npz(p, "a.npz",
            (npz_entry[]){{"a.npy", "|u1", "(1,)", "a", 1}, {"b.npy", "|u1", "(1,)", "b", 1}}, 2,
            false);
    refuse(p, "a.npz", NB_EFORMAT, "holds 2 arrays");
    /* every truncation of the file, and every byte flipped: an answer, never a crash */
    static float x[64];
    put_npz(p, "ok.npz", (npz_entry[]){{"x.npy", "<f4", "(64,)", x, sizeof x}}, 1, true);
    void *file;
    size_t size;
    assert_int_equal(nbi_file_read(p->ctx, at(p, "ok.npz"), 1 << 20, &file, &size), NB_OK);
    for (size_t i = 0; i < size; i++) {
        nbi_dataset *data = NULL;
        put(p, "cut.npz", file, i);
        assert_int_not_equal(open_at(p, "cut.npz", &data), NB_OK);
        ((uint8_t *)file)[i] ^= 0x41;
        put(p, "flip.npz", file, size);
        if (open_at(p, "flip.npz", &data) == NB_OK) nbi_dataset_free(data);
        ((uint8_t *)file)[i] ^= 0x41;
    }
    nbi_free(file);
}

/* ---- IDX ---- */

static void put_gz(place *p, const char *name, const void *data, size_t size) {
    put(p, name, "", 0);
    gzFile f = gzopen(at(p, name), "wb");
    assert_int_equal(gzwrite(f, data, (unsigned)size), (int)size);
    gzclose(f);
}

static size_t idx_images(uint8_t *b, uint8_t n) {
    memcpy(b, "\0\0\10\3\0\0\0\0\0\0\0\2\0\0\0\3", 16);
    b[7] = n;
    for (int i = 0; i < n * 6; i++) b[16 + i] = (uint8_t)i;
    return 16 + 6 * (size_t)n;
}

static size_t idx_labels(uint8_t *b, uint8_t n) {
    memcpy(b, "\0\0\10\1\0\0\0\0", 8);
    b[7] = n;
    for (int i = 0; i < n; i++) b[8 + i] = (uint8_t)(i % 5);
    return 8 + (size_t)n;
}

static void test_idx(void **state) {
    place *p = *state;
    uint8_t b[1024], image[6];
    int label;
    nbi_dataset *data;
    for (int gz = 0; gz < 2; gz++) {
        void (*write)(place *, const char *, const void *, size_t) = gz ? put_gz : put;
        write(p, gz ? "g/train-images-idx3-ubyte.gz" : "i/train-images-idx3-ubyte", b,
              idx_images(b, 40));
        write(p, gz ? "g/train-labels-idx1-ubyte.gz" : "i/train-labels-idx1-ubyte", b,
              idx_labels(b, 40));
        write(p, gz ? "g/t10k-images-idx3-ubyte.gz" : "i/t10k-images-idx3-ubyte", b,
              idx_images(b, 10));
        write(p, gz ? "g/t10k-labels-idx1-ubyte.gz" : "i/t10k-labels-idx1-ubyte", b,
              idx_labels(b, 10));
        assert_int_equal(open_at(p, gz ? "g" : "i", &data), NB_OK);
        const nbi_dataset_info *d = nbi_dataset_get(data);
        assert_int_equal(d->count[0], 36);
        assert_int_equal(d->count[1], 4);
        assert_int_equal(d->count[2], 10);
        assert_int_equal(d->height * 10 + d->width, 23);
        assert_int_equal(d->classes, 5);
        assert_false(d->is_flip_safe);
        assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TEST, 9, image, &label), NB_OK);
        assert_int_equal(label, 4);
        for (int i = 0; i < 6; i++) assert_int_equal(image[i], 54 + i);
        nbi_dataset_free(data);
    }
}

static void test_idx_hostile(void **state) {
    place *p = *state;
    uint8_t b[1024];
    put(p, "a/train-images-idx3-ubyte", b, idx_images(b, 4) - 1);
    refuse(p, "a", NB_EFORMAT, "has 39 bytes, its header says 40");
    idx_images(b, 4);
    b[2] = 9;
    put(p, "a/train-images-idx3-ubyte", b, 40);
    refuse(p, "a", NB_EFORMAT, "magic is 0x00000903");
    idx_images(b, 4);
    memset(b + 4, 0xff, 12);
    put(p, "a/train-images-idx3-ubyte", b, 40);
    refuse(p, "a", NB_EFORMAT, "is 4294967295, want");
    put(p, "a/train-images-idx3-ubyte", b, 3);
    refuse(p, "a", NB_EFORMAT, "magic");
    put(p, "a/train-images-idx3-ubyte", b, idx_images(b, 4));
    put(p, "a/train-labels-idx1-ubyte", b, idx_labels(b, 3));
    refuse(p, "a", NB_EFORMAT, "has 3 labels, want 4");
    put(p, "a/train-labels-idx1-ubyte", b, idx_labels(b, 4));
    put(p, "a/emnist-train-images-idx3-ubyte", b, idx_images(b, 4));
    refuse(p, "a", NB_EFORMAT, "want one of them");
    /* gzip: cut at every byte; and a header that claims far more than so few bytes can hold */
    void *file;
    size_t size;
    put_gz(p, "z/train-images-idx3-ubyte.gz", b, idx_images(b, 20));
    assert_int_equal(
        nbi_file_read(p->ctx, at(p, "z/train-images-idx3-ubyte.gz"), 4096, &file, &size), NB_OK);
    for (size_t i = 0; i < size - 8; i++) {
        put(p, "z/train-images-idx3-ubyte.gz", file, i);
        refuse(p, "z", NB_EFORMAT, "'");
    }
    nbi_free(file);
    idx_images(b, 4);
    b[5] = 0xff;
    put_gz(p, "z/train-images-idx3-ubyte.gz", b, 40);
    refuse(p, "z", NB_EFORMAT, "its header says");
}

static void test_glyphs(void **state) {
    place *p = *state;
    nbi_dataset *data;
    static uint8_t image[3072];
    uint64_t hash = NBI_HASH_START;
    int label;
    nbi_data_options o = {.path = "builtin:glyphs"};
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &data), NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_int_equal(d->count[0], 20000);
    assert_int_equal(d->count[1], 2000);
    assert_int_equal(d->count[2], 2000);
    assert_int_equal(d->classes, 10);
    for (int s = 0; s < 3; s++)
        for (size_t i = 0; i < 100; i++) {
            assert_int_equal(nbi_dataset_sample(p->ctx, data, (nbi_split)s, i, image, &label),
                             NB_OK);
            assert_int_equal(label, i % 10);
            hash = nbi_hash(hash, image, sizeof image);
        }
    /* Golden: examples/glyphs.onnx learned exactly these pictures. */
    if (hash != GLYPHS_HASH) print_error("glyphs hash 0x%016llx\n", (unsigned long long)hash);
    assert_true(hash == GLYPHS_HASH);
    nbi_dataset_free(data);
}

static void test_transform(void **state) {
    (void)state;
    nbi_transform t;
    nbi_transform_default(&t);
    float table[256], chw[12];
    nbi_transform_table(&t, 2, table);
    for (int i = 0; i < 256; i++) assert_true(fabsf(table[i] - (float)i / 255.0f) < 1e-7f);
    t = (nbi_transform){.scale = 1, .mean = {1, 2, 3}, .std = {1, 2, 4}, .n = 3};
    const uint8_t hwc[12] = {1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15};
    nbi_transform_apply(&t, hwc, 2, 2, 3, chw);
    const float want[12] = {0, 4, 8, 12, 0, 2, 4, 6, 0, 1, 2, 3};
    for (int i = 0; i < 12; i++) assert_true(chw[i] == want[i]);
}

static void test_augment(void **state) {
    (void)state;
    enum { H = 6, W = 5 };
    uint8_t in[H * W * 3], out[H * W * 3], again[H * W * 3];
    bool flipped = false, straight = false, moved = false;
    for (int i = 0; i < H * W; i++)
        for (int c = 0; c < 3; c++) in[3 * i + c] = (uint8_t)(1 + i);
    for (uint64_t seed = 0; seed < 40; seed++) {
        nbi_rng a, b;
        nbi_rng_seed(&a, seed, 1);
        nbi_rng_seed(&b, seed, 1);
        nbi_augment_crop_flip(&a, in, H, W, 3, 2, 200, true, out);
        nbi_augment_crop_flip(&b, in, H, W, 3, 2, 200, true, again);
        assert_memory_equal(out, again, sizeof out);
        /* the centre pixel's neighbours tell flip and shift; outside is padding */
        int left = out[3 * (3 * W + 1)], right = out[3 * (3 * W + 3)];
        flipped = flipped || (left != 200 && right != 200 && left > right);
        straight = straight || (left != 200 && right != 200 && left < right);
        moved = moved || out[0] == 200;
        for (size_t i = 0; i < sizeof out; i++) assert_true(out[i] == 200 || out[i] <= H * W);
    }
    assert_true(flipped && straight && moved);
    nbi_rng rng;
    nbi_rng_seed(&rng, 1, 1);
    nbi_augment_crop_flip(&rng, in, H, W, 3, 0, 200, false, out);
    assert_memory_equal(in, out, sizeof in);
}

/* The k-th allocation fails, for every k: an error and no leak (the sanitizer builds look). */
static void test_no_memory(void **state) {
    place *p = *state;
    float x[20] = {0};
    uint8_t b[1024], y[20] = {0};
    put_npz(
        p, "m.npz",
        (npz_entry[]){{"x.npy", "<f4", "(20,)", x, sizeof x}, {"y.npy", "|u1", "(20,)", y, sizeof y}},
        2, true);
    put_cifar(p, "mc/train.bin", 12, 1, 0);
    put_gz(p, "mi/train-images-idx3-ubyte.gz", b, idx_images(b, 40));
    put_gz(p, "mi/train-labels-idx1-ubyte.gz", b, idx_labels(b, 40));
    const char *const names[] = {"m.npz", "mc", "mi"};
    for (size_t i = 0; i < NBI_COUNT(names); i++)
        for (long k = 1;; k++) {
            nbi_dataset *data = NULL;
            nbi_alloc_fail_after(k);
            nb_status st = open_at(p, names[i], &data);
            nbi_alloc_fail_after(0);
            nbi_dataset_free(data);
            if (st == NB_OK) break;
            assert_true(k < 200);
            assert_null(data);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cifar),       cmocka_unit_test(test_cifar_hostile),
        cmocka_unit_test(test_splits),      cmocka_unit_test(test_npz),
        cmocka_unit_test(test_npz_hostile), cmocka_unit_test(test_npz_claims),
        cmocka_unit_test(test_npz_unlabelled), cmocka_unit_test(test_idx),
        cmocka_unit_test(test_idx_hostile), cmocka_unit_test(test_glyphs),
        cmocka_unit_test(test_transform),   cmocka_unit_test(test_augment),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, place_setup, place_teardown);
}
