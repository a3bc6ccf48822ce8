/* Runs the float network at the batch of the training graph. */
#include "api/teacher.h"

#include <string.h>

/* Rows of an image: what each output has of it, one behind the other. */
static nb_status place_outputs(nb_ctx *ctx, nbi_teacher *t, int64_t batch) {
    const nbi_graph *g = t->graph;
    int64_t all = 0, at = 0;
    for (int i = 0; i < g->n_outputs; i++) all += nbi_tensor_count(g->tensor[g->output[i]]);
    NB_TRY(nbi_alloc(ctx, (size_t)all, sizeof(float), &t->values));
    for (int i = 0; i < g->n_outputs; i++) {
        const nbi_tensor *from = g->tensor[g->output[i]];
        nbi_view *v = &t->out[i];
        if (g->n_outputs > 1 && (from->rank < 1 || from->dim[0] != batch))
            return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' has no batch dimension", from->name);
        *v = (nbi_view){.dtype = NB_DTYPE_F32, .rank = from->rank, .data = t->values + at};
        memcpy(v->dim, from->dim, sizeof from->dim);
        nbi_view_contiguous(v);
        if (g->n_outputs > 1) v->stride[0] = all / batch;
        at += nbi_tensor_count(from) / batch;
    }
    return NB_OK;
}

nb_status nbi_teacher_start(nb_ctx *ctx, const nbi_graph *source, int n, const char *const *output,
                            int64_t batch, nbi_teacher *t) {
    int list[NBI_COUNT(t->out)];
    NB_TRY(nbi_rebatch(ctx, source, batch, &t->graph));
    for (int i = 0; i < n; i++) {
        list[i] = nbi_graph_find(t->graph, output[i]);
        if (list[i] < 0) return nb_fail(ctx, NB_EFORMAT, "tensor '%s' vanished", output[i]);
    }
    NB_TRY(nbi_graph_set_outputs(ctx, t->graph, n, list));
    NB_TRY(nbi_exec_new(ctx, t->graph, NBI_EXEC_FAST, &t->exec));
    return place_outputs(ctx, t, batch);
}

nb_status nbi_teacher_ask(nb_ctx *ctx, nbi_teacher *t, const float *x, const void **out) {
    nbi_view v;
    NB_TRY(nbi_exec_run(ctx, t->exec, (const void *const[]){x}));
    for (int i = 0; i < t->graph->n_outputs; i++) {
        NB_TRY(nbi_exec_value(ctx, t->exec, t->graph->output[i], &v));
        nbi_view_copy(&t->out[i], &v);
    }
    *out = t->values;
    return NB_OK;
}

void nbi_teacher_stop(nbi_teacher *t) {
    nbi_exec_free(t->exec);
    nbi_graph_free(t->graph);
    nbi_free(t->values);
    *t = (nbi_teacher){0};
}
