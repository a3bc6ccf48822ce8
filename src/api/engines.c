/* Running a whole data set through either engine. */
#include "api/api.h"

#include "exec/exec.h"
#include "ir/program.h"
#include "runtime/lower.h"
#include "runtime/run.h"

#include <string.h>

#define FLOAT_BATCH   64
#define INTEGER_BATCH 256
#define BLOCK_BYTES   ((size_t)64 << 20) /* of samples in memory at once */

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

static nb_status plan(nb_ctx *ctx, const nbi_graph *graph, size_t batch, size_t floats,
                      float_run *r) {
    free_run(r);
    NB_TRY(nbi_specialize_batch(ctx, graph, (int64_t)batch, &r->graph));
    const nbi_tensor *x = r->graph->tensor[r->graph->input[0]];
    if (x->dtype != NB_DTYPE_F32 || (size_t)nbi_tensor_count(x) != batch * floats)
        return nb_fail(ctx, NB_EFORMAT, "input '%s' takes %lld values of %s for %zu samples, the "
                       "data has %zu of float32", x->name, (long long)nbi_tensor_count(x),
                       nbi_dtype_name(x->dtype), batch, batch * floats);
    return nbi_exec_new(ctx, r->graph, NBI_EXEC_FAST, &r->exec);
}

/* The first output of the last run of `batch` images, its first n contiguous behind values[first]. */
static nb_status take_output(nb_ctx *ctx, float_run *r, const nbi_images *images, size_t first,
                             size_t n, size_t batch, float **values, size_t *count) {
    nbi_view v, to;
    NB_TRY(nbi_exec_value(ctx, r->exec, r->graph->output[0], &v));
    if (v.dtype != NB_DTYPE_F32)
        return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' is %s, not float32",
                       r->graph->tensor[r->graph->output[0]]->name, nbi_dtype_name(v.dtype));
    *count = (size_t)nbi_view_count(&v) / batch;
    if (*count == 0 || (size_t)nbi_view_count(&v) % batch)
        return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' has %lld values for %zu images",
                       r->graph->tensor[r->graph->output[0]]->name,
                       (long long)nbi_view_count(&v), batch);
    if (n < batch && (v.rank < 1 || v.dim[0] != (int64_t)batch))
        return nb_fail(ctx, NB_EUNSUPPORTED, "output '%s' has no batch dimension and the model takes "
                       "%zu images at once", r->graph->tensor[r->graph->output[0]]->name, batch);
    if (n < batch) v.dim[0] = (int64_t)n;
    if (!*values) NB_TRY(nbi_alloc(ctx, images->n * *count, sizeof(float), values));
    to = v;
    to.data = *values + first * *count;
    nbi_view_contiguous(&to);
    nbi_view_copy(&to, &v);
    return NB_OK;
}

nb_status nbi_eval_float(nb_ctx *ctx, const nbi_graph *graph, const nbi_images *images,
                         const nbi_transform *transform, float **values, size_t *count,
                         double *rate) {
    float_run r = {0};
    float *out = NULL;
    nb_status st = NB_OK;
    const nbi_tensor *x = graph->tensor[graph->input[0]];
    size_t fixed = x->rank > 0 && x->dim[0] > 0 ? (size_t)x->dim[0] : 0, planned = 0;
    size_t most = images->n < FLOAT_BATCH ? images->n : FLOAT_BATCH, batch = fixed ? fixed : most;
    size_t floats = images->info.is_image ? images->sample_bytes : images->sample_bytes / 4;
    double busy = 0;
    NB_TRYG(nbi_alloc(ctx, batch * floats, sizeof(float), &r.input));
    for (size_t first = 0; first < images->n; first += batch) {
        size_t n = images->n - first < batch ? images->n - first : batch, p = fixed ? fixed : n;
        if (p != planned) NB_TRYG(plan(ctx, graph, p, floats, &r));
        planned = p;
        nbi_images_fill(images, transform, first, n, r.input);
        const void *inputs[1] = {r.input};
        double start = nb_seconds(ctx);
        NB_TRYG(nbi_exec_run(ctx, r.exec, inputs));
        busy += nb_seconds(ctx) - start;
        NB_TRYG(take_output(ctx, &r, images, first, n, p, &out, count));
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
    size_t values = images->info.is_image ? images->sample_bytes : images->sample_bytes / 4;
    if (values != x->count)
        return nb_fail(ctx, NB_EFORMAT, "the integer program takes %zu values, a sample of the data "
                       "has %zu", x->count, values);
    NB_TRY(nbi_alloc(ctx, images->n * x->bytes + NBI_KERNEL_SLACK, 1, &codes));
    if (program->input_is_pixels && images->info.is_image) {
        memcpy(codes, images->bytes, images->n * x->bytes);
        *out = codes;
        return NB_OK;
    }
    nbi_qparam q = {.dtype = x->dtype, .bits = 8, .scale = x->scale, .zero = x->zero, .lo = x->lo,
                    .hi = x->hi};
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

/* ---- whole splits ----------------------------------------------------------------------------- */

void nbi_outputs_free(nbi_outputs *o) {
    nbi_free(o->values);
    nbi_free(o->label);
    *o = (nbi_outputs){0};
}

static nb_status add_block(nb_ctx *ctx, const nbi_images *images, size_t first, float *values,
                           size_t count, nbi_outputs *o) {
    if (!o->values) NB_TRY(nbi_alloc(ctx, o->n * count, sizeof *values, &o->values));
    o->count = count;
    memcpy(o->values + first * count, values, images->n * count * sizeof *values);
    memcpy(o->label + first, images->label, images->n * sizeof *o->label);
    for (size_t i = 0; i < images->n; i++) o->labelled |= images->label[i] >= 0;
    return NB_OK;
}

nb_status nbi_eval_split(nb_ctx *ctx, const nbi_dataset *data, nbi_split split,
                         const nbi_graph *graph, const nbi_program *program,
                         const nbi_transform *transform, nbi_outputs *out) {
    const nbi_dataset_info *info = nbi_dataset_get(data);
    nbi_outputs o = {.n = info->count[split]};
    size_t block = BLOCK_BYTES / info->sample_bytes, count;
    uint32_t *index = NULL;
    float *values = NULL;
    nbi_images images = {0};
    double busy = 0, rate;
    nb_status st;
    if (block < INTEGER_BATCH) block = INTEGER_BATCH;
    if (block > o.n) block = o.n;
    NB_TRYG(nbi_alloc(ctx, block + 1, sizeof *index, &index));
    NB_TRYG(nbi_alloc(ctx, o.n + 1, sizeof *o.label, &o.label));
    for (size_t first = 0; first == 0 || first < o.n; first += block) {
        size_t n = o.n - first < block ? o.n - first : block;
        for (size_t i = 0; i < n; i++) index[i] = (uint32_t)(first + i);
        nbi_draw draw = {split, n, 0, false, index};
        NB_TRYG(nbi_images_draw(ctx, data, &draw, &images));
        st = program ? nbi_eval_integer(ctx, program, &images, transform, &values, &count, &rate)
                     : nbi_eval_float(ctx, graph, &images, transform, &values, &count, &rate);
        if (st == NB_OK) st = add_block(ctx, &images, first, values, count, &o);
        if (st != NB_OK) goto done;
        busy += rate > 0 ? (double)n / rate : 0;
        nbi_free(values);
        values = NULL;
        nbi_images_free(&images);
    }
    o.rate = busy > 0 ? (double)o.n / busy : 0;
    *out = o;
    o = (nbi_outputs){0};
done:
    nbi_free(index);
    nbi_free(values);
    nbi_images_free(&images);
    nbi_outputs_free(&o);
    return st;
}
