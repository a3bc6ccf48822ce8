/* The training loop: batches, tape, optimizer, schedule, moving average, checkpoints. It knows no
 * layer and no data set; what is special about a kind of training comes in through callbacks. */
#ifndef NIBBLE_TRAIN_LOOP_H
#define NIBBLE_TRAIN_LOOP_H

#include "data/batches.h"
#include "exec/tape.h"
#include "train/optimizer.h"
#include "train/schedule.h"

typedef struct nbi_loop_param {
    int tensor;      /* a constant of the graph */
    float lr, decay; /* as in nbi_param */
    bool adam;
} nbi_loop_param;

/* What is told at the end of an epoch. */
typedef struct nbi_epoch_line {
    int epoch, epochs; /* 1 … epochs */
    double loss;       /* mean over the epoch's steps, of the weighted sum of the losses */
    double metric;     /* of `evaluate`; NAN without */
    double lr;         /* of the last step */
    double seconds;    /* of this epoch, evaluation included */
    double left;       /* seconds that the rest will take */
    bool improved;
} nbi_epoch_line;

typedef struct nbi_loop_spec {
    nbi_graph *graph; /* training form, specialised; its constants are trained in place */
    int n_params, n_losses, n_states;
    const nbi_loop_param *param;
    const int *loss;
    const float *weight; /* per loss; NULL: all 1 */
    const nbi_tape_state *state;
    nbi_batches *batches; /* fill the graph's inputs: x, then targets, then what `more` adds */
    int epochs;
    nbi_optimizer_options optimizer;
    nbi_schedule schedule; /* `steps` is set by the loop */
    double warmup;         /* epochs; rounded to steps */
    float ema;             /* 0 = none */
    uint64_t seed;         /* of random operators */

    void *user;
    /* Sets inputs[k…] beyond x and targets (a teacher's logits). NULL: none. */
    nb_status (*more)(nb_ctx *ctx, void *user, const nbi_batch *batch, const void **inputs);
    void *step_user; /* of begin and adjust */
    /* Before step `step` of `steps` (from 0) runs: constants of the graph may be set (a temperature).
     * NULL: none. */
    nb_status (*begin)(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps);
    /* Between backward and the optimizer: gradients may be replaced (by memory that lives through
     * the step) and factors of the rate set; params as spec.param. What it does follows from step and
     * gradients alone, so that a resumed run does the same. NULL: none. */
    nb_status (*adjust)(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                        nbi_param *params);
    /* After step `step` has counted: its loss. NULL: none. */
    void (*stepped)(nb_ctx *ctx, void *step_user, double loss);
    /* The metric, larger is better, with the values to judge (averaged, with ema) in the graph's
     * constants. NULL: the last epoch is the best. */
    nb_status (*evaluate)(nb_ctx *ctx, void *user, double *metric);
    /* A new best is in the graph's constants: to be saved. May be NULL. */
    nb_status (*improved)(nb_ctx *ctx, void *user);
    void (*line)(nb_ctx *ctx, void *user, const nbi_epoch_line *line); /* may be NULL */

    const char *checkpoint;    /* path; NULL: none */
    double checkpoint_seconds; /* also within an epoch; 0: 60 */
    bool resume;               /* from `checkpoint` where it exists */
    /* What the trajectory depends on beyond this struct (model, data, options): a checkpoint with
     * another value is refused by its key. */
    const nbi_pair *identity;
    int n_identity;
    double time_limit; /* seconds; 0: none */
} nbi_loop_spec;

typedef struct nbi_loop_result {
    int epochs;                        /* finished */
    int best_epoch;                    /* 0: none was finished */
    double best;                       /* its metric */
    double loss;                       /* of the last finished epoch */
    double seconds, images_per_second; /* of the steps, without evaluation; since the (re)start */
    double norm;                       /* of the last step's gradients */
    bool stopped;                      /* on request or by the time limit */
} nbi_loop_result;

/* Whether the loop would begin with these batches, epochs, warm-up, ema, optimizer and schedule, of which
 * nbi_loop_run says the same: NB_EINVAL. Nothing else of spec is looked at. */
nb_status nbi_loop_check(nb_ctx *ctx, const nbi_loop_spec *spec);
/* Afterwards the graph's constants hold the best values (where no epoch was finished, the last).
 * A run that was resumed ends with the same bytes as one that was not interrupted (at the same
 * number of threads: oneDNN's weight gradients depend on it, so another number is refused).
 * NB_ENUMERIC names epoch, step and the first tensor that is not finite; the checkpoint of before
 * stays. A request to stop ends the loop with NB_OK and a checkpoint. */
nb_status nbi_loop_run(nb_ctx *ctx, const nbi_loop_spec *spec, nbi_loop_result *out);

#endif
