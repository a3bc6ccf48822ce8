/* Learned rounding of the chosen policy, of the model's own weights whatever weights have scored it: the scorer runs the network once more, layer by layer, and
 * the learner gives each layer its weights on the way; then, if that was asked for, block by block. */
#include "api/hyper.h"

#include "quant/equalize.h"
#include "runtime/reconstruct.h"

#include <math.h>
#include <string.h>

#define NORMAL_95 1.645

typedef enum method { NONE, GRAM, ADAROUND, QDROP, METHODS } method;
static const char *const names[METHODS] = {"none", "gram", "adaround", "qdrop"};

/* "[cle,]METHOD" or "cle"; false: something else. */
static bool parse(const nb_quantize_options *o, bool *cle, method *out) {
    const char *text = o->ptq ? o->ptq : "";
    *cle = !strncmp(text, "cle", 3) && (!text[3] || text[3] == ',');
    *out = o->correct ? GRAM : NONE;
    if (*cle) text += text[3] ? 4 : 3;
    if (!*text) return !*cle || text[-1] != ',';
    for (int i = 0; i < METHODS; i++)
        if (!strcmp(text, names[i])) {
            *out = (method)i;
            return true;
        }
    return false;
}

static method method_of(const nb_quantize_options *o) {
    bool cle;
    method m;
    return parse(o, &cle, &m) ? m : NONE;
}

bool nbi_learns(const nb_quantize_options *o) {
    return method_of(o) != NONE;
}

nb_status nbi_check_ptq(nb_ctx *ctx, const nb_quantize_options *o) {
    bool cle;
    method m;
    if (!parse(o, &cle, &m))
        return nb_fail(ctx, NB_EINVAL, "ptq: '%s' is not one of: none, gram, adaround, qdrop, with "
                       "cle, in front where wanted", o->ptq);
    if (m != NONE && !o->correct)
        return nb_fail(ctx, NB_EINVAL, "--ptq %s needs the output-statistics correction", names[m]);
    return NB_OK;
}

nb_status nbi_equalize_model(nb_ctx *ctx, const nb_quantize_options *o, nbi_graph *graph) {
    bool cle;
    method m;
    int pairs;
    if (!parse(o, &cle, &m) || !cle) return NB_OK;
    NB_TRY(nbi_equalize(ctx, graph, &pairs));
    nb_log(ctx, NB_LOG_INFO, "%d pairs of convolutions are equalized", pairs);
    return NB_OK;
}

void nbi_use_learned(nbi_session *s, bool use) {
    nbi_scorer_set_rounding(s->scorer, use ? nbi_learner_round : NULL, s->learner);
    nbi_scorer_set_grids(s->scorer, use ? s->learned_grid : NULL);
}

typedef struct verdict {
    double plain, learned; /* mean losses on validation images */
    bool worse;            /* beyond chance */
} verdict;

/* With what is learned, beside `plain` losses of the same images. A network has often been trained on
 * them, so close losses say nothing: plain rounding is kept only where learning has lost more than
 * chance explains. */
static nb_status compare(nbi_session *s, const nbi_choice *bits, const double *plain, verdict *out) {
    size_t n = s->images.n - s->calib;
    double *learned, sum = 0, square = 0;
    *out = (verdict){0};
    NB_TRY(nbi_alloc(s->ctx, n + 1, sizeof *learned, &learned));
    nbi_use_learned(s, true);
    nb_status st = nbi_netproblem_each(s->ctx, s->np, bits, learned);
    nbi_use_learned(s, false);
    for (size_t i = 0; i < n && st == NB_OK; i++) {
        double d = learned[i] - plain[i];
        out->plain += plain[i] / (double)n;
        out->learned += learned[i] / (double)n;
        sum += d;
        square += d * d;
    }
    double mean = sum / (double)n, variance = fmax(square / (double)n - mean * mean, 0);
    out->worse = mean > NORMAL_95 * sqrt(variance / (double)n);
    nbi_free(learned);
    return st;
}

/* Block by block from Gram's levels. What cannot be trained is told, and keeps those. */
static nb_status learn_blocks(nbi_session *s, const nbi_choice *bits, method m) {
    nb_ctx *ctx = s->ctx;
    size_t images = s->calib < NBI_BLOCK_BATCH ? s->calib : NBI_BLOCK_BATCH;
    nbi_reconstruction job = {.blocks = {.source = s->source, .net = s->net, .bits = bits,
                                         .edge = s->edge, .batch = (int)images, .steps = NBI_BLOCK_STEPS,
                                         .drop = m == QDROP, .seed = nb_ctx_seed(ctx)},
                              .fill = nbi_session_fill, .fill_user = s, .images = s->calib,
                              .scorer_images = s->images.n};
    NB_TRY(nbi_alloc(ctx, (size_t)s->net->n_sites + 1, sizeof *s->learned_grid, &s->learned_grid));
    nbi_use_learned(s, true);
    nb_status st = nbi_reconstruct(ctx, s->scorer, s->learner, s->learned_grid, &job);
    nbi_use_learned(s, false);
    if (st == NB_EUNSUPPORTED || st == NB_ENUMERIC) {
        nb_log(ctx, NB_LOG_WARNING, "%s: %s; Gram rounding is delivered", names[m],
               nb_ctx_message(ctx));
        return NB_OK;
    }
    json_object_set_new(s->ptq, "blocks", json_integer(job.n_blocks));
    json_object_set_new(s->ptq, "blocks_improved", json_integer(job.improved));
    return st;
}

/* Gram rounding, blocks behind it, and the judgement beside the losses of plain rounding; fills
 * s->ptq. */
static nb_status learn(nbi_session *s, const nbi_choice *bits, method m, const double *losses,
                       double *loss) {
    nb_ctx *ctx = s->ctx;
    double plain, learned;
    size_t n = (size_t)s->net->n_sites;
    verdict v;
    int layers;
    nbi_learner_options o = {.source = s->source, .net = s->net, .fill = nbi_session_fill,
                             .fill_user = s, .images = s->calib, .seed = nb_ctx_seed(ctx)};
    NB_TRY(nbi_learner_new(ctx, &o, &s->learner));
    NB_TRY(compare(s, bits, losses, &v));
    nb_status st = NB_OK;
    if (m > GRAM) {
        json_object_set_new(s->ptq, "gram_loss", json_real(v.learned));
        st = learn_blocks(s, bits, m);
        if (st != NB_OK && st != NB_ECANCELLED) return st;
        if (st == NB_ECANCELLED) nb_ctx_clear_cancel(ctx); /* blocks that are done count */
        NB_TRY(compare(s, bits, losses, &v));
    }
    nbi_learner_settle(s->learner);
    nbi_learner_errors(s->learner, &plain, &learned, &layers);
    if (v.worse) {
        nb_log(ctx, NB_LOG_WARNING, "learned rounding has a validation loss of %.6g, %s %.6g: that is "
               "delivered", v.learned, s->meta ? "what was generated" : "plain rounding", v.plain);
        *loss = v.plain;
    } else {
        NB_TRY(nbi_alloc(ctx, n + 1, sizeof *s->learned, &s->learned));
        memcpy(s->learned, bits, n * sizeof *bits);
        *loss = v.learned;
    }
    json_object_set_new(s->ptq, "kept", json_boolean(!v.worse));
    json_object_set_new(s->ptq, s->meta ? "generated_loss" : "plain_loss", json_real(v.plain));
    json_object_set_new(s->ptq, "loss", json_real(v.learned));
    json_object_set_new(s->ptq, "layers", json_integer(layers));
    json_object_set_new(s->ptq, "plain_error", json_real(layers ? plain / layers : 0));
    json_object_set_new(s->ptq, "error", json_real(layers ? learned / layers : 0));
    return st;
}

/* Also after a request to stop, which stays. */
static nb_status back_to_generated(nbi_session *s, nb_status st) {
    const bool cancelled = nb_cancelled(s->ctx);
    nb_ctx_clear_cancel(s->ctx);
    nb_status back = nbi_hyper_use(s, true);
    if (cancelled) nb_ctx_cancel(s->ctx);
    return st == NB_OK ? back : st;
}

nb_status nbi_learn(nbi_session *s, const nbi_choice *bits, double *loss) {
    double start = nb_seconds(s->ctx);
    method m = method_of(s->o);
    if (m == NONE) return NB_OK;
    s->ptq = json_object();
    json_object_set_new(s->ptq, "method", json_string(names[m]));
    if (s->ranker) json_object_set_new(s->ptq, "ranked_loss", json_real(*loss));
    double *losses;
    nbi_rank(s, false);
    NB_TRY(nbi_alloc(s->ctx, s->images.n - s->calib + 1, sizeof *losses, &losses));
    nb_status st = nbi_netproblem_each(s->ctx, s->np, bits, losses);
    nbi_scorer_clear(s->scorer); /* learning takes memory, and leaves nothing in the cache */
    if (st == NB_OK && s->generated) st = nbi_hyper_use(s, false);
    if (st == NB_OK) st = learn(s, bits, m, losses, loss);
    if (s->meta && !s->learned && !s->generated) st = back_to_generated(s, st);
    nbi_free(losses);
    json_object_set_new(s->ptq, "seconds", json_real(nb_seconds(s->ctx) - start));
    return st;
}
