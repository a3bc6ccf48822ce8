/* nb_train: a float model, a data set, the loop. Every epoch is judged on the validation split by
 * the float engine on the inference form; the test split is touched once, at the end. */
#include "api/api.h"
#include "api/identity.h"

#include "onnx/onnx.h"
#include "train/loop.h"
#include "train/prepare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

nb_train_options nb_train_options_default(void) {
    return (nb_train_options){.data = nb_data_options_default(),
                              .batch = 128,
                              .optimizer = "sgd",
                              .momentum = 0.9,
                              .weight_decay = -1,
                              .schedule = "cosine"};
}


typedef struct trainer {
    nb_ctx *ctx;
    const nb_train_options *o;
    nb_model *source;
    nbi_dataset *data;
    nbi_dataset_info info;
    nbi_transform transform;
    nbi_training *training;
    nbi_batches *batches;
    nbi_loop_param *param;
    nbi_loop_spec spec;
    nbi_buf checkpoint;
    nbi_identity identity;
    bool probability, reconstruct;
    nbi_metrics last; /* of the last evaluation */
} trainer;

static void close_trainer(trainer *t) {
    nbi_batches_free(t->batches);
    nbi_training_free(t->training);
    nbi_dataset_free(t->data);
    nb_model_free(t->source);
    nbi_free(t->param);
    nbi_buf_free(&t->checkpoint);
}

/* ---- judging --------------------------------------------------------------------------------- */

/* The samples of a split as the network sees them: what a reconstruction is compared with. */
static nb_status make_reference(trainer *t, nbi_split split, size_t count, float **out) {
    nbi_images images = {0};
    float *values = NULL;
    nbi_draw draw = {.split = split};
    NB_TRY(nbi_images_draw(t->ctx, t->data, &draw, &images));
    nb_status st = nbi_alloc(t->ctx, images.n * count, sizeof *values, &values);
    if (st == NB_OK) nbi_images_fill(&images, &t->transform, 0, images.n, values);
    nbi_images_free(&images);
    if (st == NB_OK) *out = values;
    return st;
}

static nb_status measure(trainer *t, nbi_split split, nbi_metrics *m) {
    nbi_outputs out = {0};
    float *reference = NULL;
    nb_status st;
    nbi_training_publish(t->training);
    NB_TRYG(nbi_eval_split(t->ctx, t->data, split, t->training->model, NULL, &t->transform, &out));
    if (t->reconstruct) {
        NB_TRYG(make_reference(t, split, out.count, &reference));
    } else {
        NB_TRYG(nbi_check_labels(t->ctx, out.label, out.n, out.count));
    }
    nbi_warn_not_finite(t->ctx, out.values, out.n, out.count);
    nbi_measure(out.values, reference, t->reconstruct ? NULL : out.label, out.n, out.count,
                t->probability, m);
    m->images = out.n;
done:
    nbi_free(reference);
    nbi_outputs_free(&out);
    return st;
}

static nb_status evaluate(nb_ctx *ctx, void *user, double *metric) {
    trainer *t = user;
    NB_TRY(measure(t, NBI_SPLIT_VAL, &t->last));
    *metric = t->reconstruct ? -t->last.mse : t->last.top1;
    return isfinite(*metric) && (t->reconstruct || !isnan(t->last.loss)) ? NB_OK
                             : nb_fail(ctx, NB_ENUMERIC, "the network's outputs are not finite");
}

static nb_status improved(nb_ctx *ctx, void *user) {
    const trainer *t = user;
    nbi_training_publish(t->training);
    return nbi_onnx_write(ctx, t->training->model, t->o->output);
}

static void tell(nb_ctx *ctx, void *user, const nbi_epoch_line *l) {
    const trainer *t = user;
    char metric[48] = "";
    if (isfinite(l->metric))
        snprintf(metric, sizeof metric, t->reconstruct ? ", val mse %.5g" : ", val top-1 %.2f %%",
                 fabs(l->metric));
    nb_log(ctx, NB_LOG_INFO, "epoch %d of %d: loss %.4f%s%s, lr %.3g, %.1f s, about %.0f s left",
           l->epoch, l->epochs, l->loss, metric, l->improved ? " (best)" : "", l->lr, l->seconds,
           l->left);
}

/* ---- setting up ------------------------------------------------------------------------------ */

static nb_status check_options(nb_ctx *ctx, const char *path, const nb_train_options *o) {
    const char *slash = o->output ? strrchr(o->output, '/') : NULL;
    if (!o->output) return nb_fail(ctx, NB_EINVAL, "train: no output file is given");
    NB_TRY(nbi_keep_model(ctx, "train", path, o->output));
    if (o->batch < 1) return nb_fail(ctx, NB_EINVAL, "batch: %d, want 1 or more", o->batch);
    if (nbi_is_folder(o->output))
        return nb_fail(ctx, NB_EIO, "cannot write '%s': a folder", o->output);
    if (slash && slash != o->output) { /* better now than after the first epoch */
        nbi_buf folder = {0};
        nb_status st = nbi_buf_append(ctx, &folder, o->output, (size_t)(slash - o->output));
        if (st == NB_OK && !nbi_is_folder(folder.data))
            st = nb_fail(ctx, NB_EIO, "cannot write '%s': there is no folder '%s'", o->output,
                         folder.data);
        nbi_buf_free(&folder);
        NB_TRY(st);
    }
    return NB_OK;
}

static nb_status open_all(trainer *t, const char *path) {
    NB_TRY(nb_model_load(t->ctx, path, &t->source));
    nbi_graph *g = t->source->graph;
    NB_TRY(nbi_transform_of(t->ctx, &t->o->data, g, &t->transform));
    /* missing weights are inputs, too; the data belongs to the first */
    int n_inputs = g->n_inputs;
    if (t->o->init && n_inputs > 1) g->n_inputs = 1;
    nb_status st = nbi_open_data(t->ctx, &t->o->data, g, &t->data);
    t->reconstruct = st == NB_OK && nbi_can_reconstruct(g);
    g->n_inputs = n_inputs;
    NB_TRY(st);
    t->info = *nbi_dataset_get(t->data);
    nbi_training_options to = {.batch = t->o->batch,
                               .reconstruct = t->reconstruct,
                               .init = t->o->init,
                               .seed = nb_ctx_seed(t->ctx)};
    NB_TRY(nbi_training_new(t->ctx, g, &to, &t->training));
    if (t->info.is_image) NB_TRY(nbi_transform_keep(t->ctx, &t->transform, t->training->model));
    if (t->reconstruct) return NB_OK;
    if (!t->info.classes)
        return nb_fail(t->ctx, NB_EFORMAT, "the data has no labels: there is nothing to learn");
    if (t->info.classes > t->training->classes)
        return nb_fail(t->ctx, NB_EFORMAT, "the data has %d classes, the model has %lld outputs",
                       t->info.classes, (long long)t->training->classes);
    const nbi_graph *m = t->training->model;
    int p = m->tensor[m->output[0]]->producer;
    t->probability = p >= 0 && !strcmp(m->node[p]->op_type, "Softmax");
    return NB_OK;
}

static nb_status make_batches(trainer *t) {
    nbi_batches_spec b = {.data = t->data,
                          .split = NBI_SPLIT_TRAIN,
                          .batch = (size_t)t->o->batch,
                          .classes = (size_t)t->training->classes,
                          .transform = t->transform,
                          .smoothing = t->o->label_smoothing,
                          .seed = nb_ctx_seed(t->ctx)};
    NB_TRY(nbi_augmentation_parse(t->ctx, t->o->augment, &t->info, &b.augment));
    return nbi_batches_new(t->ctx, &b, &t->batches);
}

/* What the trajectory depends on beside the loop's own settings. */
static nb_status set_identity(trainer *t, double decay) {
    const nb_data_options *d = &t->o->data;
    nbi_identity *id = &t->identity;
    nbi_buf bytes = {0};
    nb_status st = nbi_onnx_serialize(t->ctx, t->training->model, &bytes);
    const uint64_t hash = nbi_hash(NBI_HASH_START, bytes.data, bytes.size);
    nbi_buf_free(&bytes);
    NB_TRY(st);
    nbi_identify_hash(id, "model", hash);
    nbi_identify(id, "data", d->path);
    nbi_identify_number(id, "training images", (double)t->info.count[NBI_SPLIT_TRAIN]);
    nbi_identify_number(id, "validation images", (double)t->info.count[NBI_SPLIT_VAL]);
    nbi_identify_number(id, "validation seed",
                        d->val_seed < 0 ? (double)nb_ctx_seed(t->ctx) : d->val_seed);
    nbi_identify(id, "scale", d->scale);
    nbi_identify(id, "mean", d->mean);
    nbi_identify(id, "std", d->std);
    nbi_identify_number(id, "resize", d->resize);
    nbi_identify_number(id, "crop", d->crop);
    nbi_identify(id, "augment", t->o->augment);
    nbi_identify_number(id, "label smoothing", t->o->label_smoothing);
    nbi_identify_number(id, "weight decay", decay);
    t->spec.identity = id->pair;
    t->spec.n_identity = id->n;
    return NB_OK;
}

static nb_status set_params(trainer *t, double decay) {
    const nbi_training *g = t->training;
    NB_TRY(nbi_alloc(t->ctx, (size_t)g->n_trained, sizeof *t->param, &t->param));
    for (int i = 0; i < g->n_trained; i++)
        t->param[i] = (nbi_loop_param){
            .tensor = g->trained[i].tensor,
            .lr = 1,
            .decay = g->trained[i].role == NBI_ROLE_KERNEL ? (float)decay : 0};
    return NB_OK;
}

static nb_status set_up(trainer *t, const char *path) {
    static const double lr[] = {0.1, 1e-3, 1e-3}, decays[] = {5e-4, 0, 0.01};
    const nb_train_options *o = t->o;
    nbi_loop_spec *s = &t->spec;
    NB_TRY(check_options(t->ctx, path, o));
    *s = (nbi_loop_spec){.epochs = o->epochs,
                         .warmup = o->warmup,
                         .ema = (float)o->ema,
                         .optimizer = nbi_optimizer_options_default(),
                         .seed = nb_ctx_seed(t->ctx),
                         .resume = o->resume,
                         .time_limit = o->time_limit,
                         .user = t,
                         .improved = improved,
                         .line = tell};
    NB_TRY(nbi_optimizer_parse(t->ctx, o->optimizer, &s->optimizer.kind));
    NB_TRY(nbi_schedule_parse(t->ctx, o->schedule, &s->schedule.kind));
    if (s->optimizer.kind != NBI_SGD && o->momentum != nb_train_options_default().momentum)
        nb_log(t->ctx, NB_LOG_WARNING, "--momentum is for sgd alone: '%s' does not use it", o->optimizer);
    s->optimizer.momentum = (float)o->momentum;
    s->optimizer.nesterov = true;
    s->optimizer.clip = (float)o->clip;
    s->schedule.lr = o->lr > 0 ? o->lr : lr[s->optimizer.kind];
    double decay = o->weight_decay >= 0 ? o->weight_decay : decays[s->optimizer.kind];
    NB_TRY(open_all(t, path));
    NB_TRY(make_batches(t));
    NB_TRY(set_params(t, decay));
    NB_TRY(set_identity(t, decay));
    NB_TRY(nbi_buf_printf(t->ctx, &t->checkpoint, "%s.checkpoint.npz", o->output));
    s->graph = t->training->graph;
    s->n_params = t->training->n_trained;
    s->param = t->param;
    s->n_losses = t->training->n_losses;
    s->loss = t->training->loss;
    s->n_states = t->training->n_states;
    s->state = t->training->state;
    s->batches = t->batches;
    s->checkpoint = t->checkpoint.data;
    if (t->info.count[NBI_SPLIT_VAL])
        s->evaluate = evaluate;
    else
        nb_log(t->ctx, NB_LOG_WARNING, "the data has no validation images: the last epoch is kept");
    if (o->resume)
        nb_log(t->ctx, NB_LOG_INFO,
               nbi_file_exists(s->checkpoint) ? "going on from '%s'"
                                              : "there is no '%s': starting at the beginning",
               s->checkpoint);
    return NB_OK;
}

/* ---- the result ------------------------------------------------------------------------------ */

static void put_real(json_t *root, const char *key, double value) {
    if (isfinite(value)) json_object_set_new(root, key, json_real(value));
}

static nb_status finish(trainer *t, const nbi_loop_result *r, char **json) {
    bool test = t->info.count[NBI_SPLIT_TEST] > 0;
    nbi_split split = test ? NBI_SPLIT_TEST : NBI_SPLIT_VAL;
    nbi_metrics m = {.top1 = NAN, .top5 = NAN, .loss = NAN, .mse = NAN};
    nb_ctx_clear_cancel(t->ctx);
    NB_TRY(improved(t->ctx, t));
    if (t->info.count[split]) NB_TRY(measure(t, split, &m));
    if (!r->stopped) remove(t->checkpoint.data); /* its work is done */
    json_t *root =
        json_pack("{s:o,s:i,s:i,s:b,s:I,s:s}", "output", nbi_json_string(t->o->output), "epochs",
                  r->epochs, "best_epoch", r->best_epoch, "stopped", r->stopped, "images",
                  (json_int_t)m.images, "split", test ? "test" : "val");
    if (t->reconstruct) {
        put_real(root, "mse", m.mse);
        put_real(root, "val_mse", -r->best);
    } else {
        put_real(root, "top1", m.top1);
        put_real(root, "top5", m.top5);
        put_real(root, "loss", m.loss);
        put_real(root, "val_top1", r->best);
    }
    put_real(root, "train_loss", r->loss);
    put_real(root, "images_per_second", r->images_per_second);
    put_real(root, "seconds", r->seconds);
    json_object_set_new(root, "seed", json_integer((json_int_t)nb_ctx_seed(t->ctx)));
    json_object_set_new(root, "threads", json_integer(nb_ctx_threads(t->ctx)));
    return nbi_json_text(t->ctx, root, json);
}

nb_status nb_train(nb_ctx *ctx, const char *path, const nb_train_options *options, char **json) {
    nbi_json_begin();
    trainer t = {.ctx = ctx, .o = options};
    nbi_loop_result r;
    nb_status st;
    NB_TRYG(set_up(&t, path));
    NB_TRYG(nbi_loop_run(ctx, &t.spec, &r));
    if (r.best_epoch == 0) {
        st = nb_fail(ctx, NB_ECANCELLED,
                     "stopped before the first epoch was finished; --resume goes on from '%s'",
                     t.checkpoint.data);
        goto done;
    }
    st = finish(&t, &r, json);
done:
    close_trainer(&t);
    return st;
}
