/* See bench_cifar.h. */
#include "bench_cifar.h"

#include "exec/exec.h"
#include "onnx/onnx.h"
#include "quant/calibrate.h"
#include "quant/generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIDE        32
#define PAD         4
#define TRAIN_FILES 5
#define TRAIN_MOST  50000

static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};

void bench_check(nb_ctx *ctx, nb_status status, const char *what) {
    if (status == NB_OK) return;
    fprintf(stderr, "%s: %s\n", what, nb_ctx_message(ctx));
    exit(1);
}

static void fail(const char *what, const char *which) {
    fprintf(stderr, "%s: %s\n", which, what);
    exit(1);
}

void *bench_room(size_t bytes) {
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) fail("out of memory", "benchmark");
    return p;
}

double bench_cpu_seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

size_t bench_records(const char *folder, const char *name, size_t n, uint8_t *images,
                     int *labels) {
    char path[4096];
    uint8_t record[1 + BENCH_BYTES];
    size_t count = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) fail("cannot be read", path);
    for (; count < n && fread(record, sizeof record, 1, f) == 1; count++) {
        if (labels) labels[count] = record[0];
        for (size_t p = 0; p < BENCH_PIXELS; p++)
            for (size_t c = 0; c < 3; c++)
                images[count * BENCH_BYTES + 3 * p + c] = record[1 + c * BENCH_PIXELS + p];
    }
    fclose(f);
    return count;
}

/* Whole numbers of a text: "8256 49044 …". */
static void numbers(const json_t *draw, const char *key, long below, long out[BENCH_CALIB]) {
    const char *text = json_string_value(json_object_get(draw, key));
    if (!text) fail("is missing", key);
    for (int i = 0; i < BENCH_CALIB; i++) {
        char *end;
        out[i] = strtol(text, &end, 10);
        if (end == text || out[i] < 0 || out[i] >= below) fail("has a wrong number", key);
        text = end;
    }
}

/* code = (dy·9 + dx)·2 + flip: the window of the padded image at (dy, dx), then the mirror. */
static void crop_flip(const uint8_t *in, long code, uint8_t *out) {
    int flip = (int)(code & 1), window = (int)(code >> 1);
    int dy = window / (2 * PAD + 1) - PAD, dx = window % (2 * PAD + 1) - PAD;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int sy = y + dy, sx = (flip ? SIDE - 1 - x : x) + dx;
            bool inside = sy >= 0 && sy < SIDE && sx >= 0 && sx < SIDE;
            for (int c = 0; c < 3; c++)
                out[3 * (y * SIDE + x) + c] = inside ? in[3 * (sy * SIDE + sx) + c] : 0;
        }
}

void bench_draw(const char *folder, const char *draws_json, int d, uint8_t *plain,
                uint8_t *augmented) {
    json_error_t error;
    json_t *root = json_load_file(draws_json, 0, &error);
    char key[16], name[32];
    long index[BENCH_CALIB], code[BENCH_CALIB];
    if (!root) fail(error.text, draws_json);
    snprintf(key, sizeof key, "%d", d);
    const json_t *draw = json_object_get(json_object_get(root, "draws"), key);
    uint8_t *train = bench_room((size_t)TRAIN_MOST * BENCH_BYTES);
    size_t count = 0;
    for (int i = 1; i <= TRAIN_FILES; i++) {
        snprintf(name, sizeof name, "data_batch_%d.bin", i);
        count += bench_records(folder, name, TRAIN_MOST - count, train + count * BENCH_BYTES, NULL);
    }
    if ((json_int_t)count != json_integer_value(json_object_get(root, "train_images")))
        fail("does not hold the images that the draws were made from", folder);
    numbers(draw, "indices", (long)count, index);
    numbers(draw, "augmentation", 2 * (2 * PAD + 1) * (2 * PAD + 1), code);
    for (size_t i = 0; i < BENCH_CALIB; i++) {
        const uint8_t *image = train + (size_t)index[i] * BENCH_BYTES;
        if (plain) memcpy(plain + i * BENCH_BYTES, image, BENCH_BYTES);
        if (augmented) crop_flip(image, code[i], augmented + i * BENCH_BYTES);
    }
    free(train);
    json_decref(root);
}

nb_status bench_fill(nb_ctx *ctx, void *filler, size_t first, size_t n, float *out) {
    const bench_filler *f = filler;
    (void)ctx;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            for (size_t p = 0; p < BENCH_PIXELS; p++)
                *out++ = f->net->input_table[c][f->images[(first + i) * BENCH_BYTES + 3 * p + c]];
    return NB_OK;
}

void bench_network_open(nb_ctx *ctx, const char *model, const uint8_t *images, size_t n,
                        bench_network *out) {
    const nbi_qag_options sites = {NBI_FIRST_LAST_8, 8};
    nbi_graph *one;
    bench_check(ctx, nbi_onnx_read(ctx, model, &out->source), model);
    bench_check(ctx, nbi_specialize_batch(ctx, out->source, 1, &one), model);
    bench_check(ctx, nbi_generate(ctx, one, &sites, &out->net), model);
    out->net->input_is_image = true;
    for (int c = 0; c < 3; c++)
        for (int b = 0; b < 256; b++)
            out->net->input_table[c][b] = ((float)b / 255 - mean[c]) / deviation[c];
    bench_filler f = {images, out->net};
    const nbi_calibration options = {bench_fill, &f, n, NBI_RANGE_MSE, nbi_score_edge(out->net), NULL};
    bench_check(ctx, nbi_calibrate(ctx, out->source, out->net, &options), "calibration");
}

void bench_network_close(bench_network *network) {
    nbi_qnet_free(network->net);
    nbi_graph_free(network->source);
}

void bench_uniform(const nbi_qnet *net, int w, int a, nbi_choice *bits) {
    for (int i = 0; i < net->n_sites; i++) {
        const nbi_site *s = &net->site[i];
        bits[i] = (nbi_choice)(s->fixed_bits ? s->fixed_bits : s->kind == NBI_SITE_WEIGHT ? w : a);
    }
}
