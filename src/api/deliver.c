/* Writing a result folder: model.onnx, C, policy, results, sensitivity and Pareto set. The test split
 * is read here and nowhere else. */
#include "api/session.h"

#include "api/emit.h"
#include "api/hyper.h"
#include "api/untouched.h"
#include "onnx/export_qdq.h"
#include "onnx/onnx.h"
#include "quant/generate.h"
#include "runtime/footprint.h"
#include "runtime/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define VECTORS 4 /* self-test images in generated C */

static nb_status path_in(nbi_session *s, const char *name, nbi_buf *path) {
    path->size = 0;
    return nbi_buf_printf(s->ctx, path, "%s/%s", s->o->output, name);
}

static nb_status write_json(nbi_session *s, const char *name, const json_t *root) {
    nbi_buf path = {0};
    nb_status st = path_in(s, name, &path);
    if (st == NB_OK) st = nbi_json_write(s->ctx, root, path.data);
    nbi_buf_free(&path);
    return st;
}

static nb_status write_onnx(nbi_session *s, const nbi_frozen *frozen, double *bytes) {
    nbi_graph *graph = NULL;
    nbi_buf path = {0};
    struct stat info;
    nbi_qdq_options o = {.opset = s->opset, .containers = s->containers};
    nb_status st = nbi_export_qdq(s->ctx, frozen, s->source, &o, &graph);
    if (st == NB_OK) st = s->net->input_is_image ? nbi_transform_keep(s->ctx, &s->transform, graph)
                                                 : nbi_keep_values(s->ctx, graph);
    if (st == NB_OK) st = path_in(s, "model.onnx", &path);
    if (st == NB_OK) st = nbi_onnx_write(s->ctx, graph, path.data);
    *bytes = st == NB_OK && stat(path.data, &info) == 0 ? (double)info.st_size : 0;
    nbi_buf_free(&path);
    nbi_graph_free(graph);
    return st;
}

/* Final numbers on the test split (all of it, or --limit): float beside quantized. */
static nb_status final_metrics(nbi_session *s, const nbi_program *program, json_t *f, json_t *q) {
    nbi_outputs a = {0}, b = {0};
    nbi_metrics m;
    nb_status st;
    nbi_split split = NBI_SPLIT_TEST;
    if (s->info.count[split] == 0) split = NBI_SPLIT_VAL;
    if (s->info.count[split] == 0) split = NBI_SPLIT_TRAIN;
    NB_TRYG(nbi_eval_split(s->ctx, s->data, split, s->compared, NULL, &s->transform, &a));
    NB_TRYG(nbi_eval_split(s->ctx, s->data, split, NULL, program, &s->transform, &b));
    if (a.count != b.count)
        st = nb_fail(s->ctx, NB_EFORMAT, "the networks have outputs of two sizes");
    if (st != NB_OK) goto done;
    if (s->labelled) NB_TRYG(nbi_check_labels(s->ctx, a.label, a.n, a.count));
    nbi_warn_not_finite(s->ctx, a.values, a.n, a.count); /* of the integer program they are finite */
    bool probability = s->edge != s->net->output[0];
    const int *label = s->labelled && a.labelled ? a.label : NULL;
    nbi_measure(a.values, NULL, label, a.n, a.count, probability, &m);
    json_t *o = nbi_metrics_json(&m);
    json_object_update(f, o);
    json_decref(o);
    nbi_measure(b.values, a.values, label, b.n, b.count, probability, &m);
    o = nbi_metrics_json(&m);
    json_object_update(q, o);
    json_decref(o);
    json_object_set_new(q, "images_per_second", json_real(b.rate));
done:
    nbi_outputs_free(&a);
    nbi_outputs_free(&b);
    return st;
}

static nb_status latency_of(nbi_session *s, const nbi_program *program, double *seconds) {
    nbi_runner *runner = NULL;
    double *steps = NULL;
    nb_status st = nbi_runner_new(s->ctx, program, &runner);
    if (st == NB_OK) st = nbi_alloc(s->ctx, (size_t)program->n_steps + 1, sizeof *steps, &steps);
    if (st == NB_OK) st = nbi_runner_profile(s->ctx, runner, s->inputs, 15, steps);
    *seconds = 0;
    for (int i = 0; st == NB_OK && i < program->n_steps; i++) *seconds += steps[i];
    nbi_free(steps);
    nbi_runner_free(runner);
    return st;
}

static double float_weight_bytes(const nbi_session *s) {
    double n = 0;
    for (int i = 0; i < s->source->n_tensors; i++)
        if (s->source->tensor[i]->data && s->source->tensor[i]->dtype == NB_DTYPE_F32)
            n += 4.0 * (double)nbi_tensor_count(s->source->tensor[i]);
    return n;
}

static nb_status policy_table(nbi_session *s, const nbi_choice *bits, json_t *result) {
    json_t *root = nbi_policy_json(s, bits), *list = json_object_get(root, "policy"), *row;
    size_t i;
    nb_status st = NB_OK;
    json_array_foreach(list, i, row) {
        const nbi_site *site = &s->net->site[i];
        bool bias = site->kind == NBI_SITE_BIAS;
        double sqnr = bias ? 0 : nbi_site_sqnr(site, bits[i]);
        size_t packed = nbi_packed_bytes((size_t)site->count, nbi_choice_bits(bits[i]));
        if (bias) json_object_set_new(row, "bytes", json_integer((json_int_t)packed));
        if (site->kind == NBI_SITE_WEIGHT) {
            st = nbi_scorer_weight_sqnr(s->ctx, s->scorer, (int)i, bits[i], &sqnr);
            if (st != NB_OK) break;
            packed += nbi_choice_table_size(bits[i]);
            json_object_set_new(row, "bytes", json_integer((json_int_t)packed));
        }
        if (sqnr != 0 && site->kind != NBI_SITE_OUTPUT)
            json_object_set_new(row, "sqnr", json_real(sqnr));
        json_object_set_new(row, "elements", json_integer((json_int_t)site->count));
    }
    json_object_set(result, "policy", list);
    json_decref(root);
    return st;
}

typedef struct front {
    nb_ctx *ctx;
    nbi_pareto p;
} front;

static nb_status add_point(void *user, const nbi_study_trial *t) {
    front *f = user;
    const double cost[] = {t->cost[NBI_COST_BYTES], t->cost[NBI_COST_BOPS]};
    return nbi_pareto_add(f->ctx, &f->p, t->policy, t->score, cost, NULL);
}

static nb_status write_pareto(nbi_session *s) {
    front f = {.ctx = s->ctx};
    if (!s->study) return NB_OK;
    NB_TRY(nbi_pareto_init(s->ctx, &f.p, 2 * s->net->n_sites, 2));
    json_t *list = json_array();
    nb_status st = nbi_study_list(s->ctx, s->study, add_point, &f);
    for (size_t i = 0; st == NB_OK && i < f.p.count; i++) {
        json_t *bits = json_array(), *schemes = json_array();
        for (int k = 0; k < s->net->n_sites; k++) { /* the key of a trial: low byte, high byte */
            const uint8_t *p = f.p.points[i].policy + 2 * k;
            const nbi_scheme *row = nbi_choice_row(nbi_choice_of(p[1], p[0]));
            json_array_append_new(bits, json_integer(p[0]));
            json_array_append_new(schemes, json_string(row ? row->name : "?"));
        }
        json_array_append_new(list, json_pack("{s:f,s:f,s:f,s:o,s:o}", "loss",
                                              f.p.points[i].score, "bytes",
                                              f.p.points[i].cost[0], "bops",
                                              f.p.points[i].cost[1], "bits", bits, "schemes",
                                              schemes));
    }
    json_t *names = json_array();
    for (int k = 0; k < s->net->n_sites; k++)
        json_array_append_new(names, json_string(s->net->site[k].name));
    json_t *root = json_pack("{s:o,s:o}", "tensors", names, "points", list);
    if (st == NB_OK) st = write_json(s, "pareto.json", root);
    json_decref(root);
    nbi_pareto_free(&f.p);
    return st;
}

static void describe_run(nbi_session *s, const nbi_outcome *o, json_t *r) {
    json_t *search = json_pack("{s:s,s:I,s:f}", "method", o->method, "trials", (json_int_t)o->trials,
                               "seconds", o->seconds);
    if (s->known) json_object_set_new(search, "trials_before", json_integer((json_int_t)s->known));
    json_object_set_new(r, "search", search);
    json_object_set_new(r, "loss", isfinite(o->loss) ? json_real(o->loss) : json_null());
    json_object_set_new(r, "metric", json_string(s->labelled ? "top1"
                                                 : s->loss == NBI_LOSS_KL ? "kl" : "mse"));
    json_object_set_new(r, "seed", json_integer((json_int_t)nb_ctx_seed(s->ctx)));
    json_object_set_new(r, "threads", json_integer(nb_ctx_threads(s->ctx)));
    json_object_set_new(r, "calibration_images", json_integer((json_int_t)s->calib));
    json_object_set_new(r, "first_last", json_string(s->o->first_last));
    json_object_set_new(r, "residual_bits", json_integer(s->o->residual_bits));
    json_object_set_new(r, "range", json_string(s->o->range));
    json_object_set_new(r, "versions", json_pack("{s:s,s:s}", "nibble", nb_version(), "libraries",
                                                 nb_libraries()));
    if (s->ptq) json_object_set(r, "ptq", s->ptq);
    if (o->cancelled) json_object_set_new(r, "cancelled", json_true());
    if (isfinite(o->drop))
        json_object_set_new(r, "validation_drop", json_pack("{s:f,s:f}", "mean", o->drop, "bound",
                                                            o->drop_bound));
    json_object_set_new(r, "untouched", nbi_untouched_names(s->net));
}

static nb_status describe_model(nbi_session *s, const nbi_outcome *o, const nbi_program *program,
                                json_t *f, json_t *q) {
    nbi_net_cost c;
    size_t ram;
    double latency, energy;
    nbi_net_cost_of(s->net, o->bits, s->containers, &c);
    NB_TRY(nbi_program_ram(s->ctx, program, &ram));
    NB_TRY(latency_of(s, program, &latency));
    json_object_set_new(f, "bytes", nbi_json_number(float_weight_bytes(s)));
    json_int_t bytes = (json_int_t)program->const_bytes + (json_int_t)s->untouched_bytes;
    json_object_set_new(q, "bytes", json_integer(bytes));
    json_object_set_new(q, "bytes_onnx", nbi_json_number(c.bytes_onnx + s->untouched_bytes));
    if (s->untouched_bytes > 0)
        json_object_set_new(q, "untouched_bytes", json_integer((json_int_t)s->untouched_bytes));
    json_object_set_new(q, "average_weight_bits",
                        json_real(c.weights > 0 ? c.weight_bits / c.weights : 0));
    json_object_set_new(q, "average_activation_bits",
                        json_real(c.activations > 0 ? c.activation_bits / c.activations : 0));
    json_object_set_new(q, "residual_bits", json_integer(s->o->residual_bits));
    json_object_set_new(q, "peak_ram", json_integer((json_int_t)ram));
    json_object_set_new(q, "bops", nbi_json_number(c.bops));
    if (!s->costs || nbi_step_costs_measured(s->costs)) {
        json_object_set_new(q, "latency", json_real(latency));
        return NB_OK;
    }
    json_object_set_new(q, "latency_here", json_real(latency));
    NB_TRY(nbi_step_costs_sum(s->ctx, s->costs, o->bits, program, &latency, &energy));
    json_object_set_new(q, "latency", json_real(latency));
    if (nbi_step_costs_have_energy(s->costs)) json_object_set_new(q, "energy", json_real(energy));
    return NB_OK;
}

/* A further fine-tuning has the policy of before, and its reasons. */
static nb_status keep_why(nbi_session *s, json_t *r) {
    nbi_buf path = {0};
    json_t *before = NULL;
    nb_status st = nbi_buf_printf(s->ctx, &path, "%s/results.json", s->folder);
    if (st == NB_OK && nbi_file_exists(path.data))
        st = nbi_json_read(s->ctx, path.data, (size_t)256 << 20, &before);
    if (json_object_get(before, "why"))
        json_object_set(r, "why", json_object_get(before, "why"));
    json_decref(before);
    nbi_buf_free(&path);
    return st;
}

/* Into results.json, its table into sensitivity.json as well. */
static nb_status write_why(nbi_session *s, const nbi_outcome *o, json_t *r) {
    json_t *why = NULL, *table = NULL;
    if (s->further.on) return keep_why(s, r);
    /* the weights that have scored what the study holds */
    if (s->meta && !s->generated) NB_TRY(nbi_hyper_use(s, true));
    nbi_rank(s, true);
    nb_status st = nbi_why_json(s, o, &why);
    if (st == NB_ECANCELLED) { /* what was found is delivered all the same */
        nb_ctx_clear_cancel(s->ctx);
        return NB_OK;
    }
    NB_TRY(st);
    json_object_set_new(r, "why", why);
    NB_TRY(nbi_sensitivity_json(s, &table));
    st = write_json(s, "sensitivity.json", table);
    json_decref(table);
    return st;
}

/* What does not depend on the machine: same seed, same bytes. */
static nb_status write_policy(nbi_session *s, const nbi_outcome *o, const json_t *r) {
    json_t *policy = json_pack("{s:f,s:O}", "loss", o->loss, "policy", json_object_get(r, "policy"));
    nb_status st = write_json(s, "policy.json", policy);
    json_decref(policy);
    return st;
}

/* A folder of C that is not written now may have the user's own files beside ours: it stays. */
static nb_status warn_of_c(nbi_session *s) {
    nbi_buf path = {0};
    NB_TRY(path_in(s, "c", &path));
    if (nbi_is_folder(path.data))
        nb_log(s->ctx, NB_LOG_WARNING, "'%s' is of an earlier run, not of this network: --emit c "
               "writes it anew", path.data);
    nbi_buf_free(&path);
    return NB_OK;
}

static nb_status deliver(nbi_session *s, const nbi_outcome *o, const nbi_frozen *frozen,
                         const nbi_program *program, json_t *r) {
    json_t *f = json_object(), *q = json_object();
    nbi_buf folder = {0};
    double onnx_bytes;
    nb_status st;
    json_object_set_new(r, "float", f);
    json_object_set_new(r, "quantized", q);
    NB_TRYG(final_metrics(s, program, f, q));
    NB_TRYG(describe_model(s, o, program, f, q));
    NB_TRYG(policy_table(s, o->bits, r));
    NB_TRYG(write_policy(s, o, r));
    NB_TRYG(write_onnx(s, frozen, &onnx_bytes));
    json_object_set_new(q, "model_bytes", nbi_json_number(onnx_bytes));
    if (s->o->emit && !strcmp(s->o->emit, "c")) {
        nbi_codegen_report report;
        size_t n = s->images.n < VECTORS ? s->images.n : VECTORS;
        nbi_c_job job = {s->net, program, s->inputs, n, s->o->command_line, s->o->c_name};
        NB_TRYG(path_in(s, "c", &folder));
        NB_TRYG(nbi_write_c(s->ctx, &job, folder.data, &report));
        json_object_set_new(q, "c", json_pack("{s:I,s:I}", "const_bytes",
                                              (json_int_t)report.const_bytes, "arena_bytes",
                                              (json_int_t)report.arena_bytes));
    }
    if (!s->o->emit) NB_TRYG(warn_of_c(s));
    NB_TRYG(write_pareto(s));
done:
    nbi_buf_free(&folder);
    return st;
}

nb_status nbi_deliver(nbi_session *s, const nbi_outcome *o, json_t **result) {
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    json_t *r = json_object();
    describe_run(s, o, r);
    nbi_cancel_hold(s->ctx, true); /* what was found is delivered, whenever the request comes */
    nb_status st = nbi_session_freeze(s, o->bits, &frozen, &program);
    if (st == NB_OK) st = deliver(s, o, frozen, program, r);
    nbi_cancel_hold(s->ctx, false);
    if (st == NB_OK && !o->cancelled && s->problem->n_vars > 0) st = write_why(s, o, r);
    nbi_frozen_free(frozen);
    nbi_program_free(program);
    if (st == NB_OK) *result = r;
    else json_decref(r);
    return st;
}
