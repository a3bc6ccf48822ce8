/* What a reader fills in. A reader opens the samples of each split that the data itself has
 * ("raw" samples: all of train, then all of val, then all of test); dataset.c and divide.c make
 * the three splits of nbi_dataset_info out of them. */
#ifndef NIBBLE_DATA_DATASET_H
#define NIBBLE_DATA_DATASET_H

#include "data/data.h"

enum { NBI_CLASSES_MAX = 1 << 16 };
/* No split holds more samples than fit in an index of 32 bits. */
#define NBI_SAMPLES_MAX ((size_t)UINT32_MAX)

struct nbi_dataset {
    nbi_dataset_info info; /* all but `count` is the reader's; sample_bytes of images may be 0 */
    size_t raw_count[3];   /* by the data's own splits */
    int32_t *labels;       /* per raw sample; NULL = unlabelled. From nbi_alloc, owned */
    void *source;          /* the reader's own */
    /* Raw sample `raw` → info.sample_bytes at out. Thread-safe. */
    nb_status (*read)(nb_ctx *ctx, const nbi_dataset *data, size_t raw, void *out);
    void (*free_source)(void *source);
    uint32_t *order[3]; /* divide.c: raw index of each sample of a split */
};

/* Zeroed; `row` names it. Free with nbi_dataset_free. */
nb_status nbi_dataset_new(nb_ctx *ctx, const nbi_reader *row, nbi_dataset **out);
/* Sum of raw_count. */
size_t nbi_dataset_raw_total(const nbi_dataset *data);
/* Fills order[] and info.count from raw_count, labels and the options (val_count, seed, limit). */
nb_status nbi_dataset_divide(nb_ctx *ctx, nbi_dataset *data, const nbi_data_options *options);
/* Checks 0 <= label < NBI_CLASSES_MAX of every raw sample and sets info.classes = max + 1. */
nb_status nbi_dataset_count_classes(nb_ctx *ctx, nbi_dataset *data, const char *path);

/* Helpers of readers. "DIR/NAME" in the arena; NULL when there is no memory. */
char *nbi_path_join(nbi_arena *arena, const char *folder, const char *name);
/* Whether `name` ends in `ending`, letter case ignored. */
bool nbi_name_ends(const char *name, const char *ending);
/* The first `size` bytes of a file; false if there are not so many. */
bool nbi_file_peek(const char *path, void *out, size_t size);

#define READER(row) extern const nbi_reader row;
#include "data/readers.def"
#undef READER

#endif
