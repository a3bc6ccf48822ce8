/* PNG through libpng's row interface (its simplified one would apply gamma chunks, which Python's
 * readers, and so the networks, ignore). libpng jumps on errors; whatever must survive the jump
 * lives in `job`, outside the jumping frame. */
#include "data/image.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

typedef struct job {
    const uint8_t *file;
    size_t size, at;
    char message[128];
    png_structp png;
    png_infop info;
    nbi_image image;
    png_bytep *rows;
    nb_status st;
} job;

static void on_error(png_structp png, png_const_charp text) {
    job *j = png_get_error_ptr(png);
    snprintf(j->message, sizeof j->message, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep out, png_size_t size) {
    job *j = png_get_io_ptr(png);
    if (size > j->size - j->at) png_error(png, "the file is truncated");
    memcpy(out, j->file + j->at, size);
    j->at += size;
}

/* Everything becomes 8-bit grey or RGB. */
static void ask_conversions(png_structp png, png_infop info) {
    int type = png_get_color_type(png, info);
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) < 8)
        png_set_expand_gray_1_2_4_to_8(png);
    if (png_get_bit_depth(png, info) == 16) png_set_scale_16(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
}

/* Runs under setjmp: returns false after a jump. */
static bool read_png(nb_ctx *ctx, const char *path, job *j) {
    if (setjmp(png_jmpbuf(j->png))) return false;
    png_set_user_limits(j->png, NBI_IMAGE_SIDE_MAX, NBI_IMAGE_SIDE_MAX);
    png_set_read_fn(j->png, j, on_read);
    png_read_info(j->png, j->info);
    ask_conversions(j->png, j->info);
    size_t height = png_get_image_height(j->png, j->info);
    size_t width = png_get_image_width(j->png, j->info);
    int channels = png_get_channels(j->png, j->info);
    if ((channels != 1 && channels != 3) ||
        png_get_rowbytes(j->png, j->info) != width * (size_t)channels)
        png_error(j->png, "unexpected pixel layout");
    j->st = nbi_image_new(ctx, path, height, width, channels, &j->image);
    if (j->st == NB_OK) j->st = nbi_alloc(ctx, height, sizeof *j->rows, &j->rows);
    if (j->st != NB_OK) return true;
    for (size_t y = 0; y < height; y++) j->rows[y] = j->image.data + y * width * (size_t)channels;
    png_read_image(j->png, j->rows);
    png_read_end(j->png, NULL);
    return true;
}

nb_status nbi_png_decode(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size,
                         nbi_image *out) {
    job j = {.file = file, .size = size};
    j.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    if (j.png) j.info = png_create_info_struct(j.png);
    if (!j.info)
        j.st = nb_fail_memory(ctx, 1 << 12);
    else if (!read_png(ctx, path, &j))
        j.st = nb_fail(ctx, NB_EFORMAT, "'%s' is not a readable PNG: %s", path, j.message);
    if (j.png) png_destroy_read_struct(&j.png, &j.info, NULL);
    nbi_free(j.rows);
    if (j.st == NB_OK)
        *out = j.image;
    else
        nbi_image_free(&j.image);
    return j.st;
}
