/* Tensors as groups of values that lie together: the whole tensor, or one group per index of an
 * axis. For operators that quantize. */
#ifndef NIBBLE_OPS_OP_GROUPS_H
#define NIBBLE_OPS_OP_GROUPS_H

#include "ir/graph.h"

/* True when the memory of v is gap-free and, with an axis, has whole groups one after another. */
bool nbi_is_grouped(const nbi_view *v, int axis);
bool nbi_same_strides(const nbi_view *a, const nbi_view *b);
/* *out = v's values, group by group: v's own memory when `direct` (it is grouped, and laid out as
 * all other operands), else *copy (allocated here, the caller's; filled when `fill`). */
nb_status nbi_grouped(nb_ctx *ctx, const nbi_view *v, int axis, bool direct, bool fill,
                      float **copy, float **out);
/* The way back: values group by group → view. */
void nbi_ungroup(const nbi_view *to, int axis, float *from);

#endif
