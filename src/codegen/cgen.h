/* Inside the C generator: what its files share. */
#ifndef NIBBLE_CODEGEN_CGEN_H
#define NIBBLE_CODEGEN_CGEN_H

#include "codegen/codegen.h"

typedef struct nbi_cgen {
    nb_ctx *ctx;
    const nbi_codegen_options *options;
    nbi_arena memory;
    nbi_program program; /* without its float tail; fused, planned; shares the constants */
    nbi_const_table *table; /* NBI_STEP_TABLES per step */
    size_t *scratch;        /* offset per step */
    size_t ram_bytes;       /* a multiple of 4 */
    const char *prefix, *upper;
    const char *model_name; /* clean */
    const char *cut;        /* clean name of the first operator left out, or NULL */
    const char *before;     /* clean options->stops_before, or NULL */
} nbi_cgen;

/* cgen_text.c: text made safe for a C comment: printable ASCII, no comment marks, no trigraphs, no
 * line splices; cut to `max` characters. NULL when there is no memory. */
const char *nbi_cgen_clean(nbi_arena *memory, const char *text, size_t max);
/* A finite number that round-trips, without a decimal point: 0x1999999999999ap-56. */
nb_status nbi_cgen_real(nb_ctx *ctx, nbi_buf *buf, double v);
/* The values between the braces of an initializer, wrapped. */
nb_status nbi_cgen_values(nb_ctx *ctx, nbi_buf *buf, nbi_const_kind kind, const void *data,
                          size_t count);
const char *nbi_cgen_c_type(nb_dtype dtype); /* "int32_t"; NULL: not an integer tensor */
/* The comment with the notes at the top of a file; `what` is one line. */
nb_status nbi_cgen_banner(const nbi_cgen *g, nbi_buf *buf, const char *what);
/* What output k's names end with: "" for the first, "2", "3", … */
const char *nbi_cgen_nth(int k);

nb_status nbi_cgen_header(nbi_cgen *g, nbi_buf *buf);   /* cgen_header.c */
nb_status nbi_cgen_weights(nbi_cgen *g, nbi_buf *buf);  /* cgen_weights.c */
nb_status nbi_cgen_model(nbi_cgen *g, nbi_buf *buf);    /* cgen_model.c */
nb_status nbi_cgen_selftest(nbi_cgen *g, nbi_buf *buf); /* cgen_selftest.c */
nb_status nbi_cgen_main(nbi_cgen *g, nbi_buf *buf);     /* cgen_selftest.c */

#endif
