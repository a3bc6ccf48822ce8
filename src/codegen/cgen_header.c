/* <prefix>.h: sizes, scales and functions of the generated network. */
#include "codegen/cgen.h"

static nb_status shape(const nbi_cgen *g, nbi_buf *buf, const char *what, const nbi_ptensor *t) {
    const char *u = g->upper;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#define %s_%s_HEIGHT %d\n#define %s_%s_WIDTH %d\n", u, what,
                          t->h, u, what, t->w));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#define %s_%s_CHANNELS %d\n#define %s_%s_COUNT %zu\n", u,
                          what, t->c, u, what, t->count));
    return NB_OK;
}

static nb_status scale(const nbi_cgen *g, nbi_buf *buf, const char *what, const nbi_ptensor *t) {
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#define %s_%s_SCALE ", g->upper, what));
    NB_TRY(nbi_cgen_real(g->ctx, buf, t->scale));
    return nbi_buf_printf(g->ctx, buf, " /* about %.6g */\n#define %s_%s_ZERO %ld\n", t->scale,
                          g->upper, what, (long)t->zero);
}

static nb_status input(const nbi_cgen *g, nbi_buf *buf) {
    const nbi_ptensor *t = &g->program.tensor[g->program.input];
    if (g->program.input_is_pixels) {
        NB_TRY(
            nbi_buf_printf(g->ctx, buf,
                           "/* Input: raw 8-bit values as stored in an image, height by width by "
                           "channels. */\n"));
        return shape(g, buf, "INPUT", t);
    }
    NB_TRY(
        nbi_buf_printf(g->ctx, buf,
                       "/* Input: codes, height by width by channels. A real value r is the code "
                       "round(r / scale) + zero,\n * kept within %ld..%ld. */\n",
                       (long)t->lo, (long)t->hi));
    NB_TRY(shape(g, buf, "INPUT", t));
    return scale(g, buf, "INPUT", t);
}

static nb_status output(nbi_cgen *g, nbi_buf *buf, int k) {
    char what[16] = "OUTPUT";
    const nbi_ptensor *t = &g->program.tensor[g->program.output[k]];
    const char *name = nbi_cgen_clean(&g->memory, t->name, 80);
    if (!name) return nb_fail(g->ctx, NB_ENOMEM, "no memory for a name");
    if (k) {
        what[6] = nbi_cgen_nth(k)[0];
        what[7] = 0;
    }
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "\n/* Output \"%s\": value v means the real number scale * (v - zero). "
                          "Unused by the code. */\n",
                          name));
    NB_TRY(shape(g, buf, what, t));
    return scale(g, buf, what, t);
}

static nb_status sizes(const nbi_cgen *g, nbi_buf *buf) {
    size_t flash = 0;
    NB_TRY(nbi_program_const_bytes(g->ctx, &g->program, &flash));
    NB_TRY(nbi_buf_printf(
        g->ctx, buf,
        "\n/* RAM: activations, input and scratch. Flash: constants, with pointers of "
        "4 bytes. */\n"));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#define %s_ARENA_BYTES %zu\n", g->upper, g->ram_bytes));
    return nbi_buf_printf(g->ctx, buf, "#define %s_CONST_BYTES %zu\n\n", g->upper, flash);
}

static nb_status arena(const nbi_cgen *g, nbi_buf *buf) {
    const char *u = g->upper;
    return nbi_buf_printf(g->ctx, buf,
                          "/* By default the arena is a static array. With %s_EXTERNAL_ARENA "
                          "defined for all files, it\n"
                          " * is %s_ARENA_BYTES of your memory, aligned to 4 bytes, to be named "
                          "before the first run. */\n"
                          "#ifdef %s_EXTERNAL_ARENA\nvoid %s_set_arena(void *memory);\n#endif\n\n",
                          u, u, u, g->prefix);
}

static nb_status functions(const nbi_cgen *g, nbi_buf *buf) {
    const nbi_program *p = &g->program;
    const char *in = nbi_cgen_c_type(p->tensor[p->input].dtype);
    const char *out = nbi_cgen_c_type(p->tensor[p->output[0]].dtype);
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "/* Where an input may be put to save the copy; a run overwrites it. */\n"
                          "%s *%s_input(void);\n",
                          in, g->prefix));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "/* Runs the network. input: %s_INPUT_COUNT values, or %s_input(). Each "
                          "output may be NULL.\n * Returns 0, or -1 without input or arena. */\n"
                          "int %s_run(const %s *input",
                          g->upper, g->prefix, g->prefix, in));
    for (int k = 0; k < p->n_outputs; k++)
        NB_TRY(nbi_buf_printf(g->ctx, buf, ", %s *output%s",
                              nbi_cgen_c_type(p->tensor[p->output[k]].dtype), nbi_cgen_nth(k)));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          ");\n/* The results inside the arena, until the next run. */\n"));
    for (int k = 0; k < p->n_outputs; k++)
        NB_TRY(nbi_buf_printf(g->ctx, buf, "const %s *%s_output%s(void);\n",
                              nbi_cgen_c_type(p->tensor[p->output[k]].dtype), g->prefix,
                              nbi_cgen_nth(k)));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "/* Index of the largest of %s_OUTPUT_COUNT values; of equal ones the "
                          "first. */\nint %s_argmax(const %s *output);\n",
                          g->upper, g->prefix, out));
    return nbi_buf_printf(g->ctx, buf,
                          "/* Runs the %zu embedded test vectors; returns how many output values "
                          "differ: 0 is right.\n * Negative: nothing could be tested. Link "
                          "%s_selftest.c. */\nint %s_selftest(void);\n",
                          g->options->n_vectors, g->prefix, g->prefix);
}

nb_status nbi_cgen_header(nbi_cgen *g, nbi_buf *buf) {
    NB_TRY(nbi_cgen_banner(g, buf, "Interface"));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#ifndef %s_H\n#define %s_H\n\n#include <stdint.h>\n\n",
                          g->upper, g->upper));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n"));
    if (g->cut)
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "/* The network ends in operators that are computed in float, from "
                              "\"%s\" on: they are left out,\n * and what they read is the output. "
                              "*/\n",
                              g->cut));
    if (g->before)
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "/* The network is cut in front of %s:\n * that node and what is "
                              "behind it are left out, and the outputs are what they read. */\n",
                              g->before));
    NB_TRY(input(g, buf));
    NB_TRY(
        nbi_buf_printf(g->ctx, buf, "\n#define %s_OUTPUTS %d\n", g->upper, g->program.n_outputs));
    for (int k = 0; k < g->program.n_outputs; k++) NB_TRY(output(g, buf, k));
    NB_TRY(sizes(g, buf));
    NB_TRY(arena(g, buf));
    NB_TRY(functions(g, buf));
    return nbi_buf_printf(g->ctx, buf, "\n#ifdef __cplusplus\n}\n#endif\n#endif\n");
}
