/* Gain and shift of a channel in units of its sums, and narrow biases. What a unit of a channel's sums is worth differs between channels by up to 2^20: one
 * step for all would be too coarse for most. The requantization's shift says how coarse the sums
 * are, to a factor of 2, and is stored anyway; so a layer needs one number more, and each bias is
 * wrong by about the same part of an output step (docs/quantization.md, "Narrow biases"). */
#include "quant/fit.h"

#include <math.h>

#define TOP_SHIFT 62
#define MAX_BIAS  ((double)(1 << 30))

double nbi_fold_channel(double scale, double shift, double x_step, bool constant, float *folded) {
    double reach = fabs(shift);
    if (!constant) reach /= MAX_BIAS;
    if (!(scale * x_step >= reach)) scale = reach / x_step;
    *folded = (float)scale;
    if (!(*folded > 1e-30f)) *folded = 1e-30f;
    return fmin(fmax(rint(shift / (x_step * (double)*folded)), -MAX_BIAS), MAX_BIAS);
}

static bool fits(int bits, size_t n, const uint8_t *shift, const double *bias, int base) {
    double top = ldexp(1, bits - 1);
    for (size_t c = 0; c < n; c++) {
        double code = rint(ldexp(bias[c], -nbi_bias_exponent(shift[c], base)));
        if (!(code >= -top && code < top)) return false;
    }
    return true;
}

void nbi_fit_bias(int bits, size_t n, const uint8_t *shift, double *bias, int8_t *base) {
    int b = TOP_SHIFT;
    *base = 0;
    for (size_t c = 0; c < n; c++) bias[c] = rint(bias[c]);
    if (!nbi_bias_is_narrow(bits)) return;
    while (b > -30 && !fits(bits, n, shift, bias, b)) b--; /* −30: units of 2^30 */
    for (size_t c = 0; c < n; c++) {
        int k = nbi_bias_exponent(shift[c], b);
        bias[c] = ldexp(rint(ldexp(bias[c], -k)), k);
    }
    *base = (int8_t)b;
}
