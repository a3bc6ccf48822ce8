/* One network on its way through training: sites, calibration, training graph, one step, the
 * integer program beside the simulation. */
#ifndef QAT_CASE_H
#define QAT_CASE_H

#include "hand_net.h"

#include "exec/tape.h"
#include "quant/qat.h"

typedef struct qat_case {
    hand h;
    size_t batch;
    bool per_tensor; /* scales of weights */
    nbi_choice *bits;
    nbi_qat *train, *check;
} qat_case;

/* c->h.g is made. */
static inline void qat_generate(qat_case *c, int weights, int activations) {
    hand *h = &c->h;
    hand_generate(h, NBI_FIRST_LAST_8);
    nb_ctx_set_threads(h->ctx, 1);
    hand_calibrate(h, c->batch);
    c->bits = calloc((size_t)h->net->n_sites, sizeof *c->bits);
    hand_bits(h, weights, activations, c->bits);
    hand_bias_bits(h, 0, c->bits); /* of each width some */
}

/* Without labels the float outputs alone teach. */
static inline void qat_build(qat_case *c, bool labels) {
    hand *h = &c->h;
    int edge = nbi_score_edge(h->net);
    int classes = labels ? h->net->edge[edge].c : 0;
    nbi_qat_options o = {.batch = (int64_t)c->batch,
                         .per_channel = !c->per_tensor,
                         .classes = classes,
                         .distill = true,
                         .temperature = 2};
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c->bits, edge, &o, &c->train));
    o.evaluate = true;
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c->bits, edge, &o, &c->check));
}

static inline void qat_release(qat_case *c) {
    nbi_qat_free(c->train);
    nbi_qat_free(c->check);
    free(c->bits);
    hand_free(&c->h);
}

/* One step of gradient descent; every gradient is finite and some are not 0. */
static inline void qat_step(qat_case *c, float rate) {
    hand *h = &c->h;
    nbi_qat *q = c->train;
    int loss[2], n = 0;
    if (q->label_loss >= 0) loss[n++] = q->label_loss;
    if (q->teacher_loss >= 0) loss[n++] = q->teacher_loss;
    nbi_tape_spec spec = {.n_wrt = q->n_train,
                          .wrt = q->train,
                          .n_losses = n,
                          .loss = loss,
                          .n_states = q->n_states,
                          .state = q->state};
    nbi_tape *tape;
    HAND_OK(nbi_tape_new(h->ctx, q->graph, &spec, &tape));
    size_t outputs = (size_t)nbi_tensor_count(q->graph->tensor[q->logits]);
    float *target = calloc(outputs, sizeof *target), *teacher = calloc(outputs, sizeof *teacher);
    for (size_t i = 0; i < outputs; i++) {
        target[i] = i % (outputs / c->batch) == i / (outputs / c->batch) ? 1 : 0;
        teacher[i] = (float)nbi_rng_normal(&h->rng);
    }
    const void *in[3] = {h->input, q->target >= 0 ? target : teacher, teacher};
    HAND_OK(nbi_tape_forward(h->ctx, tape, in, 0));
    HAND_OK(nbi_tape_backward(h->ctx, tape, NULL));
    double sum = 0;
    for (int i = 0; i < q->n_train; i++) {
        nbi_tensor *t = q->graph->tensor[q->train[i]];
        for (int64_t k = 0; k < nbi_tensor_count(t); k++) {
            float g = nbi_tape_gradient(tape, i)[k];
            if (!isfinite(g)) fail_msg("gradient of '%s'", t->name);
            sum += fabs((double)g);
            /* steps stay positive, as an optimizer's small rates leave them */
            if (q->decays[i]) ((float *)t->data)[k] -= rate * g;
        }
    }
    assert_true(sum > 0);
    nbi_tape_advance(tape);
    nbi_tape_free(tape);
    free(target);
    free(teacher);
}

/* Relative squared difference of the simulation and the integer program on the images. */
static inline double qat_difference(qat_case *c) {
    hand *h = &c->h;
    nbi_tape *tape;
    nbi_tape_spec none = {0};
    nbi_frozen *frozen;
    nbi_program *program;
    nbi_runner *runner;
    nbi_view v;
    nbi_qat_copy(c->check, c->train);
    HAND_OK(nbi_tape_new(h->ctx, c->check->graph, &none, &tape));
    HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input}, 0));
    HAND_OK(nbi_tape_value(h->ctx, tape, c->check->logits, &v));
    HAND_OK(nbi_qat_freeze(h->ctx, c->train, &frozen));
    HAND_OK(nbi_frozen_fold(h->ctx, frozen));
    int kept = h->net->n_outputs, output = h->net->output[0], edge = nbi_score_edge(h->net);
    h->net->n_outputs = 1;
    h->net->output[0] = edge;
    HAND_OK(nbi_lower(h->ctx, frozen, &program));
    h->net->n_outputs = kept;
    h->net->output[0] = output;
    HAND_OK(nbi_runner_new(h->ctx, program, &runner));
    const nbi_ptensor *y = &program->tensor[program->output[0]];
    int32_t *codes = calloc(c->batch * y->count, sizeof *codes), *out[1] = {codes};
    HAND_OK(nbi_runner_run(h->ctx, runner, c->batch, h->codes, out));
    nbi_view flat = v;
    flat.data = calloc(c->batch * y->count, sizeof(float));
    if (v.rank == 3 || v.rank == 4)
        nbi_view_channels_last(&flat);
    else
        nbi_view_contiguous(&flat);
    nbi_view_copy(&flat, &v);
    double error = 0, power = 0;
    for (size_t i = 0; i < c->batch * y->count; i++) {
        double a = (double)((float *)flat.data)[i];
        double e = y->scale * ((double)codes[i] - (double)y->zero) - a;
        error += e * e;
        power += a * a;
    }
    free(flat.data);
    free(codes);
    nbi_runner_free(runner);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    nbi_tape_free(tape);
    return power > 0 ? error / power : error;
}

/* A code that lies within float rounding of a border may fall to the other side, and random networks
 * amplify that with their depth; all else is a unit of the last sums, some 1e-6. */
static inline void qat_is_same(qat_case *c, const char *name, double most) {
    double d = qat_difference(c);
    if (!(d < most)) fail_msg("%s: simulation and integer program differ by %g", name, d);
}

#endif
