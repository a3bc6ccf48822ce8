/* Cases of ops.gradients for the operators that quantize: where a quantizer is no staircase, differences
 * know its gradient; else it is held against the surrogate that its page states. */
#ifndef NIBBLE_TESTS_GRADIENT_QUANTIZERS_H
#define NIBBLE_TESTS_GRADIENT_QUANTIZERS_H

#include "gradient_check.h"
#include "schemes/schemes.h"

static void attr_text(const char *name, const char *text) {
    assert_int_equal(nbi_node_set_text(gc.ctx, gc.g, gc.node, name, text), NB_OK);
}

static void fake_quant(const nbi_scheme *s, bool weights, bool per_channel) {
    bool is_unsigned = !weights && (s->flags & NBI_SCHEME_UNSIGNED);
    nbi_scheme_use use = {nbi_scheme_max_bits(s, weights), weights, is_unsigned, false,
                          NBI_RANGE_MSE};
    gc_begin("org.nibble", "FakeQuant", 13);
    gc.surrogate = true;
    gc.n_out = 3; /* x̂, new params, used params: backward reads the last */
    gc_float(4, DIMS(3, 4, 3, 2), is_unsigned ? 0 : -1, 1);
    int64_t dim[2] = {per_channel ? 4 : 1, s->n_params(&use)};
    gc_float(2, dim, 0, 1);
    gc_float(0, NULL, use.bits - 0.3, use.bits);
    for (int64_t g = 0; g < dim[0]; g++) s->fit(&use, gc.x[0], 72, gc.x[1] + g * dim[1]);
    gc_node();
    attr_text("scheme", s->name);
    attr_text("role", weights ? "weights" : "activations");
    gc_attr_int("training", 1);
    gc_attr_int("unsigned", is_unsigned);
    if (per_channel) gc_attr_int("axis", 1);
    gc_check();
}

/* A surrogate gradient is tested where the schemes are; here that layouts, in place and one input
 * alone give the same, from the kept values only. */
static void test_fake_quant(void **state) {
    size_t n;
    const nbi_scheme *const *s = nbi_schemes(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        if (s[i]->flags & NBI_SCHEME_WEIGHTS) fake_quant(s[i], true, false);
        if (s[i]->flags & NBI_SCHEME_ACTIVATIONS) fake_quant(s[i], false, false);
        if ((s[i]->flags & NBI_SCHEME_WEIGHTS) && (s[i]->flags & NBI_SCHEME_CHANNELS))
            fake_quant(s[i], true, true);
    }
}

static void scheme_mix(const char *role, const char *candidates, int n, bool is_unsigned,
                       bool per_channel) {
    gc_begin("org.nibble", "SchemeMix", 13);
    gc.surrogate = true;
    gc.n_out = 2;
    gc_float(4, DIMS(3, 4, 3, 2), is_unsigned ? 0 : -1, 1);
    gc_float(1, DIMS(n), 0.1, 0.9);
    gc_node();
    attr_text("candidates", candidates);
    attr_text("role", role);
    gc_attr_int("unsigned", is_unsigned);
    if (per_channel) gc_attr_int("axis", 1);
    gc_check();
}

static void test_scheme_mix(void **state) {
    static const char eight[] = "B:1 T:2 Q:2 F:3 Z:3 C:3 P:3 R:3";
    (void)state;
    scheme_mix("weights", eight, 8, false, false);
    scheme_mix("weights", eight, 8, false, true);
    scheme_mix("activations", eight, 8, false, false);
    scheme_mix("activations", eight, 8, true, false);
    scheme_mix("activations", "uniform:4", 1, true, false);
}

/* Values beyond the range have true derivatives (±q, whatever d); inside the gradient is a surrogate,
 * of which layouts are compared here, and below the sum. */
static void range_quant(double lo, double hi, bool is_unsigned, bool surrogate) {
    gc_begin("org.nibble", "RangeQuant", 13);
    gc.surrogate = surrogate;
    gc_float(4, DIMS(2, 3, 4, 5), lo, hi);
    gc_float(1, DIMS(2), surrogate ? -3 : -0.4, surrogate ? 0 : 0.4);
    gc_node();
    gc_attr_int("unsigned", is_unsigned);
    gc_check();
}

static void test_range_quant(void **state) {
    (void)state;
    range_quant(2, 3, false, false);
    range_quant(-3, -2, false, false);
    range_quant(2, 3, true, false);
    range_quant(-3, -2, true, false); /* 0, and no gradient at all */
    range_quant(-1, 1, false, true);
    range_quant(0, 1, true, true);
}

/* With G = 2·(y − x) the step's gradient is 2·ln2·Σ(y − x)² over what is inside: squared errors grow
 * with the square of the step. The range's is ln2·q·Σ G·sgn(x) over what is outside. */
static void test_range_quant_sums(void **state) {
    enum { N = 1000 };
    static const float s[2] = {-2.3f, 0.4f};
    const double d = 0.25, q = exp2((double)s[1]);
    nbi_view in[2], out[1], gout[1], gin[2];
    double inside = 0, outside = 0;
    (void)state;
    gc_begin("org.nibble", "RangeQuant", 13);
    gc_float(1, DIMS(N), -2, 2);
    gc_float(1, DIMS(2), 0, 1);
    memcpy(gc.x[1], s, sizeof s);
    gc_node();
    gc_infer();
    gc_run_forward(in, out, GC_PLAIN);
    for (int i = 0; i < 2; i++) {
        gin[i] = gc_shape(gc.in[i]);
        gc_place(&gin[i], GC_PLAIN, NULL);
    }
    gout[0] = gc_shape(gc.node->out[0]);
    gc_place(&gout[0], GC_PLAIN, out[0].data);
    for (int i = 0; i < N; i++) {
        double x = (double)gc.x[0][i], y = (double)((float *)out[0].data)[i];
        bool beyond = fabs(x) > q;
        double want = beyond ? copysign(q, x) : copysign(d * rint(fabs(x) / d), x);
        assert_true(fabs(y - want) < 1e-6);
        ((float *)gout[0].data)[i] = (float)(2 * (y - x));
        if (beyond) outside += 2 * (y - x) * copysign(q, x);
        else inside += 2 * (y - x) * (y - x);
    }
    nbi_grad_call call = {gc.ctx, gc.g, gc.node, in, out, gout, gin, 0};
    assert_int_equal(gc.node->op->backward(&call), NB_OK);
    for (int i = 0; i < N; i++) {
        float want = fabs((double)gc.x[0][i]) > q ? 0 : ((float *)gout[0].data)[i];
        assert_true(((float *)gin[0].data)[i] == want);
    }
    const float *ds = gin[1].data;
    assert_true(fabs((double)ds[0] - log(2) * inside) < 1e-5 * inside);
    assert_true(fabs((double)ds[1] - log(2) * outside) < 1e-5 * fabs(outside));
    gc_free_views(in, 2);
    gc_free_views(out, 1);
    gc_free_views(gout, 1);
    gc_free_views(gin, 2);
    gc_end();
}

static void test_gumbel_softmax(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        gc_begin("org.nibble", "GumbelSoftmax", 13);
        gc.seed = seed;
        gc_float(1, DIMS(5), -1, 1);
        *(float *)gc_const(NB_DTYPE_F32, 0, NULL) = 0.7f;
        gc_node();
        gc_check();
    }
}

/* PACT beyond its clip is ±alpha: no staircase, so differences know the gradient. Groups, layouts and
 * the order of sums are the same for every scheme; their own gradients are in unit.scheme_gradients
 * and ops.fakequant. */
static void fakequant(int axis, int64_t groups, double lo, double hi) {
    gc_begin("org.nibble", "FakeQuant", 21);
    gc_float(4, DIMS(2, 3, 4, 5), lo, hi);
    gc_float(2, DIMS(groups, 1), 0.5, 1.5);
    gc_node();
    assert_int_equal(nbi_node_set_text(gc.ctx, gc.g, gc.node, "scheme", "pact"), NB_OK);
    assert_int_equal(nbi_node_set_text(gc.ctx, gc.g, gc.node, "role", "activations"), NB_OK);
    gc_attr_int("bits", 4);
    gc_attr_int("axis", axis);
    gc_check();
}

static void test_fakequant(void **state) {
    (void)state;
    fakequant(-1, 1, 2, 3);
    fakequant(0, 2, 2, 3);
    fakequant(1, 3, -3, -2);
    fakequant(3, 5, 2, 3);
}

#endif
