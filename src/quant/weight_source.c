/* Grids of weights. */
#include "quant/weight_source.h"

void nbi_weight_grid(int bits, const int8_t *table, int8_t level[256], nbi_grid *out) {
    bool used[256] = {false};
    int step = nbk_level_step(bits), codes = 1 << bits, n = 0;
    for (int c = 0; c < codes; c++) {
        int k = bits == 1 ? 1 - 2 * c : c - codes / 2; /* of uniform weights */
        used[128 + (table ? table[c] : k * step)] = true;
    }
    for (int v = -128; v < 128; v++)
        if (used[128 + v]) level[n++] = (int8_t)v;
    *out = (nbi_grid){n, level};
}
