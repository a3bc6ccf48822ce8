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
    nbk_conv p;              /* p.w: packed codes, owned by the program's arena; p.bias: int32 */
    const void *bias_codes;  /* NULL, or a narrow bias as the C stores it */
    uint8_t bias_bits;       /* of them; as in nbk_conv */
    int8_t bias_shift;
    nbi_conv_range range;
    const int8_t *levels;    /* unpacked, same order as p.w */
    size_t w_count, w_bytes; /* weights; packed bytes */
} nbi_step_conv;

/* A float operator between integer ones: inputs are dequantized, the output quantized (or float). */
typedef struct nbi_step_float {
    const nbi_graph *graph; /* holds `node`; lives as long as the program */
    const nbi_node *node;
    const struct nbi_qparam *grid; /* of the output, where it is another than the tensor's; or NULL */
} nbi_step_float;

typedef struct nbi_step {
    nbi_step_type type;
    const char *name; /* ONNX node */
    int n_in;
    int in[3]; /* ptensors */
    int out;
    /* NULL, or (nbi_program_fuse, CONV only) what the convolution's value, as operand a, goes into
     * together with in[1], as operand b. */
    const nbk_add *sum;
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

#define NBI_PROGRAM_OUTPUTS 8

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
    int output[NBI_PROGRAM_OUTPUTS];
    size_t arena_bytes;    /* planned activations, the input included */
    size_t scratch_bytes;  /* largest scratch of the reference kernels */
    size_t const_bytes;    /* flash: nbi_program_const_bytes() */
    nbi_graph *float_graph; /* of the float islands; NULL if none */
} nbi_program;

/* Frees a program from nbi_alloc, its arena and its float graph. NULL is allowed. */
void nbi_program_free(nbi_program *program);
/* Offsets by liveness, 16-byte aligned: several orders and in-place choices are tried, the smallest
 * arena wins (the same on every machine). Sets tensor[].offset and arena_bytes. Outputs live to the
 * end; element-wise steps, and convolutions with a sum over in[1], may write over an input that dies
 * there, the program's input included. */
nb_status nbi_program_plan(nb_ctx *ctx, nbi_program *program);
/* The least arena any plan could need: the largest sum of buffers that are live at one step, with
 * the best in-place choice there. */
nb_status nbi_program_plan_bound(nb_ctx *ctx, const nbi_program *program, size_t *out_bytes);
/* What is live at each step, summed over all steps. */
nb_status nbi_program_live_sum(nb_ctx *ctx, const nbi_program *program, double *out_bytes);
/* Where the reference kernels' scratch fits into a planned program: offset[i] for step i (offset
 * may be NULL), and the whole RAM, arena_bytes or a little more: the size of the generated C's
 * arena. */
nb_status nbi_program_place_scratch(nb_ctx *ctx, const nbi_program *program, size_t *offset,
                                    size_t *out_ram_bytes);
/* The program up to its float tail, not planned, as C can hold it: what the float operators at the
 * end read are outputs in place of theirs. *cut is the node where it stops, or NULL. *out takes arrays
 * from `memory` and shares the rest with `program`. NB_EUNSUPPORTED, naming the node, when an integer
 * step needs the result of a float operator. */
nb_status nbi_program_cut(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory,
                          nbi_program *out, const char **cut);
/* The program as the C generator emits it, not planned: where only an addition reads the output of
 * a convolution, the convolution adds by itself, so that the output needs no memory and the sum may
 * lie in the other operand's place. *out takes arrays from `memory` and shares the rest with
 * `program`. The engine does not run such steps. */
nb_status nbi_program_fuse(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory,
                           nbi_program *out);
/* RAM of the C made of this program, planned or not: cut, fused, planned, with scratch. Where C cannot
 * be made of it, that of all of the program. */
nb_status nbi_program_ram(nb_ctx *ctx, const nbi_program *program, size_t *out_bytes);
/* What lives at a step and its scratch, summed over all steps of that program. */
nb_status nbi_program_ram_sum(nb_ctx *ctx, const nbi_program *program, double *out_bytes);
/* Scratch of the reference kernel of one step. */
size_t nbi_step_scratch_bytes(const nbi_step *step);

/* Constant tables of a step, as the C generator emits them. */
typedef enum nbi_const_kind {
    NBI_CONST_U8,
    NBI_CONST_S8,
    NBI_CONST_S16,
    NBI_CONST_S32
} nbi_const_kind;
typedef struct nbi_const_table {
    const void *data; /* NULL: the step has no such table */
    size_t bytes;
    nbi_const_kind kind;
    bool own; /* is stored whatever equals it: equal with one policy, it is not with the next */
    int home; /* the table that holds these bytes: itself, or one that starts with them */
} nbi_const_table;
/* The descriptor of a convolution as the C stores it: its bias as narrow as it is. */
nbk_conv nbi_stored_conv(const nbi_step_conv *conv);
/* A convolution has w, levels, bias, mult, shift; a LUT its table; an average pool mult, shift; in
 * this order. */
#define NBI_STEP_TABLES 5
void nbi_step_tables(const nbi_step *step, nbi_const_table table[NBI_STEP_TABLES]);
/* All tables, NBI_STEP_TABLES per step; those whose bytes start another table (equal LUTs, zero
 * biases) get it as their home and are not stored, but for multipliers and shifts, so that a program's
 * size follows from its policy. Free with nbi_free. */
nb_status nbi_program_tables(nb_ctx *ctx, const nbi_program *program, nbi_const_table **out);
/* The descriptor (nbk_conv, …) of a step on a machine with 4-byte pointers. */
size_t nbi_step_descriptor_bytes(const nbi_step *step);
/* Bytes of constants one step stores in flash (as the C generator emits them): its tables, shared
 * or not, and its descriptor. */
size_t nbi_step_const_bytes(const nbi_step *step);
/* The same for the program, tables that are shared counted once. */
nb_status nbi_program_const_bytes(nb_ctx *ctx, const nbi_program *program, size_t *out_bytes);

#endif
