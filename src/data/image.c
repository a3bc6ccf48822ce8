/* Pictures: dispatch by content, colour, resize, crop. The resize is separable; each output pixel
 * is a weighted mean of the input pixels under a triangle of half-width max(1, reduction), so
 * reductions do not alias. Weights are rounded to 14 bits and sum to exactly 2^14. */
#include "data/image.h"

#include <string.h>

enum { WEIGHT_BITS = 14, WEIGHT_ONE = 1 << WEIGHT_BITS };

bool nbi_image_is_png(const uint8_t head[8]) {
    static const uint8_t magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    return memcmp(head, magic, sizeof magic) == 0;
}

bool nbi_image_is_jpeg(const uint8_t head[8]) {
    return head[0] == 0xff && head[1] == 0xd8 && head[2] == 0xff;
}

void nbi_image_free(nbi_image *image) {
    nbi_free(image->data);
    *image = (nbi_image){0};
}

nb_status nbi_image_new(nb_ctx *ctx, const char *path, size_t height, size_t width, int channels,
                        nbi_image *out) {
    if (!height || !width || height > NBI_IMAGE_SIDE_MAX || width > NBI_IMAGE_SIDE_MAX ||
        height * width > NBI_IMAGE_PIXELS_MAX)
        return nb_fail(ctx, NB_EFORMAT,
                       "'%s' is a picture of %zux%zu, want sides up to %d and %zu pixels", path,
                       width, height, NBI_IMAGE_SIDE_MAX, NBI_IMAGE_PIXELS_MAX);
    nbi_image image = {(int)height, (int)width, channels, NULL};
    NB_TRY(nbi_alloc(ctx, height * width, (size_t)channels, &image.data));
    *out = image;
    return NB_OK;
}

nb_status nbi_image_decode(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size,
                           nbi_image *out) {
    if (size >= 8 && nbi_image_is_png(file)) return nbi_png_decode(ctx, path, file, size, out);
    if (size >= 8 && nbi_image_is_jpeg(file)) return nbi_jpeg_decode(ctx, path, file, size, out);
    return nb_fail(ctx, NB_EFORMAT, "'%s' begins with neither a PNG nor a JPEG signature", path);
}

nb_status nbi_image_load(nb_ctx *ctx, const char *path, nbi_image *out) {
    void *file = NULL;
    size_t size;
    NB_TRY(nbi_file_read(ctx, path, NBI_IMAGE_FILE_MAX, &file, &size));
    nb_status st = nbi_image_decode(ctx, path, file, size, out);
    nbi_free(file);
    return st;
}

nb_status nbi_image_recolour(nb_ctx *ctx, nbi_image *image, int channels) {
    if (image->channels == channels) return NB_OK;
    size_t pixels = (size_t)image->height * (size_t)image->width;
    uint8_t *data;
    NB_TRY(nbi_alloc(ctx, pixels, (size_t)channels, &data));
    for (size_t i = 0; i < pixels; i++) {
        if (channels == 3) {
            memset(data + 3 * i, image->data[i], 3);
        } else {
            const uint8_t *p = image->data + 3 * i; /* 0.299 R + 0.587 G + 0.114 B in 16 bits */
            data[i] = (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 32768u) >> 16);
        }
    }
    nbi_free(image->data);
    image->data = data;
    image->channels = channels;
    return NB_OK;
}

/* The taps of one axis: output i = Σ weight[i·taps + j] · input[start[i] + j]. */
typedef struct filter {
    int taps;
    int *start;
    int16_t *weight;
} filter;

static void free_filter(filter *f) {
    nbi_free(f->start);
    nbi_free(f->weight);
}

/* Weights of one output pixel with centre `centre` (in input pixels). */
static void fill_taps(filter *f, int i, double centre, double half, int in) {
    int first = (int)(centre - half + 0.5), last = (int)(centre + half + 0.5);
    if (first < 0) first = 0;
    if (last > in) last = in;
    if (last - first > f->taps) last = first + f->taps;
    double sum = 0;
    for (int x = first; x < last; x++) {
        double d = ((double)x + 0.5 - centre) / half;
        sum += d < 0 ? (d > -1 ? 1 + d : 0) : (d < 1 ? 1 - d : 0);
    }
    int16_t *w = f->weight + (size_t)i * (size_t)f->taps;
    int left = WEIGHT_ONE, best = 0;
    for (int x = first; x < last; x++) {
        double d = ((double)x + 0.5 - centre) / half;
        double share = d < 0 ? (d > -1 ? 1 + d : 0) : (d < 1 ? 1 - d : 0);
        w[x - first] = (int16_t)(share / sum * WEIGHT_ONE + 0.5);
        left -= w[x - first];
        if (w[x - first] > w[best]) best = x - first;
    }
    w[best] = (int16_t)(w[best] + left); /* rounding's rest goes to the largest */
    f->start[i] = first;
}

static nb_status make_filter(nb_ctx *ctx, int in, int out, filter *f) {
    double scale = (double)in / (double)out, half = scale > 1 ? scale : 1;
    *f = (filter){.taps = (int)(2 * half) + 2};
    NB_TRY(nbi_alloc(ctx, (size_t)out, sizeof *f->start, &f->start));
    NB_TRY(nbi_alloc(ctx, (size_t)out * (size_t)f->taps, sizeof *f->weight, &f->weight));
    for (int i = 0; i < out; i++) fill_taps(f, i, ((double)i + 0.5) * scale, half, in);
    return NB_OK;
}

/* One output value: taps at distance `step` from p, bounded by `n` inputs. */
static uint8_t apply_taps(const filter *f, int i, const uint8_t *line, size_t step, int n) {
    const int16_t *w = f->weight + (size_t)i * (size_t)f->taps;
    int taps = f->start[i] + f->taps > n ? n - f->start[i] : f->taps, sum = WEIGHT_ONE / 2;
    const uint8_t *p = line + (size_t)f->start[i] * step;
    for (int j = 0; j < taps; j++, p += step) sum += w[j] * *p;
    return (uint8_t)(sum >> WEIGHT_BITS); /* weights are ≥ 0 and sum to one: 0..255 */
}

nb_status nbi_image_resize(nb_ctx *ctx, nbi_image *image, int height, int width) {
    int h = image->height, w = image->width;
    size_t c = (size_t)image->channels, row_in = (size_t)w * c, row = (size_t)width * c;
    filter across = {0}, down = {0};
    uint8_t *wide = NULL;
    nbi_image out = {0};
    nb_status st = NB_OK;
    if (h == height && w == width) return NB_OK;
    NB_TRYG(nbi_image_new(ctx, "resized", (size_t)height, (size_t)width, image->channels, &out));
    NB_TRYG(nbi_alloc(ctx, (size_t)h, row, &wide));
    NB_TRYG(make_filter(ctx, w, width, &across));
    NB_TRYG(make_filter(ctx, h, height, &down));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < width; x++)
            for (size_t k = 0; k < c; k++)
                wide[(size_t)y * row + (size_t)x * c + k] =
                    apply_taps(&across, x, image->data + (size_t)y * row_in + k, c, w);
    for (int y = 0; y < height; y++)
        for (size_t x = 0; x < row; x++)
            out.data[(size_t)y * row + x] = apply_taps(&down, y, wide + x, row, h);
    nbi_image_free(image);
    *image = out;
    out = (nbi_image){0};
done:
    free_filter(&across);
    free_filter(&down);
    nbi_free(wide);
    nbi_image_free(&out);
    return st;
}

nb_status nbi_image_crop(nb_ctx *ctx, nbi_image *image, int height, int width) {
    if (image->height == height && image->width == width) return NB_OK;
    if (image->height < height || image->width < width)
        return nb_fail(ctx, NB_EFORMAT, "a picture of %dx%d cannot be cropped to %dx%d",
                       image->width, image->height, width, height);
    size_t c = (size_t)image->channels, row = (size_t)width * c;
    size_t top = (size_t)(image->height - height) / 2, left = (size_t)(image->width - width) / 2;
    uint8_t *data;
    NB_TRY(nbi_alloc(ctx, (size_t)height, row, &data));
    for (size_t y = 0; y < (size_t)height; y++)
        memcpy(data + y * row, image->data + ((top + y) * (size_t)image->width + left) * c, row);
    nbi_free(image->data);
    *image = (nbi_image){height, width, image->channels, data};
    return NB_OK;
}
