/* One step: batch → forward → losses finite? → backward → optimizer → running statistics → average.
 * Nothing is changed before the losses and gradients have been looked at, so that a failure leaves
 * the last good state. What step k does follows from (seed, k) and the values alone. */
#include "train/loop_parts.h"

#include <math.h>
#include <string.h>

static void free_loop(nbi_loop *l) {
    nbi_tape_free(l->tape);
    nbi_optimizer_free(l->optimizer);
    nbi_ema_free(l->ema);
    for (size_t i = 0; l->best && i < l->n_values; i++) nbi_free(l->best[i]);
    nbi_free(l->best);
    nbi_free(l->value);
    nbi_free((void *)l->inputs);
}

static nbi_schedule schedule_of(const nbi_loop_spec *s) {
    size_t per_epoch = nbi_batches_per_epoch(s->batches);
    nbi_schedule schedule = s->schedule;
    schedule.steps = (uint64_t)s->epochs * per_epoch;
    schedule.warmup = (uint64_t)(s->warmup * (double)per_epoch + 0.5);
    return schedule;
}

nb_status nbi_loop_check(nb_ctx *ctx, const nbi_loop_spec *s) {
    if (s->epochs < 1) return nb_fail(ctx, NB_EINVAL, "epochs: %d, want 1 or more", s->epochs);
    if (!(s->warmup >= 0 && s->warmup < s->epochs))
        return nb_fail(ctx, NB_EINVAL, "warm-up: %g epochs of %d", s->warmup, s->epochs);
    if (!(s->ema >= 0 && s->ema < 1))
        return nb_fail(ctx, NB_EINVAL, "ema: %g is not within 0 and below 1", (double)s->ema);
    const nbi_schedule schedule = schedule_of(s);
    NB_TRY(nbi_schedule_check(ctx, &schedule));
    return nbi_optimizer_check(ctx, &s->optimizer);
}

static nb_status check_params(nb_ctx *ctx, const nbi_loop_spec *s) {
    if (s->n_params < 1) return nb_fail(ctx, NB_EINVAL, "nothing is to be trained");
    if (s->n_losses < 1) return nb_fail(ctx, NB_EINVAL, "there is no loss");
    for (int i = 0; i < s->n_params; i++)
        if (!s->graph->tensor[s->param[i].tensor]->data)
            return nb_fail(ctx, NB_EINVAL, "'%s' is not a constant that could be trained",
                           s->graph->tensor[s->param[i].tensor]->name);
    return NB_OK;
}

static void set_value(nbi_loop *l, size_t i, int tensor, float lr, float decay) {
    const nbi_tensor *t = l->s->graph->tensor[tensor];
    l->value[i] = (nbi_param){.name = t->name,
                              .value = t->data,
                              .count = (size_t)nbi_tensor_count(t),
                              .lr = lr,
                              .decay = decay};
}

static nb_status make_tape(nbi_loop *l) {
    const nbi_loop_spec *s = l->s;
    int *wrt = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(l->ctx, (size_t)s->n_params, sizeof *wrt, &wrt));
    for (int i = 0; i < s->n_params; i++) wrt[i] = s->param[i].tensor;
    const nbi_tape_spec spec = {.n_wrt = s->n_params,
                                .wrt = wrt,
                                .n_losses = s->n_losses,
                                .loss = s->loss,
                                .n_states = s->n_states,
                                .state = s->state};
    st = nbi_tape_new(l->ctx, s->graph, &spec, &l->tape);
    nbi_free(wrt);
    return st;
}

static nb_status make_loop(nb_ctx *ctx, const nbi_loop_spec *s, nbi_loop *l) {
    size_t n_params = (size_t)s->n_params, n_states = (size_t)s->n_states;
    *l = (nbi_loop){.ctx = ctx, .s = s, .best_metric = -INFINITY};
    NB_TRY(nbi_loop_check(ctx, s));
    NB_TRY(check_params(ctx, s));
    l->schedule = schedule_of(s);
    l->n_values = n_params + n_states;
    NB_TRY(nbi_alloc(ctx, l->n_values, sizeof *l->value, &l->value));
    for (size_t i = 0; i < n_params; i++)
        set_value(l, i, s->param[i].tensor, s->param[i].lr, s->param[i].decay);
    for (size_t i = 0; i < n_params; i++) l->value[i].adam = s->param[i].adam;
    for (size_t i = 0; i < n_states; i++) set_value(l, n_params + i, s->state[i].to, 0, 0);
    NB_TRY(nbi_alloc(ctx, l->n_values, sizeof *l->best, &l->best));
    for (size_t i = 0; i < l->n_values; i++)
        NB_TRY(nbi_alloc(ctx, l->value[i].count, sizeof *l->best[i], &l->best[i]));
    NB_TRY(nbi_alloc(ctx, (size_t)s->graph->n_inputs, sizeof *l->inputs, &l->inputs));
    NB_TRY(make_tape(l));
    NB_TRY(nbi_optimizer_new(ctx, &s->optimizer, l->value, n_params, &l->optimizer));
    return s->ema > 0 ? nbi_ema_new(ctx, s->ema, l->value, l->n_values, &l->ema) : NB_OK;
}

/* ---- one step -------------------------------------------------------------------------------- */

static nb_status not_finite(nbi_loop *l, const char *what) {
    uint64_t per_epoch = nbi_batches_per_epoch(l->s->batches);
    const char *name = nbi_tape_not_finite(l->tape), *path = l->s->checkpoint;
    bool saved = path && nbi_file_exists(path);
    return nb_fail(
        l->ctx, NB_ENUMERIC,
        "epoch %llu, step %llu: %s (first tensor: '%s'); a smaller learning rate or clipping "
        "may help%s%s",
        (unsigned long long)(l->step / per_epoch + 1),
        (unsigned long long)(l->step % per_epoch + 1), what, name ? name : "unknown",
        saved ? "; the last good state is " : "", saved ? path : "");
}

static nb_status read_loss(nbi_loop *l, double *loss) {
    double sum = 0;
    for (int i = 0; i < l->s->n_losses; i++) {
        nbi_view v;
        NB_TRY(nbi_tape_value(l->ctx, l->tape, l->s->loss[i], &v));
        sum += (double)*(const float *)v.data * (l->s->weight ? (double)l->s->weight[i] : 1);
    }
    *loss = sum;
    return isfinite(sum) ? NB_OK : not_finite(l, "the loss is not finite");
}

static nb_status one_step(nbi_loop *l) {
    const nbi_loop_spec *s = l->s;
    uint64_t per_epoch = nbi_batches_per_epoch(s->batches), parts[2] = {s->seed, l->step};
    nbi_batch batch;
    double loss;
    int n = 0;
    NB_TRY(nbi_batches_get(l->ctx, s->batches, l->step / per_epoch, (size_t)(l->step % per_epoch),
                           &batch));
    l->inputs[n++] = batch.x;
    if (batch.target && n < s->graph->n_inputs) l->inputs[n++] = batch.target;
    if (s->more) NB_TRY(s->more(l->ctx, s->user, &batch, l->inputs + n));
    if (s->begin) NB_TRY(s->begin(l->ctx, s->step_user, l->step, l->schedule.steps));
    NB_TRY(nbi_tape_forward(l->ctx, l->tape, l->inputs,
                            nbi_hash(NBI_HASH_START, parts, sizeof parts)));
    NB_TRY(read_loss(l, &loss));
    NB_TRY(nbi_tape_backward(l->ctx, l->tape, s->weight));
    for (int i = 0; i < s->n_params; i++) l->value[i].gradient = nbi_tape_gradient(l->tape, i);
    double lr = nbi_schedule_lr(&l->schedule, l->step);
    if (s->adjust)
        NB_TRY(s->adjust(l->ctx, s->step_user, l->step, l->schedule.steps, lr, l->value));
    nb_status st = nbi_optimizer_step(l->ctx, l->optimizer, lr, &l->norm);
    if (st == NB_ENUMERIC) return not_finite(l, nb_ctx_message(l->ctx));
    NB_TRY(st);
    nbi_tape_advance(l->tape);
    if (l->ema) NB_TRY(nbi_ema_update(l->ctx, l->ema));
    l->loss_sum += loss;
    if (s->stepped) s->stepped(l->ctx, s->step_user, loss);
    l->step++;
    return NB_OK;
}

/* ---- one epoch ------------------------------------------------------------------------------- */

static void keep_best(nbi_loop *l) {
    for (size_t i = 0; i < l->n_values; i++)
        if (l->value[i].count)
            memcpy(l->best[i], l->value[i].value, l->value[i].count * sizeof(float));
}

static void restore_best(nbi_loop *l) {
    for (size_t i = 0; i < l->n_values; i++)
        if (l->value[i].count)
            memcpy(l->value[i].value, l->best[i], l->value[i].count * sizeof(float));
}

/* With the values to judge in place. */
static nb_status judge(nbi_loop *l, nbi_epoch_line *line) {
    line->metric = NAN;
    if (l->s->evaluate) NB_TRY(l->s->evaluate(l->ctx, l->s->user, &line->metric));
    if (l->s->evaluate && !(line->metric > l->best_metric) && l->best_epoch) return NB_OK;
    line->improved = true;
    l->best_metric = line->metric;
    l->best_epoch = line->epoch;
    keep_best(l);
    return l->s->improved ? l->s->improved(l->ctx, l->s->user) : NB_OK;
}

/* Evaluates the values as they are, as epoch judged + 1. */
static nb_status judge_now(nbi_loop *l, nbi_epoch_line *line) {
    if (l->ema) NB_TRY(nbi_ema_swap(l->ctx, l->ema));
    nb_status st = judge(l, line);
    if (l->ema) NB_TRY(nbi_ema_swap(l->ctx, l->ema));
    return st;
}

static nb_status end_epoch(nbi_loop *l) {
    uint64_t per_epoch = nbi_batches_per_epoch(l->s->batches);
    double before = nb_seconds(l->ctx), now;
    nbi_epoch_line line = {.epoch = l->judged + 1,
                           .epochs = l->s->epochs,
                           .loss = l->loss_sum / (double)per_epoch,
                           .lr = nbi_schedule_lr(&l->schedule, l->step - 1)};
    NB_TRY(judge_now(l, &line));
    l->judged++;
    l->last_loss = line.loss;
    l->loss_sum = 0;
    NB_TRY(nbi_loop_save(l));
    now = nb_seconds(l->ctx);
    line.seconds = now - l->epoch_start;
    l->epoch_start = now;
    /* a resumed run may have judged before its first step */
    double step = l->busy_steps ? l->busy / (double)l->busy_steps : 0;
    line.left = (double)(l->s->epochs - line.epoch) * (now - before + (double)per_epoch * step);
    if (l->s->line) l->s->line(l->ctx, l->s->user, &line);
    return NB_OK;
}

/* Ends the loop with a checkpoint of where it is. */
static nb_status stop(nbi_loop *l) {
    l->stopped = true;
    return nbi_loop_save(l);
}

/* Out of time: what there is counts, also before the first epoch is whole. The checkpoint knows
 * nothing of it, so that a resumed run takes the same way as one that had the time. */
static nb_status stop_in_time(nbi_loop *l) {
    nbi_epoch_line line = {.epoch = l->judged + 1};
    NB_TRY(stop(l));
    return l->best_epoch ? NB_OK : judge_now(l, &line);
}

static nb_status run(nbi_loop *l) {
    const nbi_loop_spec *s = l->s;
    uint64_t per_epoch = nbi_batches_per_epoch(s->batches);
    double every = s->checkpoint_seconds > 0 ? s->checkpoint_seconds : 60;
    l->start = l->epoch_start = l->last_save = nb_seconds(l->ctx);
    while (l->judged < s->epochs) {
        if (nb_cancelled(l->ctx)) return stop(l);
        if (l->step == (uint64_t)(l->judged + 1) * per_epoch) {
            nb_status st = end_epoch(l);
            if (st == NB_ECANCELLED) return stop(l); /* the evaluation will be done again */
            NB_TRY(st);
            continue;
        }
        double begin = nb_seconds(l->ctx);
        if (s->time_limit > 0 && begin - l->start >= s->time_limit) return stop_in_time(l);
        NB_TRY(one_step(l));
        double end = nb_seconds(l->ctx);
        l->busy += end - begin;
        l->busy_steps++;
        /* a request to stop, which this returns, is seen at the top */
        nb_progress(l->ctx, "training", (double)l->step, (double)l->schedule.steps);
        if (end - l->last_save >= every) NB_TRY(nbi_loop_save(l));
    }
    return NB_OK;
}

nb_status nbi_loop_run(nb_ctx *ctx, const nbi_loop_spec *spec, nbi_loop_result *out) {
    nbi_loop l;
    nb_status st = make_loop(ctx, spec, &l);
    if (st == NB_OK && spec->resume && spec->checkpoint && nbi_file_exists(spec->checkpoint))
        st = nbi_loop_load(&l);
    if (st == NB_OK) st = run(&l);
    if (st == NB_OK) {
        if (l.best_epoch) restore_best(&l);
        double images = (double)l.busy_steps * (double)nbi_batches_size(spec->batches);
        *out = (nbi_loop_result){.epochs = l.judged,
                                 .best_epoch = l.best_epoch,
                                 .best = l.best_metric,
                                 .loss = l.last_loss,
                                 .seconds = l.busy,
                                 .images_per_second = l.busy > 0 ? images / l.busy : 0,
                                 .norm = l.norm,
                                 .stopped = l.stopped};
    }
    free_loop(&l);
    return st;
}
