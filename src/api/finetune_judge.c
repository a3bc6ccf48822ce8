/* Fine-tuning, judged: what is trained becomes an integer program, which runs on validation images;
 * beside it the simulation, which has to say the same. */
#include "api/tuning.h"

#include "runtime/lower.h"

#include <math.h>
#include <string.h>

/* The simulated network on the judges: a tape without losses, images in whole batches. */
static nb_status simulate(nbi_tuning *t, size_t batch, float *values, size_t count) {
    nbi_session *s = t->s;
    nbi_qat_copy(t->simulated, t->qat);
    for (size_t first = 0; first < t->judges.n; first += batch) {
        size_t n = t->judges.n - first < batch ? t->judges.n - first : batch;
        nbi_view v;
        nbi_images_fill(&t->judges, &s->transform, first, n, t->input);
        NB_TRY(nbi_tape_forward(s->ctx, t->tape, (const void *const[]){t->input}, 0));
        NB_TRY(nbi_tape_value(s->ctx, t->tape, t->simulated->logits, &v));
        nbi_view to = v;
        to.dim[0] = v.dim[0] = (int64_t)n;
        to.data = values + first * count;
        nbi_view_contiguous(&to);
        nbi_view_copy(&to, &v);
    }
    return NB_OK;
}

nb_status nbi_tuning_deploy(nbi_tuning *t, nbi_frozen **frozen, nbi_program **program) {
    nb_ctx *ctx = t->s->ctx;
    NB_TRY(nbi_qat_freeze(ctx, t->qat, frozen));
    NB_TRY(nbi_frozen_fold(ctx, *frozen));
    return nbi_lower(ctx, *frozen, program);
}

/* Rows of scores become what the Softmax behind them makes of them. */
static void softmax(float *values, size_t n, size_t width) {
    for (float *x = values; x < values + n * width; x += width) {
        double most = (double)x[nbi_argmax(x, width)], sum = 0;
        for (size_t i = 0; i < width; i++) sum += exp((double)x[i] - most);
        for (size_t i = 0; i < width; i++) x[i] = (float)(exp((double)x[i] - most) / sum);
    }
}

/* The simulation against the float network, but for the agreement, which is with the program. */
static nb_status measure_simulation(nbi_tuning *t, const float *deployed, const float *reference,
                                    size_t count) {
    const nbi_session *s = t->s;
    const int *label = s->labelled ? t->judges.label : NULL;
    bool probability = s->edge != s->net->output[0];
    const nbi_tensor *logits = t->simulated->graph->tensor[t->simulated->logits];
    size_t batch = (size_t)logits->dim[0], width = (size_t)nbi_tensor_count(logits) / batch;
    float *values = NULL;
    nbi_metrics both;
    nb_status st;
    if (width != count)
        return nb_fail(s->ctx, NB_EFORMAT, "the networks have outputs of two sizes");
    NB_TRY(nbi_alloc(s->ctx, t->judges.n * width, sizeof *values, &values));
    NB_TRYG(simulate(t, batch, values, width));
    if (probability) softmax(values, t->judges.n, width);
    nbi_measure(values, deployed, label, t->judges.n, width, probability, &both);
    nbi_measure(values, reference, label, t->judges.n, width, probability, &t->sim);
    t->sim.agreement = both.agreement;
done:
    nbi_free(values);
    return st;
}

double nbi_tuning_merit(const nbi_session *s, const nbi_metrics *m) {
    return s->labelled ? m->top1 : s->loss == NBI_LOSS_KL ? -m->kl : -m->mse;
}

/* What the integer program says decides; the simulation, where wanted, runs on the same images. */
nb_status nbi_tuning_judge(nbi_tuning *t, const nbi_program *program, bool simulation, double *metric) {
    nbi_session *s = t->s;
    nb_ctx *ctx = s->ctx;
    float *deployed = NULL;
    size_t count = 0;
    nb_status st;
    const int *label = s->labelled ? t->judges.label : NULL;
    bool probability = s->edge != s->net->output[0];
    NB_TRYG(nbi_eval_integer(ctx, program, &t->judges, &s->transform, &deployed, &count, NULL));
    if (!t->reference) /* the same in every epoch */
        NB_TRYG(nbi_eval_float(ctx, s->compared, &t->judges, &s->transform, &t->reference,
                               &t->reference_count, NULL));
    if (count != t->reference_count) st = nb_fail(ctx, NB_EFORMAT, "the networks have outputs of two sizes");
    if (st != NB_OK) goto done;
    nbi_measure(deployed, t->reference, label, t->judges.n, count, probability, &t->deployed);
    if (simulation) NB_TRYG(measure_simulation(t, deployed, t->reference, count));
    *metric = nbi_tuning_merit(s, &t->deployed);
done:
    nbi_free(deployed);
    return st;
}

/* A network that has run away may have no integer form: that is divergence, too. */
nb_status nbi_tuning_evaluate(nb_ctx *ctx, void *user, double *metric) {
    nbi_tuning *t = user;
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    nb_status st = nbi_tuning_deploy(t, &frozen, &program);
    if (st == NB_EINVAL || st == NB_EUNSUPPORTED)
        st = nb_fail_prefix(ctx, NB_ENUMERIC, "what was trained has no integer form (a smaller "
                            "learning rate may help)");
    if (st == NB_OK) st = nbi_tuning_judge(t, program, true, metric);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    return st;
}

const char *nbi_tuning_merit_name(const nbi_session *s) {
    return s->labelled ? "top-1" : s->loss == NBI_LOSS_KL ? "kl" : "mse";
}

/* What fine-tuning has to beat: trained values as they are, or the policy as the search left it. */
nb_status nbi_tuning_judge_before(nbi_tuning *t, const nbi_choice *bits) {
    nbi_session *s = t->s;
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    if (s->further.fresh || isfinite(t->before)) return NB_OK;
    nb_status st = s->further.tuned ? nbi_tuning_deploy(t, &frozen, &program)
                                    : nbi_session_freeze(s, bits, &frozen, &program);
    if (st == NB_OK) st = nbi_tuning_judge(t, program, false, &t->before);
    if (st == NB_OK && s->loss != NBI_LOSS_MSE) t->kept = t->deployed.agreement;
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    return st;
}
