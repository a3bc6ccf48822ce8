/* Arrays of .npz files: entries of a zip archive in NumPy's .npy format (versions 1 to 3).
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef NIBBLE_DATA_NPY_H
#define NIBBLE_DATA_NPY_H

#include "base/base.h"

enum { NBI_NPY_RANK_MAX = 9, NBI_NPZ_ARRAYS_MAX = 65535 }; /* what a zip's 16 bits count */

typedef struct nbi_npy {
    const char *name;  /* "x", without .npy; in the archive's arena */
    char kind;         /* 'b' bool, 'i', 'u', 'f' */
    bool swap;         /* big-endian */
    size_t item_bytes; /* 1, 2, 4, 8; floats 2, 4, 8 */
    int rank;
    size_t shape[NBI_NPY_RANK_MAX];
    size_t items;        /* product of shape */
    uint8_t *file;       /* the entry, from nbi_alloc */
    const uint8_t *data; /* items·item_bytes bytes in `file`, C order */
} nbi_npy;

/* An open archive's arrays by name. */
typedef struct nbi_npz {
    const char *path;
    void *zip;
    uint64_t bytes;     /* of the file */
    const char **names; /* without ".npy" */
    size_t n;
    nbi_arena arena;
} nbi_npz;
nb_status nbi_npz_open(nb_ctx *ctx, const char *path, nbi_npz *out);
void nbi_npz_close(nbi_npz *npz); /* a zeroed one is allowed */
bool nbi_npz_has(const nbi_npz *npz, const char *name);
/* Reads and checks one array; free with nbi_npy_free. */
nb_status nbi_npz_read(nb_ctx *ctx, nbi_npz *npz, const char *name, nbi_npy *out);
void nbi_npy_free(nbi_npy *array); /* a zeroed one is allowed */
/* Item `i` as a number. */
double nbi_npy_real(const nbi_npy *array, size_t i);
/* Integer kinds only; UINT64 values above INT64_MAX come out as INT64_MAX. */
int64_t nbi_npy_integer(const nbi_npy *array, size_t i);

#endif
