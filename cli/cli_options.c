/* Reads arguments by the tables of a command: --name VALUE, --name=VALUE, -x VALUE, -xVALUE; "--"
 * ends the options. Whatever does not fit is wrong usage, with the nearest name as a hint. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct globals {
    bool help, verbose, quiet, json;
    int threads;
    uint64_t seed;
} globals;

static const opt global_options[] = {
    {"help", 'h', "", "this page", OPT_FLAG, offsetof(globals, help), 0, 0},
    {"threads", 0, "N", "threads to use; 0: all cores (default)", OPT_INT,
     offsetof(globals, threads), 0, 256},
    {"seed", 0, "N", "of everything random (default 0)", OPT_SEED, offsetof(globals, seed), 0, 0},
    {"verbose", 'v', "", "more messages", OPT_FLAG, offsetof(globals, verbose), 0, 0},
    {"quiet", 'q', "", "no progress and no warnings", OPT_FLAG, offsetof(globals, quiet), 0, 0},
    {"json", 0, "", "the result as one JSON object", OPT_FLAG, offsetof(globals, json), 0, 0},
};

typedef struct parser {
    const cli *c;
    const opt_group *own, *common;
    size_t n_groups; /* both together */
    int i;           /* next argument */
} parser;

static const opt_group *group_of(const parser *p, size_t g) {
    return g + 1 < p->n_groups ? &p->own[g] : p->common;
}

/* Also before --json is read. */
static bool asks_json(const cli *c) {
    for (int i = 0; i < c->argc && strcmp(c->argv[i], "--"); i++)
        if (!strcmp(c->argv[i], "--json")) return true;
    return false;
}

int cli_wrong(const cli *c, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (asks_json(c)) {
        cli_print_failure(NB_EINVAL, text);
        cli_flush();
    }
    cli_say("%s", text);
    fprintf(stderr, "see 'nibble %s --help'\n", c->command);
    return CLI_USAGE;
}

/* Edit distance of a to b, b at most 63 long; a transposition counts two. */
static size_t distance(const char *a, const char *b) {
    size_t n = strlen(b), row[64];
    if (n >= 64 || strlen(a) >= 64) return 64;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *cli_nearest(const char *text, const char *const *words) {
    const char *best = NULL;
    size_t len = strlen(text), least = 64;
    for (; *words; words++) {
        size_t d = distance(text, *words);
        /* an abbreviation is as good as one slip */
        if (len >= 2 && strncmp(text, *words, len) == 0 && d > 1) d = 1;
        if (d < least) {
            least = d;
            best = *words;
        }
    }
    return best && least <= (len < 4 ? 1 : 1 + len / 3) ? best : NULL;
}

static bool is_flag(const opt *o) {
    return o->type == OPT_FLAG || o->type == OPT_OFF;
}

/* By name, or by letter where `name` is NULL. */
static const opt *find(const parser *p, const char *name, size_t len, char letter, void **base) {
    for (size_t g = 0; g < p->n_groups; g++)
        for (size_t i = 0; i < group_of(p, g)->n; i++) {
            const opt *o = &group_of(p, g)->table[i];
            if (name ? strlen(o->name) == len && strncmp(o->name, name, len) == 0
                     : o->letter == letter) {
                *base = group_of(p, g)->base;
                return o;
            }
        }
    return NULL;
}

static int unknown(const parser *p, const char *arg) {
    const char *words[128] = {0};
    size_t n = 0, len = strcspn(arg, "=");
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(len < 60 ? len : 60), arg + strspn(arg, "-"));
    name[strcspn(name, "=")] = 0;
    for (size_t g = 0; g < p->n_groups; g++)
        for (size_t i = 0; i < group_of(p, g)->n && n + 1 < 128; i++)
            words[n++] = group_of(p, g)->table[i].name;
    const char *near = cli_nearest(name, words);
    if (near)
        return cli_wrong(p->c, "%s has no option '%.*s' (did you mean '--%s'?)", p->c->command,
                         (int)len, arg, near);
    return cli_wrong(p->c, "%s has no option '%.*s'", p->c->command, (int)len, arg);
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool has_suffix(const char *text, const char *const *suffixes, const double *factors,
                       double *factor) {
    for (size_t i = 0; suffixes[i]; i++)
        if (strcmp(text, suffixes[i]) == 0) {
            *factor = factors[i];
            return true;
        }
    return false;
}

/* A number with one of the suffixes of its kind; true when the whole text was read. */
static bool read_number(opt_type type, const char *text, double *value) {
    static const char *const none[] = {"", NULL};
    static const char *const bytes[] = {"",  "B",  "K",   "KB", "KiB", "k",
                                        "M", "MB", "MiB", "G",  NULL};
    static const double in_bytes[] = {1,    1,       1024,    1024,    1024,
                                      1024, 1048576, 1048576, 1048576, 1073741824};
    static const char *const large[] = {"", "K", "k", "M", "G", "T", NULL};
    static const double in_thousands[] = {1, 1e3, 1e3, 1e6, 1e9, 1e12};
    static const char *const ratio[] = {"", "x", NULL};
    static const char *const time[] = {"", "s", "ms", "us", "m", "min", "h", NULL};
    static const double in_seconds[] = {1, 1, 1e-3, 1e-6, 60, 60, 3600};
    static const double one[] = {1, 1};
    char *end;
    double factor = 1, x = strtod(text, &end);
    if (end == text || !isfinite(x)) return false;
    bool known = type == OPT_BYTES     ? has_suffix(end, bytes, in_bytes, &factor)
                 : type == OPT_LARGE   ? has_suffix(end, large, in_thousands, &factor)
                 : type == OPT_RATIO   ? has_suffix(end, ratio, one, &factor)
                 : type == OPT_SECONDS ? has_suffix(end, time, in_seconds, &factor)
                                       : has_suffix(end, none, one, &factor);
    *value = x * factor;
    return known;
}

static const char *wanted(opt_type type) {
    switch (type) {
    case OPT_BYTES:
        return "a size such as 65536, 64K or 1.5M";
    case OPT_RATIO:
        return "a ratio such as 16x";
    case OPT_SECONDS:
        return "a duration such as 2ms, 30s or 10m";
    case OPT_LARGE:
        return "a number such as 400M or 2e9";
    case OPT_REAL:
        return "a number";
    default:
        return "a whole number";
    }
}

static int wrong_choice(const parser *p, const opt *o, const char *text) {
    char copy[256];
    const char *words[32] = {0};
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s", o->arg);
    for (char *w = copy; w && n + 1 < 32;) {
        words[n++] = w;
        w = strchr(w, '|');
        if (w) *w++ = 0;
    }
    const char *near = cli_nearest(text, words);
    if (near)
        return cli_wrong(p->c, "--%s: '%s' is not one of %s (did you mean '%s'?)", o->name, text,
                         o->arg, near);
    return cli_wrong(p->c, "--%s: '%s' is not one of %s", o->name, text, o->arg);
}

static bool is_choice(const char *choices, const char *text) {
    size_t want = strlen(text);
    for (const char *word = choices; *word;) {
        size_t len = strcspn(word, "|");
        if (len == want && strncmp(word, text, len) == 0) return true;
        word += len + (word[len] == '|');
    }
    return false;
}

static int append(const parser *p, text_list *list, const char *text) {
    const char **items = realloc(list->items, (list->n + 1) * sizeof *items);
    if (!items) {
        cli_say("%s: out of memory", p->c->command);
        return CLI_FAILED;
    }
    list->items = items;
    list->items[list->n++] = text;
    return CLI_GO_ON;
}

void cli_list_free(text_list *list) {
    free(list->items);
    *list = (text_list){0};
}

static int set_seed(const parser *p, const opt *o, const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long x = strtoull(text, &end, 0);
    if (end == text || *end || errno || *text == '-')
        return cli_wrong(p->c, "--%s: '%s' is not a whole number of at most 64 bits", o->name,
                         text);
    *out = (uint64_t)x;
    return CLI_GO_ON;
}

static int set_number(const parser *p, const opt *o, const char *text, void *out) {
    bool whole = o->type == OPT_INT || o->type == OPT_LONG || o->type == OPT_COUNT;
    bool any = o->min == 0 && o->max == 0;
    double x = 0;
    if (!read_number(o->type, text, &x) || (whole && x != floor(x)))
        return cli_wrong(p->c, "--%s: '%s' is not %s", o->name, text, wanted(o->type));
    if (any && x < 0) return cli_wrong(p->c, "--%s: '%s' is negative", o->name, text);
    if (!any && (x < o->min || x > o->max))
        return cli_wrong(p->c, "--%s: '%s' is outside %.10g to %.10g", o->name, text, o->min,
                         o->max);
    if (o->type == OPT_INT)
        *(int *)out = (int)x;
    else if (o->type == OPT_LONG)
        *(long *)out = (long)x;
    else if (o->type == OPT_COUNT)
        *(size_t *)out = (size_t)x;
    else
        *(double *)out = x;
    return CLI_GO_ON;
}

static int set_value(const parser *p, const opt *o, void *base, const char *text) {
    void *out = (char *)base + o->target;
    switch (o->type) {
    case OPT_FLAG:
    case OPT_OFF:
        *(bool *)out = o->type == OPT_FLAG;
        return CLI_GO_ON;
    case OPT_CHOICE:
        if (!is_choice(o->arg, text)) return wrong_choice(p, o, text);
        *(const char **)out = text;
        return CLI_GO_ON;
    case OPT_TEXT:
        if (!*text) return cli_wrong(p->c, "--%s: the value is empty", o->name);
        *(const char **)out = text;
        return CLI_GO_ON;
    case OPT_TEXTS:
    case OPT_FILES:
        return append(p, out, text);
    case OPT_SEED:
        return set_seed(p, o, text, out);
    default:
        return set_number(p, o, text, out);
    }
}

/* ---- the walk over argv ---------------------------------------------------------------------- */

static bool looks_like_option(const char *arg) {
    return arg[0] == '-' && arg[1];
}

/* argv[i] starts with '-'. */
static int read_option(parser *p) {
    const char *arg = p->c->argv[p->i++];
    bool is_long = arg[1] == '-';
    const char *name = arg + 1 + is_long;
    size_t len = is_long ? strcspn(name, "=") : 1;
    void *base = NULL;
    const opt *o = find(p, is_long ? name : NULL, len, *name, &base);
    if (!o) return unknown(p, arg);
    const char *value = is_long ? (name[len] ? name + len + 1 : NULL) : name[1] ? name + 1 : NULL;
    if (!is_long && value && *value == '=') value++;
    if (is_flag(o)) {
        if (value) return cli_wrong(p->c, "--%s takes no value", o->name);
        return set_value(p, o, base, "");
    }
    if (value) return set_value(p, o, base, value);
    if (p->i >= p->c->argc || (o->type == OPT_FILES && looks_like_option(p->c->argv[p->i])))
        return cli_wrong(p->c, "--%s needs a value: %s", o->name, o->arg);
    int code;
    do code = set_value(p, o, base, p->c->argv[p->i++]);
    while (o->type == OPT_FILES && code == CLI_GO_ON && p->i < p->c->argc &&
           !looks_like_option(p->c->argv[p->i]));
    return code;
}

static int read_all(parser *p, const cli_usage *usage, const char **values, const bool *help) {
    size_t n = 0, most = 0, least = 0;
    bool options = true;
    while (usage->args[most]) {
        if (usage->args[most][0] != '[') least = most + 1;
        values[most++] = NULL;
    }
    while (p->i < p->c->argc) {
        const char *arg = p->c->argv[p->i];
        if (options && strcmp(arg, "--") == 0) {
            options = false;
            p->i++;
        } else if (options && looks_like_option(arg)) {
            int code = read_option(p);
            if (code != CLI_GO_ON || *help) return code;
        } else if (n == most) {
            return cli_wrong(p->c, "'%s' is one argument too many: %s takes %zu", arg,
                             p->c->command, most);
        } else {
            values[n++] = arg;
            p->i++;
        }
    }
    if (n < least) return cli_wrong(p->c, "%s needs %s", p->c->command, usage->args[n]);
    return CLI_GO_ON;
}

int cli_parse(cli *c, const cli_usage *usage, const char **values) {
    globals g = {0};
    const opt_group common = OPT_GROUP("Every command", global_options, &g);
    parser p = {.c = c, .own = usage->groups, .common = &common, .n_groups = usage->n_groups + 1};
    int code = read_all(&p, usage, values, &g.help);
    if (code != CLI_GO_ON) return code;
    if (g.help) {
        cli_help(c, usage, &common);
        return cli_flush();
    }
    if (g.quiet && g.verbose) return cli_wrong(c, "--quiet and --verbose exclude each other");
    c->threads = g.threads;
    c->seed = g.seed;
    c->verbose = g.verbose;
    c->quiet = g.quiet;
    c->json = g.json;
    nb_ctx_set_threads(c->ctx, g.threads);
    nb_ctx_set_seed(c->ctx, g.seed);
    cli_progress_start(c);
    return CLI_GO_ON;
}
