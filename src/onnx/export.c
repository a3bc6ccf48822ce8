/* nbi_graph -> ModelProto bytes. Messages live in one arena and point into the graph; protobuf-c
 * packs them in one go. Written are the constants that something reads, shapes of inputs and
 * outputs, and of what unknown operators produce (all other shapes can be inferred again). */
#include "onnx/proto.h"

#include <stdlib.h>
#include <string.h>

typedef struct exporter {
    nb_ctx *ctx;
    const nbi_graph *graph;
    nbi_arena arena;
    nbi_names aliases; /* names that sub-graphs know, re-made by an Identity */
    Onnx__ModelProto *model;
    Onnx__GraphProto *proto;
} exporter;

static nb_status new_list(exporter *ex, size_t n, size_t size, void *out_pointer) {
    void *list = nbi_arena_alloc(&ex->arena, n + 1, size);
    if (!list) return nb_fail_memory(ex->ctx, n * size);
    memcpy(out_pointer, &list, sizeof list);
    return NB_OK;
}

/* The first IR version that has all of an opset (ONNX's Versioning.md); 4 is the first in which
 * initializers need not be graph inputs. */
static int ir_version(int opset) {
    static const struct {
        int opset, ir;
    } rows[] = {{25, 13}, {24, 12}, {23, 11}, {21, 10}, {19, 9},
                {15, 8},  {12, 7},  {11, 6},  {10, 5}};
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (opset >= rows[i].opset) return rows[i].ir;
    return 4;
}

static nb_status check_dtype(nb_ctx *ctx, const nbi_graph *graph, const nbi_tensor *t) {
    int bits = nbi_dtype_bits(t->dtype);
    int need = t->dtype == NB_DTYPE_STRING || t->dtype == NB_DTYPE_NONE ? 1
               : bits == 2                                              ? 25
               : bits == 4                                              ? 21
               : t->dtype == NB_DTYPE_BF16                              ? 13
                                                                        : 1;
    if (graph->opset >= need) return NB_OK;
    return nb_fail(ctx, NB_EINVAL, "tensor '%s' is %s: that needs opset %d, the model has %d",
                   t->name, nbi_dtype_name(t->dtype), need, graph->opset);
}

/* ---- nodes --------------------------------------------------------------------------------- */

/* The node's own inputs; those behind them stand for what its sub-graphs read (see import.c). */
static const nbi_attr *captures_of(const nbi_node *node, int *out_own) {
    for (int i = 0; i < node->n_attr; i++)
        if (node->attr[i].type == NBI_ATTR_GRAPH && node->attr[i].count) {
            *out_own = (int)node->attr[i].i;
            return &node->attr[i];
        }
    *out_own = node->n_in;
    return NULL;
}

static nb_status list_names(exporter *ex, const int *tensors, int n, char ***out) {
    char **list = NULL;
    NB_TRY(new_list(ex, (size_t)n, sizeof *list, &list));
    for (int i = 0; i < n; i++)
        list[i] = tensors[i] < 0 ? "" : (char *)ex->graph->tensor[tensors[i]]->name;
    *out = list;
    return NB_OK;
}

static nb_status write_node(exporter *ex, const nbi_node *node) {
    Onnx__NodeProto *p = NULL;
    int n_own;
    captures_of(node, &n_own);
    NB_TRY(nbi_proto_new(ex->ctx, &ex->arena, &onnx__node_proto__descriptor, &p));
    p->name = (char *)node->name;
    p->op_type = (char *)node->op_type;
    if (*node->domain) p->domain = (char *)node->domain;
    p->n_input = (size_t)n_own;
    p->n_output = (size_t)node->n_out;
    p->n_attribute = (size_t)node->n_attr;
    NB_TRY(list_names(ex, node->in, n_own, &p->input));
    NB_TRY(list_names(ex, node->out, node->n_out, &p->output));
    NB_TRY(new_list(ex, p->n_attribute, sizeof *p->attribute, &p->attribute));
    for (int i = 0; i < node->n_attr; i++) {
        const nbi_attr *a = &node->attr[i];
        if (a->type == NBI_ATTR_TENSOR) NB_TRY(check_dtype(ex->ctx, ex->graph, a->tensor));
        nb_status st = nbi_attr_to_proto(ex->ctx, a, &ex->arena, &p->attribute[i]);
        if (st != NB_OK) return nb_fail_prefix(ex->ctx, st, "node '%s'", node->name);
    }
    ex->proto->node[ex->proto->n_node++] = p;
    return NB_OK;
}

/* A sub-graph knows an outer tensor by a name that a pass has changed: Identity makes the old name
 * again. */
static nb_status write_alias(exporter *ex, const char *alias, int tensor) {
    const char *name = ex->graph->tensor[tensor]->name;
    int before, old = nbi_graph_find(ex->graph, alias);
    if (!strcmp(alias, name)) return NB_OK;
    NB_TRY(nbi_names_add(ex->ctx, &ex->aliases, alias, tensor, &before));
    if (before == tensor) return NB_OK;
    if (before >= 0 || (old >= 0 && nbi_graph_uses(ex->graph, old) > 0))
        return nb_fail(ex->ctx, NB_EINVAL,
                       "a sub-graph reads '%s', which is now the name of another tensor", alias);
    Onnx__NodeProto *p = NULL;
    NB_TRY(nbi_proto_new(ex->ctx, &ex->arena, &onnx__node_proto__descriptor, &p));
    NB_TRY(list_names(ex, &tensor, 1, &p->input));
    NB_TRY(new_list(ex, 1, sizeof *p->output, &p->output));
    p->op_type = "Identity";
    p->output[0] = (char *)alias;
    p->n_input = p->n_output = 1;
    ex->proto->node[ex->proto->n_node++] = p;
    return NB_OK;
}

static nb_status write_nodes(exporter *ex) {
    const nbi_graph *g = ex->graph;
    size_t room = (size_t)g->n_nodes;
    int n_own;
    for (int n = 0; n < g->n_nodes; n++)
        if (captures_of(g->node[n], &n_own)) room += (size_t)(g->node[n]->n_in - n_own);
    NB_TRY(new_list(ex, room, sizeof *ex->proto->node, &ex->proto->node));
    for (int n = 0; n < g->n_nodes; n++) {
        const nbi_node *node = g->node[n];
        const nbi_attr *a = captures_of(node, &n_own);
        for (size_t k = 0; a && k < a->count && n_own + (int)k < node->n_in; k++)
            NB_TRY(write_alias(ex, a->texts[k], node->in[n_own + (int)k]));
        NB_TRY(write_node(ex, node));
    }
    return NB_OK;
}

/* ---- tensors ------------------------------------------------------------------------------- */

static nb_status write_initializers(exporter *ex) {
    const nbi_graph *g = ex->graph;
    bool *used = NULL;
    NB_TRY(new_list(ex, (size_t)g->n_tensors, sizeof *used, &used));
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 0; i < g->node[n]->n_in; i++)
            if (g->node[n]->in[i] >= 0) used[g->node[n]->in[i]] = true;
    for (int i = 0; i < g->n_outputs; i++) used[g->output[i]] = true;
    NB_TRY(new_list(ex, (size_t)g->n_tensors, sizeof *ex->proto->initializer,
                    &ex->proto->initializer));
    for (int t = 0; t < g->n_tensors; t++) {
        if (!used[t] || !g->tensor[t]->data) continue;
        NB_TRY(check_dtype(ex->ctx, g, g->tensor[t]));
        NB_TRY(nbi_tensor_to_proto(ex->ctx, g->tensor[t], &ex->arena,
                                   &ex->proto->initializer[ex->proto->n_initializer++]));
    }
    return NB_OK;
}

static nb_status write_values(exporter *ex, int n, const int *tensors,
                              Onnx__ValueInfoProto ***out) {
    Onnx__ValueInfoProto **list = NULL;
    NB_TRY(new_list(ex, (size_t)n, sizeof *list, &list));
    for (int i = 0; i < n; i++) {
        const nbi_tensor *t = ex->graph->tensor[tensors[i]];
        for (int k = 0; k < i; k++)
            if (tensors[k] == tensors[i])
                return nb_fail(ex->ctx, NB_EINVAL, "tensor '%s' is listed twice as graph %s",
                               t->name, tensors == ex->graph->output ? "output" : "input");
        NB_TRY(check_dtype(ex->ctx, ex->graph, t));
        NB_TRY(nbi_value_to_proto(ex->ctx, t, &ex->arena, &list[i]));
    }
    *out = list;
    return NB_OK;
}

static bool is_graph_output(const nbi_graph *g, int tensor) {
    for (int i = 0; i < g->n_outputs; i++)
        if (g->output[i] == tensor) return true;
    return false;
}

static nb_status write_hints(exporter *ex) {
    const nbi_graph *g = ex->graph;
    Onnx__GraphProto *p = ex->proto;
    NB_TRY(new_list(ex, (size_t)g->n_tensors, sizeof *p->value_info, &p->value_info));
    for (int n = 0; n < g->n_nodes; n++) {
        if (g->node[n]->op) continue;
        for (int i = 0; i < g->node[n]->n_out; i++) {
            int t = g->node[n]->out[i];
            if (t < 0 || g->tensor[t]->dtype == NB_DTYPE_NONE || is_graph_output(g, t)) continue;
            NB_TRY(nbi_value_to_proto(ex->ctx, g->tensor[t], &ex->arena,
                                      &p->value_info[p->n_value_info++]));
        }
    }
    return NB_OK;
}

/* ---- the model ----------------------------------------------------------------------------- */

static nb_status add_opset(exporter *ex, const char *domain, int version) {
    Onnx__ModelProto *m = ex->model;
    for (size_t i = 0; i < m->n_opset_import; i++)
        if (!strcmp(m->opset_import[i]->domain, domain)) return NB_OK;
    Onnx__OperatorSetIdProto *o = NULL;
    NB_TRY(nbi_proto_new(ex->ctx, &ex->arena, &onnx__operator_set_id_proto__descriptor, &o));
    o->domain = (char *)domain;
    o->has_version = true;
    o->version = version;
    m->opset_import[m->n_opset_import++] = o;
    return NB_OK;
}

/* How many different domains the nodes can have is bounded by the domains themselves: the list is
 * as long as nodes with a domain plus metadata, but mostly empty. */
static nb_status write_opsets(exporter *ex) {
    const nbi_graph *g = ex->graph;
    size_t room = 1 + (size_t)g->n_meta;
    for (int n = 0; n < g->n_nodes; n++) room += *g->node[n]->domain != 0;
    NB_TRY(new_list(ex, room, sizeof *ex->model->opset_import, &ex->model->opset_import));
    NB_TRY(add_opset(ex, "", g->opset));
    for (int i = 0; i < g->n_meta; i++)
        if (!strncmp(g->meta[i].key, NBI_META_OPSET, strlen(NBI_META_OPSET)))
            NB_TRY(add_opset(ex, g->meta[i].key + strlen(NBI_META_OPSET),
                             (int)strtol(g->meta[i].value, NULL, 10)));
    for (int n = 0; n < g->n_nodes; n++)
        if (*g->node[n]->domain) NB_TRY(add_opset(ex, g->node[n]->domain, 1));
    return NB_OK;
}

static nb_status write_metadata(exporter *ex) {
    const nbi_graph *g = ex->graph;
    Onnx__ModelProto *m = ex->model;
    NB_TRY(new_list(ex, (size_t)g->n_meta, sizeof *m->metadata_props, &m->metadata_props));
    for (int i = 0; i < g->n_meta; i++) {
        if (!strncmp(g->meta[i].key, NBI_META_OPSET, strlen(NBI_META_OPSET))) continue;
        Onnx__StringStringEntryProto *e = NULL;
        NB_TRY(
            nbi_proto_new(ex->ctx, &ex->arena, &onnx__string_string_entry_proto__descriptor, &e));
        e->key = (char *)g->meta[i].key;
        e->value = (char *)g->meta[i].value;
        m->metadata_props[m->n_metadata_props++] = e;
    }
    return NB_OK;
}

static nb_status write_model(exporter *ex) {
    const nbi_graph *g = ex->graph;
    NB_TRY(nbi_proto_new(ex->ctx, &ex->arena, &onnx__model_proto__descriptor, &ex->model));
    NB_TRY(nbi_proto_new(ex->ctx, &ex->arena, &onnx__graph_proto__descriptor, &ex->proto));
    ex->model->graph = ex->proto;
    ex->model->has_ir_version = true;
    ex->model->ir_version = ir_version(g->opset);
    ex->model->producer_name = "nibble";
    ex->model->producer_version = (char *)nb_version();
    ex->proto->name = (char *)(*g->name ? g->name : "graph"); /* ONNX wants one */
    NB_TRY(write_opsets(ex));
    NB_TRY(write_metadata(ex));
    NB_TRY(write_values(ex, g->n_inputs, g->input, &ex->proto->input));
    NB_TRY(write_values(ex, g->n_outputs, g->output, &ex->proto->output));
    ex->proto->n_input = (size_t)g->n_inputs;
    ex->proto->n_output = (size_t)g->n_outputs;
    NB_TRY(write_initializers(ex));
    NB_TRY(write_nodes(ex));
    return write_hints(ex);
}

nb_status nbi_onnx_serialize(nb_ctx *ctx, const nbi_graph *graph, nbi_buf *out) {
    exporter ex = {.ctx = ctx, .graph = graph};
    nb_status st = write_model(&ex);
    if (st == NB_OK) st = nbi_proto_pack(ctx, &ex.model->base, out);
    nbi_names_free(&ex.aliases);
    nbi_arena_free(&ex.arena);
    return st;
}

nb_status nbi_onnx_write(nb_ctx *ctx, const nbi_graph *graph, const char *path) {
    nbi_buf bytes = {0};
    nb_status st = nbi_onnx_serialize(ctx, graph, &bytes);
    if (st == NB_OK) st = nbi_file_write(ctx, path, bytes.data, bytes.size);
    nbi_buf_free(&bytes);
    return st;
}
