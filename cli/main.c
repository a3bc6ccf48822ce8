/* nibble <command> [options] [files]: the table of commands, and what is left without one. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

typedef struct command {
    const char *name;
    int (*run)(cli *c);
    const char *help;
} command;

static const command commands[] = {
    {"info", cmd_info, "operators, shapes, parameters, MACs, and what would stay untouched"},
    {"run", cmd_run, "one inference on tensors from files"},
    {"eval", cmd_eval, "accuracy, or another metric, on a data set"},
    {"train", cmd_train, "trains a float model"},
    {"meta-train", cmd_meta_train, "trains a network that generates weights, for a search"},
    {"quantize", cmd_quantize, "the main job: a smaller model under the limits you give"},
    {"finetune", cmd_finetune, "more fine-tuning of what quantize wrote"},
    {"sensitivity", cmd_sensitivity, "which layer is to blame, at which width"},
    {"compare", cmd_compare, "two models side by side on the same data"},
    {"export", cmd_export, "another format of a finished run: ONNX or C source"},
    {"report", cmd_report, "makes report.html of a result folder anew"},
    {"bench", cmd_bench, "time per image and per layer on this machine"},
    {"new", cmd_new, "writes an untrained standard architecture"},
    {"list", cmd_list, "what this build can do: operators, schemes, architectures, ..."},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_overview(FILE *file) {
    fprintf(file,
            "nibble %s: makes neural networks small\n\n"
            "usage: nibble COMMAND [options] [files]\n\ncommands\n",
            nb_version());
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(file, "  %-13s %s\n", commands[i].name, commands[i].help);
    fprintf(file, "  %-13s %s\n", "help COMMAND", "the options of a command");
    fprintf(file, "\n"
                  "Every command takes --help, --threads N, --seed N, --verbose, --quiet and\n"
                  "--json; 'nibble --version' names the libraries of this build.\n\n"
                  "  nibble quantize model.onnx --data images/ --max-size 64K -o out\n\n"
                  "Exit status: 0 done, 1 failed, 2 wrong usage, 3 a limit cannot be met.\n");
}

static int print_version(void) {
    printf("nibble %s\n%s\n", nb_version(), nb_libraries());
    return cli_flush();
}

static int unknown_command(const char *name) {
    const char *names[N_COMMANDS + 2] = {0};
    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    names[N_COMMANDS] = "help";
    const char *near = cli_nearest(name, names);
    if (near)
        cli_say("there is no command '%s' (did you mean '%s'?)", name, near);
    else
        cli_say("there is no command '%s'", name);
    fprintf(stderr, "see 'nibble --help'\n");
    return CLI_USAGE;
}

static int unknown_option(const char *name) {
    static const char *const names[] = {"--help", "--version", NULL};
    const char *near = cli_nearest(name, names);
    if (near)
        cli_say("no option '%s' before the command (did you mean '%s'?)", name, near);
    else
        cli_say("no option '%s' before the command; options follow it", name);
    fprintf(stderr, "see 'nibble --help'\n");
    return CLI_USAGE;
}

static const command *find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

/* Does a shell read the word as it stands? */
static bool plain(const char *word) {
    return *word && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                 "_-+=.,:/@%") == strlen(word);
}

/* The words as they are typed, quoted where a shell wants it (a quote in a word stays as it is: the line
 * goes into comments); NULL without memory, which is allowed for. */
static char *join(int n, char **words) {
    size_t size = 1;
    for (int i = 0; i < n; i++) size += strlen(words[i]) + 3;
    char *text = malloc(size), *end = text;
    if (!text) return NULL;
    *end = 0;
    for (int i = 0; i < n; i++)
        end += sprintf(end, plain(words[i]) ? "%s%s" : "%s'%s'", i ? " " : "", words[i]);
    return text;
}

/* Is its work spread over the processes that mpirun starts? Elsewhere the first one works alone. */
static bool spreads(const command *row) {
    return row && (row->run == cmd_quantize || row->run == cmd_sensitivity);
}

/* Joins the other processes, if there are any; all but the first one are silent from then on. */
static int join_others(cli *c) {
    if (nb_ctx_join(c->ctx, &c->processes) != NB_OK) {
        cli_say("%s", nb_ctx_message(c->ctx));
        return CLI_FAILED;
    }
    c->follows = c->processes > 1 && nb_process_rank() > 0;
    if (!c->follows) return CLI_GO_ON;
    bool silent = freopen("/dev/null", "w", stdout) && freopen("/dev/null", "w", stderr);
    return silent ? CLI_GO_ON : CLI_FAILED;
}

/* help: it only prints its options. */
static int run(const command *row, bool help, int argc, char **argv, char *command_line) {
    cli c = {.command = row->name,
             .help = row->help,
             .argc = argc,
             .argv = argv,
             .command_line = command_line,
             .ctx = nb_ctx_new()};
    if (!c.ctx) {
        cli_say("out of memory");
        return CLI_FAILED;
    }
    int status = !help && spreads(row) ? join_others(&c) : CLI_GO_ON;
    if (status == CLI_GO_ON) {
        status = row->run(&c);
        if (c.follows) status = CLI_DONE; /* the first process's is the command's */
    }
    cli_progress_stop();
    nb_ctx_free(c.ctx);
    return status;
}

int main(int argc, char **argv) {
    if (nb_process_rank() > 0 && !(argc > 1 && spreads(find(argv[1])))) return CLI_DONE;
    if (argc < 2) {
        print_overview(stdout);
        return cli_flush();
    }
    const char *first = argv[1];
    if (!strcmp(first, "--version") || !strcmp(first, "-V")) return print_version();
    bool help = !strcmp(first, "help") || !strcmp(first, "--help") || !strcmp(first, "-h");
    if (help && argc < 3) {
        print_overview(stdout);
        return cli_flush();
    }
    if (!help && first[0] == '-') return unknown_option(first);
    const command *row = find(help ? argv[2] : first);
    if (!row) return unknown_command(help ? argv[2] : first);
    char ask[] = "--help", *asked[] = {ask, NULL};
    if (help) return run(row, true, 1, asked, NULL);
    char *command_line = join(argc, argv);
    int status = run(row, false, argc - 2, argv + 2, command_line);
    free(command_line);
    return status;
}
