/* What the implementations of the public functions share. */
#ifndef NIBBLE_API_API_H
#define NIBBLE_API_API_H

#include "data/images.h"
#include "ir/graph.h"
#include "ir/qnet.h"

#include <jansson.h>

struct nb_model {
    nbi_graph *graph;
    char path[4096]; /* of the ONNX file */
};

/* path, or path/model.onnx when it is a folder. NB_EIO names what was looked for. */
nb_status nbi_model_path(nb_ctx *ctx, const char *path, char *out, size_t size);

/* NB_EINVAL where `output`, or the model.onnx in it when it is a folder, is the model at `path` that
 * `command` reads. */
nb_status nbi_keep_model(nb_ctx *ctx, const char *command, const char *path, const char *output);

/* NB_EUNSUPPORTED, naming the file, where the model is a quantized one. */
nb_status nbi_refuse_quantized(nb_ctx *ctx, const nb_model *model);

/* First thing in every public function that makes or reads JSON. */
void nbi_json_begin(void);
/* Did a part of the JSON of this call get lost for want of memory? Text of it is refused. */
bool nbi_json_lost(void);
/* A path or another text that may not be UTF-8: then every other byte becomes '?'. */
json_t *nbi_json_string(const char *text);
/* An integer where x is whole, else a real. */
json_t *nbi_json_number(double x);
/* A whole file. NB_EFORMAT names the line. */
nb_status nbi_json_read(nb_ctx *ctx, const char *path, size_t max_bytes, json_t **out);
/* Dumps `root` (taken over) as text; NULL `text` drops it. */
nb_status nbi_json_text(nb_ctx *ctx, json_t *root, char **text);
/* Writes `root` (not taken over) to a file, atomically, indented. */
nb_status nbi_json_write(nb_ctx *ctx, const json_t *root, const char *path);

/* The input transform: options, else the model's metadata, else the default. */
nb_status nbi_transform_of(nb_ctx *ctx, const nb_data_options *o, const nbi_graph *graph,
                           nbi_transform *out);
/* Writes it into the metadata. */
nb_status nbi_transform_keep(nb_ctx *ctx, const nbi_transform *t, nbi_graph *graph);
/* The other case: the input is float values, whatever its shape; and whether a model says so. */
nb_status nbi_keep_values(nb_ctx *ctx, nbi_graph *graph);
bool nbi_says_values(const nbi_graph *graph);

/* Opens the data for a model's (single) input and checks that samples fit it. */
nb_status nbi_open_data(nb_ctx *ctx, const nb_data_options *o, const nbi_graph *graph,
                        nbi_dataset **out);
/* The check alone, for a second model on the same data. */
nb_status nbi_check_fits(nb_ctx *ctx, const nbi_graph *graph, const nbi_dataset_info *info);
nb_status nbi_parse_split(nb_ctx *ctx, const char *text, nbi_split def, nbi_split *out);

/* Is the data an image set that the model reads through a pixel table? */
bool nbi_reads_pixels(const nbi_graph *graph, const nbi_dataset_info *info);
/* Makes `net` read raw pixels through `transform`. */
void nbi_set_pixels(nbi_qnet *net, const nbi_transform *transform);

/* ---- metrics --------------------------------------------------------------------------------- */

typedef struct nbi_metrics {
    size_t images, labelled;
    double top1, top5; /* percent; NAN without labels */
    double loss;       /* cross-entropy, nats */
    double kl, mse, cosine; /* against a reference; NAN without one */
    double agreement;  /* percent of images with the reference's class */
    double auc;        /* two classes: area under the ROC of class 1 (or of the output's MSE) */
} nbi_metrics;
/* NB_EFORMAT names the first label that none of `count` outputs stands for (one output, a score,
 * takes any label). */
nb_status nbi_check_labels(nb_ctx *ctx, const int *label, size_t n, size_t count);
/* Warns of samples whose outputs are not finite numbers. */
void nbi_warn_not_finite(nb_ctx *ctx, const float *values, size_t n, size_t count);
/* Says so where a float network is no better than chance: often a forgotten transform. */
void nbi_warn_chance(nb_ctx *ctx, const nbi_metrics *m, size_t classes);
/* Scores of n classes into probabilities, in place. */
void nbi_softmax(float *x, size_t n);
/* values[n][count]; label may be NULL; reference may be NULL. is_probability: softmax was applied. */
void nbi_measure(const float *values, const float *reference, const int *label, size_t n,
                 size_t count, bool is_probability, nbi_metrics *out);
json_t *nbi_metrics_json(const nbi_metrics *m);
/* Index of the largest value, the lowest of equals. */
size_t nbi_argmax(const float *values, size_t count);

/* ---- engines --------------------------------------------------------------------------------- */

/* Values of the first output for all images on the float engine: float32 [n][*count], ONNX order,
 * nbi_alloc'd; images per second in *rate. */
nb_status nbi_eval_float(nb_ctx *ctx, const nbi_graph *graph, const nbi_images *images,
                         const nbi_transform *transform, float **values, size_t *count,
                         double *rate);
/* Likewise on the integer engine: dequantized first output. */
struct nbi_program;
nb_status nbi_eval_integer(nb_ctx *ctx, const struct nbi_program *program,
                           const nbi_images *images, const nbi_transform *transform,
                           float **values, size_t *count, double *rate);
/* Raw bytes that the program's input takes, for all images: pixels, or codes of float samples. */
nb_status nbi_program_inputs(nb_ctx *ctx, const struct nbi_program *program,
                             const nbi_images *images, const nbi_transform *transform,
                             uint8_t **out);
/* Outputs of a whole split, whatever its size: the data passes in blocks. */
typedef struct nbi_outputs {
    float *values; /* [n][count] */
    int *label;    /* [n] */
    size_t n, count;
    bool labelled; /* some label is known */
    double rate;   /* images per second */
} nbi_outputs;
/* On the integer engine when program is not NULL, else on the float engine. */
nb_status nbi_eval_split(nb_ctx *ctx, const nbi_dataset *data, nbi_split split,
                         const nbi_graph *graph, const struct nbi_program *program,
                         const nbi_transform *transform, nbi_outputs *out);
void nbi_outputs_free(nbi_outputs *outputs);

/* A quantized model's program: NB_EUNSUPPORTED when the graph is not one that the integer engine
 * can rebuild. */
nb_status nbi_load_program(nb_ctx *ctx, const nbi_graph *graph, const nbi_transform *transform,
                           nbi_qnet **net, nbi_frozen **frozen, struct nbi_program **program);

#endif
