/* Text of generated C: hostile names in comments, numbers, initializers. */
#include "codegen/cgen.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *nbi_cgen_clean(nbi_arena *memory, const char *text, size_t max) {
    size_t length = strlen(text), n = 0;
    const bool cut = length > max;
    if (cut) length = max;
    /* a space may go between any two characters */
    char *clean = nbi_arena_alloc(memory, 2 * length + 4, 1);
    if (!clean) return NULL;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c < ' ' || c > '~' || c == '"') c = '_';
        if (c == '\\') c = '/';
        const char last = n ? clean[n - 1] : 0;
        if ((last == '*' && c == '/') || (last == '/' && c == '*') || (last == '?' && c == '?'))
            clean[n++] = ' ';
        clean[n++] = c;
    }
    /* what stands behind it must not make a comment mark with it */
    if (n && (clean[n - 1] == '*' || clean[n - 1] == '/')) clean[n++] = ' ';
    if (cut) {
        memcpy(clean + n, "..", 2);
        n += 2;
    }
    clean[n] = 0;
    return clean;
}

nb_status nbi_cgen_real(nb_ctx *ctx, nbi_buf *buf, double v) {
    int exponent;
    if (!isfinite(v)) return nb_fail(ctx, NB_ENUMERIC, "a scale of the program is not finite");
    const double fraction = frexp(fabs(v), &exponent);
    return nbi_buf_printf(ctx, buf, "%s0x%llxp%d", v < 0 ? "-" : "",
                          (unsigned long long)ldexp(fraction, 53), v == 0 ? 0 : exponent - 53);
}

static int value_text(char *text, size_t size, nbi_const_kind kind, const void *data, size_t i) {
    if (kind == NBI_CONST_U8) return snprintf(text, size, "%d,", ((const uint8_t *)data)[i]);
    if (kind == NBI_CONST_S8) return snprintf(text, size, "%d,", ((const int8_t *)data)[i]);
    if (kind == NBI_CONST_S16) return snprintf(text, size, "%d,", ((const int16_t *)data)[i]);
    const int32_t v = ((const int32_t *)data)[i];
    if (v == INT32_MIN) return snprintf(text, size, "(-2147483647 - 1),");
    return snprintf(text, size, "%ld,", (long)v);
}

nb_status nbi_cgen_values(nb_ctx *ctx, nbi_buf *buf, nbi_const_kind kind, const void *data,
                          size_t count) {
    char line[160];
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (used == 0) used = (size_t)snprintf(line, sizeof line, "    ");
        used += (size_t)value_text(line + used, sizeof line - used, kind, data, i);
        if (used < 92 && i + 1 < count) continue;
        line[used++] = '\n';
        NB_TRY(nbi_buf_append(ctx, buf, line, used));
        used = 0;
    }
    return NB_OK;
}

const char *nbi_cgen_c_type(nb_dtype dtype) {
    return dtype == NB_DTYPE_U8    ? "uint8_t"
           : dtype == NB_DTYPE_S8  ? "int8_t"
           : dtype == NB_DTYPE_S32 ? "int32_t"
                                   : NULL;
}

const char *nbi_cgen_nth(int k) {
    static const char *const nth[NBI_CODEGEN_OUTPUTS] = {"", "2", "3", "4", "5", "6", "7", "8"};
    return nth[k];
}

nb_status nbi_cgen_banner(const nbi_cgen *g, nbi_buf *buf, const char *what) {
    NB_TRY(nbi_buf_printf(g->ctx, buf, "/* %s of the network \"%s\".\n", what, g->model_name));
    for (int i = 0; i < g->options->n_notes; i++) {
        nbi_arena memory = {0};
        const char *note = nbi_cgen_clean(&memory, g->options->notes[i], 2000);
        nb_status st = note ? nbi_buf_printf(g->ctx, buf, " * %s\n", note)
                            : nb_fail(g->ctx, NB_ENOMEM, "no memory for a comment");
        nbi_arena_free(&memory);
        NB_TRY(st);
    }
    return nbi_buf_printf(g->ctx, buf, " * Generated: change the network, not this file. */\n");
}
