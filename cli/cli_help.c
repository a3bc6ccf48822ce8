/* The help of a command, made from the same tables that read its arguments; 79 columns. */
#include "cli.h"

#include <string.h>

enum { WIDTH = 79, COLUMN = 28 };

/* Words from `column` on, wrapped; ends the line. */
static void wrap(const char *text, size_t column) {
    size_t at = column;
    while (*text) {
        size_t len = strcspn(text, " ");
        if (at > column && at + 1 + len > WIDTH) {
            printf("\n%*s", (int)column, "");
            at = column;
        } else if (at > column) {
            putchar(' ');
            at++;
        }
        printf("%.*s", (int)len, text);
        at += len;
        text += len + (text[len] == ' ');
    }
    putchar('\n');
}

static void print_option(const opt *o) {
    char head[128];
    int n = o->letter ? snprintf(head, sizeof head, "  -%c, --%s", o->letter, o->name)
                      : snprintf(head, sizeof head, "      --%s", o->name);
    if (o->arg[0]) n += snprintf(head + n, sizeof head - (size_t)n, " %s", o->arg);
    if (n + 2 > COLUMN)
        printf("%s\n%*s", head, COLUMN, "");
    else
        printf("%-*s", COLUMN, head);
    wrap(o->help, COLUMN);
}

static void print_group(const opt_group *g) {
    printf("\n%s\n", g->title);
    for (size_t i = 0; i < g->n; i++) print_option(&g->table[i]);
}

void cli_help(const cli *c, const cli_usage *usage, const opt_group *common) {
    printf("usage: nibble %s", c->command);
    for (const char *const *a = usage->args; *a; a++) printf(" %s", *a);
    if (usage->needs) printf(" %s", usage->needs);
    printf(" [options]\n\n");
    wrap(c->help, 0);
    for (const char *const *note = usage->notes; note && *note; note++) {
        putchar('\n');
        wrap(*note, 0);
    }
    for (size_t i = 0; i < usage->n_groups; i++) print_group(&usage->groups[i]);
    print_group(common);
}
