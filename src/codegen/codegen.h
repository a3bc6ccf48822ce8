/* C99 source for a microcontroller from an integer program: weights packed at their chosen widths,
 * the reference kernels' own source beside it, no malloc, no floats, one arena. What is written
 * computes exactly what the engine computes.
 *
 *   nbi_codegen_options options = nbi_codegen_options_default();
 *   nbi_codegen_report report;
 *   NB_TRY(nbi_codegen_write(ctx, program, &options, "out/c", &report));
 */
#ifndef NIBBLE_CODEGEN_CODEGEN_H
#define NIBBLE_CODEGEN_CODEGEN_H

#include "ir/program.h"

#define NBI_CODEGEN_OUTPUTS NBI_PROGRAM_OUTPUTS
#define NBI_CODEGEN_FILES   24

typedef struct nbi_codegen_options {
    /* Of every name and file: a letter, then letters, digits and '_', at most 32; not "nbk…". */
    const char *prefix;
    const char *model_name; /* for comments; NULL: program->name; may hold any bytes */
    int n_notes;
    const char *const *notes; /* comment lines: tool version, command line; may hold any bytes */
    /* Where the network goes on behind the program: the node that it is cut in front of, as comments
     * name it; may hold any bytes. NULL: the program is all of it. */
    const char *stops_before;
    /* Test vectors: n_vectors × input bytes as the program's input holds them, and, for each
     * vector, the values of every output of nbi_codegen_outputs(), one output after the other. */
    size_t n_vectors;
    const uint8_t *inputs;
    const int32_t *expected;
} nbi_codegen_options;
nbi_codegen_options nbi_codegen_options_default(void);
/* NB_EINVAL where `prefix` is none. */
nb_status nbi_codegen_check(nb_ctx *ctx, const char *prefix);

typedef struct nbi_codegen_report {
    size_t const_bytes;      /* flash for tables and descriptors, where a pointer has 4 bytes */
    size_t descriptor_bytes; /* of these, descriptors */
    size_t arena_bytes;      /* RAM: activations, input, scratch */
    size_t vector_bytes;     /* flash of the self test's vectors, linked only where it is called */
    int n_outputs;
    int output[NBI_CODEGEN_OUTPUTS]; /* tensors of the program */
    char cut[96]; /* first operator left to the host, as in a comment; "" if none */
    int n_files;
    char file[NBI_CODEGEN_FILES][48]; /* in the folder */
} nbi_codegen_report;

/* The tensors that the generated code gives out: the program's outputs; where float operators
 * (Softmax, …) stand between the integer steps and an output, the integer tensors they read.
 * *n ≤ NBI_CODEGEN_OUTPUTS. NB_EUNSUPPORTED, naming the node, when an integer step needs the result
 * of a float operator. */
nb_status nbi_codegen_outputs(nb_ctx *ctx, const nbi_program *program, int *out_tensors, int *n);

/* Writes <prefix>.h, .c, _weights.h, _selftest.c, _test.c, nbk.h, the kernels needed and README.txt
 * into `folder`, which is made. report may be NULL. The program need not be planned. */
nb_status nbi_codegen_write(nb_ctx *ctx, const nbi_program *program,
                            const nbi_codegen_options *options, const char *folder,
                            nbi_codegen_report *report);

#endif
