/* MatMul as in NumPy: the last two dimensions multiply, those before broadcast, a vector gets a
 * dimension of 1 that is dropped again. Sums in double. */
#include "ops/op_grad.h"

/* Shapes with a vector's missing dimension put in: a is M,K, b is K,N. */
static void promote(const nbi_tensor *t, bool is_b, nbi_tensor *out) {
    *out = *t;
    if (t->rank != 1) return;
    out->rank = 2;
    out->dim[0] = is_b ? t->dim[0] : 1;
    out->dim[1] = is_b ? 1 : t->dim[0];
}

static nb_status infer(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    const nbi_tensor *ta = nbi_op_in(graph, node, 0), *tb = nbi_op_in(graph, node, 1);
    if (ta->rank < 0 || tb->rank < 0)
        return nbi_op_set_out(ctx, graph, node, 0, ta->dtype, -1, NULL);
    if (ta->rank == 0 || tb->rank == 0)
        return nbi_op_fail(ctx, node, "the number of dimensions", 0, "1 or more");
    nbi_tensor a, b;
    promote(ta, false, &a);
    promote(tb, true, &b);
    int64_t m = a.dim[a.rank - 2], k = a.dim[a.rank - 1], dim[NBI_MAX_RANK];
    int64_t kb = b.dim[b.rank - 2], n = b.dim[b.rank - 1];
    if (k >= 0 && kb >= 0 && k != kb)
        return nb_fail(ctx, NB_EFORMAT,
                       "node '%s' (MatMul): '%s' has %lld columns, '%s' has %lld "
                       "rows",
                       node->name, a.name, (long long)k, b.name, (long long)kb);
    a.rank -= 2;
    b.rank -= 2;
    int rank;
    NB_TRY(nbi_op_broadcast(ctx, node, &a, &b, &rank, dim));
    if (ta->rank > 1) dim[rank++] = m;
    if (tb->rank > 1) dim[rank++] = n;
    return nbi_op_set_out(ctx, graph, node, 0, ta->dtype, rank, dim);
}

static void cost(const nbi_graph *graph, const nbi_node *node, nbi_cost *out) {
    const nbi_tensor *a = nbi_op_in(graph, node, 0), *b = nbi_op_in(graph, node, 1);
    const nbi_tensor *y = nbi_op_out(graph, node, 0);
    out->macs = (double)nbi_tensor_count(y) * (double)a->dim[a->rank - 1];
    out->parameters = b->data ? (double)nbi_tensor_count(b) : 0;
}

static int64_t offset(const nbi_view *v, const int64_t *index, int rank) {
    int64_t at = 0;
    for (int i = 0; i < v->rank - 2; i++) {
        int64_t k = index[i + rank - (v->rank - 2)];
        if (v->dim[i] > 1) at += k * v->stride[i];
    }
    return at;
}

static nb_status forward(const nbi_op_call *call) {
    const nbi_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    int va = a->rank == 1, vb = b->rank == 1, batch = y->rank - !va - !vb;
    int64_t m = va ? 1 : a->dim[a->rank - 2], n = vb ? 1 : b->dim[b->rank - 1];
    int64_t depth = a->dim[a->rank - 1], am = va ? 0 : a->stride[a->rank - 2];
    int64_t ak = a->stride[a->rank - 1], bn = vb ? 0 : b->stride[b->rank - 1];
    int64_t bk = vb ? b->stride[0] : b->stride[b->rank - 2];
    int64_t ym = va ? 0 : y->stride[batch], yn = vb ? 0 : y->stride[y->rank - 1];
    int64_t index[NBI_MAX_RANK] = {0}, count = 1;
    for (int i = 0; i < batch; i++) count *= y->dim[i];
    for (int64_t c = 0; c < count; c++) {
        const float *pa = (const float *)a->data + (va ? 0 : offset(a, index, batch));
        const float *pb = (const float *)b->data + (vb ? 0 : offset(b, index, batch));
        float *py = y->data;
        for (int i = 0; i < batch; i++) py += index[i] * y->stride[i];
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t k = 0; k < depth; k++)
                    sum += (double)pa[i * am + k * ak] * (double)pb[j * bn + k * bk];
                py[i * ym + j * yn] = (float)sum;
            }
        for (int i = batch - 1; i >= 0; i--) {
            if (++index[i] < y->dim[i]) break;
            index[i] = 0;
        }
    }
    return NB_OK;
}

/* Strides of one operand as batch…,M,N: 0 where it broadcasts or is a vector. */
typedef struct matrix {
    int64_t batch[NBI_MAX_RANK], row, column;
} matrix;

static matrix strides_of(const nbi_view *v, int batch, bool no_rows, bool no_columns) {
    matrix m = {{0}, 0, 0};
    int axis = v->rank - 1;
    if (!no_columns) m.column = v->stride[axis--];
    if (!no_rows) m.row = v->stride[axis--];
    for (int i = batch - 1; axis >= 0; i--, axis--)
        if (v->dim[axis] > 1) m.batch[i] = v->stride[axis];
    return m;
}

typedef struct matmul_shape {
    int batch;
    int64_t dim[NBI_MAX_RANK], m, k, n;
    matrix a, b, y;
} matmul_shape;

/* The gradient of one operand: `to` is A or B, the sum runs over the batches along which it is
 * broadcast and over the dimension that it does not have. */
static nb_status operand(const nbi_grad_call *call, const matmul_shape *s, int which) {
    const nbi_view *gin = &call->gin[which];
    bool row_vector = call->in[0].rank == 1, column_vector = call->in[1].rank == 1;
    matrix to = strides_of(gin, s->batch, !which && row_vector, which && column_vector);
    nbi_product p = {
        .a = call->gout[0].data, .b = call->in[!which].data, .to = gin->data, .factor = 1};
    const matrix *other = which ? &s->a : &s->b;
    int own = which ? gin->rank - !column_vector - 1 : gin->rank - !row_vector - 1;
    for (int i = 0; i < s->batch; i++) {
        int axis = i - (s->batch - own);
        nbi_product_dim d = {s->dim[i], to.batch[i], s->y.batch[i], other->batch[i]};
        if (axis >= 0 && gin->dim[axis] == s->dim[i])
            p.out[p.n_out++] = d;
        else
            p.sum[p.n_sum++] = d;
    }
    if (which) {
        p.out[p.n_out++] = (nbi_product_dim){s->k, to.row, 0, s->a.column};
        p.out[p.n_out++] = (nbi_product_dim){s->n, to.column, s->y.column, 0};
        p.sum[p.n_sum++] = (nbi_product_dim){s->m, 0, s->y.row, s->a.row};
    } else {
        p.out[p.n_out++] = (nbi_product_dim){s->m, to.row, s->y.row, 0};
        p.out[p.n_out++] = (nbi_product_dim){s->k, to.column, 0, s->b.row};
        p.sum[p.n_sum++] = (nbi_product_dim){s->n, 0, s->y.column, s->b.column};
    }
    return nbi_product_run(call->ctx, &p);
}

/* gA = gY·Bᵀ, gB = Aᵀ·gY. */
static nb_status backward(const nbi_grad_call *call) {
    const nbi_view *a = &call->in[0], *b = &call->in[1], *y = &call->gout[0];
    bool va = a->rank == 1, vb = b->rank == 1;
    matmul_shape s = {.batch = y->rank - !va - !vb};
    for (int i = 0; i < s.batch; i++) s.dim[i] = y->dim[i];
    s.m = va ? 1 : a->dim[a->rank - 2];
    s.k = a->dim[a->rank - 1];
    s.n = vb ? 1 : b->dim[b->rank - 1];
    s.a = strides_of(a, s.batch, va, false);
    s.b = strides_of(b, s.batch, false, vb);
    s.y = strides_of(y, s.batch, va, vb);
    for (int i = 0; i < 2; i++)
        if (call->gin[i].data) NB_TRY(operand(call, &s, i));
    return NB_OK;
}

const nbi_op nbi_op_matmul = {.name = "MatMul",
                              .domain = "",
                              .min_opset = 1,
                              .min_in = 2,
                              .max_in = 2,
                              .min_out = 1,
                              .max_out = 1,
                              .flags = NBI_OP_STRIDED,
                              .prepare = nbi_op_prepare_none,
                              .infer = infer,
                              .cost = cost,
                              .forward = forward,
                              .backward = backward,
                              .keep_in = 3};
