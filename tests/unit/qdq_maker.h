/* Makes small QDQ graphs, node by node, as other tools write them. */
#ifndef QDQ_MAKER_H
#define QDQ_MAKER_H

#include "ops/op_util.h"

/* Not round: few sums lie between two levels. */
#define X_SCALE 0.0213
#define Y_SCALE 0.0197
enum { C = 2, SIDE = 4, OUT = 3, IMAGE = C * SIDE * SIDE };

typedef struct maker {
    nb_ctx *ctx;
    nbi_graph *g;
} maker;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != NB_OK) fail_msg("%s: %s", #call, nb_ctx_message(m->ctx));                    \
    } while (0)

static inline int tensor(maker *m, const char *name, int rank, const int64_t *dim) {
    int t;
    OK(nbi_graph_add_tensor(m->ctx, m->g, name, rank ? NB_DTYPE_F32 : NB_DTYPE_NONE,
                            rank ? rank : -1, dim, &t));
    return t;
}

/* n < 0: a scalar. */
static inline int constant(maker *m, const char *name, nb_dtype dtype, int n, const double *value) {
    int64_t dim[1] = {n};
    int t;
    OK(nbi_graph_add_const(m->ctx, m->g, name, dtype, n < 0 ? 0 : 1, dim, &t));
    if (nbi_dtype_bits(dtype) < 8) {
        int8_t code = (int8_t)value[0];
        nbi_bits_pack(dtype, &code, 1, m->g->tensor[t]->data);
        return t;
    }
    for (int i = 0; i < (n < 0 ? 1 : n); i++)
        nbi_set_real(dtype, m->g->tensor[t]->data, i, value[i]);
    return t;
}

static inline int scalar(maker *m, const char *name, nb_dtype dtype, double value) {
    return constant(m, name, dtype, -1, &value);
}

static inline nbi_node *node(maker *m, const char *op, int n_in, const int *in, const char *out_name,
                      int *out) {
    nbi_node *made;
    int t = tensor(m, out_name, 0, NULL);
    char name[96];
    snprintf(name, sizeof name, "%s_node", out_name);
    OK(nbi_graph_add_node(m->ctx, m->g, name, "", op, n_in, in, 1, &t, &made));
    *out = t;
    return made;
}

static inline int pair(maker *m, int from, const char *name, nb_dtype dtype, double scale, double zero) {
    char text[4][80];
    snprintf(text[0], 80, "%s_scale", name);
    snprintf(text[1], 80, "%s_zero", name);
    snprintf(text[2], 80, "%s_codes", name);
    snprintf(text[3], 80, "%s_real", name);
    int in[3] = {from, scalar(m, text[0], NB_DTYPE_F32, scale), scalar(m, text[1], dtype, zero)};
    int out;
    node(m, "QuantizeLinear", 3, in, text[2], &in[0]);
    node(m, "DequantizeLinear", 3, in, text[3], &out);
    return out;
}

static inline double level(int i) {
    return (double)((i * 37 + 11) % 15) - 7;
}

/* Weights [OUT][C][3][3] of DequantizeLinear along axis 0. */
static inline int weights(maker *m, const char *name, nb_dtype dtype, double zero) {
    static const double scales[OUT] = {0.03, 0.011, 0.05};
    int64_t dim[4] = {OUT, C, 3, 3};
    double zeros[OUT] = {zero, zero, zero};
    char text[3][80];
    int in[3], out;
    snprintf(text[0], 80, "%s_codes", name);
    snprintf(text[1], 80, "%s_scale", name);
    snprintf(text[2], 80, "%s_zero", name);
    OK(nbi_graph_add_const(m->ctx, m->g, text[0], dtype, 4, dim, &in[0]));
    void *data = m->g->tensor[in[0]]->data;
    int8_t unpacked[OUT * C * 9];
    for (int i = 0; i < OUT * C * 9; i++) {
        unpacked[i] = (int8_t)level(i);
        if (nbi_dtype_bits(dtype) >= 8) nbi_set_real(dtype, data, i, level(i) + zero);
    }
    if (nbi_dtype_bits(dtype) < 8) nbi_bits_pack(dtype, unpacked, NBI_COUNT(unpacked), data);
    in[1] = constant(m, text[1], NB_DTYPE_F32, OUT, scales);
    in[2] = dtype == NB_DTYPE_S4 ? -1 : constant(m, text[2], dtype, OUT, zeros);
    nbi_node *n = node(m, "DequantizeLinear", in[2] < 0 ? 2 : 3, in, name, &out);
    OK(nbi_node_set_int(m->ctx, m->g, n, "axis", 0));
    return out;
}

static inline int bias(maker *m) {
    static const double scales[OUT] = {0.03 * X_SCALE, 0.011 * X_SCALE, 0.05 * X_SCALE};
    static const double values[OUT] = {100, -40, 7};
    int in[2] = {constant(m, "bias_codes", NB_DTYPE_S32, OUT, values),
                 constant(m, "bias_scale", NB_DTYPE_F32, OUT, scales)}, out;
    nbi_node *n = node(m, "DequantizeLinear", 2, in, "bias", &out);
    OK(nbi_node_set_int(m->ctx, m->g, n, "axis", 0));
    return out;
}

static inline int conv(maker *m, int x, int w, int b, const char *name) {
    int in[3] = {x, w, b}, out;
    int64_t pads[4] = {1, 1, 1, 1};
    nbi_node *n = node(m, "Conv", b < 0 ? 2 : 3, in, name, &out);
    OK(nbi_node_set_ints(m->ctx, m->g, n, "pads", 4, pads));
    return out;
}

static inline int unary(maker *m, const char *op, int x, const char *name) {
    int out;
    node(m, op, 1, &x, name, &out);
    return out;
}

static inline maker start(void) {
    maker made = {.ctx = nb_ctx_new()}, *m = &made;
    int64_t dim[4] = {-1, C, SIDE, SIDE};
    OK(nbi_graph_new(m->ctx, &m->g));
    m->g->opset = 21;
    int x = tensor(m, "x", 4, dim);
    OK(nbi_graph_set_inputs(m->ctx, m->g, 1, &x));
    return made;
}

static inline nb_status finish(maker *m, int out) {
    OK(nbi_graph_set_outputs(m->ctx, m->g, 1, &out));
    for (int n = 0; n < m->g->n_nodes; n++) {
        nbi_node *made = m->g->node[n];
        made->op = nbi_op_find(made->domain, made->op_type);
        nb_status st = nbi_node_prepare(m->ctx, m->g, made);
        if (st != NB_OK) return st;
    }
    return nbi_graph_sort(m->ctx, m->g);
}

static inline void done(maker *m) {
    nbi_graph_free(m->g);
    nb_ctx_free(m->ctx);
}

#endif
