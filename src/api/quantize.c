/* nb_quantize and nb_sensitivity: the stages in order. */
#include "api/session.h"

#include "exec/exec.h"
#include "quant/generate.h"
#include "runtime/footprint.h"

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

/* Sizes of the uniform policies, without data. */
static nb_status dry_run(nbi_session *s, json_t **out) {
    nb_status st = NB_OK;
    nbi_choice *bits;
    NB_TRY(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits));
    json_t *root = json_object(), *rows = json_array();
    for (int w = 0; w < s->n_weight_bits && st == NB_OK; w++)
        for (int a = 0; a < s->n_activation_bits && st == NB_OK; a++) {
            nbi_net_cost c;
            size_t ram = 0;
            nbi_session_uniform(s, s->weight_bits[w], s->activation_bits[a], bits);
            nbi_net_cost_of(s->net, bits, s->containers, &c);
            st = nbi_footprint_ram(s->ctx, s->net, bits, &ram);
            json_array_append_new(rows, json_pack("{s:i,s:i,s:f,s:f,s:f,s:f,s:f}", "weight_bits",
                                                  s->weight_bits[w], "activation_bits",
                                                  s->activation_bits[a], "bytes", c.bytes,
                                                  "bytes_onnx", c.bytes_onnx, "average_weight_bits",
                                                  c.weights > 0 ? c.weight_bits / c.weights : 0.0,
                                                  "bops", c.bops, "peak_ram", (double)ram));
        }
    json_object_set_new(root, "dry_run", json_true());
    json_object_set_new(root, "uniform", rows);
    json_t *untouched = json_array();
    for (int i = 0; i < s->net->n_untouched; i++)
        json_array_append_new(untouched, json_string(s->net->untouched[i]));
    json_object_set_new(root, "untouched", untouched);
    nbi_session_uniform(s, 8, 8, bits);
    json_t *policy = nbi_policy_json(s, bits);
    json_object_set_new(root, "sites", json_incref(json_object_get(policy, "policy")));
    json_decref(policy);
    nbi_free(bits);
    if (st == NB_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}

static nb_status check_latency(nbi_session *s, nbi_outcome *out, json_t *result) {
    if (s->o->max_latency <= 0) return NB_OK;
    double got =
        json_number_value(json_object_get(json_object_get(result, "quantized"), "latency"));
    out->feasible &= got <= s->o->max_latency;
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
                {NBI_COST_BOPS, "max-bops"}};
    json_t *limits = json_array();
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (isfinite(s->problem->limit[rows[i].id]))
            json_array_append_new(limits, limit_row(rows[i].name, s->problem->limit[rows[i].id],
                                                    o->cost[rows[i].id]));
    if (isfinite(o->drop_bound))
        json_array_append_new(
            limits, limit_row("max-drop", s->o->max_drop >= 0 ? s->o->max_drop : 1, o->drop_bound));
    json_object_set_new(result, "limits", limits);
}

/* "max-size 2000: the closest policy has 12345". */
static void describe_miss(const json_t *result, char *text, size_t size) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(result, "limits"), i, row) {
        if (json_is_true(json_object_get(row, "ok"))) continue;
        snprintf(text, size,
                 "%s %.6g cannot be met: the closest policy, which was written, has "
                 "%.6g (more widths, or --first-last searched, give more room)",
                 json_string_value(json_object_get(row, "limit")),
                 json_number_value(json_object_get(row, "wanted")),
                 json_number_value(json_object_get(row, "got")));
        return;
    }
}

/* The drop that counts is the one after fine-tuning. What was trained when a request to stop came
 * is still measured and delivered. */
static nb_status finetune(nbi_session *s, nbi_outcome *out, json_t **lines) {
    nb_status st = nbi_finetune(s, out->bits, lines);
    out->cancelled = nb_cancelled(s->ctx);
    nbi_cancel_clear(s->ctx);
    if (st != NB_OK && st != NB_ECANCELLED) return st;
    if (!isfinite(out->drop_bound) || !s->tuned) return NB_OK;
    st = nbi_measure_drop(s, out->bits, &out->drop, &out->drop_bound);
    if (st != NB_OK) {
        json_decref(*lines);
        *lines = NULL;
        return st;
    }
    double most = s->o->max_drop >= 0 ? s->o->max_drop : 1;
    out->feasible = nbi_feasible(s->problem, out->cost) && out->drop_bound <= most;
    return NB_OK;
}

/* Drop and limits are those of the weights as delivered. */
static nb_status learn(nbi_session *s, nbi_outcome *out, json_t **lines) {
    nb_status st = nbi_learn(s, out->bits, &out->loss, lines);
    out->cancelled |= nb_cancelled(s->ctx);
    nbi_cancel_clear(s->ctx);
    if (st == NB_ECANCELLED) return NB_OK;
    if (st != NB_OK || !s->learned || !isfinite(out->drop_bound)) return st;
    NB_TRY(nbi_measure_drop(s, out->bits, &out->drop, &out->drop_bound));
    double most = s->o->max_drop >= 0 ? s->o->max_drop : 1;
    out->feasible = nbi_feasible(s->problem, out->cost) && out->drop_bound <= most;
    return NB_OK;
}

static nb_status quantize(nbi_session *s, nbi_outcome *out, json_t **result) {
    nb_ctx *ctx = s->ctx;
    if (s->o->dry_run) return dry_run(s, result);
    if (!s->o->output) return nb_fail(ctx, NB_EINVAL, "no folder for the results: name it with -o");
    NB_TRY(nbi_make_folder(ctx, s->o->output));
    NB_TRY(nbi_session_calibrate(s));
    NB_TRY(nbi_set_limits(s));
    if (s->o->finetune > 0) NB_TRY(nbi_finetune_check(s));
    NB_TRY(nbi_alloc(ctx, (size_t)s->net->n_sites + 1, sizeof *out->bits, &out->bits));
    NB_TRY(nbi_choose(s, out));
    json_t *lines = NULL, *learned = NULL;
    nb_status st = NB_OK;
    if (!out->cancelled) st = learn(s, out, &learned);
    if (st == NB_OK && s->o->finetune > 0 && !out->cancelled) st = finetune(s, out, &lines);
    if (st == NB_OK) st = nbi_deliver(s, out, result);
    if (st != NB_OK) {
        json_decref(lines);
        json_decref(learned);
        return st;
    }
    if (learned) json_object_set_new(*result, "ptq", learned);
    if (lines) json_object_set_new(*result, "finetune", lines);
    add_limits(s, out, *result);
    return check_latency(s, out, *result);
}

nb_status nb_quantize(nb_ctx *ctx, const char *path, const nb_quantize_options *options,
                      char **json) {
    nbi_json_begin();
    nbi_session s = {0};
    nbi_outcome out = {0};
    json_t *result = NULL;
    nb_status st = nbi_session_open(ctx, path, options, &s);
    if (st == NB_OK) st = quantize(&s, &out, &result);
    bool met = options->dry_run || out.feasible || out.cancelled;
    char missed[256] = "the limits cannot be met; the closest policy was written";
    if (st == NB_OK && !met) describe_miss(result, missed, sizeof missed);
    if (st == NB_OK && !options->dry_run) {
        json_object_set_new(result, "met", json_boolean(out.feasible));
        json_object_set_new(result, "model", nbi_json_string(s.model->path));
        nbi_buf file = {0};
        st = nbi_buf_printf(ctx, &file, "%s/results.json", options->output);
        if (st == NB_OK) st = nbi_json_write(ctx, result, file.data);
        nbi_buf_free(&file);
        if (st == NB_OK) st = nb_report(ctx, options->output, NULL);
    }
    nbi_free(out.bits);
    nbi_session_close(&s);
    if (st != NB_OK) {
        json_decref(result);
        return st;
    }
    NB_TRY(nbi_json_text(ctx, result, json));
    return met ? NB_OK : nb_fail(ctx, NB_ELIMIT, "%s", missed);
}

/* ---- sensitivity ----------------------------------------------------------------------------- */

nb_status nbi_sensitivity_json(nbi_session *s, json_t **out) {
    double **delta;
    NB_TRY(nbi_session_sensitivity(s, &delta));
    json_t *root = json_object(), *list = json_array();
    size_t n = (size_t)s->problem->n_vars;
    uint8_t *policy = NULL;
    nbi_choice *bits = NULL;
    nb_status st = nbi_alloc(s->ctx, n + 1, 1, &policy);
    if (st == NB_OK) st = nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits);
    for (size_t v = 0; st == NB_OK && v < n; v++) {
        json_t *row = json_object(), *options = json_array();
        for (int o = 0; o < s->problem->n_options[v] && st == NB_OK; o++) {
            double cost[NBI_COST_COUNT], sqnr = 0;
            for (size_t k = 0; k < n; k++) policy[k] = (uint8_t)(s->problem->n_options[k] - 1);
            policy[v] = (uint8_t)o;
            st = s->problem->cost(s->ctx, s->problem->self, policy, cost);
            nbi_netproblem_bits(s->np, policy, bits);
            int site = nbi_netproblem_site(s->np, (int)v);
            if (o == 0) {
                const nbi_site *t = &s->net->site[site];
                json_object_set_new(row, "tensor", json_string(t->name));
                json_object_set_new(row, "layer", json_string(s->net->layer[t->layer].name));
                json_object_set_new(
                    row, "kind", json_string(t->kind == NBI_SITE_WEIGHT ? "weight" : "activation"));
                json_object_set_new(row, "elements", json_integer((json_int_t)t->count));
            }
            if (st == NB_OK && s->net->site[site].kind == NBI_SITE_WEIGHT)
                st = nbi_scorer_weight_sqnr(s->ctx, s->scorer, site, bits[site], &sqnr);
            else
                sqnr = s->net->site[site].sqnr[bits[site]];
            json_array_append_new(options, json_pack("{s:i,s:f,s:f,s:f}", "bits", bits[site],
                                                     "loss", delta[v][o], "sqnr", sqnr, "bytes",
                                                     cost[NBI_COST_BYTES]));
        }
        json_object_set_new(row, "options", options);
        json_array_append_new(list, row);
    }
    nbi_free(policy);
    nbi_free(bits);
    json_object_set_new(root, "tensors", list);
    json_object_set_new(root, "loss", json_string(s->loss == NBI_LOSS_KL ? "kl" : "mse"));
    json_object_set_new(root, "images", json_integer((json_int_t)(s->images.n - s->calib)));
    if (st == NB_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}

nb_status nb_sensitivity(nb_ctx *ctx, const char *path, const nb_quantize_options *options,
                         char **json) {
    nbi_json_begin();
    nbi_session s = {0};
    json_t *root = NULL;
    nb_status st = nbi_session_open(ctx, path, options, &s);
    if (st == NB_OK) st = nbi_session_calibrate(&s);
    if (st == NB_OK) st = nbi_sensitivity_json(&s, &root);
    nbi_session_close(&s);
    if (st != NB_OK) return st;
    return nbi_json_text(ctx, root, json);
}
