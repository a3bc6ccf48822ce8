/* Running statistics follow the last steps of training, with weights that still moved under them.
 * Here they become plain means over many batches, the weights as they are: with the running values at
 * 0, a step of the running mean is (1 − momentum) times the batch's own. */
#include "quant/reestimate.h"

#include <string.h>

#define KEEP 0.9f /* momentum of the graph's BatchNormalization */

/* Other states (ranges of activations that a scheme refits) are left as they are: no values. */
static bool is_statistic(const nbi_qat *q, int k) {
    for (int l = 0; l < q->net->n_layers; l++)
        if (q->state[k].to == q->layer[l].mean || q->state[k].to == q->layer[l].variance)
            return true;
    return false;
}

static float *values(const nbi_qat *q, int k) {
    return q->graph->tensor[q->state[k].to]->data;
}

static size_t count_of(const nbi_qat *q, int k) {
    return is_statistic(q, k) ? (size_t)nbi_tensor_count(q->graph->tensor[q->state[k].to]) : 0;
}

static nb_status one_batch(nb_ctx *ctx, const nbi_qat *q, nbi_tape *tape, const nbi_batch *batch,
                           const float *teacher, float *const *sum) {
    const void *in[3] = {batch->x};
    int n = 1;
    if (q->target >= 0) in[n++] = batch->target;
    if (q->teacher >= 0) in[n++] = teacher;
    for (int k = 0; k < q->n_states; k++) memset(values(q, k), 0, count_of(q, k) * sizeof(float));
    NB_TRY(nbi_tape_forward(ctx, tape, in, 0));
    nbi_tape_advance(tape);
    for (int k = 0; k < q->n_states; k++)
        for (size_t i = 0; i < count_of(q, k); i++) sum[k][i] += values(q, k)[i] / (1 - KEEP);
    return NB_OK;
}

nb_status nbi_qat_reestimate(nb_ctx *ctx, const nbi_qat *q, nbi_batches *batches, uint64_t epoch,
                             size_t n) {
    nbi_tape_state *state = NULL;
    nbi_tape_spec spec = {0};
    nbi_tape *tape = NULL;
    float **sum = NULL, *teacher = NULL;
    nb_status st;
    if (n > nbi_batches_per_epoch(batches)) n = nbi_batches_per_epoch(batches);
    if (!q->n_states || !n) return NB_OK;
    NB_TRYG(nbi_alloc(ctx, (size_t)q->n_states, sizeof *sum, &sum));
    for (int k = 0; k < q->n_states; k++)
        NB_TRYG(nbi_alloc(ctx, count_of(q, k), sizeof(float), &sum[k]));
    if (q->teacher >= 0) /* its loss is not looked at */
        NB_TRYG(nbi_alloc(ctx, (size_t)nbi_tensor_count(q->graph->tensor[q->teacher]),
                          sizeof *teacher, &teacher));
    NB_TRYG(nbi_alloc(ctx, (size_t)q->n_states, sizeof *state, &state));
    for (int k = 0; k < q->n_states; k++)
        if (is_statistic(q, k)) state[spec.n_states++] = q->state[k];
    spec.state = state;
    NB_TRYG(nbi_tape_new(ctx, q->graph, &spec, &tape));
    for (size_t i = 0; i < n; i++) {
        nbi_batch batch;
        NB_TRYG(nbi_batches_get(ctx, batches, epoch, i, &batch));
        NB_TRYG(one_batch(ctx, q, tape, &batch, teacher, sum));
    }
    for (int k = 0; k < q->n_states; k++)
        for (size_t i = 0; i < count_of(q, k); i++) values(q, k)[i] = sum[k][i] / (float)n;
done:
    for (int k = 0; sum && k < q->n_states; k++) nbi_free(sum[k]);
    nbi_free(sum);
    nbi_free(state);
    nbi_free(teacher);
    nbi_tape_free(tape);
    return st;
}

nb_status nbi_qat_statistics_keep(nb_ctx *ctx, const nbi_qat *q, float **out) {
    size_t total = 0, at = 0;
    for (int k = 0; k < q->n_states; k++) total += count_of(q, k);
    NB_TRY(nbi_alloc(ctx, total + 1, sizeof **out, out));
    for (int k = 0; k < q->n_states; at += count_of(q, k++))
        memcpy(*out + at, values(q, k), count_of(q, k) * sizeof(float));
    return NB_OK;
}

void nbi_qat_statistics_restore(const nbi_qat *q, const float *kept) {
    for (int k = 0; k < q->n_states; kept += count_of(q, k++))
        memcpy(values(q, k), kept, count_of(q, k) * sizeof(float));
}
