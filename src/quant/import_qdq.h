#ifndef NIBBLE_QUANT_IMPORT_QDQ_H
#define NIBBLE_QUANT_IMPORT_QDQ_H
#include "ir/qnet.h"
nb_status nbi_import_qdq(nb_ctx *ctx, const nbi_graph *qdq, nbi_qnet **out_net, nbi_frozen **out_frozen);
bool nbi_is_qdq(const nbi_graph *graph);
#endif
