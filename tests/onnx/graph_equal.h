/* Compares what two graphs mean: everything but tensor indices, constants that nobody reads, and
 * shapes that inference finds again. Returns NULL or what differs. */
#ifndef NIBBLE_TEST_GRAPH_EQUAL_H
#define NIBBLE_TEST_GRAPH_EQUAL_H

#include "ir/graph.h"

#include <stdio.h>
#include <string.h>

static inline const char *differs(const char *what, const char *name) {
    static char text[200];
    snprintf(text, sizeof text, "%s of '%s'", what, name);
    return text;
}

static inline bool same_text(const char *a, const char *b) {
    return a && b ? !strcmp(a, b) : a == b;
}

static inline const char *type_differs(const nbi_tensor *a, const nbi_tensor *b) {
    if (a->dtype != b->dtype) return differs("dtype", a->name);
    if (a->rank != b->rank) return differs("rank", a->name);
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || !same_text(a->dim_name[i], b->dim_name[i]))
            return differs("shape", a->name);
    return NULL;
}

static inline const char *data_differs(const nbi_tensor *a, const nbi_tensor *b) {
    const char *d = type_differs(a, b);
    if (d) return d;
    if (memcmp(a->data, b->data, nbi_dtype_bytes(a->dtype, (size_t)nbi_tensor_count(a))) != 0)
        return differs("data", a->name);
    return NULL;
}

static inline const char *ref_differs(const nbi_graph *a, int ta, const nbi_graph *b, int tb,
                                      bool with_type) {
    if ((ta < 0) != (tb < 0)) return "an omitted input or output";
    if (ta < 0) return NULL;
    const nbi_tensor *x = a->tensor[ta], *y = b->tensor[tb];
    if (strcmp(x->name, y->name) != 0) return differs("name", x->name);
    if (!x->data != !y->data) return differs("constness", x->name);
    return x->data ? data_differs(x, y) : with_type ? type_differs(x, y) : NULL;
}

static inline const char *attr_differs(const nbi_attr *a, const nbi_attr *b) {
    if (strcmp(a->name, b->name) != 0) return differs("name", a->name);
    bool same = a->type == b->type && a->i == b->i && !memcmp(&a->f, &b->f, sizeof a->f) &&
                a->s_length == b->s_length && a->count == b->count && !a->s == !b->s &&
                !a->tensor == !b->tensor;
    if (same && a->s) same = !memcmp(a->s, b->s, a->s_length);
    if (same && a->ints) same = !memcmp(a->ints, b->ints, a->count * sizeof *a->ints);
    if (same && a->floats) same = !memcmp(a->floats, b->floats, a->count * sizeof *a->floats);
    for (size_t i = 0; same && a->texts && i < a->count; i++)
        same = !strcmp(a->texts[i], b->texts[i]);
    if (same && a->tensor) {
        const char *d = data_differs(a->tensor, b->tensor);
        if (d) return d;
    }
    return same ? NULL : differs("attribute value", a->name);
}

static inline const char *node_differs(const nbi_graph *a, const nbi_node *x, const nbi_graph *b,
                                       const nbi_node *y) {
    const char *d = NULL;
    if (strcmp(x->name, y->name) != 0 || strcmp(x->domain, y->domain) != 0 ||
        strcmp(x->op_type, y->op_type) != 0 || x->op != y->op)
        return differs("operator", x->name);
    if (x->n_in != y->n_in || x->n_out != y->n_out || x->n_attr != y->n_attr)
        return differs("arity", x->name);
    for (int i = 0; i < x->n_in && !d; i++) d = ref_differs(a, x->in[i], b, y->in[i], false);
    for (int i = 0; i < x->n_out && !d; i++)
        d = ref_differs(a, x->out[i], b, y->out[i], x->op == NULL);
    for (int i = 0; i < x->n_attr && !d; i++) d = attr_differs(&x->attr[i], &y->attr[i]);
    return d;
}

static inline const char *graph_differs(const nbi_graph *a, const nbi_graph *b) {
    const char *d = NULL;
    if (a->opset != b->opset) return "opset";
    if (strcmp(*a->name ? a->name : "graph", b->name) != 0) return "graph name";
    if (a->n_inputs != b->n_inputs || a->n_outputs != b->n_outputs) return "inputs or outputs";
    if (a->n_nodes != b->n_nodes) return "number of nodes";
    if (a->n_meta != b->n_meta) return "number of metadata";
    for (int i = 0; i < a->n_meta; i++)
        if (!same_text(a->meta[i].value, nbi_graph_meta(b, a->meta[i].key)))
            return differs("metadata", a->meta[i].key);
    for (int i = 0; i < a->n_inputs && !d; i++)
        d = ref_differs(a, a->input[i], b, b->input[i], true);
    for (int i = 0; i < a->n_outputs && !d; i++)
        d = ref_differs(a, a->output[i], b, b->output[i], true);
    for (int n = 0; n < a->n_nodes && !d; n++) d = node_differs(a, a->node[n], b, b->node[n]);
    return d;
}

#endif
