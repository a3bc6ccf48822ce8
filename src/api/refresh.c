/* Random weights for --retrain. BatchNormalization gets the statistics of the random network, so
 * that calibration sees the ranges that training begins with: the network runs in its training form
 * for some batches and nothing but the running statistics moves. */
#include "api/session.h"

#include "api/untouched.h"
#include "train/prepare.h"

#include <string.h>

enum { BATCH = 64, ROUNDS = 40 }; /* a momentum of 0.9 keeps 1.5 % of the start after 40 */

static nb_status run_batches(nbi_session *s, const nbi_training *t, nbi_tape *tape, size_t batch) {
    nbi_images images = {0};
    float *x = NULL, *target = NULL;
    nb_status st;
    size_t have = s->info.count[NBI_SPLIT_TRAIN], n = batch * ROUNDS < have ? batch * ROUNDS : have;
    nbi_draw draw = {NBI_SPLIT_TRAIN, n, nb_ctx_seed(s->ctx), true, NULL};
    const nbi_tensor *input = t->graph->tensor[t->graph->input[0]];
    NB_TRYG(nbi_images_draw(s->ctx, s->data, &draw, &images));
    NB_TRYG(nbi_alloc(s->ctx, (size_t)nbi_tensor_count(input), sizeof *x, &x));
    NB_TRYG(nbi_alloc(s->ctx, batch * (size_t)t->classes + 1, sizeof *target, &target));
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t first = images.n > batch ? i * batch % (images.n - batch + 1) : 0;
        nbi_images_fill(&images, &s->transform, first, batch, x);
        NB_TRYG(nbi_tape_forward(s->ctx, tape, (const void *const[]){x, target}, i));
        nbi_tape_advance(tape);
    }
done:
    nbi_images_free(&images);
    nbi_free(x);
    nbi_free(target);
    return st;
}

static nb_status make_fresh(nbi_session *s, nbi_graph **out) {
    size_t have = s->info.count[NBI_SPLIT_TRAIN], batch = have < BATCH ? have : BATCH;
    nbi_training_options o = {.batch = (int64_t)batch,
                              .reconstruct = nbi_can_reconstruct(s->source),
                              .init = true,
                              .seed = nb_ctx_seed(s->ctx)};
    nbi_training *t = NULL;
    nbi_tape *tape = NULL;
    nb_status st;
    NB_TRYG(nbi_training_new(s->ctx, s->source, &o, &t));
    nbi_tape_spec spec = {.n_states = t->n_states, .state = t->state};
    NB_TRYG(nbi_tape_new(s->ctx, t->graph, &spec, &tape));
    NB_TRYG(run_batches(s, t, tape, batch));
    nbi_training_publish(t);
    st = nbi_graph_copy(s->ctx, t->model, out);
done:
    nbi_tape_free(tape);
    nbi_training_free(t);
    return st == NB_OK ? NB_OK : nb_fail_prefix(s->ctx, st, "random weights");
}

/* Policies name sites by their place. */
static nb_status check_same(nbi_session *s, const nbi_qnet *old) {
    bool same = old->n_sites == s->net->n_sites && old->n_layers == s->net->n_layers;
    for (int i = 0; same && i < old->n_sites; i++)
        same = !strcmp(old->site[i].name, s->net->site[i].name) &&
               old->site[i].kind == s->net->site[i].kind;
    return same ? NB_OK
                : nb_fail(s->ctx, NB_EUNSUPPORTED, "with random weights the network has other "
                          "tensors to quantize: it cannot be retrained");
}

nb_status nbi_session_refresh(nbi_session *s) {
    nbi_qnet *old = s->net;
    NB_TRY(nbi_refuse_untouched(s->ctx, old, "a network with it cannot be retrained"));
    NB_TRY(make_fresh(s, &s->further.fresh));
    s->net = NULL;
    nb_status st = nbi_session_net(s, s->further.fresh);
    if (st == NB_OK) st = check_same(s, old);
    nbi_qnet_free(old);
    return st;
}
