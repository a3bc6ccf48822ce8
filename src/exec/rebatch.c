/* A graph without the batch that its file fixes. What fixes a batch, beside the inputs, are the
 * lists of dimensions that exporters write down (the shape of a Reshape); in those that begin with
 * the batch it becomes "as the input has it". Whether that was all is then seen, not assumed: at
 * another batch every tensor must have the shape it has at the old one but for the first dimension.
 */
#include "exec/exec.h"
#include "ops/params.h"

#include <string.h>

typedef struct rebatch {
    nb_ctx *ctx;
    nbi_graph *fixed; /* as the file has it, shapes known, constants folded */
    nbi_graph *g;     /* to be changed; the same tensor indices */
    int64_t from;
} rebatch;

static bool follows(const nbi_graph *g, int t, int64_t batch) {
    const nbi_tensor *x = t < 0 ? NULL : g->tensor[t];
    return x && !x->data && x->rank > 0 && x->dim[0] == batch;
}

static bool lists_dimensions(const nbi_node *node) {
    return !*node->domain &&
           (!strcmp(node->op_type, "Reshape") || !strcmp(node->op_type, "Expand"));
}

/* 0 means the input's dimension to a Reshape, 1 any to an Expand. */
static int64_t free_value(const nbi_node *node) {
    return strcmp(node->op_type, "Reshape") ? 1 : 0;
}

/* A constant of the graph may have other readers: the list gets a copy. */
static nb_status rewrite(rebatch *r, nbi_node *node) {
    const nbi_tensor *list = r->fixed->tensor[node->in[1]];
    const int64_t *dim = list->data;
    int copy;
    if (!dim || list->dtype != NB_DTYPE_S64 || list->rank != 1 || list->dim[0] < 1 ||
        dim[0] != r->from)
        return NB_OK;
    for (int64_t i = 1; i < list->dim[0]; i++)
        if (dim[i] == 0) return NB_OK; /* of no elements under allowzero */
    NB_TRY(nbi_graph_add_const(r->ctx, r->g, list->name, NB_DTYPE_S64, 1, list->dim, &copy));
    int64_t *to = r->g->tensor[copy]->data;
    memcpy(to, dim, (size_t)list->dim[0] * sizeof *to);
    to[0] = free_value(node);
    node->in[1] = copy;
    if (!nbi_node_attr(node, "allowzero")) return NB_OK;
    return nbi_node_set_int(r->ctx, r->g, node, "allowzero", 0);
}

/* Before opset 5 the list is an attribute. */
static nb_status rewrite_attribute(rebatch *r, nbi_node *node) {
    const int64_t *dim;
    int64_t to[NBI_MAX_RANK];
    size_t n = nbi_attr_ints(node, "shape", &dim);
    if (n < 1 || n > NBI_MAX_RANK || dim[0] != r->from) return NB_OK;
    memcpy(to, dim, n * sizeof *to);
    to[0] = free_value(node);
    return nbi_node_set_ints(r->ctx, r->g, node, "shape", n, to);
}

static nb_status rewrite_all(rebatch *r) {
    for (int n = 0; n < r->g->n_nodes; n++) {
        nbi_node *node = r->g->node[n];
        if (!lists_dimensions(node) || !follows(r->fixed, node->in[0], r->from) ||
            !follows(r->fixed, node->out[0], r->from))
            continue;
        if (node->n_in > 1 && node->in[1] >= 0)
            NB_TRY(rewrite(r, node));
        else
            NB_TRY(rewrite_attribute(r, node));
    }
    return NB_OK;
}

static bool same_but_batch(const rebatch *r, const nbi_tensor *a, const nbi_tensor *b) {
    if (a->rank != b->rank || a->rank < 1 || a->dim[0] != r->from || b->dim[0] != r->from + 1)
        return false;
    return !memcmp(a->dim + 1, b->dim + 1, (size_t)(a->rank - 1) * sizeof *a->dim);
}

bool nbi_mixes_images(const nbi_node *node) {
    const nbi_softmax_params *p = node->params;
    return node->op && !*node->domain && !strcmp(node->op_type, "Softmax") && p && p->first == 0;
}

static nb_status check(const rebatch *r, const nbi_graph *made) {
    for (int n = 0; n < r->fixed->n_nodes; n++) {
        const nbi_node *node = r->fixed->node[n];
        for (int i = 0; i < node->n_out; i++) {
            int t = node->out[i];
            if (t < 0 || !nbi_shape_known(r->fixed->tensor[t])) continue;
            if (same_but_batch(r, r->fixed->tensor[t], made->tensor[t]) && !nbi_mixes_images(node))
                continue;
            return nb_fail(
                r->ctx, NB_EUNSUPPORTED,
                "the file fixes a batch of %lld, and node '%s' (%s) computes '%s' for no "
                "other: export the model with a free batch",
                (long long)r->from, node->name, node->op_type, r->fixed->tensor[t]->name);
        }
    }
    return NB_OK;
}

static nb_status run(rebatch *r, const nbi_graph *graph) {
    nbi_graph *made = NULL;
    NB_TRY(nbi_specialize_batch(r->ctx, graph, r->from, &r->fixed));
    NB_TRY(nbi_graph_copy(r->ctx, graph, &r->g));
    for (int i = 0; i < r->g->n_inputs; i++) {
        nbi_tensor *x = r->g->tensor[r->g->input[i]];
        if (x->rank > 0 && x->dim[0] == r->from) x->dim[0] = -1;
    }
    NB_TRY(rewrite_all(r));
    nb_status st = nbi_specialize_batch(r->ctx, r->g, r->from + 1, &made);
    if (st != NB_OK && st != NB_ENOMEM)
        st = nb_fail_prefix(r->ctx, NB_EUNSUPPORTED, "the file fixes a batch of %lld; at %lld",
                            (long long)r->from, (long long)r->from + 1);
    if (st == NB_OK) st = check(r, made);
    nbi_graph_free(made);
    return st;
}

/* At another number than `batch`. */
static bool is_fixed(const nbi_graph *graph, int64_t batch) {
    const nbi_tensor *x = graph->n_inputs ? graph->tensor[graph->input[0]] : NULL;
    return x && x->rank > 0 && x->dim[0] > 0 && x->dim[0] != batch;
}

nb_status nbi_free_batch(nb_ctx *ctx, const nbi_graph *graph, int64_t batch, nbi_graph **out) {
    if (!is_fixed(graph, batch)) return nbi_graph_copy(ctx, graph, out);
    rebatch r = {.ctx = ctx, .from = graph->tensor[graph->input[0]]->dim[0]};
    nb_status st = run(&r, graph);
    if (st == NB_OK) {
        *out = r.g;
        r.g = NULL;
    }
    nbi_graph_free(r.fixed);
    nbi_graph_free(r.g);
    return st;
}

nb_status nbi_rebatch(nb_ctx *ctx, const nbi_graph *graph, int64_t batch, nbi_graph **out) {
    nbi_graph *g = NULL;
    if (!is_fixed(graph, batch)) return nbi_specialize_batch(ctx, graph, batch, out);
    NB_TRY(nbi_free_batch(ctx, graph, batch, &g));
    nb_status st = nbi_specialize_batch(ctx, g, batch, out);
    nbi_graph_free(g);
    return st;
}
