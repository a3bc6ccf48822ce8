/* Roles of constants and their initial values. */
#include "train/roles.h"

#include <math.h>
#include <string.h>

static bool is_op(const nbi_node *node, const char *type) {
    return !*node->domain && !strcmp(node->op_type, type);
}

static bool follows_matmul(const nbi_graph *graph, const nbi_node *node, int i) {
    int other = node->n_in == 2 ? node->in[1 - i] : NBI_NO_TENSOR;
    int producer = other >= 0 ? graph->tensor[other]->producer : -1;
    return producer >= 0 && is_op(graph->node[producer], "MatMul");
}

nbi_role nbi_role_of(const nbi_graph *graph, const nbi_node *node, int i) {
    static const nbi_role norm[] = {NBI_ROLE_NONE, NBI_ROLE_SCALE, NBI_ROLE_SHIFT, NBI_ROLE_MEAN,
                                    NBI_ROLE_VARIANCE};
    if (i < 0 || i >= node->n_in || node->in[i] < 0) return NBI_ROLE_NONE;
    const nbi_tensor *t = graph->tensor[node->in[i]];
    if (!t->data || t->dtype != NB_DTYPE_F32) return NBI_ROLE_NONE;
    if (is_op(node, "Conv") || is_op(node, "Gemm"))
        return i == 1 ? NBI_ROLE_KERNEL : i == 2 ? NBI_ROLE_BIAS : NBI_ROLE_NONE;
    if (is_op(node, "MatMul")) return t->rank >= 2 ? NBI_ROLE_KERNEL : NBI_ROLE_NONE;
    if (is_op(node, "BatchNormalization")) return i < 5 ? norm[i] : NBI_ROLE_NONE;
    if (is_op(node, "PRelu")) return i == 1 ? NBI_ROLE_SLOPE : NBI_ROLE_NONE;
    if (is_op(node, "Add") && nbi_tensor_count(t) > 1 && follows_matmul(graph, node, i))
        return NBI_ROLE_BIAS;
    return NBI_ROLE_NONE;
}

/* Inputs that one output sums. */
static int64_t fan_in(const nbi_node *node, const nbi_tensor *w) {
    int64_t count = nbi_tensor_count(w);
    if (is_op(node, "Conv")) return w->dim[0] > 0 ? count / w->dim[0] : 1;
    if (is_op(node, "Gemm")) return w->dim[nbi_attr_int(node, "transB", 0) ? 1 : 0];
    return w->dim[w->rank - 2];
}

static bool is_output(const nbi_graph *graph, int tensor) {
    for (int i = 0; i < graph->n_outputs; i++)
        if (graph->output[i] == tensor) return true;
    return false;
}

static void init_kernel(const nbi_graph *graph, const nbi_node *node, const nbi_tensor *w,
                        uint64_t seed) {
    double fan = (double)fan_in(node, w), gain = is_output(graph, node->out[0]) ? 1 : 2;
    double sigma = sqrt(gain / fmax(fan, 1));
    float *to = w->data;
    nbi_rng rng;
    nbi_rng_seed(&rng, seed, nbi_hash(NBI_HASH_START, w->name, strlen(w->name)));
    /* Box–Muller, both numbers of each pair */
    for (int64_t i = 0, n = nbi_tensor_count(w); i < n; i += 2) {
        double u = ((double)nbi_rng_u32(&rng) + 1) * 0x1p-32;
        double angle = 6.283185307179586 * 0x1p-32 * (double)nbi_rng_u32(&rng);
        double radius = sigma * sqrt(-2 * log(u));
        to[i] = (float)(radius * cos(angle));
        if (i + 1 < n) to[i + 1] = (float)(radius * sin(angle));
    }
}

static void fill(const nbi_tensor *t, float value) {
    float *to = t->data;
    for (int64_t i = 0, n = nbi_tensor_count(t); i < n; i++) to[i] = value;
}

void nbi_init_weights(nbi_graph *graph, uint64_t seed) {
    for (int n = 0; n < graph->n_nodes; n++) {
        const nbi_node *node = graph->node[n];
        for (int i = 0; i < node->n_in; i++) {
            nbi_role role = nbi_role_of(graph, node, i);
            if (role == NBI_ROLE_NONE) continue;
            const nbi_tensor *t = graph->tensor[node->in[i]];
            if (role == NBI_ROLE_KERNEL)
                init_kernel(graph, node, t, seed);
            else if (role == NBI_ROLE_SLOPE)
                fill(t, 0.25f);
            else
                fill(t, role == NBI_ROLE_SCALE || role == NBI_ROLE_VARIANCE ? 1.0f : 0.0f);
        }
    }
}
