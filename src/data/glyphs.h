/* The pictures behind builtin:glyphs: ten stroke glyphs in colour, made from integers only, so the
 * same bytes on every machine. */
#ifndef NIBBLE_DATA_GLYPHS_H
#define NIBBLE_DATA_GLYPHS_H

#include "base/base.h"

enum { NBI_GLYPH_SIZE = 32, NBI_GLYPH_CLASSES = 10 };

/* Draws picture `index` of stream `split` (0..2): 32,32,3 bytes, H,W,C. Returns its class,
 * index mod 10, so every prefix of a split is balanced. Thread-safe. */
int nbi_glyph_draw(int split, uint32_t index, uint8_t *out);

#endif
