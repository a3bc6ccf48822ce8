/* nb_finetune: a finished run is opened again by its own settings, its policy trained further, and
 * the new files replace the old ones together. */
#include "api/finished.h"

#include "api/untouched.h"
#include "base/stage.h"
#include "search/netproblem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

nb_finetune_options nb_finetune_options_default(void) {
    return (nb_finetune_options){.data = nb_data_options_default(), .distill = true, .descent = {.weight_decay = -1}};
}

typedef struct job {
    nb_ctx *ctx;
    const char *folder;
    const nb_finetune_options *o;
    nbi_run run;
    nb_quantize_options options; /* of the session */
    nbi_session s;
    nbi_outcome out;
    nbi_tuning_result tuning;
    uint64_t seed;
    nbi_buf stage, tuned, policy;
} job;

static const char *or_text(const char *given, const char *recorded) {
    return given ? given : recorded;
}

/* What is given, else what the run had; how many images of another data set are used is not the
 * run's business. */
static void merge_data(nb_data_options *d, const nb_data_options *given) {
    bool other = given->path && (!d->path || strcmp(given->path, d->path) != 0);
    d->path = or_text(given->path, d->path);
    d->limit = given->limit || other ? given->limit : d->limit;
    d->val = given->val || other ? given->val : d->val;
    if (given->val_seed >= 0) d->val_seed = given->val_seed;
    if (given->resize) d->resize = given->resize;
    if (given->crop) d->crop = given->crop;
    d->scale = or_text(given->scale, d->scale);
    d->mean = or_text(given->mean, d->mean);
    d->std = or_text(given->std, d->std);
    d->metric = or_text(given->metric, d->metric);
}

static nb_status set_options(job *j) {
    nb_quantize_options *q = &j->options;
    nbi_buf c = {0};
    *q = j->run.options;
    merge_data(&q->data, &j->o->data);
    if (!q->data.path)
        return nb_fail(j->ctx, NB_EINVAL, "finetune: no data is given, and the run had none");
    if (j->o->epochs < 1)
        return nb_fail(j->ctx, NB_EINVAL, "epochs: %d, want 1 or more", j->o->epochs);
    bool adam = j->o->descent.optimizer && strcmp(j->o->descent.optimizer, "sgd") != 0;
    q->finetune = j->o->epochs;
    q->learning_rate = j->o->learning_rate > 0 ? j->o->learning_rate
                       : j->o->retrain && !adam ? 0.1 : 0;
    if (j->o->batch) q->batch = j->o->batch;
    q->distill = j->o->distill;
    q->descent = j->o->descent;
    if (j->o->retrain && !adam && q->descent.weight_decay < 0) q->descent.weight_decay = 5e-4;
    q->resume = j->o->resume;
    q->command_line = j->o->command_line;
    q->output = j->stage.data;
    q->policy = j->policy.data;
    NB_TRY(nbi_buf_printf(j->ctx, &c, "%s/c", j->folder));
    q->emit = nbi_is_folder(c.data) ? "c" : NULL;
    nbi_buf_free(&c);
    return NB_OK;
}

/* The float model of the run, by its content. */
static nb_status open_model(job *j) {
    const char *path = j->o->model ? j->o->model : j->run.model;
    char hash[20];
    if (!nbi_file_exists(path))
        return nb_fail(j->ctx, NB_EIO, "cannot open '%s', the float model of the run in '%s': "
                       "--model FILE says where it is now", path, j->folder);
    NB_TRY(nbi_session_open(j->ctx, path, &j->options, &j->s));
    NB_TRY(nbi_warn_untouched(j->ctx, j->s.net));
    nbi_hash_text(nbi_graph_hash(j->s.source), hash);
    if (!strcmp(hash, j->run.hash)) return NB_OK;
    return nb_fail(j->ctx, NB_EINVAL, "'%s' is not the float model that the run in '%s' began with "
                   "(content %s, then %s): --model FILE says where that one is now", path,
                   j->folder, hash, j->run.hash);
}

static nb_status open_session(job *j) {
    nbi_session *s = &j->s;
    NB_TRY(open_model(j));
    s->folder = j->folder;
    s->further.on = true;
    s->further.seed = j->seed;
    s->further.time_limit = j->o->time_limit;
    /* what the run had may not apply to other data; what is given now must */
    nb_data_options data = j->options.data;
    data.resize = j->o->data.resize;
    data.crop = j->o->data.crop;
    if (s->transform.resize || s->transform.crop)
        NB_TRY(nbi_transform_keep(j->ctx, &s->transform, s->source));
    NB_TRY(nbi_open_data(j->ctx, &data, s->source, &s->data));
    s->info = *nbi_dataset_get(s->data);
    if (j->o->retrain) NB_TRY(nbi_session_refresh(s));
    else if (nbi_file_exists(j->tuned.data)) s->further.tuned = j->tuned.data;
    NB_TRY(nbi_session_calibrate(s));
    NB_TRY(nbi_set_limits(s));
    return nbi_finetune_check(s);
}

/* The policy, and what is known of it. */
static nb_status set_outcome(job *j) {
    nbi_outcome *out = &j->out;
    const json_t *was = j->run.results, *loss = json_object_get(was, "loss");
    NB_TRY(nbi_alloc(j->ctx, (size_t)j->s.net->n_sites + 1, sizeof *out->bits, &out->bits));
    nbi_session_uniform(&j->s, 8, 8, out->bits);
    NB_TRY(nbi_policy_read(&j->s, j->policy.data, out->bits));
    NB_TRY(nbi_netproblem_cost(j->ctx, j->s.np, out->bits, out->cost));
    out->loss = json_is_number(loss) ? json_number_value(loss) : NAN;
    out->feasible = nbi_feasible(j->s.problem, out->cost);
    const json_t *drop = json_object_get(was, "validation_drop");
    out->drop = out->drop_bound = NAN;
    if (drop) out->drop = json_number_value(json_object_get(drop, "mean"));
    if (drop) out->drop_bound = json_number_value(json_object_get(drop, "bound"));
    if (drop) out->feasible &= out->drop_bound <= nbi_max_drop(&j->s);
    snprintf(out->method, sizeof out->method, "policy");
    return NB_OK;
}

/* The figures that are being replaced. */
static void keep_before(job *j) {
    static const char *const keys[] = {"top1", "top5", "loss", "kl", "mse"};
    const json_t *old = json_object_get(j->run.results, "quantized");
    json_t *before = json_object();
    for (size_t i = 0; i < NBI_COUNT(keys); i++) {
        json_t *v = json_object_get(old, keys[i]);
        if (v) json_object_set(before, keys[i], v);
    }
    json_object_set_new(j->tuning.lines, "quantized_before", before);
}

static nb_status work(job *j, json_t **result) {
    NB_TRY(nbi_stage_begin(j->ctx, j->folder, &j->stage));
    NB_TRY(nbi_buf_printf(j->ctx, &j->tuned, "%s/tuned.npz", j->folder));
    NB_TRY(nbi_buf_printf(j->ctx, &j->policy, "%s/results.json", j->folder));
    NB_TRY(set_options(j));
    NB_TRY(open_session(j));
    NB_TRY(set_outcome(j));
    /* what the run delivered, if it was not trained, is what training has to beat */
    if (!j->s.further.tuned && !j->o->retrain) NB_TRY(nbi_learn(&j->s, j->out.bits, &j->out.loss));
    NB_TRY(nbi_tune(&j->s, &j->out, &j->tuning));
    if (!j->tuning.lines || j->tuning.nothing)
        return nb_fail(j->ctx, NB_ECANCELLED, "stopped before the first epoch was finished: '%s' is "
                       "as it was; --resume goes on", j->folder);
    keep_before(j);
    json_t *search = json_object_get(j->run.results, "search");
    NB_TRY(nbi_conclude(&j->s, &j->out, &j->tuning, search, result));
    NB_TRY(nbi_stage_publish(j->ctx, j->folder));
    nbi_finetune_forget(&j->s, &j->tuning);
    return nb_report(j->ctx, j->folder, NULL);
}

nb_status nb_finetune(nb_ctx *ctx, const char *folder, const nb_finetune_options *options,
                      char **json) {
    nbi_json_begin();
    job j = {.ctx = ctx, .folder = folder, .o = options};
    json_t *result = NULL;
    uint64_t seed = nb_ctx_seed(ctx);
    if (!folder || !*folder) return nb_fail(ctx, NB_EINVAL, "finetune: no folder was named");
    nb_status st = nbi_stage_recover(ctx, folder);
    if (st == NB_OK) st = nbi_run_read(ctx, folder, &j.run);
    if (st == NB_OK) {
        j.seed = seed;
        nb_ctx_set_seed(ctx, j.run.seed); /* the same images are held out */
        st = work(&j, &result);
        nb_ctx_set_seed(ctx, seed);
    }
    if (st != NB_OK) nbi_stage_drop(folder);
    if (st == NB_ENUMERIC) st = nb_fail_prefix(ctx, st, "'%s' stays as it was", folder);
    nbi_free(j.out.bits);
    json_decref(j.tuning.lines);
    nbi_session_close(&j.s);
    nbi_run_free(&j.run);
    nbi_buf_free(&j.stage);
    nbi_buf_free(&j.tuned);
    nbi_buf_free(&j.policy);
    return nbi_answer(ctx, st, &j.out, result, json);
}
