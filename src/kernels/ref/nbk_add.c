/* Addition (and, with a negative multiplier, subtraction) of two quantized tensors. */
#include "nbk.h"

void nbk_add_run(const nbk_add *p, const void *a, const void *b, void *out) {
    for (int32_t i = 0; i < p->count; i++) {
        const size_t at = (size_t)i;
        const int32_t x = nbk_load(a, p->a_type, at), y = nbk_load(b, p->b_type, at);
        nbk_store(out, p->out_type, at, nbk_add_one(p, x, y));
    }
}
