/* The float network as a teacher: its outputs at the session's edge for every training batch. */
#ifndef NIBBLE_API_TEACHER_H
#define NIBBLE_API_TEACHER_H

#include "api/session.h"
#include "data/batches.h"
#include "exec/exec.h"

typedef struct nbi_teacher {
    nbi_graph *graph;
    nbi_exec *exec;
    nbi_view out; /* contiguous; data: of this struct */
} nbi_teacher;

/* `teacher` is all zero. */
nb_status nbi_teacher_start(nbi_session *s, int64_t batch, nbi_teacher *teacher);
/* *out is valid until the next call. */
nb_status nbi_teacher_ask(nb_ctx *ctx, nbi_teacher *teacher, const nbi_batch *batch,
                          const void **out);
void nbi_teacher_stop(nbi_teacher *teacher); /* all zero is allowed */

/* How the session trains networks: losses, distillation, granularity. */
nbi_qat_options nbi_session_qat_options(const nbi_session *s, size_t batch);
/* Images per step: --batch, or what there is where that is less. */
size_t nbi_session_batch(const nbi_session *s);

#endif
