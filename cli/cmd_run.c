/* nibble run MODEL --input FILE... */
#include "cli.h"

typedef struct run_args {
    text_list input, expect;
    const char *output;
} run_args;

static const opt options[] = {
    {"input", 'i', "FILE...", "tensors (.pb, .npy, .npz) in the order of the graph's inputs",
     OPT_FILES, offsetof(run_args, input), 0, 0},
    {"output", 'o', "DIR", "receives output_0.pb, output_1.pb, ...", OPT_TEXT,
     offsetof(run_args, output), 0, 0},
    {"expect", 'e', "FILE...", "compare the outputs with these; exit 1 on a difference", OPT_FILES,
     offsetof(run_args, expect), 0, 0},
};

static void print_run(const json_t *root, const void *user) {
    static const char *const heads[] = {"~output", "<shape", "min", "max", NULL};
    (void)user;
    table *t = table_new(heads);
    const json_t *output, *list = json_at(root, "outputs");
    size_t i;
    json_array_foreach(list, i, output) {
        const char *cells[] = {json_text(output, "name"), show_shape(json_at(output, "shape")),
                               show_value(json_at(output, "min")),
                               show_value(json_at(output, "max"))};
        table_row(t, cells);
    }
    table_print(t);
    print_pair("largest difference", show_value(json_at(root, "max_abs_error")));
}

int cmd_run(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "--input and --expect take every file up to the next option, so MODEL comes first.", NULL};
    run_args a = {0};
    const opt_group groups[] = {OPT_GROUP("Tensors", options, &a)};
    const cli_usage usage = {.args = args, .needs = "--input FILE...", .notes = notes,
                             .groups = groups, .n_groups = 1};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code == CLI_GO_ON) {
        nb_run_options o = {.inputs = a.input.items,
                            .n_inputs = a.input.n,
                            .output_folder = a.output,
                            .expect = a.expect.items,
                            .n_expect = a.expect.n};
        nb_model *model = NULL;
        char *json = NULL;
        nb_status status = nb_model_load(c->ctx, path, &model);
        if (status == NB_OK) status = nb_model_run(c->ctx, model, &o, &json);
        nb_model_free(model);
        code = cli_finish(c, status, json, print_run, NULL);
    }
    cli_list_free(&a.input);
    cli_list_free(&a.expect);
    return code;
}
