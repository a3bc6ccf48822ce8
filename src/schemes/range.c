/* Activation ranges from histograms of magnitudes.
 * MSE and percentile as in the PyTorch baseline (100 shrunken ranges of max|x|); KL after the
 * published TensorRT calibration (Migacz, GTC 2017): the clipped histogram against its quantized
 * version. */
#include "schemes/range.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define STEPS 100

const char *nbi_range_name(nbi_range_method method) {
    static const char *const names[] = {"mse", "minmax", "percentile", "kl"};
    return (unsigned)method < NBI_RANGE_METHODS ? names[method] : "?";
}

nb_status nbi_hist_init(nb_ctx *ctx, nbi_arena *arena, nbi_hist *hist) {
    *hist = (nbi_hist){0};
    hist->positive = nbi_arena_alloc(arena, NBI_HIST_BINS, sizeof *hist->positive);
    hist->negative = nbi_arena_alloc(arena, NBI_HIST_BINS, sizeof *hist->negative);
    if (!hist->positive || !hist->negative)
        return nb_fail_memory(ctx, NBI_HIST_BINS * sizeof *hist->positive);
    return NB_OK;
}

static void halve(int64_t *bins) {
    for (int i = 0; i < NBI_HIST_BINS / 2; i++) bins[i] = bins[2 * i] + bins[2 * i + 1];
    memset(bins + NBI_HIST_BINS / 2, 0, NBI_HIST_BINS / 2 * sizeof *bins);
}

nb_status nbi_hist_add(nb_ctx *ctx, nbi_hist *hist, const char *what, const float *x, size_t n) {
    float lo = 0, hi = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        finite &= isfinite(x[i]) != 0;
    }
    if (!finite) return nb_fail(ctx, NB_ENUMERIC, "tensor '%s' holds NaN or infinity", what);
    double top = fmax(hi, -(double)lo);
    hist->min = fmin(hist->min, lo);
    hist->max = fmax(hist->max, hi);
    if (hist->width == 0 && top > 0) {
        /* a power of two: widths, and so bins, do not depend on which batch came first */
        int e;
        frexp(top, &e);
        hist->width = ldexp(1.0, e) / NBI_HIST_BINS;
    }
    while (hist->width > 0 && top >= hist->width * NBI_HIST_BINS) {
        halve(hist->positive);
        halve(hist->negative);
        hist->width *= 2;
    }
    hist->total += (int64_t)n;
    if (hist->width == 0) {
        hist->zeros += (int64_t)n;
        return NB_OK;
    }
    double inverse = 1.0 / hist->width; /* exact: a power of two, beyond float for denormals */
    int64_t zeros = 0;
    for (size_t i = 0; i < n; i++) { /* without branches: signs and zeros are hard to foresee */
        int64_t *bins = x[i] < 0 ? hist->negative : hist->positive;
        const bool zero = x[i] == 0;
        bins[(int)(fabs((double)x[i]) * inverse)] += !zero;
        zeros += zero;
    }
    hist->zeros += zeros;
    return NB_OK;
}

void nbi_hist_of(const float *x, size_t n, nbi_hist_room *room, nbi_hist *hist) {
    memset(room, 0, sizeof *room);
    *hist = (nbi_hist){.positive = room->positive, .negative = room->negative};
    nb_status st = nbi_hist_add(NULL, hist, "", x, n);
    if (st != NB_OK) *hist = (nbi_hist){.positive = room->positive, .negative = room->negative};
}

static double power(const nbi_hist *h) {
    double sum = 0;
    for (int i = 0; i < NBI_HIST_BINS; i++) {
        double x = (i + 0.5) * h->width;
        sum += x * x * (double)(h->positive[i] + h->negative[i]);
    }
    return sum;
}

/* Squared error of one half of the histogram on the grid 0, s, …, top·s. */
static double half_error(const int64_t *bins, double width, double s, int top) {
    double sum = 0, inverse = 1.0 / s;
    for (int i = 0; i < NBI_HIST_BINS; i++) {
        if (!bins[i]) continue;
        double x = (i + 0.5) * width, k = rint(x * inverse);
        double e = x - s * (k > top ? top : k);
        sum += e * e * (double)bins[i];
    }
    return sum;
}

static double error_of(const nbi_hist *h, const nbi_qparam *q) {
    return half_error(h->positive, h->width, q->scale, q->hi - q->zero) +
           half_error(h->negative, h->width, q->scale, q->zero - q->lo);
}

/* Smallest magnitude below which the fraction p of all values lies. */
static double quantile(const nbi_hist *h, double p) {
    double want = p * (double)h->total, seen = (double)h->zeros;
    for (int i = 0; i < NBI_HIST_BINS; i++) {
        seen += (double)(h->positive[i] + h->negative[i]);
        if (seen >= want) return (i + 1) * h->width;
    }
    return NBI_HIST_BINS * h->width;
}

/* KL(P‖Q): P = the magnitudes with everything beyond bin `used` added to the last, Q = P spread
 * evenly over `levels` groups of bins (over the bins that are not empty). */
static double divergence(const nbi_hist *h, int used, int levels) {
    double tail = 0, total = 0, kl = 0;
    for (int i = used; i < NBI_HIST_BINS; i++) tail += (double)(h->positive[i] + h->negative[i]);
    for (int i = 0; i < used; i++) total += (double)(h->positive[i] + h->negative[i]);
    if (total + tail == 0) return INFINITY;
    for (int g = 0; g < levels; g++) {
        int begin = (int)((int64_t)g * used / levels), end = (int)((int64_t)(g + 1) * used / levels);
        double sum = 0, filled = 0;
        for (int i = begin; i < end; i++) {
            double n = (double)(h->positive[i] + h->negative[i]);
            sum += n;
            filled += n > 0;
        }
        for (int i = begin; i < end && sum > 0; i++) {
            double n = (double)(h->positive[i] + h->negative[i]);
            double p = (n + (i == used - 1 ? tail : 0)) / (total + tail);
            if (n > 0) kl += p * log(p / (sum / filled / total));
            else if (p > 0) kl += p * log(p / 1e-9);
        }
    }
    return kl;
}

static double range_of(const nbi_hist *h, nbi_range_method method, int levels, double top) {
    if (method == NBI_RANGE_PERCENTILE) return fmin(top, quantile(h, 0.999));
    if (method != NBI_RANGE_KL) return top;
    double best = INFINITY, range = top;
    int last = (int)(top / h->width);
    if (last >= NBI_HIST_BINS) last = NBI_HIST_BINS - 1;
    /* from the whole range down, so that equals (a constant tensor) lose nothing */
    for (int used = last + 1, least = levels > 16 ? levels : 16; used >= least; used -= 8) {
        double kl = divergence(h, used, levels);
        if (kl < best) best = kl, range = used * h->width;
    }
    return range;
}

static double decibel(double signal, double noise) {
    return noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
}

/* Shrinks [lo, hi] (lo ≤ 0 ≤ hi) in equal steps and keeps the range with the least error; `set`
 * turns a range into parameters. */
typedef void (*set_range)(nbi_qparam *q, double lo, double hi);

static void search_range(const nbi_hist *h, nbi_range_method method, set_range set, double lo,
                         double hi, nbi_qparam *q, double *sqnr) {
    if (h->width == 0) {
        set(q, -1, 1);
        *sqnr = 200;
        return;
    }
    double best = INFINITY;
    nbi_qparam chosen = *q;
    for (int i = STEPS; i >= 1; i--) {
        double f = method == NBI_RANGE_MSE ? (double)i / STEPS : 1;
        set(q, lo * f, hi * f);
        double e = error_of(h, q);
        if (e < best) best = e, chosen = *q;
        if (method != NBI_RANGE_MSE) break;
    }
    *q = chosen;
    *sqnr = decibel(power(h), best);
}

float nbi_positive(double scale) {
    if (scale > (double)FLT_MAX) return FLT_MAX;
    return scale > 1e-30 ? (float)scale : 1e-30f;
}

/* As before rounding to float32 everywhere else: 1e-30 itself is no float32. */
static double as_float(double scale) {
    return scale > 1e-30 ? (double)nbi_positive(scale) : 1e-30;
}

static void set_grid(nbi_qparam *q, double lo, double hi) {
    double down = q->lo ? -lo / -q->lo : 0, up = hi / (q->hi ? q->hi : 1);
    q->scale = as_float(fmax(down, up));
}

void nbi_fit_activation(const nbi_hist *hist, bool is_unsigned, int bits, nbi_range_method method,
                        nbi_qparam *out, double *sqnr) {
    nbi_qparam q = {.dtype = is_unsigned ? NB_DTYPE_U8 : NB_DTYPE_S8, .bits = bits};
    q.lo = is_unsigned ? 0 : -(1 << (bits - 1));
    q.hi = is_unsigned ? (1 << bits) - 1 : (1 << (bits - 1)) - 1;
    double top = is_unsigned ? hist->max : fmax(hist->max, -hist->min);
    int levels = is_unsigned ? q.hi : bits > 1 ? q.hi : 1;
    top = hist->width > 0 ? range_of(hist, method, levels, top) : 0;
    search_range(hist, method, set_grid, is_unsigned ? 0 : -top, top, &q, sqnr);
    *out = q;
}

void nbi_fit_narrow(const nbi_hist *hist, int bits, nbi_range_method method, nbi_qparam *out,
                    double *sqnr) {
    nbi_qparam q = {.dtype = NB_DTYPE_S8, .bits = bits};
    q.hi = (1 << (bits - 1)) - 1;
    q.lo = -q.hi;
    double top = fmax(hist->max, -hist->min);
    top = hist->width > 0 ? range_of(hist, method, q.hi, top) : 0;
    search_range(hist, method, set_grid, -top, top, &q, sqnr);
    *out = q;
}

static void set_affine(nbi_qparam *q, double lo, double hi) {
    int top = (1 << q->bits) - 1;
    q->scale = as_float((hi - lo) / top);
    double z = rint(-lo / q->scale);
    q->zero = z < 0 ? 0 : z > top ? top : (int32_t)z;
    q->lo = 0;
    q->hi = top;
}

void nbi_fit_affine(const nbi_hist *hist, int bits, nbi_range_method method, nbi_qparam *out,
                    double *sqnr) {
    nbi_qparam q = {.dtype = NB_DTYPE_U8, .bits = bits};
    double lo = fmin(hist->min, 0), hi = fmax(hist->max, 0);
    double top = fmax(hi, -lo);
    if (hist->width > 0 && method != NBI_RANGE_MSE) {
        double r = range_of(hist, method, (1 << bits) - 1, top);
        lo = fmax(lo, -r);
        hi = fmin(hi, r);
    }
    search_range(hist, method, set_affine, lo, hi, &q, sqnr);
    *out = q;
}
