/* The program's own contract: one command is one file cmd_<name>.c with one function
 *     int cmd_<name>(cli *c);
 * which describes its arguments (cli_usage), lets cli_parse() fill its option structs, calls one
 * function of the library, and hands the JSON to cli_finish() with a printer for people.
 * Results go to stdout; everything else to stderr. */
#ifndef NIBBLE_CLI_H
#define NIBBLE_CLI_H

#include <nibble/nibble.h>

#include <jansson.h>
#include <stdio.h>

/* Exit statuses; GO_ON is none of them. */
enum {
    CLI_GO_ON = -1,
    CLI_DONE = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_LIMIT = 3,
    CLI_STOPPED = 130
};

typedef struct cli {
    nb_ctx *ctx;
    const char *command, *help; /* the row of the command table */
    int argc;                   /* what follows the command's name */
    char **argv;
    char *command_line; /* as typed, for comments in files that are written */
    int processes;      /* that work on this command; 0 and 1: this one alone */
    bool follows;       /* another one leads */
    /* options of every command */
    int threads;
    uint64_t seed;
    bool verbose, quiet, json;
    bool tells; /* set by commands whose information (the line of an epoch) is always shown */
} cli;

/* ---- arguments (cli_options.c; cli_help.c prints the same tables) ---------------------------- */

/* How the text of an option is read, and what `target` points to. */
typedef enum opt_type {
    OPT_FLAG,    /* no argument; bool: set to true */
    OPT_OFF,     /* no argument; bool: set to false */
    OPT_TEXT,    /* const char * */
    OPT_CHOICE,  /* const char *; one of the words of `arg`, "a|b|c" */
    OPT_TEXTS,   /* text_list; the option may be repeated */
    OPT_FILES,   /* text_list; takes every argument up to the next option, and may be repeated */
    OPT_INT,     /* int */
    OPT_LONG,    /* long */
    OPT_COUNT,   /* size_t */
    OPT_SEED,    /* uint64_t */
    OPT_REAL,    /* double: 2.5, 1e9 */
    OPT_LARGE,   /* double: 400M, 2e9 (K = 1000) */
    OPT_BYTES,   /* double: 64K, 1.5M, 2G (K = 1024) */
    OPT_RATIO,   /* double: 16 or 16x */
    OPT_SECONDS, /* double: 2ms, 500us, 30s, 10m, 2h; a bare number is seconds */
} opt_type;

/* Points into argv; `items` is freed by cli_list_free(). */
typedef struct text_list {
    const char **items;
    size_t n;
} text_list;
void cli_list_free(text_list *list);

typedef struct opt {
    const char *name; /* without dashes */
    char letter;      /* 0: none */
    const char *arg;  /* name of the argument in the help, "" for flags */
    const char *help;
    opt_type type;
    size_t target;   /* offset from the group's base */
    double min, max; /* of numbers; both 0: any that is not negative */
} opt;

/* Options that are shown together and fill one struct. */
typedef struct opt_group {
    const char *title;
    const opt *table;
    size_t n;
    void *base;
} opt_group;
#define OPT_GROUP(heading, options, target)                                                        \
    {                                                                                              \
        .title = (heading), .table = (options), .n = sizeof(options) / sizeof((options)[0]),       \
        .base = (target)                                                                           \
    }

typedef struct cli_usage {
    const char *const *args;  /* names of the arguments, NULL ends; the last ones may be
                               * optional: "[WHAT]" */
    const char *needs;        /* options that it does not run without, or NULL */
    const char *const *notes; /* paragraphs of the help; NULL or NULL-ended */
    const opt_group *groups;  /* the command's own */
    size_t n_groups;
} cli_usage;

/* Fills the groups' structs and `values` (one text per name in `args`), then sets up the context's
 * threads, seed and callbacks. Anything but CLI_GO_ON is the exit status: help was printed, or the
 * usage was wrong and that was said. */
int cli_parse(cli *c, const cli_usage *usage, const char **values);
/* Says what is wrong and where help is, with --json on stdout, too; returns CLI_USAGE. */
int cli_wrong(const cli *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The word of `words` (NULL ends) that `text` was probably meant to be, or NULL. */
const char *cli_nearest(const char *text, const char *const *words);
void cli_help(const cli *c, const cli_usage *usage, const opt_group *common);

/* (cli_groups.c) Options of data sets; base is an nb_data_options. */
extern const opt cli_data_options[];
extern const size_t cli_n_data_options;
#define CLI_DATA_GROUP(target)                                                                     \
    { .title = "Data", .table = cli_data_options, .n = cli_n_data_options, .base = (target) }
/* Beside it, for commands that read one split alone. */
extern const opt cli_split_options[];
extern const size_t cli_n_split_options;
#define CLI_SPLIT_GROUP(target)                                                                    \
    { .title = "Part of the data", .table = cli_split_options, .n = cli_n_split_options,             \
      .base = (target) }
/* How fine-tuning descends; base is an nb_descent_options. */
extern const opt cli_descent_options[];
extern const size_t cli_n_descent_options;
#define CLI_DESCENT_GROUP(target)                                                                  \
    {                                                                                              \
        .title = "Descent", .table = cli_descent_options, .n = cli_n_descent_options,              \
        .base = (target)                                                                           \
    }
/* What quantization may choose; base is an nb_quantize_options. */
extern const opt cli_choice_options[];
extern const size_t cli_n_choice_options;
#define CLI_CHOICE_GROUP(target)                                                                   \
    {                                                                                              \
        .title = "What may be chosen", .table = cli_choice_options, .n = cli_n_choice_options,     \
        .base = (target)                                                                           \
    }

/* ---- progress and messages (cli_progress.c) -------------------------------------------------- */

/* Installs the callbacks and the Ctrl-C handler; `c` must live as long as its context. */
void cli_progress_start(cli *c);
/* Takes the callbacks and the handler away again. */
void cli_progress_stop(void);
/* Takes a live bar off the terminal, so that something else can be printed. */
void cli_progress_clear(void);
/* "nibble: MESSAGE" to stderr, control characters made harmless. */
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- results (cli_result.c) ------------------------------------------------------------------ */

/* `user` is what cli_finish() was given. */
typedef void (*cli_printer)(const json_t *root, const void *user);
/* Prints the result (as it is with --json, else by `print`) and the error; frees `json`; returns
 * the exit status. `json` may be NULL where the call failed. */
int cli_finish(cli *c, nb_status status, char *json, cli_printer print, const void *user);
/* What --json prints of a failure without a result: {"error", "status"}. */
void cli_print_failure(nb_status status, const char *message);

/* CLI_DONE, or CLI_FAILED and a message when standard output cannot be written. */
int cli_flush(void);

/* ---- values and tables for people (cli_value.c, cli_table.c) ----------------------------------
 */

/* The first of the '|'-separated dotted paths ("quantized.bytes|bytes") that exists, or NULL. */
const json_t *json_at(const json_t *root, const char *paths);
/* Its number, NAN where there is none; its text, NULL where there is none. */
double json_num(const json_t *root, const char *paths);
const char *json_text(const json_t *root, const char *paths);

/* A value as text; "-" for NAN. The buffers take turns: at most 16 are alive. */
const char *show_bytes(double bytes); /* "96.4 K" */
const char *show_count(double n);     /* "40.81 M" */
const char *show_whole(double n);     /* "272,474" */
const char *show_real(double x, int digits);
const char *show_seconds(double seconds);    /* "2.31 ms" */
const char *show_shape(const json_t *shape); /* "1x3x32x32" */
const char *show_value(const json_t *value); /* any scalar; lists joined by ", " */

typedef struct table table;
/* `heads`: titles, NULL ends; a leading '<' aligns a column to the left, '~' does so and lets the
 * column shrink on a narrow terminal. NULL without memory, which the other functions accept. */
table *table_new(const char *const *heads);
/* Texts in the order of the titles, NULL = "-"; they are copied. */
void table_row(table *t, const char *const *cells);
/* Prints and frees. Columns that are "-" in every row are left out. */
void table_print(table *t);
/* A list of objects as it is: one column per key with a scalar in the first object. */
void table_of_objects(const json_t *list);
/* "  name   value" lines with aligned values; skipped where value is "-" or NULL. */
void print_pair(const char *name, const char *value);
/* A text without control characters. */
void print_clean(FILE *file, const char *text);

/* ---- commands -------------------------------------------------------------------------------- */

int cmd_info(cli *c);
int cmd_run(cli *c);
int cmd_eval(cli *c);
int cmd_quantize(cli *c);
int cmd_sensitivity(cli *c);
int cmd_compare(cli *c);
int cmd_report(cli *c);
int cmd_export(cli *c);
int cmd_bench(cli *c);
int cmd_list(cli *c);
int cmd_new(cli *c);
int cmd_meta_train(cli *c);
int cmd_train(cli *c);
int cmd_finetune(cli *c);

#endif
