/* A quantizing scheme: what a tensor's values are rounded to, how its parameters are found or
 * learned, and how it is stored. One file src/quant/scheme_<name>.c with a const struct, one line
 * in schemes.def. A scheme knows tensors, not operators.
 *
 * Everything works on one group: the whole tensor, or one channel of it. With params p and bits b,
 *   fake quantization  x̂ = scale(p)·level[code(x)]   in float32, with exactly that product,
 * so that codes → levels equals fake quantization bit for bit. */
#ifndef NIBBLE_IR_SCHEME_H
#define NIBBLE_IR_SCHEME_H

#include "base/base.h"

enum {
    NBI_SCHEME_WEIGHTS = 1u << 0,     /* may quantize weights */
    NBI_SCHEME_ACTIVATIONS = 1u << 1, /* may quantize activations */
    NBI_SCHEME_SIGNED = 1u << 2,      /* has a form for values of both signs */
    NBI_SCHEME_UNSIGNED = 1u << 3,    /* has a form for values ≥ 0 */
    NBI_SCHEME_CHANNELS = 1u << 4,    /* defined per channel, too */
    NBI_SCHEME_ZERO = 1u << 5,        /* 0 is a level (else padding differs from level 0) */
    NBI_SCHEME_REFIT = 1u << 6,   /* training refits params at every step (constants in backward);
                                     activations keep an exponential average for evaluation */
    NBI_SCHEME_LEARNED = 1u << 7, /* params get gradients */
    NBI_SCHEME_IDEMPOTENT = 1u << 8, /* q(q(x)) = q(x) for fixed params */
    NBI_SCHEME_MONOTONE = 1u << 9,   /* x ≤ y ⇒ q(x) ≤ q(y) */
    NBI_SCHEME_UNIFORM = 1u << 10    /* levels are equally spaced: level = lo + k·step */
};

#define NBI_SCHEME_MAX_PARAMS 258 /* codebook: 2^8 levels, scale, one spare */

/* How a scheme is used at one site. */
typedef struct nbi_scheme_use {
    int bits;
    bool weights;     /* else activations */
    bool is_unsigned; /* values ≥ 0 known */
} nbi_scheme_use;

/* The grid of one group in integers: x̂ = scale·level[code], code 0 … n−1 ascending in level. */
typedef struct nbi_scheme_grid {
    int n;
    float scale;
    int16_t level[256]; /* in −128 … 255; exact in 8 bits where deploy allows the width */
} nbi_scheme_grid;

typedef struct nbi_scheme {
    const char *name;   /* "lsq", "ternary" … */
    const char *letter; /* AutoQNN's label ("B", "T", …) or "" */
    const char *title, *source;
    unsigned flags;
    int min_bits, max_bits;
    /* Widest width whose levels are exact in 8 bits, for weights and activations; 0: none. Other
     * widths train, and are reported "not deployable". */
    int deploy_weights, deploy_activations;
    /* Floats of params per group, ≤ NBI_SCHEME_MAX_PARAMS. */
    int (*n_params)(const nbi_scheme_use *use);
    /* Params from the values of one group (the rule of specs: least squares, statistics, initial
     * value of what is learned). Never fails: constant or empty x gives finite params. */
    void (*fit)(const nbi_scheme_use *use, const float *x, size_t n, float *params);
    /* y may be x. params are as fit or training left them (not necessarily sane: a learned scale is
     * kept > 0 by forward's own guard, the same in grid and encode). */
    void (*forward)(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n);
    void (*encode)(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n);
    void (*grid)(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out);
    /* dx[i] from g[i] by the scheme's surrogate (straight-through, masked or learned); adds to
     * dparams[n_params] (NULL: not wanted) and to *dbits (NULL: not wanted; specs qpl.md where
     * defined, else 0). dx may be g, or NULL. n_group: elements of the whole group, for gradient
     * scales, when x is a chunk of it. */
    void (*backward)(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits);
    /* Bits stored for n values and for the params of one group (scales, offsets, tables). */
    double (*value_bits)(const nbi_scheme_use *use); /* per value: 2 or 1.6 for ternary */
    int (*param_bits)(const nbi_scheme_use *use);
} nbi_scheme;

#endif
