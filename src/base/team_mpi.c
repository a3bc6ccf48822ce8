/* The team of an MPI job: the only place that sees MPI. What fails inside MPI ends the job (its
 * default), so nothing is checked here.
 *
 * Blocking calls of MPI keep a core busy, and rank 0 may be away for minutes (it alone trains and
 * writes). So every call is a non-blocking one that is tested: without a pause for as long as a
 * layer may take another process longer, then ever more rarely. */
#include "base/team.h"

#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define PATIENCE    5e-3    /* seconds of tests without a pause */
#define FIRST_PAUSE 20000   /* ns */
#define MOST_PAUSE  1000000 /* ns */

typedef struct mpi_team {
    nbi_team team; /* the first member: a team's pointer is its own */
    MPI_Comm comm;
    int *count, *place; /* [size]: rows of each rank */
} mpi_team;

static void wait_for(MPI_Request *request) {
    struct timespec pause = {0, FIRST_PAUSE};
    double start = MPI_Wtime();
    int done;
    MPI_Test(request, &done, MPI_STATUS_IGNORE);
    while (!done) {
        if (MPI_Wtime() - start < PATIENCE) {
            sched_yield();
        } else {
            nanosleep(&pause, NULL);
            pause.tv_nsec = pause.tv_nsec < MOST_PAUSE / 2 ? 2 * pause.tv_nsec : MOST_PAUSE;
        }
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
    }
}

/* Counts of MPI are int: large things go as few large elements. */
static MPI_Datatype type_of(size_t bytes) {
    MPI_Datatype type;
    MPI_Type_contiguous((int)bytes, MPI_BYTE, &type);
    MPI_Type_commit(&type);
    return type;
}

static int agree(nbi_team *t, bool failed) {
    mpi_team *m = (mpi_team *)(void *)t;
    MPI_Request request;
    int mine = failed ? t->rank : t->size, first;
    MPI_Iallreduce(&mine, &first, 1, MPI_INT, MPI_MIN, m->comm, &request);
    wait_for(&request);
    return first;
}

static void tell(nbi_team *t, int from, void *data, size_t bytes) {
    mpi_team *m = (mpi_team *)(void *)t;
    const size_t most = (size_t)1 << 30;
    char *at = data;
    while (bytes) {
        MPI_Request request;
        size_t n = bytes < most ? bytes : most;
        MPI_Ibcast(at, (int)n, MPI_BYTE, from, m->comm, &request);
        wait_for(&request);
        at += n;
        bytes -= n;
    }
}

static void share(nbi_team *t, void *data, size_t rows, size_t row_bytes) {
    mpi_team *m = (mpi_team *)(void *)t;
    MPI_Request request;
    MPI_Datatype row = type_of(row_bytes);
    for (int r = 0; r < t->size; r++) {
        m->place[r] = (int)nbi_team_first(t, rows, r);
        m->count[r] = (int)nbi_team_first(t, rows, r + 1) - m->place[r];
    }
    MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, m->count, m->place, row, m->comm,
                    &request);
    wait_for(&request);
    MPI_Type_free(&row);
}

static void leave(nbi_team *t) {
    mpi_team *m = (mpi_team *)(void *)t;
    MPI_Comm_free(&m->comm);
    MPI_Finalize();
    nbi_free(m->count);
    nbi_free(m->place);
    nbi_free(m);
}

/* Launchers name the rank in the environment: MPI_Init alone would cost a lone process 0.4 s. */
static const char *rank_text(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"};
    for (size_t i = 0; i < NBI_COUNT(names); i++) {
        const char *text = getenv(names[i]);
        if (text) return text;
    }
    return NULL;
}

int nbi_mpi_rank(void) {
    const char *text = rank_text();
    return text ? (int)strtol(text, NULL, 10) : 0;
}

nb_status nbi_mpi_join(nb_ctx *ctx, nbi_team **out, int *here) {
    mpi_team *m = NULL;
    MPI_Comm machine;
    int provided, started;
    nb_status st;
    *out = NULL;
    *here = 1;
    if (!rank_text()) return NB_OK;
    MPI_Initialized(&started);
    if (started) return nb_fail(ctx, NB_EINVAL, "MPI was started by another part of the program");
    NB_TRY(nbi_alloc(ctx, 1, sizeof *m, &m));
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_dup(MPI_COMM_WORLD, &m->comm);
    MPI_Comm_rank(m->comm, &m->team.rank);
    MPI_Comm_size(m->comm, &m->team.size);
    MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, here);
    MPI_Comm_free(&machine);
    m->team.agree = agree;
    m->team.tell = tell;
    m->team.share = share;
    m->team.leave = leave;
    st = nbi_alloc(ctx, (size_t)m->team.size, sizeof *m->count, &m->count);
    if (st == NB_OK) st = nbi_alloc(ctx, (size_t)m->team.size, sizeof *m->place, &m->place);
    if (st == NB_OK && m->team.rank != nbi_mpi_rank())
        st = nb_fail(ctx, NB_EUNSUPPORTED,
                     "the launcher calls this process number %d, MPI number %d "
                     "of %d: they do not fit together",
                     nbi_mpi_rank(), m->team.rank, m->team.size);
    st = nbi_team_agree(ctx, &m->team, st);
    if (st == NB_OK)
        *out = &m->team;
    else
        leave(&m->team);
    return st;
}
