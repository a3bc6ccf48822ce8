/* Per layer: moments of the codes it reads against what the float network computes there; the
 * least-squares weights for these inputs (with a ridge that pulls to the given weights, as inputs are
 * noisy and images few); then Gram rounding of those. A branch that enters an addition also makes up
 * for what the other side of the addition has lost. */
#include "quant/learn.h"

#include "quant/float_taps.h"
#include "quant/gram_moments.h"

#include <math.h>
#include <string.h>

#define ROWS        32768 /* of nbi_learner_options.rows */
#define MOST_BYTES  ((size_t)512 << 20) /* of float values kept */
#define RIDGE       0.1
#define MOST_INPUTS 5000 /* of one weight row: the Gram matrix has their square */

typedef struct plan { /* one convolution */
    size_t pixels;     /* of each image */
    uint32_t *pixel;   /* [images][pixels] */
    float *sum;        /* [images·pixels][out_c] Σ w·x of the float network */
    float *total;      /* likewise: the addition behind, before its clamp; NULL: none */
    int addition;      /* the layer, or −1 */
    int8_t *levels;    /* once learned */
    float *ideal;      /* w* over the scale */
    float *scale;
    double *mean, *deviation;
    double plain, learned;
} plan;

struct nbi_learner {
    nbi_learner_options o;
    nbi_arena arena, taps; /* what is learned; what it is learned from */
    plan *layer;           /* [n_layers] */
};

typedef struct tap { /* what the float network is asked for */
    int layer;
    bool total;
} tap;

typedef struct tap_list {
    nbi_learner *learner;
    int n;
    tap *tap;
    const char **name;
} tap_list;

/* ---- the float side -------------------------------------------------------------------------- */

/* The addition that alone reads the layer's sums, unclamped, element by element; −1. */
static int addition_behind(const nbi_qnet *net, int layer) {
    const nbi_layer *l = &net->layer[layer];
    int found = -1, readers = 0;
    if (isfinite(l->act_lo) || isfinite(l->act_hi) || net->edge[l->out].is_output) return -1;
    for (int i = 0; i < net->n_layers; i++)
        for (int k = 0; k < net->layer[i].n_in; k++)
            if (net->layer[i].in[k] == l->out) found = i, readers++;
    if (readers != 1 || net->layer[found].type != NBI_LAYER_ADD || net->layer[found].n_in != 2)
        return -1;
    const nbi_edge *a = &net->edge[net->layer[found].in[0]], *b = &net->edge[net->layer[found].in[1]];
    return a->h == b->h && a->w == b->w && a->c == b->c ? found : -1;
}

/* Of each of S equal parts of the map one pixel, at random. */
static nb_status choose_pixels(nb_ctx *ctx, nbi_learner *n, int layer, size_t rows) {
    const nbk_conv *g = &n->o.net->layer[layer].geometry;
    plan *p = &n->layer[layer];
    size_t map = (size_t)g->out_h * (size_t)g->out_w, images = n->o.images;
    size_t wanted = rows / images > 1 ? rows / images : 1;
    nbi_rng rng;
    p->pixels = wanted < map ? wanted : map;
    p->pixel = nbi_arena_alloc(&n->taps, images * p->pixels, sizeof *p->pixel);
    if (!p->pixel) return nb_fail_memory(ctx, images * p->pixels * 4);
    nbi_rng_seed(&rng, n->o.seed, (uint64_t)layer + 1000);
    for (size_t i = 0; i < images; i++)
        for (size_t s = 0; s < p->pixels; s++) {
            size_t from = map * s / p->pixels, to = map * (s + 1) / p->pixels;
            p->pixel[i * p->pixels + s] =
                (uint32_t)from + nbi_rng_below(&rng, (uint32_t)(to - from));
        }
    return NB_OK;
}

static nb_status add_tap(nb_ctx *ctx, tap_list *t, int layer, bool total, const char *name) {
    nbi_learner *n = t->learner;
    plan *p = &n->layer[layer];
    size_t channels = (size_t)n->o.net->layer[layer].geometry.out_c;
    float *room = nbi_arena_alloc(&n->taps, n->o.images * p->pixels * channels, sizeof *room);
    if (!room) return nb_fail_memory(ctx, n->o.images * p->pixels * channels * 4);
    if (total) p->total = room;
    else p->sum = room;
    t->tap[t->n] = (tap){layer, total};
    t->name[t->n++] = name;
    return NB_OK;
}

static nb_status take(nb_ctx *ctx, void *user, int index, size_t first, size_t n, const float *x,
                      size_t count) {
    const tap_list *t = user;
    const tap *tp = &t->tap[index];
    plan *p = &t->learner->layer[tp->layer];
    const nbi_layer *l = &t->learner->o.net->layer[tp->layer];
    size_t channels = (size_t)l->geometry.out_c;
    if (count != (size_t)l->geometry.out_h * (size_t)l->geometry.out_w * channels)
        return nb_fail(ctx, NB_EFORMAT, "tensor '%s' has %zu values, node '%s' has others",
                       t->name[index], count, l->name);
    float *out = (tp->total ? p->total : p->sum) + first * p->pixels * channels;
    for (size_t i = 0; i < n; i++)
        for (size_t s = 0; s < p->pixels; s++, out += channels) {
            const float *in = x + i * count + p->pixel[(first + i) * p->pixels + s] * channels;
            for (size_t c = 0; c < channels; c++)
                out[c] = tp->total ? in[c] : (in[c] - l->sum_offset[c]) * l->sum_scale[c];
        }
    return NB_OK;
}

/* Values that all layers would keep at so many rows each. */
static size_t bytes_at(const nbi_learner *n, size_t rows) {
    size_t bytes = 0;
    for (int i = 0; i < n->o.net->n_layers; i++) {
        const nbk_conv *g = &n->o.net->layer[i].geometry;
        if (n->o.net->layer[i].type != NBI_LAYER_CONV) continue;
        size_t all = (size_t)g->out_h * (size_t)g->out_w * n->o.images;
        bytes += (all < rows ? all : rows) * (size_t)g->out_c * 2 * sizeof(float);
    }
    return bytes;
}

static nb_status tap_float(nb_ctx *ctx, nbi_learner *n) {
    const nbi_qnet *net = n->o.net;
    tap_list t = {.learner = n};
    size_t most = 2 * (size_t)net->n_layers + 1, rows = n->o.rows ? n->o.rows : ROWS;
    nb_status st;
    while (rows > 512 && bytes_at(n, rows) > MOST_BYTES) rows /= 2;
    NB_TRYG(nbi_alloc(ctx, most, sizeof *t.tap, &t.tap));
    NB_TRYG(nbi_alloc(ctx, most, sizeof *t.name, &t.name));
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        n->layer[i].addition = -1;
        if (l->type != NBI_LAYER_CONV || nbi_moments_width(l) > MOST_INPUTS) continue;
        NB_TRYG(choose_pixels(ctx, n, i, rows));
        NB_TRYG(add_tap(ctx, &t, i, false, net->graph->tensor[l->sum_tensor]->name));
        int a = n->o.alone ? -1 : addition_behind(net, i);
        if (a < 0) continue;
        const nbi_node *node = net->graph->node[net->layer[a].node[0]];
        n->layer[i].addition = a;
        NB_TRYG(add_tap(ctx, &t, i, true, net->graph->tensor[node->out[0]]->name));
    }
    nbi_taps taps = {n->o.source, t.n,  t.name, n->o.images, n->o.fill, n->o.fill_user,
                     take,        &t,   "float network"};
    NB_TRYG(nbi_float_taps(ctx, &taps));
done:
    nbi_free(t.tap);
    nbi_free(t.name);
    return st;
}

void nbi_learner_free(nbi_learner *n) {
    if (!n) return;
    nbi_arena_free(&n->arena);
    nbi_arena_free(&n->taps);
    nbi_free(n->layer);
    nbi_free(n);
}

void nbi_learner_settle(nbi_learner *n) {
    for (int i = 0; i < n->o.net->n_layers; i++) {
        n->layer[i].pixel = NULL;
        n->layer[i].sum = n->layer[i].total = NULL;
    }
    nbi_arena_free(&n->taps);
}

nb_status nbi_learner_new(nb_ctx *ctx, const nbi_learner_options *options, nbi_learner **out) {
    nbi_learner *n;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *n, &n));
    n->o = *options;
    nb_status st = nbi_alloc(ctx, (size_t)options->net->n_layers + 1, sizeof *n->layer, &n->layer);
    if (st == NB_OK) st = tap_float(ctx, n);
    if (st == NB_OK) *out = n;
    else nbi_learner_free(n);
    return st;
}

/* ---- one layer ------------------------------------------------------------------------------- */

typedef struct lesson {
    nbi_learner *n;
    const nbi_rounding_request *r;
    const nbi_layer *l;
    plan *p;
    nbi_gram_sample sample;
    bool quick;        /* from two scales only, and nothing is noted */
    float *wanted;     /* [rows][out_c] in steps of the input's grid */
    double *extra;     /* [out_c] mean of what the addition asks for beyond the float sums */
} lesson;

/* What the layer's sums should be: the float network's, or, in front of an addition, what makes its
 * result right beside the other side as it is. */
static void set_wanted(lesson *s) {
    const nbi_qnet *net = s->n->o.net;
    const nbi_layer *l = s->l, *a = s->p->addition >= 0 ? &net->layer[s->p->addition] : NULL;
    size_t channels = (size_t)l->geometry.out_c, rows = s->n->o.images * s->p->pixels;
    size_t map = (size_t)l->geometry.out_h * (size_t)l->geometry.out_w;
    bool first = a && a->in[0] == l->out;
    int other = a ? a->in[first] : -1;
    const uint8_t *codes = a ? s->r->value[other] : NULL;
    double unit = s->sample.x->scale;
    const nbi_qparam *q = codes ? &s->r->site[net->edge[other].site] : NULL;
    for (size_t i = 0; i < rows; i++) {
        const float *sum = s->p->sum + i * channels;
        const float *total = s->p->total + i * channels;
        size_t image = i / s->p->pixels, at = (image * map + s->p->pixel[i]) * channels;
        for (size_t c = 0; c < channels; c++) {
            double t = (double)sum[c], gain = (double)l->gain[c];
            if (codes && gain > 1e-6) {
                int v = q->dtype == NB_DTYPE_S8 ? (int8_t)codes[at + c] : codes[at + c];
                double x = q->scale * (v - q->zero), sign = (double)a->sign;
                double y = first ? (double)total[c] - sign * x : sign * ((double)total[c] - x);
                double asked = (y - (double)l->shift[c]) / gain;
                s->extra[c] += asked - t;
                t = asked;
            }
            s->wanted[i * channels + c] = (float)(t / unit);
        }
    }
    for (size_t c = 0; c < channels; c++) s->extra[c] /= (double)rows;
}

typedef struct group_job {
    nb_ctx *ctx;
    lesson *s;
    int group;
    const nbi_moments *m;
    const nbi_gram *gram;
    double ridge;
    double *plain, *learned; /* [m] relative errors */
} group_job;

static void round_channel(const group_job *j, size_t c, nbi_rounding *work, double *w, double *b,
                          int8_t *q) {
    const nbi_rounding_request *r = j->s->r;
    const nbi_layer *l = j->s->l;
    const nbi_moments *m = j->m;
    size_t k = m->k, o = (size_t)j->group * m->m + c;
    double constant = m->tt[c], variance = m->tt[c] > 1e-30 ? m->tt[c] : 1e-30;
    double scale = (double)r->scale[o];
    for (size_t i = 0; i < k; i++) {
        size_t place = l->depthwise ? i * (size_t)l->geometry.out_c + o : o * k + i;
        q[i] = r->levels[place];
        w[i] = (double)l->weight[place];
        b[i] = m->xt[c * k + i] + j->ridge * w[i];
        constant += j->ridge * w[i] * w[i];
    }
    nbi_gram_solve(j->gram, b, w, work->shifted);
    /* E(v) = tt − 2·vᵀxt + vᵀ·xx·v = constant + (v − w)ᵀH(v − w), the ridge left in */
    for (size_t i = 0; i < k; i++) constant -= b[i] * w[i];
    if (!j->s->quick)
        j->plain[c] = (nbi_gram_error(j->gram, w, scale, q) + constant) / variance;
    double e = nbi_gram_fit(j->gram, &r->grid, w, r->keep_scale, j->s->quick, &scale, q, work);
    j->learned[c] = (e + constant) / variance;
    r->scale[o] = (float)scale;
    for (size_t i = 0; i < k; i++) {
        size_t place = l->depthwise ? i * (size_t)l->geometry.out_c + o : o * k + i;
        r->levels[place] = q[i];
        if (!j->s->quick) j->s->p->ideal[place] = (float)(w[i] / scale);
    }
}

static nb_status round_channels(void *user, size_t begin, size_t end, int worker) {
    const group_job *j = user;
    nbi_rounding work = {0};
    double *w = NULL, *b = NULL;
    int8_t *q = NULL;
    nb_status st;
    (void)worker;
    NB_TRYG(nbi_rounding_new(j->ctx, j->m->k, &work));
    NB_TRYG(nbi_alloc(j->ctx, j->m->k, sizeof *w, &w));
    NB_TRYG(nbi_alloc(j->ctx, j->m->k, sizeof *b, &b));
    NB_TRYG(nbi_alloc(j->ctx, j->m->k, 1, &q));
    for (size_t c = begin; c < end; c++) round_channel(j, c, &work, w, b, q);
done:
    nbi_rounding_free(&work);
    nbi_free(w);
    nbi_free(b);
    nbi_free(q);
    return st;
}

static nb_status learn_group(nb_ctx *ctx, lesson *s, int group, double *plain, double *learned) {
    nbi_moments m = {0};
    nbi_gram gram = {0};
    nb_status st;
    double trace = 0;
    NB_TRYG(nbi_moments_new(ctx, s->l, &m));
    NB_TRYG(nbi_moments_of(ctx, &s->sample, group, &m));
    for (size_t i = 0; i < m.k; i++) trace += m.xx[i * m.k + i];
    double ridge = trace > 0 ? RIDGE * trace / (double)m.k : 1;
    for (size_t i = 0; i < m.k; i++) m.xx[i * m.k + i] += ridge;
    NB_TRYG(nbi_gram_new(ctx, m.xx, m.k, &gram));
    group_job j = {ctx, s, group, &m, &gram, ridge, plain + (size_t)group * m.m,
                   learned + (size_t)group * m.m};
    NB_TRYG(nbi_parallel(ctx, m.m, 1, round_channels, &j));
    for (size_t c = 0; c < m.m; c++) {
        size_t o = (size_t)group * m.m + c;
        s->r->mean[o] += s->extra[o];
        s->r->deviation[o] = 0; /* the scale is the regression's */
    }
done:
    nbi_gram_free(&gram);
    nbi_moments_free(&m);
    return st;
}

typedef struct groups_job {
    nb_ctx *ctx;
    lesson *s;
    double *plain, *learned;
} groups_job;

static nb_status learn_groups(void *user, size_t begin, size_t end, int worker) {
    const groups_job *j = user;
    (void)worker;
    for (size_t g = begin; g < end; g++)
        NB_TRY(learn_group(j->ctx, j->s, (int)g, j->plain, j->learned));
    return NB_OK;
}

static nb_status learn_layer(nb_ctx *ctx, nbi_learner *n, const nbi_rounding_request *r,
                             bool quick) {
    const nbi_layer *l = &n->o.net->layer[r->layer];
    const nbi_edge *e = &n->o.net->edge[l->in[0]];
    plan *p = &n->layer[r->layer];
    size_t channels = (size_t)l->geometry.out_c;
    lesson s = {.n = n, .r = r, .l = l, .p = p, .quick = quick};
    double *plain = NULL, *learned = NULL;
    nb_status st;
    s.sample = (nbi_gram_sample){.layer = l, .x = &r->site[e->site], .codes = r->value[l->in[0]],
                                 .bytes = (size_t)e->h * (size_t)e->w * (size_t)e->c,
                                 .images = n->o.images, .pixels = p->pixels, .pixel = p->pixel};
    if (!quick) p->ideal = nbi_arena_alloc(&n->arena, l->n_weights, sizeof *p->ideal);
    if (!quick && !p->ideal) return nb_fail_memory(ctx, l->n_weights * sizeof *p->ideal);
    NB_TRYG(nbi_alloc(ctx, n->o.images * p->pixels * channels, sizeof *s.wanted, &s.wanted));
    NB_TRYG(nbi_alloc(ctx, channels, sizeof *s.extra, &s.extra));
    NB_TRYG(nbi_alloc(ctx, channels, sizeof *plain, &plain));
    NB_TRYG(nbi_alloc(ctx, channels, sizeof *learned, &learned));
    set_wanted(&s);
    s.sample.wanted = s.wanted;
    groups_job j = {ctx, &s, plain, learned};
    size_t groups = (size_t)l->geometry.groups;
    NB_TRYG(groups >= 8 ? nbi_parallel(ctx, groups, 1, learn_groups, &j)
                        : learn_groups(&j, 0, groups, 0));
    if (quick) goto done;
    for (size_t c = 0; c < channels; c++) {
        p->plain += plain[c] / (double)channels;
        p->learned += learned[c] / (double)channels;
    }
    nb_log(ctx, NB_LOG_INFO, "%s: error of the sums %.3f %% -> %.3f %%", l->name, 100 * p->plain,
           100 * p->learned);
done:
    nbi_free(s.wanted);
    nbi_free(s.extra);
    nbi_free(plain);
    nbi_free(learned);
    return st;
}

static nb_status keep(nb_ctx *ctx, nbi_learner *n, const nbi_rounding_request *r) {
    const nbi_layer *l = &n->o.net->layer[r->layer];
    plan *p = &n->layer[r->layer];
    size_t channels = (size_t)l->geometry.out_c;
    int8_t *levels = nbi_arena_alloc(&n->arena, l->n_weights, 1);
    p->scale = nbi_arena_alloc(&n->arena, channels, sizeof *p->scale);
    p->mean = nbi_arena_alloc(&n->arena, channels, sizeof *p->mean);
    p->deviation = nbi_arena_alloc(&n->arena, channels, sizeof *p->deviation);
    if (!levels || !p->scale || !p->mean || !p->deviation) return nb_fail_memory(ctx, l->n_weights);
    memcpy(levels, r->levels, l->n_weights);
    memcpy(p->scale, r->scale, channels * sizeof *p->scale);
    memcpy(p->mean, r->mean, channels * sizeof *p->mean);
    memcpy(p->deviation, r->deviation, channels * sizeof *p->deviation);
    p->levels = levels;
    return NB_OK;
}

static bool can_learn(const nbi_learner *n, const nbi_rounding_request *r) {
    return n->layer[r->layer].sum && r->value[n->o.net->layer[r->layer].in[0]] &&
           r->images >= n->o.images;
}

nb_status nbi_learner_round(nb_ctx *ctx, void *learner, const nbi_rounding_request *r) {
    nbi_learner *n = learner;
    const nbi_layer *l = &n->o.net->layer[r->layer];
    plan *p = &n->layer[r->layer];
    size_t channels = (size_t)l->geometry.out_c;
    if (p->levels) {
        memcpy(r->levels, p->levels, l->n_weights);
        memcpy(r->scale, p->scale, channels * sizeof *p->scale);
        memcpy(r->mean, p->mean, channels * sizeof *p->mean);
        memcpy(r->deviation, p->deviation, channels * sizeof *p->deviation);
        return NB_OK;
    }
    if (!can_learn(n, r)) return NB_OK;
    NB_TRY(learn_layer(ctx, n, r, false));
    return keep(ctx, n, r);
}

nb_status nbi_learner_try(nb_ctx *ctx, void *learner, const nbi_rounding_request *r) {
    nbi_learner *n = learner;
    return can_learn(n, r) ? learn_layer(ctx, n, r, true) : NB_OK;
}

const float *nbi_learner_ideal(const nbi_learner *n, int layer) {
    return n->layer[layer].levels ? n->layer[layer].ideal : NULL;
}

const int8_t *nbi_learner_levels(const nbi_learner *n, int layer, const float **scale) {
    *scale = n->layer[layer].scale;
    return n->layer[layer].levels;
}

void nbi_learner_set(nbi_learner *n, int layer, const int8_t *levels) {
    if (n->layer[layer].levels)
        memcpy(n->layer[layer].levels, levels, n->o.net->layer[layer].n_weights);
}

void nbi_learner_errors(const nbi_learner *n, double *plain, double *learned, int *layers) {
    *plain = *learned = 0;
    *layers = 0;
    for (int i = 0; i < n->o.net->n_layers; i++) {
        if (!n->layer[i].levels) continue;
        *plain += n->layer[i].plain;
        *learned += n->layer[i].learned;
        ++*layers;
    }
}
