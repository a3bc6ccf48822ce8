/* Shapes, attributes of nodes, and strided views. */
#include "ir/graph.h"

#include <stdio.h>
#include <string.h>

#define MAX_COUNT ((int64_t)1 << 40)

int64_t nbi_tensor_count(const nbi_tensor *t) {
    if (t->rank < 0) return -1;
    int64_t count = 1; /* of the dimensions that are not 0: none of those may hide another */
    bool empty = false;
    for (int i = 0; i < t->rank; i++) {
        if (t->dim[i] < 0) return -1;
        empty |= t->dim[i] == 0;
        if (t->dim[i] && count > MAX_COUNT / t->dim[i]) return -1;
        if (t->dim[i]) count *= t->dim[i];
    }
    return empty ? 0 : count;
}

bool nbi_shape_known(const nbi_tensor *t) {
    return nbi_tensor_count(t) >= 0;
}

char *nbi_shape_text(const nbi_tensor *t, char *text, size_t size) {
    if (t->rank < 0) {
        snprintf(text, size, "[?]");
        return text;
    }
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->rank && used < size; i++) {
        const char *comma = i ? "," : "";
        if (t->dim[i] >= 0)
            used += (size_t)snprintf(text + used, size - used, "%s%lld", comma,
                                     (long long)t->dim[i]);
        else
            used += (size_t)snprintf(text + used, size - used, "%s%.16s", comma,
                                     t->dim_name[i] ? t->dim_name[i] : "?");
    }
    if (used < size) snprintf(text + used, size - used, "]");
    return text;
}

/* ---- attributes ---------------------------------------------------------------------------- */

const nbi_attr *nbi_node_attr(const nbi_node *node, const char *name) {
    for (int i = 0; i < node->n_attr; i++)
        if (!strcmp(node->attr[i].name, name)) return &node->attr[i];
    return NULL;
}

int64_t nbi_attr_int(const nbi_node *node, const char *name, int64_t def) {
    const nbi_attr *a = nbi_node_attr(node, name);
    return a && a->type == NBI_ATTR_INT ? a->i : def;
}

float nbi_attr_float(const nbi_node *node, const char *name, float def) {
    const nbi_attr *a = nbi_node_attr(node, name);
    return a && a->type == NBI_ATTR_FLOAT ? a->f : def;
}

const char *nbi_attr_text(const nbi_node *node, const char *name, const char *def) {
    const nbi_attr *a = nbi_node_attr(node, name);
    return a && a->type == NBI_ATTR_TEXT ? a->s : def;
}

size_t nbi_attr_ints(const nbi_node *node, const char *name, const int64_t **out) {
    const nbi_attr *a = nbi_node_attr(node, name);
    bool found = a && a->type == NBI_ATTR_INTS;
    *out = found ? a->ints : NULL;
    return found ? a->count : 0;
}

/* The attribute of that name, replaced or appended; NULL when there is no memory. */
static nbi_attr *set_attr(nbi_graph *g, nbi_node *node, const char *name, nbi_attr_type type) {
    nbi_attr *a = (nbi_attr *)nbi_node_attr(node, name);
    const char *copy = nbi_arena_text(&g->arena, name, strlen(name));
    if (!copy) return NULL;
    if (!a) {
        nbi_attr *more = nbi_arena_alloc(&g->arena, (size_t)node->n_attr + 1, sizeof *more);
        if (!more) return NULL;
        if (node->n_attr) memcpy(more, node->attr, (size_t)node->n_attr * sizeof *more);
        node->attr = more;
        a = &more[node->n_attr++];
    }
    *a = (nbi_attr){.name = copy, .type = type};
    return a;
}

nb_status nbi_node_set_int(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name, int64_t v) {
    nbi_attr *a = set_attr(g, node, name, NBI_ATTR_INT);
    if (!a) return nb_fail_memory(ctx, sizeof *a);
    a->i = v;
    return NB_OK;
}

nb_status nbi_node_set_float(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name, float v) {
    nbi_attr *a = set_attr(g, node, name, NBI_ATTR_FLOAT);
    if (!a) return nb_fail_memory(ctx, sizeof *a);
    a->f = v;
    return NB_OK;
}

nb_status nbi_node_set_ints(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name, size_t n,
                            const int64_t *v) {
    nbi_attr *a = set_attr(g, node, name, NBI_ATTR_INTS);
    int64_t *copy = nbi_arena_alloc(&g->arena, n + 1, sizeof *copy);
    if (!a || !copy) return nb_fail_memory(ctx, n * sizeof *copy);
    if (n) memcpy(copy, v, n * sizeof *copy);
    a->ints = copy;
    a->count = n;
    return NB_OK;
}

nb_status nbi_node_set_text(nb_ctx *ctx, nbi_graph *g, nbi_node *node, const char *name,
                            const char *v) {
    nbi_attr *a = set_attr(g, node, name, NBI_ATTR_TEXT);
    char *copy = nbi_arena_text(&g->arena, v, strlen(v));
    if (!a || !copy) return nb_fail_memory(ctx, strlen(v));
    a->s = copy;
    a->s_length = strlen(v);
    return NB_OK;
}

/* ---- views --------------------------------------------------------------------------------- */

void nbi_view_contiguous(nbi_view *v) {
    int64_t stride = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        v->stride[i] = stride;
        stride *= v->dim[i];
    }
}

void nbi_view_channels_last(nbi_view *v) {
    if (v->rank < 3) {
        nbi_view_contiguous(v);
        return;
    }
    int64_t stride = v->dim[1];
    v->stride[1] = 1;
    for (int i = v->rank - 1; i >= 2; i--) {
        v->stride[i] = stride;
        stride *= v->dim[i];
    }
    v->stride[0] = stride;
}

/* Same addresses for every element: strides of dimensions of size 1 do not matter. */
static bool same_order(const nbi_view *a, const nbi_view *b) {
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] > 1 && a->stride[i] != b->stride[i]) return false;
    return true;
}

bool nbi_view_is_contiguous(const nbi_view *v) {
    nbi_view c = *v;
    nbi_view_contiguous(&c);
    return same_order(v, &c);
}

bool nbi_view_is_channels_last(const nbi_view *v) {
    nbi_view c = *v;
    nbi_view_channels_last(&c);
    return same_order(v, &c);
}

int64_t nbi_view_count(const nbi_view *v) {
    int64_t count = 1;
    for (int i = 0; i < v->rank; i++) count *= v->dim[i];
    return count;
}

void nbi_view_copy(const nbi_view *to, const nbi_view *from) {
    size_t size = (size_t)nbi_dtype_bits(from->dtype) / 8;
    int64_t count = nbi_view_count(from);
    if (count == 0) return;
    if (same_order(to, from) && (nbi_view_is_contiguous(to) || nbi_view_is_channels_last(to))) {
        memcpy(to->data, from->data, (size_t)count * size);
        return;
    }
    int last = from->rank - 1;
    int64_t index[NBI_MAX_RANK] = {0}, n = last < 0 ? 1 : from->dim[last];
    for (int64_t done = 0; done < count; done += n) {
        int64_t src = 0, dst = 0;
        for (int i = 0; i < last; i++) {
            src += index[i] * from->stride[i];
            dst += index[i] * to->stride[i];
        }
        const char *s = (const char *)from->data + src * (int64_t)size;
        char *d = (char *)to->data + dst * (int64_t)size;
        int64_t ss = last < 0 ? 0 : from->stride[last], ds = last < 0 ? 0 : to->stride[last];
        if (size == 4) {
            for (int64_t i = 0; i < n; i++) memcpy(d + i * ds * 4, s + i * ss * 4, 4);
        } else {
            for (int64_t i = 0; i < n; i++)
                memcpy(d + i * ds * (int64_t)size, s + i * ss * (int64_t)size, size);
        }
        for (int i = last - 1; i >= 0; i--) {
            if (++index[i] < from->dim[i]) break;
            index[i] = 0;
        }
    }
}
