/* MetaQuantNet (Wang et al., arXiv 2004.11506): one small network that generates the weights of a
 * given network for a policy of widths, trained once and used for every limit. Layer l with widths
 * B = {b_1 … b_K}, context e (its own width over the widest; or its neighbours', or all):
 *   h = ReLU(A·e + a), w = C·h + c, W = FakeQuant(w, width)
 * Not generated: BatchNormalization, biases, layers whose width is fixed (the first and the last).
 * Everything is one graph: the training graph of quant/qat.h, whose weights here have producers and
 * whose widths are tensors. Its last input is the policy, one row per free site: [rows, widths], 1
 * at the site's width. Steps of the quantizers are learned per width. */
#ifndef NIBBLE_HYPER_METAQUANTNET_H
#define NIBBLE_HYPER_METAQUANTNET_H

#include "quant/qat.h"
#include "train/loop.h"

typedef enum nbi_meta_kind {
    NBI_META_HYPER,
    NBI_META_SHARED, /* control: C = 0, one set of weights for all widths */
    NBI_META_TABLES  /* control: a free set of weights for each width */
} nbi_meta_kind;

typedef enum nbi_meta_init { /* what the chosen policy's fine-tuning starts from */
    NBI_META_GENERATED,
    NBI_META_FLOAT,
    NBI_META_RANDOM
} nbi_meta_init;

/* What a search asks for. */
typedef struct nbi_meta_settings {
    nbi_meta_kind kind;
    int context; /* as below */
    int hidden, epochs;
    nbi_meta_init init;
    double lr, smoothing;
    double deadline; /* nb_seconds to have finished at; INFINITY: none */
} nbi_meta_settings;

typedef struct nbi_meta_options {
    nbi_meta_kind kind;
    int context; /* widths in e: 1 its own; 3 the neighbours', too; 0 all */
    int hidden;  /* H */
    uint8_t weight_bits[8], activation_bits[8]; /* offered, rising */
    int n_weight_bits, n_activation_bits;       /* activations of one width are not searched */
    const nbi_choice *fixed; /* [n_sites] 0: free */
    uint64_t seed;           /* of A, a, C and of the policies drawn */
    nbi_qat_options qat;
} nbi_meta_options;

typedef struct nbi_meta_row { /* one free site */
    int site;
    int layer;     /* weights: the convolution; −1 */
    int steps;     /* constant [K, groups]: steps by width */
    int weight;    /* weights: what was generated, the layer's shape */
    int selected;  /* the step of the width at hand [groups,1] */
} nbi_meta_row;

typedef struct nbi_meta {
    nbi_meta_options o; /* `fixed` is copied */
    nbi_qnet *net;
    nbi_qat *qat;
    nbi_arena arena;
    int n_rows, n_weights; /* weights first, in the order of the layers */
    int columns;           /* widths at most */
    nbi_meta_row *row;
    int policy;            /* graph input [n_rows, columns] */
    int n_params;
    nbi_loop_param *param; /* all that is trained */
    float *input;          /* [n_rows·columns]: the policy of the step at hand */
    /* the generator alone: weights and steps of a policy */
    nbi_graph *generator;
    nbi_tape *tape;
    struct nbi_meta_store *store; /* what it generated */
    struct nbi_meta_kept *kept;   /* of the network, by layer */
    nbi_qparam (*fit)[NBI_MAX_BITS + 1]; /* by site */
    bool installed;
    double loss_sum[8];           /* by width since the last report, and how often */
    long loss_count[8];
} nbi_meta;

/* `net`: calibrated, outlives it; source and edge as nbi_qat_new. */
nb_status nbi_meta_new(nb_ctx *ctx, const nbi_graph *source, nbi_qnet *net, int edge,
                       const nbi_meta_options *options, nbi_meta **out);
void nbi_meta_free(nbi_meta *meta); /* NULL is allowed; uninstalls */
/* Numbers that are trained. */
size_t nbi_meta_parameters(const nbi_meta *meta);

/* ---- training -------------------------------------------------------------------------------- */

/* The policy of step `step`: every site's width uniform; all narrowest, all widest with probability
 * 0.1 each. Returned in the form of the graph's input; valid until the next call. */
const float *nbi_meta_draw(nbi_meta *meta, uint64_t step);
/* The loss of a step under the policy at hand, for nbi_meta_losses. */
void nbi_meta_note_loss(nbi_meta *meta, double loss);
/* Mean loss of the steps at which a free weight had width k (by index in weight_bits; NAN: never),
 * over all layers, since the last call. */
void nbi_meta_losses(nbi_meta *meta, double out[8]);
/* After the constants of the training graph have changed: nothing generated before is valid. */
void nbi_meta_changed(nbi_meta *meta);

/* ---- generated weights ----------------------------------------------------------------------- */

/* Weights and steps for a policy (widths that are not offered: the nearest one's weights, fitted).
 * Layer's order, signs as installed; levels and scale as nbi_fit_weights. */
nb_status nbi_meta_levels(nb_ctx *ctx, nbi_meta *meta, int layer, const nbi_choice *bits,
                          int8_t *levels, float *scale, double *sqnr);
/* The same before quantization: float32 [n_weights], layer's order. */
nb_status nbi_meta_weights(nb_ctx *ctx, nbi_meta *meta, int layer, const nbi_choice *bits,
                           float *out);
/* The network gets what was trained and is not generated: normalization as gain, shift and
 * statistics, steps of activations by width. With `bits` also the weights of that policy.
 * Uninstalling restores what calibration left. */
nb_status nbi_meta_install(nb_ctx *ctx, nbi_meta *meta, const nbi_choice *bits);
void nbi_meta_uninstall(nbi_meta *meta);

/* ---- files ----------------------------------------------------------------------------------- */

/* An ONNX file: policy in, parameters of the network out. `identity`: what it belongs to, kept as
 * metadata beside the settings. */
nb_status nbi_meta_write(nb_ctx *ctx, const nbi_meta *meta, const char *path, int n,
                         const nbi_pair *identity);
/* Values from a file of the same network and settings; NB_EINVAL names what differs. */
nb_status nbi_meta_read(nb_ctx *ctx, nbi_meta *meta, const char *path, int n,
                        const nbi_pair *identity);

#endif
