/* BatchNormalization's statistics after training. */
#ifndef NIBBLE_QUANT_REESTIMATE_H
#define NIBBLE_QUANT_REESTIMATE_H

#include "data/batches.h"
#include "quant/qat.h"

/* The running statistics become the means over the first `n` batches (at most an epoch's) of `epoch`,
 * with everything else as it is. On failure they are spoilt. */
nb_status nbi_qat_reestimate(nb_ctx *ctx, const nbi_qat *qat, nbi_batches *batches, uint64_t epoch,
                             size_t n);

/* A copy of the running statistics (nbi_free), and back. */
nb_status nbi_qat_statistics_keep(nb_ctx *ctx, const nbi_qat *qat, float **out);
void nbi_qat_statistics_restore(const nbi_qat *qat, const float *kept);

#endif
