/* <prefix>_weights.h: the constant tables and the descriptors of the steps, all static const. A
 * table that another one starts with is not written; see nbi_program_tables. */
#include "codegen/cgen.h"

#include <stdio.h>

static const char *const array_name[] = {"bytes", "levels", "halves", "words"};

static const char *table_name(const nbi_program *p, int table) {
    static const char *const conv[NBI_STEP_TABLES] = {"weights", "levels", "bias", "mult", "shift"};
    static const char *const pool[NBI_STEP_TABLES] = {"mult", "shift", "", "", ""};
    const int slot = table % NBI_STEP_TABLES;
    switch (p->step[table / NBI_STEP_TABLES].type) {
    case NBI_STEP_LUT:
        return "table";
    case NBI_STEP_AVGPOOL:
        return pool[slot];
    default:
        return conv[slot];
    }
}

static size_t elements(const nbi_const_table *t) {
    return t->kind == NBI_CONST_S32 ? t->bytes / 4 : t->kind == NBI_CONST_S16 ? t->bytes / 2
                                                                              : t->bytes;
}

static bool is_stored(const nbi_cgen *g, int table, nbi_const_kind kind) {
    const nbi_const_table *t = &g->table[table];
    return t->bytes && t->home == table && t->kind == kind;
}

/* All tables of one kind as one array: nothing is lost to alignment between them. */
static nb_status write_array(const nbi_cgen *g, nbi_buf *buf, nbi_const_kind kind) {
    static const char *const type[] = {"uint8_t", "int8_t", "int16_t", "int32_t"};
    const int n = g->program.n_steps * NBI_STEP_TABLES;
    size_t count = 0;
    for (int i = 0; i < n; i++)
        if (is_stored(g, i, kind)) count += elements(&g->table[i]);
    if (!count) return NB_OK;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const %s %s[%zu] = {\n", type[kind],
                          array_name[kind], count));
    for (int i = 0; i < n; i++) {
        if (!is_stored(g, i, kind)) continue;
        NB_TRY(nbi_buf_printf(g->ctx, buf, "    /* step%d: %s */\n", i / NBI_STEP_TABLES + 1,
                              table_name(&g->program, i)));
        NB_TRY(nbi_cgen_values(g->ctx, buf, kind, g->table[i].data, elements(&g->table[i])));
    }
    return nbi_buf_printf(g->ctx, buf, "};\n\n");
}

/* "    .bias = words + 48,\n" for one table of a step, or nothing when it has none. */
static nb_status pointer(const nbi_cgen *g, nbi_buf *buf, const char *field, int step, int slot) {
    const nbi_const_table *t = &g->table[step * NBI_STEP_TABLES + slot];
    size_t at = 0;
    if (!t->bytes) return NB_OK;
    for (int i = 0; i < t->home; i++)
        if (is_stored(g, i, t->kind)) at += elements(&g->table[i]);
    return nbi_buf_printf(g->ctx, buf, "    .%s = %s + %zu,\n", field, array_name[t->kind], at);
}

static const char *type_text(int type) {
    return type == NBK_U8 ? "NBK_U8" : type == NBK_S8 ? "NBK_S8" : "NBK_S32";
}

static nb_status limits(const nbi_cgen *g, nbi_buf *buf, int32_t lo, int32_t hi) {
    char low[32] = "-2147483647 - 1";
    if (lo != INT32_MIN) snprintf(low, sizeof low, "%ld", (long)lo);
    return nbi_buf_printf(g->ctx, buf, "    .out_lo = %s, .out_hi = %ld,\n", low, (long)hi);
}

static nb_status conv(const nbi_cgen *g, nbi_buf *buf, int step) {
    const nbk_conv stored = nbi_stored_conv(&g->program.step[step].u.conv), *p = &stored;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const nbk_conv step%d = {\n", step + 1));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .in_h = %d, .in_w = %d, .in_c = %d,\n", p->in_h,
                          p->in_w, p->in_c));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .out_h = %d, .out_w = %d, .out_c = %d,\n", p->out_h,
                          p->out_w, p->out_c));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .kh = %d, .kw = %d, .sh = %d, .sw = %d,\n", p->kh,
                          p->kw, p->sh, p->sw));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .dh = %d, .dw = %d, .pt = %d, .pl = %d,\n", p->dh,
                          p->dw, p->pt, p->pl));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .groups = %d, .in_zero = %d, .out_zero = %d,\n",
                          p->groups, p->in_zero, p->out_zero));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .in_type = %s, .out_type = %s, .w_bits = %d,\n",
                          type_text(p->in_type), type_text(p->out_type), p->w_bits));
    if (p->bias_bits == 8 || p->bias_bits == 16)
        NB_TRY(nbi_buf_printf(g->ctx, buf, "    .bias_bits = %d, .bias_shift = %d,\n",
                              p->bias_bits, p->bias_shift));
    NB_TRY(limits(g, buf, p->out_lo, p->out_hi));
    NB_TRY(pointer(g, buf, "w", step, 0));
    NB_TRY(pointer(g, buf, "w_levels", step, 1));
    NB_TRY(pointer(g, buf, "bias", step, 2));
    NB_TRY(pointer(g, buf, "mult", step, 3));
    return pointer(g, buf, "shift", step, 4);
}

/* An addition, or the one that a convolution does. */
static nb_status add(const nbi_cgen *g, nbi_buf *buf, int step) {
    const nbi_step *s = &g->program.step[step];
    const nbk_add *p = s->sum ? s->sum : &s->u.add;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const nbk_add step%d%s = {\n    .count = %ld,\n",
                          step + 1, s->sum ? "_add" : "", (long)p->count));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .a_mult = %ld, .b_mult = %ld, .shift = %d,\n",
                          (long)p->a_mult, (long)p->b_mult, p->shift));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .a_zero = %d, .b_zero = %d, .out_zero = %d,\n",
                          p->a_zero, p->b_zero, p->out_zero));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .a_type = %s, .b_type = %s, .out_type = %s,\n",
                          type_text(p->a_type), type_text(p->b_type), type_text(p->out_type)));
    return limits(g, buf, p->out_lo, p->out_hi);
}

static nb_status mul(const nbi_cgen *g, nbi_buf *buf, int step) {
    const nbk_mul *p = &g->program.step[step].u.mul;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const nbk_mul step%d = {\n", step + 1));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .count = %ld, .b_channels = %ld,\n", (long)p->count,
                          (long)p->b_channels));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .mult = %ld, .shift = %d,\n", (long)p->mult, p->shift));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .a_zero = %d, .b_zero = %d, .out_zero = %d,\n",
                          p->a_zero, p->b_zero, p->out_zero));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .a_type = %s, .b_type = %s, .out_type = %s,\n",
                          type_text(p->a_type), type_text(p->b_type), type_text(p->out_type)));
    return limits(g, buf, p->out_lo, p->out_hi);
}

static nb_status lut(const nbi_cgen *g, nbi_buf *buf, int step) {
    const nbk_lut *p = &g->program.step[step].u.lut;
    NB_TRY(nbi_buf_printf(g->ctx, buf,
                          "static const nbk_lut step%d = {\n    .count = %ld, .channels = %d,\n",
                          step + 1, (long)p->count, p->channels));
    return pointer(g, buf, "table", step, 0);
}

static nb_status pool(const nbi_cgen *g, nbi_buf *buf, int step) {
    const nbk_pool *p = &g->program.step[step].u.pool;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const nbk_pool step%d = {\n", step + 1));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .in_h = %d, .in_w = %d, .out_h = %d, .out_w = %d,\n",
                          p->in_h, p->in_w, p->out_h, p->out_w));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .c = %d, .kh = %d, .kw = %d, .sh = %d, .sw = %d,\n",
                          p->c, p->kh, p->kw, p->sh, p->sw));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .dh = %d, .dw = %d, .pt = %d, .pl = %d,\n", p->dh,
                          p->dw, p->pt, p->pl));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .in_zero = %d, .out_zero = %d, .count_pad = %d,\n",
                          p->in_zero, p->out_zero, p->count_pad));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "    .type = %s, .out_type = %s,\n", type_text(p->type),
                          type_text(p->out_type)));
    NB_TRY(limits(g, buf, p->out_lo, p->out_hi));
    NB_TRY(pointer(g, buf, "mult", step, 0));
    return pointer(g, buf, "shift", step, 1);
}

static nb_status six(const nbi_cgen *g, nbi_buf *buf, const char *field, const int32_t *v) {
    return nbi_buf_printf(g->ctx, buf, "    .%s = {%ld, %ld, %ld, %ld, %ld, %ld},\n", field,
                          (long)v[0], (long)v[1], (long)v[2], (long)v[3], (long)v[4], (long)v[5]);
}

static nb_status copy(const nbi_cgen *g, nbi_buf *buf, int step) {
    const nbk_copy *p = &g->program.step[step].u.copy;
    NB_TRY(nbi_buf_printf(g->ctx, buf, "static const nbk_copy step%d = {\n", step + 1));
    NB_TRY(six(g, buf, "n", p->n));
    NB_TRY(six(g, buf, "in_stride", p->in_stride));
    NB_TRY(six(g, buf, "out_stride", p->out_stride));
    return nbi_buf_printf(g->ctx, buf,
                          "    .in_offset = %ld, .out_offset = %ld, .fill_bytes = %ld,\n"
                          "    .fill_value = %d, .size = %d,\n",
                          (long)p->in_offset, (long)p->out_offset, (long)p->fill_bytes,
                          p->fill_value, p->size);
}

nb_status nbi_cgen_weights(nbi_cgen *g, nbi_buf *buf) {
    static nb_status (*const emit[NBI_STEP_TYPES])(const nbi_cgen *, nbi_buf *, int) = {
        [NBI_STEP_CONV] = conv,    [NBI_STEP_DWCONV] = conv, [NBI_STEP_ADD] = add,
        [NBI_STEP_MUL] = mul,      [NBI_STEP_LUT] = lut,     [NBI_STEP_MAXPOOL] = pool,
        [NBI_STEP_AVGPOOL] = pool, [NBI_STEP_COPY] = copy,
    };
    NB_TRY(nbi_cgen_banner(g, buf, "Constants"));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#ifndef %s_WEIGHTS_H\n#define %s_WEIGHTS_H\n\n", g->upper,
                          g->upper));
    NB_TRY(nbi_buf_printf(g->ctx, buf, "#include \"nbk.h\"\n\n"));
    NB_TRY(write_array(g, buf, NBI_CONST_U8));
    NB_TRY(write_array(g, buf, NBI_CONST_S8));
    NB_TRY(write_array(g, buf, NBI_CONST_S16));
    NB_TRY(write_array(g, buf, NBI_CONST_S32));
    for (int s = 0; s < g->program.n_steps; s++) {
        const nbi_step *step = &g->program.step[s];
        if (!emit[step->type])
            return nb_fail(g->ctx, NB_EUNSUPPORTED, "node '%s': C cannot be generated for its step",
                           step->name);
        NB_TRY(emit[step->type](g, buf, s));
        if (step->sum) {
            NB_TRY(nbi_buf_printf(g->ctx, buf, "};\n"));
            NB_TRY(add(g, buf, s));
        }
        NB_TRY(nbi_buf_printf(g->ctx, buf, "};\n"));
    }
    return nbi_buf_printf(g->ctx, buf, "\n#endif\n");
}
