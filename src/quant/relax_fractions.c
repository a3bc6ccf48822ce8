/* FracBits (docs/searches.md): a real-valued width λ mixes the two candidates around it,
 *   x̂ = Q_low(x) + f·(Q_high(x) − Q_low(x)),  f = (λ − low)/(high − low),
 * so that the network is continuous in λ, and κ·|cost − target| holds its cost, taken at λ, where
 * it may be. Both quantizers are FakeQuant with the width as an input, and the mixture is made of
 * ONNX's own operators: the tape differentiates all of it. In the last fifth λ stays rounded to its
 * nearest candidate and everything else goes on training. */
#include "quant/relax_parts.h"

#include "schemes/schemes.h"

#include <math.h>

#define PENALTY  1.0
#define RATE     0.02 /* of λ, by Adam */
#define SEARCHED 0.8  /* share of the steps in which λ is learned */

/* ---- the graph ----------------------------------------------------------------------------- */

static nb_status binary(nbi_relax_grower *b, const char *type, int x, int y, int *out) {
    nbi_node *node;
    NB_TRY(nbi_relax_node(b, "", type, 2, (int[]){x, y}, out, &node));
    return nbi_relax_finish(b, node);
}

/* λ starts at the target, within the candidates. */
static float start_of(const nbi_relax_grower *b, const nbi_relax_site *s) {
    const nbi_relax_spec *spec = &b->r->spec;
    double target = nbi_relax_is_weight(b) ? spec->weight_target : spec->activation_target;
    double lo = s->candidate[0] & 255, hi = s->candidate[s->n - 1] & 255;
    if (!(target > 0)) target = spec->bops_target;
    if (!(target > 0)) target = spec->start[b->v->site] & 255;
    return (float)fmin(fmax(target, lo), hi);
}

/* What a site learns, and f. */
static nb_status add_share(nbi_relax_grower *b, const nbi_relax_site *s, const nbi_scheme *scheme) {
    static const char *const names[2] = {"low", "high"};
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    const int64_t one = 1;
    NB_TRY(nbi_relax_constant(b, "lambda", NB_DTYPE_F32, 1, &one, &mine->learned));
    *nbi_relax_value(b->r, mine->learned) = start_of(b, s);
    NB_TRY(nbi_relax_params(b, scheme, 2, mine->params));
    for (int i = 0; i < 2; i++) {
        NB_TRY(nbi_relax_constant(b, names[i], NB_DTYPE_F32, 1, &one, &mine->width[i]));
        *nbi_relax_value(b->r, mine->width[i]) = (float)(s->candidate[i] & 255);
    }
    NB_TRY(nbi_relax_constant(b, "inverse", NB_DTYPE_F32, 1, &one, &mine->inverse));
    *nbi_relax_value(b->r, mine->inverse) = 1;
    NB_TRY(binary(b, "Sub", mine->learned, mine->width[0], &mine->share));
    return binary(b, "Mul", mine->share, mine->inverse, &mine->share);
}

static nb_status vertex(nbi_relax_grower *b, const nbi_relax_site *s, int *out) {
    const nbi_scheme *scheme = nbi_relax_scheme(s->candidate[0]);
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    int q[2], difference;
    if (scheme == nbi_scheme_find("uniform")) scheme = nbi_scheme_find("lsq");
    if (mine->learned < 0) NB_TRY(add_share(b, s, scheme));
    for (int i = 0; i < 2; i++)
        NB_TRY(nbi_relax_quantizer(b, scheme, mine->params[i], mine->width[i], &q[i]));
    NB_TRY(binary(b, "Sub", q[1], q[0], &difference));
    NB_TRY(binary(b, "Mul", difference, mine->share, &difference));
    return binary(b, "Add", q[0], difference, out);
}

/* ---- training ------------------------------------------------------------------------------ */

static double width(const nbi_relax *r, int s) {
    return (double)*nbi_relax_value(r, r->vertex[s].learned);
}

/* The candidate next to λ. */
static nbi_choice nearest(const nbi_relax *r, int s) {
    const nbi_relax_site *site = &r->spec.site[s];
    int best = 0;
    for (int i = 1; i < site->n; i++)
        if (fabs((site->candidate[i] & 255) - width(r, s)) <
            fabs((site->candidate[best] & 255) - width(r, s)))
            best = i;
    return site->candidate[best];
}

/* Both candidates around λ, and what makes a share of their distance. */
static void place(const nbi_relax *r, int s) {
    const nbi_relax_site *site = &r->spec.site[s];
    const nbi_relax_vertex *v = &r->vertex[s];
    int low = 0, bits[2];
    while (low + 2 < site->n && (double)(site->candidate[low + 1] & 255) <= width(r, s)) low++;
    for (int i = 0; i < 2; i++) {
        bits[i] = site->candidate[low + i] & 255;
        *nbi_relax_value(r, v->width[i]) = (float)bits[i];
        nbi_relax_set_row(r, s, i, bits[i]);
    }
    *nbi_relax_value(r, v->inverse) = 1.0f / (float)(bits[1] - bits[0]);
}

static double part(uint64_t step, uint64_t steps) {
    return steps > 1 ? (double)step / (double)(steps - 1) : 1;
}

static nb_status begin(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    const nbi_relax *r = user;
    (void)ctx;
    for (int s = 0; s < r->net->n_sites; s++) {
        const nbi_relax_site *site = &r->spec.site[s];
        if (r->vertex[s].learned < 0) continue;
        float *lambda = nbi_relax_value(r, r->vertex[s].learned);
        float lo = (float)(site->candidate[0] & 255);
        float hi = (float)(site->candidate[site->n - 1] & 255);
        *lambda = fminf(fmaxf(*lambda, lo), hi);
        if (part(step, steps) >= SEARCHED) *lambda = (float)(nearest(r, s) & 255);
        place(r, s);
    }
    return NB_OK;
}

static nb_status adjust(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                        nbi_param *params) {
    nbi_relax *r = user;
    int first = r->qat->n_train - r->n_learned;
    double rate = r->spec.choice_rate > 0 ? r->spec.choice_rate : RATE;
    bool searching = part(step, steps) < SEARCHED && lr > 0;
    (void)ctx;
    nbi_relax_press(r, r->spec.penalty > 0 ? r->spec.penalty : PENALTY, true);
    for (int s = 0, i = first; s < r->net->n_sites; s++) {
        if (r->vertex[s].learned < 0) continue;
        r->gradient[i - first] = (float)((double)*params[i].gradient + r->pressure[s]);
        params[i].gradient = &r->gradient[i - first];
        params[i].lr = searching ? (float)(rate / lr) : 0;
        i++;
    }
    return NB_OK;
}

static nbi_choice decode(const nbi_relax *r, int s, double *value) {
    *value = width(r, s);
    return nearest(r, s);
}

const nbi_relax_way nbi_relax_fractions = {.vertex = vertex,
                                           .begin = begin,
                                           .adjust = adjust,
                                           .adam = true,
                                           .decode = decode,
                                           .width = width};
