/* Choices of a policy, scheme·256 + bits (ir/qnet.h), as text, as rows, and which of them a device can
 * run. Scheme numbers are rows of schemes.def and never leave the program: files hold names. */
#ifndef NIBBLE_SCHEMES_CHOICE_H
#define NIBBLE_SCHEMES_CHOICE_H

#include "ir/qnet.h"
#include "schemes/schemes.h"

#define NBI_CHOICE_TEXT 24

/* The row of a choice; NULL when its number is none. */
const nbi_scheme *nbi_choice_row(nbi_choice choice);
/* How a scheme is used with these bits; a scheme without an unsigned form takes values ≥ 0 by its
 * signed one. */
nbi_scheme_use nbi_choice_use(nbi_choice choice, bool weights, bool is_unsigned);
/* "4" (uniform) or "pot3" of `n` characters → choice; NB_EINVAL names `what` and the text. */
nb_status nbi_choice_parse(nb_ctx *ctx, const char *what, const char *text, size_t n,
                           nbi_choice *out);
/* The same in parts; *scheme = −1 when the text names none. */
nb_status nbi_choice_parse_part(nb_ctx *ctx, const char *what, const char *text, size_t n,
                                int *scheme, int *bits);
/* "4", "pot3". */
void nbi_choice_text(nbi_choice choice, char out[NBI_CHOICE_TEXT]);
/* true when the levels are exact in 8 bits, for weights or activations. */
bool nbi_choice_deploys(nbi_choice choice, bool weights);
/* NB_EINVAL otherwise: says which widths of the scheme are possible. `who`: the tensor or option. */
nb_status nbi_choice_check(nb_ctx *ctx, const char *who, nbi_choice choice, bool weights);

/* ---- grids of activations ---------------------------------------------------------------------- */

/* The choice, or the uniform one of the same width where the site cannot get it: streams, inputs and
 * outputs, values of both signs for an unsigned scheme. */
nbi_choice nbi_choice_for(const nbi_site *site, nbi_choice choice);
/* The grid of a scheme with these params. levels (the caller's, filled, with params copied; `first`
 * given) is used, and pointed to, only where the scheme is no uniform rounding. */
void nbi_choice_grid(nbi_choice choice, bool is_unsigned, const float *params,
                     const nbi_qparam *first, nbi_levels *levels, nbi_qparam *out);
/* n real values → raw bytes of a tensor whose grid has levels. */
void nbi_levels_bytes(const nbi_qparam *q, const float *real, size_t n, uint8_t *byte);
/* The 256 raw bytes of `from` → those of a grid with levels. */
void nbi_levels_table(const nbi_qparam *q, const nbi_qparam *from, uint8_t table[256]);
/* The grid that a layer computes before any table. */
static inline const nbi_qparam *nbi_made_grid(const nbi_qparam *q) {
    return q->levels ? &q->levels->first : q;
}

/* ---- tables of weights ------------------------------------------------------------------------ */

/* How many int8 levels a layer of such weights stores: 0 where codes are uniform (or levels
 * themselves, at 8 bits), else 2^bits. */
size_t nbi_choice_table_size(nbi_choice choice);
/* true when all tensors of the choice have the same table, then in `table` (if not NULL). */
bool nbi_choice_table(nbi_choice choice, int8_t table[256]);
/* Levels in memory and their scale: grid levels times a power of two, at most the level step of the
 * width (nbk_level_step), that int8 still holds. */
int nbi_grid_step(const nbi_scheme_grid *grid, int bits);
/* The first 2^bits entries: those levels by code; codes beyond the last one repeat it. */
void nbi_grid_table(const nbi_scheme_grid *grid, int bits, int8_t table[256]);

#endif
