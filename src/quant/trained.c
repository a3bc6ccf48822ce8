/* See trained.h. The numbers have fixed places, so that they can be kept as they are:
 *   layer  weights [n], gamma, beta, mean, variance, bias [out_c each], steps [8][out_c]
 *   site   steps [8]. */
#include "quant/trained.h"

#include "quant/fit.h"
#include "quant/qat_schemes.h"

#include <math.h>
#include <string.h>

#define PARTS 5 /* per channel, behind the weights */

static float *values(const nbi_qat *q, int tensor) {
    return q->graph->tensor[tensor]->data;
}

static size_t layer_count(const nbi_layer *l) {
    size_t c = (size_t)l->geometry.out_c;
    return l->type == NBI_LAYER_CONV ? l->n_weights + (PARTS + NBI_MAX_BITS) * c : 0;
}

static size_t place_of(const nbi_qnet *net, int layer) {
    size_t at = 0;
    for (int i = 0; i < layer; i++) at += layer_count(&net->layer[i]);
    return at;
}

size_t nbi_trained_count(const nbi_qnet *net) {
    return place_of(net, net->n_layers) + (size_t)net->n_sites * NBI_MAX_BITS;
}

float *nbi_trained_weight_steps(const nbi_qnet *net, int layer, float *all) {
    const nbi_layer *l = &net->layer[layer];
    return all + place_of(net, layer) + l->n_weights + PARTS * (size_t)l->geometry.out_c;
}

float *nbi_trained_site_steps(const nbi_qnet *net, int site, float *all) {
    return all + place_of(net, net->n_layers) + (size_t)site * NBI_MAX_BITS;
}

static void take(const nbi_qat *q, int tensor, float *to) {
    if (tensor >= 0)
        memcpy(to, values(q, tensor), (size_t)nbi_tensor_count(q->graph->tensor[tensor]) * sizeof *to);
}

static const int *parts(const nbi_qat_layer *l, int list[PARTS]) {
    const int all[PARTS] = {l->gamma, l->beta, l->mean, l->variance, l->bias};
    return memcpy(list, all, sizeof all);
}

void nbi_trained_take(const nbi_qat *q, float *out) {
    const nbi_qnet *net = q->net;
    int list[PARTS];
    for (size_t i = 0, n = nbi_trained_count(net); i < n; i++) out[i] = NAN;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        const nbi_qat_layer *t = &q->layer[i];
        size_t c = (size_t)l->geometry.out_c;
        float *to = out + place_of(net, i);
        nbi_choice choice = q->bits[l->type == NBI_LAYER_CONV ? l->weight_site : 0];
        if (t->weight < 0) continue;
        take(q, t->weight, to);
        parts(t, list);
        for (int k = 0; k < PARTS; k++) take(q, list[k], to + l->n_weights + (size_t)k * c);
        if (t->weight_scale >= 0 && !nbi_choice_scheme(choice))
            take(q, t->weight_scale, nbi_trained_weight_steps(net, i, out) +
                                         (size_t)(nbi_choice_bits(choice) - 1) * c);
    }
    for (int s = 0; s < net->n_sites; s++)
        if (q->site_scale[s] >= 0 && !nbi_choice_scheme(q->bits[s]))
            take(q, q->site_scale[s],
                 nbi_trained_site_steps(net, s, out) + nbi_choice_bits(q->bits[s]) - 1);
}

/* ---- back ------------------------------------------------------------------------------------- */

/* n values where all are known. */
static bool give(const nbi_qat *q, int tensor, const float *from) {
    size_t n = tensor < 0 ? 0 : (size_t)nbi_tensor_count(q->graph->tensor[tensor]);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(from[i])) return false;
    if (n) memcpy(values(q, tensor), from, n * sizeof *from);
    return true;
}

static nb_status fit_uniform(nb_ctx *ctx, nbi_qat *q, int index, int bits) {
    nbi_layer l = q->net->layer[index];
    const nbi_qat_layer *t = &q->layer[index];
    size_t groups = (size_t)q->graph->tensor[t->weight_scale]->dim[0];
    size_t channels = (size_t)l.geometry.out_c, depth = l.n_weights / channels;
    int8_t *levels = NULL;
    float *scale = NULL, *weight = NULL;
    double ignored;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, l.n_weights, 1, &levels));
    NB_TRYG(nbi_alloc(ctx, channels, sizeof *scale, &scale));
    NB_TRYG(nbi_alloc(ctx, l.n_weights, sizeof *weight, &weight));
    for (size_t i = 0; i < l.n_weights; i++)
        weight[nbi_weight_place(&l, i / depth, i % depth)] = values(q, t->weight)[i];
    l.weight = weight;
    NB_TRYG(nbi_fit_weights(ctx, &l, bits, groups > 1, levels, scale, &ignored));
    for (size_t g = 0; g < groups; g++)
        values(q, t->weight_scale)[g] = scale[g] * (float)nbk_level_step(bits);
done:
    nbi_free(levels);
    nbi_free(scale);
    nbi_free(weight);
    return st;
}

nb_status nbi_trained_fit(nb_ctx *ctx, nbi_qat *q, int layer) {
    nbi_choice choice = q->bits[q->net->layer[layer].weight_site];
    if (!nbi_choice_scheme(choice)) return fit_uniform(ctx, q, layer, nbi_choice_bits(choice));
    nbi_qat_fit_weights(q, layer);
    return NB_OK;
}

nb_status nbi_trained_give(nb_ctx *ctx, const float *from, nbi_qat *q) {
    const nbi_qnet *net = q->net;
    int list[PARTS];
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        const nbi_qat_layer *t = &q->layer[i];
        const float *x = from + place_of(net, i);
        size_t c = (size_t)l->geometry.out_c;
        if (t->weight < 0 || !give(q, t->weight, x)) continue;
        parts(t, list);
        for (int k = 0; k < PARTS; k++) (void)give(q, list[k], x + l->n_weights + (size_t)k * c);
        if (t->weight_scale < 0) continue;
        nbi_choice choice = q->bits[l->weight_site];
        const float *steps = x + l->n_weights + PARTS * c + (size_t)(nbi_choice_bits(choice) - 1) * c;
        if (nbi_choice_scheme(choice) || !give(q, t->weight_scale, steps))
            NB_TRY(nbi_trained_fit(ctx, q, i));
    }
    for (int s = 0; s < net->n_sites; s++)
        if (q->site_scale[s] >= 0 && !nbi_choice_scheme(q->bits[s]))
            (void)give(q, q->site_scale[s],
                       from + place_of(net, net->n_layers) + (size_t)s * NBI_MAX_BITS +
                           nbi_choice_bits(q->bits[s]) - 1);
    return NB_OK;
}
