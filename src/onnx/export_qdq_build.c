/* Building blocks of the QDQ export: constants that exist once, nodes with short names. */
#include "onnx/export_qdq_parts.h"

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
    if (!name && !(name = nbi_arena_format(&q->g->arena, "%c%d", letter, q->g->n_nodes)))
        return nb_fail_memory(q->ctx, 8);
    NB_TRY(nbi_graph_add_node(q->ctx, q->g, name, "", op_type, n_in, in, 1, &out_tensor, out_node));
    *out = out_tensor;
    return NB_OK;
}
