/* What loop.c and loop_save.c share. */
#ifndef NIBBLE_TRAIN_LOOP_PARTS_H
#define NIBBLE_TRAIN_LOOP_PARTS_H

#include "train/checkpoint.h"
#include "train/loop.h"

typedef struct nbi_loop {
    nb_ctx *ctx;
    const nbi_loop_spec *s;
    nbi_schedule schedule;
    nbi_tape *tape;
    nbi_optimizer *optimizer;
    nbi_ema *ema;
    size_t n_values;  /* trained constants, then running statistics */
    nbi_param *value; /* [n_values]; the first n_params have gradients */
    float **best;     /* [n_values] */
    const void **inputs;
    /* progress: everything that a checkpoint's JSON holds */
    uint64_t step;    /* steps done */
    int judged;       /* epochs that were evaluated: step may be at the end of the next one */
    double loss_sum;  /* of the epoch at hand */
    double last_loss; /* of the epoch before */
    double best_metric;
    int best_epoch;
    /* of this run only */
    double start, busy, epoch_start, last_save, norm;
    uint64_t busy_steps;
    bool stopped;
} nbi_loop;

/* Nothing without a path. NB_ENUMERIC where a value is not finite: the old file stays. */
nb_status nbi_loop_save(nbi_loop *l);
/* Refuses a checkpoint of something else. */
nb_status nbi_loop_load(nbi_loop *l);

#endif
