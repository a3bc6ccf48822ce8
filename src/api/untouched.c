/* A node is left as it is because it cannot be computed or because it depends on one that cannot. A
 * message names the former, which are few, and counts the latter. */
#include "api/untouched.h"

#include "ops/op.h"

#include <stdio.h>
#include <string.h>

bool nbi_is_untouched(const nbi_qnet *net, const nbi_node *node) {
    for (int i = 0; i < net->n_untouched; i++)
        if (!strcmp(net->untouched[i], node->name)) return true;
    return false;
}

const nbi_node *nbi_first_untouched(const nbi_qnet *net) {
    for (int n = 0; n < net->graph->n_nodes; n++)
        if (nbi_is_untouched(net, net->graph->node[n])) return net->graph->node[n];
    return NULL;
}

/* The first input that another one of them makes; −1: none. */
static int blocked_by(const nbi_qnet *net, const nbi_node *node) {
    const nbi_graph *g = net->graph;
    for (int i = 0; i < node->n_in; i++) {
        int p = node->in[i] < 0 ? -1 : g->tensor[node->in[i]]->producer;
        if (p >= 0 && nbi_is_untouched(net, g->node[p])) return node->in[i];
    }
    return -1;
}

void nbi_why_untouched(const nbi_qnet *net, const nbi_node *node, char *text, size_t size) {
    const nbi_graph *g = net->graph;
    int t = blocked_by(net, node);
    if (!node->op) {
        const nbi_op *op = nbi_op_find(node->domain, node->op_type);
        bool known = op && (*op->domain || g->opset >= op->min_opset);
        snprintf(text, size, "this build does not know %s%s%s%s of opset %d",
                 known ? "this form of " : "", node->domain, *node->domain ? "." : "",
                 node->op_type, g->opset);
    } else if (t >= 0) {
        snprintf(text, size, "it reads '%s' of node '%s', which stays as it is",
                 g->tensor[t]->name, g->node[g->tensor[t]->producer]->name);
    } else {
        snprintf(text, size, "%s has no integer form here, and not one float32 tensor of three at "
                 "most", node->op_type);
    }
}

json_t *nbi_untouched_names(const nbi_qnet *net) {
    json_t *list = json_array();
    for (int i = 0; i < net->n_untouched; i++)
        json_array_append_new(list, json_string(net->untouched[i]));
    return list;
}

json_t *nbi_untouched_rows(const nbi_qnet *net) {
    json_t *list = json_array();
    char why[512];
    for (int n = 0; n < net->graph->n_nodes; n++) {
        const nbi_node *node = net->graph->node[n];
        if (!nbi_is_untouched(net, node)) continue;
        nbi_why_untouched(net, node, why, sizeof why);
        json_array_append_new(list, json_pack("{s:s,s:s,s:s}", "node", node->name, "operator",
                                              node->op_type, "why", why));
    }
    return list;
}

/* How many nodes depend on node n; reached: [n_tensors] work space. */
static int behind(const nbi_graph *g, int n, bool *reached) {
    int count = 0;
    memset(reached, 0, (size_t)g->n_tensors * sizeof *reached);
    for (int k = n; k < g->n_nodes; k++) {
        const nbi_node *node = g->node[k];
        bool depends = k == n;
        for (int i = 0; i < node->n_in; i++) depends |= node->in[i] >= 0 && reached[node->in[i]];
        for (int i = 0; depends && i < node->n_out; i++)
            if (node->out[i] >= 0) reached[node->out[i]] = true;
        count += depends && k != n;
    }
    return count;
}

/* Is there an earlier node of the same operator that is not known, either? */
static bool is_repeated(const nbi_graph *g, int n) {
    for (int k = 0; k < n; k++)
        if (!g->node[k]->op && !strcmp(g->node[k]->op_type, g->node[n]->op_type) &&
            !strcmp(g->node[k]->domain, g->node[n]->domain))
            return true;
    return false;
}

nb_status nbi_warn_untouched(nb_ctx *ctx, const nbi_qnet *net) {
    const nbi_graph *g = net->graph;
    char why[512], rest[64];
    bool *reached;
    if (!net->n_untouched) return NB_OK;
    NB_TRY(nbi_alloc(ctx, (size_t)g->n_tensors + 1, sizeof *reached, &reached));
    for (int n = 0; n < g->n_nodes; n++) {
        const nbi_node *node = g->node[n];
        if (!nbi_is_untouched(net, node)) continue;
        bool first = blocked_by(net, node) < 0, known = node->op != NULL;
        if (!first && (known || is_repeated(g, n))) continue;
        nbi_why_untouched(net, node, why, sizeof why);
        const int count = behind(g, n, reached);
        if (count == 0) snprintf(rest, sizeof rest, "it stays as it is");
        else snprintf(rest, sizeof rest, "it and %d node%s behind it stay as they are", count,
                      count == 1 ? "" : "s");
        nb_log(ctx, NB_LOG_WARNING, "node '%s': %s; %s", node->name, why, rest);
    }
    nbi_free(reached);
    return NB_OK;
}

double nbi_untouched_bytes(const nbi_graph *source, const nbi_graph *front) {
    double bytes = 0;
    for (int i = 0; i < source->n_tensors; i++) { /* a copy keeps the indices */
        const nbi_tensor *t = source->tensor[i];
        if (t->data && t->dtype == NB_DTYPE_F32 && nbi_graph_uses(source, i) &&
            !nbi_graph_uses(front, i))
            bytes += 4.0 * (double)nbi_tensor_count(t);
    }
    return bytes;
}

nb_status nbi_refuse_untouched(nb_ctx *ctx, const nbi_qnet *net, const char *consequence) {
    const nbi_node *node = nbi_first_untouched(net);
    char why[512];
    if (!node) return NB_OK;
    nbi_why_untouched(net, node, why, sizeof why);
    return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s': %s: %s", node->name, why, consequence);
}
