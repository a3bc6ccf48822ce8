/* See scorer_images.h. The result of an image does not depend on the thread that computes it. */
#include "runtime/scorer_images.h"

#include <math.h>
#include <string.h>

#define CHUNK    8         /* images per task */
#define TOGETHER (1 << 13) /* sums that are made wide again at once */

static size_t round_up(size_t n) {
    return (n + 63) & ~(size_t)63;
}

/* ---- scratch: the kernel's own, sums, moments ------------------------------------------------ */

static size_t acc_offset(const nbi_ready_step *ready) {
    return round_up(ready->scratch + NBI_KERNEL_SLACK);
}

static size_t moments_offset(const nbi_ready_step *ready) {
    const nbk_conv *p = &ready->step->u.conv.p;
    const size_t count = (size_t)p->out_h * (size_t)p->out_w * (size_t)p->out_c;
    const size_t room = count > TOGETHER ? count : TOGETHER;
    return round_up(acc_offset(ready) + room * sizeof(int32_t) + NBI_KERNEL_SLACK);
}

size_t nbi_images_scratch(const nbi_ready_step *ready) {
    if (!ready->kernel) return acc_offset(ready);
    return moments_offset(ready) + 2 * (size_t)ready->step->u.conv.p.out_c * sizeof(int64_t);
}

/* ---- outputs --------------------------------------------------------------------------------- */

/* The output of an image from its kept sums: only the bias differs from the final one. */
static void finish_image(const nbi_images_job *j, size_t n, int worker) {
    const nbi_simple_kernels *simple = nbi_simple_select(nbi_cpu_isa());
    const nbk_conv *p = &j->ready->step->u.conv.p;
    const size_t channels = (size_t)p->out_c, pixels = (size_t)p->out_h * (size_t)p->out_w;
    const int32_t *acc = j->sums->sums + n * pixels * channels;
    uint8_t *out = j->out + n * j->out_bytes;
    if (!j->sums->halved[n]) {
        j->ready->kernel->finish(p, acc, j->sums->bias, pixels, out);
        return;
    }
    const int16_t *half = (const int16_t *)(const void *)acc;
    int32_t *wide = (int32_t *)(void *)(j->scratch[worker] + acc_offset(j->ready));
    const size_t element = p->out_type == NBK_S32 ? sizeof(int32_t) : 1;
    const size_t most = channels < TOGETHER ? TOGETHER / channels : 1;
    for (size_t at = 0, count; at < pixels; at += count) {
        count = pixels - at < most ? pixels - at : most;
        simple->widen(half + at * channels, count * channels, j->sums->shift, wide);
        j->ready->kernel->finish(p, wide, j->sums->bias, count, out + at * channels * element);
    }
}

static nb_status run_chunk(void *user, size_t begin, size_t end, int worker) {
    const nbi_images_job *j = user;
    for (size_t i = begin; i < end; i++) {
        /* the sums that were made last are still in a cache */
        const size_t n = i < j->kept ? j->kept - 1 - i : i;
        const void *in[3];
        if (n < j->kept) {
            finish_image(j, n, worker);
            continue;
        }
        for (int k = 0; k < 3; k++) in[k] = j->in[k] ? j->in[k] + n * j->in_bytes[k] : NULL;
        NB_TRY(nbi_step_run(j->ctx, j->ready, j->tensor, in, j->out + n * j->out_bytes,
                            j->scratch[worker]));
    }
    return NB_OK;
}

nb_status nbi_images_run(const nbi_images_job *job, size_t images) {
    nbi_images_job j = *job;
    return nbi_parallel(job->ctx, images, CHUNK, run_chunk, &j);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void put_moments(const nbi_images_job *j, size_t n, const int64_t *work, int shift) {
    const size_t channels = (size_t)j->ready->step->u.conv.p.out_c;
    double *sum = j->moments + n * 2 * channels, *square = sum + channels;
    for (size_t c = 0; c < channels; c++) {
        sum[c] += ldexp((double)work[c], shift);
        square[c] += ldexp((double)work[channels + c], 2 * shift);
    }
}

/* Adds Σ and Σ² of one image's sums, of so many pixels at once that int64 holds Σ². */
static void add_moments(const nbi_images_job *j, const int32_t *acc, size_t n, int64_t *work) {
    const nbi_step_conv *conv = &j->ready->step->u.conv;
    const size_t channels = (size_t)conv->p.out_c;
    size_t pixels = (size_t)conv->p.out_h * (size_t)conv->p.out_w, count;
    double bound = (double)conv->range.acc_bound + 1, most = 0x1p62 / (bound * bound);
    for (size_t i = 0; i < pixels; i += count) {
        count = most < (double)(pixels - i) ? (size_t)fmax(most, 1) : pixels - i;
        nbi_simple_select(nbi_cpu_isa())
            ->moments(acc + i * channels, count, channels, work, work + channels);
        put_moments(j, n, work, 0);
    }
}

static nb_status sum_chunk(void *user, size_t begin, size_t end, int worker) {
    const nbi_images_job *j = user;
    const nbi_simple_kernels *simple = nbi_simple_select(nbi_cpu_isa());
    const nbi_step_conv *conv = &j->ready->step->u.conv;
    const size_t channels = (size_t)conv->p.out_c;
    const size_t pixels = (size_t)conv->p.out_h * (size_t)conv->p.out_w;
    char *scratch = j->scratch[worker];
    int32_t *acc = (int32_t *)(void *)(scratch + acc_offset(j->ready));
    int64_t *work = (int64_t *)(void *)(scratch + moments_offset(j->ready));
    for (size_t n = begin; n < end; n++) {
        int32_t *place = j->sums->kept ? j->sums->sums + n * pixels * channels : NULL;
        /* as wide as those of the image before: at once in their place */
        const bool wide = place && n > begin && !j->sums->halved[n - 1];
        int32_t *to = wide ? place : acc;
        j->ready->kernel->sums(&conv->p, &conv->range, j->ready->packed,
                               j->in[0] + n * j->in_bytes[0], to, scratch);
        if (!place || wide) {
            if (place) j->sums->halved[n] = false;
            add_moments(j, to, n, work);
            continue;
        }
        j->sums->halved[n] = simple->halve(acc, pixels, channels, j->sums->shift,
                                           (int16_t *)(void *)place, work, work + channels);
        if (j->sums->halved[n]) {
            put_moments(j, n, work, j->sums->shift);
            continue;
        }
        memcpy(place, acc, pixels * channels * sizeof *acc);
        add_moments(j, acc, n, work);
    }
    return NB_OK;
}

/* All sums are multiples of the largest power of two that divides all weights and biases. */
static int common_shift(const nbi_step_conv *conv) {
    const int32_t *bias = conv->p.bias;
    uint32_t bits = 1u << 7;
    int shift = 0;
    for (size_t i = 0; i < conv->w_count; i++) bits |= (uint8_t)conv->levels[i];
    for (int o = 0; o < conv->p.out_c; o++) bits |= (uint32_t)bias[o];
    while (!(bits >> shift & 1)) shift++;
    return shift;
}

nb_status nbi_images_sum(nbi_images_job *job, size_t images) {
    const nbi_step_conv *conv = &job->ready->step->u.conv;
    job->sums->bias = conv->p.bias;
    job->sums->shift = common_shift(conv);
    memset(job->moments, 0, images * 2 * (size_t)conv->p.out_c * sizeof *job->moments);
    return nbi_parallel(job->ctx, images, CHUNK, sum_chunk, job);
}
