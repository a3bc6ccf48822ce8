/* nibble list [WHAT]: the library's own tables. */
#include "cli.h"

#include <string.h>

static const char *const kinds[] = {"ops",     "steps",   "schemes", "searches",      "costs",
                                    "kernels", "readers", "formats", "architectures", NULL};

static void print_item_options(const json_t *options) {
    const json_t *o;
    size_t i;
    json_array_foreach(options, i, o) {
        const char *name = json_is_string(o) ? json_string_value(o) : json_text(o, "name");
        const char *help = json_text(o, "help"), *choices = json_text(o, "choices");
        const json_t *value = json_at(o, "default"), *min = json_at(o, "min"),
                     *max = json_at(o, "max");
        printf("      ");
        print_clean(stdout, name ? name : "-");
        if (value) printf("=%s", show_value(value));
        if (help) printf("  %s", help);
        if (choices)
            printf(" (%s)", choices);
        else if (min && max)
            printf(" (%s to %s)", show_value(min), show_value(max));
        putchar('\n');
    }
}

static void print_kind(const char *kind, const json_t *items) {
    const json_t *item;
    size_t i;
    int width = 0;
    printf("%s\n", kind);
    json_array_foreach(items, i, item) {
        const char *name = json_text(item, "name");
        int n = name ? (int)strlen(name) : 0;
        if (n > width && n <= 32) width = n;
    }
    json_array_foreach(items, i, item) {
        const char *name = json_is_string(item) ? json_string_value(item) : json_text(item, "name");
        const char *help = json_text(item, "help");
        if (help && *help)
            printf("  %-*s  %s\n", width, name ? name : "-", help);
        else
            printf("  %s\n", name ? name : "-");
        print_item_options(json_at(item, "options"));
    }
}

static void print_list(const json_t *root, const void *user) {
    bool first = true;
    (void)user;
    for (const char *const *kind = kinds; *kind; kind++) {
        const json_t *items = json_at(root, *kind);
        if (!items) continue;
        if (!first) putchar('\n');
        first = false;
        print_kind(*kind, items);
    }
}

/* All kinds in one object. The library's texts belong to nb_free(), jansson's here to free(): a
 * copy made by json_dumps() is printed and not handed to cli_finish(). */
static int list_all(cli *c) {
    json_t *all = json_object();
    nb_status status = NB_OK;
    for (const char *const *kind = kinds; *kind && status == NB_OK; kind++) {
        char *json = NULL;
        status = nb_list(c->ctx, *kind, &json);
        json_t *part = json ? json_loads(json, 0, NULL) : NULL;
        if (part) json_object_update(all, part);
        json_decref(part);
        nb_free(json);
    }
    if (status == NB_OK && c->json) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (status == NB_OK) {
        print_list(all, NULL);
    }
    json_decref(all);
    return cli_finish(c, status, NULL, NULL, NULL);
}

static int unknown_kind(const cli *c, const char *what) {
    const char *near = cli_nearest(what, kinds);
    if (near) return cli_wrong(c, "there is no list of '%s' (did you mean '%s'?)", what, near);
    return cli_wrong(c, "there is no list of '%s'", what);
}

int cmd_list(cli *c) {
    static const char *const args[] = {"[WHAT]", NULL};
    static const char *const notes[] = {"WHAT is ops, steps, schemes, searches, costs, kernels, "
                                        "readers, formats or architectures; without it, all of "
                                        "them.",
                                        NULL};
    const cli_usage usage = {.args = args, .notes = notes};
    const char *what;
    int code = cli_parse(c, &usage, &what);
    if (code != CLI_GO_ON) return code;
    if (!what) return list_all(c);
    bool known = false;
    for (const char *const *kind = kinds; *kind; kind++) known = known || !strcmp(what, *kind);
    if (!known) return unknown_kind(c, what);
    char *json = NULL;
    nb_status status = nb_list(c->ctx, what, &json);
    return cli_finish(c, status, json, print_list, NULL);
}
