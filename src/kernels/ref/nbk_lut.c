/* Any function of one 8-bit value, as a table. */
#include "nbk.h"

void nbk_lut_run(const nbk_lut *p, const void *in, void *out) {
    const uint8_t *x = (const uint8_t *)in;
    uint8_t *y = (uint8_t *)out;
    if (p->channels == 1) {
        for (int32_t i = 0; i < p->count; i++) y[i] = p->table[x[i]];
        return;
    }
    size_t c = 0;
    for (int32_t i = 0; i < p->count; i++) {
        y[i] = p->table[c * 256 + x[i]];
        if (++c == (size_t)p->channels) c = 0;
    }
}
