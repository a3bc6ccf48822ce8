/* Fine-tuning the chosen policy: quantization-aware training on the training split, judged after
 * every epoch by the integer program on validation images; the best epoch is delivered. */
#include "api/session.h"

#include "exec/exec.h"
#include "quant/qat.h"
#include "runtime/lower.h"
#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BATCH         128
#define LEARNING_RATE 0.01
#define WEIGHT_DECAY  1e-4f
#define TEMPERATURE   4.0f
#define TEACHER_SHARE 0.5f /* of the loss, where there are labels, too */
#define JUDGE_IMAGES  2000

typedef struct tuning {
    nbi_session *s;
    nbi_outcome *outcome;
    nbi_qat *qat, *simulated;
    nbi_batches *batches;
    nbi_graph *teacher;
    nbi_exec *teacher_exec;
    nbi_view teacher_out; /* contiguous */
    nbi_tape *tape;       /* of the simulated network */
    float *input;
    nbi_images judges;
    float *reference; /* float outputs on them, once asked for */
    size_t reference_count;
    nbi_metrics deployed, sim;
    json_t *epochs;
} tuning;

/* ---- teacher --------------------------------------------------------------------------------- */

static nb_status start_teacher(tuning *t, int64_t batch) {
    nbi_session *s = t->s;
    const char *name = s->net->edge[s->edge].name;
    NB_TRY(nbi_rebatch(s->ctx, s->compared, batch, &t->teacher));
    int y = nbi_graph_find(t->teacher, name);
    if (y < 0) return nb_fail(s->ctx, NB_EFORMAT, "tensor '%s' vanished", name);
    NB_TRY(nbi_graph_set_outputs(s->ctx, t->teacher, 1, &y));
    NB_TRY(nbi_exec_new(s->ctx, t->teacher, 0, &t->teacher_exec));
    const nbi_tensor *out = t->teacher->tensor[y];
    t->teacher_out = (nbi_view){.dtype = NB_DTYPE_F32, .rank = out->rank};
    memcpy(t->teacher_out.dim, out->dim, sizeof out->dim);
    nbi_view_contiguous(&t->teacher_out);
    return nbi_alloc(s->ctx, (size_t)nbi_tensor_count(out), sizeof(float), &t->teacher_out.data);
}

static nb_status ask_teacher(nb_ctx *ctx, void *user, const nbi_batch *batch, const void **inputs) {
    tuning *t = user;
    nbi_view v;
    if (!t->teacher) return NB_OK;
    NB_TRY(nbi_exec_run(ctx, t->teacher_exec, (const void *const[]){batch->x}));
    NB_TRY(nbi_exec_value(ctx, t->teacher_exec, t->teacher->output[0], &v));
    nbi_view_copy(&t->teacher_out, &v);
    inputs[0] = t->teacher_out.data;
    return NB_OK;
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

/* Both on the same images; what the integer program says decides. */
static nb_status evaluate(nb_ctx *ctx, void *user, double *metric) {
    tuning *t = user;
    nbi_session *s = t->s;
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    float *deployed = NULL;
    size_t count = 0;
    nb_status st;
    const int *label = s->labelled ? t->judges.label : NULL;
    bool probability = s->edge != s->net->output[0];
    NB_TRYG(deploy(t, &frozen, &program));
    NB_TRYG(nbi_eval_integer(ctx, program, &t->judges, &s->transform, &deployed, &count, NULL));
    if (!t->reference) /* the same in every epoch */
        NB_TRYG(nbi_eval_float(ctx, s->compared, &t->judges, &s->transform, &t->reference,
                               &t->reference_count, NULL));
    if (count != t->reference_count) st = nb_fail(ctx, NB_EFORMAT, "the networks have outputs of two sizes");
    if (st != NB_OK) goto done;
    nbi_measure(deployed, t->reference, label, t->judges.n, count, probability, &t->deployed);
    NB_TRYG(measure_simulation(t, deployed, t->reference, count));
    *metric = merit(s, &t->deployed);
done:
    nbi_free(deployed);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    return st;
}

static void tell(nb_ctx *ctx, void *user, const nbi_epoch_line *line) {
    tuning *t = user;
    const char *name = t->s->labelled ? "top-1" : t->s->loss == NBI_LOSS_KL ? "kl" : "mse";
    double deployed = fabs(merit(t->s, &t->deployed)), sim = fabs(merit(t->s, &t->sim));
    nb_log(ctx, NB_LOG_INFO,
           "epoch %d of %d: loss %.4f, validation %s %.4g deployed, %.4g simulated (same class "
           "%.2f %%), %.0f s, %.0f s left%s",
           line->epoch, line->epochs, line->loss, name, deployed, sim, t->sim.agreement,
           line->seconds, line->left, line->improved ? ", best" : "");
    json_array_append_new(t->epochs,
                          json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:f}", "epoch", line->epoch, "loss",
                                    line->loss, "deployed", deployed, "simulated", sim, "agreement",
                                    t->sim.agreement, "learning_rate", line->lr, "seconds",
                                    line->seconds));
}

/* ---- all ------------------------------------------------------------------------------------- */

static size_t batch_of(const nbi_session *s) {
    size_t batch = s->o->batch > 0 ? (size_t)s->o->batch : BATCH;
    size_t have = s->info.count[NBI_SPLIT_TRAIN];
    return have < batch ? have : batch;
}

static nbi_qat_options options_of(const nbi_session *s, size_t batch) {
    return (nbi_qat_options){.batch = (int64_t)batch,
                             .per_channel = s->per_channel,
                             .classes = s->labelled ? s->info.classes : 0,
                             .distill = s->o->distill || !s->labelled,
                             .mean_squared = !s->labelled && s->loss == NBI_LOSS_MSE,
                             .temperature = s->labelled ? TEMPERATURE : 1};
}

static nb_status start(tuning *t, const nbi_choice *bits, size_t batch) {
    nbi_session *s = t->s;
    nbi_qat_options o = options_of(s, batch);
    nbi_batches_spec spec = {.data = s->data,
                             .split = NBI_SPLIT_TRAIN,
                             .batch = batch,
                             .classes = (size_t)o.classes,
                             .transform = s->transform,
                             .seed = nb_ctx_seed(s->ctx)};
    NB_TRY(nbi_augmentation_parse(s->ctx, NULL, &s->info, &spec.augment));
    NB_TRY(nbi_batches_new(s->ctx, &spec, &t->batches));
    NB_TRY(nbi_qat_new(s->ctx, s->compared, s->net, bits, s->edge, &o, &t->qat));
    o.evaluate = true;
    NB_TRY(nbi_qat_new(s->ctx, s->compared, s->net, bits, s->edge, &o, &t->simulated));
    nbi_tape_spec forward = {0};
    NB_TRY(nbi_tape_new(s->ctx, t->simulated->graph, &forward, &t->tape));
    if (t->qat->teacher >= 0) NB_TRY(start_teacher(t, (int64_t)batch));
    const nbi_tensor *x = t->qat->graph->tensor[t->qat->x];
    NB_TRY(nbi_alloc(s->ctx, (size_t)nbi_tensor_count(x), sizeof(float), &t->input));
    nbi_split split = s->info.count[NBI_SPLIT_VAL] ? NBI_SPLIT_VAL : NBI_SPLIT_TRAIN;
    size_t most = s->info.count[split] < JUDGE_IMAGES ? 0 : JUDGE_IMAGES;
    nbi_draw draw = {.split = split, .count = most, .seed = nb_ctx_seed(s->ctx)};
    return nbi_images_draw(s->ctx, s->data, &draw, &t->judges);
}

static void stop(tuning *t) {
    nbi_images_free(&t->judges);
    nbi_free(t->reference);
    nbi_tape_free(t->tape);
    nbi_exec_free(t->teacher_exec);
    nbi_graph_free(t->teacher);
    nbi_free(t->teacher_out.data);
    nbi_free(t->input);
    nbi_qat_free(t->simulated);
    nbi_qat_free(t->qat); /* NULL where the session has it now */
    nbi_batches_free(t->batches);
}

/* *tuned: an epoch was judged, and the best one's values are in place. */
static nb_status train(tuning *t, const char *checkpoint, const nbi_choice *bits, bool *tuned,
                       json_t **result) {
    nbi_session *s = t->s;
    nbi_qat *q = t->qat;
    nbi_loop_param *param;
    nbi_loop_result r;
    int loss[2], n = 0;
    float weight[2];
    char policy[32];
    if (q->label_loss >= 0) {
        weight[n] = q->teacher_loss >= 0 ? 1 - TEACHER_SHARE : 1;
        loss[n++] = q->label_loss;
    }
    if (q->teacher_loss >= 0) {
        weight[n] = q->label_loss >= 0 ? TEACHER_SHARE : 1;
        loss[n++] = q->teacher_loss;
    }
    snprintf(policy, sizeof policy, "%016llx",
             (unsigned long long)nbi_hash(NBI_HASH_START, bits,
                                            (size_t)s->net->n_sites * sizeof *bits));
    const nbi_pair identity[] = {{"policy", policy},
                                 {"data", s->o->data.path},
                                 {"teacher", q->teacher >= 0 ? "yes" : "no"}};
    NB_TRY(nbi_alloc(s->ctx, (size_t)q->n_train + 1, sizeof *param, &param));
    for (int i = 0; i < q->n_train; i++)
        param[i] = (nbi_loop_param){
            .tensor = q->train[i], .lr = 1, .decay = q->decays[i] ? WEIGHT_DECAY : 0};
    nbi_loop_spec spec = {
        .graph = q->graph,
        .n_params = q->n_train,
        .param = param,
        .n_losses = n,
        .loss = loss,
        .weight = weight,
        .n_states = q->n_states,
        .state = q->state,
        .batches = t->batches,
        .epochs = s->o->finetune,
        .optimizer = nbi_optimizer_options_default(),
        .schedule = {.kind = NBI_LR_COSINE,
                     .lr = s->o->learning_rate > 0 ? s->o->learning_rate : LEARNING_RATE},
        .seed = nb_ctx_seed(s->ctx),
        .user = t,
        .more = ask_teacher,
        .evaluate = evaluate,
        .line = tell,
        .checkpoint = checkpoint,
        .resume = s->o->resume,
        .identity = identity,
        .n_identity = 3};
    nb_status st = nbi_loop_run(s->ctx, &spec, &r);
    nbi_free(param);
    NB_TRY(st);
    if (!r.stopped) remove(checkpoint); /* its work is done */
    *tuned = r.best_epoch > 0;
    if (!*tuned)
        nb_log(s->ctx, NB_LOG_WARNING,
               "fine-tuning was stopped before its first epoch was finished: the policy is "
               "delivered without it; --resume goes on from '%s'",
               checkpoint);
    *result = json_pack("{s:i,s:i,s:f,s:f,s:O}", "epochs", r.epochs, "best_epoch", r.best_epoch,
                        "seconds", r.seconds, "images_per_second", r.images_per_second, "lines",
                        t->epochs);
    return *result ? NB_OK : nb_fail_memory(s->ctx, 64);
}

nb_status nbi_finetune_check(nbi_session *s) {
    nbi_qat_options o = options_of(s, batch_of(s));
    nbi_qat *q = NULL;
    nbi_tape *tape = NULL;
    nbi_choice *bits = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits));
    nbi_session_uniform(s, s->weight_bits[0], s->activation_bits[0], bits);
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

nb_status nbi_finetune(nbi_session *s, const nbi_choice *bits, json_t **lines) {
    tuning t = {.s = s, .epochs = json_array()};
    nbi_buf path = {0};
    bool tuned = false;
    size_t batch = batch_of(s);
    nb_status st = nbi_buf_printf(s->ctx, &path, "%s/finetune.npz", s->o->output);
    if (st == NB_OK) st = start(&t, bits, batch);
    if (st == NB_OK) st = train(&t, path.data, bits, &tuned, lines);
    if (st == NB_OK && tuned) {
        s->tuned = t.qat;
        t.qat = NULL;
    }
    stop(&t);
    json_decref(t.epochs);
    nbi_buf_free(&path);
    return st;
}
