/* Slice: attributes before opset 10, inputs after. Everything becomes start, step, size per axis.
 */
#include "ops/op_grad.h"

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    if (graph->opset >= 10 && node->n_in < 3)
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Slice): starts and ends are missing",
                       node->name);
    NB_TRY(nbi_op_params(ctx, graph, node, sizeof(nbi_slice_params)));
    ((nbi_slice_params *)node->params)->by_attribute = graph->opset < 10;
    return NB_OK;
}

typedef struct slice_lists {
    int64_t start[NBI_MAX_RANK], end[NBI_MAX_RANK], axis[NBI_MAX_RANK], step[NBI_MAX_RANK];
    int n, n_axes, n_steps;
    bool known;
} slice_lists;

static nb_status read_lists(nb_ctx *ctx, const nbi_graph *graph, const nbi_node *node,
                            slice_lists *s) {
    int n_ends;
    s->n_steps = -1;
    if (((const nbi_slice_params *)node->params)->by_attribute) {
        NB_TRY(nbi_op_attr_ints(ctx, node, "starts", s->start, NBI_MAX_RANK, &s->n));
        NB_TRY(nbi_op_attr_ints(ctx, node, "ends", s->end, NBI_MAX_RANK, &n_ends));
        NB_TRY(nbi_op_attr_ints(ctx, node, "axes", s->axis, NBI_MAX_RANK, &s->n_axes));
        if (s->n < 0 || n_ends < 0)
            return nb_fail(ctx, NB_EFORMAT, "node '%s' (Slice): starts or ends is missing",
                           node->name);
        s->known = true;
    } else {
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 1, s->start, NBI_MAX_RANK, &s->n));
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 2, s->end, NBI_MAX_RANK, &n_ends));
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 3, s->axis, NBI_MAX_RANK, &s->n_axes));
        NB_TRY(nbi_op_const_ints(ctx, graph, node, 4, s->step, NBI_MAX_RANK, &s->n_steps));
        s->known = s->n >= 0 && n_ends >= 0 && (s->n_axes >= 0 || nbi_op_is_omitted(node, 3)) &&
                   (s->n_steps >= 0 || nbi_op_is_omitted(node, 4));
    }
    if (!s->known) return NB_OK;
    if (n_ends != s->n || (s->n_axes >= 0 && s->n_axes != s->n) ||
        (s->n_steps >= 0 && s->n_steps != s->n))
        return nb_fail(ctx, NB_EFORMAT, "node '%s' (Slice): %d starts, %d ends, %d axes, %d steps",
                       node->name, s->n, n_ends, s->n_axes, s->n_steps);
    return NB_OK;
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* Negative indices count from the end, then both are clamped: going backwards, other than in Python, a start
 * before the first value is the first value. */
static void resolve(nbi_slice_params *p, int axis, int64_t dim, int64_t start, int64_t end,
                    int64_t step) {
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? dim : dim - 1;
    start = clamp(start < 0 ? start + dim : start, dim > 0 ? 0 : low, high);
    end = clamp(end < -dim ? -1 : end < 0 ? end + dim : end, low, high);
    int64_t span = step > 0 ? end - start : start - end, stride = step > 0 ? step : -step;
    p->start[axis] = start;
    p->step[axis] = step;
    p->size[axis] = span <= 0 ? 0 : (span - 1) / stride + 1;
    if (p->size[axis] <= 1) p->step[axis] = 1; /* a huge step must not be multiplied */
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    nbi_slice_params *p = node->params;
    const nbi_tensor *x = nbi_op_in(graph, node, 0);
    slice_lists s;
    NB_TRY(read_lists(ctx, graph, node, &s));
    int64_t dim[NBI_MAX_RANK];
    p->rank = x->rank;
    p->known = s.known && x->rank >= 0;
    for (int i = 0; i < NBI_MAX_RANK; i++) {
        dim[i] = s.known ? x->dim[i] : -1;
        p->start[i] = 0;
        p->step[i] = 1;
        p->size[i] = x->dim[i];
    }
    if (!p->known) return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
    bool seen[NBI_MAX_RANK] = {false};
    for (int i = 0; i < s.n; i++) {
        int axis;
        NB_TRY(nbi_op_axis(ctx, node, "an axis", s.n_axes < 0 ? i : s.axis[i], x->rank, &axis));
        int64_t step = s.n_steps < 0 ? 1 : s.step[i];
        if (step == 0 || step == INT64_MIN)
            return nbi_op_fail(ctx, node, "a step", step, "a small number that is not 0");
        if (seen[axis]) return nbi_op_fail(ctx, node, "an axis given twice", axis, "each once");
        seen[axis] = true;
        if (x->dim[axis] < 0) {
            /* From the first to "the end" of an unknown dimension is all of it. */
            bool all = s.start[i] == 0 && s.end[i] >= INT32_MAX && step == 1;
            dim[axis] = -1;
            p->known &= all;
            continue;
        }
        resolve(p, axis, x->dim[axis], s.start[i], s.end[i], step);
        dim[axis] = p->size[axis];
    }
    return nbi_op_set_out(ctx, graph, node, 0, x->dtype, x->rank, dim);
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_slice_params *p = call->node->params;
    nbi_view from = call->in[0];
    int64_t offset = 0;
    for (int i = 0; i < p->rank; i++) {
        offset += p->start[i] * from.stride[i];
        from.stride[i] *= p->step[i];
        from.dim[i] = call->out[0].dim[i];
    }
    if (nbi_view_count(&from) == 0) return NB_OK;
    from.data = (char *)from.data + offset * (nbi_dtype_bits(from.dtype) / 8);
    nbi_view_copy(&call->out[0], &from);
    return NB_OK;
}

const nbi_op nbi_op_slice = {.name = "Slice",
                             .types = NBI_TYPES_ANY,
                             .domain = "",
                             .min_opset = 1,
                             .min_in = 1,
                             .max_in = 5,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = NBI_OP_STRIDED,
                             .prepare = prepare,
                             .infer = infer,
                             .forward = forward,
                             .backward = nbi_grad_slice,
                             .grad_in = 1};
