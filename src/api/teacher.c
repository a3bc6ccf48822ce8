#include "api/teacher.h"

#include <string.h>

#define BATCH       128
#define TEMPERATURE 4.0f

nb_status nbi_teacher_start(nbi_session *s, int64_t batch, nbi_teacher *t) {
    const char *name = s->net->edge[s->edge].name;
    NB_TRY(nbi_rebatch(s->ctx, s->compared, batch, &t->graph));
    int y = nbi_graph_find(t->graph, name);
    if (y < 0) return nb_fail(s->ctx, NB_EFORMAT, "tensor '%s' vanished", name);
    NB_TRY(nbi_graph_set_outputs(s->ctx, t->graph, 1, &y));
    NB_TRY(nbi_exec_new(s->ctx, t->graph, 0, &t->exec));
    const nbi_tensor *out = t->graph->tensor[y];
    t->out = (nbi_view){.dtype = NB_DTYPE_F32, .rank = out->rank};
    memcpy(t->out.dim, out->dim, sizeof out->dim);
    nbi_view_contiguous(&t->out);
    return nbi_alloc(s->ctx, (size_t)nbi_tensor_count(out), sizeof(float), &t->out.data);
}

nb_status nbi_teacher_ask(nb_ctx *ctx, nbi_teacher *t, const nbi_batch *batch, const void **out) {
    nbi_view v;
    NB_TRY(nbi_exec_run(ctx, t->exec, (const void *const[]){batch->x}));
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

size_t nbi_session_batch(const nbi_session *s) {
    size_t batch = s->o->batch > 0 ? (size_t)s->o->batch : BATCH;
    size_t have = s->info.count[NBI_SPLIT_TRAIN];
    return have < batch ? have : batch;
}

nbi_qat_options nbi_session_qat_options(const nbi_session *s, size_t batch) {
    return (nbi_qat_options){.batch = (int64_t)batch,
                             .per_channel = s->per_channel,
                             .classes = s->labelled ? s->info.classes : 0,
                             .distill = s->o->distill || !s->labelled,
                             .mean_squared = !s->labelled && s->loss == NBI_LOSS_MSE,
                             .temperature = s->labelled ? TEMPERATURE : 1};
}
