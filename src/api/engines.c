/* Running a whole data set through either engine. */
#include "api/api.h"

#include "exec/exec.h"
#include "ir/program.h"
#include "runtime/lower.h"
#include "runtime/run.h"

#include <string.h>

#define FLOAT_BATCH   64
#define INTEGER_BATCH 256
#define FIXED_BATCH_MAX 4096

typedef struct float_run {
    nbi_graph *graph;
    nbi_exec *exec;
    float *input;
} float_run;

static void free_run(float_run *r) {
    nbi_exec_free(r->exec);
    nbi_graph_free(r->graph);
    r->exec = NULL;
    r->graph = NULL;
}

static nb_status plan(nb_ctx *ctx, const nbi_graph *graph, size_t batch, float_run *r) {
    free_run(r);
    NB_TRY(nbi_specialize_batch(ctx, graph, (int64_t)batch, &r->graph));
    return nbi_exec_new(ctx, r->graph, 0, &r->exec);
}

/* The first output of the last run, `n` images of it, contiguous, behind values[first]. */
static nb_status take_output(nb_ctx *ctx, float_run *r, const nbi_images *images, size_t first,
                             size_t n, float **values, size_t *count) {
    const nbi_graph *g = r->graph;
    const char *name = g->tensor[g->output[0]]->name;
    int64_t batch = g->tensor[g->input[0]]->dim[0];
    nbi_view v, to;
    NB_TRY(nbi_exec_value(ctx, r->exec, g->output[0], &v));
    if (v.dtype != NB_DTYPE_F32)
        return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' is %s, not float32", name,
                       nbi_dtype_name(v.dtype));
    if (v.rank < 1 || v.dim[0] != batch)
        return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' is not one row per image: the batch is "
                       "%lld, its first dimension %lld", name, (long long)batch,
                       v.rank < 1 ? 0LL : (long long)v.dim[0]);
    *count = (size_t)(nbi_view_count(&v) / batch);
    if (*count == 0) return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' is empty", name);
    if (!*values) NB_TRY(nbi_alloc(ctx, images->n * *count, sizeof(float), values));
    v.dim[0] = (int64_t)n;
    to = v;
    to.data = *values + first * *count;
    nbi_view_contiguous(&to);
    nbi_view_copy(&to, &v);
    return NB_OK;
}

/* Images at a time: a model whose batch is fixed takes just as many, the last ones may be blank. */
static nb_status batch_of(nb_ctx *ctx, const nbi_graph *graph, const nbi_images *images,
                          size_t *batch, bool *fixed) {
    const nbi_tensor *x = graph->tensor[graph->input[0]];
    *fixed = x->rank > 0 && x->dim[0] >= 0;
    *batch = images->n < FLOAT_BATCH ? images->n : FLOAT_BATCH;
    if (!*fixed) return NB_OK;
    if (x->dim[0] < 1 || x->dim[0] > FIXED_BATCH_MAX)
        return nb_fail(ctx, NB_EUNSUPPORTED, "input '%s' takes %lld images at a time; 1 to %d are "
                       "possible", x->name, (long long)x->dim[0], FIXED_BATCH_MAX);
    *batch = (size_t)x->dim[0];
    return NB_OK;
}

nb_status nbi_eval_float(nb_ctx *ctx, const nbi_graph *graph, const nbi_images *images,
                         const nbi_transform *transform, float **values, size_t *count,
                         double *rate) {
    float_run r = {0};
    float *out = NULL;
    nb_status st = NB_OK;
    size_t batch, planned = 0;
    bool fixed;
    size_t floats = images->info.is_image ? images->sample_bytes : images->sample_bytes / 4;
    double busy = 0;
    NB_TRYG(batch_of(ctx, graph, images, &batch, &fixed));
    NB_TRYG(nbi_alloc(ctx, batch * floats, sizeof(float), &r.input));
    for (size_t first = 0; first < images->n; first += batch) {
        size_t n = images->n - first < batch ? images->n - first : batch;
        size_t take = fixed ? batch : n;
        if (take != planned) NB_TRYG(plan(ctx, graph, take, &r));
        planned = take;
        nbi_images_fill(images, transform, first, n, r.input);
        const void *inputs[1] = {r.input};
        double start = nb_seconds(ctx);
        NB_TRYG(nbi_exec_run(ctx, r.exec, inputs));
        busy += nb_seconds(ctx) - start;
        NB_TRYG(take_output(ctx, &r, images, first, n, &out, count));
        NB_TRYG(nb_progress(ctx, "float engine", (double)(first + n), (double)images->n));
    }
    *values = out;
    out = NULL;
    if (rate) *rate = busy > 0 ? (double)images->n / busy : 0;
done:
    free_run(&r);
    nbi_free(r.input);
    nbi_free(out);
    return st;
}

nb_status nbi_program_inputs(nb_ctx *ctx, const nbi_program *program, const nbi_images *images,
                             const nbi_transform *transform, uint8_t **out) {
    const nbi_ptensor *x = &program->tensor[program->input];
    uint8_t *codes;
    NB_TRY(nbi_alloc(ctx, images->n * x->bytes + NBI_KERNEL_SLACK, 1, &codes));
    if (program->input_is_pixels && images->info.is_image) {
        memcpy(codes, images->bytes, images->n * x->bytes);
        *out = codes;
        return NB_OK;
    }
    nbi_qparam q = {x->dtype, 8, x->scale, x->zero, x->lo, x->hi};
    float *one;
    nb_status st = nbi_alloc(ctx, x->count, sizeof *one, &one);
    for (size_t i = 0; st == NB_OK && i < images->n; i++) {
        nbi_images_fill(images, transform, i, 1, one);
        nbi_view from = {.dtype = NB_DTYPE_F32, .rank = x->rank, .data = one}, to;
        memcpy(from.dim, x->dim, sizeof from.dim);
        to = from;
        nbi_view_contiguous(&from);
        if (x->rank == 3 || x->rank == 4) nbi_view_channels_last(&to);
        else nbi_view_contiguous(&to);
        float *ordered = NULL;
        st = nbi_alloc(ctx, x->count, sizeof *ordered, &ordered);
        if (st != NB_OK) break;
        to.data = ordered;
        nbi_view_copy(&to, &from);
        for (size_t k = 0; k < x->count; k++)
            codes[i * x->bytes + k] = (uint8_t)nbi_quantize(&q, ordered[k]);
        nbi_free(ordered);
    }
    nbi_free(one);
    if (st == NB_OK) *out = codes;
    else nbi_free(codes);
    return st;
}

/* Storage order → ONNX order, dequantized. */
static void dequantize(const nbi_ptensor *t, const int32_t *from, float *to) {
    for (int c = 0; c < t->c; c++)
        for (int p = 0; p < t->h * t->w; p++)
            to[c * t->h * t->w + p] =
                (float)(t->scale * ((double)from[p * t->c + c] - (double)t->zero));
}

nb_status nbi_eval_integer(nb_ctx *ctx, const nbi_program *program, const nbi_images *images,
                           const nbi_transform *transform, float **values, size_t *count,
                           double *rate) {
    const nbi_ptensor *x = &program->tensor[program->input];
    const nbi_ptensor *y = &program->tensor[program->output[0]];
    nbi_runner *runner = NULL;
    uint8_t *inputs = NULL;
    int32_t *codes = NULL;
    float *out = NULL;
    double busy = 0;
    nb_status st;
    NB_TRYG(nbi_program_inputs(ctx, program, images, transform, &inputs));
    NB_TRYG(nbi_runner_new(ctx, program, &runner));
    NB_TRYG(nbi_alloc(ctx, INTEGER_BATCH * y->count, sizeof *codes, &codes));
    NB_TRYG(nbi_alloc(ctx, images->n * y->count, sizeof *out, &out));
    for (size_t first = 0; first < images->n; first += INTEGER_BATCH) {
        size_t n = images->n - first < INTEGER_BATCH ? images->n - first : INTEGER_BATCH;
        int32_t *outputs[8] = {codes};
        double start = nb_seconds(ctx);
        NB_TRYG(nbi_runner_run(ctx, runner, n, inputs + first * x->bytes, outputs));
        busy += nb_seconds(ctx) - start;
        for (size_t i = 0; i < n; i++)
            dequantize(y, codes + i * y->count, out + (first + i) * y->count);
        NB_TRYG(nb_progress(ctx, "integer engine", (double)(first + n), (double)images->n));
    }
    *values = out;
    *count = y->count;
    out = NULL;
    if (rate) *rate = busy > 0 ? (double)images->n / busy : 0;
done:
    nbi_runner_free(runner);
    nbi_free(inputs);
    nbi_free(codes);
    nbi_free(out);
    return st;
}
