/* What methods share that learn a policy by gradient on the network itself. */
#ifndef NIBBLE_SEARCH_LEARNED_H
#define NIBBLE_SEARCH_LEARNED_H

#include "search/search.h"

/* Learns as `how` says (method, epochs, rates; seed and deadline are the run's), brings the policy
 * within the limits by the tensors' own squared errors, and scores it on the integer program. */
nb_status nbi_search_learned(nb_ctx *ctx, const nbi_search_run *run, const nbi_learning *how);

#endif
