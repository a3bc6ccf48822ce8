/* From bytes to a network's input: the affine transform, once, as a table of 256 values per
 * channel; and the usual augmentation of small training images. */
#include "data/data.h"

#include <string.h>

void nbi_transform_default(nbi_transform *t) {
    *t = (nbi_transform){.scale = 1.0f / 255.0f, .n = 1};
    for (int c = 0; c < 4; c++) t->std[c] = 1.0f;
}

uint64_t nbi_transform_hash(uint64_t hash, const nbi_transform *t) {
    if (t->resize || t->crop) {
        const int size[] = {t->resize, t->crop};
        hash = nbi_hash(hash, size, sizeof size);
    }
    hash = nbi_hash(hash, &t->scale, sizeof t->scale);
    hash = nbi_hash(hash, t->mean, sizeof t->mean);
    return nbi_hash(hash, t->std, sizeof t->std);
}

void nbi_transform_table(const nbi_transform *t, int channel, float table[256]) {
    int i = t->n > 1 && channel < t->n ? channel : 0;
    for (int byte = 0; byte < 256; byte++)
        table[byte] =
            (float)(((double)byte * (double)t->scale - (double)t->mean[i]) / (double)t->std[i]);
}

void nbi_transform_apply(const nbi_transform *t, const uint8_t *hwc, int h, int w, int c,
                         float *chw) {
    size_t pixels = (size_t)h * (size_t)w, step = (size_t)c;
    float table[256];
    for (int channel = 0; channel < c; channel++) {
        if (channel == 0 || t->n > 1) nbi_transform_table(t, channel, table);
        const uint8_t *in = hwc + channel;
        for (size_t p = 0; p < pixels; p++) *chw++ = table[in[p * step]];
    }
}

void nbi_augment_crop_flip(nbi_rng *rng, const uint8_t *in, int h, int w, int c, int pad_pixels,
                           uint8_t pad, bool flip, uint8_t *out) {
    uint32_t places = (uint32_t)(2 * pad_pixels + 1);
    int dy = (int)nbi_rng_below(rng, places) - pad_pixels;
    int dx = (int)nbi_rng_below(rng, places) - pad_pixels;
    bool mirrored = flip && (nbi_rng_u32(rng) & 1);
    size_t pixel = (size_t)c;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, out += pixel) {
            int sy = y + dy, sx = (mirrored ? w - 1 - x : x) + dx;
            if (sy < 0 || sy >= h || sx < 0 || sx >= w)
                memset(out, pad, pixel);
            else
                memcpy(out, in + ((size_t)sy * (size_t)w + (size_t)sx) * pixel, pixel);
        }
}
