/* nibble quantize MODEL: the main job. What it prints is in quantize_print.c. */
#include "cli.h"
#include "quantize_print.h"

#include <string.h>

typedef struct quantize_args {
    nb_quantize_options o;
    text_list rules;
} quantize_args;

#define O(field) offsetof(nb_quantize_options, field)
static const opt limits[] = {
    {"max-size", 0, "SIZE", "bytes of weights, scales and tables, e.g. 64K (K = 1024)", OPT_BYTES,
     O(max_size), 1, 1e15},
    {"compression", 0, "RATIO", "float32 weights over size, e.g. 16x", OPT_RATIO, O(compression),
     0.01, 1e6},
    {"avg-bits", 0, "BITS", "average width of the weights, e.g. 2.5", OPT_REAL, O(avg_bits), 0.1,
     32},
    {"max-ram", 0, "SIZE", "peak of the activation arena, e.g. 48K", OPT_BYTES, O(max_ram), 1,
     1e15},
    {"max-bops", 0, "N", "bit operations of one image, e.g. 400M or 2e9", OPT_LARGE, O(max_bops), 1, 1e24},
    {"max-latency", 0, "TIME", "one image, by --cost-table, else on one thread here, e.g. 2ms",
     OPT_SECONDS, O(max_latency), 1e-9, 1e6},
    {"max-energy", 0, "JOULES", "one image, by --cost-table, e.g. 1e-3", OPT_REAL, O(max_energy),
     1e-15, 1e9},
    {"cost-table", 0, "FILE.csv", "cycles or seconds, and energy, of each step on the device",
     OPT_TEXT, O(cost_table), 0, 0},
    {"max-drop", 0, "POINTS", "loss of the metric against float, e.g. 0.5", OPT_REAL, O(max_drop),
     0, 1e9},
    {"for", 0, "c|onnx",
     "what counts as size: packed bits as C stores them (default), or ONNX's "
     "containers",
     OPT_CHOICE, O(target), 0, 0},
};

static const opt how[] = {
    {"search", 's', "METHOD[:key=value,...]",
     "default auto; 'nibble list searches' names methods and keys", OPT_TEXT, O(search), 0, 0},
    {"settings", 0, "METHOD[:key=value,...]",
     "first searches how the network is calibrated (--calib, --range, --granularity, --first-last, "
     "--schemes fixed), with uniform policies: quantune, grid, random or genetic",
     OPT_TEXT, O(settings), 0, 0},
    {"trials", 0, "N",
     "policies to try (default: the method's), beside the single choices that sensitivity and genetic "
     "measure first", OPT_LONG, O(trials), 1, 1e9},
    {"time-limit", 0, "TIME", "stop the search after, e.g. 10m", OPT_SECONDS, O(time_limit), 1e-3,
     1e9},
    {"policy", 0, "FILE", "take this policy.json; no search", OPT_TEXT, O(policy), 0, 0},
    {"calib", 0, "N", "calibration images (default 512)", OPT_COUNT, O(calib), 1, 1e9},
    {"no-correct", 0, "", "without the output-statistics correction", OPT_OFF, O(correct), 0, 0},
    {"ptq", 0, "METHOD",
     "how the chosen policy's weights are rounded: none; gram (default): layer by layer, so that sums "
     "on calibration images change least, in seconds; adaround, qdrop: from there on by gradient "
     "descent, block by block, in a minute or more; cle, in front (cle,gram): channels of "
     "neighbouring layers equalized first",
     OPT_TEXT, O(ptq), 0, 0},
    {"rank", 0, "nearest|learned",
     "candidates have weights at their nearest levels (default), or rounded as --ptq gram does: several "
     "times slower, and nearer to what is delivered",
     OPT_CHOICE, O(rank), 0, 0},
    {"strict", 0, "", "an unknown operator is an error, not an untouched part", OPT_FLAG, O(strict),
     0, 0},
    {"dry-run", 'n', "", "sizes, BOPs and RAM of uniform policies; needs no data (-v: why)",
     OPT_FLAG, O(dry_run), 0, 0},
};

static const opt own[] = {
    {"rule", 0, "REGEX:W,A", "widths of the layers whose name fits; may be repeated", OPT_TEXTS,
     offsetof(quantize_args, rules), 0, 0},
};

static const opt training[] = {
    {"finetune", 0, "EPOCHS", "trains the chosen policy with quantization in the loop (default 0)",
     OPT_INT, O(finetune), 0, 1e6},
    {"start", 0, "auto|search|rounded|float|random",
     "what --finetune starts from: the better one (default) of the weights that the search trained, if "
     "it trained any, and of those of learned rounding; the model's; fresh ones",
     OPT_CHOICE, O(start), 0, 0},
    {"lr", 0, "RATE", "largest learning rate of --finetune (default 0.01; adam, adamw: 0.001)", OPT_REAL,
     O(learning_rate), 1e-9, 1e3},
    {"batch", 0, "N", "images per step of --finetune (default 128)", OPT_INT, O(batch), 2, 65536},
    {"no-distill", 0, "", "labels only, without the float network as teacher", OPT_OFF, O(distill),
     0, 0},
};

static const opt output[] = {
    {"output", 'o', "DIR", "receives model.onnx, policy.json, results.json, ...", OPT_TEXT,
     O(output), 0, 0},
    {"emit", 0, "c", "also C99 source, in DIR/c", OPT_CHOICE, O(emit), 0, 0},
    {"c-name", 0, "NAME", "of its files and symbols, where a program has several (default model)", OPT_TEXT,
     O(c_name), 0, 0},
    {"opset", 0, "N", "of model.onnx: 21 (default), or 25 for 2-bit containers", OPT_INT, O(opset),
     13, 99},
    {"resume", 0, "", "go on with an interrupted run in DIR", OPT_FLAG, O(resume), 0, 0},
};

static int work(cli *c, quantize_args *a, const char *path) {
    nb_quantize_options *o = &a->o;
    if (!o->output && !o->dry_run)
        return cli_wrong(c, "quantize needs --output DIR (or --dry-run)");
    /* metaquantnet scores a given policy with generated weights */
    if (o->policy && strcmp(o->search, "auto") != 0 && strncmp(o->search, "metaquantnet", 12) != 0)
        return cli_wrong(c, "--policy and --search exclude each other");
    if (o->policy && a->rules.n) return cli_wrong(c, "--policy and --rule exclude each other");
    if (o->policy && o->trials) return cli_wrong(c, "--policy and --trials exclude each other");
    o->rules = a->rules.items;
    o->n_rules = a->rules.n;
    o->command_line = c->command_line;
    c->tells = o->finetune > 0;
    char *json = NULL;
    nb_status status = nb_quantize(c->ctx, path, o, &json);
    cli_printer print = !o->dry_run ? print_quantize : c->verbose ? print_decisions : print_dry_run;
    return cli_finish(c, status, json, print, o->output);
}

int cmd_quantize(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "Chooses a width for every tensor, corrects what rounding breaks, and writes a deployable "
        "model. Without a limit: the smallest model with --max-drop 1.",
        "Builds with MPI: the processes that mpirun starts share the work of scoring.",
        NULL};
    quantize_args a = {.o = nb_quantize_options_default()};
    const opt_group groups[] = {
        OPT_GROUP("Limits, in any mix", limits, &a.o), CLI_CHOICE_GROUP(&a.o),
        OPT_GROUP("Rules", own, &a),                   OPT_GROUP("How", how, &a.o),
        OPT_GROUP("Fine-tuning", training, &a.o),
        CLI_DESCENT_GROUP(&a.o.descent),
        OPT_GROUP("What is written", output, &a.o),    CLI_DATA_GROUP(&a.o.data)};
    const cli_usage usage = {.args = args, .needs = "--data PATH -o DIR", .notes = notes,
                             .groups = groups, .n_groups = 8};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code == CLI_GO_ON) code = work(c, &a, path);
    cli_list_free(&a.rules);
    return code;
}
