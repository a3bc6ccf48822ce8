/* A strided copy of up to six dimensions, after an optional fill. */
#include "nbk.h"

static void copy_row(const nbk_copy *p, const void *in, void *out, int32_t from, int32_t to) {
    const int d = NBK_COPY_RANK - 1;
    for (int32_t i = 0; i < p->n[d]; i++, from += p->in_stride[d], to += p->out_stride[d])
        if (p->size == 1)
            ((uint8_t *)out)[to] = ((const uint8_t *)in)[from];
        else
            ((int32_t *)out)[to] = ((const int32_t *)in)[from];
}

void nbk_copy_run(const nbk_copy *p, const void *in, void *out) {
    int32_t index[NBK_COPY_RANK] = {0}, from = p->in_offset, to = p->out_offset;
    for (int32_t i = 0; i < p->fill_bytes; i++) ((uint8_t *)out)[i] = (uint8_t)p->fill_value;
    for (int d = 0; d < NBK_COPY_RANK; d++)
        if (p->n[d] <= 0) return;
    for (;;) {
        copy_row(p, in, out, from, to);
        int d = NBK_COPY_RANK - 2; /* count up like an odometer */
        while (d >= 0 && ++index[d] == p->n[d]) {
            from -= (p->n[d] - 1) * p->in_stride[d];
            to -= (p->n[d] - 1) * p->out_stride[d];
            index[d--] = 0;
        }
        if (d < 0) return;
        from += p->in_stride[d];
        to += p->out_stride[d];
    }
}
