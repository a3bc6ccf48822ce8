/* <prefix>_selftest.c: test vectors and the comparison. <prefix>_test.c: a program for a PC or an
 * emulator that runs it, or runs a file of inputs. */
#include "codegen/cgen.h"

#include <string.h>

static const nbi_ptensor *output(const nbi_cgen *g, int k) {
    return &g->program.tensor[g->program.output[k]];
}

static nb_status narrow(const nbi_cgen *g, nbi_buf *buf, const nbi_ptensor *t, const int32_t *v) {
    if (t->dtype == NB_DTYPE_S32) return nbi_cgen_values(g->ctx, buf, NBI_CONST_S32, v, t->count);
    const nbi_const_kind kind = t->dtype == NB_DTYPE_U8 ? NBI_CONST_U8 : NBI_CONST_S8;
    uint8_t *bytes = NULL;
    NB_TRY(nbi_alloc(g->ctx, t->count, 1, &bytes));
    nb_status st = NB_OK;
    for (size_t i = 0; i < t->count && st == NB_OK; i++) {
        const int32_t lo = kind == NBI_CONST_U8 ? 0 : -128;
        if (v[i] < lo || v[i] > lo + 255)
            st = nb_fail(g->ctx, NB_EINVAL, "output '%s': the test vector expects %ld in %s",
                         t->name, (long)v[i], nbi_dtype_name(t->dtype));
        bytes[i] = (uint8_t)v[i];
    }
    if (st == NB_OK) st = nbi_cgen_values(g->ctx, buf, kind, bytes, t->count);
    nbi_free(bytes);
    return st;
}

static nb_status vectors(const nbi_cgen *g, nbi_buf *buf) {
    const nbi_program *p = &g->program;
    const nbi_ptensor *in = &p->tensor[p->input];
    const size_t n = g->options->n_vectors;
    const nbi_const_kind kind = in->dtype == NB_DTYPE_U8 ? NBI_CONST_U8 : NBI_CONST_S8;
    size_t stride = 0, before = 0;
    for (int k = 0; k < p->n_outputs; k++) stride += output(g, k)->count;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const %s inputs[%zu * %s_INPUT_COUNT] = {\n",
                          nbi_cgen_c_type(in->dtype), n, g->upper));
    NB_TRY(nbi_cgen_values(g->ctx, buf, kind, g->options->inputs, n * in->count));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "};\n"));
    for (int k = 0; k < p->n_outputs; k++) {
        const char *nth = nbi_cgen_nth(k);
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "static const %s expected%s[%zu * %s_OUTPUT%s_COUNT] = {\n",
                              nbi_cgen_c_type(output(g, k)->dtype), nth, n, g->upper, nth));
        for (size_t v = 0; v < n; v++)
            NB_TRY(narrow(g, buf, output(g, k), g->options->expected + v * stride + before));
        NB_TRY(nbi_buf_printf(g->ctx, buf, "};\n"));
        before += output(g, k)->count;
    }
    return NB_OK;
}

/* ", 0, 0)": the results are read in the arena. */
static nb_status no_outputs(const nbi_cgen *g, nbi_buf *buf) {
    for (int k = 0; k < g->program.n_outputs; k++) NB_TRY(nbi_buf_printf(g->ctx, buf, ", 0"));
    return nbi_buf_printf(g->ctx, buf, ")");
}

nb_status nbi_cgen_selftest(nbi_cgen *g, nbi_buf *buf) {
    NB_TRY(nbi_cgen_banner(g, buf, "Self test"));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#include \"%s.h\"\n\n", g->prefix));
    if (g->options->n_vectors == 0)
        return nbi_buf_printf(g->ctx, buf,
                              "/* No test vectors were asked for. */\nint %s_selftest(void) {\n"
                              "    return -1;\n}\n",
                              g->prefix);
    NB_TRY(vectors(g, buf));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "\nint %s_selftest(void) {\n    int wrong = 0;\n    int32_t v, i;\n"
                          "    for (v = 0; v < %zu; v++) {\n        if (",
                          g->prefix, g->options->n_vectors));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "%s_run(inputs + v * %s_INPUT_COUNT", g->prefix, g->upper));
    NB_TRY(no_outputs(g, buf));
    NB_TRY(nbi_buf_printf(g->ctx, buf, " != 0) return -1;\n"));
    for (int k = 0; k < g->program.n_outputs; k++) {
        const char *n = nbi_cgen_nth(k), *u = g->upper;
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "        for (i = 0; i < %s_OUTPUT%s_COUNT; i++)\n"
                              "            if (%s_output%s()[i] != expected%s[v * "
                              "%s_OUTPUT%s_COUNT + i]) wrong++;\n",
                              u, n, g->prefix, n, n, u, n));
    }
    return nbi_buf_printf(g->ctx, buf, "    }\n    return wrong;\n}\n");
}

nb_status nbi_cgen_main(nbi_cgen *g, nbi_buf *buf) {
    const nbi_program *p = &g->program;
    const char *u = g->upper, *name = g->prefix;
    NB_TRY(nbi_cgen_banner(g, buf, "Test program"));
    NB_TRY(
        nbi_buf_printf(g->ctx, buf,
                       "/* Without arguments: runs the self test. With IN OUT: runs every input "
                       "of the file IN and writes\n * all outputs to the file OUT, as raw bytes. "
                       "*/\n#include \"%s.h\"\n\n#include <stdio.h>\n\n",
                       name));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "static int run_file(const char *in, const char *out) {\n"
                          "    FILE *from = fopen(in, \"rb\"), *to = fopen(out, \"wb\");\n"
                          "    int ok = from && to;\n"
                          "    while (ok && fread(%s_input(), sizeof *%s_input(), %s_INPUT_COUNT, "
                          "from) ==\n                     %s_INPUT_COUNT) {\n        ok = ",
                          name, name, u, u));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "%s_run(%s_input()", name, name));
    NB_TRY(no_outputs(g, buf));
    NB_TRY(nbi_buf_printf(g->ctx, buf, " == 0;\n"));
    for (int k = 0; k < p->n_outputs; k++) {
        const char *n = nbi_cgen_nth(k);
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "        ok = ok && fwrite(%s_output%s(), sizeof *%s_output%s(), "
                              "%s_OUTPUT%s_COUNT, to) ==\n                       "
                              "%s_OUTPUT%s_COUNT;\n",
                              name, n, name, n, u, n, u, n));
    }
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "    }\n    if (from) fclose(from);\n"
                          "    if (to && fclose(to) != 0) ok = 0;\n"
                          "    if (!ok) fprintf(stderr, \"cannot run %%s into %%s\\n\", in, out);\n"
                          "    return ok ? 0 : 1;\n}\n\n"));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "int main(int argc, char **argv) {\n    int wrong;\n"
                          "#ifdef %s_EXTERNAL_ARENA\n"
                          "    static int32_t memory[(%s_ARENA_BYTES + 3) / 4];\n"
                          "    %s_set_arena(memory);\n#endif\n"
                          "    if (argc == 3) return run_file(argv[1], argv[2]);\n"
                          "    wrong = %s_selftest();\n",
                          u, u, name, name));
    return nbi_buf_printf(g->ctx, buf,
                          "    if (wrong < 0)\n        printf(\"no test vectors\\n\");\n    else\n"
                          "        printf(\"%zu vectors, %%d wrong values\\n\", wrong);\n"
                          "    return wrong != 0;\n}\n",
                          g->options->n_vectors);
}
