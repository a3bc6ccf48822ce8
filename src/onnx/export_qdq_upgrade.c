/* Nodes that are kept, in the meaning of a newer opset: attributes that became inputs, defaults that
 * changed. Only what differs between opset 7 and 21 for operators of this build. */
#include "onnx/export_qdq_parts.h"

#include "ops/op_util.h"

#include <string.h>

static bool is(const nbi_node *node, const char *op_type) {
    return strcmp(node->op_type, op_type) == 0;
}

static void drop(nbi_node *node, const char *name) {
    int kept = 0;
    for (int i = 0; i < node->n_attr; i++)
        if (strcmp(node->attr[i].name, name)) node->attr[kept++] = node->attr[i];
    node->n_attr = kept;
}

static nb_status set_input(nbi_qdq *q, nbi_node *node, int index, int tensor) {
    if (index >= node->n_in) {
        int *in = nbi_arena_alloc(&q->g->arena, (size_t)index + 1, sizeof *in);
        if (!in) return nb_fail_memory(q->ctx, ((size_t)index + 1) * sizeof *in);
        for (int i = 0; i <= index; i++) in[i] = i < node->n_in ? node->in[i] : NBI_NO_TENSOR;
        node->in = in;
        node->n_in = index + 1;
    }
    node->in[index] = tensor;
    return NB_OK;
}

static nb_status ints_to_input(nbi_qdq *q, nbi_node *node, const char *name, int index) {
    const int64_t *values;
    size_t n = nbi_attr_ints(node, name, &values);
    int tensor;
    if (n == 0) return NB_OK;
    NB_TRY(nbi_qdq_ints(q, (int)n, values, &tensor));
    drop(node, name);
    return set_input(q, node, index, tensor);
}

static nb_status float_to_input(nbi_qdq *q, nbi_node *node, const char *name, int index) {
    const nbi_attr *a = nbi_node_attr(node, name);
    int tensor;
    if (!a || a->type != NBI_ATTR_FLOAT) return NB_OK;
    float value = a->f;
    NB_TRY(nbi_qdq_scalar(q, NB_DTYPE_F32, &value, &tensor));
    drop(node, name);
    return set_input(q, node, index, tensor);
}

static nb_status upgrade_clip(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset >= 11) return NB_OK;
    NB_TRY(float_to_input(q, node, "min", 1));
    return float_to_input(q, node, "max", 2);
}

static nb_status upgrade_softmax(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset >= 13) return NB_OK;
    const nbi_softmax_params *p = node->params;
    if (!p || p->first != p->last)
        return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' (%s) covers several axes: opset %d has "
                       "no such operator", node->name, node->op_type, q->opset);
    return nbi_node_set_int(q->ctx, q->g, node, "axis", p->first);
}

static nb_status upgrade_axes(nbi_qdq *q, nbi_node *node) {
    return ints_to_input(q, node, "axes", 1);
}

static nb_status upgrade_split(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset < 13) NB_TRY(ints_to_input(q, node, "split", 1));
    if (q->source->opset >= 18 || node->n_in > 1) return NB_OK;
    return nbi_node_set_int(q->ctx, q->g, node, "num_outputs", node->n_out);
}

static nb_status upgrade_slice(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset >= 10) return NB_OK;
    NB_TRY(ints_to_input(q, node, "starts", 1));
    NB_TRY(ints_to_input(q, node, "ends", 2));
    return ints_to_input(q, node, "axes", 3);
}

static nb_status upgrade_pad(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset >= 11) return NB_OK;
    NB_TRY(ints_to_input(q, node, "pads", 1));
    return float_to_input(q, node, "value", 2);
}

static nb_status upgrade_batchnorm(nbi_qdq *q, nbi_node *node) {
    (void)q;
    drop(node, "spatial");
    drop(node, "is_test");
    return NB_OK;
}

static nb_status upgrade_dropout(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset >= 12) return NB_OK;
    drop(node, "is_test");
    return float_to_input(q, node, "ratio", 1);
}

/* Before opset 7 the smaller operand was aligned by an attribute. */
static nb_status upgrade_binary(nbi_qdq *q, nbi_node *node) {
    if (q->source->opset >= 7 || nbi_attr_int(node, "broadcast", 0) == 0) return NB_OK;
    return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' (%s) broadcasts as opset %d did: not "
                   "supported in a quantized model", node->name, node->op_type, q->source->opset);
}

static const struct {
    const char *op_type;
    nb_status (*upgrade)(nbi_qdq *q, nbi_node *node);
} rows[] = {
    {"Clip", upgrade_clip},       {"Softmax", upgrade_softmax},
    {"ReduceMean", upgrade_axes}, {"ReduceSum", upgrade_axes},
    {"ReduceMax", upgrade_axes},  {"ReduceMin", upgrade_axes},
    {"Squeeze", upgrade_axes},    {"Unsqueeze", upgrade_axes},
    {"Split", upgrade_split},     {"Slice", upgrade_slice},
    {"Pad", upgrade_pad},         {"BatchNormalization", upgrade_batchnorm},
    {"Dropout", upgrade_dropout}, {"Add", upgrade_binary},
    {"Sub", upgrade_binary},      {"Mul", upgrade_binary},
    {"Div", upgrade_binary},      {"Pow", upgrade_binary},
};

nb_status nbi_qdq_upgrade(nbi_qdq *q, nbi_node *node) {
    if (*node->domain || q->source->opset == q->opset) return NB_OK;
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (is(node, rows[i].op_type)) return rows[i].upgrade(q, node);
    if (!nbi_op_find("", node->op_type))
        nb_log(q->ctx, NB_LOG_WARNING, "node '%s' (%s) is written as it was in opset %d, the model "
               "is opset %d", node->name, node->op_type, q->source->opset, q->opset);
    return NB_OK;
}
