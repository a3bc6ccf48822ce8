/* The gradient 2λ·(w − ŵ) is added to a copy of the weights' gradients. Weights outside the range of
 * the levels are left alone: their gradient is not theirs but the step's. */
#include "quant/dampen.h"

#include "quant/fit.h"
#include "schemes/choice.h"

#include <math.h>
#include <string.h>

typedef struct damped {
    int param, layer; /* of qat->train, of the net */
    size_t count;
    float *gradient; /* [count] */
} damped;

struct nbi_dampen {
    const nbi_qat *qat;
    double lambda;
    float twice; /* of the step at hand */
    nbi_param *params;
    int n;
    damped *item;
};

/* Only learned steps: uniform layers are trained as lsq ones are. */
static bool is_damped(const nbi_qat *q, int layer) {
    const nbi_choice choice = q->bits[q->net->layer[layer].weight_site];
    bool steps = !nbi_choice_scheme(choice) || nbi_choice_row(choice) == nbi_scheme_find("lsq");
    return steps && nbi_choice_bits(choice) > 1 && q->layer[layer].weight_scale >= 0;
}

static nb_status add(nb_ctx *ctx, nbi_dampen *d, int layer) {
    const nbi_qat *q = d->qat;
    for (int i = 0; i < q->n_train; i++) {
        if (q->train[i] != q->layer[layer].weight) continue;
        damped *item = &d->item[d->n++];
        item->param = i;
        item->layer = layer;
        item->count = (size_t)nbi_tensor_count(q->graph->tensor[q->train[i]]);
        return nbi_alloc(ctx, item->count, sizeof(float), &item->gradient);
    }
    return NB_OK;
}

nb_status nbi_dampen_new(nb_ctx *ctx, const nbi_qat *qat, double lambda, nbi_dampen **out) {
    nbi_dampen *d = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *d, &d));
    d->qat = qat;
    d->lambda = lambda;
    NB_TRYG(nbi_alloc(ctx, (size_t)qat->net->n_layers + 1, sizeof *d->item, &d->item));
    int trained = 0;
    for (int l = 0; l < qat->net->n_layers; l++) {
        if (qat->layer[l].weight < 0) continue;
        trained++;
        if (is_damped(qat, l)) NB_TRYG(add(ctx, d, l));
    }
    if (d->n < trained)
        nb_log(ctx, NB_LOG_WARNING, "dampening acts on uniform and lsq weights of 2 bits and more: "
               "%d of %d layers have others", trained - d->n, trained);
    *out = d;
    return NB_OK;
done:
    nbi_dampen_free(d);
    return st;
}

void nbi_dampen_free(nbi_dampen *d) {
    if (!d) return;
    for (int i = 0; d->item && i < d->n; i++) nbi_free(d->item[i].gradient);
    nbi_free(d->item);
    nbi_free(d);
}

static nb_status pull_items(void *user, size_t begin, size_t end, int worker) {
    const nbi_dampen *d = user;
    (void)worker;
    for (size_t k = begin; k < end; k++) {
        const damped *item = &d->item[k];
        const nbi_qat *q = d->qat;
        const nbi_tensor *step = q->graph->tensor[q->layer[item->layer].weight_scale];
        const float *scale = step->data, *w = d->params[item->param].value;
        int top = 1 << (nbi_choice_bits(q->bits[q->net->layer[item->layer].weight_site]) - 1);
        size_t groups = (size_t)step->dim[0], per = item->count / groups;
        memcpy(item->gradient, d->params[item->param].gradient, item->count * sizeof(float));
        for (size_t i = 0; i < item->count; i++) {
            float s = fmaxf(scale[i / per], 1e-30f);
            if (w[i] < -(float)top * s || w[i] > (float)(top - 1) * s) continue;
            float level = (float)nbi_level_of(w[i], s, -top, top - 1);
            item->gradient[i] += d->twice * (w[i] - level * s);
        }
        d->params[item->param].gradient = item->gradient;
    }
    return NB_OK;
}

nb_status nbi_dampen_adjust(nb_ctx *ctx, void *dampen, uint64_t step, uint64_t steps, double lr,
                            nbi_param *params) {
    nbi_dampen *d = dampen;
    double part = steps > 1 ? (double)step / (double)(steps - 1) : 1;
    (void)lr;
    d->params = params;
    d->twice = (float)(d->lambda * (1 - cos(3.14159265358979323846 * part))); /* 2λ·(1 − cos)/2 */
    return nbi_parallel(ctx, (size_t)d->n, 1, pull_items, d);
}
