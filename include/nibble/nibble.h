/* nibble: automatic low-bit quantization of neural networks.
 *
 * The whole public API. Conventions:
 *   - every fallible function returns an nb_status; results come back through out-parameters, which
 *     are untouched on failure; nb_ctx_message() then holds one sentence that names the culprit;
 *   - the library never prints, exits or aborts; progress and log lines go to callbacks;
 *   - an nb_ctx may be used by one thread at a time (it owns a worker pool of its own).
 */
#ifndef NIBBLE_NIBBLE_H
#define NIBBLE_NIBBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NB_API __attribute__((visibility("default")))
#else
#define NB_API
#endif

/* Status codes; the list and the texts live in src/base/status.def. */
typedef enum nb_status {
    NB_OK = 0,
    NB_ENOMEM,       /* no memory */
    NB_EINVAL,       /* a wrong argument or option */
    NB_EFORMAT,      /* a file that is not what it should be */
    NB_EIO,          /* reading or writing failed */
    NB_EUNSUPPORTED, /* valid, but this build cannot do it */
    NB_ELIMIT,       /* a requested limit cannot be met */
    NB_ECANCELLED,   /* the caller asked to stop */
    NB_EMISMATCH,    /* a comparison asked for by the caller found a difference */
    NB_ENUMERIC      /* NaN or infinity where a number was needed */
} nb_status;

/* Short English name of a status, never NULL. */
NB_API const char *nb_status_text(nb_status status);
/* "0.1.0". */
NB_API const char *nb_version(void);

/* ---- context ------------------------------------------------------------------------------- */

typedef struct nb_ctx nb_ctx;

typedef enum nb_log_level { NB_LOG_ERROR, NB_LOG_WARNING, NB_LOG_INFO, NB_LOG_DEBUG } nb_log_level;
/* `text` is one line without newline, valid during the call. Callbacks come one at a time, but from
 * any thread, and may call nothing of this context except nb_ctx_cancel(). */
typedef void (*nb_log_fn)(void *user, nb_log_level level, const char *text);
/* `done` of `total` units of `what` (total 0: unknown). Called at most some times per second. */
typedef void (*nb_progress_fn)(void *user, const char *what, double done, double total);

/* NULL when there is no memory. Threads default to the number of cores, the seed to 0. */
NB_API nb_ctx *nb_ctx_new(void);
NB_API void nb_ctx_free(nb_ctx *ctx); /* NULL is allowed */
/* The message of the last failure, "" if none; valid until the next call with this context. */
NB_API const char *nb_ctx_message(const nb_ctx *ctx);
/* 0 = all cores (shared by the processes that were joined); at most 256. */
NB_API void nb_ctx_set_threads(nb_ctx *ctx, int threads);
NB_API int nb_ctx_threads(const nb_ctx *ctx);
NB_API void nb_ctx_set_seed(nb_ctx *ctx, uint64_t seed);
NB_API uint64_t nb_ctx_seed(const nb_ctx *ctx);
NB_API void nb_ctx_set_log(nb_ctx *ctx, nb_log_fn fn, void *user);
NB_API void nb_ctx_set_progress(nb_ctx *ctx, nb_progress_fn fn, void *user);
/* Asks running work to stop at the next safe point; may be called from a signal handler or another
 * thread. Work that stops early returns NB_ECANCELLED, or NB_OK with the best result so far. */
NB_API void nb_ctx_cancel(nb_ctx *ctx);
/* Forgets the request, once the work that it was for has returned: a context that was asked to stop may be
 * used again from then on. */
NB_API void nb_ctx_clear_cancel(nb_ctx *ctx);

/* ---- several processes --------------------------------------------------------------------- */

/* Which of the processes that mpirun (or another launcher of MPI) has started this is. 0: the first, or
 * the only one; always so in builds without MPI. */
NB_API int nb_process_rank(void);
/* From now on nb_quantize() and nb_sensitivity() on this context spread the scoring of policies over
 * all processes (*processes; 1: it is alone, and nothing changes). Each must make the same calls with the
 * same options; a call of a process of rank > 0 works for the first one's, writes nothing, and
 * returns without a result when that is done. Once per program: it starts MPI, and nb_ctx_free() ends it. */
NB_API nb_status nb_ctx_join(nb_ctx *ctx, int *processes);

/* ---- data types ---------------------------------------------------------------------------- */

typedef enum nb_dtype {
    NB_DTYPE_NONE = 0,
    NB_DTYPE_F32,
    NB_DTYPE_F64,
    NB_DTYPE_F16,
    NB_DTYPE_BF16,
    NB_DTYPE_S8,
    NB_DTYPE_U8,
    NB_DTYPE_S16,
    NB_DTYPE_U16,
    NB_DTYPE_S32,
    NB_DTYPE_U32,
    NB_DTYPE_S64,
    NB_DTYPE_U64,
    NB_DTYPE_BOOL,
    NB_DTYPE_S4, /* two per byte, low half first */
    NB_DTYPE_U4,
    NB_DTYPE_S2, /* four per byte, lowest bits first */
    NB_DTYPE_U2,
    NB_DTYPE_STRING /* carried through, never computed with */
} nb_dtype;

/* ---- results ------------------------------------------------------------------------------- */

/* Results are JSON texts, the same that the program prints with --json and writes into result
 * folders (docs/cli.md lists the keys). Every `char **json` is NUL-terminated and freed with
 * nb_free; it may be NULL when the caller does not want it. */
NB_API void nb_free(void *pointer); /* NULL is allowed */

/* ---- models -------------------------------------------------------------------------------- */

typedef struct nb_model nb_model;

/* Reads an ONNX file, or the model.onnx of a result folder of nb_quantize(). */
NB_API nb_status nb_model_load(nb_ctx *ctx, const char *path, nb_model **out);
NB_API void nb_model_free(nb_model *model); /* NULL is allowed */
/* Operators, shapes, parameters, MACs, activation peak, what would stay untouched:
 * {parameters, macs, nodes, peak_activation_bytes, inputs[], outputs[], operators{}, layers[],
 * unsupported[]}. NB_EFORMAT (json is set all the same, "not_runnable" in it) when the shapes
 * contradict each other. */
NB_API nb_status nb_model_info(nb_ctx *ctx, const nb_model *model, char **json);

typedef struct nb_run_options {
    const char *const *inputs; /* .pb, .npy or .npz, in the order of the graph's inputs */
    size_t n_inputs;
    const char *output_folder; /* NULL: none; receives output_<i>.pb */
    const char *const *expect; /* NULL: none; compared in order (|a−b| ≤ 1e−7 + 1e−3·|b|) */
    size_t n_expect;
} nb_run_options;
/* One inference on tensors: {outputs[{name, shape, min, max}], max_abs_error}. NB_EMISMATCH (json
 * is set all the same) when an expected tensor differs. */
NB_API nb_status nb_model_run(nb_ctx *ctx, const nb_model *model, const nb_run_options *options,
                              char **json);

/* ---- data ---------------------------------------------------------------------------------- */

typedef struct nb_data_options {
    const char *path;  /* recognised by content: CIFAR, IDX, .npz, image folder, .csv, builtin:… */
    const char *split; /* "train", "val", "test"; NULL: what the command uses */
    size_t limit;      /* 0: all */
    size_t val;        /* validation images held out of train; 0: default */
    int val_seed;      /* of which ones; −1 (default): the context's seed */
    int resize, crop;  /* 0: as the model's input wants */
    /* The input transform ((byte·scale) − mean)/std; texts as on the command line ("0.5,0.4,0.4").
     * NULL: from the model's metadata, else 1/255, 0, 1. */
    const char *scale, *mean, *std;
    const char *metric; /* top1, top5, loss, kl, mse, cosine, auc; NULL: top1, without labels kl */
} nb_data_options;
NB_API nb_data_options nb_data_options_default(void);

/* ---- work ---------------------------------------------------------------------------------- */

typedef struct nb_eval_options {
    nb_data_options data; /* split: test */
    const char *engine;   /* "integer", "float"; NULL: integer where the model is quantized */
    const char *predictions; /* NULL, or a file that receives one class per line */
} nb_eval_options;
NB_API nb_eval_options nb_eval_options_default(void);
/* {top1, top5, loss, images, images_per_second, engine, metric}. `path`: ONNX file or folder. */
NB_API nb_status nb_eval(nb_ctx *ctx, const char *path, const nb_eval_options *options,
                         char **json);

typedef struct nb_new_options {
    const char *output; /* the ONNX file */
    int classes;        /* 0: the architecture's usual number */
    const char *input;  /* "3x32x32" (C, H, W), or "640"; NULL: the usual one */
    double width;       /* of all inner layers; 1 as published */
} nb_new_options;
NB_API nb_new_options nb_new_options_default(void);
/* Writes an untrained standard architecture (nb_list "architectures"), initialised by the context's
 * seed: {architecture, output, parameters, input[], classes}. */
NB_API nb_status nb_new(nb_ctx *ctx, const char *architecture, const nb_new_options *options,
                        char **json);

typedef struct nb_train_options {
    nb_data_options data; /* trains on train, judges each epoch on val, tests on test */
    const char *output;   /* the ONNX file; written after every improvement */
    int epochs;
    bool init;             /* fresh weights; those that the file leaves out are made */
    int batch;             /* 128 */
    const char *optimizer; /* "sgd" (with Nesterov momentum), "adam", "adamw" */
    double lr;             /* 0: 0.1 (sgd), 0.001 */
    double momentum;       /* 0.9 */
    double weight_decay;   /* of kernels; negative: 5e-4 (sgd), 0 (adam), 0.01 (adamw) */
    const char *schedule;  /* "cosine", "step", "constant" */
    double warmup;         /* epochs */
    double label_smoothing;
    const char *augment;   /* "crop,flip,cutout=8,mixup=0.2,cutmix=1", "none"; NULL: crop, and flip
                              where it is safe */
    double ema;            /* decay of the weights' moving average; 0: none */
    double clip;           /* of the gradient's norm; 0: none */
    bool resume;           /* from OUTPUT.checkpoint.npz where it exists */
    double time_limit;     /* seconds; 0: none */
} nb_train_options;
NB_API nb_train_options nb_train_options_default(void);
/* Trains a float model; one that returns its input's shape (an autoencoder) learns to reconstruct.
 * json: {top1, epochs, images_per_second, …}. Cancelled after an epoch: NB_OK with the best so far,
 * "stopped": true. A checkpoint lies beside the output until the end is reached. NB_ENUMERIC names
 * where NaN or infinity appeared. */
NB_API nb_status nb_train(nb_ctx *ctx, const char *path, const nb_train_options *options,
                          char **json);

/* How a network is fine-tuned, beside the learning rate and the batch. */
typedef struct nb_descent_options {
    const char *optimizer; /* "sgd", "adam", "adamw"; NULL: sgd */
    const char *schedule;  /* "cosine", "step", "constant"; NULL: cosine */
    const char *augment;   /* as in nb_train_options */
    double warmup;         /* epochs */
    double weight_decay;   /* of kernels; negative: 1e-4, from random weights 5e-4 (sgd), 0 (adam),
                              0.01 (adamw) */
    double ema;            /* decay of the weights' moving average; 0: none */
    double clip;           /* of the gradient's norm; 0: none */
    double dampen;         /* pull of weights to their levels, against oscillation; 0: none */
} nb_descent_options;

typedef struct nb_quantize_options {
    nb_data_options data;
    const char *output; /* DIR; NULL only with dry_run or for nb_sensitivity */
    /* Limits; 0 = none (max_drop: negative = none). */
    double max_size;    /* bytes, as `target` stores them */
    double compression; /* float32 weight bytes / size */
    double avg_bits;    /* mean width of the weights */
    double max_ram;     /* bytes of the activation arena */
    double max_bops;
    double max_latency; /* seconds of one image on one thread: of the cost table, else measured here */
    double max_energy;  /* joules of one image, of the cost table */
    const char *cost_table; /* CSV: what each step costs on the device (docs/cli.md); NULL: none */
    double max_drop;    /* points of the metric against float */
    const char *target; /* --for: "c" (default) or "onnx" */
    int opset;          /* of model.onnx: 21 or 25; 0: 21 */
    /* What may be chosen; lists as on the command line. */
    const char *schemes;         /* "uniform"; "ternary,pot", "all" */
    const char *weight_bits;     /* "2,3,4,5,6,8"; "ternary2,pot3" */
    const char *activation_bits; /* "8" */
    const char *bias_bits;       /* "32"; of 8, 16 and 32 */
    int residual_bits;           /* 8 */
    const char *granularity;     /* "channel" or "tensor" */
    const char *first_last;      /* "8" or "searched" */
    const char *range;           /* "mse", "minmax", "percentile", "kl" */
    const char *const *rules;    /* "regex:W,A" or "regex:W,A,B" */
    size_t n_rules;
    const char *policy;          /* a policy.json: no search */
    const char *search;          /* "auto" or METHOD[:key=value,…] */
    const char *settings;        /* METHOD[:key=value,…] that first searches calib, range, granularity,
                                    first_last and the scheme "fixed" (docs/searches.md); NULL: as given */
    long trials;                 /* 0: the method's default */
    double time_limit;           /* seconds; 0: none */
    size_t calib;                /* images; 0: 512 */
    bool correct;                /* output-statistics correction (default true) */
    const char *ptq;             /* how weights are rounded after the choice: "none", "gram", "adaround",
                                    "qdrop", or "cle," and one of them: cross-layer equalization
                                    first; NULL: "gram", without correct "none" */
    const char *rank;            /* what policies are ranked with: "nearest" (default): weights at their
                                    nearest levels; "learned": rounded anew for every candidate, as ptq
                                    does it for the chosen one, only quicker */
    /* Fine-tuning of the chosen policy; epochs 0: none. */
    int finetune;
    const char *start;    /* "search": from the weights that the search trained, where it trains any
                             (metaquantnet, autoqnn…); "rounded": from what learned rounding made of
                             the model's; "auto" (default): from the better one of both, judged on
                             validation images; "float": the model's; "random" */
    double learning_rate; /* 0: 0.01 (adam, adamw: 0.001) */
    int batch;            /* 0: 128 */
    bool distill;         /* the float network as teacher, too (default true) */
    nb_descent_options descent;
    bool curvature; /* nb_sensitivity: also the mean curvature of the loss along each tensor */
    bool resume, strict, dry_run;
    const char *emit;            /* NULL or "c" */
    const char *c_name;          /* of every symbol and file of the C; NULL: "model" */
    const char *command_line;    /* for comments in what is written; NULL: none */
} nb_quantize_options;
NB_API nb_quantize_options nb_quantize_options_default(void);
/* The main job. json: results.json. NB_ELIMIT (json set): a limit cannot be met, the closest policy
 * was written. Cancelled: the same with the best so far, "cancelled": true. */
NB_API nb_status nb_quantize(nb_ctx *ctx, const char *path, const nb_quantize_options *options,
                             char **json);
/* A network that generates the weights of a model for every policy of widths (MetaQuantNet). */
typedef struct nb_meta_options {
    nb_quantize_options job; /* data, widths, granularity, rules, batch, distill, resume, time_limit: as
                                in the nb_quantize that will use it; the rest is not looked at */
    const char *output;  /* the ONNX file */
    const char *weights; /* "generated"; the controls "shared" and "tables" (one set per width) */
    const char *context; /* widths that a layer's weights depend on: "1" its own, "3", "all" */
    int epochs, hidden;  /* 10; hidden units of each layer's generator: 32 */
    double learning_rate, label_smoothing; /* 0.02, 0.1 */
} nb_meta_options;
NB_API nb_meta_options nb_meta_options_default(void);
/* Trains it ahead of time, for nb_quantize with search "metaquantnet:meta=FILE". json: {output,
 * epochs, seconds, lines[{epoch, loss, by_width}], …}. Cancelled: NB_OK with what there is, "stopped":
 * true; a checkpoint lies beside the output until the end is reached. */
NB_API nb_status nb_meta_train(nb_ctx *ctx, const char *path, const nb_meta_options *options,
                               char **json);

typedef struct nb_finetune_options {
    nb_data_options data; /* what is not given is as the run had it */
    int epochs;
    double learning_rate; /* 0: 0.01; from random weights 0.1 (adam, adamw: 0.001) */
    int batch;            /* 0: as the run had it */
    bool distill;         /* the float network as teacher, too (default true) */
    bool retrain;         /* from random weights */
    nb_descent_options descent;
    const char *model;    /* where the float model lies now; NULL: where the run found it */
    bool resume;
    double time_limit;    /* seconds; 0: none */
    const char *command_line;
} nb_finetune_options;
NB_API nb_finetune_options nb_finetune_options_default(void);
/* More fine-tuning of the policy of a finished run, from its trained values, else from the float
 * model. json: results.json. The files of `folder` are replaced together, at the end; it never gets
 * worse on the validation images (`retrain`: it may). Cancelled: NB_OK with the best so far, or
 * NB_ECANCELLED and nothing changed where no epoch was finished. NB_ENUMERIC names where NaN or
 * infinity appeared; nothing is changed. */
NB_API nb_status nb_finetune(nb_ctx *ctx, const char *folder, const nb_finetune_options *options,
                             char **json);

/* Which layer is to blame: {tensors[{name, kind, layer, bits{…: {sqnr, loss}}}], …}. */
NB_API nb_status nb_sensitivity(nb_ctx *ctx, const char *path, const nb_quantize_options *options,
                                char **json);

/* Rebuilds report.html of a result folder from its JSON files: {files[], bytes}. */
NB_API nb_status nb_report(nb_ctx *ctx, const char *folder, char **json);

typedef struct nb_export_options {
    const char *format; /* "qdq" or "c" */
    const char *output; /* file (qdq) or folder (c) */
    const char *c_name; /* as in nb_quantize_options */
    const char *command_line;
} nb_export_options;
/* Another format of a finished run (folder of nb_quantize): {files[], bytes}. */
NB_API nb_status nb_export(nb_ctx *ctx, const char *path, const nb_export_options *options,
                           char **json);

/* Two models (files or folders) on the same images: {agreement, max_abs_error, a{…}, b{…}}. */
NB_API nb_status nb_compare(nb_ctx *ctx, const char *a, const char *b,
                            const nb_data_options *data, char **json);

typedef struct nb_bench_options {
    int batch;          /* images per call; 0: 1 */
    double seconds;     /* to measure; 0: 1 */
    const char *engine; /* "integer", "float"; NULL: integer where the model is quantized */
    bool layers;        /* time per layer */
} nb_bench_options;
/* {engine, batch, threads, images_per_second, latency_ms, layers[{name, type, microseconds,
 * macs_per_second}]}; inputs are random. */
NB_API nb_status nb_bench(nb_ctx *ctx, const char *path, const nb_bench_options *options,
                          char **json);

/* What this build can do, from its own tables: what = ops, steps, schemes, searches, costs, kernels,
 * readers, formats or architectures → {what: [{name, help, options[]}]}; options as they are written:
 * {name, help[, default][, min, max | choices "a|b|c"]}. */
NB_API nb_status nb_list(nb_ctx *ctx, const char *what, char **json);
/* "oneDNN 2.6.3, protobuf-c 1.4.1, …": the libraries of this build. */
NB_API const char *nb_libraries(void);

#ifdef __cplusplus
}
#endif
#endif
