/* The insides of a relaxation, for its two files. */
#ifndef NIBBLE_QUANT_RELAX_PARTS_H
#define NIBBLE_QUANT_RELAX_PARTS_H

#include "quant/relax.h"

typedef struct nbi_relax_vertex {
    int learned;   /* θ [n] or bt [1]; −1: this site keeps its start */
    int row;       /* widths: the constant that selects the steps of the width; −1: none */
    bool weights, seen;
    double count;  /* values of one image, or weights */
} nbi_relax_vertex;

struct nbi_relax {
    nbi_relax_spec spec; /* arrays of its own */
    nbi_arena arena;
    const nbi_qnet *net;
    nbi_qat *qat;
    nbi_choice *built; /* [n_sites]: start, the uniform scheme where a vertex takes over */
    nbi_relax_vertex *vertex; /* [n_sites] */
    int tau;                  /* schemes: the temperature, one constant */
    int shared[2];            /* model-wise: θ of weights, of activations */
    int n_learned;            /* the last so many of qat->train */
    float *gradient;          /* [n_learned]: of widths, scaled */
    nbi_loop_param *param;
    int loss[2];
    float loss_weight[2];
    uint64_t steps_per_epoch;
};

/* FakeQuant's rounding of a width, within the candidates. */
int nbi_relax_width(const nbi_relax *relax, int site);

#endif
