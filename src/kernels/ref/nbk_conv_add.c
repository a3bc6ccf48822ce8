/* The end of a residual block in one pass: the output of a convolution is added to the stream as it
 * is made, so that it needs no memory of its own, and the sum may lie in the stream's place:
 * element i of `other` is read before element i of `out` is written, and never again. */
#include "nbk.h"

void nbk_conv_add_run(const nbk_conv *p, const nbk_add *add, const void *in, const void *other,
                      void *out, void *scratch) {
    const size_t taps = (size_t)p->kh * (size_t)p->kw * (size_t)(p->in_c / p->groups);
    const size_t out_c = (size_t)p->out_c;
    for (int o = 0; o < p->out_c; o++) {
        const int8_t *w = nbk_conv_weights(p, o, scratch);
        const int group = o / (p->out_c / p->groups);
        const int32_t bias = nbk_bias(p, o, w, taps);
        size_t at = (size_t)o;
        for (int y = 0; y < p->out_h; y++)
            for (int x = 0; x < p->out_w; x++, at += out_c) {
                const int32_t sum = bias + nbk_conv_sum(p, in, w, group, y, x);
                const int64_t v = nbk_rescale(sum, p->mult[o], p->shift[o]) + p->out_zero;
                const int32_t a = nbk_clamp(v, p->out_lo, p->out_hi);
                const int32_t b = nbk_load(other, add->b_type, at);
                nbk_store(out, add->out_type, at, nbk_add_one(add, a, b));
            }
    }
}
