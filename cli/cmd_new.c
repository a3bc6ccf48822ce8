/* nibble new ARCH -o OUT.onnx */
#include "cli.h"

static const opt options[] = {
    {"output", 'o', "FILE", "the ONNX file to write", OPT_TEXT, offsetof(nb_new_options, output), 0,
     0},
    {"classes", 0, "N", "outputs (default: as published)", OPT_INT,
     offsetof(nb_new_options, classes), 1, 65536},
    {"input", 0, "CxHxW", "size of the input, e.g. 3x32x32 (default: as published)", OPT_TEXT,
     offsetof(nb_new_options, input), 0, 0},
    {"width", 0, "FACTOR", "of all inner layers' channels (default 1)", OPT_REAL,
     offsetof(nb_new_options, width), 0.01, 16},
};

static void print_new(const json_t *root, const void *user) {
    (void)user;
    print_pair("architecture", json_text(root, "architecture"));
    print_pair("parameters", show_whole(json_num(root, "parameters")));
    print_pair("input", show_shape(json_at(root, "input")));
    print_pair("classes", show_value(json_at(root, "classes")));
    print_pair("written", json_text(root, "output"));
}

int cmd_new(cli *c) {
    static const char *const args[] = {"ARCH", NULL};
    static const char *const notes[] = {
        "Weights are random (He et al. 2015) and follow --seed. 'nibble list architectures' names "
        "ARCH.",
        NULL};
    nb_new_options o = nb_new_options_default();
    const opt_group groups[] = {OPT_GROUP("Network", options, &o)};
    const cli_usage usage = {.args = args, .notes = notes, .groups = groups, .n_groups = 1};
    const char *name;
    int code = cli_parse(c, &usage, &name);
    if (code != CLI_GO_ON) return code;
    if (!o.output) return cli_wrong(c, "new needs --output FILE");
    char *json = NULL;
    nb_status status = nb_new(c->ctx, name, &o, &json);
    return cli_finish(c, status, json, print_new, NULL);
}
