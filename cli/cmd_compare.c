/* nibble compare A B --data D */
#include "cli.h"

#include <string.h>

static void row(table *t, const char *key, const json_t *a, const json_t *b) {
    const json_t *va = json_object_get(a, key), *vb = json_object_get(b, key);
    bool nested =
        json_is_object(va) || json_is_array(va) || json_is_object(vb) || json_is_array(vb);
    bool bytes = strstr(key, "bytes") != NULL;
    if (nested || strcmp(key, "agreement") == 0) return; /* the agreement stands below */
    const char *cells[] = {key, bytes ? show_bytes(json_number_value(va)) : show_value(va),
                           bytes ? show_bytes(json_number_value(vb)) : show_value(vb)};
    if (!va) cells[1] = NULL;
    if (!vb) cells[2] = NULL;
    table_row(t, cells);
}

static void print_compare(const json_t *root, const void *user) {
    static const char *const heads[] = {"<", "~A", "~B", NULL};
    (void)user;
    const json_t *a = json_at(root, "a"), *b = json_at(root, "b"), *value;
    const char *key;
    table *t = table_new(heads);
    json_object_foreach((json_t *)a, key, value) row(t, key, a, b);
    json_object_foreach((json_t *)b, key, value) if (!json_object_get(a, key)) row(t, key, a, b);
    table_print(t);
    const json_t *layers = json_at(root, "layers");
    if (json_array_size(layers)) {
        putchar('\n');
        table_of_objects(layers);
    }
    putchar('\n');
    double agreement = json_num(root, "agreement");
    if (agreement == agreement) printf("  %-23s %.2f %%\n", "same class", agreement);
    print_pair("largest difference", show_value(json_at(root, "max_abs_error")));
    print_pair("images", show_whole(json_num(root, "images")));
}

int cmd_compare(cli *c) {
    static const char *const args[] = {"A", "B", NULL};
    static const char *const notes[] = {
        "A and B are ONNX files or folders that 'nibble quantize' wrote.", NULL};
    nb_data_options data = nb_data_options_default();
    const opt_group groups[] = {CLI_SPLIT_GROUP(&data), CLI_DATA_GROUP(&data)};
    const cli_usage usage = {.args = args, .needs = "--data PATH", .notes = notes,
                             .groups = groups, .n_groups = 2};
    const char *paths[2];
    int code = cli_parse(c, &usage, paths);
    if (code != CLI_GO_ON) return code;
    if (!data.path) return cli_wrong(c, "compare needs --data PATH");
    char *json = NULL;
    nb_status status = nb_compare(c->ctx, paths[0], paths[1], &data, &json);
    return cli_finish(c, status, json, print_compare, NULL);
}
