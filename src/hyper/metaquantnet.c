/* The life of a MetaQuantNet, the policies that it is trained under, and its way into the network
 * and out of it. */
#include "hyper/meta_parts.h"

#include "quant/fit.h"

#include <math.h>
#include <string.h>

#define EXTREME 0.1f /* probability of all narrowest, and of all widest */

/* What calibration left in the network. */
typedef struct nbi_meta_kept {
    float *weight, *gain, *shift;
    double *mean, *deviation;
} layer_kept;

/* The grid of an activation by a scheme other than uniform: as calibration fitted it, and room for
 * what was trained. */
typedef struct nbi_meta_grid {
    nbi_site_fit *fit;
    nbi_qparam kept;
    const float *kept_params;
    nbi_levels levels;
    float params[NBI_SCHEME_MAX_PARAMS];
} nbi_meta_grid;

void nbi_meta_free(nbi_meta *m) {
    if (!m) return;
    nbi_meta_uninstall(m);
    nbi_meta_store_free(m);
    nbi_tape_free(m->tape);
    nbi_graph_free(m->generator);
    nbi_qat_free(m->qat);
    nbi_free(m->input);
    nbi_arena_free(&m->arena);
    nbi_free(m);
}

nb_status nbi_meta_new(nb_ctx *ctx, const nbi_graph *source, nbi_qnet *net, int edge,
                       const nbi_meta_options *options, nbi_meta **out) {
    nbi_meta *m = NULL;
    nb_status st;
    size_t sites = (size_t)net->n_sites;
    if (options->n_weights < 1 || options->n_activations < 1 || options->hidden < 1 ||
        (options->context != 0 && options->context != 1 && options->context != 3))
        return nb_fail(ctx, NB_EINVAL, "metaquantnet: widths, hidden units and a context of 1, 3 or "
                       "0 are needed");
    NB_TRY(nbi_alloc(ctx, 1, sizeof *m, &m));
    m->o = *options;
    m->net = net;
    nbi_choice *fixed = nbi_arena_alloc(&m->arena, sites + 1, sizeof *fixed);
    if (!fixed) {
        st = nb_fail_memory(ctx, sites);
        goto done;
    }
    memcpy(fixed, options->fixed, sites * sizeof *fixed);
    m->o.fixed = fixed;
    NB_TRYG(nbi_meta_build(ctx, m, source, edge));
    NB_TRYG(nbi_alloc(ctx, (size_t)m->n_rows * (size_t)m->columns, sizeof *m->input, &m->input));
    NB_TRYG(nbi_meta_generator(ctx, m, &m->generator));
    nbi_tape_spec forward = {0};
    NB_TRYG(nbi_tape_new(ctx, m->generator, &forward, &m->tape));
    *out = m;
    return NB_OK;
done:
    nbi_meta_free(m);
    return st;
}

size_t nbi_meta_parameters(const nbi_meta *m) {
    size_t n = 0;
    for (int i = 0; i < m->n_params; i++)
        n += (size_t)nbi_tensor_count(m->qat->graph->tensor[m->param[i].tensor]);
    return n;
}

/* ---- training -------------------------------------------------------------------------------- */

/* A choice of those that `fits` says, drawn uniformly. */
static int draw_of(nbi_rng *rng, const nbi_meta_row *r, bool (*fits)(nbi_choice c, int what),
                   int what) {
    int n = 0;
    for (int k = 0; k < r->n; k++) n += fits(r->choice[k], what);
    int left = n > 1 ? (int)nbi_rng_below(rng, (uint32_t)n) : 0;
    for (int k = 0; k < r->n; k++)
        if (fits(r->choice[k], what) && left-- == 0) return k;
    return 0;
}

static bool has_width(nbi_choice c, int bits) {
    return nbi_choice_bits(c) == bits;
}

static bool has_scheme(nbi_choice c, int scheme) {
    return nbi_choice_scheme(c) == scheme;
}

/* A scheme, then one of its choices. */
static int draw_any(nbi_rng *rng, const nbi_meta_row *r) {
    int scheme[NBI_META_CHOICES], n = 0;
    for (int k = 0; k < r->n; k++) {
        bool known = false;
        for (int s = 0; s < n; s++) known |= scheme[s] == nbi_choice_scheme(r->choice[k]);
        if (!known) scheme[n++] = nbi_choice_scheme(r->choice[k]);
    }
    return draw_of(rng, r, has_scheme, scheme[n > 1 ? (int)nbi_rng_below(rng, (uint32_t)n) : 0]);
}

const float *nbi_meta_draw(nbi_meta *m, uint64_t step) {
    nbi_rng rng;
    nbi_rng_seed(&rng, m->o.seed, nbi_hash(NBI_HASH_START, &step, sizeof step));
    float extreme = nbi_rng_uniform(&rng);
    memset(m->input, 0, (size_t)m->n_rows * (size_t)m->columns * sizeof *m->input);
    for (int r = 0; r < m->n_rows; r++) {
        const nbi_meta_row *row = &m->row[r];
        int least = nbi_choice_bits(row->choice[0]), most = nbi_choice_bits(row->choice[row->n - 1]);
        int k = draw_any(&rng, row);
        if (extreme < EXTREME) k = draw_of(&rng, row, has_width, least);
        else if (extreme < 2 * EXTREME) k = draw_of(&rng, row, has_width, most);
        m->input[r * m->columns + k] = 1;
    }
    return m->input;
}

void nbi_meta_note_loss(nbi_meta *m, double loss) {
    for (int r = 0; r < m->n_weights; r++)
        for (int k = 0; k < m->o.n_weights; k++)
            if (m->input[r * m->columns + k] > 0) {
                m->loss_sum[k] += loss;
                m->loss_count[k]++;
            }
}

void nbi_meta_losses(nbi_meta *m, double out[NBI_META_CHOICES]) {
    for (int k = 0; k < NBI_META_CHOICES; k++) {
        out[k] = m->loss_count[k] ? m->loss_sum[k] / (double)m->loss_count[k] : NAN;
        m->loss_sum[k] = 0;
        m->loss_count[k] = 0;
    }
}

void nbi_meta_changed(nbi_meta *m) {
    nbi_meta_store_free(m);
}

/* ---- into the network and out ---------------------------------------------------------------- */

static nb_status keep_layer(nb_ctx *ctx, nbi_meta *m, const nbi_layer *l, layer_kept *k) {
    size_t c = (size_t)l->geometry.out_c;
    k->weight = nbi_arena_alloc(&m->arena, l->n_weights, sizeof *k->weight);
    k->gain = nbi_arena_alloc(&m->arena, 2 * c, sizeof *k->gain);
    k->mean = nbi_arena_alloc(&m->arena, 2 * c, sizeof *k->mean);
    if (!k->weight || !k->gain || !k->mean) return nb_fail_memory(ctx, l->n_weights);
    k->shift = k->gain + c;
    k->deviation = k->mean + c;
    memcpy(k->weight, l->weight, l->n_weights * sizeof *k->weight);
    memcpy(k->gain, l->gain, c * sizeof *k->gain);
    memcpy(k->shift, l->shift, c * sizeof *k->shift);
    memcpy(k->mean, l->mean, c * sizeof *k->mean);
    memcpy(k->deviation, l->deviation, c * sizeof *k->deviation);
    return NB_OK;
}

static nb_status keep_grids(nb_ctx *ctx, nbi_meta *m) {
    const nbi_qnet *net = m->net;
    size_t n = 0;
    for (int s = 0; s < net->n_sites; s++)
        for (const nbi_site_fit *f = net->site[s].more; f; f = f->next) n++;
    m->grid = nbi_arena_alloc(&m->arena, n + 1, sizeof *m->grid);
    if (!m->grid) return nb_fail_memory(ctx, n * sizeof *m->grid);
    for (int s = 0; s < net->n_sites; s++)
        for (nbi_site_fit *f = net->site[s].more; f; f = f->next)
            m->grid[m->n_grids++] =
                (nbi_meta_grid){.fit = f, .kept = f->grid, .kept_params = f->params};
    return NB_OK;
}

/* The first time only: installing twice keeps the first values. */
static nb_status keep(nb_ctx *ctx, nbi_meta *m) {
    const nbi_qnet *net = m->net;
    if (m->kept) return NB_OK;
    layer_kept *kept = nbi_arena_alloc(&m->arena, (size_t)net->n_layers + 1, sizeof *kept);
    m->fit = nbi_arena_alloc(&m->arena, (size_t)net->n_sites + 1, sizeof *m->fit);
    if (!kept || !m->fit) return nb_fail_memory(ctx, sizeof *kept);
    for (int l = 0; l < net->n_layers; l++)
        if (m->qat->layer[l].weight >= 0) NB_TRY(keep_layer(ctx, m, &net->layer[l], &kept[l]));
    for (int s = 0; s < net->n_sites; s++) memcpy(m->fit[s], net->site[s].fit, sizeof m->fit[s]);
    NB_TRY(keep_grids(ctx, m));
    m->kept = kept;
    return NB_OK;
}

void nbi_meta_uninstall(nbi_meta *m) {
    const nbi_qnet *net = m->net;
    if (!m->installed) return;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        const layer_kept *k = &m->kept[i];
        size_t c = (size_t)l->geometry.out_c;
        if (!k->weight) continue;
        memcpy(l->weight, k->weight, l->n_weights * sizeof *k->weight);
        memcpy(l->gain, k->gain, c * sizeof *k->gain);
        memcpy(l->shift, k->shift, c * sizeof *k->shift);
        memcpy(l->mean, k->mean, c * sizeof *k->mean);
        memcpy(l->deviation, k->deviation, c * sizeof *k->deviation);
    }
    for (int s = 0; s < net->n_sites; s++)
        memcpy(m->net->site[s].fit, m->fit[s], sizeof m->fit[s]);
    for (int i = 0; i < m->n_grids; i++) {
        m->grid[i].fit->grid = m->grid[i].kept;
        m->grid[i].fit->params = m->grid[i].kept_params;
    }
    m->installed = false;
}

static const float *values(const nbi_meta *m, int tensor) {
    return m->qat->graph->tensor[tensor]->data;
}

/* A negative gain moves into the weights (nbi_meta_weights has it there). */
static void install_layer(const nbi_meta *m, int index) {
    const nbi_layer *l = &m->net->layer[index];
    const nbi_qat_layer *q = &m->qat->layer[index];
    for (int c = 0; c < l->geometry.out_c; c++) {
        if (q->gamma < 0) {
            l->gain[c] = 1;
            l->shift[c] = q->bias >= 0 ? values(m, q->bias)[c] : 0;
            continue;
        }
        double deviation = sqrt((double)values(m, q->variance)[c] + NBI_META_EPSILON);
        double gain = (double)values(m, q->gamma)[c] / deviation;
        double mean = (double)values(m, q->mean)[c];
        l->gain[c] = (float)fabs(gain);
        l->shift[c] = (float)((double)values(m, q->beta)[c] - gain * mean);
        l->mean[c] = gain < 0 ? -mean : mean;
        l->deviation[c] = sqrt((double)values(m, q->variance)[c]);
    }
}

static void install_step(nbi_qparam *p, float step) {
    p->scale = (double)fmaxf(step, 1e-30f);
}

/* What was trained of a choice: params, and for those that are averaged their averages. */
static void install_choice(nbi_meta *m, int site, nbi_choice choice, const float *params,
                           const float *averages) {
    nbi_site *s = &m->net->site[site];
    const nbi_site_fit *fit = nbi_site_find(s, choice);
    nbi_meta_grid *grid = NULL;
    if (!nbi_choice_scheme(choice)) {
        install_step(&s->fit[nbi_choice_bits(choice)], *params);
        return;
    }
    for (int i = 0; i < m->n_grids; i++)
        if (m->grid[i].fit == fit) grid = &m->grid[i];
    if (!grid) return; /* fitted later: not trained */
    nbi_scheme_use use = nbi_choice_use(choice, false, s->is_unsigned);
    int n = nbi_choice_row(choice)->n_params(&use), learned = nbi_meta_learned(choice, &use);
    bool refits = averages && (nbi_choice_row(choice)->flags & NBI_SCHEME_REFIT);
    for (int i = 0; i < n; i++)
        grid->params[i] = refits && i >= learned ? averages[i] : params[i];
    nbi_choice_grid(choice, s->is_unsigned, grid->params, &s->fit[NBI_MAX_BITS], &grid->levels,
                    &grid->fit->grid);
    grid->fit->params = grid->params;
}

/* A site of one choice, as fine-tuning has it: a step, a scheme's params, or both. */
static void install_fixed(nbi_meta *m, int site) {
    const nbi_qat *q = m->qat;
    nbi_choice c = q->bits[site];
    int bits = nbi_choice_scheme(c) ? NBI_MAX_BITS : nbi_choice_bits(c);
    if (q->site_scale[site] >= 0)
        install_step(&m->net->site[site].fit[bits], *values(m, q->site_scale[site]));
    if (q->site_params[site] >= 0)
        install_choice(m, site, c, values(m, q->site_params[site]), NULL);
}

nb_status nbi_meta_install(nb_ctx *ctx, nbi_meta *m, const nbi_choice *bits) {
    nbi_qnet *net = m->net;
    NB_TRY(keep(ctx, m));
    m->installed = true;
    for (int i = 0; i < net->n_layers; i++)
        if (m->qat->layer[i].weight >= 0) {
            install_layer(m, i);
            if (bits) NB_TRY(nbi_meta_weights(ctx, m, i, bits, net->layer[i].weight));
        }
    for (int s = 0; s < net->n_sites; s++) install_fixed(m, s);
    for (int r = m->n_weights; r < m->n_rows; r++) {
        const nbi_meta_row *row = &m->row[r];
        for (int k = 0; k < row->n; k++)
            install_choice(m, row->site, row->choice[k],
                           values(m, row->steps) + k * row->columns,
                           row->fitted < 0 ? NULL : values(m, row->fitted) + k * row->columns);
    }
    return NB_OK;
}
