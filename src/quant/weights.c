/* Weights: symmetric uniform levels per output channel, and their packing. */
#include "quant/fit.h"

#include <math.h>
#include <string.h>

typedef struct fit_job {
    const nbi_layer *layer;
    int bits;
    float *scale;
} fit_job;

static nb_status fit_channels(void *user, size_t begin, size_t end, int worker) {
    const fit_job *job = user;
    const nbi_layer *l = job->layer;
    size_t channels = (size_t)l->geometry.out_c, n = l->n_weights / channels;
    (void)worker;
    for (size_t c = begin; c < end; c++) {
        const float *w = l->depthwise ? l->weight + c : l->weight + c * n;
        job->scale[c] = nbi_fit_scale(w, n, l->depthwise ? channels : 1, job->bits);
    }
    return NB_OK;
}

nb_status nbi_fit_weights(nb_ctx *ctx, const nbi_layer *layer, int bits, bool per_channel,
                          int8_t *levels, float *scale, double *sqnr) {
    int channels = layer->geometry.out_c;
    fit_job job = {layer, bits, scale};
    if (per_channel) {
        NB_TRY(nbi_parallel(ctx, (size_t)channels, 8, fit_channels, &job));
    } else {
        float s = nbi_fit_scale(layer->weight, layer->n_weights, 1, bits);
        for (int c = 0; c < channels; c++) scale[c] = s;
    }
    int lo = bits == 1 ? -1 : -(1 << (bits - 1)), hi = bits == 1 ? 1 : -lo - 1;
    int step = nbk_level_step(bits);
    double signal = 0, noise = 0;
    for (size_t i = 0; i < layer->n_weights; i++) {
        float channel = scale[nbi_weight_channel(layer, i)];
        int k = bits == 1 ? (layer->weight[i] < 0 ? -1 : 1)
                          : nbi_level_of(layer->weight[i], channel, lo, hi);
        double w = (double)layer->weight[i], s = (double)channel;
        levels[i] = (int8_t)(k * step);
        signal += w * w;
        noise += (w - s * k) * (w - s * k);
    }
    for (int c = 0; c < channels; c++) scale[c] /= (float)step; /* a power of two: exact */
    *sqnr = noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
    return NB_OK;
}

bool nbi_has_zero_level(int bits, const int8_t *table) {
    return table ? memchr(table, 0, (size_t)1 << bits) != NULL : bits > 1;
}

void nbi_clear_constants(const nbi_layer *l, int bits, const int8_t *table, int8_t *levels) {
    if (!nbi_has_zero_level(bits, table)) return;
    for (size_t i = 0; i < l->n_weights; i++)
        if (l->gain[nbi_weight_channel(l, i)] == 0) levels[i] = 0;
}

size_t nbi_packed_bytes(size_t count, int bits) {
    return (count * (size_t)bits + 7) / 8;
}

const int8_t *nbi_level_table(int bits) {
    static const int8_t sign[2] = {8, -8}; /* ± nbk_level_step(1) */
    return bits == 1 ? sign : NULL;
}

void nbi_pack_weights(const int8_t *levels, size_t count, int bits, uint8_t *out) {
    nbi_pack_codes(levels, count, bits, NULL, out);
}

void nbi_pack_codes(const int8_t *levels, size_t count, int bits, const int8_t *table,
                    uint8_t *out) {
    memset(out, 0, nbi_packed_bytes(count, bits));
    uint8_t place[256] = {0}; /* by level, the first of equal ones */
    for (int c = (1 << bits) - 1; table && c >= 0; c--) place[(uint8_t)table[c]] = (uint8_t)c;
    unsigned mask = (1u << bits) - 1;
    int step = nbk_level_step(bits);
    for (size_t i = 0; i < count; i++) {
        unsigned code = table       ? place[(uint8_t)levels[i]]
                        : bits == 1 ? levels[i] < 0
                                    : (unsigned)(levels[i] / step) & mask;
        size_t at = i * (size_t)bits;
        out[at / 8] = (uint8_t)(out[at / 8] | code << at % 8);
        if (at % 8 + (size_t)bits > 8)
            out[at / 8 + 1] = (uint8_t)(out[at / 8 + 1] | code >> (8 - at % 8));
    }
}
