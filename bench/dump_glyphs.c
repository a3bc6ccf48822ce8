/* Writes builtin:glyphs as CIFAR-format files (label byte, then the R, G and B planes):
 *     dump_glyphs DIR      → DIR/data_batch_1.bin, DIR/test_batch.bin, DIR/val.bin
 * for examples/train_glyphs.py. */
#include "data/glyphs.h"

#include <stdio.h>

enum { PIXELS = NBI_GLYPH_SIZE * NBI_GLYPH_SIZE };

static int dump(const char *folder, const char *name, int split, uint32_t count) {
    char path[4096];
    uint8_t image[PIXELS * 3], record[1 + PIXELS * 3];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f) {
        perror(path);
        return 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        record[0] = (uint8_t)nbi_glyph_draw(split, i, image);
        for (int p = 0; p < PIXELS; p++)
            for (int c = 0; c < 3; c++) record[1 + c * PIXELS + p] = image[3 * p + c];
        if (fwrite(record, sizeof record, 1, f) != 1) {
            perror(path);
            fclose(f);
            return 1;
        }
    }
    return fclose(f) != 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    return dump(argv[1], "data_batch_1.bin", 0, 20000) || dump(argv[1], "val.bin", 1, 2000) ||
           dump(argv[1], "test_batch.bin", 2, 2000);
}
