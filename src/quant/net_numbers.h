/* The numbers of a quantized network that calibration and training make: all that a score depends
 * on beside the structure, the policy and the levels of weights. For a copy of the network in
 * another process. */
#ifndef NIBBLE_QUANT_NET_NUMBERS_H
#define NIBBLE_QUANT_NET_NUMBERS_H

#include "ir/qnet.h"

size_t nbi_net_numbers_bytes(const nbi_qnet *net);
void nbi_net_numbers_get(const nbi_qnet *net, void *to);
/* net: of the same structure, with the same choices fitted, after a calibration. */
nb_status nbi_net_numbers_set(nb_ctx *ctx, nbi_qnet *net, const void *from);

#endif
