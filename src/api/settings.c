/* Parsing what options say, and keeping it in a model's metadata. */
#include "api/api.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nb_free(void *pointer) {
    free(pointer);
}

nb_data_options nb_data_options_default(void) {
    return (nb_data_options){.val_seed = -1};
}

static nb_status unfinished(nb_ctx *ctx, const char *model, const char *folder) {
    nbi_buf study = {0};
    NB_TRY(nbi_buf_printf(ctx, &study, "%s/study.db", folder));
    const bool begun = nbi_file_exists(study.data);
    nbi_buf_free(&study);
    return nb_fail(ctx, NB_EIO, begun ? "cannot open '%s': the run in '%s' did not end; the same 'nibble "
                                        "quantize' with --resume goes on"
                                      : "cannot open '%s': folder '%s' is not one that quantize wrote",
                   model, folder);
}

nb_status nbi_model_path(nb_ctx *ctx, const char *path, char *out, size_t size) {
    if (!path || !*path) return nb_fail(ctx, NB_EINVAL, "no model was named");
    int n = nbi_is_folder(path) ? snprintf(out, size, "%s/model.onnx", path)
                                : snprintf(out, size, "%s", path);
    if (n < 0 || (size_t)n >= size) return nb_fail(ctx, NB_EINVAL, "the path is too long");
    if (nbi_is_folder(path) && !nbi_file_exists(out))
        return unfinished(ctx, out, path);
    return NB_OK;
}

nb_status nbi_keep_model(nb_ctx *ctx, const char *command, const char *path, const char *output) {
    char model[4096], file[4096];
    NB_TRY(nbi_model_path(ctx, path, model, sizeof model));
    int n = snprintf(file, sizeof file, nbi_is_folder(output) ? "%s/model.onnx" : "%s", output);
    if (n < 0 || (size_t)n >= sizeof file || !nbi_same_file(model, file)) return NB_OK;
    return nb_fail(ctx, NB_EINVAL, "%s: the output would overwrite the model '%s'", command, model);
}

/* "a" or "a,b,c" (at most 4) into out; *n values. */
static nb_status parse_reals(nb_ctx *ctx, const char *what, const char *text, float out[4],
                             int *n) {
    *n = 0;
    for (const char *p = text;;) {
        char *end;
        double v = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !isfinite(v) || *n == 4)
            return nb_fail(ctx, NB_EINVAL, "%s: '%s' is not one number or one per channel", what,
                           text);
        out[(*n)++] = (float)v;
        if (!*end) return NB_OK;
        p = end + 1;
    }
}

static void spread(float *v, int n, int to) {
    for (int i = n; i < to; i++) v[i] = v[0];
}

/* --resize and --crop, else as the metadata have it. */
static nb_status pixels_of(nb_ctx *ctx, int given, const nbi_graph *graph, const char *key, int *out) {
    const char *text = given ? NULL : nbi_graph_meta(graph, key);
    char *end;
    *out = given;
    if (!text) return NB_OK;
    const long n = strtol(text, &end, 10);
    if (end == text || *end || n < 1 || n > 16384)
        return nb_fail(ctx, NB_EFORMAT, "%s of the model: '%s' is not 1..16384 pixels", key, text);
    *out = (int)n;
    return NB_OK;
}

nb_status nbi_transform_of(nb_ctx *ctx, const nb_data_options *o, const nbi_graph *graph,
                           nbi_transform *out) {
    const char *scale = o->scale ? o->scale : nbi_graph_meta(graph, "nibble.scale");
    const char *mean = o->mean ? o->mean : nbi_graph_meta(graph, "nibble.mean");
    const char *std = o->std ? o->std : nbi_graph_meta(graph, "nibble.std");
    nbi_transform t;
    int n, n_mean = 1, n_std = 1;
    nbi_transform_default(&t);
    NB_TRY(pixels_of(ctx, o->resize, graph, "nibble.resize", &t.resize));
    NB_TRY(pixels_of(ctx, o->crop, graph, "nibble.crop", &t.crop));
    if (scale) {
        float s[4];
        NB_TRY(parse_reals(ctx, "scale", scale, s, &n));
        if (n != 1 || s[0] == 0)
            return nb_fail(ctx, NB_EINVAL, "scale: '%s' is not one number other than 0", scale);
        t.scale = s[0];
    }
    if (mean) NB_TRY(parse_reals(ctx, "mean", mean, t.mean, &n_mean));
    if (std) NB_TRY(parse_reals(ctx, "std", std, t.std, &n_std));
    t.n = n_mean > n_std ? n_mean : n_std;
    if ((n_mean != t.n && n_mean != 1) || (n_std != t.n && n_std != 1))
        return nb_fail(ctx, NB_EINVAL, "mean has %d values, std %d", n_mean, n_std);
    spread(t.mean, n_mean, 4);
    spread(t.std, n_std, 4);
    for (int i = 0; i < 4; i++)
        if (t.std[i] == 0) return nb_fail(ctx, NB_EINVAL, "std: 0 is not possible");
    *out = t;
    return NB_OK;
}

nb_status nbi_transform_keep(nb_ctx *ctx, const nbi_transform *t, nbi_graph *graph) {
    char text[128];
    int n = t->n < 1 ? 1 : t->n;
    snprintf(text, sizeof text, "%.9g", (double)t->scale);
    NB_TRY(nbi_graph_set_meta(ctx, graph, "nibble.scale", text));
    const float *lists[2] = {t->mean, t->std};
    const char *keys[2] = {"nibble.mean", "nibble.std"};
    for (int k = 0; k < 2; k++) {
        size_t used = 0;
        for (int i = 0; i < n; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%.9g", i ? "," : "",
                                     (double)lists[k][i]);
        NB_TRY(nbi_graph_set_meta(ctx, graph, keys[k], text));
    }
    const int pixels[2] = {t->resize, t->crop};
    const char *names[2] = {"nibble.resize", "nibble.crop"};
    for (int k = 0; k < 2; k++) {
        if (!pixels[k]) continue;
        snprintf(text, sizeof text, "%d", pixels[k]);
        NB_TRY(nbi_graph_set_meta(ctx, graph, names[k], text));
    }
    return NB_OK;
}

nb_status nbi_keep_values(nb_ctx *ctx, nbi_graph *graph) {
    return nbi_graph_set_meta(ctx, graph, "nibble.input", "values");
}

bool nbi_says_values(const nbi_graph *graph) {
    const char *text = nbi_graph_meta(graph, "nibble.input");
    return text && !strcmp(text, "values");
}

nb_status nbi_parse_split(nb_ctx *ctx, const char *text, nbi_split def, nbi_split *out) {
    static const char *const names[] = {"train", "val", "test"};
    *out = def;
    if (!text) return NB_OK;
    for (int i = 0; i < 3; i++)
        if (!strcmp(text, names[i])) {
            *out = (nbi_split)i;
            return NB_OK;
        }
    return nb_fail(ctx, NB_EINVAL, "split: '%s' is not train, val or test", text);
}

bool nbi_reads_pixels(const nbi_graph *graph, const nbi_dataset_info *info) {
    const nbi_tensor *x = graph->tensor[graph->input[0]];
    return info->is_image && x->rank == 4 && x->dim[1] == info->channels;
}

void nbi_set_pixels(nbi_qnet *net, const nbi_transform *transform) {
    int channels = net->edge[net->input].c;
    net->input_is_image = channels <= 4;
    for (int c = 0; c < channels && c < 4; c++)
        nbi_transform_table(transform, c, net->input_table[c]);
}

nb_status nbi_check_fits(nb_ctx *ctx, const nbi_graph *graph, const nbi_dataset_info *info) {
    char shape[96];
    if (graph->n_inputs != 1)
        return nb_fail(ctx, NB_EUNSUPPORTED, "the model has %d inputs; data sets feed one",
                       graph->n_inputs);
    const nbi_tensor *x = graph->tensor[graph->input[0]];
    nbi_shape_text(x, shape, sizeof shape);
    if (x->dtype != NB_DTYPE_F32)
        return nb_fail(ctx, NB_EUNSUPPORTED, "the model's input '%s' is %s; data sets feed float32",
                       x->name, nbi_dtype_name(x->dtype));
    if (info->is_image) {
        bool fits = x->rank == 4 && x->dim[1] == info->channels &&
                    (x->dim[2] < 0 || x->dim[2] == info->height) &&
                    (x->dim[3] < 0 || x->dim[3] == info->width);
        if (fits) return NB_OK;
        return nb_fail(ctx, NB_EFORMAT, "the model's input '%s' is %s, the data's images have "
                       "%d channel%s of %d×%d", x->name, shape, info->channels,
                       info->channels == 1 ? "" : "s", info->height, info->width);
    }
    int64_t want = 1, have = (int64_t)(info->sample_bytes / sizeof(float));
    for (int i = 1; i < x->rank; i++) want *= x->dim[i];
    if (want == have) return NB_OK;
    return nb_fail(ctx, NB_EFORMAT, "the model's input '%s' is %s, the data's samples have %lld "
                   "values", x->name, shape, (long long)have);
}

/* A model's metadata may ask other data for them: they are of the pictures that it was made with. */
static nb_status check_files(nb_ctx *ctx, const nb_data_options *o, const nbi_dataset_info *info) {
    if (info->is_files || (!o->resize && !o->crop)) return NB_OK;
    return nb_fail(ctx, NB_EINVAL, "%s: '%s' (%s) holds no picture files, which alone are resized and cropped",
                   o->resize ? "resize" : "crop", o->path, info->kind);
}

nb_status nbi_open_data(nb_ctx *ctx, const nb_data_options *o, const nbi_graph *graph,
                        nbi_dataset **out) {
    if (!o->path) return nb_fail(ctx, NB_EINVAL, "no data: name it with --data");
    if (graph->n_inputs != 1)
        return nb_fail(ctx, NB_EUNSUPPORTED, "the model has %d inputs; data sets feed one",
                       graph->n_inputs);
    const nbi_tensor *x = graph->tensor[graph->input[0]];
    nbi_transform t;
    NB_TRY(nbi_transform_of(ctx, o, graph, &t));
    nbi_data_options d = {.path = o->path, .resize = t.resize, .crop = t.crop,
                          .seed = o->val_seed < 0 ? nb_ctx_seed(ctx) : (uint64_t)o->val_seed,
                          .val_count = o->val, .limit = o->limit};
    if (x->rank == 4) {
        d.want_channels = x->dim[1] > 0 ? (int)x->dim[1] : 0;
        d.want_height = x->dim[2] > 0 ? (int)x->dim[2] : 0;
        d.want_width = x->dim[3] > 0 ? (int)x->dim[3] : 0;
    }
    nbi_dataset *data;
    NB_TRY(nbi_dataset_open(ctx, &d, &data));
    const nbi_dataset_info *info = nbi_dataset_get(data);
    nb_status st = check_files(ctx, o, info);
    if (st == NB_OK) st = nbi_check_fits(ctx, graph, info);
    if (st == NB_OK && info->is_image && t.n > 1 && t.n != info->channels)
        st = nb_fail(ctx, NB_EINVAL, "mean and std have %d values, the images %d channel%s", t.n,
                     info->channels, info->channels == 1 ? "" : "s");
    if (st != NB_OK) {
        nbi_dataset_free(data);
        return st;
    }
    *out = data;
    return NB_OK;
}
