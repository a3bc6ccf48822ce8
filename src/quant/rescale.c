/* See nbi_net_rescale in generate.h. */
#include "quant/generate.h"
#include "quant/qat.h"

#include <math.h>

#define NORM     1.7 /* of a channel's weights: He et al. 2015 give √2, trained networks 1 to 2.5 */
#define FURTHEST 8   /* powers of two: channels that are all but dead stay small */

/* The power of two that brings the channel's norm nearest to NORM; 1 where it has none. */
static float factor_of(const nbi_layer *l, size_t channel) {
    double sum = 0;
    for (size_t i = 0; i < l->n_weights / (size_t)l->geometry.out_c; i++) {
        double w = (double)l->weight[nbi_weight_place(l, channel, i)];
        sum += w * w;
    }
    if (!(sum > 0) || !isfinite(sum)) return 1;
    return (float)ldexp(1, (int)fmin(fmax(rint(log2(NORM / sqrt(sum))), -FURTHEST), FURTHEST));
}

void nbi_net_rescale(nbi_qnet *net) {
    for (int n = 0; n < net->n_layers; n++) {
        nbi_layer *l = &net->layer[n];
        if (l->type != NBI_LAYER_CONV || !nbi_qat_normalizes(net, l)) continue;
        for (size_t c = 0; c < (size_t)l->geometry.out_c; c++) {
            const float f = factor_of(l, c);
            for (size_t i = 0; i < l->n_weights / (size_t)l->geometry.out_c; i++)
                l->weight[nbi_weight_place(l, c, i)] *= f;
            l->gain[c] /= f;
            l->sum_scale[c] *= f;
        }
    }
}
