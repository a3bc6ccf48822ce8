/* nibble sensitivity MODEL --data D: tensors by widths, the one that costs most first. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_BITS = 32, MOST_WIDTHS = 12 };

static const opt options[] = {
    {"for", 0, "c|onnx", "offers the widths that C stores (default), or ONNX", OPT_CHOICE,
     offsetof(nb_quantize_options, target), 0, 0},
    {"calib", 0, "N", "calibration images (default 512)", OPT_COUNT,
     offsetof(nb_quantize_options, calib), 1, 1e9},
    {"curvature", 0, "", "--json: also the mean curvature of the loss along each tensor", OPT_FLAG,
     offsetof(nb_quantize_options, curvature), 0, 0},
    {"no-correct", 0, "", "without the output-statistics correction", OPT_OFF,
     offsetof(nb_quantize_options, correct), 0, 0},
    {"strict", 0, "", "an unknown operator is an error", OPT_FLAG,
     offsetof(nb_quantize_options, strict), 0, 0},
};

typedef struct blamed {
    const json_t *tensor;
    double blame;
    size_t order;
} blamed;

/* tensor.options[{bits, loss, sqnr}] */
static double at_bits(const json_t *tensor, int bits, const char *what) {
    const json_t *option;
    size_t i;
    json_array_foreach(json_at(tensor, "options"), i,
                       option) if (json_num(option, "bits") == bits) return json_num(option, what);
    char path[32]; /* or tensor.bits{"4": {loss, sqnr}} */
    snprintf(path, sizeof path, "bits.%d.%s", bits, what);
    return json_num(tensor, path);
}

/* The largest loss of any width; tensors with noise only follow, the noisiest first. */
static double blame_of(const json_t *tensor) {
    double most = NAN, noise = NAN;
    for (int bits = 1; bits <= MOST_BITS; bits++) {
        most = fmax(most, at_bits(tensor, bits, "loss")); /* fmax passes NAN over */
        noise = fmax(noise, -at_bits(tensor, bits, "sqnr"));
    }
    return most == most ? most : noise == noise ? -1e6 + noise : -1e9;
}

static int by_blame(const void *a, const void *b) {
    const blamed *x = a, *y = b;
    if (x->blame != y->blame) return x->blame < y->blame ? 1 : -1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static size_t find_widths(const blamed *list, size_t n, const char *what, int *widths) {
    size_t count = 0;
    for (int bits = 1; bits <= MOST_BITS && count < MOST_WIDTHS; bits++)
        for (size_t i = 0; i < n; i++)
            if (!isnan(at_bits(list[i].tensor, bits, what))) {
                widths[count++] = bits;
                break;
            }
    return count;
}

static void print_widths(const blamed *list, size_t n, const char *what, int digits) {
    int widths[MOST_WIDTHS];
    char titles[MOST_WIDTHS][16];
    const char *heads[MOST_WIDTHS + 3] = {"~tensor", "<kind"};
    size_t count = find_widths(list, n, what, widths);
    for (size_t k = 0; k < count; k++) {
        snprintf(titles[k], sizeof titles[k], "%d bit%s", widths[k], widths[k] == 1 ? "" : "s");
        heads[k + 2] = titles[k];
    }
    table *t = table_new(heads);
    for (size_t i = 0; i < n; i++) {
        const json_t *tensor = list[i].tensor;
        const char *layer = json_text(tensor, "layer");
        const char *cells[MOST_WIDTHS + 2] = {layer ? layer : json_text(tensor, "tensor|name"),
                                              json_text(tensor, "kind")};
        for (size_t k = 0; k < count; k++)
            cells[k + 2] = show_real(at_bits(tensor, widths[k], what), digits);
        table_row(t, cells);
    }
    table_print(t);
}

/* The width of `tensor` next below `bits`; 0: none. */
static int next_below(const json_t *tensor, int bits) {
    for (int b = bits - 1; b > 0; b--)
        if (!isnan(at_bits(tensor, b, "loss"))) return b;
    return 0;
}

/* What giving up one width costs for what it saves. */
static void print_steps(const blamed *list, size_t n) {
    static const char *const heads[] = {"~tensor", "<kind", "from", "to", "loss", "bytes",
                                        "loss per K", NULL};
    table *t = table_new(heads);
    for (size_t i = 0; i < n; i++) {
        const json_t *tensor = list[i].tensor;
        const char *layer = json_text(tensor, "layer");
        for (int bits = MOST_BITS; bits > 1; bits--) {
            int to = next_below(tensor, bits);
            if (!to || isnan(at_bits(tensor, bits, "loss"))) continue;
            double loss = at_bits(tensor, to, "loss") - at_bits(tensor, bits, "loss");
            double bytes = at_bits(tensor, to, "bytes") - at_bits(tensor, bits, "bytes");
            const char *cells[] = {layer ? layer : json_text(tensor, "tensor|name"),
                                   json_text(tensor, "kind"), show_whole(bits), show_whole(to),
                                   show_real(loss, 4), show_whole(bytes),
                                   show_real(bytes < 0 ? loss / -bytes * 1024 : NAN, 4)};
            table_row(t, cells);
        }
    }
    table_print(t);
}

static void print_sensitivity(const json_t *root, const void *user) {
    const json_t *tensors = json_at(root, "tensors"), *tensor;
    size_t n = json_array_size(tensors), i;
    (void)user;
    blamed *list = calloc(n ? n : 1, sizeof *list);
    if (!list) {
        cli_say("out of memory for a table; --json has its values");
        return;
    }
    json_array_foreach(tensors, i, tensor) list[i] = (blamed){tensor, blame_of(tensor), i};
    qsort(list, n, sizeof *list, by_blame);
    int widths[MOST_WIDTHS];
    bool has_loss = find_widths(list, n, "loss", widths) > 0;
    if (has_loss) {
        printf("what each tensor alone adds to the loss, by its width; the worst first\n\n");
        print_widths(list, n, "loss", 4);
        printf("\nwhat one width less adds to the loss, and saves\n\n");
        print_steps(list, n);
        putchar('\n');
    }
    if (find_widths(list, n, "sqnr", widths) > 0) {
        printf("signal to quantization noise, dB\n\n");
        print_widths(list, n, "sqnr", 1);
        putchar('\n');
    }
    print_pair("loss", json_text(root, "loss|metric"));
    print_pair("images", show_whole(json_num(root, "images")));
    if (n) print_pair("most to blame", json_text(list[0].tensor, "layer|tensor|name"));
    free(list);
}

int cmd_sensitivity(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "Loss: how much more the outputs diverge from the float network's when one tensor alone "
        "has that width and the others their widest.",
        NULL};
    nb_quantize_options o = nb_quantize_options_default();
    const opt_group groups[] = {CLI_CHOICE_GROUP(&o), OPT_GROUP("How", options, &o),
                                CLI_DATA_GROUP(&o.data)};
    const cli_usage usage = {.args = args, .needs = "--data PATH", .notes = notes,
                             .groups = groups, .n_groups = 3};
    const char *path;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    if (!o.data.path) return cli_wrong(c, "sensitivity needs --data PATH");
    o.command_line = c->command_line;
    char *json = NULL;
    nb_status status = nb_sensitivity(c->ctx, path, &o, &json);
    return cli_finish(c, status, json, print_sensitivity, NULL);
}
