/* nibble sensitivity MODEL --data D: tensors and schemes by widths, the tensor that costs most first. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static const char *scheme_of(const json_t *option) {
    const char *name = json_text(option, "scheme");
    return name ? name : "uniform";
}

/* Of tensor.options[{bits, scheme, loss, sqnr, bytes}] the one of that width and scheme; scheme NULL:
 * the one of the least loss, of equal ones the scheme that was named first. NULL: none. */
static const json_t *option_of(const json_t *tensor, int bits, const char *scheme) {
    const json_t *option, *best = NULL;
    size_t i;
    json_array_foreach(json_at(tensor, "options"), i, option) {
        if (json_num(option, "bits") != bits) continue;
        if (scheme && strcmp(scheme, scheme_of(option)) != 0) continue;
        double least = best ? json_num(best, "loss") : NAN;
        if (isnan(least) || json_num(option, "loss") <= least) best = option;
    }
    return best;
}

static double value_of(const json_t *option, const char *what) {
    return option ? json_num(option, what) : NAN;
}

/* The largest loss of any option; tensors with noise only follow, the noisiest first. */
static double blame_of(const json_t *tensor) {
    const json_t *option;
    double most = NAN, noise = NAN;
    size_t i;
    json_array_foreach(json_at(tensor, "options"), i, option) {
        most = fmax(most, json_num(option, "loss")); /* fmax passes NAN over */
        noise = fmax(noise, -json_num(option, "sqnr"));
    }
    return most == most ? most : noise == noise ? -1e6 + noise : -1e9;
}

static int by_blame(const void *a, const void *b) {
    const blamed *x = a, *y = b;
    if (x->blame != y->blame) return x->blame < y->blame ? 1 : -1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static bool has_width(const json_t *tensor, int bits, const char *what) {
    const json_t *option;
    size_t i;
    json_array_foreach(json_at(tensor, "options"), i, option) {
        if (json_num(option, "bits") == bits && !isnan(json_num(option, what))) return true;
    }
    return false;
}

static size_t find_widths(const blamed *list, size_t n, const char *what, int *widths) {
    size_t count = 0;
    for (int bits = 1; bits <= MOST_BITS && count < MOST_WIDTHS; bits++)
        for (size_t i = 0; i < n; i++)
            if (has_width(list[i].tensor, bits, what)) {
                widths[count++] = bits;
                break;
            }
    return count;
}

static bool is_uniform_only(const blamed *list, size_t n) {
    const json_t *option;
    size_t k;
    for (size_t i = 0; i < n; i++)
        json_array_foreach(json_at(list[i].tensor, "options"), k, option) {
            if (strcmp(scheme_of(option), "uniform") != 0) return false;
        }
    return true;
}

static bool is_in(const json_t *offered, size_t from, const char *scheme) {
    for (size_t i = from; i < json_array_size(offered); i++)
        if (!strcmp(scheme_of(json_array_get(offered, i)), scheme)) return true;
    return false;
}

/* A row for every scheme, those named first at the end of a width's options. */
static void width_rows(table *t, const json_t *tensor, const char *what, const int *widths,
                       bool named, int digits) {
    const json_t *offered = json_at(tensor, "options");
    const char *layer = json_text(tensor, "layer");
    for (size_t i = json_array_size(offered); i-- > 0;) {
        const char *scheme = scheme_of(json_array_get(offered, i));
        if (is_in(offered, i + 1, scheme)) continue;
        const char *cells[MOST_WIDTHS + 3] = {layer ? layer : json_text(tensor, "tensor|name"),
                                              json_text(tensor, "kind"), named ? scheme : NULL};
        for (size_t k = 0; k < MOST_WIDTHS && widths[k]; k++)
            cells[k + 3] = show_real(value_of(option_of(tensor, widths[k], scheme), what), digits);
        table_row(t, cells);
    }
}

static void print_widths(const blamed *list, size_t n, const char *what, int digits) {
    int widths[MOST_WIDTHS] = {0};
    char titles[MOST_WIDTHS][16];
    const char *heads[MOST_WIDTHS + 4] = {"~tensor", "<kind", "<scheme"};
    size_t count = find_widths(list, n, what, widths);
    for (size_t k = 0; k < count; k++) {
        snprintf(titles[k], sizeof titles[k], "%d bit%s", widths[k], widths[k] == 1 ? "" : "s");
        heads[k + 3] = titles[k];
    }
    table *t = table_new(heads);
    for (size_t i = 0; i < n; i++)
        width_rows(t, list[i].tensor, what, widths, !is_uniform_only(list, n), digits);
    table_print(t);
}

/* The best option of the width next below `bits`; NULL: none. */
static const json_t *next_below(const json_t *tensor, int bits) {
    for (int b = bits - 1; b > 0; b--)
        if (!isnan(value_of(option_of(tensor, b, NULL), "loss"))) return option_of(tensor, b, NULL);
    return NULL;
}

/* "4", "pot3" */
static const char *name_of(const json_t *option, char *out, size_t size) {
    const char *scheme = scheme_of(option);
    snprintf(out, size, "%s%s", strcmp(scheme, "uniform") ? scheme : "",
             show_whole(json_num(option, "bits")));
    return out;
}

static void step_row(table *t, const json_t *tensor, const json_t *from, const json_t *to) {
    const char *layer = json_text(tensor, "layer");
    char names[2][48];
    double loss = json_num(to, "loss") - json_num(from, "loss");
    double bytes = json_num(to, "bytes") - json_num(from, "bytes");
    const char *cells[] = {layer ? layer : json_text(tensor, "tensor|name"),
                           json_text(tensor, "kind"), name_of(from, names[0], sizeof names[0]),
                           name_of(to, names[1], sizeof names[1]), show_real(loss, 4),
                           show_whole(bytes), show_real(bytes < 0 ? loss / -bytes * 1024 : NAN, 4)};
    table_row(t, cells);
}

/* What giving up one width costs for what it saves, with the best scheme of either. */
static void print_steps(const blamed *list, size_t n) {
    static const char *const heads[] = {"~tensor", "<kind", "from", "to", "loss", "bytes",
                                        "loss per K", NULL};
    table *t = table_new(heads);
    for (size_t i = 0; i < n; i++) {
        const json_t *tensor = list[i].tensor;
        for (int bits = MOST_BITS; bits > 1; bits--) {
            const json_t *from = option_of(tensor, bits, NULL), *to = next_below(tensor, bits);
            if (to && !isnan(value_of(from, "loss"))) step_row(t, tensor, from, to);
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
