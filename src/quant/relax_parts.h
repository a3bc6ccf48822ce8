/* The insides of a relaxation, for its files. */
#ifndef NIBBLE_QUANT_RELAX_PARTS_H
#define NIBBLE_QUANT_RELAX_PARTS_H

#include "quant/relax.h"

typedef struct nbi_relax_vertex {
    int learned;   /* θ [n], a width [1] or a range [2]; −1: this site keeps its start */
    int row[2];    /* the constants that select the steps of a width, fractions: of both; −1: none */
    int steps;     /* learned steps of all widths [8, groups, 1]; −1: none */
    int params[2]; /* widths, fractions: the quantizers' params; −1: none */
    int width[2];  /* fractions: the constants of both widths */
    int inverse;   /* fractions: 1 / the difference of the widths */
    int share;     /* schemes: the probabilities; fractions: f; −1: none */
    bool weights, is_unsigned;
    double count;  /* values of one image, or weights */
} nbi_relax_vertex;

/* What a vertex of the graph is built with. */
typedef struct nbi_relax_grower {
    nb_ctx *ctx;
    struct nbi_relax *r;
    nbi_qat *q;
    const nbi_qat_vertex *v;
    const nbi_site *site;
} nbi_relax_grower;

/* One way to make a choice continuous: a row per kind. `vertex` is called once for every tensor of a
 * site (several producers may share one): what is learned belongs to the site and is made by the first
 * call (learned < 0 before it), each call adds a quantizer. begin and adjust are hooks of the loop. */
typedef struct nbi_relax_way {
    nb_status (*vertex)(nbi_relax_grower *b, const nbi_relax_site *s, int *out);
    nb_status (*begin)(nb_ctx *ctx, void *relax, uint64_t step, uint64_t steps);
    nb_status (*adjust)(nb_ctx *ctx, void *relax, uint64_t step, uint64_t steps, double lr,
                        nbi_param *params);
    bool adam; /* for what is learned */
    /* The choice that a site has learned, and the value that nbi_relax_decode tells. */
    nbi_choice (*decode)(const nbi_relax *relax, int site, double *value);
    /* The width that counts for the targets; NULL: none. */
    double (*width)(const nbi_relax *relax, int site);
} nbi_relax_way;
extern const nbi_relax_way nbi_relax_schemes, nbi_relax_widths, nbi_relax_fractions,
    nbi_relax_ranges;

struct nbi_relax {
    nbi_relax_spec spec; /* arrays of its own */
    const nbi_relax_way *way;
    nbi_arena arena;
    const nbi_qnet *net;
    nbi_qat *qat;
    nbi_graph *graph;  /* of qat, also while that is being built */
    nbi_choice *built; /* [n_sites]: start, the uniform scheme where a vertex takes over */
    nbi_relax_vertex *vertex; /* [n_sites] */
    int tau;                  /* schemes: the temperature, one constant */
    int shared[2];            /* model-wise: θ of weights, of activations */
    int n_learned;            /* the last so many of qat->train */
    float *gradient;          /* [2·n_learned]: of what is learned, with the targets' part */
    double *pressure;         /* [n_sites]: see nbi_relax_press */
    nbi_loop_param *param;
    int loss[2];
    float loss_weight[2];
    uint64_t steps_per_epoch;
};

/* What graph builders share (relax.c). A node is finished once its attributes are set. */
nb_status nbi_relax_node(nbi_relax_grower *b, const char *domain, const char *type, int n_in,
                         const int *in, int *out, nbi_node **node);
nb_status nbi_relax_finish(nbi_relax_grower *b, nbi_node *node);
nb_status nbi_relax_constant(nbi_relax_grower *b, const char *what, nb_dtype dtype, int rank,
                             const int64_t *dim, int *out);
bool nbi_relax_is_weight(const nbi_relax_grower *b);
const nbi_scheme *nbi_relax_scheme(nbi_choice choice);
/* Steps of a layer's weights at one width: [groups]. */
nb_status nbi_relax_weight_steps(nbi_relax_grower *b, int bits, int64_t groups, float *out);
/* Params of a scheme whose width is learned, for `n` quantizers of one tensor, each at a width of its
 * own: where steps are learned, a row for every width, of which out[i] is the one that row[i] of the
 * vertex selects. */
nb_status nbi_relax_params(nbi_relax_grower *b, const nbi_scheme *scheme, int n, int *out);
/* FakeQuant of the vertex's tensor; `width` is an input. */
nb_status nbi_relax_quantizer(nbi_relax_grower *b, const nbi_scheme *scheme, int params, int width,
                              int *out);
nb_status nbi_relax_mixture(nbi_relax_grower *b, const nbi_relax_site *s, int *out);
nb_status nbi_relax_rounded(nbi_relax_grower *b, const nbi_relax_site *s, int *out);

/* What training hooks share (relax_train.c). */
float *nbi_relax_value(const nbi_relax *r, int tensor);
void nbi_relax_set_row(const nbi_relax *r, int site, int which, int bits);
/* Fills pressure[site] with the derivative by the site's width of φ over all targets, e being what the
 * average (of weights, of activations, √BOPs) exceeds its target by, in bits:
 * φ(e) = strength·max(0, e)², two-sided strength·|e|. */
void nbi_relax_press(nbi_relax *r, double strength, bool two_sided);

#endif
