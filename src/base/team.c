/* See team.h. */
#include "base/team.h"

#include "base/ctx.h"

#include <stdio.h>
#include <string.h>

int nb_process_rank(void) {
    return nbi_mpi_rank();
}

nb_status nb_ctx_join(nb_ctx *ctx, int *processes) {
    if (!ctx->team) {
        NB_TRY(nbi_mpi_join(ctx, &ctx->team, &ctx->processes_here));
        if (ctx->team) nb_ctx_set_threads(ctx, 0);
    }
    *processes = ctx->team ? ctx->team->size : 1;
    return NB_OK;
}

nbi_team *nbi_ctx_team(const nb_ctx *ctx) {
    return ctx->team && ctx->team->size > 1 ? ctx->team : NULL;
}

size_t nbi_team_first(const nbi_team *t, size_t n, int rank) {
    size_t size = t ? (size_t)t->size : 1, r = (size_t)rank;
    return n / size * r + (r < n % size ? r : n % size);
}

void nbi_team_begin(nbi_team *t) {
    if (t) t->failed = false;
}

nb_status nbi_team_agree(nb_ctx *ctx, nbi_team *t, nb_status st) {
    struct {
        nb_status st;
        char text[sizeof ctx->message];
    } word;
    if (!t || t->failed) return st;
    int who = t->agree(t, st != NB_OK);
    if (who == t->size) return NB_OK;
    memset(&word, 0, sizeof word);
    word.st = st;
    snprintf(word.text, sizeof word.text, "%s", nb_ctx_message(ctx));
    t->tell(t, who, &word, sizeof word);
    t->failed = true;
    if (who == t->rank) return st;
    return nb_fail(ctx, word.st, "process %d: %s", who, word.text);
}

nb_status nbi_team_tell(nb_ctx *ctx, nbi_team *t, nb_status st, void *data, size_t bytes) {
    NB_TRY(nbi_team_agree(ctx, t, st));
    if (t) t->tell(t, 0, data, bytes);
    return NB_OK;
}

nb_status nbi_team_share(nb_ctx *ctx, nbi_team *t, nb_status st, void *data, size_t rows,
                         size_t row_bytes) {
    NB_TRY(nbi_team_agree(ctx, t, st));
    if (t && rows) t->share(t, data, rows, row_bytes);
    return NB_OK;
}
