/* nb_quantize and nb_sensitivity: the stages in order. */
#include "api/session.h"

#include "api/untouched.h"
#include "base/stage.h"
#include "base/team.h"
#include "exec/exec.h"
#include "quant/generate.h"
#include "runtime/footprint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct dry_cost {
    double bytes, bytes_onnx, average_bits, bops, ram;
} dry_cost;

/* The limits that need no data. */
static bool limits_size(const nb_quantize_options *o) {
    return o->max_size > 0 || o->compression > 0 || o->avg_bits > 0 || o->max_ram > 0 || o->max_bops > 0;
}

static void warn_of_unjudged(const nbi_session *s) {
    const nb_quantize_options *o = s->o;
    const struct {
        const char *name;
        bool given;
    } limit[] = {{"max-latency", o->max_latency > 0}, {"max-energy", o->max_energy > 0},
                 {"max-drop", o->max_drop >= 0}};
    char names[64] = "";
    for (size_t i = 0; i < NBI_COUNT(limit); i++) {
        size_t at = strlen(names);
        if (limit[i].given)
            snprintf(names + at, sizeof names - at, "%s--%s", at ? ", " : "", limit[i].name);
    }
    if (*names) nb_log(s->ctx, NB_LOG_WARNING, "not judged by --dry-run: %s", names);
}

static bool fits(const nbi_session *s, const dry_cost *c) {
    const nb_quantize_options *o = s->o;
    const double size = s->for_onnx ? c->bytes_onnx : c->bytes;
    return (o->max_size <= 0 || size <= o->max_size) &&
           (o->compression <= 0 || size <= nbi_float_bytes(s) / o->compression) &&
           (o->avg_bits <= 0 || c->average_bits <= o->avg_bits) &&
           (o->max_ram <= 0 || c->ram <= o->max_ram) && (o->max_bops <= 0 || c->bops <= o->max_bops);
}

/* One uniform policy, added to rows; *fitting counts those within the limits. */
static nb_status dry_row(nbi_session *s, nbi_choice w, nbi_choice a, nbi_choice b,
                         nbi_choice *bits, json_t *rows, int *fitting) {
    nbi_net_cost c;
    size_t ram = 0;
    nbi_session_uniform(s, w, a, bits);
    for (int i = 0; i < s->net->n_sites; i++)
        if (s->net->site[i].kind == NBI_SITE_BIAS && !s->fixed[i]) bits[i] = b;
    nbi_net_cost_of(s->net, bits, s->containers, &c);
    NB_TRY(nbi_footprint_ram(s->ctx, s->net, bits, &ram));
    double bytes = s->untouched_bytes + (double)nbi_footprint_fixed(s->net) +
                   (double)nbi_footprint_variable(s->net, bits);
    const dry_cost cost = {bytes, s->untouched_bytes + c.bytes_onnx,
                           c.weights > 0 ? c.weight_bits / c.weights : 0, c.bops, (double)ram};
    json_t *row = json_pack("{s:i,s:s,s:i,s:s,s:i,s:o,s:o,s:f,s:o,s:o}", "weight_bits",
                            nbi_choice_bits(w), "weight_scheme", nbi_choice_row(w)->name,
                            "activation_bits", nbi_choice_bits(a), "activation_scheme",
                            nbi_choice_row(a)->name, "bias_bits", nbi_choice_bits(b), "bytes",
                            nbi_json_number(cost.bytes), "bytes_onnx", nbi_json_number(cost.bytes_onnx),
                            "average_weight_bits", cost.average_bits, "bops", nbi_json_number(cost.bops),
                            "peak_ram", nbi_json_number(cost.ram));
    if (limits_size(s->o)) json_object_set_new(row, "fits", json_boolean(fits(s, &cost)));
    *fitting += fits(s, &cost);
    json_array_append_new(rows, row);
    return NB_OK;
}

/* Sizes of the uniform policies, without data: what looks like a picture is taken to be one, whose
 * pixels become the input's codes by tables. */
static nb_status dry_run(nbi_session *s, json_t **out) {
    const nbi_edge *input = &s->net->edge[s->net->input];
    nb_status st = NB_OK;
    nbi_choice *bits;
    int fitting = 0;
    warn_of_unjudged(s);
    if (input->rank == 4 && input->c <= 4) nbi_set_pixels(s->net, &s->transform);
    NB_TRY(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits));
    json_t *root = json_object(), *rows = json_array();
    for (int w = 0; w < s->weights.n && st == NB_OK; w++)
        for (int a = 0; a < s->activations.n && st == NB_OK; a++)
            for (int b = 0; b < s->biases.n && st == NB_OK; b++)
                st = dry_row(s, s->weights.choice[w], s->activations.choice[a],
                             s->biases.choice[b], bits, rows, &fitting);
    if (st == NB_OK && !fitting)
        nb_log(s->ctx, NB_LOG_WARNING, "no uniform policy of these widths is within the limits");
    json_object_set_new(root, "dry_run", json_true());
    json_object_set_new(root, "uniform", rows);
    if (s->untouched_bytes > 0)
        json_object_set_new(root, "untouched_bytes", json_real(s->untouched_bytes));
    json_object_set_new(root, "untouched", nbi_untouched_names(s->net));
    nbi_session_uniform(s, 8, 8, bits);
    json_t *policy = nbi_policy_json(s, bits);
    json_object_set_new(root, "sites", json_incref(json_object_get(policy, "policy")));
    json_object_set_new(root, "decisions", nbi_decisions_json(s));
    json_decref(policy);
    nbi_free(bits);
    if (st == NB_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}

/* The drop that counts is the one after fine-tuning. What was trained when a request to stop came
 * is still measured and delivered. */
nb_status nbi_tune(nbi_session *s, nbi_outcome *out, nbi_tuning_result *result) {
    nb_status st = nbi_finetune(s, out->bits, result);
    out->cancelled = nb_cancelled(s->ctx);
    nb_ctx_clear_cancel(s->ctx);
    if (st != NB_OK && st != NB_ECANCELLED) return st;
    if (!isfinite(out->drop_bound) || !s->tuned) return NB_OK;
    NB_TRY(nbi_measure_drop(s, out->bits, &out->drop, &out->drop_bound));
    out->feasible = nbi_feasible(s->problem, out->cost) && out->drop_bound <= nbi_max_drop(s);
    return NB_OK;
}

/* Drop and limits are those of the weights as delivered. */
static nb_status learn(nbi_session *s, nbi_outcome *out) {
    nb_status st = nbi_learn(s, out->bits, &out->loss);
    out->cancelled |= nb_cancelled(s->ctx);
    nb_ctx_clear_cancel(s->ctx);
    if (st == NB_ECANCELLED) {
        if (!s->learned) nbi_rank(s, true); /* what was scored is delivered */
        return NB_OK;
    }
    if (st != NB_OK || (!s->learned && !s->ranker) || !isfinite(out->drop_bound)) return st;
    NB_TRY(nbi_measure_drop(s, out->bits, &out->drop, &out->drop_bound));
    out->feasible = nbi_feasible(s->problem, out->cost) && out->drop_bound <= nbi_max_drop(s);
    return NB_OK;
}

/* What every process of a team does; rank 0 alone writes. */
static nb_status prepare(nbi_session *s, bool writes) {
    const char *folder = s->o->output;
    if (!folder) return nb_fail(s->ctx, NB_EINVAL, "no folder for the results: name it with -o");
    if (writes) NB_TRY(nbi_stage_recover(s->ctx, folder));
    if (writes) NB_TRY(nbi_make_folder(s->ctx, folder));
    return nbi_session_prepare(s);
}

/* Has an interrupted run delivered its best so far? It stays where the same cannot go on. */
static bool goes_on(const nbi_session *s) {
    nbi_buf path = {0};
    bool found = s->o->resume && nbi_buf_printf(s->ctx, &path, "%s/results.json", s->folder) == NB_OK &&
                 nbi_file_exists(path.data);
    nbi_buf_free(&path);
    return found;
}

/* Where fine-tuning fails, the policy without it is delivered, and the failure returned. */
static nb_status quantize(nbi_session *s, nbi_outcome *out, json_t **result) {
    nb_ctx *ctx = s->ctx;
    NB_TRY(nbi_session_pose(s));
    NB_TRY(nbi_set_limits(s));
    if (s->o->finetune > 0) NB_TRY(nbi_finetune_check(s));
    NB_TRY(nbi_alloc(ctx, (size_t)s->net->n_sites + 1, sizeof *out->bits, &out->bits));
    NB_TRY(nbi_choose(s, out));
    nbi_tuning_result tuning = {0};
    nb_status st = NB_OK;
    char why[512] = "";
    if (!out->cancelled) st = learn(s, out);
    const bool tunes = st == NB_OK && s->o->finetune > 0 && !out->cancelled;
    if (tunes) st = nbi_tune(s, out, &tuning);
    const nb_status failed = tunes && (st == NB_ENUMERIC || !goes_on(s)) ? st : NB_OK;
    if (failed != NB_OK) {
        snprintf(why, sizeof why, "%s", nb_ctx_message(ctx));
        nbi_qat_free(s->tuned), s->tuned = NULL;
        json_decref(tuning.lines);
        tuning = (nbi_tuning_result){0};
    }
    if (st == NB_OK || failed != NB_OK) st = nbi_conclude(s, out, &tuning, NULL, result);
    if (st == NB_OK) nbi_finetune_forget(s, &tuning);
    json_decref(tuning.lines);
    if (st == NB_OK && failed != NB_OK)
        st = nb_fail(ctx, failed, "fine-tuning: %s; '%s' holds the policy without it", why,
                     s->o->output);
    return st;
}

static bool search_learns(const nb_quantize_options *o) {
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(o->search, ":"), o->search);
    const nbi_search *search = o->policy ? NULL : nbi_search_find(name);
    return search && search->learns;
}

/* What says how to train says nothing without training; --batch is kept for 'nibble finetune'. Nor does
 * a name of what is not written. */
static void warn_of_unused(nb_ctx *ctx, const nb_quantize_options *o) {
    const nb_descent_options *d = &o->descent;
    const struct {
        const char *name;
        bool given;
    } option[] = {{"lr", o->learning_rate > 0},   {"start", strcmp(o->start, "auto") != 0},
                  {"optimizer", d->optimizer},    {"schedule", d->schedule},
                  {"warmup", d->warmup > 0},      {"weight-decay", d->weight_decay >= 0},
                  {"clip", d->clip > 0},          {"ema", d->ema > 0},
                  {"dampen", d->dampen > 0},      {"augment", d->augment && !search_learns(o)}};
    char names[128] = "";
    for (size_t i = 0; i < NBI_COUNT(option); i++) {
        size_t at = strlen(names);
        if (option[i].given)
            snprintf(names + at, sizeof names - at, "%s--%s", at ? ", " : "", option[i].name);
    }
    if (o->finetune <= 0 && *names)
        nb_log(ctx, NB_LOG_WARNING, "for fine-tuning alone, which --finetune N asks for: %s", names);
    if (o->c_name && !o->emit)
        nb_log(ctx, NB_LOG_WARNING, "for C alone, which --emit c asks for: --c-name");
}

nb_status nb_quantize(nb_ctx *ctx, const char *path, const nb_quantize_options *options,
                      char **json) {
    nbi_json_begin();
    nbi_session s = {0};
    nbi_outcome out = {0};
    json_t *result = NULL, *about = NULL;
    nb_quantize_options own = *options;
    nb_status st = NB_OK;
    nbi_team *team = nbi_ctx_team(ctx);
    const bool follows = nbi_team_follows(team);
    /* there is little to score; and a policy may have choices that only its reader fits */
    if (options->dry_run || options->policy) {
        if (follows) return NB_OK;
        team = NULL;
    }
    if (!follows) warn_of_unused(ctx, options);
    nbi_team_begin(team);
    if (options->settings && !options->dry_run)
        st = nbi_configure(ctx, team, path, options, &own, &about);
    if (st == NB_OK) st = nbi_session_open(ctx, path, &own, &s);
    if (st == NB_OK && !about) st = nbi_warn_untouched(ctx, s.net);
    s.about_settings = about;
    if (options->dry_run) {
        if (st == NB_OK) st = dry_run(&s, &result);
    } else {
        if (st == NB_OK) st = prepare(&s, !follows);
        st = nbi_session_spread(ctx, &s, team, st);
        if (st == NB_OK) st = follows ? nbi_scorer_serve(ctx, s.scorer) : quantize(&s, &out, &result);
    }
    if (result && !options->dry_run) { /* also where fine-tuning failed */
        nb_status reported = nb_report(ctx, options->output, NULL);
        if (st == NB_OK) st = reported;
    }
    nbi_free(out.bits);
    nbi_session_close(&s);
    if (follows) return st;
    return nbi_answer(ctx, st, options->dry_run ? NULL : &out, result, json);
}

/* ---- sensitivity ----------------------------------------------------------------------------- */

nb_status nb_sensitivity(nb_ctx *ctx, const char *path, const nb_quantize_options *options,
                         char **json) {
    nbi_json_begin();
    nbi_session s = {0};
    json_t *root = NULL;
    nbi_team *team = nbi_ctx_team(ctx);
    nbi_team_begin(team);
    nb_status st = nbi_session_open(ctx, path, options, &s);
    if (st == NB_OK) st = nbi_warn_untouched(ctx, s.net);
    if (st == NB_OK) st = nbi_session_prepare(&s);
    st = nbi_session_spread(ctx, &s, team, st);
    if (st == NB_OK && nbi_team_follows(team)) {
        st = nbi_scorer_serve(ctx, s.scorer);
        nbi_session_close(&s);
        return st;
    }
    if (st == NB_OK) st = nbi_session_pose(&s);
    if (st == NB_OK) st = nbi_sensitivity_json(&s, &root);
    nbi_session_close(&s);
    if (st != NB_OK) return st;
    return nbi_json_text(ctx, root, json);
}
