/* Gradients of the operators that move elements: each element's gradient goes back where it came
 * from; what was read more than once is summed, what was not read gets 0. */
#include "ops/op_grad.h"

static char *element(const nbi_view *v, int64_t offset) {
    return (char *)v->data + offset * (int64_t)sizeof(float);
}

nb_status nbi_grad_transpose(const nbi_grad_call *call) {
    const nbi_transpose_params *p = call->node->params;
    nbi_view to = call->gin[0];
    if (!to.data) return NB_OK;
    for (int i = 0; i < p->rank; i++) {
        to.dim[i] = call->gin[0].dim[p->perm[i]];
        to.stride[i] = call->gin[0].stride[p->perm[i]];
    }
    return nbi_grad_scaled(call->ctx, &to, &call->gout[0], 1);
}

/* ---- Concat, Split ------------------------------------------------------------------------- */

/* The part of `whole` at `at` along the axis, with the size of `part`. */
static nbi_view piece(const nbi_view *whole, const nbi_view *part, int axis, int64_t at) {
    nbi_view v = *whole;
    v.dim[axis] = part->dim[axis];
    v.data = element(whole, at * whole->stride[axis]);
    return v;
}

nb_status nbi_grad_concat(const nbi_grad_call *call) {
    int axis = ((const nbi_concat_params *)call->node->params)->axis;
    int64_t at = 0;
    for (int k = 0; k < call->node->n_in; k++) {
        const nbi_view *gx = &call->gin[k];
        if (gx->data && nbi_view_count(gx)) {
            nbi_view from = piece(&call->gout[0], gx, axis, at);
            NB_TRY(nbi_grad_scaled(call->ctx, gx, &from, 1));
        }
        at += call->in[k].dim[axis];
    }
    return NB_OK;
}

nb_status nbi_grad_split(const nbi_grad_call *call) {
    const nbi_split_params *p = call->node->params;
    if (!call->gin[0].data) return NB_OK;
    for (int k = 0; k < call->node->n_out; k++) {
        const nbi_view *gy = &call->gout[k];
        nbi_view to = call->gin[0];
        to.dim[p->axis] = p->at[k + 1] - p->at[k];
        if (nbi_view_count(&to) == 0) continue;
        to.data = element(&call->gin[0], p->at[k] * to.stride[p->axis]);
        if (nbi_op_out(call->graph, call->node, k) && gy->data)
            NB_TRY(nbi_grad_scaled(call->ctx, &to, gy, 1));
        else
            nbi_grad_zero(&to);
    }
    return NB_OK;
}

/* ---- Slice, Pad ---------------------------------------------------------------------------- */

nb_status nbi_grad_slice(const nbi_grad_call *call) {
    const nbi_slice_params *p = call->node->params;
    nbi_view to = call->gin[0];
    int64_t offset = 0;
    if (!to.data) return NB_OK;
    nbi_grad_zero(&to);
    for (int i = 0; i < p->rank; i++) {
        offset += p->start[i] * to.stride[i];
        to.stride[i] *= p->step[i];
        to.dim[i] = call->gout[0].dim[i];
    }
    if (nbi_view_count(&to) == 0) return NB_OK;
    to.data = element(&call->gin[0], offset);
    nbi_view_copy(&to, &call->gout[0]); /* a step may be negative: a copy takes any strides */
    return NB_OK;
}

/* edge, reflect, wrap: several outputs read one input. Sums in double. */
static nb_status pad_mapped(const nbi_grad_call *call, const nbi_pad_params *p) {
    const nbi_view *gx = &call->gin[0], *gy = &call->gout[0];
    int64_t index[NBI_MAX_RANK] = {0}, count = nbi_view_count(gy);
    nbi_view plain = *gx;
    double *sum;
    if (nbi_view_count(gx) == 0) return NB_OK;
    NB_TRY(nbi_alloc(call->ctx, (size_t)nbi_view_count(gx), sizeof *sum, &sum));
    nbi_view_contiguous(&plain);
    for (int64_t done = 0; done < count; done++) {
        int64_t to = 0, from = 0;
        for (int i = 0; i < gy->rank; i++) {
            to += nbi_pad_source(p, i, gx->dim[i], index[i]) * plain.stride[i];
            from += index[i] * gy->stride[i];
        }
        sum[to] += (double)((const float *)gy->data)[from];
        for (int i = gy->rank - 1; i >= 0; i--) {
            if (++index[i] < gy->dim[i]) break;
            index[i] = 0;
        }
    }
    nbi_grad_store(gx, sum);
    nbi_free(sum);
    return NB_OK;
}

nb_status nbi_grad_pad(const nbi_grad_call *call) {
    const nbi_pad_params *p = call->node->params;
    nbi_view to = call->gin[0], from = call->gout[0];
    int64_t at = 0, source = 0;
    if (!to.data) return NB_OK;
    if (p->mode != NBI_PAD_CONSTANT) return pad_mapped(call, p);
    nbi_grad_zero(&to);
    for (int i = 0; i < to.rank; i++) {
        int64_t b = p->begin[i], cut = b < 0 ? -b : 0, after = p->end[i] < 0 ? -p->end[i] : 0;
        at += cut * to.stride[i];
        source += (b > 0 ? b : 0) * from.stride[i];
        to.dim[i] = from.dim[i] = to.dim[i] - cut - after;
        if (to.dim[i] <= 0) return NB_OK;
    }
    to.data = element(&to, at);
    from.data = element(&from, source);
    return nbi_grad_scaled(call->ctx, &to, &from, 1);
}

/* ---- Gather, Expand, Cast, Where ----------------------------------------------------------- */

static void gather_row(void *user, char *const *p, const int64_t *step, int64_t count) {
    double *to = (double *)(void *)p[1];
    const float *from = (const float *)(const void *)p[0];
    (void)user;
    for (int64_t i = 0; i < count; i++) to[i * step[1]] += (double)from[i * step[0]];
}

/* Index by index in ONNX order: an entry that is read often is one sum in double. */
static nb_status gather_add(const nbi_grad_call *call, double *sum) {
    int axis = ((const nbi_concat_params *)call->node->params)->axis, q = call->in[1].rank;
    const nbi_view *gx = &call->gin[0], *index = &call->in[1], *gy = &call->gout[0];
    nbi_view plain = *gx, from = {.dtype = NB_DTYPE_F32}, to = {.dtype = NB_DTYPE_F64};
    int64_t at[NBI_MAX_RANK] = {0}, count = nbi_view_count(index), dim = gx->dim[axis];
    nbi_view_contiguous(&plain);
    for (int i = 0; i < gx->rank; i++) {
        if (i == axis) continue;
        from.dim[from.rank] = to.dim[to.rank] = gx->dim[i];
        from.stride[from.rank++] = gy->stride[i < axis ? i : i + q - 1];
        to.stride[to.rank++] = plain.stride[i];
    }
    for (int64_t n = 0; n < count; n++) {
        int64_t where = 0, source = 0;
        for (int i = 0; i < q; i++) {
            where += at[i] * index->stride[i];
            source += at[i] * gy->stride[axis + i];
        }
        int64_t v = nbi_get_int(index->dtype, index->data, where);
        if (v < -dim || v >= dim)
            return nb_fail(call->ctx, NB_EFORMAT,
                           "node '%s' (Gather): index %lld is outside the dimension of %lld",
                           call->node->name, (long long)v, (long long)dim);
        from.data = element(gy, source);
        to.data = sum + (v < 0 ? v + dim : v) * plain.stride[axis];
        nbi_walk(2, (const nbi_view *const[]){&from, &to}, gather_row, NULL);
        for (int i = q - 1; i >= 0; i--) {
            if (++at[i] < index->dim[i]) break;
            at[i] = 0;
        }
    }
    return NB_OK;
}

nb_status nbi_grad_gather(const nbi_grad_call *call) {
    const nbi_view *gx = &call->gin[0];
    double *sum;
    if (!gx->data || nbi_view_count(gx) == 0) return NB_OK;
    NB_TRY(nbi_alloc(call->ctx, (size_t)nbi_view_count(gx), sizeof *sum, &sum));
    nb_status st = gather_add(call, sum);
    if (st == NB_OK) nbi_grad_store(gx, sum);
    nbi_free(sum);
    return st;
}

nb_status nbi_grad_expand(const nbi_grad_call *call) {
    if (!call->gin[0].data) return NB_OK;
    return nbi_grad_scaled(call->ctx, &call->gin[0], &call->gout[0], 1);
}

nb_status nbi_grad_cast(const nbi_grad_call *call) {
    if (!call->gin[0].data) return NB_OK;
    if (!nbi_dtype_is_float(call->out[0].dtype))
        return nb_fail(call->ctx, NB_EUNSUPPORTED, "node '%s' (Cast): no gradient flows through %s",
                       call->node->name, nbi_dtype_name(call->out[0].dtype));
    return nbi_grad_scaled(call->ctx, &call->gin[0], &call->gout[0], 1);
}

static void where_true(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *c = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = c[i] != 0 ? g[i] : 0;
}
static void where_false(const void *user, const float *const *x, int64_t n, float *out) {
    const float *g = x[0], *c = x[1];
    (void)user;
    for (int64_t i = 0; i < n; i++) out[i] = c[i] != 0 ? 0 : g[i];
}

nb_status nbi_grad_where(const nbi_grad_call *call) {
    for (int k = 1; k < 3; k++)
        if (call->gin[k].data)
            NB_TRY(nbi_grad_reduce(call->ctx, &call->gin[k], 2,
                                   (const nbi_view *const[]){&call->gout[0], &call->in[0]},
                                   k == 1 ? where_true : where_false, NULL));
    return NB_OK;
}
