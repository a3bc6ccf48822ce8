/* What wino.c (order of work) and wino_avx2.c (arithmetic) share. Channel counts are multiples of
 * WINO_STRIP. Transformed tensors are [place][tile][channel], a place of the 36 every x_place or
 * y_place floats. */
#ifndef NIBBLE_LINALG_WINO_PARTS_H
#define NIBBLE_LINALG_WINO_PARTS_H

#include "linalg/wino.h"

#if defined(__x86_64__)
#define NBI_WINO_BUILT
#endif

enum { WINO_SIDE = 4, WINO_WINDOW = 6, WINO_PLACES = 36, WINO_STRIP = 16, WINO_ROWS = 6 };

typedef struct wino_shape {
    size_t n, c, h, w; /* in */
    size_t m, oh, ow;  /* out */
    int64_t pt, pl;
    size_t rows, columns, tiles; /* of one image, of one image, of all */
    size_t together;             /* tiles of a group, a multiple of WINO_ROWS */
    size_t x_place, y_place;
} wino_shape;

typedef struct wino_act {
    bool accumulate, clamp;
    float lo, hi;
} wino_act;

typedef struct wino_work {
    float *x, *y; /* transformed inputs; products, or transformed gradients of the output */
} wino_work;

/* The weights M,C,3,3 of input channels begin … end - 1 to u: [place][M / 16][C][16]. turned: of
 * the data's gradient, whose inputs are the layer's outputs. */
void nbi_wino_weights(const wino_shape *s, const float *w, bool turned, size_t begin, size_t end,
                      float *u);
/* Tiles first … first + n - 1 of the batch. */
void nbi_wino_input(const wino_shape *s, const float *in, size_t first, size_t n, wino_work *work);
void nbi_wino_products(const wino_shape *s, const float *u, size_t n, wino_work *work);
/* bias: M values or NULL. */
void nbi_wino_output(const wino_shape *s, const wino_act *act, const float *bias, size_t first,
                     size_t n, const wino_work *work, float *out);

void nbi_wino_gradient_input(const wino_shape *s, const float *gy, size_t first, size_t n,
                             wino_work *work);
/* Added to u: [place][C][M]. */
void nbi_wino_gradient_products(const wino_shape *s, size_t n, const wino_work *work, float *u);
/* Added to bias: M. */
void nbi_wino_gradient_bias(const wino_shape *s, size_t n, const wino_work *work, float *bias);
/* The sum of n_sums such u, input channels begin … end - 1, as gradients of M,C,3,3. */
void nbi_wino_gradient_output(const wino_shape *s, const float *u, size_t n_sums, size_t begin,
                              size_t end, float *gw);

#endif
