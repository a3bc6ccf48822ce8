/* A whole program on the public header: reads a float ONNX model, says what is in it, calibrates on
 * data, finds the best widths under a size limit, and writes a folder with the deployable ONNX model
 * and freestanding C. Then it opens what it wrote and measures that on the integer engine.
 *
 *   quantize MODEL.onnx DATA BYTES FOLDER
 *   quantize examples/glyphs.onnx builtin:glyphs 24576 out
 *
 * Build: cc quantize_model.c $(pkg-config --cflags --libs nibble) */
#include <nibble/nibble.h>

#include <stdio.h>
#include <stdlib.h>

static void on_log(void *user, nb_log_level level, const char *text) {
    (void)user;
    if (level <= NB_LOG_WARNING) fprintf(stderr, "%s\n", text);
}

/* A failure as one sentence; an exit status. */
static int failed(const nb_ctx *ctx, nb_status status) {
    const char *message = nb_ctx_message(ctx);
    fprintf(stderr, "%s: %s\n", nb_status_text(status), *message ? message : "no details");
    return EXIT_FAILURE;
}

static nb_status show_model(nb_ctx *ctx, const char *path) {
    nb_model *model = NULL;
    char *json = NULL;
    nb_status status = nb_model_load(ctx, path, &model);
    if (status == NB_OK) status = nb_model_info(ctx, model, &json);
    if (status == NB_OK) printf("model %s\n", json);
    nb_free(json);
    nb_model_free(model);
    return status;
}

/* Calibration, search, model.onnx and c/ are one call. A limit out of reach is told apart from other
 * failures: the smallest model was written then. */
static nb_status quantize(nb_ctx *ctx, char **argv, double bytes) {
    nb_quantize_options options = nb_quantize_options_default();
    options.data.path = argv[2];
    options.max_size = bytes;
    options.emit = "c";
    options.output = argv[4];
    char *json = NULL;
    nb_status status = nb_quantize(ctx, argv[1], &options, &json);
    if (json) printf("results %s\n", json);
    if (status == NB_ELIMIT) fprintf(stderr, "%s holds the smallest model\n", argv[4]);
    nb_free(json);
    return status;
}

/* The integer engine computes, bit for bit, what the C computes. */
static nb_status measure(nb_ctx *ctx, char **argv) {
    nb_eval_options options = nb_eval_options_default();
    options.data.path = argv[2];
    options.engine = "integer";
    char *json = NULL;
    nb_status status = nb_eval(ctx, argv[4], &options, &json);
    if (status == NB_OK) printf("integer %s\n", json);
    nb_free(json);
    return status;
}

int main(int argc, char **argv) {
    char *end = NULL;
    double bytes = argc == 5 ? strtod(argv[3], &end) : 0;
    if (argc != 5 || *end || !(bytes > 0)) {
        fprintf(stderr, "usage: quantize MODEL.onnx DATA BYTES FOLDER\n");
        return 2;
    }
    nb_ctx *ctx = nb_ctx_new();
    if (!ctx) return EXIT_FAILURE;
    nb_ctx_set_log(ctx, on_log, NULL);
    nb_status status = show_model(ctx, argv[1]);
    if (status == NB_OK) status = quantize(ctx, argv, bytes);
    if (status == NB_OK) status = measure(ctx, argv);
    int code = status == NB_OK ? EXIT_SUCCESS : failed(ctx, status);
    nb_ctx_free(ctx);
    return code;
}
