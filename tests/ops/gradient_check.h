/* One node, its gradient by backward() and by central differences. A case: gc_begin(), inputs,
 * gc_node(), attributes, gc_check(). */
#ifndef NIBBLE_TESTS_GRADIENT_CHECK_H
#define NIBBLE_TESTS_GRADIENT_CHECK_H

#include "base/base.h"
#include "ops/op.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIMS(...)                                                                                  \
    (int64_t[]) {                                                                                  \
        __VA_ARGS__                                                                                \
    }

#define GC_MAX_IO   8
#define GC_MAX_NAME 200

/* Where each view of a layout has its elements: as ONNX, channels last, or with reversed and
 * doubled strides (vectors stay as they are: forward() wants them so). */
typedef enum gc_layout { GC_PLAIN, GC_CHANNELS_LAST, GC_REVERSED, GC_LAYOUTS } gc_layout;

typedef struct gradient_case {
    nb_ctx *ctx;
    nbi_graph *g;
    nbi_node *node;
    const char *op, *domain;
    int n_in, n_out, in[GC_MAX_IO];
    float *x[GC_MAX_IO];  /* values of float inputs, NULL for others */
    float *gy[GC_MAX_IO]; /* gradients that flow in, NULL: none */
    float *gx[GC_MAX_IO]; /* the result in plain layout */
    double step;          /* of the differences */
    unsigned gout;        /* bit i: a gradient flows into output i */
    unsigned omitted;     /* bit i: output i is not made */
    uint64_t seed;
    bool surrogate; /* the gradient is not the derivative: no differences */
} gradient_case;

static char gc_seen[GC_MAX_NAME][64];
static int gc_n_seen;
static gradient_case gc;

static inline void gc_begin(const char *domain, const char *op, int opset) {
    gc = (gradient_case){.op = op, .domain = domain, .n_out = 1, .gout = 1};
    /* Values lie on a grid whose cells are wider than this, off 0 and off each other: a difference
     * never crosses a kink or changes a maximum. */
    gc.step = 1.0 / 1024;
    gc.ctx = nb_ctx_new();
    assert_int_equal(nbi_graph_new(gc.ctx, &gc.g), NB_OK);
    gc.g->opset = opset;
}

/* A float input: distinct values between lo and hi in random order. */
static inline void gc_float(int rank, const int64_t *dim, double lo, double hi) {
    int t, k = gc.n_in++;
    nbi_rng rng;
    assert_int_equal(nbi_graph_add_tensor(gc.ctx, gc.g, NULL, NB_DTYPE_F32, rank, dim, &t), NB_OK);
    size_t n = (size_t)nbi_tensor_count(gc.g->tensor[t]);
    gc.in[k] = t;
    gc.x[k] = calloc(n + 1, sizeof(float));
    uint32_t *order = calloc(n + 1, sizeof *order);
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    nbi_rng_seed(&rng, 17 + (uint64_t)k, n);
    nbi_rng_shuffle(&rng, order, n);
    for (size_t i = 0; i < n; i++)
        gc.x[k][i] = (float)(lo + (hi - lo) * (order[i] + 0.37) / (double)n);
    free(order);
}

static inline void *gc_const(nb_dtype dtype, int rank, const int64_t *dim) {
    int t;
    assert_int_equal(nbi_graph_add_const(gc.ctx, gc.g, NULL, dtype, rank, dim, &t), NB_OK);
    gc.in[gc.n_in++] = t;
    return gc.g->tensor[t]->data;
}
static inline void gc_ints(int n, const int64_t *v) {
    memcpy(gc_const(NB_DTYPE_S64, 1, (int64_t[]){n}), v, (size_t)n * sizeof *v);
}
static inline void gc_omit(void) {
    gc.in[gc.n_in++] = NBI_NO_TENSOR;
}

/* The node, after its inputs; attributes follow. */
static inline void gc_node(void) {
    int y[GC_MAX_IO];
    for (int i = 0; i < gc.n_out; i++) {
        y[i] = NBI_NO_TENSOR;
        if (gc.omitted >> i & 1) continue;
        assert_int_equal(nbi_graph_add_tensor(gc.ctx, gc.g, NULL, NB_DTYPE_NONE, -1, NULL, &y[i]),
                         NB_OK);
    }
    assert_int_equal(nbi_graph_add_node(gc.ctx, gc.g, "n", gc.domain, gc.op, gc.n_in, gc.in,
                                        gc.n_out, y, &gc.node),
                     NB_OK);
}
static inline void gc_attr_ints(const char *name, size_t n, const int64_t *v) {
    assert_int_equal(nbi_node_set_ints(gc.ctx, gc.g, gc.node, name, n, v), NB_OK);
}
static inline void gc_attr_int(const char *name, int64_t v) {
    assert_int_equal(nbi_node_set_int(gc.ctx, gc.g, gc.node, name, v), NB_OK);
}
static inline void gc_attr_float(const char *name, double v) {
    assert_int_equal(nbi_node_set_float(gc.ctx, gc.g, gc.node, name, (float)v), NB_OK);
}

/* ---- views --------------------------------------------------------------------------------- */

static inline nbi_view gc_shape(int tensor) {
    nbi_view v = {0};
    if (tensor < 0) return v;
    const nbi_tensor *t = gc.g->tensor[tensor];
    v.dtype = t->dtype;
    v.rank = t->rank;
    memcpy(v.dim, t->dim, sizeof t->dim);
    nbi_view_contiguous(&v);
    v.data = t->data;
    return v;
}

static inline void gc_strides(nbi_view *v, gc_layout layout) {
    nbi_view_contiguous(v);
    if (layout == GC_CHANNELS_LAST) nbi_view_channels_last(v);
    int64_t step = 2;
    for (int i = 0; layout == GC_REVERSED && v->rank > 1 && i < v->rank; i++) {
        v->stride[i] = step;
        step *= v->dim[i];
    }
}

/* A buffer for the view in that layout, filled with NaN (or zeros); `from` (plain) is copied in. */
static inline void gc_place(nbi_view *v, gc_layout layout, const void *from) {
    nbi_view plain = *v;
    gc_strides(v, layout);
    nbi_view_contiguous(&plain);
    size_t size = (size_t)(nbi_dtype_bits(v->dtype) / 8);
    size_t bytes = (2 * (size_t)nbi_view_count(v) + 2) * size;
    v->data = malloc(bytes);
    memset(v->data, 0xff, bytes); /* NaN */
    memcpy(&plain.data, &from, sizeof from);
    if (from && nbi_view_count(v)) nbi_view_copy(v, &plain);
}

static inline void gc_unplace(float *to, nbi_view *v) {
    nbi_view plain = *v;
    nbi_view_contiguous(&plain);
    plain.data = to;
    if (nbi_view_count(v)) nbi_view_copy(&plain, v);
}

/* ---- running ------------------------------------------------------------------------------- */

static inline void gc_run_forward(nbi_view *in, nbi_view *out, gc_layout layout) {
    for (int i = 0; i < gc.n_in; i++) {
        in[i] = gc_shape(gc.in[i]);
        if (gc.in[i] >= 0) gc_place(&in[i], layout, gc.x[i] ? gc.x[i] : in[i].data);
    }
    for (int i = 0; i < gc.n_out; i++) {
        out[i] = gc_shape(gc.node->out[i]);
        if (gc.node->out[i] >= 0) gc_place(&out[i], layout, NULL);
    }
    nbi_op_call call = {gc.ctx, gc.g, gc.node, in, out, gc.seed};
    nb_status st = gc.node->op->forward(&call);
    if (st != NB_OK) print_message("%s: %s\n", gc.op, nb_ctx_message(gc.ctx));
    assert_int_equal(st, NB_OK);
}

static inline void gc_free_views(nbi_view *v, int n) {
    for (int i = 0; i < n; i++) free(v[i].data);
}

/* Σ gy·y, and Σ |gy·y| over the outputs that differ from `base` (how far rounding can reach). */
static inline double gc_loss(const nbi_view *out, float *const *base, double *reach) {
    double sum = 0;
    for (int o = 0; o < gc.n_out; o++)
        for (int64_t i = 0; gc.gy[o] && i < nbi_view_count(&out[o]); i++) {
            double y = (double)((const float *)out[o].data)[i], w = (double)gc.gy[o][i];
            sum += w * y;
            if (base && (float)y != base[o][i]) *reach += fabs(w * y);
        }
    return sum;
}

static inline bool gc_wanted(int i) {
    const nbi_op *op = gc.node->op;
    if (!gc.x[i]) return false;
    return op->grad_in == 0 || (op->grad_in >> i & 1);
}

/* Gradients of the inputs in `which` in that layout, into gx (plain). Values outside keep_in and
 * keep_out are not there. */
static inline void gc_run_backward(gc_layout layout, unsigned which, bool in_place,
                                   float *const *gx) {
    const nbi_op *op = gc.node->op;
    nbi_view in[GC_MAX_IO], out[GC_MAX_IO], gout[GC_MAX_IO], gin[GC_MAX_IO];
    gc_run_forward(in, out, layout);
    for (int i = 0; i < gc.n_out; i++) {
        gout[i] = gc_shape(gc.node->out[i]);
        gout[i].dtype = NB_DTYPE_F32;
        gout[i].data = NULL;
        gc_strides(&gout[i], layout);
        if (gc.gy[i]) gc_place(&gout[i], layout, gc.gy[i]);
        if (!(op->keep_out >> i & 1)) free(out[i].data), out[i].data = NULL;
    }
    for (int i = 0; i < gc.n_in; i++) {
        gin[i] = gc_shape(gc.in[i]);
        gin[i].data = NULL;
        gc_strides(&gin[i], layout);
        if (gc_wanted(i) && (which >> i & 1)) {
            if (i == 0 && in_place)
                gin[i].data = gout[0].data;
            else
                gc_place(&gin[i], layout, NULL);
        }
        if (i < 32 && !(op->keep_in >> i & 1)) free(in[i].data), in[i].data = NULL;
    }
    nbi_grad_call call = {gc.ctx, gc.g, gc.node, in, out, gout, gin, gc.seed};
    nb_status st = op->backward(&call);
    if (st != NB_OK) print_message("%s: %s\n", gc.op, nb_ctx_message(gc.ctx));
    assert_int_equal(st, NB_OK);
    for (int i = 0; i < gc.n_in; i++)
        if (gin[i].data) gc_unplace(gx[i], &gin[i]);
    if (in_place && gin[0].data) gin[0].data = NULL;
    gc_free_views(in, gc.n_in);
    gc_free_views(out, gc.n_out);
    gc_free_views(gout, gc.n_out);
    gc_free_views(gin, gc.n_in);
}

/* ---- checks -------------------------------------------------------------------------------- */

static inline void gc_differ(const char *what, int input, int64_t i, double got, double want) {
    print_message("%s (%s), input %d, value %lld: %.9g, want %.9g\n", gc.op, what, input,
                  (long long)i, got, want);
    fail();
}

static inline void gc_equal(const char *what, float *const *got, unsigned which, double tolerance) {
    for (int k = 0; k < gc.n_in; k++) {
        if (!gc_wanted(k) || !(which >> k & 1)) continue;
        int64_t n = nbi_tensor_count(gc.g->tensor[gc.in[k]]);
        for (int64_t i = 0; i < n; i++) {
            double a = (double)got[k][i], b = (double)gc.gx[k][i];
            if (!(fabs(a - b) <= tolerance * (1 + fabs(b)))) gc_differ(what, k, i, a, b);
        }
    }
}

/* The tolerance: an output has a relative rounding error of 2^-24, so the difference quotient is
 * off by up to 2·2^-24·Σ|gy·y|/(2·step) = 6.1e-5·Σ|gy·y| at the default step; the gradient itself
 * is float32 of a sum (1e-4 relative covers cancelling terms); the cubic term is step²/6·f''' ≈
 * 1.6e-7·f''', 1e-5 for the functions and ranges used here. */
static inline void gc_difference(int k, int64_t i, float *const *base) {
    nbi_view in[GC_MAX_IO], out[GC_MAX_IO];
    float x = gc.x[k][i];
    double loss[2], at[2], reach = 0;
    for (int side = 0; side < 2; side++) {
        gc.x[k][i] = (float)((double)x + (side ? gc.step : -gc.step));
        at[side] = (double)gc.x[k][i];
        gc_run_forward(in, out, GC_PLAIN);
        loss[side] = gc_loss(out, base, &reach);
        gc_free_views(in, gc.n_in);
        gc_free_views(out, gc.n_out);
    }
    gc.x[k][i] = x;
    double want = (loss[1] - loss[0]) / (at[1] - at[0]), got = (double)gc.gx[k][i];
    double tolerance = 6.1e-5 / 2 * reach / (1024 * gc.step) + 1e-4 * fabs(want) + 1e-5;
    if (!(fabs(got - want) <= tolerance)) gc_differ("differences", k, i, got, want);
}

static inline void gc_fill_gout(void) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 5, 11);
    for (int o = 0; o < gc.n_out; o++) {
        if (!(gc.gout >> o & 1)) continue;
        size_t n = (size_t)nbi_tensor_count(gc.g->tensor[gc.node->out[o]]);
        gc.gy[o] = calloc(n + 1, sizeof(float));
        for (size_t i = 0; i < n; i++) gc.gy[o][i] = 2 * nbi_rng_uniform(&rng) - 1;
    }
}

static inline void gc_layouts(float *const *other) {
    const nbi_op *op = gc.node->op;
    for (int k = 0; k < gc.n_in; k++) {
        if (!gc_wanted(k)) continue;
        gc_run_backward(GC_PLAIN, 1u << k, false, other); /* one alone */
        gc_equal("alone", other, 1u << k, 0);
    }
    const nbi_tensor *x = gc.in[0] < 0 ? NULL : gc.g->tensor[gc.in[0]];
    const nbi_tensor *y = gc.g->tensor[gc.node->out[0]];
    bool same =
        x && x->rank == y->rank && !memcmp(x->dim, y->dim, (size_t)x->rank * sizeof *x->dim);
    if ((op->flags & NBI_OP_GRAD_INPLACE) && nbi_tensor_count(x) == nbi_tensor_count(y) &&
        (same || (op->flags & NBI_OP_ALIAS)) && gc_wanted(0)) {
        gc_run_backward(GC_PLAIN, ~0u, true, other);
        gc_equal("in place", other, ~0u, 0);
    }
    for (int layout = 1; layout < GC_LAYOUTS && (op->flags & NBI_OP_STRIDED); layout++) {
        gc_run_backward((gc_layout)layout, ~0u, false, other);
        /* Sums in another order, rounded once: the last bits. */
        gc_equal(layout == GC_CHANNELS_LAST ? "channels last" : "reversed", other, ~0u, 2e-6);
    }
}

static inline void gc_end(void) {
    for (int i = 0; i < GC_MAX_IO; i++) {
        free(gc.x[i]);
        free(gc.gx[i]);
        free(gc.gy[i]);
    }
    nbi_graph_free(gc.g);
    nb_ctx_free(gc.ctx);
}

static inline void gc_infer(void) {
    nb_status st = nbi_node_infer(gc.ctx, gc.g, gc.node);
    if (st != NB_OK || !gc.node->op) print_message("%s: %s\n", gc.op, nb_ctx_message(gc.ctx));
    assert_int_equal(st, NB_OK);
    assert_non_null(gc.node->op);
    assert_non_null(gc.node->op->backward);
}

/* Buffers for the gradients, gy drawn. */
static inline void gc_prepare(float **other) {
    gc_infer();
    gc_fill_gout();
    for (int k = 0; k < gc.n_in; k++) {
        if (!gc_wanted(k)) continue;
        size_t n = (size_t)nbi_tensor_count(gc.g->tensor[gc.in[k]]);
        gc.gx[k] = calloc(n + 1, sizeof(float));
        other[k] = calloc(n + 1, sizeof(float));
    }
}

static inline bool gc_was_seen(const nbi_op *op) {
    char name[64];
    snprintf(name, sizeof name, "%s/%s", op->domain, op->name);
    for (int i = 0; i < gc_n_seen; i++)
        if (!strcmp(gc_seen[i], name)) return true;
    return false;
}

static inline void gc_mark_seen(const nbi_op *op) {
    if (gc_was_seen(op)) return;
    assert_true(gc_n_seen < GC_MAX_NAME);
    snprintf(gc_seen[gc_n_seen++], sizeof gc_seen[0], "%s/%s", op->domain, op->name);
}

static inline void gc_check(void) {
    nbi_view in[GC_MAX_IO], out[GC_MAX_IO];
    float *base[GC_MAX_IO] = {0}, *other[GC_MAX_IO] = {0};
    gc_prepare(other);
    gc_mark_seen(gc.node->op);
    gc_run_forward(in, out, GC_PLAIN);
    for (int o = 0; o < gc.n_out; o++)
        if (gc.gy[o]) base[o] = out[o].data;
    gc_run_backward(GC_PLAIN, ~0u, false, gc.gx);
    for (int k = 0; k < gc.n_in && !gc.surrogate; k++)
        for (int64_t i = 0; gc_wanted(k) && i < nbi_tensor_count(gc.g->tensor[gc.in[k]]); i++)
            gc_difference(k, i, base);
    gc_layouts(other);
    gc_free_views(in, gc.n_in);
    gc_free_views(out, gc.n_out);
    for (int k = 0; k < gc.n_in; k++) free(other[k]);
    gc_end();
}

#endif
