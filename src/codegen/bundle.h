/* The source of the reference kernels, put into the library when it is built (cmake/bundle.cmake),
 * so that the C generator can write it out anywhere. */
#ifndef NIBBLE_CODEGEN_BUNDLE_H
#define NIBBLE_CODEGEN_BUNDLE_H

#include <stddef.h>

typedef struct nbi_bundle_file {
    const char *name; /* "nbk_conv.c" */
    const unsigned char *data;
    size_t size;
} nbi_bundle_file;
extern const nbi_bundle_file nbi_bundle[]; /* sorted by name; ends with a NULL name */

#endif
