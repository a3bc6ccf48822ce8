/* The .npy format (NEP 1): header in, header out. Little-endian, C order, plain numeric types. */
#ifndef NIBBLE_BASE_NPY_HEADER_H
#define NIBBLE_BASE_NPY_HEADER_H

#include "base/base.h"

#define NBI_NPY_MAX_RANK 8

typedef struct nbi_npy_info {
    nb_dtype dtype; /* F32, F64, F16, S8…U64, BOOL */
    int rank;
    int64_t dim[NBI_NPY_MAX_RANK];
    size_t count;  /* elements, at most 2^40 */
    size_t offset; /* of the first element */
    size_t bytes;  /* of all elements */
} nbi_npy_info;

/* Parses the header at the start of `data`. `size` may be less than the whole file; the caller
 * compares out->offset + out->bytes with what it has. `what` names the source in messages.
 * NB_EFORMAT: no .npy; NB_EUNSUPPORTED: big-endian, Fortran order, other types, rank > 8. */
nb_status nbi_npy_parse(nb_ctx *ctx, const char *what, const void *data, size_t size,
                        nbi_npy_info *out);
/* Appends the header (version 1, data aligned to 64 bytes) for such an array. */
nb_status nbi_npy_write_header(nb_ctx *ctx, nb_dtype dtype, int rank, const int64_t *dim,
                               nbi_buf *out);

#endif
