/* The fields of nb_ctx; only base/ looks inside. */
#ifndef NIBBLE_BASE_CTX_H
#define NIBBLE_BASE_CTX_H

#include "base/base.h"

#include <stdatomic.h>

struct nb_ctx {
    char message[1024];
    atomic_flag message_busy, callback_busy;
    int threads;
    uint64_t seed;
    atomic_bool cancel;
    int held; /* calls of nbi_cancel_hold */
    double start, last_progress;
    nb_log_fn log;
    void *log_user;
    nb_progress_fn progress;
    void *progress_user;
    struct nbi_team *team; /* NULL: nobody was joined */
    int processes_here;    /* of the team on this machine; they share its cores */
};

int nbi_cores(void);

#endif
