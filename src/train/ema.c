/* The exponential moving average of weights and running statistics. */
#include "train/chunks.h"

#include <math.h>
#include <string.h>

struct nbi_ema {
    float decay, d; /* d: of the update at hand */
    nbi_param *array;
    nbi_state *average;
    size_t n;
    nbi_chunks chunks;
    uint64_t updates;
};

nb_status nbi_ema_new(nb_ctx *ctx, float decay, const nbi_param *arrays, size_t n, nbi_ema **out) {
    nbi_ema *e = NULL;
    nb_status st;
    if (!(decay > 0 && decay < 1))
        return nb_fail(ctx, NB_EINVAL, "ema: %g is not between 0 and 1", (double)decay);
    NB_TRY(nbi_alloc(ctx, 1, sizeof *e, &e));
    e->decay = decay;
    NB_TRYG(nbi_alloc(ctx, n, sizeof *e->array, &e->array));
    NB_TRYG(nbi_alloc(ctx, n, sizeof *e->average, &e->average));
    for (; e->n < n; e->n++) {
        nbi_state *s = &e->average[e->n];
        e->array[e->n] = arrays[e->n];
        memcpy(s->name, "ema", 4);
        NB_TRYG(nbi_alloc(ctx, arrays[e->n].count, sizeof *s->data, &s->data));
        s->count = arrays[e->n].count;
        if (s->count) memcpy(s->data, arrays[e->n].value, s->count * sizeof *s->data);
    }
    NB_TRYG(nbi_chunks_new(ctx, arrays, n, &e->chunks));
    *out = e;
    return NB_OK;
done:
    nbi_ema_free(e);
    return st;
}

void nbi_ema_free(nbi_ema *e) {
    if (!e) return;
    for (size_t i = 0; e->average && i < e->n; i++) nbi_free(e->average[i].data);
    nbi_free(e->average);
    nbi_free(e->array);
    nbi_chunks_free(&e->chunks);
    nbi_free(e);
}

static nb_status update_range(void *user, size_t begin, size_t end, int worker) {
    nbi_ema *e = user;
    float d = e->d, c = 1 - e->d;
    (void)worker;
    for (size_t k = begin; k < end; k++) {
        const nbi_chunk *at = &e->chunks.chunk[k];
        float *restrict average = e->average[at->array].data;
        const float *restrict w = e->array[at->array].value;
        for (size_t i = at->begin; i < at->end; i++) average[i] = d * average[i] + c * w[i];
    }
    return NB_OK;
}

nb_status nbi_ema_update(nb_ctx *ctx, nbi_ema *e) {
    double t = (double)++e->updates;
    e->d = (float)fmin((double)e->decay, (1 + t) / (10 + t));
    return nbi_parallel(ctx, e->chunks.n, 1, update_range, e);
}

static nb_status swap_range(void *user, size_t begin, size_t end, int worker) {
    nbi_ema *e = user;
    (void)worker;
    for (size_t k = begin; k < end; k++) {
        const nbi_chunk *at = &e->chunks.chunk[k];
        float *restrict average = e->average[at->array].data, *restrict w = e->array[at->array].value;
        for (size_t i = at->begin; i < at->end; i++) {
            float old = w[i];
            w[i] = average[i];
            average[i] = old;
        }
    }
    return NB_OK;
}

nb_status nbi_ema_swap(nb_ctx *ctx, nbi_ema *e) {
    return nbi_parallel(ctx, e->chunks.n, 1, swap_range, e);
}

void nbi_ema_state(nbi_ema *e, nbi_state **out, size_t *n, uint64_t **updates) {
    *out = e->average;
    *n = e->n;
    *updates = &e->updates;
}
