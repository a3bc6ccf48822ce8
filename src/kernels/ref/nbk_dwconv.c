/* Depthwise convolution: one filter per channel. The taps of one channel are decoded once, then
 * used for every pixel. */
#include "nbk.h"

size_t nbk_dwconv_scratch(const nbk_conv *p) {
    return (size_t)p->kh * (size_t)p->kw;
}

static int32_t pixel_sum(const nbk_conv *p, const void *in, const int8_t *w, int c, int oy,
                         int ox) {
    const int x0 = ox * p->sw - p->pl;
    int y = oy * p->sh - p->pt;
    const size_t in_w = (size_t)p->in_w, in_c = (size_t)p->in_c;
    int32_t sum = 0;
    for (int i = 0; i < p->kh; i++, y += p->dh) {
        const int row_inside = y >= 0 && y < p->in_h;
        int x = x0;
        for (int j = 0; j < p->kw; j++, w++, x += p->dw) {
            int32_t v = p->in_zero;
            if (row_inside && x >= 0 && x < p->in_w) {
                const size_t pixel = (size_t)y * in_w + (size_t)x;
                v = nbk_load(in, p->in_type, pixel * in_c + (size_t)c);
            }
            sum += v * *w;
        }
    }
    return sum;
}

/* Exactly one of out and acc is given. */
static void run(const nbk_conv *p, const void *in, void *out, int32_t *acc, void *scratch) {
    const size_t channels = (size_t)p->out_c, taps = nbk_dwconv_scratch(p);
    int8_t *w = (int8_t *)scratch;
    for (int c = 0; c < p->out_c; c++) {
        for (size_t t = 0; t < taps; t++)
            nbk_unpack(p->w, p->w_bits, p->w_levels, t * channels + (size_t)c, 1, w + t);
        const int32_t bias = nbk_bias(p, c, w, taps);
        size_t at = (size_t)c;
        for (int y = 0; y < p->out_h; y++)
            for (int x = 0; x < p->out_w; x++, at += channels) {
                const int32_t sum = bias + pixel_sum(p, in, w, c, y, x);
                if (acc) {
                    acc[at] = sum;
                    continue;
                }
                const int64_t v = nbk_rescale(sum, p->mult[c], p->shift[c]) + p->out_zero;
                nbk_store(out, p->out_type, at, nbk_clamp(v, p->out_lo, p->out_hi));
            }
    }
}

void nbk_dwconv_run(const nbk_conv *p, const void *in, void *out, void *scratch) {
    run(p, in, out, NULL, scratch);
}

void nbk_dwconv_sums(const nbk_conv *p, const void *in, int32_t *acc, void *scratch) {
    run(p, in, NULL, acc, scratch);
}
