/* What our accuracy and search benchmarks share: CIFAR-10 records, the calibration draws of
 * bench/results/draws.json, and a calibrated network over them. Any failure ends the program. */
#ifndef NIBBLE_BENCH_CIFAR_H
#define NIBBLE_BENCH_CIFAR_H

#include "ir/qnet.h"

#include <jansson.h>

#define BENCH_PIXELS 1024
#define BENCH_BYTES  (3 * BENCH_PIXELS) /* of an image: H,W,C */
#define BENCH_CALIB  512
#define BENCH_DRAWS  5

typedef struct bench_network {
    nbi_graph *source;
    nbi_qnet *net; /* input table and calibration set */
} bench_network;

/* Ends the program with the context's message unless `status` is NB_OK. */
void bench_check(nb_ctx *ctx, nb_status status, const char *what);
void *bench_room(size_t bytes);
/* Appends up to `n` records of FOLDER/NAME: images as H,W,C bytes; labels may be NULL. Gives the
 * number read. */
size_t bench_records(const char *folder, const char *name, size_t n, uint8_t *images, int *labels);
/* The 512 images of draw `d` as they are and with their crop and flip (NULL: not wanted). */
void bench_draw(const char *folder, const char *draws_json, int d, uint8_t *plain,
                uint8_t *augmented);
/* Reads a CIFAR-10 network (mean and deviation as in bench/rival_common.py), makes its sites (first
 * and last layer, residual streams 8 bits) and calibrates on `n` images, ranges by least squared
 * error. */
void bench_network_open(nb_ctx *ctx, const char *model, const uint8_t *images, size_t n,
                        bench_network *out);
void bench_network_close(bench_network *network);
/* An nbi_fill_fn over images as bytes, with the network's input table. */
typedef struct bench_filler {
    const uint8_t *images;
    const nbi_qnet *net;
} bench_filler;
nb_status bench_fill(nb_ctx *ctx, void *filler, size_t first, size_t n, float *out);
/* Every free weight site w bits, every free activation a. bits[n_sites]. */
void bench_uniform(const nbi_qnet *net, int w, int a, nbi_choice *bits);
/* User and system seconds of this process. */
double bench_cpu_seconds(void);

#endif
