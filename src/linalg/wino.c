/* Winograd's F(4×4, 3×3) and F(3×3, 4×4) over float images N,H,W,C: plans, memory and the order of
 * work; wino_avx2.c does the arithmetic.
 *
 *     Y = Aᵗ[(G g Gᵗ) ⊙ (Bᵗ d B)]A   (Lavin and Gray, arXiv 1509.09308, section 4.3)
 *
 * The gradient of the data is the convolution of the output's gradient with the turned weights; the
 * gradient of the weights correlates windows of 6×6 inputs with tiles of 4×4 gradients: 3×3
 * outputs, the same six points. Groups of tiles: transform, [place][tile][channel]; multiply place
 * by place; transform back. */
#include "linalg/wino_parts.h"

#include "kernels/kernels.h"

#include <string.h>

#ifdef NBI_WINO_BUILT

#define MOST_WEIGHTS                                                                               \
    ((int64_t)128 * 128) /* behind it reading weights takes longer than products                   \
                          */
#define CHUNKS 8         /* partial sums of a weight gradient, summed in order */

struct nbi_wino {
    nbi_la_pass pass;
    wino_shape s;
    wino_act act;
    float *u, *bias; /* fixed weights, transformed, and bias; or NULL */
};

bool nbi_wino_fits(const nbi_la_conv_desc *d) {
    const int64_t rows = (d->oh + WINO_SIDE - 1) / WINO_SIDE;
    const int64_t columns = (d->ow + WINO_SIDE - 1) / WINO_SIDE;
    return d->fast && nbi_cpu_isa() >= NBI_ISA_AVX2 && d->group == 1 && d->kernel[0] == 3 &&
           d->kernel[1] == 3 && d->stride[0] == 1 && d->stride[1] == 1 && d->dilation[0] == 1 &&
           d->dilation[1] == 1 && d->pad_begin[0] <= 2 && d->pad_begin[1] <= 2 &&
           d->pad_begin[0] >= 0 && d->pad_begin[1] >= 0 && d->c % WINO_STRIP == 0 &&
           d->m % WINO_STRIP == 0 && d->c * d->m <= MOST_WEIGHTS &&
           rows * columns * WINO_SIDE * WINO_SIDE * 2 <= d->oh * d->ow * 3;
}

/* Floats between two places: an odd number of cache lines, so that 36 of them do not share a set.
 */
static size_t place_of(size_t tiles, size_t channels) {
    return ((tiles * channels + WINO_STRIP - 1) / WINO_STRIP | 1) * WINO_STRIP;
}

static void shape_of(const nbi_la_conv_desc *d, nbi_la_pass pass, wino_shape *s) {
    const bool turned = pass == NBI_LA_BACKWARD_DATA;
    const int64_t in[] = {d->c, d->h, d->w}, out[] = {d->m, d->oh, d->ow};
    const int64_t *from = turned ? out : in, *to = turned ? in : out;
    *s = (wino_shape){.n = (size_t)d->n,
                      .c = (size_t)from[0],
                      .h = (size_t)from[1],
                      .w = (size_t)from[2],
                      .m = (size_t)to[0],
                      .oh = (size_t)to[1],
                      .ow = (size_t)to[2],
                      .pt = turned ? 2 - d->pad_begin[0] : d->pad_begin[0],
                      .pl = turned ? 2 - d->pad_begin[1] : d->pad_begin[1]};
    s->rows = (s->oh + WINO_SIDE - 1) / WINO_SIDE;
    s->columns = (s->ow + WINO_SIDE - 1) / WINO_SIDE;
    s->tiles = s->n * s->rows * s->columns;
    size_t most = pass == NBI_LA_BACKWARD_WEIGHTS ? 3072 : 1536; /* what a core's cache holds */
    s->together = most / (s->c + s->m) / WINO_ROWS * WINO_ROWS;
    if (s->together < 2 * WINO_ROWS) s->together = 2 * WINO_ROWS;
    if (s->together > 8 * WINO_ROWS) s->together = 8 * WINO_ROWS;
    s->x_place = place_of(s->together, s->c);
    s->y_place = place_of(s->together, s->m);
}

nb_status nbi_wino_new(nb_ctx *ctx, const nbi_la_conv_desc *d, nbi_la_pass pass, const float *w,
                       const float *bias, nbi_wino **out) {
    nbi_wino *p = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *p, &p));
    p->pass = pass;
    p->act = (wino_act){d->accumulate, d->clamp, d->lo, d->hi};
    shape_of(d, pass, &p->s);
    if (w) {
        NB_TRYG(nbi_alloc(ctx, WINO_PLACES * p->s.c * p->s.m, sizeof *p->u, &p->u));
        nbi_wino_weights(&p->s, w, false, 0, p->s.c, p->u);
    }
    if (w && bias) {
        NB_TRYG(nbi_alloc(ctx, p->s.m, sizeof *p->bias, &p->bias));
        memcpy(p->bias, bias, p->s.m * sizeof *bias);
    }
    *out = p;
    return NB_OK;
done:
    nbi_wino_free(p);
    return st;
}

void nbi_wino_free(nbi_wino *p) {
    if (!p) return;
    nbi_free(p->u);
    nbi_free(p->bias);
    nbi_free(p);
}

/* ---- runs ---------------------------------------------------------------------------------- */

typedef struct job {
    const nbi_wino *p;
    const nbi_la_args *a;
    float *own;       /* per worker */
    size_t own_count; /* floats of one */
    float *u;         /* transformed weights, or CHUNKS sums of their gradients */
    float *bias;      /* CHUNKS sums */
    size_t n_chunks, blocks;
} job;

static wino_work work_of(const job *j, int worker) {
    const wino_shape *s = &j->p->s;
    float *at = j->own + (size_t)worker * j->own_count;
    return (wino_work){.x = at, .y = at + WINO_PLACES * s->x_place};
}

static nb_status weights_range(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    (void)worker;
    nbi_wino_weights(&j->p->s, j->a->w, j->p->pass == NBI_LA_BACKWARD_DATA, begin, end, j->u);
    return NB_OK;
}

static nb_status forward_range(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    const wino_shape *s = &j->p->s;
    const bool data = j->p->pass == NBI_LA_BACKWARD_DATA;
    wino_work work = work_of(j, worker);
    const float *in = data ? j->a->y : j->a->x, *u = j->p->u ? j->p->u : j->u;
    const float *bias = j->p->u ? j->p->bias : data ? NULL : j->a->bias;
    for (size_t b = begin; b < end; b++) {
        const size_t first = b * s->together, rest = s->tiles - first;
        const size_t n = rest < s->together ? rest : s->together;
        nbi_wino_input(s, in, first, n, &work);
        nbi_wino_products(s, u, n, &work);
        nbi_wino_output(s, &j->p->act, bias, first, n, &work, data ? j->a->x : j->a->y);
    }
    return NB_OK;
}

static nb_status gradient_range(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    const wino_shape *s = &j->p->s;
    wino_work work = work_of(j, worker);
    for (size_t chunk = begin; chunk < end; chunk++) {
        float *u = j->u + chunk * WINO_PLACES * s->c * s->m, *bias = j->bias + chunk * s->m;
        memset(u, 0, WINO_PLACES * s->c * s->m * sizeof *u);
        memset(bias, 0, s->m * sizeof *bias);
        const size_t last = j->blocks * (chunk + 1) / j->n_chunks;
        for (size_t b = j->blocks * chunk / j->n_chunks; b < last; b++) {
            const size_t first = b * s->together, rest = s->tiles - first;
            const size_t n = rest < s->together ? rest : s->together;
            nbi_wino_input(s, j->a->x, first, n, &work);
            nbi_wino_gradient_input(s, j->a->y, first, n, &work);
            nbi_wino_gradient_products(s, n, &work, u);
            nbi_wino_gradient_bias(s, n, &work, bias);
        }
    }
    return NB_OK;
}

static nb_status gradient_output(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    (void)worker;
    nbi_wino_gradient_output(&j->p->s, j->u, j->n_chunks, begin, end, j->a->w);
    return NB_OK;
}

nb_status nbi_wino_run(nb_ctx *ctx, nbi_wino *p, nbi_wino_room *room, const nbi_la_args *a) {
    const wino_shape *s = &p->s;
    const bool weights = p->pass == NBI_LA_BACKWARD_WEIGHTS;
    const size_t threads = (size_t)nb_ctx_threads(ctx);
    job j = {.p = p, .a = a, .blocks = (s->tiles + s->together - 1) / s->together};
    j.n_chunks = j.blocks < CHUNKS ? j.blocks : CHUNKS;
    j.own_count = WINO_PLACES * (s->x_place + s->y_place);
    const size_t u = (weights ? j.n_chunks : !p->u) * WINO_PLACES * s->c * s->m;
    const size_t sums = weights ? j.n_chunks * s->m : 0;
    const size_t count = threads * j.own_count + u + sums;
    if (room->count < count) {
        nbi_free(room->at);
        room->at = NULL;
        room->count = 0;
        NB_TRY(nbi_alloc(ctx, count, sizeof *room->at, &room->at));
        room->count = count;
    }
    j.own = room->at;
    j.u = j.own + threads * j.own_count;
    j.bias = j.u + u;
    if (!weights) {
        if (!p->u) NB_TRY(nbi_parallel(ctx, s->c, WINO_STRIP, weights_range, &j));
        return nbi_parallel(ctx, j.blocks, 1, forward_range, &j);
    }
    NB_TRY(nbi_parallel(ctx, j.n_chunks, 1, gradient_range, &j));
    for (size_t o = 0; o < s->m && a->bias; o++) {
        a->bias[o] = j.bias[o];
        for (size_t k = 1; k < j.n_chunks; k++) a->bias[o] += j.bias[k * s->m + o];
    }
    return nbi_parallel(ctx, s->c, 4, gradient_output, &j);
}

#else

bool nbi_wino_fits(const nbi_la_conv_desc *desc) {
    (void)desc;
    return false;
}

nb_status nbi_wino_new(nb_ctx *ctx, const nbi_la_conv_desc *desc, nbi_la_pass pass, const float *w,
                       const float *bias, nbi_wino **out) {
    (void)desc, (void)pass, (void)w, (void)bias, (void)out;
    return nb_fail(ctx, NB_EUNSUPPORTED, "this build has no Winograd convolution");
}

void nbi_wino_free(nbi_wino *plan) {
    (void)plan;
}

nb_status nbi_wino_run(nb_ctx *ctx, nbi_wino *plan, nbi_wino_room *room, const nbi_la_args *args) {
    (void)plan, (void)room, (void)args;
    return nb_fail(ctx, NB_EUNSUPPORTED, "this build has no Winograd convolution");
}

#endif
