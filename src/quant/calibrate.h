/* Calibration: streams images through the float network and keeps, in bounded memory, a histogram
 * per activation site and mean and deviation of every convolution's sums per output channel. */
#ifndef NIBBLE_QUANT_CALIBRATE_H
#define NIBBLE_QUANT_CALIBRATE_H

#include "ir/qnet.h"
#include "quant/fit.h"

/* Fills a batch of network inputs: float32, contiguous ONNX order, images first … first+n−1. */
typedef nb_status (*nbi_fill_fn)(nb_ctx *ctx, void *user, size_t first, size_t n, float *out);

typedef struct nbi_calibration {
    nbi_fill_fn fill;
    void *user;
    size_t images;
    nbi_range_method range;
    /* If not NULL: the first network output that can be compared (scores, before a Softmax) for
     * every image: [images][elements of net->edge[score_edge]], channels-last order as the integer
     * program's. Allocated by the caller. */
    int score_edge;
    float *scores;
} nbi_calibration;

/* `source` is the float graph before specialization (any batch). Sets site.hist, site.fit, site.sqnr
 * of activation sites and layer.mean/deviation. NB_ENUMERIC names a tensor with NaN. Results do not
 * depend on the thread count. */
nb_status nbi_calibrate(nb_ctx *ctx, const nbi_graph *source, nbi_qnet *net,
                        const nbi_calibration *options);
/* Only the float scores of images, without statistics. */
nb_status nbi_float_scores(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net,
                           const nbi_calibration *options);
/* The edge whose values scores are made of: the (first) output, or what a final Softmax reads. */
int nbi_score_edge(const nbi_qnet *net);

#endif
