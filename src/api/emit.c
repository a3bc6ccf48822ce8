/* Generated C with self-test vectors that the engine itself computed; copies of QDQ models. */
#include "api/emit.h"

#include "api/api.h"
#include "api/untouched.h"

#include "onnx/onnx.h"
#include "runtime/run.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define VECTORS 4 /* of nb_export, on random inputs */

/* "node 'x' (operator Mish)", in front of which the program ends; "": it is all of the network. */
static void name_cut(const nbi_qnet *net, char *text, size_t size) {
    const nbi_node *node = nbi_first_untouched(net);
    *text = 0;
    if (node)
        snprintf(text, size, "node '%.80s' (operator %.40s%s%.40s)", node->name, node->domain,
                 *node->domain ? "." : "", node->op_type);
}

nb_status nbi_write_c(nb_ctx *ctx, const nbi_c_job *job, const char *folder,
                      nbi_codegen_report *report) {
    nbi_codegen_options o = nbi_codegen_options_default();
    const nbi_program *program = job->program;
    const size_t n = job->n;
    const nbi_ptensor *x = &program->tensor[program->input];
    int outputs[NBI_CODEGEN_OUTPUTS], n_outputs;
    char notes[2][512], before[256];
    const char *lines[2] = {notes[0], notes[1]};
    nbi_runner *runner = NULL;
    nbi_program shown = *program; /* the same program, giving out what the C gives out */
    int32_t *all = NULL, *columns[8] = {NULL};
    size_t total = 0, at = 0;
    nb_status st;
    NB_TRY(nbi_codegen_outputs(ctx, program, outputs, &n_outputs));
    shown.n_outputs = n_outputs;
    memcpy(shown.output, outputs, (size_t)n_outputs * sizeof(int));
    /* planned anew: what it gives out must live to the end */
    NB_TRY(nbi_alloc(ctx, (size_t)program->n_tensors, sizeof *shown.tensor, &shown.tensor));
    memcpy(shown.tensor, program->tensor, (size_t)program->n_tensors * sizeof *shown.tensor);
    NB_TRYG(nbi_program_plan(ctx, &shown));
    NB_TRYG(nbi_runner_new(ctx, &shown, &runner));
    for (int i = 0; i < n_outputs; i++) total += program->tensor[outputs[i]].count;
    NB_TRYG(nbi_alloc(ctx, n * total, sizeof *all, &all));
    for (size_t v = 0; v < n; v++) {
        at = v * total;
        for (int i = 0; i < n_outputs; i++) {
            columns[i] = all + at;
            at += program->tensor[outputs[i]].count;
        }
        NB_TRYG(nbi_runner_run(ctx, runner, 1, job->inputs + v * x->bytes, columns));
    }
    snprintf(notes[0], sizeof notes[0], "made by nibble %s", nb_version());
    snprintf(notes[1], sizeof notes[1], "%.500s", job->command_line ? job->command_line : "");
    o.n_notes = job->command_line ? 2 : 1;
    o.notes = lines;
    if (job->name) o.prefix = job->name;
    o.n_vectors = n;
    o.inputs = job->inputs;
    o.expected = all;
    name_cut(job->net, before, sizeof before);
    o.stops_before = *before ? before : NULL;
    st = nbi_codegen_write(ctx, program, &o, folder, report);
done:
    nbi_runner_free(runner);
    nbi_free(shown.tensor);
    nbi_free(all);
    return st;
}

nb_status nbi_export_c(nb_ctx *ctx, const nbi_qnet *net, const nbi_program *program,
                       const nb_export_options *o, json_t *files, json_t **root) {
    nbi_codegen_report report;
    char before[256];
    uint8_t *inputs;
    nbi_rng rng;
    size_t bytes = program->tensor[program->input].bytes;
    NB_TRY(nbi_alloc(ctx, VECTORS, bytes, &inputs));
    nbi_rng_seed(&rng, nb_ctx_seed(ctx), 9);
    for (size_t i = 0; i < VECTORS * bytes; i++) inputs[i] = (uint8_t)nbi_rng_u32(&rng);
    nbi_c_job job = {net, program, inputs, VECTORS, o->command_line, o->c_name};
    nb_status st = nbi_write_c(ctx, &job, o->output, &report);
    nbi_free(inputs);
    NB_TRY(st);
    name_cut(net, before, sizeof before);
    if (*before)
        nb_log(ctx, NB_LOG_WARNING, "the C ends in front of %s: what lies behind is not in it",
               before);
    for (int i = 0; i < report.n_files; i++) {
        nbi_buf path = {0};
        st = nbi_buf_printf(ctx, &path, "%s/%s", o->output, report.file[i]);
        if (st == NB_OK) json_array_append_new(files, nbi_json_string(path.data));
        nbi_buf_free(&path);
        NB_TRY(st);
    }
    *root = json_pack("{s:I,s:I}", "bytes", (json_int_t)report.const_bytes, "arena_bytes",
                      (json_int_t)report.arena_bytes);
    return NB_OK;
}

nb_status nbi_copy_qdq(nb_ctx *ctx, const nbi_graph *graph, const nb_export_options *o,
                       json_t *files, json_t **root) {
    struct stat info;
    if (o->c_name) nb_log(ctx, NB_LOG_WARNING, "for C alone, which --to c asks for: --c-name");
    NB_TRY(nbi_onnx_write(ctx, graph, o->output));
    json_array_append_new(files, nbi_json_string(o->output));
    *root = json_pack("{s:I}", "bytes",
                      (json_int_t)(stat(o->output, &info) == 0 ? info.st_size : 0));
    return NB_OK;
}
