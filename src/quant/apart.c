/* Whether a network computes the same for every image of a batch: calibration, training and the float
 * engine run batches, the integer program one image. */
#include "quant/generate.h"

#include "exec/exec.h"

#include <string.h>

static nb_status refuse(nb_ctx *ctx, const nbi_graph *g, int tensor) {
    const nbi_node *node = g->tensor[tensor]->producer < 0 ? NULL : g->node[g->tensor[tensor]->producer];
    return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s) does not compute '%s' image by image: its shape or its "
                   "values depend on how many there are in a batch", node ? node->name : "",
                   node ? node->op_type : "input", g->tensor[tensor]->name);
}

/* The shape at a batch of 2 beside that of one image. */
static bool is_apart(const nbi_tensor *one, const nbi_tensor *two) {
    if (!nbi_shape_known(two)) return true;
    return one->rank == two->rank && one->rank > 0 && one->dim[0] == 1 && two->dim[0] == 2 &&
           !memcmp(one->dim + 1, two->dim + 1, (size_t)(one->rank - 1) * sizeof *one->dim);
}

nb_status nbi_check_apart(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net) {
    const nbi_tensor *x = source->tensor[source->input[0]];
    nbi_graph *two = NULL;
    nb_status st = NB_OK;
    if (x->rank < 1 || x->dim[0] > 0) return NB_OK; /* nbi_free_batch looks at files that fix a batch */
    NB_TRYG(nbi_specialize_batch(ctx, source, 2, &two));
    for (int e = 0; e < net->n_edges; e++) {
        const int one = net->edge[e].tensor, t = one < 0 ? -1 : nbi_graph_find(two, net->edge[e].name);
        if (t < 0) continue;
        const int made = two->tensor[t]->producer;
        if (is_apart(net->graph->tensor[one], two->tensor[t]) && !(made >= 0 && nbi_mixes_images(two->node[made])))
            continue;
        st = refuse(ctx, two, t);
        goto done;
    }
done:
    nbi_graph_free(two);
    return st;
}
