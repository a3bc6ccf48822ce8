/* nibble report DIR */
#include "cli.h"

static void print_report(const json_t *root, const void *user) {
    (void)user;
    const json_t *files = json_at(root, "files");
    print_pair("written", json_string_value(json_array_get(files, 0)));
}

int cmd_report(cli *c) {
    static const char *const args[] = {"DIR", NULL};
    static const char *const notes[] = {
        "DIR is a folder that 'nibble quantize' wrote; DIR/report.html is made anew.", NULL};
    const cli_usage usage = {.args = args, .notes = notes};
    const char *paths[1];
    int code = cli_parse(c, &usage, paths);
    if (code != CLI_GO_ON) return code;
    char *json = NULL;
    nb_status status = nb_report(c->ctx, paths[0], &json);
    return cli_finish(c, status, json, print_report, NULL);
}
