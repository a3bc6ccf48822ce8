/* Training graphs of policies with schemes other than uniform: every pair of scheme and width that
 * devices run is trained for some steps, and the integer program computes what the simulation does,
 * layer by layer and as a whole. */
#include "qat_layers.h"

#include "quant/fit.h"

#define BATCH 4

enum { PAIRS = 160 };

static int all_pairs(bool weights, nbi_choice out[PAIRS]) {
    size_t rows;
    int n = 0;
    (void)nbi_schemes(&rows);
    for (int s = 1; s < (int)rows; s++)
        for (int b = 1; b <= 8; b++)
            if (nbi_choice_deploys(nbi_choice_of(s, b), weights)) out[n++] = nbi_choice_of(s, b);
    return n;
}

/* A residual stream, a depthwise convolution, a pool behind a convolution of both signs. */
static int build(hand *h, uint64_t seed) {
    const float gamma[8] = {1, -1, 0.5f, 0.7f, 1, 2, -0.5f, 1};
    int x = HAND_IMAGE(h, seed, 3, 8, 8);
    int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 3, 8), 8, NULL));
    int b = hand_bn(h, hand_conv(h, a, 8, 8, 2, (hand_window){3, 1, 1, 1}), 8, gamma);
    b = hand_op(h, "Relu", hand_op2(h, "Add", a, b));
    b = hand_conv(h, b, 8, 8, 8, (hand_window){3, 1, 1, 1});
    b = hand_pool(h, "MaxPool", b, 2, 2, 0);
    b = hand_clip(h, hand_conv(h, b, 8, 8, 1, (hand_window){3, 1, 1, 1}), 0, 6);
    b = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", hand_conv3(h, b, 8, 8)));
    return hand_gemm(h, b, 8, 5);
}

static void check(nbi_choice weights, nbi_choice activations, uint64_t seed) {
    qat_case c = {.batch = BATCH, .per_tensor = seed % 2};
    hand *h = &c.h;
    char name[2][NBI_CHOICE_TEXT], text[64];
    int y = build(h, seed);
    hand_outputs(h, 1, &y);
    qat_generate(&c, 8, 8);
    for (int s = 0; s < h->net->n_sites; s++)
        if (!h->net->site[s].fixed_bits)
            c.bits[s] = nbi_choice_for(&h->net->site[s], h->net->site[s].kind == NBI_SITE_WEIGHT
                                                             ? weights
                                                             : activations);
    HAND_OK(nbi_fit_policy(h->ctx, h->net, c.bits, NBI_RANGE_MSE));
    qat_build(&c, true);
    /* running statistics come near what coarse weights give: else outputs saturate */
    for (int i = 0; i < 8; i++) qat_step(&c, 1e-3f);
    nbi_choice_text(weights, name[0]);
    nbi_choice_text(activations, name[1]);
    snprintf(text, sizeof text, "%s,%s", name[0], name[1]);
    qat_layers_are_same(&c, text);
    qat_is_same(&c, text, 1e-3);
    qat_spoil_gains(&c);
    qat_layers_are_same(&c, text);
    qat_is_same(&c, text, 1e-3);
    qat_release(&c);
}

static void test_weights(void **state) {
    (void)state;
    nbi_choice pair[PAIRS];
    int n = all_pairs(true, pair);
    for (int i = 0; i < n; i++) check(pair[i], 8, (uint64_t)i);
}

static void test_activations(void **state) {
    (void)state;
    nbi_choice pair[PAIRS];
    int n = all_pairs(false, pair);
    for (int i = 0; i < n; i++) check(8, pair[i], (uint64_t)i);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_activations),
    };
    return cmocka_run_group_tests_name("qat_mixed", tests, NULL, NULL);
}
