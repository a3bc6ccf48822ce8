/* MetaQuantNet (Wang et al., arXiv 2004.11506): one small network that generates the weights of a
 * given network for a policy of schemes and widths, trained once and used for every limit. Layer l with
 * choices Q = {q_1 … q_K}, context e (its own width over the widest and, where several schemes are
 * offered, one number per scheme, 1 at its own; or its neighbours' likewise, or all):
 *   h = ReLU(A·e + a), w = C·h + c, W = FakeQuant(w, choice)
 * Not generated: BatchNormalization, biases, layers whose choice is fixed (the first and the last).
 * Everything is one graph: the training graph of quant/qat.h, whose weights here have producers and
 * whose choices are tensors. Its last input is the policy, one row per free site: [rows, choices], 1
 * at the site's choice. Params of the quantizers (steps of uniform ones) are kept per choice, learned or
 * refitted as the scheme's row says. */
#ifndef NIBBLE_HYPER_METAQUANTNET_H
#define NIBBLE_HYPER_METAQUANTNET_H

#include "quant/qat.h"
#include "train/loop.h"

struct nbi_coded_weights; /* quant/fit.h */

typedef enum nbi_meta_kind {
    NBI_META_HYPER,
    NBI_META_SHARED, /* control: C = 0, one set of weights for all choices */
    NBI_META_TABLES  /* control: a free set of weights for each choice */
} nbi_meta_kind;

/* What a search asks for. */
typedef struct nbi_meta_settings {
    nbi_meta_kind kind;
    int context; /* as below */
    int hidden, epochs;
    double lr, smoothing;
    double deadline; /* nb_seconds to have finished at; INFINITY: none */
} nbi_meta_settings;

#define NBI_META_CHOICES 160 /* of weights or of activations, at most */

typedef struct nbi_meta_options {
    nbi_meta_kind kind;
    int context; /* layers in e: 1 its own; 3 the neighbours', too; 0 all */
    int hidden;  /* H */
    /* Offered, by rising width; activations fitted (nbi_fit_site). Activations of one choice are not
     * searched. */
    nbi_choice weights[NBI_META_CHOICES], activations[NBI_META_CHOICES];
    int n_weights, n_activations;
    const nbi_choice *fixed; /* [n_sites] 0: free */
    uint64_t seed;           /* of A, a, C and of the policies drawn */
    nbi_qat_options qat;
} nbi_meta_options;

typedef struct nbi_meta_row { /* one free site */
    int site;
    int layer;     /* weights: the convolution; −1 */
    int n;         /* what it may get, by rising width (an activation: what it can) */
    const nbi_choice *choice;
    bool mixed;    /* one of them is not uniform */
    int columns;   /* params of a group: 1, the step, where all are uniform */
    int steps;     /* constant [n, groups·columns]: params by choice, what is learned of them */
    int fitted;    /* constant like it: averages of what is refitted; −1 */
    int weight;    /* weights: what was generated, the layer's shape */
    int selected;  /* the params of the choice at hand [groups, columns] */
} nbi_meta_row;

typedef struct nbi_meta {
    nbi_meta_options o; /* `fixed` is copied */
    nbi_qnet *net;
    nbi_qat *qat;
    nbi_arena arena;
    int n_rows, n_weights; /* weights first, in the order of the layers */
    int columns;           /* choices at most */
    int n_schemes;         /* of weights, in the order of the choices */
    int scheme[NBI_META_CHOICES];
    nbi_meta_row *row;
    int policy;            /* graph input [n_rows, columns] */
    int n_params;
    nbi_loop_param *param; /* all that is trained */
    float *input;          /* [n_rows·columns]: the policy of the step at hand */
    /* the generator alone: weights and params of a policy */
    nbi_graph *generator;
    nbi_tape *tape;
    struct nbi_meta_store *store; /* what it generated */
    struct nbi_meta_kept *kept;   /* of the network, by layer */
    nbi_qparam (*fit)[NBI_MAX_BITS + 1]; /* by site */
    struct nbi_meta_grid *grid;          /* of sites by schemes other than uniform: as it was */
    int n_grids;
    bool installed;
    double loss_sum[NBI_META_CHOICES];   /* by choice since the last report, and how often */
    long loss_count[NBI_META_CHOICES];
} nbi_meta;

/* `net`: calibrated, outlives it; source and edge as nbi_qat_new. */
nb_status nbi_meta_new(nb_ctx *ctx, const nbi_graph *source, nbi_qnet *net, int edge,
                       const nbi_meta_options *options, nbi_meta **out);
void nbi_meta_free(nbi_meta *meta); /* NULL is allowed; uninstalls */
/* Numbers that are trained. */
size_t nbi_meta_parameters(const nbi_meta *meta);

/* ---- training -------------------------------------------------------------------------------- */

/* The policy of step `step`: of every site a scheme, then one of its widths, uniform; all narrowest, all
 * widest with probability 0.1 each. Returned in the form of the graph's input; valid until the next call. */
const float *nbi_meta_draw(nbi_meta *meta, uint64_t step);
/* The loss of a step under the policy at hand, for nbi_meta_losses. */
void nbi_meta_note_loss(nbi_meta *meta, double loss);
/* Mean loss of the steps at which a free weight had choice k (by index in o.weights; NAN: never), over
 * all layers, since the last call. */
void nbi_meta_losses(nbi_meta *meta, double out[NBI_META_CHOICES]);
/* After the constants of the training graph have changed: nothing generated before is valid. */
void nbi_meta_changed(nbi_meta *meta);

/* ---- generated weights ----------------------------------------------------------------------- */

/* Weights and steps for a policy (choices that are not offered: the nearest one's weights, fitted).
 * Layer's order, signs as installed; the rest as nbi_fit_weight_choice. */
nb_status nbi_meta_levels(nb_ctx *ctx, nbi_meta *meta, int layer, const nbi_choice *bits,
                          struct nbi_coded_weights *out);
/* The same before quantization: float32 [n_weights], layer's order. */
nb_status nbi_meta_weights(nb_ctx *ctx, nbi_meta *meta, int layer, const nbi_choice *bits,
                           float *out);
/* The network gets what was trained and is not generated: normalization as gain, shift and
 * statistics, params of activations by choice. With `bits` also the weights of that policy.
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
