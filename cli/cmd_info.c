/* nibble info MODEL */
#include "cli.h"

#include <math.h>

static void print_layers(const json_t *layers) {
    static const char *const heads[] = {"~layer",     "<operator", "<output",
                                        "parameters", "MACs",      NULL};
    table *t = table_new(heads);
    const json_t *layer;
    size_t i;
    json_array_foreach(layers, i, layer) {
        double parameters = json_num(layer, "parameters|params"), macs = json_num(layer, "macs");
        const char *cells[] = {json_text(layer, "name"), json_text(layer, "op|type|operator"),
                               show_shape(json_object_get(layer, "shape")),
                               parameters > 0 ? show_whole(parameters) : "-",
                               macs > 0 ? show_count(macs) : "-"};
        table_row(t, cells);
    }
    table_print(t);
}

/* "input" or "output" with its names and shapes */
static void print_values(const char *head, const json_t *list) {
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item) {
        char text[256];
        const char *name = json_text(item, "name"), *type = json_text(item, "type|dtype");
        snprintf(text, sizeof text, "%s %s%s%s", name ? name : "",
                 show_shape(json_object_get(item, "shape")), type ? " " : "", type ? type : "");
        print_pair(head, json_is_string(item) ? json_string_value(item) : text);
    }
}

static void print_operators(const json_t *operators) {
    char text[512];
    size_t at = 0;
    const char *name;
    const json_t *count;
    if (!json_is_object(operators)) return;
    json_object_foreach((json_t *)operators, name, count) {
        int n = snprintf(text + at, sizeof text - at, "%s%s %s", at ? ", " : "", show_value(count),
                         name);
        if (n < 0 || (size_t)n >= sizeof text - at) break;
        at += (size_t)n;
    }
    if (at) print_pair("operators", text);
}

static void print_untouched(const json_t *list) {
    const json_t *item;
    size_t i;
    if (!json_array_size(list)) {
        print_pair("stays untouched", list ? "nothing" : NULL);
        return;
    }
    printf("\nstays untouched: not supported by this build\n");
    json_array_foreach(list, i, item) {
        const char *name = json_text(item, "name|node"), *op = json_text(item, "op|operator|type"),
                   *why = json_text(item, "why|reason|message");
        printf("  ");
        if (json_is_string(item)) print_clean(stdout, json_string_value(item));
        if (name) print_clean(stdout, name);
        if (op) printf(" (");
        if (op) print_clean(stdout, op);
        if (op) printf(")");
        if (why) printf(": ");
        if (why) print_clean(stdout, why);
        putchar('\n');
    }
}

static void print_macs(const json_t *root) {
    double unknown = json_num(root, "unknown_shapes");
    char text[128];
    print_pair("MACs", show_whole(json_num(root, "macs")));
    if (!json_is_true(json_at(root, "macs_partial"))) return;
    snprintf(text, sizeof text, "without %s node%s of unknown shape", show_whole(unknown),
             unknown == 1 ? "" : "s");
    print_pair("", text);
}

static void print_info(const json_t *root, const void *path) {
    print_clean(stdout, path);
    printf(": %s nodes, %s parameters, %s%s MACs\n\n", show_whole(json_num(root, "nodes")),
           show_whole(json_num(root, "parameters")),
           json_is_true(json_at(root, "macs_partial")) ? "at least " : "",
           show_count(json_num(root, "macs")));
    const json_t *layers = json_at(root, "layers");
    if (json_array_size(layers)) {
        print_layers(layers);
        putchar('\n');
    }
    print_values("input", json_at(root, "inputs"));
    print_values("output", json_at(root, "outputs"));
    print_operators(json_at(root, "operators"));
    double parameters = json_num(root, "parameters");
    print_pair("parameters", show_whole(parameters));
    print_pair("as float32", show_bytes(4 * parameters));
    print_macs(root);
    print_pair("opset", show_value(json_at(root, "opset")));
    print_pair("peak of activations", show_bytes(json_num(root, "peak_activation_bytes")));
    print_pair("cannot run", json_text(root, "not_runnable"));
    print_pair("cannot be quantized", json_text(root, "not_quantizable"));
    if (!json_at(root, "not_quantizable")) print_untouched(json_at(root, "unsupported"));
}

int cmd_info(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    const cli_usage usage = {.args = args};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    nb_model *model = NULL;
    char *json = NULL;
    nb_status status = nb_model_load(c->ctx, path, &model);
    if (status == NB_OK) status = nb_model_info(c->ctx, model, &json);
    nb_model_free(model);
    return cli_finish(c, status, json, print_info, path);
}
