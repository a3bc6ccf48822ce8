/* The training form of a model. Tensors keep their indices from `model` to `graph` (copying and
 * specialising only add), which is how trained values find their way back. */
#include "train/prepare.h"

#include "exec/exec.h"
#include "ops/op.h"

#include <stdio.h>
#include <string.h>

static bool is_op(const nbi_node *node, const char *type) {
    return !*node->domain && !strcmp(node->op_type, type);
}

void nbi_training_free(nbi_training *t) {
    if (!t) return;
    nbi_graph_free(t->model);
    nbi_graph_free(t->graph);
    nbi_free(t->trained);
    nbi_free(t->state);
    nbi_free(t);
}

/* ---- the model ------------------------------------------------------------------------------- */

/* Weights that a file leaves out: inputs beyond the first become constants (0, to be filled). */
static nb_status add_missing_weights(nb_ctx *ctx, nbi_graph *g) {
    for (int i = 1; i < g->n_inputs; i++) {
        nbi_tensor *t = g->tensor[g->input[i]];
        int64_t count = nbi_tensor_count(t);
        if (t->dtype != NB_DTYPE_F32 || count < 0)
            return nb_fail(ctx, NB_EUNSUPPORTED, "input '%s' is no weight: %s of %s shape", t->name,
                           nbi_dtype_name(t->dtype), count < 0 ? "unknown" : "known");
        t->data = nbi_arena_alloc(&g->arena, (size_t)count + 1, sizeof(float));
        if (!t->data) return nb_fail_memory(ctx, (size_t)count * sizeof(float));
    }
    if (g->n_inputs > 1) g->n_inputs = 1;
    return NB_OK;
}

bool nbi_can_reconstruct(const nbi_graph *g) {
    if (g->n_inputs != 1 || g->n_outputs < 1) return false;
    const nbi_tensor *x = g->tensor[g->input[0]], *y = g->tensor[g->output[0]];
    bool same = x->rank >= 2 && x->rank == y->rank;
    for (int i = 1; same && i < x->rank; i++) same = x->dim[i] >= 0 && x->dim[i] == y->dim[i];
    return same;
}

/* Nodes on constants alone (a transposed weight, a reshaped one) become constants. */
static nb_status fold_weights(nb_ctx *ctx, nbi_graph *g) {
    int kept = 0;
    for (int n = 0; n < g->n_nodes; n++) {
        nbi_node *node = g->node[n];
        bool gone = false;
        if (strstr(node->op_type, "QuantizeLinear"))
            return nb_fail(ctx, NB_EUNSUPPORTED,
                           "the model is quantized already (node '%s'): train wants a float model",
                           node->name);
        NB_TRY(nbi_node_infer(ctx, g, node));
        NB_TRY(nbi_fold_node(ctx, g, node, &gone));
        for (int i = 0; gone && i < node->n_out; i++)
            if (node->out[i] >= 0) g->tensor[node->out[i]]->producer = -1;
        if (!gone) g->node[kept++] = node;
    }
    g->n_nodes = kept;
    nbi_graph_prune(g);
    return NB_OK;
}

/* Exporters share equal initial values between BatchNormalizations; training tells them apart. */
static nb_status separate_norms(nb_ctx *ctx, nbi_graph *g) {
    for (int n = 0; n < g->n_nodes; n++) {
        nbi_node *node = g->node[n];
        if (!is_op(node, "BatchNormalization")) continue;
        for (int i = 1; i < node->n_in; i++) {
            if (nbi_role_of(g, node, i) == NBI_ROLE_NONE || nbi_graph_uses(g, node->in[i]) < 2)
                continue;
            const nbi_tensor *from = g->tensor[node->in[i]];
            int copy;
            NB_TRY(
                nbi_graph_add_const(ctx, g, from->name, from->dtype, from->rank, from->dim, &copy));
            memcpy(g->tensor[copy]->data, from->data,
                   (size_t)nbi_tensor_count(from) * sizeof(float));
            node->in[i] = copy;
        }
    }
    return NB_OK;
}

/* Every node that an output needs must be known. */
static nb_status check_known(nb_ctx *ctx, const nbi_graph *g) {
    const nbi_node *unknown = NULL; /* the first one */
    bool *needed;
    NB_TRY(nbi_alloc(ctx, (size_t)g->n_tensors + 1, sizeof *needed, &needed));
    for (int i = 0; i < g->n_outputs; i++) needed[g->output[i]] = true;
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        const nbi_node *node = g->node[n];
        bool used = false;
        for (int i = 0; i < node->n_out; i++) used |= node->out[i] >= 0 && needed[node->out[i]];
        for (int i = 0; used && i < node->n_in; i++)
            if (node->in[i] >= 0) needed[node->in[i]] = true;
        if (used && !node->op) unknown = node;
    }
    nbi_free(needed);
    if (!unknown) return NB_OK;
    return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s': operator %s%s%s of opset %d is not supported",
                   unknown->name, unknown->domain, *unknown->domain ? "." : "", unknown->op_type,
                   g->opset);
}

static nb_status make_model(nb_ctx *ctx, const nbi_graph *model, const nbi_training_options *o,
                            nbi_graph **out) {
    nbi_graph *g = NULL;
    nb_status st;
    NB_TRYG(nbi_graph_copy(ctx, model, &g));
    if (o->init) NB_TRYG(add_missing_weights(ctx, g));
    if (g->n_inputs != 1 || g->n_outputs < 1) {
        st =
            nb_fail(ctx, NB_EUNSUPPORTED,
                    "the model has %d inputs and %d outputs, training wants one and at least one%s",
                    g->n_inputs, g->n_outputs,
                    g->n_inputs > 1 ? " (--init makes weights that the file leaves out)" : "");
        goto done;
    }
    NB_TRYG(check_known(ctx, g));
    NB_TRYG(fold_weights(ctx, g));
    NB_TRYG(separate_norms(ctx, g));
    if (o->init) nbi_init_weights(g, o->seed);
    *out = g;
    return NB_OK;
done:
    nbi_graph_free(g);
    return st;
}

/* ---- the training form ----------------------------------------------------------------------- */

/* Outputs: y, new running mean and variance, and for backward the batch's mean and 1/deviation. */
static nb_status norm_to_training(nb_ctx *ctx, nbi_graph *g, nbi_node *node) {
    static const char *const part[] = {"running_mean", "running_var", "batch_mean", "batch_scale"};
    int *out = nbi_arena_alloc(&g->arena, 5, sizeof *out);
    if (!out) return nb_fail_memory(ctx, 5 * sizeof *out);
    out[0] = node->out[0];
    for (int i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "%.64s/%s", node->name, part[i]);
        NB_TRY(nbi_graph_add_tensor(ctx, g, name, NB_DTYPE_F32, -1, NULL, &out[1 + i]));
        g->tensor[out[1 + i]]->producer = g->tensor[out[0]]->producer;
    }
    node->out = out;
    node->n_out = 5;
    node->params = NULL;
    NB_TRY(nbi_node_set_int(ctx, g, node, "training_mode", 1));
    return nbi_node_infer(ctx, g, node);
}

static bool has_own_statistics(const nbi_graph *g, const nbi_node *node) {
    return is_op(node, "BatchNormalization") && nbi_role_of(g, node, 3) == NBI_ROLE_MEAN &&
           nbi_role_of(g, node, 4) == NBI_ROLE_VARIANCE;
}

/* Inputs: x, ratio (an attribute before opset 12), training_mode. */
static nb_status dropout_to_training(nb_ctx *ctx, nbi_graph *g, nbi_node *node) {
    int *in = nbi_arena_alloc(&g->arena, 3, sizeof *in), on;
    if (!in) return nb_fail_memory(ctx, 3 * sizeof *in);
    NB_TRY(nbi_graph_add_const(ctx, g, "training_mode", NB_DTYPE_BOOL, 0, NULL, &on));
    *(uint8_t *)g->tensor[on]->data = 1;
    in[0] = node->in[0];
    in[1] = node->n_in > 1 ? node->in[1] : NBI_NO_TENSOR;
    in[2] = on;
    if (node->n_in < 2) {
        NB_TRY(nbi_graph_add_const(ctx, g, "ratio", NB_DTYPE_F32, 0, NULL, &in[1]));
        *(float *)g->tensor[in[1]]->data = nbi_attr_float(node, "ratio", 0.5f);
    }
    node->in = in;
    node->n_in = 3;
    node->params = NULL;
    return nbi_node_infer(ctx, g, node);
}

static nb_status switch_on(nb_ctx *ctx, nbi_graph *g) {
    for (int n = 0; n < g->n_nodes; n++) {
        nbi_node *node = g->node[n];
        if (has_own_statistics(g, node) && !nbi_attr_int(node, "training_mode", 0))
            NB_TRY(norm_to_training(ctx, g, node));
        if (is_op(node, "Dropout")) NB_TRY(dropout_to_training(ctx, g, node));
    }
    return NB_OK;
}

/* The tensor that the loss reads, N,C: what a final Softmax reads, flattened where need be. */
static nb_status find_logits(nb_ctx *ctx, nbi_graph *g, int *out) {
    int t = g->output[0], p = g->tensor[t]->producer;
    while (p >= 0 && (is_op(g->node[p], "Softmax") || is_op(g->node[p], "Identity"))) {
        t = g->node[p]->in[0];
        p = g->tensor[t]->producer;
    }
    if (g->tensor[t]->rank != 2) {
        nbi_node *node;
        int flat;
        NB_TRY(nbi_graph_add_tensor(ctx, g, "logits/flat", NB_DTYPE_NONE, -1, NULL, &flat));
        NB_TRY(nbi_graph_add_node(ctx, g, "logits/flat", "", "Flatten", 1, &t, 1, &flat, &node));
        NB_TRY(nbi_node_infer(ctx, g, node));
        t = flat;
    }
    *out = t;
    return NB_OK;
}

static nb_status add_loss(nb_ctx *ctx, nbi_graph *g, const char *name, const char *type, int a,
                          int b, float temperature, int *out) {
    const int in[2] = {a, b};
    nbi_node *node;
    NB_TRY(nbi_graph_add_tensor(ctx, g, name, NB_DTYPE_NONE, -1, NULL, out));
    NB_TRY(nbi_graph_add_node(ctx, g, name, "org.nibble", type, 2, in, 1, out, &node));
    if (temperature > 0) NB_TRY(nbi_node_set_float(ctx, g, node, "temperature", temperature));
    return nbi_node_infer(ctx, g, node);
}

static nb_status add_input(nb_ctx *ctx, nbi_graph *g, const char *name, int64_t classes, int *out) {
    const int64_t dim[2] = {-1, classes};
    int list[4];
    NB_TRY(nbi_graph_add_tensor(ctx, g, name, NB_DTYPE_F32, 2, dim, out));
    memcpy(list, g->input, (size_t)g->n_inputs * sizeof *list);
    list[g->n_inputs] = *out;
    return nbi_graph_set_inputs(ctx, g, g->n_inputs + 1, list);
}

static nb_status add_losses(nb_ctx *ctx, nbi_graph *g, const nbi_training_options *o,
                            nbi_training *t) {
    int target, teacher, outputs[3];
    if (o->reconstruct) {
        t->logits = g->output[0];
        NB_TRY(
            add_loss(ctx, g, "loss", "MeanSquaredError", t->logits, g->input[0], 0, &t->loss[0]));
    } else {
        NB_TRY(find_logits(ctx, g, &t->logits));
        const nbi_tensor *z = g->tensor[t->logits];
        if (z->dtype != NB_DTYPE_F32 || z->dim[1] < 1)
            return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' is not one float32 value per class",
                           z->name);
        t->classes = z->dim[1];
        NB_TRY(add_input(ctx, g, "target", t->classes, &target));
        NB_TRY(add_loss(ctx, g, "loss", "CrossEntropy", t->logits, target, 0, &t->loss[0]));
    }
    outputs[0] = t->logits;
    outputs[1] = t->loss[0];
    t->n_losses = 1;
    if (o->distill && !o->reconstruct) {
        NB_TRY(add_input(ctx, g, "teacher", t->classes, &teacher));
        NB_TRY(add_loss(ctx, g, "loss_distill", "KlDivergence", t->logits, teacher,
                        o->temperature > 0 ? o->temperature : 4, &t->loss[1]));
        outputs[2] = t->loss[1];
        t->n_losses = 2;
    }
    return nbi_graph_set_outputs(ctx, g, 1 + t->n_losses, outputs);
}

/* What is trained and what is carried along; both must be constants of the model, too. */
static nb_status find_trained(nb_ctx *ctx, nbi_training *t) {
    const nbi_graph *g = t->graph;
    bool *seen = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_tensors, 1, &seen));
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_tensors, sizeof *t->trained, &t->trained));
    NB_TRYG(nbi_alloc(ctx, 2 * (size_t)g->n_nodes, sizeof *t->state, &t->state));
    for (int n = 0; n < g->n_nodes; n++) {
        const nbi_node *node = g->node[n];
        for (int i = 0; i < node->n_in; i++) {
            nbi_role role = nbi_role_of(g, node, i);
            int x = node->in[i];
            if (role == NBI_ROLE_NONE || role == NBI_ROLE_MEAN || role == NBI_ROLE_VARIANCE)
                continue;
            if (seen[x] || x >= t->model->n_tensors || !t->model->tensor[x]->data) continue;
            seen[x] = true;
            t->trained[t->n_trained++] = (nbi_trained){x, role};
        }
        if (!has_own_statistics(g, node) || node->n_out < 3) continue;
        t->state[t->n_states++] = (nbi_tape_state){node->out[1], node->in[3]};
        t->state[t->n_states++] = (nbi_tape_state){node->out[2], node->in[4]};
    }
    if (t->n_trained == 0)
        st = nb_fail(ctx, NB_EUNSUPPORTED,
                     "nothing to train: the model has no float32 weights of "
                     "Conv, Gemm, MatMul, BatchNormalization or PRelu");
done:
    nbi_free(seen);
    return st;
}

nb_status nbi_training_new(nb_ctx *ctx, const nbi_graph *model, const nbi_training_options *o,
                           nbi_training **out) {
    nbi_training *t = NULL;
    nbi_graph *g = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *t, &t));
    NB_TRYG(make_model(ctx, model, o, &t->model));
    NB_TRYG(nbi_free_batch(ctx, t->model, o->batch, &g));
    NB_TRYG(nbi_graph_infer(ctx, g));
    NB_TRYG(switch_on(ctx, g));
    NB_TRYG(add_losses(ctx, g, o, t));
    NB_TRYG(nbi_specialize_batch(ctx, g, o->batch, &t->graph));
    NB_TRYG(find_trained(ctx, t));
    *out = t;
    t = NULL;
done:
    nbi_graph_free(g);
    nbi_training_free(t);
    return st;
}

static void publish(const nbi_training *t, int tensor) {
    const nbi_tensor *from = t->graph->tensor[tensor];
    memcpy(t->model->tensor[tensor]->data, from->data,
           (size_t)nbi_tensor_count(from) * sizeof(float));
}

void nbi_training_publish(const nbi_training *t) {
    for (int i = 0; i < t->n_trained; i++) publish(t, t->trained[i].tensor);
    for (int i = 0; i < t->n_states; i++) publish(t, t->state[i].to);
}
