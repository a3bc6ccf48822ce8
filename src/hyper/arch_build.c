/* Layers as ONNX nodes. Every node is inferred as soon as it is added, so that the next one can ask
 * for its input's shape and a size that does not fit is reported by the layer's name. */
#include "hyper/arch_build.h"

#include "ops/op.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *nbi_build_name(nbi_builder *b, const char *format, ...) {
    char text[96];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *kept = b->st == NB_OK ? nbi_arena_text(&b->graph->arena, text, strlen(text)) : "";
    if (kept) return kept;
    b->st = nb_fail_memory(b->ctx, strlen(text));
    return "";
}

int nbi_build_width(const nbi_builder *b, int channels) {
    double exact = channels * b->width;
    int rounded = (int)((exact + 4) / 8) * 8;
    if (rounded < 8) rounded = 8;
    return rounded < 0.9 * exact ? rounded + 8 : rounded;
}

int64_t nbi_build_dim(const nbi_builder *b, int x, int axis) {
    const nbi_tensor *t = b->graph->tensor[x];
    return b->st == NB_OK && axis < t->rank ? t->dim[axis] : 1;
}

/* A node with one output named as itself; x after a failure. */
static int add_node(nbi_builder *b, const char *name, const char *type, int n_in, const int *in,
                    nbi_node **node) {
    int out;
    if (b->st == NB_OK)
        b->st = nbi_graph_add_tensor(b->ctx, b->graph, name, NB_DTYPE_NONE, -1, NULL, &out);
    if (b->st == NB_OK)
        b->st = nbi_graph_add_node(b->ctx, b->graph, name, "", type, n_in, in, 1, &out, node);
    return b->st == NB_OK ? out : in[0];
}

/* Shapes of the node just added; x after a failure. */
static int finish(nbi_builder *b, nbi_node *node, int out, int x) {
    if (b->st == NB_OK) b->st = nbi_node_infer(b->ctx, b->graph, node);
    return b->st == NB_OK ? out : x;
}

static void set_ints(nbi_builder *b, nbi_node *node, const char *name, size_t n,
                     const int64_t *values) {
    if (b->st == NB_OK) b->st = nbi_node_set_ints(b->ctx, b->graph, node, name, n, values);
}

static void set_int(nbi_builder *b, nbi_node *node, const char *name, int64_t value) {
    if (b->st == NB_OK) b->st = nbi_node_set_int(b->ctx, b->graph, node, name, value);
}

static int add_const(nbi_builder *b, const char *owner, const char *part, int rank,
                     const int64_t *dim) {
    int t = 0;
    const char *name = nbi_build_name(b, "%s.%s", owner, part);
    if (b->st == NB_OK)
        b->st = nbi_graph_add_const(b->ctx, b->graph, name, NB_DTYPE_F32, rank, dim, &t);
    return t;
}

static int add_scalar(nbi_builder *b, const char *owner, const char *part, float value) {
    int t = add_const(b, owner, part, 0, NULL);
    if (b->st == NB_OK) *(float *)b->graph->tensor[t]->data = value;
    return t;
}

/* TensorFlow's SAME: ceil(size/stride) outputs, the odd pixel at the end. */
static void same_pads(int64_t size, int64_t kernel, int64_t stride, int64_t *begin, int64_t *end) {
    int64_t out = (size + stride - 1) / stride, total = (out - 1) * stride + kernel - size;
    if (total < 0) total = 0;
    *begin = total / 2;
    *end = total - total / 2;
}

int nbi_build_conv(nbi_builder *b, const char *name, int x, nbi_conv_spec s) {
    int64_t c = nbi_build_dim(b, x, 1), m = s.depthwise ? c : s.channels;
    int64_t kernel[2] = {s.kernel, s.kernel_w ? s.kernel_w : s.kernel};
    int64_t stride[2] = {s.stride, s.stride}, pads[4];
    int64_t dim[4] = {m, s.depthwise ? 1 : c, kernel[0], kernel[1]};
    for (int a = 0; a < 2; a++) {
        pads[a] = pads[2 + a] = kernel[a] / 2;
        if (s.same) same_pads(nbi_build_dim(b, x, 2 + a), kernel[a], s.stride, &pads[a], &pads[2 + a]);
    }
    int in[3] = {x, add_const(b, name, "weight", 4, dim), NBI_NO_TENSOR};
    if (s.bias) in[2] = add_const(b, name, "bias", 1, &m);
    nbi_node *node = NULL;
    int y = add_node(b, name, "Conv", s.bias ? 3 : 2, in, &node);
    set_ints(b, node, "kernel_shape", 2, kernel);
    set_ints(b, node, "strides", 2, stride);
    set_ints(b, node, "pads", 4, pads);
    set_int(b, node, "group", s.depthwise ? c : 1);
    return finish(b, node, y, x);
}

int nbi_build_norm(nbi_builder *b, const char *name, int x) {
    int64_t c = nbi_build_dim(b, x, 1);
    int in[5] = {x, add_const(b, name, "weight", 1, &c), add_const(b, name, "bias", 1, &c),
                 add_const(b, name, "running_mean", 1, &c), add_const(b, name, "running_var", 1, &c)};
    nbi_node *node = NULL;
    int y = add_node(b, name, "BatchNormalization", 5, in, &node);
    return finish(b, node, y, x);
}

int nbi_build_relu(nbi_builder *b, const char *name, int x) {
    nbi_node *node = NULL;
    int y = add_node(b, name, "Relu", 1, &x, &node);
    return finish(b, node, y, x);
}

int nbi_build_relu6(nbi_builder *b, const char *name, int x) {
    int in[3] = {x, add_scalar(b, name, "min", 0), add_scalar(b, name, "max", 6)};
    nbi_node *node = NULL;
    int y = add_node(b, name, "Clip", 3, in, &node);
    return finish(b, node, y, x);
}

int nbi_build_add(nbi_builder *b, const char *name, int x, int y) {
    const int in[2] = {x, y};
    nbi_node *node = NULL;
    int z = add_node(b, name, "Add", 2, in, &node);
    return finish(b, node, z, x);
}

int nbi_build_maxpool(nbi_builder *b, const char *name, int x, int kernel, int stride, int pad) {
    const int64_t k[2] = {kernel, kernel}, s[2] = {stride, stride}, pads[4] = {pad, pad, pad, pad};
    nbi_node *node = NULL;
    int y = add_node(b, name, "MaxPool", 1, &x, &node);
    set_ints(b, node, "kernel_shape", 2, k);
    set_ints(b, node, "strides", 2, s);
    set_ints(b, node, "pads", 4, pads);
    return finish(b, node, y, x);
}

int nbi_build_flatten(nbi_builder *b, const char *name, int x) {
    nbi_node *node = NULL;
    int y = add_node(b, name, "Flatten", 1, &x, &node);
    set_int(b, node, "axis", 1);
    return finish(b, node, y, x);
}

int nbi_build_global_pool(nbi_builder *b, const char *name, int x) {
    nbi_node *node = NULL;
    int y = add_node(b, name, "GlobalAveragePool", 1, &x, &node);
    y = finish(b, node, y, x);
    return nbi_build_flatten(b, nbi_build_name(b, "%s.flat", name), y);
}

int nbi_build_dropout(nbi_builder *b, const char *name, int x, float ratio) {
    const int in[2] = {x, add_scalar(b, name, "ratio", ratio)};
    nbi_node *node = NULL;
    int y = add_node(b, name, "Dropout", 2, in, &node);
    return finish(b, node, y, x);
}

int nbi_build_dense(nbi_builder *b, const char *name, int x, int64_t outputs) {
    const int64_t dim[2] = {outputs, nbi_build_dim(b, x, 1)};
    const int in[3] = {x, add_const(b, name, "weight", 2, dim), add_const(b, name, "bias", 1, dim)};
    nbi_node *node = NULL;
    int y = add_node(b, name, "Gemm", 3, in, &node);
    set_int(b, node, "transB", 1);
    return finish(b, node, y, x);
}

int nbi_build_conv_norm(nbi_builder *b, const char *name, int x, nbi_conv_spec spec) {
    x = nbi_build_conv(b, name, x, spec);
    return nbi_build_norm(b, nbi_build_name(b, "%s.norm", name), x);
}

int nbi_build_conv_norm_relu(nbi_builder *b, const char *name, int x, nbi_conv_spec spec) {
    x = nbi_build_conv_norm(b, name, x, spec);
    return nbi_build_relu(b, nbi_build_name(b, "%s.relu", name), x);
}
