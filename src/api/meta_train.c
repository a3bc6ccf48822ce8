/* nb_meta_train: a MetaQuantNet ahead of time, kept as an ONNX file. */
#include "api/hyper.h"
#include "api/untouched.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

nb_meta_options nb_meta_options_default(void) {
    return (nb_meta_options){.job = nb_quantize_options_default(),
                             .weights = "generated",
                             .context = "1",
                             .epochs = 10,
                             .hidden = 32,
                             .learning_rate = 0.02,
                             .label_smoothing = 0.1};
}

static nb_status choose(nb_ctx *ctx, const char *what, const char *text, const char *const names[3],
                        int *out) {
    for (*out = 0; *out < 3; ++*out)
        if (!strcmp(text, names[*out])) return NB_OK;
    return nb_fail(ctx, NB_EINVAL, "%s: '%s' is not one of: %s, %s, %s", what, text, names[0],
                   names[1], names[2]);
}

static nb_status settings_of(nb_ctx *ctx, const nb_meta_options *o, nbi_meta_settings *s) {
    static const char *const weights[] = {"generated", "shared", "tables"};
    static const char *const contexts[] = {"1", "3", "all"};
    static const int context[] = {1, 3, 0};
    int kind, k;
    NB_TRY(choose(ctx, "weights", o->weights, weights, &kind));
    NB_TRY(choose(ctx, "context", o->context, contexts, &k));
    if (!o->output) return nb_fail(ctx, NB_EINVAL, "no file for the result: name it with -o");
    if (nbi_is_folder(o->output))
        return nb_fail(ctx, NB_EIO, "cannot write '%s': a folder", o->output);
    if (o->epochs < 1) return nb_fail(ctx, NB_EINVAL, "epochs: %d, want 1 or more", o->epochs);
    if (o->hidden < 1) return nb_fail(ctx, NB_EINVAL, "hidden: %d, want 1 or more", o->hidden);
    if (!(o->label_smoothing >= 0 && o->label_smoothing < 1))
        return nb_fail(ctx, NB_EINVAL, "label-smoothing: %g is not within 0 and below 1",
                       o->label_smoothing);
    *s = (nbi_meta_settings){.kind = (nbi_meta_kind)kind,
                             .context = context[k],
                             .hidden = o->hidden,
                             .epochs = o->epochs,
                             .lr = o->learning_rate > 0 ? o->learning_rate : 0.02,
                             .smoothing = o->label_smoothing,
                             .deadline = INFINITY};
    return NB_OK;
}

nb_status nb_meta_train(nb_ctx *ctx, const char *path, const nb_meta_options *options,
                        char **json) {
    nbi_json_begin();
    nb_quantize_options job = options->job;
    nbi_session s = {0};
    nbi_meta_settings settings;
    nbi_meta *meta = NULL;
    nbi_buf checkpoint = {0};
    json_t *about = NULL;
    nb_status st;
    job.output = NULL;
    job.search = "auto";
    NB_TRY(settings_of(ctx, options, &settings));
    NB_TRY(nbi_keep_model(ctx, "meta-train", path, options->output));
    NB_TRYG(nbi_buf_printf(ctx, &checkpoint, "%s.checkpoint.npz", options->output));
    NB_TRYG(nbi_session_open(ctx, path, &job, &s));
    NB_TRYG(nbi_warn_untouched(ctx, s.net));
    NB_TRYG(nbi_session_calibrate(&s));
    if (job.time_limit > 0) settings.deadline = s.started + job.time_limit;
    nbi_hyper_files files = {.kept = options->output, .checkpoint = checkpoint.data, .anew = true};
    NB_TRYG(nbi_hyper_ready(&s, &settings, &files, &meta, &about));
    json_object_set_new(about, "output", nbi_json_string(options->output));
    json_object_set_new(about, "parameters", json_integer((json_int_t)nbi_meta_parameters(meta)));
    st = nbi_json_text(ctx, about, json);
    about = NULL;
done:
    json_decref(about);
    nbi_meta_free(meta);
    nbi_session_close(&s);
    nbi_buf_free(&checkpoint);
    return st;
}
