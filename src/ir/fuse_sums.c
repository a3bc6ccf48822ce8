/* Convolutions that add: "v = conv(x); y = v + stream" becomes one step where nothing else reads v.
 * In residual networks the peak of memory is just there: x, v and the stream, a third of which is
 * gone without v. Only the generated C is made so: the host has memory, and its kernels are faster
 * one at a time. The arithmetic is that of the two steps (nbk_conv_add_run), so both agree. */
#include "ir/program.h"

#include <string.h>

typedef struct fuser {
    const nbi_program *program;
    int *uses;       /* of a tensor: as an operand or an output of the program */
    int *writes;     /* steps that write it; the program's input: one more */
    int *last_write; /* step; −1: none */
    int *first_use;  /* step that first reads or writes it; −1: the program's input */
    int *last_read;  /* step; n_steps: an output of the program */
} fuser;

static nb_status fuser_new(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory, fuser *f) {
    const size_t n = (size_t)program->n_tensors + 1;
    int *ints = nbi_arena_alloc(memory, n, 5 * sizeof *ints);
    if (!ints) return nb_fail(ctx, NB_ENOMEM, "no memory for %zu tensors", n);
    *f = (fuser){program, ints, ints + n, ints + 2 * n, ints + 3 * n, ints + 4 * n};
    for (int t = 0; t < program->n_tensors; t++) {
        f->last_write[t] = -1;
        f->first_use[t] = program->n_steps;
    }
    f->writes[program->input] = 1;
    f->first_use[program->input] = -1;
    for (int s = 0; s < program->n_steps; s++) {
        const nbi_step *step = &program->step[s];
        for (int i = 0; i < step->n_in; i++) {
            f->uses[step->in[i]]++;
            f->last_read[step->in[i]] = s;
            if (f->first_use[step->in[i]] > s) f->first_use[step->in[i]] = s;
        }
        f->writes[step->out]++;
        f->last_write[step->out] = s;
        if (f->first_use[step->out] > s) f->first_use[step->out] = s;
    }
    for (int o = 0; o < program->n_outputs; o++) {
        f->uses[program->output[o]]++;
        f->last_read[program->output[o]] = program->n_steps;
    }
    return NB_OK;
}

static bool is_byte(nb_dtype dtype) {
    return dtype == NB_DTYPE_U8 || dtype == NB_DTYPE_S8;
}

/* The convolution that only addition j reads, as its operand k; −1: none. */
static int convolution_of(const fuser *f, int j, int k) {
    const nbi_program *p = f->program;
    const nbi_step *add = &p->step[j];
    if (add->type != NBI_STEP_ADD || add->n_in != 2) return -1;
    const int v = add->in[k], s = f->last_write[v];
    const nbi_ptensor *a = &p->tensor[v], *b = &p->tensor[add->in[1 - k]];
    const nbi_ptensor *y = &p->tensor[add->out];
    if (s < 0 || s >= j || p->step[s].type != NBI_STEP_CONV || p->step[s].sum) return -1;
    if (f->uses[v] != 1 || f->writes[v] != 1 || f->first_use[v] != s) return -1;
    if (f->first_use[add->out] != j || f->last_write[add->in[1 - k]] > j) return -1;
    if (!is_byte(a->dtype) || !is_byte(b->dtype) || !is_byte(y->dtype)) return -1;
    return a->count == b->count && a->count == y->count ? s : -1;
}

/* May convolution s wait for step j, which also reads `other`? Its input then lives until there
 * instead of its output: no gain without the other operand's place. */
static bool can_wait(const fuser *f, int s, int j, int other) {
    const int in = f->program->step[s].in[0], v = f->program->step[s].out;
    if (f->last_write[in] >= s || f->last_read[other] != j) return false;
    return f->last_read[in] >= j || f->program->tensor[in].bytes <= f->program->tensor[v].bytes;
}

/* Where addition j and convolution s, its operand k, become one step: at the convolution if the
 * other operand is complete there, else at the addition; −1: nowhere. */
static int meeting_place(const fuser *f, int s, int j, int k) {
    const int other = f->program->step[j].in[1 - k];
    if (f->last_write[other] < s) return s;
    return can_wait(f, s, j, other) ? j : -1;
}

/* Integer sums have no order: exchanging the operands changes nothing. */
static nbk_add exchanged(const nbk_add *p) {
    nbk_add q = *p;
    q.a_mult = p->b_mult, q.b_mult = p->a_mult;
    q.a_zero = p->b_zero, q.b_zero = p->a_zero;
    q.a_type = p->b_type, q.b_type = p->a_type;
    return q;
}

/* The convolution, doing what the addition does with its operand k. */
static nb_status join(nb_ctx *ctx, const nbi_step *conv, const nbi_step *add, int k,
                      nbi_arena *memory, nbi_step *out) {
    nbk_add *sum = nbi_arena_alloc(memory, 1, sizeof *sum);
    if (!sum) return nb_fail(ctx, NB_ENOMEM, "no memory for an addition");
    *sum = k == 0 ? add->u.add : exchanged(&add->u.add);
    *out = *conv;
    out->sum = sum;
    out->n_in = 2;
    out->in[1] = add->in[1 - k];
    out->out = add->out;
    return NB_OK;
}

nb_status nbi_program_fuse(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory,
                           nbi_program *out) {
    const size_t tensors = (size_t)program->n_tensors, steps = (size_t)program->n_steps;
    fuser f = {0};
    nbi_program p = *program;
    NB_TRY(fuser_new(ctx, program, memory, &f));
    p.arena = (nbi_arena){0}; /* the original's stays its own */
    p.float_graph = NULL;
    p.tensor = nbi_arena_alloc(memory, tensors + 1, sizeof *p.tensor);
    p.step = nbi_arena_alloc(memory, steps + 1, sizeof *p.step);
    bool *gone = nbi_arena_alloc(memory, steps + 1, sizeof *gone);
    if (!p.tensor || !p.step || !gone) return nb_fail(ctx, NB_ENOMEM, "no memory for the program");
    if (tensors) memcpy(p.tensor, program->tensor, tensors * sizeof *p.tensor);
    if (steps) memcpy(p.step, program->step, steps * sizeof *p.step);
    for (int j = 0; j < program->n_steps; j++) {
        int conv = -1, operand = 0, place = -1;
        for (int k = 0; k < 2; k++) { /* the earlier place is better: the operands die sooner */
            const int s = convolution_of(&f, j, k), at = s < 0 ? -1 : meeting_place(&f, s, j, k);
            if (at >= 0 && (place < 0 || at < place)) conv = s, operand = k, place = at;
        }
        if (place < 0) continue;
        NB_TRY(join(ctx, &program->step[conv], &program->step[j], operand, memory, &p.step[place]));
        gone[place == j ? conv : j] = true;
    }
    p.n_steps = 0;
    for (size_t s = 0; s < steps; s++)
        if (!gone[s]) p.step[p.n_steps++] = p.step[s];
    *out = p;
    return NB_OK;
}

static nb_status as_c(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory,
                      nbi_program *out) {
    const char *cut;
    nb_status st = nbi_program_cut(ctx, program, memory, out, &cut);
    if (st == NB_EUNSUPPORTED) *out = *program;
    else NB_TRY(st);
    return nbi_program_fuse(ctx, out, memory, out);
}

nb_status nbi_program_ram(nb_ctx *ctx, const nbi_program *program, size_t *out_bytes) {
    nbi_arena memory = {0};
    nbi_program fused;
    nb_status st = as_c(ctx, program, &memory, &fused);
    if (st == NB_OK) st = nbi_program_plan(ctx, &fused);
    if (st == NB_OK) st = nbi_program_place_scratch(ctx, &fused, NULL, out_bytes);
    nbi_arena_free(&memory);
    return st;
}

nb_status nbi_program_ram_sum(nb_ctx *ctx, const nbi_program *program, double *out_bytes) {
    nbi_arena memory = {0};
    nbi_program fused;
    double sum = 0;
    nb_status st = as_c(ctx, program, &memory, &fused);
    if (st == NB_OK) st = nbi_program_live_sum(ctx, &fused, &sum);
    for (int s = 0; st == NB_OK && s < fused.n_steps; s++)
        sum += (double)nbi_step_scratch_bytes(&fused.step[s]);
    if (st == NB_OK) *out_bytes = sum;
    nbi_arena_free(&memory);
    return st;
}
