/* What a network can tell about its variables without running a policy: squared errors of tensors,
 * the numbers that HAQ's agent sees (docs/searches.md), and which part of the network a
 * variable is. */
#include "search/netproblem.h"

#include <math.h>

double nbi_hist_mean_square(const nbi_hist *h) {
    double sum = 0;
    if (!h->positive || h->total <= 0) return 0;
    for (int i = 0; i < NBI_HIST_BINS; i++) {
        double x = (i + 0.5) * h->width;
        double count = (double)h->positive[i] + (h->negative ? (double)h->negative[i] : 0);
        sum += count * x * x;
    }
    return sum / (double)h->total;
}

double nbi_site_power(const nbi_qnet *net, const nbi_site *site) {
    bool bias = site->kind == NBI_SITE_BIAS;
    if (site->kind != NBI_SITE_WEIGHT && !bias)
        return (double)site->count * nbi_hist_mean_square(&site->hist);
    const nbi_layer *l = &net->layer[site->layer];
    const nbk_conv *g = &l->geometry;
    double sum = 0;
    if (bias) {
        for (int c = 0; c < g->out_c; c++) sum += (double)l->shift[c] * (double)l->shift[c];
        return sum * g->out_h * g->out_w;
    }
    for (size_t i = 0; i < l->n_weights; i++) sum += (double)l->weight[i] * (double)l->weight[i];
    return sum;
}

/* Σ factor[site]·n·MSE over the sites of a variable; factor NULL: 1. */
static nb_status squared_errors(nb_ctx *ctx, nbi_netproblem *np, const double *factor,
                                double **error) {
    const nbi_netproblem_options *o = nbi_netproblem_get(np);
    const nbi_problem *p = nbi_netproblem_problem(np);
    for (int v = 0; v < p->n_vars; v++) {
        const int *site;
        int n = nbi_netproblem_sites(np, v, &site);
        for (int i = 0; i < p->n_options[v]; i++) error[v][i] = 0;
        for (int k = 0; k < n; k++) {
            double power = nbi_site_power(o->net, &o->net->site[site[k]]), sqnr;
            if (factor) power *= factor[site[k]];
            for (int i = 0; i < p->n_options[v]; i++) {
                NB_TRY(nbi_netproblem_sqnr(ctx, np, site[k], nbi_netproblem_choice(np, v, i, k),
                                           &sqnr));
                error[v][i] += power * pow(10, -sqnr / 10);
            }
        }
    }
    return NB_OK;
}

static nb_status local_error(nb_ctx *ctx, void *self, double **error) {
    return squared_errors(ctx, self, NULL, error);
}

/* Second order: half the mean curvature times the squared error. */
static nb_status curvature(nb_ctx *ctx, void *self, double **omega) {
    nbi_netproblem *np = self;
    const nbi_netproblem_options *o = nbi_netproblem_get(np);
    double *mean = NULL;
    NB_TRY(nbi_alloc(ctx, (size_t)o->net->n_sites + 1, sizeof *mean, &mean));
    nb_status st = o->curvature(ctx, o->user, mean);
    for (int i = 0; i < o->net->n_sites; i++) mean[i] = fmax(mean[i], 0) / 2;
    if (st == NB_OK) st = squared_errors(ctx, np, mean, omega);
    nbi_free(mean);
    return st;
}

typedef struct passing {
    const nbi_netproblem *np;
    nbi_choice *bits; /* [n_sites] */
    uint8_t *policy;  /* [n_vars] */
    nbi_known_fn fn;
    void *user;
} passing;

/* Policies with a choice that is not offered now are passed over. */
static nb_status pass_trial(void *user, const nbi_study_trial *t) {
    const passing *p = user;
    int sites = nbi_netproblem_get(p->np)->net->n_sites;
    for (int i = 0; i < sites; i++)
        p->bits[i] = nbi_choice_of(t->policy[2 * i + 1], t->policy[2 * i]);
    return nbi_netproblem_policy(p->np, p->bits, p->policy) ? p->fn(p->user, p->policy, t->score)
                                                            : NB_OK;
}

static nb_status earlier(nb_ctx *ctx, void *self, nbi_known_fn fn, void *user) {
    nbi_netproblem *np = self;
    const nbi_netproblem_options *o = nbi_netproblem_get(np);
    size_t sites = (size_t)o->net->n_sites;
    passing p = {.np = np, .fn = fn, .user = user};
    nb_status st = NB_OK;
    if (!o->study) return NB_OK;
    NB_TRY(nbi_alloc(ctx, sites + 1, sizeof *p.bits, &p.bits));
    NB_TRYG(nbi_alloc(ctx, (size_t)nbi_netproblem_problem(np)->n_vars + 1, 1, &p.policy));
    st = nbi_study_others(ctx, o->study, 2 * sites, pass_trial, &p);
done:
    nbi_free(p.bits);
    nbi_free(p.policy);
    return st;
}

/* The convolution that a variable is about: the one with its weights or biases, or the first that
 * reads it. */
static const nbi_layer *layer_of(const nbi_qnet *net, const int *site, int n) {
    for (int k = 0; k < n; k++)
        if (net->site[site[k]].kind == NBI_SITE_WEIGHT || net->site[site[k]].kind == NBI_SITE_BIAS)
            return &net->layer[net->site[site[k]].layer];
    for (int i = 0; i < net->n_layers; i++)
        if (net->layer[i].type == NBI_LAYER_CONV && net->edge[net->layer[i].in[0]].site == site[0])
            return &net->layer[i];
    return NULL;
}

static void features(const void *self, int v, double out[NBI_FEATURE_COUNT]) {
    const nbi_netproblem *np = self;
    const nbi_qnet *net = nbi_netproblem_get(np)->net;
    const int *site;
    int n = nbi_netproblem_sites(np, v, &site);
    const nbi_layer *l = layer_of(net, site, n);
    for (int i = 0; i < NBI_FEATURE_COUNT; i++) out[i] = 0;
    if (!l) return;
    const nbk_conv *g = &l->geometry;
    out[NBI_FEATURE_DEPTHWISE] = l->depthwise;
    out[NBI_FEATURE_IN] = g->in_c;
    out[NBI_FEATURE_OUT] = g->out_c;
    out[NBI_FEATURE_STRIDE] = g->sh;
    out[NBI_FEATURE_KERNEL] = g->kh;
    out[NBI_FEATURE_WEIGHTS] = (double)l->n_weights;
    out[NBI_FEATURE_MAP] = g->in_h;
    out[NBI_FEATURE_INDEX] = (double)(l - net->layer);
}

void nbi_netproblem_add_hints(nbi_netproblem *np, nbi_part *part) {
    nbi_problem *p = nbi_netproblem_problem(np);
    const nbi_qnet *net = nbi_netproblem_get(np)->net;
    for (int v = 0; v < p->n_vars; v++) {
        nbi_site_kind kind = net->site[nbi_netproblem_site(np, v)].kind;
        part[v] = kind == NBI_SITE_WEIGHT ? NBI_PART_WEIGHT
                  : kind == NBI_SITE_BIAS ? NBI_PART_BIAS
                                          : NBI_PART_ACTIVATION;
    }
    p->part = part;
    p->local_error = local_error;
    if (nbi_netproblem_get(np)->curvature) p->curvature = curvature;
    p->features = features;
    p->earlier = earlier;
}
