/* Quantization-aware training of a canonical network: the training graph of a policy, and the way
 * back. The graph simulates the integer program edge by edge: raw weights and every activation site
 * pass through org.nibble::FakeQuant, a convolution that reads a residual stream at fewer bits reads
 * the stream's own codes quantized again, and what follows a convolution is one BatchNormalization
 * per channel (inserted where the network has none: scale = σ, shift = μ as calibration measured
 * them), which at the end becomes the per-channel gain and shift of the integer program. */
#ifndef NIBBLE_QUANT_QAT_H
#define NIBBLE_QUANT_QAT_H

#include "exec/tape.h"
#include "ir/qnet.h"

#define NBI_QAT_EPSILON 1e-5f /* of every BatchNormalization */

/* Tensors of nbi_qat.graph, −1 where a layer has none. */
typedef struct nbi_qat_layer {
    int weight;       /* [M,C/group,kernel] or [M,K] */
    int weight_scale; /* [M,1] or [1,1]; schemes other than uniform: params [groups, n] */
    int gamma, beta, mean, variance;
    int bias;         /* instead of BatchNormalization: the last layer */
} nbi_qat_layer;

struct nbi_qat;
/* Where a tensor is quantized. */
typedef struct nbi_qat_vertex {
    int site;
    int x;    /* tensor of the graph: trained weights, or an activation */
    int axis; /* of the groups: 0 = output channels, −1 = one group */
    bool is_unsigned;
} nbi_qat_vertex;

typedef struct nbi_qat_options {
    int64_t batch;
    bool per_channel;   /* granularity of weights */
    bool evaluate;      /* BatchNormalization with running statistics; no losses: what is simulated,
                         once nbi_qat_copy has given it values */
    int classes;        /* of the targets; 0 = no labels: distillation only */
    bool distill;       /* an input for the float network's outputs */
    bool mean_squared;  /* they are compared as values; else rows of scores by their divergence */
    bool all_outputs;   /* without labels: every output of the net is compared, as values, not the
                         * one alone; see nbi_qat_taught */
    float temperature;  /* of distillation */
    bool ties;          /* a requantization that calibration made one to the same grid stays none: one step for
                         * both, so that the program needs no table and no copy. Not where widths change */
    /* Builds a vertex of its own and sets *out to its tensor; *out = −1: the usual one. For searches
     * that train choices. NULL: none. Such a graph cannot be frozen. */
    nb_status (*vertex)(nb_ctx *ctx, void *user, struct nbi_qat *qat, const nbi_qat_vertex *vertex,
                        int *out);
    void *vertex_user;
} nbi_qat_options;

typedef struct nbi_qat {
    nbi_graph *graph;   /* inputs: images[, targets][, teacher's outputs] */
    nbi_arena arena;
    const nbi_qnet *net;
    nbi_choice *bits;        /* [n_sites] */
    nbi_qat_layer *layer; /* [n_layers] */
    int *site_scale;      /* [n_sites]: [1,1], −1 for what is not learned; of a scheme behind 8 bits: theirs */
    int *site_params;     /* [n_sites]: [1,n] of a scheme other than uniform; −1 */
    int *value;           /* [n_edges]: the edge's values as the integer program has them; −1 */
    double *work_bias;    /* of nbi_qat_settle: [most output channels] */
    float *work_scale;
    uint8_t *work_shift;
    int x, target, teacher; /* graph inputs, −1 */
    int logits, label_loss, teacher_loss; /* −1 */
    int n_train, *train;  /* constants that are trained */
    bool *decays;         /* [n_train]: weight decay applies */
    int n_states;
    nbi_tape_state *state;
} nbi_qat;

/* `source`: the float graph, as given to calibration; `net`: calibrated; bits[n_sites];
 * edge: what the losses compare (nbi_score_edge). NB_EUNSUPPORTED
 * names a node that cannot be trained. */
nb_status nbi_qat_new(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net,
                      const nbi_choice *bits, int edge, const nbi_qat_options *options,
                      nbi_qat **out);
/* The edges whose values are taught: `edge`, or with `all` that one and the net's other outputs. The
 * teacher's row of an image holds one behind the other. Returns how many, at most 8. */
int nbi_qat_taught(const nbi_qnet *net, int edge, bool all, int *list);
/* Whether training puts a BatchNormalization behind a convolution: always, but for dense layers that
 * have none in the file and for the last layer, which train a bias instead. */
bool nbi_qat_normalizes(const nbi_qnet *net, const nbi_layer *layer);
void nbi_qat_free(nbi_qat *qat); /* NULL is allowed */
/* The losses of the graph and their shares, the teacher's being half where there are labels, too;
 * returns how many. */
int nbi_qat_losses(const nbi_qat *qat, int loss[2], float weight[2]);
/* `to`, built to evaluate, gets the values of `from` in the form that the integer program has: gains
 * not negative (signs are in the weights), shifts in whole steps of the sums as their biases hold them. */
void nbi_qat_copy(const nbi_qat *to, const nbi_qat *from);
/* That form, in place. */
void nbi_qat_settle(const nbi_qat *qat);
/* The frozen graph of the values that the training graph holds now (running statistics of
 * BatchNormalization). The gains are not folded yet: nbi_frozen_fold. */
nb_status nbi_qat_freeze(nb_ctx *ctx, const nbi_qat *qat, nbi_frozen **out);

#endif
