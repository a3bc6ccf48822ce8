/* Training graphs of policies with schemes other than uniform: every pair of scheme and width that
 * devices run is trained for some steps, and the integer program computes what the simulation does,
 * layer by layer and as a whole. */
#include "qat_layers.h"
#include "scheme_nets.h"

#define BATCH 4

static void check(nbi_choice weights, nbi_choice activations, uint64_t seed) {
    qat_case c = {.batch = BATCH, .per_tensor = seed % 2};
    hand *h = &c.h;
    char name[2][NBI_CHOICE_TEXT], text[64];
    int y = scheme_net(h, seed);
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
    nbi_choice pair[SCHEME_PAIRS];
    int n = scheme_pairs(true, pair);
    for (int i = 0; i < n; i++) check(pair[i], 8, (uint64_t)i);
}

static void test_activations(void **state) {
    (void)state;
    nbi_choice pair[SCHEME_PAIRS];
    int n = scheme_pairs(false, pair);
    for (int i = 0; i < n; i++) check(8, pair[i], (uint64_t)i);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_activations),
    };
    return cmocka_run_group_tests_name("qat_mixed", tests, NULL, NULL);
}
