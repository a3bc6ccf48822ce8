/* The C generator's door: checks the options, cuts and plans the program, writes the files. */
#include "codegen/codegen.h"

#include "codegen/bundle.h"
#include "codegen/cgen.h"

#include <stdio.h>
#include <string.h>

#define MAX_PREFIX 32

nbi_codegen_options nbi_codegen_options_default(void) {
    return (nbi_codegen_options){.prefix = "model"};
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

nb_status nbi_codegen_check(nb_ctx *ctx, const char *prefix) {
    static const char *const headers[] = {"stddef", "stdint", "stdio"};
    const size_t length = prefix ? strlen(prefix) : 0;
    bool ok = length > 0 && length <= MAX_PREFIX && is_letter(prefix[0]);
    for (size_t i = 0; i < length && ok; i++)
        ok = is_letter(prefix[i]) || prefix[i] == '_' || (prefix[i] >= '0' && prefix[i] <= '9');
    if (!ok)
        return nb_fail(ctx, NB_EINVAL,
                       "C name '%.40s': want a letter, then letters, digits and '_', at most %d",
                       prefix ? prefix : "", MAX_PREFIX);
    if (strncmp(prefix, "nbk", 3) == 0 || strncmp(prefix, "NBK", 3) == 0)
        return nb_fail(ctx, NB_EINVAL, "C name '%s': 'nbk' belongs to the kernels", prefix);
    for (size_t i = 0; i < NBI_COUNT(headers); i++)
        if (strcmp(prefix, headers[i]) == 0)
            return nb_fail(ctx, NB_EINVAL, "C name '%s' would hide C's own <%s.h>", prefix, prefix);
    return NB_OK;
}

static nb_status check_tensor(nb_ctx *ctx, const nbi_ptensor *t, size_t element) {
    const size_t count = (size_t)t->h * (size_t)t->w * (size_t)t->c;
    if (t->count == 0 || t->count > INT32_MAX || t->count != count ||
        t->bytes != t->count * element)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "tensor '%s': %zu values in %zu bytes, shape %d,%d,%d; want one image",
                       t->name, t->count, t->bytes, t->h, t->w, t->c);
    return NB_OK;
}

static nb_status check_interface(nbi_cgen *g) {
    const nbi_program *p = &g->program;
    const nbi_ptensor *in = &p->tensor[p->input];
    if (in->dtype != NB_DTYPE_U8 && in->dtype != NB_DTYPE_S8)
        return nb_fail(g->ctx, NB_EUNSUPPORTED, "input '%s' has type %s, C wants an 8-bit one",
                       in->name, nbi_dtype_name(in->dtype));
    NB_TRY(check_tensor(g->ctx, in, 1));
    for (int k = 0; k < p->n_outputs; k++) {
        const nbi_ptensor *out = &p->tensor[p->output[k]];
        NB_TRY(check_tensor(g->ctx, out, out->dtype == NB_DTYPE_S32 ? 4 : 1));
    }
    if (g->options->n_vectors && (!g->options->inputs || !g->options->expected))
        return nb_fail(g->ctx, NB_EINVAL, "%zu test vectors without their values",
                       g->options->n_vectors);
    return NB_OK;
}

static nb_status check_outputs(nb_ctx *ctx, const nbi_program *p) {
    for (int k = 0; k < p->n_outputs; k++) {
        const nbi_ptensor *t = &p->tensor[p->output[k]];
        if (!nbi_cgen_c_type(t->dtype))
            return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' has type %s, C wants an integer one",
                           t->name, nbi_dtype_name(t->dtype));
    }
    return NB_OK;
}

nb_status nbi_codegen_outputs(nb_ctx *ctx, const nbi_program *program, int *out_tensors, int *n) {
    nbi_arena memory = {0};
    nbi_program cut;
    const char *name;
    nb_status st = nbi_program_cut(ctx, program, &memory, &cut, &name);
    if (st == NB_OK) st = check_outputs(ctx, &cut);
    if (st == NB_OK) {
        memcpy(out_tensors, cut.output, (size_t)cut.n_outputs * sizeof *out_tensors);
        *n = cut.n_outputs;
    }
    nbi_arena_free(&memory);
    return st;
}

static nb_status prepare(nbi_cgen *g, const nbi_program *program) {
    const char *cut = NULL;
    const char *name = g->options->model_name ? g->options->model_name : program->name;
    NB_TRY(nbi_codegen_check(g->ctx, g->options->prefix));
    NB_TRY(nbi_program_cut(g->ctx, program, &g->memory, &g->program, &cut));
    NB_TRY(check_outputs(g->ctx, &g->program));
    NB_TRY(check_interface(g));
    NB_TRY(nbi_program_fuse(g->ctx, &g->program, &g->memory, &g->program));
    NB_TRY(nbi_program_plan(g->ctx, &g->program));
    NB_TRY(nbi_program_tables(g->ctx, &g->program, &g->table));
    g->scratch = nbi_arena_alloc(&g->memory, (size_t)g->program.n_steps + 1, sizeof *g->scratch);
    g->prefix = g->options->prefix;
    char *upper = nbi_arena_text(&g->memory, g->prefix, strlen(g->prefix));
    g->model_name = nbi_cgen_clean(&g->memory, name ? name : "", 80);
    const char *before = g->options->stops_before;
    if (cut) g->cut = nbi_cgen_clean(&g->memory, cut, 80);
    if (before) g->before = nbi_cgen_clean(&g->memory, before, 200);
    if (!g->scratch || !upper || !g->model_name || (cut && !g->cut) || (before && !g->before))
        return nb_fail(g->ctx, NB_ENOMEM, "no memory to generate C");
    for (char *c = upper; *c; c++)
        if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    g->upper = upper;
    NB_TRY(nbi_program_place_scratch(g->ctx, &g->program, g->scratch, &g->ram_bytes));
    if (g->ram_bytes > INT32_MAX - 3)
        return nb_fail(g->ctx, NB_EUNSUPPORTED, "C with an arena of %zu bytes", g->ram_bytes);
    g->ram_bytes = (g->ram_bytes + 3) & ~(size_t)3;
    return NB_OK;
}

static nb_status write_file(nbi_cgen *g, const char *folder, const char *name, const void *data,
                            size_t size, nbi_codegen_report *report) {
    char *path = nbi_arena_format(&g->memory, "%s/%s", folder, name);
    if (!path) return nb_fail(g->ctx, NB_ENOMEM, "no memory for a path");
    NB_TRY(nbi_file_write(g->ctx, path, data, size));
    if (report->n_files < NBI_CODEGEN_FILES)
        snprintf(report->file[report->n_files++], sizeof report->file[0], "%s", name);
    return NB_OK;
}

static bool has_step(const nbi_program *p, nbi_step_type type) {
    for (int s = 0; s < p->n_steps; s++)
        if (p->step[s].type == type) return true;
    return false;
}

static bool has_sum(const nbi_program *p) {
    for (int s = 0; s < p->n_steps; s++)
        if (p->step[s].sum) return true;
    return false;
}

/* Is this file of the kernels called by the program? */
static bool is_needed(const nbi_program *p, const char *name) {
    static const struct {
        const char *file;
        nbi_step_type type;
    } uses[] = {
        {"nbk_conv.c", NBI_STEP_CONV},     {"nbk_conv.c", NBI_STEP_DWCONV}, /* nbk_unpack */
        {"nbk_dwconv.c", NBI_STEP_DWCONV}, {"nbk_add.c", NBI_STEP_ADD},
        {"nbk_mul.c", NBI_STEP_MUL},       {"nbk_lut.c", NBI_STEP_LUT},
        {"nbk_pool.c", NBI_STEP_MAXPOOL},  {"nbk_pool.c", NBI_STEP_AVGPOOL},
        {"nbk_copy.c", NBI_STEP_COPY},
    };
    if (strcmp(name, "nbk.h") == 0) return true;
    if (strcmp(name, "nbk_conv_add.c") == 0) return has_sum(p);
    for (size_t i = 0; i < NBI_COUNT(uses); i++)
        if (strcmp(name, uses[i].file) == 0 && has_step(p, uses[i].type)) return true;
    return false;
}

static nb_status readme(nbi_cgen *g, nbi_buf *buf, const nbi_codegen_report *report) {
    const char *p = g->prefix;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "The network \"%s\" as C99 for a microcontroller.\n\n",
                          g->model_name));
    if (g->before)
        NB_TRY(nbi_buf_printf(g->ctx, buf,
                              "It is cut in front of %s:\nthat node and what is behind it are not "
                              "here, and the outputs are what they read.\n\n",
                              g->before));
    NB_TRY(nbi_buf_printf(
        g->ctx, buf,
        "Interface: %s.h. Integers only, no malloc, no C library.\n"
        "Flash: %zu bytes of constants (%zu of them descriptors), plus the code.\n"
        "RAM: %zu bytes, one arena.\n\nTest on this machine:\n"
        "    cc -std=c99 -O2 -o %s_test %s.c %s_selftest.c %s_test.c nbk_*.c && "
        "./%s_test\n\n",
        p, report->const_bytes, report->descriptor_bytes, report->arena_bytes, p, p, p, p, p));
    NB_TRY(
        nbi_buf_printf(g->ctx, buf,
                       "For a device:\n    arm-none-eabi-gcc -std=c99 -O2 -mcpu=cortex-m4 -mthumb "
                       "-ffunction-sections -c %s.c nbk_*.c\n%s_selftest.c is needed only to call "
                       "%s_selftest(); %s_test.c is a program for a PC.\n"
                       "Several networks in one program: nibble's --c-name gives each its own name; nbk_*.c "
                       "are compiled once.\n\nMemory map (offset, "
                       "bytes, tensor):\n",
                       p, p, p, p));
    for (int s = -1; s < g->program.n_steps; s++) {
        const nbi_ptensor *t =
            &g->program.tensor[s < 0 ? g->program.input : g->program.step[s].out];
        const char *name = nbi_cgen_clean(&g->memory, t->name, 80);
        if (!name) return nb_fail(g->ctx, NB_ENOMEM, "no memory for a name");
        NB_TRY(nbi_buf_printf(g->ctx, buf, "%10zu %10zu  %s\n", t->offset, t->bytes, name));
    }
    return NB_OK;
}

static nb_status write_all(nbi_cgen *g, const char *folder, nbi_codegen_report *report) {
    static const struct {
        const char *suffix;
        nb_status (*emit)(nbi_cgen *g, nbi_buf *buf);
    } files[] = {
        {".h", nbi_cgen_header},          {".c", nbi_cgen_model},
        {"_weights.h", nbi_cgen_weights}, {"_selftest.c", nbi_cgen_selftest},
        {"_test.c", nbi_cgen_main},
    };
    nbi_buf buf = {0};
    nb_status st = NB_OK;
    char name[48];
    NB_TRYG(nbi_make_folder(g->ctx, folder));
    for (size_t i = 0; i < NBI_COUNT(files); i++) {
        buf.size = 0;
        NB_TRYG(files[i].emit(g, &buf));
        snprintf(name, sizeof name, "%s%s", g->prefix, files[i].suffix);
        NB_TRYG(write_file(g, folder, name, buf.data, buf.size, report));
    }
    for (const nbi_bundle_file *f = nbi_bundle; f->name; f++)
        if (is_needed(&g->program, f->name))
            NB_TRYG(write_file(g, folder, f->name, f->data, f->size, report));
    buf.size = 0;
    NB_TRYG(readme(g, &buf, report));
    NB_TRYG(write_file(g, folder, "README.txt", buf.data, buf.size, report));
done:
    nbi_buf_free(&buf);
    return st;
}

static nb_status fill_report(nbi_cgen *g, nbi_codegen_report *report) {
    const nbi_program *p = &g->program;
    NB_TRY(nbi_program_const_bytes(g->ctx, p, &report->const_bytes));
    for (int s = 0; s < p->n_steps; s++)
        report->descriptor_bytes += nbi_step_descriptor_bytes(&p->step[s]);
    report->arena_bytes = g->ram_bytes;
    report->vector_bytes = g->options->n_vectors * p->tensor[p->input].bytes;
    report->n_outputs = p->n_outputs;
    for (int k = 0; k < p->n_outputs; k++) {
        report->output[k] = p->output[k];
        report->vector_bytes += g->options->n_vectors * p->tensor[p->output[k]].bytes;
    }
    snprintf(report->cut, sizeof report->cut, "%s", g->cut ? g->cut : "");
    return NB_OK;
}

nb_status nbi_codegen_write(nb_ctx *ctx, const nbi_program *program,
                            const nbi_codegen_options *options, const char *folder,
                            nbi_codegen_report *report) {
    nbi_cgen g = {.ctx = ctx, .options = options};
    nbi_codegen_report done_report = {0};
    nb_status st;
    NB_TRYG(prepare(&g, program));
    NB_TRYG(fill_report(&g, &done_report));
    NB_TRYG(write_all(&g, folder, &done_report));
    if (report) *report = done_report;
done:
    nbi_free(g.table);
    nbi_arena_free(&g.memory);
    return st;
}
