/* nb_list: what this build can do, from the tables themselves. */
#include "api/api.h"

#include "kernels/kernels.h"
#include "ops/op.h"
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

static json_t *options_json(const nbi_option *o, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s,s:f,s:f,s:f,s:s}", "name", o[i].name,
                                              "default", o[i].def, "min", o[i].min, "max",
                                              o[i].max, "help", o[i].help));
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

static void list_schemes(json_t *list) {
    add(list, "uniform", "symmetric per channel or tensor for weights, 1 to 8 bits; unsigned, "
                         "symmetric or affine for activations");
}

static void list_formats(json_t *list) {
    add(list, "qdq", "ONNX with QuantizeLinear and DequantizeLinear");
    add(list, "c", "integer-only C99 for microcontrollers");
}

nb_status nb_list(nb_ctx *ctx, const char *what, char **json) {
    nbi_json_begin();
    static const struct {
        const char *name;
        void (*fill)(json_t *);
    } tables[] = {{"ops", list_ops},         {"steps", list_steps},     {"schemes", list_schemes},
                  {"searches", list_searches}, {"costs", list_costs},   {"kernels", list_kernels},
                  {"readers", list_readers}, {"formats", list_formats}};
    for (size_t i = 0; what && i < NBI_COUNT(tables); i++) {
        if (strcmp(what, tables[i].name)) continue;
        json_t *root = json_object(), *list = json_array();
        tables[i].fill(list);
        json_object_set_new(root, what, list);
        return nbi_json_text(ctx, root, json);
    }
    return nb_fail(ctx, NB_EINVAL, "list: '%s' is not one of ops, steps, schemes, searches, costs, "
                   "kernels, readers, formats", what ? what : "");
}

const char *nb_libraries(void) {
#ifdef NIBBLE_HAVE_ONEDNN
    return "oneDNN, protobuf-c, SQLite " SQLITE_VERSION ", jansson " JANSSON_VERSION
           ", zlib " ZLIB_VERSION;
#else
    return "protobuf-c, SQLite " SQLITE_VERSION ", jansson " JANSSON_VERSION
           ", zlib " ZLIB_VERSION;
#endif
}
