/* nb_list: what this build can do, from the tables themselves. */
#include "api/api.h"

#include "hyper/arch.h"
#include "kernels/kernels.h"
#include "linalg/linalg.h"
#include "ops/op.h"
#include "schemes/schemes.h"
#include "search/search.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

static void add(json_t *list, const char *name, const char *help) {
    json_array_append_new(list, json_pack("{s:s,s:s}", "name", name, "help", help ? help : ""));
}

static void list_ops(json_t *list) {
    size_t n;
    const nbi_op *const *op = nbi_ops(&n);
    char help[64];
    for (size_t i = 0; i < n; i++) {
        int n_in = op[i]->max_in;
        if (op[i]->min_in == n_in)
            snprintf(help, sizeof help, "%d input%s, from opset %d", n_in, n_in == 1 ? "" : "s",
                     op[i]->min_opset);
        else
            snprintf(help, sizeof help, "%d to %d inputs, from opset %d", op[i]->min_in, n_in,
                     op[i]->min_opset);
        add(list, op[i]->name, op[i]->max_in < 0 ? "any number of inputs" : help);
    }
}

/* The name at an index of "a|b|c". */
static json_t *choice_json(const char *choices, int index) {
    for (; index > 0; index--) choices = strchr(choices, '|') + 1;
    return json_stringn(choices, strcspn(choices, "|"));
}

/* Defaults as they are written in "key=value"; a text has none. */
static json_t *option_json(const nbi_option *o) {
    json_t *row = json_pack("{s:s,s:s}", "name", o->name, "help", o->help);
    if (o->type == NBI_OPT_TEXT) return row;
    if (o->type == NBI_OPT_CHOICE) {
        json_object_set_new(row, "default", choice_json(o->choices, (int)o->def));
        json_object_set_new(row, "choices", json_string(o->choices));
    } else if (o->type == NBI_OPT_BOOL) {
        json_object_set_new(row, "default", json_string(o->def != 0 ? "yes" : "no"));
        json_object_set_new(row, "choices", json_string("yes|no"));
    } else {
        json_object_update_new(row, json_pack("{s:f,s:f,s:f}", "default", o->def, "min", o->min,
                                              "max", o->max));
    }
    return row;
}

static json_t *options_json(const nbi_option *o, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, option_json(&o[i]));
    return list;
}

static void list_searches(json_t *list) {
    size_t n;
    const nbi_search *const *s = nbi_searches(&n);
    add(list, "auto", "the default: sensitivity");
    for (size_t i = 0; i < n; i++) {
        add(list, s[i]->name, s[i]->help);
        json_object_set_new(json_array_get(list, i + 1), "options",
                            options_json(s[i]->options, s[i]->n_options));
    }
}

static void list_kernels(json_t *list) {
    size_t n;
    const nbi_conv_kernel *const *k = nbi_conv_kernels(&n);
    for (size_t i = 0; i < n; i++)
        add(list, k[i]->name, k[i]->isa > nbi_cpu_isa() ? "not on this CPU" : "on this CPU");
}

static void list_readers(json_t *list) {
    size_t n;
    const nbi_reader *const *r = nbi_readers(&n);
    for (size_t i = 0; i < n; i++) add(list, r[i]->name, r[i]->help);
}

static void list_costs(json_t *list) {
    for (int i = 0; i < NBI_COST_COUNT; i++)
        add(list, nbi_cost_name((nbi_cost_id)i), nbi_cost_help((nbi_cost_id)i));
}

static void list_steps(json_t *list) {
    add(list, "conv", "convolution, dense layer");
    add(list, "dwconv", "depthwise convolution");
    add(list, "add", "sum or difference of two tensors");
    add(list, "mul", "product, with a vector per channel too");
    add(list, "lut", "any function of one byte, per tensor or channel");
    add(list, "maxpool", "maximum of a window");
    add(list, "avgpool", "mean of a window");
    add(list, "copy", "slice, pad, concat, transpose, reshape");
    add(list, "float", "an operator without integer form (host only)");
}

static void append_text(char *text, size_t size, const char *format, int a, int b) {
    size_t used = strlen(text);
    snprintf(text + used, size - used, format, a, b);
}

/* "W 2-8 (deployed to 7), A 2-4 (not deployed)". */
static void scheme_widths(const nbi_scheme *s, char *text, size_t size) {
    *text = 0;
    for (int weights = 1; weights >= 0; weights--) {
        unsigned role = weights ? NBI_SCHEME_WEIGHTS : NBI_SCHEME_ACTIVATIONS;
        int most = nbi_scheme_max_bits(s, weights), deploy = nbi_scheme_deploy_bits(s, weights);
        if (!(s->flags & role)) continue;
        append_text(text, size, *text ? ", A %d" : weights ? "W %d" : "A %d", s->min_bits, 0);
        if (most > s->min_bits) append_text(text, size, "-%d", most, 0);
        if (deploy < most) append_text(text, size, " (deployed to %d)", deploy, 0);
    }
}

static json_t *scheme_role(const nbi_scheme *s, bool weights) {
    if (!(s->flags & (weights ? NBI_SCHEME_WEIGHTS : NBI_SCHEME_ACTIVATIONS))) return json_null();
    return json_pack("{s:i,s:i,s:i}", "min_bits", s->min_bits, "max_bits",
                     nbi_scheme_max_bits(s, weights), "deploy_bits",
                     nbi_scheme_deploy_bits(s, weights));
}

static void list_schemes(json_t *list) {
    static const struct {
        unsigned flag;
        const char *name;
    } property[] = {{NBI_SCHEME_SIGNED, "signed"},         {NBI_SCHEME_UNSIGNED, "unsigned"},
                    {NBI_SCHEME_CHANNELS, "per channel"},  {NBI_SCHEME_ZERO, "zero"},
                    {NBI_SCHEME_UNIFORM, "equal steps"},   {NBI_SCHEME_MONOTONE, "monotone"},
                    {NBI_SCHEME_IDEMPOTENT, "idempotent"}, {NBI_SCHEME_REFIT, "refitted"},
                    {NBI_SCHEME_LEARNED, "learned"}};
    size_t n;
    const nbi_scheme *const *s = nbi_schemes(&n);
    for (size_t i = 0; i < n; i++) {
        char widths[96], help[256];
        json_t *has = json_array();
        scheme_widths(s[i], widths, sizeof widths);
        snprintf(help, sizeof help, "%s%s%s; %s", s[i]->letter, *s[i]->letter ? ": " : "",
                 s[i]->title, widths);
        add(list, s[i]->name, help);
        for (size_t k = 0; k < NBI_COUNT(property); k++)
            if (s[i]->flags & property[k].flag)
                json_array_append_new(has, json_string(property[k].name));
        json_object_update_new(json_array_get(list, i),
                               json_pack("{s:s,s:s,s:s,s:o,s:o,s:o}", "letter", s[i]->letter,
                                         "formula", s[i]->formula, "source", s[i]->source,
                                         "weights", scheme_role(s[i], true), "activations",
                                         scheme_role(s[i], false), "properties", has));
    }
}

static void list_formats(json_t *list) {
    add(list, "qdq", "ONNX with QuantizeLinear and DequantizeLinear");
    add(list, "c", "integer-only C99 for microcontrollers");
}

static void list_architectures(json_t *list) {
    size_t n;
    const nbi_arch *const *a = nbi_archs(&n);
    for (size_t i = 0; i < n; i++) add(list, a[i]->name, a[i]->help);
}

nb_status nb_list(nb_ctx *ctx, const char *what, char **json) {
    nbi_json_begin();
    static const struct {
        const char *name;
        void (*fill)(json_t *);
    } tables[] = {{"ops", list_ops},         {"steps", list_steps},     {"schemes", list_schemes},
                  {"searches", list_searches}, {"costs", list_costs},   {"kernels", list_kernels},
                  {"readers", list_readers}, {"formats", list_formats},
                  {"architectures", list_architectures}};
    for (size_t i = 0; what && i < NBI_COUNT(tables); i++) {
        if (strcmp(what, tables[i].name)) continue;
        json_t *root = json_object(), *list = json_array();
        tables[i].fill(list);
        json_object_set_new(root, what, list);
        return nbi_json_text(ctx, root, json);
    }
    return nb_fail(ctx, NB_EINVAL, "list: '%s' is not one of ops, steps, schemes, searches, costs, "
                   "kernels, readers, formats, architectures", what ? what : "");
}

#ifdef NIBBLE_HAVE_MPI
#define MPI "MPI, "
#else
#define MPI ""
#endif

const char *nb_libraries(void) {
    static char text[160];
    if (!*text)
        snprintf(text, sizeof text,
                 "%s, " MPI "protobuf-c, SQLite " SQLITE_VERSION ", jansson " JANSSON_VERSION
                 ", zlib " ZLIB_VERSION, nbi_la_name());
    return text;
}
