/* Tables: any element-wise function of one tensor is evaluated by its own float operators on the 256
 * values that a byte can have (along a batch axis of 256), then quantized. */
#include "ops/op.h"
#include "runtime/lower_parts.h"
#include "schemes/choice.h"

#include <math.h>
#include <string.h>

/* The level that a raw byte stands for. */
static int32_t value_of_byte(const nbi_qparam *q, int byte) {
    return q->dtype == NB_DTYPE_S8 ? (int8_t)byte : byte;
}

static void view_of_columns(nbi_view *v, int rank, int channels, float *data) {
    *v = (nbi_view){.dtype = NB_DTYPE_F32, .rank = rank, .data = data};
    for (int i = 0; i < rank; i++) v->dim[i] = 1;
    v->dim[0] = 256;
    if (rank > 1) v->dim[1] = channels;
    nbi_view_contiguous(v);
}

/* values[256][channels]: applies the layer's nodes in order. */
static nb_status apply_nodes(nb_ctx *ctx, const nbi_qnet *net, const nbi_layer *l, int rank,
                             int channels, float *values, float *other) {
    for (int i = 0; i < l->n_nodes; i++) {
        const nbi_node *node = net->graph->node[l->node[i]];
        nbi_view in[8] = {{0}}, out;
        if (node->n_in > 8 || !node->op || !node->op->forward)
            return nb_fail(ctx, NB_EUNSUPPORTED, "node '%s' (%s) cannot become a table", node->name,
                           node->op_type);
        for (int k = 0; k < node->n_in; k++) {
            if (node->in[k] < 0) continue;
            const nbi_tensor *t = net->graph->tensor[node->in[k]];
            if (t->data) {
                in[k] = (nbi_view){.dtype = t->dtype, .rank = t->rank, .data = t->data};
                memcpy(in[k].dim, t->dim, sizeof t->dim);
                nbi_view_contiguous(&in[k]);
            } else {
                view_of_columns(&in[k], rank, channels, values);
            }
        }
        view_of_columns(&out, rank, channels, other);
        nbi_op_call call = {ctx, net->graph, node, in, &out, 0};
        NB_TRY(node->op->forward(&call));
        memcpy(values, other, (size_t)256 * (size_t)channels * sizeof *values);
    }
    return NB_OK;
}

/* values[256][channels] (by raw byte) → tables on the output grid; equal ones are merged. */
static nb_status make_table(nb_ctx *ctx, const nbi_layer *l, const nbi_qparam *y,
                            const float *values, int channels, int32_t count, nbi_arena *arena,
                            nbk_lut *out) {
    int32_t lo = y->lo, hi = y->hi;
    uint8_t *table = nbi_arena_alloc(arena, (size_t)channels * 256, 1);
    if (!table) return nb_fail_memory(ctx, (size_t)channels * 256);
    if (l) nbi_clamp_range(l, y, &lo, &hi);
    bool equal = true;
    for (int c = 0; c < channels; c++) {
        for (int b = 0; b < 256; b++) {
            int32_t v = nbi_quantize(y, values[b * channels + c]);
            table[c * 256 + b] = (uint8_t)(v < lo ? lo : v > hi ? hi : v);
        }
        equal &= memcmp(table, table + c * 256, 256) == 0;
    }
    if (!equal && channels > INT16_MAX)
        return nb_fail(ctx, NB_EUNSUPPORTED, "tables for %d channels; at most %d are possible",
                       channels, INT16_MAX);
    *out = (nbk_lut){.count = count, .channels = (int16_t)(equal ? 1 : channels), .table = table};
    return NB_OK;
}

/* A requantization whose table a scheme's levels or a file give. */
static nb_status given_table(nb_ctx *ctx, const nbi_layer *l, const nbi_qparam *x,
                             const nbi_qparam *y, int32_t count, nbi_arena *arena, nbk_lut *out) {
    uint8_t *table = nbi_arena_alloc(arena, 256, 1);
    if (!table) return nb_fail_memory(ctx, 256);
    unsigned from = x->dtype == NB_DTYPE_S8 ? 128 : 0, to = y->dtype == NB_DTYPE_S8 ? 128 : 0;
    if (!l->lut) nbi_levels_table(y, x, table);
    for (unsigned b = 0; l->lut && b < 256; b++) table[b] = (uint8_t)(l->lut[b ^ from] ^ to);
    *out = (nbk_lut){.count = count, .channels = 1, .table = table};
    return NB_OK;
}

/* Behind a function: its table, then that of the levels, in one. */
static nb_status compose(nb_ctx *ctx, const nbi_qparam *y, nbi_arena *arena, nbk_lut *lut) {
    size_t n = (size_t)lut->channels * 256;
    uint8_t last[256], *table = nbi_arena_alloc(arena, n, 1);
    if (!table) return nb_fail_memory(ctx, n);
    nbi_levels_table(y, &y->levels->first, last);
    for (size_t i = 0; i < n; i++) table[i] = last[lut->table[i]];
    lut->table = table;
    return NB_OK;
}

nb_status nbi_lower_unary(nb_ctx *ctx, const nbi_qnet *net, int index, const nbi_qparam *site,
                          nbi_arena *arena, nbi_step *step) {
    const nbi_layer *l = &net->layer[index];
    const nbi_edge *in = &net->edge[l->in[0]], *out = &net->edge[l->out];
    const nbi_qparam *x = &site[in->site], *y = &site[out->site];
    int rank = in->rank < 2 ? 2 : in->rank, channels = in->rank < 2 || in->rank > 4 ? 1 : in->c;
    size_t n = (size_t)256 * (size_t)channels;
    int32_t count = out->h * out->w * out->c;
    float *values = NULL, *other = NULL;
    nb_status st;
    step->type = NBI_STEP_LUT;
    if (l->type == NBI_LAYER_REQUANT && (y->levels || l->lut))
        return given_table(ctx, l, x, y, count, arena, &step->u.lut);
    NB_TRYG(nbi_alloc(ctx, n, sizeof *values, &values));
    NB_TRYG(nbi_alloc(ctx, n, sizeof *other, &other));
    for (int b = 0; b < 256; b++)
        for (int c = 0; c < channels; c++)
            values[b * channels + c] = (float)(x->scale * (value_of_byte(x, b) - x->zero));
    if (l->type == NBI_LAYER_UNARY)
        NB_TRYG(apply_nodes(ctx, net, l, rank, channels, values, other));
    NB_TRYG(make_table(ctx, l, nbi_made_grid(y), values, channels, count, arena, &step->u.lut));
    if (y->levels) st = compose(ctx, y, arena, &step->u.lut);
done:
    nbi_free(values);
    nbi_free(other);
    return st;
}

nb_status nbi_lower_input(nb_ctx *ctx, const nbi_qnet *net, const nbi_qparam *site,
                          nbi_arena *arena, nbi_step *step) {
    const nbi_edge *e = &net->edge[net->input];
    float values[256 * 4];
    for (int b = 0; b < 256; b++)
        for (int c = 0; c < e->c; c++) values[b * e->c + c] = net->input_table[c][b];
    *step = (nbi_step){.type = NBI_STEP_LUT, .name = e->name, .n_in = 1, .out = net->input};
    return make_table(ctx, NULL, &site[e->site], values, e->c, e->h * e->w * e->c, arena,
                      &step->u.lut);
}
