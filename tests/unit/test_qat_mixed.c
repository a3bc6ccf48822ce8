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

/* Every value that training has at an edge is one that the program can have there. */
static void is_deployed(qat_case *c, int edge, const char *name) {
    hand *h = &c->h;
    const nbi_qat *q = c->train;
    int site = h->net->edge[edge].site;
    nbi_scheme_use use = nbi_choice_use(c->bits[site], false, h->net->site[site].is_unsigned);
    nbi_scheme_grid grid;
    nbi_view v;
    nbi_tape *tape;
    nbi_tape_spec spec = {.n_keep = 1, .keep = &q->value[edge]};
    nbi_choice_row(c->bits[site])->grid(&use, q->graph->tensor[q->site_params[site]]->data, &grid);
    HAND_OK(nbi_tape_new(h->ctx, q->graph, &spec, &tape));
    float *zeros = calloc(BATCH * 64, sizeof *zeros);
    HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input, zeros, zeros}, 0));
    HAND_OK(nbi_tape_value(h->ctx, tape, q->value[edge], &v));
    for (int64_t i = 0; i < nbi_view_count(&v); i++) {
        float x = ((const float *)v.data)[i], nearest = INFINITY;
        for (int k = 0; k < grid.n; k++)
            nearest = fminf(nearest, fabsf(x - grid.scale * (float)grid.level[k]));
        if (nearest > 1e-5f * fabsf(x)) /* rounding of a product */
            fail_msg("%s: '%s' is trained with %g, which is not deployed", name,
                     h->net->edge[edge].name, (double)x);
    }
    free(zeros);
    nbi_tape_free(tape);
}

/* Branches of very different size share the grid behind their concatenation. */
static void test_branches(void **state) {
    nbi_choice pair[SCHEME_PAIRS];
    int n = scheme_pairs(false, pair);
    (void)state;
    for (int i = 0; i < n; i++) {
        if (!(nbi_choice_row(pair[i])->flags & NBI_SCHEME_REFIT)) continue;
        qat_case c = {.batch = BATCH};
        hand *h = &c.h;
        char name[NBI_CHOICE_TEXT];
        int x = HAND_IMAGE(h, 3, 3, 8, 8);
        x = hand_op(h, "Relu", hand_conv3(h, x, 3, 8));
        int a = hand_op(h, "Relu", hand_conv3(h, x, 8, 4)), b = hand_conv3(h, x, 8, 4);
        for (int k = 0; k < 4 * 8 * 9; k++) hand_data(h, h->node->in[1])[k] *= 16;
        b = hand_op(h, "Relu", b);
        int y = hand_op2(h, "Concat", a, b);
        hand_int(h, "axis", 1);
        y = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", hand_conv3(h, y, 8, 8)));
        y = hand_gemm(h, y, 8, 5);
        hand_outputs(h, 1, &y);
        qat_generate(&c, 8, 8);
        int site = h->net->edge[hand_edge(h, a)].site;
        assert_int_equal(site, h->net->edge[hand_edge(h, b)].site);
        c.bits[site] = nbi_choice_for(&h->net->site[site], pair[i]);
        HAND_OK(nbi_fit_policy(h->ctx, h->net, c.bits, NBI_RANGE_MSE));
        qat_build(&c, true);
        qat_step(&c, 1e-3f);
        nbi_choice_text(c.bits[site], name);
        if (nbi_choice_scheme(c.bits[site])) {
            is_deployed(&c, hand_edge(h, a), name);
            is_deployed(&c, hand_edge(h, b), name);
        }
        qat_is_same(&c, name, 1e-3);
        qat_release(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_branches),
    };
    return cmocka_run_group_tests_name("qat_mixed", tests, NULL, NULL);
}
