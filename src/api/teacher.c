/* Runs the float network at the batch of the training graph. */
#include "api/teacher.h"

#include <string.h>

nb_status nbi_teacher_start(nb_ctx *ctx, const nbi_graph *source, const char *output, int64_t batch,
                            nbi_teacher *t) {
    NB_TRY(nbi_rebatch(ctx, source, batch, &t->graph));
    int y = nbi_graph_find(t->graph, output);
    if (y < 0) return nb_fail(ctx, NB_EFORMAT, "tensor '%s' vanished", output);
    NB_TRY(nbi_graph_set_outputs(ctx, t->graph, 1, &y));
    NB_TRY(nbi_exec_new(ctx, t->graph, NBI_EXEC_FAST, &t->exec));
    const nbi_tensor *from = t->graph->tensor[y];
    t->out = (nbi_view){.dtype = NB_DTYPE_F32, .rank = from->rank};
    memcpy(t->out.dim, from->dim, sizeof from->dim);
    nbi_view_contiguous(&t->out);
    return nbi_alloc(ctx, (size_t)nbi_tensor_count(from), sizeof(float), &t->out.data);
}

nb_status nbi_teacher_ask(nb_ctx *ctx, nbi_teacher *t, const float *x, const void **out) {
    nbi_view v;
    NB_TRY(nbi_exec_run(ctx, t->exec, (const void *const[]){x}));
    NB_TRY(nbi_exec_value(ctx, t->exec, t->graph->output[0], &v));
    nbi_view_copy(&t->out, &v);
    *out = t->out.data;
    return NB_OK;
}

void nbi_teacher_stop(nbi_teacher *t) {
    nbi_exec_free(t->exec);
    nbi_graph_free(t->graph);
    nbi_free(t->out.data);
    *t = (nbi_teacher){0};
}
