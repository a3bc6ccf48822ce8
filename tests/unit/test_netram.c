/* Peak memory of a residual network is what arithmetic says, and options beyond a limit are left
 * out, those that fit beside a mixture of options only are not. */
#include "unit/hand_net.h"

#include "search/netproblem.h"

#define SIZE   1024 /* bytes of a tensor: 8·8·16 */
#define IMAGES 2

/* x, stem, two residual blocks on streams of this width, pooling, a dense layer. Returns the first
 * activation inside a block. */
static int residual_net(hand *h, int residual_bits, int *stem) {
    nbi_qag_options options = {NBI_FIRST_LAST_SEARCHED, residual_bits};
    nbi_graph *g;
    int x = HAND_IMAGE(h, 3, 3, 8, 8), inner = -1;
    int s = *stem = hand_op(h, "Relu", hand_conv3(h, x, 3, 16));
    for (int i = 0; i < 2; i++) {
        int a = hand_op(h, "Relu", hand_conv3(h, s, 16, 16));
        if (i == 0) inner = a;
        int b = hand_conv3(h, a, 16, 16);
        s = hand_op(h, "Relu", i ? hand_op2(h, "Sub", b, s) : hand_op2(h, "Add", s, b));
    }
    int y = hand_gemm(h, hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", s)), 16, 5);
    hand_outputs(h, 1, &y);
    HAND_OK(nbi_specialize_batch(h->ctx, h->g, 1, &g));
    HAND_OK(nbi_generate(h->ctx, g, &options, &h->net));
    hand_calibrate(h, IMAGES);
    return inner;
}

static void test_peak(void **state) {
    (void)state;
    nbi_choice bits[HAND_SITES];
    size_t ram;
    int stem;
    hand data, *h = &data;
    residual_net(h, 8, &stem);
    hand_bits(h, 8, 8, bits); /* the stream and the branch; weights as they lie */
    HAND_OK(nbi_footprint_ram(h->ctx, h->net, bits, &ram));
    assert_int_equal(ram, 2 * SIZE);
    hand_bits(h, 4, 8, bits); /* one channel's weights, decoded */
    HAND_OK(nbi_footprint_ram(h->ctx, h->net, bits, &ram));
    assert_int_equal(ram, 2 * SIZE + 9 * 16);
    hand_bits(h, 4, 4, bits); /* the stream once more, requantized */
    HAND_OK(nbi_footprint_ram(h->ctx, h->net, bits, &ram));
    assert_int_equal(ram, 3 * SIZE + 9 * 16);
    hand_free(h);
}

static int options_of(const nbi_netproblem *np, int vars, int site) {
    for (int v = 0; v < vars; v++)
        if (nbi_netproblem_site(np, v) == site)
            return nbi_netproblem_problem((nbi_netproblem *)np)->n_options[v];
    return 0;
}

/* Streams of 4 bits: a convolution that reads 8 wants a copy, and weights of 4 bits want scratch.
 * So the least memory is at wide weights and narrow activations, neither cheapest nor dearest. */
static void test_options_beside_a_mixture(void **state) {
    (void)state;
    nbi_choice fixed[HAND_SITES];
    nbi_netproblem *np;
    int stem;
    hand data, *h = &data;
    int inner = residual_net(h, 4, &stem);
    nbi_scorer *s = hand_scorer(h, IMAGES, 0);
    float *reference = calloc(IMAGES * 5, sizeof *reference);
    for (int i = 0; i < h->net->n_sites; i++) fixed[i] = (nbi_choice)h->net->site[i].fixed_bits;
    const nbi_offer two = {.n = 2, .choice = {4, 8}}, bias = {.n = 1, .choice = {32}};
    nbi_netproblem_options o = {.net = h->net,
                                .scorer = s,
                                .edge = h->net->output[0],
                                .reference = reference,
                                .images = IMAGES,
                                .loss = NBI_LOSS_MSE,
                                .weights = two,
                                .activations = two,
                                .biases = bias,
                                .fixed = fixed};
    HAND_OK(nbi_netproblem_new(h->ctx, &o, &np));
    nbi_problem *p = nbi_netproblem_problem(np);
    int first = h->net->edge[hand_layer(h, inner)->in[0]].site; /* what the first block reads */
    int second = (int)(hand_site(h, inner) - h->net->site);
    assert_int_equal(options_of(np, p->n_vars, first), 4);
    p->limit[NBI_COST_RAM] = 2 * SIZE - 1; /* cannot be met: all stay */
    HAND_OK(nbi_netproblem_bound_ram(h->ctx, np));
    assert_int_equal(options_of(np, p->n_vars, first), 4);
    p->limit[NBI_COST_RAM] = 2 * SIZE;
    HAND_OK(nbi_netproblem_bound_ram(h->ctx, np));
    assert_int_equal(options_of(np, p->n_vars, first), 1);
    assert_int_equal(options_of(np, p->n_vars, second), 2); /* of activations: nothing copies */
    uint8_t policy[HAND_SITES] = {0};
    double cost[NBI_COST_COUNT];
    HAND_OK(p->cost(h->ctx, p->self, policy, cost));
    assert_true(cost[NBI_COST_RAM] == 2 * SIZE);
    nbi_netproblem_free(np);
    nbi_scorer_free(s);
    free(reference);
    hand_free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peak),
        cmocka_unit_test(test_options_beside_a_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
