/* From a float model to its integer program and its QDQ file on made-up images; shared by the QDQ
 * tests. Inputs are smooth random pictures: sums of a few waves, so activations are not all noise. */
#ifndef QDQ_PIPELINE_H
#define QDQ_PIPELINE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec/exec.h"
#include "onnx/export_qdq.h"
#include "onnx/onnx.h"
#include "quant/calibrate.h"
#include "quant/generate.h"
#include "runtime/lower.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

typedef struct qdq_case {
    nb_ctx *ctx;
    nbi_graph *source;
    nbi_qnet *net;
    nbi_scorer *scorer;
    nbi_frozen *frozen;
    size_t images, count; /* elements of one input */
    float *input;         /* [images][C,H,W] */
    uint8_t *codes;       /* [images][H,W,C], the input site's levels */
    size_t n_out;         /* values per image of output 0 */
    float *ours, *theirs; /* [images][n_out] in ONNX order: integer program, QDQ graph */
} qdq_case;

#define QDQ_OK(call)                                                                               \
    do {                                                                                           \
        if ((call) != NB_OK) fail_msg("%s: %s", #call, nb_ctx_message(c->ctx));                    \
    } while (0)

static inline nb_status qdq_fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out) {
    (void)ctx;
    const qdq_case *c = user;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * c->count, c->input + (first + i) % c->images * c->count,
               c->count * sizeof *out);
    return NB_OK;
}

static inline void qdq_pictures(qdq_case *c, const nbi_edge *e, float low, float high) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 5, 1);
    for (size_t i = 0; i < c->images; i++)
        for (int k = 0; k < e->c; k++) {
            double fx = 3 * nbi_rng_normal(&rng), fy = 3 * nbi_rng_normal(&rng);
            double phase = 6 * (double)nbi_rng_uniform(&rng), base = nbi_rng_normal(&rng);
            for (int y = 0; y < e->h; y++)
                for (int x = 0; x < e->w; x++) {
                    double v = base + sin(fx * x / e->w + fy * y / e->h + phase) +
                               0.3 * nbi_rng_normal(&rng);
                    v = 0.5 + v / 5;
                    v = v < 0 ? 0 : v > 1 ? 1 : v;
                    c->input[i * c->count + (size_t)((k * e->h + y) * e->w + x)] =
                        low + (high - low) * (float)v;
                }
        }
}

/* Generates, calibrates, makes the scorer. Takes over c->source. */
static inline void qdq_prepare(qdq_case *c, size_t images, float low, float high) {
    nbi_graph *g;
    nbi_qag_options options = {NBI_FIRST_LAST_8, 8};
    QDQ_OK(nbi_specialize_batch(c->ctx, c->source, 1, &g));
    QDQ_OK(nbi_generate(c->ctx, g, &options, &c->net));
    const nbi_edge *e = &c->net->edge[c->net->input];
    c->images = images;
    c->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    c->input = calloc(images * c->count, sizeof *c->input);
    c->codes = calloc(images * c->count, 1);
    qdq_pictures(c, e, low, high);
    nbi_calibration calibration = {.fill = qdq_fill, .user = c, .images = images,
                                   .score_edge = nbi_score_edge(c->net)};
    QDQ_OK(nbi_calibrate(c->ctx, c->source, c->net, &calibration));
    const nbi_qparam *p = &c->net->site[e->site].fit[8];
    size_t space = (size_t)e->h * (size_t)e->w, channels = (size_t)e->c;
    for (size_t i = 0; i < images; i++)
        for (size_t k = 0; k < channels; k++)
            for (size_t s = 0; s < space; s++)
                c->codes[i * c->count + s * channels + k] =
                    (uint8_t)nbi_quantize(p, c->input[i * c->count + k * space + s]);
    nbi_scorer_options so = {images, c->codes, images, 64u << 20, true};
    QDQ_OK(nbi_scorer_new(c->ctx, c->net, &so, &c->scorer));
}

static inline void qdq_freeze(qdq_case *c, int weight_bits, int activation_bits) {
    nbi_choice bits[512];
    assert_in_range(c->net->n_sites, 1, sizeof bits / sizeof *bits);
    for (int i = 0; i < c->net->n_sites; i++) {
        const nbi_site *s = &c->net->site[i];
        int free_bits = s->kind == NBI_SITE_WEIGHT ? weight_bits : activation_bits;
        bits[i] = (uint8_t)(s->fixed_bits ? s->fixed_bits : free_bits);
    }
    nbi_frozen_free(c->frozen);
    c->frozen = NULL;
    QDQ_OK(nbi_scorer_freeze(c->ctx, c->scorer, bits, &c->frozen));
}

/* c->ours: real values of the program's output 0. */
static inline void qdq_run_program(qdq_case *c) {
    nbi_program *p;
    nbi_runner *runner;
    QDQ_OK(nbi_lower(c->ctx, c->frozen, &p));
    QDQ_OK(nbi_runner_new(c->ctx, p, &runner));
    const nbi_ptensor *t = &p->tensor[p->output[0]];
    size_t space = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
    bool last = t->rank == 3 || t->rank == 4;
    int32_t *value = calloc(c->images * t->count, sizeof *value), *list[8] = {value};
    QDQ_OK(nbi_runner_run(c->ctx, runner, c->images, c->codes, list));
    c->n_out = t->count;
    c->ours = realloc(c->ours, c->images * t->count * sizeof *c->ours);
    for (size_t i = 0; i < c->images; i++)
        for (size_t k = 0; k < t->count; k++) {
            size_t from = last ? k % space * channels + k / space : k;
            c->ours[i * t->count + k] =
                (float)(t->scale * ((double)value[i * t->count + from] - t->zero));
        }
    free(value);
    nbi_runner_free(runner);
    nbi_program_free(p);
}

/* c->theirs: output 0 of a graph in float arithmetic. */
static inline void qdq_run_graph(qdq_case *c, const nbi_graph *graph) {
    nbi_graph *g;
    nbi_exec *exec;
    QDQ_OK(nbi_specialize_batch(c->ctx, graph, (int64_t)c->images, &g));
    QDQ_OK(nbi_exec_new(c->ctx, g, 0, &exec));
    size_t batch = (size_t)g->tensor[g->input[0]]->dim[0];
    c->theirs = realloc(c->theirs, c->images * c->n_out * sizeof *c->theirs);
    for (size_t i = 0; i + batch <= c->images; i += batch) {
        const void *in[1] = {c->input + i * c->count};
        nbi_view v, to;
        QDQ_OK(nbi_exec_run(c->ctx, exec, in));
        QDQ_OK(nbi_exec_value(c->ctx, exec, g->output[0], &v));
        assert_int_equal(nbi_view_count(&v), batch * c->n_out);
        to = v;
        nbi_view_contiguous(&to);
        to.data = c->theirs + i * c->n_out;
        nbi_view_copy(&to, &v);
    }
    nbi_exec_free(exec);
    nbi_graph_free(g);
}

/* Export, file, import. *bytes: the file's size. */
static inline nbi_graph *qdq_round_trip(qdq_case *c, const nbi_qdq_options *options,
                                        size_t *bytes) {
    nbi_graph *exported, *again;
    nbi_buf file = {0};
    QDQ_OK(nbi_export_qdq(c->ctx, c->frozen, c->source, options, &exported));
    QDQ_OK(nbi_onnx_serialize(c->ctx, exported, &file));
    QDQ_OK(nbi_onnx_parse(c->ctx, file.data, file.size, &again));
    *bytes = file.size;
    nbi_buf_free(&file);
    nbi_graph_free(exported);
    return again;
}

typedef struct qdq_agreement {
    double top1, close, error; /* share of images, share of values within 1 % of the peak, rms error / rms value */
} qdq_agreement;

static inline qdq_agreement qdq_compare(const qdq_case *c) {
    qdq_agreement a = {0};
    double square = 0, wrong = 0, peak = 0;
    size_t n = c->images * c->n_out;
    for (size_t i = 0; i < n; i++) peak = fmax(peak, fabs((double)c->ours[i]));
    for (size_t i = 0; i < c->images; i++) {
        size_t best[2] = {0, 0};
        for (size_t k = 0; k < c->n_out; k++) {
            float x = c->ours[i * c->n_out + k], y = c->theirs[i * c->n_out + k];
            double d = (double)y - (double)x;
            square += (double)x * (double)x;
            wrong += d * d;
            a.close += fabs(d) <= 0.01 * peak;
            if (x > c->ours[i * c->n_out + best[0]]) best[0] = k;
            if (y > c->theirs[i * c->n_out + best[1]]) best[1] = k;
        }
        a.top1 += best[0] == best[1];
    }
    a.top1 /= (double)c->images;
    a.close /= (double)n;
    a.error = sqrt(wrong / (square + 1e-30));
    return a;
}

static inline void qdq_done(qdq_case *c) {
    nbi_frozen_free(c->frozen);
    nbi_scorer_free(c->scorer);
    nbi_qnet_free(c->net);
    nbi_graph_free(c->source);
    nb_ctx_free(c->ctx);
    free(c->input);
    free(c->codes);
    free(c->ours);
    free(c->theirs);
}

#endif
