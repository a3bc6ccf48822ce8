/* AttributeProto -> nbi_attr. Kinds that nibble never computes with are kept as packed bytes, so
 * that a node which it does not know is exported as it came; the outer tensors that their
 * sub-graphs read are found here, so that no pass removes them. */
#include "onnx/proto.h"

#include <string.h>

#define MAX_SCOPES NBI_ONNX_MAX_NESTING

/* Files before IR version 2 give no type; it follows from the field that is set. */
static int attribute_type(const Onnx__AttributeProto *a) {
    if (a->has_type && a->type) return (int)a->type;
    if (a->has_f) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
    if (a->has_i) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
    if (a->has_s) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
    if (a->t) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
    if (a->n_floats) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
    if (a->n_ints) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
    if (a->n_strings) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
    if (a->g) return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH;
    return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED;
}

static nb_status arena_copy(nb_ctx *ctx, nbi_arena *arena, const void *from, size_t count,
                            size_t size, void *out_pointer) {
    void *to = nbi_arena_alloc(arena, count + 1, size);
    if (!to) return nb_fail_memory(ctx, count * size);
    if (count) memcpy(to, from, count * size);
    memcpy(out_pointer, &to, sizeof to);
    return NB_OK;
}

static nb_status copy_texts(nb_ctx *ctx, const Onnx__AttributeProto *proto, const char *node,
                            nbi_arena *arena, nbi_attr *out) {
    out->count = proto->n_strings;
    out->texts = nbi_arena_alloc(arena, proto->n_strings + 1, sizeof *out->texts);
    if (!out->texts) return nb_fail_memory(ctx, proto->n_strings * sizeof *out->texts);
    for (size_t i = 0; i < proto->n_strings; i++) {
        const ProtobufCBinaryData *s = &proto->strings[i];
        if (s->len && memchr(s->data, 0, s->len))
            return nb_fail(ctx, NB_EFORMAT, "node '%s': attribute '%s' item %zu holds a NUL", node,
                           out->name, i);
        out->texts[i] = nbi_arena_text(arena, (const char *)s->data, s->len);
        if (!out->texts[i]) return nb_fail_memory(ctx, s->len);
    }
    return NB_OK;
}

static nb_status copy_packed(nb_ctx *ctx, const Onnx__AttributeProto *proto, nbi_arena *arena,
                             nbi_attr *out) {
    size_t size = onnx__attribute_proto__get_packed_size(proto);
    uint8_t *bytes = nbi_arena_alloc(arena, size + 1, 1);
    if (!bytes) return nb_fail_memory(ctx, size);
    out->type = NBI_ATTR_GRAPH;
    out->s = (const char *)bytes;
    out->s_length = onnx__attribute_proto__pack(proto, bytes);
    return NB_OK;
}

static nb_status copy_tensor(nb_ctx *ctx, const Onnx__AttributeProto *proto, const char *node,
                             nbi_arena *arena, nbi_attr *out) {
    if (!proto->t)
        return nb_fail(ctx, NB_EFORMAT, "node '%s': attribute '%s' has no tensor", node, out->name);
    nb_dtype dtype = nbi_dtype_from_onnx(proto->t->data_type);
    if (dtype == NB_DTYPE_NONE || dtype == NB_DTYPE_STRING)
        return copy_packed(ctx, proto, arena, out);
    const char *given = proto->t->name ? proto->t->name : "";
    NB_TRY(nbi_name_check(ctx, "the name of a tensor attribute", given));
    const char *name = nbi_arena_text(arena, given, strlen(given));
    out->tensor = nbi_arena_alloc(arena, 1, sizeof *out->tensor);
    if (!name || !out->tensor) return nb_fail_memory(ctx, sizeof *out->tensor);
    nb_status st = nbi_tensor_from_proto(ctx, proto->t, name, arena, out->tensor);
    if (st != NB_OK) nb_fail_prefix(ctx, st, "node '%s', attribute '%s'", node, out->name);
    return st;
}

nb_status nbi_attr_from_proto(nb_ctx *ctx, const Onnx__AttributeProto *proto, const char *node,
                              nbi_arena *arena, nbi_attr *out) {
    nbi_attr a = {0};
    if (!proto->name || !*proto->name)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' has an attribute without a name", node);
    NB_TRY(nbi_name_check(ctx, "an attribute name", proto->name));
    if (proto->ref_attr_name && *proto->ref_attr_name)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s': attribute '%s' refers to a function's attribute outside of a "
                       "function",
                       node, proto->name);
    a.name = nbi_arena_text(arena, proto->name, strlen(proto->name));
    if (!a.name) return nb_fail_memory(ctx, strlen(proto->name));
    switch (attribute_type(proto)) {
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT:
        a.type = NBI_ATTR_FLOAT;
        a.f = proto->f;
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT:
        a.type = NBI_ATTR_INT;
        a.i = proto->i;
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING:
        a.type = NBI_ATTR_TEXT;
        a.s_length = proto->s.len;
        a.s = nbi_arena_text(arena, (const char *)proto->s.data, proto->s.len);
        if (!a.s) return nb_fail_memory(ctx, proto->s.len);
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR:
        a.type = NBI_ATTR_TENSOR;
        NB_TRY(copy_tensor(ctx, proto, node, arena, &a));
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS:
        a.type = NBI_ATTR_FLOATS;
        a.count = proto->n_floats;
        NB_TRY(arena_copy(ctx, arena, proto->floats, a.count, sizeof *a.floats, &a.floats));
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS:
        a.type = NBI_ATTR_INTS;
        a.count = proto->n_ints;
        NB_TRY(arena_copy(ctx, arena, proto->ints, a.count, sizeof *a.ints, &a.ints));
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS:
        a.type = NBI_ATTR_TEXTS;
        NB_TRY(copy_texts(ctx, proto, node, arena, &a));
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED:
        return nb_fail(ctx, NB_EFORMAT, "node '%s': attribute '%s' has neither type nor value",
                       node, a.name);
    default: /* sub-graphs, sparse tensors, types, lists of them, and kinds newer than the schema */
        NB_TRY(copy_packed(ctx, proto, arena, &a));
        break;
    }
    *out = a;
    return NB_OK;
}

/* ---- captures ------------------------------------------------------------------------------ */

typedef struct captures {
    nb_ctx *ctx;
    const nbi_names *outer;
    nbi_names scope[MAX_SCOPES]; /* names that the open sub-graphs define, outermost first */
    int depth;
    nbi_names found; /* captured name -> position in the result */
} captures;

static nb_status define(captures *c, const char *name) {
    int before;
    if (!name || !*name) return NB_OK;
    return nbi_names_add(c->ctx, &c->scope[c->depth - 1], name, 0, &before);
}

static nb_status use(captures *c, const char *name) {
    int before;
    if (!name || !*name) return NB_OK;
    for (int i = 0; i < c->depth; i++)
        if (nbi_names_find(&c->scope[i], name) >= 0) return NB_OK;
    if (nbi_names_find(c->outer, name) < 0) return NB_OK;
    return nbi_names_add(c->ctx, &c->found, name, (int)c->found.n, &before);
}

static nb_status visit_node(captures *c, const Onnx__NodeProto *node);

static nb_status define_all(captures *c, const Onnx__GraphProto *g) {
    for (size_t i = 0; i < g->n_input; i++) NB_TRY(define(c, g->input[i]->name));
    for (size_t i = 0; i < g->n_initializer; i++) NB_TRY(define(c, g->initializer[i]->name));
    for (size_t n = 0; n < g->n_node; n++)
        for (size_t i = 0; i < g->node[n]->n_output; i++) NB_TRY(define(c, g->node[n]->output[i]));
    return NB_OK;
}

/* Recursion is as deep as the file is nested, which the guard has bounded. */
static nb_status visit_graph(captures *c, const Onnx__GraphProto *g) {
    nb_status st = NB_OK;
    if (c->depth == MAX_SCOPES)
        return nb_fail(c->ctx, NB_EFORMAT, "sub-graphs are nested too deep");
    c->depth++;
    NB_TRYG(define_all(c, g));
    for (size_t n = 0; n < g->n_node; n++) {
        for (size_t i = 0; i < g->node[n]->n_input; i++) NB_TRYG(use(c, g->node[n]->input[i]));
        NB_TRYG(visit_node(c, g->node[n]));
    }
    for (size_t i = 0; i < g->n_output; i++) NB_TRYG(use(c, g->output[i]->name));
done:
    nbi_names_free(&c->scope[--c->depth]);
    return st;
}

static nb_status visit_node(captures *c, const Onnx__NodeProto *node) {
    for (size_t i = 0; i < node->n_attribute; i++) {
        const Onnx__AttributeProto *a = node->attribute[i];
        int type = attribute_type(a);
        if (type == ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH && a->g)
            NB_TRY(visit_graph(c, a->g));
        for (size_t k = 0; type == ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPHS && k < a->n_graphs;
             k++)
            NB_TRY(visit_graph(c, a->graphs[k]));
    }
    return NB_OK;
}

nb_status nbi_attr_captures(nb_ctx *ctx, const Onnx__NodeProto *node, const nbi_names *outer,
                            nbi_arena *arena, int *out_n, int **out) {
    captures c = {.ctx = ctx, .outer = outer};
    nb_status st;
    NB_TRYG(visit_node(&c, node));
    int *list = nbi_arena_alloc(arena, c.found.n + 1, sizeof *list);
    if (!list) {
        st = nb_fail_memory(ctx, c.found.n * sizeof *list);
        goto done;
    }
    for (size_t i = 0; i < c.found.capacity; i++) {
        const struct nbi_name_slot *s = &c.found.slot[i];
        if (s->key) list[s->value] = nbi_names_find(outer, s->key);
    }
    *out_n = (int)c.found.n;
    *out = list;
done:
    nbi_names_free(&c.found);
    return st;
}
