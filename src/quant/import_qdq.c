#include "quant/import_qdq.h"
nb_status nbi_import_qdq(nb_ctx *ctx, const nbi_graph *qdq, nbi_qnet **out_net, nbi_frozen **out_frozen){(void)qdq;(void)out_net;(void)out_frozen;return nb_fail(ctx,NB_EUNSUPPORTED,"x");}
bool nbi_is_qdq(const nbi_graph *graph){(void)graph;return false;}
