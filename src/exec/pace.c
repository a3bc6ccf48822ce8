/* One thread or all of them? A small batch is a few dozen short parallel regions; on a busy machine
 * every one of them may wait for a partner that is not running, and all threads are then slower
 * than one by an order of magnitude. On a quiet machine they are faster. So a plan whose runs are
 * short gets a twin for one thread, and which of the two runs is decided by their measured times:
 * the better one, and now and then, for a few milliseconds, the other. Both compute the same
 * values. */
#include "exec/plan.h"

#define WARMING  1e-3 /* seconds after a change that do not count: cold caches, sleeping threads */
#define WINDOW   4e-3 /* seconds that are measured together */
#define SMALL    ((size_t)4 << 20) /* bytes of activations; larger batches lose little at barriers */
#define SOON     8                 /* windows between two trials of the slower one, at first */
#define PATIENCE 64                /* … and at most */

static nb_status make_twin(nb_ctx *ctx, nbi_exec *e) {
    const int threads = nb_ctx_threads(ctx);
    nb_ctx_set_threads(ctx, 1);
    nb_status st = nbi_exec_new(ctx, e->graph, e->flags, &e->pace.twin);
    nb_ctx_set_threads(ctx, threads);
    nbi_threads_apply(ctx);
    return st;
}

static void use(exec_pace *p, bool alone) {
    if (p->alone != alone) p->warm = false;
    p->alone = alone;
}

/* A window is over. */
static void decide(exec_pace *p) {
    const bool best = p->seconds[1] < p->seconds[0];
    if (best == p->best && p->alone == best) {
        if (++p->windows < p->patience) return;
        p->windows = 0;
        use(p, !best);
        return;
    }
    /* Another better one is perhaps an accident, soon to be looked at again; a trial that failed
     * can wait longer for the next. */
    if (best != p->best)
        p->patience = SOON;
    else if (p->patience < PATIENCE)
        p->patience *= 2;
    p->best = best;
    p->windows = 0;
    use(p, best);
}

bool nbi_pace_wanted(const nb_ctx *ctx, const nbi_exec *e) {
    return nb_ctx_threads(ctx) > 1 && !e->flags && e->bytes <= SMALL;
}

nb_status nbi_pace_add(nb_ctx *ctx, nbi_exec *e, double seconds) {
    exec_pace *p = &e->pace;
    p->spent += seconds;
    p->calls++;
    if (p->spent < (p->warm ? WINDOW : WARMING)) return NB_OK;
    const double each = p->spent / p->calls;
    p->spent = 0;
    p->calls = 0;
    if (!p->warm) {
        p->warm = true;
        return NB_OK;
    }
    double *mean = &p->seconds[p->alone]; /* of the last few windows */
    *mean = *mean > 0 ? (*mean + each) / 2 : each;
    if (p->twin) {
        decide(p);
    } else {
        NB_TRY(make_twin(ctx, e));
        p->patience = SOON;
        use(p, true);
    }
    return NB_OK;
}
