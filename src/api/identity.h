/* What a training's trajectory depends on, as pairs of text: a checkpoint of another one is refused by
 * the name of what differs. */
#ifndef NIBBLE_API_IDENTITY_H
#define NIBBLE_API_IDENTITY_H

#include "ir/graph.h"

enum { NBI_IDENTITY = 20, NBI_IDENTITY_TEXT = 256 };

/* Zeroed: none. It must not move once it has pairs. */
typedef struct nbi_identity {
    int n;
    nbi_pair pair[NBI_IDENTITY]; /* keys are the caller's */
    char text[NBI_IDENTITY][NBI_IDENTITY_TEXT];
} nbi_identity;

/* value NULL: "default". */
void nbi_identify(nbi_identity *id, const char *key, const char *value);
void nbi_identify_number(nbi_identity *id, const char *key, double value);
void nbi_identify_hash(nbi_identity *id, const char *key, uint64_t value);

#endif
