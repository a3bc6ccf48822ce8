/* The loop's checkpoints: values, optimizer, average, best values; progress and identity as JSON. */
#include "train/loop_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FORMAT = 1 };

/* ---- arrays -------------------------------------------------------------------------------------- */

typedef struct arrays {
    size_t n, room;
    nbi_checkpoint_array *item;
} arrays;

static void add(arrays *a, const char *kind, size_t index, float *data, size_t count) {
    nbi_checkpoint_array *to = &a->item[a->n++];
    snprintf(to->name, sizeof to->name, "%.12s.%zu", kind, index);
    to->data = data;
    to->count = count;
}

static nb_status list_arrays(nbi_loop *l, arrays *a) {
    nbi_state *optimizer, *ema = NULL;
    size_t n_optimizer, n_ema = 0;
    uint64_t *count;
    nbi_optimizer_state(l->optimizer, &optimizer, &n_optimizer, &count);
    if (l->ema) nbi_ema_state(l->ema, &ema, &n_ema, &count);
    a->room = 2 * l->n_values + n_optimizer + n_ema;
    NB_TRY(nbi_alloc(l->ctx, a->room, sizeof *a->item, &a->item));
    for (size_t i = 0; i < l->n_values; i++) {
        add(a, "value", i, l->value[i].value, l->value[i].count);
        add(a, "best", i, l->best[i], l->value[i].count);
    }
    for (size_t i = 0; i < n_optimizer; i++)
        add(a, optimizer[i].name, i, optimizer[i].data, optimizer[i].count);
    for (size_t i = 0; i < n_ema; i++) add(a, ema[i].name, i, ema[i].data, ema[i].count);
    return NB_OK;
}

/* ---- identity ------------------------------------------------------------------------------------ */

static void set_number(json_t *o, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.9g", value);
    json_object_set_new(o, key, json_string(text));
}

/* Texts by name, in the order in which a difference is reported. */
static json_t *identity_of(const nbi_loop *l) {
    static const char *const optimizers[] = {"sgd", "adam", "adamw"};
    static const char *const schedules[] = {"constant", "step", "cosine"};
    const nbi_loop_spec *s = l->s;
    json_t *o = json_object();
    for (int i = 0; i < s->n_identity; i++)
        json_object_set_new(o, s->identity[i].key, json_string(s->identity[i].value));
    json_object_set_new(o, "optimizer", json_string(optimizers[s->optimizer.kind]));
    json_object_set_new(o, "schedule", json_string(schedules[s->schedule.kind]));
    json_object_set_new(o, "nesterov", json_string(s->optimizer.nesterov ? "yes" : "no"));
    set_number(o, "lr", s->schedule.lr);
    set_number(o, "momentum", (double)s->optimizer.momentum);
    set_number(o, "clip", (double)s->optimizer.clip);
    set_number(o, "ema", (double)s->ema);
    set_number(o, "warmup", s->warmup);
    set_number(o, "epochs", s->epochs);
    set_number(o, "batch", (double)nbi_batches_size(s->batches));
    set_number(o, "steps per epoch", (double)nbi_batches_per_epoch(s->batches));
    set_number(o, "threads", nb_ctx_threads(l->ctx));
    json_object_set_new(o, "seed", json_sprintf("%llu", (unsigned long long)s->seed));
    return o;
}

static json_t *names_of(const nbi_loop *l) {
    json_t *names = json_array();
    for (size_t i = 0; i < l->n_values; i++)
        json_array_append_new(names, json_string(l->value[i].name));
    return names;
}

static nb_status check_identity(nbi_loop *l, const json_t *have) {
    json_t *want = identity_of(l), *value;
    const char *path = l->s->checkpoint, *key;
    nb_status st = NB_OK;
    json_object_foreach(want, key, value) {
        const char *a = json_string_value(json_object_get(have, key)), *b = json_string_value(value);
        if (st != NB_OK || (a && b && !strcmp(a, b))) continue;
        st = nb_fail(l->ctx, NB_EINVAL,
                     "checkpoint '%s' belongs to another run: its %s is %s, here it is %s", path, key,
                     a ? a : "missing", b ? b : "?");
    }
    json_decref(want);
    return st;
}

static nb_status check_names(nbi_loop *l, const json_t *names) {
    for (size_t i = 0; i < l->n_values || i < json_array_size(names); i++) {
        const char *have = json_string_value(json_array_get(names, i));
        const char *want = i < l->n_values ? l->value[i].name : NULL;
        if (have && want && !strcmp(have, want)) continue;
        return nb_fail(l->ctx, NB_EINVAL,
                       "checkpoint '%s' belongs to another model: it holds '%s' where this one has '%s'",
                       l->s->checkpoint, have ? have : "nothing", want ? want : "nothing");
    }
    return NB_OK;
}

/* ---- saving, loading ----------------------------------------------------------------------------- */

static nb_status check_finite(nbi_loop *l) {
    for (size_t i = 0; i < l->n_values; i++)
        for (size_t k = 0; k < l->value[i].count; k++)
            if (!isfinite(l->value[i].value[k]))
                return nb_fail(l->ctx, NB_ENUMERIC,
                               "'%s' is not finite after step %llu; a smaller learning rate may help",
                               l->value[i].name, (unsigned long long)l->step);
    return NB_OK;
}

nb_status nbi_loop_save(nbi_loop *l) {
    arrays a = {0};
    uint64_t *steps, *updates = NULL;
    nbi_state *unused;
    size_t n;
    nb_status st;
    if (!l->s->checkpoint) return NB_OK;
    NB_TRY(check_finite(l));
    nbi_optimizer_state(l->optimizer, &unused, &n, &steps);
    if (l->ema) nbi_ema_state(l->ema, &unused, &n, &updates);
    json_t *json =
        json_pack("{s:i,s:o,s:o,s:I,s:I,s:I,s:i,s:i}", "format", FORMAT, "identity", identity_of(l),
                  "names", names_of(l), "step", (json_int_t)l->step, "optimizer_steps",
                  (json_int_t)*steps, "ema_updates", (json_int_t)(updates ? *updates : 0),
                  "judged", l->judged, "best_epoch", l->best_epoch);
    if (!json) return nb_fail(l->ctx, NB_ENOMEM, "no memory for the checkpoint");
    /* 17 digits bring a double back exactly; there is no number for "no metric yet" */
    json_object_set_new(json, "loss_sum", json_real(l->loss_sum));
    json_object_set_new(json, "last_loss", json_real(l->last_loss));
    if (isfinite(l->best_metric))
        json_object_set_new(json, "best_metric", json_real(l->best_metric));
    NB_TRYG(list_arrays(l, &a));
    NB_TRYG(nbi_checkpoint_write(l->ctx, l->s->checkpoint, json, a.n, a.item));
    l->last_save = nb_seconds(l->ctx);
done:
    json_decref(json);
    nbi_free(a.item);
    return st;
}

static nb_status read_progress(nbi_loop *l, const json_t *json) {
    nbi_state *unused;
    size_t n;
    uint64_t *steps, *updates = NULL;
    json_int_t step = json_integer_value(json_object_get(json, "step"));
    json_int_t best = json_integer_value(json_object_get(json, "best_epoch"));
    json_int_t judged = json_integer_value(json_object_get(json, "judged"));
    json_int_t per_epoch = (json_int_t)nbi_batches_per_epoch(l->s->batches);
    if (step < 0 || (uint64_t)step > l->schedule.steps || judged < 0 || best < 0 || best > judged ||
        step < judged * per_epoch || step > (judged + 1) * per_epoch)
        return nb_fail(l->ctx, NB_EFORMAT, "checkpoint '%s' is damaged: step %lld of %llu",
                       l->s->checkpoint, (long long)step, (unsigned long long)l->schedule.steps);
    nbi_optimizer_state(l->optimizer, &unused, &n, &steps);
    *steps = (uint64_t)json_integer_value(json_object_get(json, "optimizer_steps"));
    if (l->ema) {
        nbi_ema_state(l->ema, &unused, &n, &updates);
        *updates = (uint64_t)json_integer_value(json_object_get(json, "ema_updates"));
    }
    l->step = (uint64_t)step;
    l->judged = (int)judged;
    l->best_epoch = (int)best;
    l->loss_sum = json_number_value(json_object_get(json, "loss_sum"));
    l->last_loss = json_number_value(json_object_get(json, "last_loss"));
    const json_t *metric = json_object_get(json, "best_metric");
    if (metric) l->best_metric = json_number_value(metric);
    return NB_OK;
}

nb_status nbi_loop_load(nbi_loop *l) {
    json_t *json = NULL;
    arrays a = {0};
    nb_status st;
    NB_TRY(nbi_checkpoint_json(l->ctx, l->s->checkpoint, &json));
    if (json_integer_value(json_object_get(json, "format")) != FORMAT) {
        st = nb_fail(l->ctx, NB_EFORMAT, "'%s' is not a checkpoint of this version",
                     l->s->checkpoint);
        goto done;
    }
    NB_TRYG(check_names(l, json_object_get(json, "names")));
    NB_TRYG(check_identity(l, json_object_get(json, "identity")));
    NB_TRYG(list_arrays(l, &a));
    NB_TRYG(nbi_checkpoint_read(l->ctx, l->s->checkpoint, a.n, a.item));
    st = read_progress(l, json);
done:
    json_decref(json);
    nbi_free(a.item);
    return st;
}
