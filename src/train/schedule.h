/* The learning rate of each step. */
#ifndef NIBBLE_TRAIN_SCHEDULE_H
#define NIBBLE_TRAIN_SCHEDULE_H

#include "base/base.h"

typedef enum nbi_schedule_kind { NBI_LR_CONSTANT, NBI_LR_STEP, NBI_LR_COSINE } nbi_schedule_kind;

typedef struct nbi_schedule {
    nbi_schedule_kind kind;
    double lr;       /* the largest */
    double last;     /* cosine: where it ends, as a part of lr (0 as usual) */
    uint64_t steps;  /* of the whole training, ≥ 1 */
    uint64_t warmup; /* first steps, rising linearly to lr; fewer than `steps` */
} nbi_schedule;
/* "constant", "step", "cosine"; NB_EINVAL lists them. */
nb_status nbi_schedule_parse(nb_ctx *ctx, const char *name, nbi_schedule_kind *out);
/* NB_EINVAL names what is out of range. */
nb_status nbi_schedule_check(nb_ctx *ctx, const nbi_schedule *schedule);
/* At step 0 … steps−1 (later steps: as the last). With t of T steps done after the warm-up:
 *   warm-up    lr·(step + 1)/warmup
 *   constant   lr
 *   step       lr, lr/10 from t ≥ T/2, lr/100 from t ≥ 3T/4      (He et al. 2016, CIFAR)
 *   cosine     lr·(last + (1 − last)·(1 + cos(π·t/T))/2)         (Loshchilov and Hutter 2017) */
double nbi_schedule_lr(const nbi_schedule *schedule, uint64_t step);

#endif
