/* Element-wise gradients and sums over broadcast dimensions. A row of the walk is cut into blocks
 * of at most NBI_TERM_ROW positions; operands that are strided, broadcast or not float32 are copied
 * into plain arrays first, so a term is one loop that the compiler vectorises. Sums are in double,
 * per chunk of images; chunks are added in order, so the thread count does not show. */
#include "ops/op_grad.h"

#include <string.h>

#define MAX_CHUNKS 16
#define MIN_WORK   16384 /* elements below which another chunk is not worth it */

typedef struct grad_job {
    nbi_view to; /* map: the result; sum: v[0] */
    int n;
    nbi_view v[NBI_TERM_VIEWS];
    int64_t size[NBI_WALK_VIEWS]; /* bytes per element of to, v…, acc */
    nbi_term_fn term;
    const void *user;
    nbi_view acc; /* sum: the accumulators, float64; data NULL for a map */
    size_t chunk; /* images per chunk */
    int64_t acc_count;
} grad_job;

static size_t chunk_size(int64_t n, int64_t work) {
    int64_t chunks = work / MIN_WORK + 1;
    if (chunks > MAX_CHUNKS) chunks = MAX_CHUNKS;
    if (chunks > n) chunks = n < 1 ? 1 : n;
    return (size_t)((n + chunks - 1) / chunks);
}

/* ---- rows ---------------------------------------------------------------------------------- */

static void load(nb_dtype dtype, const char *p, int64_t step, int64_t n, float *out) {
    if (dtype == NB_DTYPE_F32) {
        const float *x = (const float *)(const void *)p;
        for (int64_t i = 0; i < n; i++) out[i] = x[i * step];
    } else {
        for (int64_t i = 0; i < n; i++) out[i] = (float)nbi_get_real(dtype, p, i * step);
    }
}

static double row_sum(const float *x, int64_t n) {
    double lane[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) lane[k] += (double)x[i + k];
    double sum = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    for (; i < n; i++) sum += (double)x[i];
    return sum;
}

static void add_row(double *acc, int64_t step, const float *x, int64_t n) {
    if (step == 0)
        *acc += row_sum(x, n);
    else if (step == 1)
        for (int64_t i = 0; i < n; i++) acc[i] += (double)x[i];
    else
        for (int64_t i = 0; i < n; i++) acc[i * step] += (double)x[i];
}

static void put_row(float *to, int64_t step, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i * step] = x[i];
}

/* One row. p: the result (or v[0] once more), the operands, the accumulators. */
static void run_row(const grad_job *j, char *const *p, const int64_t *step, int64_t count) {
    float block[NBI_TERM_VIEWS][NBI_TERM_ROW], result[NBI_TERM_ROW];
    const float *x[NBI_TERM_VIEWS];
    bool sum = j->acc.data != NULL;
    for (int64_t at = 0; at < count; at += NBI_TERM_ROW) {
        int64_t n = count - at < NBI_TERM_ROW ? count - at : NBI_TERM_ROW;
        for (int k = 0; k < j->n; k++) {
            int64_t s = step[k + 1];
            const char *from = p[k + 1] + at * s * j->size[k + 1];
            bool plain = j->v[k].dtype == NB_DTYPE_F32 && (s == 1 || count == 1);
            x[k] = plain ? (const float *)(const void *)from : block[k];
            if (!plain && (s != 0 || at == 0)) load(j->v[k].dtype, from, s, n, block[k]);
        }
        float *to = (float *)(void *)p[0] + at * step[0];
        bool direct = !sum && step[0] == 1;
        j->term(j->user, x, n, direct ? to : result);
        if (sum)
            add_row((double *)(void *)p[j->n + 1] + at * step[j->n + 1], step[j->n + 1], result, n);
        else if (!direct)
            put_row(to, step[0], result, n);
    }
}

/* `rows` short rows (count·rows ≤ NBI_TERM_ROW) at once; tile: operands that repeat in every row,
 * written out by the caller. */
static void run_block(const grad_job *j, char *const *p, const int64_t *step, int64_t count,
                      const int64_t *outer, int64_t rows, float (*tile)[NBI_TERM_ROW]) {
    float result[NBI_TERM_ROW];
    const float *x[NBI_TERM_VIEWS];
    bool sum = j->acc.data != NULL, direct = !sum && step[0] == 1 && outer[0] == count;
    for (int k = 0; k < j->n; k++) {
        int64_t s = step[k + 1], o = outer[k + 1];
        bool plain = j->v[k].dtype == NB_DTYPE_F32 && s == 1 && o == count;
        x[k] = plain ? (const float *)(const void *)p[k + 1] : tile[k];
        for (int64_t r = 0; !plain && o != 0 && r < rows; r++)
            load(j->v[k].dtype, p[k + 1] + r * o * j->size[k + 1], s, count, tile[k] + r * count);
    }
    j->term(j->user, x, count * rows, direct ? (float *)(void *)p[0] : result);
    int last = j->n + 1;
    for (int64_t r = 0; r < rows && !direct; r++) {
        if (sum)
            add_row((double *)(void *)p[last] + r * outer[last], step[last], result + r * count,
                    count);
        else
            put_row((float *)(void *)p[0] + r * outer[0], step[0], result + r * count, count);
    }
}

/* Short rows (few channels, channels last) go in blocks: a call per row would cost more than the
 * arithmetic. */
static void plane(void *user, char *const *p, const int64_t *step, int64_t count,
                  const int64_t *outer, int64_t rows) {
    const grad_job *j = user;
    char *q[NBI_WALK_VIEWS];
    int n_views = j->n + 1 + (j->acc.data != NULL);
    int64_t per_block = NBI_TERM_ROW / count;
    for (int k = 0; k < n_views; k++) q[k] = p[k];
    if (per_block < 2) per_block = 1;
    float tile[NBI_TERM_VIEWS][NBI_TERM_ROW];
    for (int k = 0; k < j->n && per_block > 1; k++)
        for (int64_t r = 0; outer[k + 1] == 0 && r < per_block; r++)
            load(j->v[k].dtype, p[k + 1], step[k + 1], count, tile[k] + r * count);
    for (int64_t r = 0; r < rows; r += per_block) {
        int64_t n = rows - r < per_block ? rows - r : per_block;
        if (per_block > 1)
            run_block(j, q, step, count, outer, n, tile);
        else
            run_row(j, q, step, count);
        for (int k = 0; k < n_views; k++) q[k] += n * outer[k] * j->size[k];
    }
}

/* Images begin … end−1 of a view that has the dimension; others are broadcast along it. */
static void slice(nbi_view *v, int rank, int64_t images, size_t begin, size_t end) {
    if (!v->data || v->rank != rank || rank == 0 || v->dim[0] != images) return;
    v->data = (char *)v->data + (int64_t)begin * v->stride[0] * (nbi_dtype_bits(v->dtype) / 8);
    v->dim[0] = (int64_t)(end - begin);
}

static nb_status run_chunk(void *user, size_t begin, size_t end, int worker) {
    const grad_job *whole = user;
    grad_job j = *whole;
    const nbi_view *v[NBI_WALK_VIEWS];
    int n = 0, rank = j.to.rank;
    int64_t images = rank ? j.to.dim[0] : 1;
    (void)worker;
    if (j.acc.data && !(j.acc.rank == rank && rank && j.acc.dim[0] == images))
        j.acc.data = (double *)j.acc.data + (int64_t)(begin / j.chunk) * j.acc_count;
    slice(&j.to, rank, images, begin, end);
    v[n++] = &j.to;
    for (int k = 0; k < j.n; k++) {
        slice(&j.v[k], rank, images, begin, end);
        v[n++] = &j.v[k];
    }
    if (j.acc.data) {
        slice(&j.acc, rank, images, begin, end);
        v[n++] = &j.acc;
    }
    nbi_walk_planes(n, v, plane, &j);
    return NB_OK;
}

static void make_job(grad_job *j, const nbi_view *to, int n, const nbi_view *const *v,
                     nbi_term_fn term, const void *user) {
    *j = (grad_job){.to = *to, .n = n, .term = term, .user = user};
    for (int k = 0; k < n; k++) {
        j->v[k] = *v[k];
        j->size[k + 1] = nbi_dtype_bits(v[k]->dtype) / 8;
    }
    j->size[0] = sizeof(float);
    j->size[n + 1] = sizeof(double);
    j->chunk = chunk_size(to->rank ? to->dim[0] : 1, nbi_view_count(to));
}

nb_status nbi_grad_map(nb_ctx *ctx, const nbi_view *to, int n, const nbi_view *const *v,
                       nbi_term_fn term, const void *user) {
    grad_job j;
    if (nbi_view_count(to) == 0) return NB_OK;
    make_job(&j, to, n, v, term, user);
    return nbi_parallel(ctx, to->rank ? (size_t)to->dim[0] : 1, j.chunk, run_chunk, &j);
}

/* ---- sums ---------------------------------------------------------------------------------- */

nb_status nbi_grad_sum(nb_ctx *ctx, const nbi_view *shape, int n, const nbi_view *const *v,
                       nbi_term_fn term, const void *user, double *sum) {
    grad_job j;
    int64_t total = nbi_view_count(v[0]), count = nbi_view_count(shape);
    if (total == 0 || count == 0) return NB_OK;
    make_job(&j, v[0], n, v, term, user);
    int64_t images = j.to.rank ? j.to.dim[0] : 1;
    j.acc = *shape;
    j.acc.dtype = NB_DTYPE_F64;
    j.acc.data = sum;
    nbi_view_contiguous(&j.acc);
    j.acc_count = count;
    bool apart = j.to.rank && shape->rank == j.to.rank && shape->dim[0] == images;
    /* Partial sums are not to take more memory than what is summed. */
    if (!apart && (int64_t)((size_t)images / j.chunk) * count > total) j.chunk = (size_t)images;
    size_t chunks = ((size_t)images + j.chunk - 1) / j.chunk;
    if (apart || chunks == 1) return nbi_parallel(ctx, (size_t)images, j.chunk, run_chunk, &j);
    double *part;
    NB_TRY(nbi_alloc(ctx, chunks * (size_t)count, sizeof *part, &part));
    j.acc.data = part;
    nb_status st = nbi_parallel(ctx, (size_t)images, j.chunk, run_chunk, &j);
    for (size_t c = 0; c < chunks; c++)
        for (int64_t i = 0; i < count; i++) sum[i] += part[c * (size_t)count + (size_t)i];
    nbi_free(part);
    return st;
}

static void store_row(void *user, char *const *p, const int64_t *step, int64_t count) {
    (void)user;
    float *to = (float *)(void *)p[0];
    const double *from = (const double *)(const void *)p[1];
    for (int64_t i = 0; i < count; i++) to[i * step[0]] = (float)from[i * step[1]];
}

void nbi_grad_store(const nbi_view *to, const double *sum) {
    nbi_view from = *to;
    from.dtype = NB_DTYPE_F64;
    memcpy(&from.data, &sum, sizeof sum);
    nbi_view_contiguous(&from);
    nbi_walk(2, (const nbi_view *const[]){to, &from}, store_row, NULL);
}

static bool same_shape(const nbi_view *a, const nbi_view *b) {
    return a->rank == b->rank &&
           (a->rank == 0 || !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim));
}

nb_status nbi_grad_reduce(nb_ctx *ctx, const nbi_view *to, int n, const nbi_view *const *v,
                          nbi_term_fn term, const void *user) {
    if (same_shape(to, v[0])) return nbi_grad_map(ctx, to, n, v, term, user);
    double *sum;
    size_t count = (size_t)nbi_view_count(to);
    if (count == 0) return NB_OK;
    NB_TRY(nbi_alloc(ctx, count, sizeof *sum, &sum));
    nb_status st = nbi_grad_sum(ctx, to, n, v, term, user, sum);
    if (st == NB_OK) nbi_grad_store(to, sum);
    nbi_free(sum);
    return st;
}

static void scaled_term(const void *user, const float *const *x, int64_t n, float *out) {
    float factor = (float)*(const double *)user;
    for (int64_t i = 0; i < n; i++) out[i] = x[0][i] * factor;
}

static void copy_term(const void *user, const float *const *x, int64_t n, float *out) {
    (void)user;
    if (out != x[0]) memcpy(out, x[0], (size_t)n * sizeof *out);
}

nb_status nbi_grad_scaled(nb_ctx *ctx, const nbi_view *to, const nbi_view *from, double factor) {
    if (factor == 1 && to->data == from->data && same_shape(to, from)) return NB_OK;
    return nbi_grad_reduce(ctx, to, 1, (const nbi_view *const[]){from},
                           factor == 1 ? copy_term : scaled_term, &factor);
}

nb_status nbi_grad_spread(nb_ctx *ctx, const nbi_view *to, const nbi_view *from, double factor) {
    return nbi_grad_map(ctx, to, 1, (const nbi_view *const[]){from}, scaled_term, &factor);
}

static void zero_row(void *user, char *const *p, const int64_t *step, int64_t count) {
    (void)user;
    float *to = (float *)(void *)p[0];
    if (step[0] == 1)
        memset(to, 0, (size_t)count * sizeof *to);
    else
        for (int64_t i = 0; i < count; i++) to[i * step[0]] = 0;
}

void nbi_grad_zero(const nbi_view *to) {
    nbi_walk(1, (const nbi_view *const[]){to}, zero_row, NULL);
}

/* ---- products ------------------------------------------------------------------------------ */

static double product_at(const nbi_product *p, const float *a, const float *b) {
    if (p->n_sum == 0) return (double)*a * (double)*b;
    int64_t index[NBI_PRODUCT_DIMS] = {0};
    const nbi_product_dim *in = &p->sum[p->n_sum - 1];
    double sum = 0;
    for (int k = 0; k < p->n_sum; k++)
        if (p->sum[k].dim == 0) return 0;
    for (;;) {
        for (int64_t i = 0; i < in->dim; i++) sum += (double)a[i * in->a] * (double)b[i * in->b];
        int k = p->n_sum - 2;
        for (; k >= 0; k--) {
            a += p->sum[k].a;
            b += p->sum[k].b;
            if (++index[k] < p->sum[k].dim) break;
            a -= p->sum[k].dim * p->sum[k].a;
            b -= p->sum[k].dim * p->sum[k].b;
            index[k] = 0;
        }
        if (k < 0) return sum;
    }
}

static nb_status product_range(void *user, size_t begin, size_t end, int worker) {
    const nbi_product *p = user;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        int64_t at = (int64_t)i, to = 0, a = 0, b = 0;
        for (int k = p->n_out - 1; k >= 0; k--) {
            int64_t index = at % p->out[k].dim;
            at /= p->out[k].dim;
            to += index * p->out[k].out;
            a += index * p->out[k].a;
            b += index * p->out[k].b;
        }
        p->to[to] = (float)(p->factor * product_at(p, p->a + a, p->b + b));
    }
    return NB_OK;
}

nb_status nbi_product_run(nb_ctx *ctx, const nbi_product *p) {
    int64_t count = 1;
    for (int k = 0; k < p->n_out; k++) count *= p->out[k].dim;
    nbi_product copy = *p;
    return nbi_parallel(ctx, (size_t)count, 64, product_range, &copy);
}
