/* The QDQ import on small graphs made here: forms that other tools write give what the float
 * executor makes of the same graph; what cannot run or makes no sense is refused by name; no
 * allocation may fail unnoticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "qdq_maker.h"

#include "exec/exec.h"
#include "quant/import_qdq.h"
#include "runtime/lower.h"
#include "runtime/run.h"

/* ---- forms that run -------------------------------------------------------------------------- */

enum form {
    PLAIN,       /* uint8 activations, int8 weights per channel, Relu */
    SIGNED,      /* int8 activations from −128: Relu is left out */
    WEIGHTS_U8,  /* zero point 128 */
    WEIGHTS_S4,
    QAT,         /* float weights through QuantizeLinear and DequantizeLinear */
    FLOAT_BIAS,
    TWICE,       /* a tensor quantized twice */
    JOIN,        /* Concat of tensors with scales of their own */
    CODES,       /* max pool and Clip of codes, as our files have them */
    NARROW,      /* int4 activations from −8 */
    UNSCALED,    /* float output: int32 logits */
    FORMS
};

static int clip_codes(maker *m, int codes, double lo, double hi) {
    int in[3] = {codes, scalar(m, "least", NB_DTYPE_U8, lo), scalar(m, "most", NB_DTYPE_U8, hi)};
    int out;
    node(m, "Clip", 3, in, "clipped", &out);
    return out;
}

/* Conv → 4-bit codes → MaxPool of codes → real. */
static int on_codes(maker *m, int y) {
    int in[3] = {y, scalar(m, "ys", NB_DTYPE_F32, 0.3), scalar(m, "yz", NB_DTYPE_U8, 128)}, out;
    int64_t kernel[2] = {2, 2};
    node(m, "QuantizeLinear", 3, in, "yq", &out);
    in[0] = clip_codes(m, out, 120, 135);
    nbi_node *n = node(m, "MaxPool", 1, in, "pooled", &out);
    OK(nbi_node_set_ints(m->ctx, m->g, n, "kernel_shape", 2, kernel));
    in[0] = out;
    node(m, "DequantizeLinear", 3, in, "pooled_real", &out);
    return out;
}

static int join(maker *m, int y) {
    y = pair(m, y, "y8", NB_DTYPE_U8, Y_SCALE, 128);
    int in[2] = {pair(m, unary(m, "Relu", y, "a"), "a8", NB_DTYPE_U8, 0.02, 0),
                 pair(m, unary(m, "Sigmoid", y, "b"), "b8", NB_DTYPE_U8, 1 / 255.0, 0)}, out;
    nbi_node *n = node(m, "Concat", 2, in, "both", &out);
    OK(nbi_node_set_int(m->ctx, m->g, n, "axis", 1));
    return pair(m, out, "both8", NB_DTYPE_U8, 0.025, 3);
}

static int form_weights(maker *m, enum form form) {
    if (form == WEIGHTS_U8) return weights(m, "w", NB_DTYPE_U8, 128);
    if (form == WEIGHTS_S4) return weights(m, "w", NB_DTYPE_S4, 0);
    if (form != QAT) return weights(m, "w", NB_DTYPE_S8, 0);
    int64_t dim[4] = {OUT, C, 3, 3};
    int w;
    OK(nbi_graph_add_const(m->ctx, m->g, "w_float", NB_DTYPE_F32, 4, dim, &w));
    for (int i = 0; i < OUT * C * 9; i++)
        ((float *)m->g->tensor[w]->data)[i] = (float)(0.03 * level(i) + 0.004);
    return pair(m, w, "w", NB_DTYPE_S8, 0.03, 0);
}

static int build(maker *m, enum form form) {
    int x = pair(m, m->g->input[0], "x8", NB_DTYPE_U8, X_SCALE, 113);
    int b = form == FLOAT_BIAS
                ? constant(m, "bias", NB_DTYPE_F32, OUT, (const double[]){0.5, -0.1, 0.02})
                : bias(m);
    int y = conv(m, x, form_weights(m, form), b, "y");
    if (form == UNSCALED) return unary(m, "Flatten", y, "flat");
    if (form == SIGNED) return pair(m, y, "y8", NB_DTYPE_S8, Y_SCALE, -128);
    if (form == NARROW) return pair(m, y, "y4", NB_DTYPE_S4, 0.11, -8);
    if (form == CODES) return on_codes(m, y);
    if (form == JOIN) return join(m, y);
    y = pair(m, unary(m, "Relu", y, "relu"), "y8", NB_DTYPE_U8, Y_SCALE, 0);
    if (form == TWICE) y = pair(m, y, "y5", NB_DTYPE_U8, 0.07, 4);
    y = unary(m, "GlobalAveragePool", y, "mean");
    return pair(m, y, "mean8", NB_DTYPE_U8, 0.011, 0);
}

static void fill(float *x, int n) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 3, 1);
    for (int i = 0; i < n; i++) x[i] = (float)nbi_rng_normal(&rng);
}

/* Largest difference between the integer program and the float executor, in output steps. */
static double difference(maker *m, const nbi_frozen *frozen, size_t n) {
    float *x = NULL;
    uint8_t *codes = NULL;
    int32_t *value = NULL;
    nbi_program *p = NULL;
    nbi_runner *runner = NULL;
    nbi_graph *g = NULL;
    nbi_exec *exec = NULL;
    nbi_view v;
    OK(nbi_lower(m->ctx, frozen, &p));
    const nbi_ptensor *in = &p->tensor[p->input], *out = &p->tensor[p->output[0]];
    OK(nbi_alloc(m->ctx, n * IMAGE, sizeof *x, &x));
    OK(nbi_alloc(m->ctx, n * IMAGE, 1, &codes));
    OK(nbi_alloc(m->ctx, n * out->count, sizeof *value, &value));
    fill(x, (int)n * IMAGE);
    nbi_qparam q = {.dtype = in->dtype, .bits = 8, .scale = in->scale, .zero = in->zero,
                    .lo = in->lo, .hi = in->hi};
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < C; c++)
            for (size_t s = 0; s < SIDE * SIDE; s++)
                codes[i * IMAGE + s * C + c] =
                    (uint8_t)nbi_quantize(&q, x[i * IMAGE + c * SIDE * SIDE + s]);
    OK(nbi_runner_new(m->ctx, p, &runner));
    int32_t *list[8] = {value};
    OK(nbi_runner_run(m->ctx, runner, n, codes, list));
    OK(nbi_specialize_batch(m->ctx, m->g, (int64_t)n, &g));
    OK(nbi_exec_new(m->ctx, g, NBI_EXEC_REFERENCE, &exec));
    OK(nbi_exec_run(m->ctx, exec, (const void *const[]){x}));
    OK(nbi_exec_value(m->ctx, exec, g->output[0], &v));
    assert_int_equal(nbi_view_count(&v), n * out->count);
    double worst = 0, spread = 0;
    size_t space = (size_t)out->h * (size_t)out->w, channels = out->count / space;
    for (size_t i = 0; i < n * out->count; i++) {
        size_t k = i % out->count, from = i - k + k % space * channels + k / space;
        double ours = out->scale * ((double)value[from] - out->zero);
        double theirs = (double)((const float *)v.data)[i];
        worst = fmax(worst, fabs(ours - theirs) / fmax(out->scale, 1e-5));
        spread = fmax(spread, fabs(theirs));
    }
    assert_true(spread > 4 * out->scale); /* the test could fail */
    nbi_exec_free(exec);
    nbi_graph_free(g);
    nbi_runner_free(runner);
    nbi_program_free(p);
    nbi_free(x);
    nbi_free(codes);
    nbi_free(value);
    return worst;
}

static void test_forms(void **state) {
    (void)state;
    for (int form = 0; form < FORMS; form++) {
        maker made = start(), *m = &made;
        nbi_qnet *net = NULL;
        nbi_frozen *frozen = NULL;
        OK(finish(m, build(m, (enum form)form)));
        assert_true(nbi_is_qdq(m->g));
        OK(nbi_import_qdq(m->ctx, m->g, &net, &frozen));
        for (int l = 0; l < net->n_layers; l++)
            if (net->layer[l].type == NBI_LAYER_CONV)
                assert_int_equal(frozen->conv[l].bits, 4); /* levels −7…7 */
        /* a whole step where a sum lies between two levels; float32 error of int32 logits */
        double worst = difference(m, frozen, 16);
        print_message("form %d: %.3f steps\n", form, worst);
        if (worst > 1.01) fail_msg("form %d: %g steps", form, worst);
        nbi_frozen_free(frozen);
        nbi_qnet_free(net);
        done(m);
    }
}

static void test_biases_are_exact(void **state) {
    (void)state;
    maker made = start(), *m = &made;
    nbi_qnet *net = NULL;
    nbi_frozen *frozen = NULL;
    nbi_program *p = NULL;
    OK(finish(m, build(m, UNSCALED)));
    int t = nbi_graph_find(m->g, "bias_codes");
    ((int32_t *)m->g->tensor[t]->data)[1] = 123456789; /* float32 would lose 3 bits of it */
    OK(nbi_import_qdq(m->ctx, m->g, &net, &frozen));
    OK(nbi_lower(m->ctx, frozen, &p));
    const nbi_step_conv *conv_step = &p->step[0].u.conv;
    int64_t sum = 0, step = nbk_level_step(conv_step->p.w_bits);
    for (int i = C * 9; i < 2 * C * 9; i++) sum += (int64_t)level(i);
    assert_int_equal(((const int32_t *)conv_step->p.bias)[1] + 113 * sum * step, 123456789 * step);
    nbi_program_free(p);
    nbi_frozen_free(frozen);
    nbi_qnet_free(net);
    done(m);
}

/* int8 levels that are multiples of a power of two, all zero among them: weights and biases keep
 * their real values, and only biases that are multiples, too, let the width shrink. */
static void test_coarse_levels_are_exact(void **state) {
    static const double scales[OUT] = {0.03, 0.011, 0.05}, biases[OUT] = {100, -40, 7};
    static const int factors[] = {0, 1, 2, 4, 8, 16, 8, 16};
    (void)state;
    for (size_t f = 0; f < NBI_COUNT(factors); f++) {
        maker made = start(), *m = &made;
        nbi_qnet *net = NULL;
        nbi_frozen *frozen = NULL;
        bool multiples = f > 5;
        OK(finish(m, build(m, UNSCALED)));
        int8_t *codes = m->g->tensor[nbi_graph_find(m->g, "w_codes")]->data;
        int32_t *bias_codes = m->g->tensor[nbi_graph_find(m->g, "bias_codes")]->data;
        for (int i = 0; i < OUT * C * 9; i++) codes[i] = (int8_t)(codes[i] * factors[f]);
        for (int c = 0; c < OUT && multiples; c++) bias_codes[c] *= factors[f];
        OK(nbi_import_qdq(m->ctx, m->g, &net, &frozen));
        const nbi_frozen_conv *conv = &frozen->conv[0];
        int step = nbk_level_step(conv->bits);
        if (multiples || (factors[f] > 0 && factors[f] <= 2)) assert_int_equal(conv->bits, 4);
        for (int i = 0; i < OUT * C * 9; i++) { /* [out][kernel][in] */
            int o = i / (C * 9), at = o * C * 9 + i % C * 9 + i / C % 9;
            double want = (double)(float)scales[o] * codes[at];
            double have = conv->levels[i] * (double)conv->scale[o];
            assert_int_equal(conv->levels[i] % step, 0);
            if (!(fabs(have - want) <= 1e-12)) fail_msg("%zu: weight %d: %g, %g", f, i, have, want);
        }
        for (int c = 0; c < OUT; c++) {
            double unit = (double)(float)X_SCALE * (double)(float)scales[c];
            double want = biases[c] * unit * (multiples ? factors[f] : 1);
            if (!(fabs(conv->shift[c] - want) <= 1e-9 * unit))
                fail_msg("%zu: bias %d: %g, %g", f, c, conv->shift[c], want);
        }
        nbi_frozen_free(frozen);
        nbi_qnet_free(net);
        done(m);
    }
}

/* Widths that no site can have are as good as none: what is imported is the same network. */
static void test_wild_policy(void **state) {
    static const char *const policies[] = {
        NULL, "{\"x\":12,\"relu\":32,\"mean\":9,\"w_codes\":17,\"w\":32,\"w_codes/bias\":31}",
        "{\"x\":0,\"relu\":-1,\"mean\":1e30,\"w_codes\":1e-9,\"w_codes/bias\":0.5}"};
    char first[512] = "";
    (void)state;
    for (size_t i = 0; i < NBI_COUNT(policies); i++) {
        maker made = start(), *m = &made;
        nbi_qnet *net = NULL;
        nbi_frozen *frozen = NULL;
        char text[512] = "";
        OK(finish(m, build(m, PLAIN)));
        if (policies[i]) OK(nbi_graph_set_meta(m->ctx, m->g, "nibble.policy", policies[i]));
        OK(nbi_import_qdq(m->ctx, m->g, &net, &frozen));
        for (int s = 0; s < net->n_sites; s++) {
            const nbi_qparam *q = &frozen->site[s];
            size_t n = strlen(text);
            snprintf(text + n, sizeof text - n, "%s %d %d %g %d %d;", net->site[s].name,
                     net->site[s].fixed_bits, q->bits, q->scale, (int)q->lo, (int)q->hi);
        }
        if (i) assert_string_equal(text, first);
        else memcpy(first, text, sizeof text);
        nbi_frozen_free(frozen);
        nbi_qnet_free(net);
        done(m);
    }
}

/* Padding has the code of 0: it is one of the site's codes even where a Clip leaves only others. */
static void test_zero_is_a_code(void **state) {
    (void)state;
    maker made = start(), *m = &made;
    nbi_qnet *net = NULL;
    nbi_frozen *frozen = NULL;
    int x = pair(m, m->g->input[0], "x8", NB_DTYPE_U8, X_SCALE, 113);
    int y = conv(m, x, weights(m, "w", NB_DTYPE_S8, 0), -1, "y");
    int in[3] = {y, scalar(m, "ys", NB_DTYPE_F32, 0.3), scalar(m, "yz", NB_DTYPE_U8, 113)};
    node(m, "QuantizeLinear", 3, in, "yq", &in[0]);
    in[0] = clip_codes(m, in[0], 0, 15);
    node(m, "DequantizeLinear", 3, in, "yr", &y);
    y = unary(m, "GlobalAveragePool", y, "mean");
    OK(finish(m, pair(m, y, "mean8", NB_DTYPE_U8, 0.011, 0)));
    OK(nbi_import_qdq(m->ctx, m->g, &net, &frozen));
    for (int s = 0; s < net->n_sites; s++) {
        const nbi_qparam *q = &frozen->site[s];
        if (net->site[s].kind == NBI_SITE_WEIGHT || net->site[s].kind == NBI_SITE_BIAS) continue;
        assert_in_range(q->zero - q->lo, 0, q->hi - q->lo);
    }
    nbi_frozen_free(frozen);
    nbi_qnet_free(net);
    done(m);
}

/* ---- what is refused ------------------------------------------------------------------------- */

enum fault {
    ZERO_SCALE,
    NAN_SCALE,
    NEGATIVE_SCALE,
    NAN_WEIGHT_SCALE,
    NO_SCALE,
    WRONG_SCALES,
    WRONG_ZEROS,
    VARIABLE_SCALE,
    PER_CHANNEL,
    CODES_U16,
    FLOAT_WEIGHTS,
    WIDE_WEIGHTS,
    OTHER_SCALE,
    UNQUANTIZED,
    NO_INPUT_PAIR,
    EMPTY_CLIP,
    SUM_OF_CODES,
    FAULTS
};

static const struct {
    nb_status status;
    const char *words;
} expected[FAULTS] = {
    [ZERO_SCALE] = {NB_EFORMAT, "x8_scale"},
    [NAN_SCALE] = {NB_EFORMAT, "x8_scale"},
    [NEGATIVE_SCALE] = {NB_EFORMAT, "x8_scale"},
    [NAN_WEIGHT_SCALE] = {NB_EFORMAT, "w_scale"},
    [NO_SCALE] = {NB_EFORMAT, "x8_codes_node"},
    [WRONG_SCALES] = {NB_EFORMAT, "w_scale"},
    [WRONG_ZEROS] = {NB_EFORMAT, "w_node"},
    [VARIABLE_SCALE] = {NB_EUNSUPPORTED, "y8_codes_node"},
    [PER_CHANNEL] = {NB_EUNSUPPORTED, "x8_codes_node"},
    [CODES_U16] = {NB_EUNSUPPORTED, "y8_codes_node"},
    [FLOAT_WEIGHTS] = {NB_EUNSUPPORTED, "y_node"},
    [WIDE_WEIGHTS] = {NB_EUNSUPPORTED, "y_node"},
    [OTHER_SCALE] = {NB_EUNSUPPORTED, "y8_real_node"},
    [UNQUANTIZED] = {NB_EUNSUPPORTED, "mean"},
    [NO_INPUT_PAIR] = {NB_EUNSUPPORTED, "'x'"},
    [EMPTY_CLIP] = {NB_EUNSUPPORTED, "clipped_node"},
    [SUM_OF_CODES] = {NB_EUNSUPPORTED, "sum_node"},
};

static nbi_node *node_named(maker *m, const char *name) {
    for (int n = 0; n < m->g->n_nodes; n++)
        if (!strcmp(m->g->node[n]->name, name)) return m->g->node[n];
    fail_msg("no node %s", name);
    return NULL;
}

static float *floats(maker *m, const char *name) {
    return m->g->tensor[nbi_graph_find(m->g, name)]->data;
}

static int build_codes_fault(maker *m, enum fault fault) {
    int x = pair(m, m->g->input[0], "x8", NB_DTYPE_U8, X_SCALE, 113);
    int y = conv(m, x, weights(m, "w", NB_DTYPE_S8, 0), -1, "y");
    int in[3] = {y, scalar(m, "ys", NB_DTYPE_F32, 0.3), scalar(m, "yz", NB_DTYPE_U8, 0)}, out;
    node(m, "QuantizeLinear", 3, in, "yq", &out);
    if (fault == EMPTY_CLIP) {
        int wide[3] = {out, scalar(m, "l", NB_DTYPE_F32, 300), scalar(m, "h", NB_DTYPE_F32, 400)};
        node(m, "Clip", 3, wide, "clipped", &out);
    } else {
        node(m, "Add", 2, (const int[]){out, out}, "sum", &out);
    }
    in[0] = out;
    node(m, "DequantizeLinear", 3, in, "yr", &out);
    return out;
}

static void break_graph(maker *m, enum fault fault) {
    switch (fault) {
    case ZERO_SCALE: *floats(m, "x8_scale") = 0; break;
    case NAN_SCALE: *floats(m, "x8_scale") = NAN; break;
    case NEGATIVE_SCALE: *floats(m, "x8_scale") = -1; break;
    case NAN_WEIGHT_SCALE: floats(m, "w_scale")[1] = NAN; break;
    case NO_SCALE: node_named(m, "x8_codes_node")->n_in = 1; break;
    case WRONG_SCALES: m->g->tensor[nbi_graph_find(m->g, "w_scale")]->dim[0] = 2; /* fall through */
    case WRONG_ZEROS: m->g->tensor[nbi_graph_find(m->g, "w_zero")]->dim[0] = 2; break;
    case OTHER_SCALE:
        node_named(m, "y8_real_node")->in[1] = nbi_graph_find(m->g, "mean8_scale");
        break;
    case WIDE_WEIGHTS:
        m->g->tensor[nbi_graph_find(m->g, "w_zero")]->dtype = NB_DTYPE_S8;
        memset(m->g->tensor[nbi_graph_find(m->g, "w_zero")]->data, 0x80, OUT);
        break;
    case NO_INPUT_PAIR: nbi_graph_replace_uses(m->g, nbi_graph_find(m->g, "x8_real"),
                                               m->g->input[0]);
        break;
    case PER_CHANNEL: {
        int s = constant(m, "many", NB_DTYPE_F32, C, (const double[]){0.1, 0.2});
        int z = constant(m, "zeros", NB_DTYPE_U8, C, (const double[]){0, 0});
        for (int i = 0; i < 2; i++) {
            nbi_node *n = node_named(m, i ? "x8_real_node" : "x8_codes_node");
            n->in[1] = s;
            n->in[2] = z;
        }
        break;
    }
    default: break;
    }
}

/* Faults that a different graph shows. */
static int build_fault(maker *m, enum fault fault) {
    if (fault == EMPTY_CLIP || fault == SUM_OF_CODES) return build_codes_fault(m, fault);
    int x = pair(m, m->g->input[0], "x8", NB_DTYPE_U8, X_SCALE, 113), w, y;
    if (fault == FLOAT_WEIGHTS) {
        int64_t dim[4] = {OUT, C, 3, 3};
        OK(nbi_graph_add_const(m->ctx, m->g, "w", NB_DTYPE_F32, 4, dim, &w));
    } else {
        w = weights(m, "w", NB_DTYPE_S8, 0);
    }
    y = unary(m, "Relu", conv(m, x, w, -1, "y"), "relu");
    y = pair(m, y, "y8", fault == CODES_U16 ? NB_DTYPE_U16 : NB_DTYPE_U8, 0.02, 0);
    if (fault == VARIABLE_SCALE) { /* the scale is computed from the input */
        int axes = constant(m, "axes", NB_DTYPE_S64, 3, (const double[]){1, 2, 3}), s;
        int shape = constant(m, "shape", NB_DTYPE_S64, 1, (const double[]){-1});
        node(m, "ReduceMean", 2, (const int[]){x, axes}, "s4", &s);
        node(m, "Reshape", 2, (const int[]){s, shape}, "s1", &s);
        node_named(m, "y8_codes_node")->in[1] = s;
    }
    y = unary(m, "GlobalAveragePool", y, "mean");
    return fault == UNQUANTIZED ? y : pair(m, y, "mean8", NB_DTYPE_U8, 0.011, 0);
}

static void test_refusals(void **state) {
    (void)state;
    for (int fault = 0; fault < FAULTS; fault++) {
        maker made = start(), *m = &made;
        nbi_qnet *net = NULL;
        nbi_frozen *frozen = NULL;
        int out = build_fault(m, (enum fault)fault);
        break_graph(m, (enum fault)fault);
        nb_status st = finish(m, out);
        if (st == NB_OK) st = nbi_import_qdq(m->ctx, m->g, &net, &frozen);
        const char *message = st == NB_OK ? "" : nb_ctx_message(m->ctx);
        if (st != expected[fault].status || !strstr(message, expected[fault].words))
            fail_msg("fault %d: status %d: %s", fault, (int)st, message);
        assert_null(net);
        assert_null(frozen);
        done(m);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    maker made = start(), *m = &made;
    nb_status st = NB_ENOMEM;
    OK(finish(m, build(m, JOIN)));
    for (long k = 1; st != NB_OK; k++) {
        nbi_qnet *net = NULL;
        nbi_frozen *frozen = NULL;
        nbi_alloc_fail_after(k);
        st = nbi_import_qdq(m->ctx, m->g, &net, &frozen);
        nbi_alloc_fail_after(0);
        if (st != NB_OK) assert_int_equal(st, NB_ENOMEM);
        nbi_frozen_free(frozen);
        nbi_qnet_free(net);
        assert_true(k < 100000);
    }
    done(m);
}

static void test_is_qdq(void **state) {
    (void)state;
    maker made = start(), *m = &made;
    OK(finish(m, unary(m, "Relu", m->g->input[0], "y")));
    assert_false(nbi_is_qdq(m->g));
    done(m);
    made = start(); /* weights only: the float engine's */
    OK(finish(m, conv(m, m->g->input[0], weights(m, "w", NB_DTYPE_S8, 0), -1, "y")));
    assert_false(nbi_is_qdq(m->g));
    done(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),    cmocka_unit_test(test_biases_are_exact),
        cmocka_unit_test(test_coarse_levels_are_exact),
        cmocka_unit_test(test_wild_policy), cmocka_unit_test(test_zero_is_a_code),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_is_qdq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
