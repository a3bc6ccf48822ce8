/* Deep deterministic policy gradient (Lillicrap et al. 2016) with the sizes of HAQ: an actor that
 * maps a state to one action in [0, 1], a critic that maps state and action to the return, target
 * copies of both that follow slowly, a replay memory. Float32, the same bits at any thread count.
 */
#ifndef NIBBLE_SEARCH_DDPG_H
#define NIBBLE_SEARCH_DDPG_H

#include "base/base.h"

typedef struct nbi_ddpg_options {
    size_t state;         /* numbers in a state */
    size_t hidden;        /* units in each of two hidden layers */
    size_t batch, memory; /* transitions: in an update, and kept */
    double actor_rate, critic_rate, discount, follow;
    uint64_t seed;
} nbi_ddpg_options;

typedef struct nbi_ddpg nbi_ddpg;
nb_status nbi_ddpg_new(nb_ctx *ctx, const nbi_ddpg_options *options, nbi_ddpg **out);
void nbi_ddpg_free(nbi_ddpg *agent); /* NULL is allowed */
/* The actor's action for a state, without noise. */
double nbi_ddpg_act(nbi_ddpg *agent, const float *state);
/* Keeps a transition; the oldest makes room. `next` NULL: the episode ended here. `reward` NAN:
 * none came with it. */
void nbi_ddpg_observe(nbi_ddpg *agent, const float *state, double action, double reward,
                      const float *next);
/* Rewards are seen as (reward − offset)·scale from now on. */
void nbi_ddpg_scale(nbi_ddpg *agent, double offset, double scale);
/* One step of critic, actor and targets on a random batch; nothing before anything was observed. */
void nbi_ddpg_update(nbi_ddpg *agent);

#endif
