/* What outputs are worth: accuracies in percent, losses in nats, divergences from a reference. */
#include "api/api.h"

#include <math.h>
#include <stdlib.h>

size_t nbi_argmax(const float *values, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (values[i] > values[best]) best = i;
    return best;
}

/* log softmax(x)[i] = x[i] − result; probabilities: log of the value itself. */
static double log_sum(const float *x, size_t n, double *top) {
    double m = x[0], sum = 0;
    for (size_t i = 1; i < n; i++) m = fmax(m, (double)x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - m);
    *top = m;
    return m + log(sum);
}

void nbi_softmax(float *x, size_t n) {
    double top, sum = log_sum(x, n, &top);
    for (size_t i = 0; i < n; i++) x[i] = (float)exp((double)x[i] - sum);
}

static double log_probability(const float *x, size_t i, double sum, bool probability) {
    return probability ? log(fmax((double)x[i], 1e-12)) : (double)x[i] - sum;
}

typedef struct sums {
    double right, right5, loss, kl, error, power, cosine, agree;
} sums;

static void against_reference(const float *x, const float *r, size_t n, bool probability,
                              sums *s) {
    double top, sx = log_sum(x, n, &top), sr = log_sum(r, n, &top), xr = 0, xx = 0, rr = 0;
    for (size_t i = 0; i < n; i++) {
        double lp = log_probability(r, i, sr, probability);
        double lq = log_probability(x, i, sx, probability), e = (double)x[i] - (double)r[i];
        s->kl += exp(lp) * (lp - lq);
        s->error += e * e;
        s->power += (double)r[i] * (double)r[i];
        xr += (double)x[i] * (double)r[i];
        xx += (double)x[i] * (double)x[i];
        rr += (double)r[i] * (double)r[i];
    }
    size_t best = nbi_argmax(x, n);
    s->cosine += xx == 0 || rr == 0 ? 1 : xr / sqrt(xx * rr);
    s->agree += best == nbi_argmax(r, n) && !isnan(x[best]) && !isnan(r[best]);
}

typedef struct ranked {
    float score;
    int label;
} ranked;

static int by_score(const void *a, const void *b) {
    float x = ((const ranked *)a)->score, y = ((const ranked *)b)->score;
    return x < y ? -1 : x > y;
}

/* Mann–Whitney: the chance that a sample of class 1 scores above one of class 0. */
static double auc_of(const float *values, const int *label, size_t n, size_t count) {
    ranked *r = malloc((n + 1) * sizeof *r);
    double positive = 0, rank_sum = 0;
    size_t used = 0;
    bool ordered = true;
    if (!r) return NAN;
    for (size_t i = 0; i < n; i++) {
        if (label[i] < 0 || label[i] > 1) continue;
        const float *v = values + i * count;
        r[used] = (ranked){count == 2 ? v[1] - v[0] : v[0], label[i]};
        ordered &= !isnan(r[used++].score);
    }
    qsort(r, ordered ? used : 0, sizeof *r, by_score);
    for (size_t i = 0; ordered && i < used;) {
        size_t j = i + 1;
        while (j < used && r[j].score == r[i].score) j++;
        for (size_t k = i; k < j; k++)
            if (r[k].label == 1) {
                positive++;
                rank_sum += (double)(i + j + 1) / 2;
            }
        i = j;
    }
    double negative = (double)used - positive;
    free(r);
    if (!ordered || positive == 0 || negative == 0) return NAN;
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative);
}

nb_status nbi_check_labels(nb_ctx *ctx, const int *label, size_t n, size_t count) {
    for (size_t i = 0; i < n && count > 1; i++)
        if (label[i] >= 0 && (size_t)label[i] >= count)
            return nb_fail(ctx, NB_EFORMAT, "label %d of image %zu is out of range: the model has "
                           "%zu outputs", label[i], i, count);
    return NB_OK;
}

void nbi_warn_not_finite(nb_ctx *ctx, const float *values, size_t n, size_t count) {
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        bool finite = true;
        for (size_t k = 0; k < count; k++) finite &= isfinite(values[i * count + k]) != 0;
        bad += !finite;
    }
    if (bad)
        nb_log(ctx, NB_LOG_WARNING, "the outputs of %zu of %zu samples hold NaN or infinity: NaN "
               "counts as wrong, and there is no loss", bad, n);
}

void nbi_measure(const float *values, const float *reference, const int *label, size_t n,
                 size_t count, bool probability, nbi_metrics *out) {
    sums s = {0};
    *out = (nbi_metrics){.images = n, .top1 = NAN, .top5 = NAN, .loss = NAN, .kl = NAN,
                         .mse = NAN, .cosine = NAN, .agreement = NAN, .auc = NAN};
    for (size_t i = 0; i < n; i++) {
        const float *x = values + i * count;
        if (reference) against_reference(x, reference + i * count, count, probability, &s);
        if (!label || label[i] < 0 || count < 2 || (size_t)label[i] >= count) continue;
        size_t y = (size_t)label[i], above = 0;
        double top, sum = log_sum(x, count, &top);
        for (size_t k = 0; k < count; k++) /* NaN counts against the label, wherever it stands */
            above += k != y && !(x[k] < x[y] || (x[k] == x[y] && k > y));
        s.right += above == 0;
        s.right5 += above < 5;
        s.loss -= log_probability(x, y, sum, probability);
        out->labelled++;
    }
    if (out->labelled) {
        double l = (double)out->labelled;
        out->top1 = 100 * s.right / l;
        out->top5 = 100 * s.right5 / l;
        out->loss = s.loss / l;
    }
    if (label && count <= 2) out->auc = auc_of(values, label, n, count); /* also of one score */
    if (reference) {
        out->kl = s.kl / (double)n;
        out->mse = s.error / ((double)n * (double)count);
        out->cosine = s.cosine / (double)n;
        out->agreement = 100 * s.agree / (double)n;
    }
}

void nbi_warn_chance(nb_ctx *ctx, const nbi_metrics *m, size_t classes) {
    const double chance = 1.0 / (double)classes, n = (double)m->labelled;
    if (m->labelled < 50 || m->top1 > 100 * (chance + 3 * sqrt(chance * (1 - chance) / n))) return;
    nb_log(ctx, NB_LOG_WARNING, "the float network gives the right class for %.1f %% of %zu images, which is "
           "chance for %zu classes: --scale, --mean and --std say how bytes become its input", m->top1,
           m->labelled, classes);
}

static void put(json_t *o, const char *key, double value) {
    if (isfinite(value)) json_object_set_new(o, key, json_real(value));
}

json_t *nbi_metrics_json(const nbi_metrics *m) {
    json_t *o = json_object();
    put(o, "top1", m->top1);
    put(o, "top5", m->top5);
    put(o, "loss", m->loss);
    put(o, "kl", m->kl);
    put(o, "mse", m->mse);
    put(o, "cosine", m->cosine);
    put(o, "agreement", m->agreement);
    put(o, "auc", m->auc);
    json_object_set_new(o, "images", json_integer((json_int_t)m->images));
    return o;
}
