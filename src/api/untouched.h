/* Nodes that quantization leaves as they are: operators that this build does not know, and what
 * depends on them. Which nodes, why, and what they store. */
#ifndef NIBBLE_API_UNTOUCHED_H
#define NIBBLE_API_UNTOUCHED_H

#include "ir/qnet.h"

#include <jansson.h>

bool nbi_is_untouched(const nbi_qnet *net, const nbi_node *node);
/* The first of them in the network's order, which reads none of the others; NULL: there is none. */
const nbi_node *nbi_first_untouched(const nbi_qnet *net);
/* "this build does not know Mish of opset 13", "it reads 'x' of node 'y', which stays as it is". */
void nbi_why_untouched(const nbi_qnet *net, const nbi_node *node, char *text, size_t size);
/* Their names. */
json_t *nbi_untouched_names(const nbi_qnet *net);
/* [{node, operator, why}] */
json_t *nbi_untouched_rows(const nbi_qnet *net);
/* One warning for each operator that is not known, with the number of nodes behind it. */
nb_status nbi_warn_untouched(nb_ctx *ctx, const nbi_qnet *net);
/* Bytes of the float32 parameters that nodes of `source` read and none of `front` does, which was
 * copied from it and cut. */
double nbi_untouched_bytes(const nbi_graph *source, const nbi_graph *front);
/* NB_EUNSUPPORTED where there is one: "node '%s': <why>: <consequence>". */
nb_status nbi_refuse_untouched(nb_ctx *ctx, const nbi_qnet *net, const char *consequence);

#endif
