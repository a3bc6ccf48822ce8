/* What fine-tuning starts from: the weights that a search has trained, those of learned rounding, the
 * model's, or fresh ones. */
#include "api/tuning.h"

#include "hyper/metaquantnet.h"
#include "quant/learned_start.h"
#include "quant/reestimate.h"
#include "quant/trained.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CLOSE 85.0 /* % of images with the float network's class: rounding is worth keeping */

static const char *const starts[] = {"auto", "search", "rounded", "float", "random"};

const char *nbi_tuning_start_text(const nbi_tuning *t) {
    static const char *const texts[] = {"", "the weights that the search trained",
                                        "the weights of learned rounding", "the float weights",
                                        "random weights"};
    for (size_t i = 0; i < NBI_COUNT(starts); i++)
        if (!strcmp(t->from.id, starts[i]) && !t->s->further.tuned) return texts[i];
    return "what was trained before";
}

bool nbi_tuning_is_start(const char *id) {
    for (size_t i = 0; i < NBI_COUNT(starts); i++)
        if (!strcmp(id, starts[i])) return true;
    return false;
}

/* He et al. 2015 for weights; normalization begins as the identity. */
static nb_status randomize(nb_ctx *ctx, nbi_qat *q) {
    nbi_rng rng;
    for (int i = 0; i < q->net->n_layers; i++) {
        const nbi_layer *l = &q->net->layer[i];
        const nbi_qat_layer *t = &q->layer[i];
        const int constants[] = {t->gamma, t->beta, t->mean, t->variance, t->bias};
        static const float to[] = {1, 0, 0, 1, 0};
        if (t->weight < 0) continue;
        double fan = (double)l->n_weights / l->geometry.out_c;
        float *w = q->graph->tensor[t->weight]->data;
        nbi_rng_seed(&rng, nb_ctx_seed(ctx), (uint64_t)i + 0x9e37);
        for (size_t k = 0; k < l->n_weights; k++)
            w[k] = (float)(sqrt((l->is_last ? 1 : 2) / fan) * nbi_rng_normal(&rng));
        for (size_t k = 0; k < NBI_COUNT(constants); k++)
            for (int c = 0; constants[k] >= 0 && c < l->geometry.out_c; c++)
                ((float *)q->graph->tensor[constants[k]]->data)[c] = to[k];
        if (t->weight_scale >= 0) NB_TRY(nbi_trained_fit(ctx, q, i));
    }
    return NB_OK;
}

/* The graph of a policy. With generated weights the network holds those that it starts from while it
 * is built, and afterwards what scores the policy. */
nb_status nbi_tuning_graph(nbi_tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                       nbi_tune_start start, nbi_qat **out) {
    nbi_session *s = t->s;
    const nbi_graph *source = s->further.fresh ? s->further.fresh : s->compared;
    if (s->meta && start == NBI_START_SEARCH) NB_TRY(nbi_meta_install(s->ctx, s->meta, bits));
    else if (s->meta) nbi_meta_uninstall(s->meta);
    nb_status st = nbi_qat_new(s->ctx, source, s->net, bits, s->edge, o, out);
    if (s->meta && !s->generated) nbi_meta_uninstall(s->meta);
    else if (st == NB_OK && s->meta) st = nbi_meta_install(s->ctx, s->meta, NULL);
    return st;
}

static nb_status restate_start(nbi_tuning *t, nbi_qat *q) {
    return nbi_qat_reestimate(t->s->ctx, q, t->batches, NBI_EPOCH_APART, NBI_STATISTICS_BATCHES);
}

/* The values of a start into the graph that was built for it. */
static nb_status fill_start(nbi_tuning *t, nbi_tune_start start, nbi_qat *q) {
    nbi_session *s = t->s;
    if (start == NBI_START_RANDOM) return s->further.fresh ? NB_OK : randomize(s->ctx, q);
    if (start == NBI_START_FLOAT) return NB_OK;
    if (start == NBI_START_SEARCH) {
        if (s->searched) NB_TRY(nbi_trained_give(s->ctx, s->searched, q));
        return restate_start(t, q);
    }
    NB_TRY(nbi_learned_start(s->ctx, s->learner, s->learned_grid, q));
    NB_TRY(restate_start(t, q));
    nbi_learned_gains(s->learner, q);
    return restate_start(t, q);
}

static nb_status make_start(nbi_tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                            nbi_tune_start start, nbi_qat **out) {
    NB_TRY(nbi_tuning_graph(t, bits, o, start, out));
    return fill_start(t, start, *out);
}

static nb_status merit_of_start(nbi_tuning *t, nbi_qat *q, double *out) {
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    t->qat = q;
    nb_status st = nbi_tuning_deploy(t, &frozen, &program);
    if (st == NB_OK) st = nbi_tuning_judge(t, program, false, out);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    t->qat = NULL;
    return st;
}

/* The better one of what the search trained and what rounding learned. */
static nb_status better_start(nbi_tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                              nbi_tune_start *out) {
    static const nbi_tune_start two[] = {NBI_START_SEARCH, NBI_START_ROUNDED};
    nbi_qat *q[2] = {NULL, NULL};
    double merit[2];
    nb_status st = NB_OK;
    for (int i = 0; i < 2 && st == NB_OK; i++) {
        st = make_start(t, bits, o, two[i], &q[i]);
        if (st == NB_OK) st = merit_of_start(t, q[i], &merit[i]);
    }
    int best = st == NB_OK && merit[1] >= merit[0];
    *out = two[best];
    if (st == NB_OK) {
        nb_log(t->s->ctx, NB_LOG_INFO, "to start from: validation %s %.4g with the search's weights, "
               "%.4g with learned rounding", nbi_tuning_merit_name(t->s), fabs(merit[0]), fabs(merit[1]));
        t->qat = q[best];
        q[best] = NULL;
    }
    nbi_qat_free(q[0]);
    nbi_qat_free(q[1]);
    return st;
}

/* Where learned rounding stays close to the float network, a few epochs from there reach more; where
 * it does not, more from the float weights (docs/quantization.md has figures). */
static nb_status is_close(nbi_tuning *t, const nbi_choice *bits, bool *close) {
    NB_TRY(nbi_tuning_judge_before(t, bits));
    *close = !(t->kept < CLOSE);
    return NB_OK;
}

/* t->qat with the values that training starts from. An unfinished fine-tuning that is gone on with
 * started from what its best epoch has replaced since; its checkpoint knows everything else. */
nb_status nbi_tuning_start(nbi_tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                           nbi_tune_start *out) {
    nbi_session *s = t->s;
    bool searched = s->meta || s->searched;
    bool rounded = s->learned && !memcmp(bits, s->learned, (size_t)s->net->n_sites * sizeof *bits);
    nbi_tune_start start = s->further.fresh ? NBI_START_RANDOM : s->start;
    if (start == NBI_START_AUTO && searched && rounded) {
        NB_TRY(better_start(t, bits, o, &start));
    } else {
        bool close = true;
        if (start == NBI_START_AUTO && rounded) NB_TRY(is_close(t, bits, &close));
        if (start == NBI_START_AUTO)
            start = searched ? NBI_START_SEARCH : close ? NBI_START_ROUNDED : NBI_START_FLOAT;
        if ((start == NBI_START_SEARCH && !searched) || (start == NBI_START_ROUNDED && !rounded))
            start = NBI_START_FLOAT;
        NB_TRY(make_start(t, bits, o, start, &t->qat));
    }
    *out = start;
    snprintf(t->from.id, sizeof t->from.id, "%s", starts[start]);
    if (!s->further.tuned) return NB_OK;
    NB_TRY(nbi_tuned_load(t->s, s->further.tuned, bits, t->qat, &t->from));
    if (!s->o->resume || !t->from.origin[0]) return NB_OK;
    snprintf(t->from.id, sizeof t->from.id, "%s", t->from.origin);
    t->from.epochs = t->from.origin_epochs;
    t->before = t->from.origin_merit;
    return NB_OK;
}
