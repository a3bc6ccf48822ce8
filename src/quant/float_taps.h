/* Values inside the float network over many images, one batch in memory at a time. */
#ifndef NIBBLE_QUANT_FLOAT_TAPS_H
#define NIBBLE_QUANT_FLOAT_TAPS_H

#include "quant/calibrate.h"

/* Receives `n` images of tap number `tap`, starting with image `first`: dense, rank 3 and 4 channels
 * last, `count` values each. */
typedef nb_status (*nbi_tap_fn)(nb_ctx *ctx, void *user, int tap, size_t first, size_t n,
                                const float *x, size_t count);

typedef struct nbi_taps {
    const nbi_graph *source; /* any batch */
    int n;
    const char *const *name; /* [n] tensors of source; those that are computed in front of them are
                                all that runs */
    size_t images;
    nbi_fill_fn fill;
    void *fill_user;
    nbi_tap_fn take;
    void *take_user;
    const char *what; /* of the progress line */
} nbi_taps;

/* NB_EFORMAT names a tensor that is not there, NB_EUNSUPPORTED one that is not float32. */
nb_status nbi_float_taps(nb_ctx *ctx, const nbi_taps *taps);

#endif
