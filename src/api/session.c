/* Preparing a quantization job: options, model, sites; then data, calibration, scorer, problem. */
#include "api/session.h"

#include "api/hyper.h"
#include "codegen/codegen.h"
#include "api/untouched.h"
#include "exec/exec.h"
#include "onnx/onnx.h"
#include "ops/op.h"
#include "quant/calibrate.h"
#include "quant/generate.h"
#include "quant/net_numbers.h"
#include "runtime/footprint.h"
#include "runtime/lower.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_CACHE ((size_t)160 << 20) /* prefixes of candidates */
#define MOST_CACHE  ((size_t)288 << 20) /* with the rest ResNet-20 on 1,024 images stays below 500 MiB */
#define IMAGE_BYTES ((size_t)640 << 20) /* tensors of one candidate over all images */

nb_quantize_options nb_quantize_options_default(void) {
    return (nb_quantize_options){.data = nb_data_options_default(), .max_drop = -1, .target = "c", .opset = 21, .schemes = "uniform",
                                 .weight_bits = "2,3,4,5,6,8", .activation_bits = "8",
                                 .bias_bits = "32", .residual_bits = 8, .granularity = "channel",
                                 .first_last = "8", .range = "mse", .search = "auto",
                                 .start = "auto", .rank = "nearest",
                                 .correct = true, .distill = true,
                                 .descent = {.weight_decay = -1}};
}

void nbi_session_close(nbi_session *s) {
    if (s->team) nbi_scorer_dismiss(s->ctx, s->scorer);
    json_decref(s->about_meta);
    json_decref(s->about_settings);
    nbi_meta_free(s->meta);
    nbi_netproblem_free(s->np);
    nbi_scorer_free(s->scorer);
    nbi_study_close(s->study);
    nbi_images_free(&s->images);
    nbi_dataset_free(s->data);
    nbi_qat_free(s->tuned);
    nbi_learner_free(s->learner);
    nbi_learner_free(s->ranker);
    nbi_free(s->learned);
    nbi_free(s->learned_grid);
    nbi_free(s->searched);
    json_decref(s->ptq);
    nbi_qnet_free(s->net);
    nbi_graph_free(s->cut);
    nbi_graph_free(s->further.fresh);
    nb_model_free(s->model);
    nbi_free(s->inputs);
    nbi_free(s->reference);
    nbi_free(s->fixed);
    nbi_free(s->delta);
    nbi_free(s->curvature);
    nbi_step_costs_free(s->costs);
    nbi_images_free(&s->drop_images);
    nbi_free(s->drop_float);
    memset(s, 0, sizeof *s);
}

static nb_status one_of(nb_ctx *ctx, const char *what, const char *text, const char *const *names,
                        int n, int *out) {
    for (int i = 0; i < n; i++)
        if (!strcmp(text, names[i])) {
            *out = i;
            return NB_OK;
        }
    char list[128] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return nb_fail(ctx, NB_EINVAL, "%s: '%s' is not one of: %s", what, text, list);
}

static nb_status parse_metric(nbi_session *s) {
    static const char *const metrics[] = {"top1", "top5", "loss", "kl", "auc", "mse", "cosine"};
    int k = 0;
    if (!s->o->data.metric) return NB_OK;
    NB_TRY(one_of(s->ctx, "metric", s->o->data.metric, metrics, 7, &k));
    s->loss_given = true;
    s->loss = k < 5 ? NBI_LOSS_KL : NBI_LOSS_MSE;
    return NB_OK;
}

/* Files that are read later, some of them after a long search. */
static nb_status check_files(nb_ctx *ctx, const nb_quantize_options *o) {
    nbi_arena texts = {0};
    const char *keys = strchr(o->search, ':');
    const char *const file[] = {o->policy, o->cost_table, nbi_options_text(&texts, keys ? keys + 1 : NULL, "meta")};
    static const char *const option[] = {"policy", "cost-table", "search: meta"};
    nb_status st = NB_OK;
    for (size_t i = 0; i < NBI_COUNT(file) && st == NB_OK; i++)
        if (file[i] && !nbi_file_exists(file[i]))
            st = nb_fail(ctx, NB_EIO, "%s: cannot open '%s'", option[i], file[i]);
    nbi_arena_free(&texts);
    if (st == NB_OK && o->max_energy > 0 && !o->cost_table)
        st = nb_fail(ctx, NB_EINVAL, "max-energy needs a cost table with a column 'energy'");
    return st;
}

static nb_status parse_options(nbi_session *s) {
    static const char *const targets[] = {"c", "onnx"}, *const grains[] = {"channel", "tensor"};
    static const char *const ranges[] = {"mse", "minmax", "percentile", "kl"};
    static const char *const ends[] = {"8", "searched"};
    static const char *const starts[] = {"auto", "search", "rounded", "float",
                                         "random"}; /* nbi_tune_start */
    const nb_quantize_options *o = s->o;
    nb_ctx *ctx = s->ctx;
    int k;
    NB_TRY(check_files(ctx, o));
    NB_TRY(parse_metric(s));
    NB_TRY(one_of(ctx, "for", o->target, targets, 2, &k));
    s->for_onnx = k == 1;
    NB_TRY(one_of(ctx, "granularity", o->granularity, grains, 2, &k));
    s->per_channel = k == 0;
    NB_TRY(one_of(ctx, "range", o->range, ranges, 4, &k));
    s->range = (nbi_range_method)k;
    NB_TRY(one_of(ctx, "first-last", o->first_last, ends, 2, &k));
    NB_TRY(one_of(ctx, "start", o->start, starts, 5, &k));
    s->start = (nbi_tune_start)k;
    s->opset = o->opset ? o->opset : 21;
    if (s->opset != 21 && s->opset != 25)
        return nb_fail(ctx, NB_EINVAL, "opset: %d; 21 and 25 are possible", s->opset);
    s->containers = s->opset == 25 ? 2 : 0;
    NB_TRY(nbi_parse_offers(s));
    if (o->emit && strcmp(o->emit, "c"))
        return nb_fail(ctx, NB_EINVAL, "emit: '%s' is not c", o->emit);
    if (o->c_name) NB_TRY(nbi_codegen_check(ctx, o->c_name));
    if (o->residual_bits < 2 || o->residual_bits > 8)
        return nb_fail(ctx, NB_EINVAL, "residual-bits: %d; 2 to 8 are possible", o->residual_bits);
    return NB_OK;
}

/* The float network up to where the net ends: what lies behind an unknown operator cannot be
 * computed, and a first output that is a constant is none of the net's. */
static nb_status cut_untouched(nbi_session *s) {
    const nbi_qnet *net = s->net;
    const char *first = s->source->tensor[s->source->output[0]]->name;
    int list[NBI_COUNT(net->output)];
    s->compared = s->source;
    if (net->n_untouched == 0 && !strcmp(first, net->edge[net->output[0]].name)) return NB_OK;
    NB_TRY(nbi_graph_copy(s->ctx, s->source, &s->cut));
    for (int i = 0; i < net->n_outputs; i++) {
        const char *name = net->edge[net->output[i]].name;
        list[i] = nbi_graph_find(s->cut, name);
        if (list[i] < 0)
            return nb_fail(s->ctx, NB_EUNSUPPORTED, "tensor '%s', an output of what is quantized, "
                           "is not in the model", name);
    }
    NB_TRY(nbi_graph_set_outputs(s->ctx, s->cut, net->n_outputs, list));
    nbi_graph_prune(s->cut);
    s->compared = s->cut;
    s->untouched_bytes = nbi_untouched_bytes(s->source, s->cut);
    return NB_OK;
}

/* Grids of every scheme that an activation may get. */
static nb_status fit_offers(nbi_session *s) {
    for (int i = 0; i < s->net->n_sites; i++) {
        if (s->net->site[i].kind != NBI_SITE_ACTIVATION) continue;
        for (int k = 0; k < s->activations.n; k++)
            NB_TRY(nbi_fit_site(s->ctx, s->net, i, s->activations.choice[k], s->range));
        if (s->fixed[i]) NB_TRY(nbi_fit_site(s->ctx, s->net, i, s->fixed[i], s->range));
    }
    return NB_OK;
}

/* Before hours of work, not behind them. */
static nb_status check_emit(nbi_session *s) {
    nbi_choice *bits;
    if (!s->o->emit) return NB_OK;
    NB_TRY(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits));
    nbi_session_uniform(s, 8, 8, bits);
    nb_status st = nbi_footprint_has_c(s->ctx, s->net, bits);
    nbi_free(bits);
    return st == NB_OK ? st : nb_fail_prefix(s->ctx, st, "emit");
}

nb_status nbi_session_net(nbi_session *s, const nbi_graph *source) {
    const nb_quantize_options *o = s->o;
    nbi_graph *one = NULL;
    NB_TRY(nbi_rebatch(s->ctx, source, 1, &one));
    nbi_qag_options qag = {strcmp(o->first_last, "8") ? NBI_FIRST_LAST_SEARCHED
                                                      : NBI_FIRST_LAST_8, o->residual_bits};
    NB_TRY(nbi_generate(s->ctx, one, &qag, &s->net));
    NB_TRY(nbi_check_apart(s->ctx, source, s->net));
    nbi_net_rescale(s->net);
    s->edge = nbi_score_edge(s->net);
    return NB_OK;
}

nb_status nbi_session_open(nb_ctx *ctx, const char *path, const nb_quantize_options *o,
                           nbi_session *s) {
    *s = (nbi_session){.ctx = ctx, .o = o, .folder = o->output, .started = nb_seconds(ctx)};
    NB_TRY(parse_options(s));
    NB_TRY(nbi_check_ptq(ctx, o));
    NB_TRY(nbi_check_rank(ctx, o));
    NB_TRY(nb_model_load(ctx, path, &s->model));
    NB_TRY(nbi_refuse_quantized(ctx, s->model));
    if (o->output && !o->dry_run) NB_TRY(nbi_keep_model(ctx, "quantize", path, o->output));
    NB_TRY(nbi_equalize_model(ctx, o, s->model->graph));
    s->source = s->model->graph;
    NB_TRY(nbi_transform_of(ctx, &o->data, s->source, &s->transform));
    NB_TRY(nbi_session_net(s, s->source));
    if (o->strict) NB_TRY(nbi_refuse_untouched(ctx, s->net, "it cannot be quantized (--strict)"));
    NB_TRY(cut_untouched(s));
    NB_TRY(nbi_alloc(ctx, (size_t)s->net->n_sites + 1, sizeof *s->fixed, &s->fixed));
    for (int i = 0; i < s->net->n_sites; i++) {
        s->fixed[i] = (nbi_choice)s->net->site[i].fixed_bits;
        if (s->net->site[i].kind == NBI_SITE_BIAS)
            s->fixed[i] = s->biases.n == 1 ? s->biases.choice[0] : 0;
    }
    for (size_t i = 0; i < o->n_rules; i++) NB_TRY(nbi_apply_rule(s, o->rules[i]));
    NB_TRY(fit_offers(s)); /* storage, for costs without data */
    return check_emit(s);
}

/* ---- data and calibration ------------------------------------------------------------------- */

/* How many images the scorer may hold: about three of the largest tensor are alive at once. */
static void bound_images(const nbi_session *s, size_t *calib, size_t *score) {
    size_t largest = 1;
    for (int e = 0; e < s->net->n_edges; e++) {
        const nbi_edge *edge = &s->net->edge[e];
        size_t n = (size_t)edge->h * (size_t)edge->w * (size_t)edge->c;
        if (n > largest) largest = n;
    }
    size_t most = IMAGE_BYTES / (3 * largest);
    if (*calib + *score <= most) return;
    size_t wanted = *calib + *score;
    *calib = most * *calib / wanted > 32 ? most * *calib / wanted : 32;
    *score = most * *score / wanted > 32 ? most * *score / wanted : 32;
    nb_log(s->ctx, NB_LOG_INFO, "large tensors: %zu calibration and %zu validation images are used",
           *calib, *score);
}

static nb_status draw_images(nbi_session *s) {
    nb_ctx *ctx = s->ctx;
    nbi_images calib = {0}, score = {0};
    nb_status st;
    uint64_t seed = nb_ctx_seed(ctx);
    size_t n_calib = s->o->calib ? s->o->calib : NBI_CALIB_IMAGES, n_score = NBI_SCORE_IMAGES;
    bound_images(s, &n_calib, &n_score);
    nbi_draw draw = {NBI_SPLIT_TRAIN, n_calib, seed, true, NULL};
    NB_TRYG(nbi_images_draw(ctx, s->data, &draw, &calib));
    draw = (nbi_draw){NBI_SPLIT_VAL, n_score, seed + 1, true, NULL};
    if (s->info.count[NBI_SPLIT_VAL] == 0) draw.split = NBI_SPLIT_TRAIN;
    NB_TRYG(nbi_images_draw(ctx, s->data, &draw, &score));
    const nbi_edge *e = &s->net->edge[s->edge];
    size_t outputs = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    if (!s->net->n_untouched) NB_TRYG(nbi_check_labels(ctx, score.label, score.n, outputs));
    nbi_images all = {.n = calib.n + score.n, .sample_bytes = calib.sample_bytes,
                      .info = calib.info};
    NB_TRYG(nbi_alloc(ctx, all.n, all.sample_bytes, &all.bytes));
    s->images = all;
    NB_TRYG(nbi_alloc(ctx, all.n, sizeof(int), &s->images.label));
    memcpy(s->images.bytes, calib.bytes, calib.n * all.sample_bytes);
    memcpy(s->images.bytes + calib.n * all.sample_bytes, score.bytes, score.n * all.sample_bytes);
    memcpy(s->images.label, calib.label, calib.n * sizeof(int));
    memcpy(s->images.label + calib.n, score.label, score.n * sizeof(int));
    s->calib = calib.n;
    /* labels say nothing of what lies in front of an unknown operator, or of a single score */
    s->labelled = s->info.classes > 0 && outputs > 1 && !s->net->n_untouched;
done:
    nbi_images_free(&calib);
    nbi_images_free(&score);
    return st;
}

nb_status nbi_session_fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out) {
    const nbi_session *s = user;
    (void)ctx;
    nbi_images_fill(&s->images, &s->transform, first, n, out);
    return NB_OK;
}

static nb_status calibrate(nbi_session *s) {
    nb_ctx *ctx = s->ctx;
    const nbi_edge *e = &s->net->edge[s->edge];
    size_t count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    NB_TRY(nbi_alloc(ctx, s->images.n * count, sizeof(float), &s->reference));
    nbi_calibration c = {nbi_session_fill, s, s->calib, s->range, s->edge, NULL};
    NB_TRY(nbi_calibrate(ctx, s->further.fresh ? s->further.fresh : s->source, s->net, &c));
    c.images = s->images.n;
    c.scores = s->reference;
    NB_TRY(nbi_float_scores(ctx, s->source, s->net, &c));
    /* one score per class: what a Softmax reads, or one row of an image or labelled sample */
    bool classes = s->edge != s->net->output[0] || s->info.is_image || s->info.classes > 0;
    classes &= s->net->n_untouched == 0;
    if (s->labelled) {
        nbi_metrics m; /* of scores, never probabilities, as far as classes go */
        nbi_measure(s->reference, NULL, s->images.label, s->images.n, count, false, &m);
        nbi_warn_chance(ctx, &m, count);
    }
    if (s->loss_given && !strcmp(s->o->data.metric, "auc") && (!s->labelled || count > 2))
        return nb_fail(ctx, NB_EINVAL, "--metric auc: it needs labels and one score, or two; the network has %zu%s",
                       count, s->labelled ? "" : ", the data no labels");
    if (s->loss_given && s->loss == NBI_LOSS_KL && count == 1) {
        nb_log(ctx, NB_LOG_WARNING, "the network has one output: policies are scored by its squared error, "
               "not by '%s'", s->o->data.metric);
        s->loss = NBI_LOSS_MSE;
    }
    if (!s->loss_given)
        s->loss = classes && e->rank == 2 && count > 1 ? NBI_LOSS_KL : NBI_LOSS_MSE;
    return NB_OK;
}

/* What the scorer's input is: pixels, or the float samples as codes. */
static nb_status make_inputs(nbi_session *s) {
    nb_ctx *ctx = s->ctx;
    const nbi_edge *e = &s->net->edge[s->net->input];
    nbi_ptensor x;
    nbi_describe_edge(e, &s->net->site[e->site].fit[8], &x);
    nbi_program p = {.tensor = &x, .n_tensors = 1, .input_is_pixels = s->net->input_is_image};
    return nbi_program_inputs(ctx, &p, &s->images, &s->transform, &s->inputs);
}

static uint64_t fingerprint(const nbi_session *s) {
    const nb_quantize_options *o = s->o;
    uint64_t h = NBI_HASH_START;
    for (int i = 0; i < s->source->n_tensors; i++) {
        const nbi_tensor *t = s->source->tensor[i];
        h = nbi_hash(h, t->name, strlen(t->name));
        if (t->data)
            h = nbi_hash(h, t->data, nbi_dtype_bytes(t->dtype, (size_t)nbi_tensor_count(t)));
    }
    h = nbi_hash(h, s->images.bytes, s->images.n * s->images.sample_bytes);
    h = nbi_transform_hash(h, &s->transform);
    const int settings[] = {(int)s->range, s->per_channel, o->residual_bits, o->correct,
                            (int)s->loss, (int)s->calib, s->net->n_sites};
    h = nbi_hash(h, settings, sizeof settings);
    return nbi_hash(h, o->first_last, strlen(o->first_last));
}

nb_status nbi_session_begin_study(nbi_session *s, uint64_t salt) {
    char text[64];
    long known = 0;
    uint64_t key = fingerprint(s);
    if (!s->study) return NB_OK;
    if (salt) key = nbi_hash(key, &salt, sizeof salt);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)key);
    NB_TRY(nbi_study_begin(s->ctx, s->study, text, s->o->resume, &known));
    s->known = s->o->resume ? known : 0;
    if (s->o->resume && known)
        nb_log(s->ctx, NB_LOG_INFO, "resuming: %ld policies are known", known);
    return NB_OK;
}

static nb_status open_study(nbi_session *s) {
    nbi_buf path = {0};
    nb_status st;
    if (!s->o->output || s->further.on) return NB_OK;
    NB_TRY(nbi_make_folder(s->ctx, s->o->output));
    NB_TRYG(nbi_buf_printf(s->ctx, &path, "%s/study.db", s->o->output));
    NB_TRYG(nbi_study_open(s->ctx, path.data, &s->study));
    st = nbi_session_begin_study(s, 0);
done:
    nbi_buf_free(&path);
    return st;
}

static nb_status write_improvement(nb_ctx *ctx, void *user, const nbi_choice *bits, double score) {
    nbi_session *s = user;
    nbi_buf path = {0};
    if (!s->o->output) return NB_OK;
    json_t *root = nbi_policy_json(s, bits);
    json_object_set_new(root, "loss", json_real(score));
    nb_status st = nbi_buf_printf(ctx, &path, "%s/policy.json", s->o->output);
    if (st == NB_OK) st = nbi_json_write(ctx, root, path.data);
    json_decref(root);
    nbi_buf_free(&path);
    return st;
}

/* A policy's whole path, where that is possible: less costs a sensitivity table nearly all of what
 * its rows share. */
static size_t cache_bytes(const nbi_session *s) {
    size_t path = nbi_scorer_path_bytes(s->net, s->images.n);
    return path < LEAST_CACHE ? LEAST_CACHE : path > MOST_CACHE ? MOST_CACHE : path;
}

nbi_scorer_options nbi_session_scorer_options(const nbi_session *s) {
    return (nbi_scorer_options){.images = s->images.n,
                                .inputs = s->inputs,
                                .stat_images = s->o->correct ? s->calib : 0,
                                .cache_bytes = cache_bytes(s),
                                .per_channel = s->per_channel};
}

nb_status nbi_session_prepare(nbi_session *s) {
    nb_ctx *ctx = s->ctx;
    if (!s->data) NB_TRY(nbi_open_data(ctx, &s->o->data, s->source, &s->data));
    s->info = *nbi_dataset_get(s->data);
    NB_TRY(draw_images(s));
    if (nbi_reads_pixels(s->source, &s->info)) nbi_set_pixels(s->net, &s->transform);
    NB_TRY(calibrate(s));
    NB_TRY(make_inputs(s));
    NB_TRY(fit_offers(s));
    nbi_scorer_options so = nbi_session_scorer_options(s);
    return nbi_scorer_new(ctx, s->net, &so, &s->scorer);
}

/* Of what a copy of this session in another process must have in common with it: numbers of the network are
 * told, codes of float samples are not. */
static uint64_t common_hash(const nbi_session *s) {
    const nbi_edge *e = &s->net->edge[s->net->input];
    const size_t count = (size_t)e->h * (size_t)e->w * (size_t)e->c, bytes = nbi_net_numbers_bytes(s->net);
    uint64_t h = nbi_hash(fingerprint(s), &bytes, sizeof bytes);
    return nbi_hash(h, s->inputs, count * s->images.n);
}

nb_status nbi_session_spread(nb_ctx *ctx, nbi_session *s, nbi_team *team, nb_status st) {
    uint64_t own = 0, first;
    if (!team) return st;
    if (st == NB_OK) own = common_hash(s);
    if (st == NB_OK) st = nbi_scorer_set_team(ctx, s->scorer, team, s->net);
    first = own;
    NB_TRY(nbi_team_tell(ctx, team, st, &first, sizeof first));
    if (own != first)
        st = nb_fail(ctx, NB_EINVAL, "model or data are other ones than in the first process");
    NB_TRY(nbi_team_agree(ctx, team, st));
    s->team = team;
    return NB_OK;
}

nb_status nbi_session_pose(nbi_session *s) {
    NB_TRY(open_study(s));
    nbi_netproblem_options po = {.net = s->net, .scorer = s->scorer, .edge = s->edge,
                                 .reference = s->reference, .first = s->calib,
                                 .images = s->images.n, .loss = s->loss, .weights = s->weights,
                                 .activations = s->activations, .biases = s->biases,
                                 .fixed = s->fixed,
                                 .for_onnx = s->for_onnx, .containers = s->containers,
                                 .extra_bytes = s->untouched_bytes,
                                 .study = s->study, .improved = write_improvement,
                                 .curvature = nbi_curvature,
                                 .hypernetwork = nbi_hyper_install, .learn = nbi_relaxed_learn, .user = s};
    NB_TRY(nbi_netproblem_new(s->ctx, &po, &s->np));
    s->problem = nbi_netproblem_problem(s->np);
    return NB_OK;
}

nb_status nbi_session_calibrate(nbi_session *s) {
    NB_TRY(nbi_session_prepare(s));
    return nbi_session_pose(s);
}

/* ---- policies ------------------------------------------------------------------------------- */

void nbi_session_uniform(const nbi_session *s, nbi_choice w, nbi_choice a, nbi_choice *bits) {
    for (int i = 0; i < s->net->n_sites; i++) {
        const nbi_site *site = &s->net->site[i];
        nbi_choice own = nbi_choice_for(site, site->kind == NBI_SITE_WEIGHT ? w : a);
        if (site->kind == NBI_SITE_BIAS) own = s->biases.choice[s->biases.n - 1];
        bits[i] = s->fixed[i] ? s->fixed[i] : own;
    }
}

nb_status nbi_session_freeze(nbi_session *s, const nbi_choice *bits, nbi_frozen **frozen,
                             nbi_program **program) {
    bool tuned = s->tuned && !memcmp(bits, s->tuned->bits,
                                        (size_t)s->net->n_sites * sizeof *bits);
    bool learned = !tuned && s->learned &&
                   !memcmp(bits, s->learned, (size_t)s->net->n_sites * sizeof *bits);
    if (learned) nbi_use_learned(s, true);
    nb_status st = tuned ? nbi_qat_freeze(s->ctx, s->tuned, frozen)
                         : nbi_scorer_freeze(s->ctx, s->scorer, bits, frozen);
    if (learned) nbi_use_learned(s, false); /* a ranker, where there is one, stays otherwise */
    NB_TRY(st);
    st = tuned ? nbi_frozen_fold(s->ctx, *frozen) : NB_OK;
    if (st == NB_OK) st = nbi_lower(s->ctx, *frozen, program);
    if (st != NB_OK) {
        nbi_frozen_free(*frozen);
        *frozen = NULL;
    }
    return st;
}

nb_status nbi_session_sensitivity(nbi_session *s, double ***delta) {
    if (!s->delta) {
        size_t n = (size_t)s->problem->n_vars, total = 0;
        for (size_t v = 0; v < n; v++) total += (size_t)s->problem->n_options[v];
        NB_TRY(nbi_alloc(s->ctx, n * sizeof(double *) + total * sizeof(double) + 8, 1, &s->delta));
        double *row = (double *)(void *)(s->delta + n);
        for (size_t v = 0; v < n; v++) {
            s->delta[v] = row;
            row += s->problem->n_options[v];
        }
        nb_status st = s->problem->sensitivity(s->ctx, s->problem->self, s->delta);
        if (st != NB_OK) {
            nbi_free(s->delta);
            s->delta = NULL;
            return st;
        }
    }
    *delta = s->delta;
    return NB_OK;
}

const char *nbi_kind_name(nbi_site_kind kind) {
    static const char *const names[] = {"weight", "activation", "residual", "input", "output",
                                        "bias"};
    return names[kind];
}

/* Tables of levels that differ from channel to channel are not deployed: such weights have one. */
static const char *granularity(const nbi_session *s, const nbi_site *site, nbi_choice choice) {
    return nbi_weight_groups(&s->net->layer[site->layer], choice, s->per_channel) > 1 ? "channel"
                                                                                      : "tensor";
}

json_t *nbi_policy_json(const nbi_session *s, const nbi_choice *bits) {
    json_t *root = json_object(), *list = json_array();
    for (int i = 0; i < s->net->n_sites; i++) {
        const nbi_site *site = &s->net->site[i];
        json_t *row = json_object();
        json_object_set_new(row, "tensor", json_string(site->name));
        json_object_set_new(row, "kind", json_string(nbi_kind_name(site->kind)));
        if (site->layer >= 0)
            json_object_set_new(row, "layer", json_string(s->net->layer[site->layer].name));
        json_object_set_new(row, "scheme", json_string(nbi_choice_row(bits[i])->name));
        if (site->kind != NBI_SITE_OUTPUT)
            json_object_set_new(row, "bits", json_integer(nbi_choice_bits(bits[i])));
        if (site->kind == NBI_SITE_WEIGHT)
            json_object_set_new(row, "granularity", json_string(granularity(s, site, bits[i])));
        if (s->fixed[i]) json_object_set_new(row, "fixed", json_true());
        json_array_append_new(list, row);
    }
    json_object_set_new(root, "policy", list);
    return root;
}

/* One row of policy.json; `scheme` may be left out: uniform. */
static nb_status read_row(nbi_session *s, const char *path, const json_t *row, nbi_choice *bits) {
    const char *name = json_string_value(json_object_get(row, "tensor"));
    const char *scheme = json_string_value(json_object_get(row, "scheme"));
    json_t *b = json_object_get(row, "bits");
    char text[64];
    nbi_choice choice;
    int found = -1;
    if (!name || !b) return NB_OK;
    for (int k = 0; k < s->net->n_sites; k++)
        if (!strcmp(s->net->site[k].name, name)) found = k;
    json_int_t v = json_integer_value(b);
    if (found < 0)
        return nb_fail(s->ctx, NB_EFORMAT, "'%s': the model has no tensor '%s'", path, name);
    if (s->net->site[found].kind == NBI_SITE_BIAS) {
        bits[found] = (nbi_choice)v;
        if (v == 8 || v == 16 || v == 32) return NB_OK;
        return nb_fail(s->ctx, NB_EFORMAT, "'%s': bias '%s' has %lld bits; 8, 16 and 32 are "
                       "possible", path, name, (long long)v);
    }
    if (v < 1 || v > 8)
        return nb_fail(s->ctx, NB_EFORMAT, "'%s': tensor '%s' has %lld bits; 1 to 8 are possible",
                       path, name, (long long)v);
    snprintf(text, sizeof text, "%.40s%d", scheme ? scheme : "", (int)v);
    NB_TRY(nbi_choice_parse(s->ctx, name, text, strlen(text), &choice));
    if (s->net->site[found].kind == NBI_SITE_INPUT) return NB_OK;
    NB_TRY(nbi_session_check(s, found, choice));
    if (s->net->site[found].kind == NBI_SITE_ACTIVATION && !nbi_site_find(&s->net->site[found], choice))
        NB_TRY(nbi_fit_site(s->ctx, s->net, found, choice, s->range));
    bits[found] = choice;
    return NB_OK;
}

nb_status nbi_policy_read(nbi_session *s, const char *path, nbi_choice *bits) {
    size_t i;
    json_t *root, *row;
    NB_TRY(nbi_json_read(s->ctx, path, (size_t)64 << 20, &root));
    nb_status st = NB_OK;
    json_t *list = json_is_array(root) ? root : json_object_get(root, "policy");
    if (!json_is_array(list)) st = nb_fail(s->ctx, NB_EFORMAT, "'%s' holds no policy array", path);
    json_array_foreach(list, i, row) {
        st = read_row(s, path, row, bits);
        if (st != NB_OK) break;
    }
    json_decref(root);
    return st;
}
