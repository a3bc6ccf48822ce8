#include "ops/op_groups.h"

/* Contiguous strides with the axis of the groups outermost. */
static void group_major(nbi_view *v, int axis) {
    int64_t step = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        if (i == axis) continue;
        v->stride[i] = step;
        step *= v->dim[i];
    }
    if (axis >= 0) v->stride[axis] = step;
}

bool nbi_is_grouped(const nbi_view *v, int axis) {
    int64_t count = nbi_view_count(v), reach = 1;
    for (int i = 0; i < v->rank; i++) {
        if (v->dim[i] > 1 && v->stride[i] <= 0) return false;
        reach += (v->dim[i] - 1) * v->stride[i];
    }
    /* positive strides that reach the last of `count` distinct places leave no gap */
    if (reach != count) return false;
    return axis < 0 || v->dim[axis] <= 1 || v->stride[axis] == count / v->dim[axis];
}

bool nbi_same_strides(const nbi_view *a, const nbi_view *b) {
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] > 1 && a->stride[i] != b->stride[i]) return false;
    return true;
}

nb_status nbi_grouped(nb_ctx *ctx, const nbi_view *v, int axis, bool direct, bool fill,
                      float **copy, float **out) {
    if (direct) {
        *out = v->data;
        return NB_OK;
    }
    nbi_view to = *v;
    NB_TRY(nbi_alloc(ctx, (size_t)nbi_view_count(v), sizeof **copy, copy));
    group_major(&to, axis);
    to.data = *copy;
    if (fill) nbi_view_copy(&to, v);
    *out = *copy;
    return NB_OK;
}

void nbi_ungroup(const nbi_view *to, int axis, float *from) {
    nbi_view v = *to;
    group_major(&v, axis);
    v.data = from;
    nbi_view_copy(to, &v);
}
