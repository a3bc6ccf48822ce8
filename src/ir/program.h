/* The integer program: what runs on the host, and what the C generator emits. A list of steps over
 * planned byte buffers, for one image. Built by runtime/lower from a frozen quantized graph. */
#ifndef NIBBLE_IR_PROGRAM_H
#define NIBBLE_IR_PROGRAM_H

#include "base/base.h"
#include "ir/graph.h"
#include "kernels/kernels.h"

/* A buffer. Storage order: N=1 dropped; rank 3 and 4 channels last (L,C or H,W,C); any other rank in
 * ONNX order (h = w = 1, c = count). */
typedef struct nbi_ptensor {
    const char *name; /* of the ONNX tensor */
    nb_dtype dtype;   /* U8, S8, S32, F32 */
    int rank;
    int64_t dim[NBI_MAX_RANK]; /* ONNX order, dim[0] = 1 */
    int h, w, c;               /* storage shape: h·w·c elements */
    double scale;              /* real = scale·(v − zero) */
    int32_t zero;
    int32_t lo, hi;            /* values that can occur */
    size_t count, bytes;       /* elements; bytes */
    size_t offset;             /* in the arena (planned) */
    bool is_input, is_output;
} nbi_ptensor;

typedef enum nbi_step_type {
    NBI_STEP_CONV,    /* nbi_step_conv */
    NBI_STEP_DWCONV,  /* nbi_step_conv */
    NBI_STEP_ADD,     /* nbk_add */
    NBI_STEP_MUL,     /* nbk_mul */
    NBI_STEP_LUT,     /* nbk_lut */
    NBI_STEP_MAXPOOL, /* nbk_pool */
    NBI_STEP_AVGPOOL, /* nbk_pool */
    NBI_STEP_COPY,    /* nbk_copy */
    NBI_STEP_FLOAT,   /* nbi_step_float: host only; the C generator stops before it */
    NBI_STEP_TYPES
} nbi_step_type;

typedef struct nbi_step_conv {
    nbk_conv p;              /* p.w: packed codes, owned by the program's arena */
    nbi_conv_range range;
    const int8_t *levels;    /* unpacked, same order as p.w */
    size_t w_count, w_bytes; /* weights; packed bytes */
} nbi_step_conv;

/* A float operator between integer ones: inputs are dequantized, the output quantized (or float). */
typedef struct nbi_step_float {
    const nbi_graph *graph; /* holds `node`; lives as long as the program */
    const nbi_node *node;
} nbi_step_float;

typedef struct nbi_step {
    nbi_step_type type;
    const char *name; /* ONNX node */
    int n_in;
    int in[3]; /* ptensors */
    int out;
    union {
        nbi_step_conv conv;
        nbk_add add;
        nbk_mul mul;
        nbk_lut lut;
        nbk_pool pool;
        nbk_copy copy;
        nbi_step_float island;
    } u;
} nbi_step;

typedef struct nbi_program {
    nbi_arena arena;
    const char *name;
    int n_tensors;
    nbi_ptensor *tensor;
    int n_steps;
    nbi_step *step;
    int input;             /* U8 H,W,C pixels (first step: a LUT), or S8/U8 codes of a float input */
    bool input_is_pixels;
    int n_outputs;
    int output[8];
    size_t arena_bytes;    /* planned activations, the input included */
    size_t scratch_bytes;  /* largest scratch of the reference kernels */
    size_t const_bytes;    /* flash: packed weights, bias, mult, shift, tables */
    nbi_graph *float_graph; /* of the float islands; NULL if none */
} nbi_program;

void nbi_program_free(nbi_program *program); /* NULL is allowed */
/* Offsets by liveness: largest buffer first, lowest offset that does not collide with a live one;
 * 16-byte aligned. Sets tensor[].offset and arena_bytes. Outputs live to the end; element-wise
 * steps may write over an input that dies there. */
nb_status nbi_program_plan(nb_ctx *ctx, nbi_program *program);
/* Bytes of constants one step stores in flash (as the C generator emits them). */
size_t nbi_step_const_bytes(const nbi_step *step);

#endif
