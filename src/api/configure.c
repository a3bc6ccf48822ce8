/* Quantune's space (docs/searches.md), as far as the integer program has it: how a network
 * is calibrated, decided for all of it before any policy is searched. A configuration is a policy
 * of five variables, so the methods of search/ work on it as they are; its score is the loss of the
 * best uniform policy within the limits, measured in a session of its own. Trials are kept in
 * study.db under the values' places in these tables, not under those of what was offered: a
 * configuration means the same for every network, which is what later searches learn from. */
#include "api/finished.h"
#include "api/untouched.h"

#include "base/stage.h"
#include "quant/generate.h"
#include "runtime/step_costs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TIME_SHARE 0.5 /* of --time-limit */

enum { CALIB, SCHEME, RANGE, GRANULARITY, FIRST_LAST, VARIABLES };
enum { VALUES = 3, MOST_TRIALS = 3 * 2 * 3 * 2 * 2 };

static const size_t calibs[] = {1, 1000, 10000};
static const char *const ranges[] = {"minmax", "kl", "mse"};
static const char *const grains[] = {"tensor", "channel"};
static const char *const ends[] = {"searched", "8"};

typedef struct configuring {
    nb_ctx *ctx;
    const char *path;
    const nb_quantize_options *given;
    nbi_study *study;
    int n[VARIABLES];
    uint8_t value[VARIABLES][VALUES]; /* of an option: its place in the table */
    nbi_problem problem;
    uint8_t chosen[VARIABLES + 1]; /* values; the last: there are any */
} configuring;

static void offer(configuring *c, int variable, int value) {
    c->value[variable][c->n[variable]++] = (uint8_t)value;
}

/* What differs for this network and data. */
static void offer_all(configuring *c, const nbi_session *s) {
    size_t images = nbi_dataset_get(s->data)->count[NBI_SPLIT_TRAIN];
    bool narrow = false;
    for (int i = 0; i < s->weights.n; i++) narrow |= nbi_choice_bits(s->weights.choice[i]) < 8;
    for (int i = 0; i < s->activations.n; i++)
        narrow |= nbi_choice_bits(s->activations.choice[i]) < 8;
    for (int i = 0; i < 3; i++)
        if (i == 0 || calibs[i - 1] < images) offer(c, CALIB, i);
    if (strcmp(c->given->schemes, "fixed")) offer(c, SCHEME, 0);
    offer(c, SCHEME, 1);
    for (int i = 0; i < 3; i++) offer(c, RANGE, i);
    for (int i = 0; i < 2; i++) offer(c, GRANULARITY, i);
    if (narrow) offer(c, FIRST_LAST, 0); /* 8 bits everywhere: no difference */
    offer(c, FIRST_LAST, 1);
}

static void values_of(const configuring *c, const uint8_t *policy, uint8_t out[VARIABLES]) {
    for (int v = 0; v < VARIABLES; v++) out[v] = c->value[v][policy[v]];
}

static void apply(const uint8_t value[VARIABLES], nb_quantize_options *o) {
    o->calib = calibs[value[CALIB]];
    if (value[SCHEME]) o->schemes = "fixed";
    o->range = ranges[value[RANGE]];
    o->granularity = grains[value[GRANULARITY]];
    o->first_last = ends[value[FIRST_LAST]];
    o->settings = NULL;
}

/* ---- the problem ----------------------------------------------------------------------------- */

/* Limits are met by the policies inside. */
static nb_status cost(nb_ctx *ctx, void *self, const uint8_t *policy, double out[NBI_COST_COUNT]) {
    (void)ctx, (void)self, (void)policy;
    memset(out, 0, NBI_COST_COUNT * sizeof *out);
    return NB_OK;
}

/* The least loss of the uniform policies within the limits; INFINITY: none. */
static nb_status best_uniform(nbi_session *s, nbi_choice *bits, nbi_study_trial *t) {
    t->score = INFINITY;
    for (int w = 0; w < s->weights.n; w++)
        for (int a = 0; a < s->activations.n; a++) {
            double loss, costs[NBI_COST_COUNT];
            nbi_session_uniform(s, s->weights.choice[w], s->activations.choice[a], bits);
            NB_TRY(nbi_netproblem_cost(s->ctx, s->np, bits, costs));
            if (!nbi_feasible(s->problem, costs)) continue;
            NB_TRY(nbi_netproblem_loss(s->ctx, s->np, bits, &loss));
            if (!(loss < t->score)) continue;
            t->score = loss;
            memcpy(t->cost, costs, sizeof costs);
        }
    return NB_OK;
}

static nb_status measure(const configuring *c, const uint8_t value[VARIABLES], nbi_study_trial *t) {
    nb_quantize_options o = *c->given;
    nbi_session s = {0};
    nbi_choice *bits = NULL;
    nb_status st;
    apply(value, &o);
    o.output = NULL;
    NB_TRYG(nbi_session_open(c->ctx, c->path, &o, &s));
    NB_TRYG(nbi_session_calibrate(&s));
    NB_TRYG(nbi_set_limits(&s));
    NB_TRYG(nbi_alloc(c->ctx, (size_t)s.net->n_sites + 1, sizeof *bits, &bits));
    st = best_uniform(&s, bits, t);
done:
    nbi_free(bits);
    nbi_session_close(&s);
    return st;
}

static nb_status score(nb_ctx *ctx, void *self, const uint8_t *policy, double *out) {
    configuring *c = self;
    uint8_t value[VARIABLES];
    nbi_study_trial t = {.policy = value, .n_policy = VARIABLES};
    double start = nb_seconds(ctx);
    bool found;
    values_of(c, policy, value);
    NB_TRY(nbi_study_lookup(ctx, c->study, value, VARIABLES, &found, out));
    if (found) return NB_OK;
    NB_TRY(measure(c, value, &t));
    t.seconds = nb_seconds(ctx) - start;
    NB_TRY(nbi_study_record(ctx, c->study, &t));
    nb_log(ctx, NB_LOG_INFO, "%zu images, %s, %s, per %s, first and last %s: loss %.5g",
           calibs[value[CALIB]], value[SCHEME] ? "fixed" : c->given->schemes, ranges[value[RANGE]],
           grains[value[GRANULARITY]], ends[value[FIRST_LAST]], t.score);
    *out = t.score;
    return NB_OK;
}

/* ---- earlier searches ------------------------------------------------------------------------ */

typedef struct passing {
    const configuring *c;
    nbi_known_fn fn;
    void *user;
    int n; /* trials of the run at hand */
    uint8_t value[MOST_TRIALS][VARIABLES];
    double score[MOST_TRIALS];
} passing;

/* Losses of different networks have no common scale; ranks within a search have. */
static nb_status pass_run(passing *p) {
    for (int i = 0; i < p->n; i++) {
        uint8_t policy[VARIABLES];
        int below = 0;
        bool offered = true;
        for (int k = 0; k < p->n; k++) below += p->score[k] < p->score[i];
        for (int v = 0; v < VARIABLES; v++) {
            int o = 0;
            while (o < p->c->n[v] && p->c->value[v][o] != p->value[i][v]) o++;
            offered &= o < p->c->n[v];
            policy[v] = (uint8_t)o;
        }
        if (offered) NB_TRY(p->fn(p->user, policy, (double)below / (p->n > 1 ? p->n - 1 : 1)));
    }
    p->n = 0;
    return NB_OK;
}

static nb_status take(void *user, const nbi_study_trial *t) {
    passing *p = user;
    if (t->ordinal == 0) NB_TRY(pass_run(p)); /* the first of another run */
    if (p->n == MOST_TRIALS) return NB_OK;
    memcpy(p->value[p->n], t->policy, VARIABLES);
    p->score[p->n++] = t->score;
    return NB_OK;
}

static nb_status earlier(nb_ctx *ctx, void *self, nbi_known_fn fn, void *user) {
    const configuring *c = self;
    passing p = {.c = c, .fn = fn, .user = user};
    NB_TRY(nbi_study_others(ctx, c->study, VARIABLES, take, &p));
    return pass_run(&p);
}

/* ---- the search ------------------------------------------------------------------------------ */

static uint64_t hash_text(uint64_t h, const char *text) {
    return text ? nbi_hash(h, text, strlen(text) + 1) : nbi_hash(h, "", 1);
}

static nb_status hash_costs(const configuring *c, uint64_t *h) {
    void *bytes = NULL;
    size_t size = 0;
    if (!c->given->cost_table) return NB_OK;
    NB_TRY(nbi_file_read(c->ctx, c->given->cost_table, NBI_STEP_COSTS_BYTES, &bytes, &size));
    *h = nbi_hash(*h, bytes, size);
    nbi_free(bytes);
    return NB_OK;
}

/* Images that sessions draw: all would be too many to read for a hash. */
static nb_status hash_images(const configuring *c, const nbi_session *s, uint64_t *h) {
    const nbi_dataset_info *info = nbi_dataset_get(s->data);
    const uint64_t seed = nb_ctx_seed(c->ctx);
    const nbi_draw draw[] = {{NBI_SPLIT_TRAIN, NBI_CALIB_IMAGES, seed, true, NULL},
                             {NBI_SPLIT_VAL, NBI_SCORE_IMAGES, seed + 1, true, NULL}};
    *h = nbi_hash(*h, info->count, sizeof info->count);
    for (size_t i = 0; i < NBI_COUNT(draw); i++) {
        nbi_images images = {0};
        if (!info->count[draw[i].split]) continue;
        NB_TRY(nbi_images_draw(c->ctx, s->data, &draw[i], &images));
        *h = nbi_hash(*h, images.bytes, images.n * images.sample_bytes);
        nbi_images_free(&images);
    }
    return NB_OK;
}

/* Of whatever a score depends on beside the configuration. */
static nb_status fingerprint(const configuring *c, const nbi_session *s, uint64_t *out) {
    const nb_quantize_options *o = c->given;
    const uint64_t numbers[] = {nbi_graph_hash(s->source),
                                nb_ctx_seed(c->ctx),
                                o->data.limit,
                                o->data.val,
                                (uint64_t)o->data.val_seed,
                                (uint64_t)s->transform.resize,
                                (uint64_t)s->transform.crop,
                                (uint64_t)o->residual_bits,
                                o->correct,
                                (uint64_t)s->opset};
    const double limits[] = {o->max_size, o->compression, o->avg_bits,  o->max_ram,
                             o->max_bops, o->max_latency, o->max_energy};
    const char *const texts[] = {o->data.path, o->data.metric, o->target,
                                 o->schemes,   o->weight_bits, o->activation_bits,
                                 o->bias_bits, o->ptq};
    uint64_t h = nbi_hash(NBI_HASH_START, numbers, sizeof numbers);
    h = nbi_hash(h, limits, sizeof limits);
    h = nbi_hash(h, &s->transform.scale, sizeof s->transform.scale);
    h = nbi_hash(h, s->transform.mean, sizeof s->transform.mean);
    h = nbi_hash(h, s->transform.std, sizeof s->transform.std);
    for (size_t i = 0; i < NBI_COUNT(texts); i++) h = hash_text(h, texts[i]);
    for (size_t i = 0; i < o->n_rules; i++) h = hash_text(h, o->rules[i]);
    NB_TRY(hash_costs(c, &h));
    NB_TRY(hash_images(c, s, &h));
    *out = h;
    return NB_OK;
}

static nb_status open_study(configuring *c, const nbi_session *s) {
    nbi_buf path = {0};
    char text[64];
    uint64_t key;
    nb_status st;
    NB_TRY(fingerprint(c, s, &key));
    snprintf(text, sizeof text, "settings %016llx", (unsigned long long)key);
    NB_TRYG(nbi_stage_recover(c->ctx, c->given->output));
    NB_TRYG(nbi_make_folder(c->ctx, c->given->output));
    NB_TRYG(nbi_buf_printf(c->ctx, &path, "%s/study.db", c->given->output));
    NB_TRYG(nbi_study_open(c->ctx, path.data, &c->study));
    st = nbi_study_begin(c->ctx, c->study, text, c->given->resume, NULL);
done:
    nbi_buf_free(&path);
    return st;
}

/* Methods that need scores only. */
static nb_status method_of(nb_ctx *ctx, const char *text, const nbi_search **out, double *values) {
    static const char *const names[] = {"grid", "random", "genetic", "quantune"};
    const int length = (int)strcspn(text, ":");
    for (size_t i = 0; i < NBI_COUNT(names); i++)
        if (!strncmp(text, names[i], (size_t)length) && !names[i][length])
            return nbi_parse_search(ctx, text, out, values);
    return nb_fail(ctx, NB_EINVAL,
                   "settings: they are searched by grid, random, genetic or "
                   "quantune, not by '%.*s'",
                   length, text);
}

static nb_status check(nb_ctx *ctx, const char *path, const nb_quantize_options *o) {
    if (!o->output) return nb_fail(ctx, NB_EINVAL, "no folder for the results: name it with -o");
    NB_TRY(nbi_keep_model(ctx, "quantize", path, o->output));
    if (o->policy) return nb_fail(ctx, NB_EINVAL, "settings: a policy that is given has its own");
    if (o->max_latency > 0 && !o->cost_table)
        return nb_fail(ctx, NB_EINVAL,
                       "settings: a latency that is measured cannot limit their "
                       "search; give a cost table");
    return NB_OK;
}

static json_t *describe(const nb_quantize_options *o, const char *method,
                        const nbi_search_result *r, double seconds) {
    json_t *root = json_object(), *chosen = json_object();
    json_object_set_new(chosen, "calib", json_integer((json_int_t)o->calib));
    json_object_set_new(chosen, "schemes", json_string(o->schemes));
    json_object_set_new(chosen, "range", json_string(o->range));
    json_object_set_new(chosen, "granularity", json_string(o->granularity));
    json_object_set_new(chosen, "first_last", json_string(o->first_last));
    json_object_set_new(root, "method", json_string(method));
    json_object_set_new(root, "trials", json_integer((json_int_t)r->evaluations));
    json_object_set_new(root, "seconds", json_real(seconds));
    json_object_set_new(root, "loss", isfinite(r->score) ? json_real(r->score) : json_null());
    json_object_set_new(root, "chosen", chosen);
    return root;
}

static nb_status search(configuring *c, nb_quantize_options *out, json_t **about) {
    nb_ctx *ctx = c->ctx;
    double values[NBI_SEARCH_OPTIONS], start = nb_seconds(ctx);
    const nbi_search *method;
    uint8_t policy[VARIABLES], value[VARIABLES];
    nbi_search_result result = {.policy = policy};
    NB_TRY(method_of(ctx, c->given->settings, &method, values));
    nbi_search_run run = {.problem = &c->problem,
                          .options = values,
                          .max_trials = c->given->trials,
                          .deadline = INFINITY,
                          .seed = nb_ctx_seed(ctx),
                          .result = &result};
    if (c->given->time_limit > 0) run.deadline = start + TIME_SHARE * c->given->time_limit;
    NB_TRY(method->run(ctx, &run));
    bool cancelled = nb_cancelled(ctx);
    if (cancelled && !isfinite(result.score))
        return nb_fail(ctx, NB_ECANCELLED, "stopped before any settings were scored");
    values_of(c, policy, value);
    if (isfinite(result.score)) {
        apply(value, out);
        memcpy(c->chosen, value, VARIABLES);
        c->chosen[VARIABLES] = true;
    } else
        nb_log(ctx, NB_LOG_WARNING,
               "settings: none was scored within the limits, the given ones stay");
    if (cancelled) { /* the best so far, delivered without delay */
        nb_log(ctx, NB_LOG_WARNING, "stopped: the best settings so far; a resumed run goes on");
        nb_ctx_clear_cancel(ctx);
        out->search = "uniform";
        out->finetune = 0;
    }
    double seconds = nb_seconds(ctx) - start;
    if (out->time_limit > 0) out->time_limit = fmax(out->time_limit - seconds, 1e-3);
    *about = describe(out, method->name, &result, seconds);
    return NB_OK;
}

static nb_status run(configuring *c, nb_quantize_options *out, json_t **about) {
    nb_ctx *ctx = c->ctx;
    nbi_session s = {0};
    nb_status st;
    NB_TRY(check(ctx, c->path, c->given));
    NB_TRYG(nbi_session_open(ctx, c->path, c->given, &s));
    NB_TRYG(nbi_warn_untouched(ctx, s.net));
    NB_TRYG(nbi_open_data(ctx, &c->given->data, s.source, &s.data));
    offer_all(c, &s);
    c->problem = (nbi_problem){.self = c,
                               .n_vars = VARIABLES,
                               .n_options = c->n,
                               .cost = cost,
                               .score = score,
                               .earlier = earlier};
    for (int i = 0; i < NBI_COST_COUNT; i++) c->problem.limit[i] = INFINITY;
    NB_TRYG(open_study(c, &s));
    nbi_session_close(&s); /* one network at a time in memory */
    st = search(c, out, about);
done:
    nbi_session_close(&s);
    nbi_study_close(c->study);
    return st;
}

nb_status nbi_configure(nb_ctx *ctx, nbi_team *team, const char *path,
                        const nb_quantize_options *given, nb_quantize_options *out, json_t **about) {
    configuring c = {.ctx = ctx, .path = path, .given = given};
    nb_status st = NB_OK;
    *out = *given;
    if (!nbi_team_follows(team)) st = run(&c, out, about);
    NB_TRY(nbi_team_tell(ctx, team, st, c.chosen, sizeof c.chosen));
    if (nbi_team_follows(team) && c.chosen[VARIABLES]) apply(c.chosen, out);
    return NB_OK;
}
