/* Processes that work on one job in step: all of them call the same functions of their team in the
 * same order. Each brings its own status; the first failure (by rank) becomes everybody's, with its
 * message, so nobody waits for one that has failed. How they talk is their maker's business
 * (team_mpi.c; threads in tests). A team may be NULL: a process that is alone. */
#ifndef NIBBLE_BASE_TEAM_H
#define NIBBLE_BASE_TEAM_H

#include "base/base.h"

typedef struct nbi_team {
    int rank, size; /* rank 0 leads, the others follow */
    bool failed;    /* as all know: nothing is said before the next nbi_team_begin */
    /* The lowest rank that has failed; size: none. */
    int (*agree)(struct nbi_team *team, bool failed);
    /* Bytes of rank `from` to all. */
    void (*tell)(struct nbi_team *team, int from, void *data, size_t bytes);
    /* Of `rows` rows each rank has made its part (nbi_team_first): all get all. rows > 0. */
    void (*share)(struct nbi_team *team, void *data, size_t rows, size_t row_bytes);
    void (*leave)(struct nbi_team *team); /* ends it and frees it; NULL: nothing to do */
} nbi_team;

/* Of a context that joined others (nb_ctx_join); NULL: alone. */
nbi_team *nbi_ctx_team(const nb_ctx *ctx);
static inline bool nbi_team_follows(const nbi_team *team) {
    return team && team->rank > 0;
}
/* Where the part of `rank` of n things begins; it ends where the next one begins. Parts differ by
 * one at most, and the first is a largest one. */
size_t nbi_team_first(const nbi_team *team, size_t n, int rank);

/* What follows is in step again, whatever came before. */
void nbi_team_begin(nbi_team *team);
/* Everybody's st: NB_OK, or the first failure. Once all know of a failure: st, at once. */
nb_status nbi_team_agree(nb_ctx *ctx, nbi_team *team, nb_status st);
/* The same; then data is rank 0's. */
nb_status nbi_team_tell(nb_ctx *ctx, nbi_team *team, nb_status st, void *data, size_t bytes);
/* The same; then data holds the rows of all. */
nb_status nbi_team_share(nb_ctx *ctx, nbi_team *team, nb_status st, void *data, size_t rows,
                         size_t row_bytes);

/* ---- by MPI (team_mpi.c, or team_alone.c in builds without) ---------------------------------- */

/* As nb_process_rank. */
int nbi_mpi_rank(void);
/* *out = NULL: no launcher has started this process. *here: how many of them are on this machine.
 * Once per program. */
nb_status nbi_mpi_join(nb_ctx *ctx, nbi_team **out, int *here);

#endif
