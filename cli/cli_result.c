/* From what a library call returned to stdout, stderr and the exit status. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static int exit_status(nb_status status) {
    switch (status) {
    case NB_OK:
        return CLI_DONE;
    case NB_EINVAL:
        return CLI_USAGE;
    case NB_ELIMIT:
        return CLI_LIMIT;
    default:
        return CLI_FAILED;
    }
}

void cli_print_failure(nb_status status, const char *message) {
    json_t *object = json_pack("{s:s, s:s}", "error", message, "status", nb_status_text(status));
    char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    /* a message that is not UTF-8 cannot be packed */
    puts(text ? text : "{\"error\": \"failed\"}");
    free(text);
    json_decref(object);
}

static int print_result(cli *c, const char *json, cli_printer print, const void *user) {
    if (c->json) {
        fputs(json, stdout);
        size_t len = strlen(json);
        if (!len || json[len - 1] != '\n') putchar('\n');
        return CLI_DONE;
    }
    json_error_t error;
    json_t *root = json_loads(json, 0, &error);
    if (!root) {
        cli_say("the result is not JSON (line %d: %s)", error.line, error.text);
        return CLI_FAILED;
    }
    print(root, user);
    json_decref(root);
    return CLI_DONE;
}

int cli_flush(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return CLI_DONE;
    cli_say("cannot write to the standard output");
    return CLI_FAILED;
}

int cli_finish(cli *c, nb_status status, char *json, cli_printer print, const void *user) {
    cli_progress_clear();
    const char *message = nb_ctx_message(c->ctx);
    int code = exit_status(status);
    if (json) {
        int printed = print_result(c, json, print, user);
        if (printed != CLI_DONE) code = printed;
    } else if (c->json && status != NB_OK) {
        cli_print_failure(status, *message ? message : nb_status_text(status));
    }
    nb_free(json);
    if (cli_flush() != CLI_DONE) code = CLI_FAILED;
    if (status == NB_OK) return code;
    cli_say("%s", *message ? message : nb_status_text(status));
    if (code == CLI_USAGE) fprintf(stderr, "see 'nibble %s --help'\n", c->command);
    return code;
}
