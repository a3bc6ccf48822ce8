/* nibble eval MODEL --data D */
#include "cli.h"

static const opt options[] = {
    {"engine", 0, "integer|float", "default: integer where the model is quantized", OPT_CHOICE,
     offsetof(nb_eval_options, engine), 0, 0},
    {"predictions", 0, "FILE", "receives one class per line", OPT_TEXT,
     offsetof(nb_eval_options, predictions), 0, 0},
};

static void print_eval(const json_t *root, const void *user) {
    (void)user;
    double top1 = json_num(root, "top1"), top5 = json_num(root, "top5");
    if (top1 == top1) printf("  %-23s %.2f %%\n", "top-1", top1);
    if (top5 == top5) printf("  %-23s %.2f %%\n", "top-5", top5);
    static const char *const others[] = {"loss", "kl", "mse", "cosine", "auc", NULL};
    for (const char *const *name = others; *name; name++)
        print_pair(*name, show_value(json_at(root, *name)));
    print_pair("metric", json_text(root, "metric"));
    print_pair("engine", json_text(root, "engine"));
    print_pair("images", show_whole(json_num(root, "images")));
    print_pair("images per second", show_real(json_num(root, "images_per_second"), 1));
}

int cmd_eval(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "MODEL is an ONNX file or the folder that 'nibble quantize' wrote.", NULL};
    nb_eval_options o = nb_eval_options_default();
    const opt_group groups[] = {OPT_GROUP("Evaluation", options, &o), CLI_SPLIT_GROUP(&o.data),
                                CLI_DATA_GROUP(&o.data)};
    const cli_usage usage = {.args = args, .needs = "--data PATH", .notes = notes,
                             .groups = groups, .n_groups = 3};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    if (!o.data.path) return cli_wrong(c, "eval needs --data PATH");
    char *json = NULL;
    nb_status status = nb_eval(c->ctx, path, &o, &json);
    return cli_finish(c, status, json, print_eval, NULL);
}
