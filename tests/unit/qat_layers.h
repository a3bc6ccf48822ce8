/* Simulation and integer program layer by layer: every layer of the program gets the codes that the
 * simulation has in front of it, so that one that computes something else stands out, whatever the
 * network makes of a code that fell to the other side of a border. */
#ifndef QAT_LAYERS_H
#define QAT_LAYERS_H

#include "qat_case.h"

/* What training may come to: gains of the other sign, of 0, so small that a bias cannot hold the
 * shift in units of the sums. */
static inline void qat_spoil_gains(qat_case *c) {
    for (int i = 0; i < c->h.net->n_layers; i++) {
        int t = c->train->layer[i].gamma;
        if (t < 0) continue;
        float *gamma = c->train->graph->tensor[t]->data;
        for (int o = 0; o + 4 < c->h.net->layer[i].geometry.out_c; o += 8) {
            gamma[o] = -gamma[o];
            gamma[o + 1] *= -0.1f;
            gamma[o + 2] = 0;
            gamma[o + 3] *= 1e-8f;
        }
    }
}

typedef struct qat_layers {
    size_t codes, other; /* compared; that differ */
    double most;         /* largest difference, in steps */
    const char *worst;   /* the layer with it */
} qat_layers;

/* An edge's values of image i, storage order, on its grid. */
static inline void edge_codes(const qat_case *c, const nbi_tape *tape, const nbi_qparam *q, int edge,
                              size_t image, double *exact, void *codes) {
    const hand *h = &c->h;
    const nbi_edge *e = &h->net->edge[edge];
    size_t n = edge_count(e);
    nbi_view v;
    HAND_OK(nbi_tape_value(h->ctx, tape, c->check->value[edge], &v));
    nbi_view flat = v;
    float *all = calloc(c->batch * n, sizeof *all);
    flat.data = all;
    if (v.rank == 3 || v.rank == 4) nbi_view_channels_last(&flat);
    else nbi_view_contiguous(&flat);
    nbi_view_copy(&flat, &v);
    for (size_t i = 0; i < n; i++) {
        exact[i] = (double)all[image * n + i] / q->scale + q->zero;
        double k = rint(exact[i]);
        if (q->dtype == NB_DTYPE_S32) ((int32_t *)codes)[i] = (int32_t)k;
        else if (q->dtype == NB_DTYPE_F32) ((float *)codes)[i] = all[image * n + i];
        else ((uint8_t *)codes)[i] = (uint8_t)(int)k;
    }
    free(all);
}

static inline double code_at(const nbi_qparam *q, const void *codes, size_t i) {
    return q->dtype == NB_DTYPE_S32 ? ((const int32_t *)codes)[i]
         : q->dtype == NB_DTYPE_F32 ? (double)((const float *)codes)[i]
         : q->dtype == NB_DTYPE_S8  ? ((const int8_t *)codes)[i]
                                    : ((const uint8_t *)codes)[i];
}

static inline void run_steps(qat_case *c, const nbi_step *step, int n, const nbi_ptensor *tensor,
                             void *const *buffer) {
    hand *h = &c->h;
    for (int i = 0; i < n; i++) {
        nbi_ready_step ready;
        void *packed = NULL;
        const void *in[3] = {NULL, NULL, NULL};
        HAND_OK(nbi_step_ready(h->ctx, &step[i], &packed, &ready));
        void *scratch = calloc(1, ready.scratch + 64);
        for (int k = 0; k < step[i].n_in; k++) in[k] = buffer[step[i].in[k]];
        HAND_OK(nbi_step_run(h->ctx, &ready, tensor, in, buffer[step[i].out], scratch));
        free(scratch);
        nbi_free(packed);
    }
}

static inline void one_layer(qat_case *c, const nbi_frozen *f, const nbi_tape *tape, int index,
                             const nbi_ptensor *tensor, void *const *buffer, qat_layers *out) {
    hand *h = &c->h;
    const nbi_qnet *net = h->net;
    const nbi_layer *l = &net->layer[index];
    const nbi_qparam *y = &f->site[net->edge[l->out].site];
    nbi_step step[NBI_MAX_STEPS];
    nbi_arena arena = {0};
    int n;
    HAND_OK(nbi_lower_layer(h->ctx, net, index, f->site, &f->conv[index], true, &arena, step, &n));
    size_t count = edge_count(&net->edge[l->out]);
    double *exact = calloc(count, sizeof *exact), *skip = NULL;
    void *wanted = calloc(count, sizeof(float));
    for (size_t image = 0; n && image < c->batch; image++) {
        for (int k = 0; k < l->n_in; k++) {
            skip = calloc(edge_count(&net->edge[l->in[k]]), sizeof *skip);
            edge_codes(c, tape, &f->site[net->edge[l->in[k]].site], l->in[k], image, skip,
                       buffer[l->in[k]]);
            free(skip);
        }
        run_steps(c, step, n, tensor, buffer);
        edge_codes(c, tape, y, l->out, image, exact, wanted);
        for (size_t i = 0; i < count; i++) {
            bool whole = y->dtype != NB_DTYPE_S32 && y->dtype != NB_DTYPE_F32;
            double v = code_at(y, buffer[l->out], i);
            double d = fabs(v - (whole ? code_at(y, wanted, i) : exact[i]));
            if (!whole) d /= 1 + 1e-5 * fabs(exact[i]);
            out->codes++;
            out->other += whole ? d > 0 : d > 1;
            if (d > out->most) out->most = d, out->worst = l->name;
        }
    }
    free(exact);
    free(wanted);
    nbi_arena_free(&arena);
}

/* Two things may differ: a value that lies within float rounding of a border between two codes may
 * fall to the other side, here one in 1000 at most; sums, which outputs are, by a unit. */
#define QAT_SHARE 1000

static inline void qat_compare_layers(qat_case *c, qat_layers *out) {
    hand *h = &c->h;
    const nbi_qnet *net = h->net;
    nbi_tape *tape;
    nbi_frozen *frozen;
    int *keep = calloc((size_t)net->n_edges, sizeof *keep), n = 0;
    nbi_ptensor *tensor = calloc((size_t)net->n_edges, sizeof *tensor);
    void **buffer = calloc((size_t)net->n_edges, sizeof *buffer);
    *out = (qat_layers){.worst = ""};
    nbi_qat_copy(c->check, c->train);
    for (int e = 0; e < net->n_edges; e++)
        if (c->check->value[e] >= 0) keep[n++] = c->check->value[e];
    nbi_tape_spec spec = {.n_keep = n, .keep = keep};
    HAND_OK(nbi_tape_new(h->ctx, c->check->graph, &spec, &tape));
    HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input}, 0));
    HAND_OK(nbi_qat_freeze(h->ctx, c->train, &frozen));
    HAND_OK(nbi_frozen_fold(h->ctx, frozen));
    for (int e = 0; e < net->n_edges; e++) {
        nbi_describe_edge(&net->edge[e], &frozen->site[net->edge[e].site], &tensor[e]);
        buffer[e] = calloc(1, 4 * tensor[e].count + NBI_KERNEL_SLACK + 64);
    }
    for (int l = 0; l < net->n_layers; l++)
        if (c->check->value[net->layer[l].out] >= 0)
            one_layer(c, frozen, tape, l, tensor, buffer, out);
    for (int e = 0; e < net->n_edges; e++) free(buffer[e]);
    free(buffer);
    free(tensor);
    free(keep);
    nbi_frozen_free(frozen);
    nbi_tape_free(tape);
}

static inline void qat_layers_are_same(qat_case *c, const char *name) {
    qat_layers found;
    qat_compare_layers(c, &found);
    assert_true(found.codes > 0);
    if (found.other * QAT_SHARE > found.codes)
        fail_msg("%s: simulation and integer program differ in %zu of %zu codes, most in '%s', by "
                 "%g", name, found.other, found.codes, found.worst, found.most);
}

#endif
