/* Running integer steps: kernels selected once per step, weights packed once, one image at a time
 * per worker. */
#ifndef NIBBLE_RUNTIME_RUN_H
#define NIBBLE_RUNTIME_RUN_H

#include "ir/program.h"

/* A step made ready: the kernel and its packed weights (owned by whoever made it). */
typedef struct nbi_ready_step {
    const nbi_step *step;
    const nbi_conv_kernel *kernel; /* convolutions */
    const void *packed;
    size_t scratch;
} nbi_ready_step;

/* Selects the kernel and fills scratch; packs into *packed_out (nbi_alloc'd) unless it is NULL. */
nb_status nbi_step_ready(nb_ctx *ctx, const nbi_step *step, void **packed_out,
                         nbi_ready_step *out);
/* One image. in[], out: buffers in storage order (with NBI_KERNEL_SLACK behind the inputs). tensor:
 * descriptions indexed by step->in/out (read by float islands only). */
nb_status nbi_step_run(nb_ctx *ctx, const nbi_ready_step *ready, const nbi_ptensor *tensor,
                       const void *const *in, void *out, void *scratch);

/* Whether it pays to run the step in parts, each on a thread of its own. */
bool nbi_step_divides(const nbi_ready_step *ready);
/* Part 0 ≤ part < parts of a step that divides; all of them, in any order or at once (with a scratch
 * each), compute what nbi_step_run does. */
void nbi_step_run_part(const nbi_ready_step *ready, const void *const *in, void *out,
                       void *scratch, int part, int parts);

/* A program with one arena per worker thread. */
typedef struct nbi_runner nbi_runner;
/* `program` must outlive it. */
nb_status nbi_runner_new(nb_ctx *ctx, const nbi_program *program, nbi_runner **out);
void nbi_runner_free(nbi_runner *runner); /* NULL is allowed */
/* Runs `n` images, `inputs` n·(bytes of the input) apart, spread over the context's threads; a single
 * image is divided step by step, if that has measured faster (base/pace.h).
 * outputs[i]: n·elements int32 of program output i (u8 and s8 are widened); NULL entries are left
 * out. */
nb_status nbi_runner_run(nb_ctx *ctx, nbi_runner *runner, size_t n, const void *inputs,
                         int32_t *const *outputs);
/* Seconds each step took for one image: the median of `repeat` runs on one thread; [n_steps]. */
nb_status nbi_runner_profile(nb_ctx *ctx, nbi_runner *runner, const void *input, int repeat,
                             double *seconds);

#endif
