/* A list of picture files as a data set: shared by the folder and the list reader. Pictures are
 * decoded when first asked for and kept while they fit into NBI_PICTURES_CACHE bytes. */
#ifndef NIBBLE_DATA_PICTURES_H
#define NIBBLE_DATA_PICTURES_H

#include "data/dataset.h"

#define NBI_PICTURES_CACHE ((size_t)256 << 20)

typedef struct nbi_pictures nbi_pictures;

nb_status nbi_pictures_new(nb_ctx *ctx, nbi_pictures **out);
void nbi_pictures_free(void *pictures); /* NULL is allowed */
/* Where names and paths of the list live. */
nbi_arena *nbi_pictures_arena(nbi_pictures *p);
/* `path` must live in the arena; label −1 = none. Within a split pictures are served by rising
 * `rank`, then label, then order of adding. */
nb_status nbi_pictures_add(nb_ctx *ctx, nbi_pictures *p, const char *path, int split, int32_t label,
                           size_t rank);
size_t nbi_pictures_count(const nbi_pictures *p);
/* Takes the list over into a new data set: sorts, decodes the first picture to fix size and
 * channels, fills everything but info.count. `p` belongs to *out afterwards; on failure it still
 * belongs to the caller. Labels must be given for all or for none. */
nb_status nbi_pictures_finish(nb_ctx *ctx, nbi_pictures *p, const nbi_reader *row,
                              const nbi_data_options *options, nbi_dataset **out);

#endif
