/* Training a MetaQuantNet on the training split, and using it in a session. It is written as ONNX
 * when it is ready; until then a checkpoint lies beside it, from which --resume goes on. */
#include "api/hyper.h"

#include "api/finished.h"
#include "api/identity.h"
#include "api/teacher.h"
#include "schemes/choice.h"
#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WEIGHT_DECAY  1e-4f

typedef struct training {
    nbi_session *s;
    const nbi_meta_settings *settings;
    nbi_meta *meta;
    nbi_batches *batches;
    nbi_teacher teacher;
    nbi_loop_param *param;
    json_t *epochs;
    int n_source; /* pairs that say whose it is; the others, how it was trained */
    nbi_identity identity;
} training;

/* ---- identity -------------------------------------------------------------------------------- */

static void set_identity(training *t, size_t batch) {
    const nbi_session *s = t->s;
    const nb_data_options *d = &s->o->data;
    nbi_identity *id = &t->identity;
    nbi_identify_hash(id, "source", nbi_graph_hash(s->source));
    nbi_identify_number(id, "residual_bits", s->o->residual_bits);
    nbi_identify_hash(id, "transform", nbi_transform_hash(NBI_HASH_START, &s->transform));
    t->n_source = id->n;
    nbi_identify_number(id, "epochs", t->settings->epochs);
    nbi_identify_number(id, "learning_rate", t->settings->lr);
    nbi_identify_number(id, "label_smoothing", t->settings->smoothing);
    nbi_identify_number(id, "batch", (double)batch);
    nbi_identify_number(id, "seed", (double)nb_ctx_seed(s->ctx));
    nbi_identify(id, "teacher", t->meta->qat->teacher >= 0 ? "yes" : "no");
    nbi_identify(id, "data", d->path);
    nbi_identify_number(id, "images", (double)s->info.count[NBI_SPLIT_TRAIN]);
    nbi_identify_number(id, "val_seed", d->val_seed < 0 ? (double)nb_ctx_seed(s->ctx) : d->val_seed);
    nbi_identify_number(id, "calib", (double)s->calib);
    nbi_identify(id, "range", s->o->range);
}

/* ---- training -------------------------------------------------------------------------------- */

static nb_status more_inputs(nb_ctx *ctx, void *user, const nbi_batch *batch, const void **inputs) {
    training *t = user;
    int n = 0;
    if (t->teacher.exec) NB_TRY(nbi_teacher_ask(ctx, &t->teacher, batch->x, &inputs[n++]));
    inputs[n] = t->meta->input;
    return NB_OK;
}

static nb_status draw_policy(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    (void)ctx;
    (void)steps;
    nbi_meta_draw(((training *)user)->meta, step);
    return NB_OK;
}

static void note_loss(nb_ctx *ctx, void *user, double loss) {
    (void)ctx;
    nbi_meta_note_loss(((training *)user)->meta, loss);
}

static void tell(nb_ctx *ctx, void *user, const nbi_epoch_line *line) {
    training *t = user;
    const nbi_meta_options *o = &t->meta->o;
    double loss[NBI_META_CHOICES];
    char text[320] = "";
    json_t *widths = json_object();
    nbi_meta_losses(t->meta, loss);
    for (int k = 0; k < o->n_weights; k++) {
        size_t used = strlen(text);
        char name[NBI_CHOICE_TEXT];
        if (!isfinite(loss[k])) continue;
        nbi_choice_text(o->weights[k], name);
        snprintf(text + used, sizeof text - used, ", %s%s %.4f", name,
                 nbi_choice_scheme(o->weights[k]) ? "" : " bits", loss[k]);
        json_object_set_new(widths, name, json_real(loss[k]));
    }
    nb_log(ctx, NB_LOG_INFO, "metaquantnet: epoch %d of %d: loss %.4f%s; %.0f s, %.0f s left",
           line->epoch, line->epochs, line->loss, text, line->seconds, line->left);
    json_t *row = json_pack("{s:i,s:f,s:f}", "epoch", line->epoch, "loss", line->loss, "seconds",
                            line->seconds);
    json_object_set_new(row, "by_width", widths);
    json_array_append_new(t->epochs, row);
}

static nb_status new_meta(training *t, size_t batch) {
    nbi_session *s = t->s;
    nbi_meta_options o = {.kind = t->settings->kind,
                          .context = t->settings->context,
                          .hidden = t->settings->hidden,
                          .fixed = s->fixed,
                          .seed = nb_ctx_seed(s->ctx),
                          .qat = nbi_session_qat_options(s, batch)};
    _Static_assert(NBI_META_CHOICES >= NBI_MAX_OFFER, "whatever is offered has room");
    memcpy(o.weights, s->weights.choice, sizeof s->weights.choice);
    memcpy(o.activations, s->activations.choice, sizeof s->activations.choice);
    o.n_weights = s->weights.n;
    o.n_activations = s->activations.n;
    return nbi_meta_new(s->ctx, s->compared, s->net, s->edge, &o, &t->meta);
}

static nb_status set_up(training *t, size_t batch) {
    nbi_session *s = t->s;
    const nbi_meta *m = t->meta;
    const nbi_qat *q = m->qat;
    nbi_batches_spec spec = {.data = s->data,
                             .split = NBI_SPLIT_TRAIN,
                             .batch = batch,
                             .classes = (size_t)m->o.qat.classes,
                             .transform = s->transform,
                             .smoothing = t->settings->smoothing,
                             .seed = nb_ctx_seed(s->ctx)};
    NB_TRY(nbi_augmentation_parse(s->ctx, NULL, &s->info, &spec.augment));
    NB_TRY(nbi_batches_new(s->ctx, &spec, &t->batches));
    if (q->teacher >= 0) NB_TRY(nbi_session_teacher(s, batch, &t->teacher));
    NB_TRY(nbi_alloc(s->ctx, (size_t)m->n_params, sizeof *t->param, &t->param));
    for (int i = 0; i < m->n_params; i++) {
        t->param[i] = m->param[i];
        t->param[i].decay *= WEIGHT_DECAY;
    }
    return NB_OK;
}

static nb_status train(training *t, const char *checkpoint, nbi_loop_result *r) {
    nbi_session *s = t->s;
    const nbi_qat *q = t->meta->qat;
    const nbi_meta_settings *o = t->settings;
    int loss[2];
    float weight[2];
    int n = nbi_qat_losses(q, loss, weight);
    nbi_loop_spec spec = {.graph = q->graph,
                          .n_params = t->meta->n_params,
                          .param = t->param,
                          .n_losses = n,
                          .loss = loss,
                          .weight = weight,
                          .n_states = q->n_states,
                          .state = q->state,
                          .batches = t->batches,
                          .epochs = o->epochs,
                          .optimizer = nbi_optimizer_options_default(),
                          .schedule = {.kind = NBI_LR_COSINE, .lr = o->lr},
                          .seed = nb_ctx_seed(s->ctx),
                          .user = t,
                          .step_user = t,
                          .more = more_inputs,
                          .begin = draw_policy,
                          .stepped = note_loss,
                          .line = tell,
                          .checkpoint = checkpoint,
                          .resume = s->o->resume,
                          .identity = t->identity.pair,
                          .n_identity = t->identity.n};
    if (isfinite(o->deadline)) spec.time_limit = fmax(o->deadline - nb_seconds(s->ctx), 1e-3);
    nb_log(s->ctx, NB_LOG_INFO, "metaquantnet: training %d epoch%s on %zu images", o->epochs,
           o->epochs == 1 ? "" : "s", s->info.count[NBI_SPLIT_TRAIN]);
    return nbi_loop_run(s->ctx, &spec, r);
}

static void stop(training *t) {
    nbi_batches_free(t->batches);
    nbi_teacher_stop(&t->teacher);
    nbi_free(t->param);
    nbi_meta_free(t->meta); /* NULL where it has been handed over */
    json_decref(t->epochs);
}

/* ---- from a file, or from training ------------------------------------------------------------ */

/* *found: the values are in place. A kept one of another network or training is left alone. */
static nb_status from_file(training *t, const nbi_hyper_files *f, bool *found) {
    nb_ctx *ctx = t->s->ctx;
    *found = false;
    if (f->given) {
        NB_TRY(nbi_meta_read(ctx, t->meta, f->given, t->n_source, t->identity.pair));
        *found = true;
        return NB_OK;
    }
    if (f->anew || !f->kept || !nbi_file_exists(f->kept)) return NB_OK;
    nb_status st = nbi_meta_read(ctx, t->meta, f->kept, t->identity.n, t->identity.pair);
    *found = st == NB_OK;
    if (st == NB_OK) nb_log(ctx, NB_LOG_INFO, "metaquantnet: trained already, '%s'", f->kept);
    if (st != NB_EINVAL) return st;
    nb_log(ctx, NB_LOG_INFO, "metaquantnet: trained anew: %s", nb_ctx_message(ctx));
    return NB_OK;
}

/* What was stopped is written, too, but under another number of epochs: it is read only where it is
 * asked for by name. */
static nb_status keep(training *t, const nbi_hyper_files *f, const nbi_loop_result *r) {
    if (!f->kept) return NB_OK;
    for (int i = 0; i < t->identity.n && r->stopped; i++)
        if (!strcmp(t->identity.pair[i].key, "epochs"))
            snprintf(t->identity.text[i], NBI_IDENTITY_TEXT, "%d of %d", r->epochs, t->settings->epochs);
    NB_TRY(nbi_meta_write(t->s->ctx, t->meta, f->kept, t->identity.n, t->identity.pair));
    if (!r->stopped && f->checkpoint) remove(f->checkpoint); /* its work is done */
    return NB_OK;
}

static json_t *about_of(training *t, const nbi_hyper_files *f, const nbi_loop_result *r) {
    static const char *const kinds[] = {"generated", "shared", "tables"};
    json_t *o = json_pack("{s:s,s:i,s:i}", "weights", kinds[t->settings->kind], "context",
                          t->settings->context, "hidden", t->settings->hidden);
    if (f->given || f->kept)
        json_object_set_new(o, "file", nbi_json_string(f->given ? f->given : f->kept));
    if (r) {
        json_object_set_new(o, "epochs", json_integer(r->epochs));
        json_object_set_new(o, "stopped", json_boolean(r->stopped));
        json_object_set_new(o, "seconds", json_real(r->seconds));
        json_object_set_new(o, "images_per_second", json_real(r->images_per_second));
        json_object_set(o, "lines", t->epochs);
    }
    return o;
}

nb_status nbi_hyper_ready(nbi_session *s, const nbi_meta_settings *settings,
                          const nbi_hyper_files *files, nbi_meta **out, json_t **about) {
    training t = {.s = s, .settings = settings, .epochs = json_array()};
    nbi_loop_result r = {0};
    size_t batch = nbi_session_batch(s);
    bool found = false;
    nb_status st;
    NB_TRYG(new_meta(&t, batch));
    set_identity(&t, batch);
    NB_TRYG(from_file(&t, files, &found));
    if (!found) {
        NB_TRYG(set_up(&t, batch));
        NB_TRYG(train(&t, files->checkpoint, &r));
        nbi_meta_changed(t.meta);
        NB_TRYG(keep(&t, files, &r));
    }
    if (about) *about = about_of(&t, files, found ? NULL : &r);
    *out = t.meta;
    t.meta = NULL;
done:
    stop(&t);
    return st == NB_OK ? NB_OK : nb_fail_prefix(s->ctx, st, "metaquantnet");
}

/* ---- in a session ----------------------------------------------------------------------------- */

static nb_status generated(nb_ctx *ctx, void *user, int layer, const nbi_choice *bits,
                           nbi_coded_weights *out) {
    return nbi_meta_levels(ctx, user, layer, bits, out);
}

static uint64_t salt_of(const nbi_meta *m) {
    uint64_t h = NBI_HASH_START;
    for (int i = 0; i < m->n_params + m->qat->n_states; i++) {
        int t = i < m->n_params ? m->param[i].tensor : m->qat->state[i - m->n_params].to;
        const nbi_tensor *x = m->qat->graph->tensor[t];
        h = nbi_hash(h, x->data, (size_t)nbi_tensor_count(x) * sizeof(float));
    }
    return h;
}

nb_status nbi_hyper_use(nbi_session *s, bool use) {
    nbi_scorer *scorer;
    nbi_scorer_options o = nbi_session_scorer_options(s);
    if (use) NB_TRY(nbi_meta_install(s->ctx, s->meta, NULL));
    else nbi_meta_uninstall(s->meta);
    s->generated = use;
    NB_TRY(nbi_scorer_new(s->ctx, s->net, &o, &scorer));
    if (use)
        nbi_scorer_set_weights(scorer, generated, s->meta,
                               s->meta->o.kind == NBI_META_HYPER && s->meta->o.context != 1);
    nb_status st = s->team ? nbi_scorer_set_team(s->ctx, scorer, s->team, s->net) : NB_OK;
    if (st != NB_OK) {
        nbi_scorer_free(scorer);
        return st;
    }
    nbi_scorer_free(s->scorer);
    s->scorer = scorer;
    nbi_netproblem_set_scorer(s->np, scorer);
    return NB_OK;
}

nb_status nbi_hyper_install(nb_ctx *ctx, void *user, const nbi_meta_settings *settings) {
    nbi_session *s = user;
    nbi_arena texts = {0};
    nb_status st = NB_OK;
    if (s->meta) return NB_OK; /* of an earlier search of the same job: one text names both */
    const char *keys = strchr(s->o->search, ':');
    nbi_hyper_files f = {.given = nbi_options_text(&texts, keys ? keys + 1 : NULL, "meta")};
    if (s->o->output) {
        f.kept = nbi_arena_format(&texts, "%s/meta.onnx", s->o->output);
        f.checkpoint = nbi_arena_format(&texts, "%s/meta.npz", s->o->output);
        if (!f.kept || !f.checkpoint) st = nb_fail_memory(ctx, 64);
    }
    if (st == NB_OK) st = nbi_hyper_ready(s, settings, &f, &s->meta, &s->about_meta);
    nbi_arena_free(&texts);
    NB_TRY(st);
    NB_TRY(nbi_hyper_use(s, true));
    nbi_free(s->delta);
    s->delta = NULL;
    return nbi_session_begin_study(s, salt_of(s->meta)); /* scores of before are another one */
}
