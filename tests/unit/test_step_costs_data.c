/* Cost tables: exact lines, wider ones, interpolation by multiply-adds, messages; measuring fills
 * what may be chosen. */
#include "onnx/onnx.h"
#include "exec/exec.h"
#include "quant/generate.h"
#include "runtime/step_costs.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct fixture {
    nb_ctx *ctx;
    nbi_graph *source;
    nbi_qnet *net;
    char path[64];
} fixture;

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    nbi_graph *one;
    nbi_qag_options qag = {NBI_FIRST_LAST_8, 8};
    f->ctx = nb_ctx_new();
    assert_int_equal(nbi_onnx_read(f->ctx, NIBBLE_DATA "/models/resnet20.onnx", &f->source), 0);
    assert_int_equal(nbi_specialize_batch(f->ctx, f->source, 1, &one), NB_OK);
    assert_int_equal(nbi_generate(f->ctx, one, &qag, &f->net), NB_OK);
    snprintf(f->path, sizeof f->path, "step_costs_%ld.csv", (long)getpid());
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    remove(f->path);
    nbi_qnet_free(f->net);
    nbi_graph_free(f->source);
    nb_ctx_free(f->ctx);
    free(f);
    return 0;
}

static nb_status read_table(fixture *f, const char *text, nbi_step_costs **out) {
    assert_int_equal(nbi_file_write(f->ctx, f->path, text, strlen(text)), NB_OK);
    return nbi_step_costs_read(f->ctx, f->net, f->path, out);
}

static void uniform(const fixture *f, int w, nbi_choice *bits) {
    for (int i = 0; i < f->net->n_sites; i++) {
        const nbi_site *s = &f->net->site[i];
        bits[i] = (nbi_choice)(s->fixed_bits ? s->fixed_bits : s->kind == NBI_SITE_WEIGHT ? w : 8);
    }
}

/* The convolution of that many input and output channels; −1: none. */
static int find_conv(const fixture *f, int in, int out, int size) {
    for (int i = 0; i < f->net->n_layers; i++) {
        const nbk_conv *g = &f->net->layer[i].geometry;
        if (f->net->layer[i].type == NBI_LAYER_CONV && g->in_c == in && g->out_c == out &&
            g->in_h == size)
            return i;
    }
    return -1;
}

#define HEAD "# clock 1000\n\nstep, shape ,weight_bits,input_bits,cycles,energy\r\n"
#define REST "add,32x32x16,,,1000,1\nlut,32x32x16,,,0,0\navgpool,1x1x64,,,0,0\ncopy,1x1x64,,,0,0\n"

static void test_lines(void **state) {
    fixture *f = *state;
    nbi_step_costs *c;
    nbi_choice bits[256];
    double seconds, energy, other, more;
    assert_in_range(f->net->n_sites, 1, 256);
    assert_int_equal(read_table(f,
                                HEAD "conv,32x32x16>16:3x3/1,4,8,2000,2\n"
                                     "conv,32x32x16>16:3x3/1,8,8,4000,4\n"
                                     "conv,16x16x32>32:3x3/1,4,8,8000,2\n"
                                     "conv,1x1x64>10:1x1/1,8,8,500,7\n" REST,
                                &c),
                     NB_OK);
    assert_true(nbi_step_costs_have_energy(c) && !nbi_step_costs_measured(c));
    const nbi_step_cost *body = &c->layer[find_conv(f, 16, 16, 32)].at[4][8];
    assert_true(body->seconds == 2 && body->energy == 2);
    /* no line of 3 bits: the next wider; nor of 5: 8 */
    const nbi_layer_costs *row = &c->layer[find_conv(f, 16, 16, 32)];
    assert_true(row->at[3][8].seconds == 2 && row->at[5][8].seconds == 4 &&
                row->at[1][1].seconds == 2);
    /* the same multiply-adds as two lines: the first of them */
    assert_true(c->layer[find_conv(f, 64, 64, 8)].at[4][8].seconds >= 2);
    /* twice as many as the stem: in proportion */
    const nbk_conv *g = &f->net->layer[find_conv(f, 3, 16, 32)].geometry;
    assert_int_equal(g->out_c, 16);
    assert_true(c->layer[find_conv(f, 3, 16, 32)].at[8][8].seconds < 4);
    uniform(f, 4, bits);
    assert_int_equal(nbi_step_costs_sum(f->ctx, c, bits, NULL, &seconds, &energy), NB_OK);
    uniform(f, 8, bits);
    assert_int_equal(nbi_step_costs_sum(f->ctx, c, bits, NULL, &other, &more), NB_OK);
    assert_true(seconds > 0 && energy > 0 && seconds != other && energy < more);
    nbi_step_costs_free(c);
}

static void test_interpolation(void **state) {
    fixture *f = *state;
    nbi_step_costs *c;
    /* 1×1: h·w·in·out multiply-adds; the body has 32·32·16·16·9 */
    assert_int_equal(read_table(f,
                                "seconds,step,shape,weight_bits,input_bits\n"
                                "1,conv,32x32x16>16:1x1/1,8,8\n"
                                "17,conv,32x32x16>16:1x17/1,8,8\n",
                                &c),
                     NB_OK);
    assert_false(nbi_step_costs_have_energy(c));
    assert_true(fabs(c->layer[find_conv(f, 16, 16, 32)].at[8][8].seconds - 9) < 1e-12);
    nbi_step_costs_free(c);
}

static void test_messages(void **state) {
    fixture *f = *state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "holds no line"},
        {"step,shape,size\n", "no column 'size'"},
        {"step,shape\n", "must name the columns"},
        {"step,shape,cycles\nadd,1x1x1,5\n", "clock"},
        {HEAD "nothing,1x1x1,,,1,1\n", "no step 'nothing'"},
        {HEAD "add,1x1,,,1,1\n", "shape '1x1' is not HxWxC"},
        {HEAD "conv,1x1x1,8,8,1,1\n", "is not HxWxC>N"},
        {HEAD "conv,0x1x1>1:1x1/1,8,8,1,1\n", "is not HxWxC>N"},
        {HEAD "conv,1x1x1>1:1x1/1:g2x,8,8,1,1\n", "is not HxWxC>N"},
        {HEAD "conv,1x1x1>1:1x1/1,9,8,1,1\n", "1 to 8"},
        {HEAD "conv,1x1x1>1:1x1/1,,8,1,1\n", "needs weight_bits"},
        {HEAD "add,1x1x1,,,-1,1\n", "cycles '-1'"},
        {HEAD "add,1x1x1,,,1\n", "5 fields"},
        {HEAD "add,1x1x1,,,nan,1\n", "cycles 'nan'"},
    };
    nbi_step_costs *c;
    nbi_choice bits[256];
    double seconds, energy;
    for (size_t i = 0; i < NBI_COUNT(bad); i++) {
        assert_int_equal(read_table(f, bad[i].text, &c), NB_EFORMAT);
        if (!strstr(nb_ctx_message(f->ctx), bad[i].message))
            fail_msg("case %zu: %s", i, nb_ctx_message(f->ctx));
    }
    assert_int_equal(nbi_step_costs_read(f->ctx, f->net, "no/such.csv", &c), NB_EIO);
    assert_int_equal(read_table(f, HEAD "conv,32x32x16>16:3x3/1,4,8,2000,2\n" REST, &c), NB_OK);
    uniform(f, 4, bits); /* the stem has 8 bits */
    assert_int_equal(nbi_step_costs_sum(f->ctx, c, bits, NULL, &seconds, &energy), NB_EFORMAT);
    assert_non_null(strstr(nb_ctx_message(f->ctx), "weights of 8"));
    nbi_step_costs_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_interpolation),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
