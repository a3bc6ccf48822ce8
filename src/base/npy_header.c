/* .npy headers: a magic, a version, and a Python dictionary literal with three known keys. Only
 * that literal's grammar is accepted, nothing is evaluated. */
#include "base/npy_header.h"

#include <string.h>

#define MAX_HEADER ((size_t)1 << 16)
#define MAX_COUNT  ((int64_t)1 << 40)

static const struct {
    const char *descr;
    nb_dtype dtype;
} types[] = {
    {"<f4", NB_DTYPE_F32}, {"<f8", NB_DTYPE_F64}, {"<f2", NB_DTYPE_F16}, {"|i1", NB_DTYPE_S8},
    {"|u1", NB_DTYPE_U8},  {"<i2", NB_DTYPE_S16}, {"<u2", NB_DTYPE_U16}, {"<i4", NB_DTYPE_S32},
    {"<u4", NB_DTYPE_U32}, {"<i8", NB_DTYPE_S64}, {"<u8", NB_DTYPE_U64}, {"|b1", NB_DTYPE_BOOL},
    {"<i1", NB_DTYPE_S8},  {"<u1", NB_DTYPE_U8},
};

typedef struct cursor {
    nb_ctx *ctx;
    const char *what;
    const char *p, *end;
} cursor;

static nb_status bad(const cursor *c, const char *wanted) {
    return nb_fail(c->ctx, NB_EFORMAT, "'%s': malformed .npy header (want %s)", c->what, wanted);
}

static void skip_spaces(cursor *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n')) c->p++;
}

static bool take(cursor *c, char wanted) {
    skip_spaces(c);
    if (c->p == c->end || *c->p != wanted) return false;
    c->p++;
    return true;
}

/* A quoted string without escapes, into text of `size` bytes. */
static nb_status take_text(cursor *c, char *text, size_t size) {
    char quote = '\'';
    size_t n = 0;
    if (!take(c, quote) && !take(c, quote = '"')) return bad(c, "a quoted string");
    while (c->p < c->end && *c->p != quote && *c->p != '\\' && n + 1 < size) text[n++] = *c->p++;
    text[n] = 0;
    return take(c, quote) ? NB_OK : bad(c, "a short quoted string");
}

static nb_status take_descr(cursor *c, nbi_npy_info *out) {
    char descr[16];
    if (take(c, '['))
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "'%s' holds records: not supported", c->what);
    NB_TRY(take_text(c, descr, sizeof descr));
    for (size_t i = 0; i < NBI_COUNT(types); i++)
        if (!strcmp(types[i].descr, descr)) {
            out->dtype = types[i].dtype;
            return NB_OK;
        }
    for (char *p = descr; *p; p++)
        if (*p < ' ' || *p > '~') *p = '?';
    return nb_fail(c->ctx, NB_EUNSUPPORTED, "'%s' has the element type '%s': not supported",
                   c->what, descr);
}

static nb_status take_order(cursor *c) {
    skip_spaces(c);
    size_t left = (size_t)(c->end - c->p);
    if (left >= 4 && !memcmp(c->p, "True", 4))
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "'%s' is in Fortran order: not supported", c->what);
    if (left < 5 || memcmp(c->p, "False", 5) != 0) return bad(c, "True or False");
    c->p += 5;
    return NB_OK;
}

static nb_status take_shape(cursor *c, nbi_npy_info *out) {
    if (!take(c, '(')) return bad(c, "a tuple");
    out->rank = 0;
    while (!take(c, ')')) {
        int64_t value = 0;
        skip_spaces(c);
        const char *first = c->p;
        if (out->rank == NBI_NPY_MAX_RANK)
            return nb_fail(c->ctx, NB_EUNSUPPORTED, "'%s' has more than %d dimensions", c->what,
                           NBI_NPY_MAX_RANK);
        for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++) {
            value = value * 10 + (*c->p - '0');
            if (value > MAX_COUNT) return bad(c, "a sane dimension");
        }
        if (c->p == first) return bad(c, "a dimension");
        out->dim[out->rank++] = value;
        if (!take(c, ',')) {
            if (!take(c, ')')) return bad(c, "')'");
            break;
        }
    }
    return NB_OK;
}

static nb_status take_dictionary(cursor *c, nbi_npy_info *out) {
    enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
    unsigned seen = 0;
    if (!take(c, '{')) return bad(c, "a dictionary");
    while (!take(c, '}')) {
        char key[16];
        NB_TRY(take_text(c, key, sizeof key));
        if (!take(c, ':')) return bad(c, "':'");
        unsigned bit = !strcmp(key, "descr")           ? DESCR
                       : !strcmp(key, "fortran_order") ? ORDER
                       : !strcmp(key, "shape")         ? SHAPE
                                                       : 0;
        if (!bit || (seen & bit)) return bad(c, "descr, fortran_order and shape, each once");
        NB_TRY(bit == DESCR   ? take_descr(c, out)
               : bit == ORDER ? take_order(c)
                              : take_shape(c, out));
        seen |= bit;
        if (!take(c, ',') && (c->p == c->end || *c->p != '}')) return bad(c, "',' or '}'");
    }
    return seen == (DESCR | ORDER | SHAPE) ? NB_OK : bad(c, "descr, fortran_order and shape");
}

nb_status nbi_npy_parse(nb_ctx *ctx, const char *what, const void *data, size_t size,
                        nbi_npy_info *out) {
    const uint8_t *b = data;
    nbi_npy_info npy = {0};
    if (size < 12 || memcmp(b, "\x93NUMPY", 6) != 0 || b[6] < 1 || b[6] > 3)
        return nb_fail(ctx, NB_EFORMAT, "'%s' is not a .npy array", what);
    size_t start = b[6] == 1 ? 10 : 12;
    size_t length = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1) length |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (length > MAX_HEADER || length > size - start)
        return nb_fail(ctx, NB_EFORMAT, "'%s': the .npy header is cut off", what);
    cursor c = {ctx, what, (const char *)b + start, (const char *)b + start + length};
    NB_TRY(take_dictionary(&c, &npy));
    int64_t count = 1;
    for (int i = 0; i < npy.rank; i++) {
        if (npy.dim[i] && count > MAX_COUNT / npy.dim[i]) return bad(&c, "a sane shape");
        count *= npy.dim[i];
    }
    npy.count = (size_t)count;
    npy.bytes = nbi_dtype_bytes(npy.dtype, npy.count);
    npy.offset = start + length;
    *out = npy;
    return NB_OK;
}

nb_status nbi_npy_write_header(nb_ctx *ctx, nb_dtype dtype, int rank, const int64_t *dim,
                               nbi_buf *out) {
    const char *descr = NULL;
    nbi_buf text = {0};
    nb_status st;
    for (size_t i = NBI_COUNT(types); i-- > 0;)
        if (types[i].dtype == dtype) descr = types[i].descr;
    if (!descr)
        return nb_fail(ctx, NB_EUNSUPPORTED, "type %s cannot be written as .npy",
                       nbi_dtype_name(dtype));
    NB_TRYG(
        nbi_buf_printf(ctx, &text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr));
    for (int i = 0; i < rank; i++)
        NB_TRYG(nbi_buf_printf(ctx, &text, "%s%lld%s", i ? ", " : "", (long long)dim[i],
                               rank == 1 ? "," : ""));
    NB_TRYG(nbi_buf_printf(ctx, &text, "), }"));
    while ((10 + text.size + 1) % 64) NB_TRYG(nbi_buf_append(ctx, &text, " ", 1));
    NB_TRYG(nbi_buf_append(ctx, &text, "\n", 1));
    const uint8_t head[10] = {0x93,
                              'N',
                              'U',
                              'M',
                              'P',
                              'Y',
                              1,
                              0,
                              (uint8_t)(text.size & 0xff),
                              (uint8_t)(text.size >> 8)};
    NB_TRYG(nbi_buf_append(ctx, out, head, sizeof head));
    st = nbi_buf_append(ctx, out, text.data, text.size);
done:
    nbi_buf_free(&text);
    return st;
}
