/* A quantizing scheme: what a tensor's values are rounded to, how its parameters are found or
 * learned, and how it is stored. One file src/schemes/scheme_<name>.c with a const struct, one line
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
    NBI_SCHEME_LEARNED = 1u << 7, /* params get gradients: n_learned of them; with REFIT, fit sets
                                     the others */
    NBI_SCHEME_IDEMPOTENT = 1u << 8, /* q(q(x)) = q(x) for fixed params */
    NBI_SCHEME_MONOTONE = 1u << 9,   /* x ≤ y ⇒ q(x) ≤ q(y) */
    NBI_SCHEME_UNIFORM = 1u << 10,   /* levels are equally spaced: level = lo + k·step */
    NBI_SCHEME_FIXED_LEVELS = 1u << 11, /* the grid's levels do not depend on the params: channels
                                           share one table */
    NBI_SCHEME_STEPS = 1u << 12, /* activations: where the levels are consecutive integers,
                                    x̂ = scale·clip(round(x/scale), first level, last level) */
    NBI_SCHEME_RESCALES = 1u << 13 /* weights: x̂ is near a multiple of x, which whatever follows
                                      absorbs (DoReFa) */
};

/* IDEMPOTENT, MONOTONE, ZERO and UNIFORM hold for every use of 2 bits or more; at 1 bit a signed grid
 * is ±scale. The grid tells what one use has. */

#define NBI_SCHEME_MAX_PARAMS 258 /* codebook: 2^8 levels, two spare */

/* How the range of a uniform grid is found. */
typedef enum nbi_range_method {
    NBI_RANGE_MSE,        /* least mean squared error over 100 shrunken ranges (default) */
    NBI_RANGE_MINMAX,
    NBI_RANGE_PERCENTILE, /* 99.9 % */
    NBI_RANGE_KL,         /* least Kullback–Leibler divergence of the clipped histogram */
    NBI_RANGE_METHODS
} nbi_range_method;

/* How a scheme is used at one site. */
typedef struct nbi_scheme_use {
    int bits;
    bool weights;     /* else activations */
    bool is_unsigned; /* values ≥ 0 known */
    /* The gradient of the width as the scheme's own row of docs/schemes.md has it; else the default of all
     * schemes, ln2·(x − x̂). */
    bool exact_bits;
    nbi_range_method range; /* of fit, for uniform, affine and symmetric */
} nbi_scheme_use;

/* The grid of one group in integers: x̂ = scale·level[code], code 0 … n−1 ascending in level (levels
 * of a rounded table may repeat). n may be less than 2^bits (ternary). */
typedef struct nbi_scheme_grid {
    int n;
    float scale;
    /* At the widths that deploy allows: −128 … 127 (weights), or 8 bits with a zero point
     * (activations: −255 … 255, spanning 255 at most). Wider at other widths. */
    int16_t level[256];
} nbi_scheme_grid;

typedef struct nbi_scheme {
    const char *name;   /* "lsq", "ternary" … */
    const char *letter; /* AutoQNN's label ("B", "T", …) or "" */
    const char *title, *source;
    const char *formula; /* one line, as docs/schemes.md has it */
    unsigned flags;
    int min_bits, max_bits;
    int max_bits_activations; /* 0: max_bits */
    int n_learned;            /* of LEARNED: the first so many params; −1: all */
    float decay;              /* of REFIT: the exponential average over batches; 0: 0.9 */
    /* Widest width whose levels are exact in 8 bits, for weights and activations; 0: none. Other
     * widths train, and are reported "not deployable". */
    int deploy_weights, deploy_activations;
    /* Floats of params per group, ≤ NBI_SCHEME_MAX_PARAMS. */
    int (*n_params)(const nbi_scheme_use *use);
    /* Params from the values of one group (the rule of specs: least squares, statistics, initial
     * value of what is learned). Never fails: constant, empty or not finite x gives finite params,
     * and never all zero (that marks "not fitted yet" in FakeQuant). */
    void (*fit)(const nbi_scheme_use *use, const float *x, size_t n, float *params);
    /* y may be x. params are as fit or training left them (not necessarily sane: a learned scale is
     * kept > 0 by forward's own guard, the same in grid and encode). NaN in x stays NaN. */
    void (*forward)(const nbi_scheme_use *use, const float *params, const float *x, float *y,
                    size_t n);
    void (*encode)(const nbi_scheme_use *use, const float *params, const float *x, uint8_t *code,
                   size_t n);
    void (*grid)(const nbi_scheme_use *use, const float *params, nbi_scheme_grid *out);
    /* dx[i] from g[i] by the scheme's surrogate (straight-through, masked or learned); adds to
     * dparams[n_params] (NULL: not wanted) and to *dbits (NULL: not wanted; docs/schemes.md, see
     * use->exact_bits). dx may be g, or NULL. n_group: elements of the whole group, for gradient
     * scales, when x is a chunk of it. */
    void (*backward)(const nbi_scheme_use *use, const float *params, const float *x, const float *g,
                     size_t n, size_t n_group, float *dx, double *dparams, double *dbits);
    /* Bits stored for n values and for the params of one group (scales, offsets, tables). */
    double (*value_bits)(const nbi_scheme_use *use); /* per value: 2 or 1.6 for ternary */
    int (*param_bits)(const nbi_scheme_use *use);
} nbi_scheme;

#endif
