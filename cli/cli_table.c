/* Aligned tables. On a terminal (or with COLUMNS set) columns that may shrink give up their
 * beginnings until a row fits: the end of a layer's name tells more than its start. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MAX_COLUMNS = 16, GAP = 2, LEAST = 12 /* columns of a text that shrinks */ };

struct table {
    size_t n_columns, n_rows, room;
    const char *head[MAX_COLUMNS];
    char mark[MAX_COLUMNS]; /* '<', '~' or 0 */
    size_t width[MAX_COLUMNS];
    bool used[MAX_COLUMNS];
    char **cells; /* n_rows · n_columns */
    bool failed;
};

/* Columns of a UTF-8 text, taking every character for one column wide. */
static size_t columns(const char *text) {
    size_t n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

table *table_new(const char *const *heads) {
    table *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    for (; heads[t->n_columns] && t->n_columns < MAX_COLUMNS; t->n_columns++) {
        const char *head = heads[t->n_columns];
        if (*head == '<' || *head == '~') t->mark[t->n_columns] = *head++;
        t->head[t->n_columns] = head;
        t->width[t->n_columns] = columns(head);
    }
    return t;
}

static bool reserve(table *t) {
    if (t->n_rows < t->room) return true;
    size_t room = t->room ? 2 * t->room : 32;
    char **cells = realloc(t->cells, room * t->n_columns * sizeof *cells);
    if (!cells) return false;
    t->cells = cells;
    t->room = room;
    return true;
}

void table_row(table *t, const char *const *cells) {
    if (!t || t->failed) return;
    if (!reserve(t)) {
        t->failed = true;
        return;
    }
    char **row = t->cells + t->n_rows * t->n_columns;
    for (size_t i = 0; i < t->n_columns; i++) row[i] = NULL;
    t->n_rows++;
    for (size_t i = 0; i < t->n_columns; i++) {
        const char *text = cells[i] ? cells[i] : "-";
        row[i] = malloc(strlen(text) + 1);
        if (!row[i]) {
            t->failed = true;
            return;
        }
        strcpy(row[i], text);
        size_t n = columns(text);
        if (n > t->width[i]) t->width[i] = n;
        if (strcmp(text, "-") != 0) t->used[i] = true;
    }
}

/* 0: no bound. */
static size_t terminal_width(void) {
    const char *text = getenv("COLUMNS");
    long n = text ? strtol(text, NULL, 10) : 0;
    struct winsize size;
    if (n <= 0 && isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        n = size.ws_col;
    return n > 0 ? (size_t)n : 0;
}

static void fit(table *t) {
    size_t most = terminal_width(), total = 0;
    for (size_t i = 0; i < t->n_columns; i++)
        if (t->used[i]) total += t->width[i] + GAP;
    while (most && total > most) {
        size_t widest = t->n_columns;
        for (size_t i = 0; i < t->n_columns; i++)
            if (t->used[i] && t->mark[i] == '~' && t->width[i] > LEAST &&
                (widest == t->n_columns || t->width[i] > t->width[widest]))
                widest = i;
        if (widest == t->n_columns) return;
        t->width[widest]--;
        total--;
    }
}

static void print_cell(const table *t, size_t i, const char *text, bool last) {
    size_t n = columns(text), width = t->width[i];
    const char *lead = "";
    if (n > width) {
        lead = "..";
        for (size_t skip = n - (width - 2); skip || ((unsigned char)*text & 0xC0) == 0x80; text++)
            if (((unsigned char)*text & 0xC0) != 0x80) skip--;
        n = width;
    }
    int pad = (int)(width - n);
    if (!t->mark[i]) printf("%*s", pad, "");
    fputs(lead, stdout);
    print_clean(stdout, text);
    if (t->mark[i] && !last) printf("%*s", pad, "");
}

static void print_row(const table *t, char *const *cells) {
    size_t last = 0;
    for (size_t i = 0; i < t->n_columns; i++)
        if (t->used[i]) last = i;
    for (size_t i = 0; i < t->n_columns; i++) {
        if (!t->used[i]) continue;
        const char *text = cells ? cells[i] : t->head[i];
        if (i == last && !*text) break;
        printf("%*s", GAP, "");
        print_cell(t, i, text, i == last);
    }
    putchar('\n');
}

void table_print(table *t) {
    if (!t || t->failed) cli_say("out of memory for a table; --json has its values");
    if (!t) return;
    if (!t->failed && t->n_rows) {
        fit(t);
        print_row(t, NULL);
        for (size_t r = 0; r < t->n_rows; r++) print_row(t, t->cells + r * t->n_columns);
    }
    for (size_t i = 0; i < t->n_rows * t->n_columns; i++) free(t->cells[i]);
    free(t->cells);
    free(t);
}

void table_of_objects(const json_t *list) {
    const char *heads[MAX_COLUMNS + 1] = {0}, *key;
    json_t *value;
    size_t n = 0, i;
    json_object_foreach(json_array_get(list, 0), key,
                        value) if (n < MAX_COLUMNS && !json_is_object(value)) heads[n++] = key;
    if (!n) return;
    table *t = table_new(heads);
    json_array_foreach(list, i, value) {
        const char *cells[MAX_COLUMNS];
        for (size_t k = 0; k < n; k++) cells[k] = show_value(json_object_get(value, heads[k]));
        table_row(t, cells);
    }
    table_print(t);
}

/* Long lists are wrapped behind a comma. */
void print_pair(const char *name, const char *value) {
    enum { COLUMN = 26, WIDTH = 79 };
    size_t at = COLUMN;
    if (!value || strcmp(value, "-") == 0) return;
    printf("  %-23s ", name);
    while (*value) {
        const char *comma = strstr(value, ", ");
        size_t len = comma ? (size_t)(comma - value) + 2 : strlen(value);
        if (at > COLUMN && at + len > WIDTH) {
            printf("\n%*s", COLUMN, "");
            at = COLUMN;
        }
        for (size_t i = 0; i < len; i++) {
            char one[2] = {value[i], 0};
            print_clean(stdout, one);
        }
        at += len;
        value += len;
    }
    putchar('\n');
}
