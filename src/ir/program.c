/* The integer program's constants: which tables a step stores in flash, which of them are equal and
 * stored once, and what a step's descriptor takes. The size that a limit is checked against and the
 * arrays that the C generator emits both come from here, so they cannot differ. */
#include "ir/program.h"

#include <string.h>

void nbi_program_free(nbi_program *program) {
    if (!program) return;
    nbi_graph_free(program->float_graph);
    nbi_arena_free(&program->arena);
    nbi_free(program);
}

size_t nbi_step_scratch_bytes(const nbi_step *step) {
    if (step->type == NBI_STEP_CONV) return nbk_conv_scratch(&step->u.conv.p);
    if (step->type == NBI_STEP_DWCONV) return nbk_dwconv_scratch(&step->u.conv.p);
    return 0;
}

static nbi_const_table table_of(nbi_const_kind kind, const void *data, size_t count) {
    const size_t size = kind == NBI_CONST_S32 ? 4 : kind == NBI_CONST_S16 ? 2 : 1;
    return (nbi_const_table){.data = data, .kind = kind, .bytes = data ? count * size : 0};
}

nbk_conv nbi_stored_conv(const nbi_step_conv *conv) {
    nbk_conv p = conv->p;
    if (!conv->bias_codes) return p;
    p.bias = conv->bias_codes;
    p.bias_bits = conv->bias_bits;
    p.bias_shift = conv->bias_shift;
    return p;
}

static nbi_const_kind bias_kind(const nbk_conv *p) {
    return p->bias_bits == 8 ? NBI_CONST_S8 : p->bias_bits == 16 ? NBI_CONST_S16 : NBI_CONST_S32;
}

void nbi_step_tables(const nbi_step *step, nbi_const_table table[NBI_STEP_TABLES]) {
    for (int i = 0; i < NBI_STEP_TABLES; i++) table[i] = table_of(NBI_CONST_U8, NULL, 0);
    if (step->type == NBI_STEP_CONV || step->type == NBI_STEP_DWCONV) {
        const nbk_conv p = nbi_stored_conv(&step->u.conv);
        const size_t channels = (size_t)p.out_c;
        table[0] = table_of(NBI_CONST_U8, p.w, step->u.conv.w_bytes);
        table[1] = table_of(NBI_CONST_S8, p.w_levels, (size_t)1 << p.w_bits);
        table[2] = table_of(bias_kind(&p), p.bias, channels);
        table[3] = table_of(NBI_CONST_S32, p.mult, channels);
        table[4] = table_of(NBI_CONST_U8, p.shift, channels);
        table[3].own = table[4].own = true;
    } else if (step->type == NBI_STEP_LUT) {
        const nbk_lut *p = &step->u.lut;
        table[0] = table_of(NBI_CONST_U8, p->table, (size_t)p->channels * 256);
    } else if (step->type == NBI_STEP_AVGPOOL) {
        const nbk_pool *p = &step->u.pool;
        const size_t divisors = nbk_pool_divisors(p);
        table[0] = table_of(NBI_CONST_S32, p->mult, divisors);
        table[1] = table_of(NBI_CONST_U8, p->shift, divisors);
        table[0].own = table[1].own = true;
    }
}

/* The longest table of the same kind that starts with table i's bytes; among equals the first. */
static int home_of(const nbi_const_table *table, int n, int i) {
    int best = i;
    if (table[i].own) return i;
    for (int j = 0; j < n; j++) {
        const nbi_const_table *b = &table[best], *t = &table[j];
        const bool better = !t->own && (t->bytes > b->bytes || (t->bytes == b->bytes && j < best));
        if (better && t->kind == b->kind && memcmp(t->data, table[i].data, table[i].bytes) == 0)
            best = j;
    }
    return best;
}

nb_status nbi_program_tables(nb_ctx *ctx, const nbi_program *program, nbi_const_table **out) {
    nbi_const_table *table = NULL;
    const int n = program->n_steps * NBI_STEP_TABLES;
    NB_TRY(nbi_alloc(ctx, (size_t)n, sizeof *table, &table));
    for (int i = 0; i < program->n_steps; i++)
        nbi_step_tables(&program->step[i], table + i * NBI_STEP_TABLES);
    for (int i = 0; i < n; i++) table[i].home = table[i].bytes ? home_of(table, n, i) : i;
    *out = table;
    return NB_OK;
}

size_t nbi_step_descriptor_bytes(const nbi_step *step) {
    const size_t wider = sizeof(void *) - 4; /* than a pointer of a 32-bit machine */
    switch (step->type) {
    case NBI_STEP_CONV:
    case NBI_STEP_DWCONV:
        return sizeof(nbk_conv) - 5 * wider + (step->sum ? sizeof(nbk_add) : 0);
    case NBI_STEP_ADD:
        return sizeof(nbk_add);
    case NBI_STEP_MUL:
        return sizeof(nbk_mul);
    case NBI_STEP_LUT:
        return sizeof(nbk_lut) - wider;
    case NBI_STEP_MAXPOOL:
    case NBI_STEP_AVGPOOL:
        return sizeof(nbk_pool) - 2 * wider;
    case NBI_STEP_COPY:
        return sizeof(nbk_copy);
    case NBI_STEP_FLOAT:
    case NBI_STEP_TYPES:
        break;
    }
    return 0;
}

size_t nbi_step_const_bytes(const nbi_step *step) {
    nbi_const_table table[NBI_STEP_TABLES];
    size_t bytes = nbi_step_descriptor_bytes(step);
    nbi_step_tables(step, table);
    for (int i = 0; i < NBI_STEP_TABLES; i++) bytes += table[i].bytes;
    return bytes;
}

nb_status nbi_program_const_bytes(nb_ctx *ctx, const nbi_program *program, size_t *out_bytes) {
    nbi_const_table *table = NULL;
    size_t bytes = 0;
    NB_TRY(nbi_program_tables(ctx, program, &table));
    for (int i = 0; i < program->n_steps; i++)
        bytes += nbi_step_descriptor_bytes(&program->step[i]);
    for (int i = 0; i < program->n_steps * NBI_STEP_TABLES; i++)
        if (table[i].home == i) bytes += table[i].bytes;
    nbi_free(table);
    *out_bytes = bytes;
    return NB_OK;
}
