/* See reconstruct.h. Of the float network a block needs what it reads and what it gives; both are
 * computed again for every block, so that memory holds one block's tensors only. */
#include "runtime/reconstruct.h"

#include "quant/float_taps.h"

#include <string.h>

#define MOST_BYTES ((size_t)192 << 20) /* of one tensor over the images */

typedef struct gathering {
    float *value[2];
    size_t count[2];
} gathering;

static nb_status take(nb_ctx *ctx, void *user, int tap, size_t first, size_t n, const float *x,
                      size_t count) {
    gathering *g = user;
    if (count != g->count[tap])
        return nb_fail(ctx, NB_EFORMAT, "a block's tensor has %zu values, %zu were expected", count,
                       g->count[tap]);
    memcpy(g->value[tap] + first * count, x, n * count * sizeof *x);
    return NB_OK;
}

static size_t count_of(const nbi_qnet *net, int edge) {
    const nbi_edge *e = &net->edge[edge];
    return (size_t)e->h * (size_t)e->w * (size_t)e->c;
}

static nb_status one_block(nb_ctx *ctx, nbi_scorer *scorer, nbi_blocks *blocks, int i,
                           const nbi_frozen *frozen, nbi_learner *learner, nbi_qparam *grid,
                           nbi_reconstruction *job) {
    const nbi_qnet *net = job->blocks.net;
    const nbi_block *b = nbi_blocks_get(blocks, i);
    size_t in = count_of(net, b->in), out = count_of(net, b->out), images = job->images;
    const char *name[2] = {net->edge[b->in].name, net->edge[b->out].name};
    gathering g = {.count = {in, out}};
    float *quantized = NULL;
    double before, after;
    nb_status st;
    while (images > 32 && images * (in > out ? in : out) * sizeof(float) > MOST_BYTES) images /= 2;
    NB_TRYG(nbi_alloc(ctx, job->scorer_images * in, sizeof *quantized, &quantized));
    NB_TRYG(nbi_alloc(ctx, images * in, sizeof(float), &g.value[0]));
    NB_TRYG(nbi_alloc(ctx, images * out, sizeof(float), &g.value[1]));
    NB_TRYG(nbi_scorer_run(ctx, scorer, job->blocks.bits, b->in, quantized));
    nbi_taps taps = {job->blocks.source, 2, name, images, job->fill, job->fill_user, take, &g,
                     "float network"};
    NB_TRYG(nbi_float_taps(ctx, &taps));
    nbi_block_data data = {images, quantized, g.value[0], g.value[1]};
    st = nbi_blocks_learn(ctx, blocks, i, frozen, &data, learner, grid, &before, &after);
    if (st == NB_EUNSUPPORTED) { /* this block keeps what it has */
        nb_log(ctx, NB_LOG_INFO, "%s: left out", nb_ctx_message(ctx));
        st = NB_OK;
        goto done;
    }
    if (st != NB_OK) goto done;
    bool better = after < before;
    job->improved += better;
    job->before += before;
    job->after += better ? after : before;
    nb_log(ctx, NB_LOG_INFO, "block up to '%s': squared error %.6g -> %.6g", name[1], before, after);
done:
    nbi_free(quantized);
    nbi_free(g.value[0]);
    nbi_free(g.value[1]);
    return st;
}

nb_status nbi_reconstruct(nb_ctx *ctx, nbi_scorer *scorer, nbi_learner *learner, nbi_qparam *grid,
                          nbi_reconstruction *job) {
    nbi_blocks *blocks = NULL;
    nbi_frozen *frozen = NULL;
    nb_status st;
    job->improved = 0;
    job->before = job->after = 0;
    NB_TRYG(nbi_blocks_new(ctx, &job->blocks, &blocks));
    NB_TRYG(nbi_scorer_freeze(ctx, scorer, job->blocks.bits, &frozen));
    job->n_blocks = nbi_blocks_count(blocks);
    for (int i = 0; i < job->n_blocks; i++) {
        NB_TRYG(one_block(ctx, scorer, blocks, i, frozen, learner, grid, job));
        NB_TRYG(nb_progress(ctx, "blocks learned", i + 1, job->n_blocks));
    }
done:
    nbi_blocks_free(blocks);
    nbi_frozen_free(frozen);
    return st;
}
