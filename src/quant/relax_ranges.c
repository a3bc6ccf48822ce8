/* Differentiable quantization (Uhlich et al., docs/searches.md): a tensor learns its step d and
 * its range q (org.nibble::RangeQuant), and the width is what they need, b = ⌈log2(q/d + 1)⌉ + s,
 * s = 1 where there are signs; λ·max(0, B − T)² draws the network to its targets. The logarithms of
 * d and q are learned (ours: Adam's steps are then relative); d counts rounded to a power of two,
 * and both roundings are straight-through: with r = q/d
 *   db/dlog2 q = r/(r + 1) = −db/dlog2 d.
 * Widths stay within what is offered: at a border d gives way, and q stays. */
#include "quant/relax_parts.h"

#include "schemes/schemes.h"

#include <math.h>

#define PENALTY 10.0
#define RATE    0.02 /* of log2 d and log2 q, by Adam */

/* Least and most of the offered widths, less the sign's bit: 2^n − 1 steps on one side. A sign
 * alone (1 bit) has no step. */
static void levels_of(const nbi_relax *r, int s, double *least, double *most) {
    const nbi_relax_site *site = &r->spec.site[s];
    int sign = !r->vertex[s].is_unsigned, lo = (site->candidate[0] & 255) - sign;
    *least = ldexp(1, lo < 1 ? 1 : lo) - 1;
    *most = ldexp(1, (site->candidate[site->n - 1] & 255) - sign) - 1;
}

static void keep_within(const nbi_relax *r, int s) {
    float *log2s = nbi_relax_value(r, r->vertex[s].learned);
    double least, most, step = rint((double)log2s[0]);
    levels_of(r, s, &least, &most);
    double lowest = ceil((double)log2s[1] - log2(most));
    double highest = floor((double)log2s[1] - log2(least));
    if (step < lowest) log2s[0] = (float)lowest;
    if (step > highest) log2s[0] = (float)highest;
}

/* q/d. */
static double ratio(const nbi_relax *r, int s) {
    const float *log2s = nbi_relax_value(r, r->vertex[s].learned);
    return exp2((double)log2s[1] - rint((double)log2s[0]));
}

static int bits_of(const nbi_relax *r, int s) {
    int hi = r->spec.site[s].candidate[r->spec.site[s].n - 1] & 255;
    /* the ratio of a range that was put onto a border is a rounding away from it */
    int bits = (int)ceil(log2(ratio(r, s) + 1) - 1e-5) + !r->vertex[s].is_unsigned;
    return bits > hi ? hi : bits;
}

static double width(const nbi_relax *r, int s) {
    return bits_of(r, s);
}

/* From the grid that the start's width was fitted with, one for the whole tensor. */
static nb_status add_range(nbi_relax_grower *b, nbi_relax_vertex *mine) {
    int bits = b->r->spec.start[b->v->site] & 255, sign = !mine->is_unsigned;
    float step = (float)b->site->fit[bits].scale;
    if (nbi_relax_is_weight(b)) NB_TRY(nbi_relax_weight_steps(b, bits, 1, &step));
    NB_TRY(nbi_relax_constant(b, "range", NB_DTYPE_F32, 1, (int64_t[]){2}, &mine->learned));
    float *log2s = nbi_relax_value(b->r, mine->learned);
    log2s[0] = log2f(fmaxf(step, 1e-20f));
    log2s[1] = log2s[0] + (float)log2(bits - sign < 1 ? 1 : ldexp(1, bits - sign) - 1);
    keep_within(b->r, b->v->site);
    return NB_OK;
}

static nb_status vertex(nbi_relax_grower *b, const nbi_relax_site *s, int *out) {
    nbi_relax_vertex *mine = &b->r->vertex[b->v->site];
    nbi_node *node;
    if (s->candidate[0] >> 8)
        return nb_fail(b->ctx, NB_EUNSUPPORTED,
                       "tensor '%s': step and range are learned of the uniform scheme only, not of "
                       "'%s'",
                       b->site->name, nbi_relax_scheme(s->candidate[0])->name);
    if ((s->candidate[s->n - 1] & 255) - !mine->is_unsigned < 2)
        return NB_OK; /* one width: the usual quantizer */
    if (mine->learned < 0) NB_TRY(add_range(b, mine));
    NB_TRY(nbi_relax_node(b, "org.nibble", "RangeQuant", 2, (int[]){b->v->x, mine->learned}, out,
                          &node));
    NB_TRY(nbi_node_set_int(b->ctx, b->q->graph, node, "unsigned", mine->is_unsigned));
    return nbi_relax_finish(b, node);
}

static nb_status begin(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps) {
    const nbi_relax *r = user;
    (void)ctx, (void)step, (void)steps;
    for (int s = 0; s < r->net->n_sites; s++)
        if (r->vertex[s].learned >= 0) keep_within(r, s);
    return NB_OK;
}

static nb_status adjust(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                        nbi_param *params) {
    nbi_relax *r = user;
    int first = r->qat->n_train - r->n_learned;
    double rate = r->spec.choice_rate > 0 ? r->spec.choice_rate : RATE;
    (void)ctx, (void)step, (void)steps;
    nbi_relax_press(r, r->spec.penalty > 0 ? r->spec.penalty : PENALTY, false);
    for (int s = 0, i = first; s < r->net->n_sites; s++) {
        if (r->vertex[s].learned < 0) continue;
        float *g = &r->gradient[2 * (i - first)];
        double pull = r->pressure[s] * ratio(r, s) / (ratio(r, s) + 1);
        g[0] = (float)((double)params[i].gradient[0] - pull);
        g[1] = (float)((double)params[i].gradient[1] + pull);
        params[i].gradient = g;
        params[i].lr = lr > 0 ? (float)(rate / lr) : 0;
        i++;
    }
    return NB_OK;
}

static nbi_choice decode(const nbi_relax *r, int s, double *value) {
    *value = log2(ratio(r, s) + 1) + !r->vertex[s].is_unsigned;
    return (nbi_choice)bits_of(r, s);
}

const nbi_relax_way nbi_relax_ranges = {.vertex = vertex,
                                        .begin = begin,
                                        .adjust = adjust,
                                        .adam = true,
                                        .decode = decode,
                                        .width = width};
