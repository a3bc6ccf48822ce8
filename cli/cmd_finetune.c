/* nibble finetune DIR --epochs N: more fine-tuning of a finished run. */
#include "cli.h"
#include "quantize_print.h"

#define O(field) offsetof(nb_finetune_options, field)
static const opt training[] = {
    {"epochs", 'e', "N", "passes over the training images", OPT_INT, O(epochs), 1, 1e6},
    {"lr", 0, "RATE",
     "largest learning rate (default 0.01, with --retrain 0.1; adam, adamw: 0.001)", OPT_REAL,
     O(learning_rate), 1e-12, 1e30},
    {"batch", 0, "N", "images per step (default: as the run had it, else 128)", OPT_INT, O(batch),
     2, 65536},
    {"no-distill", 0, "", "labels only, without the float network as teacher", OPT_OFF, O(distill),
     0, 0},
    {"retrain", 0, "", "start from random weights (--seed) under the same policy", OPT_FLAG,
     O(retrain), 0, 0},
    {"time-limit", 0, "TIME", "stop after, e.g. 10m, with the best so far", OPT_SECONDS,
     O(time_limit), 1e-3, 1e9},
    {"resume", 0, "", "go on from DIR/finetune.npz where it exists", OPT_FLAG, O(resume), 0, 0},
    {"model", 0, "FILE", "where the float model of the run lies now", OPT_TEXT, O(model), 0, 0},
};

int cmd_finetune(cli *c) {
    static const char *const args[] = {"DIR", NULL};
    static const char *const notes[] = {
        "DIR is what 'nibble quantize' wrote. Its policy is trained further, from the values that an "
        "earlier fine-tuning left, else from the float model; the files in DIR are replaced together "
        "at the end. Data and its transform are the run's where they are not given.",
        NULL};
    nb_finetune_options o = nb_finetune_options_default();
    const opt_group groups[] = {OPT_GROUP("Training", training, &o),
                                CLI_DESCENT_GROUP(&o.descent), CLI_DATA_GROUP(&o.data)};
    const cli_usage usage = {.args = args, .needs = "--epochs N", .notes = notes, .groups = groups,
                             .n_groups = 3};
    const char *path;
    c->tells = true;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    if (!o.epochs) return cli_wrong(c, "finetune needs --epochs N");
    o.command_line = c->command_line;
    char *json = NULL;
    nb_status status = nb_finetune(c->ctx, path, &o, &json);
    return cli_finish(c, status, json, print_quantize, path);
}
