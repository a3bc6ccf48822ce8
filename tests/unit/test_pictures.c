/* Picture folders and lists: PNG, JPEG, colour, resize, crop, classes, splits, hostile files. */
#include "data_files.h"
#include "api/api.h"
#include "data/image.h"

#include <png.h>
#include <jpeglib.h>

/* w×h picture: grey level or R = base + x, G = base + y, B = base. */
static void fill(uint8_t *b, int w, int h, int channels, int base) {
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < channels; c++)
                *b++ = (uint8_t)(base + (c == 0 ? x : c == 1 ? y : 0));
}

static void put_png(place *p, const char *name, int w, int h, int channels, int base) {
    static uint8_t b[256 * 256 * 3];
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)w,
                       .height = (png_uint_32)h,
                       .format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB};
    fill(b, w, h, channels, base);
    put(p, name, "", 0);
    assert_int_not_equal(png_image_write_to_file(&image, at(p, name), 0, b, 0, NULL), 0);
}

static void put_jpeg(place *p, const char *name, int w, int h, int channels, int base) {
    static uint8_t b[256 * 256 * 3];
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned char *file = NULL;
    unsigned long size = 0;
    fill(b, w, h, channels, base);
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &file, &size);
    jpeg.image_width = (JDIMENSION)w;
    jpeg.image_height = (JDIMENSION)h;
    jpeg.input_components = channels;
    jpeg.in_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 100, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < jpeg.image_height) {
        JSAMPROW row = b + jpeg.next_scanline * (size_t)(w * channels);
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    put(p, name, file, size);
    free(file);
}

static void test_classes(void **state) {
    place *p = *state;
    nbi_dataset *data;
    uint8_t out[8 * 6 * 3];
    int label;
    char name[32];
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "f/train/cat/%02d.png", i);
        put_png(p, name, 8, 6, 3, i);
        snprintf(name, sizeof name, "f/train/ant/%02d.jpg", i);
        put_jpeg(p, name, 8, 6, 3, 100 + i);
    }
    put_png(p, "f/test/bee/a.PNG", 8, 6, 3, 50);
    put_png(p, "f/test/cat/a.png", 8, 6, 3, 60);
    put_png(p, "f/test/ant/a.png", 8, 6, 3, 70);
    put_png(p, "f/test/ant/b.png", 8, 6, 3, 80);
    assert_int_equal(open_at(p, "f", &data), NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_string_equal(d->kind, "folder");
    assert_int_equal(d->classes, 3); /* ant, bee, cat over both splits */
    assert_int_equal(d->count[0], 36);
    assert_int_equal(d->count[1], 4);
    assert_int_equal(d->count[2], 4);
    const int labels[4] = {0, 1, 2, 0}, bases[4] = {70, 50, 60, 80};
    for (int turn = 0; turn < 2; turn++) /* the second time from the cache */
        for (size_t i = 0; i < 4; i++) {
            assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TEST, i, out, &label),
                             NB_OK);
            assert_int_equal(label, labels[i]);
            assert_int_equal(out[0], bases[i]);
            assert_int_equal(out[3 * 7], bases[i] + 7);
            assert_int_equal(out[3 * 8 * 5 + 1], bases[i] + 5);
        }
    int cats = 0;
    for (size_t i = 0; i < 36; i++) {
        assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TRAIN, i, out, &label), NB_OK);
        assert_true(label == 0 || label == 2);
        assert_true(label ? out[2] < 20 : out[2] > 95); /* JPEG keeps the level roughly */
        cats += label == 2;
    }
    assert_int_equal(cats, 18);
    nbi_dataset_free(data);
}

static void test_flat_and_single(void **state) {
    place *p = *state;
    nbi_dataset *data;
    uint8_t out[4 * 4];
    int label;
    for (int i = 0; i < 10; i++) {
        char name[32];
        snprintf(name, sizeof name, "flat/%02d.png", i);
        put_png(p, name, 4, 4, 1, i);
    }
    assert_int_equal(open_at(p, "flat", &data), NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_int_equal(d->classes, 0);
    assert_int_equal(d->channels, 1);
    assert_int_equal(d->count[0], 8);
    assert_int_equal(d->count[1], 1);
    assert_int_equal(d->count[2], 1);
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_VAL, 0, out, &label), NB_OK);
    assert_int_equal(label, -1);
    nbi_dataset_free(data);
    assert_int_equal(open_at(p, "flat/03.png", &data), NB_OK);
    assert_int_equal(nbi_dataset_get(data)->count[0], 1);
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TRAIN, 0, out, &label), NB_OK);
    assert_int_equal(out[0], 3);
    nbi_dataset_free(data);
}

static void open_with(place *p, nbi_data_options o, int h, int w, int c, uint8_t *out) {
    nbi_dataset *data = NULL;
    int label;
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &data), NB_OK);
    const nbi_dataset_info *d = nbi_dataset_get(data);
    assert_int_equal(d->height, h);
    assert_int_equal(d->width, w);
    assert_int_equal(d->channels, c);
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TRAIN, 0, out, &label), NB_OK);
    nbi_dataset_free(data);
}

static void test_sizes(void **state) {
    place *p = *state;
    static uint8_t out[128 * 128 * 3];
    put_png(p, "s/a.png", 40, 20, 3, 100);
    const char *path = at(p, "s");
    /* as is; grey: 0.299 R + 0.587 G + 0.114 B */
    open_with(p, (nbi_data_options){.path = path}, 20, 40, 3, out);
    open_with(p, (nbi_data_options){.path = path, .want_channels = 1}, 20, 40, 1, out);
    assert_int_equal(out[39], (int)(0.299 * 139 + 0.701 * 100 + 0.5));
    /* the shorter side is covered, then the centre: columns 10..29 of 40 */
    open_with(p, (nbi_data_options){.path = path, .want_height = 20, .want_width = 20}, 20, 20, 3,
              out);
    assert_int_equal(out[0], 110);
    /* half the size: a ramp stays a ramp */
    open_with(p, (nbi_data_options){.path = path, .want_height = 10, .want_width = 10}, 10, 10, 3,
              out);
    for (int x = 0; x < 10; x++) assert_in_range(out[3 * x], 110 + 2 * x, 111 + 2 * x);
    /* twice the size, then the middle */
    open_with(p, (nbi_data_options){.path = path, .resize = 40, .crop = 32}, 32, 32, 3, out);
    for (int x = 0; x < 32; x++) assert_in_range(out[3 * x], 111 + x / 2, 112 + x / 2 + 1);
    open_with(p, (nbi_data_options){.path = path, .crop = 8}, 8, 8, 3, out);
    assert_int_equal(out[0], 116);
    /* another size than the first one, nothing asked for */
    put_png(p, "s/b.png", 40, 21, 3, 100);
    put_png(p, "s/c.png", 40, 19, 3, 100);
    nbi_dataset *data;
    nb_status worst = NB_OK;
    int label;
    assert_int_equal(open_at(p, "s", &data), NB_OK);
    for (int s = 0; s < 3; s++) {
        nb_status st = nbi_dataset_sample(p->ctx, data, (nbi_split)s, 0, out, &label);
        if (st != NB_OK) worst = st;
    }
    assert_int_equal(worst, NB_EFORMAT);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "c.png': the picture is 40x19, want 40x20"));
    nbi_dataset_free(data);
}

/* The first training sample (32×32 RGB) as a model reads it. */
static void read_as(place *p, const nb_data_options *o, const nbi_graph *model, uint8_t *out) {
    nbi_dataset *data = NULL;
    int label;
    assert_int_equal(nbi_open_data(p->ctx, o, model, &data), NB_OK);
    assert_int_equal(nbi_dataset_get(data)->sample_bytes, 32 * 32 * 3);
    assert_int_equal(nbi_dataset_sample(p->ctx, data, NBI_SPLIT_TRAIN, 0, out, &label), NB_OK);
    nbi_dataset_free(data);
}

static void test_kept_sizes(void **state) {
    place *p = *state;
    static uint8_t given[32 * 32 * 3], kept[32 * 32 * 3];
    put_png(p, "kept/a.png", 100, 100, 3, 50);
    const nb_data_options none = {.path = at(p, "kept"), .val_seed = -1};
    nb_data_options o = none;
    o.resize = 64, o.crop = 32;
    nbi_graph *model;
    nbi_transform t;
    int x;
    assert_int_equal(nbi_graph_new(p->ctx, &model), NB_OK);
    assert_int_equal(nbi_graph_add_tensor(p->ctx, model, "x", NB_DTYPE_F32, 4,
                                          (const int64_t[]){1, 3, 32, 32}, &x), NB_OK);
    assert_int_equal(nbi_graph_set_inputs(p->ctx, model, 1, &x), NB_OK);
    read_as(p, &o, model, given);
    read_as(p, &none, model, kept);
    assert_memory_not_equal(given, kept, sizeof given);
    /* the model remembers them */
    assert_int_equal(nbi_transform_of(p->ctx, &o, model, &t), NB_OK);
    assert_int_equal(nbi_transform_keep(p->ctx, &t, model), NB_OK);
    read_as(p, &none, model, kept);
    assert_memory_equal(given, kept, sizeof given);
    /* options win */
    o.resize = 100;
    read_as(p, &o, model, given);
    assert_memory_not_equal(given, kept, sizeof given);
    /* other data has nothing to resize: no matter for the model, but for who asks for it */
    nb_data_options glyphs = {.path = "builtin:glyphs", .val_seed = -1};
    read_as(p, &glyphs, model, kept);
    nbi_dataset *data;
    glyphs.crop = 32;
    assert_int_equal(nbi_open_data(p->ctx, &glyphs, model, &data), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "crop: 'builtin:glyphs'"));
    assert_int_equal(nbi_graph_set_meta(p->ctx, model, "nibble.crop", "-3"), NB_OK);
    assert_int_equal(nbi_transform_of(p->ctx, &none, model, &t), NB_EFORMAT);
    nbi_graph_free(model);
}

static void test_resize_constant(void **state) {
    place *p = *state;
    for (int h = 1; h < 70; h += 7)
        for (int w = 1; w < 70; w += 11) {
            nbi_image image = {0};
            assert_int_equal(nbi_image_new(p->ctx, "", 23, 31, 3, &image), NB_OK);
            memset(image.data, 255, 23 * 31 * 3);
            assert_int_equal(nbi_image_resize(p->ctx, &image, h, w), NB_OK);
            for (int i = 0; i < h * w * 3; i++) assert_int_equal(image.data[i], 255);
            nbi_image_free(&image);
        }
}

static void test_list(void **state) {
    place *p = *state;
    nbi_dataset *data;
    uint8_t out[4 * 4 * 3];
    int label;
    const char text[] = "path,label\r\npics/b.png,dog\n\n\"pics/a, \"\"x\"\".png\",cat\n"
                        "pics/b.png,dog\npics/b.png,dog\n";
    put_png(p, "l/pics/a, \"x\".png", 4, 4, 3, 1);
    put_png(p, "l/pics/b.png", 4, 4, 3, 2);
    put(p, "l/list.csv", text, sizeof text - 1);
    for (int direct = 0; direct < 2; direct++) {
        assert_int_equal(open_at(p, direct ? "l/list.csv" : "l", &data), NB_OK);
        const nbi_dataset_info *d = nbi_dataset_get(data);
        assert_string_equal(d->kind, "list");
        assert_int_equal(d->classes, 2);
        assert_int_equal(d->count[0] + d->count[1] + d->count[2], 4);
        for (int s = 0; s < 3; s++)
            for (size_t i = 0; i < d->count[s]; i++) {
                assert_int_equal(nbi_dataset_sample(p->ctx, data, (nbi_split)s, i, out, &label),
                                 NB_OK);
                assert_int_equal(out[0], label == 0 ? 1 : 2); /* cat 0, dog 1 */
            }
        nbi_dataset_free(data);
    }
    put(p, "l/list.csv", "pics/b.png,-3\n", 14);
    refuse(p, "l", NB_EFORMAT, "label -3");
    put(p, "l/list.csv", "pics/b.png,99999999999999999999\n", 32);
    refuse(p, "l", NB_EFORMAT, "want 0..65535");
    put(p, "l/list.csv", "pics/b.png,1,2\n", 15);
    refuse(p, "l", NB_EFORMAT, "line 1: want path,label");
    put(p, "l/list.csv", "\"pics/b.png\"\",1\n", 16);
    refuse(p, "l", NB_EFORMAT, "line 1: want path,label");
    put(p, "l/list.csv", "pics/b.png,1\npics/no.png,1\n", 27);
    refuse(p, "l", NB_EFORMAT, "pics/no.png', which does not exist");
    put(p, "l/list.csv", "pics/b.png,1\npics/b.png\n", 24);
    refuse(p, "l", NB_EFORMAT, "1 of 2 pictures have a class");
    put(p, "l/list.csv", "path,label\n", 11);
    refuse(p, "l", NB_EFORMAT, "lists no pictures");
    put(p, "l/list.csv", "a\0b,1\n", 6);
    refuse(p, "l", NB_EFORMAT, "zero byte");
}

/* Cut anywhere or flipped anywhere: an error or a picture, never a crash. */
static void mangle(place *p, const char *name) {
    void *file;
    size_t size;
    assert_int_equal(nbi_file_read(p->ctx, at(p, name), 1 << 20, &file, &size), NB_OK);
    uint8_t *bytes = file;
    for (size_t i = 0; i < size; i++) {
        nbi_image image = {0};
        nb_status st = nbi_image_decode(p->ctx, name, bytes, i, &image);
        if (i + 12 < size && i + 2 < size) assert_int_equal(st, NB_EFORMAT);
        nbi_image_free(&image);
        bytes[i] ^= 0xff;
        image = (nbi_image){0};
        st = nbi_image_decode(p->ctx, name, bytes, size, &image);
        assert_true(st == NB_OK || image.data == NULL);
        nbi_image_free(&image);
        bytes[i] ^= 0xff;
    }
    nbi_free(file);
}

static void test_hostile(void **state) {
    place *p = *state;
    put_png(p, "h/a.png", 16, 12, 3, 3);
    put_jpeg(p, "h/b.jpg", 16, 12, 3, 3);
    mangle(p, "h/a.png");
    mangle(p, "h/b.jpg");
    put(p, "w/a.png", "GIF89a not a picture", 20);
    refuse(p, "w", NB_EFORMAT, "neither a PNG nor a JPEG");
    put_png(p, "k/x/a.png", 4, 4, 3, 0);
    nbi_data_options o = {.path = at(p, "k"), .want_channels = 4};
    nbi_dataset *data = NULL;
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &data), NB_EINVAL);
    o = (nbi_data_options){.path = at(p, "k"), .resize = 100000};
    assert_int_equal(nbi_dataset_open(p->ctx, &o, &data), NB_EINVAL);
}

static nb_status read_range(void *user, size_t begin, size_t end, int worker) {
    const nbi_dataset *data = user;
    uint8_t out[4 * 4 * 3];
    int label;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        NB_TRY(nbi_dataset_sample(NULL, data, NBI_SPLIT_TRAIN, i % 16, out, &label));
        if (out[2] % 2 != label) return NB_EMISMATCH;
    }
    return NB_OK;
}

/* Threads race for the same cache slots. */
static void test_threads(void **state) {
    place *p = *state;
    nbi_dataset *data;
    for (int i = 0; i < 20; i++) {
        char name[32];
        snprintf(name, sizeof name, "p/%d/%02d.png", i % 2, i);
        put_png(p, name, 4, 4, 3, i);
    }
    assert_int_equal(open_at(p, "p", &data), NB_OK);
    nb_ctx_set_threads(p->ctx, 8);
    assert_int_equal(nbi_parallel(p->ctx, 4000, 1, read_range, data), NB_OK);
    nbi_dataset_free(data);
}

static void test_no_memory(void **state) {
    place *p = *state;
    put_png(p, "m/x/a.png", 4, 4, 3, 0);
    put_jpeg(p, "m/y/a.jpg", 5, 4, 1, 0);
    for (long k = 1;; k++) {
        nbi_data_options o = {.path = at(p, "m"), .want_height = 2, .want_width = 2};
        nbi_dataset *data = NULL;
        uint8_t out[12];
        int label;
        nbi_alloc_fail_after(k);
        nb_status st = nbi_dataset_open(p->ctx, &o, &data);
        for (int s = 0; st == NB_OK && s < 3; s++)
            if (nbi_dataset_get(data)->count[s])
                st = nbi_dataset_sample(p->ctx, data, (nbi_split)s, 0, out, &label);
        nbi_alloc_fail_after(0);
        nbi_dataset_free(data);
        if (st == NB_OK) break;
        assert_true(k < 300);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes), cmocka_unit_test(test_flat_and_single),
        cmocka_unit_test(test_sizes),   cmocka_unit_test(test_resize_constant),
        cmocka_unit_test(test_list),    cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_kept_sizes),
    };
    return cmocka_run_group_tests(tests, place_setup, place_teardown);
}
