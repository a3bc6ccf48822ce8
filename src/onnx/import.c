/* ModelProto -> nbi_graph. Definitions first (graph inputs, initializers, node outputs), then the
 * nodes that use them, so every name is resolved by one hash lookup and an unknown one is named at
 * once. Nothing of the unpacked message survives: all is copied into the graph's arena. */
#include "onnx/proto.h"

#include "ops/op.h"

#include <stdio.h>
#include <string.h>

#define MAX_IR_VERSION 64 /* 13 is the newest known; what is far beyond is not an ONNX file */
#define MAX_OPSET      1000
#define MAX_ATTRIBUTES 256
#define MAX_TENSORS    ((size_t)1 << 18)
#define MAX_META       4096 /* opset imports and metadata: kept in a list that is searched */

typedef struct importer {
    nb_ctx *ctx;
    const Onnx__ModelProto *model;
    const Onnx__GraphProto *proto;
    nbi_graph *graph;
    nbi_names names; /* tensor name -> index */
    nbi_names nodes; /* node name -> index of the first that has it */
    int number;      /* of names that are made up */
} importer;

static bool is_default_domain(const char *domain) {
    return !domain || !*domain || !strcmp(domain, "ai.onnx");
}

static const char *text_of(const char *text) {
    return text ? text : "";
}

/* ---- the model's header -------------------------------------------------------------------- */

static nb_status check_model(nb_ctx *ctx, const Onnx__ModelProto *model) {
    if (!model->has_ir_version)
        return nb_fail(ctx, NB_EFORMAT, "not an ONNX model: it has no ir_version");
    if (model->ir_version < 1 || model->ir_version > MAX_IR_VERSION)
        return nb_fail(ctx, NB_EFORMAT, "not an ONNX model: ir_version is %lld",
                       (long long)model->ir_version);
    if (!model->graph) return nb_fail(ctx, NB_EFORMAT, "the ONNX model has no graph");
    if (model->n_functions) {
        const char *name = text_of(model->functions[0]->name);
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "the model defines functions ('%.200s'): not supported, inline them first",
                       nbi_utf8_valid(name) ? name : "?");
    }
    if (model->graph->n_sparse_initializer) {
        const Onnx__TensorProto *values = model->graph->sparse_initializer[0]->values;
        const char *name = values ? text_of(values->name) : "";
        return nb_fail(ctx, NB_EUNSUPPORTED, "initializer '%.200s' is sparse: not supported",
                       nbi_utf8_valid(name) ? name : "?");
    }
    return NB_OK;
}

static nb_status set_opset(importer *im, const char *domain, int version) {
    char text[16];
    const char *key = nbi_arena_format(&im->graph->arena, NBI_META_OPSET "%s", domain);
    if (!key) return nb_fail_memory(im->ctx, strlen(domain));
    snprintf(text, sizeof text, "%d", version);
    if (im->graph->n_meta >= MAX_META)
        return nb_fail(im->ctx, NB_EFORMAT, "the model has more than %d domains or metadata",
                       MAX_META);
    return nbi_graph_set_meta(im->ctx, im->graph, key, text);
}

static nb_status read_opsets(importer *im) {
    nb_ctx *ctx = im->ctx;
    im->graph->opset = 0;
    for (size_t i = 0; i < im->model->n_opset_import; i++) {
        const Onnx__OperatorSetIdProto *o = im->model->opset_import[i];
        const char *domain = text_of(o->domain);
        NB_TRY(nbi_name_check(ctx, "an opset domain", domain));
        if (o->version < 1 || o->version > MAX_OPSET)
            return nb_fail(ctx, NB_EFORMAT, "opset version %lld of domain '%s' makes no sense",
                           (long long)o->version, domain);
        if (is_default_domain(domain)) {
            if (im->graph->opset && im->graph->opset != (int)o->version)
                return nb_fail(ctx, NB_EFORMAT, "the default opset is imported as %d and %lld",
                               im->graph->opset, (long long)o->version);
            im->graph->opset = (int)o->version;
            continue;
        }
        NB_TRY(set_opset(im, domain, (int)o->version));
    }
    if (im->graph->opset) return NB_OK;
    for (size_t i = 0; i < im->proto->n_node; i++)
        if (im->model->ir_version >= 3 && is_default_domain(im->proto->node[i]->domain))
            return nb_fail(ctx, NB_EFORMAT, "the model does not say its opset version");
    im->graph->opset = 1; /* what files before IR version 3 mean */
    return NB_OK;
}

/* Domains that nodes use without an import (not valid, but harmless) count as version 1. */
static nb_status complete_opsets(importer *im) {
    const char *last = "";
    for (int n = 0; n < im->graph->n_nodes; n++) {
        const char *domain = im->graph->node[n]->domain;
        if (!*domain || !strcmp(domain, last)) continue;
        const char *key = nbi_arena_format(&im->graph->arena, NBI_META_OPSET "%s", domain);
        if (!key) return nb_fail_memory(im->ctx, strlen(domain));
        if (!nbi_graph_meta(im->graph, key)) NB_TRY(set_opset(im, domain, 1));
        last = domain;
    }
    return NB_OK;
}

static nb_status read_metadata(importer *im) {
    if (im->model->n_metadata_props > MAX_META)
        return nb_fail(im->ctx, NB_EFORMAT,
                       "the model has %zu metadata entries, at most %d are "
                       "allowed",
                       im->model->n_metadata_props, MAX_META);
    for (size_t i = 0; i < im->model->n_metadata_props; i++) {
        const Onnx__StringStringEntryProto *e = im->model->metadata_props[i];
        NB_TRY(nbi_name_check(im->ctx, "a metadata key", text_of(e->key)));
        if (!nbi_utf8_valid(text_of(e->value)))
            return nb_fail(im->ctx, NB_EFORMAT, "metadata '%s' is not valid UTF-8",
                           text_of(e->key));
        if (!strncmp(text_of(e->key), NBI_META_OPSET, strlen(NBI_META_OPSET))) continue;
        NB_TRY(nbi_graph_set_meta(im->ctx, im->graph, text_of(e->key), text_of(e->value)));
    }
    return NB_OK;
}

/* ---- tensors ------------------------------------------------------------------------------- */

/* Room for all tensors at once: the names table finds duplicates, so nbi_graph_add_tensor with its
 * linear search for a free name is not needed. */
static nb_status reserve_tensors(importer *im) {
    const Onnx__GraphProto *g = im->proto;
    size_t n = g->n_input + g->n_initializer + 1;
    for (size_t i = 0; i < g->n_node; i++) n += g->node[i]->n_output;
    if (n > MAX_TENSORS)
        return nb_fail(im->ctx, NB_EFORMAT, "the graph has %zu tensors, at most %zu are allowed", n,
                       MAX_TENSORS);
    im->graph->tensor = nbi_arena_alloc(&im->graph->arena, n, sizeof *im->graph->tensor);
    if (!im->graph->tensor) return nb_fail_memory(im->ctx, n * sizeof *im->graph->tensor);
    im->graph->cap_tensors = (int)n;
    return NB_OK;
}

/* Adds a tensor of unknown type; *out_found is the index of an older one of that name, or -1 and
 * then *out is new. */
static nb_status define(importer *im, const char *what, const char *name, nbi_tensor **out,
                        int *out_found) {
    nbi_graph *g = im->graph;
    if (!name || !*name) return nb_fail(im->ctx, NB_EFORMAT, "%s has no name", what);
    NB_TRY(nbi_name_check(im->ctx, what, name));
    nbi_tensor *t = nbi_arena_alloc(&g->arena, 1, sizeof *t);
    const char *copy = nbi_arena_text(&g->arena, name, strlen(name));
    if (!t || !copy) return nb_fail_memory(im->ctx, sizeof *t);
    NB_TRY(nbi_names_add(im->ctx, &im->names, copy, g->n_tensors, out_found));
    if (*out_found >= 0) return NB_OK;
    *t = (nbi_tensor){.name = copy, .rank = -1, .producer = -1};
    for (int i = 0; i < NBI_MAX_RANK; i++) t->dim[i] = -1;
    g->tensor[g->n_tensors++] = t;
    *out = t;
    return NB_OK;
}

static nb_status read_dim(importer *im, const Onnx__TensorShapeProto__Dimension *d, nbi_tensor *t,
                          int i) {
    if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE) {
        if (d->dim_value > INT32_MAX)
            return nb_fail(im->ctx, NB_EFORMAT, "tensor '%s': dimension %d is %lld", t->name, i,
                           (long long)d->dim_value);
        t->dim[i] = d->dim_value < 0 ? -1 : d->dim_value;
    } else if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM &&
               d->dim_param && *d->dim_param) {
        NB_TRY(nbi_name_check(im->ctx, "the name of a dimension", d->dim_param));
        t->dim_name[i] = nbi_arena_text(&im->graph->arena, d->dim_param, strlen(d->dim_param));
        if (!t->dim_name[i]) return nb_fail_memory(im->ctx, strlen(d->dim_param));
    }
    return NB_OK;
}

/* Type and shape of a value. `strict`: graph inputs and outputs must be tensors that nibble can
 * describe; hints inside the graph that it cannot are dropped. */
static nb_status read_type(importer *im, const Onnx__ValueInfoProto *v, nbi_tensor *t,
                           bool strict) {
    const Onnx__TypeProto *type = v->type;
    if (!type || type->value_case == ONNX__TYPE_PROTO__VALUE__NOT_SET) return NB_OK;
    if (type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE || !type->tensor_type)
        return strict ? nb_fail(im->ctx, NB_EUNSUPPORTED,
                                "'%s' is a sequence, map, optional or sparse tensor: only tensors "
                                "are supported as graph inputs and outputs",
                                t->name)
                      : NB_OK;
    const Onnx__TypeProto__Tensor *tensor = type->tensor_type;
    nb_dtype dtype = nbi_dtype_from_onnx(tensor->elem_type);
    if (dtype == NB_DTYPE_NONE && tensor->elem_type != 0)
        return strict ? nb_fail(im->ctx, NB_EUNSUPPORTED,
                                "tensor '%s' has the data type %s (%d): not supported", t->name,
                                nbi_onnx_type_name(tensor->elem_type), (int)tensor->elem_type)
                      : NB_OK;
    t->dtype = dtype;
    if (!tensor->shape) return NB_OK;
    if (tensor->shape->n_dim > NBI_MAX_RANK)
        return strict ? nb_fail(im->ctx, NB_EUNSUPPORTED,
                                "tensor '%s' has %zu dimensions, at most %d are supported", t->name,
                                tensor->shape->n_dim, NBI_MAX_RANK)
                      : NB_OK;
    t->rank = (int)tensor->shape->n_dim;
    int64_t known = 1; /* the dimensions that are not 0, nor open: their product fits, too */
    for (int i = 0; i < t->rank; i++) {
        NB_TRY(read_dim(im, tensor->shape->dim[i], t, i));
        if (t->dim[i] > 0 && known > ((int64_t)1 << 40) / t->dim[i])
            return nb_fail(im->ctx, NB_EFORMAT, "tensor '%s' would be too large", t->name);
        if (t->dim[i] > 0) known *= t->dim[i];
    }
    return NB_OK;
}

static nb_status read_initializers(importer *im) {
    for (size_t i = 0; i < im->proto->n_initializer; i++) {
        const Onnx__TensorProto *p = im->proto->initializer[i];
        nbi_tensor *t = NULL;
        int found;
        NB_TRY(define(im, "an initializer", p->name, &t, &found));
        if (found >= 0)
            return nb_fail(im->ctx, NB_EFORMAT, "initializer '%s' is defined twice", p->name);
        NB_TRY(nbi_tensor_from_proto(im->ctx, p, t->name, &im->graph->arena, t));
    }
    return NB_OK;
}

/* Initializers come first, so an input of the same name is just a default value: not an input. */
static nb_status read_inputs(importer *im) {
    nbi_graph *g = im->graph;
    int *list = nbi_arena_alloc(&g->arena, im->proto->n_input + 1, sizeof *list), n = 0;
    if (!list) return nb_fail_memory(im->ctx, im->proto->n_input * sizeof *list);
    for (size_t i = 0; i < im->proto->n_input; i++) {
        const Onnx__ValueInfoProto *v = im->proto->input[i];
        nbi_tensor *t = NULL;
        int found;
        NB_TRY(define(im, "a graph input", v->name, &t, &found));
        if (found >= 0 && g->tensor[found]->data) continue;
        if (found >= 0)
            return nb_fail(im->ctx, NB_EFORMAT, "graph input '%s' is defined twice", v->name);
        NB_TRY(read_type(im, v, t, true));
        list[n++] = g->n_tensors - 1;
    }
    return nbi_graph_set_inputs(im->ctx, g, n, list);
}

static nb_status read_node_outputs(importer *im) {
    for (size_t n = 0; n < im->proto->n_node; n++) {
        const Onnx__NodeProto *node = im->proto->node[n];
        for (size_t i = 0; i < node->n_output; i++) {
            nbi_tensor *t = NULL;
            int found;
            if (!*text_of(node->output[i])) continue;
            NB_TRY(define(im, "a node output", node->output[i], &t, &found));
            if (found >= 0)
                return nb_fail(im->ctx, NB_EFORMAT,
                               "tensor '%s' is defined twice: node %zu ('%s') produces it again",
                               node->output[i], n, text_of(node->op_type));
        }
    }
    return NB_OK;
}

static nb_status read_value_infos(importer *im) {
    for (size_t i = 0; i < im->proto->n_value_info; i++) {
        const Onnx__ValueInfoProto *v = im->proto->value_info[i];
        int t = nbi_names_find(&im->names, text_of(v->name));
        if (t >= 0 && im->graph->tensor[t]->dtype == NB_DTYPE_NONE)
            NB_TRY(read_type(im, v, im->graph->tensor[t], false));
    }
    return NB_OK;
}

static nb_status read_outputs(importer *im) {
    nbi_graph *g = im->graph;
    nb_status st = NB_OK;
    nbi_names seen = {0};
    int before;
    if (im->proto->n_output == 0) return nb_fail(im->ctx, NB_EFORMAT, "the graph has no outputs");
    int *list = nbi_arena_alloc(&g->arena, im->proto->n_output, sizeof *list);
    if (!list) return nb_fail_memory(im->ctx, im->proto->n_output * sizeof *list);
    for (size_t i = 0; i < im->proto->n_output; i++) {
        const Onnx__ValueInfoProto *v = im->proto->output[i];
        NB_TRYG(nbi_name_check(im->ctx, "a graph output", text_of(v->name)));
        list[i] = nbi_names_find(&im->names, text_of(v->name));
        if (list[i] < 0) {
            st = nb_fail(im->ctx, NB_EFORMAT, "graph output '%s' is produced by nobody",
                         text_of(v->name));
            goto done;
        }
        NB_TRYG(nbi_names_add(im->ctx, &seen, v->name, 0, &before));
        if (before >= 0) {
            st = nb_fail(im->ctx, NB_EFORMAT, "graph output '%s' is listed twice", v->name);
            goto done;
        }
        nbi_tensor *t = g->tensor[list[i]];
        if (!t->data) NB_TRYG(read_type(im, v, t, true));
    }
    st = nbi_graph_set_outputs(im->ctx, g, (int)im->proto->n_output, list);
done:
    nbi_names_free(&seen);
    return st;
}

/* ---- nodes --------------------------------------------------------------------------------- */

static nb_status read_attributes(importer *im, const Onnx__NodeProto *p, nbi_node *node) {
    if (p->n_attribute > MAX_ATTRIBUTES)
        return nb_fail(im->ctx, NB_EFORMAT, "node '%s' has %zu attributes, at most %d are allowed",
                       node->name, p->n_attribute, MAX_ATTRIBUTES);
    node->attr = nbi_arena_alloc(&im->graph->arena, p->n_attribute + 1, sizeof *node->attr);
    if (!node->attr) return nb_fail_memory(im->ctx, p->n_attribute * sizeof *node->attr);
    for (size_t i = 0; i < p->n_attribute; i++) {
        nbi_attr a;
        NB_TRY(nbi_attr_from_proto(im->ctx, p->attribute[i], node->name, &im->graph->arena, &a));
        if (nbi_node_attr(node, a.name))
            return nb_fail(im->ctx, NB_EFORMAT, "node '%s' has attribute '%s' twice", node->name,
                           a.name);
        node->attr[node->n_attr++] = a;
    }
    return NB_OK;
}

/* Tensors that sub-graphs of a node read from this graph become inputs behind its own ones, so that
 * sorting and pruning see them; `i` of each packed attribute counts the node's own inputs, and
 * `texts` holds the names that the sub-graphs know. Export takes them off again. */
static nb_status mark_captures(importer *im, nbi_node *node, int n_own, int n_captured) {
    const char **texts = nbi_arena_alloc(&im->graph->arena, (size_t)n_captured + 1, sizeof *texts);
    if (!texts) return nb_fail_memory(im->ctx, (size_t)n_captured * sizeof *texts);
    for (int i = 0; i < n_captured; i++) texts[i] = im->graph->tensor[node->in[n_own + i]]->name;
    for (int i = 0; i < node->n_attr; i++)
        if (node->attr[i].type == NBI_ATTR_GRAPH) {
            node->attr[i].i = n_own;
            node->attr[i].texts = texts;
            node->attr[i].count = (size_t)n_captured;
        }
    return NB_OK;
}

static nb_status resolve_inputs(importer *im, const Onnx__NodeProto *p, size_t index, int *list) {
    for (size_t i = 0; i < p->n_input; i++) {
        const char *name = text_of(p->input[i]);
        list[i] = *name ? nbi_names_find(&im->names, name) : NBI_NO_TENSOR;
        if (*name && list[i] < 0) {
            NB_TRY(nbi_name_check(im->ctx, "a node input", name));
            return nb_fail(im->ctx, NB_EFORMAT, "node %zu ('%s'): input '%s' is produced by nobody",
                           index, text_of(p->op_type), name);
        }
    }
    return NB_OK;
}

static nb_status list_node_names(importer *im) {
    int before;
    im->number = (int)im->proto->n_node;
    for (size_t n = 0; n < im->proto->n_node; n++) {
        const char *name = text_of(im->proto->node[n]->name);
        if (*name) NB_TRY(nbi_names_add(im->ctx, &im->nodes, name, (int)n, &before));
    }
    return NB_OK;
}

/* The file's name, unless an earlier node has it; files name nodes as they like, policies and reports
 * need one name per node. */
static nb_status name_node(importer *im, size_t index, const char **out) {
    const Onnx__NodeProto *p = im->proto->node[index];
    const char *wanted = text_of(p->name);
    if (*wanted && nbi_names_find(&im->nodes, wanted) == (int)index) {
        *out = wanted;
        return NB_OK;
    }
    if (!*wanted) wanted = nbi_arena_format(&im->graph->arena, "%s_%zu", p->op_type, index);
    if (!wanted) return nb_fail_memory(im->ctx, strlen(p->op_type) + 12);
    return nbi_names_make(im->ctx, &im->nodes, &im->graph->arena, wanted, &im->number, out);
}

static nb_status read_node(importer *im, size_t index, nbi_arena *scratch) {
    const Onnx__NodeProto *p = im->proto->node[index];
    const char *name;
    int n_captured = 0, *captured = NULL;
    nbi_node *node;
    if (!*text_of(p->op_type))
        return nb_fail(im->ctx, NB_EFORMAT, "node %zu has no operator type", index);
    NB_TRY(nbi_name_check(im->ctx, "an operator type", p->op_type));
    NB_TRY(nbi_name_check(im->ctx, "an operator domain", text_of(p->domain)));
    NB_TRY(nbi_name_check(im->ctx, "a node name", text_of(p->name)));
    NB_TRY(nbi_attr_captures(im->ctx, p, &im->names, scratch, &n_captured, &captured));
    size_t n_in = p->n_input + (size_t)n_captured;
    int *in = nbi_arena_alloc(scratch, n_in + 1, sizeof *in);
    int *out = nbi_arena_alloc(scratch, p->n_output + 1, sizeof *out);
    if (!in || !out) return nb_fail_memory(im->ctx, n_in * sizeof *in);
    NB_TRY(resolve_inputs(im, p, index, in));
    if (n_captured) memcpy(in + p->n_input, captured, (size_t)n_captured * sizeof *in);
    for (size_t i = 0; i < p->n_output; i++)
        out[i] = *text_of(p->output[i]) ? nbi_names_find(&im->names, p->output[i]) : NBI_NO_TENSOR;
    NB_TRY(name_node(im, index, &name));
    NB_TRY(nbi_graph_add_node(im->ctx, im->graph, name,
                              is_default_domain(p->domain) ? "" : p->domain, p->op_type, (int)n_in,
                              in, (int)p->n_output, out, &node));
    NB_TRY(read_attributes(im, p, node));
    return mark_captures(im, node, (int)p->n_input, n_captured);
}

static nb_status read_nodes(importer *im) {
    nbi_arena scratch = {0};
    nb_status st = NB_OK;
    NB_TRYG(list_node_names(im));
    for (size_t n = 0; n < im->proto->n_node; n++) NB_TRYG(read_node(im, n, &scratch));
    NB_TRYG(nbi_graph_sort(im->ctx, im->graph));
    for (int n = 0; n < im->graph->n_nodes; n++)
        NB_TRYG(nbi_node_prepare(im->ctx, im->graph, im->graph->node[n]));
done:
    nbi_arena_free(&scratch);
    return st;
}

/* ---- entry points -------------------------------------------------------------------------- */

static nb_status import_graph(importer *im) {
    const char *name = text_of(im->proto->name);
    NB_TRY(nbi_name_check(im->ctx, "the graph's name", name));
    im->graph->name = nbi_arena_text(&im->graph->arena, name, strlen(name));
    if (!im->graph->name) return nb_fail_memory(im->ctx, strlen(name));
    NB_TRY(read_opsets(im));
    NB_TRY(read_metadata(im));
    NB_TRY(reserve_tensors(im));
    NB_TRY(read_initializers(im));
    NB_TRY(read_inputs(im));
    NB_TRY(read_node_outputs(im));
    NB_TRY(read_outputs(im));
    NB_TRY(read_value_infos(im));
    NB_TRY(read_nodes(im));
    return complete_opsets(im);
}

nb_status nbi_onnx_parse(nb_ctx *ctx, const void *data, size_t size, nbi_graph **out) {
    nbi_arena arena = {0};
    ProtobufCMessage *message = NULL;
    importer im = {.ctx = ctx};
    nb_status st;
    NB_TRYG(nbi_proto_unpack(ctx, &onnx__model_proto__descriptor, data, size, &arena, &message));
    im.model = (const Onnx__ModelProto *)message;
    NB_TRYG(check_model(ctx, im.model));
    im.proto = im.model->graph;
    NB_TRYG(nbi_graph_new(ctx, &im.graph));
    NB_TRYG(import_graph(&im));
    *out = im.graph;
    im.graph = NULL;
done:
    nbi_graph_free(im.graph);
    nbi_names_free(&im.names);
    nbi_names_free(&im.nodes);
    nbi_arena_free(&arena);
    return st;
}

nb_status nbi_onnx_read(nb_ctx *ctx, const char *path, nbi_graph **out) {
    void *data = NULL;
    size_t size = 0;
    NB_TRY(nbi_file_read(ctx, path, NBI_ONNX_MAX_BYTES, &data, &size));
    nb_status st = nbi_onnx_parse(ctx, data, size, out);
    nbi_free(data);
    return st == NB_OK ? NB_OK : nb_fail_prefix(ctx, st, "'%s'", path);
}
