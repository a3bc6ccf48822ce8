/* Addition (and, with a negative multiplier, subtraction) of two quantized tensors. */
#include "nbk.h"

void nbk_add_run(const nbk_add *p, const void *a, const void *b, void *out) {
    const int32_t half = (int32_t)1 << (p->shift - 1);
    for (int32_t i = 0; i < p->count; i++) {
        const size_t at = (size_t)i;
        const int32_t x = (nbk_load(a, p->a_type, at) - p->a_zero) * p->a_mult;
        const int32_t y = (nbk_load(b, p->b_type, at) - p->b_zero) * p->b_mult;
        const int32_t v = ((x + y + half) >> p->shift) + p->out_zero;
        nbk_store(out, p->out_type, at, nbk_clamp(v, p->out_lo, p->out_hi));
    }
}
