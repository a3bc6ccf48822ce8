/* Where the generated code stops: the integer steps, if no step among them needs the result of a
 * float operator. The tensors that the float tail reads become outputs in place of its own. */
#include "ir/program.h"

#include <string.h>

typedef struct cutter {
    nb_ctx *ctx;
    const nbi_program *program;
    int *tainted; /* tensor: 1 + the step of the first float operator it comes from, or 0 */
    bool *seen;   /* tensor: an output depends on it */
    int n_outputs;
    int output[NBI_PROGRAM_OUTPUTS];
} cutter;

static nb_status taint(cutter *c) {
    const nbi_program *p = c->program;
    for (int s = 0; s < p->n_steps; s++) {
        const nbi_step *step = &p->step[s];
        int island = c->tainted[step->out];
        for (int i = 0; i < step->n_in && !island; i++) island = c->tainted[step->in[i]];
        if (step->type == NBI_STEP_FLOAT)
            c->tainted[step->out] = island ? island : s + 1;
        else if (island)
            return nb_fail(c->ctx, NB_EUNSUPPORTED,
                           "node '%s' is computed in float and node '%s' behind it is not: C can "
                           "leave out float operators only at the end of the network",
                           p->step[island - 1].name, step->name);
    }
    return NB_OK;
}

static nb_status add_output(cutter *c, int tensor) {
    for (int o = 0; o < c->n_outputs; o++)
        if (c->output[o] == tensor) return NB_OK;
    if (c->n_outputs == NBI_PROGRAM_OUTPUTS)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "tensor '%s' would be output number %d, C has %d",
                       c->program->tensor[tensor].name, NBI_PROGRAM_OUTPUTS + 1,
                       NBI_PROGRAM_OUTPUTS);
    c->output[c->n_outputs++] = tensor;
    return NB_OK;
}

/* Marks what the marked tensors are computed from, through float steps only or through all. */
static void mark_back(cutter *c, bool through_float) {
    const nbi_program *p = c->program;
    for (int s = p->n_steps - 1; s >= 0; s--) {
        const nbi_step *step = &p->step[s];
        if ((step->type == NBI_STEP_FLOAT) != through_float || !c->seen[step->out]) continue;
        for (int i = 0; i < step->n_in; i++) c->seen[step->in[i]] = true;
    }
}

/* The integer tensors that the float tensor `output` is computed from. */
static nb_status add_frontier(cutter *c, int output) {
    const nbi_program *p = c->program;
    memset(c->seen, 0, (size_t)p->n_tensors * sizeof *c->seen);
    c->seen[output] = true;
    mark_back(c, true);
    for (int s = 0; s < p->n_steps; s++) {
        const nbi_step *step = &p->step[s];
        if (step->type != NBI_STEP_FLOAT || !c->seen[step->out]) continue;
        for (int i = 0; i < step->n_in; i++)
            if (!c->tainted[step->in[i]]) NB_TRY(add_output(c, step->in[i]));
    }
    return NB_OK;
}

static nb_status find_outputs(cutter *c, nbi_arena *memory) {
    const nbi_program *p = c->program;
    const size_t n = (size_t)p->n_tensors + 1;
    c->tainted = nbi_arena_alloc(memory, n, sizeof *c->tainted);
    c->seen = nbi_arena_alloc(memory, n, sizeof *c->seen);
    if (!c->tainted || !c->seen) return nb_fail(c->ctx, NB_ENOMEM, "no memory for %zu tensors", n);
    NB_TRY(taint(c));
    for (int o = 0; o < p->n_outputs; o++)
        NB_TRY(c->tainted[p->output[o]] ? add_frontier(c, p->output[o])
                                        : add_output(c, p->output[o]));
    if (c->n_outputs == 0)
        return nb_fail(c->ctx, NB_EUNSUPPORTED, "network '%s': nothing of it is integer", p->name);
    return NB_OK;
}

nb_status nbi_program_cut(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory,
                          nbi_program *out, const char **cut) {
    cutter c = {.ctx = ctx, .program = program};
    NB_TRY(find_outputs(&c, memory));
    *out = *program;
    out->arena = (nbi_arena){0}; /* the original's stays its own */
    out->float_graph = NULL;
    out->tensor = nbi_arena_alloc(memory, (size_t)program->n_tensors, sizeof *out->tensor);
    out->step = nbi_arena_alloc(memory, (size_t)program->n_steps + 1, sizeof *out->step);
    if (!out->tensor || !out->step) return nb_fail(ctx, NB_ENOMEM, "no memory for the program");
    memcpy(out->tensor, program->tensor, (size_t)program->n_tensors * sizeof *out->tensor);
    out->n_outputs = c.n_outputs;
    memcpy(out->output, c.output, (size_t)c.n_outputs * sizeof *c.output);

    memset(c.seen, 0, (size_t)program->n_tensors * sizeof *c.seen);
    for (int o = 0; o < c.n_outputs; o++) c.seen[c.output[o]] = true;
    mark_back(&c, false);
    out->n_steps = 0;
    *cut = NULL;
    for (int s = 0; s < program->n_steps; s++) {
        const nbi_step *step = &program->step[s];
        if (step->type == NBI_STEP_FLOAT) {
            if (!*cut) *cut = step->name;
        } else if (c.seen[step->out]) {
            out->step[out->n_steps++] = *step;
        }
    }
    return NB_OK;
}
