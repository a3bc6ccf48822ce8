/* Float statistics. Values are read from a plan that keeps every tensor; one batch is in memory at a
 * time. Means and squares are summed in double, in a fixed order. */
#include "quant/calibrate.h"

#include "exec/exec.h"

#include <math.h>
#include <string.h>

#define BATCH 32

typedef struct layer_sums {
    double *sum, *square; /* [out_c], of value − first image's mean is not needed: doubles suffice */
} layer_sums;

typedef struct calibrator {
    nb_ctx *ctx;
    nbi_qnet *net;
    const nbi_calibration *options;
    nbi_graph *graph; /* specialized to the batch */
    nbi_exec *exec;
    size_t batch;
    int *tensor_of_edge; /* in `graph`; −1 */
    int *sum_tensor;     /* by layer */
    layer_sums *sums;    /* by layer */
    nbi_arena arena;
    size_t n;            /* images of this batch */
    float **scratch;     /* by worker: contiguous copies */
    size_t scratch_count;
} calibrator;

int nbi_score_edge(const nbi_qnet *net) {
    int e = net->output[0], p = net->edge[e].producer;
    if (p < 0 || net->layer[p].type != NBI_LAYER_FLOAT) return e;
    const nbi_node *node = net->graph->node[net->layer[p].node[0]];
    return strcmp(node->op_type, "Softmax") == 0 ? net->layer[p].in[0] : e;
}

static void free_plan(calibrator *c) {
    nbi_exec_free(c->exec);
    nbi_graph_free(c->graph);
    c->exec = NULL;
    c->graph = NULL;
}

/* Ends the graph where the net ends: what lies behind an unknown operator cannot be computed. */
static nb_status cut_untouched(calibrator *c) {
    const nbi_qnet *net = c->net;
    int list[NBI_COUNT(net->output)];
    if (net->n_untouched == 0) return NB_OK;
    for (int i = 0; i < net->n_outputs; i++) {
        const char *name = net->edge[net->output[i]].name;
        list[i] = nbi_graph_find(c->graph, name);
        if (list[i] < 0)
            return nb_fail(c->ctx, NB_EFORMAT, "tensor '%s' is not in the float graph", name);
    }
    NB_TRY(nbi_graph_set_outputs(c->ctx, c->graph, net->n_outputs, list));
    nbi_graph_prune(c->graph);
    return NB_OK;
}

static nb_status make_plan(calibrator *c, const nbi_graph *source, size_t batch) {
    nb_ctx *ctx = c->ctx;
    free_plan(c);
    NB_TRY(nbi_rebatch(ctx, source, (int64_t)batch, &c->graph));
    NB_TRY(cut_untouched(c));
    /* the values that statistics need may be inside what the fast path would fuse */
    NB_TRY(nbi_exec_new(ctx, c->graph, NBI_EXEC_KEEP_ALL, &c->exec));
    c->batch = batch;
    for (int e = 0; e < c->net->n_edges; e++)
        c->tensor_of_edge[e] =
            c->net->edge[e].tensor < 0 ? -1 : nbi_graph_find(c->graph, c->net->edge[e].name);
    for (int l = 0; l < c->net->n_layers; l++) {
        const nbi_layer *layer = &c->net->layer[l];
        if (layer->type != NBI_LAYER_CONV) continue;
        const char *name = c->net->graph->tensor[layer->sum_tensor]->name;
        c->sum_tensor[l] = nbi_graph_find(c->graph, name);
        if (c->sum_tensor[l] < 0)
            return nb_fail(ctx, NB_EFORMAT, "tensor '%s' vanished at batch %zu", name, batch);
    }
    return NB_OK;
}

/* The first c->n images of a tensor, as one dense run where it is one, else copied to scratch in
 * channels-last order. Elements per image in *count. */
static nb_status values_of(calibrator *c, int tensor, int worker, const float **out,
                           size_t *count) {
    nbi_view v;
    NB_TRY(nbi_exec_value(c->ctx, c->exec, tensor, &v));
    if (v.dtype != NB_DTYPE_F32)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "tensor '%s' is not float32",
                       c->graph->tensor[tensor]->name);
    if (v.rank < 1 || v.dim[0] != (int64_t)c->batch)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "tensor '%s' has %lld rows for %zu images",
                       c->graph->tensor[tensor]->name, v.rank < 1 ? 1LL : (long long)v.dim[0], c->batch);
    v.dim[0] = (int64_t)c->n;
    *count = (size_t)nbi_view_count(&v) / c->n;
    bool last = v.rank == 3 || v.rank == 4;
    if (last ? nbi_view_is_channels_last(&v) : nbi_view_is_contiguous(&v)) {
        *out = v.data;
        return NB_OK;
    }
    nbi_view to = v;
    to.data = c->scratch[worker];
    if (last) nbi_view_channels_last(&to);
    else nbi_view_contiguous(&to);
    nbi_view_copy(&to, &v);
    *out = to.data;
    return NB_OK;
}

/* Sites are independent: each worker takes some. Only edges that compute something feed a
 * histogram; moves repeat their values. */
static nb_status add_sites(void *user, size_t begin, size_t end, int worker) {
    calibrator *c = user;
    nbi_qnet *net = c->net;
    for (size_t s = begin; s < end; s++) {
        nbi_site *site = &net->site[s];
        if (!site->hist.positive) continue;
        for (int e = 0; e < net->n_edges; e++) {
            const nbi_edge *edge = &net->edge[e];
            if (edge->site != (int)s || edge->tensor < 0) continue;
            int p = edge->producer;
            if (p >= 0 && (net->layer[p].type == NBI_LAYER_COPY ||
                           net->layer[p].type == NBI_LAYER_MAXPOOL))
                continue;
            const float *x;
            size_t count;
            NB_TRY(values_of(c, c->tensor_of_edge[e], worker, &x, &count));
            NB_TRY(nbi_hist_add(c->ctx, &site->hist, edge->name, x, count * c->n));
        }
    }
    return NB_OK;
}

static nb_status add_sums(void *user, size_t begin, size_t end, int worker) {
    calibrator *c = user;
    for (size_t l = begin; l < end; l++) {
        if (!c->sums[l].sum) continue;
        size_t channels = (size_t)c->net->layer[l].geometry.out_c, count;
        const float *x;
        NB_TRY(values_of(c, c->sum_tensor[l], worker, &x, &count));
        double *sum = c->sums[l].sum, *square = c->sums[l].square;
        for (size_t i = 0; i < count * c->n; i += channels)
            for (size_t k = 0; k < channels; k++) {
                double v = x[i + k];
                sum[k] += v;
                square[k] += v * v;
            }
    }
    return NB_OK;
}

static nb_status allocate(calibrator *c) {
    nb_ctx *ctx = c->ctx;
    nbi_qnet *net = c->net;
    size_t most = 1;
    NB_TRY(nbi_alloc(ctx, (size_t)net->n_edges, sizeof(int), &c->tensor_of_edge));
    NB_TRY(nbi_alloc(ctx, (size_t)net->n_layers, sizeof(int), &c->sum_tensor));
    NB_TRY(nbi_alloc(ctx, (size_t)net->n_layers, sizeof *c->sums, &c->sums));
    NB_TRY(nbi_alloc(ctx, (size_t)nb_ctx_threads(ctx), sizeof *c->scratch, &c->scratch));
    for (int t = 0; t < net->graph->n_tensors; t++) {
        int64_t n = nbi_tensor_count(net->graph->tensor[t]);
        if (n > 0 && (size_t)n > most && !net->graph->tensor[t]->data) most = (size_t)n;
    }
    for (int i = 0; i < nb_ctx_threads(ctx); i++)
        NB_TRY(nbi_alloc(ctx, most * BATCH, sizeof(float), &c->scratch[i]));
    return NB_OK;
}

static nb_status start_statistics(calibrator *c) {
    nbi_qnet *net = c->net;
    for (int s = 0; s < net->n_sites; s++)
        if (net->site[s].kind != NBI_SITE_WEIGHT && net->site[s].kind != NBI_SITE_BIAS)
            NB_TRY(nbi_hist_init(c->ctx, &net->arena, &net->site[s].hist));
    for (int l = 0; l < net->n_layers; l++) {
        if (net->layer[l].type != NBI_LAYER_CONV) continue;
        size_t n = (size_t)net->layer[l].geometry.out_c;
        c->sums[l].sum = nbi_arena_alloc(&c->arena, n, sizeof(double));
        c->sums[l].square = nbi_arena_alloc(&c->arena, n, sizeof(double));
        if (!c->sums[l].sum || !c->sums[l].square) return nb_fail_memory(c->ctx, n * 16);
    }
    return NB_OK;
}

static nb_status store_scores(calibrator *c, size_t first) {
    if (!c->options->scores) return NB_OK;
    const float *x;
    size_t count;
    NB_TRY(values_of(c, c->tensor_of_edge[c->options->score_edge], 0, &x, &count));
    memcpy(c->options->scores + first * count, x, c->n * count * sizeof *x);
    return NB_OK;
}

/* Images at a time: a model whose file fixes fewer takes no more. */
static size_t most_images(const nbi_graph *source) {
    const nbi_tensor *x = source->tensor[source->input[0]];
    bool fixed = x->rank > 0 && x->dim[0] > 0 && x->dim[0] < BATCH;
    return fixed ? (size_t)x->dim[0] : BATCH;
}

static nb_status run_images(calibrator *c, const nbi_graph *source, bool statistics) {
    nb_ctx *ctx = c->ctx;
    const nbi_calibration *o = c->options;
    float *input = NULL;
    nb_status st = NB_OK;
    const nbi_tensor *x = c->net->graph->tensor[c->net->graph->input[0]];
    size_t most = most_images(source);
    NB_TRY(nbi_alloc(ctx, (size_t)nbi_tensor_count(x) * BATCH, sizeof *input, &input));
    for (size_t first = 0; first < o->images; first += c->n) {
        c->n = o->images - first < most ? o->images - first : most;
        if (c->n != c->batch) NB_TRYG(make_plan(c, source, c->n));
        NB_TRYG(o->fill(ctx, o->user, first, c->n, input));
        const void *inputs[1] = {input};
        NB_TRYG(nbi_exec_run(ctx, c->exec, inputs));
        NB_TRYG(store_scores(c, first));
        if (statistics) {
            NB_TRYG(nbi_parallel(ctx, (size_t)c->net->n_sites, 1, add_sites, c));
            NB_TRYG(nbi_parallel(ctx, (size_t)c->net->n_layers, 1, add_sums, c));
        }
        NB_TRYG(nb_progress(ctx, statistics ? "calibrating" : "float network",
                            (double)(first + c->n), (double)o->images));
    }
done:
    nbi_free(input);
    return st;
}

/* Σ → mean and deviation of Σ w·x (without the layer's own bias, in units of the layer's weights). */
static nb_status finish_sums(calibrator *c) {
    for (int i = 0; i < c->net->n_layers; i++) {
        nbi_layer *l = &c->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        size_t channels = (size_t)l->geometry.out_c;
        double n = (double)c->options->images * l->geometry.out_h * l->geometry.out_w;
        l->mean = nbi_arena_alloc(&c->net->arena, channels, sizeof *l->mean);
        l->deviation = nbi_arena_alloc(&c->net->arena, channels, sizeof *l->deviation);
        if (!l->mean || !l->deviation) return nb_fail_memory(c->ctx, channels * 16);
        for (size_t k = 0; k < channels; k++) {
            double mean = c->sums[i].sum[k] / n;
            double variance = c->sums[i].square[k] / n - mean * mean;
            l->mean[k] = (mean - (double)l->sum_offset[k]) * (double)l->sum_scale[k];
            l->deviation[k] = variance > 0 ? sqrt(variance) * fabs((double)l->sum_scale[k]) : 0;
        }
    }
    return NB_OK;
}

static void fit_logits(nbi_site *site) {
    double top = fmax(site->hist.max, -site->hist.min);
    /* 2^20 steps up to the largest value seen: at least 16 bits of every logit that matters */
    nbi_qparam q = {.dtype = NB_DTYPE_S32, .bits = 8, .lo = INT32_MIN, .hi = INT32_MAX};
    q.scale = (double)(float)(top > 0 ? top / (1 << 20) : 1.0);
    for (int b = 0; b <= NBI_MAX_BITS; b++) site->fit[b] = q;
}

/* The input's table says exactly which values there are. */
static void fit_input(nbi_qnet *net, nbi_site *site) {
    nbi_qparam q;
    if (net->input_is_image) {
        nbi_hist *h = &site->hist;
        for (int c = 0; c < net->edge[net->input].c; c++)
            for (int b = 0; b < 256; b++) {
                h->min = fmin(h->min, (double)net->input_table[c][b]);
                h->max = fmax(h->max, (double)net->input_table[c][b]);
            }
    }
    nbi_fit_affine(&site->hist, 8, NBI_RANGE_MINMAX, &q, &site->sqnr[8]);
    for (int b = 0; b <= NBI_MAX_BITS; b++) site->fit[b] = q;
}

static nb_status fit_sites(void *user, size_t begin, size_t end, int worker) {
    calibrator *c = user;
    (void)worker;
    for (size_t s = begin; s < end; s++) {
        nbi_site *site = &c->net->site[s];
        if (site->kind == NBI_SITE_WEIGHT || site->kind == NBI_SITE_BIAS) continue;
        if (site->kind == NBI_SITE_OUTPUT) {
            fit_logits(site);
        } else if (site->kind == NBI_SITE_INPUT) {
            fit_input(c->net, site);
        } else {
            for (int b = 1; b <= NBI_MAX_BITS; b++)
                nbi_fit_activation(&site->hist, site->is_unsigned, b, c->options->range,
                                   &site->fit[b], &site->sqnr[b]);
        }
    }
    return NB_OK;
}

/* A requantized copy sees its stream's values. */
static void share_histograms(nbi_qnet *net) {
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type == NBI_LAYER_REQUANT)
            net->site[net->edge[l->out].site].hist = net->site[net->edge[l->in[0]].site].hist;
    }
}

static nb_status run(nb_ctx *ctx, const nbi_graph *source, nbi_qnet *net,
                     const nbi_calibration *options, bool statistics) {
    calibrator c = {.ctx = ctx, .net = net, .options = options};
    nb_status st;
    if (options->images == 0) return nb_fail(ctx, NB_EINVAL, "calibration needs at least one image");
    NB_TRYG(allocate(&c));
    if (statistics) NB_TRYG(start_statistics(&c));
    NB_TRYG(run_images(&c, source, statistics));
    if (statistics) {
        NB_TRYG(finish_sums(&c));
        share_histograms(net);
        NB_TRYG(nbi_parallel(ctx, (size_t)net->n_sites, 1, fit_sites, &c));
    }
done:
    free_plan(&c);
    for (int i = 0; c.scratch && i < nb_ctx_threads(ctx); i++) nbi_free(c.scratch[i]);
    nbi_free(c.scratch);
    nbi_free(c.tensor_of_edge);
    nbi_free(c.sum_tensor);
    nbi_free(c.sums);
    nbi_arena_free(&c.arena);
    return st;
}

nb_status nbi_calibrate(nb_ctx *ctx, const nbi_graph *source, nbi_qnet *net,
                        const nbi_calibration *options) {
    return run(ctx, source, net, options, true);
}

nb_status nbi_float_scores(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net,
                           const nbi_calibration *options) {
    return run(ctx, source, (nbi_qnet *)net, options, false);
}
