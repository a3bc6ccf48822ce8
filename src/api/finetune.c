/* Fine-tuning the chosen policy: quantization-aware training on the training split, judged after
 * every epoch by the integer program on validation images. The best epoch is delivered, if it is
 * better than what there was before. */
#include "api/finished.h"
#include "api/teacher.h"

#include "exec/exec.h"
#include "hyper/metaquantnet.h"
#include "quant/dampen.h"
#include "quant/learned_start.h"
#include "quant/reestimate.h"
#include "quant/trained.h"
#include "runtime/lower.h"
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
#define START_BATCHES 16 /* for the statistics that training starts with */
#define CLOSE 85.0       /* % of images with the float network's class: rounding is worth keeping */
#define RESTATE_EPOCH ((uint64_t)1 << 40) /* a draw of images that no epoch has */

typedef struct tuning {
    nbi_session *s;
    nbi_outcome *outcome;
    nbi_qat *qat, *simulated;
    nbi_batches *batches;
    nbi_teacher teacher;
    nbi_tape *tape;       /* of the simulated network */
    float *input;
    nbi_images judges;
    float *reference; /* float outputs on them, once asked for */
    size_t reference_count;
    nbi_metrics deployed, sim;
    json_t *epochs;
    nbi_tuned_info from; /* id: a name of nbi_tune_start, or of the file of trained values */
    double before;       /* merit of what there was; NAN: it does not count */
} tuning;

size_t nbi_session_batch(const nbi_session *s) {
    size_t batch = s->o->batch > 0 ? (size_t)s->o->batch : BATCH;
    size_t have = s->info.count[NBI_SPLIT_TRAIN];
    return have < batch ? have : batch;
}

nbi_qat_options nbi_session_qat_options(const nbi_session *s, size_t batch) {
    return (nbi_qat_options){.batch = (int64_t)batch,
                             .per_channel = s->per_channel,
                             .classes = s->labelled ? s->info.classes : 0,
                             .distill = s->o->distill || !s->labelled,
                             .mean_squared = !s->labelled && s->loss == NBI_LOSS_MSE,
                             .temperature = s->labelled ? TEMPERATURE : 1};
}

static nb_status ask_teacher(nb_ctx *ctx, void *user, const nbi_batch *batch, const void **inputs) {
    tuning *t = user;
    return t->teacher.graph ? nbi_teacher_ask(ctx, &t->teacher, batch->x, inputs) : NB_OK;
}

/* ---- judging --------------------------------------------------------------------------------- */

/* The simulated network on the judges: a tape without losses, images in whole batches. */
static nb_status simulate(tuning *t, size_t batch, float *values, size_t count) {
    nbi_session *s = t->s;
    nbi_qat_copy(t->simulated, t->qat);
    for (size_t first = 0; first < t->judges.n; first += batch) {
        size_t n = t->judges.n - first < batch ? t->judges.n - first : batch;
        nbi_view v;
        nbi_images_fill(&t->judges, &s->transform, first, n, t->input);
        NB_TRY(nbi_tape_forward(s->ctx, t->tape, (const void *const[]){t->input}, 0));
        NB_TRY(nbi_tape_value(s->ctx, t->tape, t->simulated->logits, &v));
        nbi_view to = v;
        to.dim[0] = v.dim[0] = (int64_t)n;
        to.data = values + first * count;
        nbi_view_contiguous(&to);
        nbi_view_copy(&to, &v);
    }
    return NB_OK;
}

static nb_status deploy(tuning *t, nbi_frozen **frozen, nbi_program **program) {
    nb_ctx *ctx = t->s->ctx;
    NB_TRY(nbi_qat_freeze(ctx, t->qat, frozen));
    NB_TRY(nbi_frozen_fold(ctx, *frozen));
    return nbi_lower(ctx, *frozen, program);
}

/* Rows of scores become what the Softmax behind them makes of them. */
static void softmax(float *values, size_t n, size_t width) {
    for (float *x = values; x < values + n * width; x += width) {
        double most = (double)x[nbi_argmax(x, width)], sum = 0;
        for (size_t i = 0; i < width; i++) sum += exp((double)x[i] - most);
        for (size_t i = 0; i < width; i++) x[i] = (float)(exp((double)x[i] - most) / sum);
    }
}

/* The simulation against the float network, but for the agreement, which is with the program. */
static nb_status measure_simulation(tuning *t, const float *deployed, const float *reference,
                                    size_t count) {
    const nbi_session *s = t->s;
    const int *label = s->labelled ? t->judges.label : NULL;
    bool probability = s->edge != s->net->output[0];
    const nbi_tensor *logits = t->simulated->graph->tensor[t->simulated->logits];
    size_t batch = (size_t)logits->dim[0], width = (size_t)nbi_tensor_count(logits) / batch;
    float *values = NULL;
    nbi_metrics both;
    nb_status st;
    if (width != count)
        return nb_fail(s->ctx, NB_EFORMAT, "the networks have outputs of two sizes");
    NB_TRY(nbi_alloc(s->ctx, t->judges.n * width, sizeof *values, &values));
    NB_TRYG(simulate(t, batch, values, width));
    if (probability) softmax(values, t->judges.n, width);
    nbi_measure(values, deployed, label, t->judges.n, width, probability, &both);
    nbi_measure(values, reference, label, t->judges.n, width, probability, &t->sim);
    t->sim.agreement = both.agreement;
done:
    nbi_free(values);
    return st;
}

static double merit(const nbi_session *s, const nbi_metrics *m) {
    return s->labelled ? m->top1 : s->loss == NBI_LOSS_KL ? -m->kl : -m->mse;
}

/* What the integer program says decides; the simulation, where wanted, runs on the same images. */
static nb_status judge(tuning *t, const nbi_program *program, bool simulation, double *metric) {
    nbi_session *s = t->s;
    nb_ctx *ctx = s->ctx;
    float *deployed = NULL;
    size_t count = 0;
    nb_status st;
    const int *label = s->labelled ? t->judges.label : NULL;
    bool probability = s->edge != s->net->output[0];
    NB_TRYG(nbi_eval_integer(ctx, program, &t->judges, &s->transform, &deployed, &count, NULL));
    if (!t->reference) /* the same in every epoch */
        NB_TRYG(nbi_eval_float(ctx, s->compared, &t->judges, &s->transform, &t->reference,
                               &t->reference_count, NULL));
    if (count != t->reference_count) st = nb_fail(ctx, NB_EFORMAT, "the networks have outputs of two sizes");
    if (st != NB_OK) goto done;
    nbi_measure(deployed, t->reference, label, t->judges.n, count, probability, &t->deployed);
    if (simulation) NB_TRYG(measure_simulation(t, deployed, t->reference, count));
    *metric = merit(s, &t->deployed);
done:
    nbi_free(deployed);
    return st;
}

/* A network that has run away may have no integer form: that is divergence, too. */
static nb_status evaluate(nb_ctx *ctx, void *user, double *metric) {
    tuning *t = user;
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    nb_status st = deploy(t, &frozen, &program);
    if (st == NB_EINVAL || st == NB_EUNSUPPORTED)
        st = nb_fail_prefix(ctx, NB_ENUMERIC, "what was trained has no integer form (a smaller "
                            "learning rate may help)");
    if (st == NB_OK) st = judge(t, program, true, metric);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    return st;
}

static const char *merit_name(const nbi_session *s) {
    return s->labelled ? "top-1" : s->loss == NBI_LOSS_KL ? "kl" : "mse";
}

static const char *const starts[] = {"auto", "search", "rounded", "float", "random"};

static const char *start_text(const tuning *t) {
    static const char *const texts[] = {"", "the weights that the search trained",
                                        "the weights of learned rounding", "the float weights",
                                        "random weights"};
    for (size_t i = 0; i < NBI_COUNT(starts); i++)
        if (!strcmp(t->from.id, starts[i]) && !t->s->further.tuned) return texts[i];
    return "what was trained before";
}

/* What fine-tuning has to beat: trained values as they are, or the policy as the search left it. */
static nb_status judge_before(tuning *t, const nbi_choice *bits) {
    nbi_session *s = t->s;
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    if (s->further.fresh || isfinite(t->before)) return NB_OK;
    nb_status st = s->further.tuned ? deploy(t, &frozen, &program)
                                    : nbi_session_freeze(s, bits, &frozen, &program);
    if (st == NB_OK) st = judge(t, program, false, &t->before);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    return st;
}

static void tell(nb_ctx *ctx, void *user, const nbi_epoch_line *line) {
    tuning *t = user;
    double deployed = fabs(merit(t->s, &t->deployed)), sim = fabs(merit(t->s, &t->sim));
    nb_log(ctx, NB_LOG_INFO,
           "epoch %d of %d: loss %.4f, validation %s %.4g deployed, %.4g simulated (same class "
           "%.2f %%), %.0f s, %.0f s left%s",
           line->epoch, line->epochs, line->loss, merit_name(t->s), deployed, sim, t->sim.agreement,
           line->seconds, line->left, line->improved ? ", best" : "");
    json_array_append_new(t->epochs,
                          json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:f}", "epoch", line->epoch, "loss",
                                    line->loss, "deployed", deployed, "simulated", sim, "agreement",
                                    t->sim.agreement, "learning_rate", line->lr, "seconds",
                                    line->seconds));
}

/* ---- all ------------------------------------------------------------------------------------- */

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
static nb_status build(tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
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

static nb_status restate_start(tuning *t, nbi_qat *q) {
    return nbi_qat_reestimate(t->s->ctx, q, t->batches, RESTATE_EPOCH, START_BATCHES);
}

/* The values of a start into the graph that was built for it. */
static nb_status fill_start(tuning *t, nbi_tune_start start, nbi_qat *q) {
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

static nb_status make_start(tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                            nbi_tune_start start, nbi_qat **out) {
    NB_TRY(build(t, bits, o, start, out));
    return fill_start(t, start, *out);
}

static nb_status merit_of_start(tuning *t, nbi_qat *q, double *out) {
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    t->qat = q;
    nb_status st = deploy(t, &frozen, &program);
    if (st == NB_OK) st = judge(t, program, false, out);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    t->qat = NULL;
    return st;
}

/* The better one of what the search trained and what rounding learned. */
static nb_status better_start(tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
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
               "%.4g with learned rounding", merit_name(t->s), fabs(merit[0]), fabs(merit[1]));
        t->qat = q[best];
        q[best] = NULL;
    }
    nbi_qat_free(q[0]);
    nbi_qat_free(q[1]);
    return st;
}

/* Where learned rounding stays close to the float network, a few epochs from there reach more; where
 * it does not, more from the float weights (docs/quantization.md has figures). */
static nb_status is_close(tuning *t, const nbi_choice *bits, bool *close) {
    NB_TRY(judge_before(t, bits));
    *close = t->s->loss == NBI_LOSS_MSE || t->deployed.agreement >= CLOSE;
    return NB_OK;
}

/* t->qat with the values that training starts from. An unfinished fine-tuning that is gone on with
 * started from what its best epoch has replaced since; its checkpoint knows everything else. */
static nb_status set_start(tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
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

/* A further fine-tuning sees the images in another order than the one before. */
static uint64_t seed_of(const tuning *t) {
    const nbi_session *s = t->s;
    uint64_t seed = nb_ctx_seed(s->ctx);
    if (!s->further.on) return seed;
    seed = nbi_hash(NBI_HASH_START, &seed, sizeof seed);
    seed = nbi_hash(seed, &s->further.seed, sizeof s->further.seed);
    return nbi_hash(seed, t->from.id, strlen(t->from.id));
}

static nb_status start(tuning *t, const nbi_choice *bits, size_t batch) {
    nbi_session *s = t->s;
    nbi_qat_options o = nbi_session_qat_options(s, batch);
    nbi_batches_spec spec = {.data = s->data,
                             .split = NBI_SPLIT_TRAIN,
                             .batch = batch,
                             .classes = (size_t)o.classes,
                             .transform = s->transform};
    nbi_split split = s->info.count[NBI_SPLIT_VAL] ? NBI_SPLIT_VAL : NBI_SPLIT_TRAIN;
    size_t most = s->info.count[split] < JUDGE_IMAGES ? 0 : JUDGE_IMAGES;
    nbi_draw draw = {.split = split, .count = most, .seed = nb_ctx_seed(s->ctx)};
    nbi_tune_start from;
    NB_TRY(nbi_images_draw(s->ctx, s->data, &draw, &t->judges));
    NB_TRY(nbi_augmentation_parse(s->ctx, s->o->descent.augment, &s->info, &spec.augment));
    NB_TRY(nbi_batches_new(s->ctx, &spec, &t->batches));
    NB_TRY(set_start(t, bits, &o, &from));
    spec.seed = seed_of(t);
    nbi_batches_free(t->batches);
    t->batches = NULL;
    NB_TRY(nbi_batches_new(s->ctx, &spec, &t->batches));
    o.evaluate = true;
    NB_TRY(build(t, bits, &o, from, &t->simulated));
    nbi_tape_spec forward = {0};
    NB_TRY(nbi_tape_new(s->ctx, t->simulated->graph, &forward, &t->tape));
    if (t->qat->teacher >= 0)
        NB_TRY(nbi_teacher_start(s->ctx, s->compared, s->net->edge[s->edge].name, (int64_t)batch,
                                 &t->teacher));
    const nbi_tensor *x = t->qat->graph->tensor[t->qat->x];
    return nbi_alloc(s->ctx, (size_t)nbi_tensor_count(x), sizeof(float), &t->input);
}

static void stop(tuning *t) {
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

enum { IDENTITY = 9 };
/* What the trajectory depends on beside the loop's own settings. */
static int identify(const tuning *t, double decay, char text[IDENTITY][40],
                    nbi_pair identity[IDENTITY]) {
    const nbi_session *s = t->s;
    int n = 0;
    nbi_hash_text(nbi_graph_hash(s->source), text[0]);
    nbi_hash_text(nbi_policy_hash(s, t->qat->bits), text[1]);
    snprintf(text[2], sizeof text[2], "%.9g", decay);
    snprintf(text[3], sizeof text[3], "%zu", s->info.count[NBI_SPLIT_TRAIN]);
    snprintf(text[4], sizeof text[4], "%.9g", s->o->descent.dampen);
    identity[n++] = (nbi_pair){"model", text[0]};
    identity[n++] = (nbi_pair){"policy", text[1]};
    identity[n++] = (nbi_pair){"start", t->from.id};
    identity[n++] = (nbi_pair){"data", s->o->data.path};
    identity[n++] = (nbi_pair){"training images", text[3]};
    identity[n++] = (nbi_pair){"teacher", t->qat->teacher >= 0 ? "yes" : "no"};
    identity[n++] = (nbi_pair){"weight decay", text[2]};
    identity[n++] = (nbi_pair){"dampening", text[4]};
    identity[n++] =
        (nbi_pair){"augment", s->o->descent.augment ? s->o->descent.augment : "default"};
    return n;
}

static nb_status run_loop(tuning *t, const char *checkpoint, nbi_loop_result *r) {
    nbi_session *s = t->s;
    nbi_qat *q = t->qat;
    nbi_loop_param *param = NULL;
    nbi_dampen *dampen = NULL;
    int loss[2];
    float weight[2];
    double decay;
    char text[IDENTITY][40];
    nbi_pair identity[IDENTITY];
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
                          .evaluate = evaluate,
                          .line = tell,
                          .checkpoint = checkpoint,
                          .resume = s->o->resume,
                          .identity = identity};
    NB_TRY(set_descent(s, &spec, &decay));
    spec.n_identity = identify(t, decay, text, identity);
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

static nb_status describe(tuning *t, const nbi_loop_result *r, bool better,
                          nbi_tuning_result *out) {
    bool file = t->s->further.tuned != NULL;
    for (size_t i = 0; i < NBI_COUNT(starts); i++) file &= strcmp(t->from.id, starts[i]) != 0;
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

/* Statistics over many batches in place of the running ones, where that is better: after few steps
 * those still know the start (docs/accuracy.md has what it is worth). */
static nb_status restate(tuning *t, nbi_loop_result *r, bool *restated) {
    nb_ctx *ctx = t->s->ctx;
    float *old = NULL;
    double metric;
    nb_status st;
    NB_TRYG(nbi_qat_statistics_keep(ctx, t->qat, &old));
    NB_TRYG(nbi_qat_reestimate(ctx, t->qat, t->batches, RESTATE_EPOCH, RESTATE_BATCHES));
    NB_TRYG(evaluate(ctx, t, &metric));
    *restated = metric > r->best;
    nb_log(ctx, NB_LOG_INFO, "statistics over many batches: validation %s %.4g deployed%s",
           merit_name(t->s), fabs(metric), *restated ? ", better" : "");
    if (*restated) r->best = metric;
    else nbi_qat_statistics_restore(t->qat, old);
done:
    nbi_free(old);
    return st;
}

/* s->tuned: the best epoch, or the trained values of before. */
static nb_status train(tuning *t, const char *checkpoint, const nbi_choice *bits,
                       nbi_tuning_result *out) {
    nbi_session *s = t->s;
    nbi_loop_result r;
    nbi_tuned_info info;
    NB_TRY(run_loop(t, checkpoint, &r));
    bool restated = false;
    if (r.best_epoch > 0 && !r.stopped) NB_TRY(restate(t, &r, &restated));
    bool better = r.best_epoch > 0 && !(r.best <= t->before);
    out->nothing = r.best_epoch == 0;
    if (!r.stopped) remove(checkpoint); /* its work is done */
    if (out->nothing)
        nb_log(s->ctx, NB_LOG_WARNING,
               "fine-tuning was stopped before its first epoch was finished: the policy is "
               "delivered without it; --resume goes on from '%s'",
               checkpoint);
    else if (!better)
        nb_log(s->ctx, NB_LOG_WARNING, "no epoch is better than what there was before: that is "
               "delivered");
    NB_TRY(describe(t, &r, better, out));
    json_object_set_new(out->lines, "statistics_restated", json_boolean(better && restated));
    if (!better && s->further.tuned)
        NB_TRY(nbi_tuned_load(s, s->further.tuned, bits, t->qat, &info));
    if (better || s->further.tuned) {
        s->tuned = t->qat;
        t->qat = NULL;
    }
    return NB_OK;
}

nb_status nbi_finetune_check(nbi_session *s) {
    nbi_qat_options o = nbi_session_qat_options(s, nbi_session_batch(s));
    nbi_qat *q = NULL;
    nbi_tape *tape = NULL;
    nbi_choice *bits = NULL;
    nb_status st;
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
    tuning t = {.s = s, .epochs = json_array(), .before = NAN};
    nbi_buf path = {0};
    nb_status st = nbi_buf_printf(s->ctx, &path, "%s/finetune.npz", s->folder);
    if (st == NB_OK) st = start(&t, bits, nbi_session_batch(s));
    if (st == NB_OK) st = judge_before(&t, bits);
    if (st == NB_OK && isfinite(t.before))
        nb_log(s->ctx, NB_LOG_INFO, "before fine-tuning: validation %s %.4g deployed; it starts from %s",
               merit_name(s), fabs(t.before), start_text(&t));
    if (st == NB_OK) st = train(&t, path.data, bits, result);
    stop(&t);
    json_decref(t.epochs);
    nbi_buf_free(&path);
    return st;
}
