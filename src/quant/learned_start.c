/* See learned_start.h. */
#include "quant/learned_start.h"

#include "quant/qat_schemes.h"
#include "quant/trained.h"

#include <math.h>

#define INSIDE 0.4f /* of a step: how far from its level a weight may lie */

/* Was the layer rounded, and do its weights stand for themselves? (DoReFa's are rescaled: they start as they
 * are.) */
static bool starts_rounded(const nbi_learner *n, const nbi_qat *q, int layer) {
    const nbi_qat_layer *t = &q->layer[layer];
    const float *scale;
    if (t->weight < 0 || !nbi_learner_levels(n, layer, &scale)) return false;
    return !(nbi_choice_row(q->bits[q->net->layer[layer].weight_site])->flags & NBI_SCHEME_RESCALES);
}

/* Uniform weights by cells. */
static void place_uniform(const nbi_learner *n, const nbi_layer *l, int layer, int bits,
                          float *weight) {
    const float *scale, *ideal = nbi_learner_ideal(n, layer);
    const int8_t *levels = nbi_learner_levels(n, layer, &scale);
    size_t channels = (size_t)l->geometry.out_c, k = l->n_weights / channels;
    float unit = (float)nbk_level_step(bits);
    for (size_t o = 0; o < channels; o++)
        for (size_t i = 0; i < k; i++) {
            size_t place = nbi_weight_place(l, o, i);
            float code = (float)levels[place] / unit, x = ideal[place] / unit;
            if (bits > 1) x = fminf(fmaxf(x, code - INSIDE), code + INSIDE);
            else if (!(x * code > 0)) x = code * (0.5f - INSIDE); /* two levels: one border */
            weight[o * k + i] = x * unit * scale[o];
        }
}

/* By another scheme, which fits its params to what it is given: the levels themselves. */
static void place_levels(const nbi_learner *n, const nbi_layer *l, int layer, float *weight) {
    const float *scale;
    const int8_t *levels = nbi_learner_levels(n, layer, &scale);
    size_t channels = (size_t)l->geometry.out_c, k = l->n_weights / channels;
    for (size_t o = 0; o < channels; o++)
        for (size_t i = 0; i < k; i++)
            weight[o * k + i] = scale[o] * (float)levels[nbi_weight_place(l, o, i)];
}

nb_status nbi_learned_start(nb_ctx *ctx, const nbi_learner *n, const nbi_qparam *grid,
                            nbi_qat *q) {
    for (int i = 0; i < q->net->n_layers; i++) {
        const nbi_layer *l = &q->net->layer[i];
        const nbi_qat_layer *t = &q->layer[i];
        const float *scale;
        if (!starts_rounded(n, q, i)) continue;
        (void)nbi_learner_levels(n, i, &scale);
        nbi_choice choice = q->bits[l->weight_site];
        float *weight = q->graph->tensor[t->weight]->data;
        if (nbi_choice_scheme(choice)) {
            place_levels(n, l, i, weight);
            NB_TRY(nbi_trained_fit(ctx, q, i));
            continue;
        }
        int bits = nbi_choice_bits(choice);
        place_uniform(n, l, i, bits, weight);
        const nbi_tensor *step = q->graph->tensor[t->weight_scale];
        for (int64_t g = 0; g < step->dim[0]; g++)
            ((float *)step->data)[g] = scale[g] * (float)nbk_level_step(bits);
    }
    for (int s = 0; grid && s < q->net->n_sites; s++)
        if (grid[s].dtype != NB_DTYPE_NONE && q->site_scale[s] >= 0 && !nbi_choice_scheme(q->bits[s]))
            *(float *)q->graph->tensor[q->site_scale[s]]->data = (float)grid[s].scale;
    return NB_OK;
}

void nbi_learned_gains(const nbi_learner *n, nbi_qat *q) {
    for (int i = 0; i < q->net->n_layers; i++) {
        const nbi_layer *l = &q->net->layer[i];
        const nbi_qat_layer *t = &q->layer[i];
        if (t->gamma < 0 || !starts_rounded(n, q, i)) continue;
        const float *variance = q->graph->tensor[t->variance]->data;
        float *gamma = q->graph->tensor[t->gamma]->data;
        for (int c = 0; c < l->geometry.out_c; c++)
            gamma[c] = l->gain[c] * sqrtf(variance[c] + NBI_QAT_EPSILON);
    }
}
