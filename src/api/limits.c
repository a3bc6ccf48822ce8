/* Limits beside what came out: rows of results.json, and a sentence about the first that is missed. */
#include "api/session.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDER "more widths, or --first-last searched, give more room"

static const struct kind {
    const char *name, *unit, *advice; /* advice NULL: none */
} kinds[] = {
    {"max-size", " bytes", WIDER},
    {"compression", "x", WIDER},
    {"avg-bits", "", WIDER},
    {"max-ram", " bytes", "--residual-bits as narrow as the activations saves copies of streams; activations "
                          "take a byte at any width"},
    {"max-bops", "", WIDER},
    {"max-latency", " s", "where no --cost-table is given, 'nibble bench' shows what takes the time"},
    {"max-energy", " J", WIDER},
    {"max-drop", " points", "wider weights or activations, or --finetune, bring the metric nearer"},
};

/* "max-size (onnx)" is one of them, too. */
static const struct kind *kind_of(const char *limit) {
    for (size_t i = 0; i < NBI_COUNT(kinds); i++)
        if (!strncmp(limit, kinds[i].name, strlen(kinds[i].name))) return &kinds[i];
    return NULL;
}

static void add(json_t *limits, const char *name, double wanted, double got, bool ok) {
    json_t *row = json_object();
    json_object_set_new(row, "limit", json_string(name));
    json_object_set_new(row, "wanted", nbi_json_number(wanted));
    json_object_set_new(row, "got", nbi_json_number(got));
    json_object_set_new(row, "ok", json_boolean(ok));
    json_array_append_new(limits, row);
}

static void add_most(json_t *limits, const char *name, double wanted, double got) {
    if (wanted > 0) add(limits, name, wanted, got, got <= wanted);
}

void nbi_judge_limits(const nbi_session *s, nbi_outcome *o, json_t *result) {
    const nb_quantize_options *want = s->o;
    const json_t *q = json_object_get(result, "quantized");
    json_t *limits = json_array();
    /* as delivered: tables that happen to be equal are stored once, which no policy counts on, and
     * training may part grids that were one, which takes a copy and a table */
    const bool planned = nbi_feasible(s->problem, o->cost);
    o->cost[NBI_COST_BYTES] = json_number_value(json_object_get(q, "bytes"));
    o->cost[NBI_COST_RAM] = json_number_value(json_object_get(q, "peak_ram"));
    o->cost[NBI_COST_LATENCY] = json_number_value(json_object_get(q, "latency"));
    if (json_object_get(q, "energy")) o->cost[NBI_COST_ENERGY] = json_number_value(json_object_get(q, "energy"));
    o->feasible = nbi_feasible(s->problem, o->cost);
    if (planned && !o->feasible && s->tuned) json_object_set_new(result, "met_untrained", json_true());
    const double size = o->cost[s->for_onnx ? NBI_COST_BYTES_ONNX : NBI_COST_BYTES];
    add_most(limits, s->for_onnx ? "max-size (onnx)" : "max-size", want->max_size, size);
    if (want->compression > 0) {
        double most = nbi_float_bytes(s) / want->compression;
        add(limits, "compression", want->compression, nbi_float_bytes(s) / size, size <= most);
    }
    add_most(limits, "avg-bits", want->avg_bits, o->cost[NBI_COST_AVG_BITS]);
    add_most(limits, "max-ram", want->max_ram, o->cost[NBI_COST_RAM]);
    add_most(limits, "max-bops", want->max_bops, o->cost[NBI_COST_BOPS]);
    add_most(limits, "max-latency", want->max_latency, o->cost[NBI_COST_LATENCY]);
    add_most(limits, "max-energy", want->max_energy, o->cost[NBI_COST_ENERGY]);
    if (isfinite(o->drop_bound)) {
        const double most = nbi_max_drop(s);
        add(limits, "max-drop", most, o->drop_bound, o->drop_bound <= most);
        o->feasible &= o->drop_bound <= most;
    }
    json_object_set_new(result, "limits", limits);
    json_object_set_new(result, "met", json_boolean(o->feasible));
}

/* "cannot be met: the closest policy", and whether there is advice. */
static const char *what_missed(const json_t *result, const char *limit, bool *advise) {
    const char *method = json_string_value(json_object_get(json_object_get(result, "search"), "method"));
    *advise = false;
    if (method && !strcmp(method, "policy")) return "is not met: the given policy";
    if (json_is_true(json_object_get(result, "met_untrained")) && strcmp(limit, "max-drop"))
        return "is not met: the policy takes less, but what was trained of it";
    if (json_is_true(json_object_get(result, "cancelled"))) return "is not met yet: the best so far";
    *advise = true;
    return "cannot be met: the closest policy";
}

void nbi_describe_miss(const json_t *result, char *text, size_t size) {
    const double stays =
        json_number_value(json_object_get(json_object_get(result, "quantized"), "untouched_bytes"));
    char part[64] = "";
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(result, "limits"), i, row) {
        const char *limit = json_string_value(json_object_get(row, "limit"));
        const struct kind *k = kind_of(limit);
        bool advise;
        const char *what = what_missed(result, limit, &advise), *unit = k ? k->unit : "";
        const char *advice = advise && k ? k->advice : NULL;
        if (json_is_true(json_object_get(row, "ok"))) continue;
        if (stays > 0 && !strncmp(limit, "max-size", 8))
            snprintf(part, sizeof part, ", %.6g of them in nodes that stay float", stays);
        snprintf(text, size, "%s %.6g%s %s, which was written, has %.6g%s%s%s%s%s", limit,
                 json_number_value(json_object_get(row, "wanted")), unit, what,
                 json_number_value(json_object_get(row, "got")), unit, part, advice ? " (" : "",
                 advice ? advice : "", advice ? ")" : "");
        return;
    }
}
