/* The settings of a run, written and read by one table: an option that changes what a session is
 * has a row here. */
#include "api/finished.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { VERSION = 2, RESULTS_MAX = 1 << 28 };

typedef enum row_type { TEXT, INT, COUNT, REAL, BOOL, SEED } row_type; /* SEED: −1 is none */
typedef struct row {
    const char *name;
    row_type type;
    size_t at;
} row;
#define ROW(name, type, field)                                                                     \
    { name, type, offsetof(nb_quantize_options, field) }
static const row rows[] = {ROW("data", TEXT, data.path),
                           ROW("limit", COUNT, data.limit),
                           ROW("val", COUNT, data.val),
                           ROW("val_seed", SEED, data.val_seed),
                           ROW("resize", INT, data.resize),
                           ROW("crop", INT, data.crop),
                           ROW("scale", TEXT, data.scale),
                           ROW("mean", TEXT, data.mean),
                           ROW("std", TEXT, data.std),
                           ROW("metric", TEXT, data.metric),
                           ROW("max_size", REAL, max_size),
                           ROW("compression", REAL, compression),
                           ROW("avg_bits", REAL, avg_bits),
                           ROW("max_ram", REAL, max_ram),
                           ROW("max_bops", REAL, max_bops),
                           ROW("max_latency", REAL, max_latency),
                           ROW("max_energy", REAL, max_energy),
                           ROW("cost_table", TEXT, cost_table),
                           ROW("max_drop", REAL, max_drop),
                           ROW("for", TEXT, target),
                           ROW("opset", INT, opset),
                           ROW("schemes", TEXT, schemes),
                           ROW("weight_bits", TEXT, weight_bits),
                           ROW("activation_bits", TEXT, activation_bits),
                           ROW("bias_bits", TEXT, bias_bits),
                           ROW("residual_bits", INT, residual_bits),
                           ROW("granularity", TEXT, granularity),
                           ROW("first_last", TEXT, first_last),
                           ROW("range", TEXT, range),
                           ROW("calib", COUNT, calib),
                           ROW("correct", BOOL, correct),
                           ROW("ptq", TEXT, ptq),
                           ROW("batch", INT, batch),
                           ROW("c_name", TEXT, c_name)};

/* ---- hashes ---------------------------------------------------------------------------------- */

static uint64_t hash_text(uint64_t h, const char *text) {
    return nbi_hash(h, text, strlen(text) + 1);
}

uint64_t nbi_graph_hash(const nbi_graph *g) {
    uint64_t h = NBI_HASH_START;
    for (int i = 0; i < g->n_nodes; i++) {
        const nbi_node *n = g->node[i];
        h = hash_text(hash_text(h, n->domain), n->op_type);
        for (int k = 0; k < n->n_in; k++)
            h = hash_text(h, n->in[k] < 0 ? "" : g->tensor[n->in[k]]->name);
        for (int k = 0; k < n->n_out; k++)
            h = hash_text(h, n->out[k] < 0 ? "" : g->tensor[n->out[k]]->name);
    }
    for (int i = 0; i < g->n_tensors; i++) {
        const nbi_tensor *t = g->tensor[i];
        if (!t->data || t->dtype == NB_DTYPE_STRING) continue;
        h = hash_text(h, t->name);
        h = nbi_hash(h, t->data, nbi_dtype_bytes(t->dtype, (size_t)nbi_tensor_count(t)));
    }
    return h;
}

void nbi_hash_text(uint64_t hash, char out[20]) {
    snprintf(out, 20, "%016llx", (unsigned long long)hash);
}

uint64_t nbi_policy_hash(const nbi_session *s, const nbi_choice *bits) {
    uint64_t h = NBI_HASH_START;
    for (int i = 0; i < s->net->n_sites; i++) { /* policy.json gives inputs and outputs no choice */
        nbi_site_kind kind = s->net->site[i].kind;
        if (kind != NBI_SITE_INPUT && kind != NBI_SITE_OUTPUT) h = nbi_hash(h, &bits[i], sizeof *bits);
    }
    return h;
}

/* ---- settings -------------------------------------------------------------------------------- */

static json_t *row_json(const row *r, const void *base) {
    const char *at = (const char *)base + r->at;
    switch (r->type) {
    case TEXT: {
        const char *text = *(const char *const *)(const void *)at;
        return text ? nbi_json_string(text) : json_null();
    }
    case SEED:
    case INT: return json_integer(*(const int *)(const void *)at);
    case COUNT: return json_integer((json_int_t) * (const size_t *)(const void *)at);
    case REAL: return json_real(*(const double *)(const void *)at);
    case BOOL: return json_boolean(*(const bool *)(const void *)at);
    }
    return NULL;
}

json_t *nbi_run_settings(const nbi_session *s) {
    json_t *root = json_object(), *rules = json_array();
    json_object_set_new(root, "version", json_integer(VERSION));
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        json_object_set_new(root, rows[i].name, row_json(&rows[i], s->o));
    for (size_t i = 0; i < s->o->n_rules; i++)
        json_array_append_new(rules, nbi_json_string(s->o->rules[i]));
    json_object_set_new(root, "rules", rules);
    return root;
}

/* false: the value is missing or of another type. */
static bool read_row(const row *r, const json_t *v, void *base) {
    char *at = (char *)base + r->at;
    switch (r->type) {
    case TEXT:
        if (!json_is_null(v) && !json_is_string(v)) return false;
        *(const char **)(void *)at = json_string_value(v);
        return true;
    case SEED:
    case INT:
        if (!json_is_integer(v) || json_integer_value(v) < (r->type == SEED ? -1 : 0) ||
            json_integer_value(v) > 1 << 30)
            return false;
        *(int *)(void *)at = (int)json_integer_value(v);
        return true;
    case COUNT:
        if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
        *(size_t *)(void *)at = (size_t)json_integer_value(v);
        return true;
    case REAL:
        if (!json_is_number(v)) return false;
        *(double *)(void *)at = json_number_value(v);
        return true;
    case BOOL:
        if (!json_is_boolean(v)) return false;
        *(bool *)(void *)at = json_is_true(v);
        return true;
    }
    return false;
}

static nb_status read_settings(nb_ctx *ctx, const char *path, nbi_run *run) {
    const json_t *s = json_object_get(run->results, "settings"), *rule;
    const json_t *rules = json_object_get(s, "rules");
    size_t i;
    run->options = nb_quantize_options_default();
    if (json_integer_value(json_object_get(s, "version")) != VERSION)
        return nb_fail(ctx, NB_EFORMAT, "'%s' was written by another version: it lacks the "
                       "settings of the run; quantize again", path);
    for (i = 0; i < NBI_COUNT(rows); i++)
        if (!read_row(&rows[i], json_object_get(s, rows[i].name), &run->options))
            return nb_fail(ctx, NB_EFORMAT, "'%s': the setting '%s' is missing or damaged", path,
                           rows[i].name);
    const char *const needed[] = {run->options.target,      run->options.schemes,
                                  run->options.weight_bits, run->options.activation_bits,
                                  run->options.bias_bits,
                                  run->options.granularity, run->options.first_last,
                                  run->options.range,       run->model,
                                  run->hash};
    for (i = 0; i < NBI_COUNT(needed); i++)
        if (!needed[i]) return nb_fail(ctx, NB_EFORMAT, "'%s' is damaged: a text is missing", path);
    NB_TRY(nbi_alloc(ctx, json_array_size(rules) + 1, sizeof *run->rules, &run->rules));
    json_array_foreach(rules, i, rule) {
        if (!json_is_string(rule)) return nb_fail(ctx, NB_EFORMAT, "'%s': a rule is damaged", path);
        run->rules[i] = json_string_value(rule);
    }
    run->options.rules = run->rules;
    run->options.n_rules = i;
    return NB_OK;
}

nb_status nbi_run_read(nb_ctx *ctx, const char *folder, nbi_run *out) {
    nbi_run run = {0};
    nbi_buf path = {0};
    nb_status st;
    if (!nbi_is_folder(folder))
        return nb_fail(ctx, NB_EIO, "'%s' is not a folder that quantize wrote", folder);
    NB_TRYG(nbi_buf_printf(ctx, &path, "%s/results.json", folder));
    if (!nbi_file_exists(path.data)) {
        st = nb_fail(ctx, NB_EIO, "'%s' holds no finished run of quantize: there is no '%s'",
                     folder, path.data);
        goto done;
    }
    NB_TRYG(nbi_json_read(ctx, path.data, RESULTS_MAX, &run.results));
    run.model = json_string_value(json_object_get(run.results, "model"));
    run.hash = json_string_value(json_object_get(run.results, "model_hash"));
    run.seed = (uint64_t)json_integer_value(json_object_get(run.results, "seed"));
    NB_TRYG(read_settings(ctx, path.data, &run));
    *out = run;
    run = (nbi_run){0};
done:
    nbi_run_free(&run);
    nbi_buf_free(&path);
    return st;
}

void nbi_run_free(nbi_run *run) {
    json_decref(run->results);
    nbi_free((void *)run->rules);
    *run = (nbi_run){0};
}
