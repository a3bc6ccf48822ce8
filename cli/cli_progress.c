/* Progress, messages and Ctrl-C. Work of less than two seconds stays silent; a terminal gets one
 * line that is redrawn, everything else gets plain lines at least two seconds apart. */
#include "cli.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 24, PATIENCE = 2 /* seconds */ };

static struct {
    cli *c;
    double start, last; /* of the command; of the last line off a terminal */
    double part_start;  /* of the work that `what` names */
    char what[64];
    bool live, is_terminal;
} state;

/* Read by the signal handler. */
static nb_ctx *volatile interrupted_ctx;
static volatile sig_atomic_t interrupts;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void print_clean(FILE *file, const char *text) {
    for (; *text; text++) fputc((unsigned char)*text < 32 || *text == 127 ? '?' : *text, file);
}

void cli_progress_clear(void) {
    if (!state.live) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    state.live = false;
}

void cli_say(const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cli_progress_clear();
    fputs("nibble: ", stderr);
    print_clean(stderr, text);
    fputc('\n', stderr);
}

static void on_log(void *user, nb_log_level level, const char *text) {
    const cli *c = user;
    nb_log_level usual = c->tells ? NB_LOG_INFO : NB_LOG_WARNING;
    nb_log_level most = c->quiet ? NB_LOG_ERROR : c->verbose ? NB_LOG_DEBUG : usual;
    if (level <= most) cli_say("%s%s", level == NB_LOG_WARNING ? "warning: " : "", text);
}

/* "12 of 40, about 3 s left" */
static void amounts(char *out, size_t size, double done, double total, double spent) {
    if (total <= 0)
        snprintf(out, size, "%.0f", done);
    else if (done > 0 && done < total && spent > 1)
        snprintf(out, size, "%.0f of %.0f, about %.0f s left", done, total,
                 spent * (total - done) / done);
    else
        snprintf(out, size, "%.0f of %.0f", done, total);
}

static void draw_bar(const char *text, double share) {
    int full = (int)(share * BAR + 0.5);
    cli_progress_clear();
    fputs("nibble: ", stderr);
    print_clean(stderr, state.what);
    if (share >= 0) {
        fputs(" [", stderr);
        for (int i = 0; i < BAR; i++) fputc(i < full ? '#' : '.', stderr);
        fputc(']', stderr);
    }
    fprintf(stderr, " %s", text);
    fflush(stderr);
    state.live = true;
}

static void on_progress(void *user, const char *what, double done, double total) {
    (void)user;
    double t = now();
    if (strncmp(state.what, what, sizeof state.what - 1) != 0) {
        snprintf(state.what, sizeof state.what, "%s", what);
        state.part_start = t;
    }
    if (t - state.start < PATIENCE) return;
    /* the longer it takes, the rarer the lines */
    double pause = fmin(fmax(PATIENCE, (t - state.start) / 8), 30);
    if (!state.is_terminal && t - state.last < pause) return;
    state.last = t;
    char text[96];
    amounts(text, sizeof text, done, total, t - state.part_start);
    double share = total > 0 ? done / total : -1;
    if (share > 1) share = 1;
    if (state.is_terminal)
        draw_bar(text, share);
    else
        cli_say("%s: %s", state.what, text);
}

/* The first Ctrl-C asks the library to stop at the next safe point; the second does not ask. */
static void on_interrupt(int number) {
    (void)number;
    if (interrupts++ || !interrupted_ctx) {
        static const char newline[] = "\n";
        ssize_t ignored = write(STDERR_FILENO, newline, sizeof newline - 1);
        (void)ignored;
        _exit(CLI_STOPPED);
    }
    nb_ctx_cancel(interrupted_ctx);
    static const char text[] =
        "\nnibble: stopping at the next safe point (Ctrl-C again: at once)\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
}

void cli_progress_start(cli *c) {
    state.c = c;
    state.start = state.part_start = now();
    state.last = state.start;
    state.is_terminal = isatty(STDERR_FILENO) == 1;
    nb_ctx_set_log(c->ctx, on_log, c);
    if (!c->quiet) nb_ctx_set_progress(c->ctx, on_progress, c);
    interrupted_ctx = c->ctx;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = c->follows ? SIG_IGN : on_interrupt;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    if (c->processes > 1) sigaction(SIGUSR1, &action, NULL); /* mpirun keeps Ctrl-C for itself */
}

void cli_progress_stop(void) {
    cli_progress_clear();
    if (!state.c || !state.c->follows) signal(SIGINT, SIG_DFL);
    interrupted_ctx = NULL;
}
