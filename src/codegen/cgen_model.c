/* <prefix>.c: the arena and the calls of the reference kernels, one per step. */
#include "codegen/cgen.h"

static const nbi_ptensor *tensor(const nbi_cgen *g, int t) {
    return &g->program.tensor[t];
}

static nb_status arena(const nbi_cgen *g, nbi_buf *buf) {
    const char *p = g->prefix, *u = g->upper;
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "#ifdef %s_EXTERNAL_ARENA\nstatic uint8_t *memory;\n\n"
                          "void %s_set_arena(void *arena) {\n    memory = (uint8_t *)arena;\n}\n\n"
                          "static uint8_t *arena(void) {\n    return memory;\n}\n#else\n",
                          u, p));
    return nbi_buf_printf(
        g->ctx, buf,
        "static union {\n    int32_t align;\n    uint8_t bytes[%s_ARENA_BYTES];\n"
        "} memory;\n\nstatic uint8_t *arena(void) {\n    return memory.bytes;\n}\n"
        "#endif\n\n",
        u);
}

static nb_status step_comment(nbi_cgen *g, nbi_buf *buf, int s) {
    const nbi_step *step = &g->program.step[s];
    const nbi_ptensor *in = tensor(g, step->in[0]), *out = tensor(g, step->out);
    const char *name = nbi_cgen_clean(&g->memory, step->name, 60);
    if (!name) return nb_fail(g->ctx, NB_ENOMEM, "no memory for a name");
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    /* \"%s\" %dx%dx%d to %dx%dx%d", name, in->h, in->w,
                          in->c, out->h, out->w, out->c));
    if (step->type == NBI_STEP_CONV || step->type == NBI_STEP_DWCONV)
        NB_TRY(nbi_buf_printf(g->ctx, buf, ", weights of %d bits%s", step->u.conv.p.w_bits,
                              step->sum ? ", then added" : ""));
    return nbi_buf_printf(g->ctx, buf, " */\n");
}

static nb_status step_call(nbi_cgen *g, nbi_buf *buf, int s) {
    static const char *const kernel[NBI_STEP_TYPES] = {
        [NBI_STEP_CONV] = "nbk_conv_run",       [NBI_STEP_DWCONV] = "nbk_dwconv_run",
        [NBI_STEP_ADD] = "nbk_add_run",         [NBI_STEP_MUL] = "nbk_mul_run",
        [NBI_STEP_LUT] = "nbk_lut_run",         [NBI_STEP_MAXPOOL] = "nbk_maxpool_run",
        [NBI_STEP_AVGPOOL] = "nbk_avgpool_run", [NBI_STEP_COPY] = "nbk_copy_run",
    };
    const nbi_step *step = &g->program.step[s];
    const bool pair = step->type == NBI_STEP_ADD || step->type == NBI_STEP_MUL || step->sum;
    const bool scratch = step->type == NBI_STEP_CONV || step->type == NBI_STEP_DWCONV;
    NB_TRY(step_comment(g, buf, s));
    if (step->sum)
        NB_TRY(nbi_buf_printf(g->ctx, buf, "    nbk_conv_add_run(&step%d, &step%d_add", s + 1,
                              s + 1));
    else
        NB_TRY(nbi_buf_printf(g->ctx, buf, "    %s(&step%d", kernel[step->type], s + 1));
    NB_TRY(nbi_buf_printf(g->ctx, buf, ", m + %zu", tensor(g, step->in[0])->offset));
    if (pair) NB_TRY(nbi_buf_printf(g->ctx, buf, ", m + %zu", tensor(g, step->in[1])->offset));
    NB_TRY(nbi_buf_printf(g->ctx, buf, ", m + %zu", tensor(g, step->out)->offset));
    if (scratch) NB_TRY(nbi_buf_printf(g->ctx, buf, ", m + %zu", g->scratch[s]));
    return nbi_buf_printf(g->ctx, buf, ");\n");
}

static nb_status steps(nbi_cgen *g, nbi_buf *buf) {
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static void run_steps(uint8_t *m) {\n"));
    if (g->program.n_steps == 0) NB_TRY(nbi_buf_printf(g->ctx, buf, "    (void)m;\n"));
    for (int s = 0; s < g->program.n_steps; s++) NB_TRY(step_call(g, buf, s));
    return nbi_buf_printf(g->ctx, buf, "}\n\n");
}

/* "type *<prefix>_<what>(void)": where a tensor is in the arena, or a null pointer without one. */
static nb_status accessor(const nbi_cgen *g, nbi_buf *buf, const char *what, const char *nth,
                          const nbi_ptensor *t) {
    const char *qualifier = what[0] == 'o' ? "const " : "", *type = nbi_cgen_c_type(t->dtype);
    NB_TRY(nbi_buf_printf(g->ctx, buf, "%s%s *%s_%s%s(void) {\n", qualifier, type, g->prefix, what,
                          nth));
    return nbi_buf_printf(g->ctx, buf,
                          "    uint8_t *m = arena();\n    return m ? (%s%s *)(void *)(m + %zu) : "
                          "0;\n}\n\n",
                          qualifier, type, t->offset);
}

static nb_status run(const nbi_cgen *g, nbi_buf *buf) {
    const nbi_program *p = &g->program;
    const char *in = nbi_cgen_c_type(tensor(g, p->input)->dtype);
    NB_TRY(nbi_buf_printf(g->ctx, buf, "int %s_run(const %s *input", g->prefix, in));
    for (int k = 0; k < p->n_outputs; k++)
        NB_TRY(nbi_buf_printf(g->ctx, buf, ", %s *output%s",
                              nbi_cgen_c_type(tensor(g, p->output[k])->dtype), nbi_cgen_nth(k)));
    NB_TRY(nbi_buf_printf(g->ctx, buf, ") {\n    %s *const start = %s_input();\n    int32_t i;\n",
                          in, g->prefix));
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "    if (!input || !start) return -1;\n    if (input != start)\n"
                          "        for (i = 0; i < %s_INPUT_COUNT; i++) start[i] = input[i];\n"
                          "    run_steps(arena());\n",
                          g->upper));
    for (int k = 0; k < p->n_outputs; k++) {
        const char *n = nbi_cgen_nth(k);
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "    if (output%s)\n        for (i = 0; i < %s_OUTPUT%s_COUNT; i++) "
                              "output%s[i] = %s_output%s()[i];\n",
                              n, g->upper, n, n, g->prefix, n));
    }
    return nbi_buf_printf(g->ctx, buf, "    return 0;\n}\n\n");
}

static nb_status argmax(const nbi_cgen *g, nbi_buf *buf) {
    return nbi_buf_printf(g->ctx, buf,
                          "int %s_argmax(const %s *output) {\n    int best = 0, i;\n"
                          "    for (i = 1; i < %s_OUTPUT_COUNT; i++)\n"
                          "        if (output[i] > output[best]) best = i;\n"
                          "    return best;\n}\n",
                          g->prefix, nbi_cgen_c_type(tensor(g, g->program.output[0])->dtype),
                          g->upper);
}

nb_status nbi_cgen_model(nbi_cgen *g, nbi_buf *buf) {
    const nbi_program *p = &g->program;
    NB_TRY(nbi_cgen_banner(g, buf, "Code"));
    NB_TRY(nbi_buf_printf(
        g->ctx, buf, "#include \"%s.h\"\n\n#include \"nbk.h\"\n\n#include \"%s_weights.h\"\n\n",
        g->prefix, g->prefix));
    NB_TRY(arena(g, buf));
    NB_TRY(steps(g, buf));
    NB_TRY(accessor(g, buf, "input", "", tensor(g, p->input)));
    for (int k = 0; k < p->n_outputs; k++)
        NB_TRY(accessor(g, buf, "output", nbi_cgen_nth(k), tensor(g, p->output[k])));
    NB_TRY(run(g, buf));
    return argmax(g, buf);
}
