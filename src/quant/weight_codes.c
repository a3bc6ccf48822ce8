/* Weights by any scheme of the table: params from the scheme's own fit, one group per output channel or
 * one for the tensor, codes, and levels as kernels see them. Values are taken in ONNX's order, as
 * FakeQuant sees them in training, so that sums, and with them params, are the same bits. */
#include "quant/fit.h"

#include <math.h>
#include <string.h>

size_t nbi_weight_groups(const nbi_layer *l, nbi_choice choice, bool per_channel) {
    unsigned both = NBI_SCHEME_CHANNELS | NBI_SCHEME_FIXED_LEVELS;
    bool uniform = nbi_choice_scheme(choice) == 0;
    bool channels = uniform || (nbi_choice_row(choice)->flags & both) == both;
    return per_channel && channels ? (size_t)l->geometry.out_c : 1;
}

static void set_levels(const nbi_layer *l, nbi_choice choice, const nbi_scheme_grid *grid,
                       const uint8_t *code, size_t first, size_t n, nbi_coded_weights *out) {
    size_t depth = l->n_weights / (size_t)l->geometry.out_c;
    int step = nbi_grid_step(grid, nbi_choice_bits(choice));
    for (size_t i = 0; i < n; i++) {
        size_t at = nbi_weight_place(l, (first + i) / depth, (first + i) % depth);
        out->levels[at] = (int8_t)(step * grid->level[code[i]]);
    }
}

nb_status nbi_encode_weights(nb_ctx *ctx, const nbi_layer *l, nbi_choice choice, size_t groups,
                             const float *values, const float *params, size_t columns,
                             nbi_coded_weights *out) {
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    size_t n = l->n_weights / groups, channels = (size_t)l->geometry.out_c / groups;
    int bits = nbi_choice_bits(choice);
    uint8_t *code;
    nbi_scheme_grid grid;
    NB_TRY(nbi_alloc(ctx, n, 1, &code));
    for (size_t g = 0; g < groups; g++) {
        row->grid(&use, params + g * columns, &grid);
        row->encode(&use, params + g * columns, values + g * n, code, n);
        set_levels(l, choice, &grid, code, g * n, n, out);
        for (size_t c = 0; c < channels; c++) /* divided by a power of two: exact */
            out->scale[g * channels + c] = grid.scale / (float)nbi_grid_step(&grid, bits);
    }
    out->has_table = nbi_choice_table_size(choice) > 0;
    if (out->has_table) nbi_grid_table(&grid, bits, out->table);
    nbi_free(code);
    return NB_OK;
}

static void measure(const nbi_layer *l, nbi_coded_weights *w) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < l->n_weights; i++) {
        double x = (double)l->weight[i];
        double e = x - (double)w->scale[nbi_weight_channel(l, i)] * w->levels[i];
        signal += x * x;
        noise += e * e;
    }
    w->sqnr = noise > 0 && signal > 0 ? 10 * log10(signal / noise) : 200;
}

/* A scheme whose x̂ is near a multiple of x: the constant of least squared error joins the scale. */
static void rescale(const nbi_layer *l, size_t groups, nbi_coded_weights *w) {
    size_t channels = (size_t)l->geometry.out_c, share = channels / groups;
    for (size_t g = 0; g < groups; g++) {
        double both = 0, power = 0;
        for (size_t i = 0; i < l->n_weights; i++) {
            if ((size_t)nbi_weight_channel(l, i) / share != g) continue;
            both += (double)l->weight[i] * w->levels[i];
            power += (double)w->levels[i] * w->levels[i];
        }
        for (size_t c = g * share; both > 0 && c < (g + 1) * share; c++)
            w->scale[c] = nbi_positive(both / power);
    }
}

static nb_status fit_choice(nb_ctx *ctx, const nbi_layer *l, nbi_choice choice, size_t groups,
                            nbi_coded_weights *out) {
    const nbi_scheme *row = nbi_choice_row(choice);
    const nbi_scheme_use use = nbi_choice_use(choice, true, false);
    size_t depth = l->n_weights / (size_t)l->geometry.out_c, n = l->n_weights / groups;
    size_t columns = (size_t)row->n_params(&use);
    float *values = NULL, *params = NULL;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, l->n_weights, sizeof *values, &values));
    NB_TRYG(nbi_alloc(ctx, groups * columns, sizeof *params, &params));
    for (size_t i = 0; i < l->n_weights; i++)
        values[i] = l->weight[nbi_weight_place(l, i / depth, i % depth)];
    for (size_t g = 0; g < groups; g++)
        row->fit(&use, values + g * n, n, params + g * columns);
    NB_TRYG(nbi_encode_weights(ctx, l, choice, groups, values, params, columns, out));
    if (row->flags & NBI_SCHEME_RESCALES) rescale(l, groups, out);
    nbi_clear_constants(l, use.bits, out->has_table ? out->table : NULL, out->levels);
    measure(l, out);
done:
    nbi_free(values);
    nbi_free(params);
    return st;
}

nb_status nbi_fit_weight_choice(nb_ctx *ctx, const nbi_layer *l, nbi_choice choice,
                                bool per_channel, nbi_coded_weights *out) {
    out->has_table = false;
    if (nbi_choice_scheme(choice) == 0)
        return nbi_fit_weights(ctx, l, nbi_choice_bits(choice), per_channel, out->levels,
                               out->scale, &out->sqnr);
    return fit_choice(ctx, l, choice, nbi_weight_groups(l, choice, per_channel), out);
}
