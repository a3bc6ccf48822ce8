/* From a float ONNX model to a graph that can be trained, and back. */
#ifndef NIBBLE_TRAIN_PREPARE_H
#define NIBBLE_TRAIN_PREPARE_H

#include "exec/tape.h"
#include "train/roles.h"

typedef struct nbi_training_options {
    int64_t batch;
    bool reconstruct;   /* the output is to equal the input (mean squared error); no targets */
    bool distill;       /* a teacher's logits are a further input, and KL a further loss */
    float temperature;  /* of the distillation; 0: 4 */
} nbi_training_options;

typedef struct nbi_trained {
    int tensor; /* a constant, the same index in both graphs */
    nbi_role role;
} nbi_trained;

typedef struct nbi_training {
    nbi_graph *model; /* as given, weight arithmetic folded; inference form, free batch dimension */
    nbi_graph *graph; /* training form for one batch; inputs: x, targets [N,classes] (unless it
                         reconstructs), the teacher's logits (when distilling); outputs: the logits,
                         then the losses */
    int logits;       /* in `graph`: [N,classes] */
    int64_t classes;  /* 0 where it reconstructs */
    int n_trained, n_states, n_losses;
    nbi_trained *trained;
    nbi_tape_state *state; /* running statistics of BatchNormalization */
    int loss[2];           /* cross-entropy or squared error; divergence from the teacher */
} nbi_training;

/* Copies `model`. BatchNormalization becomes its training form (with constants of its own where a
 * file shares them), a final Softmax is left out of the loss, Dropout is switched on.
 * NB_EUNSUPPORTED names what cannot be trained: a quantized model, no weights, several inputs. */
nb_status nbi_training_new(nb_ctx *ctx, const nbi_graph *model, const nbi_training_options *options,
                           nbi_training **out);
void nbi_training_free(nbi_training *training); /* NULL is allowed */
/* Copies what was trained (and the running statistics) from `graph` into `model`. */
void nbi_training_publish(const nbi_training *training);
/* May the model's output be compared with its input (equal shapes but for the batch)? */
bool nbi_can_reconstruct(const nbi_graph *model);
/* Graph inputs without values, beyond the first, become constants (zero): weights that a file left
 * out, for nbi_init_weights to fill. Shapes must be known. */
nb_status nbi_add_missing_weights(nb_ctx *ctx, nbi_graph *model);

#endif
