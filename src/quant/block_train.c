/* One block: V per weight, w = s·(lower + h(V)·(upper − lower)) between the level that the weight has
 * and the neighbour on the side of its least-squares value, h(V) = clip(1.2·sigmoid(V) − 0.1, 0, 1).
 * The tape gives the gradient of the weights, the rest is a line of calculus. */
#include "exec/tape.h"
#include "quant/block_parts.h"
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

#define RATE       0.02f /* Adam's, of V */
#define STEP_RATE  0.02f /* of activation steps, relative to them and to RATE */
#define WARM_UP    0.2   /* share of the steps without the regularizer */
#define PRESSURE   0.01  /* of the regularizer */
#define JUDGED     256   /* images that decide whether the block gained */

typedef struct soft { /* one layer's weights, in the order of the graph's tensor */
    int layer;
    size_t n, depth;
    float *w;          /* the graph's constant */
    const float *scale; /* [out_c] */
    int8_t *lower, *upper, *start;
    float *v, *gradient;
} soft;

typedef struct lesson {
    nb_ctx *ctx;
    nbi_blocks *b;
    const nbi_block *block;
    const nbi_frozen *frozen;
    nbi_block_graph g;
    nbi_arena arena;
    nbi_tape *tape;
    nbi_optimizer *optimizer;
    int n_soft, n_wrt;
    soft *soft;
    nbi_param *param;  /* [n_soft + steps] */
    float **step;      /* [n_wrt − n_soft] constants; first values behind them */
    float *first_step;
    int *step_site;
    size_t images, in_count, out_count;
    float *quantized, *exact, *target; /* [images], ONNX order */
    float *x, *y;                      /* a batch */
    nbi_rng rng;
} lesson;

/* ---- values ---------------------------------------------------------------------------------- */

static float h_of(float v) {
    return fminf(fmaxf(1.2f / (1 + expf(-v)) - 0.1f, 0), 1);
}

/* dh/dV */
static float slope_of(float v) {
    float s = 1 / (1 + expf(-v)), h = 1.2f * s - 0.1f;
    return h <= 0 || h >= 1 ? 0 : 1.2f * s * (1 - s);
}

static int8_t rounded(const soft *s, size_t i) {
    return s->v[i] >= 0 ? s->upper[i] : s->lower[i];
}

/* soft: between the levels; hard: rounded; else the levels of the start. */
typedef enum form { SOFT, HARD, START } form;

static void set_weights(lesson *t, form f) {
    for (int k = 0; k < t->n_soft; k++) {
        soft *s = &t->soft[k];
        for (size_t i = 0; i < s->n; i++) {
            float lo = s->lower[i], level = f == SOFT   ? lo + h_of(s->v[i]) * (s->upper[i] - lo)
                                            : f == HARD ? (float)rounded(s, i)
                                                        : (float)s->start[i];
            s->w[i] = s->scale[i / s->depth] * level;
        }
    }
}

/* What the frozen graph says of a layer: the affine in the BatchNormalization or the bias. */
static void set_affine(const lesson *t, int layer) {
    const nbi_qat_layer *q = &t->g.qat->layer[layer];
    const nbi_graph *g = t->g.graph;
    const nbi_frozen_conv *c = &t->frozen->conv[layer];
    for (int o = 0; o < t->b->o.net->layer[layer].geometry.out_c; o++) {
        if (q->gamma >= 0) {
            ((float *)g->tensor[q->gamma]->data)[o] = 1;
            ((float *)g->tensor[q->beta]->data)[o] = (float)c->shift[o];
            ((float *)g->tensor[q->mean]->data)[o] = 0;
            ((float *)g->tensor[q->variance]->data)[o] = 1 - 1e-5f;
        } else {
            ((float *)g->tensor[q->bias]->data)[o] = (float)c->shift[o];
        }
    }
}

static void choose_levels(soft *s, size_t i, int8_t q, float ideal, const nbi_grid *grid) {
    int at = nbi_grid_nearest(grid, q), other = (double)ideal >= q ? at + 1 : at - 1;
    if (other < 0) other = 1;
    if (other >= grid->n) other = grid->n - 2;
    bool up = other > at;
    s->start[i] = q;
    s->lower[i] = grid->level[up ? at : other];
    s->upper[i] = grid->level[up ? other : at];
    float h = (ideal - s->lower[i]) / (float)(s->upper[i] - s->lower[i]);
    h = up ? fminf(fmaxf(h, 0.05f), 0.45f) : fmaxf(fminf(h, 0.95f), 0.55f);
    s->v[i] = -logf(1.2f / (h + 0.1f) - 1);
}

static nb_status open_layer(lesson *t, int layer, const nbi_learner *learner) {
    const nbi_layer *l = &t->b->o.net->layer[layer];
    const nbi_frozen_conv *c = &t->frozen->conv[layer];
    size_t channels = (size_t)l->geometry.out_c, n = l->n_weights;
    float *w = t->g.graph->tensor[t->g.qat->layer[layer].weight]->data;
    const float *ideal = nbi_learner_ideal(learner, layer);
    nbi_grid grid;
    int8_t level[256];
    set_affine(t, layer);
    for (size_t i = 0; i < n; i++) {
        size_t o = i / (n / channels);
        w[i] = c->scale[o] * (float)c->levels[nbi_weight_place(l, o, i % (n / channels))];
    }
    nbi_weight_grid(c->bits, c->table, level, &grid);
    if (!nbi_block_learns(t->b, layer) || !ideal || grid.n < 2) return NB_OK;
    soft *s = &t->soft[t->n_soft++];
    *s = (soft){.layer = layer, .n = n, .depth = n / channels, .w = w, .scale = c->scale};
    s->lower = nbi_arena_alloc(&t->arena, n, 1);
    s->upper = nbi_arena_alloc(&t->arena, n, 1);
    s->start = nbi_arena_alloc(&t->arena, n, 1);
    s->v = nbi_arena_alloc(&t->arena, n, sizeof *s->v);
    s->gradient = nbi_arena_alloc(&t->arena, n, sizeof *s->gradient);
    if (!s->lower || !s->upper || !s->start || !s->v || !s->gradient)
        return nb_fail_memory(t->ctx, n * 11);
    for (size_t i = 0; i < n; i++) {
        size_t place = nbi_weight_place(l, i / s->depth, i % s->depth);
        choose_levels(s, i, c->levels[place], ideal[place], &grid);
    }
    return NB_OK;
}

/* ---- data ------------------------------------------------------------------------------------ */

static nb_status to_onnx_order(lesson *t, const nbi_edge *e, const float *from, float **out) {
    size_t space = (size_t)e->h * (size_t)e->w, channels = (size_t)e->c, count = space * channels;
    *out = nbi_arena_alloc(&t->arena, t->images * count, sizeof **out);
    if (!*out) return nb_fail_memory(t->ctx, t->images * count * sizeof **out);
    bool last = e->rank == 3 || e->rank == 4;
    for (size_t i = 0; i < t->images; i++)
        for (size_t p = 0; p < space; p++)
            for (size_t c = 0; c < channels; c++)
                (*out)[i * count + (last ? c * space + p : p * channels + c)] =
                    from[i * count + p * channels + c];
    return NB_OK;
}

/* Each value of a batch from the quantized network, or, when dropping, half of them from the float
 * one. `first` NULL: random images. */
static void fill_batch(lesson *t, const size_t *first, bool mix) {
    uint32_t bits = 0;
    for (int k = 0; k < t->b->o.batch; k++) {
        size_t n = first ? (*first + (size_t)k) % t->images
                         : nbi_rng_below(&t->rng, (uint32_t)t->images);
        const float *q = t->quantized + n * t->in_count, *f = t->exact + n * t->in_count;
        float *x = t->x + (size_t)k * t->in_count;
        memcpy(t->y + (size_t)k * t->out_count, t->target + n * t->out_count,
               t->out_count * sizeof *t->y);
        for (size_t i = 0; i < t->in_count; i++) {
            if (mix && i % 32 == 0) bits = nbi_rng_u32(&t->rng);
            x[i] = mix && bits >> i % 32 & 1 ? f[i] : q[i];
        }
    }
}

static void fill_masks(lesson *t, bool random) {
    for (int s = 0; s < t->b->o.net->n_sites; s++) {
        if (t->g.mask[s] < 0) continue;
        const nbi_tensor *m = t->g.graph->tensor[t->g.mask[s]];
        float *data = m->data;
        size_t n = (size_t)nbi_tensor_count(m);
        uint32_t bits = 0;
        for (size_t i = 0; i < n; i++) {
            if (random && i % 32 == 0) bits = nbi_rng_u32(&t->rng);
            data[i] = !random || (bits >> i % 32 & 1) ? 1 : 0;
        }
    }
}

/* Mean squared error of the block without dropping, over some images. */
static nb_status judge(lesson *t, form f, double *out) {
    size_t n = t->images < JUDGED ? t->images : JUDGED, batches = 0;
    *out = 0;
    set_weights(t, f);
    fill_masks(t, false);
    for (size_t first = 0; first < n; first += (size_t)t->b->o.batch, batches++) {
        nbi_view v;
        fill_batch(t, &first, false);
        NB_TRY(nbi_tape_forward(t->ctx, t->tape, (const void *const[]){t->x, t->y}, 0));
        NB_TRY(nbi_tape_value(t->ctx, t->tape, t->g.loss, &v));
        *out += (double)*(const float *)v.data;
    }
    *out /= (double)(batches ? batches : 1);
    return NB_OK;
}

/* ---- training -------------------------------------------------------------------------------- */

static nb_status open_tape(lesson *t) {
    const nbi_qnet *net = t->b->o.net;
    size_t most = (size_t)(net->n_sites + t->n_soft) + 1;
    int *wrt = nbi_arena_alloc(&t->arena, most, sizeof *wrt);
    t->param = nbi_arena_alloc(&t->arena, most, sizeof *t->param);
    t->step = nbi_arena_alloc(&t->arena, most, sizeof *t->step);
    t->first_step = nbi_arena_alloc(&t->arena, most, sizeof *t->first_step);
    t->step_site = nbi_arena_alloc(&t->arena, most, sizeof *t->step_site);
    if (!wrt || !t->param || !t->step || !t->first_step || !t->step_site)
        return nb_fail_memory(t->ctx, most * sizeof *t->param);
    for (int k = 0; k < t->n_soft; k++) {
        soft *s = &t->soft[k];
        wrt[t->n_wrt] = t->g.qat->layer[s->layer].weight;
        t->param[t->n_wrt++] = (nbi_param){.name = net->layer[s->layer].name, .value = s->v,
                                           .gradient = s->gradient, .count = s->n, .lr = 1};
    }
    for (int s = 0; s < net->n_sites; s++) {
        if (t->g.step[s] < 0) continue;
        float *step = t->g.graph->tensor[t->g.step[s]]->data;
        int k = t->n_wrt - t->n_soft;
        *step = (float)t->frozen->site[s].scale;
        if (!t->b->o.drop) continue;
        t->step[k] = step;
        t->first_step[k] = *step;
        t->step_site[k] = s;
        wrt[t->n_wrt] = t->g.step[s];
        t->param[t->n_wrt++] = (nbi_param){.name = net->site[s].name, .value = step, .count = 1,
                                           .lr = STEP_RATE * *step};
    }
    nbi_tape_spec spec = {.n_wrt = t->n_wrt, .wrt = wrt, .n_losses = 1, .loss = &t->g.loss};
    NB_TRY(nbi_tape_new(t->ctx, t->g.graph, &spec, &t->tape));
    nbi_optimizer_options o = nbi_optimizer_options_default();
    o.kind = NBI_ADAM;
    return nbi_optimizer_new(t->ctx, &o, t->param, (size_t)t->n_wrt, &t->optimizer);
}

/* The gradient of V from that of the weights and the regularizer's, Σ 1 − |2h − 1|^beta. */
static void gradient_of(soft *s, const float *dw, double beta) {
    for (size_t i = 0; i < s->n; i++) {
        float slope = slope_of(s->v[i]), h = h_of(s->v[i]), a = fabsf(2 * h - 1);
        float g = dw[i] * s->scale[i / s->depth] * (float)(s->upper[i] - s->lower[i]);
        if (beta > 0)
            g -= (float)(2 * PRESSURE * beta * pow((double)a, beta - 1)) * (h > 0.5f ? 1.0f : -1.0f);
        s->gradient[i] = g * slope;
    }
}

static nb_status train(lesson *t) {
    const nbi_tensor *out = t->g.graph->tensor[t->g.out];
    float weight = out->rank > 1 ? (float)out->dim[1] : 1; /* a sum over channels, as BRECQ has it */
    for (int k = 0; k < t->b->o.steps; k++) {
        double at = (double)k / t->b->o.steps;
        double beta = at < WARM_UP ? 0 : 20 - 18 * (at - WARM_UP) / (1 - WARM_UP);
        set_weights(t, SOFT);
        fill_batch(t, NULL, t->b->o.drop);
        fill_masks(t, t->b->o.drop);
        NB_TRY(nbi_tape_forward(t->ctx, t->tape, (const void *const[]){t->x, t->y}, 0));
        NB_TRY(nbi_tape_backward(t->ctx, t->tape, &weight));
        for (int s = 0; s < t->n_wrt; s++) {
            const float *g = nbi_tape_gradient(t->tape, s);
            if (s < t->n_soft) gradient_of(&t->soft[s], g, beta);
            else t->param[s].gradient = g;
        }
        double rate = (double)RATE * (at < 0.5 ? 1 : 0.5 * (1 + cos(2 * 3.14159265358979 * (at - 0.5))));
        NB_TRY(nbi_optimizer_step(t->ctx, t->optimizer, rate, NULL));
        if (nb_cancelled(t->ctx)) return nb_fail(t->ctx, NB_ECANCELLED, "stopped on request");
    }
    return NB_OK;
}

static nb_status keep(lesson *t, nbi_learner *learner, nbi_qparam *grid) {
    for (int k = 0; k < t->n_soft; k++) {
        const soft *s = &t->soft[k];
        const nbi_layer *l = &t->b->o.net->layer[s->layer];
        int8_t *levels = nbi_arena_alloc(&t->arena, s->n, 1);
        if (!levels) return nb_fail_memory(t->ctx, s->n);
        for (size_t i = 0; i < s->n; i++)
            levels[nbi_weight_place(l, i / s->depth, i % s->depth)] = rounded(s, i);
        nbi_learner_set(learner, s->layer, levels);
    }
    for (int k = 0; k < t->n_wrt - t->n_soft; k++) {
        int s = t->step_site[k];
        grid[s] = t->frozen->site[s];
        grid[s].scale = (double)fmaxf(*t->step[k], 1e-30f);
    }
    return NB_OK;
}

static void lesson_free(lesson *t) {
    nbi_optimizer_free(t->optimizer);
    nbi_tape_free(t->tape);
    nbi_qat_free(t->g.qat);
    nbi_arena_free(&t->arena);
}

static nb_status open_lesson(lesson *t, int i, const nbi_block_data *data,
                             const nbi_learner *learner) {
    const nbi_qnet *net = t->b->o.net;
    const nbi_edge *in = &net->edge[t->block->in], *out = &net->edge[t->block->out];
    size_t batch = (size_t)t->b->o.batch;
    t->images = data->images;
    t->in_count = (size_t)in->h * (size_t)in->w * (size_t)in->c;
    t->out_count = (size_t)out->h * (size_t)out->w * (size_t)out->c;
    nbi_rng_seed(&t->rng, t->b->o.seed, (uint64_t)i + 77);
    NB_TRY(nbi_block_open(t->ctx, t->b, i, &t->g));
    NB_TRY(to_onnx_order(t, in, data->quantized, &t->quantized));
    NB_TRY(to_onnx_order(t, in, data->exact, &t->exact));
    NB_TRY(to_onnx_order(t, out, data->target, &t->target));
    t->soft = nbi_arena_alloc(&t->arena, (size_t)net->n_layers + 1, sizeof *t->soft);
    t->x = nbi_arena_alloc(&t->arena, batch * t->in_count, sizeof *t->x);
    t->y = nbi_arena_alloc(&t->arena, batch * t->out_count, sizeof *t->y);
    if (!t->soft || !t->x || !t->y) return nb_fail_memory(t->ctx, batch * t->in_count * 4);
    for (int l = t->block->first; l <= t->block->last; l++)
        if (net->layer[l].type == NBI_LAYER_CONV) NB_TRY(open_layer(t, l, learner));
    return open_tape(t);
}

nb_status nbi_blocks_learn(nb_ctx *ctx, nbi_blocks *b, int i, const nbi_frozen *frozen,
                           const nbi_block_data *data, nbi_learner *learner, nbi_qparam *grid,
                           double *before, double *after) {
    lesson t = {.ctx = ctx, .b = b, .block = &b->block[i], .frozen = frozen};
    nb_status st;
    NB_TRYG(open_lesson(&t, i, data, learner));
    NB_TRYG(judge(&t, START, before));
    NB_TRYG(train(&t));
    NB_TRYG(judge(&t, HARD, after));
    if (*after < *before) st = keep(&t, learner, grid);
done:
    lesson_free(&t);
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

void nbi_blocks_free(nbi_blocks *b) {
    if (!b) return;
    nbi_arena_free(&b->arena);
    nbi_free(b);
}

int nbi_blocks_count(const nbi_blocks *b) {
    return b->n_blocks;
}

const nbi_block *nbi_blocks_get(const nbi_blocks *b, int i) {
    return &b->block[i];
}

static nb_status open_blocks(nb_ctx *ctx, nbi_blocks *b, const nbi_blocks_options *o) {
    const nbi_qnet *net = o->net;
    size_t sites = (size_t)net->n_sites + 1;
    nbi_choice *bits = nbi_arena_alloc(&b->arena, sites, sizeof *bits);
    b->vertex = nbi_arena_alloc(&b->arena, sites, sizeof *b->vertex);
    if (!bits || !b->vertex) return nb_fail_memory(ctx, sites * sizeof *b->vertex);
    for (int s = 0; s < net->n_sites; s++) {
        bits[s] = (nbi_choice)(o->bits[s] & 255); /* weights: whatever their scheme */
        if (net->site[s].kind != NBI_SITE_WEIGHT && bits[s] != o->bits[s])
            return nb_fail(ctx, NB_EUNSUPPORTED, "tensor '%s': blocks are learned with uniform "
                           "activations only", net->site[s].name);
    }
    b->o.bits = bits;
    nbi_qat *whole;
    NB_TRY(nbi_block_simulate(ctx, b, &whole));
    nb_status st = nbi_blocks_find(ctx, b);
    nbi_qat_free(whole);
    return st;
}

nb_status nbi_blocks_new(nb_ctx *ctx, const nbi_blocks_options *o, nbi_blocks **out) {
    nbi_blocks *b;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *b, &b));
    b->o = *o;
    nb_status st = open_blocks(ctx, b, o);
    if (st == NB_OK) *out = b;
    else nbi_blocks_free(b);
    return st;
}
