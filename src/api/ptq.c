/* Learned rounding of the chosen policy: the scorer runs the network once more, layer by layer, and
 * the learner gives each layer its weights on the way. */
#include "api/session.h"

#include <math.h>
#include <string.h>

#define NORMAL_95 1.645

static const char *method_of(const nb_quantize_options *o) {
    if (o->ptq) return o->ptq;
    return o->finetune > 0 || !o->correct ? "none" : "gram";
}

nb_status nbi_check_ptq(nb_ctx *ctx, const nb_quantize_options *o) {
    const char *method = method_of(o);
    if (!strcmp(method, "none")) return NB_OK;
    if (strcmp(method, "gram"))
        return nb_fail(ctx, NB_EINVAL, "ptq: '%s' is not one of: none, gram", method);
    if (!o->correct)
        return nb_fail(ctx, NB_EINVAL, "--ptq %s needs the output-statistics correction", method);
    return NB_OK;
}

typedef struct verdict {
    double plain, learned; /* mean losses on validation images */
    bool worse;            /* beyond chance */
} verdict;

/* Both on the same images. A network has often been trained on them, so close losses say nothing:
 * plain rounding is kept only where learning has lost more than chance explains. */
static nb_status compare(nbi_session *s, const nbi_choice *bits, verdict *out) {
    size_t n = s->images.n - s->calib;
    double *plain = NULL, *learned = NULL, sum = 0, square = 0;
    nb_status st;
    *out = (verdict){0};
    NB_TRYG(nbi_alloc(s->ctx, n + 1, sizeof *plain, &plain));
    NB_TRYG(nbi_alloc(s->ctx, n + 1, sizeof *learned, &learned));
    NB_TRYG(nbi_netproblem_each(s->ctx, s->np, bits, plain));
    nbi_scorer_set_weights(s->scorer, nbi_learner_weights, s->learner);
    st = nbi_netproblem_each(s->ctx, s->np, bits, learned);
    nbi_scorer_set_weights(s->scorer, NULL, NULL);
    if (st != NB_OK) goto done;
    for (size_t i = 0; i < n; i++) {
        double d = learned[i] - plain[i];
        out->plain += plain[i] / (double)n;
        out->learned += learned[i] / (double)n;
        sum += d;
        square += d * d;
    }
    double mean = sum / (double)n, variance = fmax(square / (double)n - mean * mean, 0);
    out->worse = mean > NORMAL_95 * sqrt(variance / (double)n);
done:
    nbi_free(plain);
    nbi_free(learned);
    return st;
}

nb_status nbi_learn(nbi_session *s, const nbi_choice *bits, double *loss, json_t **result) {
    nb_ctx *ctx = s->ctx;
    const char *method = method_of(s->o);
    double start = nb_seconds(ctx), plain, learned;
    size_t n = (size_t)s->net->n_sites;
    verdict v;
    int layers;
    if (!strcmp(method, "none")) return NB_OK;
    nbi_learner_options o = {.source = s->source, .net = s->net, .fill = nbi_session_fill,
                             .fill_user = s, .images = s->calib, .seed = nb_ctx_seed(ctx)};
    NB_TRY(nbi_learner_new(ctx, &o, &s->learner));
    NB_TRY(compare(s, bits, &v));
    nbi_learner_errors(s->learner, &plain, &learned, &layers);
    if (v.worse) {
        nb_log(ctx, NB_LOG_WARNING, "learned rounding has a validation loss of %.6g, plain rounding "
               "%.6g: the plain one is delivered", v.learned, v.plain);
    } else {
        NB_TRY(nbi_alloc(ctx, n + 1, sizeof *s->learned, &s->learned));
        memcpy(s->learned, bits, n * sizeof *bits);
        *loss = v.learned;
    }
    *result = json_pack("{s:s,s:b,s:f,s:f,s:i,s:f,s:f,s:f}", "method", method, "kept", !v.worse,
                        "plain_loss", v.plain, "loss", v.learned, "layers", layers, "plain_error",
                        layers ? plain / layers : 0.0, "error", layers ? learned / layers : 0.0,
                        "seconds", nb_seconds(ctx) - start);
    return *result ? NB_OK : nb_fail_memory(ctx, 64);
}
