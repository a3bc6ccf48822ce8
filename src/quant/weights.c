/* Weights: symmetric uniform levels per output channel, and their packing. */
#include "quant/fit.h"

#include <math.h>
#include <string.h>

#define STEPS 100

static int level_of(float w, double inverse, int lo, int hi) {
    double k = rint((double)w * inverse);
    return k < lo ? lo : k > hi ? hi : (int)k;
}

/* Σ (w − s·k)² over the weights i = first, first + stride, … */
static double error_of(const float *w, size_t n, size_t stride, double s, int lo, int hi) {
    double sum = 0, inverse = 1.0 / s;
    for (size_t i = 0; i < n; i++) {
        double e = (double)w[i * stride] - s * level_of(w[i * stride], inverse, lo, hi);
        sum += e * e;
    }
    return sum;
}

/* One least-squares step: the best scale for the levels that s gives. */
static double refit(const float *w, size_t n, size_t stride, double s, int lo, int hi) {
    double wk = 0, kk = 0, inverse = 1.0 / s;
    for (size_t i = 0; i < n; i++) {
        double k = level_of(w[i * stride], inverse, lo, hi);
        wk += (double)w[i * stride] * k;
        kk += k * k;
    }
    return kk > 0 && wk > 0 ? wk / kk : s;
}

static double fit_scale(const float *w, size_t n, size_t stride, int bits) {
    double top = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double a = fabs((double)w[i * stride]);
        top = fmax(top, a);
        sum += a;
    }
    if (bits == 1) return sum / (double)n; /* no zero level: a channel of zeros has scale 0 */
    if (top == 0) return 1;
    int lo = -(1 << (bits - 1)), hi = -lo - 1;
    double best = INFINITY, scale = top / hi;
    for (int i = 1; i <= STEPS; i++) {
        double s = 1.2 * top * i / STEPS / ((double)(hi - lo) / 2);
        double e = error_of(w, n, stride, s, lo, hi);
        if (e < best) best = e, scale = s;
    }
    for (int round = 0; round < 8; round++) {
        double s = refit(w, n, stride, scale, lo, hi), e = error_of(w, n, stride, s, lo, hi);
        if (e >= best * (1 - 1e-9)) break;
        best = e;
        scale = s;
    }
    return scale;
}

/* float32, positive and normal: 1/scale must be finite. */
static float as_scale(double scale) {
    return scale > 1e-30 ? (float)scale : 1e-30f;
}

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
        job->scale[c] = as_scale(fit_scale(w, n, l->depthwise ? channels : 1, job->bits));
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
        float s = as_scale(fit_scale(layer->weight, layer->n_weights, 1, bits));
        for (int c = 0; c < channels; c++) scale[c] = s;
    }
    int lo = bits == 1 ? -1 : -(1 << (bits - 1)), hi = bits == 1 ? 1 : -lo - 1;
    double signal = 0, noise = 0;
    for (size_t i = 0; i < layer->n_weights; i++) {
        double w = layer->weight[i], s = scale[nbi_weight_channel(layer, i)];
        int k = bits == 1 ? (w < 0 ? -1 : 1) : level_of(layer->weight[i], 1.0 / s, lo, hi);
        levels[i] = (int8_t)k;
        signal += w * w;
        noise += (w - s * k) * (w - s * k);
    }
    *sqnr = noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
    return NB_OK;
}

size_t nbi_packed_bytes(size_t count, int bits) {
    return (count * (size_t)bits + 7) / 8;
}

const int8_t *nbi_level_table(int bits) {
    static const int8_t sign[2] = {1, -1};
    return bits == 1 ? sign : NULL;
}

void nbi_pack_weights(const int8_t *levels, size_t count, int bits, uint8_t *out) {
    memset(out, 0, nbi_packed_bytes(count, bits));
    unsigned mask = (1u << bits) - 1;
    for (size_t i = 0; i < count; i++) {
        unsigned code = bits == 1 ? levels[i] < 0 : (unsigned)levels[i] & mask;
        size_t at = i * (size_t)bits;
        out[at / 8] = (uint8_t)(out[at / 8] | code << at % 8);
        if (at % 8 + (size_t)bits > 8)
            out[at / 8 + 1] = (uint8_t)(out[at / 8 + 1] | code >> (8 - at % 8));
    }
}
