/* Writes protobuf wire format by hand: the tests must be able to write what no library would. */
#ifndef NIBBLE_TEST_PB_WRITER_H
#define NIBBLE_TEST_PB_WRITER_H

#include "base/base.h"

#include <string.h>

static inline void pb_varint(nbi_buf *b, uint64_t v) {
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    nbi_buf_append(NULL, b, bytes, n);
}

static inline void pb_int(nbi_buf *b, uint32_t field, int64_t v) {
    pb_varint(b, (uint64_t)field << 3);
    pb_varint(b, (uint64_t)v);
}

static inline void pb_bytes(nbi_buf *b, uint32_t field, const void *data, size_t size) {
    pb_varint(b, (uint64_t)field << 3 | 2);
    pb_varint(b, size);
    nbi_buf_append(NULL, b, data, size);
}

static inline void pb_text(nbi_buf *b, uint32_t field, const char *text) {
    pb_bytes(b, field, text, strlen(text));
}

static inline void pb_float(nbi_buf *b, uint32_t field, float v) {
    pb_varint(b, (uint64_t)field << 3 | 5);
    nbi_buf_append(NULL, b, &v, 4);
}

/* Appends the child as a sub-message and frees it. */
static inline void pb_message(nbi_buf *b, uint32_t field, nbi_buf *child) {
    pb_bytes(b, field, child->data ? child->data : "", child->size);
    nbi_buf_free(child);
}

/* ---- pieces of ONNX ------------------------------------------------------------------------ */

/* TensorProto up to, and without, its data. */
static inline nbi_buf pb_tensor(const char *name, int type, int rank, const int64_t *dim) {
    nbi_buf t = {0};
    for (int i = 0; i < rank; i++) pb_int(&t, 1, dim[i]);
    pb_int(&t, 2, type);
    pb_text(&t, 8, name);
    return t;
}

/* ValueInfoProto of a tensor; dim < 0 gives the symbolic name "N". */
static inline nbi_buf pb_value(const char *name, int type, int rank, const int64_t *dim) {
    nbi_buf v = {0}, tp = {0}, tensor = {0}, shape = {0};
    for (int i = 0; i < rank; i++) {
        nbi_buf d = {0};
        if (dim[i] < 0)
            pb_text(&d, 2, "N");
        else
            pb_int(&d, 1, dim[i]);
        pb_message(&shape, 1, &d);
    }
    pb_int(&tensor, 1, type);
    pb_message(&tensor, 2, &shape);
    pb_message(&tp, 1, &tensor);
    pb_text(&v, 1, name);
    pb_message(&v, 2, &tp);
    return v;
}

/* NodeProto without attributes; input and output lists are separated by spaces, "-" is omitted. */
static inline nbi_buf pb_node(const char *op, const char *in, const char *out) {
    nbi_buf n = {0};
    for (int field = 1; field <= 2; field++) {
        const char *p = field == 1 ? in : out;
        while (*p) {
            size_t length = strcspn(p, " ");
            pb_bytes(&n, (uint32_t)field, p, *p == '-' ? 0 : length);
            p += length + (p[length] == ' ');
        }
    }
    pb_text(&n, 4, op);
    return n;
}

/* ModelProto around a graph, which it frees. */
static inline nbi_buf pb_model(int64_t ir, int64_t opset, nbi_buf *graph) {
    nbi_buf m = {0}, o = {0};
    pb_int(&m, 1, ir);
    pb_int(&o, 2, opset);
    pb_message(&m, 8, &o);
    pb_message(&m, 7, graph);
    return m;
}

#endif
