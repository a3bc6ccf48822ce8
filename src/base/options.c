/* "key=value,…" over a table of options; also the names and sizes of data types. */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static nb_status parse_choice(nb_ctx *ctx, const char *owner, const nbi_option *o, const char *text,
                              double *value) {
    size_t want = strlen(text), index = 0;
    for (const char *p = o->choices; p; index++) {
        const char *end = strchr(p, '|');
        size_t len = end ? (size_t)(end - p) : strlen(p);
        if (len == want && strncmp(p, text, len) == 0) {
            *value = (double)index;
            return NB_OK;
        }
        p = end ? end + 1 : NULL;
    }
    return nb_fail(ctx, NB_EINVAL, "%s: %s=%s is not one of %s", owner, o->name, text, o->choices);
}

static nb_status parse_value(nb_ctx *ctx, const char *owner, const nbi_option *o, const char *text,
                             double *value) {
    if (o->type == NBI_OPT_TEXT)
        return *text ? NB_OK : nb_fail(ctx, NB_EINVAL, "%s: %s= has no value", owner, o->name);
    if (o->type == NBI_OPT_CHOICE) return parse_choice(ctx, owner, o, text, value);
    char *end;
    double x = strtod(text, &end);
    if (o->type == NBI_OPT_BOOL && (!strcmp(text, "true") || !strcmp(text, "yes"))) x = 1;
    else if (o->type == NBI_OPT_BOOL && (!strcmp(text, "false") || !strcmp(text, "no"))) x = 0;
    else if (end == text || *end || !isfinite(x))
        return nb_fail(ctx, NB_EINVAL, "%s: %s=%s is not a number", owner, o->name, text);
    if (o->type != NBI_OPT_REAL && x != floor(x))
        return nb_fail(ctx, NB_EINVAL, "%s: %s=%s is not a whole number", owner, o->name, text);
    if (x < o->min || x > o->max)
        return nb_fail(ctx, NB_EINVAL, "%s: %s=%s is outside %g..%g", owner, o->name, text, o->min,
                       o->max);
    *value = x;
    return NB_OK;
}

nb_status nbi_options_parse(nb_ctx *ctx, const char *owner, const nbi_option *table, size_t n,
                            const char *text, double *values) {
    for (size_t i = 0; i < n; i++) values[i] = table[i].def;
    while (text && *text) {
        char item[256];
        size_t len = strcspn(text, ",");
        if (len >= sizeof item)
            return nb_fail(ctx, NB_EINVAL, "%s: option text too long: %.40s…", owner, text);
        memcpy(item, text, len);
        item[len] = 0;
        text += len + (text[len] == ',');
        char *value = strchr(item, '=');
        if (!value) return nb_fail(ctx, NB_EINVAL, "%s: '%s' is not key=value", owner, item);
        *value++ = 0;
        size_t i = 0;
        while (i < n && strcmp(table[i].name, item) != 0) i++;
        if (i == n) return nb_fail(ctx, NB_EINVAL, "%s has no option '%s'", owner, item);
        NB_TRY(parse_value(ctx, owner, &table[i], value, &values[i]));
    }
    return NB_OK;
}

/* What stands behind the last "name=" of a text; NULL: nothing does. */
static const char *value_of(const char *text, const char *name) {
    const char *found = NULL;
    size_t n = strlen(name);
    for (; text && *text; text += strcspn(text, ","), text += *text == ',')
        if (!strncmp(text, name, n) && text[n] == '=') found = text + n + 1;
    return found;
}

bool nbi_options_given(const char *text, const char *name) {
    return value_of(text, name) != NULL;
}

const char *nbi_options_text(nbi_arena *arena, const char *text, const char *name) {
    const char *found = value_of(text, name);
    return found ? nbi_arena_text(arena, found, strcspn(found, ",")) : NULL;
}

static const struct {
    const char *name;
    int bits;
} dtypes[] = {
    [NB_DTYPE_NONE] = {"none", 0},    [NB_DTYPE_F32] = {"float32", 32},
    [NB_DTYPE_F64] = {"float64", 64}, [NB_DTYPE_F16] = {"float16", 16},
    [NB_DTYPE_BF16] = {"bfloat16", 16}, [NB_DTYPE_S8] = {"int8", 8},
    [NB_DTYPE_U8] = {"uint8", 8},     [NB_DTYPE_S16] = {"int16", 16},
    [NB_DTYPE_U16] = {"uint16", 16},  [NB_DTYPE_S32] = {"int32", 32},
    [NB_DTYPE_U32] = {"uint32", 32},  [NB_DTYPE_S64] = {"int64", 64},
    [NB_DTYPE_U64] = {"uint64", 64},  [NB_DTYPE_BOOL] = {"bool", 8},
    [NB_DTYPE_S4] = {"int4", 4},      [NB_DTYPE_U4] = {"uint4", 4},
    [NB_DTYPE_S2] = {"int2", 2},      [NB_DTYPE_U2] = {"uint2", 2},
    [NB_DTYPE_STRING] = {"string", 0},
};

const char *nbi_dtype_name(nb_dtype dtype) {
    return (size_t)dtype < NBI_COUNT(dtypes) ? dtypes[dtype].name : "none";
}

int nbi_dtype_bits(nb_dtype dtype) {
    return (size_t)dtype < NBI_COUNT(dtypes) ? dtypes[dtype].bits : 0;
}

size_t nbi_dtype_bytes(nb_dtype dtype, size_t count) {
    size_t bits = (size_t)nbi_dtype_bits(dtype);
    return bits >= 8 ? count * (bits / 8) : (count * bits + 7) / 8;
}
