/* Small networks that between them use every pair of scheme and width that devices run, weights and
 * activations: a residual stream, grouped and depthwise convolutions, a pool behind a convolution of
 * both signs, a dense layer. */
#ifndef SCHEME_NETS_H
#define SCHEME_NETS_H

#include "unit/hand_net.h"

#include "quant/fit.h"

enum { SCHEME_PAIRS = 160, SCHEME_NETS = 20 };

static inline int scheme_pairs(bool weights, nbi_choice out[SCHEME_PAIRS]) {
    size_t rows;
    int n = 0;
    (void)nbi_schemes(&rows);
    for (int s = 1; s < (int)rows; s++)
        for (int b = 1; b <= 8; b++)
            if (nbi_choice_deploys(nbi_choice_of(s, b), weights)) out[n++] = nbi_choice_of(s, b);
    return n;
}

/* The network's output. */
static inline int scheme_net(hand *h, uint64_t seed) {
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

/* Network k of SCHEME_NETS gets the next pairs that no network before has, weights or activations; values
 * of both signs first, which not all schemes take. */
static inline void scheme_net_share(const hand *h, int k, bool weights, nbi_choice *bits) {
    nbi_site_kind kind = weights ? NBI_SITE_WEIGHT : NBI_SITE_ACTIVATION;
    nbi_choice pair[SCHEME_PAIRS];
    int n = scheme_pairs(weights, pair), sites = hand_sites(h, kind), next = k * sites;
    assert_in_range(n, 1, SCHEME_NETS * sites);
    for (int positive = 0; positive < 2; positive++)
        for (int i = 0; i < h->net->n_sites; i++) {
            const nbi_site *s = &h->net->site[i];
            if (s->kind != kind || s->is_unsigned != (positive == 1)) continue;
            int at = next++ % n, m = at;
            while (nbi_choice_for(s, pair[m]) != pair[m]) m = (m + 1) % n;
            bits[i] = pair[m];
            pair[m] = pair[at];
        }
}

/* Network k, corrected and frozen: all of them together use every pair. */
static inline nbi_frozen *scheme_net_frozen(hand *h, int k, size_t images) {
    nbi_choice bits[HAND_SITES] = {0};
    nbi_frozen *frozen;
    hand_finish(h, scheme_net(h, (uint64_t)k));
    hand_calibrate(h, images);
    assert_in_range(h->net->n_sites, 1, HAND_SITES);
    for (int i = 0; i < h->net->n_sites; i++) bits[i] = (nbi_choice)h->net->site[i].fixed_bits;
    for (int weights = 0; weights < 2; weights++) scheme_net_share(h, k, weights, bits);
    hand_bias_bits(h, 0, bits);
    HAND_OK(nbi_fit_policy(h->ctx, h->net, bits, NBI_RANGE_MSE));
    nbi_scorer *s = hand_scorer(h, images, 0);
    HAND_OK(nbi_scorer_freeze(h->ctx, s, bits, &frozen));
    nbi_scorer_free(s);
    return frozen;
}

#endif
