/* Mean curvature of the score per tensor, for the search `hawq`. The loss is the divergence of the
 * network from its own unmoved outputs on calibration images (what scores policies, too), so that
 * no labels are needed and the Hessian at the float weights is positive. Weights are moved where
 * they are, so are biases (β where there is a normalization), activations through a constant that is
 * added to them. */
#include "api/session.h"

#include "ops/op.h"
#include "quant/hutchinson.h"
#include "quant/qat.h"

#include <math.h>
#include <string.h>

#define BATCH      64
#define STEP       0.01 /* of a tensor's typical value */
#define LEAST      50   /* probes */
#define MOST       200
#define TOLERANCE  0.01 /* relative standard error */
#define TIME_SHARE 0.3  /* of what the search has left */
#define STUDY_KEY  "curvature"

typedef struct curving {
    nbi_session *s;
    nbi_qat *qat;
    nbi_tape *tape;
    size_t batch, batches;
    int loss;
    int n, *tensor, *site; /* blocks */
    int biases;            /* the first block of a bias, behind all others */
    int from, end;         /* the blocks that are moved now */
    nbi_hutchinson_block *block;
    float *x, *reference; /* one batch of inputs; outputs of all batches */
    size_t width;         /* of an image's outputs */
} curving;

/* Weights are always measured. */
static bool is_searched(const nbi_session *s, int site) {
    nbi_site_kind kind = s->net->site[site].kind;
    if (kind == NBI_SITE_WEIGHT) return true;
    if (s->fixed[site]) return false;
    return kind == NBI_SITE_BIAS ? s->biases.n > 1
                                 : kind == NBI_SITE_ACTIVATION && s->activations.n > 1;
}

static void move_also(curving *c, int tensor, int site) {
    c->tensor[c->n] = tensor;
    c->site[c->n++] = site;
}

/* Nothing is quantized; what is to be moved is noted. */
static nb_status vertex(nb_ctx *ctx, void *user, nbi_qat *qat, const nbi_qat_vertex *v, int *out) {
    curving *c = user;
    nbi_graph *g = qat->graph;
    const nbi_site *site = &c->s->net->site[v->site];
    int moved = v->x;
    *out = v->x;
    if (site->kind != NBI_SITE_WEIGHT) {
        const nbi_tensor *x = g->tensor[v->x];
        nbi_node *node;
        if (!is_searched(c->s, v->site)) return NB_OK;
        NB_TRY(nbi_graph_add_const(ctx, g, NULL, NB_DTYPE_F32, x->rank, x->dim, &moved));
        NB_TRY(nbi_graph_add_tensor(ctx, g, NULL, NB_DTYPE_NONE, -1, NULL, out));
        NB_TRY(nbi_graph_add_node(ctx, g, site->name, "", "Add", 2, (int[]){v->x, moved}, 1, out,
                                  &node));
        NB_TRY(nbi_node_prepare(ctx, g, node));
        NB_TRY(nbi_node_infer(ctx, g, node));
    }
    move_also(c, moved, v->site);
    return NB_OK;
}

/* A layer's sums are changed by what its bias is changed by, at every place, and so are they by β. */
static void move_biases(curving *c) {
    const nbi_qnet *net = c->s->net;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_qat_layer *l = &c->qat->layer[i];
        int tensor = l->beta >= 0 ? l->beta : l->bias;
        if (net->layer[i].type != NBI_LAYER_CONV || tensor < 0) continue;
        if (is_searched(c->s, net->layer[i].bias_site))
            move_also(c, tensor, net->layer[i].bias_site);
    }
}

static nb_status add_loss(nb_ctx *ctx, curving *c) {
    nbi_graph *g = c->qat->graph;
    const nbi_tensor *y = g->tensor[c->qat->logits];
    bool kl = c->s->loss == NBI_LOSS_KL && y->rank == 2;
    int teacher;
    nbi_node *node;
    NB_TRY(nbi_graph_add_tensor(ctx, g, "unmoved", NB_DTYPE_F32, y->rank, y->dim, &teacher));
    NB_TRY(nbi_graph_add_tensor(ctx, g, "loss", NB_DTYPE_NONE, -1, NULL, &c->loss));
    NB_TRY(nbi_graph_add_node(ctx, g, "loss", "org.nibble",
                              kl ? "KlDivergence" : "MeanSquaredError", 2,
                              (int[]){c->qat->logits, teacher}, 1, &c->loss, &node));
    NB_TRY(nbi_node_prepare(ctx, g, node));
    NB_TRY(nbi_node_infer(ctx, g, node));
    NB_TRY(nbi_graph_set_inputs(ctx, g, 2, (int[]){c->qat->x, teacher}));
    return nbi_graph_set_outputs(ctx, g, 2, (int[]){c->qat->logits, c->loss});
}

/* Weights that are not read (a pruned branch) have gradient 0, which the tape knows. */
static nb_status build(nb_ctx *ctx, curving *c) {
    nbi_session *s = c->s;
    nbi_choice *bits = NULL;
    int64_t fixed = s->source->tensor[s->source->input[0]]->dim[0];
    c->batch = fixed > 0 ? (size_t)fixed : s->calib < BATCH ? s->calib : BATCH;
    c->batches = s->calib / c->batch;
    if (c->batches == 0)
        return nb_fail(ctx, NB_EINVAL,
                       "%zu calibration images are less than the model's batch of "
                       "%zu",
                       s->calib, c->batch);
    size_t most = 2 * ((size_t)s->net->n_sites + (size_t)s->net->n_edges) + 1;
    NB_TRY(nbi_alloc(ctx, most, sizeof *c->tensor, &c->tensor));
    NB_TRY(nbi_alloc(ctx, most, sizeof *c->site, &c->site));
    NB_TRY(nbi_alloc(ctx, (size_t)s->net->n_sites + 1, sizeof *bits, &bits));
    nbi_session_uniform(s, 8, 8, bits);
    nbi_qat_options o = {.batch = (int64_t)c->batch,
                         .per_channel = s->per_channel,
                         .evaluate = true,
                         .vertex = vertex,
                         .vertex_user = c};
    nb_status st = nbi_qat_new(ctx, s->compared, s->net, bits, s->edge, &o, &c->qat);
    nbi_free(bits);
    NB_TRY(st);
    c->biases = c->n;
    move_biases(c);
    NB_TRY(add_loss(ctx, c));
    nbi_tape_spec spec = {.n_wrt = c->n, .wrt = c->tensor, .n_losses = 1, .loss = &c->loss};
    return nbi_tape_new(ctx, c->qat->graph, &spec, &c->tape);
}

/* One batch through the network: the inputs are filled, `reference` rows are what it is compared
 * with. */
static nb_status forward(nb_ctx *ctx, curving *c, size_t batch) {
    nbi_session *s = c->s;
    nbi_images_fill(&s->images, &s->transform, batch * c->batch, c->batch, c->x);
    const float *reference = c->reference + batch * c->batch * c->width;
    return nbi_tape_forward(ctx, c->tape, (const void *const[]){c->x, reference}, 0);
}

static nb_status prepare(nb_ctx *ctx, curving *c) {
    const nbi_graph *g = c->qat->graph;
    const nbi_tensor *x = g->tensor[c->qat->x], *y = g->tensor[c->qat->logits];
    c->width = (size_t)nbi_tensor_count(y) / c->batch;
    NB_TRY(nbi_alloc(ctx, (size_t)nbi_tensor_count(x), sizeof(float), &c->x));
    NB_TRY(nbi_alloc(ctx, c->batches * c->batch * c->width, sizeof(float), &c->reference));
    for (size_t b = 0; b < c->batches; b++) {
        nbi_view v;
        NB_TRY(forward(ctx, c, b));
        NB_TRY(nbi_tape_value(ctx, c->tape, c->qat->logits, &v));
        nbi_view to = v;
        to.data = c->reference + b * c->batch * c->width;
        nbi_view_contiguous(&to);
        nbi_view_copy(&to, &v);
    }
    NB_TRY(nbi_alloc(ctx, (size_t)c->n + 1, sizeof *c->block, &c->block));
    for (int i = 0; i < c->n; i++) {
        const nbi_tensor *t = g->tensor[c->tensor[i]];
        nbi_hutchinson_block *b = &c->block[i];
        const nbi_site *site = &c->s->net->site[c->site[i]];
        double square = 0;
        b->value = t->data;
        b->count = (size_t)nbi_tensor_count(t);
        for (size_t k = 0; k < b->count; k++)
            square += (double)b->value[k] * (double)b->value[k] / (double)b->count;
        if (site->kind == NBI_SITE_ACTIVATION) square = nbi_hist_mean_square(&site->hist);
        b->size = square > 0 ? sqrt(square) : 1;
    }
    return NB_OK;
}

static nb_status gradient(nb_ctx *ctx, void *user, long probe, const float **out) {
    curving *c = user;
    NB_TRY(forward(ctx, c, (size_t)probe % c->batches));
    NB_TRY(nbi_tape_backward(ctx, c->tape, NULL));
    for (int i = c->from; i < c->end; i++) out[i - c->from] = nbi_tape_gradient(c->tape, i);
    return NB_OK;
}

/* Elements of one image that a site's mean is over; a bias counts at every place of its layer's sums,
 * as its power does (nbi_site_power). */
static double elements_of(const nbi_qnet *net, const nbi_site *site) {
    if (site->kind != NBI_SITE_BIAS) return (double)site->count;
    const nbk_conv *g = &net->layer[site->layer].geometry;
    return (double)site->count * g->out_h * g->out_w;
}

/* Blocks from … end−1, moved together. *whole becomes false where the time ended it. */
static nb_status measure_blocks(nb_ctx *ctx, curving *c, int from, int end, double deadline,
                                bool *whole) {
    nbi_hutchinson spec = {.n = end - from,
                           .block = c->block + from,
                           .gradient = gradient,
                           .user = c,
                           .step = STEP,
                           .least = LEAST,
                           .most = MOST,
                           .tolerance = TOLERANCE,
                           .deadline = deadline,
                           .seed = nb_ctx_seed(ctx)};
    double worst = 0;
    bool good = true;
    long probes;
    c->from = from;
    c->end = end;
    NB_TRY(nbi_hutchinson_run(ctx, &spec, &probes));
    for (int i = from; i < end; i++) {
        const nbi_hutchinson_block *b = &c->block[i];
        good &= b->error <= TOLERANCE * fabs(b->trace);
        if (b->trace != 0) worst = fmax(worst, b->error / fabs(b->trace));
    }
    *whole &= probes >= MOST || (good && probes >= LEAST);
    nb_log(ctx, NB_LOG_INFO, "curvature of %d tensors: %ld probes, standard error up to %.2g %%",
           end - from, probes, 100 * worst);
    return NB_OK;
}

/* Biases by themselves: they are few numbers, which would drown in what all the others move. */
static nb_status measure(nb_ctx *ctx, curving *c, double *mean, bool *whole) {
    nbi_session *s = c->s;
    double now = nb_seconds(ctx), left = INFINITY;
    if (s->o->time_limit > 0) left = TIME_SHARE * fmax(s->started + s->o->time_limit - now, 0);
    NB_TRY(build(ctx, c));
    NB_TRY(prepare(ctx, c));
    *whole = true;
    double first = c->biases < c->n ? now + left / 2 : now + left;
    NB_TRY(measure_blocks(ctx, c, 0, c->biases, first, whole));
    if (c->biases < c->n) NB_TRY(measure_blocks(ctx, c, c->biases, c->n, now + left, whole));
    for (int i = 0; i < c->n; i++) /* of one image's elements, as the loss is a mean over images */
        mean[c->site[i]] += c->block[i].trace / elements_of(s->net, &s->net->site[c->site[i]]);
    return NB_OK;
}

/* What the study keeps: the means, then a byte for every site, 1 where it was measured. A table that
 * covers more sites than are asked for serves, too. */
static nb_status read_kept(nbi_session *s, double *mean, bool *found) {
    size_t n = (size_t)s->net->n_sites, size = 0;
    void *kept = NULL;
    NB_TRY(nbi_study_get(s->ctx, s->study, STUDY_KEY, &kept, &size));
    *found = kept && size == n * (sizeof *mean + 1);
    const uint8_t *measured = *found ? (const uint8_t *)kept + n * sizeof *mean : NULL;
    for (size_t i = 0; *found && i < n; i++) *found = measured[i] || !is_searched(s, (int)i);
    if (*found) memcpy(mean, kept, n * sizeof *mean);
    nbi_free(kept);
    return NB_OK;
}

static nb_status keep(nbi_session *s, const double *mean) {
    size_t n = (size_t)s->net->n_sites, size = n * (sizeof *mean + 1);
    uint8_t *table;
    NB_TRY(nbi_alloc(s->ctx, size + 1, 1, &table));
    memcpy(table, mean, n * sizeof *mean);
    for (size_t i = 0; i < n; i++) table[n * sizeof *mean + i] = is_searched(s, (int)i);
    nb_status st = nbi_study_put(s->ctx, s->study, STUDY_KEY, table, size);
    nbi_free(table);
    return st;
}

/* A table that the time limit cut short serves this session and is not kept. */
static nb_status measure_all(nb_ctx *ctx, curving *c, double *mean) {
    nbi_session *s = c->s;
    bool whole = false;
    nb_status st = measure(ctx, c, mean, &whole);
    if (st == NB_OK && whole && s->study) st = keep(s, mean);
    return st == NB_OK || st == NB_ECANCELLED ? st : nb_fail_prefix(ctx, st, "hawq");
}

nb_status nbi_curvature(nb_ctx *ctx, void *session, double *mean) {
    nbi_session *s = session;
    curving c = {.s = s};
    const size_t n = (size_t)s->net->n_sites;
    double *own = NULL;
    bool found = false;
    nb_status st = NB_OK;
    if (!s->curvature) {
        NB_TRY(nbi_alloc(ctx, n + 1, sizeof *own, &own));
        if (s->study) st = read_kept(s, own, &found);
        if (st == NB_OK && !found) st = measure_all(ctx, &c, own);
        if (st == NB_OK) s->curvature = own;
        else nbi_free(own);
    }
    if (st == NB_OK) memcpy(mean, s->curvature, n * sizeof *mean);
    nbi_tape_free(c.tape);
    nbi_qat_free(c.qat);
    nbi_free(c.tensor);
    nbi_free(c.site);
    nbi_free(c.block);
    nbi_free(c.x);
    nbi_free(c.reference);
    return st;
}
