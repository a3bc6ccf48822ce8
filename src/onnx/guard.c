/* The gate in front of protobuf-c. One walk over the wire format, driven by the schema's own
 * descriptors, checks what protobuf-c would not: nesting (its parser recurses), lengths inside
 * their parents, repeated singular sub-messages (merging them is quadratic), NULs inside strings
 * (they would cut names short), and how much memory unpacking will take: an empty AttributeProto is
 * 2 bytes on disk and some 300 in memory. */
#include "onnx/proto.h"

#include <string.h>

#define MAX_NODES ((size_t)1 << 16)
/* Unpacked size allowed: a fixed part, and a multiple of the file (raw data costs 1, typed int64
 * data of small values 8). */
#define MEMORY_FIXED  ((size_t)256 << 20)
#define MEMORY_FACTOR 4
/* protobuf-c's temporary record of one scanned field, and an allocation's rounding. */
#define FIELD_BYTES 64
#define SEEN_FIELDS 32

typedef struct guard {
    nb_ctx *ctx;
    const uint8_t *start;
    size_t nodes, memory, memory_limit;
} guard;

typedef struct field {
    uint32_t number;
    unsigned wire;
    const uint8_t *body; /* of a length-delimited field */
    size_t length;
    size_t at; /* offset in the file */
} field;

static bool read_varint(const uint8_t **p, const uint8_t *end, uint64_t *out) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (*p == end) return false;
        uint8_t byte = *(*p)++;
        if (shift == 63 && byte > 1) return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *out = value;
            return true;
        }
    }
    return false;
}

static nb_status read_field(guard *g, const uint8_t **p, const uint8_t *end, field *f) {
    uint64_t tag, value;
    f->at = (size_t)(*p - g->start);
    if (!read_varint(p, end, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
        return nb_fail(g->ctx, NB_EFORMAT, "not a valid ONNX file: bad field tag at byte %zu",
                       f->at);
    f->number = (uint32_t)tag >> 3;
    f->wire = (unsigned)tag & 7;
    if (f->wire == 0) {
        if (!read_varint(p, end, &value))
            return nb_fail(g->ctx, NB_EFORMAT,
                           "not a valid ONNX file: malformed number at byte %zu", f->at);
        return NB_OK;
    }
    if (f->wire == 2) {
        if (!read_varint(p, end, &value))
            return nb_fail(g->ctx, NB_EFORMAT,
                           "not a valid ONNX file: malformed length at byte %zu", f->at);
        f->length = (size_t)value;
    } else if (f->wire == 1 || f->wire == 5) {
        f->length = f->wire == 1 ? 8 : 4;
    } else {
        return nb_fail(g->ctx, NB_EFORMAT,
                       "not a valid ONNX file: unknown wire type %u at byte %zu", f->wire, f->at);
    }
    if (f->length > (size_t)(end - *p))
        return nb_fail(g->ctx, NB_EFORMAT,
                       "not a valid ONNX file: a field of %zu bytes at byte %zu ends past its "
                       "parent (truncated file?)",
                       f->length, f->at);
    f->body = *p;
    *p += f->length;
    return NB_OK;
}

static nb_status take_memory(guard *g, size_t bytes) {
    g->memory += bytes;
    if (g->memory <= g->memory_limit) return NB_OK;
    return nb_fail(g->ctx, NB_EFORMAT,
                   "the ONNX file would take more than %zu MiB of memory to unpack, which its "
                   "size does not justify",
                   g->memory_limit >> 20);
}

/* Bytes that protobuf-c allocates for the contents of a field that is not a sub-message. */
static size_t content_bytes(const ProtobufCFieldDescriptor *d, const field *f) {
    if (f->wire != 2) return 8;
    if (d && d->label == PROTOBUF_C_LABEL_REPEATED && d->type != PROTOBUF_C_TYPE_STRING &&
        d->type != PROTOBUF_C_TYPE_BYTES) {
        bool wide = d->type == PROTOBUF_C_TYPE_INT64 || d->type == PROTOBUF_C_TYPE_UINT64;
        bool fixed = d->type == PROTOBUF_C_TYPE_FLOAT || d->type == PROTOBUF_C_TYPE_DOUBLE;
        return fixed ? f->length : f->length * (wide ? 8 : 4);
    }
    return f->length + 16;
}

static nb_status check_scalar(guard *g, const ProtobufCFieldDescriptor *d, const field *f) {
    if (d && d->type == PROTOBUF_C_TYPE_STRING && f->wire == 2 && strcmp(d->name, "doc_string") &&
        f->length && memchr(f->body, 0, f->length))
        return nb_fail(g->ctx, NB_EFORMAT, "not a valid ONNX file: '%s' at byte %zu holds a NUL",
                       d->name, f->at);
    return take_memory(g, content_bytes(d, f));
}

static nb_status walk(guard *g, const ProtobufCMessageDescriptor *type, const uint8_t *p,
                      size_t size, int depth) {
    const uint8_t *end = p + size;
    bool seen[SEEN_FIELDS] = {false};
    if (depth > NBI_ONNX_MAX_NESTING)
        return nb_fail(g->ctx, NB_EFORMAT,
                       "the ONNX file is nested more than %d messages deep at byte %zu",
                       NBI_ONNX_MAX_NESTING, (size_t)(p - g->start));
    if (type == &onnx__node_proto__descriptor && ++g->nodes > MAX_NODES)
        return nb_fail(g->ctx, NB_EFORMAT, "the ONNX file has more than %zu nodes", MAX_NODES);
    NB_TRY(take_memory(g, type->sizeof_message));
    while (p < end) {
        field f = {0};
        NB_TRY(read_field(g, &p, end, &f));
        NB_TRY(take_memory(g, FIELD_BYTES));
        const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(type, f.number);
        if (!d || d->type != PROTOBUF_C_TYPE_MESSAGE) {
            NB_TRY(check_scalar(g, d, &f));
            continue;
        }
        if (f.wire != 2)
            return nb_fail(g->ctx, NB_EFORMAT,
                           "not a valid ONNX file: field '%s' at byte %zu is not a message",
                           d->name, f.at);
        if (d->label != PROTOBUF_C_LABEL_REPEATED && f.number < SEEN_FIELDS) {
            if (seen[f.number])
                return nb_fail(g->ctx, NB_EFORMAT,
                               "not a valid ONNX file: a second '%s' at byte %zu", d->name, f.at);
            seen[f.number] = true;
        }
        NB_TRY(walk(g, d->descriptor, f.body, f.length, depth + 1));
    }
    return NB_OK;
}

nb_status nbi_proto_guard(nb_ctx *ctx, const ProtobufCMessageDescriptor *type, const void *data,
                          size_t size) {
    guard g = {.ctx = ctx, .start = data};
    if (size == 0) return nb_fail(ctx, NB_EFORMAT, "the file is empty, not an ONNX file");
    if (size > NBI_ONNX_MAX_BYTES)
        return nb_fail(ctx, NB_EFORMAT, "%zu bytes are more than an ONNX file can have", size);
    g.memory_limit = MEMORY_FIXED + size * MEMORY_FACTOR;
    return walk(&g, type, data, size, 1);
}

/* ---- unpacking ----------------------------------------------------------------------------- */

/* protobuf-c allocates from an arena; freeing is a no-op. */
typedef struct unpacker {
    nbi_arena *arena;
    bool failed;
} unpacker;

static void *arena_alloc(void *user, size_t size) {
    unpacker *u = user;
    void *p = nbi_arena_alloc(u->arena, size ? size : 1, 1);
    u->failed |= p == NULL;
    return p;
}

static void arena_free(void *user, void *pointer) {
    (void)user;
    (void)pointer;
}

nb_status nbi_proto_unpack(nb_ctx *ctx, const ProtobufCMessageDescriptor *type, const void *data,
                           size_t size, nbi_arena *arena, ProtobufCMessage **out) {
    unpacker u = {.arena = arena};
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &u};
    NB_TRY(nbi_proto_guard(ctx, type, data, size));
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, size, data);
    if (!message && u.failed) return nb_fail_memory(ctx, size);
    if (!message)
        return nb_fail(ctx, NB_EFORMAT, "not a valid ONNX file: a field has the wrong type");
    *out = message;
    return NB_OK;
}
