/* Pairs of text that say what a training depends on. */
#include "api/identity.h"

#include <assert.h>
#include <stdio.h>

void nbi_identify(nbi_identity *id, const char *key, const char *value) {
    assert(id->n < NBI_IDENTITY);
    const int i = id->n++;
    snprintf(id->text[i], sizeof id->text[i], "%s", value ? value : "default");
    id->pair[i] = (nbi_pair){key, id->text[i]};
}

void nbi_identify_number(nbi_identity *id, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.9g", value);
    nbi_identify(id, key, text);
}

void nbi_identify_hash(nbi_identity *id, const char *key, uint64_t value) {
    char text[20];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
    nbi_identify(id, key, text);
}
