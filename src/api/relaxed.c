/* Policies learned by gradient for a session: schemes first, then widths, on the training split. What
 * was learned is kept in the study; an unfinished training goes on from its checkpoint. */
#include "api/finished.h"
#include "api/teacher.h"

#include "quant/relax.h"
#include "quant/trained.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BITS 3 /* where widths start when no target says otherwise */

typedef struct relaxing {
    nbi_session *s;
    nbi_teacher teacher;
    nbi_batches *batches;
    nbi_relax *relax;
    const char *method, *stage;
    char job[20]; /* what a stage's result depends on beside its targets, as one number */
} relaxing;

static nb_status ask(nb_ctx *ctx, void *user, const nbi_batch *batch, const void **inputs) {
    relaxing *r = user;
    return r->teacher.graph ? nbi_teacher_ask(ctx, &r->teacher, batch->x, inputs) : NB_OK;
}

static void tell(nb_ctx *ctx, void *user, const nbi_epoch_line *line) {
    const relaxing *r = user;
    nb_log(ctx, NB_LOG_INFO, "%s, epoch %d of %d: loss %.4f, %.0f s, %.0f s left", r->stage,
           line->epoch, line->epochs, line->loss, line->seconds, line->left);
}

static bool is_free(const nbi_session *s, int site) {
    nbi_site_kind kind = s->net->site[site].kind;
    return !s->fixed[site] && (kind == NBI_SITE_WEIGHT || kind == NBI_SITE_ACTIVATION);
}

static const nbi_offer *offer_of(const nbi_session *s, int site) {
    return s->net->site[site].kind == NBI_SITE_WEIGHT ? &s->weights : &s->activations;
}

/* The offered width of a scheme that is nearest to `bits`, the narrower of two; 0: none. */
static nbi_choice nearest(const nbi_offer *offer, int scheme, int bits) {
    nbi_choice best = 0;
    for (int i = 0; i < offer->n; i++) {
        nbi_choice c = offer->choice[i];
        if (nbi_choice_scheme(c) != scheme) continue;
        if (!best || abs(nbi_choice_bits(c) - bits) < abs(nbi_choice_bits(best) - bits)) best = c;
    }
    return best;
}

static int wanted_bits(const nbi_session *s, int site, const double target[3]) {
    double t = target[s->net->site[site].kind == NBI_SITE_WEIGHT ? 0 : 1];
    if (!(t > 0)) t = target[2];
    int bits = t > 0 ? (int)lrint(t) : FIRST_BITS;
    return bits < 1 ? 1 : bits > NBI_MAX_BITS ? NBI_MAX_BITS : bits;
}

/* Every scheme that is offered, each at the width nearest to what is wanted. */
static void scheme_candidates(const nbi_session *s, int site, int bits, nbi_relax_site *out) {
    const nbi_offer *offer = offer_of(s, site);
    for (int i = 0; i < offer->n; i++) {
        nbi_choice c = nearest(offer, nbi_choice_scheme(offer->choice[i]), bits);
        bool known = false;
        for (int k = 0; k < out->n; k++) known |= out->candidate[k] == c;
        if (!known && out->n < NBI_RELAX_CANDIDATES) out->candidate[out->n++] = c;
    }
    if (out->n < 2) out->n = 0;
}

/* The widths of one scheme, rising; none where there is one, or where they cannot be learned. */
static void width_candidates(const nbi_session *s, int site, int scheme, nbi_relax_site *out) {
    const nbi_offer *offer = offer_of(s, site);
    unsigned flags = nbi_choice_row(nbi_choice_of(scheme, 1))->flags;
    bool fits = (flags & NBI_SCHEME_REFIT) && !(flags & NBI_SCHEME_LEARNED);
    if (scheme != 0 && !fits) return;
    for (int i = 0; i < offer->n; i++)
        if (nbi_choice_scheme(offer->choice[i]) == scheme && out->n < NBI_RELAX_CANDIDATES)
            out->candidate[out->n++] = offer->choice[i];
    if (out->n < 2) out->n = 0;
}

static nb_status open_batches(relaxing *r, size_t batch, const nbi_relax_spec *spec) {
    nbi_session *s = r->s;
    nbi_batches_spec b = {.data = s->data,
                          .split = NBI_SPLIT_TRAIN,
                          .batch = batch,
                          .classes = (size_t)(s->labelled ? s->info.classes : 0),
                          .transform = s->transform,
                          .seed = spec->seed};
    size_t odd = (size_t)(NBI_RELAX_ALTERNATE * (double)s->info.count[NBI_SPLIT_TRAIN]);
    /* with few images both kinds learn from all of them */
    if (spec->kind == NBI_RELAX_SCHEMES && odd >= batch) b.alternate = NBI_RELAX_ALTERNATE;
    NB_TRY(nbi_augmentation_parse(s->ctx, s->o->descent.augment, &s->info, &b.augment));
    return nbi_batches_new(s->ctx, &b, &r->batches);
}

/* r->job. Folded values of `start` are the policy that a stage begins with. */
static void identify(relaxing *r, const nbi_relax_spec *spec) {
    const nbi_session *s = r->s;
    const size_t sites = (size_t)s->net->n_sites, batch = nbi_session_batch(s);
    const nbi_qat_options o = nbi_session_qat_options(s, batch);
    const uint64_t model = nbi_graph_hash(s->source);
    const double numbers[] = {spec->choice_rate, spec->learning_rate, spec->epochs, (double)spec->seed,
                              (double)batch, o.per_channel, o.classes, o.distill, o.mean_squared,
                              s->o->residual_bits, (double)s->info.count[NBI_SPLIT_TRAIN]};
    const char *augment = s->o->descent.augment ? s->o->descent.augment : "default";
    uint64_t h = nbi_hash(NBI_HASH_START, &model, sizeof model);
    h = nbi_hash(h, spec->start, sites * sizeof *spec->start);
    for (size_t i = 0; i < sites; i++) {
        h = nbi_hash(h, &spec->site[i].n, sizeof spec->site[i].n);
        h = nbi_hash(h, spec->site[i].candidate, (size_t)spec->site[i].n * sizeof *spec->start);
    }
    h = nbi_hash(h, numbers, sizeof numbers);
    h = nbi_hash(h, augment, strlen(augment));
    nbi_hash_text(nbi_transform_hash(h, &s->transform), r->job);
}

static nb_status checkpoint_of(const relaxing *r, nbi_buf *path) {
    if (!r->s->o->output) return NB_OK;
    return nbi_buf_printf(r->s->ctx, path, "%s/%s-%s.npz", r->s->o->output, r->method, r->stage);
}

static nb_status train(relaxing *r, const nbi_relax_spec *spec, const char *checkpoint,
                       double deadline, bool *whole) {
    nbi_session *s = r->s;
    size_t batch = nbi_session_batch(s);
    nbi_qat_options o = nbi_session_qat_options(s, batch);
    char target[100];
    nbi_loop_result result;
    snprintf(target, sizeof target, "%g %g %g %g %d", spec->weight_target,
             spec->activation_target, spec->bops_target, spec->penalty, spec->model_wise);
    const nbi_pair identity[] = {{"stage", r->stage}, {"targets", target},
                                 {"data", s->o->data.path}, {"job", r->job}};
    NB_TRY(open_batches(r, batch, spec));
    NB_TRY(nbi_relax_new(s->ctx, s->compared, s->net, s->edge, &o, spec, &r->relax));
    if (nbi_relax_qat(r->relax)->teacher >= 0)
        NB_TRY(nbi_session_teacher(s, batch, &r->teacher));
    nbi_loop_spec loop = {.batches = r->batches, .user = r, .more = ask, .line = tell,
                          .checkpoint = checkpoint, .resume = s->o->resume, .identity = identity,
                          .n_identity = NBI_COUNT(identity)};
    if (isfinite(deadline)) loop.time_limit = fmax(deadline - nb_seconds(s->ctx), 1e-3);
    NB_TRY(nbi_relax_loop(s->ctx, r->relax, &loop));
    NB_TRY(nbi_loop_run(s->ctx, &loop, &result));
    *whole = !result.stopped;
    return NB_OK;
}

static void stop(relaxing *r) {
    nbi_teacher_stop(&r->teacher);
    nbi_relax_free(r->relax);
    nbi_batches_free(r->batches);
    r->relax = NULL;
    r->batches = NULL;
}

/* What a stage learned is found again under its settings. */
static void stage_key(const relaxing *r, const nbi_relax_spec *spec, char key[200]) {
    snprintf(key, 200, "%s %s %s %d %g %g %g %g", r->method, r->stage, r->job, spec->model_wise,
             spec->penalty, spec->weight_target, spec->activation_target, spec->bops_target);
}

/* The trained values of a stage are kept beside its choices: fine-tuning may start from them. */
static nb_status keep_stage(relaxing *r, const char *key, const nbi_choice *choice, bool whole) {
    nbi_session *s = r->s;
    size_t n = nbi_trained_count(s->net);
    char more[220];
    nbi_free(s->searched);
    s->searched = NULL;
    NB_TRY(nbi_alloc(s->ctx, n, sizeof *s->searched, &s->searched));
    nbi_relax_trained(r->relax, s->searched);
    if (!whole || !s->study) return NB_OK;
    snprintf(more, sizeof more, "%s values", key);
    NB_TRY(nbi_study_put(s->ctx, s->study, more, s->searched, n * sizeof *s->searched));
    return nbi_study_put(s->ctx, s->study, key, choice, (size_t)s->net->n_sites * sizeof *choice);
}

/* *found: a stage that was finished before, in choice and s->searched. */
static nb_status kept_stage(relaxing *r, const char *key, nbi_choice *choice, bool *found) {
    nbi_session *s = r->s;
    size_t bytes = (size_t)s->net->n_sites * sizeof *choice, size = 0;
    size_t room = nbi_trained_count(s->net) * sizeof *s->searched, length = 0;
    void *kept = NULL, *values = NULL;
    char more[220];
    nb_status st;
    *found = false;
    if (!s->study) return NB_OK;
    snprintf(more, sizeof more, "%s values", key);
    NB_TRYG(nbi_study_get(s->ctx, s->study, key, &kept, &size));
    NB_TRYG(nbi_study_get(s->ctx, s->study, more, &values, &length));
    *found = kept && size == bytes && values && length == room;
    if (!*found) goto done;
    memcpy(choice, kept, bytes);
    nbi_free(s->searched);
    s->searched = values;
    values = NULL;
done:
    nbi_free(kept);
    nbi_free(values);
    return st;
}

static nb_status learn_stage(relaxing *r, const nbi_relax_spec *spec, double deadline,
                             nbi_choice *choice) {
    char key[200];
    nbi_buf path = {0};
    bool whole = false, found = false;
    int open = 0;
    for (int i = 0; i < r->s->net->n_sites; i++) open += spec->site[i].n > 0;
    if (!open || !spec->epochs) return NB_OK;
    identify(r, spec);
    stage_key(r, spec, key);
    NB_TRY(kept_stage(r, key, choice, &found));
    if (found) return NB_OK;
    nb_status st = checkpoint_of(r, &path);
    if (st == NB_OK) st = train(r, spec, path.data, deadline, &whole);
    if (st == NB_OK) nbi_relax_decode(r->relax, choice, NULL);
    if (st == NB_OK) st = keep_stage(r, key, choice, whole);
    if (st == NB_OK && whole && path.data) remove(path.data); /* its work is done */
    nbi_buf_free(&path);
    stop(r);
    return st;
}

static nb_status learn_schemes(relaxing *r, const nbi_learning *how, const double target[3],
                               nbi_relax_site *site, nbi_choice *choice) {
    const nbi_session *s = r->s;
    double now = nb_seconds(s->ctx), share = how->width_epochs > 0 ? 0.5 : 1;
    nbi_relax_spec spec = {.kind = NBI_RELAX_SCHEMES, .site = site, .start = choice,
                           .model_wise = how->model_wise, .epochs = how->scheme_epochs,
                           .choice_rate = how->scheme_rate, .learning_rate = how->rate,
                           .seed = how->seed};
    for (int i = 0; i < s->net->n_sites; i++) {
        site[i] = (nbi_relax_site){0};
        if (!is_free(s, i)) continue;
        int bits = wanted_bits(s, i, target);
        scheme_candidates(s, i, bits, &site[i]);
        if (site[i].n) choice[i] = site[i].candidate[0];
    }
    r->stage = "schemes";
    return learn_stage(r, &spec, isfinite(how->deadline) ? now + share * (how->deadline - now)
                                                         : INFINITY, choice);
}

static nb_status learn_widths(relaxing *r, const nbi_learning *how, const double target[3],
                              nbi_relax_site *site, nbi_choice *choice) {
    const nbi_session *s = r->s;
    static const nbi_relax_kind kinds[] = {[NBI_LEARN_WIDTHS] = NBI_RELAX_WIDTHS,
                                           [NBI_LEARN_FRACTIONS] = NBI_RELAX_FRACTIONS,
                                           [NBI_LEARN_RANGES] = NBI_RELAX_RANGES};
    nbi_relax_spec spec = {.kind = kinds[how->by],
                           .site = site,
                           .start = choice,
                           .weight_target = target[0],
                           .activation_target = target[1],
                           .bops_target = target[2],
                           .penalty = how->penalty,
                           .epochs = how->width_epochs,
                           .choice_rate = how->width_rate,
                           .learning_rate = how->rate,
                           .seed = how->seed};
    for (int i = 0; i < s->net->n_sites; i++) {
        site[i] = (nbi_relax_site){0};
        if (!is_free(s, i)) continue;
        int scheme = nbi_choice_scheme(choice[i]);
        /* no stage has chosen one: the uniform scheme where it is offered */
        if (how->by != NBI_LEARN_WIDTHS && nearest(offer_of(s, i), 0, NBI_MAX_BITS)) scheme = 0;
        if (spec.epochs) width_candidates(s, i, scheme, &site[i]);
        if (how->by == NBI_LEARN_RANGES && scheme != 0) site[i].n = 0; /* no steps to learn */
        if (site[i].n) choice[i] = nearest(offer_of(s, i), scheme, wanted_bits(s, i, target));
    }
    r->stage = "widths";
    return learn_stage(r, &spec, how->deadline, choice);
}

nb_status nbi_relaxed_learn(nb_ctx *ctx, void *session, const nbi_learning *how,
                            const double target[3], nbi_choice *choice) {
    relaxing r = {.s = session, .method = how->method};
    nbi_relax_site *site;
    NB_TRY(nbi_finetune_check(r.s));
    NB_TRY(nbi_alloc(ctx, (size_t)r.s->net->n_sites + 1, sizeof *site, &site));
    nb_status st = learn_schemes(&r, how, target, site, choice);
    if (st == NB_OK && !nb_cancelled(ctx)) st = learn_widths(&r, how, target, site, choice);
    stop(&r);
    nbi_free(site);
    return st == NB_OK ? NB_OK : nb_fail_prefix(ctx, st, how->method);
}
