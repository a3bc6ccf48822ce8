/* Decoded pictures and what is done to them before they are samples. */
#ifndef NIBBLE_DATA_IMAGE_H
#define NIBBLE_DATA_IMAGE_H

#include "base/base.h"

/* The largest picture that is decoded. */
enum { NBI_IMAGE_SIDE_MAX = 16384 };
#define NBI_IMAGE_PIXELS_MAX ((size_t)1 << 26)
#define NBI_IMAGE_FILE_MAX   ((size_t)256 << 20)

typedef struct nbi_image {
    int height, width, channels; /* 1 grey, 3 RGB */
    uint8_t *data;               /* H,W,C; from nbi_alloc */
} nbi_image;

/* PNG or JPEG, told by the first bytes; 16 bits become 8, palettes RGB, alpha is dropped. `path`
 * serves messages. */
nb_status nbi_image_decode(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size,
                           nbi_image *out);
nb_status nbi_image_load(nb_ctx *ctx, const char *path, nbi_image *out);
void nbi_image_free(nbi_image *image);
/* Whether these first 8 bytes begin a PNG or a JPEG. */
bool nbi_image_is_png(const uint8_t head[8]);
bool nbi_image_is_jpeg(const uint8_t head[8]);
nb_status nbi_png_decode(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size,
                         nbi_image *out);
nb_status nbi_jpeg_decode(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size,
                          nbi_image *out);
/* Zeroed pixels, after checking the size against the limits above. */
nb_status nbi_image_new(nb_ctx *ctx, const char *path, size_t height, size_t width, int channels,
                        nbi_image *out);

/* Grey ↔ RGB in place (Rec. 601 luma); channels is 1 or 3. */
nb_status nbi_image_recolour(nb_ctx *ctx, nbi_image *image, int channels);
/* To height×width by a triangle filter that widens with the reduction (bilinear when enlarging);
 * 14-bit integer weights, so the same bytes everywhere. */
nb_status nbi_image_resize(nb_ctx *ctx, nbi_image *image, int height, int width);
/* The middle height×width; the image must not be smaller. */
nb_status nbi_image_crop(nb_ctx *ctx, nbi_image *image, int height, int width);

#endif
