/* results.json as tables: policy, limits, accuracy and size beside float, search, files. */
#include "quantize_print.h"

#include <math.h>
#include <string.h>

/* How a limit is shown, and where what was reached stands when the limit does not say it. */
static const struct limit_row {
    const char *name, *got;
    char unit; /* 'B' bytes, 's' seconds, 'x' ratio, 'n' count, 'r' real, 'j' joules */
} limit_rows[] = {
    {"max-size", "quantized.bytes", 'B'},
    {"compression", "quantized.compression|compression", 'x'},
    {"avg-bits", "quantized.average_weight_bits", 'r'},
    {"max-ram", "quantized.peak_ram", 'B'},
    {"max-bops", "quantized.bops", 'n'},
    {"max-latency", "quantized.latency", 's'},
    {"max-energy", "quantized.energy", 'j'},
    {"max-drop", "validation_drop.bound", 'r'},
};
enum { N_LIMITS = sizeof limit_rows / sizeof limit_rows[0] };

static const char *in_unit(char unit, double x) {
    static char ratio[2][32];
    static unsigned next;
    switch (unit) {
    case 'B':
        return show_bytes(x);
    case 's':
        return show_seconds(x);
    case 'n':
        return show_count(x);
    case 'j':
        if (!isfinite(x)) return "-";
        snprintf(ratio[next % 2], sizeof ratio[0], "%.4g J", x);
        return ratio[next++ % 2];
    case 'x':
        if (!isfinite(x)) return "-";
        snprintf(ratio[next % 2], sizeof ratio[0], "%.2fx", x);
        return ratio[next++ % 2];
    default:
        return show_real(x, 2);
    }
}

/* `limit`: a number, or {wanted, got, ok}. */
static void limit_row(table *t, const json_t *root, const char *name, const json_t *limit) {
    struct limit_row row = {name, "", 'r'};
    for (size_t i = 0; i < N_LIMITS; i++) /* "max-size (onnx)" is one of them, too */
        if (strncmp(limit_rows[i].name, name, strlen(limit_rows[i].name)) == 0) row = limit_rows[i];
    double wanted = json_is_number(limit) ? json_number_value(limit)
                                          : json_num(limit, "wanted|limit|want|value");
    double got = json_num(limit, "got|reached|actual");
    if (isnan(got)) got = json_num(root, row.got);
    const json_t *ok = json_at(limit, "ok|met");
    bool at_least = row.unit == 'x';
    bool met = ok ? json_is_true(ok) : at_least ? got >= wanted : got <= wanted;
    const char *verdict = met ? "yes" : "NO";
    if (!ok && (isnan(got) || isnan(wanted))) verdict = NULL;
    if (!strcmp(name, "max-drop")) name = "max-drop, bound on validation images";
    const char *cells[] = {name, in_unit(row.unit, wanted), in_unit(row.unit, got), verdict};
    table_row(t, cells);
}

static void print_limits(const json_t *root) {
    static const char *const heads[] = {"<limit", "wanted", "got", "<met", NULL};
    const json_t *limits = json_at(root, "limits"), *limit;
    table *t = table_new(heads);
    size_t i;
    const char *name;
    json_array_foreach(limits, i, limit) {
        name = json_text(limit, "name|limit");
        limit_row(t, root, name ? name : "-", limit);
    }
    json_object_foreach((json_t *)limits, name,
                        limit) if (json_is_number(limit) || json_is_object(limit))
        limit_row(t, root, name, limit);
    table_print(t);
}

static bool is_weight(const json_t *site) {
    const char *kind = json_text(site, "kind");
    return json_at(site, "weight_bits") || (kind && strcmp(kind, "weight") == 0);
}

static bool is_bias(const json_t *site) {
    const char *kind = json_text(site, "kind");
    return kind && strcmp(kind, "bias") == 0;
}

/* The biases of a site's layer. */
static const json_t *biases_of(const json_t *policy, const json_t *site) {
    const char *layer = json_text(site, "layer");
    const json_t *other;
    size_t i;
    json_array_foreach(policy, i, other) {
        const char *name = json_text(other, "layer");
        if (layer && name && strcmp(layer, name) == 0 && is_bias(other)) return other;
    }
    return NULL;
}

/* The site in `policy` with the same layer that holds weights or, if not `weights`, its result. */
static const json_t *same_layer(const json_t *policy, const json_t *site, bool weights) {
    const char *layer = json_text(site, "layer");
    const json_t *other;
    size_t i;
    json_array_foreach(policy, i, other) {
        const char *name = json_text(other, "layer");
        if (is_bias(other)) continue;
        if (layer && name && strcmp(layer, name) == 0 && is_weight(other) == weights) return other;
    }
    return NULL;
}

/* "8", or "pot 3" where the scheme is not uniform. */
static const char *choice(const json_t *row, const char *bits, const char *scheme, char *out,
                          size_t size) {
    const char *name = json_text(row, scheme), *width = show_value(json_at(row, bits));
    bool plain = !name || strcmp(name, "uniform") == 0;
    if (!json_at(row, bits)) return NULL;
    snprintf(out, size, "%s%s%s", plain ? "" : name, plain ? "" : " ", width);
    return out;
}

/* "8", "8 residual" */
static const char *result_bits(const json_t *site, char *out, size_t size) {
    char text[48];
    const char *bits = choice(site, "activation_bits|bits", "scheme", text, sizeof text);
    const char *kind = json_text(site, "kind");
    if (!bits) return NULL;
    bool plain = !kind || !strcmp(kind, "activation") || !strcmp(kind, "weight");
    snprintf(out, size, plain ? "%s" : "%s %s", bits, kind);
    return out;
}

static void policy_row(table *t, const json_t *policy, const json_t *site) {
    bool weight = is_weight(site);
    const json_t *result =
        weight && !json_at(site, "activation_bits") ? same_layer(policy, site, false) : site;
    char bits[64], weights[48];
    const char *cells[] = {json_text(site, "layer|name|tensor"),
                           weight ? choice(site, "weight_bits|bits", "scheme", weights,
                                           sizeof weights)
                                  : NULL,
                           result_bits(result, bits, sizeof bits),
                           weight ? show_value(json_at(biases_of(policy, site), "bits")) : NULL,
                           json_is_true(json_at(site, "fixed")) ? "fixed" : NULL,
                           show_whole(json_num(site, "bytes")),
                           show_real(json_num(site, "sqnr"), 1)};
    table_row(t, cells);
}

/* One row per layer with weights, with what it writes; then whatever belongs to none of them. */
static void print_policy(const json_t *policy) {
    static const char *const heads[] = {"~layer", "weights", "<activations", "biases", "<rule",
                                        "bytes",  "SQNR dB", NULL};
    const json_t *site;
    size_t i;
    table *t = table_new(heads);
    json_array_foreach(policy, i, site) if (is_weight(site)) policy_row(t, policy, site);
    json_array_foreach(policy, i, site) if (!is_weight(site) && !is_bias(site) &&
                                            !same_layer(policy, site, true))
        policy_row(t, policy, site);
    table_print(t);
}

static void metric_row(table *t, const json_t *root, const char *key) {
    char path[48], title[24];
    bool percent = strncmp(key, "top", 3) == 0;
    int digits = percent ? 2 : 5;
    snprintf(path, sizeof path, "float.%s", key);
    double before = json_num(root, path);
    snprintf(path, sizeof path, "quantized.%s", key);
    double after = json_num(root, path);
    if (isnan(before) && isnan(after)) return;
    snprintf(title, sizeof title, percent ? "%s, %%" : "%s", key);
    const char *cells[] = {title, show_real(before, digits), show_real(after, digits),
                           show_real(after - before, digits)};
    table_row(t, cells);
}

static void bytes_row(table *t, const char *title, double before, double after) {
    char ratio[32] = "-";
    if (before > 0 && after > 0) snprintf(ratio, sizeof ratio, "%.2fx smaller", before / after);
    if (isnan(before) && isnan(after)) return;
    const char *cells[] = {title, show_bytes(before), show_bytes(after), ratio};
    table_row(t, cells);
}

static void print_figures(const json_t *root) {
    static const char *const heads[] = {"<", "float", "quantized", "<", NULL};
    static const char *const metrics[] = {"top1", "top5",   "loss", "kl",
                                          "mse",  "cosine", "auc",  NULL};
    table *t = table_new(heads);
    for (const char *const *m = metrics; *m; m++) metric_row(t, root, *m);
    double before = json_num(root, "float.bytes");
    bytes_row(t, "bytes", before, json_num(root, "quantized.bytes"));
    bytes_row(t, "bytes in ONNX", json_num(root, "float.bytes_onnx"),
              json_num(root, "quantized.bytes_onnx"));
    bytes_row(t, "of them float", NAN, json_num(root, "quantized.untouched_bytes"));
    bytes_row(t, "peak RAM", json_num(root, "float.peak_ram|float.peak_activation_bytes"),
              json_num(root, "quantized.peak_ram"));
    table_print(t);
    putchar('\n');
    print_pair("average weight bits",
               show_real(json_num(root, "quantized.average_weight_bits"), 2));
    print_pair("average activation bits",
               show_real(json_num(root, "quantized.average_activation_bits"), 2));
    print_pair("residual bits", show_value(json_at(root, "quantized.residual_bits|residual_bits")));
    double agreement = json_num(root, "quantized.agreement");
    if (agreement == agreement) printf("  %-23s %.2f %%\n", "same class as float", agreement);
    print_pair("model.onnx", show_bytes(json_num(root, "quantized.model_bytes")));
    print_pair("C: constants", show_bytes(json_num(root, "quantized.c.const_bytes")));
    print_pair("C: arena", show_bytes(json_num(root, "quantized.c.arena_bytes")));
    print_pair("BOPs", show_count(json_num(root, "quantized.bops")));
    print_pair("latency", show_seconds(json_num(root, "quantized.latency")));
    double energy = json_num(root, "quantized.energy");
    if (energy == energy) printf("  %-23s %.4g J\n", "energy", energy);
}

static void print_search(const json_t *root) {
    const json_t *search = json_at(root, "search");
    char text[160];
    double trials = json_num(search, "trials"), seconds = json_num(search, "seconds");
    const char *method =
        json_is_string(search) ? json_string_value(search) : json_text(search, "method|name");
    if (!method) return;
    int n = snprintf(text, sizeof text, "%.80s", method);
    if (trials == trials)
        n += snprintf(text + n, sizeof text - (size_t)n, ", %s %s", show_whole(trials),
                      trials == 1 ? "trial" : "trials");
    double before = json_num(search, "trials_before");
    if (before == before)
        n += snprintf(text + n, sizeof text - (size_t)n, " (%s known from before)", show_whole(before));
    if (seconds == seconds)
        snprintf(text + n, sizeof text - (size_t)n, ", %s", show_seconds(seconds));
    print_pair("search", text);
}

static void print_untouched(const json_t *root) {
    enum { SHOWN = 8 };
    const json_t *list = json_at(root, "untouched|unsupported");
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n && i < SHOWN; i++)
        print_pair(i ? "" : "stays float", show_value(json_array_get(list, i)));
    if (n > SHOWN) printf("  %-23s and %zu more\n", "", n - SHOWN);
}

static void print_agreement(const json_t *root) {
    char line[80];
    double tau = json_num(root, "why.agreement.kendall_tau");
    if (isnan(tau)) return;
    snprintf(line, sizeof line, "Kendall's tau %.2f over %s policies", tau,
             show_whole(json_num(root, "why.agreement.policies")));
    print_pair("predicted, measured", line);
}

void print_quantize(const json_t *root, const void *folder) {
    const json_t *policy = json_at(root, "policy");
    if (json_array_size(policy)) {
        print_policy(policy);
        putchar('\n');
    }
    if (json_object_size(json_at(root, "limits")) || json_array_size(json_at(root, "limits"))) {
        print_limits(root);
        putchar('\n');
    }
    print_figures(root);
    print_pair("metric", json_text(root, "metric"));
    print_search(root);
    print_agreement(root);
    print_untouched(root);
    print_pair("files", folder);
    if (json_is_true(json_at(root, "cancelled")))
        printf("\nstopped before the end: this is the best so far; --resume goes on\n");
}

void print_dry_run(const json_t *root, const void *folder) {
    const bool limited = json_at(json_array_get(json_at(root, "uniform"), 0), "fits") != NULL;
    const char *const heads[] = {"weights", "activations", "biases", "bits a weight", "bytes", "in ONNX",
                                 "BOPs", "peak RAM", limited ? "<fits" : NULL, NULL};
    const json_t *row;
    size_t i;
    (void)folder;
    table *t = table_new(heads);
    json_array_foreach(json_at(root, "uniform"), i, row) {
        char w[48], a[48];
        const char *cells[] = {choice(row, "weight_bits", "weight_scheme", w, sizeof w),
                               choice(row, "activation_bits", "activation_scheme", a, sizeof a),
                               show_value(json_at(row, "bias_bits")),
                               show_real(json_num(row, "average_weight_bits"), 2),
                               show_bytes(json_num(row, "bytes")),
                               show_bytes(json_num(row, "bytes_onnx")),
                               show_count(json_num(row, "bops")),
                               show_bytes(json_num(row, "peak_ram")),
                               json_is_true(json_at(row, "fits")) ? "yes" : "NO"};
        table_row(t, cells);
    }
    table_print(t);
    print_pair("of them float", show_bytes(json_num(root, "untouched_bytes")));
    print_untouched(root);
}
