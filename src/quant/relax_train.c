/* How a relaxed network is trained: the hooks of the loop, and what was learned. Recipes of qss.md
 * and qpl.md. */
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

static float *value_of(const nbi_relax *r, int tensor) {
    return r->qat->graph->tensor[tensor]->data;
}

int nbi_relax_width(const nbi_relax *r, int site) {
    const nbi_relax_site *s = &r->spec.site[site];
    int lo = s->candidate[0] & 255, hi = s->candidate[s->n - 1] & 255;
    int w = (int)rintf(*value_of(r, r->vertex[site].learned));
    return w < lo ? lo : w > hi ? hi : w;
}

/* ---- schemes ------------------------------------------------------------------------------- */

static nb_status begin_schemes(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    nbi_relax *r = user;
    double done = steps > 1 ? (double)step / (double)(steps - 1) : 1;
    (void)ctx;
    *value_of(r, r->tau) = (float)(HOTTEST * pow(COLDEST / HOTTEST, done));
    return NB_OK;
}

/* Weights learn from batches of even index, θ from odd ones; in the first epoch weights alone. */
static nb_status adjust_schemes(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                                nbi_param *params) {
    nbi_relax *r = user;
    int first = r->qat->n_train - r->n_learned;
    bool opening = step < r->steps_per_epoch && r->steps_per_epoch < steps;
    bool schemes = !opening && (step % r->steps_per_epoch & 1);
    double rate = r->spec.choice_rate > 0 ? r->spec.choice_rate : SCHEME_RATE;
    (void)ctx;
    for (int i = 0; i < r->qat->n_train; i++) {
        if (i < first)
            params[i].lr = schemes ? 0 : 1;
        else
            params[i].lr = schemes && lr > 0 ? (float)(rate / lr) : 0;
    }
    return NB_OK;
}

/* ---- widths -------------------------------------------------------------------------------- */

static nb_status begin_widths(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    nbi_relax *r = user;
    (void)ctx, (void)step, (void)steps;
    for (int s = 0; s < r->net->n_sites; s++) {
        const nbi_relax_site *site = &r->spec.site[s];
        if (r->vertex[s].learned < 0) continue;
        float *w = value_of(r, r->vertex[s].learned);
        float lo = (float)(site->candidate[0] & 255);
        float hi = (float)(site->candidate[site->n - 1] & 255);
        *w = fminf(fmaxf(*w, lo), hi);
        if (r->vertex[s].row >= 0)
            *(int64_t *)r->qat->graph->tensor[r->vertex[s].row]->data = nbi_relax_width(r, s) - 1;
    }
    return NB_OK;
}

/* dL/dbt of γ·max(0, B − T)² is 2γ·max(0, B − T)·n/Σn, B over all tensors of the kind. */
static double pressure(const nbi_relax *r, bool weights, double *total) {
    double target = weights ? r->spec.weight_target : r->spec.activation_target, sum = 0, bits = 0;
    for (int s = 0; s < r->net->n_sites; s++) {
        const nbi_site *site = &r->net->site[s];
        const nbi_relax_vertex *v = &r->vertex[s];
        if (v->weights != weights || site->kind == NBI_SITE_OUTPUT || site->kind == NBI_SITE_BIAS || site->kind == NBI_SITE_BIAS)
            continue;
        double width = v->learned >= 0 ? (double)*value_of(r, v->learned)
                                       : (double)(r->spec.start[s] & 255);
        sum += v->count;
        bits += v->count * width;
    }
    *total = sum;
    return target > 0 && sum > 0 ? 2 * fmax(0, bits / sum - target) : 0;
}

static nb_status adjust_widths(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                               nbi_param *params) {
    nbi_relax *r = user;
    int first = r->qat->n_train - r->n_learned;
    double done = steps > 1 ? (double)step / (double)(steps - 1) : 1;
    double rate = r->spec.choice_rate > 0 ? r->spec.choice_rate : WIDTH_RATE;
    double gamma = fmin(1, done / RISE), total[2], press[2], most = 1e-12;
    (void)ctx;
    press[0] = pressure(r, true, &total[0]);
    press[1] = pressure(r, false, &total[1]);
    for (int s = 0, i = first; s < r->net->n_sites; s++) {
        const nbi_relax_vertex *v = &r->vertex[s];
        if (v->learned < 0) continue;
        int k = v->weights ? 0 : 1;
        double g = (double)*params[i].gradient + gamma * press[k] * v->count / total[k];
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

/* ---- the loop ------------------------------------------------------------------------------ */

nb_status nbi_relax_loop(nb_ctx *ctx, nbi_relax *r, nbi_loop_spec *spec) {
    nbi_qat *q = r->qat;
    bool schemes = r->spec.kind == NBI_RELAX_SCHEMES;
    int n, first = q->n_train - r->n_learned;
    NB_TRY(nbi_alloc(ctx, (size_t)q->n_train + 1, sizeof *r->param, &r->param));
    for (int i = 0; i < q->n_train; i++)
        r->param[i] = (nbi_loop_param){.tensor = q->train[i],
                                       .lr = 1,
                                       .decay = q->decays[i] ? WEIGHT_DECAY : 0,
                                       .adam = schemes && i >= first};
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
    spec->begin = schemes ? begin_schemes : begin_widths;
    spec->adjust = schemes ? adjust_schemes : adjust_widths;
    return NB_OK;
}

void nbi_relax_decode(const nbi_relax *r, nbi_choice *choice, double *value) {
    for (int s = 0; s < r->net->n_sites; s++) {
        const nbi_relax_site *site = &r->spec.site[s];
        const nbi_relax_vertex *v = &r->vertex[s];
        choice[s] = r->spec.start[s];
        if (value) value[s] = 0;
        if (v->learned < 0) continue;
        const float *learned = value_of(r, v->learned);
        if (r->spec.kind == NBI_RELAX_WIDTHS) {
            choice[s] = (nbi_choice)((site->candidate[0] & ~255) | nbi_relax_width(r, s));
            if (value) value[s] = (double)*learned;
            continue;
        }
        int best = 0;
        double sum = 0;
        for (int i = 1; i < site->n; i++)
            if (learned[i] > learned[best]) best = i;
        for (int i = 0; i < site->n; i++) sum += exp((double)learned[i] - (double)learned[best]);
        choice[s] = site->candidate[best];
        if (value) value[s] = 1 / sum;
    }
}
