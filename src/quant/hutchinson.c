/* Blocks are moved in units of their own size, so that one step serves weights and activations of
 * any scale; samples are divided by size² again. Errors come from the spread of the samples. */
#include "quant/hutchinson.h"

#include <math.h>
#include <string.h>

typedef struct room {
    float *base;            /* all values */
    float *plus;            /* gradients at x + h·v */
    int8_t *sign;           /* v */
    double *sum, *square;   /* [n] of samples */
    const float **gradient; /* [n] */
} room;

static void move(const nbi_hutchinson *s, const room *r, double by) {
    size_t at = 0;
    for (int i = 0; i < s->n; i++) {
        nbi_hutchinson_block *b = &s->block[i];
        float h = (float)(by * b->size);
        for (size_t k = 0; k < b->count; k++, at++)
            b->value[k] = r->base[at] + h * (float)r->sign[at];
    }
}

static void restore(const nbi_hutchinson *s, const room *r) {
    size_t at = 0;
    for (int i = 0; i < s->n; at += s->block[i++].count)
        memcpy(s->block[i].value, r->base + at, s->block[i].count * sizeof(float));
}

static nb_status probe(nb_ctx *ctx, const nbi_hutchinson *s, room *r, long number, nbi_rng *rng) {
    size_t total = 0, at = 0;
    for (int i = 0; i < s->n; i++) total += s->block[i].count;
    for (size_t k = 0; k < total; k++) r->sign[k] = nbi_rng_u32(rng) >> 31 ? 1 : -1;
    move(s, r, s->step);
    NB_TRY(s->gradient(ctx, s->user, number, r->gradient));
    for (int i = 0; i < s->n; at += s->block[i++].count)
        memcpy(r->plus + at, r->gradient[i], s->block[i].count * sizeof(float));
    move(s, r, -s->step);
    NB_TRY(s->gradient(ctx, s->user, number, r->gradient));
    at = 0;
    for (int i = 0; i < s->n; i++) {
        const nbi_hutchinson_block *b = &s->block[i];
        double sum = 0;
        for (size_t k = 0; k < b->count; k++, at++)
            sum += r->sign[at] * ((double)r->plus[at] - (double)r->gradient[i][k]);
        double sample = sum / (2 * s->step * b->size);
        if (!isfinite(sample))
            return nb_fail(ctx, NB_ENUMERIC, "a gradient is not finite: no curvature");
        r->sum[i] += sample;
        r->square[i] += sample * sample;
    }
    return NB_OK;
}

/* Mean and standard error so far; true when all are known well enough. */
static bool estimate(const nbi_hutchinson *s, const room *r, long n) {
    bool good = true;
    for (int i = 0; i < s->n; i++) {
        nbi_hutchinson_block *b = &s->block[i];
        double mean = r->sum[i] / (double)n, variance = r->square[i] / (double)n - mean * mean;
        b->trace = mean;
        b->error = n > 1 ? sqrt(fmax(variance, 0) / (double)(n - 1)) : INFINITY;
        good &= b->error <= s->tolerance * fabs(mean);
    }
    return good;
}

static nb_status all(nb_ctx *ctx, const nbi_hutchinson *s, room *r, long *probes) {
    nbi_rng rng;
    bool good = false;
    long n = 0;
    nbi_rng_seed(&rng, s->seed, 0x4e55);
    while (n == 0 || (n < s->most && (n < s->least || !good) && nb_seconds(ctx) < s->deadline)) {
        NB_TRY(probe(ctx, s, r, n, &rng));
        good = estimate(s, r, ++n);
        NB_TRY(nb_progress(ctx, "curvature", (double)n, (double)s->most));
    }
    *probes = n;
    return NB_OK;
}

nb_status nbi_hutchinson_run(nb_ctx *ctx, const nbi_hutchinson *s, long *probes) {
    room r = {0};
    size_t total = 0, n = (size_t)s->n, at = 0;
    nb_status st;
    for (int i = 0; i < s->n; i++) total += s->block[i].count;
    NB_TRYG(nbi_alloc(ctx, total + 1, sizeof *r.base, &r.base));
    NB_TRYG(nbi_alloc(ctx, total + 1, sizeof *r.plus, &r.plus));
    NB_TRYG(nbi_alloc(ctx, total + 1, 1, &r.sign));
    NB_TRYG(nbi_alloc(ctx, n + 1, sizeof *r.gradient, &r.gradient));
    NB_TRYG(nbi_alloc(ctx, 2 * (n + 1), sizeof *r.sum, &r.sum));
    r.square = r.sum + n + 1;
    for (int i = 0; i < s->n; at += s->block[i++].count)
        memcpy(r.base + at, s->block[i].value, s->block[i].count * sizeof(float));
    st = all(ctx, s, &r, probes);
    restore(s, &r);
done:
    nbi_free(r.base);
    nbi_free(r.plus);
    nbi_free(r.sign);
    nbi_free(r.gradient);
    nbi_free(r.sum);
    return st;
}
