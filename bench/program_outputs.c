/* The integer program of a quantized model on a file of raw inputs, in the form of the generated
 * <prefix>_test.c, so that the two files of outputs can be compared byte for byte:
 *
 *     program_outputs MODEL.onnx IN OUT     runs
 *     program_outputs MODEL.onnx N IN random  writes N random inputs within the input's range
 *     program_outputs MODEL.onnx            prints {input, input_bytes, pixels, const_bytes}
 *
 * OUT: for every image, the values of every output that the generated code has, in its type. */
#include "api/api.h"
#include "bench_cifar.h"
#include "codegen/codegen.h"
#include "runtime/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 64

static FILE *open_file(const char *path, const char *mode) {
    FILE *f = fopen(path, mode);
    if (!f) {
        perror(path);
        exit(1);
    }
    return f;
}

static void write_value(FILE *f, nb_dtype dtype, int32_t v) {
    uint8_t byte = (uint8_t)v;
    if (dtype == NB_DTYPE_S32)
        fwrite(&v, sizeof v, 1, f);
    else
        fwrite(&byte, 1, 1, f);
}

static void run_file(nb_ctx *ctx, nbi_program *p, const char *in, const char *out) {
    nbi_runner *runner;
    const nbi_ptensor *input = &p->tensor[p->input];
    uint8_t *inputs = bench_room(BATCH * input->bytes);
    int32_t *values[8] = {NULL};
    FILE *from = open_file(in, "rb"), *to = open_file(out, "wb");
    /* the integer tensors that the generated code ends with, in place of the program's own outputs */
    int n_outputs = 0;
    bench_check(ctx, nbi_codegen_outputs(ctx, p, p->output, &n_outputs), "outputs");
    p->n_outputs = n_outputs;
    bench_check(ctx, nbi_program_plan(ctx, p), "plan");
    bench_check(ctx, nbi_runner_new(ctx, p, &runner), "run");
    for (int k = 0; k < n_outputs; k++)
        values[k] = bench_room(BATCH * p->tensor[p->output[k]].count * sizeof(int32_t));
    size_t n;
    while ((n = fread(inputs, input->bytes, BATCH, from)) > 0) {
        bench_check(ctx, nbi_runner_run(ctx, runner, n, inputs, values), "run");
        for (size_t i = 0; i < n; i++)
            for (int k = 0; k < n_outputs; k++) {
                const nbi_ptensor *t = &p->tensor[p->output[k]];
                for (size_t e = 0; e < t->count; e++)
                    write_value(to, t->dtype, values[k][i * t->count + e]);
            }
    }
    nbi_runner_free(runner);
    for (int k = 0; k < n_outputs; k++) free(values[k]);
    free(inputs);
    fclose(from);
    if (fclose(to)) exit(1);
}

static void write_random(const nbi_program *p, size_t n, const char *path) {
    const nbi_ptensor *input = &p->tensor[p->input];
    FILE *f = open_file(path, "wb");
    nbi_rng rng;
    nbi_rng_seed(&rng, 1, 1);
    for (size_t i = 0; i < n * input->count; i++)
        write_value(f, input->dtype,
                    input->lo + (int32_t)nbi_rng_below(&rng, (uint32_t)(input->hi - input->lo + 1)));
    if (fclose(f)) exit(1);
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 4 && !(argc == 5 && !strcmp(argv[4], "random"))) {
        fprintf(stderr, "usage: %s MODEL.onnx [IN OUT | N IN random]\n", argv[0]);
        return 2;
    }
    nb_ctx *ctx = nb_ctx_new();
    const nb_data_options none = nb_data_options_default();
    nb_model *model;
    nbi_transform transform;
    nbi_qnet *net;
    nbi_frozen *frozen;
    nbi_program *program;
    bench_check(ctx, nb_model_load(ctx, argv[1], &model), argv[1]);
    bench_check(ctx, nbi_transform_of(ctx, &none, model->graph, &transform), argv[1]);
    /* as `nibble export --to c` */
    bench_check(ctx, nbi_load_program(ctx, model->graph, &transform, &net, &frozen, &program),
                argv[1]);
    const nbi_ptensor *input = &program->tensor[program->input];
    if (argc == 5)
        write_random(program, strtoul(argv[2], NULL, 10), argv[3]);
    else if (argc == 4)
        run_file(ctx, program, argv[2], argv[3]);
    else
        printf("{\"input\": \"%s\", \"input_bytes\": %zu, \"pixels\": %s, \"const_bytes\": %zu}\n",
               input->name, input->bytes, program->input_is_pixels ? "true" : "false",
               program->const_bytes);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    nbi_qnet_free(net);
    nb_model_free(model);
    nb_ctx_free(ctx);
    return 0;
}
