/* Cutout, mixup and cutmix. Beta(α, α) is X/(X+Y) of two gamma variates, drawn by G. Marsaglia and
 * W. W. Tsang, "A simple method for generating gamma variables", 2000. */
#include "data/augment.h"

#include <math.h>
#include <string.h>

/* Rows y0…y1−1, columns x0…x1−1 of every channel: from `other`, or 0. */
static void fill_box(float *to, const float *other, int channels, int h, int w,
                     const int box[4]) {
    size_t n = (size_t)(box[3] - box[2]);
    for (int c = 0; c < channels; c++)
        for (int y = box[0]; y < box[1]; y++) {
            size_t at = ((size_t)c * (size_t)h + (size_t)y) * (size_t)w + (size_t)box[2];
            if (other)
                memcpy(to + at, other + at, n * sizeof *to);
            else
                for (size_t i = 0; i < n; i++) to[at + i] = 0;
        }
}

/* A box of bh × bw pixels around a random pixel, cut at the border. */
static void random_box(nbi_rng *rng, int h, int w, int bh, int bw, int box[4]) {
    int y = (int)nbi_rng_below(rng, (uint32_t)h) - bh / 2;
    int x = (int)nbi_rng_below(rng, (uint32_t)w) - bw / 2;
    box[0] = y < 0 ? 0 : y;
    box[1] = y + bh > h ? h : y + bh;
    box[2] = x < 0 ? 0 : x;
    box[3] = x + bw > w ? w : x + bw;
}

void nbi_augment_cutout(nbi_rng *rng, float *chw, int channels, int h, int w, int side) {
    int box[4];
    random_box(rng, h, w, side, side, box);
    fill_box(chw, NULL, channels, h, w, box);
}

static double gamma_variate(nbi_rng *rng, double alpha) {
    double boost = 1;
    if (alpha < 1) { /* Γ(α) = Γ(α+1)·U^(1/α) */
        boost = pow(((double)nbi_rng_u32(rng) + 0.5) * 0x1p-32, 1 / alpha);
        alpha += 1;
    }
    double d = alpha - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = nbi_rng_normal(rng), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        double u = ((double)nbi_rng_u32(rng) + 0.5) * 0x1p-32;
        if (log(u) < 0.5 * x * x + d - d * v + d * log(v)) return boost * d * v;
    }
}

double nbi_rng_beta(nbi_rng *rng, double alpha) {
    double x = gamma_variate(rng, alpha), y = gamma_variate(rng, alpha);
    return x + y > 0 ? x / (x + y) : 0.5; /* both may underflow where α is tiny */
}

void nbi_augment_mixup(float lambda, float *x, const float *other, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] = lambda * x[i] + (1 - lambda) * other[i];
}

float nbi_augment_cutmix(nbi_rng *rng, double lambda, float *x, const float *other, int channels,
                         int h, int w) {
    double side = sqrt(1 - lambda);
    int box[4];
    random_box(rng, h, w, (int)(side * h), (int)(side * w), box);
    fill_box(x, other, channels, h, w, box);
    return 1 - (float)((box[1] - box[0]) * (box[3] - box[2])) / (float)(h * w);
}
