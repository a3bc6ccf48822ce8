/* 3×3 convolutions of stride 1 by Winograd's algorithm in float32: a tile of 4×4 outputs, or of 3×3
 * weight gradients from 4×4 output gradients, takes 36 products per pair of channels instead of
 * 144. Rounding errors are about ten times those of direct sums, so it is for those who ask
 * (`fast`). Internal to linalg/. */
#ifndef NIBBLE_LINALG_WINO_H
#define NIBBLE_LINALG_WINO_H

#include "linalg/linalg.h"

/* Memory that the plans of one nbi_la share: no two run at once. */
typedef struct nbi_wino_room {
    float *at;
    size_t count;
} nbi_wino_room;

typedef struct nbi_wino nbi_wino;

/* Is the shape one that the algorithm is faster for? The same answer whatever the batch's content,
 * so results do not depend on timing. */
bool nbi_wino_fits(const nbi_la_conv_desc *desc);
/* w: fixed weights (M,C,3,3) of inference and its bias or NULL, transformed here once; w NULL: they
 * come with every run. */
nb_status nbi_wino_new(nb_ctx *ctx, const nbi_la_conv_desc *desc, nbi_la_pass pass, const float *w,
                       const float *bias, nbi_wino **out);
void nbi_wino_free(nbi_wino *plan); /* NULL is allowed */
/* args as nbi_la_run_train; w and bias are not read where they are fixed. Results do not depend on
 * the number of threads. NB_ENOMEM: the room could not grow. */
nb_status nbi_wino_run(nb_ctx *ctx, nbi_wino *plan, nbi_wino_room *room, const nbi_la_args *args);

#endif
