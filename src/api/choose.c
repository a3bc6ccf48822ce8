/* Choosing the policy: a policy file, a search under limits, or the smallest model whose metric does
 * not fall by more than a bound. */
#include "api/session.h"

#include "runtime/footprint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NORMAL_90    1.2815515594 /* one-sided 90 % of the normal distribution */
#define LN_10        2.3025850930 /* where n·p is more, n images show no change in less than 10 % */
#define DROP_ROUNDS  8            /* of the bisection on size */
#define DROP_DEFAULT 1.0          /* points, when no limit is given and there are images enough */

double nbi_float_bytes(const nbi_session *s) {
    double n = 0;
    for (int i = 0; i < s->net->n_layers; i++)
        if (s->net->layer[i].type == NBI_LAYER_CONV)
            n += (double)s->net->layer[i].n_weights + s->net->layer[i].geometry.out_c;
    return 4 * n + s->untouched_bytes;
}

/* Seconds and joules of every layer at every width, where somebody asks for them. */
static nb_status load_costs(nbi_session *s) {
    const nb_quantize_options *o = s->o;
    nbi_netproblem_set_costs(s->np, NULL);
    nbi_step_costs_free(s->costs);
    s->costs = NULL;
    if (o->cost_table) {
        NB_TRY(nbi_step_costs_read(s->ctx, s->net, o->cost_table, &s->costs));
    } else if (o->max_latency > 0) {
        const nbi_step_widths widths = {s->fixed,     s->weights.choice, s->activations.choice,
                                        s->weights.n, s->activations.n,  s->per_channel};
        NB_TRY(nbi_step_costs_measure(s->ctx, s->net, &widths, s->inputs, &s->costs));
    } else {
        return NB_OK;
    }
    if (o->max_energy > 0 && !nbi_step_costs_have_energy(s->costs))
        return nb_fail(s->ctx, NB_EINVAL, "max-energy: the cost table '%s' has no column 'energy'",
                       o->cost_table);
    nbi_netproblem_set_costs(s->np, s->costs);
    return NB_OK;
}

nb_status nbi_set_limits(nbi_session *s) {
    const nb_quantize_options *o = s->o;
    double *limit = s->problem->limit;
    int size = s->for_onnx ? NBI_COST_BYTES_ONNX : NBI_COST_BYTES;
    const double given[] = {o->max_size, o->compression, o->avg_bits, o->max_ram, o->max_bops,
                            o->max_latency, o->max_energy};
    for (size_t i = 0; i < NBI_COUNT(given); i++)
        if (given[i] < 0 || !isfinite(given[i]))
            return nb_fail(s->ctx, NB_EINVAL, "a limit of %g is not possible", given[i]);
    if (o->max_size > 0) limit[size] = o->max_size;
    if (o->compression > 0)
        limit[size] = fmin(limit[size], nbi_float_bytes(s) / o->compression);
    if (o->avg_bits > 0) limit[NBI_COST_AVG_BITS] = o->avg_bits;
    if (o->max_ram > 0) limit[NBI_COST_RAM] = o->max_ram;
    if (o->max_bops > 0) limit[NBI_COST_BOPS] = o->max_bops;
    NB_TRY(load_costs(s));
    if (o->max_latency > 0) limit[NBI_COST_LATENCY] = o->max_latency;
    if (o->max_energy > 0) limit[NBI_COST_ENERGY] = o->max_energy;
    return nbi_netproblem_bound_ram(s->ctx, s->np);
}

/* ---- drop of the metric ---------------------------------------------------------------------- */

static nb_status load_drop_images(nbi_session *s) {
    if (s->drop_float) return NB_OK;
    nbi_draw draw = {NBI_SPLIT_VAL, NBI_DROP_IMAGES, nb_ctx_seed(s->ctx) + 2, false, NULL};
    if (s->info.count[NBI_SPLIT_VAL] == 0) draw.split = NBI_SPLIT_TRAIN;
    if (!s->drop_images.n) NB_TRY(nbi_images_draw(s->ctx, s->data, &draw, &s->drop_images));
    return nbi_eval_float(s->ctx, s->compared, &s->drop_images, &s->transform, &s->drop_float,
                          &s->drop_count, NULL);
}

/* One image's drop in points: wrong minus wrong-before with labels, disagreement without. */
static double image_drop(const nbi_session *s, size_t i, const float *values) {
    const float *f = s->drop_float + i * s->drop_count, *q = values + i * s->drop_count;
    size_t cf = nbi_argmax(f, s->drop_count), cq = nbi_argmax(q, s->drop_count);
    int label = s->drop_images.label[i];
    if (label < 0) return 100.0 * (cf != cq);
    return 100.0 * ((cf == (size_t)label) - (cq == (size_t)label));
}

/* The least that n images can bound a drop by: what is left possible, at 90 %, where none differs.
 * The normal approximation knows of no such uncertainty. */
static double least_bound(size_t n) {
    return 100 * LN_10 / (double)n;
}

double nbi_max_drop(const nbi_session *s) {
    size_t n = s->drop_images.n, validation = s->info.count[NBI_SPLIT_VAL];
    if (s->o->max_drop >= 0) return s->o->max_drop;
    if (n == 0) n = validation ? validation : s->info.count[NBI_SPLIT_TRAIN];
    if (n == 0 || s->loss != NBI_LOSS_KL) return DROP_DEFAULT;
    return fmax(DROP_DEFAULT, least_bound(n < NBI_DROP_IMAGES ? n : NBI_DROP_IMAGES));
}

static nb_status measure_drop(nbi_session *s, const nbi_choice *bits, double *drop, double *bound) {
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    float *values = NULL;
    size_t count;
    nb_status st;
    NB_TRYG(load_drop_images(s));
    NB_TRYG(nbi_session_freeze(s, bits, &frozen, &program));
    NB_TRYG(nbi_eval_integer(s->ctx, program, &s->drop_images, &s->transform, &values, &count,
                             NULL));
    size_t n = s->drop_images.n;
    double sum = 0, square = 0;
    if (s->loss == NBI_LOSS_KL) {
        for (size_t i = 0; i < n; i++) {
            double d = image_drop(s, i, values);
            sum += d;
            square += d * d;
        }
        double mean = sum / (double)n, variance = square / (double)n - mean * mean;
        *drop = mean;
        *bound = mean + fmax(NORMAL_90 * sqrt(fmax(variance, 0) / (double)n), least_bound(n));
    } else { /* relative root mean square error, percent */
        for (size_t i = 0; i < n * count; i++) {
            double e = (double)values[i] - (double)s->drop_float[i];
            sum += e * e;
            square += (double)s->drop_float[i] * (double)s->drop_float[i];
        }
        *drop = *bound = square > 0 ? 100 * sqrt(sum / square) : 0;
    }
done:
    nbi_free(values);
    nbi_frozen_free(frozen);
    nbi_program_free(program);
    return st;
}

nb_status nbi_measure_drop(nbi_session *s, const nbi_choice *bits, double *drop, double *bound) {
    nbi_cancel_hold(s->ctx, true); /* a policy that was found must be measured to be delivered */
    nb_status st = measure_drop(s, bits, drop, bound);
    nbi_cancel_hold(s->ctx, false);
    return st;
}

/* With few images nothing can be shown to be within a small bound. */
static nb_status warn_of_few_images(nbi_session *s, double bound) {
    if (s->loss != NBI_LOSS_KL) return NB_OK;
    NB_TRY(load_drop_images(s));
    size_t n = s->drop_images.n;
    if (least_bound(n) > bound)
        nb_log(s->ctx, NB_LOG_WARNING,
               "max-drop %g: %zu images bound a drop by %.2g points at best, even where none of "
               "them changes",
               bound, n, least_bound(n));
    return NB_OK;
}

/* ---- searches -------------------------------------------------------------------------------- */

nb_status nbi_parse_search(nb_ctx *ctx, const char *text, const nbi_search **out,
                           double values[NBI_SEARCH_OPTIONS]) {
    char name[64];
    size_t len = strcspn(text, ":");
    if (len >= sizeof name) len = sizeof name - 1;
    memcpy(name, text, len);
    name[len] = 0;
    /* measured (docs/benchmarks.md): exact selection on sensitivities, refined by real scores */
    const nbi_search *s = nbi_search_find(strcmp(name, "auto") ? name : "sensitivity");
    if (!s) {
        size_t n;
        const nbi_search *const *rows = nbi_searches(&n);
        char list[256] = "auto";
        for (size_t i = 0; i < n; i++) {
            size_t used = strlen(list);
            snprintf(list + used, sizeof list - used, ", %s", rows[i]->name);
        }
        return nb_fail(ctx, NB_EINVAL, "search: there is no method '%s'; there are %s", name, list);
    }
    if (s->n_options > NBI_SEARCH_OPTIONS) return nb_fail(ctx, NB_EUNSUPPORTED, "%s has too many options", name);
    const char *given = text[strcspn(text, ":")] ? text + strcspn(text, ":") + 1 : NULL;
    *out = s;
    NB_TRY(nbi_options_parse(ctx, name, s->options, s->n_options, given, values));
    return s->check ? s->check(ctx, given, values) : NB_OK;
}

/* `share` of the time limit, counted from the start of the job, is this search's. */
static nb_status run_search(nbi_session *s, const char *text, double share, uint8_t *policy,
                            nbi_outcome *out) {
    const nbi_search *method = NULL;
    double values[NBI_SEARCH_OPTIONS];
    nbi_search_result result = {.policy = policy, .score = INFINITY};
    NB_TRY(nbi_parse_search(s->ctx, text, &method, values));
    nbi_search_run run = {.problem = s->problem, .options = values, .max_trials = s->o->trials,
                          .deadline = INFINITY, .seed = nb_ctx_seed(s->ctx), .result = &result};
    if (s->o->time_limit > 0) run.deadline = s->started + share * s->o->time_limit;
    nbi_netproblem_set_deadline(s->np, run.deadline);
    nb_status st = method->run(s->ctx, &run);
    if (st != NB_OK && st != NB_ELIMIT) return st;
    snprintf(out->method, sizeof out->method, "%s", method->name);
    out->feasible = st == NB_OK && result.feasible;
    out->loss = result.score;
    return NB_OK;
}

/* The smallest size whose drop is within the bound: bisection between the cheapest and the dearest
 * policy, each step a search at that size. The default is the exact selection by sensitivities
 * alone; a method that was named runs as it is, with its trials and its part of the time at every
 * step. */
static nb_status search_drop(nbi_session *s, double bound, uint8_t *policy, nbi_outcome *out) {
    nb_ctx *ctx = s->ctx;
    int size = s->for_onnx ? NBI_COST_BYTES_ONNX : NBI_COST_BYTES;
    size_t n = (size_t)s->problem->n_vars;
    double *limit = s->problem->limit, given = limit[size], cost[NBI_COST_COUNT], drop, upper;
    uint8_t *trial = NULL;
    bool met = false;
    const char *method = strcmp(s->o->search, "auto") ? s->o->search : "sensitivity:refine=0";
    nb_status st;
    NB_TRY(warn_of_few_images(s, bound));
    NB_TRY(nbi_alloc(ctx, n + 1, 1, &trial));
    NB_TRYG(s->problem->cost(ctx, s->problem->self, trial, cost));
    double low = cost[size];
    for (size_t v = 0; v < n; v++) policy[v] = (uint8_t)(s->problem->n_options[v] - 1);
    NB_TRYG(s->problem->cost(ctx, s->problem->self, policy, cost));
    double high = fmin(cost[size], given);
    limit[size] = high;
    NB_TRYG(run_search(s, method, 1.0 / (DROP_ROUNDS + 1), policy, out));
    nbi_netproblem_bits(s->np, policy, out->bits);
    NB_TRYG(nbi_measure_drop(s, out->bits, &out->drop, &out->drop_bound));
    met = out->feasible && out->drop_bound <= bound;
    for (int round = 0; met && round < DROP_ROUNDS && high - low > 0.01 * high; round++) {
        if (nb_cancelled(ctx)) break;
        if (s->o->time_limit > 0 && nb_seconds(ctx) > s->started + s->o->time_limit) break;
        nbi_outcome o = *out;
        limit[size] = (low + high) / 2;
        NB_TRYG(run_search(s, method, (round + 2.0) / (DROP_ROUNDS + 1), trial, &o));
        if (o.feasible) {
            nbi_netproblem_bits(s->np, trial, out->bits);
            NB_TRYG(nbi_measure_drop(s, out->bits, &drop, &upper));
        }
        nb_log(ctx, NB_LOG_INFO, "%.0f bytes: drop %.2f, bound %.2f", limit[size],
               o.feasible ? drop : NAN, o.feasible ? upper : NAN);
        if (o.feasible && upper <= bound) {
            high = limit[size];
            memcpy(policy, trial, n);
            out->loss = o.loss;
            out->drop = drop;
            out->drop_bound = upper;
        } else {
            low = limit[size];
        }
    }
    out->feasible = met;
done:
    limit[size] = given;
    if (st == NB_ECANCELLED && met) st = NB_OK; /* the best so far */
    nbi_free(trial);
    return st;
}

/* What the named method does to scores before it searches. */
static nb_status prepare_scores(nbi_session *s) {
    const nbi_search *method;
    double values[NBI_SEARCH_OPTIONS];
    NB_TRY(nbi_parse_search(s->ctx, s->o->search, &method, values));
    nbi_search_run run = {.problem = s->problem, .options = values, .deadline = INFINITY,
                          .seed = nb_ctx_seed(s->ctx)};
    if (s->o->time_limit > 0) run.deadline = s->started + s->o->time_limit;
    return method->prepare && s->problem->n_vars > 0 ? method->prepare(s->ctx, &run) : NB_OK;
}

/* A given policy, or the only one: scored and compared with the limits. */
static nb_status use_policy(nbi_session *s, double max_drop, nbi_outcome *out) {
    if (s->o->policy) NB_TRY(prepare_scores(s));
    nbi_session_uniform(s, 8, s->activations.choice[s->activations.n - 1], out->bits);
    if (s->o->policy) NB_TRY(nbi_policy_read(s, s->o->policy, out->bits));
    NB_TRY(nbi_netproblem_loss(s->ctx, s->np, out->bits, &out->loss));
    NB_TRY(nbi_netproblem_cost(s->ctx, s->np, out->bits, out->cost));
    out->feasible = nbi_feasible(s->problem, out->cost);
    snprintf(out->method, sizeof out->method, s->o->policy ? "policy" : "fixed");
    if (max_drop < 0) return NB_OK;
    NB_TRY(warn_of_few_images(s, max_drop));
    NB_TRY(nbi_measure_drop(s, out->bits, &out->drop, &out->drop_bound));
    out->feasible &= out->drop_bound <= max_drop;
    return NB_OK;
}

static nb_status choose(nbi_session *s, nbi_outcome *out) {
    bool limited = false;
    double drop = s->o->max_drop;
    uint8_t *policy = NULL;
    NB_TRY(nbi_rank_begin(s));
    if (s->o->policy) return use_policy(s, drop, out);
    for (int i = 0; i < NBI_COST_COUNT; i++) limited |= isfinite(s->problem->limit[i]);
    if (drop < 0 && !limited && s->o->max_latency <= 0) drop = nbi_max_drop(s);
    if (s->problem->n_vars == 0) return use_policy(s, drop, out);
    NB_TRY(nbi_alloc(s->ctx, (size_t)s->problem->n_vars + 1, 1, &policy));
    nb_status st = drop >= 0 ? search_drop(s, drop, policy, out)
                             : run_search(s, s->o->search, 1, policy, out);
    if (st == NB_OK) nbi_netproblem_bits(s->np, policy, out->bits);
    nbi_free(policy);
    return st;
}

nb_status nbi_choose(nbi_session *s, nbi_outcome *out) {
    double start = nb_seconds(s->ctx);
    out->drop = out->drop_bound = NAN;
    nb_status st = choose(s, out);
    out->cancelled = nb_cancelled(s->ctx);
    if (st != NB_OK) return st;
    nb_ctx_clear_cancel(s->ctx); /* what was found is still delivered */
    if (!isfinite(out->loss)) NB_TRY(nbi_netproblem_loss(s->ctx, s->np, out->bits, &out->loss));
    out->seconds = nb_seconds(s->ctx) - start;
    out->trials = nbi_netproblem_scored(s->np);
    return nbi_netproblem_cost(s->ctx, s->np, out->bits, out->cost);
}
