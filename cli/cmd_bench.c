/* nibble bench MODEL */
#include "cli.h"

#include <math.h>

static const opt options[] = {
    {"engine", 0, "integer|float", "default: integer where the model is quantized", OPT_CHOICE,
     offsetof(nb_bench_options, engine), 0, 0},
    {"batch", 'b', "N", "images per call (default 1)", OPT_INT, offsetof(nb_bench_options, batch),
     1, 1 << 20},
    {"seconds", 0, "TIME", "how long to measure (default 1s)", OPT_SECONDS,
     offsetof(nb_bench_options, seconds), 1e-3, 86400},
    {"no-layers", 0, "", "the total only", OPT_OFF, offsetof(nb_bench_options, layers), 0, 0},
};

static void print_layers(const json_t *layers) {
    static const char *const heads[] = {"~layer", "<type", "us", "share", "GMAC/s", NULL};
    const json_t *layer;
    size_t i;
    double total = 0;
    json_array_foreach(layers, i, layer) {
        double us = json_num(layer, "microseconds");
        if (us == us) total += us;
    }
    table *t = table_new(heads);
    json_array_foreach(layers, i, layer) {
        char share[16] = "-";
        double us = json_num(layer, "microseconds"), rate = json_num(layer, "macs_per_second");
        if (us == us && total > 0) snprintf(share, sizeof share, "%.1f %%", 100 * us / total);
        const char *cells[] = {json_text(layer, "name"), json_text(layer, "type|op"),
                               show_real(us, 1), share, rate > 0 ? show_real(rate * 1e-9, 2) : "-"};
        table_row(t, cells);
    }
    table_print(t);
    putchar('\n');
}

static void print_bench(const json_t *root, const void *user) {
    (void)user;
    const json_t *layers = json_at(root, "layers");
    if (json_array_size(layers)) print_layers(layers);
    print_pair("engine", json_text(root, "engine"));
    print_pair("images per call", show_whole(json_num(root, "batch")));
    print_pair("threads", show_whole(json_num(root, "threads")));
    print_pair("latency of a call", show_seconds(json_num(root, "latency_ms") * 1e-3));
    print_pair("images per second", show_real(json_num(root, "images_per_second"), 1));
}

int cmd_bench(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "MODEL is an ONNX file or the folder that 'nibble quantize' wrote; inputs are random.",
        NULL};
    nb_bench_options o = {.layers = true};
    const opt_group groups[] = {OPT_GROUP("Measurement", options, &o)};
    const cli_usage usage = {.args = args, .notes = notes, .groups = groups, .n_groups = 1};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    char *json = NULL;
    nb_status status = nb_bench(c->ctx, path, &o, &json);
    return cli_finish(c, status, json, print_bench, NULL);
}
