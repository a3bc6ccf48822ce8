/* nb_eval, nb_compare, nb_bench: models and result folders through either engine. */
#include "api/api.h"
#include "api/emit.h"
#include "api/finished.h"
#include "api/untouched.h"

#include "exec/exec.h"
#include "ir/program.h"
#include "quant/import_qdq.h"
#include "runtime/lower.h"
#include "runtime/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

nb_eval_options nb_eval_options_default(void) {
    return (nb_eval_options){.data = nb_data_options_default()};
}

nb_status nbi_load_program(nb_ctx *ctx, const nbi_graph *graph, const nbi_transform *transform,
                           nbi_qnet **net, nbi_frozen **frozen, nbi_program **program) {
    nbi_qnet *n = NULL;
    nbi_frozen *f = NULL;
    NB_TRY(nbi_import_qdq(ctx, graph, &n, &f));
    const nbi_edge *e = &n->edge[n->input];
    if (transform && e->rank == 4 && e->c <= 4 && !nbi_says_values(graph)) nbi_set_pixels(n, transform);
    nb_status st = nbi_lower(ctx, f, program);
    if (st != NB_OK) {
        nbi_frozen_free(f);
        nbi_qnet_free(n);
        return st;
    }
    *net = n;
    *frozen = f;
    return NB_OK;
}

/* A model made ready for one engine. */
typedef struct subject {
    nb_model *model;
    nbi_qnet *net;
    nbi_frozen *frozen;
    nbi_program *program; /* NULL: float engine */
    nbi_transform transform;
    bool integer; /* its engine, once made ready; then program is there */
} subject;

static void close_subject(subject *s) {
    nbi_program_free(s->program);
    nbi_frozen_free(s->frozen);
    nbi_qnet_free(s->net);
    nb_model_free(s->model);
    memset(s, 0, sizeof *s);
}

/* What cannot run is reported with the file. */
static nb_status name_file(nb_ctx *ctx, nb_status st, const subject *s) {
    return st == NB_EUNSUPPORTED ? nb_fail_prefix(ctx, st, "'%.200s'", s->model->path) : st;
}

/* engine: "integer", "float", or NULL: what the model is for. */
static nb_status open_subject(nb_ctx *ctx, const char *path, const nb_data_options *data,
                              const char *engine, subject *s) {
    *s = (subject){0};
    NB_TRY(nb_model_load(ctx, path, &s->model));
    NB_TRY(nbi_transform_of(ctx, data, s->model->graph, &s->transform));
    bool quantized = nbi_is_qdq(s->model->graph), integer = quantized;
    if (engine) {
        integer = !strcmp(engine, "integer");
        if (!integer && strcmp(engine, "float"))
            return nb_fail(ctx, NB_EINVAL, "engine: '%s' is not integer or float", engine);
        if (integer && !quantized)
            return nb_fail(ctx, NB_EINVAL, "'%s' is not quantized: the integer engine needs a "
                           "model made by quantize", path);
    }
    s->integer = integer;
    return NB_OK;
}

/* The program of an integer one. pixels: its input may be bytes of an image; whole: outputs of the network
 * itself are asked for, not those of its integer part. */
static nb_status ready(nb_ctx *ctx, subject *s, const char *engine, bool pixels, bool whole) {
    if (!s->integer) return NB_OK;
    nb_status st = nbi_load_program(ctx, s->model->graph, pixels ? &s->transform : NULL, &s->net,
                                    &s->frozen, &s->program);
    if (st == NB_OK && whole) {
        st = nbi_refuse_untouched(ctx, s->net, "the network cannot be run as a whole");
        return name_file(ctx, st, s);
    }
    if (st == NB_EUNSUPPORTED && !engine) {
        nb_log(ctx, NB_LOG_WARNING, "the float engine is used: %s", nb_ctx_message(ctx));
        return NB_OK;
    }
    return st;
}

static nb_status eval_subject(nb_ctx *ctx, const subject *s, const nbi_dataset *data,
                              nbi_split split, nbi_outputs *out) {
    nb_status st =
        nbi_eval_split(ctx, data, split, s->model->graph, s->program, &s->transform, out);
    return name_file(ctx, st, s);
}

/* Does the first output hold probabilities (a final Softmax)? */
static bool gives_probabilities(const nbi_graph *g) {
    int p = g->tensor[g->output[0]]->producer;
    for (int hops = 0; p >= 0 && hops < 3; hops++) {
        const nbi_node *node = g->node[p];
        if (!strcmp(node->op_type, "Softmax")) return true;
        if (strcmp(node->op_type, "DequantizeLinear") && strcmp(node->op_type, "QuantizeLinear"))
            return false;
        p = g->tensor[node->in[0]]->producer;
    }
    return false;
}

static nb_status open_split(nb_ctx *ctx, const nb_data_options *o, const nbi_graph *graph,
                            nbi_dataset **data, nbi_split *split) {
    NB_TRY(nbi_parse_split(ctx, o->split, NBI_SPLIT_TEST, split));
    NB_TRY(nbi_open_data(ctx, o, graph, data));
    const nbi_dataset_info *info = nbi_dataset_get(*data);
    if (!o->split && info->count[*split] == 0)
        *split = info->count[NBI_SPLIT_VAL] ? NBI_SPLIT_VAL : NBI_SPLIT_TRAIN;
    return NB_OK;
}

static nb_status write_predictions(nb_ctx *ctx, const char *path, const float *values, size_t n,
                                   size_t count) {
    nbi_buf text = {0};
    nb_status st = NB_OK;
    for (size_t i = 0; i < n && st == NB_OK; i++)
        st = nbi_buf_printf(ctx, &text, "%zu\n", nbi_argmax(values + i * count, count));
    if (st == NB_OK) st = nbi_file_write(ctx, path, text.data, text.size);
    nbi_buf_free(&text);
    return st;
}

/* What the float network that a folder was made from gives on the same images. */
static nb_status eval_source(nb_ctx *ctx, const char *folder, const nbi_dataset *data, nbi_split split,
                             const nbi_transform *transform, nbi_outputs *out) {
    nbi_run run = {0};
    nb_model *model = NULL;
    char hash[20];
    nb_status st;
    NB_TRYG(nbi_run_read(ctx, folder, &run));
    NB_TRYG(nb_model_load(ctx, run.model, &model));
    NB_TRYG(nbi_equalize_model(ctx, &run.options, model->graph));
    nbi_hash_text(nbi_graph_hash(model->graph), hash);
    if (strcmp(hash, run.hash))
        st = nb_fail(ctx, NB_EINVAL, "'%s' is not the float model that '%s' was made from", run.model, folder);
    else st = nbi_eval_split(ctx, data, split, model->graph, NULL, transform, out);
done:
    nb_model_free(model);
    nbi_run_free(&run);
    return st;
}

/* Does the metric compare with the float network? NULL: without labels it does. */
static bool wants_source(const char *metric, bool labelled) {
    if (!metric) return !labelled;
    return !strcmp(metric, "kl") || !strcmp(metric, "mse") || !strcmp(metric, "cosine");
}

/* The outputs measured, beside those of the float network where the metric needs them. */
static nb_status measure(nb_ctx *ctx, const char *path, const char *metric, const nbi_dataset *data,
                         nbi_split split, const subject *s, const nbi_outputs *out, nbi_metrics *m) {
    nbi_outputs source = {0};
    nb_status st = NB_OK;
    if (wants_source(metric, out->labelled) && nbi_is_folder(path)) {
        st = eval_source(ctx, path, data, split, &s->transform, &source);
        if (st == NB_OK && source.count != out->count)
            st = nb_fail(ctx, NB_EFORMAT, "'%s' gives %zu values, its float model %zu", path, out->count,
                         source.count);
    } else if (metric && wants_source(metric, out->labelled)) {
        st = nb_fail(ctx, NB_EINVAL, "--metric %s is against the float network, of which '%s' says nothing: "
                     "'nibble compare FLOAT %s' does, or eval of a folder that quantize wrote", metric,
                     path, path);
    }
    if (st == NB_OK)
        nbi_measure(out->values, source.values, out->labelled ? out->label : NULL, out->n, out->count,
                    gives_probabilities(s->model->graph), m);
    nbi_outputs_free(&source);
    return st;
}

/* One score per class? As quantize takes it: behind a Softmax, or a row for an image or labelled sample. */
static bool gives_classes(const nbi_graph *g, const nbi_dataset_info *info, size_t count) {
    if (g->tensor[g->output[0]]->rank != 2 || count < 2) return false;
    return info->is_image || info->classes > 0 || gives_probabilities(g);
}

/* The number behind the metric, which must be there where it was asked for. */
static nb_status name_metric(nb_ctx *ctx, const char *path, const char *metric, bool classes, json_t *root) {
    const char *const order[] = {"top1", "auc", classes ? "kl" : "mse"};
    for (size_t i = 0; !metric && i < NBI_COUNT(order); i++)
        if (json_object_get(root, order[i])) metric = order[i];
    if (metric && !json_object_get(root, metric))
        return nb_fail(ctx, NB_EINVAL, "--metric %s: there is none for '%s' on these samples (top1, top5 and loss "
                       "need labels and one score per class, auc needs both classes of two)", metric, path);
    json_object_set_new(root, "metric", json_string(metric ? metric : "none"));
    return NB_OK;
}

nb_status nb_eval(nb_ctx *ctx, const char *path, const nb_eval_options *o, char **json) {
    nbi_json_begin();
    subject s;
    nbi_dataset *data = NULL;
    nbi_split split;
    nbi_outputs out = {0};
    nbi_metrics m;
    nb_status st;
    NB_TRYG(open_subject(ctx, path, &o->data, o->engine, &s));
    NB_TRYG(open_split(ctx, &o->data, s.model->graph, &data, &split));
    NB_TRYG(ready(ctx, &s, o->engine, nbi_dataset_get(data)->is_image, true));
    NB_TRYG(eval_subject(ctx, &s, data, split, &out));
    NB_TRYG(nbi_check_labels(ctx, out.label, out.n, out.count));
    nbi_warn_not_finite(ctx, out.values, out.n, out.count);
    if (o->predictions)
        NB_TRYG(write_predictions(ctx, o->predictions, out.values, out.n, out.count));
    NB_TRYG(measure(ctx, path, o->data.metric, data, split, &s, &out, &m));
    if (!s.program) nbi_warn_chance(ctx, &m, out.count);
    json_t *root = nbi_metrics_json(&m);
    json_object_set_new(root, "engine", json_string(s.program ? "integer" : "float"));
    json_object_set_new(root, "images_per_second", json_real(out.rate));
    const bool classes = gives_classes(s.model->graph, nbi_dataset_get(data), out.count);
    st = name_metric(ctx, path, o->data.metric, classes, root);
    if (st == NB_OK) st = nbi_json_text(ctx, root, json);
    else json_decref(root);
done:
    nbi_outputs_free(&out);
    nbi_dataset_free(data);
    close_subject(&s);
    return st;
}

static double file_bytes(const char *path) {
    void *data;
    size_t size;
    if (nbi_file_read(NULL, path, (size_t)2 << 30, &data, &size) != NB_OK) return 0;
    nbi_free(data);
    return (double)size;
}

static json_t *side_json(const subject *s, const nbi_metrics *m, double rate) {
    json_t *o = nbi_metrics_json(m);
    json_object_set_new(o, "engine", json_string(s->program ? "integer" : "float"));
    json_object_set_new(o, "images_per_second", json_real(rate));
    json_object_set_new(o, "file_bytes", json_real(file_bytes(s->model->path)));
    if (s->program)
        json_object_set_new(o, "bytes", json_integer((json_int_t)s->program->const_bytes));
    return o;
}

/* What says how bytes become floats, and what how pictures become bytes. */
static const char *const transform_keys[2][4] = {{"nibble.scale", "nibble.mean", "nibble.std"},
                                                 {"nibble.resize", "nibble.crop"}};

static bool says(const nbi_graph *g, const char *const *key) {
    for (; *key; key++)
        if (nbi_graph_meta(g, *key)) return true;
    return false;
}

static nb_status share(nb_ctx *ctx, const char *const *key, const nbi_graph *from, nbi_graph *to) {
    for (; *key; key++) {
        const char *value = nbi_graph_meta(from, *key);
        if (value) NB_TRY(nbi_graph_set_meta(ctx, to, *key, value));
    }
    return NB_OK;
}

/* Both models. One that does not say how bytes become its input reads them as the other does: a
 * float file knows nothing of the --mean that its quantized twin was made with. */
static nb_status open_pair(nb_ctx *ctx, const char *const path[2], const nb_data_options *o,
                           subject s[2]) {
    for (int i = 0; i < 2; i++) NB_TRY(open_subject(ctx, path[i], o, NULL, &s[i]));
    for (size_t k = 0; k < NBI_COUNT(transform_keys); k++) {
        const char *const *keys = transform_keys[k];
        bool say[2] = {says(s[0].model->graph, keys), says(s[1].model->graph, keys)};
        if (say[0] == say[1]) continue;
        int from = say[0] ? 0 : 1, to = 1 - from;
        NB_TRY(share(ctx, keys, s[from].model->graph, s[to].model->graph));
        nb_log(ctx, NB_LOG_INFO, "'%s' reads its input as '%s' does", path[to], path[from]);
        NB_TRY(nbi_transform_of(ctx, o, s[to].model->graph, &s[to].transform));
    }
    if (s[0].transform.resize != s[1].transform.resize || s[0].transform.crop != s[1].transform.crop)
        nb_log(ctx, NB_LOG_WARNING, "pictures are resized and cropped for both as '%s' says", path[0]);
    return NB_OK;
}

/* Scores beside probabilities: both as probabilities. */
static void make_alike(nb_ctx *ctx, const char *const path[2], bool probability[2], nbi_outputs out[2]) {
    if (probability[0] == probability[1]) return;
    const int scores = probability[0] ? 1 : 0;
    float *x = out[scores].values;
    for (size_t i = 0; i < out[scores].n; i++, x += out[scores].count) nbi_softmax(x, out[scores].count);
    probability[scores] = true;
    nb_log(ctx, NB_LOG_INFO, "'%s' ends in Softmax: '%s' is compared behind one", path[1 - scores], path[scores]);
}

nb_status nb_compare(nb_ctx *ctx, const char *a, const char *b, const nb_data_options *options,
                     char **json) {
    nbi_json_begin();
    subject s[2] = {{0}, {0}};
    nbi_dataset *data = NULL;
    nbi_split split;
    nbi_outputs out[2] = {{0}, {0}};
    nb_status st;
    NB_TRYG(open_pair(ctx, (const char *const[]){a, b}, options, s));
    NB_TRYG(open_split(ctx, options, s[0].model->graph, &data, &split));
    NB_TRYG(nbi_check_fits(ctx, s[1].model->graph, nbi_dataset_get(data)));
    for (int i = 0; i < 2; i++) {
        NB_TRYG(ready(ctx, &s[i], NULL, nbi_dataset_get(data)->is_image, true));
        NB_TRYG(eval_subject(ctx, &s[i], data, split, &out[i]));
    }
    if (out[0].count != out[1].count) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s' gives %zu values, '%s' gives %zu", a, out[0].count, b,
                     out[1].count);
        goto done;
    }
    nbi_metrics ma, mb;
    size_t n = out[0].n, count = out[0].count;
    NB_TRYG(nbi_check_labels(ctx, out[0].label, out[0].n, out[0].count));
    for (int i = 0; i < 2; i++) nbi_warn_not_finite(ctx, out[i].values, n, count);
    const int *label = out[0].labelled ? out[0].label : NULL;
    bool probability[2];
    for (int i = 0; i < 2; i++) probability[i] = gives_probabilities(s[i].model->graph);
    make_alike(ctx, (const char *const[]){a, b}, probability, out);
    nbi_measure(out[0].values, NULL, label, n, count, probability[0], &ma);
    nbi_measure(out[1].values, out[0].values, label, n, count, probability[1], &mb);
    double worst = 0;
    for (size_t i = 0; i < n * count; i++)
        worst = fmax(worst, fabs((double)out[0].values[i] - (double)out[1].values[i]));
    json_t *error = isfinite(worst) ? json_real(worst) : json_null();
    json_t *root = json_pack("{s:f,s:o,s:o,s:o}", "agreement", mb.agreement, "max_abs_error",
                             error, "a", side_json(&s[0], &ma, out[0].rate), "b",
                             side_json(&s[1], &mb, out[1].rate));
    st = nbi_json_text(ctx, root, json);
done:
    for (int i = 0; i < 2; i++) {
        nbi_outputs_free(&out[i]);
        close_subject(&s[i]);
    }
    nbi_dataset_free(data);
    return st;
}

/* ---- bench ----------------------------------------------------------------------------------- */

typedef struct bench {
    int batch;
    double seconds;
    double images, busy;
} bench;

static nb_status bench_integer(nb_ctx *ctx, const subject *s, bench *b) {
    const nbi_program *p = s->program;
    size_t bytes = p->tensor[p->input].bytes;
    nbi_runner *runner = NULL;
    uint8_t *inputs = NULL;
    nbi_rng rng;
    nb_status st;
    nbi_rng_seed(&rng, nb_ctx_seed(ctx), 7);
    NB_TRYG(nbi_alloc(ctx, (size_t)b->batch, bytes, &inputs));
    for (size_t i = 0; i < (size_t)b->batch * bytes; i++) inputs[i] = (uint8_t)nbi_rng_u32(&rng);
    NB_TRYG(nbi_runner_new(ctx, p, &runner));
    int32_t *outputs[8] = {NULL};
    NB_TRYG(nbi_runner_run(ctx, runner, (size_t)b->batch, inputs, outputs));
    while (b->busy < b->seconds && !nb_cancelled(ctx)) {
        double start = nb_seconds(ctx);
        NB_TRYG(nbi_runner_run(ctx, runner, (size_t)b->batch, inputs, outputs));
        b->busy += nb_seconds(ctx) - start;
        b->images += b->batch;
    }
done:
    nbi_runner_free(runner);
    nbi_free(inputs);
    return st;
}

static void free_inputs(const nbi_graph *g, void **inputs) {
    for (int i = 0; inputs && i < g->n_inputs; i++) nbi_free(inputs[i]);
    nbi_free(inputs);
}

/* float32 in [0, 1); zeros, an index that always exists, where the input is of another type. */
static nb_status random_inputs(nb_ctx *ctx, const nbi_graph *g, void ***out) {
    void **inputs;
    nb_status st = NB_OK;
    nbi_rng rng;
    nbi_rng_seed(&rng, nb_ctx_seed(ctx), 7);
    NB_TRY(nbi_alloc(ctx, (size_t)g->n_inputs + 1, sizeof *inputs, &inputs));
    for (int i = 0; i < g->n_inputs && st == NB_OK; i++) {
        const nbi_tensor *t = g->tensor[g->input[i]];
        size_t n = (size_t)nbi_tensor_count(t), bits = (size_t)nbi_dtype_bits(t->dtype);
        st = nbi_alloc(ctx, n, bits > 8 ? bits / 8 : 1, &inputs[i]);
        float *x = inputs[i];
        for (size_t k = 0; st == NB_OK && t->dtype == NB_DTYPE_F32 && k < n; k++)
            x[k] = nbi_rng_uniform(&rng);
    }
    if (st == NB_OK) *out = inputs;
    else free_inputs(g, inputs);
    return st;
}

static nb_status bench_float(nb_ctx *ctx, const subject *s, bench *b) {
    nbi_graph *g = NULL;
    nbi_exec *exec = NULL;
    void **inputs = NULL;
    nb_status st;
    NB_TRYG(nbi_specialize_batch(ctx, s->model->graph, b->batch, &g));
    NB_TRYG(nbi_exec_new(ctx, g, NBI_EXEC_FAST, &exec));
    NB_TRYG(random_inputs(ctx, g, &inputs));
    NB_TRYG(nbi_exec_run(ctx, exec, (const void *const *)inputs));
    while (b->busy < b->seconds && !nb_cancelled(ctx)) {
        double start = nb_seconds(ctx);
        NB_TRYG(nbi_exec_run(ctx, exec, (const void *const *)inputs));
        b->busy += nb_seconds(ctx) - start;
        b->images += b->batch;
    }
done:
    free_inputs(g, inputs);
    nbi_exec_free(exec);
    nbi_graph_free(g);
    return name_file(ctx, st, s);
}

static double step_macs(const nbi_step *s) {
    if (s->type != NBI_STEP_CONV && s->type != NBI_STEP_DWCONV) return 0;
    return (double)s->u.conv.w_count * s->u.conv.p.out_h * s->u.conv.p.out_w;
}

static nb_status add_layers(nb_ctx *ctx, const subject *s, json_t *root) {
    static const char *const types[] = {"conv", "dwconv", "add", "mul", "lut", "maxpool",
                                        "avgpool", "copy", "float"};
    const nbi_program *p = s->program;
    nbi_runner *runner = NULL;
    double *seconds = NULL;
    uint8_t *input = NULL;
    json_t *rows = json_array();
    nb_status st;
    json_object_set_new(root, "layers", rows);
    NB_TRYG(nbi_runner_new(ctx, p, &runner));
    NB_TRYG(nbi_alloc(ctx, (size_t)p->n_steps + 1, sizeof *seconds, &seconds));
    NB_TRYG(nbi_alloc(ctx, p->tensor[p->input].bytes, 1, &input));
    NB_TRYG(nbi_runner_profile(ctx, runner, input, 51, seconds));
    for (int i = 0; i < p->n_steps; i++) {
        nbi_ready_step ready;
        NB_TRYG(nbi_step_ready(ctx, &p->step[i], NULL, &ready));
        json_t *row = json_pack("{s:s,s:s,s:f,s:f}", "name", p->step[i].name, "type",
                                types[p->step[i].type], "microseconds", 1e6 * seconds[i], "macs",
                                step_macs(&p->step[i]));
        if (ready.kernel) json_object_set_new(row, "kernel", json_string(ready.kernel->name));
        if (ready.kernel)
            json_object_set_new(row, "macs_per_second",
                                json_real(step_macs(&p->step[i]) / fmax(seconds[i], 1e-9)));
        json_array_append_new(rows, row);
    }
done:
    nbi_runner_free(runner);
    nbi_free(seconds);
    nbi_free(input);
    return st;
}

nb_status nb_bench(nb_ctx *ctx, const char *path, const nb_bench_options *o, char **json) {
    nbi_json_begin();
    subject s;
    nb_data_options none = nb_data_options_default();
    bench b = {.batch = o->batch > 0 ? o->batch : 1, .seconds = o->seconds > 0 ? o->seconds : 1};
    nb_status st = open_subject(ctx, path, &none, o->engine, &s);
    if (st == NB_OK) st = ready(ctx, &s, o->engine, true, true);
    json_t *root = NULL;
    if (st == NB_OK && b.batch > 65536)
        st = nb_fail(ctx, NB_EINVAL, "batch: %d is more than 65536", b.batch);
    if (st == NB_OK) st = s.program ? bench_integer(ctx, &s, &b) : bench_float(ctx, &s, &b);
    if (st == NB_OK) {
        double rate = b.busy > 0 ? b.images / b.busy : 0;
        root = json_pack("{s:s,s:i,s:i,s:f,s:f}", "engine", s.program ? "integer" : "float",
                         "batch", b.batch, "threads", nb_ctx_threads(ctx), "images_per_second",
                         rate, "latency_ms", rate > 0 ? 1000.0 * b.batch / rate : 0.0);
        if (o->layers && s.program) st = add_layers(ctx, &s, root);
    }
    close_subject(&s);
    if (st != NB_OK) {
        json_decref(root);
        return st;
    }
    return nbi_json_text(ctx, root, json);
}

/* ---- export ---------------------------------------------------------------------------------- */

nb_status nb_export(nb_ctx *ctx, const char *path, const nb_export_options *o, char **json) {
    nbi_json_begin();
    subject s;
    nb_data_options none = nb_data_options_default();
    json_t *root = NULL, *files = json_array();
    nb_status st = NB_OK;
    if (!o->format || !o->output) {
        json_decref(files);
        return nb_fail(ctx, NB_EINVAL, "export needs a format and an output");
    }
    st = open_subject(ctx, path, &none, "integer", &s);
    if (st == NB_OK && !strcmp(o->format, "qdq"))
        st = nbi_keep_model(ctx, "export", path, o->output);
    if (st == NB_OK) st = ready(ctx, &s, "integer", true, false);
    if (st == NB_OK && !strcmp(o->format, "c"))
        st = nbi_export_c(ctx, s.net, s.program, o, files, &root);
    else if (st == NB_OK && !strcmp(o->format, "qdq"))
        st = nbi_copy_qdq(ctx, s.model->graph, o, files, &root);
    else if (st == NB_OK)
        st = nb_fail(ctx, NB_EINVAL, "format: '%s' is not c or qdq", o->format);
    close_subject(&s);
    if (st != NB_OK) {
        json_decref(files);
        return st;
    }
    json_object_set_new(root, "files", files);
    return nbi_json_text(ctx, root, json);
}
