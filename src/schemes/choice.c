/* See choice.h. */
#include "schemes/choice.h"

#include <stdio.h>
#include <string.h>

const nbi_scheme *nbi_choice_row(nbi_choice choice) {
    size_t n;
    const nbi_scheme *const *rows = nbi_schemes(&n);
    return (size_t)nbi_choice_scheme(choice) < n ? rows[nbi_choice_scheme(choice)] : NULL;
}

nbi_scheme_use nbi_choice_use(nbi_choice choice, bool weights, bool is_unsigned) {
    unsigned flags = nbi_choice_row(choice)->flags;
    bool positive = is_unsigned && !weights && flags & NBI_SCHEME_UNSIGNED;
    return (nbi_scheme_use){.bits = nbi_choice_bits(choice), .weights = weights,
                            .is_unsigned = positive};
}

nb_status nbi_choice_parse_part(nb_ctx *ctx, const char *what, const char *text, size_t n,
                                int *scheme, int *bits) {
    char name[NBI_CHOICE_TEXT] = "";
    size_t letters = 0, count;
    while (letters < n && (text[letters] < '0' || text[letters] > '9')) letters++;
    bool one_digit = n == letters + 1;
    if (!one_digit || letters >= sizeof name)
        return nb_fail(ctx, NB_EINVAL, "%s: '%.*s' is not a width such as 4, or a scheme with a "
                       "width such as pot3", what, n < 40 ? (int)n : 40, text);
    memcpy(name, text, letters);
    *scheme = -1;
    *bits = text[letters] - '0';
    if (*bits < 1 || *bits > NBI_MAX_BITS)
        return nb_fail(ctx, NB_EINVAL, "%s: %d bits; 1 to 8 are possible", what, *bits);
    if (letters == 0) return NB_OK;
    const nbi_scheme *row = nbi_scheme_find(name), *const *rows = nbi_schemes(&count);
    if (!row)
        return nb_fail(ctx, NB_EINVAL, "%s: there is no scheme '%s'; 'nibble list schemes' names "
                       "them", what, name);
    while (rows[++*scheme] != row) continue;
    return NB_OK;
}

nb_status nbi_choice_parse(nb_ctx *ctx, const char *what, const char *text, size_t n,
                           nbi_choice *out) {
    int scheme, bits;
    NB_TRY(nbi_choice_parse_part(ctx, what, text, n, &scheme, &bits));
    *out = nbi_choice_of(scheme < 0 ? 0 : scheme, bits);
    return NB_OK;
}

void nbi_choice_text(nbi_choice choice, char out[NBI_CHOICE_TEXT]) {
    const nbi_scheme *row = nbi_choice_row(choice);
    bool named = nbi_choice_scheme(choice) != 0;
    snprintf(out, NBI_CHOICE_TEXT, "%s%d", !named ? "" : row ? row->name : "?",
             nbi_choice_bits(choice));
}

bool nbi_choice_deploys(nbi_choice choice, bool weights) {
    const nbi_scheme *row = nbi_choice_row(choice);
    unsigned role = weights ? NBI_SCHEME_WEIGHTS : NBI_SCHEME_ACTIVATIONS;
    int bits = nbi_choice_bits(choice);
    return row && row->flags & role && bits >= row->min_bits &&
           bits <= nbi_scheme_deploy_bits(row, weights);
}

nb_status nbi_choice_check(nb_ctx *ctx, const char *who, nbi_choice choice, bool weights) {
    const nbi_scheme *row = nbi_choice_row(choice);
    const char *what = weights ? "weights" : "activations";
    if (!row) return nb_fail(ctx, NB_EINVAL, "%s: there is no scheme of that number", who);
    if (nbi_choice_deploys(choice, weights)) return NB_OK;
    if (!(row->flags & (weights ? NBI_SCHEME_WEIGHTS : NBI_SCHEME_ACTIVATIONS)))
        return nb_fail(ctx, NB_EINVAL, "%s: scheme '%s' is not for %s", who, row->name, what);
    return nb_fail(ctx, NB_EINVAL, "%s: scheme '%s' has %d to %d bits for %s that a device can "
                   "run, not %d", who, row->name, row->min_bits,
                   nbi_scheme_deploy_bits(row, weights), what, nbi_choice_bits(choice));
}

/* ---- grids of activations ---------------------------------------------------------------------- */

nbi_choice nbi_choice_for(const nbi_site *site, nbi_choice choice) {
    const nbi_choice uniform = (nbi_choice)nbi_choice_bits(choice);
    const unsigned flags = nbi_choice_row(choice)->flags;
    if (site->kind == NBI_SITE_WEIGHT) return choice;
    if (site->kind != NBI_SITE_ACTIVATION) return uniform;
    return site->is_unsigned || flags & NBI_SCHEME_SIGNED ? choice : uniform;
}

/* v = level + zero: unsigned, signed, or unsigned with a zero point, whichever holds all levels. */
static void set_storage(const nbi_scheme_grid *grid, nbi_qparam *q) {
    int least = grid->level[0], most = grid->level[grid->n - 1];
    bool is_signed = least < 0 && least >= -128 && most <= 127;
    q->dtype = is_signed ? NB_DTYPE_S8 : NB_DTYPE_U8;
    q->zero = least < 0 && !is_signed ? -least : 0;
    q->lo = q->zero + (least < 0 ? least : 0); /* 0, the padding, is always within */
    q->hi = q->zero + (most > 0 ? most : 0);
    q->scale = (double)grid->scale;
}

void nbi_choice_grid(nbi_choice choice, bool is_unsigned, const float *params,
                     const nbi_qparam *first, nbi_levels *levels, nbi_qparam *out) {
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, false, is_unsigned);
    nbi_scheme_grid *grid = &levels->grid;
    row->grid(&use, params, grid);
    *out = (nbi_qparam){.bits = use.bits};
    set_storage(grid, out);
    bool run = grid->level[grid->n - 1] - grid->level[0] == grid->n - 1;
    if (run && row->flags & NBI_SCHEME_STEPS) return;
    levels->scheme = row;
    levels->use = use;
    levels->first = *first;
    memcpy(levels->params, params, (size_t)row->n_params(&use) * sizeof *params);
    out->levels = levels;
}

void nbi_levels_bytes(const nbi_qparam *q, const float *real, size_t n, uint8_t *byte) {
    const nbi_levels *l = q->levels;
    l->scheme->encode(&l->use, l->params, real, byte, n);
    for (size_t i = 0; i < n; i++) byte[i] = (uint8_t)(l->grid.level[byte[i]] + q->zero);
}

void nbi_levels_table(const nbi_qparam *q, const nbi_qparam *from, uint8_t table[256]) {
    float real[256];
    for (int b = 0; b < 256; b++) {
        int v = from->dtype == NB_DTYPE_S8 ? (int8_t)b : b;
        real[b] = (float)(from->scale * (v - from->zero));
    }
    nbi_levels_bytes(q, real, 256, table);
}

/* ---- tables of weights ------------------------------------------------------------------------ */

int nbi_grid_step(const nbi_scheme_grid *grid, int bits) {
    int step = nbk_level_step(bits), top = 1;
    for (int i = 0; i < grid->n; i++) {
        int a = grid->level[i] < 0 ? -grid->level[i] : grid->level[i];
        top = a > top ? a : top;
    }
    while (step > 1 && step * top > 127) step /= 2;
    return step;
}

/* The levels of a scheme for which params do not matter. */
static void fixed_grid(nbi_choice choice, nbi_scheme_grid *out) {
    static const float ones[2] = {1, 1}; /* what the fixed ones have */
    nbi_scheme_use use = nbi_choice_use(choice, true, false);
    nbi_choice_row(choice)->grid(&use, ones, out);
}

/* Do two's complement codes (1 bit: signs) give these levels? */
static bool is_uniform(const nbi_scheme_grid *grid, int bits) {
    int half = 1 << (bits - 1);
    if (bits == 1) return grid->n == 2 && grid->level[0] == -1 && grid->level[1] == 1;
    return grid->level[0] >= -half && grid->level[grid->n - 1] < half;
}

size_t nbi_choice_table_size(nbi_choice choice) {
    int bits = nbi_choice_bits(choice);
    nbi_scheme_grid grid;
    if (nbi_choice_scheme(choice) == 0 || bits == NBI_MAX_BITS) return 0;
    if (nbi_choice_row(choice)->flags & NBI_SCHEME_FIXED_LEVELS) {
        fixed_grid(choice, &grid);
        if (is_uniform(&grid, bits)) return 0;
    }
    return (size_t)1 << bits;
}

bool nbi_choice_table(nbi_choice choice, int8_t table[256]) {
    size_t size = nbi_choice_table_size(choice);
    nbi_scheme_grid grid;
    if (!size || !(nbi_choice_row(choice)->flags & NBI_SCHEME_FIXED_LEVELS)) return false;
    fixed_grid(choice, &grid);
    nbi_grid_table(&grid, nbi_choice_bits(choice), table);
    return true;
}

void nbi_grid_table(const nbi_scheme_grid *grid, int bits, int8_t table[256]) {
    int step = nbi_grid_step(grid, bits);
    for (int i = 0; i < 1 << bits; i++)
        table[i] = (int8_t)(step * grid->level[i < grid->n ? i : grid->n - 1]);
}
