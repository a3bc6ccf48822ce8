/* The page: limits, numbers, one bar per tensor (its bits, what less or more would change), and the
 * size–loss curve of everything that was scored. Every text is escaped; nothing is loaded. */
#include "report/html.h"

#include <math.h>
#include <string.h>



static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<style>\n"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;"
    "color:#222}\n"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .8em;text-align:right;"
    "border-bottom:1px solid #ddd}\n"
    "td:first-child,th:first-child{text-align:left;font-family:ui-monospace,monospace}\n"
    ".no{color:#b00;font-weight:bold}.bar{fill:#4a7ebb}.less{fill:#d98032}.dot{fill:#9bb}"
    ".front{fill:#4a7ebb}\n"
    "text{font:11px system-ui,sans-serif}\n</style>\n";

static nb_status text(nb_ctx *ctx, nbi_buf *b, const char *s) {
    for (; s && *s; s++) {
        const char *entity = *s == '<'   ? "&lt;"
                             : *s == '>' ? "&gt;"
                             : *s == '&' ? "&amp;"
                             : *s == '"' ? "&quot;"
                                         : NULL;
        if (entity) NB_TRY(nbi_buf_append(ctx, b, entity, strlen(entity)));
        else NB_TRY(nbi_buf_append(ctx, b, s, 1));
    }
    return NB_OK;
}

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *string(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static nb_status cell(nb_ctx *ctx, nbi_buf *b, double v, const char *format) {
    if (!isfinite(v)) return nbi_buf_printf(ctx, b, "<td>–</td>");
    if (!strcmp(format, "bytes"))
        return v < 10240 ? nbi_buf_printf(ctx, b, "<td>%.0f B</td>", v)
                         : nbi_buf_printf(ctx, b, "<td>%.1f K</td>", v / 1024);
    if (!strcmp(format, "percent")) return nbi_buf_printf(ctx, b, "<td>%.2f %%</td>", v);
    return nbi_buf_printf(ctx, b, "<td>%.4g</td>", v);
}

static nb_status limits(nb_ctx *ctx, nbi_buf *b, const json_t *results) {
    const json_t *rows = json_object_get(results, "limits"), *row;
    size_t i;
    if (!json_array_size(rows)) return NB_OK;
    NB_TRY(nbi_buf_printf(ctx, b, "<h2>Limits</h2><table><tr><th>limit</th><th>wanted</th>"
                               "<th>got</th><th>met</th></tr>\n"));
    json_array_foreach(rows, i, row) {
        bool size = strstr(string(row, "limit"), "size") || strstr(string(row, "limit"), "ram");
        NB_TRY(nbi_buf_printf(ctx, b, "<tr><td>"));
        NB_TRY(text(ctx, b, string(row, "limit")));
        NB_TRY(nbi_buf_printf(ctx, b, "</td>"));
        NB_TRY(cell(ctx, b, number(row, "wanted"), size ? "bytes" : ""));
        NB_TRY(cell(ctx, b, number(row, "got"), size ? "bytes" : ""));
        NB_TRY(nbi_buf_printf(ctx, b, "%s</tr>\n",
                           json_is_true(json_object_get(row, "ok")) ? "<td>yes</td>"
                                                                    : "<td class=\"no\">no</td>"));
    }
    return nbi_buf_printf(ctx, b, "</table>\n");
}

static nb_status numbers(nb_ctx *ctx, nbi_buf *b, const json_t *results) {
    static const char *const rows[][3] = {
        {"top1", "top-1", "percent"},        {"top5", "top-5", "percent"},
        {"loss", "cross-entropy", ""},       {"kl", "KL from float", ""},
        {"mse", "squared error", ""},        {"agreement", "same class as float", "percent"},
        {"bytes", "weights and tables", "bytes"}, {"bytes_onnx", "in ONNX", "bytes"},
        {"untouched_bytes", "of them float", "bytes"},
        {"peak_ram", "peak RAM", "bytes"},   {"average_weight_bits", "mean weight bits", ""},
        {"average_activation_bits", "mean activation bits", ""},
        {"residual_bits", "residual bits", ""}, {"bops", "bit operations", ""},
        {"latency", "seconds per image here", ""}};
    const json_t *f = json_object_get(results, "float"), *q = json_object_get(results, "quantized");
    NB_TRY(nbi_buf_printf(ctx, b, "<h2>Numbers</h2><table><tr><th></th><th>float</th>"
                               "<th>quantized</th></tr>\n"));
    for (size_t i = 0; i < NBI_COUNT(rows); i++) {
        double a = number(f, rows[i][0]), c = number(q, rows[i][0]);
        if (!isfinite(a) && !isfinite(c)) continue;
        NB_TRY(nbi_buf_printf(ctx, b, "<tr><td>%s</td>", rows[i][1]));
        NB_TRY(cell(ctx, b, a, rows[i][2]));
        NB_TRY(cell(ctx, b, c, rows[i][2]));
        NB_TRY(nbi_buf_printf(ctx, b, "</tr>\n"));
    }
    return nbi_buf_printf(ctx, b, "</table>\n");
}

/* The row of a tensor in results.why; NULL when there is none. */
static const json_t *why_of(const json_t *results, const char *tensor) {
    const json_t *rows = json_object_get(json_object_get(results, "why"), "tensors"), *row;
    size_t i;
    json_array_foreach(rows, i, row)
        if (!strcmp(string(row, "tensor"), tensor)) return row;
    return NULL;
}

/* What the tensor alone adds to the loss at its choice. */
static double own_loss(const json_t *why) {
    const json_t *o;
    size_t i;
    json_array_foreach(json_object_get(why, "options"), i, o)
        if (number(o, "bits") == number(why, "bits") &&
            !strcmp(string(o, "scheme"), string(why, "scheme")))
            return number(o, "loss");
    return NAN;
}

/* Two cells: change of the loss (measured, else predicted) and of the bytes. */
static nb_status step(nb_ctx *ctx, nbi_buf *b, const json_t *row) {
    double loss = number(row, "loss"), bytes = number(row, "bytes");
    if (!isfinite(loss)) loss = number(row, "predicted");
    if (!isfinite(loss)) NB_TRY(nbi_buf_printf(ctx, b, "<td>–</td>"));
    else NB_TRY(nbi_buf_printf(ctx, b, "<td>%+.3g</td>", loss));
    if (!isfinite(bytes)) return nbi_buf_printf(ctx, b, "<td>–</td>");
    return nbi_buf_printf(ctx, b, "<td>%+.0f</td>", bytes);
}

/* Biases of 32 bits are the rule: not worth a row. */
static bool is_shown(const json_t *row) {
    return strcmp(string(row, "kind"), "bias") || number(row, "bits") < 32;
}

static nb_status policy_row(nb_ctx *ctx, nbi_buf *b, const json_t *row, const json_t *why) {
    double bits = number(row, "bits");
    NB_TRY(nbi_buf_printf(ctx, b, "<tr><td>"));
    NB_TRY(text(ctx, b, string(row, "tensor")));
    NB_TRY(nbi_buf_printf(ctx, b, "</td><td>"));
    NB_TRY(text(ctx, b, string(row, "kind")));
    NB_TRY(nbi_buf_printf(ctx, b, "%s</td><td>",
                          json_is_true(json_object_get(row, "fixed")) ? " (fixed)" : ""));
    if (strcmp(string(row, "scheme"), "uniform")) NB_TRY(text(ctx, b, string(row, "scheme")));
    NB_TRY(nbi_buf_printf(ctx, b, " %.0f <svg width=\"80\" height=\"10\">"
                               "<rect class=\"bar\" width=\"%.0f\" height=\"10\"/></svg></td>",
                       bits, fmin(10 * bits, 80)));
    NB_TRY(cell(ctx, b, number(row, "bytes"), "bytes"));
    NB_TRY(cell(ctx, b, number(row, "sqnr"), ""));
    NB_TRY(cell(ctx, b, own_loss(why), ""));
    NB_TRY(step(ctx, b, json_object_get(why, "less")));
    NB_TRY(step(ctx, b, json_object_get(why, "more")));
    return nbi_buf_printf(ctx, b, "</tr>\n");
}

static nb_status policy(nb_ctx *ctx, nbi_buf *b, const json_t *results) {
    const json_t *row, *agreement = json_object_get(json_object_get(results, "why"), "agreement");
    double tau = number(agreement, "kendall_tau");
    size_t i;
    NB_TRY(nbi_buf_printf(ctx, b, "<h2>Policy, and why</h2><p>Loss: what this tensor alone at this "
                               "width adds to the divergence from float, everything else at its "
                               "best. Less and more: what the next lower and the next higher width "
                               "of this tensor would change, the rest of the policy as it is. All "
                               "of it before fine-tuning.</p>\n"));
    if (isfinite(tau))
        NB_TRY(nbi_buf_printf(ctx, b, "<p>Sums of the single losses and measured losses agree on the "
                                   "order of %.0f policies by a Kendall's tau of %.2f (1: the same "
                                   "order, 0: unrelated).</p>\n",
                           number(agreement, "policies"), tau));
    NB_TRY(nbi_buf_printf(ctx, b, "<table><tr><th>tensor</th><th>kind</th><th>bits</th>"
                               "<th>bytes</th><th>SQNR, dB</th><th>loss</th><th>less: loss</th>"
                               "<th>bytes</th><th>more: loss</th><th>bytes</th></tr>\n"));
    json_array_foreach(json_object_get(results, "policy"), i, row)
        if (json_object_get(row, "bits") && is_shown(row))
            NB_TRY(policy_row(ctx, b, row, why_of(results, string(row, "tensor"))));
    return nbi_buf_printf(ctx, b, "</table>\n");
}

/* Size against loss (logarithmic) of the Pareto set. */
static nb_status curve(nb_ctx *ctx, nbi_buf *b, const json_t *results, const json_t *pareto) {
    const json_t *points = json_object_get(pareto, "points"), *p;
    double x0 = INFINITY, x1 = 0, y0 = INFINITY, y1 = -INFINITY;
    size_t i;
    json_array_foreach(points, i, p) {
        double x = number(p, "bytes"), y = number(p, "loss");
        if (!(y > 0) || !isfinite(y)) continue;
        x0 = fmin(x0, x);
        x1 = fmax(x1, x);
        y0 = fmin(y0, log10(y));
        y1 = fmax(y1, log10(y));
    }
    if (!(x1 > x0) || !(y1 > y0)) return NB_OK;
    NB_TRY(nbi_buf_printf(ctx, b, "<h2>Size and loss of what was tried (best ones)</h2>"
                               "<svg width=\"640\" height=\"300\"><path d=\"M50 10V260H620\" "
                               "fill=\"none\" stroke=\"#999\"/>\n"));
    json_array_foreach(points, i, p) {
        double x = number(p, "bytes"), y = number(p, "loss");
        if (!(y > 0) || !isfinite(y)) continue;
        NB_TRY(nbi_buf_printf(ctx, b, "<circle class=\"dot\" r=\"3\" cx=\"%.1f\" cy=\"%.1f\"/>\n",
                           50 + 560 * (x - x0) / (x1 - x0),
                           260 - 245 * (log10(y) - y0) / (y1 - y0)));
    }
    double x = number(json_object_get(results, "quantized"), "bytes"), y = number(results, "loss");
    if (y > 0 && x >= x0 && x <= x1)
        NB_TRY(nbi_buf_printf(ctx, b, "<circle class=\"front\" r=\"5\" cx=\"%.1f\" cy=\"%.1f\"/>\n",
                           50 + 560 * (x - x0) / (x1 - x0),
                           260 - 245 * (log10(y) - y0) / (y1 - y0)));
    return nbi_buf_printf(ctx, b, "<text x=\"50\" y=\"280\">%.1f K</text><text x=\"580\" "
                                  "y=\"280\">%.1f K</text><text x=\"0\" y=\"20\">%.2g</text>"
                                  "<text x=\"0\" y=\"260\">%.2g</text></svg>\n",
                          x0 / 1024, x1 / 1024, pow(10, y1), pow(10, y0));
}

nb_status nbi_report_html(nb_ctx *ctx, const char *title, const json_t *results,
                          const json_t *pareto, nbi_buf *out) {
    const json_t *search = json_object_get(results, "search");
    NB_TRY(nbi_buf_append(ctx, out, head, sizeof head - 1));
    NB_TRY(nbi_buf_printf(ctx, out, "<title>"));
    NB_TRY(text(ctx, out, title));
    NB_TRY(nbi_buf_printf(ctx, out, "</title></head><body>\n<h1>"));
    NB_TRY(text(ctx, out, title));
    NB_TRY(nbi_buf_printf(ctx, out, "</h1>\n<p>Search: "));
    NB_TRY(text(ctx, out, string(search, "method")));
    NB_TRY(nbi_buf_printf(ctx, out, ", %.0f policies scored, %.1f s. First and last layer: ",
                       number(search, "trials"), number(search, "seconds")));
    NB_TRY(text(ctx, out, string(results, "first_last")));
    NB_TRY(nbi_buf_printf(ctx, out, " bits; residual streams: %.0f bits; seed %.0f.%s</p>\n",
                       number(results, "residual_bits"), number(results, "seed"),
                       json_is_true(json_object_get(results, "cancelled"))
                           ? " <span class=\"no\">Interrupted: the best so far.</span>"
                           : ""));
    NB_TRY(limits(ctx, out, results));
    NB_TRY(numbers(ctx, out, results));
    NB_TRY(curve(ctx, out, results, pareto));
    NB_TRY(policy(ctx, out, results));
    return nbi_buf_printf(ctx, out, "</body></html>\n");
}
