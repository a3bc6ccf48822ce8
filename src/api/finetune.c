/* Fine-tuning the chosen policy: quantization-aware training on the training split, judged after
 * every epoch by the integer program on validation images. The best epoch is delivered, if it is
 * better than what there was before. */
#include "api/identity.h"
#include "api/tuning.h"

#include "quant/dampen.h"
#include "quant/reestimate.h"
#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BATCH         128
#define LEARNING_RATE 0.01
#define ADAM_RATE     0.001
#define JUDGE_IMAGES  5000
#define TEMPERATURE   4.0f
#define RESTATE_BATCHES 64

size_t nbi_session_batch(const nbi_session *s) {
    size_t batch = s->o->batch > 0 ? (size_t)s->o->batch : BATCH;
    size_t have = s->info.count[NBI_SPLIT_TRAIN];
    return have < batch ? have : batch;
}

bool nbi_session_teaches_all(const nbi_session *s) {
    return s->net->n_untouched > 0 && s->net->n_outputs > 1;
}

nb_status nbi_session_teacher(const nbi_session *s, size_t batch, nbi_teacher *teacher) {
    int list[NBI_COUNT(s->net->output)];
    const char *name[NBI_COUNT(list)];
    const int n = nbi_qat_taught(s->net, s->edge, nbi_session_teaches_all(s), list);
    for (int i = 0; i < n; i++) name[i] = s->net->edge[list[i]].name;
    return nbi_teacher_start(s->ctx, s->compared, n, name, (int64_t)batch, teacher);
}

nbi_qat_options nbi_session_qat_options(const nbi_session *s, size_t batch) {
    return (nbi_qat_options){.batch = (int64_t)batch,
                             .per_channel = s->per_channel,
                             .classes = s->labelled ? s->info.classes : 0,
                             .distill = s->o->distill || !s->labelled,
                             .mean_squared = !s->labelled && s->loss == NBI_LOSS_MSE,
                             .all_outputs = nbi_session_teaches_all(s),
                             .temperature = s->labelled ? TEMPERATURE : 1};
}

static nb_status ask_teacher(nb_ctx *ctx, void *user, const nbi_batch *batch, const void **inputs) {
    nbi_tuning *t = user;
    return t->teacher.graph ? nbi_teacher_ask(ctx, &t->teacher, batch->x, inputs) : NB_OK;
}

static void tell(nb_ctx *ctx, void *user, const nbi_epoch_line *line) {
    nbi_tuning *t = user;
    const double merit = nbi_tuning_merit(t->s, &t->deployed), deployed = fabs(merit);
    const double sim = fabs(nbi_tuning_merit(t->s, &t->sim));
    const bool best = line->improved && !(merit <= t->before);
    nb_log(ctx, NB_LOG_INFO,
           "epoch %d of %d: loss %.4f, validation %s %.4g deployed, %.4g simulated (same class "
           "%.2f %%), %.0f s, %.0f s left%s",
           line->epoch, line->epochs, line->loss, nbi_tuning_merit_name(t->s), deployed, sim, t->sim.agreement,
           line->seconds, line->left, best ? ", best" : "");
    json_array_append_new(t->epochs,
                          json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:f}", "epoch", line->epoch, "loss",
                                    line->loss, "deployed", deployed, "simulated", sim, "agreement",
                                    t->sim.agreement, "learning_rate", line->lr, "seconds",
                                    line->seconds));
}

/* ---- all ------------------------------------------------------------------------------------- */

/* A further fine-tuning sees the images in another order than the one before. */
static uint64_t seed_of(const nbi_tuning *t) {
    const nbi_session *s = t->s;
    uint64_t seed = nb_ctx_seed(s->ctx);
    if (!s->further.on) return seed;
    seed = nbi_hash(NBI_HASH_START, &seed, sizeof seed);
    seed = nbi_hash(seed, &s->further.seed, sizeof s->further.seed);
    return nbi_hash(seed, t->from.id, strlen(t->from.id));
}

static nb_status make_batches(const nbi_session *s, const nbi_qat_options *o, uint64_t seed,
                              nbi_batches **out) {
    nbi_batches_spec spec = {.data = s->data,
                             .split = NBI_SPLIT_TRAIN,
                             .batch = (size_t)o->batch,
                             .classes = (size_t)o->classes,
                             .transform = s->transform,
                             .seed = seed};
    NB_TRY(nbi_augmentation_parse(s->ctx, s->o->descent.augment, &s->info, &spec.augment));
    return nbi_batches_new(s->ctx, &spec, out);
}

static nb_status start(nbi_tuning *t, const nbi_choice *bits, size_t batch) {
    nbi_session *s = t->s;
    nbi_qat_options o = nbi_session_qat_options(s, batch);
    o.ties = true;
    nbi_split split = s->info.count[NBI_SPLIT_VAL] ? NBI_SPLIT_VAL : NBI_SPLIT_TRAIN;
    size_t most = s->info.count[split] < JUDGE_IMAGES ? 0 : JUDGE_IMAGES;
    nbi_draw draw = {.split = split, .count = most, .seed = nb_ctx_seed(s->ctx)};
    nbi_tune_start from;
    NB_TRY(nbi_images_draw(s->ctx, s->data, &draw, &t->judges));
    NB_TRY(make_batches(s, &o, 0, &t->batches));
    NB_TRY(nbi_tuning_start(t, bits, &o, &from));
    nbi_batches_free(t->batches);
    t->batches = NULL;
    NB_TRY(make_batches(s, &o, seed_of(t), &t->batches));
    o.evaluate = true;
    NB_TRY(nbi_tuning_graph(t, bits, &o, from, &t->simulated));
    nbi_tape_spec forward = {0};
    NB_TRY(nbi_tape_new(s->ctx, t->simulated->graph, &forward, &t->tape));
    if (t->qat->teacher >= 0) NB_TRY(nbi_session_teacher(s, batch, &t->teacher));
    const nbi_tensor *x = t->qat->graph->tensor[t->qat->x];
    return nbi_alloc(s->ctx, (size_t)nbi_tensor_count(x), sizeof(float), &t->input);
}

static void stop(nbi_tuning *t) {
    nbi_images_free(&t->judges);
    nbi_free(t->reference);
    nbi_tape_free(t->tape);
    nbi_teacher_stop(&t->teacher);
    nbi_free(t->input);
    nbi_qat_free(t->simulated);
    nbi_qat_free(t->qat); /* NULL where the session has it now */
    nbi_batches_free(t->batches);
}

/* Rate, optimizer and schedule; *decay of kernels. */
static nb_status set_descent(const nbi_session *s, nbi_loop_spec *spec, double *decay) {
    static const double rates[] = {LEARNING_RATE, ADAM_RATE, ADAM_RATE}, decays[] = {1e-4, 0, 0.01};
    const nb_descent_options *o = &s->o->descent;
    spec->optimizer = nbi_optimizer_options_default();
    if (o->optimizer)
        NB_TRY(nbi_optimizer_parse(s->ctx, o->optimizer, &spec->optimizer.kind));
    spec->schedule.kind = NBI_LR_COSINE;
    if (o->schedule) NB_TRY(nbi_schedule_parse(s->ctx, o->schedule, &spec->schedule.kind));
    int kind = (int)spec->optimizer.kind;
    spec->schedule.lr = s->o->learning_rate > 0 ? s->o->learning_rate : rates[kind];
    spec->optimizer.clip = (float)o->clip;
    spec->warmup = o->warmup;
    spec->ema = (float)o->ema;
    *decay = o->weight_decay >= 0 ? o->weight_decay : decays[kind];
    return NB_OK;
}

/* What the trajectory depends on beside the loop's own settings. */
static void set_identity(const nbi_tuning *t, double decay, nbi_identity *id) {
    const nbi_session *s = t->s;
    const nb_data_options *d = &s->o->data;
    nbi_identify_hash(id, "model", nbi_graph_hash(s->source));
    nbi_identify_hash(id, "policy", nbi_policy_hash(s, t->qat->bits));
    nbi_identify(id, "start", t->from.id);
    nbi_identify(id, "data", d->path);
    nbi_identify_number(id, "training images", (double)s->info.count[NBI_SPLIT_TRAIN]);
    nbi_identify_number(id, "validation seed",
                        d->val_seed < 0 ? (double)nb_ctx_seed(s->ctx) : d->val_seed);
    nbi_identify_hash(id, "transform", nbi_transform_hash(NBI_HASH_START, &s->transform));
    nbi_identify(id, "teacher", t->qat->teacher >= 0 ? "yes" : "no");
    nbi_identify_number(id, "weight decay", decay);
    nbi_identify_number(id, "dampening", s->o->descent.dampen);
    nbi_identify(id, "augment", s->o->descent.augment);
}

/* Running statistics follow weights that jump between levels in every step: an epoch is judged with
 * those of its last weights. Nothing is lost when this is interrupted, as it is done again. */
static nb_status judge_epoch(nb_ctx *ctx, void *user, double *metric) {
    nbi_tuning *t = user;
    NB_TRY(nbi_qat_reestimate(ctx, t->qat, t->batches, NBI_EPOCH_APART, NBI_STATISTICS_BATCHES));
    return nbi_tuning_evaluate(ctx, t, metric);
}

static nb_status run_loop(nbi_tuning *t, const char *checkpoint, nbi_loop_result *r) {
    nbi_session *s = t->s;
    nbi_qat *q = t->qat;
    nbi_loop_param *param = NULL;
    nbi_dampen *dampen = NULL;
    int loss[2];
    float weight[2];
    double decay;
    nbi_identity id = {0};
    nbi_loop_spec spec = {.graph = q->graph,
                          .n_params = q->n_train,
                          .n_losses = nbi_qat_losses(q, loss, weight),
                          .loss = loss,
                          .weight = weight,
                          .n_states = q->n_states,
                          .state = q->state,
                          .batches = t->batches,
                          .epochs = s->o->finetune,
                          .seed = seed_of(t),
                          .time_limit = s->further.time_limit,
                          .user = t,
                          .more = ask_teacher,
                          .evaluate = judge_epoch,
                          .line = tell,
                          .checkpoint = checkpoint,
                          .resume = s->o->resume,
                          .identity = id.pair};
    NB_TRY(set_descent(s, &spec, &decay));
    set_identity(t, decay, &id);
    spec.n_identity = id.n;
    if (s->o->descent.dampen > 0)
        NB_TRY(nbi_dampen_new(s->ctx, q, s->o->descent.dampen, &dampen));
    spec.adjust = dampen ? nbi_dampen_adjust : NULL;
    spec.step_user = dampen;
    nb_status st = nbi_alloc(s->ctx, (size_t)q->n_train + 1, sizeof *param, &param);
    for (int i = 0; st == NB_OK && i < q->n_train; i++)
        param[i] = (nbi_loop_param){
            .tensor = q->train[i], .lr = 1, .decay = q->decays[i] ? (float)decay : 0};
    spec.param = param;
    if (st == NB_OK) st = nbi_loop_run(s->ctx, &spec, r);
    nbi_free(param);
    nbi_dampen_free(dampen);
    return st;
}

static nb_status describe(nbi_tuning *t, const nbi_loop_result *r, bool better,
                          nbi_tuning_result *out) {
    bool file = t->s->further.tuned && !nbi_tuning_is_start(t->from.id);
    out->lines = json_pack(
        "{s:i,s:i,s:f,s:f,s:O,s:s,s:i}", "epochs", r->epochs, "best_epoch",
        better ? r->best_epoch : 0, "seconds", r->seconds, "images_per_second",
        r->images_per_second, "lines", t->epochs, "from", file ? "tuned" : t->from.id,
        "earlier_epochs", t->from.epochs);
    if (!out->lines) return nb_fail_memory(t->s->ctx, 64);
    if (isfinite(t->before))
        json_object_set_new(out->lines, "before", json_real(fabs(t->before)));
    out->epochs = t->from.epochs + (better ? r->best_epoch : 0);
    if (!r->stopped) return NB_OK;
    snprintf(out->origin, sizeof out->origin, "%s", t->from.id);
    out->origin_epochs = t->from.epochs;
    out->origin_merit = t->before;
    return NB_OK;
}

/* Statistics over still more batches, where that is better. */
static nb_status restate(nbi_tuning *t, nbi_loop_result *r, bool *restated) {
    nb_ctx *ctx = t->s->ctx;
    float *old = NULL;
    double metric;
    nb_status st;
    NB_TRYG(nbi_qat_statistics_keep(ctx, t->qat, &old));
    st = nbi_qat_reestimate(ctx, t->qat, t->batches, NBI_EPOCH_APART, RESTATE_BATCHES);
    if (st == NB_OK) st = nbi_tuning_evaluate(ctx, t, &metric);
    if (st == NB_ECANCELLED) { /* the best epoch is delivered as it was judged */
        nbi_qat_statistics_restore(t->qat, old);
        st = NB_OK;
        goto done;
    }
    if (st != NB_OK) goto done;
    *restated = metric > r->best;
    nb_log(ctx, NB_LOG_INFO, "statistics over many batches: validation %s %.4g deployed%s",
           nbi_tuning_merit_name(t->s), fabs(metric), *restated ? ", better" : "");
    if (*restated) r->best = metric;
    else nbi_qat_statistics_restore(t->qat, old);
done:
    nbi_free(old);
    return st;
}

/* The loss of an epoch's training images. */
static double loss_of(const nbi_tuning *t, int epoch) {
    return json_real_value(json_object_get(json_array_get(t->epochs, (size_t)epoch - 1), "loss"));
}

/* Says so where the later half of the epochs fitted the training images alone. */
static void hint(const nbi_tuning *t, const nbi_loop_result *r) {
    const char *augment = t->s->o->descent.augment;
    if (augment && strstr(augment, "mix")) return;
    if (r->epochs < 4 || 2 * r->best_epoch > r->epochs) return;
    if (json_array_size(t->epochs) != (size_t)r->epochs) return; /* gone on with --resume */
    if (loss_of(t, r->epochs) < loss_of(t, r->best_epoch))
        nb_log(t->s->ctx, NB_LOG_INFO, "since epoch %d the loss of the training images falls, and the "
               "validation images gain nothing: --augment with mixup=1 may help", r->best_epoch);
}

/* s->tuned: the best epoch, or the trained values of before. */
static nb_status train(nbi_tuning *t, const char *checkpoint, const nbi_choice *bits,
                       nbi_tuning_result *out) {
    nbi_session *s = t->s;
    nbi_loop_result r;
    nbi_tuned_info info;
    NB_TRY(run_loop(t, checkpoint, &r));
    bool restated = false;
    if (r.best_epoch > 0 && !r.stopped) NB_TRY(restate(t, &r, &restated));
    bool better = r.best_epoch > 0 && !(r.best <= t->before);
    out->nothing = r.best_epoch == 0;
    out->whole = !r.stopped;
    if (out->nothing)
        nb_log(s->ctx, NB_LOG_WARNING,
               "fine-tuning was stopped before its first epoch was finished: the policy is "
               "delivered without it; --resume goes on from '%s'",
               checkpoint);
    else if (!better)
        nb_log(s->ctx, NB_LOG_WARNING, "no epoch is better than what there was before: that is "
               "delivered");
    if (r.best_epoch > 0 && !r.stopped) hint(t, &r);
    NB_TRY(describe(t, &r, better, out));
    json_object_set_new(out->lines, "statistics_restated", json_boolean(better && restated));
    if (better && restated) /* what is delivered then, as a line says it of an epoch */
        json_object_set_new(out->lines, "restated",
                            json_pack("{s:f,s:f,s:f}", "deployed", fabs(nbi_tuning_merit(s, &t->deployed)),
                                      "simulated", fabs(nbi_tuning_merit(s, &t->sim)), "agreement",
                                      t->sim.agreement));
    if (!better && s->further.tuned)
        NB_TRY(nbi_tuned_load(s, s->further.tuned, bits, t->qat, &info));
    if (better || s->further.tuned) {
        s->tuned = t->qat;
        t->qat = NULL;
    }
    return NB_OK;
}

static nb_status checkpoint_of(const nbi_session *s, nbi_buf *path) {
    return nbi_buf_printf(s->ctx, path, "%s/finetune.npz", s->folder);
}

void nbi_finetune_forget(const nbi_session *s, const nbi_tuning_result *result) {
    nbi_buf path = {0};
    if (result->whole && checkpoint_of(s, &path) == NB_OK) remove(path.data);
    nbi_buf_free(&path);
}

static nb_status check_options(const nbi_session *s, const nbi_qat_options *o) {
    nbi_loop_spec spec = {.epochs = s->o->finetune};
    double decay;
    if (s->o->finetune <= 0) return NB_OK; /* a search alone trains */
    NB_TRY(make_batches(s, o, 0, &spec.batches));
    nb_status st = set_descent(s, &spec, &decay);
    if (st == NB_OK) st = nbi_loop_check(s->ctx, &spec);
    nbi_batches_free(spec.batches);
    return st;
}

nb_status nbi_finetune_check(nbi_session *s) {
    nbi_qat_options o = nbi_session_qat_options(s, nbi_session_batch(s));
    nbi_qat *q = NULL;
    nbi_tape *tape = NULL;
    nbi_choice *bits = NULL;
    nb_status st;
    NB_TRYG(check_options(s, &o));
    NB_TRYG(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits));
    nbi_session_uniform(s, 8, 8, bits);
    NB_TRYG(nbi_qat_new(s->ctx, s->compared, s->net, bits, s->edge, &o, &q));
    nbi_tape_spec spec = {.n_wrt = q->n_train,
                          .wrt = q->train,
                          .n_losses = 1,
                          .loss = q->label_loss >= 0 ? &q->label_loss : &q->teacher_loss};
    NB_TRYG(nbi_tape_new(s->ctx, q->graph, &spec, &tape));
done:
    nbi_tape_free(tape);
    nbi_qat_free(q);
    nbi_free(bits);
    return st == NB_OK ? NB_OK : nb_fail_prefix(s->ctx, st, "fine-tuning");
}

nb_status nbi_finetune(nbi_session *s, const nbi_choice *bits, nbi_tuning_result *result) {
    nbi_tuning t = {.s = s, .epochs = json_array(), .before = NAN, .kept = NAN};
    nbi_buf path = {0};
    nb_status st = checkpoint_of(s, &path);
    if (st == NB_OK) st = start(&t, bits, nbi_session_batch(s));
    if (st == NB_OK) st = nbi_tuning_judge_before(&t, bits);
    if (st == NB_OK && isfinite(t.before))
        nb_log(s->ctx, NB_LOG_INFO, "before fine-tuning: validation %s %.4g deployed; it starts from %s",
               nbi_tuning_merit_name(s), fabs(t.before), nbi_tuning_start_text(&t));
    if (st == NB_OK) st = train(&t, path.data, bits, result);
    stop(&t);
    json_decref(t.epochs);
    nbi_buf_free(&path);
    return st;
}
