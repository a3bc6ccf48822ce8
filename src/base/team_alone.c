/* A build without MPI: every process is alone. */
#include "base/team.h"

int nbi_mpi_rank(void) {
    return 0;
}

nb_status nbi_mpi_join(nb_ctx *ctx, nbi_team **out, int *here) {
    (void)ctx;
    *out = NULL;
    *here = 1;
    return NB_OK;
}
