/* The float network as a teacher: its outputs for the images of a training batch. */
#ifndef NIBBLE_API_TEACHER_H
#define NIBBLE_API_TEACHER_H

#include "data/batches.h"
#include "exec/exec.h"

typedef struct nbi_teacher {
    nbi_graph *graph;
    nbi_exec *exec;
    float *values;   /* [batch][all values of an image] */
    nbi_view out[8]; /* where each output goes */
} nbi_teacher;

/* `output`: the n tensors whose values are taught, at most 8. */
nb_status nbi_teacher_start(nb_ctx *ctx, const nbi_graph *source, int n, const char *const *output,
                            int64_t batch, nbi_teacher *teacher);
/* Values for a batch of images, valid until the next call. */
nb_status nbi_teacher_ask(nb_ctx *ctx, nbi_teacher *teacher, const float *x, const void **out);
void nbi_teacher_stop(nbi_teacher *teacher); /* a zeroed one is allowed */

#endif
