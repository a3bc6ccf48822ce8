/* Gradient descent over parameter groups: SGD with (Nesterov) momentum, Adam, AdamW, with clipping
 * of the gradient's norm; and the exponential moving average of weights. Every result is the same
 * bit for bit at any thread count. */
#ifndef NIBBLE_TRAIN_OPTIMIZER_H
#define NIBBLE_TRAIN_OPTIMIZER_H

#include "base/base.h"

/* One group: a tensor that is trained. Nothing is owned; `gradient` may be set anew before every
 * step. */
typedef struct nbi_param {
    const char *name;
    float *value;
    const float *gradient;
    size_t count;
    float lr;    /* factor of the learning rate: 1 as usual, 0 freezes value and state */
    float decay; /* weight decay: of the loss (SGD, Adam: g + decay·w) or decoupled (AdamW) */
    bool adam;   /* Adam for this one, whatever the others have */
} nbi_param;

typedef enum nbi_optimizer_kind { NBI_SGD, NBI_ADAM, NBI_ADAMW } nbi_optimizer_kind;

typedef struct nbi_optimizer_options {
    nbi_optimizer_kind kind;
    float momentum;              /* SGD: 0 … <1 */
    bool nesterov;               /* SGD */
    float beta1, beta2, epsilon; /* Adam, AdamW */
    float clip;                  /* largest norm of all gradients together; 0 = none */
} nbi_optimizer_options;
/* SGD, momentum 0.9; betas 0.9 and 0.999, epsilon 1e-8; no clipping. */
nbi_optimizer_options nbi_optimizer_options_default(void);
/* "sgd", "adam", "adamw"; NB_EINVAL lists them. */
nb_status nbi_optimizer_parse(nb_ctx *ctx, const char *name, nbi_optimizer_kind *out);
/* NB_EINVAL names an option out of its range. */
nb_status nbi_optimizer_check(nb_ctx *ctx, const nbi_optimizer_options *options);

/* A piece of state that a checkpoint holds: floats, living in its owner. */
typedef struct nbi_state {
    char name[16]; /* "momentum", "m", "v"; the checkpoint adds the tensor's index */
    float *data;
    size_t count;
} nbi_state;

typedef struct nbi_optimizer nbi_optimizer;
/* `params` is kept (not copied) and must outlive the optimizer. */
nb_status nbi_optimizer_new(nb_ctx *ctx, const nbi_optimizer_options *options, nbi_param *params,
                            size_t n, nbi_optimizer **out);
void nbi_optimizer_free(nbi_optimizer *optimizer); /* NULL is allowed */
/* One step at learning rate `lr`. *norm (NULL allowed): of all gradients before clipping. Where it
 * is not finite nothing is changed and NB_ENUMERIC names the first such gradient. */
nb_status nbi_optimizer_step(nb_ctx *ctx, nbi_optimizer *optimizer, double lr, double *norm);
/* All state: *out[*n] lives in the optimizer; together with *steps, how many steps each parameter
 * took (those at lr 0 not counted), it is everything. */
void nbi_optimizer_state(nbi_optimizer *optimizer, nbi_state **out, size_t *n, uint64_t **steps);

/* Moving average e ← d·e + (1−d)·w with d = min(decay, (1+t)/(10+t)) at update t = 1, 2, …, so that
 * the start does not weigh. Covers `params` and further arrays (running statistics: values and
 * counts only are read). */
typedef struct nbi_ema nbi_ema;
nb_status nbi_ema_new(nb_ctx *ctx, float decay, const nbi_param *arrays, size_t n, nbi_ema **out);
void nbi_ema_free(nbi_ema *ema); /* NULL is allowed */
nb_status nbi_ema_update(nb_ctx *ctx, nbi_ema *ema);
/* Exchanges averages and values; called twice nothing has changed. */
nb_status nbi_ema_swap(nb_ctx *ctx, nbi_ema *ema);
void nbi_ema_state(nbi_ema *ema, nbi_state **out, size_t *n, uint64_t **updates);

#endif
