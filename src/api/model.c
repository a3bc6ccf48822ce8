/* Models: reading, describing, one inference on tensor files. */
#include "api/api.h"

#include "api/untouched.h"
#include "exec/exec.h"
#include "onnx/onnx.h"
#include "ops/op_util.h"
#include "quant/generate.h"
#include "quant/import_qdq.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

nb_status nb_model_load(nb_ctx *ctx, const char *path, nb_model **out) {
    nb_model *m = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *m, &m));
    NB_TRYG(nbi_model_path(ctx, path, m->path, sizeof m->path));
    NB_TRYG(nbi_onnx_read(ctx, m->path, &m->graph));
    *out = m;
    return NB_OK;
done:
    nb_model_free(m);
    return st;
}

void nb_model_free(nb_model *model) {
    if (!model) return;
    nbi_graph_free(model->graph);
    nbi_free(model);
}

/* ---- info ------------------------------------------------------------------------------------ */

/* null: nothing is known of it. */
static json_t *shape_json(const nbi_tensor *t) {
    if (t->rank < 0) return json_null();
    json_t *dims = json_array();
    for (int i = 0; i < t->rank; i++) {
        if (t->dim[i] >= 0) json_array_append_new(dims, json_integer(t->dim[i]));
        else json_array_append_new(dims, json_string(t->dim_name[i] ? t->dim_name[i] : "?"));
    }
    return dims;
}

static json_t *ends_json(const nbi_graph *g, int n, const int *index) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        const nbi_tensor *t = g->tensor[index[i]];
        json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "name", t->name, "type",
                                              nbi_dtype_name(t->dtype), "shape", shape_json(t)));
    }
    return list;
}

/* Operators of the file, by count. */
static json_t *operators_json(const nbi_graph *g) {
    json_t *o = json_object();
    for (int i = 0; i < g->n_nodes; i++) {
        const char *type = g->node[i]->op_type;
        json_int_t n = json_integer_value(json_object_get(o, type));
        json_object_set_new(o, type, json_integer(n + 1));
    }
    return o;
}

/* Rows and totals from the graph at batch 1. */
static void add_layers(const nbi_graph *g, json_t *root) {
    json_t *rows = json_array();
    double macs = 0;
    int unknown = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const nbi_node *node = g->node[i];
        nbi_cost cost;
        nbi_node_cost(g, node, &cost);
        macs += cost.macs;
        json_t *row = json_pack("{s:s,s:s,s:f,s:f}", "name", node->name, "op", node->op_type,
                                "macs", cost.macs, "parameters", cost.parameters);
        if (node->n_out > 0 && node->out[0] >= 0) {
            const nbi_tensor *t = g->tensor[node->out[0]];
            json_object_set_new(row, "shape", shape_json(t));
            unknown += !nbi_shape_known(t);
        }
        json_array_append_new(rows, row);
    }
    json_object_set_new(root, "macs", nbi_json_number(macs));
    if (unknown) {
        json_object_set_new(root, "macs_partial", json_true());
        json_object_set_new(root, "unknown_shapes", json_integer(unknown));
    }
    json_object_set_new(root, "layers", rows);
}

enum { IS_SCALE = 1, IS_CODES = 2, IS_TABLE = 4 };

/* Integers that stand for values on their way to a DequantizeLinear: behind a Gather they are the
 * places in a table of levels. */
static void mark_codes(const nbi_graph *g, const nbi_node *node, uint8_t *role) {
    static const char *const moves[] = {"Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze"};
    if (*node->domain || node->n_in < 1 || node->n_out < 1 || node->out[0] < 0) return;
    if (!(role[node->out[0]] & IS_CODES) || node->in[0] < 0) return;
    if (!strcmp(node->op_type, "Gather") && node->n_in > 1 && node->in[1] >= 0) {
        bool looked_up = !g->tensor[node->in[1]]->data || g->tensor[node->in[0]]->rank == 1;
        role[node->in[0]] |= (uint8_t)(looked_up ? IS_TABLE : IS_CODES);
        if (looked_up) role[node->in[1]] |= (uint8_t)IS_CODES;
    }
    for (size_t i = 0; i < NBI_COUNT(moves); i++)
        if (!strcmp(node->op_type, moves[i])) role[node->in[0]] |= (uint8_t)IS_CODES;
}

/* Roles of tensors in a quantized file: scales, and integers that stand for values. */
static void mark_roles(const nbi_graph *g, uint8_t *role) {
    for (int i = 0; i < g->n_nodes; i++) {
        const nbi_node *node = g->node[i];
        bool back = !strcmp(node->op_type, "DequantizeLinear");
        if (!back && strcmp(node->op_type, "QuantizeLinear")) continue;
        if (node->n_in > 1 && node->in[1] >= 0) role[node->in[1]] |= (uint8_t)IS_SCALE;
        if (back && node->n_in > 0 && node->in[0] >= 0) role[node->in[0]] |= (uint8_t)IS_CODES;
    }
    for (int i = g->n_nodes - 1; i >= 0; i--) mark_codes(g, g->node[i], role);
}

/* Float constants but for scales, and the integer ones that DequantizeLinear reads. */
static nb_status parameters_of(nb_ctx *ctx, const nbi_graph *g, double *out) {
    uint8_t *role;
    NB_TRY(nbi_alloc(ctx, (size_t)g->n_tensors + 1, 1, &role));
    mark_roles(g, role);
    *out = 0;
    for (int i = 0; i < g->n_tensors; i++) {
        const nbi_tensor *t = g->tensor[i];
        if (t->data && !(role[i] & IS_TABLE) && (role[i] & IS_CODES || (t->dtype == NB_DTYPE_F32 && !role[i])))
            *out += (double)nbi_tensor_count(t);
    }
    nbi_free(role);
    return NB_OK;
}

nb_status nbi_refuse_quantized(nb_ctx *ctx, const nb_model *model) {
    if (!nbi_is_qdq(model->graph)) return NB_OK;
    return nb_fail(ctx, NB_EUNSUPPORTED, "'%.300s' is already quantized; give the float model it was "
                   "made from", model->path);
}

/* Why quantization would leave nodes as they are; the reasons are found by trying. */
static nb_status add_untouched(nb_ctx *ctx, const nb_model *model, const nbi_graph *one,
                               json_t *root) {
    nbi_graph *copy = NULL;
    nbi_qnet *net = NULL;
    nbi_qag_options o = {NBI_FIRST_LAST_8, 8};
    nb_status st = nbi_refuse_quantized(ctx, model);
    if (st == NB_OK) st = nbi_graph_copy(ctx, one, &copy);
    if (st == NB_OK) st = nbi_graph_infer(ctx, copy);
    if (st == NB_OK) st = nbi_generate(ctx, copy, &o, &net);
    else nbi_graph_free(copy);
    if (st != NB_OK)
        json_object_set_new(root, "not_quantizable", nbi_json_string(nb_ctx_message(ctx)));
    json_object_set_new(root, "unsupported", st == NB_OK ? nbi_untouched_names(net) : json_array());
    nbi_qnet_free(net);
    return st == NB_ENOMEM ? st : NB_OK;
}

static nb_status add_shaped(nb_ctx *ctx, const nb_model *model, json_t *root) {
    nbi_graph *one = NULL;
    nbi_exec *exec = NULL;
    nb_status st = nbi_specialize_batch(ctx, model->graph, 1, &one);
    if (st != NB_OK) {
        json_object_set_new(root, "not_runnable", json_string(nb_ctx_message(ctx)));
        return st == NB_EUNSUPPORTED ? NB_OK : st;
    }
    add_layers(one, root);
    if (nbi_exec_new(ctx, one, NBI_EXEC_PLAN_ONLY, &exec) == NB_OK)
        json_object_set_new(root, "peak_activation_bytes",
                            json_integer((json_int_t)nbi_exec_arena_bytes(exec)));
    else json_object_set_new(root, "not_runnable", json_string(nb_ctx_message(ctx)));
    nbi_exec_free(exec);
    st = add_untouched(ctx, model, one, root);
    nbi_graph_free(one);
    return st;
}

nb_status nb_model_info(nb_ctx *ctx, const nb_model *model, char **json) {
    nbi_json_begin();
    const nbi_graph *g = model->graph;
    double parameters;
    NB_TRY(parameters_of(ctx, g, &parameters));
    json_t *root = json_object();
    json_object_set_new(root, "path", nbi_json_string(model->path));
    json_object_set_new(root, "opset", json_integer(g->opset));
    json_object_set_new(root, "nodes", json_integer(g->n_nodes));
    json_object_set_new(root, "parameters", nbi_json_number(parameters));
    json_object_set_new(root, "inputs", ends_json(g, g->n_inputs, g->input));
    json_object_set_new(root, "outputs", ends_json(g, g->n_outputs, g->output));
    json_object_set_new(root, "operators", operators_json(g));
    nb_status st = add_shaped(ctx, model, root);
    if (st != NB_OK && st != NB_EFORMAT) {
        json_decref(root);
        return st;
    }
    NB_TRY(nbi_json_text(ctx, root, json));
    return st;
}

/* ---- run ------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && !strcmp(text + n - m, tail);
}

/* A .pb, .npy or .npz file as a new constant of `store`. */
static nb_status read_tensor(nb_ctx *ctx, const char *path, const char *name, nbi_graph *store,
                             int *out) {
    if (ends_with(path, ".npy")) return nbi_tensor_read_npy(ctx, path, store, out);
    if (ends_with(path, ".npz")) return nbi_tensor_read_npz(ctx, path, name, store, out);
    return nbi_tensor_read_pb(ctx, path, store, out);
}

/* A constant of `store` as operators see it: below 8 bits, an element per byte. */
static nb_status view_of(nb_ctx *ctx, nbi_graph *store, const nbi_tensor *t, nbi_view *v) {
    size_t count = (size_t)nbi_tensor_count(t);
    *v = (nbi_view){.dtype = nbi_view_dtype(t->dtype), .rank = t->rank, .data = t->data};
    memcpy(v->dim, t->dim, sizeof v->dim);
    nbi_view_contiguous(v);
    if (nbi_dtype_bits(t->dtype) >= 8) return NB_OK;
    v->data = nbi_arena_alloc(&store->arena, count + 1, 1);
    if (!v->data) return nb_fail_memory(ctx, count);
    nbi_bits_unpack(t->dtype, t->data, count, v->data);
    return NB_OK;
}

static nb_status bind_inputs(nb_ctx *ctx, const nbi_graph *g, const nb_run_options *o,
                             nbi_graph *store, nbi_view *views) {
    if ((int)o->n_inputs != g->n_inputs)
        return nb_fail(ctx, NB_EINVAL, "the model has %d inputs, %zu were given", g->n_inputs,
                       o->n_inputs);
    for (int i = 0; i < g->n_inputs; i++) {
        const nbi_tensor *want = g->tensor[g->input[i]];
        int t;
        NB_TRY(read_tensor(ctx, o->inputs[i], want->name, store, &t));
        const nbi_tensor *have = store->tensor[t];
        char a[96], b[96];
        if (have->dtype != want->dtype && want->dtype != NB_DTYPE_NONE)
            return nb_fail(ctx, NB_EFORMAT, "input '%s' is %s, '%s' holds %s", want->name,
                           nbi_dtype_name(want->dtype), o->inputs[i],
                           nbi_dtype_name(have->dtype));
        bool same = want->rank < 0 || have->rank == want->rank;
        for (int k = 0; same && k < want->rank; k++)
            same = want->dim[k] < 0 || want->dim[k] == have->dim[k];
        if (!same)
            return nb_fail(ctx, NB_EFORMAT, "input '%s' is %s, '%s' holds %s", want->name,
                           nbi_shape_text(want, a, sizeof a), o->inputs[i],
                           nbi_shape_text(have, b, sizeof b));
        NB_TRY(view_of(ctx, store, have, &views[i]));
    }
    return NB_OK;
}

static double element(const nbi_view *v, int64_t i) {
    switch (v->dtype) {
    case NB_DTYPE_F32:
        return (double)((const float *)v->data)[i];
    case NB_DTYPE_F64:
        return ((const double *)v->data)[i];
    case NB_DTYPE_S8:
        return ((const int8_t *)v->data)[i];
    case NB_DTYPE_U8:
    case NB_DTYPE_BOOL:
        return ((const uint8_t *)v->data)[i];
    case NB_DTYPE_S16:
        return ((const int16_t *)v->data)[i];
    case NB_DTYPE_U16:
        return ((const uint16_t *)v->data)[i];
    case NB_DTYPE_S32:
        return ((const int32_t *)v->data)[i];
    case NB_DTYPE_U32:
        return ((const uint32_t *)v->data)[i];
    case NB_DTYPE_S64:
        return (double)((const int64_t *)v->data)[i];
    case NB_DTYPE_U64:
        return (double)((const uint64_t *)v->data)[i];
    default:
        return NAN;
    }
}

/* Largest |a − b|; *bad when it is outside the ONNX backend tests' tolerances. */
static double difference(const nbi_view *a, const nbi_view *b, bool *bad) {
    double worst = 0;
    *bad |= a->rank != b->rank || a->dtype != b->dtype;
    for (int i = 0; !*bad && i < a->rank; i++) *bad = a->dim[i] != b->dim[i];
    if (*bad) return INFINITY;
    for (int64_t i = 0, n = nbi_view_count(a); i < n; i++) {
        double x = element(a, i), y = element(b, i);
        if (x == y || (isnan(x) && isnan(y))) continue;
        double d = fabs(x - y);
        if (!(d <= 1e-7 + 1e-3 * fabs(y))) *bad = true;
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* Output i as a contiguous tensor of `store`. */
static nb_status take_output(nb_ctx *ctx, const nbi_exec *exec, const nbi_graph *g, int i,
                             nbi_graph *store, const nbi_tensor **out) {
    nbi_view v, to;
    int t;
    NB_TRY(nbi_exec_value(ctx, exec, g->output[i], &v));
    NB_TRY(nbi_graph_add_const(ctx, store, g->tensor[g->output[i]]->name, v.dtype, v.rank, v.dim,
                               &t));
    NB_TRY(view_of(ctx, store, store->tensor[t], &to));
    nbi_view_copy(&to, &v);
    *out = store->tensor[t];
    return NB_OK;
}

/* What came of the comparisons: the first output that differs, and from which file. */
typedef struct mismatch {
    char name[256];
    const char *file; /* NULL: none differs */
    double by;        /* largest difference; infinite: another shape or type */
    double worst;     /* of all outputs */
} mismatch;

static nb_status compare_output(nb_ctx *ctx, const nbi_tensor *t, const char *file,
                                nbi_graph *store, json_t *row, mismatch *m) {
    nbi_view v, expected;
    bool bad = false;
    int e;
    NB_TRY(read_tensor(ctx, file, t->name, store, &e));
    NB_TRY(view_of(ctx, store, t, &v));
    NB_TRY(view_of(ctx, store, store->tensor[e], &expected));
    double d = difference(&v, &expected, &bad);
    json_object_set_new(row, "error", isfinite(d) ? json_real(d) : json_null());
    m->worst = fmax(m->worst, d);
    if (!bad || m->file) return NB_OK;
    snprintf(m->name, sizeof m->name, "%s", t->name);
    m->file = file;
    m->by = d;
    return NB_OK;
}

static nb_status fail_mismatch(nb_ctx *ctx, const mismatch *m) {
    if (!m->file) return NB_OK;
    if (!isfinite(m->by))
        return nb_fail(ctx, NB_EMISMATCH, "output '%s' differs from '%s' in shape, type or by an "
                       "infinite or undefined value", m->name, m->file);
    return nb_fail(ctx, NB_EMISMATCH, "output '%s' differs from '%s' by up to %.6g", m->name,
                   m->file, m->by);
}

static nb_status finish_output(nb_ctx *ctx, const nbi_tensor *t, const nb_run_options *o, int i,
                               nbi_graph *store, json_t *list, mismatch *m) {
    nbi_view v;
    double lo = INFINITY, hi = -INFINITY;
    NB_TRY(view_of(ctx, store, t, &v));
    for (int64_t k = 0, n = nbi_view_count(&v); k < n; k++) {
        lo = fmin(lo, element(&v, k));
        hi = fmax(hi, element(&v, k));
    }
    json_t *row = json_pack("{s:s,s:o,s:s}", "name", t->name, "shape", shape_json(t), "type",
                            nbi_dtype_name(t->dtype));
    if (isfinite(lo)) json_object_set_new(row, "min", json_real(lo));
    if (isfinite(hi)) json_object_set_new(row, "max", json_real(hi));
    json_array_append_new(list, row);
    if (o->output_folder) {
        nbi_buf path = {0};
        nb_status st = nbi_buf_printf(ctx, &path, "%s/output_%d.pb", o->output_folder, i);
        if (st == NB_OK) st = nbi_tensor_write_pb(ctx, t, path.data);
        nbi_buf_free(&path);
        NB_TRY(st);
    }
    return (size_t)i < o->n_expect ? compare_output(ctx, t, o->expect[i], store, row, m) : NB_OK;
}

static nb_status run_model(nb_ctx *ctx, const nbi_graph *graph, const nb_run_options *o,
                           nbi_graph *store, json_t *root, mismatch *m) {
    nbi_graph *g = NULL;
    nbi_exec *exec = NULL;
    nbi_view views[64];
    const void *inputs[64];
    json_t *list = json_array();
    nb_status st;
    json_object_set_new(root, "outputs", list);
    if (graph->n_inputs > 64)
        return nb_fail(ctx, NB_EUNSUPPORTED, "the model has %d inputs", graph->n_inputs);
    if (o->n_expect > (size_t)graph->n_outputs)
        return nb_fail(ctx, NB_EINVAL, "%zu files are expected outputs, the model has %d outputs",
                       o->n_expect, graph->n_outputs);
    NB_TRY(bind_inputs(ctx, graph, o, store, views));
    if (o->output_folder) NB_TRY(nbi_make_folder(ctx, o->output_folder));
    NB_TRYG(nbi_specialize(ctx, graph, views, &g));
    NB_TRYG(nbi_exec_new(ctx, g, 0, &exec));
    for (int i = 0; i < graph->n_inputs; i++) inputs[i] = views[i].data;
    NB_TRYG(nbi_exec_run(ctx, exec, inputs));
    for (int i = 0; i < g->n_outputs; i++) {
        const nbi_tensor *t;
        NB_TRYG(take_output(ctx, exec, g, i, store, &t));
        NB_TRYG(finish_output(ctx, t, o, i, store, list, m));
    }
    if (o->n_expect)
        json_object_set_new(root, "max_abs_error",
                            isfinite(m->worst) ? json_real(m->worst) : json_null());
done:
    nbi_exec_free(exec);
    nbi_graph_free(g);
    return st;
}

nb_status nb_model_run(nb_ctx *ctx, const nb_model *model, const nb_run_options *options,
                       char **json) {
    nbi_json_begin();
    nbi_graph *store = NULL;
    json_t *root = json_object();
    mismatch m = {.file = NULL};
    nb_status st = nbi_graph_new(ctx, &store);
    if (st == NB_OK) st = run_model(ctx, model->graph, options, store, root, &m);
    nbi_graph_free(store);
    if (st != NB_OK) {
        json_decref(root);
        return st;
    }
    NB_TRY(nbi_json_text(ctx, root, json));
    return fail_mismatch(ctx, &m);
}
