/* nibble meta-train MODEL --data D -o META.onnx */
#include "cli.h"

#include <string.h>

typedef struct meta_args {
    nb_meta_options o;
    text_list rules;
} meta_args;

#define O(field) offsetof(meta_args, o.field)
static const opt training[] = {
    {"output", 'o', "FILE", "the ONNX file", OPT_TEXT, O(output), 0, 0},
    {"epochs", 'e', "N", "passes over the training images (default 10)", OPT_INT, O(epochs), 1,
     1e6},
    {"weights", 0, "generated|shared|tables",
     "default: generated; controls: one set for all widths, one for each", OPT_CHOICE, O(weights),
     0, 0},
    {"context", 0, "1|3|all", "widths that a layer's weights depend on (default 1: its own)",
     OPT_CHOICE, O(context), 0, 0},
    {"hidden", 0, "N", "hidden units of each layer's generator (default 32)", OPT_INT, O(hidden), 1,
     4096},
    {"lr", 0, "RATE", "largest learning rate, falling as a cosine (default 0.02)", OPT_REAL,
     O(learning_rate), 1e-9, 1e3},
    {"label-smoothing", 0, "S", "share of a label that goes to all classes (default 0.1)", OPT_REAL,
     O(label_smoothing), 0, 0.99},
    {"batch", 0, "N", "images per step (default 128)", OPT_INT, O(job.batch), 2, 65536},
    {"no-distill", 0, "", "labels only, without the float network as teacher", OPT_OFF,
     O(job.distill), 0, 0},
    {"calib", 0, "N", "calibration images (default 512)", OPT_COUNT, O(job.calib), 1, 1e9},
    {"time-limit", 0, "TIME", "stop after, e.g. 10m, with what there is", OPT_SECONDS,
     O(job.time_limit), 1e-3, 1e9},
    {"resume", 0, "", "go on from FILE.checkpoint.npz where it exists", OPT_FLAG, O(job.resume), 0,
     0},
    {"rule", 0, "REGEX:W,A", "widths of the layers whose name fits; may be repeated", OPT_TEXTS,
     offsetof(meta_args, rules), 0, 0},
};

static void print_meta(const json_t *root, const void *user) {
    const json_t *lines = json_at(root, "lines");
    const json_t *last = json_array_get(lines, json_array_size(lines) - 1);
    const char *width;
    json_t *loss;
    (void)user;
    print_pair("parameters", show_whole(json_num(root, "parameters")));
    print_pair("epochs", show_value(json_at(root, "epochs")));
    print_pair("loss", show_real(json_num(last, "loss"), 4));
    json_object_foreach((json_t *)json_at(last, "by_width"), width, loss) {
        char name[32];
        snprintf(name, sizeof name, "loss at %s bits", width);
        print_pair(name, show_real(json_number_value(loss), 4));
    }
    print_pair("images per second", show_real(json_num(root, "images_per_second"), 1));
    if (json_is_true(json_at(root, "stopped"))) print_pair("stopped", "early; --resume goes on");
    print_pair("written", json_text(root, "output"));
}

int cmd_meta_train(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "Trains a network that generates MODEL's weights for every policy of widths, for "
        "'quantize --search metaquantnet:meta=FILE'. The widths offered and the fixed ones must be "
        "those of that run; limits may be any.",
        NULL};
    meta_args a = {.o = nb_meta_options_default()};
    const opt_group groups[] = {OPT_GROUP("Training", training, &a), CLI_CHOICE_GROUP(&a.o.job),
                                CLI_DATA_GROUP(&a.o.job.data)};
    const cli_usage usage = {.args = args, .needs = "--data PATH -o FILE", .notes = notes,
                             .groups = groups, .n_groups = 3};
    const char *path;
    c->tells = true;
    int code = cli_parse(c, &usage, &path);
    if (code == CLI_GO_ON && !a.o.job.data.path)
        code = cli_wrong(c, "meta-train needs --data PATH");
    if (code == CLI_GO_ON && !a.o.output) code = cli_wrong(c, "meta-train needs --output FILE");
    if (code == CLI_GO_ON) {
        char *json = NULL;
        a.o.job.rules = a.rules.items;
        a.o.job.n_rules = a.rules.n;
        nb_status status = nb_meta_train(c->ctx, path, &a.o, &json);
        code = cli_finish(c, status, json, print_meta, NULL);
    }
    cli_list_free(&a.rules);
    return code;
}
