/* Nodes that are kept, in the meaning of a newer opset: attributes that became inputs, defaults that
 * changed, operators that became others; from opset 7 or older up to 21. */
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

/* The one axis from `axis` on that has more than one value (the batch may have any number); −1:
 * there are several, or x is not known. */
static int only_axis(const nbi_tensor *x, int64_t axis) {
    int found = -1;
    if (!x || x->rank < 0) return -1;
    if (axis < 0) axis += x->rank;
    if (axis < 0 || axis >= x->rank) return -1;
    for (int i = (int)axis; i < x->rank; i++) {
        if (i > 0 && x->dim[i] == 1) continue;
        if (found >= 0) return -1;
        found = i;
    }
    return found < 0 ? (int)axis : found;
}

/* Before opset 13: over all axes from one on, which is over the second of Flatten's two. */
static nb_status upgrade_softmax(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]) {
    int64_t axis = nbi_attr_int(node, "axis", 1);
    int only = only_axis(x[0], axis), in[2], flat, made;
    nbi_node *flatten;
    if (q->source->opset >= 13 || node->n_in < 1 || node->n_out < 1) return NB_OK;
    if (node->in[0] < 0 || node->out[0] < 0) return NB_OK;
    if (only >= 0) return nbi_node_set_int(q->ctx, q->g, node, "axis", only);
    in[0] = node->in[0];
    NB_TRY(nbi_qdq_node(q, NULL, "Shape", 1, in, -1, NULL, &in[1]));
    NB_TRY(nbi_qdq_node(q, NULL, "Flatten", 1, in, -1, &flatten, &flat));
    NB_TRY(nbi_node_set_int(q->ctx, q->g, flatten, "axis", axis));
    NB_TRY(nbi_graph_add_tensor(q->ctx, q->g, NULL, NB_DTYPE_NONE, -1, NULL, &in[0]));
    made = node->out[0];
    node->in[0] = flat;
    node->out[0] = in[0];
    NB_TRY(nbi_qdq_node(q, NULL, "Reshape", 2, in, made, NULL, &made));
    return nbi_node_set_int(q->ctx, q->g, node, "axis", -1);
}

/* The sizes' factors as an input: the attribute `scales`, or one per axis of pictures (before opset
 * 7); −1: neither. */
static nb_status scales_of(nbi_qdq *q, const nbi_node *node, int *out) {
    const nbi_attr *a = nbi_node_attr(node, "scales");
    const float old[4] = {1, 1, nbi_attr_float(node, "height_scale", 0),
                          nbi_attr_float(node, "width_scale", 0)};
    int64_t n = 4;
    *out = node->n_in > 1 ? node->in[1] : -1;
    if (*out >= 0) return NB_OK;
    if (a && a->type == NBI_ATTR_FLOATS) {
        n = (int64_t)a->count;
        return nbi_qdq_const(q, NB_DTYPE_F32, 1, &n, a->floats, out);
    }
    return old[2] > 0 && old[3] > 0 ? nbi_qdq_const(q, NB_DTYPE_F32, 1, &n, old, out) : NB_OK;
}

static bool shrinks(const nbi_tensor *scales) {
    bool any = false;
    if (!scales->data || scales->dtype != NB_DTYPE_F32) return false;
    for (int64_t i = 0; i < nbi_tensor_count(scales); i++)
        any |= ((const float *)scales->data)[i] < 1;
    return any;
}

/* Upsample, and Resize of opset 10, as the Resize of today: coordinates are multiplied, and cut
 * (rounded up where the picture shrinks, as ONNX Runtime does). */
static nb_status upgrade_resize(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]) {
    int scales;
    (void)x;
    if (q->source->opset >= 11 || node->n_in < 1) return NB_OK;
    NB_TRY(scales_of(q, node, &scales));
    if (scales < 0) {
        nb_log(q->ctx, NB_LOG_WARNING, "node '%s' (%s) has no scales: it is written as it was",
               node->name, node->op_type);
        return NB_OK;
    }
    const char *mode = nbi_attr_text(node, "mode", "nearest");
    bool nearest = !strcmp(mode, "nearest"), linear = !strcmp(mode, "bilinear");
    drop(node, "scales");
    drop(node, "height_scale");
    drop(node, "width_scale");
    node->op_type = "Resize";
    NB_TRY(set_input(q, node, 1, NBI_NO_TENSOR));
    NB_TRY(set_input(q, node, 2, scales));
    if (linear) NB_TRY(nbi_node_set_text(q->ctx, q->g, node, "mode", "linear"));
    if (nearest)
        NB_TRY(nbi_node_set_text(q->ctx, q->g, node, "nearest_mode",
                                 shrinks(q->g->tensor[scales]) ? "ceil" : "floor"));
    return nbi_node_set_text(q->ctx, q->g, node, "coordinate_transformation_mode", "asymmetric");
}

static nb_status upgrade_axes(nbi_qdq *q, nbi_node *node) {
    return ints_to_input(q, node, "axes", 1);
}

static nb_status upgrade_topk(nbi_qdq *q, nbi_node *node) {
    int64_t k = nbi_attr_int(node, "k", -1);
    int tensor;
    if (k < 0) return NB_OK;
    NB_TRY(nbi_qdq_ints(q, 1, &k, &tensor));
    drop(node, "k");
    return set_input(q, node, 1, tensor);
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

/* The second operand's dimensions begin at `axis` of the first: those that follow it become dimensions
 * of 1. */
static nb_status align(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2], int64_t axis) {
    int64_t behind[NBI_MAX_RANK];
    const int of = x[0] ? x[0]->rank : -1, rank = x[1] ? x[1]->rank : -1;
    if (of < 0 || rank < 0)
        return nb_fail(q->ctx, NB_EUNSUPPORTED, "node '%s' (%s) broadcasts along axis %lld as opset "
                       "%d did, and the shapes of its inputs are not known", node->name,
                       node->op_type, (long long)axis, q->source->opset);
    if (axis < 0) axis += of;
    const int ones = of - rank - (int)axis;
    if (ones <= 0) return NB_OK;
    for (int i = 0; i < ones; i++) behind[i] = rank + i;
    int in[2] = {node->in[1], -1}, made;
    NB_TRY(nbi_qdq_ints(q, ones, behind, &in[1]));
    NB_TRY(nbi_qdq_node(q, NULL, "Unsqueeze", 2, in, -1, NULL, &made));
    return set_input(q, node, 1, made);
}

/* Before opset 7 an attribute said where the second operand's dimensions begin in the first. */
static nb_status upgrade_binary(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]) {
    if (q->source->opset >= 7) return NB_OK;
    int64_t axis = nbi_attr_int(node, "axis", INT64_MIN);
    const bool aligned = nbi_attr_int(node, "broadcast", 0) && axis != INT64_MIN;
    drop(node, "broadcast");
    drop(node, "axis");
    if (!aligned || node->n_in < 2 || node->in[1] < 0) return NB_OK;
    return align(q, node, x, axis);
}

/* Before opset 7 a slope of several values had one per channel. */
static nb_status upgrade_prelu(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]) {
    if (q->source->opset >= 7 || node->n_in < 2 || node->in[1] < 0) return NB_OK;
    if (x[1] && x[1]->rank >= 0 && nbi_tensor_count(x[1]) == 1) return NB_OK;
    return align(q, node, x, 1);
}

static const struct {
    const char *op_type;
    nb_status (*upgrade)(nbi_qdq *q, nbi_node *node);
} rows[] = {
    {"Clip", upgrade_clip},           {"TopK", upgrade_topk},
    {"ReduceMean", upgrade_axes},     {"ReduceSum", upgrade_axes},
    {"ReduceMax", upgrade_axes},      {"ReduceMin", upgrade_axes},
    {"ReduceProd", upgrade_axes},     {"ReduceL1", upgrade_axes},
    {"ReduceL2", upgrade_axes},       {"ReduceSumSquare", upgrade_axes},
    {"ReduceLogSum", upgrade_axes},   {"ReduceLogSumExp", upgrade_axes},
    {"Squeeze", upgrade_axes},        {"Unsqueeze", upgrade_axes},
    {"Split", upgrade_split},         {"Slice", upgrade_slice},
    {"Pad", upgrade_pad},             {"BatchNormalization", upgrade_batchnorm},
    {"Dropout", upgrade_dropout},
};

/* Those that need the shapes of their first inputs, or become other nodes. */
static const struct {
    const char *op_type;
    nb_status (*upgrade)(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]);
} shaped[] = {
    {"Softmax", upgrade_softmax}, {"LogSoftmax", upgrade_softmax}, {"Hardmax", upgrade_softmax},
    {"Resize", upgrade_resize},   {"Upsample", upgrade_resize},   {"Add", upgrade_binary},
    {"Sub", upgrade_binary},      {"Mul", upgrade_binary},        {"Div", upgrade_binary},
    {"Pow", upgrade_binary},      {"PRelu", upgrade_prelu},
};

nb_status nbi_qdq_upgrade(nbi_qdq *q, nbi_node *node, const nbi_tensor *const x[2]) {
    if (*node->domain || q->source->opset == q->opset) return NB_OK;
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (is(node, rows[i].op_type)) return rows[i].upgrade(q, node);
    for (size_t i = 0; i < NBI_COUNT(shaped); i++)
        if (is(node, shaped[i].op_type)) return shaped[i].upgrade(q, node, x);
    if (!nbi_op_find("", node->op_type))
        nb_log(q->ctx, NB_LOG_WARNING, "node '%s' (%s) is written as it was in opset %d, the model "
               "is opset %d", node->name, node->op_type, q->source->opset, q->opset);
    return NB_OK;
}
