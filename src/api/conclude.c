/* The end of a job: limits beside what came out, trained values, results.json, the answer. */
#include "api/finished.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *limit_row(const char *name, double wanted, double got) {
    json_t *row = json_object();
    json_object_set_new(row, "limit", json_string(name));
    json_object_set_new(row, "wanted", json_real(wanted));
    json_object_set_new(row, "got", json_real(got));
    json_object_set_new(row, "ok", json_boolean(got <= wanted));
    return row;
}

/* Without a table of the user's the choice is measured once more, as it was written, and that decides.
 */
static nb_status check_latency(nbi_session *s, nbi_outcome *out, json_t *result) {
    if (s->o->max_latency <= 0 || (s->costs && !nbi_step_costs_measured(s->costs))) return NB_OK;
    double got =
        json_number_value(json_object_get(json_object_get(result, "quantized"), "latency"));
    double cost[NBI_COST_COUNT];
    memcpy(cost, out->cost, sizeof cost);
    cost[NBI_COST_LATENCY] = got;
    out->feasible = nbi_feasible(s->problem, cost) && got <= s->o->max_latency;
    if (isfinite(out->drop_bound))
        out->feasible &= out->drop_bound <= (s->o->max_drop >= 0 ? s->o->max_drop : 1);
    json_array_append_new(json_object_get(result, "limits"),
                          limit_row("max-latency", s->o->max_latency, got));
    return NB_OK;
}

/* Rows of what was asked for and what came out. */
static void add_limits(const nbi_session *s, const nbi_outcome *o, json_t *result) {
    static const struct {
        nbi_cost_id id;
        const char *name;
    } rows[] = {{NBI_COST_BYTES, "max-size"},
                {NBI_COST_BYTES_ONNX, "max-size (onnx)"},
                {NBI_COST_AVG_BITS, "avg-bits"},
                {NBI_COST_RAM, "max-ram"},
                {NBI_COST_BOPS, "max-bops"},
                {NBI_COST_LATENCY, "max-latency"},
                {NBI_COST_ENERGY, "max-energy"}};
    json_t *limits = json_array();
    const bool measured = s->costs && nbi_step_costs_measured(s->costs);
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (isfinite(s->problem->limit[rows[i].id]) &&
            !(measured && rows[i].id == NBI_COST_LATENCY)) /* check_latency */
            json_array_append_new(limits, limit_row(rows[i].name, s->problem->limit[rows[i].id],
                                                    o->cost[rows[i].id]));
    if (isfinite(o->drop_bound))
        json_array_append_new(
            limits, limit_row("max-drop", s->o->max_drop >= 0 ? s->o->max_drop : 1, o->drop_bound));
    json_object_set_new(result, "limits", limits);
}

static const char *unit_of(const char *limit) {
    return !strncmp(limit, "max-size", 8) || !strcmp(limit, "max-ram") ? " bytes"
           : !strcmp(limit, "max-latency")                             ? " s"
           : !strcmp(limit, "max-energy")                              ? " J"
                                                                       : "";
}

/* "max-size 2000 bytes cannot be met: the closest policy …, has 12345 bytes". */
static void describe_miss(const json_t *result, char *text, size_t size) {
    const double stays = json_number_value(
        json_object_get(json_object_get(result, "quantized"), "untouched_bytes"));
    char part[64] = "";
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(result, "limits"), i, row) {
        const char *limit = json_string_value(json_object_get(row, "limit"));
        if (json_is_true(json_object_get(row, "ok"))) continue;
        if (stays > 0 && !strncmp(limit, "max-size", 8))
            snprintf(part, sizeof part, ", %.6g of them in nodes that stay float", stays);
        snprintf(text, size,
                 "%s %.6g%s cannot be met: the closest policy, which was written, has "
                 "%.6g%s%s (more widths, or --first-last searched, give more room)",
                 limit, json_number_value(json_object_get(row, "wanted")), unit_of(limit),
                 json_number_value(json_object_get(row, "got")), unit_of(limit), part);
        return;
    }
}

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
    add_limits(s, out, r);
    NB_TRYG(check_latency(s, out, r));
    json_object_set_new(r, "met", json_boolean(out->feasible));
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
    char missed[320] = "the limits cannot be met; the closest policy was written";
    if (st != NB_OK) {
        json_decref(result);
        return st;
    }
    describe_miss(result, missed, sizeof missed);
    NB_TRY(nbi_json_text(ctx, result, json));
    bool met = !out || out->feasible || out->cancelled;
    return met ? NB_OK : nb_fail(ctx, NB_ELIMIT, "%s", missed);
}
