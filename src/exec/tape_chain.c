/* Chains of element-wise work behind a convolution, forward and backward in one pass over memory
 * each: [BatchNormalization in training form,] Add of another tensor, Relu, Clip, FakeQuant. A tile
 * of a thousand values goes through all links while it is in the first-level cache; backward
 * computes the tile's values again instead of keeping them, so that of a chain only its input lives
 * on.
 *
 * Sums per channel are formed per tile in float, per chunk of tiles in double, and added in the
 * order of the chunks: the result does not depend on the threads. */
#include "exec/tape_parts.h"

#include "ir/scheme.h"

#include <math.h>
#include <string.h>

#define MAX_LINKS   6
#define TILE        1024 /* values, about */
#define MAX_TILE    2048 /* and the most channels */
#define CHUNK_TILES 32

typedef enum link_kind { LINK_NORM, LINK_ADD, LINK_RELU, LINK_CLIP, LINK_QUANT } link_kind;

typedef struct chain_link {
    link_kind kind;
    const nbi_node *node;
    int other; /* ADD: the tensor that is added; QUANT: its params */
    int in;    /* of `other` in the step's inputs (the same place forward and backward) */
    int gout;  /* ADD, QUANT: of its gradient in the backward step's outputs, −1 */
    float lo, hi;
    int n_params;
} chain_link;

struct tape_chain {
    int n;
    chain_link link[MAX_LINKS];
    int x, out;
    int64_t pixels, channels, tile; /* tile: pixels */
    int64_t chunks;
    float *mean, *a, *b; /* NORM: y = a·(x − mean) + b */
    double *r;
    double *partial; /* [chunks][sums] */
    int64_t sums;    /* NORM: 2·channels (forward: mean and M2), then each QUANT's params */
    int gy, scale;   /* places in the backward step's inputs */
    int gx, g_scale, g_bias; /* in its outputs, −1 */
};

static bool is(const nbi_node *node, const char *domain, const char *type) {
    return !strcmp(node->domain, domain) && !strcmp(node->op_type, type);
}

/* ---- which nodes ---------------------------------------------------------------------------- */

static bool same_shape(const nbi_tensor *a, const nbi_tensor *b) {
    return a->rank == b->rank && a->dtype == b->dtype &&
           !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim);
}

/* A fake quantizer per tensor whose params training does not refit. */
static bool quant_link(const nbi_graph *g, const nbi_node *node, chain_link *l) {
    const nbi_fakequant_params *p = node->params;
    if (!p || node->n_in < 2 || p->axis >= 0 || (node->n_in > 2 && node->in[2] >= 0)) return false;
    for (int i = 1; i < node->n_out; i++)
        if (node->out[i] >= 0) return false;
    if (p->training && (p->scheme->flags & NBI_SCHEME_REFIT)) return false;
    l->n_params = p->scheme->n_params(&p->use);
    if (nbi_tensor_count(g->tensor[node->in[1]]) != l->n_params) return false;
    l->kind = LINK_QUANT;
    l->other = node->in[1];
    return true;
}

/* Its statistics are there when the whole chain has run: no other node may read them before. */
static bool norm_link(const nbi_graph *g, const nbi_node *node, chain_link *l) {
    const nbi_batchnorm_params *p = node->params;
    l->kind = LINK_NORM;
    for (int o = 1; o < node->n_out; o++)
        for (int n = 0; n < g->n_nodes && node->out[o] >= 0; n++)
            for (int i = 0; i < g->node[n]->n_in; i++)
                if (g->node[n]->in[i] == node->out[o]) return false;
    return p->training;
}

static bool link_of(const nbi_tape *t, const nbi_node *node, int x, bool first, chain_link *l) {
    const nbi_graph *g = t->graph;
    *l = (chain_link){.node = node, .other = -1, .gout = -1, .lo = -INFINITY, .hi = INFINITY};
    if (is(node, "", "BatchNormalization")) return first && norm_link(g, node, l);
    if (is(node, "", "Add")) {
        l->kind = LINK_ADD;
        l->other = node->in[0] == x ? node->in[1] : node->in[0];
        return l->other != x && same_shape(g->tensor[l->other], g->tensor[node->out[0]]) &&
               same_shape(g->tensor[x], g->tensor[node->out[0]]);
    }
    if (is(node, "", "Relu")) {
        l->kind = LINK_RELU;
        return true;
    }
    if (is(node, "", "Clip")) {
        const nbi_clip_params *p = node->params;
        l->kind = LINK_CLIP;
        l->lo = p->lo;
        l->hi = p->hi;
        return p->known && node->in[0] == x;
    }
    return is(node, "org.nibble", "FakeQuant") && node->in[0] == x && quant_link(g, node, l);
}

static int only_reader(const nbi_tape *t, int x, int from) {
    const nbi_graph *g = t->graph;
    if (t->plan->uses[x] != 1) return -1;
    for (int n = from + 1; n < g->n_nodes; n++) {
        if (!t->plan->needed[n]) continue;
        for (int i = 0; i < g->node[n]->n_in; i++)
            if (g->node[n]->in[i] == x) return n;
    }
    return -1;
}

/* Room for what the links need between forward and backward. */
static nb_status allocate(nb_ctx *ctx, nbi_tape *t, tape_chain *c) {
    size_t channels = (size_t)c->channels;
    c->tile = c->channels < TILE ? TILE / c->channels : 1;
    c->chunks = (c->pixels + c->tile * CHUNK_TILES - 1) / (c->tile * CHUNK_TILES);
    for (int i = 0; i < c->n; i++)
        c->sums += c->link[i].kind == LINK_NORM ? 2 * c->channels : c->link[i].n_params;
    c->partial = nbi_arena_alloc(&t->arena, (size_t)(c->chunks * c->sums) + 1, sizeof(double));
    c->mean = nbi_arena_alloc(&t->arena, channels, sizeof(float));
    c->a = nbi_arena_alloc(&t->arena, channels, sizeof(float));
    c->b = nbi_arena_alloc(&t->arena, channels, sizeof(float));
    c->r = nbi_arena_alloc(&t->arena, channels, sizeof(double));
    if (!c->partial || !c->mean || !c->a || !c->b || !c->r)
        return nb_fail_memory(ctx, (size_t)(c->chunks * c->sums) * sizeof(double));
    return NB_OK;
}

nb_status nbi_tape_find_chain(nb_ctx *ctx, nbi_tape *t, int n) {
    const nbi_graph *g = t->graph;
    tape_chain c = {.x = g->node[n]->in[0]};
    int member[MAX_LINKS], x = c.x;
    if (is(g->node[n], "", "Add")) /* follow what a convolution gave last */
        for (int i = 0; i < 2; i++)
            if (t->plan->slot[g->node[n]->in[i]].last_layout) x = c.x = g->node[n]->in[i];
    for (int next = n; next >= 0 && c.n < MAX_LINKS;) {
        if (t->chain[next] || t->skipped[next] ||
            !link_of(t, g->node[next], x, c.n == 0, &c.link[c.n]))
            break;
        member[c.n++] = next;
        x = g->node[next]->out[0];
        next = only_reader(t, x, next);
    }
    const nbi_tensor *tensor = g->tensor[c.x];
    const exec_slot *slot = &t->plan->slot[c.x];
    if (c.n == 0 || tensor->dtype != NB_DTYPE_F32 || tensor->rank < 2 || tensor->data) return NB_OK;
    if (tensor->rank > 2 && !slot->last_layout) return NB_OK;
    c.out = x;
    c.channels = tensor->dim[1];
    c.pixels = c.channels > 0 ? nbi_tensor_count(tensor) / c.channels : 0;
    if (c.pixels < 1 || c.channels > MAX_TILE) return NB_OK;
    tape_chain *made = nbi_arena_alloc(&t->arena, 1, sizeof *made);
    if (!made) return nb_fail_memory(ctx, sizeof *made);
    *made = c;
    NB_TRY(allocate(ctx, t, made));
    for (int i = 0; i + 1 < c.n; i++) t->skipped[member[i]] = true;
    t->chain[member[c.n - 1]] = made;
    return NB_OK;
}

/* ---- one tile ------------------------------------------------------------------------------- */

NBI_WIDE static void norm_tile(const tape_chain *c, const float *x, int64_t pixels, float *y) {
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t k = 0; k < c->channels; k++)
            y[p * c->channels + k] = (x[p * c->channels + k] - c->mean[k]) * c->a[k] + c->b[k];
}

static void quant_tile(const chain_link *l, const float *params, const float *x, float *y,
                       int64_t n) {
    const nbi_fakequant_params *p = l->node->params;
    p->scheme->forward(&p->use, params, x, y, (size_t)n);
}

/* Link `l` from x to y (which may be x); `at`: where the tile begins. */
NBI_WIDE static void link_tile(const tape_chain *c, const chain_link *l, const exec_step *s,
                               int64_t at, const float *x, float *y, int64_t pixels) {
    int64_t n = pixels * c->channels;
    const float *other = l->other >= 0 ? s->in_view[l->in].data : NULL;
    switch (l->kind) {
    case LINK_NORM:
        norm_tile(c, x, pixels, y);
        break;
    case LINK_ADD:
        for (int64_t i = 0; i < n; i++) y[i] = x[i] + other[at + i];
        break;
    case LINK_RELU:
        for (int64_t i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i]; /* NaN stays NaN */
        break;
    case LINK_CLIP:
        for (int64_t i = 0; i < n; i++) {
            float v = x[i] < l->lo ? l->lo : x[i];
            y[i] = v > l->hi ? l->hi : v;
        }
        break;
    case LINK_QUANT:
        quant_tile(l, other, x, y, n);
        break;
    }
}

/* ---- forward -------------------------------------------------------------------------------- */

typedef struct job {
    const tape_chain *c;
    const exec_step *s;
} job;

/* Mean and M2 = Σ(x − mean)² of a chunk: tile by tile around the tile's own mean, joined as in
 * Chan, Golub, LeVeque 1983. */
NBI_WIDE static nb_status statistics_chunk(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    const tape_chain *c = j->c;
    const float *x = j->s->in_view[0].data;
    int64_t channels = c->channels;
    float sum[MAX_TILE], square[MAX_TILE];
    (void)worker;
    for (size_t chunk = begin; chunk < end; chunk++) {
        double *mean = c->partial + (int64_t)chunk * c->sums, *m2 = mean + channels, count = 0;
        int64_t first = (int64_t)chunk * c->tile * CHUNK_TILES,
                last = first + c->tile * CHUNK_TILES;
        memset(mean, 0, (size_t)(2 * channels) * sizeof *mean);
        for (int64_t p = first; p < last && p < c->pixels; p += c->tile) {
            int64_t pixels = p + c->tile < c->pixels ? c->tile : c->pixels - p;
            const float *v = x + p * channels;
            memset(sum, 0, (size_t)channels * sizeof *sum);
            memset(square, 0, (size_t)channels * sizeof *square);
            for (int64_t i = 0; i < pixels; i++)
                for (int64_t k = 0; k < channels; k++) sum[k] += v[i * channels + k];
            for (int64_t k = 0; k < channels; k++) sum[k] /= (float)pixels;
            for (int64_t i = 0; i < pixels; i++)
                for (int64_t k = 0; k < channels; k++) {
                    float d = v[i * channels + k] - sum[k];
                    square[k] += d * d;
                }
            double share = (double)pixels / (count + (double)pixels);
            for (int64_t k = 0; k < channels; k++) {
                double d = (double)sum[k] - mean[k];
                mean[k] += d * share;
                m2[k] += (double)square[k] + d * d * share * count;
            }
            count += (double)pixels;
        }
    }
    return NB_OK;
}

/* The whole batch's statistics from the chunks', and what follows from them. */
static void norm_finish(tape_chain *c, exec_step *s) {
    const nbi_batchnorm_params *p = c->link[0].node->params;
    const float *scale = s->in_view[1].data, *bias = s->in_view[2].data;
    const float *old_mean = s->in_view[3].data, *old_var = s->in_view[4].data;
    float *out[5] = {0};
    double keep = (double)p->momentum;
    for (int i = 1; i < s->n_out; i++) out[i] = s->out_view[i].data;
    for (int64_t k = 0; k < c->channels; k++) {
        double mean = 0, m2 = 0, count = 0;
        for (int64_t i = 0; i < c->chunks; i++) {
            int64_t first = i * c->tile * CHUNK_TILES;
            int64_t last = first + c->tile * CHUNK_TILES < c->pixels ? first + c->tile * CHUNK_TILES
                                                                     : c->pixels;
            double n = (double)(last - first), d = c->partial[i * c->sums + k] - mean;
            mean += d * n / (count + n);
            m2 += c->partial[i * c->sums + c->channels + k] + d * d * n * count / (count + n);
            count += n;
        }
        double var = m2 / count;
        c->r[k] = 1 / sqrt(var + (double)p->epsilon);
        c->mean[k] = (float)mean;
        c->a[k] = (float)((double)scale[k] * c->r[k]);
        c->b[k] = bias[k];
        if (out[1]) out[1][k] = (float)((double)old_mean[k] * keep + mean * (1 - keep));
        if (out[2]) out[2][k] = (float)((double)old_var[k] * keep + var * (1 - keep));
        if (out[3]) out[3][k] = c->mean[k];
        if (out[4]) out[4][k] = (float)c->r[k];
    }
}

static nb_status forward_chunk(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    const tape_chain *c = j->c;
    const float *x = j->s->in_view[0].data;
    float *y = j->s->out_view[0].data;
    int64_t step = c->tile * CHUNK_TILES;
    (void)worker;
    for (int64_t p = (int64_t)begin * step; p < (int64_t)end * step && p < c->pixels;
         p += c->tile) {
        int64_t pixels = p + c->tile < c->pixels ? c->tile : c->pixels - p, at = p * c->channels;
        const float *from = x + at;
        for (int i = 0; i < c->n; i++) {
            link_tile(c, &c->link[i], j->s, at, from, y + at, pixels);
            from = y + at;
        }
    }
    return NB_OK;
}

static nb_status run_forward(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    tape_chain *c = s->user;
    job j = {c, s};
    (void)e;
    if (c->link[0].kind == LINK_NORM) {
        NB_TRY(nbi_parallel(ctx, (size_t)c->chunks, 1, statistics_chunk, &j));
        norm_finish(c, s);
    }
    return nbi_parallel(ctx, (size_t)c->chunks, 1, forward_chunk, &j);
}

nb_status nbi_tape_chain_forward(nb_ctx *ctx, nbi_tape *t, int n) {
    tape_chain *c = t->chain[n];
    const nbi_node *first = c->link[0].node;
    int in[8 + MAX_LINKS], n_in = 0, out[5] = {c->out, -1, -1, -1, -1}, n_out = 1;
    bool last = t->graph->tensor[c->x]->rank > 2;
    exec_step *step;
    in[n_in++] = c->x;
    if (c->link[0].kind == LINK_NORM) {
        for (int i = 1; i < 5; i++) in[n_in++] = first->in[i];
        for (n_out = first->n_out; n_out > 1 && first->out[n_out - 1] < 0;) n_out--;
        for (int i = 1; i < n_out; i++) out[i] = first->out[i];
    }
    for (int i = 0; i < c->n; i++) {
        chain_link *l = &c->link[i];
        if (l->other < 0) continue;
        int slot = l->other;
        NB_TRY(nbi_plan_layout(ctx, t->plan, l->node, l->kind == LINK_ADD && last, &slot));
        l->in = n_in;
        in[n_in++] = slot;
    }
    NB_TRY(nbi_tape_call(ctx, t, t->graph->node[n], run_forward, c, n_in, in, n_out, out, &step));
    step->over = 0;
    exec_slot *y = &t->plan->slot[c->out];
    y->last_layout = last;
    if (last) nbi_view_channels_last(&y->view);
    return NB_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

static void quant_back(const chain_link *l, const tape_chain *c, const float *params,
                       const float *x, float *g, int64_t n, double *sums) {
    const nbi_fakequant_params *p = l->node->params;
    p->scheme->backward(&p->use, params, x, g, (size_t)n, (size_t)(c->pixels * c->channels), g,
                        l->gout >= 0 ? sums : NULL, NULL);
}

/* Σ g and Σ g·(x − mean) per channel. */
NBI_WIDE static void norm_back(const tape_chain *c, const float *x, const float *g, int64_t pixels,
                               double *sums) {
    float bias[MAX_TILE], scale[MAX_TILE];
    int64_t channels = c->channels;
    memset(bias, 0, (size_t)channels * sizeof *bias);
    memset(scale, 0, (size_t)channels * sizeof *scale);
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t k = 0; k < channels; k++) {
            float v = g[p * channels + k];
            bias[k] += v;
            scale[k] += v * (x[p * channels + k] - c->mean[k]);
        }
    for (int64_t k = 0; k < channels; k++) {
        sums[k] += (double)bias[k];
        sums[channels + k] += (double)scale[k];
    }
}

/* g of one tile through all links, last first; `value[i]` is what link i reads. */
NBI_WIDE static void back_tile(const tape_chain *c, const exec_step *s, int64_t at, int64_t pixels,
                               const float *const *value, float *g, double *sums) {
    int64_t n = pixels * c->channels;
    double *mine = sums + c->sums;
    for (int i = c->n - 1; i >= 0; i--) {
        const chain_link *l = &c->link[i];
        const float *x = value[i];
        mine -= l->kind == LINK_NORM ? 2 * c->channels : l->n_params;
        switch (l->kind) {
        case LINK_NORM:
            norm_back(c, x, g, pixels, mine);
            break;
        case LINK_ADD:
            if (l->gout >= 0)
                memcpy((float *)s->out_view[l->gout].data + at, g, (size_t)n * sizeof *g);
            break;
        case LINK_RELU:
            for (int64_t k = 0; k < n; k++) g[k] = x[k] > 0 ? g[k] : 0;
            break;
        case LINK_CLIP:
            for (int64_t k = 0; k < n; k++) g[k] = x[k] >= l->lo && x[k] <= l->hi ? g[k] : 0;
            break;
        case LINK_QUANT:
            quant_back(l, c, s->in_view[l->in].data, x, g, n, mine);
            break;
        }
    }
}

static nb_status backward_chunk(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    const tape_chain *c = j->c;
    const float *x = j->s->in_view[0].data, *gy = j->s->in_view[c->gy].data;
    float *gx = c->gx >= 0 ? j->s->out_view[c->gx].data : NULL;
    float room[MAX_LINKS][MAX_TILE], g[MAX_TILE];
    int64_t step = c->tile * CHUNK_TILES;
    (void)worker;
    for (size_t chunk = begin; chunk < end; chunk++) {
        double *sums = c->partial + (int64_t)chunk * c->sums;
        int64_t first = (int64_t)chunk * step;
        memset(sums, 0, (size_t)c->sums * sizeof *sums);
        for (int64_t p = first; p < first + step && p < c->pixels; p += c->tile) {
            int64_t pixels = p + c->tile < c->pixels ? c->tile : c->pixels - p;
            int64_t at = p * c->channels;
            size_t bytes = (size_t)(pixels * c->channels) * sizeof *g;
            const float *value[MAX_LINKS] = {x + at};
            for (int i = 0; i + 1 < c->n; i++) {
                link_tile(c, &c->link[i], j->s, at, value[i], room[i], pixels);
                value[i + 1] = room[i];
            }
            memcpy(g, gy + at, bytes);
            back_tile(c, j->s, at, pixels, value, g, sums);
            if (gx) memcpy(gx + at, g, bytes);
        }
    }
    return NB_OK;
}

/* The second pass of BatchNormalization: gx holds the gradient of its output. */
NBI_WIDE static nb_status norm_chunk(void *user, size_t begin, size_t end, int worker) {
    const job *j = user;
    const tape_chain *c = j->c;
    const float *x = j->s->in_view[0].data;
    float *g = j->s->out_view[c->gx].data;
    const double *sums = c->partial; /* already added up: [0] */
    float shift[MAX_TILE], slope[MAX_TILE];
    int64_t channels = c->channels, step = c->tile * CHUNK_TILES;
    (void)worker;
    for (int64_t k = 0; k < channels; k++) {
        double count = (double)c->pixels;
        shift[k] = (float)(sums[k] / count);
        slope[k] = (float)(-c->r[k] * c->r[k] * sums[channels + k] / count);
    }
    for (int64_t p = (int64_t)begin * step; p < (int64_t)end * step && p < c->pixels; p++)
        for (int64_t k = 0; k < channels; k++) {
            int64_t i = p * channels + k;
            g[i] = c->a[k] * (g[i] - shift[k] + slope[k] * (x[i] - c->mean[k]));
        }
    return NB_OK;
}

static void add_chunks(tape_chain *c) {
    for (int64_t i = 1; i < c->chunks; i++)
        for (int64_t k = 0; k < c->sums; k++) c->partial[k] += c->partial[i * c->sums + k];
}

static void parameter_gradients(const tape_chain *c, exec_step *s) {
    const double *sums = c->partial;
    for (int64_t k = 0; k < c->channels; k++) {
        if (c->g_bias >= 0) ((float *)s->out_view[c->g_bias].data)[k] = (float)sums[k];
        if (c->g_scale >= 0)
            ((float *)s->out_view[c->g_scale].data)[k] = (float)(sums[c->channels + k] * c->r[k]);
    }
    for (int i = 0; i < c->n; i++) {
        const chain_link *l = &c->link[i];
        if (l->kind == LINK_QUANT && l->gout >= 0)
            for (int k = 0; k < l->n_params; k++)
                ((float *)s->out_view[l->gout].data)[k] = (float)sums[k];
        sums += l->kind == LINK_NORM ? 2 * c->channels : l->n_params;
    }
}

static nb_status run_backward(nb_ctx *ctx, nbi_exec *e, exec_step *s) {
    tape_chain *c = s->user;
    job j = {c, s};
    (void)e;
    NB_TRY(nbi_parallel(ctx, (size_t)c->chunks, 1, backward_chunk, &j));
    add_chunks(c);
    parameter_gradients(c, s);
    if (c->link[0].kind != LINK_NORM || c->gx < 0) return NB_OK;
    return nbi_parallel(ctx, (size_t)c->chunks, 1, norm_chunk, &j);
}

typedef struct wanted {
    int n, slot[4 + MAX_LINKS], tensor[4 + MAX_LINKS];
} wanted;

static nb_status want(nb_ctx *ctx, nbi_tape *t, wanted *w, int tensor, bool last, int *place) {
    *place = w->n;
    w->tensor[w->n] = tensor;
    return nbi_tape_gradient_slot(ctx, t, tensor, last, &w->slot[w->n++]);
}

/* Input `i` of a link's node may have a gradient. */
static bool needs(const nbi_tape *t, const chain_link *l, int tensor) {
    for (int i = 0; i < l->node->n_in; i++)
        if (l->node->in[i] == tensor && nbi_tape_needs(t, l->node, i)) return true;
    return false;
}

nb_status nbi_tape_chain_backward(nb_ctx *ctx, nbi_tape *t, int n) {
    tape_chain *c = t->chain[n];
    const nbi_node *node = t->graph->node[n], *first = c->link[0].node;
    bool last = t->graph->tensor[c->x]->rank > 2, norm = c->link[0].kind == LINK_NORM;
    int in[8 + MAX_LINKS], n_in = 0;
    wanted w = {0};
    exec_step *step;
    if (t->gradient[c->out] < 0) return NB_OK;
    in[n_in++] = c->x;
    if (norm) /* places as in forward; the old running statistics are not read */
        for (int i = 1; i < 5; i++) in[n_in++] = -1;
    c->gx = c->g_scale = c->g_bias = -1;
    if (needs(t, &c->link[0], c->x)) NB_TRY(want(ctx, t, &w, c->x, last, &c->gx));
    if (norm && nbi_tape_needs(t, first, 1))
        NB_TRY(want(ctx, t, &w, first->in[1], false, &c->g_scale));
    if (norm && nbi_tape_needs(t, first, 2))
        NB_TRY(want(ctx, t, &w, first->in[2], false, &c->g_bias));
    for (int i = 0; i < c->n; i++) {
        chain_link *l = &c->link[i];
        if (l->other < 0) continue;
        int slot = l->other;
        bool add = l->kind == LINK_ADD;
        NB_TRY(nbi_plan_layout(ctx, t->plan, l->node, add && last, &slot));
        in[n_in++] = slot;
        if (needs(t, l, l->other)) NB_TRY(want(ctx, t, &w, l->other, add && last, &l->gout));
    }
    c->gy = n_in;
    in[n_in++] = t->gradient[c->out];
    if (w.n == 0) return NB_OK;
    NB_TRY(nbi_tape_call(ctx, t, node, run_backward, c, n_in, in, w.n, w.slot, &step));
    if (c->gx == 0) step->over = c->gy;
    for (int i = 0; i < w.n; i++) NB_TRY(nbi_tape_contribute(ctx, t, node, w.tensor[i], w.slot[i]));
    return NB_OK;
}
