/* The least-squares scale of weights on a symmetric grid. */
#include "schemes/range.h"

#include <math.h>

#define STEPS 100
#define LANES 4 /* divides STEPS */

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

/* The same for LANES scales at once, each sum in the order of the weights: as many independent chains
 * of additions. A level is rounded to even by what no double of that size has room for. */
static void errors_of(const float *w, size_t n, size_t stride, const double s[LANES], int lo, int hi,
                      double sum[LANES]) {
    const double round = 0x1.8p52, low = lo, high = hi;
    double inverse[LANES], part[LANES] = {0};
    for (int j = 0; j < LANES; j++) inverse[j] = 1.0 / s[j];
    for (size_t i = 0; i < n; i++) {
        const double x = (double)w[i * stride];
        for (int j = 0; j < LANES; j++) {
            double k = x * inverse[j];
            k = k < low ? low : k;
            k = k > high ? high : k;
            const double e = x - s[j] * (k + round - round);
            part[j] += e * e;
        }
    }
    for (int j = 0; j < LANES; j++) sum[j] = part[j];
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

static double scale_of(const float *w, size_t n, size_t stride, int bits) {
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
    for (int i = 1; i <= STEPS; i += LANES) {
        double s[LANES], e[LANES];
        for (int j = 0; j < LANES; j++) s[j] = 1.2 * top * (i + j) / STEPS / ((double)(hi - lo) / 2);
        errors_of(w, n, stride, s, lo, hi, e);
        for (int j = 0; j < LANES; j++)
            if (e[j] < best) best = e[j], scale = s[j];
    }
    for (int round = 0; round < 8; round++) {
        double s = refit(w, n, stride, scale, lo, hi), e = error_of(w, n, stride, s, lo, hi);
        if (e >= best * (1 - 1e-9)) break;
        best = e;
        scale = s;
    }
    return scale;
}

float nbi_fit_scale(const float *w, size_t n, size_t stride, int bits) {
    return nbi_positive(n ? scale_of(w, n, stride, bits) : 0);
}
