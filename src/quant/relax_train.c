/* How a relaxed network is trained: the loop, the pressure of the targets, and the ways of docs/searches.md
 * (schemes) and docs/schemes.md (widths). */
#include "quant/relax_parts.h"

#include <math.h>

#define WEIGHT_DECAY   1e-4f
#define RATE           0.01
#define SCHEME_RATE    0.02 /* of θ, by Adam */
#define WIDTH_RATE     0.05 /* of widths, on gradients that are at most 1 */
#define HOTTEST        5.0
#define COLDEST        0.1
#define RISE           0.3 /* share of the steps in which the precision loss comes in */
#define FROZEN         0.8 /* from here on widths stay */

float *nbi_relax_value(const nbi_relax *r, int tensor) {
    return r->graph->tensor[tensor]->data;
}

void nbi_relax_set_row(const nbi_relax *r, int site, int which, int bits) {
    int row = r->vertex[site].row[which];
    if (row >= 0) *(int64_t *)r->graph->tensor[row]->data = bits - 1;
}

/* ---- schemes ------------------------------------------------------------------------------- */

static nb_status begin_schemes(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    nbi_relax *r = user;
    double done = steps > 1 ? (double)step / (double)(steps - 1) : 1;
    (void)ctx;
    *nbi_relax_value(r, r->tau) = (float)(HOTTEST * pow(COLDEST / HOTTEST, done));
    return NB_OK;
}

/* Weights learn from batches of even index, θ from odd ones, and both from every batch where an epoch
 * has one only; in the first epoch, if it is not the last, weights alone. */
static nb_status adjust_schemes(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                                nbi_param *params) {
    nbi_relax *r = user;
    int first = r->qat->n_train - r->n_learned;
    bool opening = step < r->steps_per_epoch && r->steps_per_epoch < steps;
    bool both = r->steps_per_epoch == 1;
    bool schemes = !opening && (both || (step % r->steps_per_epoch & 1));
    double rate = r->spec.choice_rate > 0 ? r->spec.choice_rate : SCHEME_RATE;
    (void)ctx;
    for (int i = 0; i < r->qat->n_train; i++) {
        if (i < first)
            params[i].lr = schemes && !both ? 0 : 1;
        else
            params[i].lr = schemes && lr > 0 ? (float)(rate / lr) : 0;
    }
    return NB_OK;
}

static nbi_choice decode_scheme(const nbi_relax *r, int s, double *value) {
    const nbi_relax_site *site = &r->spec.site[s];
    const float *learned = nbi_relax_value(r, r->vertex[s].learned);
    int best = 0;
    double sum = 0;
    for (int i = 1; i < site->n; i++)
        if (learned[i] > learned[best]) best = i;
    for (int i = 0; i < site->n; i++) sum += exp((double)learned[i] - (double)learned[best]);
    *value = 1 / sum;
    return site->candidate[best];
}

const nbi_relax_way nbi_relax_schemes = {.vertex = nbi_relax_mixture,
                                         .begin = begin_schemes,
                                         .adjust = adjust_schemes,
                                         .adam = true,
                                         .decode = decode_scheme};

/* ---- targets ------------------------------------------------------------------------------- */

static double width_of(const nbi_relax *r, int s) {
    return r->vertex[s].learned >= 0 ? r->way->width(r, s) : (double)(r->spec.start[s] & 255);
}

static bool counts(const nbi_relax *r, int s, bool weights) {
    nbi_site_kind kind = r->net->site[s].kind;
    return r->vertex[s].weights == weights && kind != NBI_SITE_OUTPUT && kind != NBI_SITE_BIAS;
}

/* φ'(e). */
static double slope(double strength, bool two_sided, double e) {
    if (two_sided) return e > 0 ? strength : e < 0 ? -strength : 0;
    return 2 * strength * fmax(0, e);
}

/* B = Σ n·b/Σ n, so dB/db = n/Σ n. */
static void press_average(nbi_relax *r, bool weights, double strength, bool two_sided) {
    double target = weights ? r->spec.weight_target : r->spec.activation_target, sum = 0, bits = 0;
    for (int s = 0; s < r->net->n_sites; s++) {
        if (!counts(r, s, weights)) continue;
        sum += r->vertex[s].count;
        bits += r->vertex[s].count * width_of(r, s);
    }
    if (!(target > 0) || !(sum > 0)) return;
    double k = slope(strength, two_sided, bits / sum - target) / sum;
    for (int s = 0; s < r->net->n_sites; s++)
        if (counts(r, s, weights)) r->pressure[s] += k * r->vertex[s].count;
}

/* R = √(Σ m·b_w·b_a/Σ m) over the layers, so dR/db_w = Σ m·b_a/(2·R·Σ m). */
static void press_bops(nbi_relax *r, double strength, bool two_sided) {
    const nbi_qnet *net = r->net;
    double bops = 0, macs = 0;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        bops += l->macs * width_of(r, l->weight_site) * width_of(r, net->edge[l->in[0]].site);
        macs += l->macs;
    }
    if (!(r->spec.bops_target > 0) || !(bops > 0)) return;
    double root = sqrt(bops / macs);
    double k = slope(strength, two_sided, root - r->spec.bops_target) / (2 * root * macs);
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        int w = l->weight_site, a = net->edge[l->in[0]].site;
        r->pressure[w] += k * l->macs * width_of(r, a);
        r->pressure[a] += k * l->macs * width_of(r, w);
    }
}

void nbi_relax_press(nbi_relax *r, double strength, bool two_sided) {
    for (int s = 0; s < r->net->n_sites; s++) r->pressure[s] = 0;
    press_average(r, true, strength, two_sided);
    press_average(r, false, strength, two_sided);
    press_bops(r, strength, two_sided);
}

/* ---- widths -------------------------------------------------------------------------------- */

/* FakeQuant's rounding of a width, within the candidates. */
static int rounded(const nbi_relax *r, int site) {
    const nbi_relax_site *s = &r->spec.site[site];
    int lo = s->candidate[0] & 255, hi = s->candidate[s->n - 1] & 255;
    int w = (int)rintf(*nbi_relax_value(r, r->vertex[site].learned));
    return w < lo ? lo : w > hi ? hi : w;
}

static nb_status begin_widths(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    nbi_relax *r = user;
    (void)ctx, (void)step, (void)steps;
    for (int s = 0; s < r->net->n_sites; s++) {
        const nbi_relax_site *site = &r->spec.site[s];
        if (r->vertex[s].learned < 0) continue;
        float *w = nbi_relax_value(r, r->vertex[s].learned);
        float lo = (float)(site->candidate[0] & 255);
        float hi = (float)(site->candidate[site->n - 1] & 255);
        *w = fminf(fmaxf(*w, lo), hi);
        nbi_relax_set_row(r, s, 0, rounded(r, s));
    }
    return NB_OK;
}

static nb_status adjust_widths(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                               nbi_param *params) {
    nbi_relax *r = user;
    int first = r->qat->n_train - r->n_learned;
    double done = steps > 1 ? (double)step / (double)(steps - 1) : 1;
    double rate = r->spec.choice_rate > 0 ? r->spec.choice_rate : WIDTH_RATE;
    double most = 1e-12;
    (void)ctx;
    nbi_relax_press(r, fmin(1, done / RISE), false);
    for (int s = 0, i = first; s < r->net->n_sites; s++) {
        if (r->vertex[s].learned < 0) continue;
        double g = (double)*params[i].gradient + r->pressure[s];
        r->gradient[i - first] = (float)g;
        most = fmax(most, fabs(g));
        i++;
    }
    for (int i = first; i < r->qat->n_train; i++) {
        r->gradient[i - first] = (float)((double)r->gradient[i - first] / most);
        params[i].gradient = &r->gradient[i - first];
        params[i].lr = done < FROZEN && lr > 0 ? (float)(rate / lr) : 0;
    }
    return NB_OK;
}

static nbi_choice decode_width(const nbi_relax *r, int s, double *value) {
    *value = (double)*nbi_relax_value(r, r->vertex[s].learned);
    return (nbi_choice)((r->spec.site[s].candidate[0] & ~255) | rounded(r, s));
}

static double real_width(const nbi_relax *r, int s) {
    return (double)*nbi_relax_value(r, r->vertex[s].learned);
}

const nbi_relax_way nbi_relax_widths = {.vertex = nbi_relax_rounded,
                                        .begin = begin_widths,
                                        .adjust = adjust_widths,
                                        .decode = decode_width,
                                        .width = real_width};

/* ---- the loop ------------------------------------------------------------------------------ */

nb_status nbi_relax_loop(nb_ctx *ctx, nbi_relax *r, nbi_loop_spec *spec) {
    nbi_qat *q = r->qat;
    int n, first = q->n_train - r->n_learned;
    NB_TRY(nbi_alloc(ctx, (size_t)q->n_train + 1, sizeof *r->param, &r->param));
    for (int i = 0; i < q->n_train; i++)
        r->param[i] = (nbi_loop_param){.tensor = q->train[i],
                                       .lr = 1,
                                       .decay = q->decays[i] ? WEIGHT_DECAY : 0,
                                       .adam = r->way->adam && i >= first};
    n = nbi_qat_losses(q, r->loss, r->loss_weight);
    r->steps_per_epoch = spec->batches ? nbi_batches_per_epoch(spec->batches) : 1;
    spec->graph = q->graph;
    spec->n_params = q->n_train;
    spec->param = r->param;
    spec->n_losses = n;
    spec->loss = r->loss;
    spec->weight = r->loss_weight;
    spec->n_states = q->n_states;
    spec->state = q->state;
    spec->epochs = r->spec.epochs;
    spec->optimizer = nbi_optimizer_options_default();
    spec->schedule = (nbi_schedule){
        .kind = NBI_LR_COSINE, .lr = r->spec.learning_rate > 0 ? r->spec.learning_rate : RATE};
    spec->seed = r->spec.seed;
    spec->step_user = r;
    spec->begin = r->way->begin;
    spec->adjust = r->way->adjust;
    return NB_OK;
}

void nbi_relax_decode(const nbi_relax *r, nbi_choice *choice, double *value) {
    for (int s = 0; s < r->net->n_sites; s++) {
        double v = 0;
        choice[s] = r->vertex[s].learned < 0 ? r->spec.start[s] : r->way->decode(r, s, &v);
        if (value) value[s] = v;
    }
}
