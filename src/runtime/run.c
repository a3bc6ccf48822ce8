/* Executes steps: dispatch to the selected kernels, float islands through the operators' reference
 * functions, and the per-image runner with one arena per worker. */
#include "runtime/run.h"

#include "base/pace.h"
#include "ops/op.h"
#include "runtime/lower.h"

#include <string.h>
#include <time.h>

nb_status nbi_step_ready(nb_ctx *ctx, const nbi_step *step, void **packed_out,
                         nbi_ready_step *out) {
    *out = (nbi_ready_step){.step = step};
    if (step->type != NBI_STEP_CONV && step->type != NBI_STEP_DWCONV) return NB_OK;
    const nbi_step_conv *conv = &step->u.conv;
    out->kernel =
        nbi_conv_select(&conv->p, &conv->range, step->type == NBI_STEP_DWCONV, nbi_cpu_isa());
    out->scratch = out->kernel->scratch_bytes(&conv->p);
    if (!packed_out) return NB_OK;
    void *packed;
    NB_TRY(nbi_alloc(ctx, out->kernel->packed_bytes(&conv->p) + NBI_KERNEL_SLACK, 1, &packed));
    out->kernel->pack(&conv->p, conv->levels, packed);
    *packed_out = packed;
    out->packed = packed;
    return NB_OK;
}

/* ---- float islands --------------------------------------------------------------------------- */

static int32_t stored_value(const nbi_ptensor *t, const void *data, size_t i) {
    if (t->dtype == NB_DTYPE_S32) return ((const int32_t *)data)[i];
    return t->dtype == NB_DTYPE_S8 ? ((const int8_t *)data)[i] : ((const uint8_t *)data)[i];
}

/* A float view of one image in storage order. */
static void float_view(int rank, const int64_t *dim, float *data, nbi_view *v) {
    *v = (nbi_view){.dtype = NB_DTYPE_F32, .rank = rank, .data = data};
    memcpy(v->dim, dim, sizeof v->dim);
    if (rank == 3 || rank == 4)
        nbi_view_channels_last(v);
    else
        nbi_view_contiguous(v);
}

static nb_status to_contiguous(nb_ctx *ctx, const nbi_view *from, nbi_view *to) {
    *to = *from;
    nbi_view_contiguous(to);
    NB_TRY(nbi_alloc(ctx, (size_t)nbi_view_count(from) + 1, sizeof(float), &to->data));
    nbi_view_copy(to, from);
    return NB_OK;
}

static nb_status run_island(nb_ctx *ctx, const nbi_step *step, const nbi_ptensor *tensor,
                            const void *const *in, void *out) {
    const nbi_step_float *island = &step->u.island;
    const nbi_node *node = island->node;
    const nbi_ptensor *y = &tensor[step->out];
    nbi_view views[8] = {{0}}, result = {0}, order;
    float *values = NULL;
    nb_status st = NB_OK;
    int source = 0;
    for (int i = 0; i < node->n_in && i < 8; i++) {
        if (node->in[i] < 0) continue;
        const nbi_tensor *k = island->graph->tensor[node->in[i]];
        if (k->data) {
            views[i] = (nbi_view){.dtype = k->dtype, .rank = k->rank, .data = k->data};
            memcpy(views[i].dim, k->dim, sizeof k->dim);
            nbi_view_contiguous(&views[i]);
            continue;
        }
        const nbi_ptensor *x = &tensor[step->in[source]];
        NB_TRYG(nbi_alloc(ctx, x->count, sizeof *values, &values));
        for (size_t j = 0; j < x->count; j++)
            values[j] = (float)(x->scale * (stored_value(x, in[source], j) - x->zero));
        /* the node's shape: the step may read the bytes of a tensor that is only reshaped */
        float_view(k->rank, k->dim, values, &order);
        NB_TRYG(to_contiguous(ctx, &order, &views[i]));
        nbi_free(values);
        values = NULL;
        source++;
    }
    NB_TRYG(nbi_alloc(ctx, y->count, sizeof *values, &values));
    float_view(y->rank, y->dim, values, &order);
    NB_TRYG(to_contiguous(ctx, &order, &result));
    nbi_op_call call = {ctx, island->graph, node, views, &result, 0};
    NB_TRYG(node->op->forward(&call));
    nbi_view_copy(&order, &result);
    nbi_qparam q = {.dtype = y->dtype, .bits = 8, .scale = y->scale, .zero = y->zero, .lo = y->lo,
                    .hi = y->hi};
    if (island->grid) q = *island->grid;
    for (size_t j = 0; j < y->count; j++) {
        if (y->dtype == NB_DTYPE_S32)
            ((int32_t *)out)[j] = nbi_quantize(&q, values[j]);
        else
            ((uint8_t *)out)[j] = (uint8_t)nbi_quantize(&q, values[j]);
    }
done:
    for (int i = 0; i < 8; i++)
        if (views[i].data && !island->graph->tensor[node->in[i]]->data) nbi_free(views[i].data);
    nbi_free(result.data);
    nbi_free(values);
    return st;
}

nb_status nbi_step_run(nb_ctx *ctx, const nbi_ready_step *r, const nbi_ptensor *tensor,
                       const void *const *in, void *out, void *scratch) {
    const nbi_step *s = r->step;
    const nbi_simple_kernels *k = nbi_simple_select(nbi_cpu_isa());
    switch (s->type) {
    case NBI_STEP_CONV:
    case NBI_STEP_DWCONV:
        r->kernel->run(&s->u.conv.p, &s->u.conv.range, r->packed, in[0], out, scratch);
        break;
    case NBI_STEP_ADD:
        k->add(&s->u.add, in[0], in[1], out);
        break;
    case NBI_STEP_MUL:
        k->mul(&s->u.mul, in[0], in[1], out);
        break;
    case NBI_STEP_LUT:
        k->lut(&s->u.lut, in[0], out);
        break;
    case NBI_STEP_MAXPOOL:
        k->maxpool(&s->u.pool, in[0], out);
        break;
    case NBI_STEP_AVGPOOL:
        k->avgpool(&s->u.pool, in[0], out);
        break;
    case NBI_STEP_COPY:
        k->copy(&s->u.copy, in[0], out);
        break;
    case NBI_STEP_FLOAT:
        return run_island(ctx, s, tensor, in, out);
    case NBI_STEP_TYPES:
        break;
    }
    return NB_OK;
}

/* ---- parts of a step ---------------------------------------------------------------------------
 */

/* Below, starting a second thread takes as long as it saves. */
#define MIN_MACS     (1 << 18)
#define MIN_ELEMENTS (1 << 13)

bool nbi_step_divides(const nbi_ready_step *r) {
    const nbi_step *s = r->step;
    if (s->type == NBI_STEP_ADD) return s->u.add.count >= MIN_ELEMENTS;
    if (s->type != NBI_STEP_CONV && s->type != NBI_STEP_DWCONV) return false;
    const nbk_conv *p = &s->u.conv.p;
    const double outputs = (double)p->out_h * p->out_w;
    const double macs = outputs * (double)s->u.conv.w_count;
    return r->kernel->run_part && p->out_h > 1 && macs >= MIN_MACS;
}

static void add_part(const nbk_add *whole, const void *const *in, void *out, int part, int parts) {
    const int64_t n = whole->count;
    const size_t begin = (size_t)(n * part / parts), end = (size_t)(n * (part + 1) / parts);
    nbk_add p = *whole;
    p.count = (int32_t)(end - begin);
    nbi_simple_select(nbi_cpu_isa())
        ->add(&p, (const uint8_t *)in[0] + begin, (const uint8_t *)in[1] + begin,
              (uint8_t *)out + begin);
}

void nbi_step_run_part(const nbi_ready_step *r, const void *const *in, void *out, void *scratch,
                       int part, int parts) {
    const nbi_step *s = r->step;
    if (s->type == NBI_STEP_ADD)
        add_part(&s->u.add, in, out, part, parts);
    else
        r->kernel->run_part(&s->u.conv.p, &s->u.conv.range, r->packed, in[0], out, scratch, part,
                            parts);
}

/* ---- runner ---------------------------------------------------------------------------------- */

struct nbi_runner {
    const nbi_program *program;
    nbi_ready_step *ready;
    void **packed; /* by step */
    int workers;
    char **arena, **scratch; /* by worker */
    nbi_pace pace;           /* of single images: divided or on one thread */
};

void nbi_runner_free(nbi_runner *r) {
    if (!r) return;
    for (int i = 0; r->packed && i < r->program->n_steps; i++) nbi_free(r->packed[i]);
    for (int w = 0; w < r->workers; w++) {
        if (r->arena) nbi_free(r->arena[w]);
        if (r->scratch) nbi_free(r->scratch[w]);
    }
    nbi_free(r->arena);
    nbi_free(r->scratch);
    nbi_free(r->packed);
    nbi_free(r->ready);
    nbi_free(r);
}

nb_status nbi_runner_new(nb_ctx *ctx, const nbi_program *program, nbi_runner **out) {
    nbi_runner *r = NULL;
    nb_status st;
    size_t scratch = NBI_KERNEL_SLACK, steps = (size_t)program->n_steps;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *r, &r));
    r->program = program;
    r->workers = nb_ctx_threads(ctx);
    NB_TRYG(nbi_alloc(ctx, steps, sizeof *r->ready, &r->ready));
    NB_TRYG(nbi_alloc(ctx, steps, sizeof *r->packed, &r->packed));
    NB_TRYG(nbi_alloc(ctx, (size_t)r->workers, sizeof *r->arena, &r->arena));
    NB_TRYG(nbi_alloc(ctx, (size_t)r->workers, sizeof *r->scratch, &r->scratch));
    for (size_t i = 0; i < steps; i++) {
        NB_TRYG(nbi_step_ready(ctx, &program->step[i], &r->packed[i], &r->ready[i]));
        if (r->ready[i].scratch > scratch) scratch = r->ready[i].scratch;
    }
    for (int w = 0; w < r->workers; w++) {
        NB_TRYG(nbi_alloc(ctx, program->arena_bytes + NBI_KERNEL_SLACK, 1, &r->arena[w]));
        NB_TRYG(nbi_alloc(ctx, scratch, 1, &r->scratch[w]));
    }
    *out = r;
    return NB_OK;
done:
    nbi_runner_free(r);
    return st;
}

/* The buffers of a step in a worker's arena. */
static void *place_buffers(const nbi_runner *r, int step, int worker, const void *in[3]) {
    const nbi_program *p = r->program;
    const nbi_step *s = &p->step[step];
    for (int k = 0; k < 3; k++)
        in[k] = k < s->n_in ? r->arena[worker] + p->tensor[s->in[k]].offset : NULL;
    return r->arena[worker] + p->tensor[s->out].offset;
}

static nb_status run_step(nb_ctx *ctx, nbi_runner *r, int i, int worker) {
    const void *in[3];
    void *out = place_buffers(r, i, worker, in);
    return nbi_step_run(ctx, &r->ready[i], r->program->tensor, in, out, r->scratch[worker]);
}

typedef struct run_job {
    nb_ctx *ctx;
    nbi_runner *runner;
    const char *inputs;
    int32_t *const *outputs;
} run_job;

static void copy_output(const nbi_ptensor *t, const void *from, int32_t *to) {
    for (size_t j = 0; j < t->count; j++) to[j] = stored_value(t, from, j);
}

static void load_image(const run_job *job, size_t n, int worker) {
    const nbi_ptensor *x = &job->runner->program->tensor[job->runner->program->input];
    memcpy(job->runner->arena[worker] + x->offset, job->inputs + n * x->bytes, x->bytes);
}

static void store_outputs(const run_job *job, size_t n, int worker) {
    const nbi_program *p = job->runner->program;
    for (int o = 0; o < p->n_outputs; o++) {
        const nbi_ptensor *t = &p->tensor[p->output[o]];
        if (job->outputs[o])
            copy_output(t, job->runner->arena[worker] + t->offset, job->outputs[o] + n * t->count);
    }
}

static nb_status run_images(void *user, size_t begin, size_t end, int worker) {
    const run_job *job = user;
    for (size_t n = begin; n < end; n++) {
        load_image(job, n, worker);
        for (int i = 0; i < job->runner->program->n_steps; i++)
            NB_TRY(run_step(job->ctx, job->runner, i, worker));
        store_outputs(job, n, worker);
    }
    return NB_OK;
}

/* A step of one image, a part per thread. */
typedef struct part_job {
    const nbi_runner *runner;
    int step, parts;
} part_job;

static nb_status run_parts(void *user, size_t begin, size_t end, int worker) {
    const part_job *j = user;
    const void *in[3];
    void *out = place_buffers(j->runner, j->step, 0, in);
    for (size_t k = begin; k < end; k++)
        nbi_step_run_part(&j->runner->ready[j->step], in, out, j->runner->scratch[worker], (int)k,
                          j->parts);
    return NB_OK;
}

/* One image on all threads. */
static nb_status run_divided(const run_job *job) {
    nbi_runner *r = job->runner;
    part_job part = {.runner = r, .parts = nb_ctx_threads(job->ctx)};
    load_image(job, 0, 0);
    for (part.step = 0; part.step < r->program->n_steps; part.step++) {
        if (nbi_step_divides(&r->ready[part.step]))
            NB_TRY(nbi_parallel(job->ctx, (size_t)part.parts, 1, run_parts, &part));
        else
            NB_TRY(run_step(job->ctx, r, part.step, 0));
    }
    store_outputs(job, 0, 0);
    return NB_OK;
}

static nb_status run_single(run_job *job) {
    nbi_pace *pace = &job->runner->pace;
    const double start = nb_seconds(job->ctx);
    NB_TRY(pace->alone ? run_images(job, 0, 1, 0) : run_divided(job));
    nbi_pace_add(pace, nb_seconds(job->ctx) - start);
    return NB_OK;
}

nb_status nbi_runner_run(nb_ctx *ctx, nbi_runner *runner, size_t n, const void *inputs,
                         int32_t *const *outputs) {
    run_job job = {ctx, runner, inputs, outputs};
    if (nb_ctx_threads(ctx) > runner->workers)
        return nb_fail(ctx, NB_EINVAL, "the runner was made for %d threads", runner->workers);
    if (n == 1 && nb_ctx_threads(ctx) > 1) return run_single(&job);
    return nbi_parallel(ctx, n, 4, run_images, &job);
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sort_doubles(double *x, int n) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && x[j - 1] > x[j]; j--) {
            double t = x[j];
            x[j] = x[j - 1];
            x[j - 1] = t;
        }
}

nb_status nbi_runner_profile(nb_ctx *ctx, nbi_runner *r, const void *input, int repeat,
                             double *seconds) {
    const nbi_program *p = r->program;
    double *times = NULL;
    nb_status st = NB_OK;
    if (repeat < 1) repeat = 1;
    NB_TRY(nbi_alloc(ctx, (size_t)repeat * (size_t)p->n_steps, sizeof *times, &times));
    for (int k = 0; k < repeat; k++) {
        memcpy(r->arena[0] + p->tensor[p->input].offset, input, p->tensor[p->input].bytes);
        for (int i = 0; i < p->n_steps; i++) {
            double t = seconds_now();
            NB_TRYG(run_step(ctx, r, i, 0));
            times[i * repeat + k] = seconds_now() - t;
        }
    }
    for (int i = 0; i < p->n_steps; i++) {
        sort_doubles(times + i * repeat, repeat);
        seconds[i] = times[i * repeat + repeat / 2];
    }
done:
    nbi_free(times);
    return st;
}
