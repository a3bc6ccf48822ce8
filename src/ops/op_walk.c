/* Element access by dtype, and the walk that all element-wise operators share: axes are sorted by
 * the output's strides and merged, so that contiguous and channels-last tensors are one long row.
 */
#include "ops/op_util.h"

#include <math.h>
#include <string.h>

bool nbi_dtype_is_float(nb_dtype dtype) {
    return dtype == NB_DTYPE_F32 || dtype == NB_DTYPE_F64;
}

nb_dtype nbi_view_dtype(nb_dtype dtype) {
    if (dtype == NB_DTYPE_S4 || dtype == NB_DTYPE_S2) return NB_DTYPE_S8;
    if (dtype == NB_DTYPE_U4 || dtype == NB_DTYPE_U2) return NB_DTYPE_U8;
    return dtype;
}

int64_t nbi_get_int(nb_dtype dtype, const void *data, int64_t i) {
    switch (dtype) {
    case NB_DTYPE_S8:
        return ((const int8_t *)data)[i];
    case NB_DTYPE_U8:
        return ((const uint8_t *)data)[i];
    case NB_DTYPE_BOOL:
        return ((const uint8_t *)data)[i] != 0;
    case NB_DTYPE_S16:
        return ((const int16_t *)data)[i];
    case NB_DTYPE_U16:
        return ((const uint16_t *)data)[i];
    case NB_DTYPE_S32:
        return ((const int32_t *)data)[i];
    case NB_DTYPE_U32:
        return ((const uint32_t *)data)[i];
    case NB_DTYPE_S64:
        return ((const int64_t *)data)[i];
    case NB_DTYPE_U64:
        return (int64_t)((const uint64_t *)data)[i];
    case NB_DTYPE_F32:
    case NB_DTYPE_F64: {
        /* Towards zero; what C leaves undefined (NaN, out of range) becomes the nearest end. */
        double v = nbi_get_real(dtype, data, i);
        if (!(v > -9223372036854775808.0)) return INT64_MIN;
        if (v >= 9223372036854775808.0) return INT64_MAX;
        return (int64_t)v;
    }
    default:
        return 0;
    }
}

double nbi_get_real(nb_dtype dtype, const void *data, int64_t i) {
    if (dtype == NB_DTYPE_F32) return (double)((const float *)data)[i];
    if (dtype == NB_DTYPE_F64) return ((const double *)data)[i];
    if (dtype == NB_DTYPE_U64) return (double)((const uint64_t *)data)[i];
    return (double)nbi_get_int(dtype, data, i);
}

/* Integers wrap, as in NumPy. */
void nbi_set_int(nb_dtype dtype, void *data, int64_t i, int64_t value) {
    switch (dtype) {
    case NB_DTYPE_S8:
        ((int8_t *)data)[i] = (int8_t)value;
        break;
    case NB_DTYPE_U8:
        ((uint8_t *)data)[i] = (uint8_t)value;
        break;
    case NB_DTYPE_BOOL:
        ((uint8_t *)data)[i] = value != 0;
        break;
    case NB_DTYPE_S16:
        ((int16_t *)data)[i] = (int16_t)value;
        break;
    case NB_DTYPE_U16:
        ((uint16_t *)data)[i] = (uint16_t)value;
        break;
    case NB_DTYPE_S32:
        ((int32_t *)data)[i] = (int32_t)value;
        break;
    case NB_DTYPE_U32:
        ((uint32_t *)data)[i] = (uint32_t)value;
        break;
    case NB_DTYPE_S64:
        ((int64_t *)data)[i] = value;
        break;
    case NB_DTYPE_U64:
        ((uint64_t *)data)[i] = (uint64_t)value;
        break;
    case NB_DTYPE_F32:
        ((float *)data)[i] = (float)value;
        break;
    case NB_DTYPE_F64:
        ((double *)data)[i] = (double)value;
        break;
    default:
        break;
    }
}

void nbi_set_real(nb_dtype dtype, void *data, int64_t i, double value) {
    if (dtype == NB_DTYPE_F32)
        ((float *)data)[i] = (float)value;
    else if (dtype == NB_DTYPE_F64)
        ((double *)data)[i] = value;
    else if (dtype == NB_DTYPE_BOOL)
        ((uint8_t *)data)[i] = value != 0;
    else
        nbi_set_int(dtype, data, i, nbi_get_int(NB_DTYPE_F64, &value, 0));
}

static bool is_signed(nb_dtype dtype) {
    return dtype == NB_DTYPE_S4 || dtype == NB_DTYPE_S2;
}

void nbi_bits_unpack(nb_dtype dtype, const void *packed, size_t count, void *out) {
    unsigned bits = (unsigned)nbi_dtype_bits(dtype), per = 8 / bits, mask = (1u << bits) - 1;
    const uint8_t *from = packed;
    int8_t *to = out;
    for (size_t i = 0; i < count; i++) {
        int v = (int)((unsigned)from[i / per] >> (i % per * bits) & mask);
        if (is_signed(dtype) && v > (int)(mask >> 1)) v -= (int)mask + 1;
        to[i] = (int8_t)v;
    }
}

void nbi_bits_pack(nb_dtype dtype, const void *elements, size_t count, void *packed) {
    unsigned bits = (unsigned)nbi_dtype_bits(dtype), per = 8 / bits, mask = (1u << bits) - 1;
    const uint8_t *from = elements;
    uint8_t *to = packed;
    memset(to, 0, nbi_dtype_bytes(dtype, count));
    for (size_t i = 0; i < count; i++)
        to[i / per] = (uint8_t)(to[i / per] | (from[i] & mask) << (i % per * bits));
}

typedef struct walk {
    int n_views, rank;
    int64_t dim[NBI_MAX_RANK];
    int64_t stride[NBI_WALK_VIEWS][NBI_MAX_RANK];
} walk;

static void swap_axes(walk *w, int a, int b) {
    int64_t t = w->dim[a];
    w->dim[a] = w->dim[b];
    w->dim[b] = t;
    for (int v = 0; v < w->n_views; v++) {
        t = w->stride[v][a];
        w->stride[v][a] = w->stride[v][b];
        w->stride[v][b] = t;
    }
}

static void make_walk(walk *w, int n_views, const nbi_view *const *v) {
    w->n_views = n_views;
    w->rank = 0;
    for (int a = 0; a < v[0]->rank; a++) {
        if (v[0]->dim[a] == 1) continue;
        w->dim[w->rank] = v[0]->dim[a];
        for (int k = 0; k < n_views; k++) {
            int axis = a - (v[0]->rank - v[k]->rank);
            w->stride[k][w->rank] =
                axis < 0 || (v[k]->dim[axis] == 1 && k > 0) ? 0 : v[k]->stride[axis];
        }
        w->rank++;
    }
    for (int a = 1; a < w->rank; a++)
        for (int b = a; b > 0 && w->stride[0][b] > w->stride[0][b - 1]; b--) swap_axes(w, b, b - 1);
    for (int a = w->rank - 2; a >= 0; a--) {
        bool merge = true;
        for (int k = 0; k < n_views; k++)
            merge &= w->stride[k][a] == w->stride[k][a + 1] * w->dim[a + 1];
        if (!merge) continue;
        w->dim[a] *= w->dim[a + 1];
        for (int k = 0; k < n_views; k++) w->stride[k][a] = w->stride[k][a + 1];
        for (int b = a + 1; b + 1 < w->rank; b++) {
            w->dim[b] = w->dim[b + 1];
            for (int k = 0; k < n_views; k++) w->stride[k][b] = w->stride[k][b + 1];
        }
        w->rank--;
    }
}

void nbi_walk_planes(int n_views, const nbi_view *const *v, nbi_plane_fn fn, void *user) {
    if (nbi_view_count(v[0]) == 0) return;
    walk w;
    make_walk(&w, n_views, v);
    int last = w.rank - 1;
    int64_t index[NBI_MAX_RANK] = {0}, step[NBI_WALK_VIEWS] = {0}, outer[NBI_WALK_VIEWS] = {0};
    int64_t count = last < 0 ? 1 : w.dim[last], rows = last < 1 ? 1 : w.dim[last - 1];
    char *p[NBI_WALK_VIEWS] = {0};
    int64_t size[NBI_WALK_VIEWS];
    for (int k = 0; k < n_views; k++) {
        size[k] = nbi_dtype_bits(v[k]->dtype) / 8;
        step[k] = last < 0 ? 0 : w.stride[k][last];
        outer[k] = last < 1 ? 0 : w.stride[k][last - 1];
    }
    for (;;) {
        for (int k = 0; k < n_views; k++) {
            int64_t at = 0;
            for (int a = 0; a < last - 1; a++) at += index[a] * w.stride[k][a];
            p[k] = (char *)v[k]->data + at * size[k];
        }
        fn(user, p, step, count, outer, rows);
        int a = last - 2;
        for (; a >= 0; a--) {
            if (++index[a] < w.dim[a]) break;
            index[a] = 0;
        }
        if (a < 0) return;
    }
}

typedef struct row_walk {
    nbi_row_fn fn;
    void *user;
    int n_views;
    int64_t size[NBI_WALK_VIEWS];
} row_walk;

static void rows_of_plane(void *user, char *const *p, const int64_t *step, int64_t count,
                          const int64_t *outer, int64_t rows) {
    const row_walk *w = user;
    char *q[NBI_WALK_VIEWS] = {0};
    for (int k = 0; k < w->n_views; k++) q[k] = p[k];
    for (int64_t r = 0; r < rows; r++) {
        w->fn(w->user, q, step, count);
        for (int k = 0; k < w->n_views; k++) q[k] += outer[k] * w->size[k];
    }
}

void nbi_walk(int n_views, const nbi_view *const *v, nbi_row_fn fn, void *user) {
    row_walk w = {.fn = fn, .user = user, .n_views = n_views};
    for (int k = 0; k < n_views; k++) w.size[k] = nbi_dtype_bits(v[k]->dtype) / 8;
    nbi_walk_planes(n_views, v, rows_of_plane, &w);
}
