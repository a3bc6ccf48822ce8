/* The cost table of a device: a CSV file, and which of its lines a layer takes. */
#include "runtime/step_costs.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum column {
    STEP,
    SHAPE,
    WEIGHT_BITS,
    INPUT_BITS,
    CYCLES,
    SECONDS,
    ENERGY,
    COLUMNS
} column;
static const char *const COLUMN_NAMES[COLUMNS] = {"step",   "shape",   "weight_bits", "input_bits",
                                                  "cycles", "seconds", "energy"};
static const char *const STEP_NAMES[] = {"conv",    "dwconv",  "add",  "mul",  "lut",
                                         "maxpool", "avgpool", "copy", "float"};

/* h, w, c, then of convolutions n, kh, kw, stride, groups; else 0. */
typedef struct shape {
    int n[8];
} shape;

typedef struct line {
    int step; /* of STEP_NAMES */
    shape shape;
    int w, a; /* widths; 0: none */
    double work;
    nbi_step_cost cost;
} line;

typedef struct table {
    nb_ctx *ctx;
    const char *path;
    int at[COLUMNS]; /* column number; −1: not there */
    int fields;
    double clock;
    line *row;
    size_t count, capacity;
} table;

static bool is_conv(int step) {
    return step < 2;
}

/* Multiply-adds of a convolution (padded to keep its size), elements of anything else. */
static double work_of(int step, const shape *s) {
    const int *n = s->n;
    if (!is_conv(step)) return (double)n[0] * n[1] * n[2];
    const double h = ceil((double)n[0] / n[6]), w = ceil((double)n[1] / n[6]);
    return h * w * n[3] * ((double)n[2] / n[7]) * n[4] * n[5];
}

/* ---- reading --------------------------------------------------------------------------------- */

static nb_status parse_shape(const table *t, size_t number, int step, const char *text, shape *s) {
    int *n = s->n, end = 0, used = 0;
    bool ok;
    memset(s, 0, sizeof *s);
    if (is_conv(step)) {
        n[7] = 1;
        ok = sscanf(text, "%dx%dx%d>%d:%dx%d/%d%n", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6],
                    &end) == 7 &&
             end > 0;
        if (ok && text[end]) ok = sscanf(text + end, ":g%d%n", &n[7], &used) == 1 && used > 0;
    } else {
        ok = sscanf(text, "%dx%dx%d%n", &n[0], &n[1], &n[2], &end) == 3 && end > 0;
    }
    ok = ok && text[end + used] == 0;
    for (int i = 0; ok && i < (is_conv(step) ? 8 : 3); i++) ok = n[i] >= 1 && n[i] <= 1 << 20;
    if (ok) return NB_OK;
    return nb_fail(t->ctx, NB_EFORMAT, "cost table '%s', line %zu: shape '%s' is not %s", t->path,
                   number, text, is_conv(step) ? "HxWxC>N:KHxKW/STRIDE[:gGROUPS]" : "HxWxC");
}

static nb_status parse_number(const table *t, size_t number, column c, const char *text,
                              double *out) {
    char *end;
    *out = strtod(text, &end);
    if (end != text && !*end && *out >= 0 && isfinite(*out)) return NB_OK;
    return nb_fail(t->ctx, NB_EFORMAT,
                   "cost table '%s', line %zu: %s '%s' is not a number of 0 or "
                   "more",
                   t->path, number, COLUMN_NAMES[c], text);
}

static nb_status parse_width(const table *t, size_t number, column c, char **field, int *out) {
    const char *text = t->at[c] >= 0 ? field[t->at[c]] : "";
    double v = 0;
    if (*text) NB_TRY(parse_number(t, number, c, text, &v));
    if (v > NBI_MAX_BITS || v != floor(v))
        return nb_fail(t->ctx, NB_EFORMAT,
                       "cost table '%s', line %zu: %s '%s'; 1 to %d are "
                       "possible",
                       t->path, number, COLUMN_NAMES[c], text, NBI_MAX_BITS);
    *out = (int)v;
    return NB_OK;
}

static nb_status parse_line(table *t, size_t number, char **field) {
    line r = {.step = -1, .cost = {NAN, NAN}};
    for (size_t i = 0; i < NBI_COUNT(STEP_NAMES); i++)
        if (!strcmp(field[t->at[STEP]], STEP_NAMES[i])) r.step = (int)i;
    if (r.step < 0)
        return nb_fail(t->ctx, NB_EFORMAT,
                       "cost table '%s', line %zu: there is no step '%s'; "
                       "'nibble list steps' names them",
                       t->path, number, field[t->at[STEP]]);
    NB_TRY(parse_shape(t, number, r.step, field[t->at[SHAPE]], &r.shape));
    NB_TRY(parse_width(t, number, WEIGHT_BITS, field, &r.w));
    NB_TRY(parse_width(t, number, INPUT_BITS, field, &r.a));
    if (!is_conv(r.step)) r.w = r.a = 0;
    if (is_conv(r.step) && (!r.w || !r.a))
        return nb_fail(t->ctx, NB_EFORMAT,
                       "cost table '%s', line %zu: %s needs weight_bits and "
                       "input_bits",
                       t->path, number, STEP_NAMES[r.step]);
    if (t->at[SECONDS] >= 0) {
        NB_TRY(parse_number(t, number, SECONDS, field[t->at[SECONDS]], &r.cost.seconds));
    } else {
        NB_TRY(parse_number(t, number, CYCLES, field[t->at[CYCLES]], &r.cost.seconds));
        if (!(t->clock > 0))
            return nb_fail(t->ctx, NB_EFORMAT,
                           "cost table '%s', line %zu: cycles need a line "
                           "'# clock HZ' before them",
                           t->path, number);
        r.cost.seconds /= t->clock;
    }
    if (t->at[ENERGY] >= 0)
        NB_TRY(parse_number(t, number, ENERGY, field[t->at[ENERGY]], &r.cost.energy));
    r.work = work_of(r.step, &r.shape);
    if (t->count == t->capacity) {
        const size_t more = t->capacity ? 2 * t->capacity : 64;
        NB_TRY(nbi_grow(t->ctx, &t->row, t->count, more, sizeof *t->row));
        t->capacity = more;
    }
    t->row[t->count++] = r;
    return NB_OK;
}

static nb_status parse_header(table *t, char **field, int fields) {
    for (int c = 0; c < COLUMNS; c++) t->at[c] = -1;
    for (int f = 0; f < fields; f++) {
        int found = -1;
        for (int c = 0; c < COLUMNS; c++)
            if (!strcmp(field[f], COLUMN_NAMES[c])) found = c;
        if (found < 0)
            return nb_fail(t->ctx, NB_EFORMAT,
                           "cost table '%s': there is no column '%s'; columns "
                           "are step, shape, weight_bits, input_bits, cycles or seconds, energy",
                           t->path, field[f]);
        t->at[found] = f;
    }
    t->fields = fields;
    if (t->at[STEP] >= 0 && t->at[SHAPE] >= 0 && (t->at[CYCLES] >= 0 || t->at[SECONDS] >= 0))
        return NB_OK;
    return nb_fail(t->ctx, NB_EFORMAT,
                   "cost table '%s': its first line must name the columns step, "
                   "shape and cycles or seconds",
                   t->path);
}

/* Splits at commas, without the blanks around fields. */
static int split(char *text, char **field, int most) {
    int n = 0;
    for (char *at = text;;) {
        char *comma = strchr(at, ','), *end = comma ? comma : at + strlen(at);
        while (at < end && isspace((unsigned char)*at)) at++;
        while (end > at && isspace((unsigned char)end[-1])) end--;
        *end = 0;
        if (n == most) return n + 1;
        field[n++] = at;
        if (!comma) return n;
        at = comma + 1;
    }
}

static nb_status read_line(table *t, size_t number, char *text) {
    char *field[COLUMNS + 1];
    const size_t blank = strspn(text, " \t\r");
    double clock;
    if (!text[blank]) return NB_OK;
    if (text[blank] == '#') {
        if (sscanf(text + blank, "# clock %lf", &clock) == 1 && clock > 0 && isfinite(clock))
            t->clock = clock;
        return NB_OK;
    }
    const int n = split(text, field, COLUMNS);
    if (t->fields && n != t->fields)
        return nb_fail(t->ctx, NB_EFORMAT,
                       "cost table '%s', line %zu: %d fields, the first line "
                       "names %d",
                       t->path, number, n, t->fields);
    if (n > COLUMNS)
        return nb_fail(t->ctx, NB_EFORMAT, "cost table '%s': more than %d columns", t->path,
                       COLUMNS);
    return t->fields ? parse_line(t, number, field) : parse_header(t, field, n);
}

/* ---- what a layer takes ------------------------------------------------------------------------
 */

static int step_of(const nbi_layer *l) {
    static const int steps[] = {
        [NBI_LAYER_CONV] = 0,    [NBI_LAYER_ADD] = 2,     [NBI_LAYER_MUL] = 3,
        [NBI_LAYER_UNARY] = 4,   [NBI_LAYER_REQUANT] = 4, [NBI_LAYER_MAXPOOL] = 5,
        [NBI_LAYER_AVGPOOL] = 6, [NBI_LAYER_COPY] = 7,    [NBI_LAYER_FLOAT] = 8};
    return l->type == NBI_LAYER_CONV && l->depthwise ? 1 : steps[l->type];
}

static shape shape_of(const nbi_qnet *net, const nbi_layer *l) {
    const nbi_edge *y = &net->edge[l->out];
    const nbk_conv *g = &l->geometry;
    if (l->type != NBI_LAYER_CONV) return (shape){{y->h, y->w, y->c}};
    return (shape){{g->in_h, g->in_w, g->in_c, g->out_c, g->kh, g->kw, g->sh, g->groups}};
}

/* The widths nearest to those wanted, none narrower: least weights first. false: none. */
static bool find_widths(const table *t, int step, int *w, int *a) {
    int best_w = 99, best_a = 99;
    for (size_t i = 0; i < t->count; i++) {
        const line *r = &t->row[i];
        if (r->step != step || r->w < *w || r->a < *a) continue;
        if (r->w < best_w || (r->w == best_w && r->a < best_a)) best_w = r->w, best_a = r->a;
    }
    *w = best_w, *a = best_a;
    return best_w < 99;
}

static nbi_step_cost scaled(const nbi_step_cost *c, double factor) {
    return (nbi_step_cost){c->seconds * factor, c->energy * factor};
}

static nbi_step_cost look_up(const table *t, int step, const shape *s, int w, int a) {
    const line *below = NULL, *above = NULL;
    const double work = work_of(step, s);
    if (!find_widths(t, step, &w, &a)) return (nbi_step_cost){NAN, NAN};
    for (size_t i = 0; i < t->count; i++) {
        const line *r = &t->row[i];
        if (r->step != step || r->w != w || r->a != a) continue;
        if (!memcmp(&r->shape, s, sizeof *s)) return r->cost;
        if (r->work <= work && (!below || r->work > below->work)) below = r;
        if (r->work >= work && (!above || r->work < above->work)) above = r;
    }
    if (!below) return scaled(&above->cost, work / above->work);
    if (!above || above->work <= below->work) return scaled(&below->cost, work / below->work);
    const double x = (work - below->work) / (above->work - below->work);
    return (nbi_step_cost){below->cost.seconds + x * (above->cost.seconds - below->cost.seconds),
                           below->cost.energy + x * (above->cost.energy - below->cost.energy)};
}

static void fill(const table *t, nbi_step_costs *c) {
    for (int i = 0; i < c->net->n_layers; i++) {
        const nbi_layer *l = &c->net->layer[i];
        const shape s = shape_of(c->net, l);
        const int step = step_of(l), top = is_conv(step) ? NBI_MAX_BITS : 0;
        for (int w = top ? 1 : 0; w <= top; w++)
            for (int a = top ? 1 : 0; a <= top; a++)
                c->layer[i].at[w][a] = look_up(t, step, &s, w, a);
    }
    c->has_energy = t->at[ENERGY] >= 0;
}

nb_status nbi_step_costs_read(nb_ctx *ctx, const nbi_qnet *net, const char *path,
                              nbi_step_costs **out) {
    table t = {.ctx = ctx, .path = path};
    nbi_step_costs *c = NULL;
    char *text = NULL;
    void *data = NULL;
    size_t size, number = 0;
    nb_status st;
    NB_TRYG(nbi_file_read(ctx, path, NBI_STEP_COSTS_BYTES, &data, &size));
    NB_TRYG(nbi_alloc(ctx, size + 1, 1, &text));
    if (size) memcpy(text, data, size);
    for (char *at = text; at < text + size;) {
        char *end = memchr(at, '\n', (size_t)(text + size - at));
        if (!end) end = text + size;
        *end = 0;
        NB_TRYG(read_line(&t, ++number, at));
        at = end + 1;
    }
    if (!t.count) {
        st = nb_fail(ctx, NB_EFORMAT, "cost table '%s' holds no line", path);
        goto done;
    }
    NB_TRYG(nbi_step_costs_new(ctx, net, path, &c));
    fill(&t, c);
    *out = c;
    c = NULL;
done:
    nbi_free(data);
    nbi_free(text);
    nbi_free(t.row);
    nbi_step_costs_free(c);
    return st;
}
