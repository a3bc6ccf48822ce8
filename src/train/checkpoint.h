/* Checkpoints: one .npz file that NumPy can open, written atomically. Arrays are float32 vectors;
 * the array "json" (bytes) is a JSON object with everything else. One file, because two could not
 * be replaced together. */
#ifndef NIBBLE_TRAIN_CHECKPOINT_H
#define NIBBLE_TRAIN_CHECKPOINT_H

#include "base/base.h"

#include <jansson.h>

typedef struct nbi_checkpoint_array {
    char name[40]; /* "value.12" */
    float *data;
    size_t count;
} nbi_checkpoint_array;

/* The old file stays until the new one is complete, also on a full disk (NB_EIO). */
nb_status nbi_checkpoint_write(nb_ctx *ctx, const char *path, const json_t *json, size_t n,
                               const nbi_checkpoint_array *arrays);
/* First only the JSON object (free with json_decref), to see whether the file is the right one … */
nb_status nbi_checkpoint_json(nb_ctx *ctx, const char *path, json_t **json);
/* … then the values of all arrays; NB_EFORMAT names one that is missing or of another size. On
 * failure some arrays may have been read. */
nb_status nbi_checkpoint_read(nb_ctx *ctx, const char *path, size_t n,
                              const nbi_checkpoint_array *arrays);

#endif
