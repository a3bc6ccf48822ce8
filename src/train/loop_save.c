/* The loop's checkpoints: values, optimizer, average, best values; progress and identity as JSON.
 */
#include "train/loop_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FORMAT = 2 };

/* ---- arrays ---------------------------------------------------------------------------------- */

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

/* ---- identity -------------------------------------------------------------------------------- */

/* An object that is whole or not to be used: jansson tells of a lost member only here. */
typedef struct object {
    json_t *json;
    bool lost;
} object;

static void set(object *o, const char *key, json_t *value) {
    o->lost |= json_object_set_new(o->json, key, value) != 0;
}

/* Paths and names may be any bytes; JSON wants UTF-8. */
static json_t *text_json(const char *text) {
    char copy[512];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c >= 0x80) *c = '?';
    return json_string(copy);
}

static void set_number(object *o, const char *key, double value) {
    set(o, key, json_sprintf("%.9g", value));
}

/* What was a float has seven digits that mean something. */
static void set_float(object *o, const char *key, float value) {
    set(o, key, json_sprintf("%.7g", (double)value));
}

static nb_status whole(nb_ctx *ctx, object *o, json_t **out) {
    if (o->json && !o->lost) {
        *out = o->json;
        return NB_OK;
    }
    json_decref(o->json);
    return nb_fail(ctx, NB_ENOMEM, "no memory for the checkpoint");
}

/* Texts by name, in the order in which a difference is reported. */
static nb_status identity_of(const nbi_loop *l, json_t **out) {
    static const char *const optimizers[] = {"sgd", "adam", "adamw"};
    static const char *const schedules[] = {"constant", "step", "cosine"};
    const nbi_loop_spec *s = l->s;
    object o = {json_object(), false};
    for (int i = 0; i < s->n_identity; i++)
        set(&o, s->identity[i].key, text_json(s->identity[i].value));
    set(&o, "optimizer", json_string(optimizers[s->optimizer.kind]));
    set(&o, "schedule", json_string(schedules[s->schedule.kind]));
    set(&o, "nesterov", json_string(s->optimizer.nesterov ? "yes" : "no"));
    set_number(&o, "lr", s->schedule.lr);
    set_float(&o, "momentum", s->optimizer.momentum);
    set_float(&o, "clip", s->optimizer.clip);
    set_float(&o, "ema", s->ema);
    set_number(&o, "warmup", s->warmup);
    set_number(&o, "epochs", s->epochs);
    set_number(&o, "batch", (double)nbi_batches_size(s->batches));
    set_number(&o, "steps per epoch", (double)nbi_batches_per_epoch(s->batches));
    set_number(&o, "threads", nb_ctx_threads(l->ctx));
    set(&o, "seed", json_sprintf("%llu", (unsigned long long)s->seed));
    return whole(l->ctx, &o, out);
}

static nb_status names_of(const nbi_loop *l, json_t **out) {
    object o = {json_array(), false};
    for (size_t i = 0; i < l->n_values; i++)
        o.lost |= json_array_append_new(o.json, text_json(l->value[i].name)) != 0;
    return whole(l->ctx, &o, out);
}

static nb_status check_identity(nbi_loop *l, const json_t *have) {
    json_t *want, *value;
    const char *key;
    nb_status st = NB_OK;
    NB_TRY(identity_of(l, &want));
    json_object_foreach(want, key, value) {
        const char *a = json_string_value(json_object_get(have, key));
        const char *b = json_string_value(value);
        if (st != NB_OK || (a && !strcmp(a, b))) continue;
        st = nb_fail(l->ctx, NB_EINVAL,
                     "checkpoint '%s' belongs to another run: its %s is %s, here it is %s",
                     l->s->checkpoint, key, a ? a : "missing", b);
    }
    json_decref(want);
    return st;
}

static nb_status check_names(nbi_loop *l, const json_t *have) {
    json_t *want;
    nb_status st = NB_OK;
    NB_TRY(names_of(l, &want));
    for (size_t i = 0; st == NB_OK && (i < l->n_values || i < json_array_size(have)); i++) {
        const char *a = json_string_value(json_array_get(have, i));
        const char *b = json_string_value(json_array_get(want, i));
        if (a && b && !strcmp(a, b)) continue;
        st = nb_fail(l->ctx, NB_EINVAL,
                     "checkpoint '%s' belongs to another model: it holds '%s' where this one has "
                     "'%s'",
                     l->s->checkpoint, a ? a : "nothing", b ? b : "nothing");
    }
    json_decref(want);
    return st;
}

/* ---- saving, loading ------------------------------------------------------------------------- */

static nb_status check_finite(nbi_loop *l) {
    for (size_t i = 0; i < l->n_values; i++)
        for (size_t k = 0; k < l->value[i].count; k++)
            if (!isfinite(l->value[i].value[k]))
                return nb_fail(
                    l->ctx, NB_ENUMERIC,
                    "'%s' is not finite after step %llu; a smaller learning rate may help",
                    l->value[i].name, (unsigned long long)l->step);
    return NB_OK;
}

/* How many steps each parameter took. */
static nb_status steps_of(const nbi_loop *l, json_t **out) {
    nbi_state *unused;
    size_t n;
    uint64_t *steps;
    object o = {json_array(), false};
    nbi_optimizer_state(l->optimizer, &unused, &n, &steps);
    for (int i = 0; i < l->s->n_params; i++)
        o.lost |= json_array_append_new(o.json, json_integer((json_int_t)steps[i])) != 0;
    return whole(l->ctx, &o, out);
}

static nb_status progress_of(nbi_loop *l, json_t **out) {
    uint64_t *updates = NULL;
    nbi_state *unused;
    size_t n;
    object o = {json_object(), false};
    json_t *identity = NULL, *names = NULL, *steps = NULL;
    nb_status st = identity_of(l, &identity);
    if (st == NB_OK) st = names_of(l, &names);
    if (st == NB_OK) st = steps_of(l, &steps);
    if (st != NB_OK) {
        json_decref(identity);
        json_decref(names);
        json_decref(o.json);
        return st;
    }
    if (l->ema) nbi_ema_state(l->ema, &unused, &n, &updates);
    set(&o, "format", json_integer(FORMAT));
    set(&o, "identity", identity);
    set(&o, "names", names);
    set(&o, "step", json_integer((json_int_t)l->step));
    set(&o, "judged", json_integer(l->judged));
    set(&o, "best_epoch", json_integer(l->best_epoch));
    set(&o, "optimizer_steps", steps);
    set(&o, "ema_updates", json_integer((json_int_t)(updates ? *updates : 0)));
    /* 17 digits bring a double back exactly; there is no number for "no metric yet" */
    set(&o, "loss_sum", json_real(l->loss_sum));
    set(&o, "last_loss", json_real(l->last_loss));
    if (isfinite(l->best_metric)) set(&o, "best_metric", json_real(l->best_metric));
    return whole(l->ctx, &o, out);
}

nb_status nbi_loop_save(nbi_loop *l) {
    arrays a = {0};
    json_t *json = NULL;
    nb_status st;
    if (!l->s->checkpoint) return NB_OK;
    NB_TRY(check_finite(l));
    NB_TRYG(progress_of(l, &json));
    NB_TRYG(list_arrays(l, &a));
    NB_TRYG(nbi_checkpoint_write(l->ctx, l->s->checkpoint, json, a.n, a.item));
    l->last_save = nb_seconds(l->ctx);
done:
    json_decref(json);
    nbi_free(a.item);
    return st;
}

static nb_status read_steps(nbi_loop *l, const json_t *json) {
    nbi_state *unused;
    size_t n;
    uint64_t *steps;
    const json_t *list = json_object_get(json, "optimizer_steps");
    nbi_optimizer_state(l->optimizer, &unused, &n, &steps);
    for (int i = 0; i < l->s->n_params; i++) {
        const json_t *count = json_array_get(list, (size_t)i);
        if (!json_is_integer(count) || json_integer_value(count) < 0)
            return nb_fail(l->ctx, NB_EFORMAT, "checkpoint '%s' is damaged: '%s' has no steps",
                           l->s->checkpoint, l->value[i].name);
        steps[i] = (uint64_t)json_integer_value(count);
    }
    return NB_OK;
}

static nb_status read_progress(nbi_loop *l, const json_t *json) {
    nbi_state *unused;
    size_t n;
    uint64_t *updates = NULL;
    json_int_t step = json_integer_value(json_object_get(json, "step"));
    json_int_t best = json_integer_value(json_object_get(json, "best_epoch"));
    json_int_t judged = json_integer_value(json_object_get(json, "judged"));
    json_int_t per_epoch = (json_int_t)nbi_batches_per_epoch(l->s->batches);
    if (step < 0 || (uint64_t)step > l->schedule.steps || judged < 0 || best < 0 || best > judged ||
        step < judged * per_epoch || step > (judged + 1) * per_epoch)
        return nb_fail(l->ctx, NB_EFORMAT, "checkpoint '%s' is damaged: step %lld of %llu",
                       l->s->checkpoint, (long long)step, (unsigned long long)l->schedule.steps);
    NB_TRY(read_steps(l, json));
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
