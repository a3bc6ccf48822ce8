/* Element-wise functions of one value. Computed in double and rounded once: the oracle of whatever
 * runs faster. Integers pass through the same functions (Abs, Neg). */
#include "ops/op_grad.h"

#include <math.h>

typedef double (*unary_fn)(double x, const nbi_unary_params *p);

static nb_status prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    return nbi_op_params(ctx, graph, node, sizeof(nbi_unary_params));
}

static nb_status leakyrelu_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(prepare(ctx, graph, node));
    ((nbi_unary_params *)node->params)->alpha = nbi_attr_float(node, "alpha", 0.01f);
    return NB_OK;
}

static nb_status hardsigmoid_prepare(nb_ctx *ctx, nbi_graph *graph, nbi_node *node) {
    NB_TRY(prepare(ctx, graph, node));
    nbi_unary_params *p = node->params;
    p->alpha = nbi_attr_float(node, "alpha", 0.2f);
    p->beta = nbi_attr_float(node, "beta", 0.5f);
    return NB_OK;
}

typedef struct unary_call {
    unary_fn fn;
    const nbi_unary_params *p;
    nb_dtype dtype;
} unary_call;

static void row(void *user, char *const *p, const int64_t *step, int64_t count) {
    const unary_call *c = user;
    if (c->dtype == NB_DTYPE_F32) {
        float *y = (float *)(void *)p[0];
        const float *x = (const float *)(const void *)p[1];
        for (int64_t i = 0; i < count; i++)
            y[i * step[0]] = (float)c->fn((double)x[i * step[1]], c->p);
    } else {
        for (int64_t i = 0; i < count; i++)
            nbi_set_real(c->dtype, p[0], i * step[0],
                         c->fn(nbi_get_real(c->dtype, p[1], i * step[1]), c->p));
    }
}

static nb_status run(const nbi_op_call *call, unary_fn fn) {
    unary_call c = {fn, call->node->params, call->out[0].dtype};
    nbi_walk(2, (const nbi_view *const[]){&call->out[0], &call->in[0]}, row, &c);
    return NB_OK;
}

static double clamp01(double v) {
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

static double f_leakyrelu(double x, const nbi_unary_params *p) {
    return x < 0 ? x * (double)p->alpha : x;
}
static double f_sigmoid(double x, const nbi_unary_params *p) {
    (void)p;
    return 1 / (1 + exp(-x));
}
static double f_hardsigmoid(double x, const nbi_unary_params *p) {
    return clamp01(x * (double)p->alpha + (double)p->beta);
}
static double f_hardswish(double x, const nbi_unary_params *p) {
    (void)p;
    return x * clamp01(x / 6 + 0.5);
}
static double f_tanh(double x, const nbi_unary_params *p) {
    (void)p;
    return tanh(x);
}
static double f_exp(double x, const nbi_unary_params *p) {
    (void)p;
    return exp(x);
}
static double f_log(double x, const nbi_unary_params *p) {
    (void)p;
    return log(x);
}
static double f_sqrt(double x, const nbi_unary_params *p) {
    (void)p;
    return sqrt(x);
}
static double f_neg(double x, const nbi_unary_params *p) {
    (void)p;
    return -x;
}
static double f_abs(double x, const nbi_unary_params *p) {
    (void)p;
    return fabs(x);
}
static double f_erf(double x, const nbi_unary_params *p) {
    (void)p;
    return erf(x);
}
static double f_floor(double x, const nbi_unary_params *p) {
    (void)p;
    return floor(x);
}
static double f_ceil(double x, const nbi_unary_params *p) {
    (void)p;
    return ceil(x);
}
static double f_reciprocal(double x, const nbi_unary_params *p) {
    (void)p;
    return 1 / x;
}

static nb_status forward_leakyrelu(const nbi_op_call *call) {
    return run(call, f_leakyrelu);
}
static nb_status forward_sigmoid(const nbi_op_call *call) {
    return run(call, f_sigmoid);
}
static nb_status forward_hardsigmoid(const nbi_op_call *call) {
    return run(call, f_hardsigmoid);
}
static nb_status forward_hardswish(const nbi_op_call *call) {
    return run(call, f_hardswish);
}
static nb_status forward_tanh(const nbi_op_call *call) {
    return run(call, f_tanh);
}
static nb_status forward_exp(const nbi_op_call *call) {
    return run(call, f_exp);
}
static nb_status forward_log(const nbi_op_call *call) {
    return run(call, f_log);
}
static nb_status forward_sqrt(const nbi_op_call *call) {
    return run(call, f_sqrt);
}
static nb_status forward_neg(const nbi_op_call *call) {
    return run(call, f_neg);
}
static nb_status forward_abs(const nbi_op_call *call) {
    return run(call, f_abs);
}
static nb_status forward_erf(const nbi_op_call *call) {
    return run(call, f_erf);
}
static nb_status forward_floor(const nbi_op_call *call) {
    return run(call, f_floor);
}
static nb_status forward_ceil(const nbi_op_call *call) {
    return run(call, f_ceil);
}
static nb_status forward_reciprocal(const nbi_op_call *call) {
    return run(call, f_reciprocal);
}

#define UNARY_FLAGS (NBI_OP_STRIDED | NBI_OP_ELEMENTWISE | NBI_OP_INPLACE | NBI_OP_GRAD_INPLACE)
const nbi_op nbi_op_leakyrelu = {.name = "LeakyRelu",
                                 .types = NBI_TYPES_NUMBER,
                                 .domain = "",
                                 .min_opset = 1,
                                 .min_in = 1,
                                 .max_in = 1,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = UNARY_FLAGS,
                                 .prepare = leakyrelu_prepare,
                                 .infer = nbi_op_infer_same,
                                 .forward = forward_leakyrelu,
                                 .backward = nbi_grad_leakyrelu,
                                 .keep_in = 1};
const nbi_op nbi_op_sigmoid = {.name = "Sigmoid",
                               .types = NBI_TYPES_NUMBER,
                               .domain = "",
                               .min_opset = 1,
                               .min_in = 1,
                               .max_in = 1,
                               .min_out = 1,
                               .max_out = 1,
                               .flags = UNARY_FLAGS,
                               .prepare = prepare,
                               .infer = nbi_op_infer_same,
                               .forward = forward_sigmoid,
                               .backward = nbi_grad_sigmoid,
                               .keep_out = 1};
const nbi_op nbi_op_hardsigmoid = {.name = "HardSigmoid",
                                   .types = NBI_TYPES_NUMBER,
                                   .domain = "",
                                   .min_opset = 1,
                                   .min_in = 1,
                                   .max_in = 1,
                                   .min_out = 1,
                                   .max_out = 1,
                                   .flags = UNARY_FLAGS,
                                   .prepare = hardsigmoid_prepare,
                                   .infer = nbi_op_infer_same,
                                   .forward = forward_hardsigmoid,
                                   .backward = nbi_grad_hardsigmoid,
                                   .keep_out = 1};
const nbi_op nbi_op_hardswish = {.name = "HardSwish",
                                 .types = NBI_TYPES_NUMBER,
                                 .domain = "",
                                 .min_opset = 14,
                                 .min_in = 1,
                                 .max_in = 1,
                                 .min_out = 1,
                                 .max_out = 1,
                                 .flags = UNARY_FLAGS,
                                 .prepare = prepare,
                                 .infer = nbi_op_infer_same,
                                 .forward = forward_hardswish,
                                 .backward = nbi_grad_hardswish,
                                 .keep_in = 1};
const nbi_op nbi_op_tanh = {.name = "Tanh",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 1,
                            .max_in = 1,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = UNARY_FLAGS,
                            .prepare = prepare,
                            .infer = nbi_op_infer_same,
                            .forward = forward_tanh,
                            .backward = nbi_grad_tanh,
                            .keep_out = 1};
const nbi_op nbi_op_exp = {.name = "Exp",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 1,
                           .max_in = 1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = UNARY_FLAGS,
                           .prepare = prepare,
                           .infer = nbi_op_infer_same,
                           .forward = forward_exp,
                           .backward = nbi_grad_exp,
                           .keep_out = 1};
const nbi_op nbi_op_log = {.name = "Log",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 1,
                           .max_in = 1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = UNARY_FLAGS,
                           .prepare = prepare,
                           .infer = nbi_op_infer_same,
                           .forward = forward_log,
                           .backward = nbi_grad_log,
                           .keep_in = 1};
const nbi_op nbi_op_sqrt = {.name = "Sqrt",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 1,
                            .max_in = 1,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = UNARY_FLAGS,
                            .prepare = prepare,
                            .infer = nbi_op_infer_same,
                            .forward = forward_sqrt,
                            .backward = nbi_grad_sqrt,
                            .keep_out = 1};
const nbi_op nbi_op_neg = {.name = "Neg",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 1,
                           .max_in = 1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = UNARY_FLAGS,
                           .prepare = prepare,
                           .infer = nbi_op_infer_same,
                           .forward = forward_neg,
                           .backward = nbi_grad_neg};
const nbi_op nbi_op_abs = {.name = "Abs",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 1,
                           .min_in = 1,
                           .max_in = 1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = UNARY_FLAGS,
                           .prepare = prepare,
                           .infer = nbi_op_infer_same,
                           .forward = forward_abs,
                           .backward = nbi_grad_abs,
                           .keep_in = 1};
const nbi_op nbi_op_erf = {.name = "Erf",
                           .types = NBI_TYPES_NUMBER,
                           .domain = "",
                           .min_opset = 9,
                           .min_in = 1,
                           .max_in = 1,
                           .min_out = 1,
                           .max_out = 1,
                           .flags = UNARY_FLAGS,
                           .prepare = prepare,
                           .infer = nbi_op_infer_same,
                           .forward = forward_erf,
                           .backward = nbi_grad_erf,
                           .keep_in = 1};
const nbi_op nbi_op_floor = {.name = "Floor",
                             .types = NBI_TYPES_NUMBER,
                             .domain = "",
                             .min_opset = 1,
                             .min_in = 1,
                             .max_in = 1,
                             .min_out = 1,
                             .max_out = 1,
                             .flags = UNARY_FLAGS,
                             .prepare = prepare,
                             .infer = nbi_op_infer_same,
                             .forward = forward_floor,
                             .backward = nbi_grad_step};
const nbi_op nbi_op_ceil = {.name = "Ceil",
                            .types = NBI_TYPES_NUMBER,
                            .domain = "",
                            .min_opset = 1,
                            .min_in = 1,
                            .max_in = 1,
                            .min_out = 1,
                            .max_out = 1,
                            .flags = UNARY_FLAGS,
                            .prepare = prepare,
                            .infer = nbi_op_infer_same,
                            .forward = forward_ceil,
                            .backward = nbi_grad_step};
const nbi_op nbi_op_reciprocal = {.name = "Reciprocal",
                                  .types = NBI_TYPES_NUMBER,
                                  .domain = "",
                                  .min_opset = 1,
                                  .min_in = 1,
                                  .max_in = 1,
                                  .min_out = 1,
                                  .max_out = 1,
                                  .flags = UNARY_FLAGS,
                                  .prepare = prepare,
                                  .infer = nbi_op_infer_same,
                                  .forward = forward_reciprocal,
                                  .backward = nbi_grad_reciprocal,
                                  .keep_out = 1};
