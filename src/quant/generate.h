/* QAG, quantized architecture generation: sites on any canonical network (specs: AutoQNN's QAG).
 * One site per tensor, not per consumer; moves of values share their input's site; residual streams
 * are sites of their own; a convolution that reads a stream does so through a requantization. */
#ifndef NIBBLE_QUANT_GENERATE_H
#define NIBBLE_QUANT_GENERATE_H

#include "ir/qnet.h"

typedef enum nbi_first_last {
    NBI_FIRST_LAST_8,       /* weights of the first and last layer and the last one's input: 8 bits */
    NBI_FIRST_LAST_SEARCHED /* like every other layer */
} nbi_first_last;

typedef struct nbi_qag_options {
    nbi_first_last first_last;
    int residual_bits; /* of streams: 8 */
} nbi_qag_options;

/* float graph (taken over, also on failure; specialized to batch 1) → network with sites. An image
 * input (is_image: raw u8 pixels) has its table set by the caller afterwards. */
nb_status nbi_generate(nb_ctx *ctx, nbi_graph *graph, const nbi_qag_options *options,
                       nbi_qnet **out);

/* Brings the weights of every channel that training normalizes to about one norm, by powers of two that
 * the channel's gain takes back; before calibration. What is computed stays the same bit for bit, and so
 * does what is quantized channel by channel. A step of gradient descent moves normalized weights by
 * rate / norm² of themselves: one rate then suits networks whose weights were decayed much or little, or
 * had a normalization folded in. */
void nbi_net_rescale(nbi_qnet *net);

/* What quantization costs, all of it exact (sums over sites and layers). What the generated C stores is
 * runtime/footprint.h's. */
typedef struct nbi_net_cost {
    double bytes_onnx; /* weights in ONNX containers + scales + biases */
    double weight_bits, weights;         /* Σ n·b, Σ n */
    double activation_bits, activations; /* likewise, over activation sites */
    double bops;       /* Σ MACs·b_w·b_a */
} nbi_net_cost;
/* `containers`: 0 = widths of 8 and 4; 2 = of 2 as well (opset 25). bits[site]. */
void nbi_net_cost_of(const nbi_qnet *net, const nbi_choice *bits, int containers, nbi_net_cost *out);
/* The width of the ONNX container for `bits`. */
int nbi_container_bits(int bits, int containers);
/* NB_EUNSUPPORTED names the first node of the net that at another batch computes something else than the
 * same for every image. source: the model, of any batch. */
nb_status nbi_check_apart(nb_ctx *ctx, const nbi_graph *source, const nbi_qnet *net);

#endif
