/* The float network is cut to the tensors that are asked for, as its outputs. */
#include "quant/float_taps.h"

#include "exec/exec.h"

#define BATCH 32

typedef struct tapping {
    nb_ctx *ctx;
    const nbi_taps *taps;
    nbi_graph *graph;
    nbi_exec *exec;
    int *tensor; /* [taps] in `graph` */
    float *dense;
    size_t room;
    size_t batch;
} tapping;

static void free_plan(tapping *t) {
    nbi_exec_free(t->exec);
    nbi_graph_free(t->graph);
    t->exec = NULL;
    t->graph = NULL;
}

static nb_status make_plan(tapping *t, size_t batch) {
    const nbi_taps *o = t->taps;
    free_plan(t);
    NB_TRY(nbi_specialize_batch(t->ctx, o->source, (int64_t)batch, &t->graph));
    int n = 0, *unique = NULL;
    NB_TRY(nbi_alloc(t->ctx, (size_t)o->n + 1, sizeof *unique, &unique));
    nb_status st = NB_OK;
    for (int i = 0; i < o->n && st == NB_OK; i++) {
        t->tensor[i] = nbi_graph_find(t->graph, o->name[i]);
        bool known = false;
        for (int k = 0; k < n; k++) known |= unique[k] == t->tensor[i];
        if (t->tensor[i] < 0)
            st = nb_fail(t->ctx, NB_EFORMAT, "tensor '%s' is not in the float graph", o->name[i]);
        else if (!known)
            unique[n++] = t->tensor[i];
    }
    if (st == NB_OK) st = nbi_graph_set_outputs(t->ctx, t->graph, n, unique);
    nbi_free(unique);
    NB_TRY(st);
    nbi_graph_prune(t->graph);
    for (int i = 0; i < o->n; i++) t->tensor[i] = nbi_graph_find(t->graph, o->name[i]);
    NB_TRY(nbi_exec_new(t->ctx, t->graph, 0, &t->exec));
    t->batch = batch;
    return NB_OK;
}

static nb_status take(tapping *t, int tap, size_t first, size_t n) {
    nbi_view v, to;
    NB_TRY(nbi_exec_value(t->ctx, t->exec, t->tensor[tap], &v));
    if (v.dtype != NB_DTYPE_F32 || v.rank < 1)
        return nb_fail(t->ctx, NB_EUNSUPPORTED, "tensor '%s' is not float32",
                       t->taps->name[tap]);
    const int64_t rows = t->graph->tensor[t->graph->input[0]]->dim[0]; /* more than n where the file fixes them */
    if (v.dim[0] != rows)
        return nb_fail(t->ctx, NB_EUNSUPPORTED, "tensor '%s' has %lld rows for %lld images",
                       t->taps->name[tap], (long long)v.dim[0], (long long)rows);
    v.dim[0] = (int64_t)n;
    size_t total = (size_t)nbi_view_count(&v);
    if (total > t->room) {
        nbi_free(t->dense);
        t->dense = NULL;
        t->room = 0;
        NB_TRY(nbi_alloc(t->ctx, total, sizeof(float), &t->dense));
        t->room = total;
    }
    to = v;
    to.data = t->dense;
    if (v.rank == 3 || v.rank == 4) nbi_view_channels_last(&to);
    else nbi_view_contiguous(&to);
    nbi_view_copy(&to, &v);
    return t->taps->take(t->ctx, t->taps->take_user, tap, first, n, t->dense, total / n);
}

nb_status nbi_float_taps(nb_ctx *ctx, const nbi_taps *taps) {
    tapping t = {.ctx = ctx, .taps = taps};
    const nbi_tensor *x = taps->source->tensor[taps->source->input[0]];
    bool fixed = x->rank > 0 && x->dim[0] > 0 && x->dim[0] < BATCH;
    size_t most = fixed ? (size_t)x->dim[0] : BATCH, n;
    float *input = NULL;
    nb_status st;
    if (taps->n == 0) return NB_OK;
    NB_TRYG(nbi_alloc(ctx, (size_t)taps->n, sizeof *t.tensor, &t.tensor));
    for (size_t first = 0; first < taps->images; first += n) {
        n = taps->images - first < most ? taps->images - first : most;
        if (n != t.batch) {
            NB_TRYG(make_plan(&t, n));
            nbi_free(input);
            input = NULL;
            const nbi_tensor *in = t.graph->tensor[t.graph->input[0]];
            NB_TRYG(nbi_alloc(ctx, (size_t)nbi_tensor_count(in), sizeof *input, &input));
        }
        NB_TRYG(taps->fill(ctx, taps->fill_user, first, n, input));
        const void *inputs[1] = {input};
        NB_TRYG(nbi_exec_run(ctx, t.exec, inputs));
        for (int i = 0; i < taps->n; i++) NB_TRYG(take(&t, i, first, n));
        NB_TRYG(nb_progress(ctx, taps->what, (double)(first + n), (double)taps->images));
    }
    st = NB_OK;
done:
    free_plan(&t);
    nbi_free(t.tensor);
    nbi_free(t.dense);
    nbi_free(input);
    return st;
}
