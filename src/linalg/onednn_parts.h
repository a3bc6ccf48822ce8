/* What onednn.c and onednn_train.c share: the only two files that see oneDNN. */
#ifndef NIBBLE_LINALG_ONEDNN_PARTS_H
#define NIBBLE_LINALG_ONEDNN_PARTS_H

#include "linalg/wino.h"

#include <dnnl.h>

#if DNNL_VERSION_MAJOR != 2
#error "src/linalg/onednn*.c are written for oneDNN 2.x; configure with -DNIBBLE_ONEDNN=OFF"
#endif

/* oneDNN's functions are declared to read 12 values whatever the rank. */
#define PAIR(two) ((dnnl_dims_t){(two)[0], (two)[1]})

struct nbi_la {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    nbi_wino_room room;
};

struct nbi_la_plan {
    nbi_wino *wino; /* instead of all that follows */
    dnnl_primitive_t primitive;
    dnnl_memory_t src, dst, weights, bias;
    bool ran; /* some code is made at the first run */
    /* Training: weights in ONNX order, and the reorder between them and `weights` (NULL: none). */
    nbi_la_pass pass;
    dnnl_memory_t plain;
    dnnl_primitive_t reorder;
};

/* oneDNN 2.7 does not survive a failed allocation while it generates code: what one primitive takes
 * is seen to be there first, here and before a plan's first run. */
#define NBI_DNNL_HEADROOM ((size_t)16 << 20)
nb_status nbi_dnnl_make(nb_ctx *ctx, dnnl_primitive_t *out, const_dnnl_primitive_desc_t pd,
                        const char *what);
nb_status nbi_dnnl_first_run(nb_ctx *ctx, nbi_la_plan *plan);
nb_status nbi_dnnl_check(nb_ctx *ctx, dnnl_status_t status, const char *what);
/* A plan of Winograd's; w NULL: weights come with every run. */
nb_status nbi_dnnl_wino(nb_ctx *ctx, const nbi_la_conv_desc *desc, nbi_la_pass pass, const float *w,
                        const float *bias, nbi_la_plan **out);
nb_status nbi_dnnl_describe(nb_ctx *ctx, dnnl_memory_desc_t *md, int rank, const dnnl_dims_t dim,
                            dnnl_format_tag_t tag);

#endif
