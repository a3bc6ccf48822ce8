/* What onednn.c and onednn_train.c share: the only two files that see oneDNN. */
#ifndef NIBBLE_LINALG_ONEDNN_PARTS_H
#define NIBBLE_LINALG_ONEDNN_PARTS_H

#include "linalg/linalg.h"

#include <dnnl.h>

#if DNNL_VERSION_MAJOR != 2
#error "src/linalg/onednn*.c are written for oneDNN 2.x; configure with -DNIBBLE_ONEDNN=OFF"
#endif

/* oneDNN's functions are declared to read 12 values whatever the rank. */
#define PAIR(two) ((dnnl_dims_t){(two)[0], (two)[1]})

struct nbi_la {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

struct nbi_la_plan {
    dnnl_primitive_t primitive;
    dnnl_memory_t src, dst, weights, bias;
    /* Training: weights in ONNX order, and the reorder between them and `weights` (NULL: none). */
    nbi_la_pass pass;
    dnnl_memory_t plain;
    dnnl_primitive_t reorder;
};

nb_status nbi_dnnl_check(nb_ctx *ctx, dnnl_status_t status, const char *what);
nb_status nbi_dnnl_describe(nb_ctx *ctx, dnnl_memory_desc_t *md, int rank, const dnnl_dims_t dim,
                            dnnl_format_tag_t tag);

#endif
