/* Data-free equalization (Nagel et al. 2019). Only what belongs to the pair alone is touched: tensors
 * in between with one reader, constants with one reader. Chains are swept until nothing moves. */
#include "quant/equalize.h"

#include "ops/params.h"

#include <math.h>
#include <string.h>

#define SWEEPS  20
#define SETTLED 0.01 /* largest |s − 1| of a sweep that changes nothing any more */
#define MOST    64.0 /* s is kept within 1/64 … 64 */

typedef struct pair {
    int64_t channels;
    float *w1, *b1;           /* b1 NULL: none */
    int64_t n1;               /* weights of one output channel */
    float *gamma, *beta;      /* NULL: no normalization */
    const float *variance;
    float epsilon;
    float *w2;                /* [m][channels][taps], or depthwise [channels][taps] */
    int64_t m, taps;
    bool depthwise;
} pair;

static bool is_op(const nbi_node *node, const char *type) {
    return !*node->domain && !strcmp(node->op_type, type);
}

/* A float32 constant that node alone reads; NULL. */
static float *own(const nbi_graph *g, const nbi_node *node, int i, int64_t count) {
    int t = i < node->n_in ? node->in[i] : -1;
    if (t < 0 || g->tensor[t]->dtype != NB_DTYPE_F32 || nbi_graph_uses(g, t) != 1) return NULL;
    return count < 0 || nbi_tensor_count(g->tensor[t]) == count ? g->tensor[t]->data : NULL;
}

/* The node that makes tensor t for one reader only; NULL. */
static const nbi_node *maker(const nbi_graph *g, int t) {
    if (t < 0 || g->tensor[t]->producer < 0 || nbi_graph_uses(g, t) != 1) return NULL;
    return g->node[g->tensor[t]->producer];
}

static bool read_second(const nbi_graph *g, const nbi_node *conv, pair *p) {
    const nbi_tensor *w = g->tensor[conv->in[1]];
    p->w2 = own(g, conv, 1, -1);
    if (!p->w2 || w->rank < 3) return false;
    int64_t group = nbi_attr_int(conv, "group", 1);
    p->depthwise = group == p->channels && w->dim[0] == group && w->dim[1] == 1;
    if (!p->depthwise && (group != 1 || w->dim[1] != p->channels)) return false;
    p->m = p->depthwise ? 1 : w->dim[0];
    p->taps = nbi_tensor_count(w) / (p->m * p->channels);
    return true;
}

/* Conv [BatchNormalization] Relu `second`. */
static bool find_pair(const nbi_graph *g, const nbi_node *second, pair *p) {
    *p = (pair){0};
    if (!is_op(second, "Conv") || second->n_in < 2) return false;
    const nbi_node *node = maker(g, second->in[0]);
    if (!node || !is_op(node, "Relu")) return false;
    node = maker(g, node->in[0]);
    const nbi_node *norm = node && is_op(node, "BatchNormalization") ? node : NULL;
    if (norm) node = maker(g, norm->in[0]);
    if (!node || !is_op(node, "Conv") || node->n_in < 2) return false;
    const nbi_tensor *w = g->tensor[node->in[1]];
    p->w1 = own(g, node, 1, -1);
    if (!p->w1 || w->rank < 3) return false;
    p->channels = w->dim[0];
    p->n1 = nbi_tensor_count(w) / p->channels;
    if (norm) {
        p->gamma = own(g, norm, 1, p->channels);
        p->beta = own(g, norm, 2, p->channels);
        p->variance = own(g, norm, 4, p->channels);
        p->epsilon = nbi_attr_float(norm, "epsilon", 1e-5f);
        if (!p->gamma || !p->beta || !p->variance) return false;
    } else if (node->n_in > 2 && node->in[2] >= 0) {
        p->b1 = own(g, node, 2, p->channels);
        if (!p->b1) return false;
    }
    return read_second(g, second, p);
}

static double most_of(const float *w, int64_t n, double most) {
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)w[i]));
    return most;
}

static void scale(float *w, int64_t n, double s) {
    for (int64_t i = 0; i < n; i++) w[i] = (float)((double)w[i] * s);
}

/* The largest |s − 1|. */
static double equalize(const pair *p) {
    double moved = 0;
    for (int64_t c = 0; c < p->channels; c++) {
        double r1 = most_of(p->w1 + c * p->n1, p->n1, 0), r2 = 0;
        if (p->gamma)
            r1 *= fabs((double)p->gamma[c]) / sqrt((double)p->variance[c] + (double)p->epsilon);
        for (int64_t m = 0; m < p->m; m++)
            r2 = most_of(p->w2 + (m * p->channels + c) * p->taps, p->taps, r2);
        double s = fmin(fmax(sqrt(r1 / r2), 1 / MOST), MOST);
        if (!(r1 > 0) || !(r2 > 0) || !isfinite(s)) continue;
        if (p->gamma) {
            scale(p->gamma + c, 1, 1 / s);
            scale(p->beta + c, 1, 1 / s);
        } else {
            scale(p->w1 + c * p->n1, p->n1, 1 / s);
            if (p->b1) scale(p->b1 + c, 1, 1 / s);
        }
        for (int64_t m = 0; m < p->m; m++)
            scale(p->w2 + (m * p->channels + c) * p->taps, p->taps, s);
        moved = fmax(moved, fabs(s - 1));
    }
    return moved;
}

nb_status nbi_equalize(nb_ctx *ctx, nbi_graph *graph, int *pairs) {
    double moved = INFINITY;
    *pairs = 0;
    NB_TRY(nbi_graph_sort(ctx, graph)); /* producers */
    for (int round = 0; round < SWEEPS && moved > SETTLED; round++) {
        moved = 0;
        *pairs = 0;
        for (int i = 0; i < graph->n_nodes; i++) {
            pair p;
            if (!find_pair(graph, graph->node[i], &p)) continue;
            ++*pairs;
            moved = fmax(moved, equalize(&p));
        }
    }
    return NB_OK;
}
