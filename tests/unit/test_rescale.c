/* Weights of channels as decay and folding leave them are brought to one norm, and every scheme that
 * quantizes channel by channel makes the same integer program of them, at every width. */
#include "hand_net.h"

#include "quant/qat.h"

enum { IMAGES = 6, CHANNELS = 8 };

/* A normalization with all kinds of gains, and none, a depthwise convolution, a dense layer. */
static void make(hand *h) {
    static const float gamma[CHANNELS] = {1, -1, 0.5f, 0, 1, 2, -0.5f, 1};
    int x = HAND_IMAGE(h, 11, 3, 6, 6);
    int a = hand_bn(h, hand_conv3(h, x, 3, CHANNELS), CHANNELS, NULL);
    a = hand_op(h, "Relu", a);
    a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, a, CHANNELS, CHANNELS), CHANNELS, gamma));
    a = hand_op(h, "Relu", hand_conv(h, a, CHANNELS, CHANNELS, CHANNELS, (hand_window){3, 1, 1, 1}));
    a = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", a));
    int y = hand_gemm(h, a, CHANNELS, 5);
    for (int n = 0; n < h->g->n_nodes; n++) { /* as if some channels had decayed */
        const nbi_node *node = h->g->node[n];
        if (strcmp(node->op_type, "Conv")) continue;
        nbi_tensor *w = h->g->tensor[node->in[1]];
        int64_t depth = nbi_tensor_count(w) / CHANNELS;
        for (int64_t i = 0; i < nbi_tensor_count(w); i++)
            ((float *)w->data)[i] *= powf(3, (float)(i / depth % 5) - 3);
    }
    hand_finish(h, y);
}

static double norm_of(const nbi_layer *l, size_t channel) {
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    double sum = 0;
    for (size_t i = 0; i < depth; i++) {
        double w = (double)l->weight[nbi_weight_place(l, channel, i)];
        sum += w * w;
    }
    return sqrt(sum);
}

static void test_norms(void **state) {
    (void)state;
    hand plain, scaled;
    make(&plain);
    make(&scaled);
    nbi_net_rescale(scaled.net);
    hand_calibrate(&plain, IMAGES);
    hand_calibrate(&scaled, IMAGES);
    int seen = 0;
    for (int i = 0; i < plain.net->n_layers; i++) {
        const nbi_layer *a = &plain.net->layer[i], *b = &scaled.net->layer[i];
        if (a->type != NBI_LAYER_CONV) continue;
        const bool norm = nbi_qat_normalizes(plain.net, a);
        seen += norm;
        assert_int_equal(norm, nbi_qat_normalizes(scaled.net, b));
        for (size_t c = 0; c < (size_t)a->geometry.out_c; c++) {
            const double was = norm_of(a, c), is = norm_of(b, c), f = is / was;
            if (norm) assert_true(is > 1.2 && is < 2.41);
            else assert_true(was == is);
            assert_true((double)a->gain[c] == (double)b->gain[c] * f);
            assert_true(a->shift[c] == b->shift[c]);
            assert_true(a->mean[c] * f == b->mean[c] && a->deviation[c] * f == b->deviation[c]);
        }
    }
    assert_int_equal(seen, 3);
    hand_free(&plain);
    hand_free(&scaled);
}

static void is_same(const nbi_frozen *a, const nbi_frozen *b, const char *name, int bits) {
    for (int i = 0; i < a->net->n_layers; i++) {
        const nbi_layer *l = &a->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        const size_t channels = (size_t)l->geometry.out_c;
        if (memcmp(a->conv[i].levels, b->conv[i].levels, l->n_weights) ||
            memcmp(a->conv[i].scale, b->conv[i].scale, channels * sizeof(float)) ||
            memcmp(a->conv[i].shift, b->conv[i].shift, channels * sizeof(double)))
            fail_msg("%s%d: layer '%s' differs", name, bits, l->name);
    }
}

/* Is it quantized channel by channel, by formulas without a scale of their own? DoReFa bends weights by a
 * tangent, clip adds 1e-7 to its steps. */
static bool follows(const nbi_layer *l, nbi_choice choice) {
    const nbi_scheme *row = nbi_choice_row(choice);
    return nbi_weight_groups(l, choice, true) > 1 && !(row->flags & NBI_SCHEME_RESCALES) &&
           strcmp(row->name, "clip");
}

static void test_programs(void **state) {
    (void)state;
    hand net[2];
    nbi_scorer *s[2];
    size_t rows;
    int conv = 0, seen = 0;
    const nbi_scheme *const *scheme = nbi_schemes(&rows);
    for (int k = 0; k < 2; k++) {
        make(&net[k]);
        if (k) nbi_net_rescale(net[k].net);
        hand_calibrate(&net[k], IMAGES);
        s[k] = hand_scorer(&net[k], IMAGES, 0);
    }
    while (net[0].net->layer[conv].type != NBI_LAYER_CONV) conv++;
    for (int r = 0; r < (int)rows; r++)
        for (int b = 1; b <= NBI_MAX_BITS; b++) {
            nbi_choice bits[HAND_SITES];
            nbi_frozen *frozen[2];
            const nbi_choice choice = nbi_choice_of(r, b);
            if (!nbi_choice_deploys(choice, true) || !follows(&net[0].net->layer[conv], choice)) continue;
            seen++;
            hand_bits(&net[0], 4, 8, bits);
            for (int i = 0; i < net[0].net->n_layers; i++)
                if (net[0].net->layer[i].type == NBI_LAYER_CONV)
                    bits[net[0].net->layer[i].weight_site] = choice;
            for (int k = 0; k < 2; k++) {
                hand *h = &net[k];
                HAND_OK(nbi_scorer_freeze(h->ctx, s[k], bits, &frozen[k]));
            }
            is_same(frozen[0], frozen[1], scheme[r]->name, b);
            nbi_frozen_free(frozen[0]);
            nbi_frozen_free(frozen[1]);
        }
    assert_true(seen >= 20);
    for (int k = 0; k < 2; k++) {
        nbi_scorer_free(s[k]);
        hand_free(&net[k]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_norms), cmocka_unit_test(test_programs)};
    return cmocka_run_group_tests_name("rescale", tests, NULL, NULL);
}
