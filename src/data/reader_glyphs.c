/* builtin:glyphs: drawn when asked for, nothing is stored. */
#include "data/dataset.h"
#include "data/glyphs.h"

#include <string.h>

static const size_t counts[3] = {20000, 2000, 2000};

static bool recognise(const char *path) {
    return strcmp(path, "builtin:glyphs") == 0;
}

static nb_status read_sample(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out) {
    (void)ctx;
    int split = 0;
    for (; raw >= data->raw_count[split]; split++) raw -= data->raw_count[split];
    nbi_glyph_draw(split, (uint32_t)raw, out);
    return NB_OK;
}

static nb_status open_glyphs(nb_ctx *ctx, const nbi_data_options *options, nbi_dataset **out) {
    nbi_dataset *data = NULL;
    nb_status st;
    (void)options;
    NB_TRYG(nbi_dataset_new(ctx, &nbi_reader_glyphs, &data));
    memcpy(data->raw_count, counts, sizeof counts);
    data->read = read_sample;
    data->info.is_image = true;
    data->info.height = data->info.width = NBI_GLYPH_SIZE;
    data->info.channels = 3;
    data->info.classes = NBI_GLYPH_CLASSES;
    data->info.sample_bytes = (size_t)NBI_GLYPH_SIZE * NBI_GLYPH_SIZE * 3;
    size_t n = nbi_dataset_raw_total(data), i = 0;
    NB_TRYG(nbi_alloc(ctx, n, sizeof *data->labels, &data->labels));
    for (int s = 0; s < 3; s++)
        for (size_t k = 0; k < counts[s]; k++) data->labels[i++] = (int32_t)(k % NBI_GLYPH_CLASSES);
    *out = data;
    data = NULL;
done:
    nbi_dataset_free(data);
    return st;
}

const nbi_reader nbi_reader_glyphs = {
    .name = "builtin",
    .help = "builtin:glyphs (generated coloured glyphs, 32x32x3, 10 classes)",
    .recognise = recognise,
    .open = open_glyphs,
};
