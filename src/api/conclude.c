/* The end of a job: trained values, results.json, the answer. */
#include "api/finished.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static nb_status write_results(nbi_session *s, const json_t *result) {
    nbi_buf path = {0};
    nb_status st = nbi_buf_printf(s->ctx, &path, "%s/results.json", s->o->output);
    if (st == NB_OK) st = nbi_json_write(s->ctx, result, path.data);
    nbi_buf_free(&path);
    return st;
}

/* What was trained, or no file of it: one of an earlier run would mislead. */
static nb_status keep_tuned(nbi_session *s, const nbi_tuning_result *tuning) {
    nbi_tuned_info info = {.epochs = tuning->epochs, .origin_epochs = tuning->origin_epochs,
                           .origin_merit = tuning->origin_merit};
    nbi_buf path = {0};
    memcpy(info.origin, tuning->origin, sizeof info.origin);
    if (s->tuned) return nbi_tuned_save(s, s->tuned, &info);
    NB_TRY(nbi_buf_printf(s->ctx, &path, "%s/tuned.npz", s->o->output));
    remove(path.data);
    nbi_buf_free(&path);
    return NB_OK;
}

nb_status nbi_conclude(nbi_session *s, nbi_outcome *out, nbi_tuning_result *tuning,
                       const json_t *search, json_t **result) {
    char hash[20];
    json_t *r = NULL;
    nb_status st;
    NB_TRYG(nbi_deliver(s, out, &r));
    if (search) json_object_set_new(r, "search", json_deep_copy(search));
    if (tuning->lines) json_object_set_new(r, "finetune", tuning->lines);
    tuning->lines = NULL;
    if (s->about_meta) json_object_set(r, "hypernetwork", s->about_meta);
    if (s->about_settings) json_object_set(r, "settings_search", s->about_settings);
    nbi_judge_limits(s, out, r);
    json_object_set_new(r, "model", nbi_json_string(s->model->path));
    nbi_hash_text(nbi_graph_hash(s->source), hash);
    json_object_set_new(r, "model_hash", json_string(hash));
    json_object_set_new(r, "settings", nbi_run_settings(s));
    NB_TRYG(keep_tuned(s, tuning));
    NB_TRYG(write_results(s, r));
    *result = r;
    r = NULL;
done:
    json_decref(r);
    return st;
}

nb_status nbi_answer(nb_ctx *ctx, nb_status st, const nbi_outcome *out, json_t *result,
                     char **json) {
    char missed[400] = "the limits cannot be met; the closest policy was written";
    if (st != NB_OK) {
        json_decref(result);
        return st;
    }
    nbi_describe_miss(result, missed, sizeof missed);
    NB_TRY(nbi_json_text(ctx, result, json));
    return !out || out->feasible ? NB_OK : nb_fail(ctx, NB_ELIMIT, "%s", missed);
}
