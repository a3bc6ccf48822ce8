/* Sums of layers' costs, and measuring them: one program per pair of widths, each step timed. */
#include "runtime/step_costs.h"

#include "runtime/lower.h"
#include "runtime/run.h"
#include "runtime/scorer.h"

#include <math.h>
#include <string.h>

#define REPEAT 15 /* runs of a step; the median counts */

nb_status nbi_step_costs_new(nb_ctx *ctx, const nbi_qnet *net, const char *source,
                             nbi_step_costs **out) {
    nbi_step_costs *c = NULL;
    nb_status st;
    const size_t length = strlen(source) + 1;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *c, &c));
    c->net = net;
    NB_TRYG(nbi_alloc(ctx, (size_t)net->n_layers + 1, sizeof *c->layer, &c->layer));
    NB_TRYG(nbi_alloc(ctx, length, 1, &c->source));
    memcpy(c->source, source, length);
    for (int i = 0; i < net->n_layers; i++)
        for (int w = 0; w <= NBI_MAX_BITS; w++)
            for (int a = 0; a <= NBI_MAX_BITS; a++)
                c->layer[i].at[w][a] = (nbi_step_cost){NAN, NAN};
    *out = c;
    return NB_OK;
done:
    nbi_step_costs_free(c);
    return st;
}

void nbi_step_costs_free(nbi_step_costs *c) {
    if (!c) return;
    nbi_free(c->layer);
    nbi_free(c->source);
    nbi_free(c);
}

bool nbi_step_costs_have_energy(const nbi_step_costs *c) {
    return c->has_energy;
}

bool nbi_step_costs_measured(const nbi_step_costs *c) {
    return c->measured;
}

/* No step is left of it: the same bytes under another name. */
static bool is_nothing(const nbi_qnet *net, const nbi_layer *l, const nbi_choice *bits) {
    const int in = net->edge[l->in[0]].site, out = net->edge[l->out].site;
    if (l->type == NBI_LAYER_COPY) return l->n_copy == 0;
    if (l->type != NBI_LAYER_REQUANT) return false;
    const nbi_qparam *x = nbi_site_grid(&net->site[in], bits[in]);
    const nbi_qparam *y = nbi_site_grid(&net->site[out], bits[out]);
    return x && y && nbi_same_grid(x, y);
}

/* A layer's entry: speed depends on widths, not on schemes. */
static nbi_step_cost *find_entry(const nbi_step_costs *c, int layer, const nbi_choice *bits, int *w,
                                 int *a) {
    const nbi_layer *l = &c->net->layer[layer];
    const bool conv = l->type == NBI_LAYER_CONV;
    *w = conv ? nbi_choice_bits(bits[l->weight_site]) : 0;
    *a = conv ? nbi_choice_bits(bits[c->net->edge[l->in[0]].site]) : 0;
    *w = *w > NBI_MAX_BITS ? NBI_MAX_BITS : *w;
    *a = *a > NBI_MAX_BITS ? NBI_MAX_BITS : *a;
    return &c->layer[layer].at[*w][*a];
}

static bool has_step(const nbi_program *p, const nbi_layer *l) {
    for (int s = 0; s < p->n_steps; s++)
        if (p->step[s].out == l->out) return true;
    return false;
}

nb_status nbi_step_costs_sum(nb_ctx *ctx, const nbi_step_costs *c, const nbi_choice *bits,
                             const nbi_program *program, double *seconds, double *energy) {
    *seconds = c->rest;
    *energy = 0;
    for (int i = 0; i < c->net->n_layers; i++) {
        const nbi_layer *l = &c->net->layer[i];
        const bool may_vanish = l->type == NBI_LAYER_COPY || l->type == NBI_LAYER_REQUANT;
        if (program ? may_vanish && !has_step(program, l) : is_nothing(c->net, l, bits)) continue;
        int w, a;
        const nbi_step_cost *at = find_entry(c, i, bits, &w, &a);
        if (isnan(at->seconds) && w)
            return nb_fail(ctx, NB_EFORMAT,
                           "cost table '%s': no line for node '%s' with weights "
                           "of %d and inputs of %d bits, nor for wider ones",
                           c->source, l->name, w, a);
        if (isnan(at->seconds))
            return nb_fail(ctx, NB_EFORMAT, "cost table '%s': no line for node '%s'", c->source,
                           l->name);
        *seconds += at->seconds;
        *energy += at->energy;
    }
    if (!c->has_energy) *energy = NAN;
    return NB_OK;
}

/* ---- measuring ------------------------------------------------------------------------------- */

/* Adds the times of a program's steps to the layers whose output they write. */
static void add_times(nbi_step_costs *c, const nbi_program *p, const nbi_choice *bits,
                      const double *seconds) {
    const nbi_qnet *net = c->net;
    c->rest = 0;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        int w, a, steps = 0;
        nbi_step_cost *at = find_entry(c, i, bits, &w, &a);
        double sum = 0;
        for (int s = 0; s < p->n_steps; s++)
            if (p->step[s].out == l->out) sum += seconds[s], steps++;
        /* a requantization may be nothing at one width and a step at another: the larger counts */
        if (isnan(at->seconds) || (steps && !w)) at->seconds = sum;
        at->energy = 0;
    }
    for (int s = 0; s < p->n_steps; s++) {
        const int edge = p->step[s].out;
        if (edge >= net->n_edges || net->edge[edge].producer < 0) c->rest += seconds[s];
    }
}

static nb_status measure_widths(nb_ctx *ctx, nbi_step_costs *c, nbi_scorer *scorer,
                                const nbi_choice *bits, const uint8_t *input) {
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    nbi_runner *runner = NULL;
    double *seconds = NULL;
    nb_status st;
    NB_TRYG(nbi_scorer_freeze(ctx, scorer, bits, &frozen));
    NB_TRYG(nbi_lower(ctx, frozen, &program));
    NB_TRYG(nbi_alloc(ctx, (size_t)program->n_steps + 1, sizeof *seconds, &seconds));
    NB_TRYG(nbi_runner_new(ctx, program, &runner));
    NB_TRYG(nbi_runner_profile(ctx, runner, input, REPEAT, seconds));
    add_times(c, program, bits, seconds);
done:
    nbi_free(seconds);
    nbi_runner_free(runner);
    nbi_program_free(program);
    nbi_frozen_free(frozen);
    return st;
}

static bool offers(const nbi_choice *choice, int n, int bits) {
    for (int i = 0; i < n; i++)
        if (nbi_choice_bits(choice[i]) == bits) return true;
    return false;
}

nb_status nbi_step_costs_measure(nb_ctx *ctx, const nbi_qnet *net, const nbi_step_widths *widths,
                                 const uint8_t *input, nbi_step_costs **out) {
    /* one image and no statistics: values do not matter here */
    const nbi_scorer_options o = {1, input, 0, 0, widths->per_channel};
    nbi_step_costs *c = NULL;
    nbi_scorer *scorer = NULL;
    nbi_choice *bits = NULL;
    nb_status st;
    NB_TRY(nbi_step_costs_new(ctx, net, "measured here", &c));
    NB_TRYG(nbi_scorer_new(ctx, net, &o, &scorer));
    NB_TRYG(nbi_alloc(ctx, (size_t)net->n_sites + 1, sizeof *bits, &bits));
    for (int w = 1; w <= NBI_MAX_BITS; w++)
        for (int a = 1; a <= NBI_MAX_BITS; a++) {
            if (!offers(widths->weight, widths->n_weight, w) ||
                !offers(widths->activation, widths->n_activation, a))
                continue;
            for (int s = 0; s < net->n_sites; s++) {
                const bool weight = net->site[s].kind == NBI_SITE_WEIGHT;
                bits[s] = (nbi_choice)(weight ? w : a);
                if (net->site[s].fixed_bits) bits[s] = (nbi_choice)net->site[s].fixed_bits;
                if (widths->fixed[s]) bits[s] = widths->fixed[s];
            }
            NB_TRYG(measure_widths(ctx, c, scorer, bits, input));
        }
    c->measured = true;
    *out = c;
    c = NULL;
done:
    nbi_free(bits);
    nbi_scorer_free(scorer);
    nbi_step_costs_free(c);
    return st;
}
