/* The graph: vertices of nbi_qat_new replaced; here those of schemes and widths. */
#include "quant/relax.h"

#include "quant/fit.h"
#include "ops/op.h"
#include "quant/relax_parts.h"
#include "quant/trained.h"
#include "schemes/schemes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTHS 8

static const nbi_relax_way *const ways[NBI_RELAX_KINDS] = {
    [NBI_RELAX_SCHEMES] = &nbi_relax_schemes,
    [NBI_RELAX_WIDTHS] = &nbi_relax_widths,
    [NBI_RELAX_FRACTIONS] = &nbi_relax_fractions,
    [NBI_RELAX_RANGES] = &nbi_relax_ranges,
};

const nbi_scheme *nbi_relax_scheme(nbi_choice choice) {
    size_t n;
    const nbi_scheme *const *table = nbi_schemes(&n);
    return (size_t)(choice >> 8) < n ? table[choice >> 8] : NULL;
}

static int bits_of(nbi_choice choice) {
    return choice & 255;
}

/* ---- nodes --------------------------------------------------------------------------------- */

nb_status nbi_relax_node(nbi_relax_grower *b, const char *domain, const char *type, int n_in,
                         const int *in, int *out, nbi_node **node) {
    char name[256];
    snprintf(name, sizeof name, "%s/%s", b->site->name, type);
    NB_TRY(nbi_graph_add_tensor(b->ctx, b->q->graph, NULL, NB_DTYPE_NONE, -1, NULL, out));
    return nbi_graph_add_node(b->ctx, b->q->graph, name, domain, type, n_in, in, 1, out, node);
}

nb_status nbi_relax_finish(nbi_relax_grower *b, nbi_node *node) {
    NB_TRY(nbi_node_prepare(b->ctx, b->q->graph, node));
    NB_TRY(nbi_node_infer(b->ctx, b->q->graph, node));
    if (node->op && nbi_shape_known(b->q->graph->tensor[node->out[0]])) return NB_OK;
    return nb_fail(b->ctx, NB_EUNSUPPORTED, "tensor '%s': its quantizer cannot be trained",
                   b->site->name);
}

nb_status nbi_relax_constant(nbi_relax_grower *b, const char *what, nb_dtype dtype, int rank,
                             const int64_t *dim, int *out) {
    char name[256];
    snprintf(name, sizeof name, "%s/%s", b->site->name, what);
    return nbi_graph_add_const(b->ctx, b->q->graph, name, dtype, rank, dim, out);
}

static float *values(const nbi_relax_grower *b, int tensor) {
    return b->q->graph->tensor[tensor]->data;
}

static void trains(nbi_relax_grower *b, int tensor) {
    b->q->decays[b->q->n_train] = false;
    b->q->train[b->q->n_train++] = tensor;
}

bool nbi_relax_is_weight(const nbi_relax_grower *b) {
    return b->site->kind == NBI_SITE_WEIGHT;
}

/* A scheme without an unsigned form uses its signed one (so does SchemeMix by itself). */
static nb_status roles(nbi_relax_grower *b, nbi_node *node, bool has_unsigned) {
    nbi_graph *g = b->q->graph;
    NB_TRY(nbi_node_set_text(b->ctx, g, node, "role",
                             nbi_relax_is_weight(b) ? "weights" : "activations"));
    NB_TRY(nbi_node_set_int(b->ctx, g, node, "unsigned", b->v->is_unsigned && has_unsigned));
    return nbi_node_set_int(b->ctx, g, node, "axis", b->v->axis);
}

/* ---- schemes ------------------------------------------------------------------------------- */

static nb_status logits(nbi_relax_grower *b, const nbi_relax_site *s, int *out) {
    int *shared = &b->r->shared[nbi_relax_is_weight(b) ? 0 : 1];
    int64_t n = s->n;
    if (b->r->spec.model_wise && *shared >= 0) {
        if (b->q->graph->tensor[*shared]->dim[0] != n)
            return nb_fail(b->ctx, NB_EINVAL,
                           "tensor '%s' has %lld candidates, others %lld: one choice for all needs "
                           "equal ones",
                           b->site->name, (long long)n,
                           (long long)b->q->graph->tensor[*shared]->dim[0]);
        *out = *shared;
        return NB_OK;
    }
    NB_TRY(nbi_relax_constant(b, "scheme", NB_DTYPE_F32, 1, &n, out));
    *shared = *out;
    return NB_OK;
}

/* p = softmax((θ + g)/τ). */
static nb_status probabilities(nbi_relax_grower *b, const nbi_relax_site *s) {
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    nbi_node *node;
    int in[2];
    if (b->r->tau < 0) {
        NB_TRY(nbi_graph_add_const(b->ctx, b->q->graph, "temperature", NB_DTYPE_F32, 0, NULL,
                                   &b->r->tau));
        *values(b, b->r->tau) = 1;
    }
    NB_TRY(logits(b, s, &in[0]));
    in[1] = b->r->tau;
    NB_TRY(nbi_relax_node(b, "org.nibble", "GumbelSoftmax", 2, in, &mine->share, &node));
    mine->learned = in[0];
    return nbi_relax_finish(b, node);
}

nb_status nbi_relax_mixture(nbi_relax_grower *b, const nbi_relax_site *s, int *out) {
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    char text[512] = "";
    size_t at = 0;
    nbi_node *node;
    if (mine->learned < 0) NB_TRY(probabilities(b, s));
    for (int i = 0; i < s->n; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s:%d", i ? " " : "",
                               nbi_relax_scheme(s->candidate[i])->name, bits_of(s->candidate[i]));
    int in[2] = {b->v->x, mine->share};
    NB_TRY(nbi_relax_node(b, "org.nibble", "SchemeMix", 2, in, out, &node));
    NB_TRY(nbi_node_set_text(b->ctx, b->q->graph, node, "candidates", text));
    NB_TRY(roles(b, node, true));
    return nbi_relax_finish(b, node);
}

/* ---- widths -------------------------------------------------------------------------------- */

/* Steps of a layer's weights at one width: [groups]. */
nb_status nbi_relax_weight_steps(nbi_relax_grower *b, int bits, int64_t groups, float *out) {
    const nbi_layer *l = &b->r->net->layer[b->site->layer];
    int8_t *levels = NULL;
    float *scale = NULL;
    double ignored;
    nb_status st;
    NB_TRY(nbi_alloc(b->ctx, l->n_weights, 1, &levels));
    NB_TRYG(nbi_alloc(b->ctx, (size_t)l->geometry.out_c, sizeof *scale, &scale));
    NB_TRYG(nbi_fit_weights(b->ctx, l, bits, groups > 1, levels, scale, &ignored));
    for (int64_t c = 0; c < groups; c++) out[c] = scale[c] * (float)nbk_level_step(bits);
done:
    nbi_free(levels);
    nbi_free(scale);
    return st;
}

/* A row of learned steps for every width, of which each quantizer takes one. */
static nb_status steps_by_width(nbi_relax_grower *b, int n, int *out) {
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    int64_t groups = 1;
    nbi_node *node;
    int in[2];
    if (b->v->axis >= 0) groups = b->q->graph->tensor[b->v->x]->dim[b->v->axis];
    NB_TRY(nbi_relax_constant(b, "steps", NB_DTYPE_F32, 3, (int64_t[]){WIDTHS, groups, 1}, &in[0]));
    for (int w = 1; w <= WIDTHS; w++) {
        float *row = values(b, in[0]) + (w - 1) * groups;
        if (nbi_relax_is_weight(b))
            NB_TRY(nbi_relax_weight_steps(b, w, groups, row));
        else
            *row = (float)b->site->fit[w].scale;
    }
    trains(b, in[0]);
    mine->steps = in[0];
    for (int i = 0; i < n; i++) {
        NB_TRY(nbi_relax_constant(b, "row", NB_DTYPE_S64, 0, NULL, &in[1]));
        mine->row[i] = in[1];
        nbi_relax_set_row(b->r, b->v->site, i, bits_of(b->r->spec.start[b->v->site]));
        NB_TRY(nbi_relax_node(b, "", "Gather", 2, in, &out[i], &node));
        NB_TRY(nbi_node_set_int(b->ctx, b->q->graph, node, "axis", 0));
        NB_TRY(nbi_relax_finish(b, node));
    }
    return NB_OK;
}

nb_status nbi_relax_params(nbi_relax_grower *b, const nbi_scheme *scheme, int n, int *out) {
    bool weights = nbi_relax_is_weight(b);
    nbi_scheme_use use = {.bits = nbi_scheme_max_bits(scheme, weights),
                          .weights = weights,
                          .is_unsigned =
                              b->v->is_unsigned && (scheme->flags & NBI_SCHEME_UNSIGNED)};
    int64_t groups = 1;
    if (scheme == nbi_scheme_find("lsq")) return steps_by_width(b, n, out);
    if (!(scheme->flags & NBI_SCHEME_REFIT) || (scheme->flags & NBI_SCHEME_LEARNED))
        return nb_fail(b->ctx, NB_EUNSUPPORTED,
                       "tensor '%s': the width of scheme '%s' cannot be learned", b->site->name,
                       scheme->name);
    if (b->v->axis >= 0) groups = b->q->graph->tensor[b->v->x]->dim[b->v->axis];
    NB_TRY(nbi_relax_constant(b, "params", NB_DTYPE_F32, 2,
                              (int64_t[]){groups, scheme->n_params(&use)}, &out[0]));
    for (int i = 1; i < n; i++) out[i] = out[0];
    return NB_OK;
}

nb_status nbi_relax_quantizer(nbi_relax_grower *b, const nbi_scheme *scheme, int params, int width,
                              int *out) {
    nbi_node *node;
    int in[3] = {b->v->x, params, width};
    NB_TRY(nbi_relax_node(b, "org.nibble", "FakeQuant", 3, in, out, &node));
    NB_TRY(nbi_node_set_text(b->ctx, b->q->graph, node, "scheme", scheme->name));
    NB_TRY(nbi_node_set_int(b->ctx, b->q->graph, node, "training", 1));
    NB_TRY(roles(b, node, scheme->flags & NBI_SCHEME_UNSIGNED));
    return nbi_relax_finish(b, node);
}

nb_status nbi_relax_rounded(nbi_relax_grower *b, const nbi_relax_site *s, int *out) {
    const nbi_scheme *scheme = nbi_relax_scheme(s->candidate[0]);
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    if (scheme == nbi_scheme_find("uniform")) scheme = nbi_scheme_find("lsq");
    if (mine->learned < 0) {
        NB_TRY(nbi_relax_params(b, scheme, 1, mine->params));
        NB_TRY(nbi_relax_constant(b, "width", NB_DTYPE_F32, 1, (int64_t[]){1}, &mine->learned));
        *values(b, mine->learned) = (float)bits_of(b->r->spec.start[b->v->site]);
    }
    return nbi_relax_quantizer(b, scheme, mine->params[0], mine->learned, out);
}

/* ---- all ----------------------------------------------------------------------------------- */

static nb_status vertex(nb_ctx *ctx, void *user, nbi_qat *qat, const nbi_qat_vertex *v, int *out) {
    nbi_relax *r = user;
    const nbi_relax_site *s = &r->spec.site[v->site];
    nbi_relax_vertex *mine = &r->vertex[v->site];
    nbi_relax_grower b = {.ctx = ctx, .r = r, .q = qat, .v = v, .site = &r->net->site[v->site]};
    if (s->n == 0) return NB_OK;
    r->graph = qat->graph;
    for (int i = 0; i < s->n; i++)
        if (!nbi_relax_scheme(s->candidate[i]))
            return nb_fail(ctx, NB_EINVAL, "tensor '%s': candidate %d is no scheme", b.site->name,
                           i);
    mine->weights = nbi_relax_is_weight(&b);
    mine->is_unsigned = v->is_unsigned;
    return r->way->vertex(&b, s, out);
}

/* θ and widths behind everything else that is trained. */
static void add_learned(nbi_relax *r) {
    nbi_qat *q = r->qat;
    for (int s = 0; s < r->net->n_sites; s++) {
        bool twice = r->vertex[s].learned < 0;
        for (int i = q->n_train - r->n_learned; !twice && i < q->n_train; i++)
            twice = q->train[i] == r->vertex[s].learned;
        if (twice) continue;
        q->decays[q->n_train] = false;
        q->train[q->n_train++] = r->vertex[s].learned;
        r->n_learned++;
    }
}

static nb_status copy_spec(nb_ctx *ctx, nbi_relax *r, const nbi_relax_spec *spec) {
    size_t n = (size_t)r->net->n_sites;
    nbi_relax_site *site = nbi_arena_alloc(&r->arena, n + 1, sizeof *site);
    nbi_choice *start = nbi_arena_alloc(&r->arena, n + 1, sizeof *start);
    r->built = nbi_arena_alloc(&r->arena, n + 1, sizeof *r->built);
    r->vertex = nbi_arena_alloc(&r->arena, n + 1, sizeof *r->vertex);
    r->gradient = nbi_arena_alloc(&r->arena, 2 * n + 2, sizeof *r->gradient);
    r->pressure = nbi_arena_alloc(&r->arena, n + 1, sizeof *r->pressure);
    if (!site || !start || !r->built || !r->vertex || !r->gradient || !r->pressure)
        return nb_fail_memory(ctx, n * sizeof *site);
    r->spec = *spec;
    memcpy(site, spec->site, n * sizeof *site);
    memcpy(start, spec->start, n * sizeof *start);
    for (size_t s = 0; s < n; s++)
        r->built[s] = site[s].n ? (nbi_choice)bits_of(start[s]) : start[s];
    r->spec.site = site;
    r->spec.start = start;
    for (size_t s = 0; s < n; s++)
        r->vertex[s] = (nbi_relax_vertex){.learned = -1, .steps = -1, .share = -1,
                                          .row = {-1, -1}, .params = {-1, -1},
                                          .count = (double)r->net->site[s].count,
                                          .weights = r->net->site[s].kind == NBI_SITE_WEIGHT};
    r->tau = r->shared[0] = r->shared[1] = -1;
    return NB_OK;
}

nb_status nbi_relax_new(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net, int edge,
                        const nbi_qat_options *options, const nbi_relax_spec *spec,
                        nbi_relax **out) {
    nbi_relax *r = NULL;
    nbi_qat_options o = *options;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *r, &r));
    r->net = net;
    r->way = ways[spec->kind];
    NB_TRYG(copy_spec(ctx, r, spec));
    o.vertex = vertex;
    o.vertex_user = r;
    NB_TRYG(nbi_qat_new(ctx, source, net, r->built, edge, &o, &r->qat));
    add_learned(r);
    if (r->n_learned == 0) {
        st = nb_fail(ctx, NB_EINVAL, "there is nothing to choose: every tensor has one candidate");
        goto done;
    }
    *out = r;
    return NB_OK;
done:
    nbi_relax_free(r);
    return st;
}

void nbi_relax_free(nbi_relax *r) {
    if (!r) return;
    nbi_qat_free(r->qat);
    nbi_free(r->param);
    nbi_arena_free(&r->arena);
    nbi_free(r);
}

nbi_qat *nbi_relax_qat(nbi_relax *r) {
    return r->qat;
}

void nbi_relax_trained(const nbi_relax *r, float *out) {
    const nbi_qnet *net = r->net;
    nbi_trained_take(r->qat, out);
    for (int s = 0; s < net->n_sites; s++) {
        if (r->vertex[s].steps < 0) continue;
        const nbi_tensor *t = r->graph->tensor[r->vertex[s].steps];
        const float *from = t->data;
        size_t groups = (size_t)t->dim[1];
        int layer = net->site[s].layer;
        bool weights = net->site[s].kind == NBI_SITE_WEIGHT;
        size_t row = weights ? (size_t)net->layer[layer].geometry.out_c : 1;
        float *to = weights ? nbi_trained_weight_steps(net, layer, out)
                            : nbi_trained_site_steps(net, s, out);
        for (int w = 0; w < WIDTHS; w++) memcpy(to + (size_t)w * row, from + (size_t)w * groups,
                                                groups * sizeof *to);
    }
}
