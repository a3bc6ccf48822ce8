/* DIR/tuned.npz: the float values behind a fine-tuned model, from which a further fine-tuning goes
 * on: what was trained, running statistics, and the steps of weights that are not trained. A tensor
 * is found by its place; model and policy, which fix the places, are named by their hashes. */
#include "api/finished.h"

#include "train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FORMAT = 1, TUNED_MAX = 1 << 30 };

typedef struct values {
    nbi_checkpoint_array *array;
    size_t n;
} values;

static void add(values *v, const nbi_qat *q, int tensor) {
    const nbi_tensor *t = q->graph->tensor[tensor];
    nbi_checkpoint_array *a = &v->array[v->n];
    snprintf(a->name, sizeof a->name, "value.%zu", v->n);
    a->data = t->data;
    a->count = (size_t)nbi_tensor_count(t);
    v->n++;
}

/* What training changes: that it is listed already. */
static bool is_listed(const nbi_qat *q, int tensor) {
    for (int i = 0; i < q->n_train; i++)
        if (q->train[i] == tensor) return true;
    for (int i = 0; i < q->n_states; i++)
        if (q->state[i].to == tensor) return true;
    return false;
}

static nb_status list_values(nb_ctx *ctx, const nbi_qat *q, values *v) {
    size_t sites = 2 * (size_t)q->net->n_sites, layers = (size_t)q->net->n_layers;
    size_t room = (size_t)q->n_train + (size_t)q->n_states + layers + sites + 1;
    NB_TRY(nbi_alloc(ctx, room, sizeof *v->array, &v->array));
    for (int i = 0; i < q->n_train; i++) add(v, q, q->train[i]);
    for (int i = 0; i < q->n_states; i++) add(v, q, q->state[i].to);
    for (int i = 0; i < q->net->n_layers; i++) {
        int step = q->layer[i].weight_scale;
        if (step >= 0 && !is_listed(q, step)) add(v, q, step);
    }
    for (int i = 0; i < q->net->n_sites; i++) {
        const int params[2] = {q->site_scale[i], q->site_params[i]};
        for (int k = 0; k < 2; k++)
            if (params[k] >= 0 && !is_listed(q, params[k])) add(v, q, params[k]);
    }
    return NB_OK;
}

static void identity(const nbi_session *s, const nbi_choice *bits, char model[20],
                     char policy[20]) {
    nbi_hash_text(nbi_graph_hash(s->source), model);
    nbi_hash_text(nbi_policy_hash(s, bits), policy);
}

nb_status nbi_tuned_save(nbi_session *s, const nbi_qat *q, const nbi_tuned_info *info) {
    char model[20], policy[20];
    values v = {0};
    nbi_buf path = {0};
    json_t *json = NULL;
    nb_status st;
    identity(s, q->bits, model, policy);
    NB_TRYG(list_values(s->ctx, q, &v));
    json = json_pack("{s:i,s:s,s:s,s:i,s:s,s:i}", "format", FORMAT, "model", model, "policy",
                     policy, "epochs", info->epochs, "origin", info->origin, "origin_epochs",
                     info->origin_epochs);
    bool judged = info->origin[0] && isfinite(info->origin_merit);
    bool whole = json && (!judged ||
                          !json_object_set_new(json, "origin_merit", json_real(info->origin_merit)));
    if (!whole) {
        st = nb_fail_memory(s->ctx, sizeof *json);
        goto done;
    }
    NB_TRYG(nbi_buf_printf(s->ctx, &path, "%s/tuned.npz", s->o->output));
    st = nbi_checkpoint_write(s->ctx, path.data, json, v.n, v.array);
done:
    json_decref(json);
    nbi_buf_free(&path);
    nbi_free(v.array);
    return st;
}

static nb_status check(nbi_session *s, const char *path, const nbi_choice *bits,
                       const json_t *json) {
    char want[2][20];
    const char *const keys[] = {"model", "policy"};
    identity(s, bits, want[0], want[1]);
    if (json_integer_value(json_object_get(json, "format")) != FORMAT)
        return nb_fail(s->ctx, NB_EFORMAT, "'%s' is not a file of trained values", path);
    for (int i = 0; i < 2; i++) {
        const char *have = json_string_value(json_object_get(json, keys[i]));
        if (!have || strcmp(have, want[i]))
            return nb_fail(s->ctx, NB_EINVAL, "'%s' belongs to another %s: %s, here it is %s", path,
                           keys[i], have ? have : "none", want[i]);
    }
    return NB_OK;
}

static nb_status check_finite(nb_ctx *ctx, const char *path, const values *v) {
    for (size_t i = 0; i < v->n; i++)
        for (size_t k = 0; k < v->array[i].count; k++)
            if (!isfinite(v->array[i].data[k]))
                return nb_fail(ctx, NB_ENUMERIC, "'%s': '%s' is not finite", path,
                               v->array[i].name);
    return NB_OK;
}

static nb_status describe(nb_ctx *ctx, const char *path, const json_t *json,
                          nbi_tuned_info *info) {
    void *bytes;
    size_t size;
    const char *origin = json_string_value(json_object_get(json, "origin"));
    NB_TRY(nbi_file_read(ctx, path, TUNED_MAX, &bytes, &size));
    nbi_hash_text(nbi_hash(NBI_HASH_START, bytes, size), info->id);
    nbi_free(bytes);
    snprintf(info->origin, sizeof info->origin, "%s", origin ? origin : "");
    info->epochs = (int)json_integer_value(json_object_get(json, "epochs"));
    info->origin_epochs = (int)json_integer_value(json_object_get(json, "origin_epochs"));
    const json_t *merit = json_object_get(json, "origin_merit");
    info->origin_merit = json_is_real(merit) ? json_real_value(merit) : NAN;
    return NB_OK;
}

nb_status nbi_tuned_load(nbi_session *s, const char *path, const nbi_choice *bits,
                         const nbi_qat *q, nbi_tuned_info *info) {
    values v = {0};
    json_t *json = NULL;
    nb_status st;
    NB_TRY(nbi_checkpoint_json(s->ctx, path, &json));
    NB_TRYG(check(s, path, bits, json));
    NB_TRYG(list_values(s->ctx, q, &v));
    NB_TRYG(nbi_checkpoint_read(s->ctx, path, v.n, v.array));
    NB_TRYG(check_finite(s->ctx, path, &v));
    st = describe(s->ctx, path, json, info);
done:
    json_decref(json);
    nbi_free(v.array);
    return st;
}
