/* Building blocks of the QDQ export: constants that exist once, nodes with short names. */
#include "onnx/export_qdq_parts.h"
#include "onnx/proto.h"

#include <string.h>

static bool same_const(const nbi_tensor *t, nb_dtype dtype, int rank, const int64_t *dim,
                       const void *data, size_t bytes) {
    return t->dtype == dtype && t->rank == rank &&
           memcmp(t->dim, dim, (size_t)rank * sizeof *dim) == 0 && memcmp(t->data, data, bytes) == 0;
}

static nb_status remember(nbi_qdq *q, int tensor) {
    if (q->n_shared == q->cap_shared) {
        int capacity = q->cap_shared ? 2 * q->cap_shared : 64;
        int *list = nbi_arena_alloc(&q->g->arena, (size_t)capacity, sizeof *list);
        if (!list) return nb_fail_memory(q->ctx, (size_t)capacity * sizeof *list);
        if (q->n_shared) memcpy(list, q->shared, (size_t)q->n_shared * sizeof *list);
        q->shared = list;
        q->cap_shared = capacity;
    }
    q->shared[q->n_shared++] = tensor;
    return NB_OK;
}

nb_status nbi_qdq_const(nbi_qdq *q, nb_dtype dtype, int rank, const int64_t *dim, const void *data,
                        int *out) {
    static const int64_t none[1] = {0};
    size_t count = 1;
    if (!dim) dim = none;
    for (int i = 0; i < rank; i++) count *= (size_t)dim[i];
    size_t bytes = nbi_dtype_bytes(dtype, count);
    for (int i = 0; i < q->n_shared; i++)
        if (same_const(q->g->tensor[q->shared[i]], dtype, rank, dim, data, bytes)) {
            *out = q->shared[i];
            return NB_OK;
        }
    const char *name = nbi_arena_format(&q->g->arena, "k%d", q->names++);
    if (!name) return nb_fail_memory(q->ctx, 8);
    NB_TRY(nbi_graph_add_const(q->ctx, q->g, name, dtype, rank, dim, out));
    memcpy(q->g->tensor[*out]->data, data, bytes);
    return remember(q, *out);
}

nb_status nbi_qdq_scalar(nbi_qdq *q, nb_dtype dtype, const void *data, int *out) {
    return nbi_qdq_const(q, dtype, 0, NULL, data, out);
}

nb_status nbi_qdq_ints(nbi_qdq *q, int n, const int64_t *values, int *out) {
    int64_t dim = n;
    return nbi_qdq_const(q, NB_DTYPE_S64, 1, &dim, values, out);
}

nb_status nbi_qdq_node(nbi_qdq *q, const char *name, const char *op_type, int n_in, const int *in,
                       int out_tensor, nbi_node **out_node, int *out) {
    char letter = (char)(op_type[0] | 32);
    if (out_tensor < 0) {
        const char *text = nbi_arena_format(&q->g->arena, "%c%d", letter, q->names++);
        if (!text) return nb_fail_memory(q->ctx, 8);
        NB_TRY(nbi_graph_add_tensor(q->ctx, q->g, text, NB_DTYPE_NONE, -1, NULL, &out_tensor));
    }
    nbi_node *node;
    NB_TRY(nbi_graph_add_node(q->ctx, q->g, name, "", op_type, n_in, in, 1, &out_tensor, &node));
    if (!name) node->name = "";
    if (out_node) *out_node = node;
    *out = out_tensor;
    return NB_OK;
}

static nb_status name_node(nbi_qdq *q, nbi_names *names, int n, int *number) {
    nbi_node *node = q->g->node[n];
    const char *wanted = node->name;
    if (!*wanted)
        wanted = nbi_arena_format(&q->g->arena, "%c%d", (char)(node->op_type[0] | 32), n);
    if (!wanted) return nb_fail_memory(q->ctx, 12);
    return nbi_names_make(q->ctx, names, &q->g->arena, wanted, number, &node->name);
}

/* The source's names first: what is made up makes way for them. */
nb_status nbi_qdq_name_nodes(nbi_qdq *q) {
    nbi_names names = {0};
    nb_status st = NB_OK;
    int number = q->g->n_nodes;
    bool *unnamed = nbi_arena_alloc(&q->g->arena, (size_t)q->g->n_nodes + 1, sizeof *unnamed);
    if (!unnamed) return nb_fail_memory(q->ctx, (size_t)q->g->n_nodes);
    for (int n = 0; n < q->g->n_nodes; n++) unnamed[n] = !*q->g->node[n]->name;
    for (int made_up = 0; made_up < 2; made_up++)
        for (int n = 0; n < q->g->n_nodes; n++)
            if (unnamed[n] == made_up) NB_TRYG(name_node(q, &names, n, &number));
done:
    nbi_names_free(&names);
    return st;
}
