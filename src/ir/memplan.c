/* Where every tensor of an integer program lies in the arena. A tensor lives from the step that
 * first writes it to the last one that reads it. An element-wise step may write over an input that
 * dies there, and so may a convolution over what it adds: both are then one block. Blocks are placed one after the other into gaps between
 * placed blocks that live at the same time ("greedy by size" and relatives; finding the optimum is
 * NP-hard). Several in-place choices and orders are tried, then a random walk over orders from a
 * fixed seed, until the live-set lower bound is met; the smallest arena wins. */
#include "ir/program.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN       ((size_t)16)
#define MIN_TRIES   128u /* random orders for any program */
#define RANDOM_WORK (MIN_TRIES * MIN_TRIES)

typedef enum inplace { INPLACE_FIRST, INPLACE_LAST, INPLACE_NONE, INPLACE_CHOICES } inplace;
typedef enum order { ORDER_SIZE, ORDER_AREA, ORDER_TIME, ORDER_LENGTH, ORDER_CHOICES } order;

typedef struct block {
    int tensor;      /* the first tensor in it: breaks ties */
    int first, last; /* steps, both included; the input's first is −1 */
    size_t bytes;    /* rounded up to ALIGN */
    size_t offset;
} block;

typedef struct planner {
    const nbi_program *program;
    int n_tensors, n_blocks;
    int *first, *last, *writers; /* of every tensor; first > last: never used */
    int *block_of;               /* tensor → block */
    block *blocks;
    int *order;             /* the sequence in which blocks are placed */
    int *placed;            /* placed blocks that live together with the next one, by offset */
    int *best_order, *walk; /* the best sequence; where the random walk is */
    size_t *best_offset;    /* of every tensor */
    size_t best;
} planner;

static bool round_up(size_t bytes, size_t *out) {
    if (bytes > SIZE_MAX - (ALIGN - 1)) return false;
    *out = (bytes + ALIGN - 1) & ~(ALIGN - 1);
    return true;
}

static bool valid(const nbi_program *program, int tensor) {
    return tensor >= 0 && tensor < program->n_tensors;
}

static nb_status check(nb_ctx *ctx, const nbi_program *program) {
    size_t sum = 0, bytes;
    for (int t = 0; t < program->n_tensors; t++) {
        if (!round_up(program->tensor[t].bytes, &bytes) || bytes > SIZE_MAX / 2 - sum)
            return nb_fail(ctx, NB_EUNSUPPORTED, "tensor '%s': %zu bytes do not fit into memory",
                           program->tensor[t].name, program->tensor[t].bytes);
        sum += bytes;
    }
    bool ok = program->n_tensors == 0 || valid(program, program->input);
    for (int s = 0; s < program->n_steps && ok; s++) {
        ok = valid(program, program->step[s].out);
        for (int i = 0; i < program->step[s].n_in; i++)
            ok = ok && valid(program, program->step[s].in[i]);
    }
    for (int o = 0; o < program->n_outputs && ok; o++) ok = valid(program, program->output[o]);
    return ok ? NB_OK : nb_fail(ctx, NB_EINVAL, "integer program: a tensor index is out of range");
}

static void use(planner *p, int tensor, int step) {
    if (step < p->first[tensor]) p->first[tensor] = step;
    if (step > p->last[tensor]) p->last[tensor] = step;
}

static void find_lifetimes(planner *p) {
    const nbi_program *program = p->program;
    for (int t = 0; t < p->n_tensors; t++) {
        p->first[t] = program->n_steps + 1;
        p->last[t] = -2;
    }
    if (p->n_tensors) use(p, program->input, -1);
    for (int s = 0; s < program->n_steps; s++) {
        const nbi_step *step = &program->step[s];
        for (int i = 0; i < step->n_in; i++) use(p, step->in[i], s);
        use(p, step->out, s);
        bool in_place = step->n_in == 1 && step->in[0] == step->out; /* changes what is there */
        p->writers[step->out] += !in_place;
    }
    for (int o = 0; o < program->n_outputs; o++) use(p, program->output[o], program->n_steps);
}

static bool is_elementwise(nbi_step_type type) {
    return type == NBI_STEP_ADD || type == NBI_STEP_MUL || type == NBI_STEP_LUT;
}

/* May step s write its output over its input number i? */
static bool may_overwrite(const planner *p, int s, int i) {
    const nbi_step *step = &p->program->step[s];
    const nbi_ptensor *a = &p->program->tensor[step->in[i]];
    const nbi_ptensor *out = &p->program->tensor[step->out];
    if (step->type == NBI_STEP_MUL && i == 1 && step->u.mul.b_channels != 0) return false;
    if (step->sum ? i != 1 || step->in[0] == step->in[1] : !is_elementwise(step->type)) return false;
    return step->in[i] != step->out && p->last[step->in[i]] == s && p->first[step->out] == s &&
           p->writers[step->out] == 1 && a->bytes == out->bytes && a->count == out->count;
}

/* The input that step s overwrites, or −1. */
static int overwritten(const planner *p, int s, inplace choice) {
    const int n = p->program->step[s].n_in;
    if (choice == INPLACE_NONE) return -1;
    for (int k = 0; k < n; k++) {
        const int i = choice == INPLACE_FIRST ? k : n - 1 - k;
        if (may_overwrite(p, s, i)) return p->program->step[s].in[i];
    }
    return -1;
}

static void make_blocks(planner *p, inplace choice) {
    p->n_blocks = 0;
    for (int t = 0; t < p->n_tensors; t++) p->block_of[t] = -1;
    for (int t = 0; t < p->n_tensors; t++) {
        if (p->first[t] > p->last[t]) continue;
        block *b = &p->blocks[p->n_blocks];
        *b = (block){.tensor = t, .first = p->first[t], .last = p->last[t]};
        (void)round_up(p->program->tensor[t].bytes, &b->bytes); /* checked */
        p->block_of[t] = p->n_blocks++;
    }
    for (int s = 0; s < p->program->n_steps; s++) {
        const int from = overwritten(p, s, choice), to = p->program->step[s].out;
        if (from < 0) continue;
        /* the output joins the input's block; its own block becomes empty */
        block *old = &p->blocks[p->block_of[to]], *b = &p->blocks[p->block_of[from]];
        if (old->last > b->last) b->last = old->last;
        old->bytes = 0;
        p->block_of[to] = p->block_of[from];
    }
}

static bool live_together(const block *a, const block *b) {
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset (or the tightest gap) for `bytes` between the n placed blocks. */
static size_t find_gap(const planner *p, int n, size_t bytes, bool tightest) {
    size_t end = 0, best = SIZE_MAX, slack = SIZE_MAX;
    for (int i = 0; i < n; i++) {
        const block *b = &p->blocks[p->placed[i]];
        if (b->offset >= end && b->offset - end >= bytes && b->offset - end - bytes < slack) {
            if (!tightest) return end;
            best = end;
            slack = b->offset - end - bytes;
        }
        if (b->offset + b->bytes > end) end = b->offset + b->bytes;
    }
    return best == SIZE_MAX ? end : best;
}

/* Places the first n of p->order; returns the size of the arena. */
static size_t place(planner *p, bool tightest) {
    size_t size = 0;
    for (int k = 0; k < p->n_blocks; k++) {
        block *b = &p->blocks[p->order[k]];
        int n = 0;
        if (b->bytes == 0) {
            b->offset = 0;
            continue;
        }
        for (int j = 0; j < k; j++) { /* insertion sort by offset */
            const block *other = &p->blocks[p->order[j]];
            if (other->bytes == 0 || !live_together(b, other)) continue;
            int at = n++;
            for (; at > 0 && p->blocks[p->placed[at - 1]].offset > other->offset; at--)
                p->placed[at] = p->placed[at - 1];
            p->placed[at] = p->order[j];
        }
        b->offset = find_gap(p, n, b->bytes, tightest);
        if (b->offset + b->bytes > size) size = b->offset + b->bytes;
    }
    return size;
}

/* < 0: block a is placed before block b. */
static int compare(const block *a, const block *b, order by) {
    const size_t la = (size_t)(a->last - a->first) + 1, lb = (size_t)(b->last - b->first) + 1;
    size_t ka = a->bytes, kb = b->bytes;
    if (by == ORDER_TIME && a->first != b->first) return a->first < b->first ? -1 : 1;
    if (by == ORDER_LENGTH && la != lb) return la > lb ? -1 : 1;
    if (by == ORDER_AREA) {
        if (!nbi_mul_size(ka, la, &ka)) ka = SIZE_MAX;
        if (!nbi_mul_size(kb, lb, &kb)) kb = SIZE_MAX;
    }
    if (ka != kb) return ka > kb ? -1 : 1;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    return a->tensor - b->tensor;
}

static void sort_blocks(planner *p, order by) {
    for (int i = 0; i < p->n_blocks; i++) {
        int at = i;
        for (; at > 0 && compare(&p->blocks[i], &p->blocks[p->order[at - 1]], by) < 0; at--)
            p->order[at] = p->order[at - 1];
        p->order[at] = i;
    }
}

static void keep_if_better(planner *p, size_t size) {
    if (size >= p->best) return;
    p->best = size;
    memcpy(p->best_order, p->order, (size_t)p->n_blocks * sizeof *p->order);
    for (int t = 0; t < p->n_tensors; t++)
        p->best_offset[t] = p->block_of[t] < 0 ? 0 : p->blocks[p->block_of[t]].offset;
}

/* Moves one block of the order to another place, again and again; keeps what is not worse. */
static void try_random(planner *p, size_t bound) {
    nbi_rng rng;
    nbi_rng_seed(&rng, 1, 1);
    const uint32_t n = (uint32_t)p->n_blocks;
    const uint32_t tries = n < 2 ? 0 : n < MIN_TRIES ? RANDOM_WORK / n : MIN_TRIES;
    size_t now = p->best;
    memcpy(p->walk, p->best_order, n * sizeof *p->order);
    for (uint32_t k = 0; k < tries && p->best > bound; k++) {
        const uint32_t from = nbi_rng_below(&rng, n), to = nbi_rng_below(&rng, n);
        memcpy(p->order, p->walk, n * sizeof *p->order);
        const int moved = p->order[from];
        if (to < from)
            memmove(p->order + to + 1, p->order + to, (from - to) * sizeof *p->order);
        else
            memmove(p->order + from, p->order + from + 1, (to - from) * sizeof *p->order);
        p->order[to] = moved;
        const size_t size = place(p, (k & 1) != 0);
        keep_if_better(p, size);
        if (size > now) continue;
        now = size;
        memcpy(p->walk, p->order, n * sizeof *p->order);
    }
}

static void search(planner *p, size_t bound) {
    for (inplace choice = INPLACE_FIRST; choice < INPLACE_CHOICES; choice++) {
        const size_t before = p->best;
        make_blocks(p, choice);
        for (order by = ORDER_SIZE; by < ORDER_CHOICES; by++) {
            sort_blocks(p, by);
            keep_if_better(p, place(p, false));
            keep_if_better(p, place(p, true));
            if (p->best <= bound) return;
        }
        if (p->best < before) try_random(p, bound); /* best_order is one of this choice */
        if (p->best <= bound) return;
    }
}

/* The sum of what lives at step s, less the largest output that can lie in an input's place. */
static size_t live_bytes(const planner *p, int s) {
    const int n = p->program->n_steps;
    size_t sum = 0, rounded;
    for (int t = 0; t < p->n_tensors; t++)
        if (p->first[t] <= s && s <= p->last[t] && round_up(p->program->tensor[t].bytes, &rounded))
            sum += rounded;
    if (s >= 0 && s < n && overwritten(p, s, INPLACE_FIRST) >= 0 &&
        round_up(p->program->tensor[p->program->step[s].out].bytes, &rounded))
        sum -= rounded;
    return sum;
}

static size_t lower_bound(const planner *p) {
    size_t bound = 0;
    for (int s = -1; s <= p->program->n_steps; s++) {
        const size_t live = live_bytes(p, s);
        if (live > bound) bound = live;
    }
    return bound;
}

static nb_status planner_new(nb_ctx *ctx, const nbi_program *program, nbi_arena *memory,
                             planner *p) {
    const size_t n = (size_t)program->n_tensors + 1;
    *p = (planner){.program = program, .n_tensors = program->n_tensors, .best = SIZE_MAX};
    NB_TRY(check(ctx, program));
    p->blocks = nbi_arena_alloc(memory, n, sizeof *p->blocks);
    p->best_offset = nbi_arena_alloc(memory, n, sizeof *p->best_offset);
    int *ints = nbi_arena_alloc(memory, n, 8 * sizeof *ints);
    if (!p->blocks || !p->best_offset || !ints)
        return nb_fail(ctx, NB_ENOMEM, "no memory to plan %d tensors", program->n_tensors);
    p->first = ints;
    p->last = ints + n;
    p->writers = ints + 2 * n;
    p->block_of = ints + 3 * n;
    p->order = ints + 4 * n;
    p->placed = ints + 5 * n;
    p->best_order = ints + 6 * n;
    p->walk = ints + 7 * n;
    find_lifetimes(p);
    return NB_OK;
}

nb_status nbi_program_plan(nb_ctx *ctx, nbi_program *program) {
    nbi_arena memory = {0};
    planner p;
    nb_status st = planner_new(ctx, program, &memory, &p);
    if (st == NB_OK) {
        search(&p, lower_bound(&p));
        for (int t = 0; t < p.n_tensors; t++) program->tensor[t].offset = p.best_offset[t];
        program->arena_bytes = p.best;
    }
    nbi_arena_free(&memory);
    return st;
}

nb_status nbi_program_plan_bound(nb_ctx *ctx, const nbi_program *program, size_t *out_bytes) {
    nbi_arena memory = {0};
    planner p;
    nb_status st = planner_new(ctx, program, &memory, &p);
    if (st == NB_OK) *out_bytes = lower_bound(&p);
    nbi_arena_free(&memory);
    return st;
}

nb_status nbi_program_live_sum(nb_ctx *ctx, const nbi_program *program, double *out_bytes) {
    nbi_arena memory = {0};
    planner p;
    nb_status st = planner_new(ctx, program, &memory, &p);
    double sum = 0;
    for (int s = 0; s < program->n_steps && st == NB_OK; s++) sum += (double)live_bytes(&p, s);
    if (st == NB_OK) *out_bytes = sum;
    nbi_arena_free(&memory);
    return st;
}

nb_status nbi_program_place_scratch(nb_ctx *ctx, const nbi_program *program, size_t *offset,
                                    size_t *out_ram_bytes) {
    nbi_arena memory = {0};
    planner p;
    nb_status st = planner_new(ctx, program, &memory, &p);
    if (st == NB_OK) {
        size_t ram = program->arena_bytes;
        make_blocks(&p, INPLACE_NONE); /* tensors that share bytes overlap: find_gap allows it */
        for (int i = 0; i < p.n_blocks; i++)
            p.blocks[i].offset = program->tensor[p.blocks[i].tensor].offset;
        for (int s = 0; s < program->n_steps; s++) {
            const size_t bytes = nbi_step_scratch_bytes(&program->step[s]);
            int n = 0;
            for (int i = 0; i < p.n_blocks && bytes; i++) {
                if (p.blocks[i].first > s || p.blocks[i].last < s) continue;
                int at = n++;
                for (; at > 0 && p.blocks[p.placed[at - 1]].offset > p.blocks[i].offset; at--)
                    p.placed[at] = p.placed[at - 1];
                p.placed[at] = i;
            }
            const size_t at = find_gap(&p, n, bytes, false);
            if (offset) offset[s] = bytes ? at : 0;
            if (bytes && at + bytes > ram) ram = at + bytes;
        }
        *out_ram_bytes = ram;
    }
    nbi_arena_free(&memory);
    return st;
}
