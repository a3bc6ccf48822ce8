/* Dropout. Inference: the identity (op_alias.c holds its callbacks). Training: y = x·keep/(1 −
 * ratio), keep drawn per element, 0 with probability `ratio`. The draw is a hash of (seed of the
 * run, the node's name and `seed` attribute, index in ONNX order): backward draws the same mask
 * again, and neither the thread count nor a stored mask matters. */
#include "ops/op_grad.h"

#include <string.h>

static bool is_training(const nbi_graph *graph, const nbi_node *node) {
    const nbi_tensor *t = nbi_op_in(graph, node, 2);
    return t && t->data && nbi_tensor_count(t) > 0 && nbi_get_int(t->dtype, t->data, 0);
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    bool training = is_training(graph, node);
    const nbi_tensor *x = nbi_op_in(graph, node, 0), *ratio = nbi_op_in(graph, node, 1);
    if (!training && node->n_out > 1 && node->out[1] >= 0 && nbi_graph_uses(graph, node->out[1]))
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "node '%s' (Dropout): the mask output is not supported", node->name);
    if (training && x->dtype != NB_DTYPE_F32)
        return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (Dropout): type %s is not supported",
                       node->name, nbi_dtype_name(x->dtype));
    if (training && ratio && nbi_shape_known(ratio) && nbi_tensor_count(ratio) != 1)
        return nbi_op_fail(ctx, node, "the number of ratios", nbi_tensor_count(ratio), "1");
    node->op = training ? &nbi_op_dropout_training : &nbi_op_dropout;
    if (training && node->n_out > 1)
        NB_TRY(nbi_op_set_out(ctx, graph, node, 1, NB_DTYPE_BOOL, x->rank, x->dim));
    return nbi_op_infer_same(ctx, graph, node);
}

typedef struct dropout_job {
    uint64_t key, limit; /* dropped: draw < limit, of 2^32 */
    float scale;
    const float *from;
    float *to;
    uint8_t *mask;
} dropout_job;

/* SplitMix64 (Steele et al. 2014) as a counter-based generator. */
static uint64_t draw(uint64_t key, uint64_t counter) {
    uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) >> 32;
}

static nb_status range(void *user, size_t begin, size_t end, int worker) {
    const dropout_job *j = user;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        bool keep = draw(j->key, i) >= j->limit;
        j->to[i] = keep ? j->from[i] * j->scale : 0;
        if (j->mask) j->mask[i] = keep;
    }
    return NB_OK;
}

static nb_status make_job(nb_ctx *ctx, const nbi_node *node, const nbi_view *in, uint64_t seed,
                          dropout_job *j) {
    double ratio = 0.5;
    if (node->n_in > 1 && in[1].data) ratio = nbi_get_real(in[1].dtype, in[1].data, 0);
    if (!(ratio >= 0 && ratio <= 1))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Dropout): ratio is %g, want 0 to 1", node->name,
                       ratio);
    int64_t own = nbi_attr_int(node, "seed", 0);
    uint64_t key = nbi_hash(NBI_HASH_START, node->name, strlen(node->name));
    key = nbi_hash(key, &own, sizeof own);
    *j = (dropout_job){.key = nbi_hash(key, &seed, sizeof seed)};
    j->limit = (uint64_t)(ratio * 4294967296.0);
    j->scale = ratio < 1 ? (float)(1 / (1 - ratio)) : 0;
    return NB_OK;
}

#define CHUNK 16384
static nb_status forward(const nbi_op_call *call) {
    dropout_job j;
    NB_TRY(make_job(call->ctx, call->node, call->in, call->seed, &j));
    j.from = call->in[0].data;
    j.to = call->out[0].data;
    j.mask = call->node->n_out > 1 ? call->out[1].data : NULL;
    return nbi_parallel(call->ctx, (size_t)nbi_view_count(&call->in[0]), CHUNK, range, &j);
}

static nb_status backward(const nbi_grad_call *call) {
    dropout_job j;
    if (!call->gin[0].data) return NB_OK;
    NB_TRY(make_job(call->ctx, call->node, call->in, call->seed, &j));
    j.from = call->gout[0].data;
    j.to = call->gin[0].data;
    return nbi_parallel(call->ctx, (size_t)nbi_view_count(&call->gin[0]), CHUNK, range, &j);
}

const nbi_op nbi_op_dropout = {.name = "Dropout",
                               .types = NBI_TYPES_ANY,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 3,
                               .min_out = 1,
                               .max_out = 2,
                               .flags = NBI_OP_ALIAS | NBI_OP_GRAD_INPLACE,
                               .prepare = nbi_op_prepare_none,
                               .infer = infer,
                               .forward = nbi_alias_forward,
                               .backward = nbi_grad_alias,
                               .grad_in = 1};
/* Contiguous: the index of an element is its place. */
const nbi_op nbi_op_dropout_training = {.name = "Dropout",
                                        .types = NBI_TYPES_ANY,
                                        .domain = "",
                                        .min_opset = 1,
                                        .min_in = 1,
                                        .max_in = 3,
                                        .min_out = 1,
                                        .max_out = 2,
                                        .flags = NBI_OP_GRAD_INPLACE,
                                        .prepare = nbi_op_prepare_none,
                                        .infer = infer,
                                        .forward = forward,
                                        .backward = backward,
                                        .keep_in = 1 << 1,
                                        .grad_in = 1};
