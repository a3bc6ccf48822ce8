/* nibble export DIR --to FORMAT -o OUT */
#include "cli.h"

static const opt options[] = {
    {"to", 't', "qdq|c", "ONNX with QuantizeLinear and DequantizeLinear, or C99 source", OPT_CHOICE,
     offsetof(nb_export_options, format), 0, 0},
    {"output", 'o', "OUT", "file (qdq) or folder (c)", OPT_TEXT,
     offsetof(nb_export_options, output), 0, 0},
    {"c-name", 0, "NAME", "of the C's files and symbols, where a program has several (default model)",
     OPT_TEXT, offsetof(nb_export_options, c_name), 0, 0},
};

static void print_export(const json_t *root, const void *user) {
    (void)user;
    const json_t *file, *files = json_at(root, "files");
    size_t i;
    json_array_foreach(files, i, file) {
        const char *name =
            json_is_string(file) ? json_string_value(file) : json_text(file, "name|path|file");
        printf("  ");
        print_clean(stdout, name ? name : "-");
        double bytes = json_num(file, "bytes");
        if (bytes == bytes) printf("  %s", show_bytes(bytes));
        putchar('\n');
    }
    print_pair("bytes", show_whole(json_num(root, "bytes")));
}

int cmd_export(cli *c) {
    static const char *const args[] = {"DIR", NULL};
    static const char *const notes[] = {
        "DIR is the folder that 'nibble quantize' wrote, or an ONNX file with its quantization.",
        NULL};
    nb_export_options o = {.command_line = c->command_line};
    const opt_group groups[] = {OPT_GROUP("Export", options, &o)};
    const cli_usage usage = {.args = args, .needs = "--to qdq|c -o OUT", .notes = notes,
                             .groups = groups, .n_groups = 1};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    if (!o.format) return cli_wrong(c, "export needs --to qdq or --to c");
    if (!o.output) return cli_wrong(c, "export needs --output OUT");
    char *json = NULL;
    nb_status status = nb_export(c->ctx, path, &o, &json);
    return cli_finish(c, status, json, print_export, NULL);
}
