/* `quantize --dry-run --verbose`: every decision about the network, with its reason. */
#include "quantize_print.h"

#include <string.h>

/* "a, b, c", cut where there is no room. */
static const char *listed(const json_t *list, const char *key, char *text, size_t size) {
    const json_t *item;
    size_t i, used = 0;
    *text = 0;
    json_array_foreach(list, i, item) {
        const char *word = key ? json_text(item, key) : json_string_value(item);
        int n = snprintf(text + used, size - used, "%s%s", i ? ", " : "", word ? word : "?");
        if (n < 0 || (size_t)n >= size - used) break;
        used += (size_t)n;
    }
    return text;
}

static void print_sites(const json_t *sites) {
    static const char *const heads[] = {"<tensor", "<kind", "<values", "<widths", "<why", NULL};
    const json_t *row;
    size_t i;
    table *t = table_new(heads);
    json_array_foreach(sites, i, row) {
        char widths[128];
        const char *cells[] = {json_text(row, "tensor"), json_text(row, "kind"),
                               json_is_true(json_at(row, "signed")) ? "signed" : "unsigned",
                               listed(json_at(row, "widths"), NULL, widths, sizeof widths),
                               json_text(row, "why")};
        table_row(t, cells);
    }
    table_print(t);
}

static void print_layers(const json_t *layers) {
    static const char *const heads[] = {"<layer",         "<kind",    "<operators",
                                        "<normalization", "<trained", NULL};
    const json_t *row;
    size_t i;
    table *t = table_new(heads);
    json_array_foreach(layers, i, row) {
        char nodes[256], trained[128];
        const char *cells[] = {json_text(row, "layer"), json_text(row, "kind"),
                               listed(json_at(row, "nodes"), "operator", nodes, sizeof nodes),
                               json_text(row, "normalization"),
                               listed(json_at(row, "trained"), NULL, trained, sizeof trained)};
        if (!*nodes) cells[2] = NULL;
        if (!*trained) cells[4] = NULL;
        table_row(t, cells);
    }
    table_print(t);
}

static void print_left_alone(const json_t *rows) {
    static const char *const heads[] = {"<stays as it is", "<operator", "<why", NULL};
    const json_t *row;
    size_t i;
    if (!json_array_size(rows)) return;
    putchar('\n');
    table *t = table_new(heads);
    json_array_foreach(rows, i, row) {
        const char *cells[] = {json_text(row, "node"), json_text(row, "operator"),
                               json_text(row, "why")};
        table_row(t, cells);
    }
    table_print(t);
}

void print_decisions(const json_t *root, const void *folder) {
    print_sites(json_at(root, "decisions.sites"));
    putchar('\n');
    print_layers(json_at(root, "decisions.layers"));
    print_left_alone(json_at(root, "decisions.untouched"));
    putchar('\n');
    print_dry_run(root, folder);
}
