/* Multiplication of two quantized tensors, or of a tensor by one value per channel. */
#include "nbk.h"

void nbk_mul_run(const nbk_mul *p, const void *a, const void *b, void *out) {
    int32_t c = 0; /* i, or the channel */
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t x = nbk_load(a, p->a_type, (size_t)i) - p->a_zero;
        const int32_t y = nbk_load(b, p->b_type, (size_t)c) - p->b_zero;
        const int64_t v = nbk_rescale(x * y, p->mult, p->shift) + p->out_zero;
        nbk_store(out, p->out_type, (size_t)i, nbk_clamp(v, p->out_lo, p->out_hi));
        if (++c == p->b_channels) c = 0;
    }
}
